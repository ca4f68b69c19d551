-- erase: content is taken out of events and of what knows of them, and the guard lets nobody else change the log
\pset format unaligned
\pset null null
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;

-- what a statement comes to
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN coalesce(answer, 'null');
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
-- Ids that the test knows.
CREATE FUNCTION pg_temp.id(n int) RETURNS uuid LANGUAGE sql RETURN ('00000000-0000-4e18-8000-' || lpad(n::text, 12, '0'))::uuid;
-- A row an event, with the erasure's id left out.
CREATE FUNCTION pg_temp.log(id text) RETURNS TABLE (sequence bigint, event_type text, payload jsonb, bytes bytea, metadata text,
                                                    correlation_id text, causation_id text)
    LANGUAGE sql AS $$
    SELECT sequence, event_type, payload, payload_bytes,
           regexp_replace(metadata::text, '"\$erased": "[0-9a-f-]{36}"', '"$erased": "ID"'), correlation_id, causation_id
      FROM event_store.domain_events WHERE aggregate_type = 'Erase' AND aggregate_id = id ORDER BY sequence
$$;
CREATE FUNCTION pg_temp.append(id text, n int, payload jsonb, metadata jsonb DEFAULT NULL) RETURNS text
    LANGUAGE sql AS $$
    SELECT last_sequence || ' ' || outcome
      FROM event_store.append_event('Erase', id, NULL, 'Named', payload, metadata, event_id => pg_temp.id(n), correlation_id => 'corr-' || id,
                                    causation_id => 'cause-' || n)
$$;

-- all of the content: position, type, sequence and ids stay
SELECT pg_temp.append('e-1', 1, '{"name": "Ann", "city": "Rome"}', '{"ip": "10.0.0.1"}');
SELECT pg_temp.append('e-1', 2, '{"name": "Ann Smith"}');
SELECT last_sequence FROM event_store.append_event('Erase', 'e-1', NULL, 'Raw', NULL, payload_bytes => 'Ann', event_id => pg_temp.id(3));
SELECT event_store.redact_events(ARRAY[pg_temp.id(1), pg_temp.id(3), pg_temp.id(99)], 'request 1');
SELECT * FROM pg_temp.log('e-1');
-- again there is nothing to do, and nothing is announced
SELECT event_store.redact_events(ARRAY[pg_temp.id(1), pg_temp.id(3)], 'request 1');
SELECT count(*) FROM event_store.erasures WHERE reason = 'request 1';

-- a retry of it is a duplicate, by aggregate, type and version alone; of another it is not
SELECT pg_temp.append('e-1', 1, '{"name": "Ann", "city": "Rome"}');
SELECT pg_temp.append('e-1', 2, '{"name": "Ann Smith"}');
SELECT pg_temp.outcome($$SELECT pg_temp.append('e-1', 2, '{"name": "Bob"}')$$);
SELECT pg_temp.outcome($$SELECT pg_temp.append('e-2', 1, '{"name": "Ann"}')$$);
SELECT pg_temp.outcome(format($$SELECT outcome FROM event_store.append_event('Erase', 'e-1', NULL, 'Renamed', '{}', event_id => %L)$$, pg_temp.id(1)));
SELECT pg_temp.outcome(format($$SELECT outcome FROM event_store.append_event('Erase', 'e-1', NULL, 'Named', '{}', event_id => %L, schema_version => 2)$$, pg_temp.id(1)));

-- members: they go, or get a replacement; an element of an array becomes null; what is not there is not made
SELECT pg_temp.append('e-3', 4, '{"name": "Ann", "tags": ["a", "b", "c"], "address": {"street": "Via 1", "zip": "1"}}', '{"ip": "10.0.0.1", "app": 1}');
SELECT event_store.redact_events(ARRAY[pg_temp.id(4)], 'request 2', '{$.payload.name,$.payload.tags[0],$.payload.address.street,$.payload.fax,$.metadata.ip,$.correlation_id}');
SELECT * FROM pg_temp.log('e-3');
SELECT event_store.redact_events(ARRAY[pg_temp.id(4)], 'request 2', '{$.payload.name,$.payload.tags[0]}');
SELECT event_store.redact_events(ARRAY[pg_temp.id(4)], 'request 2', '{$.payload.address.zip,$.causation_id,$.payload.tags[-1]}', '"-"');
SELECT * FROM pg_temp.log('e-3');
SELECT pg_temp.append('e-3', 4, '{"name": "whoever"}');
SELECT event_store.redact_events(ARRAY[pg_temp.id(4)], 'request 2', '{$.payload,$.metadata}');
SELECT * FROM pg_temp.log('e-3');

