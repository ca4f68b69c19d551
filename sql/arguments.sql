-- arguments: every bad input is refused by its name, every good one is kept
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;

-- how a statement is refused, or that it is not
CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    state text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN pg_catalog.concat_ws(E'\n  ', state || ' ' || message,
                                NULLIF('DETAIL ' || detail, 'DETAIL '),
                                NULLIF('HINT ' || hint, 'HINT '));
END
$$;

-- settings
SELECT name, boot_val, unit, min_val, max_val, enumvals, context
  FROM pg_settings WHERE name LIKE 'event\_store.%' ORDER BY name COLLATE "C";
SET event_store.durability = 'later';
SET event_store.on_staging_full = 'wait';
SET event_store.retry_max = 1;
ALTER SYSTEM SET event_store.retry_initial = '61s';
ALTER SYSTEM SET event_store.retry_max = '999ms';
SET event_store.misspelt = 1;

-- aggregate_type, aggregate_id, event_type: NULL, empty, too long
SELECT pg_temp.refused($$SELECT event_store.append_event(NULL, 'a', NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('', 'a', NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event(repeat('x', 256), 'a', NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', NULL, NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', '', NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', repeat('x', 256), NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, '')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, repeat(chr(233), 256))$$);
SELECT pg_temp.refused($$SELECT event_store.append_events(NULL, 'a', NULL, '{"event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', '', NULL, '{"event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', repeat('x', 256), NULL, '{"event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '[{"event_type": "Added"}, {"payload": {}}]')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '[{"event_type": "Added"}, {"event_type": ""}]')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    jsonb_build_array('{"event_type": "Added"}'::jsonb, jsonb_build_object('event_type', repeat('x', 256))))$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('{"aggregate_id": "a", "event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('{"aggregate_type": "Refused", "event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('{"aggregate_type": "", "aggregate_id": "a", "event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', ''], ARRAY['a', 'a'], ARRAY['Added', 'Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], ARRAY[repeat('x', 256)], ARRAY['Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], ARRAY['a'], ARRAY[''], NULL)$$);
-- the three optional names may be empty, but not long
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', correlation_id => repeat('x', 256))$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', causation_id => repeat('x', 256))$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', saga_id => repeat('x', 256))$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    jsonb_build_object('event_type', 'Added', 'saga_id', repeat('x', 256)))$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], ARRAY['a'], ARRAY['Added'], NULL,
    correlation_ids => ARRAY[repeat('x', 256)])$$);
-- reading checks the same names
SELECT pg_temp.refused($$SELECT event_store.load_events(NULL, 'a')$$);
SELECT pg_temp.refused($$SELECT event_store.load_events('Refused', '')$$);
SELECT pg_temp.refused($$SELECT event_store.aggregate_sequence('Refused', repeat('x', 256))$$);
-- 255 characters of one byte or of two are a name
SELECT last_sequence FROM event_store.append_event(repeat('x', 255), repeat('y', 255), 0, repeat('z', 255),
    correlation_id => repeat('c', 255), causation_id => repeat('d', 255), saga_id => '');
SELECT last_sequence FROM event_store.append_event(repeat(chr(233), 255), repeat(chr(234), 255), 0, repeat(chr(235), 255));
SELECT char_length(aggregate_type), char_length(aggregate_id), char_length(event_type),
       char_length(correlation_id), char_length(causation_id), saga_id = ''
  FROM event_store.domain_events WHERE aggregate_type ~ '^(x+|[^ -~]+)$' ORDER BY global_position;

-- view_name and view_key
SELECT pg_temp.refused($$SELECT event_store.put_view(NULL, 'k', '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.put_view('', 'k', '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.put_view(repeat('x', 256), 'k', '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.put_view('refused', NULL, '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.put_view('refused', '', '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.put_view('refused', repeat('x', 256), '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.put_view('refused', 'k', NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.put_view('refused', 'k', '{}', durability => 'maybe')$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', NULL, ARRAY['{}'::jsonb])$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY['k'], NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY['k', NULL], ARRAY['{}', '{}']::jsonb[])$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY['k', 'l'], ARRAY['{}', NULL]::jsonb[])$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY['k', ''], ARRAY['{}', '{}']::jsonb[])$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY['k', repeat('x', 256)], ARRAY['{}', '{}']::jsonb[])$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY['k', 'l'], ARRAY['{}']::jsonb[])$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY['k'], ARRAY['{}']::jsonb[], ARRAY[1, 2])$$);
SELECT pg_temp.refused($$SELECT event_store.put_views('refused', ARRAY[['k'], ['l']], ARRAY['{}', '{}']::jsonb[])$$);
SELECT pg_temp.refused($$SELECT event_store.delete_view('refused', NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.load_view(NULL, 'k')$$);
SELECT event_store.put_view(repeat(chr(233), 255), repeat(chr(234), 255), '1');
SELECT event_store.load_view(repeat(chr(233), 255), repeat(chr(234), 255));

-- events: not a list, an empty list, not objects
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, 'null')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '"Added"')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '[]')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '[{"event_type": "Added"}, "Added"]')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '[null]')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '[[{"event_type": "Added"}]]')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(NULL::jsonb)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('17')$$);
-- an empty batch is an empty result
SELECT count(*) FROM event_store.append_batch('[]');
SELECT count(*) FROM event_store.append_batch(ARRAY[]::text[], ARRAY[]::text[], ARRAY[]::text[], ARRAY[]::jsonb[]);

-- keys: unknown, misspelt, of the other function
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    '[{"event_type": "Added"}, {"event_type": "Added", "data": {}}]')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '{"event_type": "Added", "Payload": {}}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '{"event_type": "Added", "expected_sequence": 0}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '{"event_type": "Added", "payload_bytes": "AA=="}')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(
    '{"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added", "sequence": 1}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    jsonb_build_object('event_type', 'Added', repeat(chr(233), 60), 1))$$) = E'22023 event 1 has an unknown key: "'
    || repeat(chr(233), 50) || E'..."\n  HINT The keys of an event are event_type, payload, metadata, event_id, '
    'correlation_id, causation_id, saga_id, occurred_at, schema_version.';

-- the wrong JSON type for every key; payload and metadata take any
SELECT key, value, pg_temp.refused(format($$SELECT * FROM event_store.append_batch(%L)$$,
           '{"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added"}'::jsonb
           || jsonb_build_object(key, value)))
  FROM unnest(ARRAY['aggregate_type', 'aggregate_id', 'event_type', 'event_id', 'correlation_id', 'causation_id',
                    'saga_id', 'occurred_at']) WITH ORDINALITY k(key, k),
       unnest(ARRAY['1', 'true', '{}', '[]']::jsonb[]) WITH ORDINALITY v(value, v)
 ORDER BY k, v;
SELECT key, value, pg_temp.refused(format($$SELECT * FROM event_store.append_batch(%L)$$,
           '{"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added"}'::jsonb
           || jsonb_build_object(key, value)))
  FROM unnest(ARRAY['expected_sequence', 'schema_version']) WITH ORDINALITY k(key, k),
       unnest(ARRAY['"1"', 'true', '{}', '[1]', '1.5', '-0.1', '1e30', '9223372036854775808']::jsonb[])
       WITH ORDINALITY v(value, v)
 ORDER BY k, v;
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    '{"event_type": "Added", "schema_version": 2147483648}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    '{"event_type": "Added", "schema_version": -1}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', schema_version => -1)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], ARRAY['a'], ARRAY['Added'], NULL,
    schema_versions => ARRAY[-1])$$);

