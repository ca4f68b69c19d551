-- Events are read as their last version has them, and kept as they were written.
SELECT event_store.create_store();
\pset format unaligned
\pset tuples_only on
SELECT event_store.safe_position() AS upcast_from \gset

-- one version after the other: a member renamed, a default, a member moved and one split
SELECT last_sequence FROM event_store.append_event('Upcast', 'a', 0, 'Placed', '{"cust": "ann", "total": "5", "street": "Elm 1", "zip": "10115"}');
SELECT last_sequence FROM event_store.append_event('Upcast', 'a', 1, 'Placed', '{"customer": "bob", "total": "7", "address": {"street": "Oak 2"}}', schema_version => 3);
SELECT event_store.set_upcaster('Placed', 1, rules => '[
    {"op": "set", "path": "$.customer", "from": "$.payload.cust"}, {"op": "unset", "path": "$.cust"},
    {"op": "set_once", "path": "$.currency", "value": "EUR"}]');
SELECT event_store.set_upcaster('Placed', 2, rules => '[
    {"op": "set", "path": "$.address.street", "from": "$.payload.street"}, {"op": "unset", "path": "$.street"},
    {"op": "unset", "path": "$.zip"}]');
SELECT sequence, schema_version, payload FROM event_store.load_events('Upcast', 'a');
SELECT sequence, schema_version, payload FROM event_store.load_events('Upcast', 'a', upcast => false);
SELECT sequence, schema_version, payload FROM event_store.load_events('Upcast', 'a', backward => true, max_count => 2);
SELECT e.schema_version, e.payload FROM event_store.domain_events d, event_store.load_event(d.event_id) e
 WHERE d.aggregate_type = 'Upcast' ORDER BY d.sequence;
SELECT e.schema_version, e.payload FROM event_store.domain_events d, event_store.load_event(d.event_id, upcast => false) e
 WHERE d.aggregate_type = 'Upcast' AND d.sequence = 1;
SELECT schema_version, payload FROM event_store.domain_events WHERE aggregate_type = 'Upcast' ORDER BY sequence;
SELECT (event_store.upcast(ROW(e.*)::event_store.event)).payload FROM event_store.domain_events e
 WHERE aggregate_type = 'Upcast' ORDER BY sequence;
-- what was upcast is upcast no further
SELECT (event_store.upcast(event_store.upcast(ROW(e.*)::event_store.event))).schema_version FROM event_store.domain_events e
 WHERE aggregate_type = 'Upcast' ORDER BY sequence;
SELECT event_store.upcast(NULL) IS NULL;

-- states are folded from them, also at a point in time
SELECT state FROM event_store.replay_aggregate('Upcast', 'a');
SELECT state FROM event_store.replay_aggregate('Upcast', 'a', as_of_sequence => 1);
SELECT aggregate_id, state FROM event_store.replay_aggregates('Upcast');
SELECT event_store.fold_events(e ORDER BY e.sequence) FROM event_store.load_events('Upcast', 'a', upcast => false) e;

-- a repeated event is compared with what was written
SELECT last_sequence FROM event_store.append_event('Upcast', 'r', 0, 'Placed', '{"cust": "eve"}', event_id => '018f3b1c-0018-7000-8000-000000000001');
SELECT outcome FROM event_store.append_batch('[{"aggregate_type": "Upcast", "aggregate_id": "r", "event_type": "Placed", "payload": {"cust": "eve"}, "event_id": "018f3b1c-0018-7000-8000-000000000001"}]');

-- staged events are upcast, too, and drained as they were written
SELECT last_sequence FROM event_store.append_event('Upcast', 's', 0, 'Placed', '{"cust": "sue"}', event_id => '018f3b1c-0018-7000-8000-000000000002', durability => 'staged');
SELECT schema_version, payload FROM event_store.load_events('Upcast', 's');
SELECT schema_version, payload FROM event_store.load_event('018f3b1c-0018-7000-8000-000000000002');
SELECT state FROM event_store.replay_aggregate('Upcast', 's');
SELECT event_store.flush() IS NOT NULL;
SELECT schema_version, payload FROM event_store.domain_events WHERE event_id = '018f3b1c-0018-7000-8000-000000000002';

