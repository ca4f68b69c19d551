\set a random(1, 20)
SELECT * FROM event_store.load_events('Upcast', :a);
