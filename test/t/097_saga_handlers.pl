# Handlers do steps of sagas in the background, each with its report: whatever one does to its process is an
# attempt, nobody waits for one that is slow but the handlers of its own role, and what is not its fault
# costs no attempt.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('handlers', init => { allows_streaming => 1 },
	conf => "restart_after_crash = on\nmax_worker_processes = 16\nevent_store.projectors = 2\nevent_store.retry_initial = '10ms'\n");
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

# What has happened to a saga: events, with the attempt and the reason or outcome.
sub log_of
{
	my ($id) = @_;

	return sql(qq{SELECT string_agg(concat_ws(' ', event_type, payload ->> 'attempt', payload ->> 'reason'), ', ' ORDER BY sequence) FROM event_store.domain_events
		WHERE aggregate_id = '$id' AND event_type IN ('StepClaimed', 'StepSucceeded', 'StepFailed', 'StepTimedOut', 'CompensationSucceeded')});
}

sub state_is
{
	my ($id, $state) = @_;

	return poll("SELECT state = '$state' FROM event_store.sagas WHERE saga_id = '$id'");
}

# Makes a function of a role that handles steps.
sub handler
{
	my ($role, $name, $body) = @_;

	return sql(qq{CREATE OR REPLACE FUNCTION app.$name(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$\$
		BEGIN
		    $body
		    RETURN to_jsonb(attempt);
		END
		\$\$;
		ALTER FUNCTION app.$name OWNER TO $role});
}

# A saga of one role, with steps "name: keys".
sub define
{
	my ($role, $saga, @steps) = @_;
	my $steps = join(', ', map { "{$_}" } @steps);

	return sql("SET ROLE $role; SELECT event_store.define_saga('$saga', '{\"steps\": [$steps]}')");
}

sub start
{
	my ($saga, $id) = @_;

	return sql("SELECT event_store.start_saga('$saga', '$id')");
}

sql(q{
	CREATE ROLE ann LOGIN;
	CREATE ROLE bob LOGIN;
	SELECT event_store.grant_access('ann', 'admin'), event_store.grant_access('bob', 'admin');
	CREATE SCHEMA app;
	CREATE TABLE app.done (what text);
	CREATE TABLE app.gate (id int);
	GRANT USAGE ON SCHEMA app TO ann, bob;
	GRANT ALL ON app.done, app.gate TO ann, bob;
});

# ---------- steps of a saga, one behind the other, by the process of their role

handler('ann', 'does', q{INSERT INTO app.done VALUES (concat_ws(' ', saga_id, step, attempt, session_user));});
define('ann', 'plain', map { qq{"name": "$_", "handler": "app.does"} } qw(a b c));
start('plain', 'p-1');
ok(state_is('p-1', 'completed'), 'a saga of handlers completes by itself');
is(sql('SELECT string_agg(what, $$, $$ ORDER BY what) FROM app.done'), 'p-1 a 1 ann, p-1 b 1 ann, p-1 c 1 ann', 'each step once');
is(log_of('p-1'), join(', ', ('StepClaimed 1, StepSucceeded 1') x 3), 'each one attempt');
sql(q{SELECT count(event_store.start_saga('plain', 'many-' || n)) FROM generate_series(1, 200) n});
ok(poll(q{SELECT count(*) = 200 FROM event_store.sagas WHERE saga_id LIKE 'many-%' AND state = 'completed'}), 'many at once, too');
is(sql(q{SELECT count(*) || ' ' || count(DISTINCT what) FROM app.done WHERE what LIKE 'many-%'}), '600 600', 'each step of each once');

# ---------- one that ends its process, or has it ended

handler('ann', 'kills', q{INSERT INTO app.done VALUES ('killed'); PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60);});
define('ann', 'kills', '"name": "a", "handler": "app.kills", "max_attempts": 2, "timeout": "1s", "retry_initial": "1ms"');
start('kills', 'k-1');
start('plain', 'beside');
ok(state_is('beside', 'completed'), 'others go on in the next process');
ok(state_is('k-1', 'failed'), 'a handler that ends its process has the attempts of its step');
like(log_of('k-1'), qr/^StepClaimed 1, StepTimedOut 1 \w+, StepClaimed 2, StepTimedOut 2 \w+$/, 'and no more');
is(sql(q{SELECT count(*) FROM app.done WHERE what = 'killed'}), '0', 'nothing of it stays');

