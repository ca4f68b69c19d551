-- The events and reducers of the folds, made once in the store that reading
-- series share.  Order logic stands here four times: as rules, in SQL, in
-- PL/pgSQL and, in fold_reducer.c, in C; fold_client.mjs has it in JavaScript.
-- All keep what a shop knows of a customer's orders, one after the other: the
-- events of order fulfilment with all operations that rules have, money as
-- decimal strings, and a state that does not grow.

-- Twenty-five events, of four orders: one delivered, one refused for its
-- price, one out of stock, one paid back.  They are repeated for every order of
-- the next i; what is in them changes.
CREATE TYPE bench.order_event AS (event_type text, payload jsonb);

CREATE FUNCTION bench.money(cents int) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN (cents / 100)::text || '.' || to_char(cents % 100, 'FM00');

CREATE FUNCTION bench.stock_payload(i int, line int, pieces int) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('order_id', 'order-' || i, 'product_id', 'product-' || i % 7 || '-' || line,
                              'quantity', pieces, 'price', bench.money(995 + i * 31 % 4000 + line * 1250));

CREATE FUNCTION bench.created_payload(i int, cents int) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('order_id', 'order-' || i, 'customer_id', 'customer-' || i % 100,
                              'lines', jsonb_build_array(bench.stock_payload(i, 1, 2), bench.stock_payload(i, 2, 1)),
                              'subtotal', bench.money(cents), 'tax', bench.money(cents / 10),
                              'total', bench.money(cents + cents / 10));

CREATE FUNCTION bench.order_event(i int) RETURNS bench.order_event
    LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    -- the number of the round stands for the orders in it
    r int := (i - 1) / 25 * 4;
    cents int := 4990 + i * 37 % 9000;
    payment jsonb := jsonb_build_object('payment_id', 'payment-' || i, 'order_id', 'order-' || r,
                                        'amount', bench.money(cents));
BEGIN
    RETURN CASE (i - 1) % 25
        WHEN 0 THEN ROW(text 'OrderCreated', bench.created_payload(r, cents))
        WHEN 1 THEN ROW(text 'StockReserved', bench.stock_payload(r, 1, 2))
        WHEN 2 THEN ROW(text 'StockReserved', bench.stock_payload(r, 2, 1))
        WHEN 3 THEN ROW(text 'StockReserved', bench.stock_payload(r, 3, 4))
        WHEN 4 THEN ROW(text 'PaymentProcessed', payment)
        WHEN 5 THEN ROW(text 'OrderConfirmed', payment - 'amount')
        WHEN 6 THEN ROW(text 'CustomerUpdated', jsonb_build_object('name', 'Niamh O''Brien', 'email', i || '@example.com',
                                                              'street', i || ' Harbour Street', 'city', 'Galway'))
        WHEN 7 THEN ROW(text 'OrderCreated', bench.created_payload(r + 1, 1000000 + cents))
        WHEN 8 THEN ROW(text 'StockReserved', bench.stock_payload(r + 1, 1, 200))
        WHEN 9 THEN ROW(text 'StockReserved', bench.stock_payload(r + 1, 2, 30))
        WHEN 10 THEN ROW(text 'PaymentFailed', payment || '{"reason": "over the limit"}')
        WHEN 11 THEN ROW(text 'StockReleased', bench.stock_payload(r + 1, 1, 200))
        WHEN 12 THEN ROW(text 'StockReleased', bench.stock_payload(r + 1, 2, 30))
        WHEN 13 THEN ROW(text 'OrderCancelled', '{"reason": "payment declined"}'::jsonb)
        WHEN 14 THEN ROW(text 'OrderCreated', bench.created_payload(r + 2, cents))
        WHEN 15 THEN ROW(text 'StockReserved', bench.stock_payload(r + 2, 1, 2))
        WHEN 16 THEN ROW(text 'StockReservationFailed', bench.stock_payload(r + 2, 2, 10))
        WHEN 17 THEN ROW(text 'StockReleased', bench.stock_payload(r + 2, 1, 2))
        WHEN 18 THEN ROW(text 'OrderCancelled', '{}'::jsonb)
        WHEN 19 THEN ROW(text 'CustomerUpdated', jsonb_build_object('email', NULL, 'phone', '555-0' || i))
        WHEN 20 THEN ROW(text 'StockReplenished', bench.stock_payload(r + 2, 2, 50))
        WHEN 21 THEN ROW(text 'OrderCreated', bench.created_payload(r + 3, cents))
        WHEN 22 THEN ROW(text 'StockReserved', bench.stock_payload(r + 3, 1, 1))
        WHEN 23 THEN ROW(text 'PaymentProcessed', payment)
        ELSE ROW(text 'PaymentRefunded', payment || jsonb_build_object('amount', bench.money(cents / 2)))
    END;
