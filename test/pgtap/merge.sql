-- The built-in reducer against an independent merge patch in PL/pgSQL: over
-- pseudo-random documents, after every one of 10,000 patches, and
-- from a snapshot at a random place.
SELECT event_store.create_store() \g /dev/null

\ir merge_patch.psql

-- Few names, so that patches meet; a non-object at the top now and then.
CREATE FUNCTION pg_temp.random_json(depth int) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    kind int := floor(random() * CASE WHEN depth = 0 THEN 40 WHEN depth < 4 THEN 12 ELSE 6 END);
    made jsonb := '{}';
BEGIN
    CASE
        WHEN depth > 0 AND kind IN (0, 1) THEN RETURN 'null';
        WHEN kind = 2 THEN RETURN to_jsonb(random() < 0.5);
        WHEN kind = 3 THEN RETURN to_jsonb((random() * 10 ^ floor(random() * 12))::numeric(20, 3));
        WHEN kind = 4 THEN RETURN to_jsonb(repeat(chr(97 + floor(random() * 20)::int), floor(random() * 50)::int));
        WHEN kind = 5 THEN
            RETURN (SELECT coalesce(jsonb_agg(pg_temp.random_json(depth + 1)), '[]')
                      FROM generate_series(1, floor(random() * 3)::int));
        ELSE
            FOR i IN 1 .. floor(random() * 5) LOOP
                made := made || jsonb_build_object(repeat('k', 1 + floor(random() * 2)::int) || floor(random() * 6),
                                                   pg_temp.random_json(depth + 1));
            END LOOP;
            RETURN made;
    END CASE;
END
$$;

SELECT setseed(0.7396) \g /dev/null
CREATE TEMPORARY TABLE patches AS
SELECT a, n, pg_temp.random_json(0) AS patch FROM generate_series(1, 100) a, generate_series(1, 100) n;

CREATE TEMPORARY TABLE expected AS
WITH RECURSIVE fold AS (
    SELECT a, n, pg_temp.merge_patch(NULL, patch) AS state FROM patches WHERE n = 1
    UNION ALL
    SELECT a, p.n, pg_temp.merge_patch(f.state, p.patch) FROM fold f JOIN patches p USING (a) WHERE p.n = f.n + 1)
SELECT * FROM fold;

BEGIN;
SELECT * FROM no_plan();
SELECT is(count(*)::int, 10000, 'all patches are appended')
  FROM (SELECT array_agg('MergeTest'::text) AS types, array_agg('m-' || a ORDER BY a, n) AS ids,
               array_agg('Patched'::text) AS events, array_agg(patch ORDER BY a, n) AS payloads FROM patches) p,
       event_store.append_batch(p.types, p.ids, p.events, p.payloads, durability => 'durable') b
 WHERE b.outcome = 'appended';

SELECT ok(count(DISTINCT jsonb_typeof(state)) > 3 AND max(length(state::text)) > 400
          AND count(*) FILTER (WHERE patch::text LIKE '%null%') > 1500,
          'the documents are of all kinds')
  FROM expected JOIN patches USING (a, n);
SELECT is(count(*) FILTER (WHERE r.state::text = e.state::text AND r.sequence = e.n)::int, 10000,
          'after every patch the state is that of the independent merge')
  FROM expected e, event_store.replay_aggregate('MergeTest', 'm-' || e.a, e.n) r;
SELECT is(count(*) FILTER (WHERE r.state::text = e.state::text)::int, 100, 'and so it is without a bound')
  FROM expected e, event_store.replay_aggregate('MergeTest', 'm-' || e.a) r
 WHERE e.n = 100;

-- a decoded and encoded snapshot is the same state again
SELECT ok(bool_and(event_store.take_snapshot('MergeTest', 'm-' || a)), 'snapshots are taken')
  FROM generate_series(1, 100) a;
UPDATE event_store.snapshots s
   SET sequence = e.n, state = e.state
  FROM (SELECT DISTINCT ON (a) * FROM expected ORDER BY a, random()) e
 WHERE s.aggregate_type = 'MergeTest' AND s.aggregate_id = 'm-' || e.a;
SELECT is(count(*) FILTER (WHERE r.state::text = e.state::text AND r.sequence = e.n)::int, 10000,
          'nor does a snapshot in between change it')
  FROM expected e, event_store.replay_aggregate('MergeTest', 'm-' || e.a, e.n) r;

SELECT * FROM finish();
ROLLBACK;
