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
