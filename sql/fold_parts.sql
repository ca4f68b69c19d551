-- The parts of fold_events are for fold_events alone: an argument of type internal is refused,
-- for its value by older servers (15.18), by newer ones (15.20) since nothing is of that type.
\set VERBOSITY terse
SELECT event_store.fold_events_add(NULL, NULL);
\echo :SQLSTATE