-- uuid and timestamp, malformed or unusable
SELECT value, pg_temp.refused(format($$SELECT event_store.append_events('Refused', 'a', NULL,
           jsonb_build_array('{"event_type": "Added"}'::jsonb,
                             jsonb_build_object('event_type', 'Added', 'event_id', %L::text)))$$, value))
  FROM unnest(ARRAY['', 'a', '0190163d-8694-739b-aea5-966c26f8ad9', '0190163d-8694-739b-aea5-966c26f8ad9g',
                    repeat('0', 33), repeat('0', 200)]) WITH ORDINALITY v(value, n)
 ORDER BY n;
SELECT value, pg_temp.refused(format($$SELECT event_store.append_events('Refused', 'a', NULL,
           jsonb_build_object('event_type', 'Added', 'occurred_at', %L::text))$$, value))
  FROM unnest(ARRAY['', 'soon', '2026-02-30', '999999-01-01', '2026-01-01 00:00 Nowhere/Town', 'infinity',
                    '-infinity', 'now', 'today', 'epoch', 'yesterday', 'allballs',
                    '2026-01-02', '2026-01-02T03:04:05', '2026-01-02 03:04:05', '2026-01-02T03:04:05 UTC',
                    '2026-01-02T03:04:05 Z', ' 2026-01-02T03:04:05Z', '2026-01-02T03:04:05Z ', '2026-01-02T03:04:05ZZ',
                    '01/02/2026 03:04:05Z', '02.01.2026 03:04:05Z', '20260102T030405Z', '2026-1-2T03:04:05Z',
                    '26-01-02T03:04:05Z', '+2026-01-02T03:04:05Z', '2026-01-02T3:04:05Z', '2026-01-02T03Z',
                    '2026-01-02T03:04:05,6Z', '2026-01-02T03:04:05.Z', '2026-01-02T03:04:5Z', '2026-W01-2T03:04:05Z',
                    '2026-01-02T03:04:05Z BC', '2026-01-02T03:04:05+1', '2026-01-02T03:04:05+01:',
                    '2026-01-02T03:04:05+01:0', '2026-01-02T03:04:05+01:00:00', '2026-01-02T03:04:05+16',
                    '2026-01-02T03:04:05+01:60', '2026-01-02T03:04:05-', '0000-01-02T03:04:05Z',
                    '2026-00-02T03:04:05Z', '2026-13-02T03:04:05Z', '2026-01-00T03:04:05Z', '2026-02-29T03:04:05Z',
                    '1900-02-29T03:04:05Z', '2026-01-02T25:00:00Z', '2026-01-02T24:00:01Z', '2026-01-02T03:60:05Z',
                    '2026-01-02T03:04:61Z', repeat('2026-01-02T03:04:05Z', 20)]) WITH ORDINALITY v(value, n)
 ORDER BY n;
