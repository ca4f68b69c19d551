SELECT * FROM event_store.replay_aggregate('Account', 'short');
