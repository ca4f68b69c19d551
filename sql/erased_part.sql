-- erased_part: events of which a part is erased say what is left of them; nothing is left of their aggregates' copies
\pset format unaligned
\pset null null
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
CREATE FUNCTION pg_temp.id(n int) RETURNS uuid LANGUAGE sql RETURN ('00000000-0000-4e1a-8000-' || lpad(n::text, 12, '0'))::uuid;
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN answer;
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
CREATE FUNCTION pg_temp.append(id text, n int, type text, payload jsonb, metadata jsonb DEFAULT NULL) RETURNS bigint
    LANGUAGE sql AS $$
    SELECT last_sequence FROM event_store.append_event('Part', id, NULL, type, payload, metadata, event_id => pg_temp.id(n), correlation_id => 'corr')
$$;
CREATE FUNCTION pg_temp.log(id text) RETURNS TABLE (sequence bigint, event_type text, payload jsonb, metadata text)
    LANGUAGE sql AS $$
    SELECT sequence, event_type, payload, regexp_replace(metadata::text, '"\$erased": "[0-9a-f-]{36}"', '"$erased": "ID"')
      FROM event_store.domain_events WHERE aggregate_type = 'Part' AND aggregate_id = id ORDER BY sequence
$$;

-- An event without a payload of its own, and one whose only member goes, are still told to reducers and views.
SELECT event_store.create_view_projection('part_rows', '{Part}', mode => 'inline', start_after => 0,
    rules => '{"events": {"Named": [{"op": "increment", "path": "$.named", "value": 1}], "Cancelled": [{"op": "set", "path": "$.cancelled", "value": true}]}}');
SELECT event_store.set_reducer_rules('Part', '{"events": {"Cancelled": [{"op": "set", "path": "$.cancelled", "value": true}], "Named": [{"op": "increment", "path": "$.named", "value": 1}]}}');
SELECT pg_temp.append('p-1', 1, 'Named', '{"name": "Ann"}'), pg_temp.append('p-1', 2, 'Cancelled', '{}', '{"ip": "10.0.0.1"}');
SELECT event_store.redact_events(ARRAY[pg_temp.id(1), pg_temp.id(2)], 'r', '{$.payload.name,$.metadata.ip}');
SELECT * FROM pg_temp.log('p-1');
SELECT state FROM event_store.replay_aggregate('Part', 'p-1');
SELECT view_data, version FROM event_store.domain_views WHERE view_name = 'part_rows';
-- the same parts again: there is nothing
SELECT event_store.redact_events(ARRAY[pg_temp.id(1), pg_temp.id(2)], 'r', '{$.payload.name,$.metadata.ip,$.metadata}');
SELECT event_store.redact_events(ARRAY[pg_temp.id(2)], 'r', '{$.correlation_id}');
SELECT * FROM pg_temp.log('p-1');
-- as a whole they are not
SELECT event_store.redact_events(ARRAY[pg_temp.id(2)], 'r');
SELECT event_store.redact_events(ARRAY[pg_temp.id(1)], 'r', '{$.payload,$.metadata}');
SELECT event_store.redact_events(ARRAY[pg_temp.id(1), pg_temp.id(2)], 'r');
SELECT * FROM pg_temp.log('p-1');
SELECT state FROM event_store.replay_aggregate('Part', 'p-1');

-- metadata that is no object keeps what is not erased, beside the mark
SELECT pg_temp.append('p-2', 11, 'Named', '{}', '["a", "b"]'), pg_temp.append('p-2', 12, 'Named', '{"name": "Ann"}', '7');
SELECT state FROM event_store.replay_aggregate('Part', 'p-2');
SELECT event_store.redact_events(ARRAY[pg_temp.id(11), pg_temp.id(12)], 'r', '{$.payload.name,$.metadata[0]}');
SELECT * FROM pg_temp.log('p-2');
SELECT outcome FROM event_store.append_event('Part', 'p-2', NULL, 'Named', '{"name": "Ann"}', '7', event_id => pg_temp.id(12), correlation_id => 'corr');
SELECT event_store.redact_events(ARRAY[pg_temp.id(11), pg_temp.id(12)], 'r');
SELECT * FROM pg_temp.log('p-2');

