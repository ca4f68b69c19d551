-- to any of the aggregates that are there
\set n random(0, :aggregates - 1)
SELECT * FROM event_store.append_event('Order', md5(:n::text), NULL, 'OrderPlaced', :payload);
