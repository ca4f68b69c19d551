-- a consumer that follows the tail, says where it is, and is handed every payload
SELECT set_config('application_name', 'consumer at ' || :at, false);
SELECT event_store.wait_for_events(:at, '1s');
SELECT coalesce(max(e.global_position), :at::bigint) AS at, array_agg(e.payload) AS payloads FROM event_store.read_events(:at, 1000) e \gset
