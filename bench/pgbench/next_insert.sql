-- 100 events, their effect and the position behind them in one statement; at the end it begins anew
\set k :k + 1
\if :k > :batches
\set k 1
SELECT event_store.drop_subscription('bench'), event_store.create_subscription('bench');
\endif
INSERT INTO bench.effects SELECT global_position, aggregate_id, event_type FROM event_store.next_events('bench', 100);
