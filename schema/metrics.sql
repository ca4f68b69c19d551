-- metrics: what is counted, for people and for machines

CREATE FUNCTION event_store.metrics_state(
    OUT metric text, OUT name text, OUT operation text, OUT quantile double precision,
    OUT value double precision, OUT kind text, OUT unit text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 150 AS 'MODULE_PATHNAME', 'es_metrics_state';
COMMENT ON FUNCTION event_store.metrics_state() IS
'Internal: the rows of view metrics.';

CREATE VIEW event_store.metrics AS
SELECT m.metric, m.name, m.operation, m.quantile, m.value, m.kind, m.unit
  FROM event_store.metrics_state() m;
COMMENT ON VIEW event_store.metrics IS
$$What this database's store has done since the server started, a row a number; docs/metrics.md explains each.
metric; name (events, views, snapshots, staging, consumers) and operation where it is counted by them, name also the subscription; quantile (0.5, 0.95, 0.99) where kind is histogram; value is in unit, and NULL where nothing is known yet. Read from shared memory, at the same cost whatever the store holds, but for what stands of subscriptions: a bounded look at the log each.
Errors: 55000 without preload.
Example: SELECT metric, operation, value FROM event_store.metrics WHERE metric = 'persistence.errors' AND value > 0;$$;

CREATE FUNCTION event_store.metrics_series_state(
    OUT series text, OUT name text, OUT operation text, OUT le text, OUT value double precision)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 2000 AS 'MODULE_PATHNAME', 'es_metrics_series';
COMMENT ON FUNCTION event_store.metrics_series_state() IS
'Internal: the rows of view metrics_series.';

CREATE VIEW event_store.metrics_series AS
SELECT pg_catalog.current_database()::text COLLATE "C" AS database, m.series, m.name, m.operation, m.le, m.value
  FROM event_store.metrics_series_state() m;
COMMENT ON VIEW event_store.metrics_series IS
$$The same as openmetrics() in rows, for exporters that run SQL: one row a series, histograms as their buckets, sum and count.
series is its name; database, name, operation and le (of a bucket: it counts what is at most this) are its labels. Nothing is NULL: a label that a series has not is '', and what is not known has no row.
Errors: 55000 without preload.
Example: SELECT series, name, value FROM event_store.metrics_series WHERE series LIKE 'event_store_subscription_%';$$;

CREATE FUNCTION event_store.openmetrics() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_openmetrics';
COMMENT ON FUNCTION event_store.openmetrics() IS
$$Returns the metrics of this database's store in the text format that Prometheus reads: names begin with event_store_, have underscores for dots and end in _total for counters; durations are histograms in seconds.
Errors: 55000 without preload.
Example: SELECT event_store.openmetrics();$$;

CREATE FUNCTION event_store.histogram_quantiles(durations double precision[], quantiles double precision[])
    RETURNS double precision[]
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_histogram_quantiles';
COMMENT ON FUNCTION event_store.histogram_quantiles(double precision[], double precision[]) IS
'Internal: what the histograms of metrics make of these durations, in seconds; for tests of their precision.';
