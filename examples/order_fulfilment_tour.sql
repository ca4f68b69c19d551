-- A walk through the store after the orders of order_fulfilment.sql were played,
-- for psql.  scripts/demo runs it.

\set QUIET on
\pset footer off
\pset border 1
\set VERBOSITY default

\echo
\echo == Somebody acts on old knowledge: order-0001 already has two events.
\echo
\set ECHO queries
SELECT event_store.append_event('Order', 'order-0001', 1, 'OrderCancelled', '{"status": "cancelled"}');
\set ECHO none
SELECT :'SQLSTATE' <> 'VS001' AS unexpected \gset
\set ON_ERROR_STOP on
\if :unexpected
DO $$ BEGIN RAISE 'the sequence conflict was not refused'; END $$;
\endif

\echo
\echo == What is staged can be read already. flush() returns when all of it is durable.
\echo
\set ECHO queries
SELECT staged_events, staged_views, drain_state FROM event_store.staging_status;
SELECT event_store.flush('1 min');
SELECT staged_events, staged_views, drain_state FROM event_store.staging_status;
\set ECHO none

\echo
\echo == One order through time: its state after every event.
\echo
SELECT aggregate_id AS declined_order FROM event_store.domain_events
 WHERE event_type = 'PaymentFailed' ORDER BY aggregate_id LIMIT 1 \gset
SELECT replace(:'declined_order', 'payment', 'order') AS declined_order \gset
\set ECHO queries
SELECT e.sequence, e.event_type, r.state ->> 'status' AS status, r.state ->> 'total' AS total,
       r.state ->> 'reason' AS reason
  FROM event_store.load_events('Order', :'declined_order') e,
       event_store.replay_aggregate('Order', :'declined_order', as_of_sequence => e.sequence) r
 ORDER BY e.sequence;
\set ECHO none

\echo
\echo == The saga of the same order, over all aggregates.
\echo
\set ECHO queries
SELECT aggregate_type, aggregate_id, sequence, event_type,
       coalesce(payload ->> 'quantity', payload ->> 'amount', payload ->> 'total', payload ->> 'reason') AS what
  FROM event_store.domain_events
 WHERE saga_id = :'declined_order'
 ORDER BY recorded_at, global_position;
\set ECHO none

\echo
\echo == The books agree: what is left of every product is what came in less what was reserved.
\echo
\set ECHO queries
SELECT count(*) AS products,
       count(*) FILTER (WHERE (v.view_data ->> 'available')::int = e.available) AS agree,
       min(e.available) AS least_available
  FROM event_store.load_views('stock') v
  JOIN (SELECT aggregate_id,
               sum(CASE event_type
                       WHEN 'ProductCreated' THEN (payload ->> 'stock')::int
                       WHEN 'StockReserved' THEN -(payload ->> 'quantity')::int
                       WHEN 'StockReservationFailed' THEN 0
                       ELSE (payload ->> 'quantity')::int
                   END) AS available
          FROM event_store.domain_events
         WHERE aggregate_type = 'Product'
         GROUP BY aggregate_id) e ON e.aggregate_id = v.view_key;
\set ECHO none

\echo
\echo == What is in the store
\echo
SELECT coalesce(aggregate_type, 'all') AS aggregate_type, event_type, count(*) AS events,
       count(DISTINCT (aggregate_type, aggregate_id)) AS aggregates
  FROM event_store.domain_events
 GROUP BY GROUPING SETS ((aggregate_type, event_type), ())
 ORDER BY GROUPING(domain_events.aggregate_type), domain_events.aggregate_type, min(global_position);
-- each of these events put a view; of the puts between two drains one was written
SELECT v.view_name, v.rows, e.puts
  FROM (SELECT view_name, count(*) AS rows FROM event_store.domain_views GROUP BY view_name) v
  JOIN (SELECT CASE aggregate_type WHEN 'Order' THEN 'orders' ELSE 'stock' END AS view_name, count(*) AS puts
          FROM event_store.domain_events
         WHERE event_type IN ('OrderCreated', 'OrderConfirmed', 'OrderCancelled', 'StockReserved', 'StockReleased')
         GROUP BY 1) e USING (view_name)
 ORDER BY view_name;