SELECT pg_temp.refused($$SELECT event_store.append_batch('[
    {"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added"},
    {"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added", "occurred_at": "now"}]')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    '{"event_type": "Added", "occurred_at": 1767323045}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', occurred_at => 'infinity')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], NULL, occurred_at => ARRAY[NULL, '-infinity']::timestamptz[])$$);

-- expected_sequence
SELECT n, pg_temp.refused(format($$SELECT event_store.append_event('Refused', 'a', %s, 'Added')$$, n))
  FROM unnest(ARRAY[-1, -3, -5, -9223372036854775807]) n;
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', -1, '{"event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('[
    {"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added", "expected_sequence": 0},
    {"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added", "expected_sequence": -1}]')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], NULL, ARRAY[NULL, -3])$$);
-- NULL is any, unless the setting says that one is given; then any is -2
SET event_store.require_expected_sequence = on;
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '{"event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('[
    {"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added", "expected_sequence": -2},
    {"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added", "expected_sequence": null}]')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('{"aggregate_type": "Refused", "aggregate_id": "a", "event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], ARRAY['a'], ARRAY['Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], NULL, ARRAY[0, NULL])$$);
SELECT event_store.aggregate_sequence('Refused', 'a');
RESET event_store.require_expected_sequence;

-- arrays: lengths, NULL, dimensions
SELECT name, pg_temp.refused(format($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], %s
    event_types => ARRAY['Added'], payloads => ARRAY['{}']::jsonb[] %s)$$,
    CASE name WHEN 'aggregate_ids' THEN 'aggregate_ids => ARRAY[''a'', ''b''],' ELSE 'aggregate_ids => ARRAY[''a''],' END,
    CASE name WHEN 'aggregate_ids' THEN '' ELSE format(', %s => %s', name, value) END))
  FROM (VALUES ('aggregate_ids', NULL),
               ('expected_sequences', 'ARRAY[1, 2]'),
               ('metadata', 'ARRAY[''{}'', ''{}'']::jsonb[]'),
               ('event_ids', 'ARRAY[gen_random_uuid(), gen_random_uuid()]'),
               ('correlation_ids', 'ARRAY[''1'', ''2'']'),
               ('causation_ids', 'ARRAY[''1'', ''2'']'),
               ('saga_ids', 'ARRAY[''1'', ''2'']'),
               ('occurred_at', 'ARRAY[now(), now()]'),
               ('payload_bytes', 'ARRAY[NULL, ''\x00'']::bytea[]'),
               ('schema_versions', 'ARRAY[]::int[]')) v(name, value);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], ARRAY['a'], ARRAY['Added', 'Added'],
    NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], ARRAY['{}']::jsonb[])$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(NULL, ARRAY['a'], ARRAY['Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], NULL, ARRAY['Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused'], ARRAY['a'], NULL, NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', NULL], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY[NULL, 'a'],
    ARRAY['Added', 'Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused', 'Refused'],
    ARRAY['a', 'a', 'a'], ARRAY['Added', 'Added', NULL], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY[['Refused'], ['Refused']], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], NULL)$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], ARRAY[['{}'], ['{}']]::jsonb[])$$);

