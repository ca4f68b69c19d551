-- Order fulfilment, choreographed: nobody drives an order, each part reacts to what happened.
--
-- Run it in a database with a store, as a role that may create projections:
--
--     SELECT choreographed.open_doors('{"lamp": 40, "desk": 2}');
--     SELECT choreographed.place('o-1', '{"lamp": 2}', total => '59.98');
--     SELECT * FROM event_store.saga_log('o-1');
--
-- or, in another one, CALL choreographed.play(200), and look at choreographed.ends and choreographed.books.
--
--     Order    OrderCreated             the stock reacts:
--     Product  StockReserved            for every line, or for none of them StockReservationFailed
--     Order    PaymentAwaited           with a deadline: PaymentOverdue
--     Payment  PaymentProcessed         by card at once, by transfer when somebody appends it; over 10000 PaymentFailed
--     Order    OrderConfirmed           or OrderCancelled, to which the stock reacts:
--     Product  StockReleased
--     Payment  PaymentRefunded          what was paid for an order that is cancelled
--
-- A reaction is a handler that appends.  What it appends commits with its position, so each event is
-- reacted to once, whatever crashes; it carries the saga_id and correlation_id of its cause, and as
-- causation_id the cause itself.  Money is a decimal string.

CREATE SCHEMA choreographed;

-- what can be reserved of a product
CREATE FUNCTION choreographed.available(product text) RETURNS int
    LANGUAGE sql VOLATILE
AS $$
    SELECT COALESCE(sum(CASE e.event_type WHEN 'ProductCreated' THEN (e.payload ->> 'stock')::int
                                          WHEN 'StockReserved' THEN -(e.payload ->> 'quantity')::int
                                          WHEN 'StockReleased' THEN (e.payload ->> 'quantity')::int
                                          ELSE 0 END), 0)::int
      FROM event_store.load_events('Product', product) e
$$;

-- Locks an order; whether it is neither confirmed nor cancelled.
CREATE FUNCTION choreographed.is_open(order_id text) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM event_store.lock_aggregate('Order', order_id);
    RETURN NOT EXISTS (SELECT FROM event_store.load_events('Order', order_id) e
                        WHERE e.event_type IN ('OrderConfirmed', 'OrderCancelled'));
END
$$;

