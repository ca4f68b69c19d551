-- view_projection: a view that a projection keeps is the fold of its events, and nobody else writes it
\pset null null
\pset format unaligned
\pset tuples_only on
SELECT event_store.create_store();
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
SELECT event_store.safe_position() AS start \gset
SET vp.start = :start;
-- makes one from here on that goes on in the foreground alone; the rest of the arguments by name
CREATE FUNCTION pg_temp.make(name text, key text, rules text, more text DEFAULT '') RETURNS text
    LANGUAGE sql AS $$
    SELECT pg_temp.outcome(format(
        'SELECT event_store.create_view_projection(%L, ''{VpOrder}'', %L, %L, start_after => %s%s); SELECT event_store.pause_subscription(%1$L)',
        name, key, rules, current_setting('vp.start'), more))
$$;
CREATE FUNCTION pg_temp.append(id text, type text, payload jsonb, kind text DEFAULT 'VpOrder') RETURNS void
    LANGUAGE sql AS $$ SELECT count(event_store.append_event(kind, id, NULL, type, payload)) $$;
CREATE FUNCTION pg_temp.rows(name text) RETURNS SETOF text
    LANGUAGE sql AS $$
    SELECT v.view_key || ' ' || v.view_data || CASE WHEN v.version > 1000 THEN '' ELSE ' ' || v.version END
      FROM (SELECT view_key, view_data, CASE WHEN name LIKE '%-seq' THEN version ELSE 9999 END AS version
              FROM event_store.domain_views WHERE view_name = name) v ORDER BY v.view_key
$$;
CREATE FUNCTION pg_temp.project(name text) RETURNS SETOF text
    LANGUAGE sql AS $$ SELECT event_store.project(name) || ' events' UNION ALL SELECT pg_temp.rows(name) $$;

-- making one: true, false for the same, 42710 for another; what is wrong is named
\set count_rules '{"events": {"Placed": [{"op": "increment", "path": "$.orders", "value": 1}]}}'
SELECT event_store.create_view_projection('vp-a', '{VpOrder}', '"$.payload.customer"', :'count_rules', start_after => :start);
SELECT event_store.create_view_projection('vp-a', '{VpOrder}', '"$.payload.customer"', :'count_rules', start_after => :start);
SELECT pg_temp.make('vp-a', '"$.payload.seller"', :'count_rules');
SELECT pg_temp.make('vp-b', '"$.payloads.customer"', :'count_rules');
SELECT pg_temp.make('vp-b', '"$.payload.customer"', '{"events": {"Placed": [{"op": "fly"}]}}');
SELECT pg_temp.make('vp-b', '"$.payload.customer"', NULL);
SELECT pg_temp.make('vp-b', '"$.payload.customer"', :'count_rules', ', mode => ''sometimes''');
SELECT pg_temp.make('vp-b', '"$.payload.customer"', :'count_rules', ', batch_size => 0');
SELECT pg_temp.make('vp-b', '{"each": "$.payload.lines", "key": "$.item.sku"}', :'count_rules', ', members => 2');
SELECT pg_temp.make('vp-b', '{"sticky": "$.payload.customer"}', :'count_rules', ', members => 2');
SELECT pg_temp.outcome('SELECT event_store.create_view_projection(''vp-b'', NULL)');
SELECT pg_temp.outcome('SELECT event_store.create_view_projection(''vp-b'', ''{}'')');
SELECT pg_temp.outcome('SELECT event_store.create_view_projection(''vp-b'', ''{A,B}'')');
SELECT event_store.put_view('vp-b', 'k', '1', durability => 'durable');
SELECT pg_temp.make('vp-b', '"$.payload.customer"', :'count_rules');
SELECT event_store.put_view('vp-c', 'k', '1', durability => 'staged');
SELECT pg_temp.make('vp-c', '"$.payload.customer"', :'count_rules');
SELECT event_store.pause_subscription('vp-a');
SELECT projection_name, kind, mode, state FROM event_store.projection_status WHERE projection_name LIKE 'vp-%' ORDER BY 1;