-- payloads: both, none, bytes that are not text, \u0000
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', '{}', payload_bytes => '\x00')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], ARRAY[NULL, '{}']::jsonb[], payload_bytes => ARRAY['\x00', '\x01']::bytea[])$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', '{"name": "\u0000"}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '{"event_type": "\u0000"}')$$);
SELECT pg_temp.refused($$SELECT event_store.put_view('refused', 'k', '"\u0000"')$$);
-- 256 MB: bytes are refused here, jsonb by its own constructor
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added',
    payload_bytes => convert_to(repeat('x', 256 * 1024 * 1024), 'UTF8'))$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Refused', 'Refused'], ARRAY['a', 'a'],
    ARRAY['Added', 'Added'], NULL, payload_bytes => ARRAY['', convert_to(repeat('x', 256 * 1024 * 1024), 'UTF8')])$$);
SELECT left(pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added',
    to_jsonb(repeat('x', 256 * 1024 * 1024)))$$), 5);
SELECT left(pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL,
    jsonb_build_object('event_type', 'Added', 'payload', repeat('x', 256 * 1024 * 1024)))$$), 5);
SELECT left(pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Refused'], ARRAY['a'], ARRAY['Added'],
    ARRAY[to_jsonb(repeat('x', 256 * 1024 * 1024))])$$), 5);

-- words
SELECT pg_temp.refused($$SELECT event_store.append_event('Refused', 'a', NULL, 'Added', durability => 'Staged')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Refused', 'a', NULL, '{"event_type": "Added"}', '')$$);
SELECT pg_temp.refused($$SELECT * FROM event_store.append_batch('[]', durability => 'durable ')$$);
SELECT left(pg_temp.refused($$SELECT * FROM event_store.append_batch('[]', 'ignore')$$), 5);

-- timeouts; flush() runs in no transaction block, so not in refused()
SELECT event_store.flush('1 hour');
\echo :SQLSTATE
SELECT event_store.flush('600.000001 s');
\echo :SQLSTATE
SELECT event_store.flush('1 day -23 hours');
\echo :SQLSTATE
SELECT event_store.flush('1 month');
\echo :SQLSTATE
SELECT event_store.flush('5000000');
\echo :SQLSTATE
SELECT event_store.flush('-1 s');
\echo :SQLSTATE
SELECT event_store.flush('10 minutes');
SELECT event_store.flush('1 day -1439 minutes');

-- nothing of all this was written
SELECT count(*) FROM event_store.domain_events WHERE aggregate_type IN ('Refused', '');
SELECT count(*) FROM event_store.load_events('Refused', 'a');
SELECT count(*) FROM event_store.load_view_keys('refused');

-- everything given, in each of the four shapes
SELECT last_sequence, outcome FROM event_store.append_event('Given', 'scalar', 0, 'Added',
    '{"n": 1}', '{"by": "me"}', '0190163d-8694-739b-aea5-966c26f8ad91', 'c1', 'c2', 's1',
    '2026-01-02 03:04:05.678901+00', NULL, 7, 'durable');
SELECT last_sequence, outcome FROM event_store.append_events('Given', 'list', 0, '[{"event_type": "Added",
    "payload": {"n": 1}, "metadata": {"by": "me"}, "event_id": "0190163d8694739baea5966c26f8ad92",
    "correlation_id": "c1", "causation_id": "c2", "saga_id": "s1",
    "occurred_at": "2026-01-02T05:04:05.678901+02:00", "schema_version": 7.00}]', 'durable');
