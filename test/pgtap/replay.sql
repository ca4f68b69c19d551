-- Property: over random streams, replay with snapshots equals the fold of all
-- events without one, at every sequence and every time, for every aggregate and
-- every kind of reducer; many aggregates at once equal each by itself; and a
-- snapshot of another reducer_version is of no use.

\set ON_ERROR_STOP on
SELECT event_store.create_store() \g /dev/null
SELECT setseed(0.42) \g /dev/null
SELECT * FROM no_plan();

CREATE FUNCTION pg_temp.random_value(depth int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT CASE floor(random() * CASE WHEN depth > 0 THEN 7 ELSE 5 END)
               WHEN 0 THEN 'null'
               WHEN 1 THEN to_jsonb(random() < 0.5)
               WHEN 2 THEN to_jsonb(floor(random() * 100))
               WHEN 3 THEN to_jsonb(repeat('x', floor(random() * 20)::int))
               WHEN 4 THEN jsonb_build_array(1, NULL, jsonb_build_object('in', NULL))
               ELSE (SELECT coalesce(jsonb_object_agg('k' || floor(random() * 4), pg_temp.random_value(depth - 1)), '{}')
                       FROM generate_series(1, floor(random() * 4)::int))
           END
$$;

CREATE FUNCTION public.listing(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE event.event_type WHEN 'B' THEN NULL
               ELSE coalesce(state, '[]') || jsonb_build_array(event.payload, event.sequence) END;
END
$$;
SELECT event_store.set_reducer('Function', 'public.listing') \g /dev/null
SELECT event_store.set_reducer_rules('Rules', '{"events": {
    "A": [{"op": "set", "path": "$.last", "from": "$.payload"}, {"op": "increment", "path": "$.count", "value": "0.10"}],
    "B": [{"op": "append", "path": "$.list", "from": "$.sequence"}, {"op": "merge", "path": "$.merged", "from": "$.payload"}],
    "C": [{"op": "put_into", "path": "$.by", "key": "$.event_type", "from": "$.payload"}, {"op": "unset", "path": "$.last"}]}}') \g /dev/null

-- each aggregate grows in turns: some events, perhaps a snapshot
CREATE PROCEDURE pg_temp.grow() LANGUAGE plpgsql AS $$
DECLARE
    kind text;
    staged boolean;
BEGIN
    FOR turn IN 1 .. 6 LOOP
        FOREACH kind IN ARRAY ARRAY['Merged', 'Rules', 'Function'] LOOP
            FOR i IN 1 .. 12 LOOP
                CONTINUE WHEN random() < 0.3;
                staged := turn = 6 AND random() < 0.5;
                PERFORM event_store.append_event(kind, 'r-' || i, NULL, chr(65 + floor(random() * 3)::int),
                                                 pg_temp.random_value(2), durability => CASE WHEN staged THEN 'staged' ELSE 'durable' END)
                   FROM generate_series(1, 1 + floor(random() * 5)::int);
                IF NOT staged AND random() < 0.4 THEN
                    PERFORM event_store.take_snapshot(kind, 'r-' || i);
                END IF;
            END LOOP;
        END LOOP;
        COMMIT;
    END LOOP;
END
$$;
CALL pg_temp.grow();

SELECT ok(count(*) > 20 AND count(*) FILTER (WHERE s.sequence < event_store.aggregate_sequence(s.aggregate_type, s.aggregate_id)) > 10,
          'many aggregates have snapshots, most of them with events after it') FROM event_store.snapshots s;

-- the state after every event, by fold_events, which knows no snapshots
CREATE TEMPORARY TABLE folded AS
SELECT kind, 'r-' || i AS id, e.sequence, e.recorded_at,
       event_store.fold_events(e) OVER (PARTITION BY kind, i ORDER BY e.sequence) AS state
  FROM unnest(ARRAY['Merged', 'Rules', 'Function']) kind, generate_series(1, 12) i,
       LATERAL event_store.load_events(kind, 'r-' || i) e;

CREATE FUNCTION pg_temp.compare(title text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    k text;
BEGIN
    FOREACH k IN ARRAY ARRAY['Merged', 'Rules', 'Function'] LOOP
        RETURN NEXT is_empty(format(
            'SELECT f.id, f.sequence, f.state, r.* FROM folded f, event_store.replay_aggregate(f.kind, f.id, f.sequence) r
              WHERE f.kind = %L AND (r.state, r.sequence) IS DISTINCT FROM (f.state, f.sequence)', k),
            k || ': at every sequence, ' || title);
        RETURN NEXT is_empty(format(
            'SELECT f.id, f.recorded_at FROM folded f, event_store.replay_aggregate(f.kind, f.id, as_of_time => f.recorded_at) r
              WHERE f.kind = %L AND (r.state, r.sequence) IS DISTINCT FROM
                    (SELECT (l.state, l.sequence) FROM folded l WHERE l.kind = f.kind AND l.id = f.id
                        AND l.recorded_at <= f.recorded_at ORDER BY l.sequence DESC LIMIT 1)', k),
            k || ': at every time, ' || title);
        RETURN NEXT results_eq(
            format('SELECT aggregate_id, state, sequence FROM event_store.replay_aggregates(%L)', k),
            format('SELECT DISTINCT ON (id COLLATE "C") id, state, sequence FROM folded WHERE kind = %L ORDER BY id COLLATE "C", sequence DESC', k),
            k || ': all at once, ' || title);
        RETURN NEXT results_eq(
            format('SELECT aggregate_id, state, sequence FROM event_store.replay_aggregates(%L, ARRAY[''r-9'', ''r-10'', ''r-2''])', k),
            format('SELECT DISTINCT ON (id COLLATE "C") id, state, sequence FROM folded WHERE kind = %L AND id IN (''r-9'', ''r-10'', ''r-2'')
                     ORDER BY id COLLATE "C", sequence DESC', k),
            k || ': some at once, ' || title);
    END LOOP;
END
$$;
SELECT * FROM pg_temp.compare('with snapshots');

-- a wrong state in every snapshot shows that they were used ...
UPDATE event_store.snapshots SET state = '{"wrong": true}';
SELECT isnt_empty($$SELECT 1 FROM folded f, event_store.replay_aggregate(f.kind, f.id, f.sequence) r
                     WHERE r.state IS DISTINCT FROM f.state$$, 'replay uses snapshots');
-- ... and a new version of the reducers that they are not any more
SELECT event_store.set_reducer('Merged', NULL, 10) \g /dev/null
SELECT event_store.set_reducer('Function', 'public.listing', 10) \g /dev/null
SELECT event_store.set_reducer_rules('Rules', (SELECT rules FROM event_store.reducers WHERE aggregate_type = 'Rules'), 10) \g /dev/null
SELECT * FROM pg_temp.compare('with snapshots of another version');
DELETE FROM event_store.snapshots;
SELECT * FROM pg_temp.compare('without snapshots');

SELECT * FROM finish();
