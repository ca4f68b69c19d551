-- expected_sequence: -2 is any, and a setting refuses NULL

COMMENT ON FUNCTION event_store.append_event(text, text, bigint, text, jsonb, jsonb, uuid, text, text, text, timestamptz, bytea, int, text) IS
$$Appends one event to an aggregate.
expected_sequence: NULL or -2 = any, 0 = the aggregate must be new, n = its last sequence must be n, -4 = it must exist. With event_store.require_expected_sequence = on a NULL is 22004. At most one of payload and payload_bytes, up to 256 MB; none = {}. event_id: repeating it with the same content returns the original and writes nothing; NULL = a UUIDv7 made here. occurred_at: NULL = now. durability: durable, staged or NULL = event_store.durability. Types and ids have 1 to 255 characters.
Errors: VS001 conflict with JSON detail, VS002 event_id used with other content, VS004 staging full, VS006 dead letters, 22004, 22023, 22001, 55000, 25006.
Example: SELECT * FROM event_store.append_event('Order', 'o-100', NULL, 'OrderPlaced', '{"total": "19.99"}');$$;

COMMENT ON FUNCTION event_store.append_batch(text[], text[], text[], jsonb[], bigint[], jsonb[], uuid[], text[], text[], text[], timestamptz[], bytea[], int[], text, text) IS
$$Appends any number of events to any number of aggregates in one call and one transaction; element i of every array belongs to event i.
expected_sequences[i] speaks of the aggregate just before event i; with event_store.require_expected_sequence = on every event needs one. on_conflict: error refuses all with VS001; report writes the aggregates without conflict and reports every event of the others as conflict, with their actual last sequence. Returns a row an event, in the order given; an empty list gives none.
Errors: as append_event; 22023 when arrays have more than one dimension or different lengths.
Example: SELECT * FROM event_store.append_batch(ARRAY['Order', 'Payment'], ARRAY['o-102', 'p-102'], ARRAY['OrderPlaced', 'PaymentProcessed'], ARRAY['{}', '{"amount": "19.99"}']::jsonb[]);$$;

COMMENT ON FUNCTION event_store.append_batch(jsonb, text, text) IS
$$Appends a JSON array of events of any aggregates, like append_batch with arrays.
events: objects with the keys of append_events and aggregate_type, aggregate_id (required), expected_sequence.
Errors: as append_batch with arrays.
Example: SELECT * FROM event_store.append_batch('[{"aggregate_type": "Order", "aggregate_id": "o-103", "event_type": "OrderPlaced"}]');$$;
