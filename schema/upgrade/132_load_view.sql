-- load_view: for update

DROP FUNCTION event_store.load_view(text, text);