-- rules that set and take away members of an object do it without a state, and give byte for byte what a state gives:
-- an operation below a member, which changes nothing here, makes rules need one
CREATE FUNCTION pg_temp.pick(given anyarray) RETURNS anyelement LANGUAGE sql AS 'SELECT given[1 + floor(random() * cardinality(given))::int]';
CREATE FUNCTION pg_temp.some_value() RETURNS jsonb LANGUAGE sql AS $$
    SELECT pg_temp.pick(ARRAY['null', 'true', 'false', '0', '-12.50', '1e40', '"text"', '""', '[]', '{}', '"ä€"', to_jsonb(repeat('long ', 60)),
                              '[1, [2.5, {"deep": null}], "x"]', '{"inner": {"n": 12345.678, "z": [true]}, "b": "c"}', '[[[]], 7]']::jsonb[]) $$;
CREATE FUNCTION pg_temp.some_name() RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.pick(ARRAY['a', 'b', 'aa', 'ab', 'inner', 'ä', 'with space', '', 'm17', 'm40', repeat('n', 70)]) $$;
CREATE FUNCTION pg_temp.some_source() RETURNS jsonb LANGUAGE sql AS $$
    SELECT to_jsonb(pg_temp.pick(ARRAY['$.payload."' || pg_temp.some_name() || '"', '$.payload."' || pg_temp.some_name() || '".inner.n', '$.payload."' || pg_temp.some_name() || '"[-1]',
                                       '$.payload', '$.payload[0]', '$.metadata.by', '$.event_type', '$.schema_version', '$.occurred_at'])) $$;
CREATE FUNCTION pg_temp.some_operation() RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('op', o.op, 'path', '$."' || pg_temp.some_name() || '"')
        || CASE WHEN o.op = 'unset' THEN '{}' WHEN random() < 0.4 THEN jsonb_build_object('value', pg_temp.some_value())
                WHEN random() < 0.3 THEN jsonb_build_object('from', pg_temp.some_source(), 'default', pg_temp.some_value()) ELSE jsonb_build_object('from', pg_temp.some_source()) END
        || CASE WHEN random() < 0.3 THEN jsonb_build_object('when', jsonb_build_object('path', pg_temp.some_source()) || pg_temp.pick(ARRAY['{"exists": true}', '{"exists": false}', '{"is": "text"}', '{"greater": 1}']::jsonb[]))
                ELSE '{}' END
      FROM pg_temp.pick(ARRAY['set', 'set', 'set_once', 'unset']) o (op) $$;
CREATE FUNCTION pg_temp.some_payload() RETURNS jsonb LANGUAGE sql AS $$
    SELECT coalesce(jsonb_object_agg(n, pg_temp.some_value()), '{}')
      FROM (SELECT pg_temp.some_name() AS n FROM generate_series(1, floor(random() * 9)::int)
            UNION ALL SELECT 'm' || i FROM generate_series(1, CASE WHEN random() < 0.2 THEN 75 ELSE 0 END) i) names $$;
CREATE TABLE pg_temp.patched (version int, operations jsonb, payload jsonb, by_patch event_store.event, by_state event_store.event);
SELECT setseed(0.18);
DO $$
DECLARE
    operations jsonb; below jsonb := '[{"op": "unset", "path": "$.none.below"}]';
BEGIN
    FOR list IN 0 .. 39 LOOP
        -- two versions, so that the second meets what the first has made
        FOR step IN 3 * list + 1 .. 3 * list + 2 LOOP
            SELECT coalesce(jsonb_agg(pg_temp.some_operation()), '[]') INTO operations FROM generate_series(1, floor(random() * 8)::int);
            PERFORM event_store.set_upcaster('Patched', step, rules => operations, aggregate_type => 'Patch');
            PERFORM event_store.set_upcaster('Patched', step, rules => operations || below, aggregate_type => 'State');
            INSERT INTO pg_temp.patched (version, operations) VALUES (step, operations);
        END LOOP;
    END LOOP;
    INSERT INTO pg_temp.patched
    SELECT p.version, p.operations, p.payload,
           event_store.upcast((1, 'Patch', 'p', 1, gen_random_uuid(), 'Patched', p.version, p.payload, NULL, '{"by": {"inner": 1}}', NULL, NULL, NULL, '2026-01-01Z', '2026-01-01Z')::event_store.event),
           event_store.upcast((1, 'State', 'p', 1, gen_random_uuid(), 'Patched', p.version, p.payload, NULL, '{"by": {"inner": 1}}', NULL, NULL, NULL, '2026-01-01Z', '2026-01-01Z')::event_store.event)
      FROM (SELECT version, l.operations, pg_temp.some_payload() AS payload FROM pg_temp.patched l, generate_series(1, 25) WHERE version % 3 = 1) p;
    DELETE FROM pg_temp.patched p WHERE p.by_patch IS NULL;
