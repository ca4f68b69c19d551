-- grants: who may do what

-- What each level adds to those below it: what it may execute (by name, with all
-- overloads) and what it may look at.  Whatever the schema holds is in one row.
-- Three are no levels: what every level has, what monitors and writers have, and
-- 'owner', which is for the owner, or called by the store.
CREATE FUNCTION event_store.access_levels(OUT level text, OUT routines text[], OUT relations text[])
    RETURNS SETOF record
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 8
BEGIN ATOMIC
    VALUES
    ('every',
     ARRAY['is_available', 'provider_name', 'extension_version', 'metrics_state', 'metrics_series_state', 'openmetrics', 'projection_state', 'saga_states', 'saga_detail', 'circuit_states'],
     ARRAY['metrics', 'metrics_series', 'projection_status', 'saga_status', 'saga_circuits']),
    ('feed',
     ARRAY['feed_state'],
     ARRAY['feed_status']),
    ('monitor',
     ARRAY['staging_state', 'drain_wait', 'worker_state', 'worker_jobs_state', 'reducer_state', 'rebuild_state', 'subscription_state',
           'dead_letter_state', 'parked_event_state'],
     ARRAY['staging_status', 'worker_status', 'worker_jobs', 'reducer_status', 'rebuild_status', 'subscription_status',
           'dead_letter_status', 'parked_event_status']),
    ('reader',
     ARRAY['load_events', 'load_event', 'aggregate_sequence', 'aggregate_info', 'load_aggregate_ids', 'saga_log',
           'load_view', 'load_views', 'load_view_keys', 'load_snapshot',
           'replay_aggregate', 'replay_aggregates', 'fold_events', 'view_keys', 'upcast',
           'read_events', 'safe_position', 'position_at', 'wait_for_events', 'all_event_rows'],
     ARRAY['domain_events', 'domain_events_archive', 'all_events', 'domain_views']),
    ('consumer',
     ARRAY['next_events', 'fail_events', 'claim_events', 'ack_events', 'release_events', 'extend_lease',
           'wait_for_subscription', 'wait_for_subscriptions', 'process_once', 'record_result', 'processed_result', 'claim_steps', 'extend_step', 'report_step'],
     ARRAY[]::text[]),
    ('writer',
     ARRAY['append_event', 'append_events', 'append_batch', 'put_view', 'put_views',
           'delete_view', 'flush', 'save_snapshot', 'delete_snapshot', 'lock_aggregate', 'assert_sequence',
           'schedule_event', 'reschedule_event', 'cancel_scheduled_event', 'cancel_scheduled_events', 'start_saga', 'signal_saga'],
     ARRAY[]::text[]),
    ('admin',
     ARRAY['drain', 'retry_dead_letters', 'discard_dead_letters', 'prune_dead_letter_history',
           'set_reducer', 'set_reducer_rules', 'set_upcaster', 'drop_upcaster', 'redact_events', 'erase_aggregate', 'erase_events', 'scrub_erased', 'take_snapshot',
           'rebuild_view', 'rebuild_view_step', 'clear_view', 'forget_processed', 'staged_rows',
           'create_subscription', 'alter_subscription', 'drop_subscription', 'pause_subscription', 'resume_subscription',
           'move_subscription', 'resize_subscription', 'retry_parked_events', 'discard_parked_events',
           'create_projection', 'create_view_projection', 'drop_projection', 'replace_projection', 'rebuild_projection', 'rebuild_projection_step', 'project', 'define_saga', 'resolve_step', 'cancel_saga', 'fire_saga_timers', 'run_saga_handlers',
           'archive_aggregate', 'restore_aggregate', 'delete_aggregate', 'set_retention'],
     ARRAY['staging', 'dead_letters', 'dead_letter_history', 'snapshots', 'reducers', 'upcasters', 'erasures', 'store_state', 'processed_messages',
           'subscriptions', 'subscription_positions', 'parked_events', 'discarded_events',
           'projections', 'scheduled_events', 'saga_definitions', 'sagas', 'saga_steps', 'closed_aggregates', 'retention']),
    ('owner',
     ARRAY['create_store', 'missing_parts', 'repair_table', 'grant_access', 'access_levels', 'announce_store', 'guard_drop', 'refuse_change', 'is_log_change',
           'aggregate_member', 'partition_member', 'fold_events_add', 'fold_events_result', 'histogram_quantiles', 'saga_transition'],
     ARRAY['staging_0', 'staging_1', 'staging_2', 'staging_3', 'staging_4', 'staging_5', 'staging_6', 'staging_7',
           'staging_marker', 'view_rebuilds', 'view_rebuild_rows', 'subscription_marks', 'sticky_keys']);
END;
COMMENT ON FUNCTION event_store.access_levels() IS
'Internal: what each level of grant_access adds to those below it, in rows every and feed what several have, and in row owner what none has.';

