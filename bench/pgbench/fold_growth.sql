-- the state is made but not sent: what grows here is the fold
SELECT sequence FROM event_store.replay_aggregate(:type, :id, :upto);