END $$;
SELECT count(*), count(*) FILTER (WHERE (by_patch).payload <> payload) > 500 AS changed, max((by_patch).schema_version) FROM pg_temp.patched;
SELECT version, operations, payload, (by_patch).payload, (by_state).payload FROM pg_temp.patched
 WHERE NOT record_image_eq(ROW((by_patch).payload), ROW((by_state).payload)) LIMIT 2;
SELECT event_store.drop_upcaster(event_type, from_version, aggregate_type) FROM event_store.upcasters WHERE event_type = 'Patched' \g /dev/null
-- what is no object, and what needs a state, in one chain
SELECT event_store.set_upcaster('Mixed', 1, rules => '[{"op": "set", "path": "$.a", "value": 1}]');
SELECT event_store.set_upcaster('Mixed', 2, rules => '[{"op": "set", "path": "$.b.c", "from": "$.payload.a"}]');
SELECT event_store.set_upcaster('Mixed', 3, rules => '{"event_type": "Mingled", "operations": [{"op": "set", "path": "$.a", "from": "$.payload.b"}, {"op": "set", "path": "$.b", "from": "$.payload.a"}]}');
SELECT event_store.set_upcaster('Mingled', 4, rules => '[{"op": "set", "path": "$.type", "from": "$.event_type"}, {"op": "set", "path": "$.all", "from": "$.payload"}]');
CREATE FUNCTION pg_temp.mixed(given jsonb) RETURNS event_store.event LANGUAGE sql AS $$
    SELECT event_store.upcast((1, 'Upcast', 'm', 1, gen_random_uuid(), 'Mixed', 1, given, NULL, NULL, NULL, NULL, NULL, '2026-01-01Z', '2026-01-01Z')::event_store.event) $$;
SELECT (m).event_type, (m).schema_version, (m).payload FROM pg_temp.mixed('{"old": true}') m;
\set VERBOSITY terse
SELECT pg_temp.mixed('[1]');
SELECT pg_temp.mixed('"scalar"');
SELECT pg_temp.mixed(NULL);
\set VERBOSITY default
SELECT event_store.drop_upcaster('Mixed', v) FROM generate_series(1, 3) v \g /dev/null
SELECT event_store.drop_upcaster('Mingled', 4);

-- the log of a saga, durable and staged
SELECT last_sequence FROM event_store.append_event('Upcast', 'l', 0, 'Placed', '{"cust": "lea"}', saga_id => 'upcast saga');
BEGIN;
SELECT last_sequence FROM event_store.append_event('Upcast', 'l', 1, 'Placed', '{"cust": "leo"}', saga_id => 'upcast saga', durability => 'staged');
SELECT schema_version, payload FROM event_store.saga_log('upcast saga');
SELECT schema_version, payload FROM event_store.saga_log('upcast saga', upcast => false);
COMMIT;
SELECT event_store.flush() IS NOT NULL;
SELECT event_store.rebuild_view('upcast rebuilt', 'Upcast');
SELECT view_key, view_data FROM event_store.load_views('upcast rebuilt');
SELECT event_store.clear_view('upcast rebuilt');

-- by a function, which may change type, payload and metadata and nothing else
CREATE FUNCTION public.upcast_renamed(event event_store.event) RETURNS event_store.event
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    event.event_type := 'Titled';
    event.payload := jsonb_build_object('title', event.payload -> 'name');
    event.metadata := '{"seen": true}';
    event.sequence := 99;
    event.schema_version := 77;
    event.aggregate_id := 'other';
    RETURN event;