-- nobody else writes the view
SELECT pg_temp.outcome('SELECT event_store.put_view(''vp-a'', ''k'', ''1'', durability => ''durable'')');
SELECT pg_temp.outcome('SELECT event_store.put_view(''vp-a'', ''k'', ''1'', durability => ''staged'')');
SELECT pg_temp.outcome('SELECT event_store.put_views(''vp-a'', ''{k}'', ''{1}'')');
SELECT pg_temp.outcome('SELECT event_store.delete_view(''vp-a'', ''k'')');
SELECT pg_temp.outcome('SELECT event_store.clear_view(''vp-a'')');
SELECT pg_temp.outcome('SELECT event_store.rebuild_view(''vp-a'', ''VpOrder'')');
SELECT pg_temp.outcome('SELECT event_store.rebuild_view_step(''vp-a'', ''VpOrder'', 10)');
SELECT pg_temp.outcome('SELECT event_store.alter_subscription(''vp-a'', aggregate_types => ''{Other}'')');
SELECT pg_temp.outcome('SELECT count(*) FROM event_store.next_events(''vp-a'')');

-- the events
SELECT pg_temp.make('vp-state-seq', NULL, NULL);
SELECT pg_temp.make('vp-rules-seq', NULL, :'count_rules');
SELECT pg_temp.make('vp-members', '"$.payload.customer"', :'count_rules', ', members => 3');
SELECT pg_temp.make('vp-day', '{"day": "$.occurred_at", "zone": "Asia/Tokyo"}', :'count_rules', ', members => 2');
SELECT pg_temp.make('vp-lines', '{"each": "$.payload.lines", "key": "$.item.sku"}',
    '{"events": {"Placed": [{"op": "increment", "path": "$.sold", "from": "$.item.quantity"}]}}');
SELECT pg_temp.make('vp-list', '{"by_type": {"Placed": ["$.payload.customer", {"concat": [{"value": "all of "}, "$.payload.seller"]}], "Shipped": null}}',
    '{"events": {"*": [{"op": "append", "path": "$.ids", "from": "$.aggregate_id"}]}}');
SELECT pg_temp.make('vp-sticky', '{"sticky": "$.payload.customer"}',
    '{"events": {"*": [{"op": "append", "path": "$.events", "from": "$.event_type"}]}}');
SELECT pg_temp.make('vp-moves', '{"concat": [{"sticky": "$.payload.customer"}, {"value": "/"}, "$.aggregate_id"]}',
    '{"events": {"Placed": [{"op": "set", "path": "$.seller", "from": "$.payload.seller"}], "Shipped": [{"op": "set", "path": "$.shipped", "value": true}]}}');
SELECT pg_temp.make('vp-ends', '"$.payload.customer"',
    '{"events": {"Placed": [{"op": "increment", "path": "$.orders", "value": 1}], "Forgotten": [{"op": "unset", "path": "$"}]}}');

SELECT pg_temp.append('o-1', 'Placed', '{"customer": "ann", "seller": "x", "lines": [{"sku": "tea", "quantity": 2}, {"sku": "mug", "quantity": 1}, {"sku": "tea", "quantity": 3}]}');
SELECT pg_temp.append('o-2', 'Placed', '{"customer": "bob", "seller": "x", "lines": [{"sku": "tea", "quantity": 5}]}');
SELECT pg_temp.append('o-1', 'Shipped', '{"by": "air"}');
SELECT pg_temp.append('o-3', 'Placed', '{"customer": "ann", "seller": "y", "lines": []}');
SELECT pg_temp.append('o-2', 'Corrected', '{"customer": "cid"}');
SELECT pg_temp.append('o-2', 'Shipped', '{}');
SELECT pg_temp.append('x-1', 'Placed', '{"customer": "ann"}', 'VpOther');
SELECT pg_temp.project('vp-a');
SELECT pg_temp.project('vp-state-seq');
SELECT pg_temp.project('vp-rules-seq');
SELECT pg_temp.project('vp-members');
SELECT pg_temp.project('vp-lines');
SELECT pg_temp.project('vp-list');
-- members divide the rows, which not every key lets them do
SELECT pg_temp.outcome('SELECT event_store.resize_subscription(''vp-lines'', 2)');
SELECT pg_temp.outcome('SELECT event_store.resize_subscription(''vp-list'', 2)');
SELECT pg_temp.outcome('SELECT event_store.resize_subscription(''vp-sticky'', 2)');
SELECT event_store.resize_subscription('vp-members', 5);
SELECT event_store.resize_subscription('vp-members', 3);
-- a sticky value is that of the aggregate; a row that others have a part in stays, one of the aggregate alone moves
SELECT pg_temp.project('vp-sticky');
SELECT pg_temp.project('vp-moves');
SELECT aggregate_id, value FROM event_store.sticky_keys WHERE projection_name = 'vp-moves' ORDER BY 1;
SELECT pg_temp.append('o-3', 'Corrected', '{"customer": "dora"}');
SELECT pg_temp.append('o-3', 'Shipped', '{}');
SELECT pg_temp.append('o-3', 'Corrected', '{"customer": "ann"}');
SELECT pg_temp.project('vp-moves');
-- a state that becomes null removes the row
SELECT pg_temp.append('o-4', 'Forgotten', '{"customer": "ann"}');
SELECT pg_temp.append('o-5', 'Forgotten', '{"customer": "nobody"}');
SELECT pg_temp.project('vp-ends');
SELECT pg_temp.append('o-4', 'Placed', '{"customer": "ann"}');
SELECT pg_temp.project('vp-ends');
-- a version is the position of the last event that has done something to the row
SELECT v.view_key, e.aggregate_id, e.event_type FROM event_store.domain_views v
  JOIN event_store.domain_events e ON e.global_position = v.version WHERE v.view_name = 'vp-ends' ORDER BY 1;

