\set a random(1, 20)
SELECT * FROM event_store.domain_events WHERE aggregate_type = 'Account' AND aggregate_id = :a ORDER BY sequence;
