-- staging_status and worker_status: the time of the last error

DROP VIEW event_store.staging_status;
DROP FUNCTION event_store.staging_state();
DROP VIEW event_store.worker_status;
DROP FUNCTION event_store.worker_state();
