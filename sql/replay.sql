-- replay: the built-in reducer, reducers, time travel, snapshots
SELECT event_store.create_store();
DELETE FROM event_store.reducers;

-- what a statement ends with: its SQLSTATE and message, or "ok"
CREATE FUNCTION outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN sqlstate || ' ' || sqlerrm || CASE hint WHEN '' THEN '' ELSE ' (' || hint || ')' END;
END
$$;

--
-- The built-in reducer is a JSON merge patch (RFC 7396).  The appendix of the
-- RFC: the state comes from a snapshot, so that it can hold a null member, and
-- shows that snapshots are used; then without one, both as events.
--
CREATE FUNCTION merged(state jsonb, patch jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    id text := 'm-' || (SELECT count(DISTINCT aggregate_id) FROM event_store.domain_events
                         WHERE aggregate_type = 'Merge');
BEGIN
    PERFORM event_store.append_event('Merge', id, 0, 'Made', '{}');
    ASSERT event_store.take_snapshot('Merge', id);
    UPDATE event_store.snapshots s SET state = merged.state
     WHERE s.aggregate_type = 'Merge' AND s.aggregate_id = id;
    PERFORM event_store.append_event('Merge', id, 1, 'Patched', patch);
    RETURN (event_store.replay_aggregate('Merge', id)).state;
END
$$;

CREATE TABLE examples (n int, state jsonb, patch jsonb, result jsonb);
INSERT INTO examples VALUES
    ( 1, '{"a":"b"}',           '{"a":"c"}',                    '{"a":"c"}'),
    ( 2, '{"a":"b"}',           '{"b":"c"}',                    '{"a":"b","b":"c"}'),
    ( 3, '{"a":"b"}',           '{"a":null}',                   '{}'),
    ( 4, '{"a":"b","b":"c"}',   '{"a":null}',                   '{"b":"c"}'),
    ( 5, '{"a":["b"]}',         '{"a":"c"}',                    '{"a":"c"}'),
    ( 6, '{"a":"c"}',           '{"a":["b"]}',                  '{"a":["b"]}'),
    ( 7, '{"a":{"b":"c"}}',     '{"a":{"b":"d","c":null}}',     '{"a":{"b":"d"}}'),
    ( 8, '{"a":[{"b":"c"}]}',   '{"a":[1]}',                    '{"a":[1]}'),
    ( 9, '["a","b"]',           '["c","d"]',                    '["c","d"]'),
    (10, '{"a":"b"}',           '["c"]',                        '["c"]'),
    (11, '{"a":"foo"}',         'null',                         'null'),
    (12, '{"a":"foo"}',         '"bar"',                        '"bar"'),
    (13, '{"e":null}',          '{"a":1}',                      '{"e":null,"a":1}'),
    (14, '[1,2]',               '{"a":"b","c":null}',           '{"a":"b"}'),
    (15, '{}',                  '{"a":{"bb":{"ccc":null}}}',    '{"a":{"bb":{}}}'),
    -- and what the appendix leaves out
    (16, NULL,                  '{"a":null,"b":{"c":null}}',    '{"b":{}}'),
    (17, NULL,                  '[{"a":null}]',                 '[{"a":null}]'),
    (18, 'null',                '{"a":1}',                      '{"a":1}'),
    (19, '7',                   'true',                         'true'),
    (20, '{"a":{"b":{"c":1}}}', '{"a":{"b":null}}',             '{"a":{}}'),
    (21, '{"a":{"b":{"c":1}}}', '{"a":{"b":{"d":2}}}',          '{"a":{"b":{"c":1,"d":2}}}'),
    (22, '{"a":{"b":1}}',       '{"a":[{"b":null}]}',           '{"a":[{"b":null}]}'),
    (23, '{"a":[1,2]}',         '{"a":{"b":null,"c":1}}',       '{"a":{"c":1}}'),
    (24, '{"":1,"é":"ß"}',      '{"":null,"é":{"":"\n\""}}',    '{"é":{"":"\n\""}}'),
    (25, '{"n":1.10}',          '{"m":-12345678901234567890.5,"t":true,"f":false}',
                                '{"n":1.10,"m":-12345678901234567890.5,"t":true,"f":false}'),
    (26, '{"x":null,"y":[null,{"z":null}]}', '{}',              '{"x":null,"y":[null,{"z":null}]}');
SELECT n, merged(state, patch) AS merged, result FROM examples
 WHERE merged(state, patch)::text IS DISTINCT FROM result::text;
SELECT n, merged(state, patch) FROM examples ORDER BY n;

-- many members, so that tables grow; half of them removed again
SELECT max(a.last_sequence)
  FROM generate_series(1, 300) i,
       event_store.append_event('Merge', 'many', NULL, 'Put', jsonb_build_object('k' || i, i)) a;
SELECT last_sequence
  FROM event_store.append_event('Merge', 'many', 300, 'Removed',
                                (SELECT jsonb_object_agg('k' || i, NULL) FROM generate_series(1, 300, 2) i));
SELECT state = (SELECT jsonb_object_agg('k' || i, i) FROM generate_series(2, 300, 2) i) AS right, sequence
  FROM event_store.replay_aggregate('Merge', 'many');

--
-- Time travel
--
SELECT * FROM event_store.replay_aggregate('Order', 'r-none');
SELECT first_sequence, last_sequence
  FROM event_store.append_event('Order', 'r-1', 0, 'OrderPlaced',
                                '{"total": 10, "lines": [1], "customer": {"name": "Ada", "city": "Ulm"}}');
SELECT last_sequence
  FROM event_store.append_event('Order', 'r-1', 1, 'LineAdded', '{"total": 30, "lines": [1, 2]}');
SELECT last_sequence
  FROM event_store.append_event('Order', 'r-1', 2, 'Scanned', payload_bytes => '\x00ff');
SELECT last_sequence
  FROM event_store.append_event('Order', 'r-1', 3, 'CustomerMoved', '{"customer": {"city": null, "zip": "89073"}}');
SELECT last_sequence
  FROM event_store.append_event('Order', 'r-1', 4, 'OrderPaid', '{"paid": true}');
SELECT as_of, r.* FROM generate_series(0, 7) as_of,
       event_store.replay_aggregate('Order', 'r-1', as_of) r ORDER BY as_of;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', 9223372036854775807);
-- by time: the last event recorded at or before it
SELECT e.sequence,
       r.sequence = (SELECT max(sequence) FROM event_store.domain_events d
                      WHERE d.aggregate_type = 'Order' AND d.aggregate_id = 'r-1'
                        AND d.recorded_at <= e.recorded_at) AS right_sequence,
       r.state = (event_store.replay_aggregate('Order', 'r-1', r.sequence)).state AS same_state
  FROM event_store.load_events('Order', 'r-1') e,
       event_store.replay_aggregate('Order', 'r-1', as_of_time => e.recorded_at) r ORDER BY 1;
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1', as_of_time => '-infinity');
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1', as_of_time => 'infinity');
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1', as_of_time => '2000-01-01');
-- both bound
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1', 2, 'infinity');
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1', 2, '2000-01-01');

--
-- Staged events count, each once; their own transaction sees them
--
BEGIN;
SELECT last_sequence, durable FROM event_store.append_event('Order', 'r-1', 5, 'OrderShipped',
                                                             '{"shipped": true}', durability => 'staged');
SELECT last_sequence, durable FROM event_store.append_event('Order', 'r-1', 6, 'OrderReturned',
                                                             '{"shipped": null}', durability => 'staged');
SELECT as_of, r.* FROM generate_series(5, 8) as_of,
       event_store.replay_aggregate('Order', 'r-1', as_of) r ORDER BY as_of;
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1');
SELECT r.sequence = max(e.sequence) FROM event_store.load_events('Order', 'r-1') e,
       event_store.replay_aggregate('Order', 'r-1', as_of_time => 'infinity') r GROUP BY r.sequence;
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1',
    as_of_time => (SELECT max(recorded_at) FROM event_store.domain_events
                    WHERE aggregate_type = 'Order' AND aggregate_id = 'r-1'));
