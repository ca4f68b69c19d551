-- The roles of the HTTP entry, in a database with a store.  Run by a superuser.

-- Who connects.  It has no rights of its own and inherits none: what a request may do is what the role in its
-- token may, and only roles that are granted here can be in one.
CREATE ROLE authenticator LOGIN NOINHERIT;
-- what an HTTP client waits for at most; a statement that goes on without it would keep its connection
ALTER ROLE authenticator SET statement_timeout = '10s';
ALTER ROLE authenticator SET idle_in_transaction_session_timeout = '10s';
-- a field that was forgotten shall not mean "any sequence"; who means it says -2
ALTER ROLE authenticator SET event_store.require_expected_sequence = on;

CREATE ROLE web_writer;
CREATE ROLE web_reader;
SELECT event_store.grant_access('web_writer', 'writer');
SELECT event_store.grant_access('web_reader', 'reader');
GRANT web_writer, web_reader TO authenticator;

-- GraphQL has no overloaded functions, and postgraphile leaves both forms of append_batch out.  This is the one
-- that takes JSON, under a name that it has for itself.
CREATE SCHEMA api;
CREATE FUNCTION api.append_batch(events jsonb, on_conflict text DEFAULT 'error', durability text DEFAULT NULL)
    RETURNS TABLE (ordinal int, event_id uuid, sequence bigint, global_position bigint, outcome text)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS $$ SELECT * FROM event_store.append_batch(events, on_conflict => on_conflict, durability => durability) $$;
COMMENT ON FUNCTION api.append_batch(jsonb, text, text) IS
'Appends a JSON array of events of any aggregates, all or none: event_store.append_batch.';
REVOKE ALL ON FUNCTION api.append_batch(jsonb, text, text) FROM PUBLIC;
GRANT USAGE ON SCHEMA api TO web_writer;
GRANT EXECUTE ON FUNCTION api.append_batch(jsonb, text, text) TO web_writer;
