\set a random(0, :last - 10000)
SELECT * FROM event_store.read_events(:a, 10000);
