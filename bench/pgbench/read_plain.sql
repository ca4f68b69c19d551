\set a random(0, :last - 10000)
SELECT * FROM event_store.domain_events WHERE global_position > :a ORDER BY global_position LIMIT 10000;
