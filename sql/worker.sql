-- worker: worker_status, and the worker of a database with a store
\pset format unaligned
\pset null null
SELECT event_store.create_store();

-- waits for a condition; how long does not matter
CREATE PROCEDURE pg_temp.wait_until(condition text)
    LANGUAGE plpgsql
AS $$
DECLARE
    met boolean := false;
BEGIN
    WHILE NOT met LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(0.01);
    END LOOP;
END
$$;

-- its shape
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = 'event_store.worker_status'::regclass AND a.attnum > 0
 ORDER BY a.attnum;

SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = 'event_store.worker_jobs'::regclass AND a.attnum > 0
 ORDER BY a.attnum;

-- create_store() made a worker look at this database
CALL pg_temp.wait_until($$(SELECT state = 'running' FROM event_store.worker_status)$$);
SELECT count(*) AS rows, count(pid) AS pids, count(launcher_pid) AS launchers FROM event_store.worker_status;
SELECT w.state, a.backend_type, a.application_name, a.datname = current_database() AS here,
       w.started_at >= a.backend_start AS started
  FROM event_store.worker_status w JOIN pg_catalog.pg_stat_activity a USING (pid);
SELECT a.backend_type, a.datname
  FROM event_store.worker_status w JOIN pg_catalog.pg_stat_activity a ON a.pid = w.launcher_pid;

-- what it does: nothing has gone wrong
SELECT job, state IN ('idle', 'running') AS well, failures FROM event_store.worker_jobs;

-- a flush is a round of the worker
SELECT durable FROM event_store.append_event('Worker', 'w-1', 0, 'Asked', durability => 'staged');
SELECT event_store.flush(timeout => '1min');
SELECT count(global_position) FROM event_store.load_events('Worker', 'w-1');
CALL pg_temp.wait_until($$(SELECT drain_state = 'idle' FROM event_store.worker_status)$$);
SELECT w.consecutive_failures, w.last_drain_at = s.last_drain_at AS same_drain,
       w.drain_state = s.drain_state AS same_state
  FROM event_store.worker_status w, event_store.staging_status s;
SELECT j.state, j.failures, j.last_run_at >= w.started_at AS ran
  FROM event_store.worker_jobs j, event_store.worker_status w WHERE j.job = 'drain';

-- terminated it comes back, and goes on
SELECT pid AS worker FROM event_store.worker_status \gset
SELECT durable FROM event_store.append_event('Worker', 'w-1', 1, 'Asked', durability => 'staged');
SELECT pg_catalog.pg_terminate_backend(:worker);
SELECT event_store.flush(timeout => '1min');
SELECT count(global_position) FROM event_store.load_events('Worker', 'w-1');
CALL pg_temp.wait_until(format($$(SELECT pid <> %s FROM event_store.worker_status)$$, :worker));

-- cancelling it does not end it
SELECT pid AS worker FROM event_store.worker_status \gset
SELECT pg_catalog.pg_cancel_backend(:worker);
SELECT durable FROM event_store.append_event('Worker', 'w-1', 2, 'Asked', durability => 'staged');
SELECT event_store.flush(timeout => '1min');
SELECT pid = :worker AS same FROM event_store.worker_status;

-- announce_store() is harmless, and only works at commit
BEGIN;
SELECT event_store.announce_store();
ROLLBACK;
SELECT event_store.announce_store();

-- not for everybody
CREATE ROLE regress_worker_nobody;
SET ROLE regress_worker_nobody;
SELECT state FROM event_store.worker_status;
SELECT event_store.worker_state();
SELECT job FROM event_store.worker_jobs;
SELECT event_store.worker_jobs_state();
RESET ROLE;
SELECT event_store.grant_access('regress_worker_nobody', 'admin');
SET ROLE regress_worker_nobody;
SELECT state FROM event_store.worker_status;
SELECT count(*) FROM event_store.worker_jobs;
RESET ROLE;
DROP OWNED BY regress_worker_nobody;
DROP ROLE regress_worker_nobody;
