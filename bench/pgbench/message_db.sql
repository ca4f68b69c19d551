-- message-db: one category, 20 messages a stream, the expectation given
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
\set v :e - 1
SELECT message_store.write_message(gen_random_uuid()::text, 'order-' || :a, 'OrderPlaced', :payload, NULL, :v);
