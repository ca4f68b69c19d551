\set a random(1, 20)
SELECT * FROM event_store.replay_aggregate('Account', :a);
