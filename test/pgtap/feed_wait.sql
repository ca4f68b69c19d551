-- wait_for_events returns when the lowest position in flight is decided and not
-- before, and can be cancelled.  Other sessions are connections of dblink.

\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION dblink;
SELECT event_store.create_store() \g /dev/null

-- runs a statement in another session; in all of these one value comes back
CREATE FUNCTION pg_temp.run(session text, statement text) RETURNS text LANGUAGE sql
AS $$ SELECT r FROM dblink(session, statement) AS t(r text) $$;

CREATE FUNCTION pg_temp.append(session text, id text) RETURNS text LANGUAGE sql
AS $$ SELECT pg_temp.run(session, format('SELECT last_sequence FROM event_store.append_event(''Feed'', %L, NULL, ''Added'')', id)) $$;

-- what is new since the last call in this session
CREATE TEMPORARY TABLE place (position bigint);
INSERT INTO place VALUES (event_store.safe_position());
CREATE FUNCTION pg_temp.read() RETURNS text LANGUAGE sql
AS $$
    WITH got AS (SELECT e.* FROM place, event_store.read_events(position) e),
         moved AS (UPDATE place SET position = greatest(position, (SELECT max(global_position) FROM got)))
    SELECT coalesce(string_agg(aggregate_id, ' ' ORDER BY global_position), '') FROM got
$$;

-- has another session wait for what is not safe to read now; the statement is
-- sent and the session has gone to sleep
CREATE FUNCTION pg_temp.asleep(session text) RETURNS boolean LANGUAGE plpgsql
AS $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF EXISTS (SELECT FROM pg_stat_activity
                    WHERE application_name = session AND state = 'active'
                      AND query LIKE '%wait_for_events%' AND wait_event_type = 'Extension') THEN
            RETURN true;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN false;
END
$$;
CREATE FUNCTION pg_temp.wait(session text) RETURNS boolean LANGUAGE sql
AS $$
    SELECT dblink_send_query(session,
        format('SELECT event_store.wait_for_events(%s, ''10min'') > %1$s', event_store.safe_position())) = 1
       AND pg_temp.asleep(session)
$$;
-- the answer of a session that was sent a statement, or its error
CREATE FUNCTION pg_temp.answer(session text) RETURNS text LANGUAGE plpgsql
AS $$
DECLARE
    answer text;
    state text := NULL;
BEGIN
    BEGIN
        SELECT r INTO answer FROM dblink_get_result(session) AS t(r text);
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        state := SQLSTATE;
    END;
    PERFORM r FROM dblink_get_result(session, false) AS t(r text);
    RETURN coalesce(state, answer);
END
$$;
CREATE FUNCTION pg_temp.connect(session text) RETURNS text LANGUAGE sql
AS $$
    SELECT dblink_connect(session, format('host=%s port=%s dbname=%s user=%s application_name=%s',
        split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'),
        current_database(), session_user, session))
$$;
SELECT pg_temp.connect(session) FROM unnest(ARRAY['one', 'two', 'waiter', 'waiter2']) session \g /dev/null

SELECT * FROM no_plan();

-- nothing is in flight
SELECT ok(pg_temp.wait('waiter'), 'a waiter sleeps when there is nothing new');
SELECT is(pg_temp.append('one', 'a'), '1', 'an append');
SELECT is(pg_temp.answer('waiter'), 't', 'wakes it');
SELECT is(pg_temp.read(), 'a', 'and is delivered');

-- the higher position commits first
SELECT pg_temp.run('one', 'BEGIN') \g /dev/null
SELECT pg_temp.append('one', 'b') \g /dev/null
SELECT ok(pg_temp.wait('waiter'), 'a waiter sleeps while a position is in flight');
SELECT pg_temp.append('two', 'c') \g /dev/null
SELECT is(pg_temp.read(), '', 'what commits after it is not delivered');
SELECT ok(pg_temp.asleep('waiter'), 'and does not wake the waiter');
SELECT pg_temp.run('one', 'COMMIT') \g /dev/null
SELECT is(pg_temp.answer('waiter'), 't', 'the commit of the lowest wakes it');
SELECT is(pg_temp.read(), 'b c', 'both are delivered in order');

SELECT pg_temp.run('one', 'BEGIN') \g /dev/null
SELECT pg_temp.append('one', 'd') \g /dev/null
SELECT pg_temp.append('two', 'e') \g /dev/null
SELECT ok(pg_temp.wait('waiter') AND pg_temp.wait('waiter2'), 'two waiters');
SELECT pg_temp.run('one', 'ROLLBACK') \g /dev/null
SELECT is(pg_temp.answer('waiter'), 't', 'a rollback wakes the one');
SELECT is(pg_temp.answer('waiter2'), 't', 'and the other');
SELECT is(pg_temp.read(), 'e', 'what was rolled back is not delivered');

