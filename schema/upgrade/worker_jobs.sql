-- worker_jobs, for an installation of 0.1.0

CREATE FUNCTION event_store.worker_jobs_state(
        OUT job text, OUT state text, OUT failures int, OUT last_error text, OUT last_run_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'es_worker_jobs_state';
COMMENT ON FUNCTION event_store.worker_jobs_state() IS
'Internal: the rows of the view worker_jobs.';

CREATE VIEW event_store.worker_jobs AS
SELECT j.job, j.state, j.failures, j.last_error, j.last_run_at
  FROM event_store.worker_jobs_state() j;
COMMENT ON VIEW event_store.worker_jobs IS
$$What the background worker of this database does, a row for each kind of work; none unless the library is preloaded.
state: idle, running, backing_off (it failed; it is tried again after a pause that doubles, from retry_initial, for store position from 30 s, to retry_max, and the others go on). failures: in a row.
last_error is the last one and remains until the next; for snapshot also that of a single aggregate, whose type then rests. last_run_at: when it last began, NULL = not since the server started.
Example: SELECT job, failures, last_error FROM event_store.worker_jobs WHERE state = 'backing_off';$$;
REVOKE ALL ON FUNCTION event_store.worker_jobs_state() FROM PUBLIC;

COMMENT ON VIEW event_store.worker_status IS
$$The background worker of this database, in one row.
state: none (nothing to do), wanted, starting, running, unavailable (none can be started: calls do its work themselves, it is tried again), not preloaded.
pid and started_at are NULL unless a worker is there; launcher_pid is NULL while the launcher is not running.
drain_state: idle, draining, backing_off, stopped. consecutive_failures and last_error are those of the drain; worker_jobs has those of all it does. last_error is the last one and remains until the next; it lasts while consecutive_failures is above 0.
Example: SELECT state, pid FROM event_store.worker_status;$$;

CREATE OR REPLACE FUNCTION event_store.grant_access(role regrole, level text) RETURNS void
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
        'clear_view', 'staged_rows', 'staging_state', 'worker_state', 'worker_jobs_state', 'feed_state'];
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
            'GRANT SELECT ON event_store.staging_status, event_store.worker_status, event_store.worker_jobs, event_store.feed_status, event_store.rebuild_status,'
            ' event_store.staging, event_store.dead_letters, event_store.snapshots,'
            ' event_store.reducers, event_store.store_state TO %s', role);
    END IF;
END
$grant_access$;