END $$;
SELECT last_sequence FROM event_store.append_event('Upcast', 'f', 0, 'Named', '{"name": "x"}');
SELECT event_store.set_upcaster('Named', 1, 'public.upcast_renamed');
SELECT event_store.set_upcaster('Titled', 2, rules => '[{"op": "set", "path": "$.size", "value": 1}]');
SELECT aggregate_id, sequence, event_type, schema_version, payload, metadata FROM event_store.load_events('Upcast', 'f');
-- one for the aggregate type goes before a general one
SELECT event_store.set_upcaster('Named', 1, rules => '{"event_type": "Called"}', aggregate_type => 'Upcast');
SELECT event_type, schema_version, payload FROM event_store.load_events('Upcast', 'f');
SELECT event_store.drop_upcaster('Named', 1, 'Upcast'), event_store.drop_upcaster('Named', 1, 'Upcast');
SELECT event_type, schema_version FROM event_store.load_events('Upcast', 'f');
SELECT event_type, from_version, aggregate_type, upcaster, upcaster_owner = current_user, rules IS NULL
  FROM event_store.upcasters ORDER BY event_type, from_version;

-- rules of a reducer are those of the type after upcasting; a function gets the event so
SELECT event_store.set_reducer_rules('Upcast', '{"events": {
    "Titled": [{"op": "set", "path": "$.title", "from": "$.payload.title"}],
    "Named": [{"op": "set", "path": "$.wrong", "value": true}]}}');
