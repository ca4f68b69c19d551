-- metrics: histograms of numbers have percentiles in their own unit

COMMENT ON VIEW event_store.metrics IS
$$What this database's store has done since the server started, a row a number; docs/metrics.md explains each.
metric; name (events, views, snapshots, staging) and operation where it is counted by them; quantile (0.5, 0.95, 0.99) where kind is histogram; value is in unit, and NULL where nothing is known yet. Read from shared memory, at the same cost whatever the store holds.
Errors: 55000 without preload.
Example: SELECT metric, operation, value FROM event_store.metrics WHERE metric = 'persistence.errors' AND value > 0;$$;
