-- staging_status: what is staged is not known until somebody has looked

COMMENT ON VIEW event_store.staging_status IS
'One row: committed rows in staging (staged_events, staged_views; NULL until the worker has looked at staging after a start of the server, and without preload), the bytes its segments take, the oldest staged row, what the drain does (idle, draining, backing_off, stopped = no worker is running), its consecutive failures and last error, when it last moved rows, the staging epoch (NULL until staging was opened).';
