-- event_store: the log: expectations, idempotency, batches, loading
\pset format unaligned
\pset null null
\t on
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
-- what is staged here is drained only on request; a new session has the setting
ALTER SYSTEM SET event_store.write_delay = '1h';
SELECT pg_catalog.pg_reload_conf();
\c -
\pset format unaligned
\pset null null
\t on
SHOW event_store.write_delay;

-- how a statement is refused, or that it is not
CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    state text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN pg_catalog.concat_ws(E'\n  ', state || ' ' || message,
                                NULLIF('DETAIL ' || regexp_replace(detail, '("global_position": )\d+', '\1N'), 'DETAIL '),
                                NULLIF('HINT ' || hint, 'HINT '));
END
$$;
-- an event_id that a test can name
CREATE FUNCTION pg_temp.id(n int) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    RETURN ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid;
-- the next position, as an append that writes nothing around it would get it
CREATE FUNCTION pg_temp.next_position() RETURNS bigint
    LANGUAGE sql
AS $$ SELECT last_position + 1 FROM event_store.append_event('Position', 'p', NULL, 'Taken') $$;

-- expectations: append_event
SELECT first_sequence, last_sequence, last_position > 0 AS position, durable, outcome, staging_epoch
  FROM event_store.append_event('Order', 'o-1', 0, 'OrderPlaced', '{"total": "19.99"}');
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-1', 0, 'OrderPlaced')$$);
SELECT last_sequence FROM event_store.append_event('Order', 'o-1', 1, 'OrderPaid');
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-1', 1, 'OrderPaid')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-1', 3, 'OrderPaid')$$);
SELECT last_sequence FROM event_store.append_event('Order', 'o-1', NULL, 'OrderPacked');
SELECT last_sequence FROM event_store.append_event('Order', 'o-1', -4, 'OrderShipped');
-- -2 is any, too, whatever the setting says
SET event_store.require_expected_sequence = on;
SELECT last_sequence FROM event_store.append_event('Any', 'a-1', -2, 'Added');
SELECT last_sequence FROM event_store.append_event('Any', 'a-1', -2, 'Added', durability => 'staged');
SELECT last_sequence FROM event_store.append_events('Any', 'a-1', -2, '[{"event_type": "Added"}, {"event_type": "Added"}]');
SELECT sequence FROM event_store.append_batch(ARRAY['Any', 'Any'], ARRAY['a-1', 'a-1'], ARRAY['Added', 'Added'], NULL, ARRAY[-2, 5]);
SELECT sequence FROM event_store.append_batch('{"aggregate_type": "Any", "aggregate_id": "a-1", "event_type": "Added", "expected_sequence": -2}');
RESET event_store.require_expected_sequence;
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-2', -4, 'OrderShipped')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-2', 1, 'OrderShipped')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-2', -1, 'OrderPlaced')$$);
SELECT last_sequence FROM event_store.append_event('Order', 'o-2', NULL, 'OrderPlaced');
SELECT event_store.aggregate_sequence('Order', 'o-1'), event_store.aggregate_sequence('Order', 'o-2'),
       event_store.aggregate_sequence('Order', 'o-3');
-- the detail is JSON, whatever the name
SELECT pg_temp.refused($$SELECT event_store.append_event('Or"der', E'o\\1\nü', 7, 'OrderPlaced')$$);
DO $$
DECLARE
    detail text;
BEGIN
    PERFORM event_store.append_event('Or"der', E'o\\1\nü', 7, 'OrderPlaced');
EXCEPTION WHEN SQLSTATE 'VS001' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    ASSERT detail::jsonb = jsonb_build_object('aggregate_type', 'Or"der', 'aggregate_id', E'o\\1\nü',
                                              'expected', 7, 'actual', 0), detail;
END
$$;
DO $$
DECLARE
    detail text;
    position bigint;
BEGIN
    SELECT last_position INTO position FROM event_store.append_event('Or"der', E'o\\2\nü', 0, 'OrderPlaced', event_id => pg_temp.id(70));
    PERFORM event_store.append_event('Order', 'o-2', NULL, 'OrderPlaced', event_id => pg_temp.id(70));
EXCEPTION WHEN SQLSTATE 'VS002' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    ASSERT detail::jsonb = jsonb_build_object('event_id', pg_temp.id(70), 'aggregate_type', 'Or"der', 'aggregate_id', E'o\\2\nü',
                                              'sequence', 1, 'global_position', position), detail;
END
$$;

-- expectations: append_events
SELECT first_sequence, last_sequence, last_position > 0 AS position, durable, outcome, staging_epoch
  FROM event_store.append_events('Order', 'o-4', 0, '[{"event_type": "OrderPlaced", "payload": {"total": "5.00"}},
    {"event_type": "OrderPaid"}, {"event_type": "OrderShipped"}]');
SELECT pg_temp.refused($$SELECT event_store.append_events('Order', 'o-4', 0, '{"event_type": "OrderPlaced"}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Order', 'o-4', 2, '{"event_type": "OrderPlaced"}')$$);
SELECT first_sequence, last_sequence FROM event_store.append_events('Order', 'o-4', 3, '{"event_type": "OrderReturned"}');
SELECT first_sequence, last_sequence FROM event_store.append_events('Order', 'o-4', NULL,
    '[{"event_type": "OrderReturned"}, {"event_type": "OrderReturned"}]');
SELECT first_sequence, last_sequence FROM event_store.append_events('Order', 'o-4', -4, '[{"event_type": "OrderReturned"}]');
SELECT pg_temp.refused($$SELECT event_store.append_events('Order', 'o-5', -4, '[{"event_type": "OrderReturned"}]')$$);
SELECT sequence, event_type, payload FROM event_store.load_events('Order', 'o-4');

-- expectations: append_batch, by arrays; running within an aggregate
SELECT ordinal, sequence, outcome
  FROM event_store.append_batch(
    ARRAY['Order', 'Payment', 'Order', 'Order', 'Payment', 'Order'],
    ARRAY['o-6', 'p-6', 'o-6', 'o-7', 'p-6', 'o-6'],
    ARRAY['OrderPlaced', 'PaymentProcessed', 'OrderPaid', 'OrderPlaced', 'PaymentRefunded', 'OrderCancelled'],
    ARRAY['{"n": 1}', '{"n": 2}', NULL, NULL, '{"n": 5}', '{"n": 6}']::jsonb[],
    ARRAY[0, NULL, 1, 0, -4, 2]);
CREATE TEMPORARY TABLE appended AS
SELECT * FROM event_store.append_batch(
    ARRAY['Order', 'Order'], ARRAY['o-6', 'o-7'], ARRAY['OrderReopened', 'OrderPaid'], NULL, ARRAY[3, 1]);
SELECT ordinal, a.sequence, a.sequence = e.sequence AS same_sequence, a.global_position = e.global_position AS same_position,
       e.aggregate_id, e.event_type, e.payload
  FROM appended a LEFT JOIN LATERAL event_store.load_event(a.event_id) e ON true ORDER BY ordinal;
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Order', 'Order', 'Order'], ARRAY['o-8', 'o-6', 'o-8'],
    ARRAY['OrderPlaced', 'OrderPlaced', 'OrderPlaced'], NULL, ARRAY[0, 4, 0])$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Order', 'Order'], ARRAY['o-8', 'o-8'],
    ARRAY['OrderPlaced', 'OrderPlaced'], NULL, ARRAY[-4, NULL])$$);
