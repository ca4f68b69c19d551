-- Emmett: 20 messages a stream, the expectation given
\set e :s % 20
\set s :e + 1
\if :s = 1
\set n :n + 1
\set a hash(:client_id * 100000000 + :n, 0)
\endif
SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:payload]::jsonb[], ARRAY['{}']::jsonb[], ARRAY['1'], ARRAY['OrderPlaced'], ARRAY['E'], :a, 'order', :e, :partition);