SELECT ordinal, event_id, sequence, outcome FROM event_store.append_batch('{"aggregate_type": "Given",
    "aggregate_id": "object", "expected_sequence": 0, "event_type": "Added",
    "payload": {"n": 1}, "metadata": {"by": "me"}, "event_id": "{0190163D-8694-739B-AEA5-966C26F8AD93}",
    "correlation_id": "c1", "causation_id": "c2", "saga_id": "s1",
    "occurred_at": "2026-01-02T03:04:05.678901Z", "schema_version": 7}');
SELECT ordinal, event_id, sequence, outcome FROM event_store.append_batch(ARRAY['Given'], ARRAY['arrays'],
    ARRAY['Added'], ARRAY['{"n": 1}']::jsonb[], ARRAY[0], ARRAY['{"by": "me"}']::jsonb[],
    ARRAY['0190163d-8694-739b-aea5-966c26f8ad94']::uuid[], ARRAY['c1'], ARRAY['c2'], ARRAY['s1'],
    ARRAY['2026-01-02 03:04:05.678901+00']::timestamptz[], NULL, ARRAY[7], 'error', 'durable');
SELECT count(*), count(DISTINCT event_id), event_type, payload, payload_bytes, metadata, correlation_id, causation_id,
       saga_id, occurred_at AT TIME ZONE 'UTC', schema_version
  FROM event_store.domain_events WHERE aggregate_type = 'Given'
 GROUP BY 3, 4, 5, 6, 7, 8, 9, 10, 11;

-- nothing given, in each of the four shapes; a JSON null and a NULL element are not given
SELECT last_sequence FROM event_store.append_event('Bare', 'scalar', NULL, 'Added', schema_version => NULL);
SELECT last_sequence FROM event_store.append_events('Bare', 'list', NULL, '{"event_type": "Added",
    "payload": null, "metadata": null, "event_id": null, "correlation_id": null, "causation_id": null,
    "saga_id": null, "occurred_at": null, "schema_version": null}');
SELECT sequence FROM event_store.append_batch('[{"aggregate_type": "Bare", "aggregate_id": "object",
    "event_type": "Added", "expected_sequence": null}]');
SELECT sequence FROM event_store.append_batch(ARRAY['Bare', 'Bare'], ARRAY['arrays', 'arrays'],
    ARRAY['Added', 'Added'], ARRAY[NULL, NULL]::jsonb[], ARRAY[NULL, 1], ARRAY[NULL, NULL]::jsonb[],
    ARRAY[NULL, NULL]::uuid[], ARRAY[NULL, NULL], ARRAY[NULL, NULL], ARRAY[NULL, NULL],
    ARRAY[NULL, NULL]::timestamptz[], ARRAY[NULL, NULL]::bytea[], ARRAY[NULL, NULL]::int[], NULL, NULL);
