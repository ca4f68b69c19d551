-- raw into the aggregates that shared_append uses; who writes to one at the same
-- time is kept apart by nothing, so the sequences have gaps
\set n :n + 1
\set a random_zipfian(1, :aggregates, 1.1)
\set s :client_id * 1000000000 + :n
\set hi 1000000000000000 + :n
\set lo 1000000000000000 + :client_id
INSERT INTO bench.raw_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) VALUES (nextval('bench.raw_position'), 'Order', :a, :s, (:hi::text || :lo::text)::uuid, 'OrderPlaced', :payload, now(), now());
