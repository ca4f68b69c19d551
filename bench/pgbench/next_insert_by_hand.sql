-- the same by a consumer that keeps its own checkpoint, which it knows
\set k :k + 1
\if :k > :batches
\set k 1
UPDATE bench.checkpoints SET position = 0 WHERE consumer = 'bench';
\endif
\set a :first + (:k - 1) * 100
\set e :a + 100
BEGIN;
INSERT INTO bench.effects SELECT global_position, aggregate_id, event_type FROM event_store.read_events(:a, 100);
UPDATE bench.checkpoints SET position = :e WHERE consumer = 'bench';
COMMIT;