SELECT event_store.aggregate_sequence('Order', 'o-6'), event_store.aggregate_sequence('Order', 'o-8');
-- positions rise in the order given
SELECT bool_and(global_position = first + ordinal - 1), count(*)
  FROM (SELECT *, first_value(global_position) OVER (ORDER BY ordinal) AS first
          FROM event_store.append_batch(array_fill('Many'::text, ARRAY[2500]),
            ARRAY(SELECT 'm-' || i % 7 FROM generate_series(1, 2500) i), array_fill('Added'::text, ARRAY[2500]), NULL)) b;
SELECT aggregate_id, count(*), min(sequence), max(sequence) FROM event_store.domain_events
 WHERE aggregate_type = 'Many' GROUP BY aggregate_id ORDER BY 1;

-- by JSON
SELECT ordinal, sequence, outcome
  FROM event_store.append_batch('[
    {"aggregate_type": "Order", "aggregate_id": "o-9", "event_type": "OrderPlaced", "expected_sequence": 0},
    {"aggregate_type": "Payment", "aggregate_id": "p-9", "event_type": "PaymentProcessed", "expected_sequence": null},
    {"aggregate_type": "Order", "aggregate_id": "o-9", "event_type": "OrderPaid", "expected_sequence": 1}]');
SELECT pg_temp.refused($q$SELECT event_store.append_batch('[
    {"aggregate_type": "Payment", "aggregate_id": "p-9", "event_type": "PaymentProcessed", "expected_sequence": 1},
    {"aggregate_type": "Order", "aggregate_id": "o-9", "event_type": "OrderPaid", "expected_sequence": 1}]')$q$);
SELECT event_store.aggregate_sequence('Order', 'o-9'), event_store.aggregate_sequence('Payment', 'p-9');
-- the same pair of words cut elsewhere is another aggregate
SELECT ordinal, sequence FROM event_store.append_batch(ARRAY['ab', 'a', 'ab'], ARRAY['c', 'bc', 'c'],
    ARRAY['Added', 'Added', 'Added'], NULL);

-- on_conflict => 'report': the aggregates without conflict are written, no error
SELECT ordinal, sequence, global_position IS NULL AS nothing, outcome
  FROM event_store.append_batch(
    ARRAY['Order', 'Order', 'Order', 'Order', 'Order'], ARRAY['o-10', 'o-9', 'o-10', 'o-9', 'o-11'],
    ARRAY['OrderPlaced', 'OrderPacked', 'OrderPaid', 'OrderShipped', 'OrderPlaced'], NULL,
    ARRAY[0, 2, 1, 4, -4], on_conflict => 'report');
SELECT ordinal, sequence, outcome
  FROM event_store.append_batch('[{"aggregate_type": "Order", "aggregate_id": "o-10", "event_type": "OrderPlaced", "expected_sequence": 0},
    {"aggregate_type": "Order", "aggregate_id": "o-12", "event_type": "OrderPlaced", "expected_sequence": 1}]', on_conflict => 'report');
SELECT event_store.aggregate_sequence('Order', 'o-9'), event_store.aggregate_sequence('Order', 'o-10'),
       event_store.aggregate_sequence('Order', 'o-11'), event_store.aggregate_sequence('Order', 'o-12');

-- on_conflict => 'report_all': a transfer between two accounts is written whole or not at all, durable or staged
CREATE FUNCTION pg_temp.transfer(expected bigint[], ids int[] DEFAULT NULL, durability text DEFAULT 'durable')
    RETURNS TABLE (ordinal int, sequence bigint, nothing boolean, outcome text)
    LANGUAGE sql
AS $$
    SELECT b.ordinal, b.sequence, b.global_position IS NULL, b.outcome
      FROM event_store.append_batch(
        ARRAY['Account', 'Account', 'Account'], ARRAY['a-1', 'a-2', 'a-1'],
        ARRAY['MoneyWithdrawn', 'MoneyDeposited', 'FeePaid'], NULL, expected,
        event_ids => (SELECT array_agg(pg_temp.id(n)) FROM unnest(ids) n),
        on_conflict => 'report_all', durability => durability) b
$$;
SELECT pg_temp.next_position() AS position \gset
SELECT * FROM pg_temp.transfer(ARRAY[0, 1, 1]);
SELECT * FROM pg_temp.transfer(ARRAY[0, 0, 2], durability => 'staged');
SELECT event_store.aggregate_sequence('Account', 'a-1'), event_store.aggregate_sequence('Account', 'a-2'),
       pg_temp.next_position() - :position;
SELECT * FROM pg_temp.transfer(ARRAY[0, 0, 1], ARRAY[60, 61, 62]);
SELECT * FROM pg_temp.transfer(ARRAY[2, 0, 3]);
SELECT * FROM pg_temp.transfer(ARRAY[2, 1, 3], ARRAY[63, 64, 65], 'staged');
SELECT * FROM pg_temp.transfer(ARRAY[4, 0, 5], durability => 'staged');
-- again: duplicates, whatever is expected; in part: VS002
SELECT * FROM pg_temp.transfer(ARRAY[0, 0, 0], ARRAY[60, 61, 62]);
SELECT * FROM pg_temp.transfer(ARRAY[0, 0, 0], ARRAY[63, 64, 65], 'staged');
SELECT pg_temp.refused('SELECT pg_temp.transfer(ARRAY[4, 2, 5], ARRAY[66, 64, 67])');
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Account', 'Account'], ARRAY['a-1', 'a-2'],
    ARRAY['Seen', 'MoneyDeposited'], NULL, ARRAY[0, 1], event_ids => ARRAY[NULL, pg_temp.id(64)], on_conflict => 'report_all')$$);
SELECT event_store.aggregate_sequence('Account', 'a-1'), event_store.aggregate_sequence('Account', 'a-2');