END
$$;

-- Appends so many further events to an aggregate, 10,000 in a call.
CREATE FUNCTION bench.append_orders(id text, events int) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    part int;
    done int := 0;
BEGIN
    WHILE done < events LOOP
        part := least(events - done, 10000);
        PERFORM count(*) FROM event_store.append_batch(
            array_fill('Fulfilment'::text, ARRAY[part]), array_fill(id, ARRAY[part]),
            ARRAY(SELECT (bench.order_event(i)).event_type FROM generate_series(done + 1, done + part) i),
            ARRAY(SELECT (bench.order_event(i)).payload FROM generate_series(done + 1, done + part) i));
        done := done + part;
    END LOOP;
END
$$;

-- Appends account_payload's events, 10,000 in a call; after 10,000 their values
-- come again.
CREATE FUNCTION bench.append_accounts(id text, events int) RETURNS void
    LANGUAGE plpgsql
AS $$
DECLARE
    payloads jsonb[] := ARRAY(SELECT bench.account_payload(i) FROM generate_series(1, least(events, 10000)) i);
    part int;
    done int := 0;
BEGIN
    WHILE done < events LOOP
        part := least(events - done, 10000);
        PERFORM count(*) FROM event_store.append_batch(
            array_fill('Account'::text, ARRAY[part]), array_fill(id, ARRAY[part]),
            array_fill('Changed'::text, ARRAY[part]), payloads[1:part]);
        done := done + part;
    END LOOP;
END
$$;

-- A thousand events: the first makes a state of so many keys, each of the others
-- changes 5 of them.
CREATE FUNCTION bench.append_wide_account(id text, keys int) RETURNS void
    LANGUAGE sql
BEGIN ATOMIC
    SELECT count(*) FROM event_store.append_batch(
        array_fill('Account'::text, ARRAY[1000]), array_fill(id, ARRAY[1000]),
        array_fill('Changed'::text, ARRAY[1000]),
        ARRAY(SELECT (SELECT jsonb_object_agg('key_' || to_char((i::bigint * 7919 + j) % keys, 'FM00000'),
                                              md5(format('%s %s', i, j)))
                        FROM generate_series(0, CASE i WHEN 1 THEN keys - 1 ELSE 4 END) j)
                FROM generate_series(1, 1000) i));
END;

-- --------------------------------------------------------------------------
-- the order logic

