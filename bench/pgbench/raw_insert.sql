-- the baseline: a client that knows what it writes, each aggregate 20 events
\set s :s % 20 + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
INSERT INTO bench.raw_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) VALUES (nextval('bench.raw_position'), 'Order', :a, :s, gen_random_uuid(), 'OrderPlaced', :payload, now(), now());
