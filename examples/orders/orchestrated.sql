-- Order fulfilment as an orchestrated saga: what orchestrated.js needs in a database with a store.
--
-- An order goes forward by five steps, and back by the compensations of those that were done:
--
--     create    OrderCreated          back: OrderCancelled
--     reserve   StockReserved         back: StockReleased
--     charge    a hold at the bank    back: given back
--     paid      waits for the customer, who says so within two seconds
--     confirm   OrderConfirmed, by the server itself: a handler
--
-- Money is a decimal string, so that no client makes a float of it.

CREATE SCHEMA orchestrated;

-- What is done when all else is: an event of this database, in one transaction with the step's end.
-- It takes saga_id and correlation_id of its saga.
CREATE FUNCTION orchestrated.confirm(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM event_store.append_event('Order', saga_id, NULL, 'OrderConfirmed',
                                     jsonb_build_object('article', context -> 'article', 'quantity', context -> 'quantity', 'total', context -> 'total'));
    RETURN NULL;
END
$$;

SELECT event_store.define_saga('order', '{"timeout": "5min", "steps": [
    {"name": "create", "compensate": true, "timeout": "2s"},
    {"name": "reserve", "compensate": true, "timeout": "2s", "retry_initial": "20ms"},
    {"name": "charge", "compensate": true, "timeout": "1s", "max_attempts": 10, "retry_initial": "50ms", "retry_max": "400ms",
     "circuit": {"failures": 5, "pause": "200ms"}},
    {"name": "paid", "wait": {"signal": "paid", "timeout": "2s"}},
    {"name": "confirm", "handler": "orchestrated.confirm"}]}');

-- What is there of a product: a fold of its events.
SELECT event_store.set_reducer_rules('Article', '{"events": {
    "ArticleCreated": [{"op": "set", "path": "$.stock", "from": "$.payload.stock"}, {"op": "set", "path": "$.available", "from": "$.payload.stock"}],
    "StockReserved": [{"op": "increment", "path": "$.available", "from": "$.payload.quantity", "times": -1}],
    "StockReleased": [{"op": "increment", "path": "$.available", "from": "$.payload.quantity"}]}}');

-- The last article is nearly sold out.
SELECT count(*) AS articles
  FROM generate_series(1, 10) n,
       event_store.append_event('Article', 'article-' || n, 0, 'ArticleCreated',
                                jsonb_build_object('name', 'Painter''s Easel ' || n, 'stock', CASE n WHEN 10 THEN 3 ELSE 100000 END));

-- ---------------------------------------------------------------------------
-- the bank: elsewhere, so it knows each charge by the key that it is given

CREATE TABLE orchestrated.bank (open boolean NOT NULL);
INSERT INTO orchestrated.bank VALUES (true);
CREATE TABLE orchestrated.holds (
    key text PRIMARY KEY,
    amount numeric NOT NULL,
    given_back boolean NOT NULL DEFAULT false
);

-- Whether the bank holds the amount; the same key again is the same charge.
CREATE FUNCTION orchestrated.charge(key text, amount numeric) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT (SELECT open FROM orchestrated.bank) THEN
        RAISE EXCEPTION 'the bank does not answer' USING ERRCODE = '08006';
    END IF;
    IF amount > 10000 THEN
        RETURN false;
    END IF;
    INSERT INTO orchestrated.holds (key, amount) VALUES (charge.key, charge.amount) ON CONFLICT DO NOTHING;
    RETURN true;
END
$$;

-- What was not charged is remembered as well: a charge that comes later changes nothing.
CREATE FUNCTION orchestrated.give_back(key text) RETURNS void
    LANGUAGE sql
AS $$
    INSERT INTO orchestrated.holds AS h (key, amount, given_back) VALUES (give_back.key, 0, true)
        ON CONFLICT ON CONSTRAINT holds_pkey DO UPDATE SET given_back = true
$$;

-- ---------------------------------------------------------------------------
-- the books: what was sold is what is missing, and what the bank holds

CREATE VIEW orchestrated.books AS
    WITH sold AS (
        SELECT o.payload ->> 'article' AS article, (o.payload ->> 'quantity')::int AS quantity, (o.payload ->> 'total')::numeric AS total
          FROM event_store.domain_events o
         WHERE o.aggregate_type = 'Order' AND o.event_type = 'OrderConfirmed'
    )
    SELECT (SELECT count(*) FROM sold) AS confirmed,
           (SELECT count(*) FROM event_store.sagas WHERE saga_name = 'order' AND state = 'completed') AS completed,
           (SELECT coalesce(sum(quantity), 0) FROM sold) AS sold,
           (SELECT sum((a.state ->> 'stock')::int - (a.state ->> 'available')::int) FROM event_store.replay_aggregates('Article') a) AS missing,
           (SELECT coalesce(sum(total), 0) FROM sold) AS earned,
           (SELECT coalesce(sum(amount), 0) FROM orchestrated.holds WHERE NOT given_back) AS held;

CREATE VIEW orchestrated.ends AS
    WITH saga AS (
        SELECT s.saga_id, s.state, extract(epoch FROM max(e.recorded_at) - min(e.recorded_at)) * 1000 AS ms,
               min(e.payload -> 'context' ->> 'trouble') AS trouble
          FROM event_store.sagas s
          JOIN event_store.domain_events e ON e.aggregate_type = 'saga:order' AND e.aggregate_id = s.saga_id
         WHERE s.saga_name = 'order'
         GROUP BY s.saga_id, s.state
    )
    SELECT coalesce(trouble, 'none') AS trouble, state, count(*) AS sagas,
           round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 1) AS p50_ms,
           round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)::numeric, 1) AS p99_ms
      FROM saga
     GROUP BY 1, 2;
