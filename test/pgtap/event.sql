-- Every column of an event comes back as it was given, whichever way it goes:
-- from append_event, a JSON list or arrays, durable or staged, drained, buried and
-- retried, loaded, read from the feed, replayed by a function and by rules.
--
-- The columns are those that the catalog shows, so a new one is taken along by
-- itself.  Its value is made from its type; what the server sets is left out.
SET client_min_messages = error;
SELECT event_store.create_store() \g /dev/null
SELECT * FROM no_plan();

CREATE TEMPORARY TABLE columns AS
SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type, a.attnum AS place
  FROM pg_attribute a
 WHERE a.attrelid = 'event_store.event'::regclass AND NOT a.attisdropped;

-- Set by the server, or given beside the event.
CREATE TEMPORARY TABLE columns_set AS
SELECT unnest(ARRAY['global_position', 'sequence', 'recorded_at', 'aggregate_type', 'aggregate_id']) AS name;

-- A value for each other column: as JSON, and as a literal of SQL.
CREATE TEMPORARY TABLE given AS
SELECT c.name, c.type, c.place,
       CASE c.type
           WHEN 'uuid' THEN to_jsonb(gen_random_uuid())
           WHEN 'integer' THEN to_jsonb(40 + c.place)
           WHEN 'bigint' THEN to_jsonb(4000000000 + c.place)
           WHEN 'jsonb' THEN jsonb_build_object('of', c.name)
           WHEN 'timestamp with time zone' THEN to_jsonb('2020-02-29T23:59:59.123456+00:00'::timestamptz)
           WHEN 'bytea' THEN to_jsonb('\x00ff41'::text)
           WHEN 'text[]' THEN to_jsonb(ARRAY['one of ' || c.name, 'two'])
           ELSE to_jsonb('a ' || c.name)
       END AS value
  FROM columns c
 WHERE c.name NOT IN (SELECT s.name FROM columns_set s);

-- payload and payload_bytes exclude each other: each event leaves one out.
CREATE TEMPORARY TABLE kinds AS SELECT unnest(ARRAY['payload', 'payload_bytes']) AS left_out;

SELECT results_eq(
    $$SELECT name, type FROM columns ORDER BY place$$,
    $$SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a
       WHERE a.attrelid = 'event_store.domain_events'::regclass AND a.attnum > 0 AND NOT a.attisdropped
       ORDER BY a.attnum$$,
    'type event has the columns of domain_events');