-- what is refused takes no position and leaves nothing
SELECT pg_temp.next_position() AS position \gset
SELECT count(*) AS events FROM event_store.domain_events \gset
SELECT left(pg_temp.refused($$SELECT event_store.append_event('Order', 'o-1', 0, 'OrderPlaced')$$), 5),
       left(pg_temp.refused($$SELECT event_store.append_events('Order', 'o-1', 0, '[{"event_type": "A"}, {"event_type": "B"}]')$$), 5),
       left(pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Order', 'Order'], ARRAY['o-20', 'o-1'], ARRAY['A', 'A'], NULL, ARRAY[0, 0])$$), 5),
       left(pg_temp.refused($$SELECT event_store.append_event('Order', 'o-1', -1, 'OrderPlaced')$$), 5),
       left(pg_temp.refused($$SELECT event_store.append_event('Order', NULL, NULL, 'OrderPlaced')$$), 5),
       (SELECT string_agg(outcome, ' ') FROM event_store.append_batch(ARRAY['Order'], ARRAY['o-1'], ARRAY['A'], NULL, ARRAY[0], on_conflict => 'report'));
SELECT count(*) = :events FROM event_store.domain_events;
SELECT pg_temp.next_position() - :position;
-- not even in a transaction that goes on: each event its own position
BEGIN;
SAVEPOINT s;
SELECT last_sequence FROM event_store.append_event('Order', 'o-1', 4, 'OrderDelivered');
ROLLBACK TO s;
SELECT last_sequence FROM event_store.append_event('Order', 'o-1', 4, 'OrderLost');
COMMIT;
SELECT event_type FROM event_store.load_events('Order', 'o-1', 3);

-- event_ids: the same again is a duplicate, whatever the expectation
SELECT last_position AS original, outcome FROM event_store.append_event('Item', 'i-1', 0, 'Added', '{"a": 1, "b": [2]}',
    metadata => '{"try": 1}', event_id => pg_temp.id(1)) \gset
SELECT :'outcome';
SELECT pg_temp.next_position() AS position \gset
SELECT expected, first_sequence, last_sequence, last_position - :original, durable, outcome, staging_epoch
  FROM (VALUES (NULL), (0), (1), (17), (-4)) e(expected),
       LATERAL event_store.append_event('Item', 'i-1', expected, 'Added', '{"b": [2], "a": 1}',
    metadata => '{"try": 2}', event_id => pg_temp.id(1));
SELECT first_sequence, last_sequence, last_position - :original, outcome
  FROM event_store.append_events('Item', 'i-1', 0, jsonb_build_array(jsonb_build_object('event_type', 'Added',
    'payload', '{"a": 1, "b": [2]}'::jsonb, 'event_id', pg_temp.id(1))));
SELECT ordinal, event_id = pg_temp.id(1), sequence, global_position - :original, outcome
  FROM event_store.append_batch(ARRAY['Item'], ARRAY['i-1'], ARRAY['Added'], ARRAY['{"a": 1.0, "b": [2]}']::jsonb[],
    event_ids => ARRAY[pg_temp.id(1)], on_conflict => 'report');
SELECT pg_temp.next_position() - :position;
SELECT sequence, event_type, payload, metadata FROM event_store.load_events('Item', 'i-1');
-- other content: VS002
SELECT pg_temp.refused(format('SELECT event_store.append_event(%s, event_id => pg_temp.id(1))', arguments))
  FROM unnest(ARRAY[
    $$'Item', 'i-1', NULL, 'Added', '{"a": 2, "b": [2]}'$$,
    $$'Item', 'i-1', NULL, 'Added'$$,
    $$'Item', 'i-1', NULL, 'Removed', '{"a": 1, "b": [2]}'$$,
    $$'Item', 'i-2', NULL, 'Added', '{"a": 1, "b": [2]}'$$,
    $$'Items', 'i-1', NULL, 'Added', '{"a": 1, "b": [2]}'$$,
    $$'Item', 'i-1', NULL, 'Added', '{"a": 1, "b": [2]}', schema_version => 2$$,
    $$'Item', 'i-1', NULL, 'Added', payload_bytes => '\x00'$$]) WITH ORDINALITY a(arguments, i) ORDER BY i;
SELECT last_sequence FROM event_store.append_event('Item', 'i-1', 1, 'Added', payload_bytes => '\x0001', event_id => pg_temp.id(2));
SELECT last_sequence, outcome FROM event_store.append_event('Item', 'i-1', 0, 'Added', payload_bytes => '\x0001', event_id => pg_temp.id(2));
SELECT pg_temp.refused($$SELECT event_store.append_event('Item', 'i-1', 1, 'Added', payload_bytes => '\x0002', event_id => pg_temp.id(2))$$);
-- a list: all of it again is a duplicate, a part of it or another order VS002
SELECT first_sequence, last_sequence, outcome
  FROM unnest(ARRAY[0, 1]) expected, LATERAL event_store.append_events('Item', 'i-3', expected, jsonb_build_array(
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(11)),
    jsonb_build_object('event_type', 'Moved', 'event_id', pg_temp.id(12))));
SELECT pg_temp.refused($$SELECT event_store.append_events('Item', 'i-3', NULL, jsonb_build_array(
    jsonb_build_object('event_type', 'Moved', 'event_id', pg_temp.id(12)),
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(13))))$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Item', 'i-3', NULL, jsonb_build_array(
    jsonb_build_object('event_type', 'Added'),
    jsonb_build_object('event_type', 'Moved', 'event_id', pg_temp.id(12))))$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Item', 'Item'], ARRAY['i-3', 'i-4'], ARRAY['Moved', 'Added'], NULL,
    event_ids => ARRAY[pg_temp.id(12), pg_temp.id(14)])$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Item', 'i-3', NULL, jsonb_build_array(
    jsonb_build_object('event_type', 'Moved', 'event_id', pg_temp.id(12)),
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(11))))$$);
SELECT mode, pg_temp.refused(format($$SELECT event_store.append_batch(ARRAY['Item', 'Item', 'Item'], ARRAY['i-3', 'i-4', 'i-3'],
    ARRAY['Moved', 'Added', 'Added'], NULL, event_ids => ARRAY[pg_temp.id(12), NULL, pg_temp.id(11)], on_conflict => %L)$$, mode))
  FROM unnest(ARRAY['error', 'report']) mode;
-- between them events of others may stand; the aggregates of a batch have no order
BEGIN;
SELECT last_sequence FROM event_store.append_event('Item', 'i-3', 2, 'Added', event_id => pg_temp.id(18));
SELECT last_sequence FROM event_store.append_event('Item', 'i-8', 0, 'Added', event_id => pg_temp.id(19));
SELECT first_sequence, last_sequence, outcome FROM event_store.append_events('Item', 'i-3', 0, jsonb_build_array(
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(11)),
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(18))));
SELECT ordinal, sequence, outcome FROM event_store.append_batch(ARRAY['Item', 'Item', 'Item'], ARRAY['i-8', 'i-3', 'i-3'],
    ARRAY['Added', 'Added', 'Added'], NULL, event_ids => ARRAY[pg_temp.id(19), pg_temp.id(11), pg_temp.id(18)]);
ROLLBACK;
-- the same while they are staged
BEGIN;
SELECT first_sequence, last_sequence, durable FROM event_store.append_events('Item', 'i-9', 0, jsonb_build_array(
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(20)),
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(21))), durability => 'staged');
SELECT pg_temp.refused($$SELECT event_store.append_events('Item', 'i-9', 2, jsonb_build_array(
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(21)),
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(20))), durability => 'staged')$$);
ROLLBACK;
-- with 'report' it is a matter of each aggregate
SELECT ordinal, sequence, outcome FROM event_store.append_batch(
    ARRAY['Item', 'Item', 'Item', 'Item'], ARRAY['i-3', 'i-4', 'i-1', 'i-3'], ARRAY['Added', 'Added', 'Added', 'Moved'], NULL,
    ARRAY[NULL, 0, 0, NULL], event_ids => ARRAY[pg_temp.id(11), pg_temp.id(14), NULL, pg_temp.id(12)], on_conflict => 'report');
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Item', 'Item'], ARRAY['i-3', 'i-3'], ARRAY['Added', 'Added'], NULL,
    event_ids => ARRAY[pg_temp.id(11), pg_temp.id(15)], on_conflict => 'report')$$);
-- one id twice in a call
SELECT pg_temp.refused($$SELECT event_store.append_events('Item', 'i-5', 0, jsonb_build_array(
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(16)),
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(16))))$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Item', 'Item'], ARRAY['i-5', 'i-6'], ARRAY['Added', 'Added'], NULL,
    event_ids => ARRAY[pg_temp.id(16), pg_temp.id(16)])$$);
SELECT event_store.aggregate_sequence('Item', 'i-3'), event_store.aggregate_sequence('Item', 'i-5'),
       event_store.aggregate_sequence('Item', 'i-6');