-- what is wrong is said
SELECT pg_temp.outcome($$SELECT event_store.redact_events(NULL, 'r')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', NULL)$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', '')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{}')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{NULL}')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{name}')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{$.name}')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{$.event_type}')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{$.aggregate_id}')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', NULL, '"x"')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{$.metadata}', '"x"')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{$.saga_id}', '{}')$$);
SELECT last_sequence FROM event_store.append_event('Erase', 'e-4', NULL, 'Raw', NULL, payload_bytes => 'Ann', event_id => pg_temp.id(5));
SELECT pg_temp.outcome(format($$SELECT event_store.redact_events(ARRAY[%L::uuid], 'r', '{$.payload.name}')$$, pg_temp.id(5)));
SELECT event_store.redact_events(ARRAY[pg_temp.id(5)], 'request 3', '{$.payload}');
SELECT * FROM pg_temp.log('e-4');

-- registered, and announced in the same transaction, without content; others' appends there are refused
SELECT kind, erased_by = current_user AS by_me, reason, paths, cardinality(positions), event_ids = ARRAY[pg_temp.id(1), pg_temp.id(3)] AS ids,
       positions = ARRAY(SELECT global_position FROM event_store.domain_events WHERE event_id = ANY (event_ids) ORDER BY 1) AS positions,
       renamed
  FROM event_store.erasures WHERE reason = 'request 1';
SELECT e.event_type, e.sequence, e.payload ->> 'reason' AS reason, e.payload -> 'event_ids' AS ids, jsonb_array_length(e.payload -> 'positions') AS positions,
       e.payload -> 'paths' AS paths
  FROM event_store.read_events(aggregate_types => '{store:erasure}') e
  JOIN event_store.erasures r ON r.erasure_id::text = e.aggregate_id AND e.payload ->> 'reason' IN ('request 1', 'request 2') ORDER BY e.global_position;
SELECT count(*) FROM event_store.domain_events d JOIN event_store.erasures r ON r.erasure_id::text = d.metadata ->> '$erased' WHERE d.event_id = pg_temp.id(1);
SELECT pg_temp.outcome($$SELECT event_store.append_event('store:erasure', 'x', NULL, 'Erased')$$);
SELECT pg_temp.outcome($$SELECT event_store.schedule_event(now() + '1h', 'store:erasure', 'x', 'Erased')$$);
SELECT pg_temp.outcome($$SELECT event_store.append_batch('[{"aggregate_type": "store:erasure", "aggregate_id": "x", "event_type": "Erased"}]')$$);
BEGIN;
SELECT event_store.redact_events(ARRAY[pg_temp.id(2)], 'undone');
ROLLBACK;
SELECT payload FROM event_store.load_events('Erase', 'e-1', 1, 2);
SELECT count(*) FROM event_store.erasures WHERE reason = 'undone';

