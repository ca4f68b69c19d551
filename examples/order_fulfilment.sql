-- Order fulfilment: a small shop on event_store.
--
-- Run it in a database with a store; scripts/demo does, and then plays it.
--
--     SELECT shop.open_doors(customers => 100, products => 100);
--     CALL shop.play_orders(1, 1000);
--
-- An order is a saga over four kinds of aggregates.  Every step is a transaction
-- of its own that writes one aggregate, and all of them carry the order's id as
-- saga_id and correlation_id:
--
--     Order    OrderCreated                    durable, must be new
--     Product  StockReserved for every line    staged, decided on the replayed state
--     Payment  PaymentProcessed                staged, must be new
--     Order    OrderConfirmed                  durable, after sequence 1
--
-- A payment over 10000 is declined: PaymentFailed, StockReleased, OrderCancelled.
-- A product that ran out: StockReservationFailed, OrderCancelled.
-- Money is a decimal string, so that no client makes a float of it.

CREATE SCHEMA shop;

-- --------------------------------------------------------------------------
-- what the shop knows of a product: its events, folded

CREATE FUNCTION shop.product_state(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moved int := CASE event.event_type
                     WHEN 'StockReserved' THEN -(event.payload ->> 'quantity')::int
                     WHEN 'StockReleased' THEN (event.payload ->> 'quantity')::int
                     WHEN 'StockReplenished' THEN (event.payload ->> 'quantity')::int
                     ELSE 0
                 END;
BEGIN
    IF event.event_type = 'ProductCreated' THEN
        RETURN (event.payload - 'stock')
               || jsonb_build_object('available', (event.payload ->> 'stock')::int);
    END IF;
    RETURN jsonb_set(state, '{available}',
                     to_jsonb((state ->> 'available')::int + moved));
END
$$;

-- --------------------------------------------------------------------------
-- customers and products: many events of many aggregates in one call

CREATE FUNCTION shop.open_doors(customers int, products int) RETURNS bigint
    LANGUAGE plpgsql
AS $$
DECLARE
    first_names text[] := '{Ada,Aoife,Björn,Chiara,Conor,Elif,Goran,Hélène,Ines,Jan,Kwame,Leila,Mei,Niamh,Olga,Pádraig}';
    last_names text[] := ARRAY['O''Brien', 'D''Angelo', 'Schmidt', 'Nakamura', 'van ''t Hof',
                               'Okafor', 'Lindqvist', 'García', 'O''Neill', 'Kowalska'];
    colours text[] := '{Red,Blue,Green,Black,White}';
    things text[] := ARRAY['Kettle', 'Lamp', 'Painter''s Easel', 'Chair', 'Backpack', 'Desk',
                           'Child''s Bicycle', 'Clock', 'Radio', 'Tent'];
    sellers text[] := ARRAY['Ó Briain & Daughters', 'Nordlicht', 'Casa Verde'];
    written bigint;
BEGIN
    PERFORM event_store.set_reducer('Product', 'shop.product_state');
    PERFORM shop.open_books();

    WITH event AS (
        SELECT 'Customer' AS type, format('customer-%s', lpad(n::text, 3, '0')) AS id,
               e.step, e.event_type, e.payload
          FROM generate_series(1, customers) n
         CROSS JOIN LATERAL (
               VALUES (1, 'CustomerCreated',
                       jsonb_build_object('name', first_names[1 + n % 16] || ' ' || last_names[1 + n % 10],
                                          'email', format('customer%s@example.com', n))),
                      (2, 'CustomerStatusChanged', jsonb_build_object('status', 'active')),
                      (3, CASE WHEN n % 3 = 0 THEN 'CustomerUpdated' END,
                       jsonb_build_object('address', format('%s Harbour Street', n)))
               ) e (step, event_type, payload)
        UNION ALL
        SELECT 'Product', format('product-%s', lpad(n::text, 3, '0')), e.step, e.event_type, e.payload
          FROM generate_series(1, products) n
         CROSS JOIN LATERAL (
               VALUES (1, 'ProductCreated',
                       jsonb_build_object('name', colours[1 + n % 5] || ' ' || things[1 + n % 10],
                                          'seller', sellers[1 + n % 3],
                                          'price', (5 + n * 37 % 190 + 0.99)::numeric(12, 2)::text,
                                          'stock', CASE WHEN n % 25 = 3 THEN 15 ELSE 2000 END)),
                      (2, CASE WHEN n % 4 = 0 THEN 'StockReplenished' END,
                       jsonb_build_object('quantity', 500))
               ) e (step, event_type, payload)
    ), list AS (
        SELECT array_agg(type ORDER BY type, id, step) AS types,
               array_agg(id ORDER BY type, id, step) AS ids,
               array_agg(event_type ORDER BY type, id, step) AS event_types,
               array_agg(payload ORDER BY type, id, step) AS payloads
          FROM event
         WHERE event_type IS NOT NULL
    )
    SELECT count(*) INTO written
      FROM list
     CROSS JOIN LATERAL event_store.append_batch(aggregate_types => types,
                                                 aggregate_ids => ids,
                                                 event_types => event_types,
                                                 payloads => payloads);
    RETURN written;
END
$$;

-- --------------------------------------------------------------------------
-- stock: optimistic concurrency without an error

-- Reserves or refuses; returns whether it reserved.  The decision holds only if
-- the product is still as it was read: otherwise the append reports 'conflict',
-- and the decision is made again.
CREATE FUNCTION shop.reserve(product_id text, quantity int, order_id text,
                             INOUT conflicts bigint, OUT reserved boolean)
    LANGUAGE plpgsql
AS $$
DECLARE
    product record;
    result record;
BEGIN
    LOOP
        SELECT state, sequence INTO product
          FROM event_store.replay_aggregate('Product', product_id);
        reserved := (product.state ->> 'available')::int >= quantity;

        SELECT outcome, sequence INTO result
          FROM event_store.append_batch(
                   aggregate_types => ARRAY['Product'],
                   aggregate_ids => ARRAY[product_id],
                   event_types => ARRAY[CASE WHEN reserved THEN 'StockReserved'
                                             ELSE 'StockReservationFailed' END],
                   payloads => ARRAY[jsonb_build_object('order_id', order_id, 'quantity', quantity)],
                   expected_sequences => ARRAY[product.sequence],
                   correlation_ids => ARRAY[order_id],
                   saga_ids => ARRAY[order_id],
                   on_conflict => 'report',
                   durability => 'staged');
        EXIT WHEN result.outcome = 'appended';
        conflicts := conflicts + 1;
    END LOOP;
END
$$;

CREATE FUNCTION shop.release(product_id text, quantity int, order_id text) RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM event_store.append_event('Product', product_id, NULL, 'StockReleased',
                                     jsonb_build_object('order_id', order_id, 'quantity', quantity),
                                     correlation_id => order_id, saga_id => order_id,
                                     durability => 'staged');
END
$$;

-- --------------------------------------------------------------------------
-- views: what a web page reads, kept by the server

CREATE FUNCTION shop.open_books() RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    -- An order, as it is: inline, so whoever sees its events sees the row with them.
    PERFORM event_store.create_view_projection(
        'orders', '{Order}', rules => '{"events": {
            "OrderCreated": [{"op": "set", "path": "$.customer_id", "from": "$.payload.customer_id"},
                             {"op": "set", "path": "$.total", "from": "$.payload.total"},
                             {"op": "set", "path": "$.status", "from": "$.payload.status"}],
            "*": [{"op": "set", "path": "$.status", "from": "$.payload.status"}]}}', mode => 'inline');

    -- The stock of a product: what the reducer of the decisions makes of it. Its events are staged, so
    -- the view follows them once they are durable.
    PERFORM event_store.create_view_projection('stock', '{Product}');

    -- The orders of a customer, across aggregates: only the first event of an order names him.
    PERFORM event_store.create_view_projection(
        'orders of customers', '{Order}', '{"sticky": "$.payload.customer_id"}', '{"events": {
            "OrderCreated": [{"op": "increment", "path": "$.orders", "value": 1}],
            "*": [{"op": "put_into", "path": "$.status", "key": "$.aggregate_id", "from": "$.payload.status"}]}}');

    -- Revenue by seller and day: one row a line of what was sold.
    PERFORM event_store.create_view_projection(
        'revenue', '{Order}',
        '{"by_type": {"OrderConfirmed": {"each": "$.payload.lines", "key": {"concat": [
            "$.item.seller", {"value": " "}, {"day": "$.occurred_at"}]}}}}', '{"events": {
            "OrderConfirmed": [{"op": "increment", "path": "$.revenue", "from": "$.item.price", "times": "$.item.quantity"},
                               {"op": "increment", "path": "$.sold", "from": "$.item.quantity"}]}}');
