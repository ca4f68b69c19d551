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

# ---------- somebody holds rows of a saga around the API, and not the saga itself

# Has somebody hold a row from before it is due on.
sub hold_row
{
	my ($id, $due, $row) = @_;
	my @holders = map { $node->background_psql('shop') } 1 .. 2;

	$holders[0]->query_safe(qq{BEGIN; SELECT event_store.lock_aggregate('saga:' || saga_name, saga_id) FROM event_store.sagas WHERE saga_id = '$id'});
	sql("UPDATE event_store.saga_steps SET $due = now() WHERE saga_id = '$id'");
	$holders[1]->query_safe("BEGIN; $row FOR UPDATE");
	$holders[0]->query_safe('COMMIT');
	$holders[0]->quit;
	return $holders[1];
}

sub let_go
{
	my ($one) = @_;

	$one->query_safe('ROLLBACK');
	return $one->quit;
}

sql(q{SELECT event_store.define_saga('waits', '{"steps": [{"name": "a", "queue_timeout": "1d"}]}');
	SELECT event_store.define_saga('ends', '{"timeout": "100ms", "steps": [{"name": "a"}]}')});
define('late', '"handler": "app.does", "delay": "1h"');
$offset = -s $node->logfile;
foreach my $table ('saga_steps', 'sagas')
{
	my $id = "row of $table";
	my $row = "SELECT FROM event_store.$table WHERE saga_id = ";

	start('late', "$id, handler");
	$holder = hold_row("$id, handler", 'run_at', "$row'$id, handler'");
	others_go_on("while a row of $table is held") for 1 .. 3;
	is(sql("SELECT state FROM event_store.sagas WHERE saga_id = '$id, handler'"), 'running', 'it waits');
	let_go($holder);
	ok(state_is("$id, handler", 'completed'), 'and goes on then');

	start('waits', "$id, timer");
	$holder = hold_row("$id, timer", 'due_at', "$row'$id, timer'");
	start('ends', "$id, beside");
	ok(state_is("$id, beside", 'failed'), 'so do timers');
	is(sql("SELECT state FROM event_store.sagas WHERE saga_id = '$id, timer'"), 'running', 'it waits');
	let_go($holder);
	ok(state_is("$id, timer", 'failed'), 'and goes on then');
}

unlike(slurp_file($node->logfile, $offset), qr/lock timeout/, 'nobody has waited for a row');

handler('held', q{WHILE NOT EXISTS (SELECT FROM app.gate WHERE id = 3) LOOP PERFORM pg_sleep(0.01); END LOOP; INSERT INTO app.done VALUES ('held');});
define('held', '"handler": "app.held", "max_attempts": 1, "timeout": "1h"');
start('held', 'report');
ok(poll(q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'report' AND lease IS NOT NULL}), 'a handler runs');
$holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT FROM event_store.sagas WHERE saga_id = 'report' FOR UPDATE});
sql('INSERT INTO app.gate VALUES (3)');
others_go_on('beside a report that meets a row that is held') for 1 .. 3;
let_go($holder);
ok(state_is('report', 'completed'), 'it is reported then');
is(sql(q{SELECT count(*) FROM app.done WHERE what = 'held'}), '1', 'with what it did, once');

# ---------- or has locked a table

sql(q{CREATE FUNCTION app.looks(e event_store.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO app.done VALUES ('looked') $$; ALTER FUNCTION app.looks OWNER TO ann});
sql(q{SET ROLE ann; SELECT event_store.create_projection('looks', 'app.looks'::regproc, '{Look}')});
foreach my $table ('saga_steps', 'sagas')
{
	start('waits', "table $table");
	$holder = $node->background_psql('shop');
	$holder->query_safe("BEGIN; UPDATE event_store.saga_steps SET due_at = now() WHERE saga_id = 'table $table'; LOCK TABLE event_store.$table");
	sql(qq{SELECT event_store.schedule_event(now(), 'Hindered', '$table', 'E'), event_store.append_event('Look', '$table', NULL, 'E')});
	ok(poll("SELECT event_store.aggregate_sequence('Hindered', '$table') = 1"), "deadlines go on while $table is locked");
	ok(poll(q{SELECT lag_events = 0 FROM event_store.projection_status WHERE projection_name = 'looks'}), 'so do projections');
	$holder->query_safe('COMMIT');
	$holder->quit;
	others_go_on('and sagas then');
	ok(state_is("table $table", 'failed'), 'what fell due as well');
}

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