SELECT count(*), count(DISTINCT event_id), payload, payload_bytes, metadata, correlation_id, causation_id, saga_id,
       occurred_at = recorded_at, schema_version
  FROM event_store.domain_events WHERE aggregate_type = 'Bare'
 GROUP BY 3, 4, 5, 6, 7, 8, 9, 10;

-- times in JSON: ISO 8601 with an offset, the same whatever the session has set
CREATE TEMP TABLE times (n int GENERATED ALWAYS AS IDENTITY, value text);
INSERT INTO times (value) VALUES ('2026-01-02T03:04:05Z'), ('2026-01-02t03:04:05z'), ('2026-01-02 03:04:05+00'),
    ('2026-01-02T03:04Z'), ('2026-01-02T03:04:05.6Z'), ('2026-01-02T03:04:05.123456Z'), ('2026-01-02T03:04:05.1234567Z'),
    ('2026-01-02T03:04:05.123456499Z'), ('2026-12-31T23:59:59.9999999Z'), ('2026-01-02T03:04:05+02'),
    ('2026-01-02T03:04:05-0230'), ('2026-01-02T03:04:05+05:45'), ('2026-01-02T03:04:05-00:00'),
    ('2026-01-02T24:00:00Z'), ('2026-12-31T23:59:60Z'), ('2024-02-29T00:00:00+15:59'), ('0001-01-01T00:00:00Z'),
    ('9999-12-31T23:59:59-15:59');
SET timezone = 'Pacific/Chatham';
SET datestyle = 'SQL, DMY';
SELECT first_sequence, last_sequence FROM event_store.append_events('Time', 'dmy', 0,
    (SELECT jsonb_agg(jsonb_build_object('event_type', 'Added', 'occurred_at', value) ORDER BY n) FROM times));
SELECT first_sequence, last_sequence FROM event_store.append_events('Time', 'to_jsonb', 0,
    jsonb_build_object('event_type', 'Added', 'occurred_at', timestamptz '2026-01-02 03:04:05.678+00'));
SET timezone = 'America/Lima';
SET datestyle = 'German, YMD';
SELECT count(*), max(sequence) FROM event_store.append_batch(
    (SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Time', 'aggregate_id', 'ymd', 'event_type', 'Added',
                                         'occurred_at', value) ORDER BY n) FROM times));
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';
SELECT t.value, a.occurred_at, a.occurred_at = b.occurred_at, a.occurred_at = t.value::timestamptz
  FROM times t
  JOIN event_store.load_events('Time', 'dmy') a ON a.sequence = t.n
  JOIN event_store.load_events('Time', 'ymd') b ON b.sequence = t.n
 ORDER BY t.n;
SELECT occurred_at FROM event_store.load_events('Time', 'to_jsonb');
RESET timezone;
RESET datestyle;

-- payloads of every JSON type, and bytes
SELECT last_sequence FROM event_store.append_events('Payload', 'json', 0, '[
    {"event_type": "A", "payload": [1, [2, {"x": null}]], "metadata": [null]},
    {"event_type": "B", "payload": "text", "metadata": "text"},
    {"event_type": "C", "payload": 1.50, "metadata": 0},
    {"event_type": "D", "payload": false, "metadata": true},
    {"event_type": "E", "payload": {"a": {"b": ["c", {}]}, "event_type": "inner"}, "metadata": {}},
    {"event_type": "F", "payload": ""}]');
SELECT event_type, payload, metadata FROM event_store.load_events('Payload', 'json');
SELECT ordinal, sequence FROM event_store.append_batch(ARRAY['Payload', 'Payload'], ARRAY['bytes', 'bytes'],
    ARRAY['Added', 'Added'], ARRAY[NULL, '[]']::jsonb[], payload_bytes => ARRAY['\x00ff', NULL]::bytea[]);
SELECT last_sequence FROM event_store.append_event('Payload', 'bytes', 2, 'Added', payload_bytes => '');
SELECT payload, payload_bytes, payload_bytes = '' FROM event_store.load_events('Payload', 'bytes');
-- from a table, where they are compressed and out of line
CREATE TEMP TABLE large AS
    SELECT jsonb_build_object('text', repeat('0123456789', 1000)) AS payload,
           (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i) AS bytes;