SELECT pg_temp.run(session, 'BEGIN') FROM unnest(ARRAY['one', 'two']) session \g /dev/null
SELECT pg_temp.append('one', 'f') \g /dev/null
SELECT pg_temp.append('two', 'g') \g /dev/null
SELECT ok(pg_temp.wait('waiter'), 'two positions are in flight');
SELECT pg_temp.run('two', 'COMMIT') \g /dev/null
SELECT is(pg_temp.read(), '', 'the higher one is committed');
SELECT ok(pg_temp.asleep('waiter'), 'and wakes nobody');
SELECT is(pg_temp.run('one', 'SELECT in_flight FROM event_store.feed_status'), '1', 'one is left');
SELECT pg_temp.run('one', 'COMMIT') \g /dev/null
SELECT is(pg_temp.answer('waiter'), 't', 'the lower one does');
SELECT is(pg_temp.read(), 'f g', 'in order');

-- a waiter in REPEATABLE READ, with a snapshot from before
SELECT pg_temp.run('waiter', 'BEGIN ISOLATION LEVEL REPEATABLE READ') \g /dev/null
SELECT pg_temp.run('waiter', 'SELECT count(*) FROM event_store.domain_events') AS before \gset
SELECT ok(pg_temp.wait('waiter'), 'a waiter in REPEATABLE READ sleeps');
SELECT pg_temp.append('one', 'h') \g /dev/null
SELECT is(pg_temp.answer('waiter'), 't', 'is woken');
SELECT is(pg_temp.run('waiter', 'SELECT string_agg(aggregate_id, '' '') FROM event_store.read_events('
        || (SELECT position FROM place) || ')'), 'h', 'and reads what woke it');
SELECT is(pg_temp.run('waiter', 'SELECT count(*) FROM event_store.domain_events'), :'before', 'while its snapshot is as it was');
SELECT pg_temp.run('waiter', 'COMMIT') \g /dev/null
SELECT is(pg_temp.read(), 'h', 'everybody reads it');

-- a drain
SELECT ok(pg_temp.wait('waiter'), 'a waiter sleeps');
SELECT pg_temp.run('one', $$SELECT durable FROM event_store.append_event('Feed', 'i', NULL, 'Added', durability => 'staged')$$) \g /dev/null
SELECT is(pg_temp.run('one', $$SELECT event_store.flush('10min')$$), 't', 'a staged event becomes durable');
SELECT is(pg_temp.answer('waiter'), 't', 'and wakes it');
SELECT is(pg_temp.read(), 'i', 'and is delivered when flush() has returned');

-- cancelled
SELECT pg_temp.run('one', 'BEGIN') \g /dev/null
SELECT pg_temp.append('one', 'j') \g /dev/null
SELECT pg_temp.run('waiter', $$SET statement_timeout = '50ms'$$) \g /dev/null
SELECT dblink_send_query('waiter', format('SELECT event_store.wait_for_events(%s, ''10min'')', event_store.safe_position())) \g /dev/null
SELECT is(pg_temp.answer('waiter'), '57014', 'statement_timeout ends the wait');
SELECT is(pg_temp.run('waiter', 'SELECT in_flight FROM event_store.feed_status'), '1', 'the session goes on');
SELECT pg_temp.run('waiter', 'RESET statement_timeout') \g /dev/null
SELECT ok(pg_temp.wait('waiter'), 'and may wait again');
SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiter' \g /dev/null
SELECT is(pg_temp.answer('waiter'), '57014', 'pg_cancel_backend ends the wait');
-- in a subtransaction
SELECT pg_temp.run('waiter', 'BEGIN') \g /dev/null
SELECT pg_temp.run('waiter', 'SAVEPOINT s') \g /dev/null
SELECT ok(pg_temp.wait('waiter'), 'a waiter in a subtransaction sleeps');
SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiter' \g /dev/null
SELECT is(pg_temp.answer('waiter'), '57014', 'and is cancelled');
SELECT pg_temp.run('waiter', 'ROLLBACK TO s') \g /dev/null
SELECT is(pg_temp.run('waiter', 'SELECT in_flight FROM event_store.feed_status'), '1', 'the transaction goes on');
SELECT ok(pg_temp.wait('waiter'), 'waits again');

-- the end of a waiter, and of the backend that it waits for
SELECT ok(pg_temp.wait('waiter2'), 'another waiter');
SELECT ok(pg_terminate_backend(pid, 60000), 'is terminated in its sleep')
  FROM pg_stat_activity WHERE application_name = 'waiter2';
SELECT ok(pg_temp.asleep('waiter'), 'which wakes nobody');
SELECT ok(pg_terminate_backend(pid, 60000), 'the backend with the position is terminated')
  FROM pg_stat_activity WHERE application_name = 'one';
SELECT is(pg_temp.answer('waiter'), 't', 'which decides its position');
SELECT pg_temp.run('waiter', 'COMMIT') \g /dev/null
SELECT is(pg_temp.read(), '', 'nothing of it is delivered');
SELECT pg_temp.append('two', 'k') \g /dev/null
SELECT is(pg_temp.read(), 'k', 'and the next event is');
SELECT is(in_flight::text || (last_position - safe_position), '00', 'nothing is in flight') FROM event_store.feed_status;

SELECT * FROM finish();
