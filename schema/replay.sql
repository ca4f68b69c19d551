-- replay: reducers, the state of an aggregate, snapshots

CREATE TYPE event_store.aggregate_state AS (
    state jsonb,
    sequence bigint
);
COMMENT ON TYPE event_store.aggregate_state IS
'The state of an aggregate after the event at sequence; (NULL, 0) before the first event.';

CREATE TYPE event_store.snapshot AS (
    aggregate_type text,
    aggregate_id text,
    source text,
    sequence bigint,
    state jsonb,
    state_bytes bytea,
    reducer_version int,
    created_at timestamptz
);
COMMENT ON TYPE event_store.snapshot IS
'One snapshot: the columns of the table snapshots in their order.';

CREATE FUNCTION event_store.set_reducer(aggregate_type text, reducer regproc,
                                        reducer_version int DEFAULT NULL)
    RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_set_reducer';
COMMENT ON FUNCTION event_store.set_reducer(text, regproc, int) IS
$$Registers the function that folds the events of an aggregate type into its state. NULL goes back to the built-in reducer, which applies each payload as a JSON merge patch (RFC 7396).
aggregate_type: 1 to 255 characters. reducer: a function (state jsonb, event event_store.event) RETURNS jsonb in any language, not STRICT; it is kept by name, gets state NULL with the first event, and what it returns, NULL included, is its state at the next. reducer_version: NULL = the previous one + 1, or the same when the reducer is the same; give a higher one after changing the function's body. Before any call the version is 0. Snapshots of an older version are no longer used.
The reducer runs with the rights of its owner in a security-restricted context, with search_path = pg_catalog, pg_temp unless it sets another. It should depend on nothing but its arguments.
Errors: 22004 aggregate_type is NULL; 22001 it is too long; 22023 the function has another shape, or reducer_version is not greater than that of another reducer; 42501 the caller does not own the function; 25006; 55000.
Example: SELECT event_store.set_reducer('Order', NULL);$$;

CREATE FUNCTION event_store.set_reducer_rules(aggregate_type text, rules jsonb,
                                              reducer_version int DEFAULT NULL)
    RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_set_reducer_rules';
COMMENT ON FUNCTION event_store.set_reducer_rules(text, jsonb, int) IS
$$Registers rules that fold the events of an aggregate type into its state. NULL goes back to the built-in reducer.
aggregate_type: 1 to 255 characters. rules: for each event type a list of operations on the state; docs/rules.md describes them. They are checked here and folded in C. reducer_version: NULL = the previous one + 1, or the same when the rules are the same. Snapshots of an older version are no longer used.
Errors: 22004 aggregate_type is NULL; 22001 it is too long; 22023 a rule is wrong, and which, or reducer_version is not greater than that of another reducer; 25006; 55000.
Example: SELECT event_store.set_reducer_rules('Order', NULL);$$;

CREATE FUNCTION event_store.replay_aggregate(aggregate_type text, aggregate_id text,
                                             as_of_sequence bigint DEFAULT NULL,
                                             as_of_time timestamptz DEFAULT NULL,
                                             reducer regproc DEFAULT NULL)
    RETURNS event_store.aggregate_state
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_replay_aggregate';
COMMENT ON FUNCTION event_store.replay_aggregate(text, text, bigint, timestamptz, regproc) IS
$$Returns the state of an aggregate and the sequence of the last event in it, staged events included; (NULL, 0) without events.
as_of_sequence: fold no later event; 0 gives (NULL, 0), beyond the last event means all. as_of_time: fold no event recorded later. With both, both bound. reducer: a function to use instead of the registered one, in this call only, run as the caller and without snapshots; it must look as set_reducer says.
Without a reducer each payload is applied to the state as a JSON merge patch (RFC 7396): objects are merged, null removes a member, anything else replaces. Events with payload_bytes leave that state as it is.
Errors: 22004, 22001 as usual; 22023 as_of_sequence is negative or the function has another shape; 42501 the caller may not execute the given reducer; 42883 the registered reducer no longer exists; 54000 the state grows over 256 MB; 55000; and whatever the reducer raises, with the event in the context.
Example: SELECT * FROM event_store.replay_aggregate('Order', 'o-1', as_of_sequence => 1);$$;

CREATE FUNCTION event_store.replay_aggregates(aggregate_type text, aggregate_ids text[] DEFAULT NULL)
    RETURNS TABLE (aggregate_id text, state jsonb, sequence bigint)
    LANGUAGE c STABLE PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_replay_aggregates';