SELECT state FROM event_store.replay_aggregate('Upcast', 'f');
CREATE FUNCTION public.upcast_reducer(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_build_object(event.event_type, event.schema_version) $$;
SELECT event_store.set_reducer('Upcast', 'public.upcast_reducer');
SELECT state FROM event_store.replay_aggregate('Upcast', 'f');
SELECT event_store.set_reducer('Upcast', NULL);

-- a change makes snapshots of before stale
SELECT event_store.take_snapshot('Upcast', 'a');
SELECT reducer_version AS version FROM event_store.reducers WHERE aggregate_type = 'Upcast' \gset
SELECT event_store.set_upcaster('Placed', 3, rules => '[{"op": "set", "path": "$.v4", "value": true}]');
SELECT reducer_version - :version FROM event_store.reducers WHERE aggregate_type = 'Upcast';
SELECT state FROM event_store.replay_aggregate('Upcast', 'a');
SELECT event_store.take_snapshot('Upcast', 'a');
SELECT event_store.drop_upcaster('Placed', 3);
SELECT state FROM event_store.replay_aggregate('Upcast', 'a');
SELECT event_store.drop_upcaster('Placed', 3);
-- those of an aggregate type alone concern that
SELECT reducer_version AS version FROM event_store.reducers WHERE aggregate_type = 'Upcast' \gset
SELECT event_store.set_upcaster('Placed', 9, rules => '[]', aggregate_type => 'UpcastOther');
SELECT reducer_version - :version FROM event_store.reducers WHERE aggregate_type = 'Upcast';
SELECT event_store.drop_upcaster('Placed', 9, 'UpcastOther');

-- reading all events: types are those of the last version, whatever was written
SELECT last_sequence FROM event_store.append_event('Upcast', 'g', 0, 'Titled', '{"title": "y"}', schema_version => 3);
SELECT aggregate_id, event_type, schema_version FROM event_store.read_events(:upcast_from, event_types => '{Titled}');
SELECT count(*) FROM event_store.read_events(:upcast_from, event_types => '{Named}');
SELECT aggregate_id, event_type FROM event_store.read_events(:upcast_from, event_types => '{Named}', upcast => false);
SELECT aggregate_id, event_type FROM event_store.read_events(:upcast_from, event_types => '{Titled}', max_count => 1);
SELECT aggregate_id, event_type FROM event_store.read_events(:upcast_from, event_types => '{Titled}', max_count => 1, backward => true);
SELECT aggregate_id, event_type FROM event_store.read_events(:upcast_from, event_types => '{Titled}', backward => true, aggregate_types => '{Upcast}');
-- many that are left out lie between those that are wanted
SELECT event_store.set_upcaster('Many', 1, rules => '{"event_type": "Few"}', aggregate_type => 'UpcastFew');
SELECT count(*) FROM generate_series(1, 500) i, event_store.append_event(CASE WHEN i % 100 = 0 THEN 'UpcastFew' ELSE 'UpcastMany' END, 'm-' || i, 0, 'Many', '{}');
SELECT count(*), count(DISTINCT aggregate_id) FROM event_store.read_events(:upcast_from, event_types => '{Few}', max_count => 4);
SELECT count(*) FROM event_store.read_events(:upcast_from, event_types => '{Few}', max_count => 4, backward => true);
SELECT count(*) FROM event_store.read_events(:upcast_from, event_types => '{Few,Many}', max_count => NULL);
SELECT event_store.create_store(event_type_index => true);
SELECT count(*), count(DISTINCT aggregate_id) FROM event_store.read_events(:upcast_from, event_types => '{Few}', max_count => 4);
SELECT string_agg(aggregate_id, ',') FROM event_store.read_events(:upcast_from, event_types => '{Few}', max_count => 4, backward => true);
SELECT event_store.drop_upcaster('Many', 1, 'UpcastFew');

-- what fails is raised, with the event
SELECT last_sequence FROM event_store.append_event('Upcast', 'x', 0, 'Broken', '{"n": "none"}');
SELECT event_store.set_upcaster('Broken', 1, rules => '[{"op": "increment", "path": "$.n", "value": 1}]');
\set VERBOSITY default
\set SHOW_CONTEXT never
DO $$
DECLARE
    call text; code text; message text; detail text;
BEGIN
    FOREACH call IN ARRAY ARRAY[
        $q$load_events('Upcast', 'x')$q$, $q$replay_aggregate('Upcast', 'x')$q$, $q$replay_aggregates('Upcast', '{x}')$q$, $q$read_events(aggregate_types => '{Upcast}')$q$] LOOP
        BEGIN
            EXECUTE 'SELECT count(*) FROM event_store.' || call;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
            RAISE NOTICE '% % % % %', call, code, message, detail::jsonb - 'global_position',
                (detail::jsonb ->> 'global_position')::bigint = (SELECT global_position FROM event_store.domain_events WHERE aggregate_type = 'Upcast' AND aggregate_id = 'x');
        END;
    END LOOP;
END $$;
SELECT payload FROM event_store.load_events('Upcast', 'x', upcast => false);
SELECT event_store.drop_upcaster('Broken', 1);
SELECT last_sequence FROM event_store.append_event('Upcast', 'b', 0, 'Bytes', payload_bytes => '\x01');
SELECT event_store.set_upcaster('Bytes', 1, rules => '[{"op": "set", "path": "$.n", "value": 1}]');
\set VERBOSITY terse
SELECT count(*) FROM event_store.load_events('Upcast', 'b');
\set VERBOSITY default
SELECT event_store.set_upcaster('Bytes', 1, rules => '{"event_type": "Binary"}');
SELECT event_type, payload_bytes FROM event_store.load_events('Upcast', 'b');
-- a function that gives no event, or none that could be appended
CREATE FUNCTION public.upcast_bad(event event_store.event) RETURNS event_store.event
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    CASE event.payload ->> 'way'
        WHEN 'null' THEN RETURN NULL;
        WHEN 'type' THEN event.event_type := '';
        WHEN 'both' THEN event.payload_bytes := '\x00';
        WHEN 'metadata' THEN event.metadata := '[]';
    END CASE;
    RETURN event;
END $$;
SELECT event_store.set_upcaster('Bad', 1, 'public.upcast_bad');
SELECT last_sequence FROM unnest(ARRAY['null', 'type', 'both', 'metadata']) way,
       event_store.append_event('Upcast', 'bad-' || way, 0, 'Bad', jsonb_build_object('way', way));
\set VERBOSITY terse
SELECT count(*) FROM event_store.load_events('Upcast', 'bad-null');
SELECT count(*) FROM event_store.load_events('Upcast', 'bad-type');
SELECT count(*) FROM event_store.load_events('Upcast', 'bad-both');
SELECT count(*) FROM event_store.load_events('Upcast', 'bad-metadata');
-- it is looked up by its name at each use
ALTER FUNCTION public.upcast_bad(event_store.event) RENAME TO upcast_hidden;
SELECT count(*) FROM event_store.load_events('Upcast', 'bad-null');
ALTER FUNCTION public.upcast_hidden(event_store.event) RENAME TO upcast_bad;
ALTER FUNCTION public.upcast_bad(event_store.event) VOLATILE;
SELECT count(*) FROM event_store.load_events('Upcast', 'bad-null');
CREATE OR REPLACE FUNCTION public.upcast_bad(event event_store.event) RETURNS event_store.event LANGUAGE sql IMMUTABLE AS 'SELECT event';
SELECT schema_version FROM event_store.load_events('Upcast', 'bad-null');

\set VERBOSITY default
-- subscriptions: types are those of the last version; each event comes once
SELECT event_store.set_upcaster('OldName', 1, rules => '{"event_type": "NewName", "operations": [{"op": "set", "path": "$.up", "value": true}]}');
SELECT event_store.create_subscription('upcast new', event_types => '{NewName}', start_after => :upcast_from);
SELECT event_store.create_subscription('upcast old', event_types => '{OldName}', start_after => :upcast_from);
SELECT event_store.create_subscription('upcast claim', event_types => '{NewName}', start_after => :upcast_from);
SELECT count(*) FROM generate_series(1, 3) i, event_store.append_event('UpcastSub', 's-' || i, 0, CASE i WHEN 2 THEN 'NewName' ELSE 'OldName' END, '{}', schema_version => CASE i WHEN 2 THEN 2 ELSE 1 END);
SELECT aggregate_id, event_type, schema_version, payload FROM event_store.next_events('upcast new');
SELECT count(*) FROM event_store.next_events('upcast new');
SELECT count(*) FROM event_store.next_events('upcast old');
SELECT aggregate_id, event_type, schema_version, payload FROM event_store.claim_events('upcast claim', 'c');
SELECT event_store.drop_subscription('upcast ' || n) FROM unnest('{new,old,claim}'::text[]) n;

-- one that fails: what lies before it comes, it waits with its partition, the others go on
SELECT event_store.set_upcaster('Fails', 1, rules => '[{"op": "increment", "path": "$.n", "value": 1}]');
SELECT count(*) FROM generate_series(1, 5) i, event_store.append_event('UpcastFail', CASE i WHEN 4 THEN 'f-3' ELSE 'f-' || i END, NULL, 'Fails', CASE i WHEN 3 THEN '{"n": "none"}' ELSE '{"n": 1}' END::jsonb);
SELECT event_store.create_subscription('upcast fails', aggregate_types => '{UpcastFail}', start_after => :upcast_from, on_failure => 'park', max_attempts => 1);
SELECT aggregate_id, sequence, payload FROM event_store.next_events('upcast fails');
SELECT aggregate_id, sequence, payload FROM event_store.next_events('upcast fails');
SELECT count(*) FROM event_store.next_events('upcast fails');
SELECT partition_key, state, attempts FROM event_store.parked_events WHERE subscription_name = 'upcast fails';
-- mended, the partition comes in its order
SELECT event_store.set_upcaster('Fails', 1, rules => '[{"op": "set", "path": "$.n", "value": 7}]');
SELECT event_store.retry_parked_events('upcast fails');
SELECT aggregate_id, sequence, payload FROM event_store.next_events('upcast fails');
SELECT count(*) FROM event_store.next_events('upcast fails');
SELECT count(*) FROM event_store.parked_events WHERE subscription_name = 'upcast fails';
-- with attempts left it is tried again; one that stops holds its member; others are left out
SELECT event_store.set_upcaster('Fails', 1, rules => '[{"op": "increment", "path": "$.n", "value": 1}]');
SELECT event_store.create_subscription('upcast retries', aggregate_types => '{UpcastFail}', start_after => :upcast_from);
SELECT count(*) FROM event_store.next_events('upcast retries', max_count => 100);
SELECT aggregate_id, sequence FROM event_store.claim_events('upcast retries', 'c', max_count => 100);
SELECT partition_key, state, attempts FROM event_store.parked_events WHERE subscription_name = 'upcast retries';
SELECT event_store.create_subscription('upcast stops', aggregate_types => '{UpcastFail}', start_after => :upcast_from, on_failure => 'stop', max_attempts => 1);
SELECT count(*) FROM event_store.next_events('upcast stops');
SELECT count(*) FROM event_store.next_events('upcast stops');
SELECT state, last_error FROM event_store.subscription_status WHERE subscription_name = 'upcast stops';
SELECT event_store.create_subscription('upcast skips', aggregate_types => '{UpcastFail}', start_after => :upcast_from, on_failure => 'skip', max_attempts => 1);
SELECT count(*) FROM event_store.next_events('upcast skips', max_count => 100);
SELECT string_agg(aggregate_id || ' ' || sequence, ', ') FROM event_store.next_events('upcast skips', max_count => 100);
SELECT event_store.drop_subscription('upcast ' || n) FROM unnest('{fails,retries,stops,skips}'::text[]) n;

-- views: the projection, the append itself and a rebuild fold the same
SELECT event_store.append_event('UpcastView', 'v-1', 0, 'Paid', '{"cust": "ann", "n": 1}') IS NULL;
SELECT event_store.set_upcaster('Paid', 1, rules => '{"event_type": "Received", "operations": [{"op": "set", "path": "$.customer", "from": "$.payload.cust"}]}');
SELECT event_store.create_view_projection('upcast async', '{UpcastView}', '"$.payload.customer"',
    '{"events": {"Received": [{"op": "increment", "path": "$.n", "from": "$.payload.n"}], "Paid": [{"op": "set", "path": "$.wrong", "value": true}]}}');
SELECT event_store.create_view_projection('upcast inline', '{UpcastView}', '"$.payload.customer"',
    '{"events": {"Received": [{"op": "increment", "path": "$.n", "from": "$.payload.n"}], "Paid": [{"op": "set", "path": "$.wrong", "value": true}]}}', mode => 'inline');
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM event_store.projections WHERE projection_name = 'upcast inline' AND mode = 'inline') LOOP
        PERFORM event_store.project('upcast inline');
        COMMIT;
    END LOOP;
