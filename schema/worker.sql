-- worker: the state of this database's worker

CREATE FUNCTION event_store.worker_state(
        OUT pid int, OUT state text, OUT started_at timestamptz,
        OUT launcher_pid int, OUT drain_state text, OUT last_error text,
        OUT consecutive_failures int, OUT last_drain_at timestamptz, OUT last_error_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_worker_state';
COMMENT ON FUNCTION event_store.worker_state() IS
'Internal: the row of the view worker_status.';

CREATE VIEW event_store.worker_status AS
SELECT w.pid, w.state, w.started_at, w.launcher_pid, w.drain_state, w.last_error,
       w.consecutive_failures, w.last_drain_at, w.last_error_at, l.waiting_for, l.waiting_since
  FROM event_store.worker_state() w, event_store.drain_wait() l;
COMMENT ON VIEW event_store.worker_status IS
$$The background worker of this database, in one row.
state: none (nothing to do), wanted, starting, running, unavailable (none can be started: calls do its work themselves, it is tried again), not preloaded, no place (event_store.max_databases stores were there before: it works as without preload).
pid and started_at are NULL unless a worker is there; launcher_pid is NULL while the launcher is not running.
drain_state: idle, draining, backing_off, stopped. consecutive_failures and last_error are those of the drain; worker_jobs has those of all it does. last_error is the last one since the last success (of which who may not read events sees the SQLSTATE), and last_error_at its time.
waiting_for: the lock it waits for, and the processes that hold it; waiting_since.
Example: SELECT state, pid FROM event_store.worker_status;$$;

CREATE FUNCTION event_store.worker_jobs_state(
        OUT job text, OUT state text, OUT failures int, OUT last_error text, OUT last_run_at timestamptz,
        OUT last_error_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'es_worker_jobs_state';
COMMENT ON FUNCTION event_store.worker_jobs_state() IS
'Internal: the rows of the view worker_jobs.';

CREATE VIEW event_store.worker_jobs AS
SELECT j.job, j.state, j.failures, j.last_error, j.last_run_at, j.last_error_at
  FROM event_store.worker_jobs_state() j;
COMMENT ON VIEW event_store.worker_jobs IS
$$What the background worker of this database does, a row for each kind of work; none unless the library is preloaded.
state: idle, running, backing_off (it failed; it is tried again after a pause that doubles, from retry_initial, for store position from 30 s, to retry_max, and the others go on). failures: in a row.
last_error is the last one since the last success (of which who may not read events sees the SQLSTATE), and last_error_at its time; for snapshot also that of a single aggregate, whose type then rests. last_run_at: when it last began, NULL = not since the server started.
Example: SELECT job, failures, last_error FROM event_store.worker_jobs WHERE state = 'backing_off';$$;

-- a store that was there before is looked after from now on
SELECT event_store.announce_store()
 WHERE pg_catalog.to_regclass('event_store.domain_events') IS NOT NULL;
