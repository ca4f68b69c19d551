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
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_announce_store';
COMMENT ON FUNCTION event_store.announce_store() IS
'Internal: locks the schema against another create_store() and makes the launcher look at this database once the transaction has committed.';

CREATE FUNCTION event_store.is_log_change(changed oid, command text) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_is_log_change';
COMMENT ON FUNCTION event_store.is_log_change(oid, text) IS
'Internal: whether refuse_change() is called by a statement of ours that does this (UPDATE or DELETE) to that very table.';

-- What a table of the store lacks of what its CREATE TABLE would make, as statements
-- that bring it back.  A model of the table is made, looked at and rolled back.
CREATE FUNCTION event_store.missing_parts(definition text) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $missing_parts$
DECLARE
    table_name CONSTANT text := pg_catalog.substring(definition, 'event_store\.(\w+)');
    parts text[];
BEGIN
    EXECUTE pg_catalog.replace(definition, table_name, 'model_of_' || table_name);
    WITH columns AS (
        SELECT c.relname = table_name AS is_there, a.attname AS column, a.attnum AS place, a.attnotnull AS required,
               a.attidentity <> '' AS is_identity, pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS filled,
               pg_catalog.format_type(a.atttypid, a.atttypmod)
                   || CASE WHEN a.attcollation <> t.typcollation
                           THEN ' COLLATE ' || a.attcollation::pg_catalog.regcollation ELSE '' END AS type
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = 'event_store'::pg_catalog.regnamespace
           AND c.relname IN (table_name, 'model_of_' || table_name)
    ), wanted AS (SELECT * FROM columns WHERE NOT is_there
    ), found AS (SELECT * FROM columns WHERE is_there
    ), missing(step, place, part) AS (
        -- a column of the log has its place: only a last one can be added
        SELECT 1, w.place, pg_catalog.concat_ws(' ', 'ADD COLUMN', pg_catalog.quote_ident(w.column), w.type,
                   'DEFAULT ' || w.filled, CASE WHEN w.required THEN 'NOT NULL' END,
                   CASE WHEN w.is_identity THEN 'GENERATED ALWAYS AS IDENTITY' END)
          FROM wanted w
         WHERE w.column NOT IN (SELECT f.column FROM found f)
           AND (table_name NOT IN ('domain_events', 'domain_events_archive')
                OR NOT EXISTS (SELECT FROM wanted l JOIN found f USING ("column") WHERE l.place > w.place))
        UNION ALL
        SELECT 2, w.place, pg_catalog.format('ALTER COLUMN %I SET NOT NULL', w.column)
          FROM wanted w JOIN found f USING ("column") WHERE w.required AND NOT f.required
        UNION ALL
        SELECT 3, w.place, pg_catalog.format('ALTER COLUMN %I %s', w.column,
                   CASE WHEN w.is_identity THEN 'ADD GENERATED ALWAYS AS IDENTITY' ELSE 'SET DEFAULT ' || w.filled END)
          FROM wanted w JOIN found f USING ("column")
         WHERE (w.is_identity OR w.filled IS NOT NULL) AND NOT f.is_identity AND f.filled IS NULL
        UNION ALL
        SELECT 4, pg_catalog.row_number() OVER (ORDER BY k.conname),
               pg_catalog.format('ADD CONSTRAINT %I %s', k.name, pg_catalog.pg_get_constraintdef(k.oid))
          FROM (SELECT pg_catalog.replace(c.conname, 'model_of_', '') AS name, c.*
                  FROM pg_catalog.pg_constraint c
                 WHERE c.conrelid = pg_catalog.to_regclass('event_store.model_of_' || table_name)
                   AND c.contype IN ('p', 'u', 'c')) k
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c
                            WHERE c.conrelid = pg_catalog.to_regclass('event_store.' || table_name) AND c.conname = k.name)
           -- an index alone, with its name, serves as well
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                            WHERE i.indexrelid = pg_catalog.to_regclass('event_store.' || k.name)
                              AND i.indrelid = pg_catalog.to_regclass('event_store.' || table_name)))
    SELECT pg_catalog.array_agg(pg_catalog.format('ALTER TABLE event_store.%I %s', table_name, m.part) ORDER BY m.step, m.place)
      INTO parts FROM missing m;
    RAISE EXCEPTION 'undo' USING ERRCODE = 'UNDO1';
EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
    RETURN QUERY SELECT pg_catalog.unnest(parts);
END
$missing_parts$;
COMMENT ON FUNCTION event_store.missing_parts(text) IS
'Internal: the statements that add to a table of the store what it lacks of its CREATE TABLE, for create_store().';

