-- the first events of the log
\set a random(0, :window - 10000)
SELECT * FROM event_store.read_events(:a, 10000);
