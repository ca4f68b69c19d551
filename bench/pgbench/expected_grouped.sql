-- all clients append to one aggregate, each expecting the sequence it last heard
-- of; a conflict tells the actual one without an error
SELECT sequence AS e FROM event_store.append_batch(ARRAY['Order'], ARRAY['1'], ARRAY['OrderPlaced'], ARRAY[:payload]::jsonb[], expected_sequences => ARRAY[:e]::bigint[], on_conflict => 'report', durability => 'grouped') \gset
