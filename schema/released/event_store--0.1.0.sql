-- event_store: the install script, joined by make from schema/*.sql.

\echo Use "CREATE EXTENSION event_store" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

-- Whoever may create objects in the schema could put traps into it.
DO $$
DECLARE
    owner oid;
    intruder name;
BEGIN
    SELECT n.nspowner INTO owner
      FROM pg_catalog.pg_namespace n
     WHERE n.nspname = 'event_store';
    IF owner <> (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
       AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = owner)
    THEN
        RAISE EXCEPTION 'schema event_store belongs to role %', pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(owner))
            USING ERRCODE = '55000',
                  HINT = 'Drop that schema or give it to a superuser, who must run CREATE EXTENSION.';
    END IF;

    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee) END
      INTO intruder
      FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
     WHERE n.nspname = 'event_store'
       AND a.privilege_type = 'CREATE'
       AND a.grantee <> n.nspowner
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.grantee AND r.rolsuper)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% may create objects in schema event_store', pg_catalog.quote_ident(intruder)
            USING ERRCODE = '55000',
                  HINT = 'Run REVOKE CREATE ON SCHEMA event_store for that role first.';
    END IF;
END
$$;
-- store: the durable tables, their owner's guard, and what an operator asks first

CREATE TYPE event_store.event AS (
    global_position bigint,
    aggregate_type text,
    aggregate_id text,
    sequence bigint,
    event_id uuid,
    event_type text,
    schema_version int,
    payload jsonb,
    payload_bytes bytea,
    metadata jsonb,
    correlation_id text,
    causation_id text,
    saga_id text,
    occurred_at timestamptz,
    recorded_at timestamptz
);
COMMENT ON TYPE event_store.event IS
'One domain event: the columns of domain_events in their order. global_position is NULL while the event is staged.';

-- Lock targets without content: see lock.c.
CREATE TYPE event_store.aggregate_gate AS ();
CREATE TYPE event_store.view_key_gate AS ();
COMMENT ON TYPE event_store.aggregate_gate IS
'Internal: what an append over very many aggregates locks instead of each of them.';
COMMENT ON TYPE event_store.view_key_gate IS
'Internal: what a write of very many views locks instead of each key.';

CREATE FUNCTION event_store.announce_store() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_announce_store';
COMMENT ON FUNCTION event_store.announce_store() IS
'Internal: makes the launcher look at this database once the transaction has committed.';

CREATE FUNCTION event_store.create_store(category_index boolean DEFAULT false,
                                         event_type_index boolean DEFAULT false,
                                         payload_index boolean DEFAULT false)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET client_min_messages = warning
AS $create_store$
DECLARE
    schema_owner name;
    intruder text;
    guarded text;
BEGIN
    SELECT pg_catalog.pg_get_userbyid(n.nspowner) INTO schema_owner
      FROM pg_catalog.pg_namespace n WHERE n.nspname = 'event_store';
    IF schema_owner <> current_user
       AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = schema_owner)
    THEN
        RAISE EXCEPTION 'schema event_store belongs to role %', pg_catalog.quote_ident(schema_owner)
            USING ERRCODE = '55000', HINT = 'Run create_store() as the owner of the schema.';
    END IF;
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
      INTO intruder
      FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
     WHERE n.nspname = 'event_store'
       AND a.privilege_type = 'CREATE'
       AND a.grantee <> n.nspowner
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.grantee AND r.rolsuper)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% may create objects in schema event_store', intruder
            USING ERRCODE = '55000',
                  HINT = 'Run REVOKE CREATE ON SCHEMA event_store for that role first.';
    END IF;

    -- what somebody else put here before would be taken for our own
    SELECT x.name INTO intruder
      FROM (SELECT c.relname AS name, c.relowner AS owner
              FROM pg_catalog.pg_class c WHERE c.relnamespace = 'event_store'::pg_catalog.regnamespace
            UNION ALL
            SELECT p.proname, p.proowner
              FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'event_store'::pg_catalog.regnamespace
            UNION ALL
            SELECT t.typname, t.typowner
              FROM pg_catalog.pg_type t WHERE t.typnamespace = 'event_store'::pg_catalog.regnamespace) x
      JOIN pg_catalog.pg_roles r ON r.oid = x.owner
     WHERE NOT r.rolsuper AND r.rolname NOT IN (current_user, schema_owner)
       AND r.oid IS DISTINCT FROM (SELECT c.relowner FROM pg_catalog.pg_class c
                                    WHERE c.oid = pg_catalog.to_regclass('event_store.domain_events'))
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'schema event_store holds an object of another role: %', pg_catalog.quote_ident(intruder)
            USING ERRCODE = '55000', HINT = 'Drop it, or give it to the owner of the store.';
    END IF;

    -- two create_store() at once: the second waits and finds all in place
    PERFORM pg_catalog.pg_advisory_xact_lock('event_store.event'::pg_catalog.regtype::pg_catalog.oid::bigint);

    CREATE SEQUENCE IF NOT EXISTS event_store.global_position_seq AS bigint;

    CREATE TABLE IF NOT EXISTS event_store.domain_events (
        global_position bigint NOT NULL CONSTRAINT domain_events_pkey PRIMARY KEY,
        aggregate_type text COLLATE "C" NOT NULL,
        aggregate_id text COLLATE "C" NOT NULL,
        sequence bigint NOT NULL,
        event_id uuid NOT NULL CONSTRAINT domain_events_event_id_key UNIQUE,
        event_type text COLLATE "C" NOT NULL,
        schema_version int NOT NULL DEFAULT 1,
        payload jsonb,
        payload_bytes bytea,
        metadata jsonb,
        correlation_id text COLLATE "C",
        causation_id text COLLATE "C",
        saga_id text COLLATE "C",
        occurred_at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL,
        CONSTRAINT domain_events_aggregate_key UNIQUE (aggregate_type, aggregate_id, sequence),
        CONSTRAINT domain_events_sequence_check CHECK (sequence > 0),
        CONSTRAINT domain_events_payload_check CHECK ((payload IS NULL) <> (payload_bytes IS NULL))
    ) WITH (autovacuum_vacuum_insert_scale_factor = 0.05,
            autovacuum_analyze_scale_factor = 0.02,
            autovacuum_freeze_min_age = 0);
    CREATE INDEX IF NOT EXISTS domain_events_correlation_id_idx
        ON event_store.domain_events (correlation_id) WHERE correlation_id IS NOT NULL;
    CREATE INDEX IF NOT EXISTS domain_events_saga_id_idx
        ON event_store.domain_events (saga_id) WHERE saga_id IS NOT NULL;
    CREATE INDEX IF NOT EXISTS domain_events_recorded_at_idx
        ON event_store.domain_events USING brin (recorded_at);
    IF category_index THEN
        CREATE INDEX IF NOT EXISTS domain_events_category_idx
            ON event_store.domain_events (aggregate_type, global_position);
    END IF;
    IF event_type_index THEN
        CREATE INDEX IF NOT EXISTS domain_events_event_type_idx
            ON event_store.domain_events (event_type, global_position);
    END IF;
    IF payload_index THEN
        CREATE INDEX IF NOT EXISTS domain_events_payload_idx
            ON event_store.domain_events USING gin (payload jsonb_path_ops);
    END IF;

    CREATE TABLE IF NOT EXISTS event_store.domain_views (
        view_name text COLLATE "C" NOT NULL,
        view_key text COLLATE "C" NOT NULL,
        view_data jsonb NOT NULL,
        version bigint,
        created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
        CONSTRAINT domain_views_pkey PRIMARY KEY (view_name, view_key)
    ) WITH (fillfactor = 80);

    CREATE TABLE IF NOT EXISTS event_store.snapshots (
        aggregate_type text COLLATE "C" NOT NULL,
        aggregate_id text COLLATE "C" NOT NULL,
        source text COLLATE "C" NOT NULL,
        sequence bigint NOT NULL,
        state jsonb,
        state_bytes bytea,
        reducer_version int,
        created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
        CONSTRAINT snapshots_pkey PRIMARY KEY (aggregate_type, aggregate_id, source),
        CONSTRAINT snapshots_source_check CHECK (source IN ('server', 'client'))
    );

    CREATE TABLE IF NOT EXISTS event_store.reducers (
        aggregate_type text COLLATE "C" NOT NULL CONSTRAINT reducers_pkey PRIMARY KEY,
        reducer text,
        rules jsonb,
        reducer_version int NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
        reducer_owner text COLLATE "C"
    );
    -- a store of before; looked at first because ALTER TABLE locks readers out
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = 'event_store.reducers'::pg_catalog.regclass
                      AND a.attname = 'reducer_owner' AND NOT a.attisdropped)
    THEN
        ALTER TABLE event_store.reducers ADD COLUMN reducer_owner text COLLATE "C";
    END IF;

    -- a rebuild that has begun, and what it has folded
    CREATE TABLE IF NOT EXISTS event_store.view_rebuilds (
        view_name text COLLATE "C" NOT NULL CONSTRAINT view_rebuilds_pkey PRIMARY KEY,
        aggregate_type text COLLATE "C" NOT NULL,
        reducer_version int NOT NULL,
        after_id text COLLATE "C" NOT NULL DEFAULT '',
        done bigint NOT NULL DEFAULT 0,
        total bigint NOT NULL DEFAULT 0,
        started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
    );
    CREATE TABLE IF NOT EXISTS event_store.view_rebuild_rows (
        view_name text COLLATE "C" NOT NULL,
        view_key text COLLATE "C" NOT NULL,
        sequence bigint NOT NULL,
        state jsonb,
        CONSTRAINT view_rebuild_rows_pkey PRIMARY KEY (view_name, view_key)
    );

    -- kind 'event': the columns of the event; kind 'view': view_name to version,
    -- and the aggregate whose event took the write along (or, if the view write
    -- itself failed, its view_name and view_key in the aggregate's place)
    CREATE TABLE IF NOT EXISTS event_store.dead_letters (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT dead_letters_pkey PRIMARY KEY,
        kind text COLLATE "C" NOT NULL CONSTRAINT dead_letters_kind_check CHECK (kind IN ('event', 'view')),
        aggregate_type text COLLATE "C" NOT NULL,
        aggregate_id text COLLATE "C" NOT NULL,
        sequence bigint,
        event_id uuid,
        event_type text COLLATE "C",
        schema_version int,
        payload jsonb,
        payload_bytes bytea,
        metadata jsonb,
        correlation_id text COLLATE "C",
        causation_id text COLLATE "C",
        saga_id text COLLATE "C",
        occurred_at timestamptz,
        recorded_at timestamptz,
        view_name text COLLATE "C",
        view_key text COLLATE "C",
        view_data jsonb,
        version bigint,
        error_code text NOT NULL,
        error_message text NOT NULL,
        attempts int NOT NULL,
        failed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
    );
    CREATE INDEX IF NOT EXISTS dead_letters_aggregate_idx
        ON event_store.dead_letters (aggregate_type, aggregate_id, id);
    CREATE INDEX IF NOT EXISTS dead_letters_event_id_idx
        ON event_store.dead_letters (event_id) WHERE event_id IS NOT NULL;

    -- one row
    CREATE TABLE IF NOT EXISTS event_store.store_state (
        id int NOT NULL DEFAULT 1 CONSTRAINT store_state_pkey PRIMARY KEY
            CONSTRAINT store_state_id_check CHECK (id = 1),
        staging_epoch bigint NOT NULL DEFAULT 1,
        staging_dirty boolean NOT NULL DEFAULT false,
        safe_position bigint NOT NULL DEFAULT 0,
        last_drain_at timestamptz
    );
    INSERT INTO event_store.store_state DEFAULT VALUES ON CONFLICT DO NOTHING;

    -- The guard outlives the extension, so it is PL/pgSQL and nobody's member.
    -- The apply worker of logical replication replays what its publisher did.
    CREATE OR REPLACE FUNCTION event_store.refuse_change() RETURNS trigger
        LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
    AS $refuse_change$
    BEGIN
        IF (SELECT a.backend_type
              FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a)
           LIKE 'logical replication%worker'
        THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION '% of %.% is not allowed: it is append-only',
                        pg_catalog.lower(TG_OP), TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'VS003';
    END
    $refuse_change$;
    REVOKE ALL ON FUNCTION event_store.refuse_change() FROM PUBLIC;
    COMMENT ON FUNCTION event_store.refuse_change() IS
'Trigger of domain_events: raises VS003 on UPDATE, DELETE and TRUNCATE. Made by create_store(), which also repairs the trigger.';

    SELECT t.tgenabled INTO guarded
      FROM pg_catalog.pg_trigger t
     WHERE t.tgrelid = 'event_store.domain_events'::pg_catalog.regclass
       AND t.tgname = 'domain_events_append_only';
    IF NOT FOUND THEN
        CREATE TRIGGER domain_events_append_only
            BEFORE UPDATE OR DELETE OR TRUNCATE ON event_store.domain_events
            FOR EACH STATEMENT EXECUTE FUNCTION event_store.refuse_change();
    END IF;
    IF guarded IS DISTINCT FROM 'A' THEN
        ALTER TABLE event_store.domain_events ENABLE ALWAYS TRIGGER domain_events_append_only;
    END IF;

    COMMENT ON TABLE event_store.domain_events IS
'The durable, append-only log: one row per domain event. Written by append_event, append_events, append_batch and the drain.';
    COMMENT ON TABLE event_store.domain_views IS
'The durable read models: the last value of every (view_name, view_key). Staged values are only seen by load_view and load_views.';
    COMMENT ON TABLE event_store.snapshots IS
'States of aggregates at a sequence: source server is used by replay_aggregate, source client is kept for applications.';
    COMMENT ON TABLE event_store.reducers IS
'The registered reducer of each aggregate type, by name, and the role that owned it then.';
    COMMENT ON TABLE event_store.view_rebuilds IS
'Rebuilds of views that steps have begun and not ended: aggregates up to after_id are folded.';
    COMMENT ON TABLE event_store.view_rebuild_rows IS
'States that unfinished rebuilds have folded, each after the event at sequence. Nobody reads them but the rebuild.';
    COMMENT ON TABLE event_store.dead_letters IS
'Staged rows that could not be made durable, with their error. Settled by retry_dead_letters or discard_dead_letters.';
    COMMENT ON TABLE event_store.store_state IS
'One row: the staging epoch, whether staging may hold rows, the last drain and the safe position for standbys.';

    -- read_events filters with it, as the owner of the store
    EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION event_store.aggregate_member(text, text, int) TO %I',
        (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c
          WHERE c.oid = 'event_store.domain_events'::pg_catalog.regclass));

    PERFORM event_store.announce_store();
END
$create_store$;
COMMENT ON FUNCTION event_store.create_store(boolean, boolean, boolean) IS
$$Creates the durable tables, their indexes and the append-only guard in schema event_store; adds only what is missing, so it may be repeated and repairs a store.
category_index, event_type_index, payload_index: also index (aggregate_type, global_position), (event_type, global_position), payload (GIN).
The tables belong to the caller and not to the extension: pg_dump carries them, DROP EXTENSION leaves them.
Errors: 55000 when the schema belongs to another role or others may create objects in it; 42501.
Example: SELECT event_store.create_store();$$;

CREATE FUNCTION event_store.provider_name() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'PostgreSQL'::text;
COMMENT ON FUNCTION event_store.provider_name() IS
$$Returns the name of the persistence provider: PostgreSQL.
Example: SELECT event_store.provider_name();$$;

CREATE FUNCTION event_store.extension_version() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_extension_version';
COMMENT ON FUNCTION event_store.extension_version() IS
$$Returns the version of the loaded library, as major.minor.patch.
Example: SELECT event_store.extension_version();$$;

CREATE FUNCTION event_store.is_available() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_is_available';
COMMENT ON FUNCTION event_store.is_available() IS
$$Returns whether this database has a store that the loaded library can work with. Raises nothing: meant for health checks.
Example: SELECT event_store.is_available();$$;
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
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_append_event';
COMMENT ON FUNCTION event_store.append_event(text, text, bigint, text, jsonb, jsonb, uuid, text, text, text, timestamptz, bytea, int, text) IS
$$Appends one event to an aggregate.
expected_sequence: NULL = any, 0 = the aggregate must be new, n = its last sequence must be n, -4 = it must exist. At most one of payload and payload_bytes, up to 256 MB; none = {}. event_id: repeating it with the same content returns the original and writes nothing; NULL = a UUIDv7 made here. occurred_at: NULL = now. durability: durable, staged or NULL = event_store.durability. Types and ids have 1 to 255 characters.
Errors: VS001 conflict with JSON detail, VS002 event_id used with other content, VS004 staging full, VS006 dead letters, 22004, 22023, 22001, 55000, 25006.
Example: SELECT * FROM event_store.append_event('Order', 'o-100', NULL, 'OrderPlaced', '{"total": "19.99"}');$$;

CREATE FUNCTION event_store.append_events(
    aggregate_type text, aggregate_id text, expected_sequence bigint, events jsonb,
    durability text DEFAULT NULL)
    RETURNS event_store.append_result
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_append_events';
COMMENT ON FUNCTION event_store.append_events(text, text, bigint, jsonb, text) IS
$$Appends a list of events to one aggregate, all or none.
expected_sequence speaks of the aggregate before the first event, as in append_event. events: a JSON array of objects with the keys event_type (required), payload, metadata, event_id, correlation_id, causation_id, saga_id, occurred_at, schema_version; one object is a list of one.
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
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_append_batch';
COMMENT ON FUNCTION event_store.append_batch(text[], text[], text[], jsonb[], bigint[], jsonb[], uuid[], text[], text[], text[], timestamptz[], bytea[], int[], text, text) IS
$$Appends any number of events to any number of aggregates in one call and one transaction; element i of every array belongs to event i.
expected_sequences[i] speaks of the aggregate just before event i. on_conflict: error refuses all with VS001; report writes the aggregates without conflict and reports every event of the others as conflict, with their actual last sequence. Returns a row an event, in the order given; an empty list gives none.
Errors: as append_event; 22023 when arrays have more than one dimension or different lengths.
Example: SELECT * FROM event_store.append_batch(ARRAY['Order', 'Payment'], ARRAY['o-102', 'p-102'], ARRAY['OrderPlaced', 'PaymentProcessed'], ARRAY['{}', '{"amount": "19.99"}']::jsonb[]);$$;

CREATE FUNCTION event_store.append_batch(
    events jsonb, on_conflict text DEFAULT 'error', durability text DEFAULT NULL)
    RETURNS TABLE (ordinal int, event_id uuid, sequence bigint, global_position bigint, outcome text)
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_append_batch_json';
COMMENT ON FUNCTION event_store.append_batch(jsonb, text, text) IS
$$Appends a JSON array of events of any aggregates, like append_batch with arrays.
events: objects with the keys of append_events and aggregate_type, aggregate_id (required), expected_sequence.
Errors: as append_batch with arrays.
Example: SELECT * FROM event_store.append_batch('[{"aggregate_type": "Order", "aggregate_id": "o-103", "event_type": "OrderPlaced"}]');$$;

CREATE FUNCTION event_store.load_events(
    aggregate_type text, aggregate_id text, after_sequence bigint DEFAULT NULL,
    up_to_sequence bigint DEFAULT NULL, max_count int DEFAULT NULL, backward boolean DEFAULT false)
    RETURNS SETOF event_store.event
    LANGUAGE c STABLE ROWS 100 AS 'MODULE_PATHNAME', 'es_load_events';
COMMENT ON FUNCTION event_store.load_events(text, text, bigint, bigint, int, boolean) IS
$$Returns the events of an aggregate in sequence order, staged ones included (their global_position is NULL).
after_sequence is exclusive, up_to_sequence inclusive; max_count limits the rows; backward turns the order, so that the last events come first.
Errors: 22004, 22023, 22001, 55000.
Example: SELECT sequence, event_type, payload FROM event_store.load_events('Order', 'o-100', after_sequence => 0, max_count => 10);$$;

CREATE FUNCTION event_store.load_event(event_id uuid) RETURNS SETOF event_store.event
    LANGUAGE c STABLE ROWS 1 AS 'MODULE_PATHNAME', 'es_load_event';
COMMENT ON FUNCTION event_store.load_event(uuid) IS
$$Returns the event of an id, staged or durable: 0 or 1 row.
Errors: 22004, 55000.
Example: SELECT * FROM event_store.load_event('018f3b1c-0000-7000-8000-000000000000');$$;

CREATE FUNCTION event_store.aggregate_sequence(aggregate_type text, aggregate_id text) RETURNS bigint
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'es_aggregate_sequence';
COMMENT ON FUNCTION event_store.aggregate_sequence(text, text) IS
$$Returns the last sequence of an aggregate, staged events included; 0 when it has none.
Errors: 22004, 22023, 22001, 55000.
Example: SELECT event_store.aggregate_sequence('Order', 'o-100');$$;

CREATE FUNCTION event_store.load_aggregate_ids(
    aggregate_type text, after_id text DEFAULT NULL, max_count int DEFAULT NULL)
    RETURNS SETOF text
    LANGUAGE c STABLE ROWS 1000 AS 'MODULE_PATHNAME', 'es_load_aggregate_ids';
COMMENT ON FUNCTION event_store.load_aggregate_ids(text, text, int) IS
$$Returns the ids of all aggregates of a type in bytewise order, staged ones included.
after_id is exclusive: pass the last id of a page to get the next; max_count limits the rows.
Errors: 22004, 22023, 22001, 55000.
Example: SELECT * FROM event_store.load_aggregate_ids('Order', max_count => 10);$$;
-- event_store: writing and loading views

CREATE FUNCTION event_store.put_view(
    view_name text, view_key text, view_data jsonb, version bigint DEFAULT NULL,
    durability text DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_put_view';
COMMENT ON FUNCTION event_store.put_view(text, text, jsonb, bigint, text) IS
$$Sets the value of one key of a view. Returns false, and changes nothing, if the version is not newer than the known one.
view_name, view_key: 1 to 255 characters. view_data: any JSON value, up to 256 MB. version: any number that grows with the value, such as the sequence of the last event in it; NULL = none: the value always wins, and so does the next one. durability: durable, staged or NULL = event_store.durability. The key stays locked until the transaction ends.
Errors: VS004 staging full, 22004 NULL, 22023 empty or unknown durability, 22001 too long, 40001 at REPEATABLE READ and above when another transaction has written the key since, 25006, 55000.
Example: SELECT event_store.put_view('OrderSummary', 'o-1', '{"total": "19.99"}', 1);$$;

CREATE FUNCTION event_store.put_views(
    view_name text, view_keys text[], view_data jsonb[], versions bigint[] DEFAULT NULL,
    durability text DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_put_views';
COMMENT ON FUNCTION event_store.put_views(text, text[], jsonb[], bigint[], text) IS
$$Sets the values of many keys of a view in one call, each as put_view does; returns how many were accepted. Of a repeated key only the last one counts.
view_keys, view_data, versions: arrays of one dimension and equal length; only versions may contain NULL, and versions may be NULL as a whole. Empty arrays write nothing. Each key takes one lock until the transaction ends; raise max_locks_per_transaction for calls of many thousands.
Errors: as put_view; 22004 NULL inside view_keys or view_data; 22023 arrays of different length or more than one dimension.
Example: SELECT event_store.put_views('OrderSummary', ARRAY['o-1', 'o-2'], ARRAY['{"total": "19.99"}', '{"total": "5.00"}']::jsonb[], ARRAY[2, 1]);$$;

CREATE FUNCTION event_store.load_view(view_name text, view_key text) RETURNS jsonb
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'es_load_view';
COMMENT ON FUNCTION event_store.load_view(text, text) IS
$$Returns the value of one key of a view, staged or durable; NULL when there is none.
view_name, view_key: 1 to 255 characters.
Errors: 22004 NULL, 22023 empty, 22001 too long, 55000.
Example: SELECT event_store.load_view('OrderSummary', 'o-1');$$;

CREATE FUNCTION event_store.load_views(
    view_name text, view_keys text[] DEFAULT NULL, after_key text DEFAULT NULL,
    max_count int DEFAULT NULL)
    RETURNS TABLE (view_key text, view_data jsonb, version bigint, updated_at timestamptz)
    LANGUAGE c STABLE ROWS 1000 AS 'MODULE_PATHNAME', 'es_load_views';
COMMENT ON FUNCTION event_store.load_views(text, text[], text, int) IS
$$Returns the rows of a view, staged or durable, in the order of their keys' bytes (collation "C").
view_keys: only these keys; those without a row are left out; NULL = all. after_key: only keys behind this one, to page with; NULL = from the first. max_count: at most this many rows; NULL = all. updated_at is the time of the last put, staged or not.
Errors: 22004 view_name NULL or NULL inside view_keys, 22023 empty view_name, view_keys of more than one dimension or negative max_count, 22001 view_name too long, 55000.
Example: SELECT * FROM event_store.load_views('OrderSummary', max_count => 10);$$;

CREATE FUNCTION event_store.load_view_keys(view_name text) RETURNS SETOF text
    LANGUAGE c STABLE ROWS 1000 AS 'MODULE_PATHNAME', 'es_load_view_keys';
COMMENT ON FUNCTION event_store.load_view_keys(text) IS
$$Returns the keys of a view, staged or durable, in the order of their bytes (collation "C").
view_name: 1 to 255 characters.
Errors: 22004 NULL, 22023 empty, 22001 too long, 55000.
Example: SELECT * FROM event_store.load_view_keys('OrderSummary');$$;

CREATE FUNCTION event_store.delete_view(
    view_name text, view_key text, durability text DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_delete_view';
COMMENT ON FUNCTION event_store.delete_view(text, text, text) IS
$$Deletes one key of a view; returns whether there was a row, staged or durable. After it any version is accepted again.
view_name, view_key: 1 to 255 characters. durability: durable, staged or NULL = event_store.durability. The key stays locked until the transaction ends.
Errors: as put_view.
Example: SELECT event_store.delete_view('OrderSummary', 'o-2');$$;

CREATE FUNCTION event_store.clear_view(view_name text) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_clear_view';
COMMENT ON FUNCTION event_store.clear_view(text) IS
$$Deletes all rows of a view, durably, and returns how many there were. Staged rows become durable first and are counted; what others put while it runs may stay.
view_name: 1 to 255 characters.
Errors: 22004 NULL, 22023 empty, 22001 too long, 40001 at REPEATABLE READ and above when another transaction has written the view since, 25006, 55000.
Example: SELECT event_store.clear_view('OrderSummary');$$;
-- staging: the unlogged segments, what drains them and what it leaves behind

-- kind 1 = a run of events (see staged_row.c), 2 = view write (view_data NULL =
-- delete). Written and read from C only, as ordinary heap tuples, so their shape is
-- also that of staged_row.c.
CREATE UNLOGGED TABLE event_store.staging_0 (
    sid bigint NOT NULL,
    txn bigint NOT NULL,
    kind smallint NOT NULL,
    name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    ordinal bigint NOT NULL,
    count int NOT NULL,
    event_id uuid,
    events bytea,
    recorded_at timestamptz NOT NULL,
    view_data jsonb,
    version bigint
) WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE event_store.staging_1 (LIKE event_store.staging_0)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE event_store.staging_2 (LIKE event_store.staging_0)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE event_store.staging_3 (LIKE event_store.staging_0)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE event_store.staging_4 (LIKE event_store.staging_0)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE event_store.staging_5 (LIKE event_store.staging_0)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE event_store.staging_6 (LIKE event_store.staging_0)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNLOGGED TABLE event_store.staging_7 (LIKE event_store.staging_0)
    WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE INDEX staging_0_key_idx ON event_store.staging_0 (kind, name, key, ordinal);
CREATE INDEX staging_0_event_id_idx ON event_store.staging_0 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_0_txn_idx ON event_store.staging_0 (txn, sid);
CREATE INDEX staging_1_key_idx ON event_store.staging_1 (kind, name, key, ordinal);
CREATE INDEX staging_1_event_id_idx ON event_store.staging_1 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_1_txn_idx ON event_store.staging_1 (txn, sid);
CREATE INDEX staging_2_key_idx ON event_store.staging_2 (kind, name, key, ordinal);
CREATE INDEX staging_2_event_id_idx ON event_store.staging_2 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_2_txn_idx ON event_store.staging_2 (txn, sid);
CREATE INDEX staging_3_key_idx ON event_store.staging_3 (kind, name, key, ordinal);
CREATE INDEX staging_3_event_id_idx ON event_store.staging_3 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_3_txn_idx ON event_store.staging_3 (txn, sid);
CREATE INDEX staging_4_key_idx ON event_store.staging_4 (kind, name, key, ordinal);
CREATE INDEX staging_4_event_id_idx ON event_store.staging_4 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_4_txn_idx ON event_store.staging_4 (txn, sid);
CREATE INDEX staging_5_key_idx ON event_store.staging_5 (kind, name, key, ordinal);
CREATE INDEX staging_5_event_id_idx ON event_store.staging_5 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_5_txn_idx ON event_store.staging_5 (txn, sid);
CREATE INDEX staging_6_key_idx ON event_store.staging_6 (kind, name, key, ordinal);
CREATE INDEX staging_6_event_id_idx ON event_store.staging_6 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_6_txn_idx ON event_store.staging_6 (txn, sid);
CREATE INDEX staging_7_key_idx ON event_store.staging_7 (kind, name, key, ordinal);
CREATE INDEX staging_7_event_id_idx ON event_store.staging_7 (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX staging_7_txn_idx ON event_store.staging_7 (txn, sid);

-- emptied by whatever empties the segments
CREATE UNLOGGED TABLE event_store.staging_marker (epoch bigint NOT NULL);

CREATE FUNCTION event_store.staged_rows(
    OUT sid bigint, OUT txn bigint, OUT kind smallint, OUT name text, OUT key text, OUT ordinal bigint,
    OUT event_id uuid, OUT event_type text, OUT schema_version int, OUT payload jsonb,
    OUT payload_bytes bytea, OUT metadata jsonb, OUT correlation_id text, OUT causation_id text,
    OUT saga_id text, OUT occurred_at timestamptz, OUT recorded_at timestamptz, OUT version bigint)
    RETURNS SETOF record
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'es_show_staged';
COMMENT ON FUNCTION event_store.staged_rows() IS
'Internal: the rows of view staging.';

CREATE VIEW event_store.staging AS SELECT * FROM event_store.staged_rows();
COMMENT ON VIEW event_store.staging IS
'What is staged and not yet drained, in staging order within each transaction, for a look by an administrator. kind 1 = event: name and key are its aggregate_type and aggregate_id, ordinal its sequence; 2 = view write: name and key are view_name and view_key, payload is view_data (NULL = delete).';

CREATE FUNCTION event_store.staging_state(
    OUT staged_events bigint, OUT staged_views bigint, OUT staged_bytes bigint,
    OUT oldest_staged_at timestamptz, OUT drain_state text, OUT consecutive_failures bigint,
    OUT last_error text, OUT last_drain_at timestamptz, OUT staging_epoch bigint)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'es_staging_state';
COMMENT ON FUNCTION event_store.staging_state() IS
'Internal: the row of view staging_status.';

CREATE VIEW event_store.staging_status AS SELECT * FROM event_store.staging_state();
COMMENT ON VIEW event_store.staging_status IS
'One row: committed rows in staging (staged_events, staged_views), the bytes its segments take, the oldest staged row, what the drain does (idle, draining, backing_off, stopped = no worker is running), its consecutive failures and last error, when it last moved rows, the staging epoch (NULL until staging was opened).';

CREATE FUNCTION event_store.flush(timeout interval DEFAULT '5s') RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_flush';
COMMENT ON FUNCTION event_store.flush(interval) IS
$$Waits until everything that was staged and committed before the call is durable (or a dead letter), at most for timeout. Returns whether it is.
Errors: 25001 inside a transaction block; 22023 when timeout is negative or above 10 minutes; 55000.
Example: SELECT event_store.flush(timeout => '10s');$$;

CREATE FUNCTION event_store.drain(max_rows int DEFAULT NULL) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_drain';
COMMENT ON FUNCTION event_store.drain(int) IS
$$Runs one round of draining in this session: moves about max_rows committed staged rows (NULL = event_store.write_batch_size), always whole transactions. Returns the number of rows moved, 0 when nothing was staged. Works without preload.
Errors: 25001 inside a transaction block; 22023; 25006; 55000.
Example: SELECT event_store.drain();$$;

CREATE FUNCTION event_store.retry_dead_letters(aggregate_type text, aggregate_id text) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_retry_dead_letters';
COMMENT ON FUNCTION event_store.retry_dead_letters(text, text) IS
$$Makes the dead letters of an aggregate durable, events in sequence order, then the view writes that had followed them; all or none. A view write that failed by itself is addressed by its view_name and view_key. Returns the number of dead letters settled.
Errors: the error of the row if it fails again; 55000 when they do not continue the log of the aggregate; 22004, 22023, 22001, 25006.
Example: SELECT event_store.retry_dead_letters('Order', 'o-100');$$;

CREATE FUNCTION event_store.discard_dead_letters(aggregate_type text, aggregate_id text, reason text) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_discard_dead_letters';
COMMENT ON FUNCTION event_store.discard_dead_letters(text, text, text) IS
$$Removes all dead letters of an aggregate, so that it takes appends again; the reason goes to the server log. Returns the number of dead letters removed.
Errors: 22004, 22023, 22001, 25006, 55000.
Example: SELECT event_store.discard_dead_letters('Order', 'o-100', reason => 'test data');$$;

CREATE FUNCTION event_store.guard_drop() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_guard_drop';
COMMENT ON FUNCTION event_store.guard_drop() IS
'Internal: event trigger that refuses to drop the extension (DROP EXTENSION, DROP SCHEMA … CASCADE, DROP OWNED) with 55000 while undrained rows are staged.';

CREATE EVENT TRIGGER event_store_guard_drop ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION event_store.guard_drop();
-- feed: the order over all events

CREATE FUNCTION event_store.aggregate_member(aggregate_type text, aggregate_id text, members int) RETURNS int
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_aggregate_member';
COMMENT ON FUNCTION event_store.aggregate_member(text, text, int) IS
'Internal: which member, from 0 to members - 1, reads an aggregate; the hash behind it never changes.';

CREATE FUNCTION event_store.read_events(
    after_position bigint DEFAULT 0, max_count int DEFAULT 1000, aggregate_types text[] DEFAULT NULL,
    event_types text[] DEFAULT NULL, member int DEFAULT NULL, members int DEFAULT NULL)
    RETURNS SETOF event_store.event
    LANGUAGE c VOLATILE ROWS 1000 AS 'MODULE_PATHNAME', 'es_read_events';
COMMENT ON FUNCTION event_store.read_events(bigint, int, text[], text[], int, int) IS
$$Returns durable events of all aggregates in global_position order, after a position and up to the safe position: a reader that goes on after the last position it got sees every committed event exactly once.
after_position is exclusive; max_count limits the rows (NULL = all); aggregate_types and event_types select; member (0-based) of members gets its share of the aggregates, always the same.
Errors: 22023; 55000 without preload.
Example: SELECT global_position, aggregate_id, event_type FROM event_store.read_events(after_position => 0, max_count => 10);$$;

CREATE FUNCTION event_store.safe_position() RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'es_safe_position';
COMMENT ON FUNCTION event_store.safe_position() IS
$$Returns the global position up to which no event can appear any more. It bounds what later statements may read, not the statement it is called in.
Errors: 55000 without preload.
Example: SELECT event_store.safe_position();$$;

CREATE FUNCTION event_store.wait_for_events(after_position bigint, timeout interval DEFAULT '5s') RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'es_wait_for_events';
COMMENT ON FUNCTION event_store.wait_for_events(bigint, interval) IS
$$Waits until the safe position is above after_position, at most for timeout, and returns the safe position. Calls of one session return at least 10 ms apart, so that a consumer that follows a busy log reads it in batches.
Errors: 22004; 22023 when timeout is negative or above 10 minutes; 55000 without preload.
Example: SELECT event_store.wait_for_events(after_position => 0, timeout => '1s');$$;

CREATE FUNCTION event_store.feed_state(
    OUT safe_position bigint, OUT last_position bigint, OUT in_flight int,
    OUT blocker_pid int, OUT blocked_since timestamptz)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'es_feed_state';
COMMENT ON FUNCTION event_store.feed_state() IS
'Internal: the row of view feed_status.';

CREATE VIEW event_store.feed_status AS SELECT * FROM event_store.feed_state();
COMMENT ON VIEW event_store.feed_status IS
'One row: the safe position, the last position taken, how many transactions have positions in flight, and the process whose transaction holds the safe position back, since when.';
-- reducer: what folds the events of an aggregate type

CREATE FUNCTION event_store.set_reducer(aggregate_type text, reducer regproc,
                                        reducer_version int DEFAULT NULL)
    RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_set_reducer';
COMMENT ON FUNCTION event_store.set_reducer(text, regproc, int) IS
$$Registers the function that folds the events of an aggregate type into its state. NULL goes back to the built-in reducer, which applies each payload as a JSON merge patch (RFC 7396).
aggregate_type: 1 to 255 characters. reducer: a function (state jsonb, event event_store.event) RETURNS jsonb in any language, not STRICT; it is kept by name, gets state NULL with the first event, and what it returns is its state at the next; NULL means deleted, and the next event begins anew. reducer_version: NULL = the previous one + 1, or the same when the reducer is the same; give a higher one after changing the function's body. Before any call the version is 0. Snapshots of an older version are no longer used.
The reducer runs with the rights of its owner in a security-restricted context, with search_path = pg_catalog, pg_temp unless it sets another; fold_events, whose events a caller may make up, runs it as the caller. It should depend on nothing but its arguments. The name of its owner is kept: when the function belongs to another role it is refused with 42501 until it is registered again.
A store made by an earlier version needs create_store() once more.
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
                                             reducer regproc DEFAULT NULL)
    RETURNS event_store.aggregate_state
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_replay_aggregate';
COMMENT ON FUNCTION event_store.replay_aggregate(text, text, bigint, timestamptz, regproc) IS
$$Returns the state of an aggregate and the sequence of the last event in it, staged events included; (NULL, 0) without events.
as_of_sequence: fold no later event; 0 gives (NULL, 0), beyond the last event means all. as_of_time: fold no event recorded later. With both, both bound. reducer: a function to use instead of the registered one, in this call only, run as the caller and without snapshots; it must look as set_reducer says.
Without a reducer each payload is applied to the state as a JSON merge patch (RFC 7396): objects are merged, null removes a member, anything else replaces. Events with payload_bytes leave that state as it is.
Errors: 22004, 22001 as usual; 22023 as_of_sequence is negative or the function has another shape; 42501 the caller may not execute the given reducer, or the registered one belongs to another role than when it was registered; 42883 the registered reducer no longer exists; 54000 the state grows over 256 MB; 54001 reducers replay within each other more than 32 deep; 55000; and whatever the reducer raises, with the event in the context.
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
The events may be made up, so a registered function runs as the caller, who must be allowed to execute it, and not as its owner; as the owner only where the caller has all rights of the owner. The built-in reducer and rules need no right.
Errors: 22004 an event without aggregate_type, aggregate_id, sequence or event_type; 22023 events of several types where one of them has a reducer of its own; 42501 the caller may not execute the reducer; otherwise as replay_aggregate.
Example: SELECT e.sequence, event_store.fold_events(e) OVER (ORDER BY e.sequence) FROM event_store.load_events('Order', 'o-1') e;$$;
-- rebuild: views made anew from events

CREATE FUNCTION event_store.rebuild_view(view_name text, aggregate_type text) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_rebuild_view';
COMMENT ON FUNCTION event_store.rebuild_view(text, text) IS
$$Makes a view anew from the events of all aggregates of a type: a row for each, with view_key = aggregate_id, view_data = its state and version = the sequence of its last event. Returns how many rows were written.
All at once: readers see the old rows until the transaction commits and the new ones after it. Rows of aggregates that have no events or whose state is NULL are removed. A row that was put meanwhile stays if its version is that of an event which the rebuild has not seen. What is staged becomes durable first.
It goes on from the steps of rebuild_view_step, if there are any, and from the start after set_reducer. Writers of the view wait only while its rows are exchanged, until the end of the transaction. rebuild_status shows how far it is.
Errors: 22004, 22023, 22001 as usual; 25006; 40001 at REPEATABLE READ and above when another transaction has written the view since; 55000; whatever the reducer raises, with the event in the context.
Example: SELECT event_store.rebuild_view('OrderSummary', 'Order');$$;

CREATE FUNCTION event_store.rebuild_view_step(view_name text, aggregate_type text, max_count int)
    RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_rebuild_view_step';
COMMENT ON FUNCTION event_store.rebuild_view_step(text, text, int) IS
$$Does a part of rebuild_view: folds the next max_count aggregates and keeps their states aside. When fewer are left it completes the rebuild, with what has been appended since, and returns true.
Call it until it returns true, each time in a transaction of its own: what has committed is not folded again, not after a cancel or a crash either. rebuild_view completes what steps have begun, as well.
Errors: as rebuild_view; 22004 max_count is NULL, 22023 it is not positive.
Example: SELECT event_store.rebuild_view_step('OrderSummary', 'Order', 1000);$$;

CREATE FUNCTION event_store.rebuild_state(
        OUT view_name text, OUT aggregate_type text, OUT done bigint, OUT total bigint,
        OUT rate double precision, OUT started_at timestamptz, OUT pid int)
    RETURNS SETOF record
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'es_rebuild_state';
COMMENT ON FUNCTION event_store.rebuild_state() IS
'Internal: the rows of the view rebuild_status.';

CREATE VIEW event_store.rebuild_status AS
SELECT r.view_name, r.aggregate_type, r.done, r.total, r.rate, r.started_at, r.pid
  FROM event_store.rebuild_state() r;
COMMENT ON VIEW event_store.rebuild_status IS
$$Rebuilds of views that run now, up to 16 at a time, and those whose steps have begun and not ended.
done and total: aggregates; what is appended meanwhile may add to total. rate: aggregates a second since started_at; NULL, as pid, while no call runs. Running ones are seen when the library is preloaded.
Example: SELECT view_name, done, total, rate FROM event_store.rebuild_status;$$;
-- worker: the state of this database's worker

CREATE FUNCTION event_store.worker_state(
        OUT pid int, OUT state text, OUT started_at timestamptz,
        OUT launcher_pid int, OUT drain_state text, OUT last_error text,
        OUT consecutive_failures int, OUT last_drain_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_worker_state';
COMMENT ON FUNCTION event_store.worker_state() IS
'Internal: the row of the view worker_status.';

CREATE VIEW event_store.worker_status AS
SELECT w.pid, w.state, w.started_at, w.launcher_pid, w.drain_state, w.last_error,
       w.consecutive_failures, w.last_drain_at
  FROM event_store.worker_state() w;
COMMENT ON VIEW event_store.worker_status IS
$$The background worker of this database, in one row.
state: none (nothing to do), wanted, starting, running, unavailable (none can be started: calls do its work themselves, it is tried again), not preloaded.
pid and started_at are NULL unless a worker is there; launcher_pid is NULL while the launcher is not running.
drain_state: idle, draining, backing_off, stopped. last_error is the last one and remains until the next; it lasts while consecutive_failures is above 0.
Example: SELECT state, pid FROM event_store.worker_status;$$;

-- a store that was there before is looked after from now on
SELECT event_store.announce_store()
 WHERE pg_catalog.to_regclass('event_store.domain_events') IS NOT NULL;
-- metrics: what is counted, for people and for machines

CREATE FUNCTION event_store.metrics_state(
    OUT metric text, OUT name text, OUT operation text, OUT quantile double precision,
    OUT value double precision, OUT kind text, OUT unit text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 150 AS 'MODULE_PATHNAME', 'es_metrics_state';
COMMENT ON FUNCTION event_store.metrics_state() IS
'Internal: the rows of view metrics.';

CREATE VIEW event_store.metrics AS
SELECT m.metric, m.name, m.operation, m.quantile, m.value, m.kind, m.unit
  FROM event_store.metrics_state() m;
COMMENT ON VIEW event_store.metrics IS
$$What this database's store has done since the server started, a row a number; docs/metrics.md explains each.
metric; name (events, views, snapshots, staging) and operation where it is counted by them; quantile (0.5, 0.95, 0.99) where kind is histogram, with value in seconds; value is NULL where nothing is known yet. Read from shared memory, at the same cost whatever the store holds.
Errors: 55000 without preload.
Example: SELECT metric, operation, value FROM event_store.metrics WHERE metric = 'persistence.errors' AND value > 0;$$;

CREATE FUNCTION event_store.openmetrics() RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'es_openmetrics';
COMMENT ON FUNCTION event_store.openmetrics() IS
$$Returns the metrics of this database's store in the text format that Prometheus reads: names begin with event_store_, have underscores for dots and end in _total for counters; durations are histograms in seconds.
Errors: 55000 without preload.
Example: SELECT event_store.openmetrics();$$;

CREATE FUNCTION event_store.histogram_quantiles(durations double precision[], quantiles double precision[])
    RETURNS double precision[]
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_histogram_quantiles';
COMMENT ON FUNCTION event_store.histogram_quantiles(double precision[], double precision[]) IS
'Internal: what the histograms of metrics make of these durations, in seconds; for tests of their precision.';
-- grants: who may do what

CREATE FUNCTION event_store.grant_access(role regrole, level text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $grant_access$
DECLARE
    reader CONSTANT text[] := ARRAY[
        'load_events', 'load_event', 'aggregate_sequence', 'load_aggregate_ids',
        'load_view', 'load_views', 'load_view_keys', 'load_snapshot', 'replay_aggregate', 'replay_aggregates', 'fold_events',
        'read_events', 'safe_position', 'wait_for_events', 'is_available', 'provider_name', 'extension_version',
        'metrics_state', 'openmetrics'];
    writer CONSTANT text[] := ARRAY[
        'append_event', 'append_events', 'append_batch', 'put_view', 'put_views',
        'delete_view', 'flush', 'save_snapshot'];
    admin CONSTANT text[] := ARRAY[
        'drain', 'retry_dead_letters', 'discard_dead_letters', 'set_reducer', 'set_reducer_rules', 'take_snapshot',
        'rebuild_view', 'rebuild_view_step', 'rebuild_state',
        'clear_view', 'staged_rows', 'staging_state', 'worker_state', 'feed_state'];
    wanted text[];
    function_name text;
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION 'role must not be null' USING ERRCODE = '22004';
    END IF;
    wanted := CASE level
        WHEN 'reader' THEN reader
        WHEN 'writer' THEN reader || writer
        WHEN 'admin' THEN reader || writer || admin
    END;
    IF level IS NULL THEN
        RAISE EXCEPTION 'level must not be null' USING ERRCODE = '22004';
    ELSIF wanted IS NULL THEN
        RAISE EXCEPTION 'level is not a known word: "%"', level
            USING ERRCODE = '22023', HINT = 'Use ''reader'', ''writer'' or ''admin''.';
    END IF;

    IF pg_catalog.to_regclass('event_store.domain_events') IS NULL THEN
        RAISE EXCEPTION 'there is no event store in this database'
            USING ERRCODE = '55000', HINT = 'Run SELECT event_store.create_store();';
    END IF;
    IF NOT pg_catalog.pg_has_role(
        (SELECT e.extowner FROM pg_catalog.pg_extension e WHERE e.extname = 'event_store'), 'USAGE')
    THEN
        RAISE EXCEPTION 'only the owner of extension event_store can grant access to it'
            USING ERRCODE = '42501';
    END IF;

    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA event_store TO %s', role);
    EXECUTE pg_catalog.format(
        'GRANT SELECT ON event_store.domain_events, event_store.domain_views, event_store.metrics TO %s', role);
    FOR function_name IN
        SELECT p.oid::pg_catalog.regprocedure::text
          FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'event_store'::pg_catalog.regnamespace
           AND p.proname = ANY (wanted)
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s', function_name, role);
    END LOOP;
    IF level = 'admin' THEN
        EXECUTE pg_catalog.format(
            'GRANT SELECT ON event_store.staging_status, event_store.worker_status, event_store.feed_status, event_store.rebuild_status,'
            ' event_store.staging, event_store.dead_letters, event_store.snapshots,'
            ' event_store.reducers, event_store.store_state TO %s', role);
    END IF;
END
$grant_access$;
COMMENT ON FUNCTION event_store.grant_access(regrole, text) IS
$$Grants a role what it needs at a level: reader (load and replay, SELECT on domain_events, domain_views and metrics), writer (reader, append, put, delete_view, flush, save_snapshot), admin (writer, drain, dead letters, reducers, clear_view, rebuild_view, status). Writers get EXECUTE only and no privilege to write to the tables.
A level adds to what the role has; DROP OWNED BY takes all of it away.
Errors: 22004, 22023 for another level, 42501, 42704 for an unknown role, 55000.
Example: SELECT event_store.grant_access('pg_monitor', 'reader');$$;

-- nothing is for everybody
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA event_store FROM PUBLIC;

-- metrics tell numbers and no data
GRANT USAGE ON SCHEMA event_store TO pg_monitor;
GRANT SELECT ON event_store.metrics TO pg_monitor;
GRANT EXECUTE ON FUNCTION event_store.metrics_state(), event_store.openmetrics() TO pg_monitor;