-- an aggregate that is staged only
SELECT last_sequence FROM event_store.append_event('Order', 'r-staged', 0, 'OrderPlaced', '{"total": 1}',
                                                   durability => 'staged');
SELECT * FROM event_store.replay_aggregate('Order', 'r-staged');
-- snapshots never see them
SELECT event_store.take_snapshot('Order', 'r-staged');
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT source, sequence, state, state_bytes, reducer_version FROM event_store.load_snapshot('Order', 'r-1');
SELECT outcome($$SELECT event_store.save_snapshot('Order', 'r-1', 6, '{}')$$);
-- and replay goes on from them
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
ROLLBACK;
SELECT * FROM event_store.replay_aggregate('Order', 'r-staged');
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1');
SELECT count(*) FROM event_store.load_snapshot('Order', 'r-1');

--
-- Reducers
--
CREATE FUNCTION order_total(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql
    RETURN jsonb_build_object('events', coalesce((state ->> 'events')::int, 0) + 1,
                              'total', coalesce((event).payload -> 'total', state -> 'total'),
                              'last', (event).event_type, 'sequence', (event).sequence);
CREATE FUNCTION order_history(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql AS $$
BEGIN
    IF event.event_type = 'Scanned' THEN
        RETURN state;
    END IF;
    RETURN coalesce(state, '[]') || jsonb_build_array(event.event_type);
END
$$;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', reducer => 'order_total');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', 3, reducer => 'order_history');
-- NULL registers none, and changes nothing
SELECT event_store.set_reducer('Order', NULL);
SELECT aggregate_type, reducer, reducer_version FROM event_store.reducers;
SELECT event_store.set_reducer('Order', 'order_total');
SELECT aggregate_type, reducer, reducer_version FROM event_store.reducers;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
SELECT as_of, r.* FROM generate_series(0, 2) as_of,
       event_store.replay_aggregate('Order', 'r-1', as_of) r ORDER BY as_of;
-- the same again is the same version; another one is the next
SELECT event_store.set_reducer('Order', 'public.order_total');
SELECT reducer, reducer_version FROM event_store.reducers;
SELECT event_store.set_reducer('Order', 'order_history');
SELECT reducer, reducer_version FROM event_store.reducers;
SELECT event_store.set_reducer('Order', 'order_history', 2);
SELECT event_store.set_reducer('Order', 'order_history', 5);
SELECT reducer, reducer_version FROM event_store.reducers;
SELECT outcome($$SELECT event_store.set_reducer('Order', 'order_history', 4)$$);
SELECT outcome($$SELECT event_store.set_reducer('Order', 'order_total', 5)$$);
SELECT outcome($$SELECT event_store.set_reducer('Order', NULL, 5)$$);
SELECT event_store.set_reducer('Order', 'order_total', 2147483647);
SELECT outcome($$SELECT event_store.set_reducer('Order', NULL)$$);
DELETE FROM event_store.reducers;
-- rolled back
BEGIN;
SELECT event_store.set_reducer('Order', 'order_history');
SELECT state FROM event_store.replay_aggregate('Order', 'r-1');
SAVEPOINT s;
SELECT event_store.set_reducer('Order', NULL);
SELECT reducer, reducer_version FROM event_store.reducers;
ROLLBACK TO s;
SELECT reducer, reducer_version FROM event_store.reducers;
ROLLBACK;
SELECT count(*) FROM event_store.reducers;

-- NULL is a state like any other: deleted, and begun anew
CREATE FUNCTION deleting(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql
    RETURN CASE WHEN (event).event_type = 'LineAdded' THEN NULL
                ELSE coalesce(state, '[]') || to_jsonb((event).sequence) END;
SELECT as_of, r.* FROM generate_series(0, 5) as_of,
       event_store.replay_aggregate('Order', 'r-1', as_of, reducer => 'deleting') r ORDER BY as_of;

-- states large enough to be toasted and compressed, passed on unchanged
CREATE FUNCTION growing(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql
    RETURN CASE WHEN state IS NULL THEN jsonb_build_object('a', repeat('x', 100000)) ELSE state END;
SELECT length(state ->> 'a'), sequence FROM event_store.replay_aggregate('Order', 'r-1', reducer => 'growing');

-- what a reducer raises says where it was
CREATE FUNCTION failing(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql AS $$
BEGIN
    IF event.sequence = 2 THEN
        RAISE EXCEPTION 'no lines today' USING ERRCODE = 'XX123';
    END IF;
    RETURN event.payload;
END
$$;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', reducer => 'failing');
\echo :LAST_ERROR_SQLSTATE
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1', 1, reducer => 'failing');
SELECT event_store.set_reducer('Order', 'failing');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
SELECT event_store.take_snapshot('Order', 'r-1');
-- caught by a block, the session goes on as before
SELECT outcome($$SELECT event_store.replay_aggregate('Order', 'r-1')$$), current_user = session_user AS same_user;
DELETE FROM event_store.reducers;

-- a reducer that replays, and one that uses subtransactions
CREATE FUNCTION nesting(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM 1 / (event.sequence - 2);
    EXCEPTION WHEN division_by_zero THEN
        RETURN coalesce(state, '{}') || '{"caught": true}';
    END;
    RETURN coalesce(state, '{}') || jsonb_build_object(event.sequence,
        (SELECT r.sequence FROM event_store.replay_aggregate(event.aggregate_type, event.aggregate_id,
                                                             event.sequence - 1) r));
END
$$;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', reducer => 'nesting');

-- functions that cannot be reducers
CREATE FUNCTION not_json(state jsonb, event event_store.event) RETURNS text LANGUAGE sql RETURN 'x';
CREATE FUNCTION no_event(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql RETURN event;
CREATE FUNCTION one_argument(state jsonb) RETURNS jsonb LANGUAGE sql RETURN state;
CREATE FUNCTION strict_one(state jsonb, event event_store.event) RETURNS jsonb STRICT LANGUAGE sql RETURN state;
CREATE FUNCTION many_states(state jsonb, event event_store.event) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION pg_temp.passing(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE sql RETURN state;
SELECT f, outcome(format('SELECT event_store.set_reducer(%L, %L)', 'Order', f)) AS set_reducer,
       outcome(format('SELECT event_store.replay_aggregate(%L, %L, reducer => %L)', 'Order', 'r-1', f)) AS replay
  FROM unnest('{not_json,no_event,one_argument,strict_one,many_states,jsonb_agg,no_such_function}'::text[]) f;
SELECT event_store.set_reducer('Order', 'strict_one');
SELECT event_store.set_reducer('Order', 0::regproc);
SELECT regexp_replace(outcome($$SELECT event_store.set_reducer('Order', 'pg_temp.passing')$$), 'pg_temp_\d+', 'pg_temp_n');
SELECT count(*) FROM event_store.reducers;

-- a registered reducer that is gone says so, and may come back
CREATE FUNCTION "Odd name"(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql RETURN to_jsonb((event).sequence);
SELECT event_store.set_reducer('Order', '"Odd name"');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
DROP FUNCTION "Odd name";
SELECT outcome($$SELECT event_store.replay_aggregate('Order', 'r-1')$$);
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1', reducer => 'order_total');
CREATE FUNCTION "Odd name"(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql RETURN to_jsonb(-(event).sequence);
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
DROP FUNCTION "Odd name";
DELETE FROM event_store.reducers;

--
-- Whose rights: the owner's for a registered reducer, the caller's for a given one
--
CREATE ROLE regress_replay_reader;
CREATE ROLE regress_replay_author;
GRANT USAGE ON SCHEMA event_store TO regress_replay_reader, regress_replay_author;
GRANT EXECUTE ON FUNCTION event_store.replay_aggregate, event_store.load_snapshot, event_store.save_snapshot
   TO regress_replay_reader;
GRANT EXECUTE ON FUNCTION event_store.set_reducer TO regress_replay_author;
CREATE SCHEMA regress_replay_schema AUTHORIZATION regress_replay_author;
GRANT USAGE ON SCHEMA regress_replay_schema TO regress_replay_reader;
SET ROLE regress_replay_author;
CREATE FUNCTION regress_replay_schema.who(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql
    AS $$ SELECT to_jsonb(ARRAY[current_user, current_setting('search_path')]) $$;
CREATE FUNCTION regress_replay_schema.own_path(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql SET search_path = regress_replay_schema
    AS $$ SELECT pg_catalog.to_jsonb(ARRAY[current_user, pg_catalog.current_setting('search_path')]) $$;
CREATE FUNCTION regress_replay_schema.become(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN '{}'; END $$;
CREATE FUNCTION regress_replay_schema.leave_table(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE left_behind (); RETURN '{}'; END $$;
CREATE FUNCTION regress_replay_schema.leave_setting(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql AS $$ SELECT to_jsonb(set_config('application_name', 'left behind', false)) $$;
CREATE FUNCTION regress_replay_schema.read_log(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql AS $$ SELECT to_jsonb(count(*)) FROM event_store.domain_events $$;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA regress_replay_schema FROM PUBLIC;
SELECT event_store.set_reducer('Order', 'regress_replay_schema.who');
-- only one's own
SELECT outcome($$SELECT event_store.set_reducer('Order', 'public.order_total')$$);
-- EXECUTE on one function is no right to another, nor to the tables
SELECT outcome($$SELECT event_store.replay_aggregate('Order', 'r-1')$$);
SELECT outcome($$SELECT event_store.take_snapshot('Order', 'r-1')$$);
SET ROLE regress_replay_reader;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
SELECT outcome($$SELECT event_store.replay_aggregate('Order', 'r-1', reducer => 'regress_replay_schema.who')$$);
SELECT outcome($$SELECT event_store.set_reducer('Order', NULL)$$);
SELECT outcome('SELECT 1 FROM event_store.snapshots');
SELECT event_store.save_snapshot('Order', 'r-1', 1, '{"by": "reader"}');
SELECT sequence, state FROM event_store.load_snapshot('Order', 'r-1');
RESET ROLE;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA regress_replay_schema TO regress_replay_reader;
SET ROLE regress_replay_reader;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', reducer => 'regress_replay_schema.who');
-- a given reducer has the caller's rights, which do not include the tables or a role
SELECT outcome($$SELECT event_store.replay_aggregate('Order', 'r-1', reducer => 'regress_replay_schema.read_log')$$);
SELECT outcome($$SELECT event_store.replay_aggregate('Order', 'r-1', reducer => 'regress_replay_schema.become')$$);
RESET ROLE;
SELECT f, outcome(format('SELECT event_store.set_reducer(%L, %L)', 'Order', 'regress_replay_schema.' || f)),
       outcome($$SELECT event_store.replay_aggregate('Order', 'r-1')$$)
  FROM unnest('{become,leave_table,read_log}'::text[]) f;
SELECT event_store.set_reducer('Order', 'regress_replay_schema.own_path');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', 1);
-- nor do a caller's operators run as somebody else
SET ROLE regress_replay_author;
CREATE FUNCTION regress_replay_schema.trap(text, text) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped %', current_user; END $$;
CREATE FUNCTION regress_replay_schema.trap(bigint, bigint) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped %', current_user; END $$;
CREATE OPERATOR regress_replay_schema.= (FUNCTION = regress_replay_schema.trap, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR regress_replay_schema.<= (FUNCTION = regress_replay_schema.trap, LEFTARG = bigint, RIGHTARG = bigint);
CREATE FUNCTION regress_replay_schema.compare(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql AS $$ BEGIN RETURN to_jsonb(event.event_type = 'OrderPlaced' AND event.sequence <= 1::bigint); END $$;
GRANT EXECUTE ON FUNCTION regress_replay_schema.compare TO regress_replay_reader;
SELECT event_store.set_reducer('Order', 'regress_replay_schema.compare');
RESET ROLE;
\c -
SET search_path = regress_replay_schema, pg_catalog;
SET ROLE regress_replay_reader;
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', 1);
SELECT sequence FROM event_store.load_snapshot('Order', 'r-1');
SELECT event_store.save_snapshot('Order', 'r-1', 2, '{}');
SELECT event_store.replay_aggregate('Order', 'r-1', reducer => 'compare');
RESET ROLE;
RESET search_path;
SELECT event_store.set_reducer('Order', 'regress_replay_schema.leave_setting');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', 1);
SELECT current_setting('application_name') = 'left behind' AS left_behind;
DELETE FROM event_store.reducers;
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Order';

--
-- The owner of a registered function is remembered: another's of its name is not run
--
SET ROLE regress_replay_author;
SELECT event_store.set_reducer('Order', 'regress_replay_schema.who');
RESET ROLE;
SELECT reducer, reducer_owner, reducer_version FROM event_store.reducers;
ALTER SCHEMA regress_replay_schema OWNER TO regress_replay_reader;
DROP FUNCTION regress_replay_schema.who;
GRANT CREATE ON SCHEMA regress_replay_schema TO regress_replay_author;
SET ROLE regress_replay_reader;
CREATE FUNCTION regress_replay_schema.who(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql AS $$ SELECT to_jsonb(current_user) $$;
RESET ROLE;
SELECT outcome($$SELECT event_store.replay_aggregate('Order', 'r-1', 1)$$);
SELECT outcome($$SELECT event_store.take_snapshot('Order', 'r-1')$$);
-- registered again it is another reducer
SELECT event_store.set_reducer('Order', 'regress_replay_schema.who');
SELECT reducer, reducer_owner, reducer_version FROM event_store.reducers;
SELECT event_store.replay_aggregate('Order', 'r-1', 1);
-- a store that lost the owner's column gets it back
ALTER TABLE event_store.reducers DROP COLUMN reducer_owner;
SELECT event_store.replay_aggregate('Order', 'r-1', 1);
SELECT event_store.create_store();
SELECT reducer, reducer_owner, reducer_version FROM event_store.reducers;
SELECT event_store.replay_aggregate('Order', 'r-1', 1);
SELECT event_store.set_reducer('Order', 'regress_replay_schema.who');
SELECT reducer, reducer_owner, reducer_version FROM event_store.reducers;
SELECT event_store.set_reducer('Order', NULL);
SELECT reducer, reducer_owner, reducer_version FROM event_store.reducers;
DELETE FROM event_store.reducers;

--
-- Snapshots of applications: forward only, not beyond the head, one kind of state
--
SELECT count(*) FROM event_store.load_snapshot('Order', 'r-1');
SELECT event_store.save_snapshot('Order', 'r-1', 3, state => '{"v": 3}');
SELECT event_store.save_snapshot('Order', 'r-1', 2, state => '{"v": 2}');
SELECT source, sequence, state, state_bytes, reducer_version, created_at <= clock_timestamp() AS created
  FROM event_store.load_snapshot('Order', 'r-1');
SELECT event_store.save_snapshot('Order', 'r-1', 3, state_bytes => '\xc0ffee');
SELECT sequence, state, state_bytes FROM event_store.load_snapshot('Order', 'r-1');
SELECT event_store.save_snapshot('Order', 'r-1', 5, state => 'null');
SELECT sequence, state, state_bytes FROM event_store.load_snapshot('Order', 'r-1');
-- replay does not use it
SELECT state -> 'total' AS total, sequence FROM event_store.replay_aggregate('Order', 'r-1');
SELECT outcome(format('SELECT event_store.save_snapshot(%s)', arguments))
  FROM unnest(ARRAY[
    $$'Order', 'r-1', 6, '{}'$$,
    $$'Order', 'r-none', 1, '{}'$$,
    $$'Order', 'r-1', 0, '{}'$$,
    $$'Order', 'r-1', -1, '{}'$$,
    $$'Order', 'r-1', NULL, '{}'$$,
    $$'Order', 'r-1', 1$$,
    $$'Order', 'r-1', 1, '{}', '\x00'$$,
    $$NULL, 'r-1', 1, '{}'$$,
    $$'Order', NULL, 1, '{}'$$,
    $$'', 'r-1', 1, '{}'$$,
    $$'Order', '', 1, '{}'$$,
    $$repeat('x', 256), 'r-1', 1, '{}'$$,
    $$'Order', repeat('x', 256), 1, '{}'$$]) arguments;
SELECT sequence, state FROM event_store.load_snapshot('Order', 'r-1');
-- deleting it: the server's stays, and a lower sequence is taken again
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT event_store.delete_snapshot('Order', 'r-1'), event_store.delete_snapshot('Order', 'r-none');
SELECT event_store.delete_snapshot('Order', 'r-1');
SELECT source, sequence FROM event_store.load_snapshot('Order', 'r-1');
SELECT event_store.save_snapshot('Order', 'r-1', 2, state => '{"v": 2}');
SELECT outcome($$SELECT event_store.delete_snapshot('Order', NULL)$$);
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Order';
-- rolled back
BEGIN;
SELECT event_store.save_snapshot('Order', 'r-1', 1, '{}');
SAVEPOINT s;
SELECT event_store.save_snapshot('Order', 'r-1', 2, '{}');
SELECT event_store.take_snapshot('Order', 'r-1');
ROLLBACK TO s;
SELECT source, sequence FROM event_store.load_snapshot('Order', 'r-1');
ROLLBACK;
SELECT count(*) FROM event_store.load_snapshot('Order', 'r-1');
-- a transaction that may not write
BEGIN READ ONLY;
SELECT sequence FROM event_store.replay_aggregate('Order', 'r-1');
SELECT outcome($$SELECT event_store.save_snapshot('Order', 'r-1', 1, '{}')$$);
SELECT outcome($$SELECT event_store.delete_snapshot('Order', 'r-1')$$);
SELECT outcome($$SELECT event_store.take_snapshot('Order', 'r-1')$$);
SELECT outcome($$SELECT event_store.set_reducer('Order', NULL)$$);
COMMIT;

--
-- The server's snapshots: replay starts from them, as a tampered state shows
--
SELECT event_store.take_snapshot('Order', 'r-none');
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT event_store.take_snapshot('Order', 'r-1') AS again;
SELECT source, sequence, state, reducer_version FROM event_store.load_snapshot('Order', 'r-1');
SELECT last_sequence FROM event_store.append_event('Order', 'r-1', 5, 'OrderShipped', '{"shipped": true}');
UPDATE event_store.snapshots SET state = '{"from": "snapshot"}'
 WHERE aggregate_type = 'Order' AND aggregate_id = 'r-1' AND source = 'server';
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', 5);
-- not where the bound lies before it
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', 4);
SELECT r.state ? 'from' AS from_snapshot, r.sequence >= e.sequence AS reached
  FROM event_store.load_events('Order', 'r-1', 4, 5) e,
       event_store.replay_aggregate('Order', 'r-1', as_of_time => e.recorded_at) r;
SELECT r.state ? 'from' AS from_snapshot, r.sequence < e.sequence AS before
  FROM event_store.load_events('Order', 'r-1', 4, 5) e,
       event_store.replay_aggregate('Order', 'r-1', as_of_time => e.recorded_at - interval '1 microsecond') r;
-- nor with a reducer given in the call
SELECT * FROM event_store.replay_aggregate('Order', 'r-1', reducer => 'order_total');
-- the next one goes on from it
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT sequence, state FROM event_store.load_snapshot('Order', 'r-1');
-- the newest over both sources, the application's of equal ones
SELECT event_store.save_snapshot('Order', 'r-1', 5, '{"client": 5}');
SELECT source, sequence FROM event_store.load_snapshot('Order', 'r-1');
SELECT event_store.save_snapshot('Order', 'r-1', 6, '{"client": 6}');
SELECT source, sequence FROM event_store.load_snapshot('Order', 'r-1');
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Order' AND source = 'client';
-- another version of the reducer: never used, never loaded
SELECT event_store.set_reducer('Order', 'order_total');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
SELECT count(*) FROM event_store.load_snapshot('Order', 'r-1');
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT sequence, state, reducer_version FROM event_store.load_snapshot('Order', 'r-1');
UPDATE event_store.snapshots SET state = '{"events": 100}'
 WHERE aggregate_type = 'Order' AND aggregate_id = 'r-1' AND source = 'server';
SELECT last_sequence FROM event_store.append_event('Order', 'r-1', 6, 'OrderReturned', '{"total": 0}');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
SELECT event_store.set_reducer('Order', 'order_total', 2);
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');
-- one of a later version is never replaced by one that comes late, and replaces what stands further on
UPDATE event_store.snapshots SET reducer_version = 3, sequence = 6 WHERE aggregate_type = 'Order' AND aggregate_id = 'r-1';
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT sequence, reducer_version FROM event_store.snapshots WHERE aggregate_type = 'Order' AND aggregate_id = 'r-1';
UPDATE event_store.snapshots SET reducer_version = 1, sequence = 700 WHERE aggregate_type = 'Order' AND aggregate_id = 'r-1';
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT sequence, reducer_version FROM event_store.snapshots WHERE aggregate_type = 'Order' AND aggregate_id = 'r-1';
-- back to the built-in one is a version of its own
SELECT event_store.set_reducer('Order', NULL);
SELECT reducer, reducer_version FROM event_store.reducers;
SELECT state ? 'from' AS from_snapshot, sequence FROM event_store.replay_aggregate('Order', 'r-1');
-- a snapshot of no state
SELECT event_store.set_reducer('Order', 'deleting');
SELECT event_store.save_snapshot('Order', 'r-1', 7, '{"client": 7}');
SELECT last_sequence FROM event_store.append_event('Order', 'r-1', 7, 'LineAdded', '{}');
SELECT event_store.take_snapshot('Order', 'r-1');
SELECT source, sequence, state FROM event_store.load_snapshot('Order', 'r-1');
SELECT * FROM event_store.replay_aggregate('Order', 'r-1');

--
-- Bad input
--
SELECT outcome(format('SELECT event_store.replay_aggregate(%s)', arguments))
  FROM unnest(ARRAY[
    $$NULL, 'r-1'$$,
    $$'Order', NULL$$,
    $$'', 'r-1'$$,
    $$'Order', ''$$,
    $$repeat('x', 256), 'r-1'$$,
    $$'Order', repeat('x', 256)$$,
    $$'Order', 'r-1', -1$$,
    $$'Order', 'r-1', as_of_time => 'yesteryear'$$]) arguments;
SELECT outcome(format('SELECT event_store.set_reducer(%s)', arguments))
  FROM unnest(ARRAY[
    $$NULL, 'order_total'$$,
    $$'', 'order_total'$$,
    $$repeat('x', 256), 'order_total'$$,
    $$'Order', 'order_total', 0$$,
    $$'Order', 'order_total', -1$$]) arguments;
SELECT outcome($$SELECT event_store.load_snapshot(NULL, 'r-1')$$);
SELECT outcome($$SELECT event_store.load_snapshot('Order', NULL)$$);
SELECT outcome($$SELECT event_store.take_snapshot('Order', NULL)$$);

DELETE FROM event_store.reducers;
DELETE FROM event_store.snapshots WHERE aggregate_type IN ('Order', 'Merge');
SET client_min_messages = warning;
DROP SCHEMA regress_replay_schema CASCADE;
RESET client_min_messages;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA event_store FROM regress_replay_reader, regress_replay_author;
REVOKE USAGE ON SCHEMA event_store FROM regress_replay_reader, regress_replay_author;
DROP ROLE regress_replay_reader, regress_replay_author;
DROP TABLE examples;
DROP FUNCTION outcome, merged, order_total, order_history, deleting, growing, failing, nesting,
              not_json, no_event, one_argument, strict_one, many_states;

--
-- Up to a position: what is staged has none, and a snapshot counts only if it lies before
--
SELECT event_store.flush();
ALTER SYSTEM SET event_store.write_delay = '1h';
SELECT pg_catalog.pg_reload_conf();
\c -
SHOW event_store.write_delay;
SELECT event_store.set_reducer('Cut', NULL);
SELECT event_store.append_batch(array_fill('Cut'::text, ARRAY[7]), ARRAY['c-1', 'c-2', 'c-1', 'c-3', 'c-2', 'c-1', 'c-1'],
    array_fill('Added'::text, ARRAY[7]), ARRAY(SELECT jsonb_build_object(n::text, n) FROM generate_series(1, 7) n)) \g /dev/null
SELECT event_store.append_event('Cut', 'c-1', 4, 'Added', '{"staged": 5}', durability => 'staged') \g /dev/null
SELECT event_store.append_event('Cut', 'c-4', 0, 'Added', '{"staged": 1}', durability => 'staged') \g /dev/null
SELECT min(global_position) - 1 AS start FROM event_store.domain_events WHERE aggregate_type = 'Cut' \gset
SELECT p AS position, r.state, r.sequence
  FROM unnest(ARRAY[0, 1, 2, 3, 6, 7, 1000, NULL]) p, LATERAL event_store.replay_aggregate('Cut', 'c-1', as_of_position => :start + p) r;
SELECT r.sequence FROM event_store.replay_aggregate('Cut', 'c-1', as_of_position => 0) r;
SELECT r.sequence FROM event_store.replay_aggregate('Cut', 'c-1', as_of_sequence => 2, as_of_position => :start + 7) r;
SELECT r.sequence FROM event_store.replay_aggregate('Cut', 'c-1', as_of_sequence => 5, as_of_position => :start + 6) r;
SELECT r.sequence FROM event_store.replay_aggregate('Cut', 'c-1', as_of_time => '2000-01-01', as_of_position => :start + 7) r;
SELECT r.sequence FROM event_store.replay_aggregate('Cut', 'c-4', as_of_position => 9223372036854775806) r;
SELECT event_store.replay_aggregate('Cut', 'c-1', as_of_position => -1);
SELECT event_store.replay_aggregates('Cut', as_of_position => -1);
SELECT event_store.replay_aggregates('Cut', as_of_sequence => -1);
SELECT p AS position, r.* FROM unnest(ARRAY[0, 1, 4, 7]) p, LATERAL event_store.replay_aggregates('Cut', as_of_position => :start + p) r;
SELECT * FROM event_store.replay_aggregates('Cut', ARRAY['c-4', 'c-2', 'c-1'], as_of_sequence => 1);
SELECT * FROM event_store.replay_aggregates('Cut', as_of_sequence => 0);
-- many are as one by one, whatever the bounds, with snapshots before and behind them
CREATE FUNCTION pg_temp.differences(ids text[]) RETURNS TABLE (bounds bigint, states bigint, wrong bigint)
    LANGUAGE sql
AS $$
    WITH bound AS (
        SELECT NULL::bigint AS sequence, NULL::timestamptz AS at, NULL::bigint AS position
        UNION ALL SELECT n, NULL, NULL FROM generate_series(1, 6) n
        UNION ALL SELECT NULL, recorded_at, NULL FROM event_store.domain_events WHERE aggregate_type = 'Cut'
        UNION ALL SELECT NULL, NULL, global_position FROM event_store.domain_events WHERE aggregate_type = 'Cut'
        UNION ALL SELECT 2, NULL, global_position FROM event_store.domain_events WHERE aggregate_type = 'Cut'
        UNION ALL SELECT NULL, clock_timestamp(), global_position FROM event_store.domain_events WHERE aggregate_type = 'Cut')
    SELECT count(DISTINCT b), count(m.sequence), count(*) FILTER (WHERE m IS DISTINCT FROM o)
      FROM (SELECT row_number() OVER () AS n, * FROM bound) b
     CROSS JOIN LATERAL unnest(coalesce(ids, '{c-1,c-2,c-3,c-4}')) i (id)
      LEFT JOIN LATERAL (SELECT r.state, r.sequence FROM event_store.replay_aggregates('Cut', ids, b.sequence, b.at, b.position) r
                          WHERE r.aggregate_id = i.id) m ON true
      LEFT JOIN LATERAL (SELECT r.state, r.sequence FROM event_store.replay_aggregate('Cut', i.id, b.sequence, b.at, as_of_position => b.position) r
                          WHERE r.sequence > 0) o ON true
$$;
SELECT 'all', * FROM pg_temp.differences(NULL) UNION ALL SELECT 'some', * FROM pg_temp.differences('{c-4,c-1,c-3}');
SELECT event_store.take_snapshot('Cut', id) FROM unnest(ARRAY['c-1', 'c-2']) id;
-- a tampered state tells that a snapshot was used
UPDATE event_store.snapshots SET state = state || '{"from": "snapshot"}' WHERE aggregate_type = 'Cut';
SELECT p AS position, r.state -> 'from' AS "from", r.sequence
  FROM unnest(ARRAY[5, 6, 7]) p, LATERAL event_store.replay_aggregate('Cut', 'c-1', as_of_position => :start + p) r;
SELECT p AS position, r.aggregate_id, r.state -> 'from' AS "from", r.sequence
  FROM unnest(ARRAY[4, 5, 7]) p, LATERAL event_store.replay_aggregates('Cut', as_of_position => :start + p) r;
SELECT s AS sequence, r.aggregate_id, r.state -> 'from' AS "from", r.sequence
  FROM unnest(ARRAY[3, 4]) s, LATERAL event_store.replay_aggregates('Cut', ARRAY['c-1'], as_of_sequence => s) r;
SELECT 'all', * FROM pg_temp.differences(NULL) UNION ALL SELECT 'some', * FROM pg_temp.differences('{c-4,c-1,c-3}');
-- an empty list of ids
SELECT count(*) FROM event_store.replay_aggregates('Cut', '{}', as_of_position => :start + 7);
SELECT event_store.flush();
SELECT p AS position, r.sequence FROM unnest(ARRAY[7, 1000]) p, LATERAL event_store.replay_aggregate('Cut', 'c-1', as_of_position => :start + p) r;
ALTER SYSTEM RESET event_store.write_delay;
SELECT pg_catalog.pg_reload_conf();
