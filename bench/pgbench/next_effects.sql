-- a consumer whose effects are in this database
BEGIN;
INSERT INTO bench.effects SELECT global_position, aggregate_id, event_type FROM event_store.next_events('bench', 100);
COMMIT;
