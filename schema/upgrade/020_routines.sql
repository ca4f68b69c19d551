-- routines: the lists of grant_access are data, which tests look at

CREATE FUNCTION event_store.access_levels(OUT level text, OUT routines text[], OUT relations text[])
    RETURNS SETOF record
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 4
BEGIN ATOMIC
    VALUES
    ('reader',
     ARRAY['load_events', 'load_event', 'aggregate_sequence', 'load_aggregate_ids',
           'load_view', 'load_views', 'load_view_keys', 'load_snapshot',
           'replay_aggregate', 'replay_aggregates', 'fold_events',
           'read_events', 'safe_position', 'wait_for_events',
           'is_available', 'provider_name', 'extension_version', 'metrics_state', 'openmetrics'],
     ARRAY['domain_events', 'domain_views', 'metrics']),
    ('writer',
     ARRAY['append_event', 'append_events', 'append_batch', 'put_view', 'put_views',
           'delete_view', 'flush', 'save_snapshot'],
     ARRAY[]::text[]),
    ('admin',
     ARRAY['drain', 'retry_dead_letters', 'discard_dead_letters',
           'set_reducer', 'set_reducer_rules', 'take_snapshot',
           'rebuild_view', 'rebuild_view_step', 'rebuild_state', 'clear_view',
           'staged_rows', 'staging_state', 'worker_state', 'worker_jobs_state', 'feed_state'],
     ARRAY['staging_status', 'worker_status', 'worker_jobs', 'feed_status', 'rebuild_status', 'staging',
           'dead_letters', 'snapshots', 'reducers', 'store_state']),
    ('owner',
     ARRAY['create_store', 'grant_access', 'access_levels', 'announce_store', 'guard_drop', 'refuse_change',
           'aggregate_member', 'fold_events_add', 'fold_events_result', 'histogram_quantiles'],
     ARRAY['staging_0', 'staging_1', 'staging_2', 'staging_3', 'staging_4', 'staging_5', 'staging_6', 'staging_7',
           'staging_marker', 'view_rebuilds', 'view_rebuild_rows']);
END;
COMMENT ON FUNCTION event_store.access_levels() IS
'Internal: what each level of grant_access adds to those below it, and in row owner what no level has.';
COMMENT ON VIEW event_store.metrics IS
$$What this database's store has done since the server started, a row a number; docs/metrics.md explains each.
metric; name (events, views, snapshots, staging) and operation where it is counted by them; quantile (0.5, 0.95, 0.99) where kind is histogram; value is in unit, and NULL where nothing is known yet. Read from shared memory, at the same cost whatever the store holds.
Errors: 55000 without preload.
Example: SELECT metric, operation, value FROM event_store.metrics WHERE metric = 'persistence.errors' AND value > 0;$$;