handler('ann', 'ends_never', q{LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN END; END LOOP;});
define('ann', 'never', '"name": "a", "handler": "app.ends_never", "max_attempts": 2, "timeout": "200ms", "retry_initial": "1ms"');
start('never', 'n-1');
ok(state_is('n-1', 'failed'), 'so has one that cannot be cancelled');
is(log_of('n-1'), 'StepClaimed 1, StepTimedOut 1 timeout, StepClaimed 2, StepTimedOut 2 timeout', 'its time is over, twice');
start('plain', 'after');
ok(state_is('after', 'completed'), 'others go on behind it');

# ---------- what is not its fault

handler('ann', 'waits', q{LOCK TABLE app.gate; INSERT INTO app.done VALUES ('waited');});
define('ann', 'waits', '"name": "a", "handler": "app.waits", "max_attempts": 1, "timeout": "30s"');
handler('ann', 'unlucky', q{IF NOT EXISTS (SELECT FROM app.gate) THEN RAISE 'no luck' USING ERRCODE = 'disk_full'; END IF;});
define('ann', 'unlucky', '"name": "a", "handler": "app.unlucky", "max_attempts": 1, "timeout": "1h"');
start('unlucky', 'u-1');
ok(poll(q{SELECT lease IS NOT NULL AND run_at IS NOT NULL FROM event_store.saga_steps WHERE saga_id = 'u-1'}), 'a full disk has the attempt run again');
start('plain', 'meanwhile');
ok(state_is('meanwhile', 'completed'), 'others do not wait for it');
is(log_of('u-1'), 'StepClaimed 1', 'it is no attempt');
# also by another process
sql(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'event_store projector'});
sql('INSERT INTO app.gate VALUES (1)');
ok(state_is('u-1', 'completed'), 'until it goes through');
is(log_of('u-1'), 'StepClaimed 1, StepSucceeded 1', 'as one attempt');

# what it met last is told when its time ends before that
handler('ann', 'no_luck', q{RAISE 'no luck at all' USING ERRCODE = 'disk_full';});
define('ann', 'never lucky', '"name": "a", "handler": "app.does", "compensate": true, "compensation": {"handler": "app.no_luck", "max_attempts": 1, "timeout": "1h"}',
	'"name": "b", "handler": "app.no_luck", "max_attempts": 1, "timeout": "1h"');
start('never lucky', 'u-2');
foreach my $step ('b', 'a')
{
	my $row = "saga_id = 'u-2' AND step = '$step' AND lease IS NOT NULL";

	ok(poll("SELECT count(*) = 1 FROM event_store.saga_steps WHERE $row AND progress IS NOT NULL"), "step $step runs again");
	sql("UPDATE event_store.saga_steps SET due_at = now() WHERE $row");
	ok(poll("SELECT count(*) = 0 FROM event_store.saga_steps WHERE $row"), 'until its time ends');
}
is(sql(q{SELECT string_agg(concat_ws(' ', event_type, payload ->> 'reason', payload ->> 'error'), ', ' ORDER BY sequence) FROM event_store.domain_events
	WHERE aggregate_id = 'u-2' AND event_type IN ('StepTimedOut', 'CompensationFailed')}),
	'StepTimedOut lease 53100: no luck at all, CompensationFailed lease 53100: no luck at all', 'its events tell what it met last');
is(sql(q{SELECT state || ' ' || last_error FROM event_store.saga_status WHERE saga_id = 'u-2'}), 'stuck 53100: no luck at all', 'and so does its row');
sql(q{SELECT event_store.resolve_step('never lucky', 'u-2', 'a', 'give_up', 'end of the test')});

# ---------- a lease that is lost while the handler runs: its writes are undone

handler('ann', 'loses', q{
	INSERT INTO app.done VALUES ('lost');
	WHILE NOT EXISTS (SELECT FROM app.gate WHERE id = 2) LOOP PERFORM pg_sleep(0.01); END LOOP;});