END $$;
SELECT mode FROM event_store.projections WHERE projection_name = 'upcast inline';
SELECT event_store.append_event('UpcastView', 'v-2', 0, 'Paid', '{"cust": "ann", "n": 2}') IS NULL;
SELECT event_store.append_event('UpcastView', 'v-3', 0, 'Received', '{"customer": "bob", "n": 5}', schema_version => 2) IS NULL;
SELECT event_store.project('upcast async') >= 0;
SELECT view_name, view_key, view_data FROM event_store.domain_views WHERE view_name LIKE 'upcast %' ORDER BY 1, 2;
SELECT projection_name, stale FROM event_store.projection_status;
-- a change makes them stale until they are made anew
SELECT event_store.set_upcaster('Paid', 1, rules => '{"event_type": "Received", "operations": [{"op": "set", "path": "$.customer", "value": "all"}]}');
SELECT projection_name, stale FROM event_store.projection_status;
SELECT event_store.append_event('UpcastView', 'v-4', 0, 'Paid', '{"cust": "ann", "n": 9}') IS NULL;
SELECT event_store.rebuild_projection('upcast async'), event_store.rebuild_projection('upcast inline');
SELECT projection_name, stale FROM event_store.projection_status;
SELECT view_name, view_key, view_data FROM event_store.domain_views WHERE view_name LIKE 'upcast %' ORDER BY 1, 2;
-- those of other aggregate types are not concerned
SELECT event_store.set_upcaster('Paid', 7, rules => '[]', aggregate_type => 'UpcastOther');
SELECT projection_name, stale FROM event_store.projection_status;
SELECT event_store.drop_projection('upcast async'), event_store.drop_projection('upcast inline');

