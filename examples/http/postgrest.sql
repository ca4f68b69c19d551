-- What PostgREST calls first in the transaction of each request (db-pre-request), after setup.sql.
CREATE SCHEMA postgrest;
CREATE FUNCTION postgrest.correlate() RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS $$
        SELECT pg_catalog.set_config('event_store.correlation_id',
            coalesce(nullif(current_setting('request.headers', true), '')::json ->> 'x-correlation-id', ''), true)
    $$;
COMMENT ON FUNCTION postgrest.correlate() IS
'Gives the events of a request the X-Correlation-Id of its headers. Errors: 22023 for one of more than 255 characters.';
GRANT USAGE ON SCHEMA postgrest TO web_writer, web_reader;
