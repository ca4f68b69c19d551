-- json_arguments: JSON reaches every jsonb argument in all the ways that drivers
-- send it, what was encoded twice is said to be so, and there is no second form of
-- a function that would make its calls ambiguous
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_store;
SELECT event_store.create_store();
\pset format unaligned
\pset tuples_only on

-- who has such an argument: each is among the calls below
SELECT p.proname, a.name, a.type::regtype
  FROM pg_proc p, unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) a (name, type)
 WHERE p.pronamespace = 'event_store'::regnamespace AND a.type IN ('jsonb'::regtype, 'jsonb[]'::regtype)
   AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal:%'
 ORDER BY p.proname COLLATE "C", p.pronargs, array_position(p.proargnames, a.name);

CREATE TABLE calls (n serial, call text, value text);
INSERT INTO calls (call, value) VALUES
    ($$append_event('Json', 'j', NULL, 'T', %s)$$, '{"a": 1}'),
    ($$append_event('Json', 'j', NULL, 'T', %s, NULL, NULL)$$, '{"a": 1}'),
    ($$append_event('Json', 'j', NULL, 'T', '{}', %s)$$, '{"a": 1}'),
    ($$append_event(aggregate_type => 'Json', aggregate_id => 'j', expected_sequence => NULL, event_type => 'T', payload => %s)$$, '{"a": 1}'),
    ($$append_event(aggregate_type => 'Json', aggregate_id => 'j', expected_sequence => NULL, event_type => 'T', metadata => %s)$$, '{"a": 1}'),
    ($$append_events('Json', 'j', NULL, %s)$$, '[{"event_type": "T"}]'),
    ($$append_events('Json', 'j', NULL, events => %s)$$, '[{"event_type": "T"}]'),
    ($$append_batch(%s)$$, '[{"aggregate_type": "Json", "aggregate_id": "j", "event_type": "T"}]'),
    ($$append_batch(events => %s, on_conflict => 'report')$$, '[{"aggregate_type": "Json", "aggregate_id": "j", "event_type": "T"}]'),
    ($$append_batch(ARRAY['Json'], ARRAY['j'], ARRAY['T'], %s)$$, '{"{\"a\": 1}"}'),
    ($$append_batch(ARRAY['Json'], ARRAY['j'], ARRAY['T'], NULL, metadata => %s)$$, '{"{\"a\": 1}"}'),
    ($$put_view('json', 'j', %s)$$, '{"a": 1}'),
    ($$put_view(view_name => 'json', view_key => 'j', view_data => %s)$$, '{"a": 1}'),
    ($$put_views('json', ARRAY['j'], %s)$$, '{"{\"a\": 1}"}'),
    ($$set_reducer_rules('Ruled', %s)$$, '{"events": {}}'),
    ($$set_reducer_rules('Ruled', rules => %s, reducer_version => NULL)$$, '{"events": {}}'),
    ($$set_upcaster('Ruled', 1, NULL, %s)$$, '[]'),
    ($$set_upcaster('Ruled', 1, rules => %s)$$, '[]'),
    ($$redact_events('{}', 'r', '{$.payload.a}', %s)$$, '{"a": 1}'),
    ($$redact_events('{}', 'r', '{$.payload.a}', replacement => %s)$$, '{"a": 1}'),
    ($$erase_events(%s, 'r')$$, '{"saga_id": "json none"}'),
    ($$erase_events(query => %s, reason => 'r')$$, '{"saga_id": "json none"}'),
    ($$view_keys(NULL, %s)$$, '{"each": "$.payload.tags"}'),
    ($$view_keys(NULL, key => %s)$$, '{"each": "$.payload.tags"}'),
    ($$drop_projection('json p'), event_store.create_view_projection('json p', '{JsonNone}', %s, '{"events": {}}')$$, '"$.payload.customer"'),
    ($$drop_projection('json p'), event_store.create_view_projection(view_name => 'json p', aggregate_types => '{JsonNone}', rules => %s)$$, '{"events": {}}'),
    ($$drop_projection('json p'), event_store.create_view_projection('json p', '{JsonNone}'), event_store.replace_projection('json p', '{JsonNone}', %s, '{"events": {}}')$$, '"$.payload.customer"'),
    ($$drop_projection('json p'), event_store.create_view_projection('json p', '{JsonNone}'), event_store.replace_projection('json p', '{JsonNone}', key => NULL, rules => %s)$$, '{"events": {}}'),
    ($$save_snapshot('Json', 'j', 1, %s)$$, '{"a": 1}'),
    ($$save_snapshot('Json', 'j', 1, state => %s)$$, '{"a": 1}'),
    ($$record_result('json', 'm-1', %s)$$, '{"a": 1}'),
    ($$record_result('json', 'm-1', result => %s)$$, '{"a": 1}'),
    ($$schedule_event('2999-01-01Z', 'Json', 'j', 'T', %s)$$, '{"a": 1}'),
    ($$schedule_event('2999-01-01Z', 'Json', 'j', 'T', metadata => %s)$$, '{"a": 1}'),
    ($$define_saga('json', %s)$$, '{"steps": [{"name": "a", "max_attempts": 100}]}'),
    ($$define_saga('json', definition => %s)$$, '{"steps": [{"name": "a", "max_attempts": 100}]}'),
    ($$start_saga('json', gen_random_uuid()::text, %s)$$, '{"a": 1}'),
    ($$start_saga('json', gen_random_uuid()::text, context => %s)$$, '{"a": 1}'),
    ($$extend_step('json', s.id, 'a', s.lease, '1h', %s) FROM json_step() s$$, '{"a": 1}'),
    ($$extend_step('json', s.id, 'a', s.lease, progress => %s) FROM json_step() s$$, '{"a": 1}'),
    ($$report_step('json', s.id, 'a', 'succeeded', s.lease, %s) FROM json_step() s$$, '{"a": 1}'),
    ($$report_step('json', s.id, 'a', 'succeeded', s.lease, result => %s) FROM json_step() s$$, '{"a": 1}'),
    ($$signal_saga('json', 'j', 's', %s)$$, '{"a": 1}'),
    ($$signal_saga('json', 'j', 's', payload => %s)$$, '{"a": 1}'),
    ($$resolve_step('json', 'j', 'a', 'skip', 'none is stuck: 55000', %s)$$, '{"a": 1}'),
    ($$resolve_step('json', 'j', 'a', 'skip', 'none is stuck: 55000', result => %s)$$, '{"a": 1}');