COMMENT ON FUNCTION event_store.replay_aggregates(text, text[]) IS
$$Returns the state of many aggregates and the sequence of the last event in each, as replay_aggregate does for one: a row for each that has events, staged ones included, in the order of the ids' bytes (collation "C").
aggregate_ids: only these, each once however often it is given; one without events gives no row. NULL = all of the type. The events are read in one ordered scan, with snapshots where there are any; memory does not grow with their number.
The function may run in a parallel worker, and with it the reducer; one that uses what is forbidden there, such as an EXCEPTION block before PostgreSQL 17, needs max_parallel_workers_per_gather = 0.
Errors: 22004 aggregate_type is NULL or NULL inside aggregate_ids; 22001 it is too long; 22023 aggregate_ids has more than one dimension; otherwise as replay_aggregate.
Example: SELECT aggregate_id, state FROM event_store.replay_aggregates('Order', ARRAY['o-1', 'o-2']);$$;

CREATE FUNCTION event_store.fold_events_add(internal, event_store.event) RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_fold_events_add';
COMMENT ON FUNCTION event_store.fold_events_add(internal, event_store.event) IS
'Internal: takes an event into the state of the aggregate fold_events.';
CREATE FUNCTION event_store.fold_events_result(internal) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_fold_events_result';
COMMENT ON FUNCTION event_store.fold_events_result(internal) IS
'Internal: the state of the aggregate fold_events.';

CREATE AGGREGATE event_store.fold_events(event_store.event) (
    SFUNC = event_store.fold_events_add,
    STYPE = internal,
    FINALFUNC = event_store.fold_events_result,
    FINALFUNC_MODIFY = READ_ONLY,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE event_store.fold_events(event_store.event) IS
$$Folds events, in the order given, into the state after the last of them, by the reducer that is registered for their aggregate_type.
Give the order: fold_events(e ORDER BY e.sequence) for the state, fold_events(e) OVER (ORDER BY e.sequence) for the state after every event; with FILTER and GROUP BY as any aggregate. NULL events are left out; no events give NULL. Rows of domain_events become events by ROW(d.*)::event_store.event. Snapshots are not used.
Errors: 22004 an event without aggregate_type, aggregate_id, sequence or event_type; 22023 events of several types where one of them has a reducer of its own; otherwise as replay_aggregate.
Example: SELECT e.sequence, event_store.fold_events(e) OVER (ORDER BY e.sequence) FROM event_store.load_events('Order', 'o-1') e;$$;

CREATE FUNCTION event_store.save_snapshot(aggregate_type text, aggregate_id text, sequence bigint,
                                          state jsonb DEFAULT NULL, state_bytes bytea DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_save_snapshot';
COMMENT ON FUNCTION event_store.save_snapshot(text, text, bigint, jsonb, bytea) IS
$$Keeps an application's own snapshot of an aggregate, durably, in the place of the one it saved before. Returns false, and changes nothing, if that one has a higher sequence; an equal one is replaced. replay_aggregate does not use it.
sequence: of the last event in the state, from 1 to the last durable one. state or state_bytes: exactly one of them.
Errors: 22004 type, id or sequence is NULL; 22001 too long; 22023 sequence is not positive or beyond the last durable event, or not exactly one state; 25006; 55000.
Example: SELECT event_store.save_snapshot('Order', 'o-1', 1, state => '{"total": "19.99"}');$$;

CREATE FUNCTION event_store.load_snapshot(aggregate_type text, aggregate_id text)
    RETURNS SETOF event_store.snapshot
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'es_load_snapshot'
    ROWS 1;
COMMENT ON FUNCTION event_store.load_snapshot(text, text) IS
$$Returns the newest snapshot of an aggregate, 0 or 1 row: the application's own (source 'client', made by save_snapshot) or the server's (source 'server'), the application's when both have one sequence. A server snapshot of an older reducer_version does not count.
Errors: 22004, 22001 as usual; 55000.
Example: SELECT sequence, state FROM event_store.load_snapshot('Order', 'o-1');$$;

CREATE FUNCTION event_store.take_snapshot(aggregate_type text, aggregate_id text)
    RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_take_snapshot';
COMMENT ON FUNCTION event_store.take_snapshot(text, text) IS
$$Internal: stores the state after the last durable event of an aggregate as its server snapshot, which replay_aggregate starts from. Returns false if there is no event newer than the snapshot.
Errors: 22004, 22001 as usual; 25006; 55000; whatever the reducer raises.
Example: SELECT event_store.take_snapshot('Order', 'o-1');$$;
