-- 500 archived aggregates of 20 events: positions go through all of them in turns, rows stand as they were moved, by aggregate
\set n :n + 1
\set b :block + (:n - 1) * 2 + :client_id
INSERT INTO event_store.domain_events_archive (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) SELECT :b::bigint * 10000 + s * 500 + a + 1, 'Order', md5((:b::bigint * 500 + a)::text), s + 1, gen_random_uuid(), 'OrderPlaced', :payload::jsonb, now(), now() FROM generate_series(0, 499) a, generate_series(0, 19) s;
INSERT INTO event_store.closed_aggregates (aggregate_type, aggregate_id, state, last_sequence, last_position, last_recorded_at) SELECT 'Order', md5((:b::bigint * 500 + a)::text), 'archived', 20, :b::bigint * 10000 + 9500 + a + 1, now() FROM generate_series(0, 499) a;
