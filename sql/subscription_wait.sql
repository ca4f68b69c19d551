-- subscription_wait: until a subscription has something, without a snapshot; until it has
-- handled what was written
\pset null null
\pset format unaligned
\pset tuples_only on
\set VERBOSITY terse
SELECT event_store.create_store();
SELECT last_sequence FROM event_store.append_event('WaitBefore', 'b-1', 0, 'E');
SELECT event_store.safe_position() AS start \gset
SELECT event_store.create_subscription('wait a', '{WaitA}', start_after => :start),
       event_store.create_subscription('wait b', '{WaitB}', start_after => :start);
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    result text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement INTO result;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN sqlstate || regexp_replace(concat_ws(' / ', ' ' || sqlerrm, nullif(detail, ''), nullif(hint, '')), 'position \d+|above \d+', 'position N', 'g');
END
$$;

-- those that have something; none when the time is over
CALL event_store.wait_for_subscriptions('{wait a,wait b}', '10ms');
SELECT last_position AS a FROM event_store.append_event('WaitA', 'a-1', NULL, 'E') \gset
CALL event_store.wait_for_subscriptions('{wait a,wait b}', '10min');
CALL event_store.wait_for_subscriptions('{wait b}', '10ms');
SELECT last_position AS b FROM event_store.append_event('WaitB', 'b-1', NULL, 'E') \gset
CALL event_store.wait_for_subscriptions('{wait a,wait b}', NULL);
CALL event_store.wait_for_subscriptions(subscription_names => '{wait b,wait a,wait b}', timeout => '10min');
SELECT count(*) FROM event_store.next_events('wait a');
CALL event_store.wait_for_subscriptions('{wait a,wait b}', '10min');
SELECT count(*) FROM event_store.next_events('wait b');
-- more than there is room for
SELECT count(event_store.create_subscription('wait ' || n, '{WaitC}', start_after => :start)) FROM generate_series(1, 12) n;
CALL event_store.wait_for_subscriptions('{wait a,wait 1,wait 2,wait 3,wait 4,wait 5,wait 6,wait 7,wait 8,wait 9,wait 10,wait 11,wait 12}', '10ms');
SELECT count(event_store.append_event('WaitC', 'c-1', NULL, 'E')) \g /dev/null
CALL event_store.wait_for_subscriptions('{wait a,wait 1,wait 2,wait 3,wait 4,wait 5,wait 6,wait 7,wait 8,wait 9,wait 10,wait 11,wait 12}', '10min');
SELECT count(event_store.drop_subscription('wait ' || n)) FROM generate_series(1, 12) n;

-- 25001 where there is another snapshot
BEGIN;
CALL event_store.wait_for_subscriptions('{wait a}', '10ms');
SELECT 1;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL event_store.wait_for_subscriptions('{wait a}', '10ms');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL event_store.wait_for_subscriptions('{wait a}', '10ms');
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT generate_series(1, 10);
CALL event_store.wait_for_subscriptions('{wait a}', '10ms');
ROLLBACK;
CREATE FUNCTION pg_temp.wait() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    ready text[];
BEGIN
    CALL event_store.wait_for_subscriptions('{wait a}', '10ms', ready);
    RETURN ready;
END
$$;
SELECT pg_temp.wait();
-- a procedure and DO have none but that
DO $$
DECLARE
    ready text[];
BEGIN
    CREATE TEMPORARY TABLE kept (n int);
    CALL event_store.wait_for_subscriptions('{wait a}', '10ms', ready);
    RAISE NOTICE '%', ready;
    ROLLBACK;
END
$$;
SELECT to_regclass('pg_temp.kept');

-- its arguments
CALL event_store.wait_for_subscriptions(NULL, '10ms');
CALL event_store.wait_for_subscriptions('{}', '10ms');
CALL event_store.wait_for_subscriptions('{wait a,NULL}', '10ms');
CALL event_store.wait_for_subscriptions('{wait a,unknown}', '10ms');
CALL event_store.wait_for_subscriptions('{wait a}', '11min');
CALL event_store.wait_for_subscriptions('{wait a}', '-1s');
CALL event_store.wait_for_subscriptions(ARRAY['wait a', repeat('x', 300)], '10ms');

