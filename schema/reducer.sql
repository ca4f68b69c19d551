-- reducer: what folds the events of an aggregate type

CREATE FUNCTION event_store.set_reducer(aggregate_type text, reducer regproc,
                                        reducer_version int DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_set_reducer';
COMMENT ON FUNCTION event_store.set_reducer(text, regproc, int) IS
$$Registers the function that folds the events of an aggregate type into its state. NULL goes back to the built-in reducer, which applies each payload as a JSON merge patch (RFC 7396).
aggregate_type: 1 to 255 characters. reducer: a function (state jsonb, event event_store.event) RETURNS jsonb in any language, not STRICT; it is kept by name, gets state NULL with the first event, and what it returns is its state at the next; NULL means deleted, and the next event begins anew. reducer_version: NULL = the previous one + 1, or the same when the reducer is the same; give a higher one after changing the function's body. Before any call the version is 0. Snapshots of an older version are no longer used.
The reducer runs with the rights of its owner in a security-restricted context, with search_path = pg_catalog, pg_temp unless it sets another; fold_events, whose events a caller may make up, runs it only for callers who have all rights of its owner. It should depend on nothing but its arguments. The name of its owner is kept: when the function belongs to another role it is refused with 42501 until it is registered again.
A store made by an earlier version needs create_store() once more.
Errors: 22004 aggregate_type is NULL; 22001 it is too long; 22023 the function has another shape, or reducer_version is not greater than that of another reducer; 42501 the caller does not own the function; 25006; 55000.
Example: SELECT event_store.set_reducer('Order', NULL);$$;

CREATE FUNCTION event_store.set_reducer_rules(aggregate_type text, rules jsonb,
                                              reducer_version int DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_set_reducer_rules';
COMMENT ON FUNCTION event_store.set_reducer_rules(text, jsonb, int) IS
$$Registers rules that fold the events of an aggregate type into its state. NULL goes back to the built-in reducer.
aggregate_type: 1 to 255 characters. rules: for each event type a list of operations on the state; docs/rules.md describes them. They are checked here and folded in C. reducer_version: NULL = the previous one + 1, or the same when the rules are the same. Snapshots of an older version are no longer used.
Errors: 22004 aggregate_type is NULL; 22001 it is too long; 22023 a rule is wrong, and which, or reducer_version is not greater than that of another reducer; 25006; 55000.
Example: SELECT event_store.set_reducer_rules('Order', NULL);$$;

CREATE FUNCTION event_store.reducer_state(
        OUT aggregate_type text, OUT failures bigint, OUT consecutive_failures int,
        OUT last_error text, OUT last_error_at timestamptz, OUT rests_until timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'es_reducer_state';
COMMENT ON FUNCTION event_store.reducer_state() IS
'Internal: the rows of the view reducer_status.';

CREATE VIEW event_store.reducer_status AS
SELECT r.aggregate_type, r.failures, r.consecutive_failures, r.last_error, r.last_error_at, r.rests_until
  FROM event_store.reducer_state() r;
COMMENT ON VIEW event_store.reducer_status IS
$$The aggregate types of which the worker could not take a snapshot, mostly since their reducer raised an error, since the server started: a row each, at most 32.
failures: all of them; consecutive_failures: those since the last snapshot that was taken, and last_error the last one of these (of which who may not read events sees the SQLSTATE), at last_error_at. Until rests_until no snapshot of the type is tried.
Of more than 32 types one that has been well for long is forgotten first. Of a type's name the first 255 bytes are shown. No rows without preload.
Example: SELECT aggregate_type, last_error FROM event_store.reducer_status WHERE consecutive_failures > 0;$$;
