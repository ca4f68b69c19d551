-- raw: the same in a transaction by a client that knows what to write
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
\set k random(1, 100) + 100 * :client_id
\set hi 1000000000000000 + :n * 20 + :s
\set lo 1000000000000000 + :client_id
BEGIN;
INSERT INTO bench.raw_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) VALUES (nextval('bench.raw_position'), 'Spent', :a, :s, (:hi::text || :lo::text)::uuid, 'Paid', jsonb_build_object('customer', :k::text, 'amount', 5), now(), now()) RETURNING global_position, event_id \gset
INSERT INTO bench.raw_views AS v (view_name, view_key, view_data, version) VALUES ('spent', :k::text, jsonb_build_object('times', 1, 'total', 5, 'last', :event_id::uuid), :global_position::bigint) ON CONFLICT (view_name, view_key) DO UPDATE SET view_data = jsonb_build_object('times', (v.view_data ->> 'times')::bigint + 1, 'total', (v.view_data ->> 'total')::numeric + 5, 'last', excluded.view_data -> 'last'), version = excluded.version, updated_at = clock_timestamp();
COMMIT;
