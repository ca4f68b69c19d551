-- saga_handler: steps that the server does: once, with their report in one transaction, as attempts like any other
\pset null null
\pset format unaligned
\pset tuples_only on
SELECT event_store.create_store();
CREATE SCHEMA handled;
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
-- What has happened to a saga, without times and leases.
CREATE FUNCTION pg_temp.log(name text, id text) RETURNS TABLE (event text, payload jsonb)
    LANGUAGE sql AS $$
    SELECT event_type, payload - '{lease,deadline,not_before,queue_deadline,retry_at,by}'::text[]
           || CASE WHEN payload ? 'retry_at' THEN '{"retry_at": true}' ELSE '{}' END::jsonb
      FROM event_store.load_events('saga:' || name, id)
$$;
-- All that handlers have to do, short pauses included.  In the transaction of the start, so that no process is faster.
CREATE FUNCTION pg_temp.run() RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    done bigint := 0;
BEGIN
    WHILE EXISTS (SELECT FROM event_store.saga_steps WHERE run_at < clock_timestamp() + interval '10s') LOOP
        done := done + event_store.run_saga_handlers();
    END LOOP;
    RETURN done;
END
$$;

CREATE TABLE handled.done (n int GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION handled.note(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO handled.done (what) VALUES (concat_ws(' ', saga_id, step, attempt, context));
    RETURN jsonb_build_object('attempt', attempt);
END
$$;
CREATE FUNCTION handled.refuse(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO handled.done (what) VALUES ('undone by its error');
    RAISE EXCEPTION 'not for %', context ->> 'for' USING ERRCODE = 'VS011';
END
$$;
-- the first attempt divides by zero
CREATE FUNCTION handled.stumble(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO handled.done (what) VALUES (format('%s %s', step, attempt));
    RETURN to_jsonb(1 / (attempt - 1));
END
$$;
CREATE FUNCTION handled.nothing(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;

-- what a definition may say
SELECT pg_temp.outcome(format('SELECT event_store.define_saga(''x'', %L)', definition)) FROM (VALUES
    ('{"steps": [{"name": "a", "handler": "note"}]}'),
    ('{"steps": [{"name": "a", "handler": "a b.note"}]}'),
    ('{"steps": [{"name": "a", "handler": 7}]}'),
    ('{"steps": [{"name": "a", "handler": "handled.no_such_function"}]}'),
    ('{"steps": [{"name": "a", "handler": "no_such_schema.note"}]}'),
    ('{"steps": [{"name": "a", "handler": "pg_catalog.now"}]}'),
    ('{"steps": [{"name": "a"}, {"name": "b", "compensate": true, "compensation": {"handler": "handled.no_such_function"}}]}'),
    ('{"steps": [{"name": "a", "compensate": true, "handler": "handled.note"}]}'),
    ('{"steps": [{"name": "a", "compensate": true, "handler": "handled.note", "compensation": {"max_attempts": 2}}]}'),
    ('{"steps": [{"name": "a", "wait": {"signal": "s"}, "handler": "handled.note"}]}')) d (definition);
CREATE FUNCTION handled.of_text(saga_id text, step text, attempt int, context jsonb) RETURNS text LANGUAGE sql AS $$ SELECT '' $$;
CREATE FUNCTION handled.of_set(saga_id text, step text, attempt int, context jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
CREATE FUNCTION pg_temp.gone(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
SELECT pg_temp.outcome(format('SELECT event_store.define_saga(''x'', ''{"steps": [{"name": "a", "handler": "%s"}]}'')', f))
  FROM unnest('{handled.of_text,handled.of_set}'::text[]) f;
SELECT regexp_replace(pg_temp.outcome(format('SELECT event_store.define_saga(''x'', ''{"steps": [{"name": "a", "handler": "%s.gone"}]}'')', nspname)), 'pg_temp_\d+', 'pg_temp')
  FROM pg_namespace WHERE oid = pg_my_temp_schema();
SELECT count(*) FROM event_store.saga_definitions WHERE saga_name = 'x';

-- steps one after the other, by handlers and executors; the result is the next one's context
SELECT event_store.define_saga('h mixed', '{"steps": [{"name": "a", "handler": "handled.note"}, {"name": "b"}, {"name": "c", "handler": "handled.nothing"}, {"name": "d", "handler": "handled.note"}]}');
SELECT event_store.define_saga('h mixed', '{"steps": [{"name": "a", "handler": "handled.note"}, {"name": "b"}, {"name": "c", "handler": "handled.nothing"}, {"name": "d", "handler": "handled.note"}]}');
BEGIN;
SELECT event_store.start_saga('h mixed', 'h m-1', '{"for": "me"}');
SELECT step, claimable_at IS NOT NULL, run_at IS NOT NULL, run_as = current_user FROM event_store.saga_steps WHERE saga_id = 'h m-1';
-- executors are not given it
SELECT count(*) FROM event_store.claim_steps('h mixed', 'executor');
SELECT pg_temp.run();
SELECT pg_temp.run();
SELECT event_store.report_step('h mixed', saga_id, step, 'succeeded', lease, '"by hand"') FROM event_store.claim_steps('h mixed', 'executor');
SELECT event_store.run_saga_handlers(1);
SELECT event_store.run_saga_handlers(), event_store.run_saga_handlers();
COMMIT;
SELECT what FROM handled.done ORDER BY n;
SELECT * FROM pg_temp.log('h mixed', 'h m-1');
SELECT state, context FROM event_store.saga_status WHERE saga_id = 'h m-1';
SELECT count(*) FROM event_store.saga_steps WHERE saga_id = 'h m-1';

-- VS011: it has failed, and is not tried again; what it wrote is undone, and what was done before it by the handlers of compensations
SELECT event_store.define_saga('h back', '{"steps": [{"name": "a", "compensate": true, "handler": "handled.note", "compensation": {"handler": "handled.note"}},
    {"name": "b", "compensate": true, "handler": "handled.note", "compensation": {"handler": null}}, {"name": "c", "handler": "handled.refuse"}]}');
BEGIN;
DELETE FROM handled.done;
SELECT event_store.start_saga('h back', 'h b-1', '{"for": "you"}');
SELECT pg_temp.run();
SELECT event_store.report_step('h back', saga_id, step, 'compensated', lease) FROM event_store.claim_steps('h back', 'executor') WHERE kind = 'compensation';
SELECT pg_temp.run();
COMMIT;
SELECT what FROM handled.done ORDER BY n;
SELECT state, last_error FROM event_store.saga_status WHERE saga_id = 'h b-1';
SELECT * FROM pg_temp.log('h back', 'h b-1') OFFSET 7;

-- what would be an event's failure is tried again, as another attempt, until there are none
SELECT event_store.define_saga('h again', '{"steps": [{"name": "a", "handler": "handled.stumble", "max_attempts": 3, "retry_initial": "1ms"}]}');
SELECT event_store.define_saga('h once', '{"steps": [{"name": "a", "handler": "handled.stumble", "max_attempts": 1, "compensate": true, "compensation": {"handler": "handled.stumble", "max_attempts": 1}}]}');
BEGIN;
DELETE FROM handled.done;
SELECT event_store.start_saga('h again', 'h a-1'), event_store.start_saga('h once', 'h o-1');
SELECT pg_temp.run();
COMMIT;
SELECT what FROM handled.done ORDER BY n;
SELECT * FROM pg_temp.log('h again', 'h a-1');
SELECT * FROM pg_temp.log('h once', 'h o-1');
SELECT saga_id, state, last_error FROM event_store.saga_status WHERE saga_name IN ('h again', 'h once') ORDER BY 1;
-- somebody decides, and it is done
CREATE OR REPLACE FUNCTION handled.stumble(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"mended"'::jsonb $$;
BEGIN;
SELECT event_store.resolve_step('h once', 'h o-1', 'a', 'retry', 'mended');
SELECT pg_temp.run();
COMMIT;
SELECT state FROM event_store.saga_status WHERE saga_id = 'h o-1';

-- what is none of its fault ends the transaction, and counts for nothing
CREATE FUNCTION handled.unlucky(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'not its fault' USING ERRCODE = '40001';
END
$$;
BEGIN;
SELECT event_store.define_saga('h unlucky', '{"steps": [{"name": "a", "handler": "handled.unlucky"}]}'), event_store.start_saga('h unlucky', 'h u-1');
SELECT event_store.run_saga_handlers();
ROLLBACK;

-- the time of the attempt is the handler's; also when it catches its end
CREATE FUNCTION handled.slow(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF attempt = 2 THEN
        RETURN '"in time"';
    END IF;
    INSERT INTO handled.done (what) VALUES ('undone by its end');
    PERFORM pg_sleep(100);
    RETURN NULL;
EXCEPTION WHEN query_canceled THEN
    RETURN '"caught"';
END
$$;
SELECT event_store.define_saga('h slow', '{"steps": [{"name": "a", "handler": "handled.slow", "timeout": "50ms", "retry_initial": "1ms"}]}');
BEGIN;
DELETE FROM handled.done;
SELECT event_store.start_saga('h slow', 'h s-1');
SELECT pg_temp.run();
COMMIT;
SELECT * FROM pg_temp.log('h slow', 'h s-1');
SELECT count(*) FROM handled.done;

-- a handler that is gone fails, attempt by attempt; one that is there again does its work
CREATE FUNCTION handled.comes_and_goes(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '1'::jsonb $$;
SELECT event_store.define_saga('h gone', '{"steps": [{"name": "a", "handler": "handled.comes_and_goes", "max_attempts": 2, "retry_initial": "1ms"}]}');
BEGIN;
SELECT event_store.start_saga('h gone', 'h g-1'), event_store.start_saga('h gone', 'h g-2');
DROP FUNCTION handled.comes_and_goes;
SELECT pg_temp.run();
SELECT * FROM pg_temp.log('h gone', 'h g-1');
ROLLBACK;
BEGIN;
SELECT event_store.start_saga('h gone', 'h g-3');
DROP FUNCTION handled.comes_and_goes;
SELECT event_store.run_saga_handlers();
CREATE FUNCTION handled.comes_and_goes(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '2'::jsonb $$;
SELECT pg_temp.run();
COMMIT;
SELECT state, context, last_error FROM event_store.saga_status WHERE saga_id = 'h g-3';

-- conditions, optional steps, groups, delays and circuits are as with executors
SELECT event_store.define_saga('h all', '{"steps": [{"name": "no", "handler": "handled.note", "when": {"path": "$.x", "exists": true}}, {"name": "may", "handler": "handled.refuse", "optional": true},
    {"name": "g1", "handler": "handled.note", "group": "g"}, {"name": "g2", "handler": "handled.note", "group": "g"}, {"name": "g3", "group": "g"}, {"name": "late", "handler": "handled.note", "delay": "1h"}]}');
BEGIN;
DELETE FROM handled.done;
SELECT event_store.start_saga('h all', 'h all-1');
SELECT event_store.run_saga_handlers();
SELECT event_store.report_step('h all', saga_id, step, 'succeeded', lease, '"by hand"') FROM event_store.claim_steps('h all', 'executor');
SELECT event_store.run_saga_handlers();
SELECT step, run_at > now() + interval '59min' FROM event_store.saga_steps WHERE saga_id = 'h all-1';
SELECT event_store.run_saga_handlers();
-- its row tells when it is time
UPDATE event_store.saga_steps SET run_at = now() WHERE saga_id = 'h all-1';
SELECT event_store.run_saga_handlers();
COMMIT;
SELECT what FROM handled.done ORDER BY n;
SELECT event_store.cancel_saga('h all', 'h all-1', 'end of the test');
SELECT event_type, payload -> 'step' FROM event_store.load_events('saga:h all', 'h all-1') WHERE event_type <> 'StepRequested';

-- what it appends is caused by its claim; it may speak of its own saga
CREATE FUNCTION handled.appends(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event('Handled', saga_id, NULL, 'Happened');
    PERFORM event_store.signal_saga('h talks', saga_id, 'told', '{"n": 1}');
    RETURN NULL;
END
$$;
CREATE FUNCTION handled.cancels(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN to_jsonb(event_store.cancel_saga('h talks', saga_id, 'from within'));
END
$$;
SELECT event_store.define_saga('h talks', '{"steps": [{"name": "a", "handler": "handled.appends"}, {"name": "w", "wait": {"signal": "told"}},
    {"name": "b", "handler": "handled.cancels", "compensate": true, "compensation": {"handler": "handled.nothing"}}, {"name": "c"}]}');
BEGIN;
SELECT event_store.start_saga('h talks', 'h t-1', '{}', 'request-1');
SELECT pg_temp.run();
COMMIT;
SELECT e.saga_id, e.correlation_id, c.event_type, c.payload -> 'step', e.metadata
  FROM event_store.load_events('Handled', 'h t-1') e LEFT JOIN event_store.domain_events c ON c.event_id::text = e.causation_id;
SELECT event, payload - '{version,input}'::text[] FROM pg_temp.log('h talks', 'h t-1');

-- nor does it have others run
CREATE FUNCTION handled.nests(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(event_store.run_saga_handlers()) $$;
BEGIN;
SELECT event_store.define_saga('h nests', '{"steps": [{"name": "a", "handler": "handled.nests"}]}'), event_store.start_saga('h nests', 'h n-1');
SELECT event_store.run_saga_handlers();
ROLLBACK;

-- it runs as its owner, restricted, and only that one has it called; all of a saga belong to one role
CREATE FUNCTION handled.who(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN to_jsonb(concat_ws(' ', current_user, current_setting('search_path'), current_setting('lock_timeout') <> '0'));
END
$$;
CREATE FUNCTION handled.takes_a_role(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    SET ROLE NONE;
    RETURN NULL;
END
$$;
CREATE ROLE regress_saga_owner LOGIN;
GRANT USAGE ON SCHEMA handled TO regress_saga_owner;
ALTER FUNCTION handled.who OWNER TO regress_saga_owner;
SELECT event_store.grant_access('regress_saga_owner', 'admin');
SELECT pg_temp.outcome($$SELECT event_store.define_saga('x', '{"steps": [{"name": "a", "handler": "handled.note"}, {"name": "b", "handler": "handled.who"}]}')$$);
SET ROLE regress_saga_owner;
SELECT pg_temp.outcome($$SELECT event_store.define_saga('x', '{"steps": [{"name": "a", "handler": "handled.note"}]}')$$);
SELECT event_store.define_saga('h whose', '{"steps": [{"name": "a", "handler": "handled.who"}]}');
RESET ROLE;
BEGIN;
SELECT event_store.start_saga('h whose', 'h w-1');
SELECT pg_temp.run();
COMMIT;
SELECT context FROM event_store.saga_status WHERE saga_id = 'h w-1';
-- one that is somebody else's by now is not called
BEGIN;
SELECT event_store.start_saga('h whose', 'h w-2');
ALTER FUNCTION handled.who OWNER TO CURRENT_USER;
SELECT pg_temp.run();
SELECT state, last_error FROM event_store.saga_status WHERE saga_id = 'h w-2';
-- it is when that one says so: a version of its own
SELECT event_store.define_saga('h whose', '{"steps": [{"name": "a", "handler": "handled.who"}]}');
SELECT version, handler_owner = current_user FROM event_store.saga_definitions WHERE saga_name = 'h whose' ORDER BY 1;
ROLLBACK;
ALTER ROLE regress_saga_owner NOLOGIN;
SET ROLE regress_saga_owner;
SELECT pg_temp.outcome($$SELECT event_store.define_saga('h whose', '{"steps": [{"name": "a", "handler": "handled.who"}, {"name": "b"}]}')$$);
RESET ROLE;
BEGIN;
SELECT event_store.define_saga('h role', '{"steps": [{"name": "a", "handler": "handled.takes_a_role"}]}'), event_store.start_saga('h role', 'h r-1');
SELECT event_store.run_saga_handlers();
ROLLBACK;
SELECT pg_temp.outcome('SELECT event_store.run_saga_handlers(0)');

DROP OWNED BY regress_saga_owner;
DROP ROLE regress_saga_owner;
SET client_min_messages = warning;
DROP SCHEMA handled CASCADE;