CREATE FUNCTION event_store.repair_table(damaged regclass, statement text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_repair_table';
COMMENT ON FUNCTION event_store.repair_table(regclass, text) IS
'Internal: runs an ALTER TABLE of create_store() as the owner of the table, so that nothing of his runs with the rights of whoever repairs it.';

CREATE FUNCTION event_store.create_store(category_index boolean DEFAULT false,
                                         event_type_index boolean DEFAULT false,
                                         payload_index boolean DEFAULT false,
                                         owner regrole DEFAULT NULL,
                                         archive_tablespace name DEFAULT NULL)
    RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    SET client_min_messages = warning
AS $create_store$
DECLARE
    schema_owner name;
    -- whose the tables are, or shall be
    store_owner name := (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c
                          WHERE c.oid = pg_catalog.to_regclass('event_store.domain_events'));
    intruder text;
    guarded text;
    guard text;
    guard_command text;
    is_on text;
    archive_place CONSTANT text := CASE WHEN archive_tablespace IS NULL THEN '' ELSE pg_catalog.format(' TABLESPACE %I', archive_tablespace) END;
    -- Each column and constraint is brought back when it is missing: missing_parts()
    -- compares a table that is there with what its statement would make.
    tables CONSTANT text[] := ARRAY[
        $$CREATE TABLE event_store.domain_events (
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
                autovacuum_freeze_min_age = 0)$$,
        -- the same columns: events that were moved out of domain_events
        pg_catalog.format($$CREATE TABLE event_store.domain_events_archive (
            global_position bigint NOT NULL CONSTRAINT domain_events_archive_pkey PRIMARY KEY%1$s,
            aggregate_type text COLLATE "C" NOT NULL,
            aggregate_id text COLLATE "C" NOT NULL,
            sequence bigint NOT NULL,
            event_id uuid NOT NULL CONSTRAINT domain_events_archive_event_id_key UNIQUE%1$s,
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
            CONSTRAINT domain_events_archive_aggregate_key UNIQUE (aggregate_type, aggregate_id, sequence)%1$s,
            CONSTRAINT domain_events_archive_sequence_check CHECK (sequence > 0),
            CONSTRAINT domain_events_archive_payload_check CHECK ((payload IS NULL) <> (payload_bytes IS NULL))
        ) WITH (autovacuum_vacuum_insert_scale_factor = 0.05,
                autovacuum_analyze_scale_factor = 0.02,
                autovacuum_freeze_min_age = 0)%2$s$$,
            CASE WHEN archive_place = '' THEN '' ELSE ' USING INDEX' || archive_place END, archive_place),
        -- a row an aggregate that takes no more events
        $$CREATE TABLE event_store.closed_aggregates (
            aggregate_type text COLLATE "C" NOT NULL,
            aggregate_id text COLLATE "C" NOT NULL,
            state text COLLATE "C" NOT NULL
                CONSTRAINT closed_aggregates_state_check CHECK (state IN ('archived', 'deleted')),
            last_sequence bigint NOT NULL,
            last_position bigint NOT NULL,
            last_recorded_at timestamptz NOT NULL,
            closed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            reason text COLLATE "C",
            CONSTRAINT closed_aggregates_pkey PRIMARY KEY (aggregate_type, aggregate_id)
        )$$,
        -- how long aggregates of a type stay; the log is walked up to the position
        $$CREATE TABLE event_store.retention (
            aggregate_type text COLLATE "C" NOT NULL CONSTRAINT retention_pkey PRIMARY KEY,
            archive_after interval,
            closed_by text[] COLLATE "C",
            delete_after interval,
            position bigint NOT NULL DEFAULT 0,
            set_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
        )$$,
        $$CREATE TABLE event_store.domain_views (
            view_name text COLLATE "C" NOT NULL,
            view_key text COLLATE "C" NOT NULL,
            view_data jsonb NOT NULL,
            version bigint,
            created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            CONSTRAINT domain_views_pkey PRIMARY KEY (view_name, view_key)
        ) WITH (fillfactor = 80)$$,
        $$CREATE TABLE event_store.snapshots (
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
        )$$,
        $$CREATE TABLE event_store.reducers (
            aggregate_type text COLLATE "C" NOT NULL CONSTRAINT reducers_pkey PRIMARY KEY,
            reducer text,
            rules jsonb,
            reducer_version int NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            reducer_owner text COLLATE "C"
        )$$,
        -- what makes events of one version those of the next; aggregate_type '' = of all
        $$CREATE TABLE event_store.upcasters (
            event_type text COLLATE "C" NOT NULL,
            from_version int NOT NULL,
            aggregate_type text COLLATE "C" NOT NULL DEFAULT '',
            upcaster text,
            upcaster_owner text COLLATE "C",
            rules jsonb,
            updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            CONSTRAINT upcasters_pkey PRIMARY KEY (event_type, from_version, aggregate_type),
            CONSTRAINT upcasters_one_check CHECK ((upcaster IS NULL) <> (rules IS NULL))
        )$$,
        -- a rebuild that has begun, and what it has folded
        $$CREATE TABLE event_store.view_rebuilds (
            view_name text COLLATE "C" NOT NULL CONSTRAINT view_rebuilds_pkey PRIMARY KEY,
            aggregate_type text COLLATE "C" NOT NULL,
            reducer_version int NOT NULL,
            after_id text COLLATE "C" NOT NULL DEFAULT '',
            done bigint NOT NULL DEFAULT 0,
            total bigint NOT NULL DEFAULT 0,
            started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
        )$$,
        $$CREATE TABLE event_store.view_rebuild_rows (
            view_name text COLLATE "C" NOT NULL,
            view_key text COLLATE "C" NOT NULL,
            sequence bigint NOT NULL,
            state jsonb,
            CONSTRAINT view_rebuild_rows_pkey PRIMARY KEY (view_name, view_key)
        )$$,
        -- kind 'event': the columns of the event; kind 'view': view_name to version,
        -- and the aggregate whose event took the write along (or, if the view write
        -- itself failed, its view_name and view_key in the aggregate's place)
        $$CREATE TABLE event_store.dead_letters (
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
        )$$,
        -- what became of each dead letter that is there no more
        $$CREATE TABLE event_store.dead_letter_history (
            id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid() CONSTRAINT dead_letter_history_pkey PRIMARY KEY,
            letter_id bigint NOT NULL,
            kind text COLLATE "C" NOT NULL,
            aggregate_type text COLLATE "C" NOT NULL,
            aggregate_id text COLLATE "C" NOT NULL,
            sequence bigint,
            event_id uuid,
            event_type text COLLATE "C",
            view_name text COLLATE "C",
            view_key text COLLATE "C",
            error_code text NOT NULL,
            error_message text NOT NULL,
            attempts int NOT NULL,
            failed_at timestamptz NOT NULL,
            outcome text COLLATE "C" NOT NULL
                CONSTRAINT dead_letter_history_outcome_check CHECK (outcome IN ('retried', 'discarded')),
            reason text COLLATE "C",
            settled_by text COLLATE "C" NOT NULL,
            settled_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
        )$$,
        $$CREATE TABLE event_store.processed_messages (
            consumer text COLLATE "C" NOT NULL,
            message_id text COLLATE "C" NOT NULL,
            fingerprint text COLLATE "C",
            result jsonb,
            processed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            CONSTRAINT processed_messages_pkey PRIMARY KEY (consumer, message_id)
        )$$,
        $$CREATE TABLE event_store.subscriptions (
            subscription_name text COLLATE "C" NOT NULL CONSTRAINT subscriptions_pkey PRIMARY KEY,
            aggregate_types text[] COLLATE "C",
            event_types text[] COLLATE "C",
            members int NOT NULL,
            start_after bigint,
            on_failure text COLLATE "C" NOT NULL,
            max_attempts int NOT NULL,
            partition_by text COLLATE "C" NOT NULL,
            paused boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            -- where the members stood before a resize, from member 0 on: see resize.c
            old_positions bigint[],
            projection boolean NOT NULL DEFAULT false
        )$$,
        -- what a subscription is whose consumer is the server
        $$CREATE TABLE event_store.projections (
            projection_name text COLLATE "C" NOT NULL CONSTRAINT projections_pkey PRIMARY KEY,
            kind text COLLATE "C" NOT NULL CONSTRAINT projections_kind_check CHECK (kind IN ('handler', 'view')),
            mode text COLLATE "C" NOT NULL DEFAULT 'async',
            batch_size int NOT NULL,
            start_position bigint NOT NULL,
            handler text COLLATE "C",
            reset text COLLATE "C",
            handler_owner text COLLATE "C",
            timeout interval,
            key jsonb,
            rules jsonb,
            next_definition jsonb,
            rebuild_done bigint,
            rebuild_total bigint,
            created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            stale boolean NOT NULL DEFAULT false
        )$$,
        -- what aggregates gave last where a key says "sticky"; a place below 0 is that of a rebuild: see sticky.c
        $$CREATE TABLE event_store.sticky_keys (
            projection_name text COLLATE "C" NOT NULL,
            place int NOT NULL,
            aggregate_type text COLLATE "C" NOT NULL,
            aggregate_id text COLLATE "C" NOT NULL,
            value text COLLATE "C" NOT NULL,
            CONSTRAINT sticky_keys_pkey PRIMARY KEY (projection_name, place, aggregate_type, aggregate_id)
        )$$,
        -- the newest row of a member holds: see member.c
        $$CREATE TABLE event_store.subscription_positions (
            subscription_name text COLLATE "C" NOT NULL,
            member int NOT NULL,
            number bigint NOT NULL,
            position bigint NOT NULL,
            stopped boolean NOT NULL DEFAULT false,
            attempts int NOT NULL DEFAULT 0,
            attempt_position bigint NOT NULL DEFAULT 0,
            retry_at timestamptz,
            last_error text,
            lease bigint,
            consumer text COLLATE "C",
            lease_first bigint,
            lease_last bigint,
            lease_events int,
            lease_partition text COLLATE "C",
            lease_alone boolean,
            lease_since timestamptz,
            lease_until timestamptz,
            batch_limit int,
            limit_until bigint,
            CONSTRAINT subscription_positions_pkey PRIMARY KEY (subscription_name, member, number)
        )$$,
        -- one row a partition, and one an event of state 'event': see parked.c
        $$CREATE TABLE event_store.parked_events (
            subscription_name text COLLATE "C" NOT NULL,
            partition_key text COLLATE "C" NOT NULL,
            global_position bigint NOT NULL,
            event_id uuid NOT NULL,
            state text COLLATE "C" NOT NULL
                CONSTRAINT parked_events_state_check CHECK (state IN ('retrying', 'parked', 'event')),
            attempts int NOT NULL,
            retry_at timestamptz,
            error_code text,
            error_message text,
            parked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            batch_limit int,
            -- that has the partition: see aside.c
            member int NOT NULL,
            CONSTRAINT parked_events_pkey PRIMARY KEY (subscription_name, partition_key, global_position)
        )$$,
        -- events that are passed over before their member gets there
        $$CREATE TABLE event_store.subscription_marks (
            subscription_name text COLLATE "C" NOT NULL,
            global_position bigint NOT NULL,
            CONSTRAINT subscription_marks_pkey PRIMARY KEY (subscription_name, global_position)
        )$$,
        $$CREATE TABLE event_store.discarded_events (
            subscription_name text COLLATE "C" NOT NULL,
            partition_key text COLLATE "C" NOT NULL,
            first_position bigint,
            last_position bigint,
            events bigint NOT NULL,
            reason text NOT NULL,
            discarded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
        )$$,
        -- events that are to be appended; of those that were refused, why
        $$CREATE TABLE event_store.scheduled_events (
            schedule_id uuid NOT NULL CONSTRAINT scheduled_events_pkey PRIMARY KEY,
            due_at timestamptz NOT NULL,
            state text COLLATE "C" NOT NULL
                CONSTRAINT scheduled_events_state_check CHECK (state IN ('scheduled', 'failed')),
            aggregate_type text COLLATE "C" NOT NULL,
            aggregate_id text COLLATE "C" NOT NULL,
            event_type text COLLATE "C" NOT NULL,
            schema_version int NOT NULL,
            payload jsonb NOT NULL,
            metadata jsonb,
            correlation_id text COLLATE "C",
            causation_id text COLLATE "C",
            saga_id text COLLATE "C",
            unless_event_types text[] COLLATE "C",
            unless_after bigint,
            first_due_at timestamptz NOT NULL,
            scheduled_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            error_code text,
            error text,
            failed_at timestamptz
        )$$,
        -- what the steps of sagas are, by version; no row is ever deleted
        $$CREATE TABLE event_store.saga_definitions (
            saga_name text COLLATE "C" NOT NULL,
            version int NOT NULL,
            definition jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            handler_owner text COLLATE "C",
            CONSTRAINT saga_definitions_pkey PRIMARY KEY (saga_name, version)
        )$$,
        $$CREATE TABLE event_store.sagas (
            saga_name text COLLATE "C" NOT NULL,
            saga_id text COLLATE "C" NOT NULL,
            version int NOT NULL,
            state text COLLATE "C" NOT NULL,
            deadline timestamptz,
            started_at timestamptz NOT NULL,
            CONSTRAINT sagas_pkey PRIMARY KEY (saga_name, saga_id)
        ) WITH (fillfactor = 80)$$,
        -- steps that can be claimed, are leased or wait: see saga.c
        $$CREATE TABLE event_store.saga_steps (
            saga_name text COLLATE "C" NOT NULL,
            saga_id text COLLATE "C" NOT NULL,
            step text COLLATE "C" NOT NULL,
            kind text COLLATE "C" NOT NULL,
            claimable_at timestamptz,
            due_at timestamptz,
            lease bigint,
            progress jsonb,
            written_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            run_at timestamptz,
            run_as text COLLATE "C",
            CONSTRAINT saga_steps_pkey PRIMARY KEY (saga_name, saga_id, step)
        )$$,
        -- what was erased or deleted, without anything of its content: see erasure.c
        $$CREATE TABLE event_store.erasures (
            erasure_id uuid NOT NULL CONSTRAINT erasures_pkey PRIMARY KEY,
            kind text COLLATE "C" NOT NULL,
            erased_by text COLLATE "C" NOT NULL,
            erased_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            reason text COLLATE "C" NOT NULL,
            paths text[] COLLATE "C",
            positions bigint[] NOT NULL,
            event_ids uuid[] NOT NULL,
            renamed boolean NOT NULL DEFAULT false,
            scrubbed_at timestamptz,
            blocked_by text COLLATE "C",
            erased_in xid8
        )$$,
        -- one row
        $$CREATE TABLE event_store.store_state (
            id int NOT NULL DEFAULT 1 CONSTRAINT store_state_pkey PRIMARY KEY
                CONSTRAINT store_state_id_check CHECK (id = 1),
            staging_epoch bigint NOT NULL DEFAULT 1,
            staging_dirty boolean NOT NULL DEFAULT false,
            safe_position bigint NOT NULL DEFAULT 0,
            last_drain_at timestamptz
        )$$];
    indexes CONSTANT text[] := ARRAY[
        'CREATE INDEX IF NOT EXISTS domain_events_correlation_id_idx ON event_store.domain_events (correlation_id) WHERE correlation_id IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS domain_events_saga_id_idx ON event_store.domain_events (saga_id) WHERE saga_id IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS domain_events_recorded_at_idx ON event_store.domain_events USING brin (recorded_at)',
        CASE WHEN category_index THEN
        'CREATE INDEX IF NOT EXISTS domain_events_category_idx ON event_store.domain_events (aggregate_type, global_position)' END,
        CASE WHEN event_type_index THEN
        'CREATE INDEX IF NOT EXISTS domain_events_event_type_idx ON event_store.domain_events (event_type, global_position)' END,
        CASE WHEN payload_index THEN
        'CREATE INDEX IF NOT EXISTS domain_events_payload_idx ON event_store.domain_events USING gin (payload jsonb_path_ops)' END,
        'CREATE INDEX IF NOT EXISTS domain_events_archive_correlation_id_idx ON event_store.domain_events_archive (correlation_id)' || archive_place || ' WHERE correlation_id IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS domain_events_archive_recorded_at_idx ON event_store.domain_events_archive USING brin (recorded_at)' || archive_place,
        'CREATE INDEX IF NOT EXISTS domain_events_archive_saga_id_idx ON event_store.domain_events_archive (saga_id)' || archive_place || ' WHERE saga_id IS NOT NULL',
        -- the archive has those that the log was given, if before there was an archive
        CASE WHEN category_index OR pg_catalog.to_regclass('event_store.domain_events_category_idx') IS NOT NULL THEN
        'CREATE INDEX IF NOT EXISTS domain_events_archive_category_idx ON event_store.domain_events_archive (aggregate_type, global_position)' || archive_place END,
        CASE WHEN event_type_index OR pg_catalog.to_regclass('event_store.domain_events_event_type_idx') IS NOT NULL THEN
        'CREATE INDEX IF NOT EXISTS domain_events_archive_event_type_idx ON event_store.domain_events_archive (event_type, global_position)' || archive_place END,
        CASE WHEN payload_index OR pg_catalog.to_regclass('event_store.domain_events_payload_idx') IS NOT NULL THEN
        'CREATE INDEX IF NOT EXISTS domain_events_archive_payload_idx ON event_store.domain_events_archive USING gin (payload jsonb_path_ops)' || archive_place END,
        'CREATE INDEX IF NOT EXISTS closed_aggregates_archived_idx ON event_store.closed_aggregates (aggregate_type, last_recorded_at) WHERE state = ''archived''',
        'CREATE INDEX IF NOT EXISTS dead_letters_aggregate_idx ON event_store.dead_letters (aggregate_type, aggregate_id, id)',
        'CREATE INDEX IF NOT EXISTS dead_letters_event_id_idx ON event_store.dead_letters (event_id) WHERE event_id IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS dead_letter_history_settled_at_idx ON event_store.dead_letter_history (settled_at)',
        'CREATE INDEX IF NOT EXISTS parked_events_retry_idx ON event_store.parked_events (subscription_name, member, retry_at, global_position)',
        'CREATE INDEX IF NOT EXISTS parked_events_state_idx ON event_store.parked_events (subscription_name, partition_key, state)',
        'CREATE INDEX IF NOT EXISTS scheduled_events_due_idx ON event_store.scheduled_events (due_at, schedule_id) WHERE state = ''scheduled''',
        'CREATE INDEX IF NOT EXISTS scheduled_events_aggregate_idx ON event_store.scheduled_events (aggregate_type, aggregate_id)',
        'CREATE INDEX IF NOT EXISTS erasures_unscrubbed_idx ON event_store.erasures (erasure_id) WHERE scrubbed_at IS NULL',
        'CREATE INDEX IF NOT EXISTS sagas_deadline_idx ON event_store.sagas (deadline) WHERE deadline IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS sagas_open_idx ON event_store.sagas (state) WHERE state IN (''running'', ''compensating'', ''stuck'')',
        'CREATE INDEX IF NOT EXISTS saga_steps_claimable_idx ON event_store.saga_steps (saga_name, claimable_at) WHERE claimable_at IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS saga_steps_step_idx ON event_store.saga_steps (saga_name, step, kind, claimable_at) WHERE claimable_at IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS saga_steps_run_idx ON event_store.saga_steps (run_as, run_at) WHERE run_at IS NOT NULL',
        'CREATE INDEX IF NOT EXISTS saga_steps_due_idx ON event_store.saga_steps (due_at) WHERE due_at IS NOT NULL'];
    statement text;
    statements text[] := '{}';
    table_key text[];
    complaint text;
    complaints text[] := '{}';
    hint text;
BEGIN
    SELECT pg_catalog.pg_get_userbyid(n.nspowner) INTO schema_owner
      FROM pg_catalog.pg_namespace n WHERE n.nspname = 'event_store';
    -- a dump of another one's schema is refused by CREATE EXTENSION when it is restored
    IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = schema_owner)
       AND schema_owner IS DISTINCT FROM (SELECT pg_catalog.pg_get_userbyid(e.extowner) FROM pg_catalog.pg_extension e
                                           WHERE e.extname = 'event_store')
    THEN
        RAISE EXCEPTION 'schema event_store belongs to role %', pg_catalog.quote_ident(schema_owner)
            USING ERRCODE = '55000',
                  HINT = pg_catalog.format('Give it to a superuser, who runs SELECT event_store.create_store(owner => %L);', schema_owner);
    END IF;
    IF owner IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = owner) THEN
        RAISE EXCEPTION 'owner is no role: %', owner USING ERRCODE = '42704';
    ELSIF archive_tablespace = '' THEN
        RAISE EXCEPTION 'archive_tablespace must not be empty' USING ERRCODE = '22023';
    END IF;
    IF owner IS NOT NULL AND store_owner <> pg_catalog.pg_get_userbyid(owner) THEN
        RAISE EXCEPTION 'the store belongs to role %', pg_catalog.quote_ident(store_owner)
            USING ERRCODE = '55000', HINT = 'Give its tables away with REASSIGN OWNED or ALTER TABLE ... OWNER TO.';
    END IF;
    IF NOT pg_catalog.has_schema_privilege('event_store', 'CREATE') THEN
        -- who owns the tables and may create none: all is there, or a superuser is needed
        IF store_owner IS NULL OR NOT pg_catalog.pg_has_role(store_owner, 'USAGE') THEN
            RAISE EXCEPTION 'role % may not create a store', pg_catalog.quote_ident(current_user)
                USING ERRCODE = '42501',
                      HINT = pg_catalog.format('A superuser runs SELECT event_store.create_store(owner => %L);', current_user);
        END IF;
        PERFORM event_store.announce_store();
        IF NOT event_store.is_available() THEN
            BEGIN
                PERFORM event_store.aggregate_sequence('-', '-');
            EXCEPTION WHEN object_not_in_prerequisite_state THEN
                RAISE EXCEPTION '%', SQLERRM
                    USING ERRCODE = '55000', HINT = 'What is missing a superuser brings back: SELECT event_store.create_store();';
            END;
        END IF;
        RETURN;
    END IF;
    store_owner := COALESCE(store_owner, pg_catalog.pg_get_userbyid(owner), current_user);
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

    IF NOT pg_catalog.has_schema_privilege(store_owner, 'event_store', 'USAGE WITH GRANT OPTION') THEN
        EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA event_store TO %I WITH GRANT OPTION', store_owner);
    END IF;
    -- two create_store() at once: the second waits here and finds all in place
    PERFORM event_store.announce_store();

    CREATE SEQUENCE IF NOT EXISTS event_store.global_position_seq AS bigint;
    -- its value says for which log positions were last reserved
    CREATE SEQUENCE IF NOT EXISTS event_store.log_identity AS bigint;
    -- the same of leases
    CREATE SEQUENCE IF NOT EXISTS event_store.fencing_number_seq AS bigint;
    CREATE SEQUENCE IF NOT EXISTS event_store.fencing_identity AS bigint;
    -- up to which position anything was ever moved out of domain_events
    CREATE SEQUENCE IF NOT EXISTS event_store.archived_position AS bigint;

    FOREACH statement IN ARRAY tables LOOP
        IF pg_catalog.to_regclass(pg_catalog.substring(statement, 'event_store\.\w+')) IS NULL THEN
            EXECUTE statement;
        ELSE
            statements := statements || ARRAY(SELECT event_store.missing_parts(statement));
        END IF;
    END LOOP;
    -- the tables of staging come with the extension, which cannot go while rows are staged
    statements := statements || ARRAY(
        SELECT pg_catalog.format('CREATE INDEX staging_%s_%s_idx ON event_store.staging_%1$s %3$s', s.segment, i.name, i.columns)
          FROM pg_catalog.generate_series(0, 7) s(segment),
               (VALUES ('key', '(kind, name, key, ordinal)'),
                       ('event_id', '(event_id) WHERE event_id IS NOT NULL'),
                       ('txn', '(txn, sid)')) i(name, columns)
         WHERE pg_catalog.to_regclass(pg_catalog.format('event_store.staging_%s_%s_idx', s.segment, i.name)) IS NULL
           AND pg_catalog.to_regclass(pg_catalog.format('event_store.staging_%s', s.segment)) IS NOT NULL
         ORDER BY s.segment, i.name);
    -- of an index that exists the name is looked at, shape.c looks at the rest
    FOREACH statement IN ARRAY statements || pg_catalog.array_remove(indexes, NULL) LOOP
        -- to be told that it exists would wait for who makes it anew
        CONTINUE WHEN pg_catalog.to_regclass('event_store.' || pg_catalog.substring(statement, 'IF NOT EXISTS (\w+)')) IS NOT NULL;
        table_key := pg_catalog.regexp_match(statement, '^ALTER TABLE (event_store\.\w+) ADD CONSTRAINT (\w+) (UNIQUE|PRIMARY KEY) (\(.*\))$');
        BEGIN
            IF table_key IS NOT NULL THEN
                -- the owner may make no index in the schema; who makes one makes it as him
                EXECUTE pg_catalog.format('CREATE UNIQUE INDEX %s ON %s %s', table_key[2], table_key[1], table_key[4]);
                PERFORM event_store.repair_table(table_key[1]::pg_catalog.regclass,
                    pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %s %s USING INDEX %2$s', VARIADIC table_key));
            ELSIF statement LIKE 'ALTER TABLE %' AND statement NOT LIKE '% AS IDENTITY' THEN
                PERFORM event_store.repair_table(pg_catalog.substring(statement, 'event_store\.\w+')::pg_catalog.regclass, statement);
            ELSE
                -- an index, or a column that takes a sequence: neither runs anything of the owner's but as him
                EXECUTE statement;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS complaint = PG_EXCEPTION_DETAIL;
            -- what the store is like keeps this part from it, and the others go on
            IF SQLSTATE = '42501' OR pg_catalog.left(SQLSTATE, 2) NOT IN ('22', '23', '42', '54') THEN
                RAISE;
            END IF;
            complaints := complaints
                || pg_catalog.concat_ws(': ', statement, SQLERRM, NULLIF(complaint, ''));
        END;
    END LOOP;

    -- what was erased must not live on in statistics
    FOR statement IN
        SELECT pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', a.attrelid::pg_catalog.regclass, a.attname)
          FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = 'event_store'::pg_catalog.regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
           AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget IS DISTINCT FROM 0
           AND a.attname IN ('payload', 'payload_bytes', 'metadata', 'view_data', 'state', 'state_bytes', 'result', 'progress', 'value',
                             'error_message', 'last_error', 'error')
           AND NOT (a.attname = 'state' AND a.atttypid = 'pg_catalog.text'::pg_catalog.regtype)
           AND (pg_catalog.pg_has_role(c.relowner, 'USAGE'))
         ORDER BY a.attrelid, a.attnum
    LOOP
        EXECUTE statement;
    END LOOP;

    -- The guard outlives the extension, so it is PL/pgSQL and nobody's member; without the
    -- extension, or its library, nobody may change anything: what stands in the place of
    -- is_log_change() must be in C, which a superuser alone can make.
    -- The apply worker of logical replication replays what its publisher did.  What triggers and
    -- functions do there has more around it than this function and that worker.
    CREATE OR REPLACE FUNCTION event_store.refuse_change() RETURNS trigger
        LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
    AS $refuse_change$
    DECLARE
        ours boolean := false;
        context text;
    BEGIN
        -- of a row that is moved or erased it is asked, too; where it is not there nothing is ours
        BEGIN
            IF EXISTS (SELECT FROM pg_catalog.pg_proc p
                        WHERE p.oid = pg_catalog.to_regprocedure('event_store.is_log_change(oid, text)')
                          AND p.prolang = (SELECT l.oid FROM pg_catalog.pg_language l WHERE l.lanname = 'c'))
            THEN
                ours := event_store.is_log_change(TG_RELID, TG_OP);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
        IF NOT ours AND (SELECT a.backend_type
                           FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a)
                        LIKE 'logical replication%worker'
        THEN
            GET DIAGNOSTICS context = PG_CONTEXT;
            ours := pg_catalog.pg_trigger_depth() = 1
                AND pg_catalog.cardinality(pg_catalog.string_to_array(context, E'\n')) <= 2;
        END IF;
        IF ours THEN
            RETURN CASE TG_LEVEL WHEN 'STATEMENT' THEN NULL ELSE COALESCE(NEW, OLD) END;
        END IF;
        RAISE EXCEPTION '% of %.% is not allowed: it is append-only',
                        pg_catalog.lower(TG_OP), TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'VS003';
    END
    $refuse_change$;
    REVOKE ALL ON FUNCTION event_store.refuse_change() FROM PUBLIC;
    COMMENT ON FUNCTION event_store.refuse_change() IS
'Trigger of domain_events and of the archive: raises VS003 on UPDATE, DELETE and TRUNCATE, unless it is the extension that moves or erases events. Made by create_store(), which also repairs its triggers.';

    -- the rows too: a statement that goes to a parent table fires only its triggers
    FOR guarded, guard, guard_command, is_on IN
        SELECT t.name, t.name || g.suffix,
               pg_catalog.format('CREATE TRIGGER %I BEFORE %s ON event_store.%I FOR EACH %s EXECUTE FUNCTION event_store.refuse_change()',
                                 t.name || g.suffix, g.events, t.name, g.level),
               (SELECT r.tgenabled FROM pg_catalog.pg_trigger r
                 WHERE r.tgrelid = pg_catalog.to_regclass('event_store.' || t.name) AND r.tgname = t.name || g.suffix)
          FROM (VALUES ('domain_events'), ('domain_events_archive')) t(name),
               (VALUES ('_append_only', 'UPDATE OR DELETE OR TRUNCATE', 'STATEMENT'),
                       ('_append_only_row', 'UPDATE OR DELETE', 'ROW')) g(suffix, events, level)
         WHERE pg_catalog.to_regclass('event_store.' || t.name) IS NOT NULL
         ORDER BY 1, 2
    LOOP
        IF is_on IS NULL THEN
            EXECUTE guard_command;
        END IF;
        IF is_on IS DISTINCT FROM 'A' THEN
            EXECUTE pg_catalog.format('ALTER TABLE event_store.%I ENABLE ALWAYS TRIGGER %I', guarded, guard);
        END IF;
    END LOOP;

    COMMENT ON TABLE event_store.domain_events IS
'The durable, append-only log: one row per domain event. Written by append_event, append_events, append_batch and the drain.';
    COMMENT ON TABLE event_store.domain_events_archive IS
'Events that were moved out of domain_events, with the same columns: by archive_aggregate or by retention. What reads events reads both; view all_events has both for SQL.';
    COMMENT ON TABLE event_store.closed_aggregates IS
'A row an aggregate that takes no more events: archived, with all its events in domain_events_archive, or deleted, which leaves nothing but this row. last_sequence, last_position and last_recorded_at are those of its last event. reason: why it was deleted; of an archived one the error with which retention could not delete it.';
    COMMENT ON TABLE event_store.retention IS
'What set_retention was told of each aggregate type, and up to which position of the log that is done.';
    COMMENT ON SEQUENCE event_store.archived_position IS
'Nothing above this global position was ever moved out of domain_events. It never falls.';
    COMMENT ON SEQUENCE event_store.log_identity IS
'A hash of the timeline, system, database and table that global positions were last reserved for. Where these differ, as after a failover or in a restored dump, positions jump.';
    COMMENT ON SEQUENCE event_store.fencing_identity IS
'The same of fencing numbers, which every lease has one of.';
    COMMENT ON TABLE event_store.domain_views IS
'The durable read models: the last value of every (view_name, view_key). Staged values are only seen by load_view and load_views.';
    COMMENT ON TABLE event_store.snapshots IS
'States of aggregates at a sequence: source server is used by replay_aggregate, source client is kept for applications.';
    COMMENT ON TABLE event_store.reducers IS
'The registered reducer of each aggregate type, by name, and the role that owned it then.';
    COMMENT ON TABLE event_store.upcasters IS
'What makes an event of a type and version one of the next version: a function by name, with the role that owned it then, or rules. aggregate_type is empty where it is for all.';
    COMMENT ON TABLE event_store.view_rebuilds IS
'Rebuilds of views that steps have begun and not ended: aggregates up to after_id are folded.';
    COMMENT ON TABLE event_store.view_rebuild_rows IS
'States that unfinished rebuilds have folded, each after the event at sequence. Nobody reads them but the rebuild.';
    COMMENT ON TABLE event_store.dead_letters IS
'Staged rows that could not be made durable, with their error. Settled by retry_dead_letters or discard_dead_letters.';
    COMMENT ON TABLE event_store.dead_letter_history IS
'Dead letters that were settled, without their payload: retried or discarded, by which role, when and why. Pruned by age: event_store.dead_letter_retention.';
    COMMENT ON TABLE event_store.processed_messages IS
'What process_once was told: the messages that each consumer has processed, with the result that record_result left.';
    COMMENT ON TABLE event_store.subscriptions IS
'What each subscription is. Made and changed by create_subscription and its like.';
    COMMENT ON TABLE event_store.projections IS
'What each projection is beside its row in subscriptions: the function that handles its events and the role that it runs as, or how a view is folded. Made by create_projection and its like.';
    COMMENT ON TABLE event_store.sticky_keys IS
'What aggregates gave last where the key of a view projection says "sticky", for events that do not carry it.';
    COMMENT ON TABLE event_store.subscription_positions IS
'Where the members of subscriptions stand, and the lease of each: the row with the highest number. Older rows are of no use.';
    COMMENT ON TABLE event_store.parked_events IS
'What is set aside of subscriptions: a row a partition, from its first event that is not settled on (retrying or parked; its later events wait behind it), and a row an event that is parked alone (event). error_code is known where the server itself saw the failure (VS007: a lease expired); a consumer gives a text alone.';
    COMMENT ON TABLE event_store.subscription_marks IS
'Events that members of subscriptions pass over when they get there.';
    COMMENT ON TABLE event_store.discarded_events IS
'What discard_parked_events has passed over, and why.';
    COMMENT ON TABLE event_store.scheduled_events IS
'Events that are to be appended when they are due (scheduled), and those that were refused then, with error_code and error (failed). Written by schedule_event and its like.';
    COMMENT ON TABLE event_store.saga_definitions IS
'What the steps of each saga are, by version. Made by define_saga, and kept for the sagas that were started with it. handler_owner: the role whose functions do steps of it.';
    COMMENT ON TABLE event_store.sagas IS
'A row a saga: its state, and when it times out. All else is in its events.';
    COMMENT ON TABLE event_store.saga_steps IS
'The steps of sagas that can be claimed (by executors from claimable_at on; by the handlers of role run_as from run_at on), are leased or wait, and when their time is over (due_at).';
    COMMENT ON TABLE event_store.erasures IS
'What was erased or deleted: who, when and why, the positions and ids of the events, paths where it was not all of them; renamed: an aggregate got a pseudonym; erased_in: the transaction. scrubbed_at: when the last of it was gone from the disk, NULL = not yet; blocked_by: what that waits for.';
    COMMENT ON TABLE event_store.store_state IS
'One row: the staging epoch, whether staging may hold rows, the last drain and the safe position for standbys.';

    -- what was made here is the owner's, and what the store or the owner calls of the
    -- extension: members are there for whoever made the extension alone
    FOR statement IN
        SELECT pg_catalog.format('ALTER %s %s OWNER TO %I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                                 c.oid::pg_catalog.regclass, store_owner)
          FROM pg_catalog.pg_class c
         WHERE c.relnamespace = 'event_store'::pg_catalog.regnamespace AND c.relkind IN ('r', 'S')
           AND c.relowner <> store_owner::pg_catalog.regrole
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                              AND d.objid = c.oid AND d.deptype IN ('e', 'i', 'a'))
        UNION ALL
        SELECT pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', p.oid::pg_catalog.regprocedure, store_owner)
          FROM pg_catalog.pg_proc p
         WHERE p.oid = 'event_store.refuse_change()'::pg_catalog.regprocedure
           AND p.proowner <> store_owner::pg_catalog.regrole
        UNION ALL
        SELECT pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I WITH GRANT OPTION', p.oid::pg_catalog.regprocedure, store_owner)
          FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
         WHERE p.pronamespace = 'event_store'::pg_catalog.regnamespace
           AND NOT pg_catalog.has_function_privilege(store_owner, p.oid, 'EXECUTE WITH GRANT OPTION')
        UNION ALL
        SELECT pg_catalog.format('GRANT SELECT ON %s TO %I WITH GRANT OPTION', c.oid::pg_catalog.regclass, store_owner)
          FROM pg_catalog.pg_class c
         WHERE c.relnamespace = 'event_store'::pg_catalog.regnamespace AND c.relkind = 'v'
           AND NOT pg_catalog.has_table_privilege(store_owner, c.oid, 'SELECT WITH GRANT OPTION')
    LOOP
        EXECUTE statement;
    END LOOP;

    -- it is there now, gets its row of store_state and knows from here on which log it is
    PERFORM event_store.announce_store();

    IF NOT event_store.is_available() THEN
        BEGIN
            PERFORM event_store.aggregate_sequence('-', '-');
        EXCEPTION WHEN object_not_in_prerequisite_state THEN
            GET STACKED DIAGNOSTICS complaint = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
            complaints := complaints || complaint;
        END;
    END IF;
    IF complaints <> '{}' THEN
        RAISE WARNING 'the event store is not complete'
            USING DETAIL = pg_catalog.array_to_string(complaints, E'\n'),
                  HINT = CASE WHEN hint ~ 'Run SELECT event_store.create_store' OR hint IS NULL
                              THEN 'Mend what stands in its way, then run SELECT event_store.create_store();'
                              ELSE hint END;
    END IF;
END
$create_store$;
COMMENT ON FUNCTION event_store.create_store(boolean, boolean, boolean, regrole, name) IS
$$Creates the durable tables, their indexes and the append-only guard in schema event_store; adds only what is missing, so it may be repeated and repairs a store: columns, defaults, keys, checks, indexes and triggers that were dropped come back. What cannot come back it names in a WARNING: a key whose rows are there twice, a column whose rows need a value, one in the midst of domain_events, whatever is there in another shape.
category_index, event_type_index, payload_index: also index (aggregate_type, global_position), (event_type, global_position), payload (GIN), in the log and in its archive.
archive_tablespace: where domain_events_archive is made, with its indexes; one that is there stays where it is.
owner: whose the store is, by default the caller's; a superuser makes it for a role that need not even own the database, and gives that role USAGE on the schema and EXECUTE on its functions, with the right to grant them. The owner may call grant_access and create_store, which brings back nothing that takes a right to create objects.
The tables belong to that role and not to the extension: pg_dump carries them, DROP EXTENSION leaves them.
Errors: 55000 when the schema belongs to a role that is neither a superuser nor the extension's owner (a dump could not be restored), when others may create objects in it, or the store belongs to another role than owner; 22023 archive_tablespace is empty; 42501; 42704 for an unknown role.
Example: SELECT event_store.create_store();$$;

CREATE FUNCTION event_store.provider_name() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 'PostgreSQL'::text;
COMMENT ON FUNCTION event_store.provider_name() IS
$$Returns the name of the persistence provider: PostgreSQL.
Example: SELECT event_store.provider_name();$$;

CREATE FUNCTION event_store.is_available() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_is_available';
COMMENT ON FUNCTION event_store.is_available() IS
$$Returns whether this database has a store that the loaded library can work with. Raises nothing: meant for health checks.
Example: SELECT event_store.is_available();$$;
