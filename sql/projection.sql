-- projection: the server calls a function with every event, once, and keeps the position with what it does
\pset null null
\pset format unaligned
\pset tuples_only on
SELECT event_store.create_store();
SELECT last_sequence FROM event_store.append_event('ProjBefore', 'b-1', 0, 'E');
SELECT event_store.safe_position() AS start \gset

CREATE SCHEMA proj;
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
-- appends events: "A/a-1 E, A/a-2 F"
CREATE FUNCTION pg_temp.append(list text) RETURNS void
    LANGUAGE sql AS $$
    SELECT count(event_store.append_event('Proj' || split_part(split_part(e, ' ', 1), '/', 1), split_part(split_part(e, ' ', 1), '/', 2),
                                          NULL, split_part(e, ' ', 2)))
      FROM unnest(string_to_array(list, ', ')) WITH ORDINALITY u (e, n)
$$;

-- what handlers have been called with
CREATE TABLE proj.seen (n int GENERATED ALWAYS AS IDENTITY, projection text, events text);
CREATE FUNCTION proj.name(e event_store.event) RETURNS text LANGUAGE sql AS $$ SELECT e.aggregate_id || ':' || e.event_type $$;
CREATE FUNCTION proj.each(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.event_type = 'Bad' THEN
        RAISE EXCEPTION 'a bad event';
    END IF;
    INSERT INTO proj.seen (projection, events) VALUES ('each', proj.name(e));
END
$$;
CREATE FUNCTION proj.all_of(e event_store.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO proj.seen (projection, events) SELECT 'all', string_agg(proj.name(u), ' ' ORDER BY u.global_position) FROM unnest(e) u;
    PERFORM 1 / (0 * u.sequence) FROM unnest(e) u WHERE u.event_type = 'Bad';
END
$$;
CREATE FUNCTION pg_temp.seen(name text) RETURNS text LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM proj.seen WHERE projection = name RETURNING *)
    SELECT string_agg(events, ' | ' ORDER BY n) FROM gone
$$;

-- making one: true, false for the same, 42710 for another. Paused, it goes on in the foreground alone
CREATE FUNCTION pg_temp.make(name text, handler text, more text DEFAULT '') RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.outcome(format('SELECT event_store.create_projection(%L, %L::regproc, aggregate_types => ''{ProjA}'', start_after => %s%s); SELECT event_store.pause_subscription(%1$L)',
                                  name, handler, current_setting('proj.start'), more))
$$;
SET proj.start = :start;
BEGIN;
SELECT event_store.create_projection('each', 'proj.each'::regproc, '{ProjA}', start_after => :start);
SELECT event_store.pause_subscription('each');
COMMIT;
SELECT event_store.create_projection('each', 'proj.each'::regproc, '{ProjA}', start_after => :start);
SELECT pg_temp.make('each', 'proj.all_of');
SELECT pg_temp.make('each', 'proj.each', ', members => 2');
SELECT pg_temp.make('all', 'proj.all_of');
SELECT event_store.create_subscription('a subscription');
SELECT pg_temp.outcome($$SELECT event_store.create_projection('a subscription', 'proj.each'::regproc, on_failure => 'park')$$);
SELECT projection_name, kind, mode, batch_size, handler, handler_owner = current_user, timeout, reset FROM event_store.projections ORDER BY 1;
-- functions of another form, and arguments that are wrong
CREATE FUNCTION proj.no_handler(e event_store.event) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
SELECT pg_temp.make('x', 'proj.no_handler');
SELECT pg_temp.outcome($$SELECT event_store.create_projection('x', 'pg_catalog.now'::regproc)$$);
SELECT pg_temp.outcome($$SELECT event_store.create_projection('x', NULL)$$);
SELECT pg_temp.make('x', 'proj.each', ', reset => ''proj.each''::regproc');
SELECT pg_temp.make('x', 'proj.each', ', batch_size => 0');
SELECT pg_temp.make('x', 'proj.each', ', timeout => ''0''');
SELECT pg_temp.make('x', 'proj.each', ', on_failure => ''retry''');
SELECT pg_temp.outcome($$SELECT event_store.project('no such projection')$$);
SELECT pg_temp.outcome($$SELECT event_store.project('a subscription')$$);

-- events in order, once
SELECT event_store.project('each');
SELECT pg_temp.append('A/a-1 E, A/a-2 E, B/b-1 E, A/a-1 F');
SELECT event_store.project('each', 2), pg_temp.seen('each');
SELECT event_store.project('each'), pg_temp.seen('each');
SELECT event_store.project('each'), pg_temp.seen('each');
SELECT event_store.project('all'), pg_temp.seen('all');
-- batches count the events that they took in
SELECT sum(value) > 0 FROM event_store.metrics WHERE metric = 'persistence.projection.batch.entries';
-- rolled back, they come again
SELECT pg_temp.append('A/a-3 E, A/a-4 E');
BEGIN;
SELECT event_store.project('each'), pg_temp.seen('each');
ROLLBACK;
SELECT event_store.project('each'), pg_temp.seen('each');
SELECT event_store.project('all'), pg_temp.seen('all');
-- its events are the server's
SELECT pg_temp.outcome($$SELECT * FROM event_store.next_events('each')$$);
SELECT pg_temp.outcome($$SELECT event_store.drop_subscription('each')$$);

-- a failing batch is halved until the event is found; those before it stay
SELECT pg_temp.make('all parks', 'proj.all_of', ', on_failure => ''park'', max_attempts => 1'), pg_temp.make('each skips', 'proj.each', ', on_failure => ''skip'', max_attempts => 1');
SELECT event_store.project('all parks'), pg_temp.seen('all'), event_store.project('each skips'), pg_temp.seen('each');
SELECT pg_temp.append('A/f-1 E, A/f-2 E, A/f-3 E, A/f-4 E, A/f-5 Bad, A/f-6 E, A/f-5 E, A/f-7 E');
SELECT event_store.project('all parks'), pg_temp.seen('all');
SELECT partition_key, state, attempts, error_message FROM event_store.parked_events WHERE subscription_name = 'all parks';
SELECT event_store.project('each skips'), pg_temp.seen('each');
-- stop: after max_attempts, until resume_subscription
SELECT event_store.project('each'), pg_temp.seen('each');
SELECT state, attempts, retry_at > now(), last_error FROM event_store.projection_status WHERE projection_name = 'each';
SELECT event_store.project('each'), pg_temp.seen('each');
SELECT event_store.alter_subscription('each', max_attempts => 2);
SELECT event_store.resume_subscription('each'), event_store.pause_subscription('each');
SELECT event_store.project('each'), pg_temp.seen('each');
SELECT event_store.alter_subscription('each', max_attempts => 1);
SELECT event_store.resume_subscription('each'), event_store.pause_subscription('each');
SELECT event_store.project('each'), pg_temp.seen('each');
SELECT stopped, attempts, last_error FROM event_store.subscription_positions WHERE subscription_name = 'each' ORDER BY number DESC LIMIT 1;
SELECT event_store.project('each'), pg_temp.seen('each');
-- an operator passes over the event
SELECT event_store.resume_subscription('each'), event_store.pause_subscription('each');
SELECT event_store.fail_events('each', global_position, 'looked at', 'skip') FROM event_store.read_events(:start, event_types => '{Bad}');
SELECT event_store.project('each'), pg_temp.seen('each');
-- what is no event's fault ends the transaction, and counts for nothing
CREATE FUNCTION proj.unlucky(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'not its fault' USING ERRCODE = '40001';
END
$$;
SELECT pg_temp.make('unlucky', 'proj.unlucky', ', on_failure => ''skip'', max_attempts => 1');
SELECT pg_temp.outcome($$SELECT event_store.project('unlucky')$$);
SELECT state, attempts FROM event_store.subscription_status WHERE subscription_name = 'unlucky';
SELECT count(*) FROM event_store.parked_events WHERE subscription_name = 'unlucky';

-- a handler over its time is cancelled, which counts; also when it catches that
CREATE FUNCTION proj.slow(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(100);
EXCEPTION WHEN query_canceled THEN
    INSERT INTO proj.seen (projection, events) VALUES ('slow', 'caught');
END
$$;
SELECT pg_temp.make('slow', 'proj.slow', ', on_failure => ''park'', max_attempts => 1, timeout => ''20ms''');
SELECT event_store.project('slow', 1), pg_temp.seen('slow');
SELECT state, error_message FROM event_store.parked_events WHERE subscription_name = 'slow' ORDER BY global_position LIMIT 1;

-- a handler that is gone stops the projection
CREATE FUNCTION proj.gone(e event_store.event[]) RETURNS void LANGUAGE sql AS $$ SELECT $$;
SELECT pg_temp.make('gone', 'proj.gone');
DROP FUNCTION proj.gone;
SELECT event_store.project('gone');
SELECT event_store.resume_subscription('gone');
SELECT bool_or(stopped) FROM event_store.subscription_positions WHERE subscription_name = 'gone';
SELECT substring(last_error, '^\w+: handler \S+ of projection "gone" does not exist') FROM event_store.subscription_positions
 WHERE subscription_name = 'gone' AND last_error IS NOT NULL LIMIT 1;
SELECT event_store.drop_projection('gone');

-- a handler runs as its owner, with a pinned search_path, and leaves nothing behind
CREATE FUNCTION proj.context(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO proj.seen (projection, events)
    VALUES ('context', format('%s %s %s', current_user = 'regress_proj_owner', current_setting('search_path'), current_setting('lock_timeout')));
    PERFORM set_config('work_mem', '77MB', false);
    IF e.event_type = 'Role' THEN
        SET ROLE NONE;
    ELSIF e.event_type = 'Temporary' THEN
        CREATE TEMPORARY TABLE left_behind (a int);
    END IF;
END
$$;
CREATE ROLE regress_proj_owner LOGIN;
GRANT USAGE ON SCHEMA proj TO regress_proj_owner;
GRANT INSERT ON proj.seen TO regress_proj_owner;
ALTER FUNCTION proj.context OWNER TO regress_proj_owner;
SELECT event_store.safe_position() AS start \gset
SET proj.start = :start;
SELECT pg_temp.append('A/c-1 E');
SELECT pg_temp.make('context', 'proj.context', ', timeout => ''10s''');
SELECT event_store.project('context'), pg_temp.seen('context'), current_setting('work_mem') = '77MB';
SELECT pg_temp.append('A/c-1 Role');
SELECT pg_temp.outcome($$SELECT event_store.project('context')$$);
SELECT event_store.fail_events('context', global_position, 'role', 'skip') FROM event_store.read_events(:start, event_types => '{Role}');
SELECT pg_temp.append('A/c-1 Temporary');
SELECT pg_temp.outcome($$SELECT event_store.project('context')$$);
SELECT event_store.drop_projection('context');
-- deferred triggers run before the call ends, as the handler's owner
CREATE TABLE proj.deferred (who name DEFAULT NULL);
GRANT INSERT ON proj.deferred TO regress_proj_owner;
CREATE FUNCTION proj.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO proj.seen (projection, events) VALUES ('deferred', (current_user = 'regress_proj_owner')::text);
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER note AFTER INSERT ON proj.deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION proj.note();
CREATE FUNCTION proj.defers(e event_store.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO proj.deferred DEFAULT VALUES $$;
ALTER FUNCTION proj.defers OWNER TO regress_proj_owner;
SELECT pg_temp.make('defers', 'proj.defers');
SELECT event_store.project('defers', 1), pg_temp.seen('deferred');
SELECT event_store.drop_projection('defers');

-- only its owner registers it, and he needs LOGIN and CONNECT
CREATE FUNCTION proj.mine(e event_store.event) RETURNS void LANGUAGE sql AS $$ SELECT $$;
SET ROLE regress_proj_owner;
SELECT pg_temp.outcome($$SELECT event_store.create_projection('mine', 'proj.mine'::regproc)$$);
RESET ROLE;
SELECT event_store.grant_access('regress_proj_owner', 'admin');
SET ROLE regress_proj_owner;
SELECT pg_temp.outcome($$SELECT event_store.create_projection('mine', 'proj.mine'::regproc)$$);
RESET ROLE;
ALTER FUNCTION proj.mine OWNER TO regress_proj_owner;
ALTER ROLE regress_proj_owner NOLOGIN;
SET ROLE regress_proj_owner;
\set VERBOSITY default
SELECT event_store.create_projection('mine', 'proj.mine'::regproc);
RESET ROLE;
ALTER ROLE regress_proj_owner LOGIN;
BEGIN;
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()) \gexec
\set VERBOSITY terse
SELECT event_store.create_projection('mine', 'proj.mine'::regproc);
ROLLBACK;
\set VERBOSITY default
-- a function of another owner under that name is not called
SELECT pg_temp.append('A/m-1 E');
SELECT pg_temp.make('mine', 'proj.mine');
ALTER FUNCTION proj.mine OWNER TO CURRENT_USER;
SELECT event_store.project('mine');
SELECT substring(last_error, '42501: handler proj.mine\S+ of projection "mine" does not belong to role "regress_proj_owner"')
  FROM event_store.projection_status WHERE projection_name = 'mine';
SELECT event_store.drop_projection('mine');

-- reset: all begins anew, in the caller's transaction
CREATE FUNCTION proj.reset() RETURNS void LANGUAGE sql AS $$ DELETE FROM proj.seen WHERE projection = 'each' $$;
SELECT event_store.safe_position() AS start \gset
SET proj.start = :start;
SELECT pg_temp.append('A/r-1 E, A/r-2 E');
SELECT pg_temp.make('resets', 'proj.each', ', reset => ''proj.reset''::regproc');
SELECT event_store.project('resets');
BEGIN;
SELECT event_store.rebuild_projection('resets') > 0;
SELECT count(*) FROM proj.seen WHERE projection = 'each';
SELECT event_store.project('resets');
ROLLBACK;
SELECT event_store.rebuild_projection('resets') > 0;
SELECT event_store.project('resets'), pg_temp.seen('each');
SELECT pg_temp.outcome($$SELECT event_store.rebuild_projection('each')$$);
SELECT pg_temp.outcome($$SELECT event_store.rebuild_projection('no such projection')$$);

-- members: each has its partitions
SELECT pg_temp.make('members', 'proj.each', ', members => 3');
SELECT event_store.project('members'), array(SELECT unnest(string_to_array(pg_temp.seen('each'), ' | ')) ORDER BY 1);

-- reactions: what a handler appends has its cause, and its batch ends behind the event
CREATE FUNCTION proj.reacts(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.event_type = 'Asked' THEN
        PERFORM event_store.append_event('ProjAnswer', e.aggregate_id, NULL, 'Answered', metadata => '{"by": "reacts"}');
    ELSIF e.event_type = 'AskedForMore' THEN
        PERFORM event_store.append_event('ProjAnswer', e.aggregate_id, NULL, 'Answered', correlation_id => 'own', causation_id => 'own', saga_id => 'own');
    END IF;
END
$$;
SELECT event_store.safe_position() AS start \gset
SET proj.start = :start;
SELECT pg_temp.make('reacts', 'proj.reacts');
SELECT last_sequence FROM event_store.append_event('ProjA', 'q-1', 0, 'Asked', correlation_id => 'c-1', saga_id => 's-1');
SELECT pg_temp.append('A/q-2 E, A/q-3 AskedForMore, A/q-4 E');
SELECT event_store.project('reacts');
SELECT a.aggregate_id, a.metadata, a.correlation_id, a.saga_id, CASE a.causation_id WHEN q.event_id::text THEN 'its question' ELSE a.causation_id END
  FROM event_store.read_events(:start, aggregate_types => '{ProjAnswer}') a
  LEFT JOIN event_store.read_events(:start, event_types => '{Asked}') q ON q.aggregate_id = a.aggregate_id ORDER BY 1;
-- a handler of arrays that appends is called with one event at a time
CREATE FUNCTION proj.reacts_to_all(e event_store.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event('ProjAnswer', u.aggregate_id, NULL, 'Answered') FROM unnest(e) u WHERE u.event_type = 'Asked';
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;
SELECT pg_temp.make('reacts to all', 'proj.reacts_to_all');
SELECT pg_temp.append('A/q-5 Asked');
SELECT event_store.safe_position() AS answers \gset
SELECT event_store.project('reacts to all');
SELECT a.aggregate_id, a.causation_id = q.event_id::text, a.metadata FROM event_store.read_events(:answers, aggregate_types => '{ProjAnswer}') a
  JOIN event_store.read_events(:start, event_types => '{Asked}') q ON q.aggregate_id = a.aggregate_id ORDER BY 1;
-- two that react to each other end at max_hops
CREATE FUNCTION proj.echoes(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event(e.aggregate_type, e.aggregate_id, NULL, 'Echo');
END
$$;
BEGIN;
SELECT event_store.create_projection('echoes', 'proj.echoes'::regproc, '{ProjEcho}', start_after => NULL, on_failure => 'park', max_attempts => 1);
SELECT event_store.pause_subscription('echoes');
COMMIT;
SET event_store.max_hops = 3;
SELECT pg_temp.append('Echo/e-1 Call');
CREATE PROCEDURE pg_temp.project(name text) LANGUAGE plpgsql AS $$
DECLARE
    events bigint := 1;
BEGIN
    WHILE events > 0 LOOP
        events := event_store.project(name);
        COMMIT;
    END LOOP;
END
$$;
CALL pg_temp.project('echoes');
SELECT sequence, event_type, metadata FROM event_store.load_events('ProjEcho', 'e-1');
SELECT regexp_replace(error_message, '[0-9a-f-]{36}', 'ID') FROM event_store.parked_events WHERE subscription_name = 'echoes';
-- what a caller writes there does not lead around it
SELECT count(event_store.append_event('ProjEcho', id, NULL, 'Call', metadata => format('{"$hops": %s}', hops)::jsonb)) FROM (VALUES ('e-2', 9223372036854775807), ('e-3', -9)) h (id, hops);
CALL pg_temp.project('echoes');
SELECT aggregate_id, event_type, metadata FROM event_store.domain_events WHERE aggregate_type = 'ProjEcho' AND aggregate_id > 'e-1' ORDER BY global_position;
SELECT regexp_replace(error_message, '[0-9a-f-]{36}', 'ID') FROM event_store.parked_events WHERE subscription_name = 'echoes' ORDER BY 1;
RESET event_store.max_hops;
-- a handler does not call project(): what it appends afterwards would have no cause
CREATE FUNCTION proj.goes_on(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.project('each');
    PERFORM event_store.append_event('ProjAnswer', e.aggregate_id, NULL, 'Answered');
END
$$;
BEGIN;
SELECT event_store.create_projection('goes on', 'proj.goes_on'::regproc, '{ProjGo}');
SELECT event_store.pause_subscription('goes on');
COMMIT;
SELECT pg_temp.append('Go/g-1 E');
SELECT pg_temp.outcome($$SELECT event_store.project('goes on')$$);
SELECT count(*) FROM event_store.load_events('ProjAnswer', 'g-1');

-- a statement that is cancelled is no event's failure, whatever call was too long before
CREATE FUNCTION proj.sleeps(e event_store.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(10); END $$;
CREATE FUNCTION proj.reduces(state jsonb, e event_store.event) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(10); RETURN state; END $$;
SELECT event_store.set_reducer('ProjGo', 'proj.reduces'::regproc);
BEGIN;
SELECT event_store.create_projection('sleeps', 'proj.sleeps'::regproc, '{ProjGo}', timeout => '10ms', on_failure => 'skip', max_attempts => 1);
SELECT event_store.create_view_projection('sleeping view', '{ProjGo}', on_failure => 'skip', max_attempts => 1);
SELECT event_store.pause_subscription('sleeps'), event_store.pause_subscription('sleeping view');
COMMIT;
SELECT event_store.project('sleeps');
SET statement_timeout = '200ms';
SELECT event_store.project('sleeping view');
RESET statement_timeout;
SELECT event_store.set_reducer('ProjGo', NULL);
DELETE FROM event_store.reducers WHERE aggregate_type = 'ProjGo';

-- an append outside of handlers has no cause
SELECT metadata IS NULL, causation_id IS NULL FROM event_store.load_events('ProjA', 'q-5');

-- after any of this a transaction cannot be prepared
BEGIN;
SELECT event_store.project('each');
PREPARE TRANSACTION 'projection';
BEGIN;
SELECT event_store.create_projection('prepared', 'proj.each'::regproc);
PREPARE TRANSACTION 'projection';
BEGIN;
SELECT event_store.drop_projection('each');
PREPARE TRANSACTION 'projection';

-- projection_status: one row each
SELECT projection_name, kind, mode, lag_events = 0, lag IS NULL, state, rebuild_done FROM event_store.projection_status
 WHERE projection_name IN ('reacts', 'each') ORDER BY 1;

SELECT projection_name, event_store.drop_projection(projection_name) FROM event_store.projections ORDER BY 1;
SELECT event_store.drop_projection('each');
SELECT count(*) FROM event_store.subscriptions WHERE projection;
SELECT event_store.drop_subscription('a subscription');
SET client_min_messages = warning;
DROP SCHEMA proj CASCADE;
DROP OWNED BY regress_proj_owner;
DROP ROLE regress_proj_owner;