define('ann', 'loses', '"name": "a", "handler": "app.loses", "max_attempts": 1, "timeout": "1h", "compensate": true, "compensation": {"handler": null}');
start('loses', 'l-1');
ok(poll(q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'l-1' AND lease IS NOT NULL AND run_at IS NULL}), 'a handler that runs');
sql(q{UPDATE event_store.saga_steps SET due_at = now() WHERE saga_id = 'l-1'});
ok(state_is('l-1', 'compensating'), 'its lease ends under it');
my $lease = sql(q{SELECT lease FROM event_store.claim_steps('loses', 'executor', timeout => '5s')});
sql('INSERT INTO app.gate VALUES (2)');
start('plain', 'behind');
ok(state_is('behind', 'completed'), 'it ends');
is(sql(q{SELECT count(*) FROM app.done WHERE what = 'lost'}), '0', 'and has done nothing');
is(sql("SELECT event_store.report_step('loses', 'l-1', 'a', 'compensated', $lease)"), 'compensated', 'who has the newer lease goes on');

# ---------- one that is slow, and others

handler('ann', 'slow', q{WHILE NOT EXISTS (SELECT FROM app.gate WHERE id = 3) LOOP PERFORM pg_sleep(0.01); END LOOP;});
define('ann', 'slow', '"name": "a", "handler": "app.slow", "timeout": "1h"');
handler('bob', 'of_bob', q{INSERT INTO app.done VALUES ('of bob');});
define('bob', 'of bob', '"name": "a", "handler": "app.of_bob"');
sql(q{SELECT event_store.define_saga('timer', '{"timeout": "100ms", "steps": [{"name": "a"}]}')});
start('slow', 's-1');
ok(poll(q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 's-1' AND lease IS NOT NULL}), 'one that is slow');
start('of bob', 'b-1');
start('timer', 't-1');
ok(state_is('b-1', 'completed'), 'other roles do not wait for it');
ok(state_is('t-1', 'failed'), 'nor do timers');
is(sql(q{SELECT event_store.cancel_saga('slow', 's-1', 'test')}), 'compensating', 'nor who says something to its saga');
sql('INSERT INTO app.gate VALUES (3)');
ok(state_is('s-1', 'failed'), 'and it ends');

# ---------- a saga that somebody holds

handler('ann', 'is_held', q{INSERT INTO app.done VALUES ('held'); WHILE NOT EXISTS (SELECT FROM app.gate WHERE id = 5) LOOP PERFORM pg_sleep(0.01); END LOOP;});
define('ann', 'held', '"name": "a", "handler": "app.is_held", "timeout": "1h"');
start('held', 'h-1');
ok(poll(q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'h-1' AND lease IS NOT NULL}), 'a handler that runs');
my $talker = $node->background_psql('shop');
$talker->query_safe(q{BEGIN; SELECT event_store.signal_saga('held', 'h-1', 'hello')});
sql('INSERT INTO app.gate VALUES (5)');
start('plain', 'not held');
ok(state_is('not held', 'completed'), 'others do not wait for who holds its saga');
$talker->query_safe('COMMIT');
$talker->quit;
ok(state_is('h-1', 'completed'), 'and it goes on when that has ended');
is(log_of('h-1'), 'StepClaimed 1, StepSucceeded 1', 'as the same attempt');
is(sql(q{SELECT count(*) FROM app.done WHERE what = 'held'}), '1', 'whose effect is there once');

# ---------- one that is dropped, and made again

handler('ann', 'gone', '');
define('ann', 'gone', '"name": "a", "handler": "app.gone", "max_attempts": 1000, "retry_initial": "1ms", "retry_max": "10ms"');
sql('DROP FUNCTION app.gone');
start('gone', 'g-1');
ok(poll(q{SELECT last_error LIKE '42883: handler app.gone of step "a" does not exist%' AND attempt > 2 FROM event_store.saga_status WHERE saga_id = 'g-1'}), 'it fails, attempt by attempt');
handler('ann', 'gone', '');
ok(state_is('g-1', 'completed'), 'until it is there again');

# ---------- circuits