-- within one transaction, and after a rollback
BEGIN;
SELECT last_sequence, outcome FROM unnest(ARRAY[0, 1]) expected, LATERAL event_store.append_event('Item', 'i-7', expected, 'Added', event_id => pg_temp.id(17));
ROLLBACK;
SELECT last_sequence, outcome FROM event_store.append_event('Item', 'i-7', 0, 'Added', event_id => pg_temp.id(17));

-- staged first, retried staged; retried durably; retried staged when durable
SELECT last_sequence, last_position, durable, outcome, staging_epoch IS NOT NULL AS epoch
  FROM event_store.append_event('Item', 's-1', 0, 'Added', '{"a": 1}', event_id => pg_temp.id(21), durability => 'staged');
SELECT last_sequence, last_position, durable, outcome, staging_epoch IS NOT NULL AS epoch
  FROM event_store.append_event('Item', 's-1', 0, 'Added', '{"a": 1}', event_id => pg_temp.id(21), durability => 'staged');
SELECT pg_temp.refused($$SELECT event_store.append_event('Item', 's-1', 1, 'Added', '{"a": 2}', event_id => pg_temp.id(21), durability => 'staged')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Item', 's-2', 0, 'Added', '{"a": 1}', event_id => pg_temp.id(21), durability => 'staged')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Item', 's-1', 0, 'Added', '{"a": 1}', durability => 'staged')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Item', 's-1', NULL, jsonb_build_array(
    jsonb_build_object('event_type', 'Added', 'payload', '{"a": 1}'::jsonb, 'event_id', pg_temp.id(21)),
    jsonb_build_object('event_type', 'Added')), durability => 'staged')$$);
SELECT sequence, global_position FROM event_store.load_event(pg_temp.id(21));
SELECT last_sequence, last_position IS NOT NULL, durable, outcome, staging_epoch
  FROM event_store.append_event('Item', 's-1', 0, 'Added', '{"a": 1}', event_id => pg_temp.id(21), durability => 'durable');
SELECT last_sequence, last_position IS NOT NULL, durable, outcome, staging_epoch
  FROM event_store.append_event('Item', 's-1', 0, 'Added', '{"a": 1}', event_id => pg_temp.id(21), durability => 'staged');
SELECT pg_temp.refused($$SELECT event_store.append_event('Item', 's-1', 1, 'Added', '{"a": 2}', event_id => pg_temp.id(21), durability => 'staged')$$);
SELECT sequence, global_position IS NOT NULL FROM event_store.load_events('Item', 's-1');
-- a list of which the drain took nothing or all, never a part
SELECT first_sequence, last_sequence, durable, outcome
  FROM unnest(ARRAY['staged', 'durable', 'staged', 'durable']) WITH ORDINALITY d(durability, i),
       LATERAL event_store.append_events('Item', 's-3', 0, jsonb_build_array(
    jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.id(22)),
    jsonb_build_object('event_type', 'Moved', 'event_id', pg_temp.id(23))), durability) ORDER BY i;