-- a lookup finds what another view has
SELECT pg_temp.make('vp-sellers', '{"lookup": {"view": "vp-moves", "key": {"concat": ["$.payload.customer", {"value": "/"}, "$.payload.order"]}, "path": "$.seller"}}',
    '{"events": {"Praised": [{"op": "increment", "path": "$.praise", "value": 1}]}}');
SELECT pg_temp.append('p-1', 'Praised', '{"customer": "ann", "order": "o-1"}');
SELECT pg_temp.append('p-1', 'Praised', '{"customer": "ann", "order": "o-3"}');
SELECT pg_temp.append('p-1', 'Praised', '{"customer": "ann", "order": "o-9"}');
SELECT pg_temp.project('vp-sellers');

-- in batches of any size the rows are the same
DO $$
BEGIN
    FOR i IN 1 .. 60 LOOP
        PERFORM event_store.append_event('VpOrder', 's-' || i % 7, NULL, (ARRAY['Placed', 'Corrected', 'Shipped'])[1 + i % 3],
            jsonb_build_object('customer', 'c-' || i % 5, 'seller', 'v-' || i % 2));
    END LOOP;
END
$$;
SELECT pg_temp.make('vp-moves-1', '{"concat": [{"sticky": "$.payload.customer"}, {"value": "/"}, "$.aggregate_id"]}',
    '{"events": {"Placed": [{"op": "append", "path": "$.sellers", "from": "$.payload.seller"}], "Shipped": [{"op": "set", "path": "$.shipped", "value": true}]}}');
SELECT pg_temp.make('vp-moves-9', '{"concat": [{"sticky": "$.payload.customer"}, {"value": "/"}, "$.aggregate_id"]}',
    '{"events": {"Placed": [{"op": "append", "path": "$.sellers", "from": "$.payload.seller"}], "Shipped": [{"op": "set", "path": "$.shipped", "value": true}]}}');
DO $$
BEGIN
    WHILE event_store.project('vp-moves-1', 1) > 0 LOOP END LOOP;
    WHILE event_store.project('vp-moves-9', 9) > 0 LOOP END LOOP;
END
$$;
SELECT count(*) > 5 AND bool_and(a.view_key IS NOT NULL AND b.view_key IS NOT NULL) AS same
  FROM (SELECT * FROM event_store.domain_views WHERE view_name = 'vp-moves-1') a
  FULL JOIN (SELECT * FROM event_store.domain_views WHERE view_name = 'vp-moves-9') b USING (view_key, view_data, version);
SELECT event_store.project('vp-members') > 0, event_store.project('vp-day') > 0;
-- … and those of independent SQL
SELECT count(*) > 3 AND bool_and(v.view_key IS NOT NULL AND e.view_key IS NOT NULL) AS same
  FROM (SELECT view_key, (view_data ->> 'orders')::int AS orders, version FROM event_store.domain_views WHERE view_name = 'vp-members') v
  FULL JOIN (SELECT payload ->> 'customer' AS view_key, count(*)::int AS orders, max(global_position) AS version FROM event_store.domain_events
              WHERE aggregate_type = 'VpOrder' AND event_type = 'Placed' AND global_position > :start GROUP BY 1) e USING (view_key, orders, version);
SELECT bool_and(v.view_key IS NOT NULL AND e.view_key IS NOT NULL) AS same
  FROM (SELECT view_key, (view_data ->> 'orders')::int AS orders FROM event_store.domain_views WHERE view_name = 'vp-day') v
  FULL JOIN (SELECT to_char(occurred_at AT TIME ZONE 'Asia/Tokyo', 'YYYY-MM-DD') AS view_key, count(*)::int AS orders FROM event_store.domain_events
              WHERE aggregate_type = 'VpOrder' AND event_type = 'Placed' AND global_position > :start GROUP BY 1) e USING (view_key, orders);

