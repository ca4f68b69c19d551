-- fold: many aggregates in one scan, fold_events, rules as a reducer, limits
SELECT event_store.create_store();
DELETE FROM event_store.reducers;

CREATE FUNCTION outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;

-- 40 aggregates of 25 events, some with snapshots; ids do not sort as numbers do
SELECT count(*) FROM event_store.append_batch(
    (SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Fold', 'aggregate_id', 'f-' || i % 40,
                                         'event_type', CASE WHEN i % 7 = 0 THEN 'Odd' ELSE 'Even' END,
                                         'payload', jsonb_build_object('n', i, 'k' || i % 5, i)))
       FROM generate_series(0, 999) i));
SELECT count(*) FILTER (WHERE event_store.take_snapshot('Fold', 'f-' || i)) FROM generate_series(0, 9) i;
SELECT max(a.last_sequence) FROM generate_series(5, 14) i,
       event_store.append_event('Fold', 'f-' || i, 25, 'After', '{"after": true}') a;

--
-- replay_aggregates gives what replay_aggregate gives, in the order of bytes
--
CREATE VIEW folded AS
SELECT r.aggregate_id, r.state, r.sequence, r.state = s.state AND r.sequence = s.sequence AS same
  FROM event_store.replay_aggregates('Fold') r,
       event_store.replay_aggregate('Fold', r.aggregate_id) s;
SELECT count(*), sum(sequence), bool_and(same) FROM folded;
SELECT array_agg(aggregate_id) = array_agg(aggregate_id ORDER BY aggregate_id COLLATE "C") AS ordered
  FROM event_store.replay_aggregates('Fold');
SELECT * FROM event_store.replay_aggregates('Fold', ARRAY['f-9', 'none', 'f-10', 'f-0', 'f-9', 'f-31']);
SELECT count(*) FROM event_store.replay_aggregates('Fold', '{}');
SELECT count(*) FROM event_store.replay_aggregates('Nothing');
SELECT count(*) FROM event_store.replay_aggregates('Nothing', ARRAY['a']);
-- snapshots are used, where the events are those after them and where there are none
UPDATE event_store.snapshots SET state = jsonb_set(state, '{tampered}', 'true')
 WHERE aggregate_type = 'Fold' AND aggregate_id IN ('f-1', 'f-7');
SELECT aggregate_id, state, sequence FROM event_store.replay_aggregates('Fold') WHERE state ? 'tampered';
SELECT aggregate_id FROM event_store.replay_aggregates('Fold', ARRAY['f-1', 'f-2', 'f-7']) WHERE state ? 'tampered';
-- not those of another version of the reducer
SELECT event_store.set_reducer('Fold', NULL, 5);
SELECT count(*), bool_and(same), bool_or(state ? 'tampered') FROM folded;
DELETE FROM event_store.snapshots WHERE aggregate_type = 'Fold';

-- staged events are merged in: before, between, behind and beside durable ones
BEGIN;
SELECT count(*) FROM (VALUES ('a'), ('f-0'), ('f-15'), ('f-155'), ('f-39'), ('z')) ids (id),
       LATERAL event_store.append_event('Fold', id, NULL, 'Staged', '{"staged": 1}', durability => 'staged');
SELECT count(*) FROM event_store.append_event('Fold', 'z', 1, 'Staged', '{"staged": 2}', durability => 'staged');
SELECT aggregate_id, state, sequence, same FROM folded WHERE state ? 'staged';
SELECT count(*), sum(sequence), bool_and(same) FROM folded;
SELECT aggregate_id, sequence, state -> 'staged' AS staged
  FROM event_store.replay_aggregates('Fold', ARRAY['z', 'f-39', 'none', 'a', 'f-1', 'f-155']);
-- the same in a parallel worker, which sees what its leader has staged; the setting has another name since PostgreSQL 16
SELECT set_config(name, 'on', true) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
EXPLAIN (costs off) SELECT count(*), sum(sequence) FROM event_store.replay_aggregates('Fold');
SELECT count(*), sum(sequence) FROM event_store.replay_aggregates('Fold');
SELECT sequence, state FROM event_store.replay_aggregate('Fold', 'z');
SELECT count(*), sum(sequence) FROM event_store.replay_aggregates('Fold', ARRAY['a', 'f-0']);
ROLLBACK;
SELECT count(*), sum(sequence), bool_and(same) FROM folded;
SELECT a, outcome(format('SELECT event_store.replay_aggregates(%s)', a))
  FROM unnest(ARRAY['NULL', $$''$$, $$repeat('x', 256)$$, $$'Fold', ARRAY['a', NULL]$$,
                    $$'Fold', ARRAY[['a', 'b']]$$]) a;

