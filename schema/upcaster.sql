-- upcaster: what makes events of an old version those of the last one

CREATE FUNCTION event_store.set_upcaster(event_type text, from_version int, upcaster regproc DEFAULT NULL,
                                         rules jsonb DEFAULT NULL, aggregate_type text DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_set_upcaster';
COMMENT ON FUNCTION event_store.set_upcaster(text, int, regproc, jsonb, text) IS
$$Registers what makes events of a type and schema_version from_version those of version from_version + 1, when they are read; what was written stays as it is. Events go from upcaster to upcaster until their version has none.
event_type: the type that the event has at that version. upcaster: an IMMUTABLE function (event event_store.event) RETURNS event_store.event, whose event_type, payload, payload_bytes and metadata are taken; it is kept by name and runs with the rights of its owner, with search_path = pg_catalog, pg_temp unless it sets another. rules: instead of a function, an array of the operations of docs/rules.md on the payload, or {"event_type": "NewName", "operations": [...]}. aggregate_type: NULL = all; one for an aggregate type goes before a general one.
The versions of the reducers concerned go up, so that older snapshots are no longer used; projections with events of the aggregate types concerned are stale in projection_status, and named in a NOTICE, until rebuild_projection has made them anew. Waits for snapshots and rebuilds at work, and where a view is inline for open appends. After a function was changed, register it again.
A store made by an earlier version needs create_store() once more.
Errors: 22004 event_type or from_version is NULL; 22001 a name is too long; 22023 from_version is negative, not exactly one of upcaster and rules is given, the function has another shape or a rule is wrong, and which; 42P17 the function is not IMMUTABLE; 42501 the caller does not own the function, or the type is that of a saga; 25006; 55000.
Example: SELECT event_store.set_upcaster('Placed', 1, rules => '[{"op": "set_once", "path": "$.currency", "value": "EUR"}]');$$;

CREATE FUNCTION event_store.drop_upcaster(event_type text, from_version int, aggregate_type text DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_upcaster';
COMMENT ON FUNCTION event_store.drop_upcaster(text, int, text) IS
$$Drops an upcaster; false where there is none. The versions of the reducers concerned go up, and projections are stale, as with set_upcaster.
Errors: 22004 event_type or from_version is NULL; 22001, 22023; 42501 the type is that of a saga; 25006; 55000.
Example: SELECT event_store.drop_upcaster('Placed', 1);$$;

CREATE FUNCTION event_store.upcast(event event_store.event) RETURNS event_store.event
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_upcast_event';
COMMENT ON FUNCTION event_store.upcast(event_store.event) IS
$$Returns an event as its last version has it, for events that SQL reads from domain_events.
Errors: 42501 an upcaster is a function, and the caller has not the rights of its owner; 55000; and whatever the upcaster raises, with the event in the DETAIL.
Example: SELECT (event_store.upcast(ROW(e.*)::event_store.event)).payload FROM event_store.domain_events e LIMIT 1;$$;
