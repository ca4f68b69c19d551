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
\echo == Views that the server keeps: one is folded by the appends themselves, three follow the log.
\echo
\set ECHO queries
SELECT projection_name, mode FROM event_store.projection_status ORDER BY projection_name;
-- read your own writes: until each has taken in all that there is now
SELECT bool_and(event_store.wait_for_subscription(projection_name, NULL)) AS all_there FROM event_store.projections;
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
\echo == The orders of one customer, across aggregates, and revenue by seller and day.
\echo
\set ECHO queries
SELECT view_key AS customer, view_data -> 'orders' AS orders, s.status, count(*)
  FROM event_store.load_views('orders of customers'), jsonb_each_text(view_data -> 'status') s (order_id, status)
 WHERE view_key = event_store.load_view('orders', :'declined_order') ->> 'customer_id'
 GROUP BY 1, 2, 3 ORDER BY 3;
SELECT view_key AS seller_and_day, view_data -> 'revenue' AS revenue, view_data -> 'sold' AS sold
  FROM event_store.load_views('revenue') ORDER BY 1;
-- plain SQL over the log comes to the same
SELECT sum((l ->> 'price')::numeric * (l ->> 'quantity')::int) =
       (SELECT sum((view_data ->> 'revenue')::numeric) FROM event_store.load_views('revenue')) AS agrees
  FROM event_store.domain_events, jsonb_array_elements(payload -> 'lines') l WHERE event_type = 'OrderConfirmed';
\set ECHO none

\echo
\echo == What is in the store
\echo
SELECT coalesce(aggregate_type, 'all') AS aggregate_type, event_type, count(*) AS events,
       count(DISTINCT (aggregate_type, aggregate_id)) AS aggregates
  FROM event_store.domain_events
 GROUP BY GROUPING SETS ((aggregate_type, event_type), ())
 ORDER BY GROUPING(domain_events.aggregate_type), domain_events.aggregate_type, min(global_position);
SELECT view_name, count(*) AS rows FROM event_store.domain_views GROUP BY view_name ORDER BY view_name;
