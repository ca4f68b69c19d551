-- Emmett: all clients write to one stream
SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:payload]::jsonb[], ARRAY['{}']::jsonb[], ARRAY['1'], ARRAY['OrderPlaced'], ARRAY['E'], '1', 'order', NULL, :partition);