-- staged and durable in one aggregate: one sequence, one conflict
SELECT last_sequence, durable FROM event_store.append_event('Mixed', 'm-1', 0, 'Added', '{"n": 1}');
SELECT last_sequence, durable FROM event_store.append_event('Mixed', 'm-1', 1, 'Added', '{"n": 2}', durability => 'staged');
SELECT pg_temp.refused($$SELECT event_store.append_event('Mixed', 'm-1', 1, 'Added', durability => 'staged')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Mixed', 'm-1', 1, 'Added', durability => 'durable')$$);
SELECT last_sequence, durable FROM event_store.append_event('Mixed', 'm-1', 2, 'Added', '{"n": 3}', durability => 'staged');
SELECT last_sequence, durable FROM event_store.append_event('Mixed', 'm-1', 3, 'Added', '{"n": 4}', durability => 'durable');
SELECT sequence, global_position IS NOT NULL, payload FROM event_store.load_events('Mixed', 'm-1');
SELECT count(DISTINCT global_position), bool_and(global_position > before) FROM
    (SELECT global_position, COALESCE(lag(global_position) OVER (ORDER BY sequence), 0) AS before
       FROM event_store.load_events('Mixed', 'm-1')) e;
SET event_store.durability = 'staged';
SELECT last_sequence, durable FROM event_store.append_event('Mixed', 'm-2', 0, 'Added');
SELECT ordinal, sequence, global_position, outcome FROM event_store.append_batch(ARRAY['Mixed', 'Mixed', 'Mixed'],
    ARRAY['m-2', 'm-3', 'm-2'], ARRAY['Added', 'Added', 'Added'], NULL, ARRAY[1, 0, 2]);
SELECT last_sequence, durable FROM event_store.append_event('Mixed', 'm-4', 0, 'Added', durability => 'durable');
RESET event_store.durability;

-- a transaction's own staged rows move along with its first durable write
BEGIN;
SELECT durable FROM event_store.append_event('Mixed', 'm-5', 0, 'Added', durability => 'staged');
SELECT event_store.put_view('Mixed', 'm-5', '{"n": 1}', durability => 'staged');
SELECT durable FROM event_store.append_event('Mixed', 'm-6', 0, 'Added', durability => 'durable');
SELECT sequence, global_position IS NOT NULL FROM event_store.load_events('Mixed', 'm-5');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'Mixed' AND view_key = 'm-5';
SELECT durable, last_sequence FROM event_store.append_event('Mixed', 'm-5', 1, 'Added', durability => 'staged');
SELECT durable, last_sequence FROM event_store.append_event('Mixed', 'm-5', 2, 'Added', durability => 'durable');
COMMIT;
SELECT count(*), count(global_position), max(sequence) FROM event_store.load_events('Mixed', 'm-5');
-- also where they were rolled back in part, and where the move was
BEGIN;
SELECT last_sequence FROM event_store.append_event('Mixed', 'm-7', 0, 'Added', '{"n": 1}', durability => 'staged');
SAVEPOINT s;
SELECT last_sequence FROM event_store.append_event('Mixed', 'm-7', 1, 'Added', '{"n": 2}', durability => 'staged');
ROLLBACK TO s;
SELECT last_sequence FROM event_store.append_event('Mixed', 'm-7', 1, 'Added', '{"n": 3}', durability => 'staged');
SAVEPOINT t;
SELECT last_sequence FROM event_store.append_event('Mixed', 'm-7', 2, 'Added', '{"n": 4}', durability => 'durable');
SELECT sequence, global_position IS NOT NULL, payload FROM event_store.load_events('Mixed', 'm-7');
ROLLBACK TO t;
SELECT sequence, global_position IS NOT NULL, payload FROM event_store.load_events('Mixed', 'm-7');
COMMIT;
SELECT sequence, global_position IS NOT NULL, payload FROM event_store.load_events('Mixed', 'm-7');
SELECT staged_events FROM event_store.staging_status;
SELECT last_sequence, durable FROM event_store.append_event('Mixed', 'm-7', 2, 'Added', '{"n": 5}');

-- rollback and rollback to a savepoint, after each kind of call
BEGIN;
SELECT last_sequence FROM event_store.append_event('Undone', 'u-1', 0, 'Added');
SELECT last_sequence FROM event_store.append_events('Undone', 'u-1', 1, '[{"event_type": "Added"}]');
SELECT count(*) FROM event_store.append_batch(ARRAY['Undone'], ARRAY['u-1'], ARRAY['Added'], NULL);
SELECT last_sequence FROM event_store.append_event('Undone', 'u-2', 0, 'Added', durability => 'staged');
ROLLBACK;
SELECT event_store.aggregate_sequence('Undone', 'u-1'), event_store.aggregate_sequence('Undone', 'u-2');
BEGIN;
SELECT last_sequence FROM event_store.append_event('Undone', 'u-1', 0, 'Kept');
SAVEPOINT s;
SELECT last_sequence FROM event_store.append_event('Undone', 'u-1', 1, 'Added');
SELECT last_sequence FROM event_store.append_events('Undone', 'u-1', 2, '[{"event_type": "Added"}]');
SELECT count(*) FROM event_store.append_batch(ARRAY['Undone'], ARRAY['u-1'], ARRAY['Added'], NULL);
SELECT last_sequence FROM event_store.append_event('Undone', 'u-2', 0, 'Added', durability => 'staged');
ROLLBACK TO s;
SELECT last_sequence FROM event_store.append_event('Undone', 'u-2', 0, 'Kept', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Undone', 'u-1', 0, 'Added');
ROLLBACK TO s;
SELECT last_sequence FROM event_store.append_event('Undone', 'u-1', 1, 'Kept');
COMMIT;
SELECT sequence, event_type FROM event_store.load_events('Undone', 'u-1');
SELECT event_store.aggregate_sequence('Undone', 'u-2');
-- a conflict that is handled leaves the transaction going
DO $$
BEGIN
    PERFORM event_store.append_event('Undone', 'u-3', 0, 'Kept');
    BEGIN
        PERFORM event_store.append_event('Undone', 'u-3', 0, 'Added');
    EXCEPTION WHEN SQLSTATE 'VS001' THEN
        PERFORM event_store.append_event('Undone', 'u-3', 1, 'Kept');
    END;
END
$$;
SELECT sequence, event_type FROM event_store.load_events('Undone', 'u-3');

-- many appends in one statement, each sees the one before
SELECT count(*), min(last_sequence), max(last_sequence)
  FROM generate_series(1, 100) i, LATERAL event_store.append_event('Loop', 'l-' || i % 3, NULL, 'Added', jsonb_build_object('i', i));
SELECT count(*), min(last_sequence), max(last_sequence)
  FROM generate_series(0, 99) i, LATERAL event_store.append_event('Loop', 'l-s', i, 'Added', durability => 'staged');
WITH one AS (SELECT * FROM event_store.append_event('Loop', 'l-c', 0, 'Added')),
     two AS (SELECT * FROM event_store.append_event('Loop', 'l-c', (SELECT last_sequence FROM one), 'Added'))
SELECT last_sequence FROM two;
-- in a trigger
CREATE TABLE public.regress_orders (id text);
CREATE FUNCTION public.regress_order_placed() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM event_store.append_event('Loop', NEW.id, 0, 'OrderPlaced'); RETURN NEW; END $$;
CREATE TRIGGER placed AFTER INSERT ON public.regress_orders FOR EACH ROW EXECUTE FUNCTION public.regress_order_placed();
INSERT INTO public.regress_orders VALUES ('l-t1'), ('l-t2');
SELECT event_store.aggregate_sequence('Loop', 'l-t1'), event_store.aggregate_sequence('Loop', 'l-t2');
DROP TABLE public.regress_orders;
DROP FUNCTION public.regress_order_placed();

-- loading: ranges, direction, limits, over durable and staged events alike
SELECT count(*) FROM event_store.append_batch(array_fill('Load'::text, ARRAY[6]), array_fill('d'::text, ARRAY[6]),
    ARRAY['A', 'B', 'C', 'D', 'E', 'F'], NULL);
SELECT count(*) FROM event_store.append_batch(array_fill('Load'::text, ARRAY[6]), array_fill('x'::text, ARRAY[6]),
    ARRAY['A', 'B', 'C', 'D', 'E', 'F'], NULL, durability => 'staged');
SELECT count(*) FROM event_store.append_batch(array_fill('Load'::text, ARRAY[3]), array_fill('m'::text, ARRAY[3]),
    ARRAY['A', 'B', 'C'], NULL);
SELECT count(*) FROM event_store.append_batch(array_fill('Load'::text, ARRAY[3]), array_fill('m'::text, ARRAY[3]),
    ARRAY['D', 'E', 'F'], NULL, durability => 'staged');
SELECT after, up_to, max_count, backward,
       (SELECT string_agg(event_type, '' ORDER BY o) FROM event_store.load_events('Load', 'd', after, up_to, max_count, backward) WITH ORDINALITY e(a,b,c,d,e,event_type,g,h,i,j,k,l,m,n,p,o)) AS durable,
       (SELECT string_agg(event_type, '' ORDER BY o) FROM event_store.load_events('Load', 'x', after, up_to, max_count, backward) WITH ORDINALITY e(a,b,c,d,e,event_type,g,h,i,j,k,l,m,n,p,o)) AS staged,
       (SELECT string_agg(event_type, '' ORDER BY o) FROM event_store.load_events('Load', 'm', after, up_to, max_count, backward) WITH ORDINALITY e(a,b,c,d,e,event_type,g,h,i,j,k,l,m,n,p,o)) AS mixed
  FROM (VALUES (1, NULL, NULL, NULL::int), (2, 0, NULL, NULL), (3, 2, NULL, NULL), (4, 2, 5, NULL), (5, NULL, 3, NULL),
               (6, 5, NULL, NULL), (7, 6, NULL, NULL), (8, 4, 2, NULL), (9, NULL, NULL, 2), (10, NULL, NULL, 0),
               (11, 1, NULL, 3), (12, 1, 5, 10), (13, NULL, 0, NULL), (14, 2, 4, 4)) r(i, after, up_to, max_count),
       (VALUES (false), (true)) b(backward)
 ORDER BY i, backward;
SELECT count(*) FROM event_store.load_events('Load', 'nothing');
SELECT count(*) FROM event_store.load_events('Load', 'd', backward => NULL);
SELECT pg_temp.refused($$SELECT event_store.load_events('Load', 'd', -1)$$);
SELECT pg_temp.refused($$SELECT event_store.load_events('Load', 'd', 1, -1)$$);
SELECT pg_temp.refused($$SELECT event_store.load_events('Load', 'd', max_count => -1)$$);
-- every field comes back as it was given
SELECT last_sequence FROM event_store.append_event('Load', 'full', 0, 'Added', '{"ü": [1, null, {"x": 1e2}]}', '{"m": 1}',
    pg_temp.id(31), 'corr', 'caus', 'saga', '2020-02-29 12:34:56.789012+03', schema_version => 7);
SELECT last_sequence FROM event_store.append_event('Load', 'full', 1, 'Added', NULL, '{"m": 2}',
    pg_temp.id(32), 'corr', 'caus', 'saga', '2020-02-29 12:34:56.789012+03', '\xdeadbeef', 8, 'staged');
SET TimeZone = 'UTC';
SELECT aggregate_type, aggregate_id, sequence, event_id, event_type, schema_version, payload, payload_bytes, metadata,
       correlation_id, causation_id, saga_id, occurred_at FROM event_store.load_events('Load', 'full');
SELECT sequence, payload_bytes FROM unnest(ARRAY[pg_temp.id(31), pg_temp.id(32), pg_temp.id(33)]) i, LATERAL event_store.load_event(i);
RESET TimeZone;
-- occurred_at is recorded_at when not given; recorded_at never goes back in an aggregate
SELECT count(*), bool_and(occurred_at = recorded_at) FROM event_store.load_events('Load', 'm');

-- a query that loads again and again keeps one context for the results
CREATE FUNCTION pg_temp.results() RETURNS bigint LANGUAGE plpgsql
AS $$ BEGIN RETURN (SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'event_store result'); END $$;
SELECT max(s.results) FROM (SELECT pg_temp.results() FROM generate_series(1, 20) i,
    LATERAL (SELECT count(*) FROM event_store.load_events('Load', CASE WHEN i > 0 THEN 'm' END)) l OFFSET 0) s;
INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
    VALUES (-1, 'Load', 'ahead', 1, pg_temp.id(34), 'Added', '{}', now(), '2222-02-22');
SELECT last_sequence FROM event_store.append_event('Load', 'ahead', 1, 'Added');
SELECT last_sequence FROM event_store.append_event('Load', 'ahead', 2, 'Added', occurred_at => '2020-02-29', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Load', 'ahead', 3, 'Added', durability => 'staged');
SELECT sequence, extract(year FROM recorded_at), occurred_at = recorded_at FROM event_store.load_events('Load', 'ahead');

-- the ids of a type, in bytewise order, in pages, staged and durable merged
SELECT count(*) FROM event_store.append_batch(array_fill('Ids'::text, ARRAY[5]), ARRAY['b', 'D', 'a-2', 'é', 'f'],
    array_fill('Added'::text, ARRAY[5]), NULL);
SELECT count(*) FROM event_store.append_batch(array_fill('Ids'::text, ARRAY[7]), ARRAY['c', 'b', 'A', 'a-10', 'z', 'c', 'ü'],
    array_fill('Added'::text, ARRAY[7]), NULL, durability => 'staged');
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Ids') i;
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Ids', 'a-2') i;
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Ids', 'a', 4) i;
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Ids', max_count => 2) i;
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Ids', max_count => 0) i;
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Ids', 'ü') i;
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Nothing') i;
WITH RECURSIVE pages AS (
    SELECT 1 AS page, ARRAY(SELECT event_store.load_aggregate_ids('Ids', NULL, 3)) AS ids
    UNION ALL
    SELECT page + 1, ARRAY(SELECT event_store.load_aggregate_ids('Ids', ids[cardinality(ids)], 3))
      FROM pages WHERE cardinality(ids) > 0)
SELECT page, ids FROM pages;
SELECT event_store.flush();
SELECT string_agg(i, ' ') FROM event_store.load_aggregate_ids('Ids') i;

-- the events of a saga: of all aggregates, in the order of the log, what is staged behind what is durable
SELECT last_sequence FROM event_store.append_event('Saga', 'a', 0, 'First', saga_id => 'choreographed-1');
SELECT last_sequence FROM event_store.append_event('Saga', 'b', 0, 'Second', saga_id => 'choreographed-1');
SELECT last_sequence FROM event_store.append_event('Saga', 'a', 1, 'Others', saga_id => 'choreographed-2');
SELECT last_sequence FROM event_store.append_event('Saga', 'a', 2, 'None');
SELECT last_sequence FROM event_store.append_event('Saga', 'a', 3, 'Third', saga_id => 'choreographed-1');
BEGIN;
SELECT last_sequence FROM event_store.append_event('Saga', 'c', 0, 'Staged', saga_id => 'choreographed-1', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Saga', 'b', 1, 'Staged', saga_id => 'choreographed-1', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Saga', 'b', 2, 'Others', saga_id => 'choreographed-2', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Saga', 'b', 3, 'None', durability => 'staged');
SELECT aggregate_id, sequence, event_type, global_position IS NOT NULL AS durable FROM event_store.saga_log('choreographed-1');
COMMIT;
SELECT event_store.flush();
SELECT aggregate_id, sequence, event_type, global_position IS NOT NULL AS durable FROM event_store.saga_log('choreographed-1');
SELECT string_agg(event_type, ' ') FROM event_store.saga_log('choreographed-2');
SELECT count(*) FROM event_store.saga_log('choreographed');
\set VERBOSITY terse
SELECT * FROM event_store.saga_log(NULL);
SELECT * FROM event_store.saga_log('');
SELECT * FROM event_store.saga_log(repeat('x', 1000));
\set VERBOSITY default

-- aggregate_info: durable and staged events, one row also where there is nothing
SELECT event_store.flush();
SELECT * FROM event_store.aggregate_info('Told', 't-1');
SELECT last_position AS told FROM event_store.append_events('Told', 't-1', 0, '[{"event_type": "A"}, {"event_type": "B"}]') \gset
SELECT event_count, first_sequence, last_sequence, last_position = :told AS position, last_recorded_at = recorded_at AS time,
       staged_count, dead_letter_count, archived
  FROM event_store.aggregate_info('Told', 't-1'), event_store.load_events('Told', 't-1', backward => true, max_count => 1);
SELECT last_sequence FROM event_store.append_events('Told', 't-1', 2, '[{"event_type": "C"}, {"event_type": "D"}]', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Told', 't-1', 4, 'E', durability => 'staged');
SELECT event_count, first_sequence, last_sequence, last_position = :told AS position, last_recorded_at = recorded_at AS time,
       staged_count, dead_letter_count, archived
  FROM event_store.aggregate_info('Told', 't-1'), event_store.load_events('Told', 't-1', backward => true, max_count => 1);
SELECT last_sequence FROM event_store.append_event('Told', 't-2', 0, 'A', durability => 'staged');
SELECT event_count, first_sequence, last_sequence, last_position, last_recorded_at IS NOT NULL AS time, staged_count
  FROM event_store.aggregate_info('Told', 't-2');

-- lock_aggregate and assert_sequence: what staged and durable events say, and what is refused
SELECT event_store.lock_aggregate('Told', 't-1'), event_store.lock_aggregate('Told', 't-2'), event_store.lock_aggregate('Told', 'none');
SELECT expected, pg_temp.refused(format('SELECT event_store.assert_sequence(''Told'', ''t-1'', %L)', expected)) AS some,
       pg_temp.refused(format('SELECT event_store.assert_sequence(''Told'', ''none'', %L)', expected)) AS none
  FROM unnest(ARRAY[5, 4, 0, -4, -2, -1, NULL]) expected;
SELECT event_store.assert_sequence('Told', 't-1', 5), event_store.assert_sequence('Told', 'none', 0);
SELECT pg_temp.refused($$SELECT event_store.lock_aggregate('Told', NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.assert_sequence('', 't-1', 0)$$);
BEGIN;
SELECT event_store.lock_aggregate('Told', 't-1');
SELECT last_sequence FROM event_store.append_event('Told', 't-1', 5, 'F');
SELECT event_store.assert_sequence('Told', 't-1', 6), event_store.lock_aggregate('Told', 't-1');
ROLLBACK;
SELECT event_store.lock_aggregate('Told', 't-1');
BEGIN READ ONLY;
SELECT event_count FROM event_store.aggregate_info('Told', 't-1');
SELECT pg_temp.refused($$SELECT event_store.lock_aggregate('Told', 't-1')$$);
SELECT pg_temp.refused($$SELECT event_store.assert_sequence('Told', 't-1', 5)$$);
COMMIT;

-- rows written around the API: the log and its positions go on behind them, with the first append
CREATE FUNCTION pg_temp.around(relation text, at bigint, id text, sequence bigint, event_id uuid DEFAULT pg_catalog.gen_random_uuid(), type text DEFAULT 'Added') RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE pg_catalog.format('INSERT INTO %s (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, schema_version, payload, occurred_at, recorded_at)
        VALUES ($1, ''Around'', $2, $3, $4, $5, 1, ''{}'', now(), now())', relation) USING at, id, sequence, event_id, type;
END
$$;
CREATE FUNCTION pg_temp.around(at bigint, id text, sequence bigint, event_id uuid DEFAULT pg_catalog.gen_random_uuid()) RETURNS void
    LANGUAGE sql
AS $$ SELECT pg_temp.around('event_store.domain_events', at, id, sequence, event_id) $$;
-- a sequence that is the next one, or ahead; in a position that is not the next one
SELECT last_sequence FROM event_store.append_event('Around', 'a-1', 0, 'Added');
SELECT pg_temp.around(-2, 'a-1', 2);
SELECT pg_temp.refused($$SELECT event_store.append_event('Around', 'a-1', 1, 'Added')$$);
SELECT last_sequence FROM event_store.append_event('Around', 'a-1', NULL, 'Added');
SELECT pg_temp.around(-3, 'a-1', 10);
SELECT pg_temp.refused($$SELECT event_store.append_event('Around', 'a-1', 3, 'Added', durability => 'staged')$$);
SELECT sequence, outcome FROM event_store.append_batch(ARRAY['Around', 'Around'], ARRAY['a-1', 'a-2'], ARRAY['Added', 'Added'], NULL, ARRAY[3, 0], on_conflict => 'report');
SELECT last_sequence FROM event_store.append_event('Around', 'a-1', 10, 'Added', durability => 'staged');
SELECT last_sequence, event_store.flush() FROM event_store.append_event('Around', 'a-1', 11, 'Added');
-- the next position, also in this very transaction, at each isolation level, by COPY, by a batch, and many
SELECT pg_temp.next_position() AS position \gset
SELECT pg_temp.around(:position, 'b-1', 1);
SELECT last_sequence, last_position - :position FROM event_store.append_event('Around', 'b-2', 0, 'Added');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pg_temp.around(:position + 2, 'b-3', 1);
SELECT last_sequence, last_position - :position FROM event_store.append_event('Around', 'b-4', 0, 'Added');
COMMIT;
COPY event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at) FROM PROGRAM 'echo "0	Around	c-1	1	00000000-0000-7000-8000-000000001051	Added	{}	2020-02-02	2020-02-02"';
SELECT pg_temp.refused($$SELECT event_store.append_event('Around', 'c-1', 0, 'Added')$$);
SELECT count(pg_temp.around(:position + 3 + n, 'b-5', n)) FROM generate_series(1, 5) n;
SELECT count(*), min(global_position) - :position FROM event_store.append_batch(ARRAY['Around', 'Around'], ARRAY['b-5', 'b-6'], ARRAY['Added', 'Added'], NULL, ARRAY[5, 0]);
WITH row AS (INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
    VALUES (:position + 11, 'Around', 'b-7', 1, pg_temp.id(1052), 'Added', '{}', now(), now()) RETURNING 1) SELECT count(*) FROM row;
SELECT last_position - :position FROM event_store.append_event('Around', 'b-8', 0, 'Added');
-- far ahead of what was reserved: positions jump behind it; so far that nothing could follow: they do not
SELECT pg_temp.around(:position + 1000000, 'b-9', 1);
SELECT pg_temp.around(9223372036854775807, 'b-9', 2);
SELECT last_position - :position > 1000000 AND last_position < 1::bigint << 61 FROM event_store.append_event('Around', 'b-9', 2, 'Added');
BEGIN;
ALTER TABLE event_store.domain_events DISABLE TRIGGER USER;
DELETE FROM event_store.domain_events WHERE global_position = 9223372036854775807;
ALTER TABLE event_store.domain_events ENABLE ALWAYS TRIGGER domain_events_append_only, ENABLE ALWAYS TRIGGER domain_events_append_only_row;
COMMIT;
-- rolled back, they are gone
BEGIN;
SELECT pg_temp.around(-4, 'b-8', 2);
ROLLBACK;
SELECT last_sequence FROM event_store.append_event('Around', 'b-8', 1, 'Added');
-- the feed gives them in order, once, and nothing that is not there; who has written them keeps it waiting
SELECT event_store.safe_position() AS safe \gset
SELECT pg_temp.around(:safe + 1, 'd-1', 1);
SELECT global_position - :safe, aggregate_id, sequence FROM event_store.read_events(:safe);
BEGIN;
SELECT pg_temp.around(:safe + 2, 'd-1', 2);
SELECT event_store.safe_position() - :safe, in_flight, blocker_pid = pg_backend_pid() FROM event_store.feed_status;
COMMIT;
SELECT global_position - :safe, aggregate_id, sequence FROM event_store.read_events(:safe);
-- an event_id they took: the same event, or another one
SELECT pg_temp.around(-5, 'e-1', 1, pg_temp.id(1061));
SELECT last_sequence, outcome FROM event_store.append_event('Around', 'e-1', 0, 'Added', event_id => pg_temp.id(1061));
SELECT left(pg_temp.refused($$SELECT event_store.append_event('Around', 'e-2', 0, 'Added', event_id => pg_temp.id(1061))$$), 5);
-- the last sequence there is
SELECT pg_temp.around(-7, 'e-4', 9223372036854775807);
SELECT pg_temp.refused($$SELECT event_store.append_event('Around', 'e-4', NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Around', 'e-4', NULL, 'Added', durability => 'staged')$$);
-- no prepared transaction
BEGIN;
SELECT pg_temp.around(-6, 'e-3', 1);
PREPARE TRANSACTION 'regress';
\echo :SQLSTATE
-- rows that no statement on the log shows, as those a partitioned table routes to it, are met once
CREATE TABLE around_parent (LIKE event_store.domain_events) PARTITION BY LIST (global_position);
ALTER TABLE around_parent ATTACH PARTITION event_store.domain_events DEFAULT;
SELECT last_sequence, last_position + 1 AS position FROM event_store.append_event('Around', 'i-1', 0, 'Added') \gset
SELECT pg_temp.around('around_parent', :position, 'i-2', 1);
SELECT pg_temp.refused($$SELECT event_store.append_event('Around', 'i-3', 0, 'Added')$$);
SELECT last_sequence, last_position - :position AS behind FROM event_store.append_event('Around', 'i-3', 0, 'Added');
-- the drain goes on by itself
SELECT pg_temp.next_position() AS position \gset
SELECT last_sequence FROM event_store.append_event('Around', 'i-4', 0, 'Added', durability => 'staged');
SELECT pg_temp.around('around_parent', :position, 'i-5', 1);
SELECT event_store.drain();
SELECT global_position - :position FROM event_store.load_events('Around', 'i-4');
-- the sequence: the real one is told, whatever was expected of others
SELECT last_sequence FROM generate_series(6, 8) n,
    LATERAL event_store.append_event('Around', 'i-' || n, 0, 'Added');
SELECT pg_temp.around('around_parent', -30 - n, 'i-6', n) FROM generate_series(2, 4) n;
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Around', 'Around', 'Around'], ARRAY['i-7', 'i-6', 'i-8'], ARRAY['Added', 'Added', 'Added'], NULL, ARRAY[NULL, 1, 1])$$);
-- what the call itself has written before is no conflict
SELECT last_sequence FROM event_store.append_event('Around', 'i-9', 0, 'Added');
SELECT pg_temp.around('around_parent', -40, 'i-9', 2);
SELECT pg_temp.refused($$SELECT event_store.append_batch(array_fill('Around'::text, ARRAY[1501]), array_fill('i-10'::text, ARRAY[1500]) || 'i-9'::text,
    array_fill('Added'::text, ARRAY[1501]), NULL, ARRAY(SELECT n FROM generate_series(0, 1499) n) || 1)$$);
ALTER TABLE around_parent DETACH PARTITION event_store.domain_events;
DROP TABLE around_parent;

-- an index of the owner's own is his error
CREATE UNIQUE INDEX around_own_idx ON event_store.domain_events (correlation_id) WHERE correlation_id LIKE 'own-%';
SELECT last_sequence FROM event_store.append_event('Around', 'f-1', 0, 'Added', correlation_id => 'own-1');
SELECT left(pg_temp.refused($$SELECT event_store.append_event('Around', 'f-2', 0, 'Added', event_id => pg_temp.id(1062), correlation_id => 'own-1')$$), 5);
SELECT left(pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Around'], ARRAY['f-2'], ARRAY['Added'], NULL, correlation_ids => ARRAY['own-1'])$$), 5);
SELECT last_sequence FROM (VALUES ('f-2', 'own-1'), ('f-3', 'own-2')) v(n, c),
    LATERAL event_store.append_event('Around', n, 0, 'Added', '{}', correlation_id => c, durability => 'staged');
SET client_min_messages = error;
SELECT event_store.drain();
SELECT aggregate_id, error_code FROM event_store.dead_letters;
SELECT event_store.discard_dead_letters('Around', 'f-2', 'a test'), event_store.aggregate_sequence('Around', 'f-3');
DROP INDEX event_store.around_own_idx;

-- staged events that were overtaken: a conflict says so, what is in the log already is where it belongs
SELECT last_sequence FROM generate_series(0, 2) n,
    LATERAL event_store.append_event('Around', 'g-1', n, 'Added', event_id => pg_temp.id(1070 + n), payload => '{}', durability => 'staged');
SELECT last_sequence FROM generate_series(3, 5) n,
    LATERAL event_store.append_event('Around', 'g-' || n, 0, 'Added', event_id => pg_temp.id(1070 + n), durability => 'staged');
SELECT pg_temp.around(-10 - n, 'g-1', n + 1, pg_temp.id(1070 + n)) FROM generate_series(0, 1) n;
SELECT pg_temp.around(-13, 'g-3', 1), pg_temp.around(-14, 'g-3', 2), pg_temp.around(-15, 'g-4', 1, pg_temp.id(1074)), pg_temp.around(-16, 'g-6', 1, pg_temp.id(1075));
SELECT event_store.drain();
SELECT aggregate_id, sequence, error_code, error_message FROM event_store.dead_letters;
SELECT aggregate_id, count(*), min(sequence), max(sequence) FROM event_store.domain_events WHERE aggregate_type = 'Around' AND aggregate_id LIKE 'g-%' GROUP BY 1 ORDER BY 1;
SELECT pg_temp.refused($$SELECT event_store.retry_dead_letters('Around', 'g-3')$$);
SELECT pg_temp.refused($$SELECT event_store.retry_dead_letters('Around', 'g-5')$$);
SELECT event_store.discard_dead_letters('Around', n, 'a test') FROM unnest(ARRAY['g-3', 'g-4', 'g-5']) n;
-- what its owner has put into the log by hand is no dead letter any more
ALTER TABLE event_store.domain_events ADD CONSTRAINT around_no_poison CHECK (event_type <> 'Poison') NOT VALID;
SELECT last_sequence FROM generate_series(0, 1) n,
    LATERAL event_store.append_event('Around', 'h-1', n, CASE n WHEN 0 THEN 'Poison' ELSE 'Added' END, payload => '{}', event_id => pg_temp.id(1080 + n), durability => 'staged');
SELECT event_store.drain();
ALTER TABLE event_store.domain_events DROP CONSTRAINT around_no_poison;
SELECT pg_temp.around('event_store.domain_events', -20, 'h-1', 1, pg_temp.id(1080), 'Poison');
SELECT event_store.retry_dead_letters('Around', 'h-1');
SELECT event_store.aggregate_sequence('Around', 'h-1');
RESET client_min_messages;

-- no prepared transactions, no writes where nothing may be written
BEGIN;
SELECT last_sequence FROM event_store.append_event('Order', 'o-30', 0, 'OrderPlaced');
PREPARE TRANSACTION 'regress';
\echo :SQLSTATE
BEGIN;
SELECT last_sequence FROM event_store.append_event('Order', 'o-30', 0, 'OrderPlaced', durability => 'staged');
PREPARE TRANSACTION 'regress';
\echo :SQLSTATE
SELECT event_store.aggregate_sequence('Order', 'o-30');
BEGIN READ ONLY;
SELECT count(*) FROM event_store.load_events('Order', 'o-1');
SELECT event_store.aggregate_sequence('Order', 'o-1'), count(*) > 0 FROM event_store.load_aggregate_ids('Order');
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-30', 0, 'OrderPlaced')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Order', 'o-30', 0, 'OrderPlaced', durability => 'staged')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Order', 'o-30', 0, '{"event_type": "OrderPlaced"}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Order'], ARRAY['o-30'], ARRAY['A'], NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch('[]')$$);
COMMIT;

-- the higher isolation levels, alone
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM event_store.load_events('Level', 'l-1');
SELECT last_sequence FROM event_store.append_event('Level', 'l-1', 0, 'Added');
SELECT last_sequence FROM event_store.append_event('Level', 'l-1', 1, 'Added', durability => 'staged');
SELECT last_sequence, durable FROM event_store.append_event('Level', 'l-1', NULL, 'Added');
SELECT count(*) FROM event_store.load_events('Level', 'l-1');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM event_store.load_events('Level', 'l-1');
SELECT last_sequence FROM event_store.append_event('Level', 'l-1', 3, 'Added');
SELECT last_sequence FROM event_store.append_event('Level', 'l-1', NULL, 'Added', durability => 'staged');
SELECT last_sequence, durable FROM event_store.append_event('Level', 'l-1', 5, 'Added', durability => 'staged');
COMMIT;
-- staged rows that its snapshot sees and that are drained meanwhile
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT last_sequence, durable FROM event_store.append_event('Level', 'l-1', 6, 'Added');
COMMIT;
SELECT count(*), max(sequence) FROM event_store.load_events('Level', 'l-1');

-- the whole log holds together
SELECT event_store.flush();
SELECT count(*) FROM (
    SELECT aggregate_type, aggregate_id FROM event_store.domain_events WHERE aggregate_type <> 'Around'
     GROUP BY 1, 2 HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) broken;
ALTER SYSTEM RESET event_store.write_delay;
SELECT pg_catalog.pg_reload_conf();