-- merges and rules pass over what is erased, functions get it; the sequence counts
SELECT event_store.replay_aggregate('Erase', 'e-1');
SELECT event_store.set_reducer_rules('Erase', '{"events": {"Named": [{"op": "increment", "path": "$.events", "value": 1}, {"op": "set", "path": "$.name", "from": "$.payload.name"}]}}');
SELECT * FROM event_store.replay_aggregate('Erase', 'e-1');
SELECT * FROM event_store.replay_aggregate('Erase', 'e-1', 1);
CREATE FUNCTION public.erase_reducer(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql IMMUTABLE RETURN coalesce(state, '[]') || jsonb_build_array(event.sequence);
SELECT event_store.set_reducer('Erase', 'public.erase_reducer');
SELECT * FROM event_store.replay_aggregate('Erase', 'e-1');
DELETE FROM event_store.reducers WHERE aggregate_type = 'Erase';
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Erase';
DROP FUNCTION public.erase_reducer;
-- rules of an upcaster pass over it as well, but for the type
SELECT event_store.set_upcaster('Named', 1, rules => '{"event_type": "Called", "operations": [{"op": "set", "path": "$.v2", "value": true}]}', aggregate_type => 'Erase');
SELECT sequence, event_type, payload FROM event_store.load_events('Erase', 'e-1');
SELECT event_store.drop_upcaster('Named', 1, 'Erase');
DELETE FROM event_store.reducers WHERE aggregate_type = 'Erase';

-- what else knows of it goes: snapshots, letters, schedules, results, errors
SELECT pg_temp.append('k-1', 11, '{"name": "Ann"}');
SELECT pg_temp.append('k-1', 12, '{"city": "Rome"}');
SELECT pg_temp.append('k-2', 13, '{"name": "Bob"}');
SELECT event_store.save_snapshot('Erase', i, 1, '{"name": "x"}') FROM unnest('{k-1,k-2}'::text[]) i;
SELECT event_store.take_snapshot('Erase', 'k-1');
SELECT event_store.schedule_event(now() + '1 day', 'Erase', i, 'Reminded', '{"name": "x"}') IS NOT NULL FROM unnest('{k-1,k-2}'::text[]) i;
CREATE FUNCTION public.erase_refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no %', NEW.payload USING ERRCODE = '23514'; END$$;
CREATE TRIGGER a_refuse BEFORE INSERT ON event_store.domain_events FOR EACH ROW WHEN (NEW.event_type = 'Refused') EXECUTE FUNCTION public.erase_refuse();
SELECT durable FROM event_store.append_event('Erase', 'k-1', NULL, 'Refused', '{"name": "Ann"}', durability => 'staged');
SELECT event_store.flush();
DROP TRIGGER a_refuse ON event_store.domain_events;
DROP FUNCTION public.erase_refuse;
INSERT INTO event_store.dead_letter_history (letter_id, kind, aggregate_type, aggregate_id, error_code, error_message, attempts, failed_at, outcome, settled_by)
SELECT 1, 'event', 'Erase', i, 'XX000', 'Ann', 1, now(), 'discarded', 'x' FROM unnest('{k-1,k-2}'::text[]) i;
SELECT event_store.process_once('erase', m) FROM unnest(ARRAY[pg_temp.id(11)::text, 'request-1', 'request-2']) m;
SELECT event_store.record_result('erase', pg_temp.id(11)::text, '{"name": "Ann"}'),
       event_store.record_result('erase', 'request-1', '{"customers": [{"id": "k-1", "name": "Ann"}]}'),
       event_store.record_result('erase', 'request-2', '{"customers": [{"id": "k-2", "name": "Bob"}]}');
SELECT event_store.put_view('erase_free', i, '{"name": "x"}') FROM unnest('{k-1,k-2}'::text[]) i;
SELECT event_store.create_subscription('erase_sub', '{Erase}', start_after => 0, max_attempts => 1, on_failure => 'park');
INSERT INTO event_store.parked_events (subscription_name, partition_key, global_position, event_id, state, attempts, error_message, member)
SELECT 'erase_sub', 'Erase/k-1', global_position, event_id, 'parked', 1, 'it is Ann', 0 FROM event_store.domain_events WHERE event_id = pg_temp.id(11);
CREATE FUNCTION pg_temp.kept() RETURNS TABLE (what text, of text)
    LANGUAGE sql AS $$
    SELECT 'snapshot ' || source, aggregate_id FROM event_store.snapshots WHERE aggregate_type = 'Erase'
    UNION ALL SELECT 'letter', aggregate_id FROM event_store.dead_letters WHERE aggregate_type = 'Erase'
    UNION ALL SELECT 'history', aggregate_id FROM event_store.dead_letter_history WHERE aggregate_type = 'Erase'
    UNION ALL SELECT 'scheduled', aggregate_id FROM event_store.scheduled_events WHERE aggregate_type = 'Erase'
    UNION ALL SELECT 'result', message_id FROM event_store.processed_messages WHERE consumer = 'erase' AND result IS NOT NULL
    UNION ALL SELECT 'row', view_key FROM event_store.domain_views WHERE view_name = 'erase_free'
    UNION ALL SELECT 'error', partition_key FROM event_store.parked_events WHERE subscription_name = 'erase_sub' AND error_message IS NOT NULL
    ORDER BY 1, 2
$$;
SELECT * FROM pg_temp.kept();
SELECT event_store.redact_events(ARRAY[pg_temp.id(11)], 'copies');
SELECT * FROM pg_temp.kept();
SELECT last_sequence FROM event_store.append_event('Erase', 'k-1', 2, 'Named');
-- what is parked keeps its order, and the messages are known
SELECT state, partition_key FROM event_store.parked_events WHERE subscription_name = 'erase_sub';
SELECT event_store.process_once('erase', 'request-1');
SELECT event_store.drop_subscription('erase_sub');
DELETE FROM event_store.processed_messages WHERE consumer = 'erase';
DELETE FROM event_store.scheduled_events WHERE aggregate_type = 'Erase';
DELETE FROM event_store.dead_letter_history WHERE aggregate_type = 'Erase';
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Erase';
SELECT event_store.clear_view('erase_free');

-- an aggregate: rows of projected views are folded anew, others named
SELECT event_store.create_view_projection('erase_rows', '{Erase}', rules => '{"events": {"Named": [{"op": "increment", "path": "$.n", "value": 1}, {"op": "set", "path": "$.name", "from": "$.payload.name"}]}}',
                                          mode => 'async', start_after => NULL);
SELECT event_store.create_view_projection('erase_names', '{Erase}', key => '"$.payload.name"', rules => '{"events": {"Named": [{"op": "increment", "path": "$.n", "value": 1}]}}',
                                          mode => 'async', start_after => NULL);
SELECT pg_temp.append('v-1', 21, '{"name": "Ann"}');
SELECT pg_temp.append('v-1', 22, '{"name": "Ann Smith"}');
SELECT pg_temp.append('v-2', 23, '{"name": "Bob"}');
SELECT event_store.project(p) IS NOT NULL, event_store.wait_for_subscription(p, (SELECT max(global_position) FROM event_store.domain_events)) FROM unnest('{erase_rows,erase_names}'::text[]) p;
SELECT view_name, view_key, view_data, version FROM event_store.domain_views WHERE view_name LIKE 'erase%' AND view_name <> 'erase_names' ORDER BY 1, 2;
SELECT event_store.redact_events(ARRAY[pg_temp.id(22)], 'one of two');
SELECT view_name, view_key, view_data, version FROM event_store.domain_views WHERE view_name LIKE 'erase%' AND view_name <> 'erase_names' ORDER BY 1, 2;
SELECT projection_name, stale FROM event_store.projection_status WHERE projection_name LIKE 'erase%' ORDER BY 1;
SELECT event_store.rebuild_projection('erase_names');
SELECT view_key, view_data FROM event_store.domain_views WHERE view_name = 'erase_names' ORDER BY 1;
SELECT event_store.erase_aggregate('Erase', 'v-1', 'request 4');
SELECT view_name, view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'erase_rows' ORDER BY 1, 2;
-- it goes on
SELECT pg_temp.append('v-1', 24, '{"name": "Cy"}');
SELECT event_store.project('erase_rows') IS NOT NULL, event_store.wait_for_subscription('erase_rows', (SELECT max(global_position) FROM event_store.domain_events));
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'erase_rows' ORDER BY 1;
SET client_min_messages = warning;
SELECT event_store.drop_projection(p) FROM unnest('{erase_rows,erase_names}'::text[]) p;
SELECT event_store.clear_view(p) >= 0 FROM unnest('{erase_rows,erase_names}'::text[]) p;

-- a pseudonym takes the id's place; the old id is new again
SELECT event_store.erase_aggregate('Erase', 'v-1', 'request 5', pseudonym => 'gone-1');
SELECT aggregate_id, sequence, payload FROM event_store.domain_events WHERE aggregate_type = 'Erase' AND aggregate_id IN ('v-1', 'gone-1') ORDER BY 1, 2;
SELECT event_store.aggregate_sequence('Erase', 'v-1'), event_store.aggregate_sequence('Erase', 'gone-1');
SELECT last_sequence FROM event_store.append_event('Erase', 'v-1', 0, 'Named', '{"name": "new"}');
SELECT last_sequence FROM event_store.append_event('Erase', 'gone-1', 3, 'Named', '{"name": "more"}');
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Erase', 'v-1', 'r', 'gone-1')$$);
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Erase', 'v-1', 'r', 'v-1')$$);
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Erase', 'v-1', 'r', '')$$);
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('saga:x', 'v-1', 'r', 'v-9')$$);
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Erase', NULL, 'r')$$);
SELECT count(*) FROM event_store.append_event('Erase', 'deleted', 0, 'Named');
SELECT event_store.delete_aggregate('Erase', 'deleted', 'r');
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Erase', 'v-1', 'r', 'deleted')$$);
-- one that nobody knows
SELECT event_store.erase_aggregate('Erase', 'nobody', 'r');

