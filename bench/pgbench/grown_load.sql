\set a hash(random(1, :aggregates), 0)
SELECT * FROM event_store.load_events('Order', :a);
