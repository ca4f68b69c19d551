-- raw: a multi-row INSERT whose arrays the client sends; a row for every event comes back
\set visit :k / 25
\set turn :k % 25
\set k :k + 1
\if :turn = 0
SELECT bench.batch_ids(:client_id, :visit, :events, :aggregates) AS ids \gset
\endif
\if :k = 1
SELECT types, event_types, payloads, sequences, uuids FROM bench.batches WHERE events = :events \gset
\endif
\set base :turn * (:events / :aggregates)
\set hi 1000000000000000 + :k * 1000 + :client_id
INSERT INTO bench.raw_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) SELECT nextval('bench.raw_position'), b.aggregate_type, b.aggregate_id, b.sequence + :base, (:hi::text || b.uuid)::uuid, b.event_type, b.payload, now(), now() FROM unnest(:types::text[], :ids::text[], :sequences::bigint[], :uuids::text[], :event_types::text[], :payloads::jsonb[]) AS b (aggregate_type, aggregate_id, sequence, uuid, event_type, payload) RETURNING event_id, sequence, global_position;
