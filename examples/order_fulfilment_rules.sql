-- Order fulfilment, folded by rules alone: no reducer function is needed for
-- any of its four kinds of aggregates.  docs/rules.md describes rules.
--
-- For psql, in a database with a store that has no events of these aggregates:
--
--     psql -X -v ON_ERROR_STOP=1 -f examples/order_fulfilment_rules.sql
--
-- Money is a decimal string: "increment" adds it exactly and keeps its scale.

\set QUIET on
\pset footer off

-- --------------------------------------------------------------------------
-- rules

-- What a customer tells is merged: null forgets a field, as in RFC 7396.
SELECT event_store.set_reducer_rules('Customer', '{
    "unknown": "error",
    "initial": {"status": "registered"},
    "events": {
        "CustomerCreated": [
            {"op": "merge", "path": "$", "from": "$.payload"},
            {"op": "set", "path": "$.since", "from": "$.occurred_at"}],
        "CustomerUpdated": [
            {"op": "merge", "path": "$", "from": "$.payload"}],
        "CustomerStatusChanged": [
            {"op": "set", "path": "$.status", "from": "$.payload.status"}]
    }}') \g /dev/null

-- The stock, and which order holds how much of it.
SELECT event_store.set_reducer_rules('Product', '{
    "unknown": "error",
    "initial": {"available": 0, "reserved": {}},
    "events": {
        "ProductCreated": [
            {"op": "set", "path": "$.name", "from": "$.payload.name"},
            {"op": "set", "path": "$.price", "from": "$.payload.price"},
            {"op": "increment", "path": "$.available", "from": "$.payload.stock"}],
        "StockReserved": [
            {"op": "increment", "path": "$.available", "from": "$.payload.quantity", "times": -1},
            {"op": "put_into", "path": "$.reserved", "key": "$.payload.order_id", "from": "$.payload.quantity"}],
        "StockReleased": [
            {"op": "increment", "path": "$.available", "from": "$.payload.quantity"},
            {"op": "unset", "path": "$.reserved", "key": "$.payload.order_id"}],
        "StockReplenished": [
            {"op": "increment", "path": "$.available", "from": "$.payload.quantity"},
            {"op": "unset", "path": "$.wanted"}],
        "StockReservationFailed": [
            {"op": "append", "path": "$.wanted", "from": "$.payload"}]
    }}') \g /dev/null

