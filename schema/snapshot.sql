-- snapshot: states of aggregates at a sequence

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

CREATE FUNCTION event_store.save_snapshot(aggregate_type text, aggregate_id text, sequence bigint,
                                          state jsonb DEFAULT NULL, state_bytes bytea DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_save_snapshot';
COMMENT ON FUNCTION event_store.save_snapshot(text, text, bigint, jsonb, bytea) IS
$$Keeps an application's own snapshot of an aggregate, durably, in the place of the one it saved before. Returns false, and changes nothing, if that one has a higher sequence; an equal one is replaced. replay_aggregate does not use it.
sequence: of the last event in the state, from 1 to the last durable one. state or state_bytes: exactly one of them.
Errors: 22004 type, id or sequence is NULL; 22001 too long; 22023 sequence is not positive or beyond the last durable event, or not exactly one state; 25006; 55000.
Example: SELECT event_store.save_snapshot('Order', 'o-1', 1, state => '{"total": "19.99"}');$$;

CREATE FUNCTION event_store.load_snapshot(aggregate_type text, aggregate_id text)
    RETURNS SETOF event_store.snapshot
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_load_snapshot'
    ROWS 1;
COMMENT ON FUNCTION event_store.load_snapshot(text, text) IS
$$Returns the newest snapshot of an aggregate, 0 or 1 row: the application's own (source 'client', made by save_snapshot) or the server's (source 'server'), the application's when both have one sequence. A server snapshot of an older reducer_version does not count.
Errors: 22004, 22001 as usual; 55000.
Example: SELECT sequence, state FROM event_store.load_snapshot('Order', 'o-1');$$;

CREATE FUNCTION event_store.delete_snapshot(aggregate_type text, aggregate_id text)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_delete_snapshot';
COMMENT ON FUNCTION event_store.delete_snapshot(text, text) IS
$$Deletes the application's own snapshot of an aggregate (source 'client'); returns whether there was one. Then save_snapshot takes any sequence again. The server's snapshot stays.
Errors: 22004, 22001 as usual; 25006; 55000.
Example: SELECT event_store.delete_snapshot('Order', 'o-1');$$;

CREATE FUNCTION event_store.take_snapshot(aggregate_type text, aggregate_id text)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_take_snapshot';
COMMENT ON FUNCTION event_store.take_snapshot(text, text) IS
$$Internal: stores the state after the last durable event of an aggregate as its server snapshot, which replay_aggregate starts from. Returns false if there is no event newer than the snapshot.
Errors: 22004, 22001 as usual; 25006; 55000; whatever the reducer raises.
Example: SELECT event_store.take_snapshot('Order', 'o-1');$$;