-- events that match; a dry run counts, so many at a time until there are none
SELECT count(*) FROM (SELECT pg_temp.append('q-' || i, 30 + i, jsonb_build_object('email', CASE WHEN i % 2 = 0 THEN 'ann@x' ELSE 'bob@x' END)) FROM generate_series(1, 6) i) a;
SELECT event_store.erase_events('{"aggregate_type": "Erase", "where": [{"path": "$.payload.email", "is": "ann@x"}]}', 'r', dry_run => true);
SELECT event_store.erase_events('{"aggregate_type": "Erase", "where": [{"path": "$.payload.email", "is": "ann@x"}]}', 'r', max_count => 2);
SELECT event_store.erase_events('{"aggregate_type": "Erase", "where": [{"path": "$.payload.email", "is": "ann@x"}]}', 'r', max_count => 2);
SELECT event_store.erase_events('{"aggregate_type": "Erase", "where": [{"path": "$.payload.email", "is": "ann@x"}]}', 'r', max_count => 2);
SELECT aggregate_id, payload FROM event_store.domain_events WHERE aggregate_type = 'Erase' AND aggregate_id LIKE 'q-%' ORDER BY global_position;
SELECT event_store.erase_events('{"correlation_id": "corr-q-1"}', 'r', '{$.payload.email}', max_count => 1);
SELECT event_store.erase_events('{"correlation_id": "corr-q-1"}', 'r', '{$.payload.email}');
SELECT event_store.erase_events('{"aggregate_type": "Erase", "aggregate_id": "q-3", "event_types": ["Other"]}', 'r');
SELECT event_store.erase_events('{"aggregate_type": "Erase", "aggregate_id": "q-3", "event_types": ["Other", "Named"]}', 'r');
SELECT event_store.erase_events('{"saga_id": "none"}', 'r');
SELECT pg_temp.outcome(format($$SELECT event_store.erase_events(%L, 'r')$$, q))
  FROM unnest(ARRAY[NULL, '[]', '{}', '{"aggregate_type": 1}', '{"what": "x"}', '{"event_types": "x"}', '{"event_types": [1]}', '{"where": {}}', '{"where": []}',
                    '{"where": [{"path": "$.name", "is": 1}]}', '{"where": [{"path": "$.payload.name"}]}']) q;
