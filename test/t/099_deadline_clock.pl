# The clock is set forward and back: what is due by it comes within a minute, what is not due any more
# waits, and nothing waits for a time that the old clock named: no aggregate that was held, no pause after
# a failure, no lease, no time limit of a request.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('clock', conf => "event_store.retry_initial = '10s'\n");
sub sql
{
	return $node->safe_psql('shop', join("\n", @_));
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

plan skip_all => 'there is no C compiler for the clock that is set' unless start_with_clock($node);
create_store_in($node, 'shop');
my $now = 'extract(epoch FROM clock_timestamp())::bigint';
cmp_ok(abs(sql("SELECT $now") - time), '<', 100, 'the clock is ours');

# ---------- back, while one waits for an aggregate to be free

my $holder = $node->background_psql('shop');
$holder->query_safe(q{BEGIN; SELECT event_store.lock_aggregate('Clock', 'held')});
sql(q{SELECT event_store.schedule_event('2020-01-01Z', 'Clock', 'held', 'E'), event_store.schedule_event('2020-01-02Z', 'Clock', 'free', 'E')});
ok(poll(q{SELECT event_store.aggregate_sequence('Clock', 'free') = 1}), 'an aggregate that is held is passed over');
set_clock($node, -86400);
cmp_ok(time - sql("SELECT $now"), '>', 80000, 'the clock is set back');
$holder->query_safe('COMMIT');
$holder->quit;
ok(poll(q{SELECT event_store.aggregate_sequence('Clock', 'held') = 1}), 'what waited for the lock does not wait for the old time');

# ---------- forward

sql(q{SELECT event_store.schedule_event(clock_timestamp() + interval '1 hour', 'Clock', 'hour', 'E')});
set_clock($node, -86400 + 7200);
ok(poll(q{SELECT event_store.aggregate_sequence('Clock', 'hour') = 1}), 'set forward, what is due by it comes');

# ---------- back again

sql(q{SELECT event_store.schedule_event(clock_timestamp() + interval '1 hour', 'Clock', 'later', 'E')});
set_clock($node, -86400);
sql(q{SELECT event_store.schedule_event(clock_timestamp(), 'Clock', 'at once', 'E')});
ok(poll(q{SELECT event_store.aggregate_sequence('Clock', 'at once') = 1}), 'what is due comes');
is(sql(q{SELECT string_agg(aggregate_id, ' ') FROM event_store.scheduled_events}), 'later', 'what is not due any more waits');

# ---------- back, during pauses of consumers

sql(q{SELECT event_store.create_subscription('stops', '{Consumed}', on_failure => 'stop'), event_store.create_subscription('parks', '{Consumed}');
      SELECT event_store.append_event('Consumed', 'c-1', NULL, 'E')});
my $position = sql(q{SELECT max(global_position) FROM event_store.domain_events WHERE aggregate_type = 'Consumed'});
ok(poll("SELECT event_store.safe_position() >= $position"), 'there is an event');
for my $name (qw(stops parks))
{
	sql(qq{BEGIN; SELECT count(*) FROM event_store.next_events('$name'); SELECT event_store.fail_events('$name', $position, 'no'); COMMIT});
	is(sql(qq{SELECT count(*) FROM event_store.next_events('$name')}), '0', "$name: what failed waits");
}

# ---------- and of sagas

sql(q{SELECT event_store.define_saga('timed', '{"steps": [{"name": "a", "retry_initial": "10s", "retry_max": "10s"}]}');
      SELECT event_store.define_saga('asked', '{"steps": [{"name": "a", "queue_timeout": "10s"}]}');
      SELECT event_store.define_saga('broken', '{"steps": [{"name": "a", "timeout": "1h", "retry_initial": "1us", "retry_max": "1us", "circuit": {"failures": 1, "pause": "10s"}}]}');
      SELECT event_store.start_saga('broken', 'b');
      SELECT event_store.report_step('broken', saga_id, step, 'retry', lease) FROM event_store.claim_steps('broken', 'e');
      SELECT event_store.start_saga('timed', 'leased'), event_store.start_saga('timed', 'backs off');
      CREATE TABLE claimed AS SELECT * FROM event_store.claim_steps('timed', 'e', max_count => 2, lease_time => '9s');
      SELECT event_store.report_step('timed', saga_id, step, 'retry', lease) FROM claimed WHERE saga_id = 'backs off';
      SELECT event_store.start_saga('asked', 'queued')});
sql(q{
	CREATE TABLE gate ();
	CREATE FUNCTION unlucky(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
	    IF NOT EXISTS (SELECT FROM public.gate) THEN RAISE 'no luck' USING ERRCODE = 'disk_full'; END IF;
	    PERFORM pg_sleep(86400);
	END
	$$;
	CREATE FUNCTION plain(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
	SELECT event_store.define_saga('unlucky', '{"steps": [{"name": "a", "timeout": "10s", "max_attempts": 1, "handler": "public.unlucky"}]}');
	SELECT event_store.define_saga('plain', '{"steps": [{"name": "a", "handler": "public.plain"}]}');
	SELECT event_store.start_saga('unlucky', 'runs again')});
ok(poll(q{SELECT lease IS NOT NULL AND run_at IS NOT NULL FROM event_store.saga_steps WHERE saga_id = 'runs again'}), 'a handler that is to run again');
set_clock($node, -2 * 86400);
sql('INSERT INTO gate DEFAULT VALUES');
ok(poll(q{SELECT lease IS NOT NULL AND run_at IS NULL FROM event_store.saga_steps WHERE saga_id = 'runs again'}), 'it does so after the clock was set back');
sql(q{SELECT event_store.start_saga('plain', 'behind it')});
ok(poll(q{SELECT state = 'completed' FROM event_store.sagas WHERE saga_id = 'behind it'}), 'and has no more time than before');
is(sql(qq{SELECT count(*) FROM event_store.next_events('$_')}), '1', "$_: set back, it comes") for qw(stops parks);
ok(poll(q{SELECT count(*) = 1 FROM event_store.claim_steps('broken', 'e')}), 'a circuit opens again');
ok(poll(q{SELECT count(*) = 1 FROM event_store.load_events('saga:timed', 'leased') WHERE event_type = 'StepTimedOut' AND payload ->> 'reason' = 'lease'}), 'a lease is over');
ok(poll(q{SELECT count(*) = 1 FROM event_store.claim_steps('timed', 'e', max_count => 3) WHERE saga_id = 'backs off' AND attempt = 2}), 'a back-off');
ok(poll(q{SELECT state = 'failed' FROM event_store.sagas WHERE saga_id = 'queued'}), 'what nobody claims in time');

# ---------- back and forward again, during pauses that are by the state of before longer than by their rows

sql(q{
	CREATE FUNCTION fails(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
	    IF attempt = 1 THEN RAISE 'not the first time'; END IF;
	    RETURN NULL;
	END
	$$;
	SELECT event_store.define_saga('pauses', '{"steps": [{"name": "a", "retry_initial": "1h", "retry_max": "1h"}]}');
	SELECT event_store.define_saga('handled', '{"steps": [{"name": "a", "retry_initial": "1h", "retry_max": "1h", "handler": "public.fails"}]}');
	SELECT event_store.start_saga('pauses', 'of an executor'), event_store.start_saga('handled', 'of a handler');
	SELECT event_store.report_step('pauses', saga_id, step, 'retry', lease) FROM event_store.claim_steps('pauses', 'e')});
ok(poll(q{SELECT count(*) = 2 FROM event_store.saga_steps WHERE saga_id LIKE 'of a%' AND COALESCE(claimable_at, run_at) > clock_timestamp() + interval '50min'}), 'steps that pause');
set_clock($node, -2 * 86400 - 2400);
ok(poll(q{SELECT (SELECT count(*) FROM event_store.claim_steps('pauses', 'e')) = 0
	AND (SELECT count(*) FROM event_store.saga_steps WHERE saga_id LIKE 'of a%' AND written_at > clock_timestamp()) = 0}), 'their times go back');
is(sql(q{SELECT count(*) FROM event_store.saga_steps WHERE saga_id LIKE 'of a%' AND COALESCE(claimable_at, run_at) BETWEEN clock_timestamp() + interval '50min'
	AND clock_timestamp() + interval '1h'}), '2', 'with the clock');
set_clock($node, -2 * 86400 + 1800);
ok(poll(q{SELECT count(*) = 1 FROM event_store.claim_steps('pauses', 'e')}), 'an executor has a step when its pause is over');
sql(q{SELECT event_store.start_saga('plain', 'calls the process')});
ok(poll(q{SELECT state = 'completed' FROM event_store.sagas WHERE saga_id = 'of a handler'}), 'so has a handler');

$node->stop;
done_testing();
