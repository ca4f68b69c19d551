-- replay_aggregate, replay_aggregates: as of a position

DROP FUNCTION event_store.replay_aggregate(text, text, bigint, timestamptz, regproc);
DROP FUNCTION event_store.replay_aggregates(text, text[]);