SELECT last_sequence FROM large, event_store.append_event('Payload', 'table', 0, 'Added', payload, metadata => payload);
SELECT last_sequence FROM large, event_store.append_event('Payload', 'table', 1, 'Added',
    payload_bytes => convert_to(bytes, 'UTF8'));
SELECT e.payload = l.payload, e.metadata = l.payload, e.payload_bytes = convert_to(l.bytes, 'UTF8')
  FROM large l, event_store.load_events('Payload', 'table') e;
-- 50 MB
SELECT last_sequence FROM event_store.append_event('Payload', 'large', 0, 'Added',
    jsonb_build_object('text', repeat('x', 50 * 1024 * 1024)));
SELECT last_sequence FROM event_store.append_events('Payload', 'large', 1, jsonb_build_object('event_type', 'Added',
    'payload', jsonb_build_object('text', repeat('y', 50 * 1024 * 1024))));
SELECT last_sequence FROM event_store.append_event('Payload', 'large', 2, 'Added',
    payload_bytes => convert_to(repeat('z', 50 * 1024 * 1024), 'UTF8'), durability => 'staged');
SELECT event_store.flush('60 s');
SELECT sequence, global_position IS NOT NULL, length(payload ->> 'text'), octet_length(payload_bytes)
  FROM event_store.load_events('Payload', 'large');

-- a NULL durability is the setting
SET event_store.durability = 'staged';
SELECT last_sequence, durable FROM event_store.append_event('Word', 'a', 0, 'Added');
SELECT last_sequence, durable FROM event_store.append_event('Word', 'b', 0, 'Added', durability => 'durable');
RESET event_store.durability;
SELECT last_sequence, durable FROM event_store.append_event('Word', 'c', 0, 'Added');
SELECT last_sequence, durable FROM event_store.append_event('Word', 'd', 0, 'Added', durability => 'staged');
SELECT event_store.flush('60 s');

-- each kind of call in each durability, in transactions and savepoints that roll back
CREATE FUNCTION pg_temp.write_all(durability text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM event_store.append_event('Undone', 'undone_arguments', 0, 'Added', durability => durability);
    PERFORM event_store.append_events('Undone', 'undone_arguments', 1, '[{"event_type": "Added"}, {"event_type": "Added"}]',
                                      durability);
    PERFORM FROM event_store.append_batch('{"aggregate_type": "Undone", "aggregate_id": "undone_arguments",
                                          "event_type": "Added", "expected_sequence": 3}', durability => durability);
    PERFORM FROM event_store.append_batch(ARRAY['Undone'], ARRAY['undone_arguments'], ARRAY['Added'], NULL, ARRAY[4],
                                          durability => durability);
    PERFORM event_store.put_view('undone_arguments', 'put', '1', 1, durability);
    PERFORM event_store.put_views('undone_arguments', ARRAY['put', 'put 2'], ARRAY['2', '3']::jsonb[], ARRAY[2, 2], durability);
    PERFORM event_store.delete_view('undone_arguments', 'before', durability);
END
$$;
CREATE FUNCTION pg_temp.what_is_there() RETURNS SETOF text
    LANGUAGE sql
AS $$
    SELECT format('%s: %s events loaded, %s in the log, last sequence %s', i,
                  (SELECT count(*) FROM event_store.load_events('Undone', i)),
                  (SELECT count(*) FROM event_store.domain_events e
                    WHERE e.aggregate_type = 'Undone' AND e.aggregate_id = i),
                  event_store.aggregate_sequence('Undone', i))
      FROM unnest(ARRAY['undone_arguments', 'kept']) i
    UNION ALL
    SELECT format('views: %s loaded, %s in the table',
                  (SELECT string_agg(format('%s v%s', v.view_key, v.version), ', ' ORDER BY v.view_key)
                     FROM event_store.load_views('undone_arguments') v),
                  (SELECT string_agg(format('%s v%s', v.view_key, v.version), ', ' ORDER BY v.view_key)
                     FROM event_store.domain_views v WHERE v.view_name = 'undone_arguments'))
$$;
SELECT event_store.put_view('undone_arguments', 'before', '0', 8);

BEGIN;
SELECT pg_temp.write_all('staged');
SELECT pg_temp.what_is_there();
ROLLBACK;
SELECT pg_temp.what_is_there();

BEGIN;
SELECT pg_temp.write_all('durable');
SELECT pg_temp.what_is_there();
ROLLBACK;
SELECT pg_temp.what_is_there();

BEGIN;
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 0, 'Added', durability => 'staged');
SAVEPOINT s;
SELECT pg_temp.write_all('staged');
ROLLBACK TO SAVEPOINT s;
SELECT pg_temp.what_is_there();
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 1, 'Added', durability => 'staged');
COMMIT;
SELECT event_store.flush('60 s');
SELECT pg_temp.what_is_there();

