-- create_store: the owner

DROP FUNCTION event_store.create_store(boolean, boolean, boolean);
