-- a consumer of the server's: 100 events and the position behind them in a transaction; at the end it begins anew
\set k :k + 1
\if :k > :batches
\set k 1
SELECT event_store.drop_subscription('bench'), event_store.create_subscription('bench');
\endif
BEGIN;
SELECT * FROM event_store.next_events('bench', 100);
COMMIT;