\set VERBOSITY terse
-- arguments
SELECT event_store.set_upcaster(NULL, 1, rules => '[]');
SELECT event_store.set_upcaster('', 1, rules => '[]');
SELECT event_store.set_upcaster('Placed', NULL, rules => '[]');
SELECT event_store.set_upcaster('Placed', -1, rules => '[]');
SELECT event_store.set_upcaster('Placed', 2147483647, rules => '[]');
SELECT event_store.set_upcaster('Placed', 1, rules => '[]', aggregate_type => '');
SELECT event_store.set_upcaster('Placed', 1, rules => '[]', aggregate_type => repeat('x', 256));
SELECT event_store.set_upcaster('Placed', 1);
SELECT event_store.set_upcaster('Placed', 1, 'public.upcast_bad', '[]');
SELECT event_store.set_upcaster('Placed', 1, 'pg_catalog.abs(int)'::regprocedure::regproc);
SELECT event_store.set_upcaster('Placed', 1, rules => '"[]"');
SELECT event_store.set_upcaster('Placed', 1, rules => '{}');
SELECT event_store.set_upcaster('Placed', 1, rules => '{"op": "set"}');
SELECT event_store.set_upcaster('Placed', 1, rules => '{"event_type": 1}');
SELECT event_store.set_upcaster('Placed', 1, rules => '{"event_type": ""}');
SELECT event_store.set_upcaster('Placed', 1, rules => '{"operations": {}}');
SELECT event_store.set_upcaster('Placed', 1, rules => '[{"op": "rename", "path": "$.a"}]');
SELECT event_store.set_upcaster('Placed', 1, rules => '[{"op": "set", "path": "$.a", "from": "$.item"}]');
SELECT event_store.set_upcaster('StepRequested', 1, rules => '[]', aggregate_type => 'saga:order');
SELECT event_store.drop_upcaster(NULL, 1);
SELECT event_store.drop_upcaster('Placed', NULL);
CREATE FUNCTION public.upcast_volatile(event event_store.event) RETURNS event_store.event LANGUAGE sql AS 'SELECT event';
SELECT event_store.set_upcaster('Placed', 1, 'public.upcast_volatile');
CREATE FUNCTION pg_temp.upcast_temporary(event event_store.event) RETURNS event_store.event LANGUAGE sql IMMUTABLE AS 'SELECT event';
DO $$ BEGIN PERFORM event_store.set_upcaster('Placed', 1, 'pg_temp.upcast_temporary');
EXCEPTION WHEN OTHERS THEN RAISE NOTICE '% %', sqlstate, regexp_replace(sqlerrm, 'pg_temp_\d+', 'pg_temp'); END $$;