CREATE FUNCTION choreographed.cancel(order_id text, reason text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    IF choreographed.is_open(order_id) THEN
        PERFORM event_store.append_event('Order', order_id, NULL, 'OrderCancelled',
                                         jsonb_build_object('reason', reason));
    END IF;
END
$$;

-- The stock reserves all lines of an order or none, and the payment is awaited.
CREATE FUNCTION choreographed.reserve(ordered event_store.event) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    line record;
BEGIN
    FOR line IN SELECT key AS product, value::int AS quantity
                  FROM jsonb_each_text(ordered.payload -> 'lines') ORDER BY key
    LOOP
        PERFORM event_store.lock_aggregate('Product', line.product);
        IF choreographed.available(line.product) < line.quantity THEN
            PERFORM event_store.append_event('Product', line.product, NULL, 'StockReservationFailed',
                                             jsonb_build_object('order_id', ordered.aggregate_id, 'quantity', line.quantity));
            RETURN;
        END IF;
    END LOOP;
    PERFORM event_store.append_event('Product', l.key, NULL, 'StockReserved',
                                     jsonb_build_object('order_id', ordered.aggregate_id, 'quantity', l.value::int))
       FROM jsonb_each_text(ordered.payload -> 'lines') l;
    PERFORM event_store.append_event('Order', ordered.aggregate_id, NULL, 'PaymentAwaited',
                                     ordered.payload - 'lines');
    PERFORM event_store.schedule_event(clock_timestamp() + (ordered.payload ->> 'pay_within')::interval,
                                       'Order', ordered.aggregate_id, 'PaymentOverdue',
                                       unless_event_types => '{OrderConfirmed,OrderCancelled}');
END
$$;

-- What was reserved for an order that is cancelled goes back: its saga's log says what that is.
CREATE FUNCTION choreographed.release(cancelled event_store.event) RETURNS void
    LANGUAGE sql
AS $$
    SELECT event_store.append_event('Product', e.aggregate_id, NULL, 'StockReleased', e.payload)
      FROM event_store.saga_log(cancelled.saga_id) e
     WHERE e.event_type = 'StockReserved'
$$;

-- A payment confirms its order; one that comes too late is given back.
CREATE FUNCTION choreographed.settle(paid event_store.event) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    IF choreographed.is_open(paid.payload ->> 'order_id') THEN
        PERFORM event_store.append_event('Order', paid.payload ->> 'order_id', NULL, 'OrderConfirmed',
                                         jsonb_build_object('total', paid.payload -> 'amount'));
    ELSE
        PERFORM event_store.append_event('Payment', paid.aggregate_id, NULL, 'PaymentRefunded', paid.payload);
    END IF;
END
$$;

CREATE FUNCTION choreographed.react(event event_store.event) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    CASE event.event_type
        WHEN 'OrderCreated' THEN PERFORM choreographed.reserve(event);
        WHEN 'PaymentAwaited' THEN PERFORM choreographed.charge(event);
        WHEN 'StockReservationFailed' THEN PERFORM choreographed.cancel(event.payload ->> 'order_id', 'out of stock');
        WHEN 'PaymentFailed' THEN PERFORM choreographed.cancel(event.payload ->> 'order_id', 'payment declined');
        WHEN 'PaymentOverdue' THEN PERFORM choreographed.cancel(event.aggregate_id, 'not paid in time');
        WHEN 'PaymentProcessed' THEN PERFORM choreographed.settle(event);
        WHEN 'OrderConfirmed' THEN PERFORM event_store.cancel_scheduled_events('Order', event.aggregate_id, 'PaymentOverdue');
        WHEN 'OrderCancelled' THEN
            PERFORM event_store.cancel_scheduled_events('Order', event.aggregate_id, 'PaymentOverdue');
            PERFORM choreographed.release(event);
        ELSE NULL;
    END CASE;
END
$$;

-- The bank of this example: cards are charged at once.
CREATE FUNCTION choreographed.charge(event event_store.event) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    IF event.payload ->> 'method' = 'card' THEN
        PERFORM choreographed.pay(event.aggregate_id, event.payload ->> 'total');
    END IF;
END
$$;

-- Somebody pays for an order, or tries to.  Again with the same order: the same payment.
CREATE FUNCTION choreographed.pay(order_id text, amount text) RETURNS void
    LANGUAGE sql
AS $$
    SELECT event_store.append_event('Payment', order_id, NULL,
                                    CASE WHEN amount::numeric > 10000 THEN 'PaymentFailed' ELSE 'PaymentProcessed' END,
                                    jsonb_build_object('order_id', order_id, 'amount', amount),
                                    event_id => md5('payment of ' || order_id)::uuid,
                                    saga_id => order_id, correlation_id => order_id)
$$;

CREATE FUNCTION choreographed.place(order_id text, lines jsonb, total text, method text DEFAULT 'card',
                                    pay_within interval DEFAULT '30 minutes') RETURNS void
    LANGUAGE sql
AS $$
    SELECT event_store.append_event('Order', order_id, 0, 'OrderCreated',
                                    jsonb_build_object('lines', lines, 'total', total, 'method', method, 'pay_within', pay_within),
                                    saga_id => order_id, correlation_id => order_id)
$$;

-- Products with their stock; from here on the server calls the reactions.
CREATE FUNCTION choreographed.open_doors(stock jsonb) RETURNS void
    LANGUAGE sql
AS $$
    SELECT event_store.append_event('Product', key, 0, 'ProductCreated', jsonb_build_object('stock', value::int))
      FROM jsonb_each_text(stock);
    SELECT event_store.create_projection('choreographed', 'choreographed.react(event_store.event)', '{Order,Product,Payment}');
$$;

-- Both sides of the books, which agree once every order has come to its end.
CREATE VIEW choreographed.books AS
WITH confirmed AS (
    SELECT e.aggregate_id AS order_id, (c.payload ->> 'total')::numeric AS total, c.payload -> 'lines' AS lines
      FROM event_store.domain_events e
      JOIN event_store.domain_events c ON c.aggregate_type = 'Order' AND c.aggregate_id = e.aggregate_id AND c.sequence = 1
     WHERE e.aggregate_type = 'Order' AND e.event_type = 'OrderConfirmed')
SELECT 'money' AS what, COALESCE((SELECT sum(total) FROM confirmed), 0) AS ordered,
       COALESCE(sum(CASE event_type WHEN 'PaymentProcessed' THEN (payload ->> 'amount')::numeric
                                    WHEN 'PaymentRefunded' THEN -(payload ->> 'amount')::numeric END), 0) AS booked
  FROM event_store.domain_events WHERE aggregate_type = 'Payment'
UNION ALL
SELECT p.aggregate_id,
       COALESCE((SELECT sum((c.lines ->> p.aggregate_id)::int) FROM confirmed c), 0),
       (p.payload ->> 'stock')::int - choreographed.available(p.aggregate_id)
  FROM event_store.domain_events p
 WHERE p.aggregate_type = 'Product' AND p.event_type = 'ProductCreated';

-- How orders have ended, and how long that took.
CREATE VIEW choreographed.ends AS
    WITH saga AS (
        SELECT e.aggregate_id, COALESCE(min(e.payload ->> 'reason'), 'none') AS trouble,
               CASE WHEN bool_or(e.event_type = 'OrderConfirmed') THEN 'confirmed'
                    WHEN bool_or(e.event_type = 'OrderCancelled') THEN 'cancelled' ELSE 'open' END AS state,
               extract(epoch FROM max(e.recorded_at) - min(e.recorded_at)) * 1000 AS ms
          FROM event_store.domain_events e
         WHERE e.aggregate_type = 'Order'
         GROUP BY e.aggregate_id
    )
    SELECT trouble, state, count(*) AS sagas,
           round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 1) AS p50_ms,
           round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)::numeric, 1) AS p99_ms
      FROM saga
     GROUP BY 1, 2;

-- ---------------------------------------------------------------------------
-- a play: orders one after the other, some of which are declined, out of stock or never paid

CREATE PROCEDURE choreographed.play(orders int)
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM choreographed.open_doors((SELECT jsonb_object_agg('article-' || n, CASE n WHEN 10 THEN 3 ELSE 100000 END)
                                        FROM generate_series(1, 10) n));
    COMMIT;
    FOR n IN 1 .. orders LOOP
        PERFORM choreographed.place('order-' || n,
            jsonb_build_object('article-' || CASE n % 20 WHEN 3 THEN 10 ELSE 1 + n % 9 END, CASE n % 20 WHEN 3 THEN 4 ELSE 1 + n % 3 END),
            total => CASE n % 20 WHEN 1 THEN '10000.01' ELSE ((1 + n % 3) * 19.99)::text END,
            method => CASE n % 20 WHEN 9 THEN 'transfer' ELSE 'card' END, pay_within => '2 seconds');
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
    WHILE EXISTS (SELECT FROM choreographed.ends e WHERE e.state = 'open')
       OR (SELECT sum(s.lag_events) FROM event_store.subscription_status s) > 0 LOOP
        COMMIT;
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;
