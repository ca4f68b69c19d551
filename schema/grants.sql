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
