-- replay: the state of an aggregate, of many, and after any events

CREATE TYPE event_store.aggregate_state AS (
    state jsonb,
    sequence bigint
);
COMMENT ON TYPE event_store.aggregate_state IS
'The state of an aggregate after the event at sequence; (NULL, 0) before the first event.';

CREATE FUNCTION event_store.replay_aggregate(aggregate_type text, aggregate_id text,
                                             as_of_sequence bigint DEFAULT NULL,
                                             as_of_time timestamptz DEFAULT NULL,
                                             reducer regproc DEFAULT NULL,
                                             as_of_position bigint DEFAULT NULL)
    RETURNS event_store.aggregate_state
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_replay_aggregate';
COMMENT ON FUNCTION event_store.replay_aggregate(text, text, bigint, timestamptz, regproc, bigint) IS
$$Returns the state of an aggregate and the sequence of the last event in it, staged events included; (NULL, 0) without events.
as_of_sequence: fold no later event; 0 gives (NULL, 0), beyond the last event means all. as_of_time: fold no event recorded later; while a transaction is open that has recorded an event before that time, the answer may still change. as_of_position: fold no event of a later global position, and none that is staged; up to the safe position the answer stays the same for ever. Given together, all bound. reducer: a function to use instead of the registered one, in this call only, run as the caller and without snapshots; it must look as set_reducer says.
Without a reducer each payload is applied to the state as a JSON merge patch (RFC 7396): objects are merged, null removes a member, anything else replaces. Events with payload_bytes leave that state as it is.
Errors: 22004, 22001 as usual; 22023 as_of_sequence or as_of_position is negative or the function has another shape; 42501 the caller may not execute the given reducer, or the registered one belongs to another role than when it was registered; 42883 the registered reducer no longer exists; 54000 the state grows over 256 MB; 54001 reducers replay within each other more than 32 deep; 55000; and whatever the reducer raises, with the event in the context.
Example: SELECT * FROM event_store.replay_aggregate('Order', 'o-1', as_of_sequence => 1);$$;

CREATE FUNCTION event_store.replay_aggregates(aggregate_type text, aggregate_ids text[] DEFAULT NULL,
                                              as_of_sequence bigint DEFAULT NULL,
                                              as_of_time timestamptz DEFAULT NULL,
                                              as_of_position bigint DEFAULT NULL)
    RETURNS TABLE (aggregate_id text, state jsonb, sequence bigint)
    LANGUAGE c STABLE PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_replay_aggregates';
COMMENT ON FUNCTION event_store.replay_aggregates(text, text[], bigint, timestamptz, bigint) IS
$$Returns the state of many aggregates and the sequence of the last event in each, as replay_aggregate does for one: a row for each that has events, staged ones included, in the order of the ids' bytes (collation "C").
aggregate_ids: only these, each once however often it is given; one without events gives no row. NULL = all of the type. as_of_sequence, as_of_time, as_of_position: as in replay_aggregate; an aggregate without events up to there gives no row. The events are read in one ordered scan, with snapshots where there are any; memory does not grow with their number.
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
The events may be made up, so a registered function runs, as its owner, only for callers who have all rights of the owner. The built-in reducer and rules need no right.
Errors: 22004 an event without aggregate_type, aggregate_id, sequence or event_type; 22023 events of several types where one of them has a reducer of its own; 42501 the reducer is a function of a role whose rights the caller has not; otherwise as replay_aggregate.
Example: SELECT e.sequence, event_store.fold_events(e) OVER (ORDER BY e.sequence) FROM event_store.load_events('Order', 'o-1') e;$$;