SELECT pg_temp.outcome($$SELECT event_store.erase_events('{"saga_id": "s"}', 'r', max_count => 0)$$);
-- odd, and large
SELECT pg_temp.outcome(format('SELECT event_store.erase_events(%L, %s)', q, r))
  FROM (VALUES ('{"saga_id": "s"}', 'NULL'), ('{"saga_id": "s"}', ''''''), ('{"saga_id": null}', '''r'''), ('{"event_types": []}', '''r'''), ('{"event_types": [null]}', '''r'''),
               ('{"aggregate_type": ""}', '''r'''), ('{"where": [1]}', '''r'''), ('{"where": [[]]}', '''r'''), ('{"event_types": {"a": "b"}}', '''r'''),
               ('{"saga_id": "s"}', '''r'', dry_run => NULL'), ('{"saga_id": "s"}', '''r'', ''{}'''), ('{"saga_id": "s"}', '''r'', max_count => -1'),
               ('{"saga_id": "s"}', 'repeat(''r'', 1000000)')) v (q, r);
SELECT pg_temp.outcome(format($$SELECT event_store.erase_events(jsonb_build_object('aggregate_id', repeat('x', 100000)), 'r')$$));
SELECT pg_temp.outcome($$SELECT event_store.redact_events(array(SELECT gen_random_uuid() FROM generate_series(1, 50000)) || NULL::uuid, 'r')$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{{00000000-0000-4e18-8000-000000000098},{00000000-0000-4e18-8000-000000000099}}', 'r')$$);
SELECT event_store.erase_events(jsonb_build_object('event_types', (SELECT jsonb_agg('t' || i) FROM generate_series(1, 20000) i)), 'r');

-- sagas: not while they run; then what they know goes, and what they did stays
SELECT event_store.define_saga('erase', '{"steps": [{"name": "a"}]}');
SELECT event_store.start_saga('erase', 's-1', '{"customer": "Ann"}');
SELECT last_sequence FROM event_store.append_event('Erase', 's-1', NULL, 'Named', '{"name": "Ann"}', saga_id => 's-1', event_id => pg_temp.id(51));
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Erase', 's-1', 'r')$$);
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('saga:erase', 's-1', 'r')$$);
SELECT event_store.report_step('erase', c.saga_id, c.step, 'succeeded', c.lease, '{"to": "Ann"}') FROM event_store.claim_steps('erase', 'x') c;
SELECT event_store.erase_aggregate('Erase', 's-1', 'saga');
SELECT event_type, payload - '{lease,deadline,not_before,queue_deadline,executor}'::text[] AS payload FROM event_store.load_events('saga:erase', 's-1');
SELECT state FROM event_store.saga_status WHERE saga_name = 'erase' AND saga_id = 's-1';

-- however a session is set
SELECT pg_temp.append('set-1', 71, '{"name": "Ann"}'), pg_temp.append('set-2', 72, '{"name": "Bob"}');
SELECT event_store.save_snapshot('Erase', i, 1, '{"name": "x"}'), event_store.put_view('erase_set', i, '{"name": "x"}') FROM unnest('{set-1,set-2}'::text[]) i;
BEGIN;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_nestloop = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_sort = off;
SET LOCAL work_mem = '64kB';
SET LOCAL jit = on;
SET LOCAL jit_above_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL min_parallel_index_scan_size = 0;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL constraint_exclusion = on;
SELECT event_store.erase_aggregate('Erase', 'set-1', 'set');
COMMIT;
SELECT aggregate_id, payload FROM event_store.domain_events WHERE aggregate_type = 'Erase' AND aggregate_id LIKE 'set-%' ORDER BY 1;
SELECT aggregate_id FROM event_store.snapshots WHERE aggregate_type = 'Erase' AND aggregate_id LIKE 'set-%' UNION ALL SELECT view_key FROM event_store.domain_views WHERE view_name = 'erase_set';
SELECT event_store.clear_view('erase_set');
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Erase';

-- who may: an admin
CREATE ROLE regress_erase_writer;
CREATE ROLE regress_erase_admin;
SELECT event_store.grant_access('regress_erase_writer', 'writer'), event_store.grant_access('regress_erase_admin', 'admin');
SET ROLE regress_erase_writer;
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r')$$);
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Erase', 'q-5', 'r')$$);
SELECT pg_temp.outcome($$SELECT event_store.erase_events('{"saga_id": "s"}', 'r')$$);
RESET ROLE;
SET ROLE regress_erase_admin;
SELECT event_store.erase_aggregate('Erase', 'q-5', 'admin');
SELECT erased_by FROM event_store.erasures WHERE reason = 'admin';
RESET ROLE;
DROP OWNED BY regress_erase_writer, regress_erase_admin;
DROP ROLE regress_erase_writer, regress_erase_admin;

-- The guard lets our statement through and nothing that runs in its midst: triggers before and after, of rows and of
-- statements, in PL/pgSQL and SQL; functions of columns and indexes; nor what comes after an error.  A trigger before
-- updates of rows is refused as such.
SELECT pg_temp.append('g-1', 61, '{"name": "Ann"}'), pg_temp.append('g-2', 62, '{"name": "Bob"}');
CREATE FUNCTION public.erase_attack() RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM event_store.domain_events WHERE aggregate_type = 'Erase' AND aggregate_id = 'g-2';
    RAISE EXCEPTION 'deleted';
END
$$;
CREATE FUNCTION public.erase_attack_update() RETURNS void
    LANGUAGE sql AS $$UPDATE event_store.domain_events SET payload = '{"name": "Eve"}' WHERE aggregate_type = 'Erase' AND aggregate_id = 'g-2'$$;
CREATE FUNCTION public.erase_trigger() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() = 1 THEN
        EXECUTE format('SELECT %s()', TG_ARGV[0]);
    END IF;
    RETURN NEW;
END
$$;
CREATE FUNCTION pg_temp.attack(events text, level text, attack text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE format('CREATE TRIGGER a_attack %s ON event_store.domain_events FOR EACH %s EXECUTE FUNCTION public.erase_trigger(%L)', events, level, attack);
    answer := pg_temp.outcome(format('SELECT event_store.redact_events(ARRAY[%L::uuid], ''attacked'')', pg_temp.id(61)));
    DROP TRIGGER a_attack ON event_store.domain_events;
    RETURN concat_ws(' ', events, level, attack, answer);
END
$$;
SELECT pg_temp.attack(e || ' UPDATE', l, a)
  FROM unnest('{BEFORE,AFTER}'::text[]) e, unnest('{ROW,STATEMENT}'::text[]) l, unnest('{public.erase_attack,public.erase_attack_update}'::text[]) a;
-- a function that only says that it is immutable
CREATE FUNCTION public.erase_index(payload jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF payload = '{}' THEN
        PERFORM public.erase_attack();
    END IF;
    RETURN 'x';
END
$$;
CREATE INDEX erase_attack_idx ON event_store.domain_events (public.erase_index(payload)) WHERE aggregate_type = 'Erase' AND aggregate_id = 'g-1';
SELECT pg_temp.outcome(format('SELECT event_store.redact_events(ARRAY[%L::uuid], ''attacked'')', pg_temp.id(61)));
DROP INDEX event_store.erase_attack_idx;
-- a rule is a part of the statement
CREATE RULE erase_attack AS ON UPDATE TO event_store.domain_events DO ALSO SELECT public.erase_attack();
SELECT pg_temp.outcome(format('SELECT event_store.redact_events(ARRAY[%L::uuid], ''attacked'')', pg_temp.id(61)));
DROP RULE erase_attack ON event_store.domain_events;
-- a trigger that keeps the row as it was
CREATE FUNCTION public.erase_keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER a_keep BEFORE UPDATE ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION public.erase_keep();
SELECT pg_temp.outcome(format('SELECT event_store.redact_events(ARRAY[%L::uuid], ''attacked'')', pg_temp.id(61)));
DROP TRIGGER a_keep ON event_store.domain_events;
DROP FUNCTION public.erase_keep;
SELECT aggregate_id, payload FROM pg_temp.log('g-1') l, LATERAL (VALUES ('g-1')) v (aggregate_id) UNION ALL SELECT 'g-2', payload FROM pg_temp.log('g-2');
SELECT count(*) FROM event_store.erasures WHERE reason = 'attacked';
-- and without attacks it goes; then nothing does
SELECT event_store.redact_events(ARRAY[pg_temp.id(61)], 'at last');
SELECT pg_temp.outcome($$DELETE FROM event_store.domain_events WHERE aggregate_type = 'Erase'$$);
SELECT pg_temp.outcome($$UPDATE event_store.domain_events SET payload = '{}' WHERE aggregate_type = 'Erase'$$);
SELECT event_store.is_log_change('event_store.domain_events'::regclass, 'UPDATE');
-- the catalog forgets the rule that was there
VACUUM event_store.domain_events;
DROP FUNCTION public.erase_attack, public.erase_attack_update, public.erase_trigger, public.erase_index;
-- nothing is left to do in the background of other tests
CALL event_store.scrub_erased();