-- handled, or not yet
SELECT event_store.wait_for_subscription('wait a', :a), event_store.wait_for_subscription('wait a', :b),
       event_store.wait_for_subscription('wait a', NULL), event_store.wait_for_subscription('wait a', 0);
SELECT last_position AS a FROM event_store.append_event('WaitA', 'a-1', NULL, 'E') \gset
SELECT event_store.wait_for_subscription('wait a', :b, '10ms'), event_store.wait_for_subscription('wait a', :a, '10ms'),
       event_store.wait_for_subscription('wait b', :a), event_store.wait_for_subscription('wait a', NULL, '0s');
-- one that is paused, stopped, or has parked an event there
SELECT event_store.pause_subscription('wait a');
SELECT pg_temp.outcome(format($$SELECT event_store.wait_for_subscription('wait a', %s)$$, :a));
SELECT event_store.wait_for_subscription('wait a', :b);
SELECT event_store.resume_subscription('wait a');
SELECT event_store.fail_events('wait a', :a, 'no such thing', 'stop');
SELECT event_store.wait_for_subscription('wait a', :b);
SELECT pg_temp.outcome(format($$SELECT event_store.wait_for_subscription('wait a', %s)$$, :a));
SELECT event_store.resume_subscription('wait a');
SELECT event_store.fail_events('wait a', :a, 'no such thing', 'park');
SELECT count(*) FROM event_store.next_events('wait a');
SELECT pg_temp.outcome(format($$SELECT event_store.wait_for_subscription('wait a', %s)$$, :a));
SELECT event_store.wait_for_subscription('wait a', :b);
SELECT event_store.discard_parked_events('wait a', 'WaitA/a-1', 'never mind');
SELECT event_store.wait_for_subscription('wait a', :a);
SELECT last_position AS a FROM event_store.append_event('WaitA', 'a-1', NULL, 'E') \gset
SELECT event_store.fail_events('wait a', :a, 'not now');
SELECT event_store.wait_for_subscription('wait a', :a, '10ms');

-- its own transaction
BEGIN;
SELECT last_position AS own FROM event_store.append_event('WaitA', 'a-2', NULL, 'E') \gset
SELECT event_store.wait_for_subscription('wait b', :a), event_store.wait_for_subscription('wait b', NULL);
SELECT pg_temp.outcome(format($$SELECT event_store.wait_for_subscription('wait b', %s)$$, :own));
ROLLBACK;
SELECT event_store.wait_for_subscription('wait b', :own);

-- its arguments
SELECT pg_temp.outcome($$SELECT event_store.wait_for_subscription('unknown', 0)$$);
SELECT pg_temp.outcome($$SELECT event_store.wait_for_subscription(NULL, 0)$$);
SELECT pg_temp.outcome($$SELECT event_store.wait_for_subscription('', 0)$$);
SELECT pg_temp.outcome($$SELECT event_store.wait_for_subscription('wait a', -1)$$);
SELECT pg_temp.outcome($$SELECT event_store.wait_for_subscription('wait a', 9223372036854775807)$$);
SELECT pg_temp.outcome($$SELECT event_store.wait_for_subscription('wait a', 0, '-1s')$$);
SELECT pg_temp.outcome($$SELECT event_store.wait_for_subscription('wait a', 0, '11min')$$);

-- next_events with a timeout
SELECT pg_temp.outcome($$SELECT event_store.next_events('wait b', 1, '6s')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('wait b', 1, '6s')$$);
SELECT count(*) FROM event_store.next_events('wait b', 1, '10ms');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('wait b', 1, '10ms')$$);
ROLLBACK;

-- the level of a consumer
CREATE ROLE wait_consumer;
SELECT event_store.grant_access('wait_consumer', 'consumer');
SET ROLE wait_consumer;
CALL event_store.wait_for_subscriptions('{wait b}', '10ms');
SELECT event_store.wait_for_subscription('wait b', NULL);
RESET ROLE;
DROP OWNED BY wait_consumer;
SELECT event_store.grant_access('wait_consumer', 'reader');
SET ROLE wait_consumer;
CALL event_store.wait_for_subscriptions('{wait b}', '10ms');
RESET ROLE;
DROP OWNED BY wait_consumer;
DROP ROLE wait_consumer;
SELECT event_store.drop_subscription('wait a'), event_store.drop_subscription('wait b');
