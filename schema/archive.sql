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
