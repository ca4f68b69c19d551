# Sagas that cannot go on, since something is missing, refused or held: none of it costs other sagas of the same
# role more than a moment, and nothing is tried without a pause.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('hindrances',
	conf => "max_prepared_transactions = 2\nmax_worker_processes = 16\nevent_store.projectors = 2\nevent_store.retry_max = '1h'\nevent_store.retry_initial = '1h'\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

sub state_is
{
	my ($id, $state) = @_;

	return poll("SELECT state = '$state' FROM event_store.sagas WHERE saga_id = '$id'");
}

# Makes a function of ann that handles steps.
sub handler
{
	my ($name, $body) = @_;

	return sql(qq{CREATE OR REPLACE FUNCTION app.$name(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$\$
		BEGIN
		    $body
		    RETURN to_jsonb(attempt);
		END
		\$\$;
		ALTER FUNCTION app.$name OWNER TO ann});
}

# A saga of one step.
sub define
{
	my ($saga, $step) = @_;

	return sql("SET ROLE ann; SELECT event_store.define_saga('$saga', '{\"steps\": [{\"name\": \"a\", $step}]}')");
}

sub start
{
	my ($saga, $id) = @_;

	return sql("SELECT event_store.start_saga('$saga', '$id')");
}

# Another saga of the same role.
my $others = 0;

sub others_go_on
{
	my ($when) = @_;
	my $id = 'other-' . ++$others;

	start('plain', $id);
	return ok(state_is($id, 'completed'), "others go on $when");
}

sql(q{
	CREATE ROLE ann LOGIN;
	SELECT event_store.grant_access('ann', 'admin');
	CREATE SCHEMA app;
	CREATE TABLE app.done (what text);
	CREATE TABLE app.gate (id int);
	GRANT USAGE, CREATE ON SCHEMA app TO ann;
	GRANT ALL ON app.done, app.gate TO ann;
});
handler('does', q{INSERT INTO app.done VALUES (concat_ws(' ', saga_id, step, attempt));});
define('plain', '"handler": "app.does"');
others_go_on('at first');

# ---------- neither success nor failure of a step can be appended

handler('noted', q{INSERT INTO app.done VALUES (saga_id);});
define('refused', '"handler": "app.noted", "max_attempts": 2, "timeout": "1s"');
sql(q{
	CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	    IF NOT EXISTS (SELECT FROM app.gate WHERE id = 1) THEN RAISE 'not now'; END IF;
	    RETURN NULL;
	END
	$$;
	CREATE TRIGGER refuse AFTER INSERT ON event_store.domain_events FOR EACH ROW
	    WHEN (NEW.aggregate_type = 'saga:refused' AND NEW.event_type IN ('StepSucceeded', 'StepFailed')) EXECUTE FUNCTION app.refuse();
});
start('refused', 'r-1');
ok(poll(q{SELECT attempt = 2 FROM event_store.saga_status WHERE saga_id = 'r-1'}), 'an attempt that cannot be reported ends with its time');
others_go_on('beside one that cannot be reported');
sql('INSERT INTO app.gate VALUES (1)');
ok(poll(q{SELECT state IN ('completed', 'failed') FROM event_store.sagas WHERE saga_id = 'r-1'}), 'it ends, too');
is(sql(q{SELECT (SELECT count(*) FROM app.done WHERE what = 'r-1') = (SELECT count(*) FROM event_store.sagas WHERE saga_id = 'r-1' AND state = 'completed')}),
	't', 'what it did is there if it has succeeded');
sql('DROP TRIGGER refuse ON event_store.domain_events');

# ---------- the states of sagas cannot be had

define('broken', '"handler": "app.does"');
define('broken timer', '"queue_timeout": "10ms"');
my $holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT event_store.start_saga('broken', 'br-' || n) FROM generate_series(1, 20) n;
	SELECT event_store.start_saga('broken timer', 'bt-' || n) FROM generate_series(1, 20) n;
	DELETE FROM event_store.saga_definitions WHERE saga_name LIKE 'broken%'});
my $offset = -s $node->logfile;
$holder->query_safe('COMMIT');
$holder->quit;
others_go_on('beside sagas that are broken');
others_go_on('again') for 1 .. 20;
my $log = slurp_file($node->logfile, $offset);
foreach my $what ('step', 'timer')
{
	my $lines = () = $log =~ /a $what of saga broken/g;
	cmp_ok($lines, '>=', 20, "the log tells of each $what");
	cmp_ok($lines, '<', 100, 'and not all the time');
}

# ---------- somebody holds the row of a step that is to run again

handler('unlucky', q{WHILE NOT EXISTS (SELECT FROM app.gate WHERE id = 2) LOOP PERFORM pg_sleep(0.01); END LOOP;
	RAISE 'no luck' USING ERRCODE = 'disk_full';});
define('unlucky', '"handler": "app.unlucky", "max_attempts": 1, "timeout": "1h"');
start('unlucky', 'u-1');
ok(poll(q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'u-1' AND lease IS NOT NULL}), 'a handler runs');
$holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT FROM event_store.saga_steps WHERE saga_id = 'u-1' FOR UPDATE});
sql('INSERT INTO app.gate VALUES (2)');
others_go_on('while its row is held');
$holder->query_safe('ROLLBACK');
$holder->quit;

# ---------- a clock that was set back, and somebody holds a row whose times are of before

sql(q{SELECT event_store.define_saga('of executors', '{"steps": [{"name": "a", "queue_timeout": "1d"}]}')});
start('of executors', 'e-1');
sql(q{UPDATE event_store.saga_steps SET written_at = now() + interval '1h' WHERE saga_id = 'e-1'});
sql(q{BEGIN; SELECT FROM event_store.saga_steps WHERE saga_id = 'e-1' FOR UPDATE; PREPARE TRANSACTION 'holder'});
$node->restart;
others_go_on('while it is held');
my $transactions = q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'shop'};
my $before = sql($transactions);
sql('SELECT pg_sleep(2)');
cmp_ok(sql($transactions) - $before, '<', 200, 'nobody looks at it all the time');
sql(q{COMMIT PREPARED 'holder'});
ok(poll(q{SELECT written_at <= clock_timestamp() FROM event_store.saga_steps WHERE saga_id = 'e-1'}), 'its times are moved when it is free');
done_testing();
