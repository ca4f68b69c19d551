-- the reducer is set before the turn
\set a random(1, 20)
SELECT * FROM event_store.replay_aggregate('Fulfilment', :a);
