-- raw: a plain INSERT by a client that knows the sequence and makes ordered
-- UUIDs; 20 events an aggregate
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
\set hi 1000000000000000 + :n * 20 + :s
\set lo 1000000000000000 + :client_id
INSERT INTO bench.raw_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) VALUES (nextval('bench.raw_position'), 'Order', :a, :s, (:hi::text || :lo::text)::uuid, 'OrderPlaced', :payload, now(), now());
