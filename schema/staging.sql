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
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_show_staged';
COMMENT ON FUNCTION event_store.staged_rows() IS
'Internal: the rows of view staging.';

CREATE VIEW event_store.staging AS SELECT * FROM event_store.staged_rows();
COMMENT ON VIEW event_store.staging IS
'What is staged and not yet drained, in staging order within each transaction, for a look by an administrator. kind 1 = event: name and key are its aggregate_type and aggregate_id, ordinal its sequence; 2 = view write: name and key are view_name and view_key, payload is view_data (NULL = delete).';

CREATE FUNCTION event_store.staging_state(
    OUT staged_events bigint, OUT staged_views bigint, OUT staged_bytes bigint,
    OUT oldest_staged_at timestamptz, OUT drain_state text, OUT consecutive_failures bigint,
    OUT last_error text, OUT last_drain_at timestamptz, OUT staging_epoch bigint, OUT last_error_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_staging_state';
COMMENT ON FUNCTION event_store.staging_state() IS
'Internal: the row of view staging_status.';

-- In PL/pgSQL, since the worker's part of the schema comes later than this.
CREATE FUNCTION event_store.drain_wait(OUT waiting_for text, OUT waiting_since timestamptz)
    LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
AS $drain_wait$
BEGIN
    SELECT pg_catalog.concat_ws(', ',
               CASE l.locktype
                   WHEN 'relation' THEN l.relation::pg_catalog.regclass::text
                   WHEN 'advisory' THEN CASE l.objsubid
                       WHEN -6911 THEN 'an aggregate'
                       WHEN -6910 THEN 'a view key'
                       WHEN -6909 THEN 'another round'
                       WHEN -6908 THEN 'positions'
                       ELSE 'an advisory lock' END
                   WHEN 'transactionid' THEN 'a row or key that a transaction has written'
                   ELSE l.locktype
               END,
               'held by ' || nullif(pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ' '), '')),
           l.waitstart
      INTO waiting_for, waiting_since
      FROM event_store.worker_state() w
      JOIN pg_catalog.pg_locks l ON l.pid = w.pid AND NOT l.granted
     LIMIT 1;
END
$drain_wait$;
COMMENT ON FUNCTION event_store.drain_wait() IS
'Internal: which lock the worker of this database waits for.';

CREATE VIEW event_store.staging_status AS
SELECT s.staged_events, s.staged_views, s.staged_bytes, s.oldest_staged_at, s.drain_state, s.consecutive_failures,
       s.last_error, s.last_drain_at, s.staging_epoch, s.last_error_at, w.waiting_for, w.waiting_since
  FROM event_store.staging_state() s, event_store.drain_wait() w;
COMMENT ON VIEW event_store.staging_status IS
'One row: committed rows in staging (staged_events, staged_views; NULL until the worker has looked at staging after a start of the server, and without preload), the bytes its segments take, the oldest staged row, what the drain does (idle, draining, backing_off, stopped = no worker is running), its consecutive failures and its last error since its last success (of which who may not read events sees the SQLSTATE), when it last moved rows, the staging epoch (NULL until staging was opened), when that error came; which lock the worker waits for, who holds it (process ids), and since when (NULL = it waits for none).';

CREATE FUNCTION event_store.flush(timeout interval DEFAULT '5s') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_flush';
COMMENT ON FUNCTION event_store.flush(interval) IS
$$Waits until everything that was staged and committed before the call is durable (or a dead letter), at most for timeout. Returns whether it is.
Errors: 25001 inside a transaction block; 22023 when timeout is negative or above 10 minutes; 55000.
Example: SELECT event_store.flush(timeout => '10s');$$;

CREATE FUNCTION event_store.drain(max_rows int DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drain';
COMMENT ON FUNCTION event_store.drain(int) IS
$$Runs one round of draining in this session: moves about max_rows committed staged rows (NULL = event_store.write_batch_size), always whole transactions. Returns the number of rows moved, 0 when nothing was staged. Works without preload.
Errors: 25001 inside a transaction block; 22023; 25006; 55000.
Example: SELECT event_store.drain();$$;

CREATE FUNCTION event_store.retry_dead_letters(aggregate_type text, aggregate_id text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_retry_dead_letters';
COMMENT ON FUNCTION event_store.retry_dead_letters(text, text) IS
$$Makes the dead letters of an aggregate durable, events in sequence order, then the view writes that had followed them; all or none. A view write that failed by itself is addressed by its view_name and view_key. Returns the number of dead letters settled, which leave a row each in dead_letter_history.
When one fails again (SQLSTATE class 22, 23, 54 or P0) it returns 0 with a WARNING: the letters stay, each with one attempt more and a new failed_at, the one that failed with its error.
Errors: any other error; VS002 when an event_id was used meanwhile; 55000 when they do not continue the log of the aggregate; 22004, 22023, 22001, 25006.
Example: SELECT event_store.retry_dead_letters('Order', 'o-100');$$;

CREATE FUNCTION event_store.discard_dead_letters(aggregate_type text, aggregate_id text, reason text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_dead_letters';
COMMENT ON FUNCTION event_store.discard_dead_letters(text, text, text) IS
$$Removes all dead letters of an aggregate, so that it takes appends again; each leaves a row with the reason in dead_letter_history, and the reason goes to the server log. Returns the number of dead letters removed.
Errors: 22004, 22023, 22001, 25006, 55000.
Example: SELECT event_store.discard_dead_letters('Order', 'o-100', reason => 'test data');$$;

CREATE FUNCTION event_store.dead_letter_state(
    OUT id bigint, OUT kind text, OUT aggregate_type text, OUT aggregate_id text, OUT sequence bigint, OUT event_type text,
    OUT view_name text, OUT view_key text, OUT error_code text, OUT attempts int, OUT failed_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100 AS 'MODULE_PATHNAME', 'es_dead_letter_state';
COMMENT ON FUNCTION event_store.dead_letter_state() IS
'Internal: the rows of view dead_letter_status.';

CREATE VIEW event_store.dead_letter_status AS
SELECT d.id, d.kind, d.aggregate_type, d.aggregate_id, d.sequence, d.event_type, d.view_name, d.view_key, d.error_code,
       d.attempts, d.failed_at
  FROM event_store.dead_letter_state() d;
COMMENT ON VIEW event_store.dead_letter_status IS
$$The rows of dead_letters without what they hold: no payload, no metadata, no error message, which may quote both.
Example: SELECT aggregate_type, error_code, count(*) FROM event_store.dead_letter_status GROUP BY 1, 2;$$;
CREATE FUNCTION event_store.prune_dead_letter_history(older_than interval DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prune_dead_letter_history';
COMMENT ON FUNCTION event_store.prune_dead_letter_history(interval) IS
$$Removes from dead_letter_history what was settled longer ago than older_than; NULL = event_store.dead_letter_retention, by which the worker prunes as well, and nothing where that is 0. Returns the number of rows removed.
Errors: 22023 when older_than is negative; 25006; 55000.
Example: SELECT event_store.prune_dead_letter_history('90 days');$$;

CREATE FUNCTION event_store.guard_drop() RETURNS event_trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_guard_drop';
COMMENT ON FUNCTION event_store.guard_drop() IS
'Internal: event trigger that refuses to drop the extension (DROP EXTENSION, DROP SCHEMA ... CASCADE, DROP OWNED) with 55000 while undrained rows are staged.';

CREATE EVENT TRIGGER event_store_guard_drop ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION event_store.guard_drop();
