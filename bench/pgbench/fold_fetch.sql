-- what a client that folds for itself needs at the least
\set a random(1, 20)
SELECT event_type, payload FROM event_store.domain_events WHERE aggregate_type = 'Account' AND aggregate_id = :a ORDER BY sequence;