-- An order is one document that later events add to.
SELECT event_store.set_reducer_rules('Order', '{
    "unknown": "error",
    "events": {
        "OrderCreated": [
            {"op": "set", "path": "$", "from": "$.payload"},
            {"op": "set", "path": "$.status", "value": "created"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "OrderConfirmed": [
            {"op": "set", "path": "$.status", "value": "confirmed"},
            {"op": "set", "path": "$.payment_id", "from": "$.payload.payment_id"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "OrderCancelled": [
            {"op": "set", "path": "$.status", "value": "cancelled"},
            {"op": "set", "path": "$.reason", "from": "$.payload.reason", "default": "not given"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}]
    }}') \g /dev/null

SELECT event_store.set_reducer_rules('Payment', '{
    "unknown": "error",
    "initial": {"balance": "0.00"},
    "events": {
        "PaymentProcessed": [
            {"op": "set", "path": "$.order_id", "from": "$.payload.order_id"},
            {"op": "set", "path": "$.status", "value": "processed"},
            {"op": "increment", "path": "$.balance", "from": "$.payload.amount"}],
        "PaymentFailed": [
            {"op": "set", "path": "$.order_id", "from": "$.payload.order_id"},
            {"op": "set", "path": "$.status", "value": "failed"},
            {"op": "set", "path": "$.reason", "from": "$.payload.reason"}],
        "PaymentRefunded": [
            {"op": "set", "path": "$.status", "value": "refunded"},
            {"op": "increment", "path": "$.balance", "from": "$.payload.amount", "times": -1},
            {"op": "append", "path": "$.refunds", "from": "$.payload.amount"}]
    }}') \g /dev/null

-- --------------------------------------------------------------------------
-- events: a customer, two products, three orders

SELECT count(*) AS events FROM event_store.append_batch('[
    {"aggregate_type": "Customer", "aggregate_id": "customer-1", "event_type": "CustomerCreated", "occurred_at": "2026-01-05T09:00:00Z",
     "payload": {"name": "Niamh O''Brien", "email": "niamh@example.com", "phone": "555-0100"}},
    {"aggregate_type": "Customer", "aggregate_id": "customer-1", "event_type": "CustomerStatusChanged", "payload": {"status": "active"}},
    {"aggregate_type": "Customer", "aggregate_id": "customer-1", "event_type": "CustomerUpdated",
     "payload": {"address": {"street": "1 Harbour Street", "city": "Galway"}, "phone": null}},
    {"aggregate_type": "Product", "aggregate_id": "kettle", "event_type": "ProductCreated",
     "payload": {"name": "Red Kettle", "price": "49.95", "stock": 500}},
    {"aggregate_type": "Product", "aggregate_id": "lamp", "event_type": "ProductCreated",
     "payload": {"name": "Blue Lamp", "price": "19.99", "stock": 5}}]');

-- a happy order: 2 x 49.95 + 1 x 19.99, and 10 % tax
SELECT count(*) AS events FROM event_store.append_batch('[
    {"aggregate_type": "Order", "aggregate_id": "happy", "event_type": "OrderCreated", "saga_id": "happy", "correlation_id": "happy",
     "payload": {"customer_id": "customer-1", "lines": [{"product_id": "kettle", "quantity": 2, "price": "49.95"},
                                                        {"product_id": "lamp", "quantity": 1, "price": "19.99"}],
                 "subtotal": "119.89", "tax": "11.99", "total": "131.88"}},
    {"aggregate_type": "Product", "aggregate_id": "kettle", "event_type": "StockReserved", "saga_id": "happy", "correlation_id": "happy",
     "payload": {"order_id": "happy", "quantity": 2}},
    {"aggregate_type": "Product", "aggregate_id": "lamp", "event_type": "StockReserved", "saga_id": "happy", "correlation_id": "happy",
     "payload": {"order_id": "happy", "quantity": 1}},
    {"aggregate_type": "Payment", "aggregate_id": "payment-happy", "event_type": "PaymentProcessed", "saga_id": "happy", "correlation_id": "happy",
     "payload": {"order_id": "happy", "amount": "131.88"}},
    {"aggregate_type": "Order", "aggregate_id": "happy", "event_type": "OrderConfirmed", "saga_id": "happy", "correlation_id": "happy",
     "payload": {"payment_id": "payment-happy"}}]');

-- a payment over 10000 is declined, and what was reserved is released
SELECT count(*) AS events FROM event_store.append_batch('[
    {"aggregate_type": "Order", "aggregate_id": "declined", "event_type": "OrderCreated", "saga_id": "declined", "correlation_id": "declined",
     "payload": {"customer_id": "customer-1", "lines": [{"product_id": "kettle", "quantity": 200, "price": "49.95"}],
                 "subtotal": "9990.00", "tax": "999.00", "total": "10989.00"}},
    {"aggregate_type": "Product", "aggregate_id": "kettle", "event_type": "StockReserved", "saga_id": "declined", "correlation_id": "declined",
     "payload": {"order_id": "declined", "quantity": 200}},
    {"aggregate_type": "Payment", "aggregate_id": "payment-declined", "event_type": "PaymentFailed", "saga_id": "declined", "correlation_id": "declined",
     "payload": {"order_id": "declined", "amount": "10989.00", "reason": "over the limit"}},
    {"aggregate_type": "Product", "aggregate_id": "kettle", "event_type": "StockReleased", "saga_id": "declined", "correlation_id": "declined",
     "payload": {"order_id": "declined", "quantity": 200}},
    {"aggregate_type": "Order", "aggregate_id": "declined", "event_type": "OrderCancelled", "saga_id": "declined", "correlation_id": "declined",
     "payload": {"reason": "payment declined"}}]');

-- no stock: there are not 10 lamps
SELECT count(*) AS events FROM event_store.append_batch('[
    {"aggregate_type": "Order", "aggregate_id": "no-stock", "event_type": "OrderCreated", "saga_id": "no-stock", "correlation_id": "no-stock",
     "payload": {"customer_id": "customer-1", "lines": [{"product_id": "lamp", "quantity": 10, "price": "19.99"}],
                 "subtotal": "199.90", "tax": "19.99", "total": "219.89"}},
    {"aggregate_type": "Product", "aggregate_id": "lamp", "event_type": "StockReservationFailed", "saga_id": "no-stock", "correlation_id": "no-stock",
     "payload": {"order_id": "no-stock", "quantity": 10}},
    {"aggregate_type": "Order", "aggregate_id": "no-stock", "event_type": "OrderCancelled", "saga_id": "no-stock", "correlation_id": "no-stock"}]');

-- later: half of the happy order is paid back, and lamps come in
SELECT count(*) AS events FROM event_store.append_batch('[
    {"aggregate_type": "Payment", "aggregate_id": "payment-happy", "event_type": "PaymentRefunded",
     "payload": {"order_id": "happy", "amount": "65.94"}},
    {"aggregate_type": "Product", "aggregate_id": "lamp", "event_type": "StockReplenished", "payload": {"quantity": 10}}]');

-- --------------------------------------------------------------------------
-- states

\echo
\echo == Orders
SELECT id, r.state ->> 'status' AS status, r.state ->> 'total' AS total,
       coalesce(r.state ->> 'payment_id', r.state ->> 'reason') AS why, r.state -> 'history' AS history
  FROM unnest(ARRAY['happy', 'declined', 'no-stock']) id, event_store.replay_aggregate('Order', id) r;

\echo
\echo == Payments
SELECT id, r.state FROM unnest(ARRAY['payment-happy', 'payment-declined']) id, event_store.replay_aggregate('Payment', id) r;

\echo
\echo == The customer
SELECT jsonb_pretty(state) AS customer FROM event_store.replay_aggregate('Customer', 'customer-1');

\echo
\echo == The kettle, after each of its events
SELECT e.sequence, e.event_type, r.state -> 'available' AS available, r.state -> 'reserved' AS reserved
  FROM event_store.load_events('Product', 'kettle') e,
       event_store.replay_aggregate('Product', 'kettle', as_of_sequence => e.sequence) r
 ORDER BY e.sequence;

\echo
\echo == The lamp, after each of its events
SELECT e.sequence, e.event_type, r.state -> 'available' AS available, r.state -> 'wanted' AS wanted
  FROM event_store.load_events('Product', 'lamp') e,
       event_store.replay_aggregate('Product', 'lamp', as_of_sequence => e.sequence) r
 ORDER BY e.sequence;