END
$$;

-- --------------------------------------------------------------------------
-- an order

-- The basket of order n: one to three products, all different, with prices.
-- Every twentieth customer buys for a whole company.
CREATE FUNCTION shop.basket(n int) RETURNS jsonb
    LANGUAGE sql
AS $$
    SELECT jsonb_agg(jsonb_build_object('product_id', line.product_id,
                                        'quantity', line.quantity,
                                        'seller', product.state ->> 'seller',
                                        'price', product.state ->> 'price') ORDER BY line.product_id)
      FROM (SELECT format('product-%s', lpad((1 + (n * 7 + i * 31) % 100)::text, 3, '0')) AS product_id,
                   (1 + (n + i) % 3) * CASE WHEN n % 20 = 0 THEN 60 ELSE 1 END AS quantity
              FROM generate_series(1, 1 + n % 3) i) line
     CROSS JOIN LATERAL event_store.replay_aggregate('Product', line.product_id) product;
$$;

CREATE PROCEDURE shop.play_order(n int, INOUT conflicts bigint)
    LANGUAGE plpgsql
AS $$
DECLARE
    order_id text := format('order-%s', lpad(n::text, 4, '0'));
    payment_id text := format('payment-%s', lpad(n::text, 4, '0'));
    basket jsonb := shop.basket(n);
    subtotal numeric(12, 2);
    total numeric(12, 2);
    line record;
    reserved boolean;
    held jsonb := '[]';
    failure text;