handler('ann', 'fails', q{IF NOT EXISTS (SELECT FROM app.gate WHERE id = 4) THEN RAISE 'down'; END IF;});
define('ann', 'circuit', '"name": "a", "handler": "app.fails", "max_attempts": 1000, "retry_initial": "1ms", "retry_max": "1ms", "circuit": {"failures": 3, "pause": "500ms"}');
sql(q{SELECT count(event_store.start_saga('circuit', 'c-' || n)) FROM generate_series(1, 5) n});
ok(poll(q{SELECT state = 'open' FROM event_store.saga_circuits WHERE saga_name = 'circuit'}), 'a circuit opens');
my $failures = q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'saga:circuit' AND event_type = 'StepFailed'};
my $before = sql($failures);
ok(poll("SELECT ($failures) > $before"), 'after the pause one is tried');
sql('INSERT INTO app.gate VALUES (4)');
ok(poll(q{SELECT count(*) = 5 FROM event_store.sagas WHERE saga_name = 'circuit' AND state = 'completed'}), 'and all, once it has succeeded');
is(sql(q{SELECT state FROM event_store.saga_circuits WHERE saga_name = 'circuit'}), 'closed', 'which closes it');

# ---------- delays

define('ann', 'later', '"name": "a", "handler": "app.does", "delay": "300ms"', '"name": "b", "handler": "app.does", "delay": "1h"');
start('later', 'd-1');
ok(poll(q{SELECT run_at > now() + interval '59min' FROM event_store.saga_steps WHERE saga_id = 'd-1' AND step = 'b'}), 'a step is done after its delay');

# ---------- how many are under way

handler('ann', 'cannot', q{RAISE 'cannot';});
define('ann', 'stuck', '"name": "a", "handler": "app.does", "compensate": true, "compensation": {"handler": "app.cannot", "max_attempts": 1}', '"name": "b"');
sql(q{SELECT count(event_store.start_saga('stuck', 'stuck-' || n)) FROM generate_series(1, 3) n});
ok(poll(q{SELECT count(*) = 3 FROM event_store.saga_steps WHERE saga_name = 'stuck' AND step = 'b'}), 'sagas that wait for an executor');
sql(q{SELECT event_store.cancel_saga('stuck', 'stuck-' || n, 'test') FROM generate_series(1, 2) n});
ok(poll(q{SELECT count(*) = 2 FROM event_store.sagas WHERE saga_name = 'stuck' AND state = 'stuck'}), 'two are stuck');
my $open = q{SELECT string_agg(concat_ws(' ', name, value), ', ' ORDER BY name) FROM event_store.metrics WHERE metric = 'sagas.open'};
my $running = sql(q{SELECT count(*) FROM event_store.sagas WHERE state = 'running'});
is(sql($open), "compensating 0, running $running, stuck 2", 'metrics count them');
my $holder = $node->background_psql('shop');
$holder->query_safe('BEGIN; LOCK TABLE event_store.sagas');
is(sql($open), 'compensating, running, stuck', 'and wait for nobody');
$holder->query_safe('COMMIT');
$holder->quit;

# ---------- a crash while one runs, and a failover

handler('ann', 'crashes', q{
	IF attempt = 1 THEN
	    INSERT INTO app.done VALUES ('before the crash');
	    PERFORM pg_sleep(3600);
	END IF;});
define('ann', 'crashes', '"name": "a", "handler": "app.crashes", "timeout": "2s", "retry_initial": "1ms"', '"name": "b", "handler": "app.does"');
start('crashes', 'x-1');
ok(poll(q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'x-1' AND lease IS NOT NULL}), 'a handler runs');
$node->stop('immediate');
$node->start;
ok(state_is('x-1', 'completed'), 'after the crash its saga goes on');
is(log_of('x-1'), 'StepClaimed 1, StepTimedOut 1 timeout, StepClaimed 2, StepSucceeded 2, StepClaimed 1, StepSucceeded 1', 'by the next attempt');
is(sql(q{SELECT count(*) FROM app.done WHERE what = 'before the crash'}), '0', 'nothing of the first stays');

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
start('later', 'd-2');
sql(q{UPDATE event_store.saga_steps SET run_at = now() + interval '1h' WHERE saga_id = 'd-2'});
$node->wait_for_catchup($standby);
$node->stop('fast');
$standby->promote;
ok($standby->poll_query_until('shop', q{SELECT NOT pg_is_in_recovery()}), 'a failover');
$standby->safe_psql('shop', q{UPDATE event_store.saga_steps SET run_at = now() WHERE saga_id = 'd-2'});
ok($standby->poll_query_until('shop', q{SELECT count(*) = 1 FROM event_store.saga_steps WHERE saga_id = 'd-2' AND step = 'b'}), 'they go on there');
$standby->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal 11/, 'nothing crashed of itself');
done_testing();
