-- what an application does by hand: the row of the aggregate locked, the event inserted
\set n :n + 1
\set hi 1000000000000000 + :n
\set lo 1000000000000000 + :client_id
BEGIN;
SELECT version + 1 AS v FROM bench.heads WHERE aggregate = 1 FOR UPDATE \gset
INSERT INTO bench.raw_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) VALUES (nextval('bench.raw_position'), 'Order', '1', :v, (:hi::text || :lo::text)::uuid, 'OrderPlaced', :payload, now(), now());
UPDATE bench.heads SET version = :v WHERE aggregate = 1;
COMMIT;