-- a function is registered by its owner and runs as its owner, in whoever's call
CREATE ROLE regress_upcast_owner;
CREATE ROLE regress_upcast_reader;
SELECT event_store.grant_access('regress_upcast_owner', 'admin');
SELECT event_store.grant_access('regress_upcast_reader', 'reader');
CREATE FUNCTION public.upcast_who(event event_store.event) RETURNS event_store.event LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN event.payload := jsonb_build_object('who', current_user, 'path', current_setting('search_path')); RETURN event; END $$;
SELECT last_sequence FROM event_store.append_event('Upcast', 'w', 0, 'Who', '{}');
SET ROLE regress_upcast_owner;
SELECT event_store.set_upcaster('Who', 1, 'public.upcast_who');
RESET ROLE;
ALTER FUNCTION public.upcast_who(event_store.event) OWNER TO regress_upcast_owner;
SET ROLE regress_upcast_owner;
SELECT event_store.set_upcaster('Who', 1, 'public.upcast_who');
SET ROLE regress_upcast_reader;
SELECT event_store.set_upcaster('Who', 1, rules => '[]');
SELECT event_store.drop_upcaster('Who', 1);
SELECT payload FROM event_store.load_events('Upcast', 'w');
SELECT state FROM event_store.replay_aggregate('Upcast', 'w');
SELECT current_user;
-- but not on what the caller makes up
SELECT event_store.upcast(ROW(e.*)::event_store.event) IS NULL FROM event_store.domain_events e WHERE e.aggregate_type = 'Upcast' AND e.aggregate_id = 'w';
SELECT event_store.fold_events(e) FROM event_store.load_events('Upcast', 'w', upcast => false) e;
SELECT event_store.fold_events(e) FROM event_store.load_events('Upcast', 'w') e;
RESET ROLE;
ALTER FUNCTION public.upcast_who(event_store.event) OWNER TO regress_upcast_reader;
SELECT payload FROM event_store.load_events('Upcast', 'w');

-- cleaned up
SELECT event_store.drop_upcaster(event_type, from_version, NULLIF(aggregate_type, '')) FROM event_store.upcasters;
SELECT count(*) FROM event_store.upcasters;
DROP FUNCTION public.upcast_renamed, public.upcast_reducer, public.upcast_bad, public.upcast_volatile, public.upcast_who;
REVOKE ALL ON SCHEMA event_store FROM regress_upcast_owner, regress_upcast_reader;
DROP OWNED BY regress_upcast_owner, regress_upcast_reader;
DROP ROLE regress_upcast_owner, regress_upcast_reader;
DELETE FROM event_store.reducers;
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Upcast';