BEGIN;
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 2, 'Added', durability => 'staged');
SAVEPOINT s;
SELECT pg_temp.write_all('durable');
ROLLBACK TO SAVEPOINT s;
SELECT pg_temp.what_is_there();
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 3, 'Added', durability => 'staged');
COMMIT;
SELECT event_store.flush('60 s');
SELECT pg_temp.what_is_there();

BEGIN;
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 4, 'Added', durability => 'durable');
SAVEPOINT s;
SELECT pg_temp.write_all('staged');
ROLLBACK TO SAVEPOINT s;
SELECT pg_temp.what_is_there();
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 5, 'Added', durability => 'durable');
COMMIT;
SELECT event_store.flush('60 s');
SELECT pg_temp.what_is_there();

BEGIN;
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 6, 'Added', durability => 'durable');
SAVEPOINT s;
SELECT pg_temp.write_all('durable');
ROLLBACK TO SAVEPOINT s;
SELECT pg_temp.what_is_there();
SELECT last_sequence FROM event_store.append_event('Undone', 'kept', 7, 'Added', durability => 'durable');
COMMIT;
SELECT event_store.flush('60 s');
SELECT pg_temp.what_is_there();

-- and once more after all that: the same calls, committed
SELECT pg_temp.write_all('staged');
SELECT event_store.flush('60 s');
SELECT pg_temp.what_is_there();
SELECT staged_events, staged_views FROM event_store.staging_status;
SELECT count(*) FROM event_store.dead_letters WHERE aggregate_type IN ('Undone', 'undone_arguments');

-- an error in the middle of a transaction undoes what was appended before it
BEGIN;
SELECT last_sequence FROM event_store.append_event('Undone', 'error', 0, 'Added', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Undone', 'error', 1, '');
COMMIT;
SELECT count(*), event_store.aggregate_sequence('Undone', 'error') FROM event_store.load_events('Undone', 'error');

-- what makes projections, retention and rights names the argument as well
SELECT pg_temp.refused($$SELECT event_store.project('nothing', max_events => -1)$$);
SELECT pg_temp.refused($$SELECT event_store.replace_projection('nothing', '{Order,""}', NULL, NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.replace_projection('nothing', ARRAY[repeat('x', 256)], NULL, NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.set_retention('Refused', closed_by => '{}')$$);
SELECT pg_temp.refused($$SELECT event_store.set_retention('Refused', closed_by => '{Closed,""}')$$);
SELECT pg_temp.refused($$SELECT event_store.grant_access(0::regrole, 'reader')$$);
SELECT pg_temp.refused($$SELECT event_store.grant_access(4294967295::regrole, 'reader')$$);
SELECT pg_temp.refused($$SELECT event_store.create_store(owner => 0::regrole)$$);
SELECT pg_temp.refused($$SELECT event_store.create_store(archive_tablespace => '')$$);
SELECT pg_temp.refused($$SELECT event_store.define_saga('refused', '{"steps": [{"name": "a", "handler": "shop.no_such"}]}')$$);
