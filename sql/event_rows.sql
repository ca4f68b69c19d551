-- event_rows: which rows an event belongs to, by every kind of key, and what keys are refused
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_store;
SELECT event_store.create_store();
-- long lines, which padding would make unreadable
\pset format unaligned

-- An event as load_events would give it.
CREATE FUNCTION pg_temp.event(payload jsonb, event_type text DEFAULT 'Made') RETURNS event_store.event
    LANGUAGE sql AS $$
    SELECT jsonb_populate_record(NULL::event_store.event, jsonb_build_object(
        'global_position', 7, 'aggregate_type', 'Order', 'aggregate_id', 'o-1', 'sequence', 3, 'event_type', event_type, 'schema_version', 1,
        'event_id', 'aaaaaaaa-0000-4000-8000-000000000001', 'payload', payload, 'metadata', '{"user": "ada"}'::jsonb,
        'occurred_at', '2024-02-29 23:59:59.5+00', 'recorded_at', '2024-03-01 00:00:01+00'));
$$;

-- The keys of its rows, or the SQLSTATE, message and hint.
CREATE FUNCTION pg_temp.keys(key jsonb, event event_store.event) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    RETURN coalesce((SELECT string_agg(quote_literal(k), ' ' ORDER BY n)
                       FROM event_store.view_keys(event, key) WITH ORDINALITY r (k, n)), 'no row');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN sqlstate || ' ' || sqlerrm || CASE hint WHEN '' THEN '' ELSE E'\n  ' || hint END;
END
$$;

--
-- One row
--
SELECT n, key, pg_temp.keys(key, pg_temp.event('{"a": "x", "n": 1.50, "t": true, "null": null, "o": {"a": 1}, "l": ["u", "v"], "e": ""}')) FROM (VALUES
    (1, NULL::jsonb),
    (2, '"$.aggregate_id"'),
    (3, '"$.payload.a"'),
    (4, '"$.payload.n"'),
    (5, '"$.payload.t"'),
    (6, '"$.payload.null"'),
    (7, '"$.payload.o"'),
    (8, '"$.payload.l"'),
    (9, '"$.payload.l[-1]"'),
    (10, '"$.payload.e"'),
    (11, '"$.payload.missing"'),
    (12, '"$.payload"'),
    (13, '"$.metadata.user"'),
    (14, '"$.correlation_id"'),
    (15, '"$.sequence"'),
    (16, '"$.event_id"'),
    (17, '"$.occurred_at"'),
    (18, '{"concat": ["$.payload.a", {"value": "/"}, "$.payload.n", {"value": 2}, {"value": false}]}'),
    (19, '{"concat": ["$.payload.a", "$.payload.missing"]}'),
    (20, '{"concat": [{"value": ""}]}'),
    (21, '{"concat": [{"concat": ["$.payload.a"]}, {"day": "$.occurred_at"}]}')) k (n, key)
 ORDER BY n;

--
-- Times
--
SET timezone = 'Asia/Kolkata';
SET datestyle = 'German';
SELECT n, key, at, pg_temp.keys(key, pg_temp.event(jsonb_build_object('at', at))) FROM (VALUES
    (1, '{"day": "$.payload.at"}'::jsonb, '"2024-02-29T23:30:00Z"'::jsonb),
    (2, '{"day": "$.payload.at", "zone": "UTC"}', '"2024-02-29T23:30:00-02:00"'),
    (3, '{"day": "$.payload.at", "zone": "Europe/Berlin"}', '"2024-02-29T23:30:00Z"'),
    (4, '{"hour": "$.payload.at", "zone": "Europe/Berlin"}', '"2024-02-29T23:30:00Z"'),
    (5, '{"month": "$.payload.at", "zone": "America/New_York"}', '"2024-03-01T02:00:00Z"'),
    (6, '{"hour": "$.payload.at", "zone": "Europe/Berlin"}', '"2024-10-27T00:30:00Z"'),
    (7, '{"hour": "$.payload.at", "zone": "Europe/Berlin"}', '"2024-10-27T01:30:00Z"'),
    (8, '{"hour": "$.occurred_at"}', 'null'),
    (9, '{"month": "$.recorded_at"}', 'null'),
    (10, '{"day": "$.payload.at"}', '"0001-01-01T00:00Z"'),
    (11, '{"day": "$.payload.at"}', 'null'),
    (12, '{"day": "$.payload.missing"}', 'null'),
    (13, '{"day": "$.payload.at"}', '"2024-02-30T00:00:00Z"'),
    (14, '{"day": "$.payload.at"}', '"2024-02-29"'),
    (20, '{"month": "$.payload.at", "zone": "America/New_York"}', '"2024-03-01"'),
    (21, '{"hour": "$.payload.at"}', '"2024-02-29"'),
    (22, '{"day": "$.payload.at"}', '"2024-02-30"'),
    (15, '{"day": "$.payload.at"}', '"2024-02-29T23:30:00"'),
    (16, '{"day": "$.payload.at"}', '"tomorrow"'),
    (17, '{"day": "$.payload.at"}', '"infinity"'),
    (18, '{"day": "$.payload.at"}', '1709251200'),
    (19, '{"day": "$.payload.at"}', '[]')) t (n, key, at)
 ORDER BY n;
