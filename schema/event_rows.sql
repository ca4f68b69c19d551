-- event_rows: which rows of a view an event belongs to

CREATE FUNCTION event_store.view_keys(event event_store.event, key jsonb) RETURNS SETOF text
    LANGUAGE c STABLE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'es_view_keys';
COMMENT ON FUNCTION event_store.view_keys(event_store.event, jsonb) IS
$$Returns the keys of the rows that an event belongs to in a view that has this key: none, one or several. It tries a key out; nothing is read or written.
event: NULL gives no rows. key: NULL = the aggregate's id, a path, an array of keys, or an object with by_type, each, concat, day, hour or month; docs/view_keys.md describes them. With "each" a row comes once for each element. Keys with sticky or lookup depend on more than the event and are refused.
Errors: 22004 an event without aggregate_type, aggregate_id, sequence or event_type; 22001 a row's key is longer than 255 characters; 22023 the key is wrong, and where, or a time in the event is none; 55000.
Example: SELECT e.sequence, k FROM event_store.load_events('Order', 'o-1') e, event_store.view_keys(e, '"$.payload.customerId"') k;$$;
