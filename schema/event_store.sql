-- event_store: appending to the log and loading from it

CREATE TYPE event_store.append_result AS (
    first_sequence bigint,
    last_sequence bigint,
    last_position bigint,
    durable boolean,
    outcome text,
    staging_epoch bigint
);
COMMENT ON TYPE event_store.append_result IS
'What an append did: outcome is appended or duplicate; last_position is NULL and durable false while the events are staged, staging_epoch is NULL for durable ones.';

CREATE FUNCTION event_store.append_event(
    aggregate_type text, aggregate_id text, expected_sequence bigint, event_type text,
    payload jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL, event_id uuid DEFAULT NULL,
    correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL, saga_id text DEFAULT NULL,
    occurred_at timestamptz DEFAULT NULL, payload_bytes bytea DEFAULT NULL,
    schema_version int DEFAULT 1, durability text DEFAULT NULL)
    RETURNS event_store.append_result
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_event';
COMMENT ON FUNCTION event_store.append_event(text, text, bigint, text, jsonb, jsonb, uuid, text, text, text, timestamptz, bytea, int, text) IS
$$Appends one event to an aggregate.
expected_sequence: NULL or -2 = any, 0 = the aggregate must be new, n = its last sequence must be n, -4 = it must exist. With event_store.require_expected_sequence = on a NULL is 22004. At most one of payload (any JSON value) and payload_bytes, up to 256 MB; none = {}. metadata: JSON, but no string that holds an encoded object. event_id: repeating it with the same content returns the original and writes nothing; NULL = a UUIDv7 made here. occurred_at: NULL = now. durability: durable, grouped (a transaction of its own, committed together with what others append), staged or NULL = event_store.durability. Types and ids have 1 to 255 characters.
Call it in FROM: SELECT (event_store.append_event(...)).* calls it six times, once for each column.
Errors: VS001 conflict with JSON detail, VS002 event_id used with other content, its JSON detail saying where it stands, VS004 staging full, VS005 archived or deleted, VS006 dead letters, VS010 too many reactions in a row, 25001 grouped by the argument in a transaction block, 40001 where an owner writes to domain_events at this moment, 42501 for a saga, 22004, 22023, 22001, 54000 larger than 256 MB, 55000, 25006.
Example: SELECT * FROM event_store.append_event('Order', 'o-100', NULL, 'OrderPlaced', '{"total": "19.99"}');$$;

CREATE FUNCTION event_store.append_events(
    aggregate_type text, aggregate_id text, expected_sequence bigint, events jsonb,
    durability text DEFAULT NULL)
    RETURNS event_store.append_result
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_events';
COMMENT ON FUNCTION event_store.append_events(text, text, bigint, jsonb, text) IS
$$Appends a list of events to one aggregate, all or none.
expected_sequence speaks of the aggregate before the first event, as in append_event. events: a JSON array of objects with the keys event_type (required), payload, metadata, event_id, correlation_id, causation_id, saga_id, occurred_at, schema_version; one object is a list of one.
Call it in FROM: SELECT (event_store.append_events(...)).* calls it six times, once for each column.
Errors: as append_event; VS002 also when only a part of the list is in the store already; 22023 for an empty list and unknown keys.
Example: SELECT * FROM event_store.append_events('Order', 'o-101', NULL, '[{"event_type": "OrderPlaced"}, {"event_type": "OrderPaid", "payload": {"amount": "19.99"}}]');$$;