RESET timezone;
RESET datestyle;

--
-- By type, several, each
--
SELECT n, key, type, pg_temp.keys(key, pg_temp.event(payload, type)) FROM (VALUES
    (1, '{"by_type": {"Placed": "$.payload.a", "Left": null}}'::jsonb, 'Placed', '{"a": "x"}'::jsonb),
    (2, '{"by_type": {"Placed": "$.payload.a", "Left": null}}', 'Left', '{"a": "x"}'),
    (3, '{"by_type": {"Placed": "$.payload.a", "Left": null}}', 'Other', '{"a": "x"}'),
    (4, '{"by_type": {"Placed": "$.payload.a", "Left": null, "*": "$.aggregate_id"}}', 'Left', '{"a": "x"}'),
    (5, '{"by_type": {"Placed": "$.payload.a", "Left": null, "*": "$.aggregate_id"}}', 'Other', '{"a": "x"}'),
    (6, '{"by_type": {}}', 'Other', '{"a": "x"}'),
    (7, '["$.payload.from", "$.payload.to"]', 'Moved', '{"from": "x", "to": "y"}'),
    (8, '["$.payload.from", "$.payload.to"]', 'Moved', '{"from": "x", "to": "x"}'),
    (9, '["$.payload.from", "$.payload.to"]', 'Moved', '{"to": "y"}'),
    (10, '["$.payload.from", ["$.payload.to", "$.aggregate_id"]]', 'Moved', '{"from": "o-1", "to": "y"}'),
    (11, '{"each": "$.payload.tags"}', 'Tagged', '{"tags": ["b", "a", 3, true, "b", null, {"x": 1}, ["y"], ""]}'),
    (12, '{"each": "$.payload.tags"}', 'Tagged', '{"tags": "b"}'),
    (13, '{"each": "$.payload.tags"}', 'Tagged', '{"tags": {"a": "b"}}'),
    (14, '{"each": "$.payload.tags"}', 'Tagged', '{}'),
    (15, '{"each": "$.payload.lines", "key": "$.item.sku"}', 'Placed', '{"lines": [{"sku": "tea", "n": 2}, {"sku": "mug"}, {"n": 1}, 5, {"sku": "tea", "n": 1}]}'),
    (16, '{"each": "$.payload.lines", "key": {"concat": ["$.payload.shop", {"value": ":"}, "$.item.sku"]}}', 'Placed', '{"shop": 4, "lines": [{"sku": "tea"}, {"sku": "mug"}]}'),
    (17, '{"each": "$.payload.lines", "key": {"day": "$.item"}}', 'Placed', '{"lines": ["2024-02-29T00:00Z"]}'),
    (18, '[{"each": "$.payload.tags"}, "$.payload.tag", {"by_type": {"Tagged": {"each": "$.payload.more"}}}]', 'Tagged', '{"tags": ["a"], "tag": "a", "more": ["c", "a"]}')) t (n, key, type, payload)
 ORDER BY n;

--
-- Too long; how long is counted in characters
--
SELECT length(substring(pg_temp.keys('"$.payload.a"', pg_temp.event(jsonb_build_object('a', repeat('é', 255)))) FROM 'é+')) AS fits,
       pg_temp.keys('"$.payload.a"', pg_temp.event(jsonb_build_object('a', repeat('é', 256)))) AS too_long,
       pg_temp.keys('{"concat": ["$.payload.a", "$.aggregate_id"]}', pg_temp.event(jsonb_build_object('a', repeat('e', 253)))) AS too_long_together;