-- a step of a new saga, claimed
SELECT event_store.define_saga('json', '{"steps": [{"name": "a", "max_attempts": 100}]}'), event_store.start_saga('json', 'j');
CREATE FUNCTION json_step(OUT id text, OUT lease bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.start_saga('json', gen_random_uuid()::text);
    SELECT c.saga_id, c.lease INTO id, lease FROM event_store.claim_steps('json', 'e') c;
END
$$;

CREATE TABLE ways (n serial, way text, argument text);
INSERT INTO ways (way, argument) VALUES
    ('literal', '%1$L'), ('NULL', 'NULL'), ('jsonb', '%1$L::%2$s'), ('NULL::jsonb', 'NULL::%2$s'),
    ('text cast', '%1$L::text::%2$s'), ('json cast', '%1$L::%3$s::%2$s'),
    ('json', '%1$L::%3$s'), ('text', '%1$L::text'), ('varchar', '%1$L::varchar');

-- Runs a call, or only plans it; returns ok or the SQLSTATE.
CREATE FUNCTION outcome(call text, value text, argument text, verb text DEFAULT '') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    type text := CASE WHEN value LIKE '{"{%' THEN 'jsonb[]' ELSE 'jsonb' END;
BEGIN
    EXECUTE verb || ' SELECT event_store.' || format(call, format(argument, value, type, replace(type, 'jsonb', 'json')));
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;

SELECT last_sequence FROM event_store.append_event('Json', 'j', 0, 'T');
SELECT event_store.process_once('json', 'm-1');
-- text and json have no implicit cast to jsonb: 42883
SELECT w.way, string_agg(outcome(c.call, c.value, w.argument), ' ' ORDER BY c.n)
  FROM ways w, calls c GROUP BY w.n, w.way ORDER BY w.n;

-- a parameter whose type the driver leaves open is jsonb
CREATE FUNCTION types_of(call text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'PREPARE json_call AS SELECT event_store.' || format(call, '$1');
    EXECUTE 'EXECUTE json_call (NULL)';
    RETURN (SELECT parameter_types[1] FROM pg_prepared_statements WHERE name = 'json_call');
EXCEPTION WHEN OTHERS THEN
    RETURN COALESCE((SELECT parameter_types[1]::text FROM pg_prepared_statements WHERE name = 'json_call'), SQLSTATE);
END
$$;
CREATE FUNCTION forget() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DEALLOCATE json_call; EXCEPTION WHEN OTHERS THEN NULL; END $$;
SELECT string_agg(types, ' ' ORDER BY n)
  FROM calls c, LATERAL (SELECT forget(), types_of(c.call) AS types) t;

-- Makes a second form of every function, with another type in place of jsonb.
CREATE FUNCTION overload(other text) RETURNS void
LANGUAGE plpgsql SET check_function_bodies = off AS $$
DECLARE
    p record;
BEGIN
    FOR p IN SELECT DISTINCT proname, pg_get_function_arguments(oid) AS arguments, pg_get_function_result(oid) AS result
               FROM pg_proc f
              WHERE f.pronamespace = 'event_store'::regnamespace
                AND f.proargtypes::oid[] && ARRAY['jsonb'::regtype, 'jsonb[]'::regtype]::oid[]
                AND obj_description(f.oid, 'pg_proc') NOT LIKE 'Internal:%'
    LOOP
        EXECUTE format('CREATE FUNCTION event_store.%I(%s) RETURNS %s LANGUAGE sql AS %L',
                       p.proname, replace(p.arguments, 'jsonb', other), p.result, 'SELECT 1');
    END LOOP;
END
$$;
-- with a form for json, nothing is left of the literal: 42725, it is not unique
BEGIN;
SELECT overload('json');
SELECT w.way, string_agg(outcome(c.call, c.value, w.argument, 'EXPLAIN'), ' ' ORDER BY c.n)
  FROM ways w, calls c WHERE w.way IN ('literal', 'NULL', 'jsonb') GROUP BY w.n, w.way ORDER BY w.n;
SELECT string_agg(types, ' ' ORDER BY n)
  FROM calls c, LATERAL (SELECT forget(), types_of(c.call) AS types) t;
ROLLBACK;
-- with a form for text, drivers that ask for the types of parameters are told that they are
-- text, and send no object; calls that leave all JSON out are not unique
BEGIN;
SELECT overload('text');
SELECT string_agg(types, ' ' ORDER BY n)
  FROM calls c, LATERAL (SELECT forget(), types_of(c.call) AS types) t;
SELECT outcome($$append_event('Json', 'j', NULL, 'T')$$, '', '', 'EXPLAIN');
ROLLBACK;

-- encoded twice
SELECT event_store.append_events('Json', 'twice', 0, to_jsonb('[{"event_type": "T"}]'::text));
SELECT event_store.append_events('Json', 'twice', 0, '["{}"]');
SELECT event_store.append_events('Json', 'twice', 0, '[{"event_type": "T"}, {"event_type": "T", "metadata": "{\"a\": 1}"}]');
SELECT event_store.append_batch(to_jsonb('[{"aggregate_type": "Json", "aggregate_id": "twice", "event_type": "T"}]'::text));
SELECT event_store.append_batch(ARRAY['Json'], ARRAY['twice'], ARRAY['T'], NULL, metadata => ARRAY[to_jsonb('{}'::text)]);
SELECT event_store.append_event('Json', 'twice', 0, 'T', metadata => to_jsonb('{"a": 1}'::text));
SELECT event_store.set_reducer_rules('Ruled', to_jsonb('{"events": {}}'::text));
-- no hint for what is none, and a string where one may be meant
SELECT event_store.append_events('Json', 'twice', 0, '5');
SELECT event_store.append_events('Json', 'twice', 0, '[5]');
SELECT last_sequence FROM event_store.append_event('Json', 'once', 0, 'T', to_jsonb('{"a": 1}'::text), '"a note"');
SELECT payload, metadata FROM event_store.load_events('Json', 'once');

-- f() in FROM is called once; (f()).* for each of its columns: six events
SELECT count(*) FROM (SELECT (event_store.append_event('Json', 'star', NULL, 'T')).* OFFSET 0) s;
SELECT event_store.aggregate_sequence('Json', 'star');
SELECT a.last_sequence FROM event_store.append_event('Json', 'star', 6, 'T') a;

SELECT event_store.drop_projection('json p');
SELECT event_store.cancel_scheduled_events('Json', 'j');
SELECT event_store.drop_upcaster('Ruled', 1);
DELETE FROM event_store.processed_messages WHERE consumer = 'json';
DELETE FROM event_store.sagas;
DELETE FROM event_store.saga_steps;
DELETE FROM event_store.saga_definitions;
DROP FUNCTION json_step();
DROP TABLE calls, ways;
DROP FUNCTION outcome(text, text, text, text), types_of(text), forget(), overload(text);
