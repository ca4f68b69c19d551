-- load_events, load_event: upcast

DROP FUNCTION event_store.load_events(text, text, bigint, bigint, int, boolean);
DROP FUNCTION event_store.load_event(uuid);