CREATE FUNCTION bench.order_rules() RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN '{
    "unknown": "error",
    "initial": {"orders": 0, "ordered": "0.00", "balance": "0.00", "worth": "0.00", "reserved": {}, "wanted": [],
                "customer": {}},
    "events": {
        "OrderCreated": [
            {"op": "set", "path": "$.order", "from": "$.payload"},
            {"op": "set", "path": "$.status", "value": "created"},
            {"op": "unset", "path": "$.reason"},
            {"op": "increment", "path": "$.orders", "value": 1},
            {"op": "increment", "path": "$.ordered", "from": "$.payload.total"},
            {"op": "set", "path": "$.history", "value": ["OrderCreated"]}],
        "StockReserved": [
            {"op": "put_into", "path": "$.reserved", "key": "$.payload.product_id", "from": "$.payload.quantity"},
            {"op": "increment", "path": "$.worth", "from": "$.payload.price", "times": "$.payload.quantity"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "StockReservationFailed": [
            {"op": "append", "path": "$.wanted", "from": "$.payload"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "StockReleased": [
            {"op": "unset", "path": "$.reserved", "key": "$.payload.product_id"},
            {"op": "increment", "path": "$.worth", "from": "$.payload.price", "times": ["$.payload.quantity", -1]},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "StockReplenished": [
            {"op": "remove", "path": "$.wanted", "member": "product_id", "from": "$.payload.product_id"}],
        "PaymentProcessed": [
            {"op": "set", "path": "$.payment_id", "from": "$.payload.payment_id"},
            {"op": "increment", "path": "$.balance", "from": "$.payload.amount"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "PaymentFailed": [
            {"op": "set", "path": "$.reason", "from": "$.payload.reason"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "PaymentRefunded": [
            {"op": "set", "path": "$.status", "value": "refunded"},
            {"op": "increment", "path": "$.balance", "from": "$.payload.amount", "times": -1},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "OrderConfirmed": [
            {"op": "set", "path": "$.status", "value": "confirmed"},
            {"op": "set", "path": "$.reserved", "value": {}},
            {"op": "set", "path": "$.worth", "value": "0.00"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "OrderCancelled": [
            {"op": "set", "path": "$.status", "value": "cancelled"},
            {"op": "set", "path": "$.reason", "from": "$.payload.reason", "default": "not given"},
            {"op": "append", "path": "$.history", "from": "$.event_type"}],
        "CustomerUpdated": [
            {"op": "merge", "path": "$.customer", "from": "$.payload"}]
    }}'::jsonb;

-- Every event writes the state once, as somebody who minds the speed does it.
CREATE FUNCTION bench.order_plpgsql(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    p jsonb := event.payload;
BEGIN
    IF state IS NULL THEN
        state := '{"orders": 0, "ordered": "0.00", "balance": "0.00", "worth": "0.00", "reserved": {}, "wanted": [],
                   "customer": {}}';
    END IF;
    CASE event.event_type
        WHEN 'StockReserved' THEN
            RETURN state || jsonb_build_object(
                'reserved', (state -> 'reserved') || jsonb_build_object(p ->> 'product_id', p -> 'quantity'),
                'worth', ((state ->> 'worth')::numeric + (p ->> 'price')::numeric * (p ->> 'quantity')::numeric)::text,
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'StockReleased' THEN
            RETURN state || jsonb_build_object(
                'reserved', (state -> 'reserved') - (p ->> 'product_id'),
                'worth', ((state ->> 'worth')::numeric - (p ->> 'price')::numeric * (p ->> 'quantity')::numeric)::text,
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'OrderCreated' THEN
            RETURN (state - 'reason') || jsonb_build_object(
                'order', p, 'status', 'created', 'orders', (state ->> 'orders')::numeric + 1,
                'ordered', ((state ->> 'ordered')::numeric + (p ->> 'total')::numeric)::text,
                'history', jsonb_build_array('OrderCreated'));
        WHEN 'PaymentProcessed' THEN
            RETURN state || jsonb_build_object(
                'payment_id', p -> 'payment_id',
                'balance', ((state ->> 'balance')::numeric + (p ->> 'amount')::numeric)::text,
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'OrderCancelled' THEN
            RETURN state || jsonb_build_object(
                'status', 'cancelled', 'reason', coalesce(p -> 'reason', '"not given"'),
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'CustomerUpdated' THEN
            RETURN state || jsonb_build_object('customer', jsonb_strip_nulls((state -> 'customer') || p));
        WHEN 'OrderConfirmed' THEN
            RETURN state || jsonb_build_object(
                'status', 'confirmed', 'reserved', '{}'::jsonb, 'worth', '0.00',
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'PaymentRefunded' THEN
            RETURN state || jsonb_build_object(
                'status', 'refunded',
                'balance', ((state ->> 'balance')::numeric - (p ->> 'amount')::numeric)::text,
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'PaymentFailed' THEN
            RETURN state || jsonb_build_object(
                'reason', p -> 'reason',
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'StockReservationFailed' THEN
            RETURN state || jsonb_build_object(
                'wanted', (state -> 'wanted') || jsonb_build_array(p),
                'history', (state -> 'history') || to_jsonb(event.event_type));
        WHEN 'StockReplenished' THEN
            RETURN state || jsonb_build_object('wanted', coalesce(
                (SELECT jsonb_agg(w) FROM jsonb_array_elements(state -> 'wanted') w
                  WHERE w -> 'product_id' <> p -> 'product_id'), '[]'));
    END CASE;
END
$$;

CREATE FUNCTION bench.order_sql(state jsonb, event event_store.event) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
SELECT CASE t
    WHEN 'StockReserved' THEN s || jsonb_build_object(
        'reserved', (s -> 'reserved') || jsonb_build_object(p ->> 'product_id', p -> 'quantity'),
        'worth', ((s ->> 'worth')::numeric + (p ->> 'price')::numeric * (p ->> 'quantity')::numeric)::text,
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'StockReleased' THEN s || jsonb_build_object(
        'reserved', (s -> 'reserved') - (p ->> 'product_id'),
        'worth', ((s ->> 'worth')::numeric - (p ->> 'price')::numeric * (p ->> 'quantity')::numeric)::text,
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'OrderCreated' THEN (s - 'reason') || jsonb_build_object(
        'order', p, 'status', 'created', 'orders', (s ->> 'orders')::numeric + 1,
        'ordered', ((s ->> 'ordered')::numeric + (p ->> 'total')::numeric)::text,
        'history', jsonb_build_array('OrderCreated'))
    WHEN 'PaymentProcessed' THEN s || jsonb_build_object(
        'payment_id', p -> 'payment_id',
        'balance', ((s ->> 'balance')::numeric + (p ->> 'amount')::numeric)::text,
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'OrderCancelled' THEN s || jsonb_build_object(
        'status', 'cancelled', 'reason', coalesce(p -> 'reason', '"not given"'),
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'CustomerUpdated' THEN s || jsonb_build_object('customer', jsonb_strip_nulls((s -> 'customer') || p))
    WHEN 'OrderConfirmed' THEN s || jsonb_build_object(
        'status', 'confirmed', 'reserved', '{}'::jsonb, 'worth', '0.00',
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'PaymentRefunded' THEN s || jsonb_build_object(
        'status', 'refunded',
        'balance', ((s ->> 'balance')::numeric - (p ->> 'amount')::numeric)::text,
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'PaymentFailed' THEN s || jsonb_build_object(
        'reason', p -> 'reason',
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'StockReservationFailed' THEN s || jsonb_build_object(
        'wanted', (s -> 'wanted') || jsonb_build_array(p),
        'history', (s -> 'history') || to_jsonb(t))
    WHEN 'StockReplenished' THEN s || jsonb_build_object('wanted', coalesce(
        (SELECT jsonb_agg(w) FROM jsonb_array_elements(s -> 'wanted') w
          WHERE w -> 'product_id' <> p -> 'product_id'), '[]'))
    END
  FROM (VALUES (coalesce(state, '{"orders": 0, "ordered": "0.00", "balance": "0.00", "worth": "0.00", "reserved": {},
                                  "wanted": [], "customer": {}}'), event.payload, event.event_type)) v (s, p, t)
$$;

-- --------------------------------------------------------------------------
-- whether they do the same

-- At sequence 0 stands the last state, as replay gives it.
CREATE TABLE bench.fold_states (
    folded_by text,
    aggregate_type text,
    sequence bigint,
    state jsonb
);

-- Keeps what the reducer that is set makes of an aggregate, event by event.
CREATE FUNCTION bench.keep_states(name text, wanted_type text, id text) RETURNS void
    LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO bench.fold_states
    SELECT name, wanted_type, e.sequence, event_store.fold_events(e) OVER (ORDER BY e.sequence)
      FROM event_store.load_events(wanted_type, id) e;
    INSERT INTO bench.fold_states
    SELECT name, wanted_type, 0, state FROM event_store.replay_aggregate(wanted_type, id);
END;

-- Why the states that are kept are not the same; NULL if they are.
CREATE FUNCTION bench.states_differ(wanted_type text, reducers int) RETURNS text
    LANGUAGE sql
BEGIN ATOMIC
    WITH kept AS (SELECT * FROM bench.fold_states WHERE aggregate_type = wanted_type),
         different AS (SELECT sequence FROM kept GROUP BY sequence
                       HAVING count(DISTINCT state) <> 1 OR count(state) <> count(*))
    SELECT CASE
        WHEN (SELECT count(DISTINCT folded_by) FROM kept WHERE sequence = 0) <> reducers
          OR (SELECT count(*) FROM kept) < 1000
        THEN 'not all have folded the events of ' || wanted_type
        WHEN EXISTS (SELECT FROM different)
        THEN format('the folds of %s come to different states at event %s', wanted_type,
                    (SELECT min(nullif(sequence, 0)) FROM different))
    END;
END;

-- The balance that all have come to, against a sum over the events.
CREATE FUNCTION bench.balance_differs(id text) RETURNS boolean
    LANGUAGE sql
BEGIN ATOMIC
    SELECT (SELECT min(state ->> 'balance') FROM bench.fold_states WHERE aggregate_type = 'Fulfilment' AND sequence = 0)
           IS DISTINCT FROM
           (SELECT sum((payload ->> 'amount')::numeric * CASE event_type WHEN 'PaymentProcessed' THEN 1 ELSE -1 END)::text
              FROM event_store.domain_events
             WHERE aggregate_type = 'Fulfilment' AND aggregate_id = id
               AND event_type IN ('PaymentProcessed', 'PaymentRefunded'));
END;