-- an event that cannot be taken in stops the projection at it, or is set aside with its row
SELECT pg_temp.make('vp-stops', '"$.payload.customer"', '{"events": {"Paid": [{"op": "increment", "path": "$.sum", "from": "$.payload.amount"}]}}', ', max_attempts => 1');
SELECT pg_temp.make('vp-parks', '"$.payload.customer"', '{"events": {"Paid": [{"op": "increment", "path": "$.sum", "from": "$.payload.amount"}]}}',
    ', on_failure => ''park'', max_attempts => 1');
SELECT pg_temp.make('vp-hours', '{"hour": "$.payload.at"}', '{"events": {"Paid": [{"op": "increment", "path": "$.n", "value": 1}]}}',
    ', on_failure => ''skip'', max_attempts => 1, members => 2');
SELECT pg_temp.append('q-1', 'Paid', '{"customer": "ann", "amount": 1, "at": "2024-02-29T12:00:00Z"}');
SELECT pg_temp.append('q-2', 'Paid', '{"customer": "bob", "amount": "much", "at": "noon"}');
SELECT pg_temp.append('q-3', 'Paid', '{"customer": "ann", "amount": 2, "at": "2024-02-29T13:00:00Z"}');
SELECT pg_temp.append('q-4', 'Paid', '{"customer": "bob", "amount": 3, "at": "2024-02-29T12:59:00Z"}');
SELECT count(event_store.project('vp-stops')), count(event_store.project('vp-parks')), count(event_store.project('vp-hours'));
SELECT pg_temp.rows('vp-stops');
SELECT stopped, regexp_replace(last_error, 'event \d+', 'event N') FROM event_store.subscription_positions WHERE subscription_name = 'vp-stops' ORDER BY number DESC LIMIT 1;
SELECT pg_temp.rows('vp-parks');
SELECT partition_key, state, error_message FROM event_store.parked_events WHERE subscription_name = 'vp-parks';
SELECT pg_temp.rows('vp-hours');

-- of two types whose aggregates share an id no row moves, unless the type is in its key
BEGIN;
SELECT event_store.create_view_projection('vp-' || k, '{VpOrder,VpBill}', key::jsonb, '{"events": {"Bought": [{"op": "append", "path": "$.types", "from": "$.aggregate_type"}]}}', start_after => NULL)
  FROM (VALUES ('shared', '{"concat": [{"sticky": "$.payload.customer"}, {"value": "/"}, "$.aggregate_id"]}'),
               ('apart', '{"concat": [{"sticky": "$.payload.customer"}, {"value": "/"}, "$.aggregate_type", "$.aggregate_id"]}')) v (k, key);
SELECT event_store.pause_subscription('vp-shared'), event_store.pause_subscription('vp-apart');
COMMIT;
SELECT pg_temp.append('b-1', 'Bought', '{"customer": "ann"}'), pg_temp.append('b-1', 'Bought', '{"customer": "bob"}', 'VpBill'), pg_temp.append('b-1', 'Bought', '{"customer": "bob"}');
SELECT event_store.project('vp-shared'), event_store.project('vp-apart');
SELECT view_name, view_key, view_data FROM event_store.domain_views WHERE view_name IN ('vp-shared', 'vp-apart') ORDER BY 1, 2;

-- dropped, its rows stay and are anybody's; made anew, it begins with none
SELECT event_store.drop_projection('vp-moves');
SELECT count(*) FROM event_store.sticky_keys WHERE projection_name = 'vp-moves';
SELECT pg_temp.make('vp-moves', '"$.payload.customer"', :'count_rules');
SELECT event_store.clear_view('vp-moves') > 0;
BEGIN;
SELECT pg_temp.make('vp-moves', '"$.payload.customer"', :'count_rules');
SELECT pg_temp.outcome('SELECT event_store.put_view(''vp-moves'', ''k'', ''1'')');
ROLLBACK;
SELECT pg_temp.outcome('SELECT event_store.put_view(''vp-moves'', ''k'', ''1'')');
SELECT event_store.clear_view('vp-moves');

SELECT count(*) FROM (SELECT event_store.drop_projection(projection_name) FROM event_store.projections WHERE projection_name LIKE 'vp-%') d;
SELECT count(*) FROM (SELECT event_store.clear_view(view_name) FROM (SELECT DISTINCT view_name FROM event_store.domain_views WHERE view_name LIKE 'vp-%') v) c;