-- what does not do as a path, or in its place
SELECT pg_temp.outcome(format('SELECT event_store.redact_events(''{}'', ''r'', ARRAY[%L])', p)) FROM unnest(ARRAY['$.metadata."$erased"', '$.metadata."$partly"']) p;
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{$.correlation_id}', to_jsonb(repeat('x', 256)))$$);
SELECT pg_temp.outcome($$SELECT event_store.redact_events('{}', 'r', '{$.saga_id}', to_jsonb(repeat('x', 255)))$$);

-- what was announced stays
SELECT pg_temp.outcome(format('SELECT event_store.erase_aggregate(''store:erasure'', %L, ''r'', ''other'')', erasure_id)) FROM event_store.erasures ORDER BY erased_at DESC LIMIT 1;
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('store:erasure', 'x', 'r')$$);
-- a pseudonym that was deleted once is never new again
SELECT pg_temp.append('p-3', 21, 'Named', '{"name": "Ann"}');
SELECT pg_temp.append('tomb', 22, 'Named', '{"name": "Bob"}');
SELECT event_store.delete_aggregate('Part', 'tomb', 'r');
SELECT pg_temp.outcome($$SELECT event_store.erase_aggregate('Part', 'p-3', 'r', 'tomb')$$);
DELETE FROM event_store.closed_aggregates WHERE aggregate_type = 'Part';

-- letters of views that were settled; errors and reasons that tell of an event which is not the first of its batch or partition
SELECT pg_temp.append('p-4', 31, 'Named', '{"name": "Ann"}'), pg_temp.append('p-4', 32, 'Named', '{"name": "Ann Smith"}');
INSERT INTO event_store.dead_letter_history (letter_id, kind, aggregate_type, aggregate_id, view_name, view_key, error_code, error_message, attempts, failed_at, outcome, settled_by)
SELECT 1, 'view', 'part_free', k, 'part_free', k, 'XX000', 'Ann', 1, now(), 'discarded', 'x' FROM unnest('{p-4,p-5}'::text[]) k;
SELECT event_store.create_subscription(s, '{Part}', start_after => NULL, max_attempts => 9, on_failure => f, partition_by => p)
  FROM (VALUES ('part_stop', 'stop', 'aggregate'), ('part_park', 'park', 'aggregate'), ('part_name', 'park', '$.payload.name')) v (s, f, p);
SELECT pg_temp.append('p-4', 33, 'Named', '{"name": "Ann Jones"}'), pg_temp.append('p-4', 34, 'Named', '{"name": "Ann Jones"}');
SELECT global_position AS first FROM event_store.domain_events WHERE event_id = pg_temp.id(33) \gset
BEGIN;
SELECT count(*) FROM event_store.next_events('part_stop');
SELECT event_store.fail_events('part_stop', :first, 'one of them is Ann Jones');
COMMIT;
BEGIN;
SELECT count(*) FROM event_store.next_events('part_park');
SELECT event_store.fail_events('part_park', :first, 'the next one is Ann Jones');
COMMIT;
BEGIN;
SELECT count(*) FROM event_store.next_events('part_name');
SELECT event_store.fail_events('part_name', :first, 'it is Ann Jones', 'park');
COMMIT;
SELECT event_store.discard_parked_events('part_name', 'Ann Jones', 'Ann Jones asked for it');
CREATE FUNCTION pg_temp.known() RETURNS TABLE (what text, said text)
    LANGUAGE sql AS $$
    SELECT 'history', view_key FROM event_store.dead_letter_history WHERE view_name = 'part_free'
    UNION ALL SELECT 'stopped', last_error FROM event_store.subscription_positions WHERE subscription_name = 'part_stop' AND last_error IS NOT NULL
    UNION ALL SELECT 'parked', error_message FROM event_store.parked_events WHERE subscription_name = 'part_park'
    UNION ALL SELECT 'discarded', reason FROM event_store.discarded_events WHERE subscription_name = 'part_name'
    ORDER BY 1, 2
$$;
SELECT * FROM pg_temp.known();
SELECT event_store.redact_events(ARRAY[pg_temp.id(34)], 'r');
SELECT * FROM pg_temp.known();
SELECT event_store.redact_events(ARRAY[pg_temp.id(33)], 'r');
SELECT * FROM pg_temp.known();

SELECT event_store.drop_subscription(s) FROM unnest('{part_stop,part_park,part_name}'::text[]) s;
SELECT event_store.drop_projection('part_rows'), event_store.clear_view('part_rows') > 0;
DELETE FROM event_store.dead_letter_history WHERE view_name = 'part_free';
DELETE FROM event_store.reducers WHERE aggregate_type = 'Part';
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Part';
