\set n random(0, :aggregates - 1)
SELECT * FROM event_store.load_events('Order', md5(:n::text));
