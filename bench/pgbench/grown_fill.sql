-- 500 new aggregates of 20 events each, with ids in no order
\set n :n + 1
\set b :block + (:n - 1) * 2 + :client_id
SELECT count(*) FROM event_store.append_batch(array_fill('Order'::text, ARRAY[10000]), ARRAY(SELECT md5((:b::int * 500 + i % 500)::text) FROM generate_series(1, 10000) i), array_fill('OrderPlaced'::text, ARRAY[10000]), array_fill(:payload::jsonb, ARRAY[10000]));