--
-- Refused
--
SELECT n, key, pg_temp.keys(key, pg_temp.event('{}')) FROM (VALUES
    (1, 'null'::jsonb),
    (2, '1'),
    (3, 'true'),
    (4, '[]'),
    (5, '{}'),
    (6, '"payload.a"'),
    (7, '"$.payloads.a"'),
    (8, '"$.sequence.a"'),
    (9, '"$.payload_bytes"'),
    (10, '"$.item"'),
    (11, '"$"'),
    (12, '"{\"each\": \"$.payload.a\"}"'),
    (13, '"\"$.payload.a\""'),
    (14, '["$.payload.a", null]'),
    (15, '["$.payload.a", {"every": "$.payload.b"}]'),
    (16, '{"each": "$.payload.a", "sticky": "$.payload.b"}'),
    (17, '{"by_type": []}'),
    (18, '{"by_type": {"": "$.payload.a"}}'),
    (19, '{"by_type": {"Placed": "$.payload.a", "Shipped": {"concat": ["$.payload.a", 1]}}}'),
    (20, '{"each": "$.payload.a", "key": ["$.item"]}'),
    (21, '{"each": "$.payload.a", "key": {"each": "$.item"}}'),
    (22, '{"each": "$.payload.a", "key": "$.items"}'),
    (23, '{"each": ["$.payload.a"]}'),
    (24, '{"concat": []}'),
    (25, '{"concat": "$.payload.a"}'),
    (26, '{"concat": [{"each": "$.payload.a"}]}'),
    (27, '{"concat": [{"by_type": {}}]}'),
    (28, '{"concat": [["$.payload.a"]]}'),
    (29, '{"concat": [{"value": null}]}'),
    (30, '{"value": "a"}'),
    (31, '["$.payload.a", {"value": "a"}]'),
    (32, '{"day": "$.payload.a", "zone": "Mars/Olympus"}'),
    (33, '{"day": "$.payload.a", "zone": 1}'),
    (34, '{"day": "payload.a"}'),
    (35, '{"hour": "$.payload.a", "key": "$.payload.b"}'),
    (36, '{"each": "$.payload.a", "zone": "UTC"}'),
    (37, '{"sticky": "$.payloads.a"}'),
    (38, '{"sticky": {"each": "$.payload.a"}}'),
    (39, '{"each": "$.payload.a", "key": {"sticky": "$.item"}}'),
    (40, '{"lookup": "orders"}'),
    (41, '{"lookup": {"view": "orders", "key": "$.payload.a"}}'),
    (42, '{"lookup": {"view": "orders", "key": "$.payload.a", "path": "$.b", "zone": "UTC"}}'),
    (43, '{"lookup": {"view": "", "key": "$.payload.a", "path": "$.b"}}'),
    (44, '{"lookup": {"view": "orders", "key": ["$.payload.a"], "path": "$.b"}}'),
    (45, '{"lookup": {"view": "orders", "key": "$.payloads.a", "path": "$.b"}}'),
    (46, '{"lookup": {"view": "orders", "key": "$.payload.a", "path": "b"}}'),
    -- right, and not for this function
    (47, '{"sticky": "$.payload.a"}'),
    (48, '{"by_type": {"Placed": {"each": "$.payload.a", "key": {"concat": [{"sticky": "$.payload.b"}, "$.item"]}}}}'),
    (49, '{"concat": [{"lookup": {"view": "orders", "key": {"concat": ["$.payload.a"]}, "path": "$.b[0].\"c d\""}}]}')) k (n, key)
 ORDER BY n;
SELECT event_store.view_keys(pg_temp.event('{"a": 1}'), (repeat('[', 5000) || '"$.payload.a"' || repeat(']', 5000))::jsonb) IS NOT NULL AS deep;

--
-- Events that are none
--
SELECT count(*) AS no_event FROM event_store.view_keys(NULL, '"$.payload.a"');
SELECT event_store.view_keys(ROW(NULL, 'Order', 'o-1', 1, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::event_store.event, '"$.payload.a"');
-- with payload_bytes
SELECT pg_temp.keys(key, ROW(NULL, 'Order', 'o-1', 1, NULL, 'Made', 1, NULL, '\x00', NULL, NULL, NULL, NULL, NULL, NULL)::event_store.event)
  FROM (VALUES ('"$.payload.a"'::jsonb), (NULL), ('{"day": "$.occurred_at"}')) k (key);

--
-- As a user asks: which rows the events of a store belong to
--
SELECT count(*) FROM event_store.append_events('Placed', 'p-1', 0, '[
    {"event_type": "OrderPlaced", "payload": {"customer": "ada", "lines": [{"sku": "tea"}, {"sku": "mug"}]}},
    {"event_type": "OrderShipped", "payload": {"carrier": "post"}}]');
SELECT e.sequence, k
  FROM event_store.load_events('Placed', 'p-1') e,
       event_store.view_keys(e, '[{"by_type": {"OrderPlaced": {"each": "$.payload.lines", "key": "$.item.sku"}}}, "$.payload.customer", "$.payload.carrier"]') k
 ORDER BY e.sequence, k COLLATE "C";
