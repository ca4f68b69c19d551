-- archive: where events go that are no longer read every day

-- The tables are made by create_store(), and a view that depended on them would keep
-- their owner from altering them: so the view asks a function, which the planner puts
-- in its place.
CREATE FUNCTION event_store.all_event_rows()
    RETURNS TABLE (global_position bigint, aggregate_type text, aggregate_id text, sequence bigint, event_id uuid, event_type text,
                   schema_version int, payload jsonb, payload_bytes bytea, metadata jsonb, correlation_id text, causation_id text,
                   saga_id text, occurred_at timestamptz, recorded_at timestamptz)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000000
AS $$
    SELECT e.global_position, e.aggregate_type, e.aggregate_id, e.sequence, e.event_id, e.event_type, e.schema_version,
           e.payload, e.payload_bytes, e.metadata, e.correlation_id, e.causation_id, e.saga_id, e.occurred_at, e.recorded_at
      FROM event_store.domain_events e
     UNION ALL
    SELECT a.global_position, a.aggregate_type, a.aggregate_id, a.sequence, a.event_id, a.event_type, a.schema_version,
           a.payload, a.payload_bytes, a.metadata, a.correlation_id, a.causation_id, a.saga_id, a.occurred_at, a.recorded_at
      FROM event_store.domain_events_archive a
$$;
COMMENT ON FUNCTION event_store.all_event_rows() IS
'Internal: the rows of view all_events.';

CREATE VIEW event_store.all_events AS
    SELECT e.global_position, e.aggregate_type COLLATE "C" AS aggregate_type, e.aggregate_id COLLATE "C" AS aggregate_id,
           e.sequence, e.event_id, e.event_type COLLATE "C" AS event_type, e.schema_version, e.payload, e.payload_bytes, e.metadata,
           e.correlation_id COLLATE "C" AS correlation_id, e.causation_id COLLATE "C" AS causation_id,
           e.saga_id COLLATE "C" AS saga_id, e.occurred_at, e.recorded_at
      FROM event_store.all_event_rows() e;
COMMENT ON VIEW event_store.all_events IS
'The events of domain_events and of domain_events_archive, as they were written, in the columns of both.';

CREATE FUNCTION event_store.archive_aggregate(aggregate_type text, aggregate_id text, before_sequence bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_archive_aggregate';
COMMENT ON FUNCTION event_store.archive_aggregate(text, text, bigint) IS
$$Moves events of an aggregate from domain_events into domain_events_archive, and returns how many. They keep their ids, positions and sequences, and whatever reads events finds them where they were.
before_sequence NULL: all of them, and the aggregate is closed: appends to it are VS005, while a retry with the event_ids that it has is a duplicate. Else those with a lower sequence; the aggregate stays open, and its last event where it is.
Appends to the aggregate go on meanwhile, and wait only while its last 1000 events are moved, to the end of the transaction. What is staged of it is made durable before. Triggers on domain_events see a DELETE, and those on the archive an INSERT; a foreign key on domain_events stops it.
Errors: VS005 the aggregate is deleted; VS006 it has dead letters; 40001 the transaction has appended to it, and another one moves it; 55000 for a saga that has not ended, where a trigger or rule would change or keep events, and where the store of an older version needs create_store(); 23503 by a foreign key; 22004, 22001, 22023; 25006 on a standby.
Example: SELECT event_store.archive_aggregate('Order', 'o-1');$$;

CREATE FUNCTION event_store.restore_aggregate(aggregate_type text, aggregate_id text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_restore_aggregate';
COMMENT ON FUNCTION event_store.restore_aggregate(text, text) IS
$$Moves all events of an aggregate back from domain_events_archive into domain_events, and returns how many; a closed aggregate is open again. Triggers on domain_events see an INSERT, and must leave the events as they are.
Errors: VS005 the aggregate is deleted; 40001 as archive_aggregate; 55000 for a saga that has not ended, where a trigger or rule would change or keep events, and where the store of an older version needs create_store(); 22004, 22001, 22023; 25006 on a standby.
Example: SELECT event_store.restore_aggregate('Order', 'o-1');$$;

CREATE FUNCTION event_store.delete_aggregate(aggregate_type text, aggregate_id text, reason text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_delete_aggregate';
COMMENT ON FUNCTION event_store.delete_aggregate(text, text, text) IS
$$Deletes all events of an aggregate, in domain_events and in the archive, and its snapshots, and returns how many events. What remains is its row in closed_aggregates, with the reason: the id is never new again, and appends are VS005, also with the event_ids that it had.
Views keep what they were given of these events, until they are made anew. Events named Deleted, of aggregates of type store:erasure, one for a thousand, tell subscriptions which positions and event_ids are gone. What subscriptions have still to get is gone for them, too, and so is what they have set aside of it. On disk the events are unreadable once scrub_erased() has been there.
Errors: VS006 it has dead letters; 40001 as archive_aggregate; 55000 for a saga that has not ended, where a trigger before DELETE or a rule could keep events, and where the store of an older version needs create_store(); 23503 by a foreign key; 22004, 22001, 22023; 25006 on a standby.
Example: SELECT event_store.delete_aggregate('Order', 'o-9', 'kept for ten years');$$;

CREATE FUNCTION event_store.set_retention(aggregate_type text, archive_after interval DEFAULT NULL, closed_by text[] DEFAULT NULL,
        delete_after interval DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_set_retention';
COMMENT ON FUNCTION event_store.set_retention(text, interval, text[], interval) IS
$$Says how long aggregates of a type stay where they are: one whose last event was recorded archive_after ago or earlier is archived, and delete_after ago deleted. The server does it, with half of a process, in small transactions; table retention says how far it has come. Both NULL ends it.
closed_by: the types of event that an aggregate ends with, as their last version has them; one with another last event stays. NULL: any.
Nothing is deleted that a subscription or projection has still to get, also of what is set aside. An aggregate that cannot be moved is passed over, and named in the server's log; the same call again tries all anew, and archives again what restore_aggregate() has brought back.
Needs the library to be preloaded. Errors: 22023 an interval is negative or closed_by is empty or has an empty name; 55000 where the store of an older version needs create_store(); 22004, 22001; 25006 on a standby.
Example: SELECT event_store.set_retention('Order', archive_after => '1 year', closed_by => ARRAY['OrderShipped', 'OrderCancelled']);$$;