-- The element of a list, with all that a list can give.
CREATE FUNCTION pg_temp.element(left_out text, id text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_object_agg(g.name, CASE g.name WHEN 'event_id' THEN to_jsonb(md5(id)::uuid) ELSE g.value END)
           || jsonb_build_object('aggregate_type', 'Column', 'aggregate_id', id)
      FROM given g
     WHERE g.name <> left_out
       -- bytes have no form in JSON
       AND g.type <> 'bytea'
$$;

-- The arguments of a function by name, from the values of one event; in_arrays:
-- each as an array of one, under the column's name or that with an s.
CREATE FUNCTION pg_temp.call(called text, left_out text, id text, in_arrays boolean, durability text) RETURNS text
    LANGUAGE sql AS $$
    SELECT format('SELECT * FROM event_store.%I(%s, durability => %L)', called,
                  string_agg(format(CASE WHEN in_arrays THEN '%I => ARRAY[%L]::%s[]' ELSE '%I => %L::%s' END,
                                    f.argument, v.value, v.type), ', ')
                  || CASE WHEN in_arrays THEN CASE left_out WHEN 'payload' THEN ', payloads => ARRAY[NULL]::jsonb[]' ELSE '' END
                          ELSE ', expected_sequence => 0' END,
                  durability)
      FROM (SELECT g.name, g.type,
                   CASE g.name WHEN 'event_id' THEN md5(id)::uuid::text ELSE g.value #>> '{}' END AS value
              FROM given g WHERE g.name <> left_out
            UNION ALL VALUES ('aggregate_type', 'text', 'Column'), ('aggregate_id', 'text', id)) v
      JOIN LATERAL (SELECT unnest(p.proargnames[:p.pronargs]) AS argument, p.pronargs
                      FROM pg_proc p
                     WHERE p.pronamespace = 'event_store'::regnamespace AND p.proname = called
                     ORDER BY p.pronargs DESC LIMIT 50) f
        ON f.argument IN (v.name, CASE WHEN in_arrays THEN v.name || 's' END)
     WHERE f.pronargs > 3
$$;

-- Whether the way in that an id names can give a column.
CREATE FUNCTION pg_temp.is_given(id text, name text, type text) RETURNS boolean LANGUAGE sql AS $$
    SELECT CASE WHEN id LIKE 'list%' THEN type <> 'bytea'
                ELSE EXISTS (SELECT FROM pg_proc p
                              WHERE p.pronamespace = 'event_store'::regnamespace AND p.pronargs > 3
                                AND p.proname = CASE WHEN id LIKE 'arrays%' THEN 'append_batch' ELSE 'append_event' END
                                AND p.proargnames && ARRAY[name, CASE WHEN id LIKE 'arrays%' THEN name || 's' ELSE name END]) END
$$;

-- What a row of an event has of what was given: the columns that differ.
CREATE FUNCTION pg_temp.differs(event jsonb, left_out text, lost text DEFAULT '') RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(format('%s: %s, not %s', g.name, event -> g.name, g.value), '; ' ORDER BY g.place), '')
      FROM given g
     WHERE g.name NOT IN (left_out, lost)
       AND (CASE WHEN NOT pg_temp.is_given(event ->> 'aggregate_id', g.name, g.type) THEN 'null'
                WHEN g.name = 'event_id' THEN to_jsonb(md5(event ->> 'aggregate_id')::uuid)
                WHEN g.name = 'occurred_at' THEN to_jsonb((g.value #>> '{}')::timestamptz)
                ELSE g.value
            END IS DISTINCT FROM coalesce(CASE g.name
                WHEN 'occurred_at' THEN to_jsonb((event ->> g.name)::timestamptz) ELSE event -> g.name END, 'null'))
$$;

SELECT ok(event_store.flush('10s'), 'nothing is staged before');

-- ways in, durable and staged
SELECT format('SELECT * FROM event_store.append_events(''Column'', %L, 0, %L, durability => %L)', 'list ' || d,
              pg_temp.element('payload_bytes', 'list ' || d) - 'aggregate_type' - 'aggregate_id', d)
  FROM unnest(ARRAY['durable', 'staged']) d
UNION ALL
SELECT format('SELECT * FROM event_store.append_batch(%L, durability => %L)',
              jsonb_build_array(pg_temp.element('payload_bytes', 'list of a batch ' || d)), d)
  FROM unnest(ARRAY['durable', 'staged']) d
UNION ALL
SELECT pg_temp.call('append_event', k.left_out, format('one without %s %s', k.left_out, d), false, d)
  FROM unnest(ARRAY['durable', 'staged']) d, kinds k
UNION ALL
SELECT pg_temp.call('append_batch', k.left_out, format('arrays without %s %s', k.left_out, d), true, d)
  FROM unnest(ARRAY['durable', 'staged']) d, kinds k
\gexec /dev/null

-- What left out what: by the id.
CREATE TEMPORARY VIEW ids AS
SELECT format('%s %s', w.way, d) AS id, w.left_out, d AS durability
  FROM (VALUES ('list', 'payload_bytes'), ('list of a batch', 'payload_bytes'),
               ('one without payload', 'payload'), ('one without payload_bytes', 'payload_bytes'),
               ('arrays without payload', 'payload'), ('arrays without payload_bytes', 'payload_bytes')) w (way, left_out),
       unnest(ARRAY['durable', 'staged']) d;

SELECT is(pg_temp.differs(to_jsonb(e), i.left_out), '', 'load_events: ' || i.id)
  FROM ids i, event_store.load_events('Column', i.id) e ORDER BY i.id;
SELECT is((SELECT count(*) FROM ids i, event_store.load_events('Column', i.id)), 12::bigint, 'all are loaded');
SELECT is(pg_temp.differs(to_jsonb(e), i.left_out), '', 'load_event: ' || i.id)
  FROM ids i, event_store.load_event(md5(i.id)::uuid) e ORDER BY i.id;
SELECT is(pg_temp.differs(to_jsonb(s) || jsonb_build_object('aggregate_id', s.key), i.left_out), '', 'staging: ' || i.id)
  FROM ids i JOIN event_store.staging s ON s.name = 'Column' AND s.key = i.id ORDER BY i.id;

-- Replay, by a function that shows the event, and by rules that copy it.
CREATE FUNCTION show_event(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS 'SELECT to_jsonb(event)';
CREATE FUNCTION pg_temp.replayed(what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.set_reducer('Column', 'show_event');
    RETURN QUERY SELECT is(pg_temp.differs(r.state, i.left_out), '', what || ', replay_aggregate: ' || i.id)
      FROM ids i, event_store.replay_aggregate('Column', i.id) r ORDER BY i.id;
    RETURN QUERY SELECT is(pg_temp.differs(r.state, i.left_out), '', what || ', replay_aggregates: ' || i.id)
      FROM event_store.replay_aggregates('Column') r JOIN ids i ON i.id = r.aggregate_id ORDER BY i.id;
    RETURN QUERY SELECT is(pg_temp.differs(f.state, i.left_out), '', what || ', fold_events: ' || i.id)
      FROM ids i, LATERAL (SELECT event_store.fold_events(e) AS state
                             FROM event_store.load_events('Column', i.id) e) f ORDER BY i.id;
    PERFORM event_store.set_reducer_rules('Column', (
        SELECT jsonb_build_object('events', jsonb_build_object('a event_type',
                   jsonb_agg(jsonb_build_object('op', 'set', 'path', '$.' || c.name, 'from', '$.' || c.name))))
          FROM columns c WHERE c.type <> 'bytea'));
    RETURN QUERY SELECT is(pg_temp.differs(r.state, i.left_out, 'payload_bytes'), '', what || ', rules: ' || i.id)
      FROM ids i, event_store.replay_aggregate('Column', i.id) r ORDER BY i.id;
    PERFORM event_store.rebuild_view('Columns', 'Column');
    RETURN QUERY SELECT is(pg_temp.differs(v.view_data, i.left_out, 'payload_bytes'), '', what || ', rebuild_view: ' || i.id)
      FROM event_store.load_views('Columns') v JOIN ids i ON i.id = v.view_key ORDER BY i.id;
END
$$;
SELECT * FROM pg_temp.replayed('staged and durable');

-- drained
SELECT ok(event_store.flush('10s'), 'all is drained');
SELECT is(pg_temp.differs(to_jsonb(e), i.left_out), '', 'domain_events: ' || i.id)
  FROM ids i JOIN event_store.domain_events e ON e.aggregate_type = 'Column' AND e.aggregate_id = i.id ORDER BY i.id;
SELECT is(pg_temp.differs(to_jsonb(e), i.left_out), '', 'read_events: ' || i.id)
  FROM event_store.read_events(0, NULL, aggregate_types => ARRAY['Column']) e JOIN ids i ON i.id = e.aggregate_id
 ORDER BY i.id;
SELECT is((SELECT count(*) FROM event_store.read_events(0, NULL, aggregate_types => ARRAY['Column'])), 12::bigint,
          'the feed has all');
SELECT * FROM pg_temp.replayed('durable');

-- buried and retried
ALTER TABLE event_store.domain_events ADD CONSTRAINT not_buried CHECK (aggregate_id NOT LIKE 'buried%');
CREATE TEMPORARY VIEW buried AS
SELECT 'buried without ' || k.left_out AS id, k.left_out FROM kinds k;
SELECT pg_temp.call('append_event', b.left_out, b.id, false, 'staged') FROM buried b \gexec /dev/null
SELECT ok(event_store.flush('10s'), 'what cannot be drained is settled');
SELECT is(pg_temp.differs(to_jsonb(l), b.left_out), '', 'dead_letters: ' || b.id)
  FROM event_store.dead_letters l JOIN buried b ON b.id = l.aggregate_id ORDER BY b.id;
SELECT is((SELECT count(*) FROM event_store.dead_letters WHERE kind = 'event'), 2::bigint, 'they are dead letters');
ALTER TABLE event_store.domain_events DROP CONSTRAINT not_buried;
SELECT is(event_store.retry_dead_letters('Column', b.id), 1::bigint, 'retry_dead_letters: ' || b.id) FROM buried b ORDER BY b.id;
SELECT is(pg_temp.differs(to_jsonb(e), b.left_out), '', 'retried: ' || b.id)
  FROM buried b, event_store.load_events('Column', b.id) e ORDER BY b.id;

-- every text is a name, which has a limit
SELECT throws_ok(format('SELECT event_store.append_batch(%L)', jsonb_build_array(
           pg_temp.element('payload_bytes', 'list too long') || jsonb_build_object(c.name, repeat('x', 256)))),
       '22001', c.name || ' of event 1 is longer than 255 characters', c.name || ' is limited')
  FROM columns c WHERE c.type = 'text' ORDER BY c.place;

-- repeated events are told from others by the columns of their content
SELECT is((SELECT outcome FROM event_store.append_events('Column', 'list durable', 0,
              pg_temp.element('payload_bytes', 'list durable') - 'aggregate_type' - 'aggregate_id')),
          'duplicate', 'the same again');

SELECT * FROM finish();