CREATE FUNCTION event_store.append_batch(
    aggregate_types text[], aggregate_ids text[], event_types text[], payloads jsonb[],
    expected_sequences bigint[] DEFAULT NULL, metadata jsonb[] DEFAULT NULL,
    event_ids uuid[] DEFAULT NULL, correlation_ids text[] DEFAULT NULL,
    causation_ids text[] DEFAULT NULL, saga_ids text[] DEFAULT NULL,
    occurred_at timestamptz[] DEFAULT NULL, payload_bytes bytea[] DEFAULT NULL,
    schema_versions int[] DEFAULT NULL, on_conflict text DEFAULT 'error', durability text DEFAULT NULL)
    RETURNS TABLE (ordinal int, event_id uuid, sequence bigint, global_position bigint, outcome text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_batch';
COMMENT ON FUNCTION event_store.append_batch(text[], text[], text[], jsonb[], bigint[], jsonb[], uuid[], text[], text[], text[], timestamptz[], bytea[], int[], text, text) IS
$$Appends any number of events to any number of aggregates in one call and one transaction; element i of every array belongs to event i.
expected_sequences[i] speaks of the aggregate just before event i; with event_store.require_expected_sequence = on every event needs one. on_conflict: error refuses all with VS001; report writes the aggregates without conflict and reports every event of the others as conflict, with their actual last sequence; report_all writes nothing where there is a conflict and reports every event as conflict, with the last sequence of its aggregate: for what must be written together. Of a call that is written all or none all event_ids are repeated or none (VS002). Returns a row an event, in the order given; an empty list gives none.
Call it in FROM: SELECT (event_store.append_batch(...)).* calls it five times, once for each column.
Errors: as append_event; 22023 when arrays have more than one dimension or different lengths.
Example: SELECT * FROM event_store.append_batch(ARRAY['Order', 'Payment'], ARRAY['o-102', 'p-102'], ARRAY['OrderPlaced', 'PaymentProcessed'], ARRAY['{}', '{"amount": "19.99"}']::jsonb[]);$$;

CREATE FUNCTION event_store.append_batch(
    events jsonb, on_conflict text DEFAULT 'error', durability text DEFAULT NULL)
    RETURNS TABLE (ordinal int, event_id uuid, sequence bigint, global_position bigint, outcome text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_batch_json';
COMMENT ON FUNCTION event_store.append_batch(jsonb, text, text) IS
$$Appends a JSON array of events of any aggregates, like append_batch with arrays.
events: objects with the keys of append_events and aggregate_type, aggregate_id (required), expected_sequence.
Call it in FROM: SELECT (event_store.append_batch(...)).* calls it five times, once for each column.
Errors: as append_batch with arrays.
Example: SELECT * FROM event_store.append_batch('[{"aggregate_type": "Order", "aggregate_id": "o-103", "event_type": "OrderPlaced"}]');$$;

CREATE FUNCTION event_store.load_events(
    aggregate_type text, aggregate_id text, after_sequence bigint DEFAULT NULL,
    up_to_sequence bigint DEFAULT NULL, max_count int DEFAULT NULL, backward boolean DEFAULT false,
    upcast boolean DEFAULT true)
    RETURNS SETOF event_store.event
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'es_load_events';
COMMENT ON FUNCTION event_store.load_events(text, text, bigint, bigint, int, boolean, boolean) IS
$$Returns the events of an aggregate in sequence order, staged ones included (their global_position is NULL).
after_sequence is exclusive, up_to_sequence inclusive; max_count limits the rows; backward turns the order, so that the last events come first; upcast => false shows them as they were written, not as their last version has them (set_upcaster).
Errors: 22004, 22023, 22001, 55000; and whatever an upcaster raises, with the event in the DETAIL.
Example: SELECT sequence, event_type, payload FROM event_store.load_events('Order', 'o-100', after_sequence => 0, max_count => 10);$$;

CREATE FUNCTION event_store.load_event(event_id uuid, upcast boolean DEFAULT true) RETURNS SETOF event_store.event
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'es_load_event';
COMMENT ON FUNCTION event_store.load_event(uuid, boolean) IS
$$Returns the event of an id, staged or durable: 0 or 1 row. upcast => false shows it as it was written.
Errors: 22004, 55000; and whatever an upcaster raises, with the event in the DETAIL.
Example: SELECT * FROM event_store.load_event('018f3b1c-0000-7000-8000-000000000000');$$;

CREATE FUNCTION event_store.aggregate_sequence(aggregate_type text, aggregate_id text) RETURNS bigint
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_aggregate_sequence';
COMMENT ON FUNCTION event_store.aggregate_sequence(text, text) IS
$$Returns the last sequence of an aggregate, staged events included; 0 when it has none.
Errors: 22004, 22023, 22001, 55000.
Example: SELECT event_store.aggregate_sequence('Order', 'o-100');$$;

CREATE FUNCTION event_store.aggregate_info(aggregate_type text, aggregate_id text)
    RETURNS TABLE (event_count bigint, first_sequence bigint, last_sequence bigint, last_position bigint,
                   last_recorded_at timestamptz, staged_count bigint, dead_letter_count bigint, archived boolean)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'es_aggregate_info';
COMMENT ON FUNCTION event_store.aggregate_info(text, text) IS
$$Returns one row about an aggregate, staged events included; zeros where it has none.
event_count: durable and staged. last_position: of the last durable event. last_recorded_at: of the last event, NULL where there is none. staged_count: how many of them are staged. dead_letter_count: its events that could not be drained; they count nowhere else. archived: whether all its events are in the archive, which closes it; those that are count like any others. The events are counted, which for 100,000 of them takes some 10 ms; aggregate_sequence tells the last one at once.
Errors: 22004, 22023, 22001, 55000.
Example: SELECT event_count, last_sequence, last_recorded_at FROM event_store.aggregate_info('Order', 'o-100');$$;

CREATE FUNCTION event_store.lock_aggregate(aggregate_type text, aggregate_id text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_lock_aggregate';
COMMENT ON FUNCTION event_store.lock_aggregate(text, text) IS
$$Locks an aggregate, whether it has events or not, until the transaction ends, and returns its last sequence, staged events included; 0 when it has none. Appends of others to it wait. For a decision that must not meet a conflict: lock, load, decide, append in one transaction. What is loaded in a later statement shows what was locked at READ COMMITTED; at REPEATABLE READ only what the transaction sees. Several aggregates are locked in one order, else 40P01.
Errors: 22004, 22023, 22001, 40001 at SERIALIZABLE when the last event is newer than its snapshot, 40P01, 25006, 55000.
Example: SELECT event_store.lock_aggregate('Order', 'o-100');$$;

CREATE FUNCTION event_store.assert_sequence(aggregate_type text, aggregate_id text, expected_sequence bigint) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_assert_sequence';
COMMENT ON FUNCTION event_store.assert_sequence(text, text, bigint) IS
$$Locks an aggregate as lock_aggregate does and refuses with VS001 where its last sequence is not the expected one; returns that sequence. It stays so until the transaction ends: for a decision that rests on an aggregate to which it appends nothing.
expected_sequence: as in append_event; 0 = it has no events, -4 = it has some, -2 = any. NULL is 22004.
Errors: VS001 conflict with JSON detail; otherwise as lock_aggregate.
Example: SELECT event_store.assert_sequence('Order', 'o-100', -2);$$;

CREATE FUNCTION event_store.load_aggregate_ids(
    aggregate_type text, after_id text DEFAULT NULL, max_count int DEFAULT NULL)
    RETURNS SETOF text
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_load_aggregate_ids';
COMMENT ON FUNCTION event_store.load_aggregate_ids(text, text, int) IS
$$Returns the ids of all aggregates of a type in bytewise order, staged ones included.
after_id is exclusive: pass the last id of a page to get the next; max_count limits the rows.
Errors: 22004, 22023, 22001, 55000.
Example: SELECT * FROM event_store.load_aggregate_ids('Order', max_count => 10);$$;

CREATE FUNCTION event_store.saga_log(saga_id text, upcast boolean DEFAULT true) RETURNS SETOF event_store.event
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'es_saga_log';
COMMENT ON FUNCTION event_store.saga_log(text, boolean) IS
$$Returns the events of all aggregates that carry a saga_id, in the order of global_position; staged ones, which have none yet, come last in the order in which they were staged. Those of an aggregate that has dead letters are durable ones alone. upcast => false shows them as they were written.
Errors: 22004, 22023, 22001, 55000; and whatever an upcaster raises, with the event in the DETAIL.
Example: SELECT aggregate_type, aggregate_id, sequence, event_type, causation_id FROM event_store.saga_log('order-100');$$;
