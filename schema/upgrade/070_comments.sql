-- comments: what create_store() locks, and nothing that another encoding lacks

COMMENT ON FUNCTION event_store.announce_store() IS
'Internal: locks the schema against another create_store() and makes the launcher look at this database once the transaction has committed.';
COMMENT ON FUNCTION event_store.guard_drop() IS
'Internal: event trigger that refuses to drop the extension (DROP EXTENSION, DROP SCHEMA ... CASCADE, DROP OWNED) with 55000 while undrained rows are staged.';
