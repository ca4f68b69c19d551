-- append_batch: on_conflict may be report_all

COMMENT ON FUNCTION event_store.append_batch(text[], text[], text[], jsonb[], bigint[], jsonb[], uuid[], text[], text[], text[], timestamptz[], bytea[], int[], text, text) IS
$$Appends any number of events to any number of aggregates in one call and one transaction; element i of every array belongs to event i.
expected_sequences[i] speaks of the aggregate just before event i; with event_store.require_expected_sequence = on every event needs one. on_conflict: error refuses all with VS001; report writes the aggregates without conflict and reports every event of the others as conflict, with their actual last sequence; report_all writes nothing where there is a conflict and reports every event as conflict, with the last sequence of its aggregate: for what must be written together. Of a call that is written all or none all event_ids are repeated or none (VS002). Returns a row an event, in the order given; an empty list gives none.
Errors: as append_event; 22023 when arrays have more than one dimension or different lengths.
Example: SELECT * FROM event_store.append_batch(ARRAY['Order', 'Payment'], ARRAY['o-102', 'p-102'], ARRAY['OrderPlaced', 'PaymentProcessed'], ARRAY['{}', '{"amount": "19.99"}']::jsonb[]);$$;

COMMENT ON FUNCTION event_store.append_batch(jsonb, text, text) IS
$$Appends a JSON array of events of any aggregates, like append_batch with arrays.
events: objects with the keys of append_events and aggregate_type, aggregate_id (required), expected_sequence.
Errors: as append_batch with arrays.
Example: SELECT * FROM event_store.append_batch('[{"aggregate_type": "Order", "aggregate_id": "o-103", "event_type": "OrderPlaced"}]');$$;