CREATE FUNCTION event_store.grant_access(role regrole, level text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $grant_access$
DECLARE
    -- the rows of access_levels() that a level is made of
    wanted CONSTANT text[] := CASE level
        WHEN 'monitor' THEN ARRAY['every', 'feed', 'monitor']
        WHEN 'reader' THEN ARRAY['every', 'reader']
        WHEN 'consumer' THEN ARRAY['every', 'reader', 'consumer']
        WHEN 'writer' THEN ARRAY['every', 'feed', 'reader', 'writer']
        WHEN 'admin' THEN ARRAY['every', 'feed', 'monitor', 'reader', 'consumer', 'writer', 'admin']
    END;
    object_name text;
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION 'role must not be null' USING ERRCODE = '22004';
    ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'role % does not exist', role USING ERRCODE = '42704';
    END IF;
    IF level IS NULL THEN
        RAISE EXCEPTION 'level must not be null' USING ERRCODE = '22004';
    ELSIF wanted IS NULL THEN
        RAISE EXCEPTION 'level is not a known word: "%"', level
            USING ERRCODE = '22023', HINT = 'Use ''monitor'', ''reader'', ''consumer'', ''writer'' or ''admin''.';
    END IF;

    IF pg_catalog.to_regclass('event_store.domain_events') IS NULL THEN
        RAISE EXCEPTION 'there is no event store in this database'
            USING ERRCODE = '55000', HINT = 'Run SELECT event_store.create_store();';
    END IF;
    IF NOT pg_catalog.pg_has_role(
        (SELECT e.extowner FROM pg_catalog.pg_extension e WHERE e.extname = 'event_store'), 'USAGE')
       AND NOT pg_catalog.pg_has_role(
        (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = 'event_store.domain_events'::pg_catalog.regclass), 'USAGE')
    THEN
        RAISE EXCEPTION 'only the owners of extension event_store and of the store can grant access to it'
            USING ERRCODE = '42501';
    END IF;

    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA event_store TO %s', role);
    FOR object_name IN
        SELECT pg_catalog.unnest(a.relations)
          FROM event_store.access_levels() a
         WHERE a.level = ANY (wanted)
    LOOP
        -- a store of before lacks what create_store() has yet to add
        CONTINUE WHEN pg_catalog.to_regclass('event_store.' || object_name) IS NULL;
        EXECUTE pg_catalog.format('GRANT SELECT ON event_store.%I TO %s', object_name, role);
    END LOOP;
    FOR object_name IN
        SELECT p.oid::pg_catalog.regprocedure::text
          FROM event_store.access_levels() a
          JOIN pg_catalog.pg_proc p ON p.proname = ANY (a.routines)
         WHERE a.level = ANY (wanted)
           AND p.pronamespace = 'event_store'::pg_catalog.regnamespace
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s', object_name, role);
    END LOOP;
END
$grant_access$;
COMMENT ON FUNCTION event_store.grant_access(regrole, text) IS
$$Grants a role what it needs at a level: monitor (metrics and the status views, nothing of what events and views hold: of an error its SQLSTATE), reader (load, read, replay, saga_log, SELECT on domain_events, domain_events_archive, all_events, domain_views and metrics), consumer (reader, next_events, fail_events, claim_events, ack_events, release_events, extend_lease, waiting for subscriptions, process_once and its results, claim_steps, extend_step, report_step), writer (reader, append, put, delete_view, flush, save_snapshot, delete_snapshot, lock_aggregate, assert_sequence, scheduling and cancelling events, start_saga, signal_saga, SELECT on feed_status), admin (writer, consumer, monitor, subscriptions, projections, forget_processed, drain, dead letters, reducers, upcasters, clear_view, rebuild_view, define_saga, resolve_step, cancel_saga, archive, retention, erasure). Writers get EXECUTE only and no privilege to write to the tables.
A level adds to what the role has; DROP OWNED BY takes all of it away.
Errors: 22004, 22023 for another level, 42501, 42704 for an unknown role, 55000.
Example: SELECT event_store.grant_access('pg_monitor', 'reader');$$;

-- nothing is for everybody; what a store from before has there is its own
DO $$
DECLARE
    routine text;
BEGIN
    FOR routine IN
        SELECT d.objid::pg_catalog.regprocedure::text
          FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_extension e
            ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
         WHERE e.extname = 'event_store' AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e'
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine);
    END LOOP;
END
$$;

-- The schema is not a member: pg_dump has to carry what is granted on it, by
-- whomever, so nothing of it may be noted as the extension's.
CREATE FUNCTION event_store.outside_script(statement text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_outside_script';
COMMENT ON FUNCTION event_store.outside_script(text) IS
'Runs a statement as if it did not stand in the script of the extension that calls it, so that pg_dump carries what it grants. Elsewhere it is EXECUTE.';
SELECT event_store.outside_script('GRANT USAGE ON SCHEMA event_store TO pg_monitor');
DROP FUNCTION event_store.outside_script(text);

-- metrics and status tell numbers and no data
GRANT SELECT ON event_store.metrics, event_store.metrics_series, event_store.staging_status, event_store.worker_status, event_store.worker_jobs, event_store.reducer_status,
    event_store.feed_status, event_store.rebuild_status, event_store.subscription_status, event_store.projection_status, event_store.saga_status, event_store.saga_circuits TO pg_monitor;
GRANT EXECUTE ON ROUTINE event_store.metrics_state(), event_store.metrics_series_state(), event_store.openmetrics(), event_store.staging_state(),
    event_store.drain_wait(), event_store.worker_state(), event_store.worker_jobs_state(), event_store.reducer_state(), event_store.feed_state(),
    event_store.rebuild_state(), event_store.subscription_state(), event_store.projection_state(), event_store.saga_states(), event_store.saga_detail(text, text), event_store.circuit_states() TO pg_monitor;
