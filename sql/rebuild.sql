-- rebuild: views made anew from events, at once and in steps
SELECT event_store.create_store();

CREATE FUNCTION outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;

SELECT count(*) FROM event_store.append_batch(
    (SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Rebuild', 'aggregate_id', 'r-' || i % 20,
                                         'event_type', 'Counted', 'payload', jsonb_build_object('n', i)))
       FROM generate_series(0, 99) i));
CREATE VIEW view_rows AS
SELECT v.view_key, v.view_data, v.version,
       v.view_data IS NOT DISTINCT FROM (r).state AND v.version = (r).sequence AS same
  FROM event_store.domain_views v, event_store.replay_aggregate('Rebuild', v.view_key) r
 WHERE v.view_name = 'Rebuilt';

-- an empty view; again; over rows of all kinds
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), bool_and(same) FROM view_rows;
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), bool_and(same) FROM view_rows;
SELECT event_store.put_view('Rebuilt', 'stale', '1', 7), event_store.put_view('Rebuilt', 'stale too', '1'),
       event_store.put_view('Rebuilt', 'r-1', '"wrong"', 7000), event_store.put_view('Rebuilt', 'r-2', '"no version"'),
       event_store.delete_view('Rebuilt', 'r-3'), event_store.put_view('Rebuilt', 'r-4', '"staged"', 9, 'staged'),
       event_store.put_view('Other view', 'stale', '1', 7);
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), bool_and(same) FROM view_rows;
SELECT count(*) FROM event_store.load_views('Rebuilt');
SELECT view_data FROM event_store.load_views('Other view');
-- a reducer whose state is NULL leaves no row
CREATE FUNCTION only_even(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql RETURN CASE WHEN (event).payload['n']::int % 2 = 0 THEN (event).payload END;
SELECT event_store.set_reducer('Rebuild', 'only_even');
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), bool_and(same) FROM view_rows;
SELECT event_store.set_reducer('Rebuild', NULL);
-- a type without aggregates
SELECT event_store.rebuild_view('Rebuilt', 'None');
SELECT count(*) FROM view_rows;

--
-- What was staged before the call is durable by then, and a part of it
--
SELECT last_sequence, durable FROM event_store.append_event('Rebuild', 'r-0', 5, 'Counted', '{"n": 500}', durability => 'staged');
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), bool_and(same), max(version) FROM view_rows;
BEGIN;
SELECT last_sequence, durable FROM event_store.append_event('Rebuild', 'r-0', 6, 'Counted', '{"n": 501}', durability => 'staged');
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), bool_and(same), max(version) FROM view_rows;
ROLLBACK;
SELECT count(*), bool_and(same), max(version) FROM view_rows;

--
-- In steps
--
SELECT event_store.put_view('Rebuilt', 'stale', '"old"', 1);
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 8);
SELECT view_name, aggregate_type, done, total, rate, pid FROM event_store.rebuild_status;
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 8);
SELECT view_name, aggregate_type, done, total, rate, pid FROM event_store.rebuild_status;
-- nothing is changed yet
SELECT view_key, view_data FROM view_rows WHERE NOT same;
-- what comes meanwhile: behind the steps, before them, new
SELECT count(*) FROM (VALUES ('r-0'), ('r-9'), ('a-new'), ('z-new')) ids (id),
       LATERAL event_store.append_event('Rebuild', id, NULL, 'Counted', '{"late": true}');
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 8);
SELECT count(*), bool_and(same), count(*) FILTER (WHERE view_data ? 'late') AS late FROM view_rows;
SELECT count(*) FROM event_store.rebuild_status;
SELECT count(*) FROM event_store.view_rebuild_rows;
-- what steps have folded is not folded again, as a tampered row shows; rebuild_view goes on from them too
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 3);
UPDATE event_store.view_rebuild_rows SET state = '{"kept": true}' WHERE view_key = 'r-1';
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT view_key, view_data, version FROM view_rows WHERE NOT same;
-- a step does not read what is kept of the steps before it
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 8);
BEGIN;
SELECT n_tup_ins AS put, seq_tup_read + idx_tup_fetch AS read
  FROM pg_stat_xact_all_tables WHERE relid = 'event_store.view_rebuild_rows'::regclass \gset
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 8);
SELECT n_tup_ins - :put AS put, seq_tup_read + idx_tup_fetch - :read AS read
  FROM pg_stat_xact_all_tables WHERE relid = 'event_store.view_rebuild_rows'::regclass;
COMMIT;
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
-- rolled back steps are not done
BEGIN;
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 3);
ROLLBACK;
SELECT count(*) FROM event_store.rebuild_status;
-- another reducer begins anew, so does another type
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 3);
SELECT event_store.set_reducer('Rebuild', 'only_even');
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 4);
SELECT done, total FROM event_store.rebuild_status;
SELECT count(*), count(state) FROM event_store.view_rebuild_rows;
SELECT event_store.rebuild_view_step('Rebuilt', 'None', 4);
SELECT count(*) FROM view_rows;
SELECT event_store.set_reducer('Rebuild', NULL);
SELECT event_store.rebuild_view_step('Rebuilt', 'Rebuild', 22), event_store.rebuild_view_step('Rebuilt', 'Rebuild', 1);
SELECT count(*), bool_and(same) FROM view_rows;

--
-- Errors
--
CREATE FUNCTION failing(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql AS $$
BEGIN
    IF event.aggregate_id = 'r-5' THEN RAISE EXCEPTION 'not this one'; END IF;
    RETURN event.payload;
END
$$;
SELECT event_store.set_reducer('Rebuild', 'failing');
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), count(*) FILTER (WHERE view_data ? 'n') FROM event_store.load_views('Rebuilt');
SELECT event_store.set_reducer('Rebuild', NULL);
SELECT a, outcome(format('SELECT event_store.rebuild_view(%s)', a))
  FROM unnest(ARRAY['NULL, NULL', $$'v', NULL$$, $$'', 'a'$$, $$'v', ''$$, $$repeat('x', 256), 'a'$$,
                    $$'v', repeat('x', 256)$$]) a;
SELECT a, outcome(format('SELECT event_store.rebuild_view_step(%s)', a))
  FROM unnest(ARRAY[$$'v', 'a', NULL$$, $$'v', 'a', 0$$, $$'v', 'a', -1$$]) a;
BEGIN READ ONLY;
SELECT outcome($$SELECT event_store.rebuild_view('v', 'a')$$);
SELECT outcome($$SELECT event_store.rebuild_view_step('v', 'a', 1)$$);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT event_store.rebuild_view('Rebuilt', 'Rebuild');
SELECT count(*), bool_and(same) FROM view_rows;
COMMIT;

SELECT event_store.clear_view('Rebuilt') > 0, event_store.clear_view('Other view');
DELETE FROM event_store.reducers;
DROP VIEW view_rows;
DROP FUNCTION outcome, only_even, failing;
