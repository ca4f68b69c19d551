-- a staged batch whose arrays the client sends; the rows that come back are counted
\set visit :k / 25
\set turn :k % 25
\set k :k + 1
\if :turn = 0
SELECT bench.batch_ids(:client_id, :visit, :events, :aggregates) AS ids \gset
\endif
\if :k = 1
SELECT types, event_types, payloads, sequences, uuids FROM bench.batches WHERE events = :events \gset
\endif
SELECT count(*) FROM event_store.append_batch(:types::text[], :ids::text[], :event_types::text[], :payloads::jsonb[], durability => 'staged');