--
-- Rules: registered, versioned and used as any reducer
--
SELECT event_store.set_reducer_rules('Fold', '{"events": {
    "Even": [{"op": "increment", "path": "$.even", "from": "$.payload.n"}],
    "After": [{"op": "set", "path": "$.after", "from": "$.payload.after"}]}}');
SELECT reducer, rules IS NOT NULL AS rules, reducer_version FROM event_store.reducers;
SELECT * FROM event_store.replay_aggregates('Fold', ARRAY['f-5', 'f-39']);
SELECT count(*), bool_and(same) FROM folded;
SELECT bool_and((state ->> 'even')::bigint = (SELECT sum((e.payload ->> 'n')::bigint) FROM event_store.domain_events e
                                               WHERE e.aggregate_type = 'Fold' AND e.aggregate_id = f.aggregate_id
                                                 AND e.event_type = 'Even')) FROM folded f;
-- as_of, and a snapshot in between
SELECT event_store.take_snapshot('Fold', 'f-5');
SELECT state, reducer_version FROM event_store.load_snapshot('Fold', 'f-5');
SELECT * FROM event_store.replay_aggregate('Fold', 'f-5', 3);
-- the same again is the same version, another number in them is another
SELECT event_store.set_reducer_rules('Fold', (SELECT rules FROM event_store.reducers));
SELECT reducer_version FROM event_store.reducers;
SELECT event_store.set_reducer_rules('Fold', '{"events": {"Even": [{"op": "set", "path": "$.x", "value": 1.0}]}}');
SELECT event_store.set_reducer_rules('Fold', '{"events": {"Even": [{"op": "set", "path": "$.x", "value": 1.00}]}}');
SELECT reducer_version FROM event_store.reducers;
SELECT * FROM event_store.replay_aggregates('Fold', ARRAY['f-5']);
SELECT outcome($$SELECT event_store.set_reducer_rules('Fold', '{"events": {}}', 8)$$);
SELECT outcome($$SELECT event_store.set_reducer_rules('Fold', '{"events": {}}', 0)$$);
SELECT outcome($$SELECT event_store.set_reducer_rules('Fold', '[]')$$);
SELECT outcome($$SELECT event_store.set_reducer_rules(NULL, '{"events": {}}')$$);
SELECT reducer_version FROM event_store.reducers;
BEGIN READ ONLY;
SELECT outcome($$SELECT event_store.set_reducer_rules('Fold', NULL)$$);
COMMIT;
-- a rule that fails says where
SELECT event_store.set_reducer_rules('Fold', '{"events": {"After": [{"op": "increment", "path": "$.n", "from": "$.payload.after"}]}}');
SELECT * FROM event_store.replay_aggregate('Fold', 'f-5');
SELECT * FROM event_store.replay_aggregates('Fold', ARRAY['f-1', 'f-5', 'f-6']);
SELECT event_store.fold_events(e) FROM event_store.load_events('Fold', 'f-5') e;
-- a function takes their place, NULL the function's
CREATE FUNCTION counting(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql RETURN CASE WHEN (event).event_type = 'After' THEN NULL
                             ELSE to_jsonb(coalesce(state::int, 0) + 1) END;
SELECT event_store.set_reducer('Fold', 'counting');
SELECT reducer, rules, reducer_version FROM event_store.reducers;
SELECT * FROM event_store.replay_aggregates('Fold', ARRAY['f-1', 'f-5']);
SELECT event_store.set_reducer_rules('Fold', NULL);
SELECT reducer, rules, reducer_version FROM event_store.reducers;
SELECT count(*), bool_and(same) FROM folded;

--
-- fold_events
--
SELECT sequence, event_store.fold_events(e) OVER (ORDER BY sequence)
  FROM event_store.load_events('Fold', 'f-3', max_count => 4) e;
SELECT count(*), bool_and(e.state = (event_store.replay_aggregate('Fold', e.aggregate_id, e.sequence)).state)
  FROM (SELECT aggregate_id, sequence,
               event_store.fold_events(e) OVER (PARTITION BY aggregate_id ORDER BY sequence) AS state
          FROM event_store.read_events(0, 2000, ARRAY['Fold']) e WHERE aggregate_id < 'f-13') e;
SELECT count(*), bool_and(g.state = f.state)
  FROM (SELECT aggregate_id, event_store.fold_events(e ORDER BY sequence) AS state
          FROM event_store.read_events(0, 2000, ARRAY['Fold']) e GROUP BY aggregate_id) g
  JOIN folded f USING (aggregate_id);
-- in the order given, backwards too; some events only; none
SELECT event_store.fold_events(e ORDER BY sequence DESC),
       event_store.fold_events(e ORDER BY sequence) FILTER (WHERE sequence <= 2),
       event_store.fold_events(e) FILTER (WHERE sequence > 100),
       event_store.fold_events(NULL)
  FROM event_store.load_events('Fold', 'f-3') e;
SELECT event_store.fold_events(CASE WHEN sequence <> 1 THEN e END ORDER BY sequence) = event_store.fold_events(e ORDER BY sequence) FILTER (WHERE sequence <> 1)
  FROM event_store.load_events('Fold', 'f-3') e;
-- a row of the table is an event after a cast
SELECT event_store.fold_events(ROW(d.*)::event_store.event ORDER BY d.sequence) = (event_store.replay_aggregate('Fold', 'f-3')).state
  FROM event_store.domain_events d WHERE d.aggregate_type = 'Fold' AND d.aggregate_id = 'f-3';
-- a reducer of a function, whose NULL is "deleted"
SELECT event_store.set_reducer('Fold', 'counting');
SELECT sequence, event_store.fold_events(e) OVER (ORDER BY sequence)
  FROM event_store.load_events('Fold', 'f-5', 23) e;
SELECT count(*), bool_and(g.state IS NOT DISTINCT FROM r.state)
  FROM (SELECT aggregate_id, event_store.fold_events(e ORDER BY sequence) AS state
          FROM event_store.read_events(0, 2000, ARRAY['Fold']) e GROUP BY aggregate_id) g
  JOIN event_store.replay_aggregates('Fold') r USING (aggregate_id);
-- several types: together only where all are merged
SELECT max(last_sequence) FROM event_store.append_event('Folded', 'f-3', 0, 'Folded', '{"other": true}');
SELECT event_store.fold_events(e ORDER BY global_position)
  FROM event_store.read_events(0, 2000, ARRAY['Fold', 'Folded']) e WHERE aggregate_id = 'f-3';
SELECT aggregate_type, event_store.fold_events(e ORDER BY global_position)
  FROM event_store.read_events(0, 2000, ARRAY['Fold', 'Folded']) e WHERE aggregate_id = 'f-3' GROUP BY 1 ORDER BY 1;
DELETE FROM event_store.reducers;
SELECT event_store.fold_events(e ORDER BY global_position) ? 'other'
  FROM event_store.read_events(0, 2000, ARRAY['Fold', 'Folded']) e WHERE aggregate_id = 'f-3';
-- the types come interleaved, one group after the other, yet each one's reducer is looked for once
CREATE FUNCTION reducer_scans() RETURNS bigint
    LANGUAGE sql RETURN (SELECT seq_scan + idx_scan FROM pg_stat_xact_all_tables WHERE relid = 'event_store.reducers'::regclass);
SELECT event_store.set_reducer_rules('Fold', '{"events": {"Even": [{"op": "set", "path": "$.n", "from": "$.payload.n"}]}}');
BEGIN;
SELECT reducer_scans() AS scans \gset
SELECT count(*), count(state) FROM (
    SELECT event_store.fold_events(e) AS state
      FROM (SELECT ROW(NULL, CASE i % 3 WHEN 0 THEN 'Fold' WHEN 1 THEN 'Folded' ELSE 'Unknown' END, 'i-' || i, 1, NULL, 'Even', 1,
                       '{"n": 1}', NULL, NULL, NULL, NULL, NULL, now(), now())::event_store.event AS e
              FROM generate_series(1, 300) i) x
     GROUP BY (e).aggregate_type, (e).aggregate_id) folded;
SELECT reducer_scans() - :scans AS scans;
COMMIT;
DROP FUNCTION reducer_scans;
-- parsed rules are not much larger than what they say
SELECT event_store.set_reducer_rules('Fold', jsonb_build_object('events', jsonb_build_object('Even',
    (SELECT jsonb_agg('{"op": "set", "path": "$.n", "from": "$.payload.n"}'::jsonb) FROM generate_series(1, 1000)))));
BEGIN;
DECLARE folding CURSOR FOR SELECT event_store.fold_events(e) OVER (ORDER BY sequence) FROM event_store.load_events('Fold', 'f-3') e;
FETCH folding;
SELECT count(*) AS reducers, sum(used_bytes) < 1000 * 1000 AS small
  FROM pg_backend_memory_contexts WHERE name = 'event_store reducer';
COMMIT;
DELETE FROM event_store.reducers;
-- events that are none
SELECT outcome(format('SELECT event_store.fold_events(ROW(NULL, %s, 1, %L, NULL, NULL, NULL, NULL, NULL, now(), now())::event_store.event)', c, '{}'))
  FROM unnest(ARRAY[$$NULL, 'i', 1, NULL, 'E'$$, $$'T', NULL, 1, NULL, 'E'$$, $$'T', 'i', NULL, NULL, 'E'$$,
                    $$'T', 'i', 1, NULL, NULL$$, $$'T', 'i', 1, NULL, 'E'$$]) c;

--
-- Rights: a reader folds, by reducers that run as their owners, and no more;
-- not with events of his own, unless he has the rights of the reducer's owner
--
CREATE ROLE regress_fold_reader;
SELECT event_store.grant_access('regress_fold_reader', 'reader');
CREATE FUNCTION who(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql RETURN to_jsonb(current_user = 'regress_fold_reader');
SELECT event_store.set_reducer('Folded', 'who');
SET ROLE regress_fold_reader;
SELECT state AS as_caller, sequence FROM event_store.replay_aggregates('Folded');
SELECT event_store.fold_events(e) AS as_caller FROM event_store.load_events('Folded', 'f-3') e;
SELECT event_store.fold_events(ROW(NULL, 'Folded', 'forged', 1, NULL, 'Forged', 1, '{}', NULL, NULL, NULL, NULL, NULL,
                                   now(), now())::event_store.event) AS as_caller;
SELECT f, left(outcome('SELECT event_store.' || f), 5)
  FROM unnest(ARRAY[$$rebuild_view('v', 'Folded')$$, $$rebuild_view_step('v', 'Folded', 1)$$,
                    $$set_reducer_rules('Folded', NULL)$$, 'rebuild_state()']) f;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION who FROM PUBLIC;
SET ROLE regress_fold_reader;
SELECT state AS as_caller, sequence FROM event_store.replay_aggregates('Folded');
SELECT outcome($$SELECT event_store.fold_events(e) FROM event_store.load_events('Folded', 'f-3') e$$);
RESET ROLE;
-- whoever has the rights of the owner cannot be made to give away his own
ALTER FUNCTION who OWNER TO regress_fold_reader;
SELECT event_store.set_reducer('Folded', 'who');
SELECT event_store.fold_events(e) AS as_owner FROM event_store.load_events('Folded', 'f-3') e;
ALTER FUNCTION who OWNER TO CURRENT_USER;
SELECT event_store.set_reducer('Folded', NULL);
DROP OWNED BY regress_fold_reader;
DROP ROLE regress_fold_reader;

--
-- Limits: a reducer that replays its own aggregate, a state too large
--
CREATE FUNCTION cyclic(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql RETURN (event_store.replay_aggregate((event).aggregate_type, (event).aggregate_id)).state;
SELECT event_store.set_reducer('Folded', 'cyclic');
\set VERBOSITY terse
SELECT event_store.replay_aggregate('Folded', 'f-3');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM event_store.replay_aggregates('Folded');
SELECT event_store.fold_events(e) FROM event_store.load_events('Folded', 'f-3') e;
SELECT event_store.take_snapshot('Folded', 'f-3');
SELECT event_store.rebuild_view('Folded', 'Folded');
\set VERBOSITY default
-- and the session goes on
SELECT event_store.set_reducer('Folded', NULL);
SELECT * FROM event_store.replay_aggregate('Folded', 'f-3');
SELECT event_store.set_reducer_rules('Huge', '{"events": {"E": [{"op": "put_into", "path": "$.all", "key": "$.sequence", "from": "$.payload"}]}}');
CREATE VIEW huge AS
SELECT n, ROW(NULL, 'Huge', 'h', n, NULL, 'E', 1, p, NULL, NULL, NULL, NULL, NULL, now(), now())::event_store.event AS event
  FROM generate_series(1, 9) n, jsonb_build_object('x', repeat('x', 30000000)) p;
SELECT event_store.fold_events(event ORDER BY n) IS NOT NULL AS folded FROM huge WHERE n < 9;
\set VERBOSITY terse
SELECT event_store.fold_events(event ORDER BY n) FROM huge;
\echo :LAST_ERROR_SQLSTATE

DELETE FROM event_store.reducers;
DELETE FROM event_store.snapshots WHERE aggregate_type IN ('Fold', 'Folded');
DROP VIEW folded, huge;
DROP FUNCTION outcome, counting, cyclic, who;
