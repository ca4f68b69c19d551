-- feed: read_events reads up to a position, and backward

DROP FUNCTION event_store.read_events(bigint, int, text[], text[], int, int);