BEGIN
    SELECT sum((l ->> 'price')::numeric * (l ->> 'quantity')::int) INTO subtotal
      FROM jsonb_array_elements(basket) l;
    total := subtotal * 1.10;

    PERFORM event_store.append_events(
        'Order', order_id, 0,
        jsonb_build_array(jsonb_build_object(
            'event_type', 'OrderCreated',
            'correlation_id', order_id,
            'saga_id', order_id,
            'payload', jsonb_build_object(
                'customer_id', format('customer-%s', lpad((1 + n % 100)::text, 3, '0')),
                'lines', basket,
                'subtotal', subtotal::text,
                'tax', (total - subtotal)::text,
                'total', total::text,
                'status', 'created'))));
    COMMIT;

    FOR line IN SELECT * FROM jsonb_to_recordset(basket) AS (product_id text, quantity int) LOOP
        SELECT r.conflicts, r.reserved INTO conflicts, reserved
          FROM shop.reserve(line.product_id, line.quantity, order_id, conflicts) r;
        COMMIT;
        IF NOT reserved THEN
            failure := 'out of stock: ' || line.product_id;
            EXIT;
        END IF;
        held := held || jsonb_build_array(to_jsonb(line));
    END LOOP;

    IF failure IS NULL THEN
        IF total > 10000 THEN
            failure := 'payment declined';
        END IF;
        PERFORM event_store.append_event(
            'Payment', payment_id, 0,
            CASE WHEN failure IS NULL THEN 'PaymentProcessed' ELSE 'PaymentFailed' END,
            jsonb_build_object('order_id', order_id, 'amount', total::text),
            correlation_id => order_id, saga_id => order_id, durability => 'staged');
        COMMIT;
    END IF;

    IF failure IS NOT NULL THEN
        FOR line IN SELECT * FROM jsonb_to_recordset(held) AS (product_id text, quantity int) LOOP
            PERFORM shop.release(line.product_id, line.quantity, order_id);
            COMMIT;
        END LOOP;
    END IF;

    PERFORM event_store.append_events(
        'Order', order_id, 1,
        jsonb_build_array(jsonb_build_object(
            'event_type', CASE WHEN failure IS NULL THEN 'OrderConfirmed' ELSE 'OrderCancelled' END,
            'correlation_id', order_id,
            'saga_id', order_id,
            'payload', CASE WHEN failure IS NULL
                            THEN jsonb_build_object('status', 'confirmed', 'payment_id', payment_id, 'lines', basket)
                            ELSE jsonb_build_object('status', 'cancelled', 'reason', failure) END)));
    COMMIT;
END
$$;

-- Plays the orders from first to last and says how far it is.
CREATE PROCEDURE shop.play_orders(first int, last int)
    LANGUAGE plpgsql
AS $$
DECLARE
    conflicts bigint := 0;
BEGIN
    FOR n IN first..last LOOP
        CALL shop.play_order(n, conflicts);
        IF (n - first + 1) % 10 = 0 OR n = last THEN
            RAISE NOTICE 'played % orders, met % conflicts', n - first + 1, conflicts;
        END IF;
    END LOOP;
END
$$;
