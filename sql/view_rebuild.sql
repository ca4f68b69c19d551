-- view_rebuild: a projected view is built anew beside the live one, and only what differs is written
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
CREATE FUNCTION pg_temp.rows(name text) RETURNS SETOF text
    LANGUAGE sql AS $$ SELECT view_key || ' ' || view_data FROM event_store.domain_views WHERE view_name = name ORDER BY view_key $$;
SELECT event_store.safe_position() AS start \gset
\set rules '{"events": {"Paid": [{"op": "increment", "path": "$.sum", "from": "$.payload.amount"}, {"op": "append", "path": "$.ids", "from": "$.aggregate_id"}]}}'
BEGIN;
SELECT event_store.create_view_projection('vr-sums', '{VrOrder}', '{"sticky": "$.payload.customer"}', :'rules', start_after => :start);
SELECT event_store.create_view_projection('vr-skips', '{VrOrder}', '"$.payload.customer"', :'rules', start_after => :start, on_failure => 'skip', max_attempts => 1);
SELECT event_store.create_view_projection('vr-members', '{VrOrder}', '"$.payload.customer"', :'rules', start_after => :start, members => 3);
SELECT count(event_store.pause_subscription(s)) FROM unnest('{vr-sums,vr-skips,vr-members}'::text[]) s;
COMMIT;
SELECT count(event_store.append_event('VrOrder', 'o-' || i % 4, NULL, 'Paid',
    CASE WHEN i <= 4 OR i = 17 THEN jsonb_build_object('customer', 'c-' || i % 3, 'amount', i) ELSE jsonb_build_object('amount', i) END))
  FROM generate_series(1, 20) i;
SELECT event_store.project('vr-sums');
SELECT pg_temp.rows('vr-sums');

-- what is right is not written again
CREATE TEMPORARY TABLE before AS SELECT ctid AS place, * FROM event_store.domain_views WHERE view_name = 'vr-sums';
SELECT event_store.rebuild_projection('vr-sums');
SELECT count(*) FROM before b JOIN event_store.domain_views v ON v.view_name = b.view_name AND v.ctid = b.place AND v.view_data = b.view_data;
-- what is wrong is put right, what is missing comes back, what is too much goes
UPDATE event_store.domain_views SET view_data = '{"sum": -1}' WHERE view_name = 'vr-sums' AND view_key = 'c-0';
DELETE FROM event_store.domain_views WHERE view_name = 'vr-sums' AND view_key = 'c-1';
INSERT INTO event_store.domain_views (view_name, view_key, view_data) VALUES ('vr-sums', 'c-9', '{}');
UPDATE event_store.sticky_keys SET value = 'c-9' WHERE projection_name = 'vr-sums' AND aggregate_id = 'o-1';
SELECT event_store.rebuild_projection('vr-sums');
SELECT count(*), count(*) FILTER (WHERE v.view_data = b.view_data AND v.version = b.version) FROM before b
  FULL JOIN (SELECT * FROM event_store.domain_views WHERE view_name = 'vr-sums') v USING (view_key);
SELECT aggregate_id, value FROM event_store.sticky_keys WHERE projection_name = 'vr-sums' ORDER BY 1;
-- and it goes on from there
SELECT count(event_store.append_event('VrOrder', 'o-1', NULL, 'Paid', '{"amount": 1000}'));
SELECT event_store.project('vr-sums');
SELECT pg_temp.rows('vr-sums');

-- in steps, the projection going on meanwhile
UPDATE event_store.domain_views SET view_data = '{"sum": -1}' WHERE view_name = 'vr-sums' AND view_key = 'c-0';
SELECT event_store.rebuild_projection_step('vr-sums', 8);
SELECT event_store.rebuild_projection_step('vr-sums', 8);
SELECT rebuild_done > 0, rebuild_done < rebuild_total FROM event_store.projection_status WHERE projection_name = 'vr-sums';
SELECT view_data FROM event_store.domain_views WHERE view_name = 'vr-sums' AND view_key = 'c-0';
SELECT count(event_store.append_event('VrOrder', 'o-2', NULL, 'Paid', '{"amount": 2000}'));
SELECT event_store.project('vr-sums');
SELECT event_store.rebuild_projection_step('vr-sums', 8);
SELECT pg_temp.rows('vr-sums');
SELECT event_store.project('vr-sums');
SELECT rebuild_done, rebuild_total FROM event_store.projection_status WHERE projection_name = 'vr-sums';
SELECT count(*) FROM event_store.view_rebuild_rows WHERE view_name = 'vr-sums';

-- another definition; what is wrong with it is named, and changes nothing
SELECT event_store.replace_projection('vr-sums', '{VrOrder}', '"$.aggregate_id"', '{"events": {"Paid": [{"op": "max", "path": "$.most", "from": "$.payload.amount"}]}}');
SELECT pg_temp.rows('vr-sums');
SELECT pg_temp.outcome($$SELECT event_store.replace_projection('vr-sums', '{VrOrder}', '"$.aggregate"', '{"events": {}}')$$);
SELECT pg_temp.outcome($$SELECT event_store.replace_projection('vr-sums', '{VrOrder}', '"$.aggregate_id"', '{"events": {"Paid": [{"op": "increment", "path": "$.n", "from": "$.aggregate_id"}]}}')$$);
SELECT pg_temp.outcome($$SELECT event_store.replace_projection('vr-none', '{VrOrder}', '"$.aggregate_id"', '{"events": {}}')$$);
SELECT pg_temp.outcome($$SELECT event_store.replace_projection('vr-members', '{VrOrder}', '{"sticky": "$.payload.customer"}', '{"events": {}}')$$);
SELECT pg_temp.outcome($$SELECT event_store.rebuild_projection_step('vr-sums', 0)$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.outcome($$SELECT event_store.rebuild_projection('vr-sums')$$);
COMMIT;
SELECT pg_temp.rows('vr-sums');
-- in steps it is that which is built, and the old one goes on until then
SELECT event_store.replace_projection('vr-sums', '{VrOrder}', NULL, '{"events": {"Paid": [{"op": "min", "path": "$.least", "from": "$.payload.amount"}]}}', in_steps => true);
SELECT event_store.rebuild_projection_step('vr-sums', 10);
SELECT count(event_store.append_event('VrOrder', 'o-3', NULL, 'Paid', '{"amount": 0}'));
SELECT event_store.project('vr-sums');
SELECT pg_temp.rows('vr-sums');
SELECT event_store.rebuild_projection_step('vr-sums', 10);
SELECT event_store.rebuild_projection_step('vr-sums', 10);
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'vr-sums' ORDER BY 1;
SELECT count(event_store.append_event('VrOrder', 'o-0', NULL, 'Paid', '{"amount": -5}'));
SELECT event_store.project('vr-sums');
SELECT pg_temp.rows('vr-sums');

-- a definition that is stored divides no rows: with several members it is not taken
SELECT event_store.replace_projection('vr-sums', '{VrOrder}', '{"sticky": "$.payload.customer"}', :'rules', in_steps => true);
SELECT event_store.resize_subscription('vr-sums', 2);
SELECT pg_temp.outcome($$SELECT event_store.rebuild_projection_step('vr-sums', 1000)$$);
SELECT event_store.resize_subscription('vr-sums', 1);
SELECT event_store.rebuild_projection_step('vr-sums', 1000);
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('vr-sums', 2)$$);
SELECT pg_temp.rows('vr-sums');

-- of other aggregate types, with members
SELECT count(event_store.append_event('VrRefund', 'r-1', NULL, 'Paid', '{"customer": "c-0", "amount": -7}'));
SELECT event_store.project('vr-members') > 0;
SELECT event_store.replace_projection('vr-members', '{VrOrder,VrRefund}', '{"concat": [{"value": "customer "}, "$.payload.customer"]}', :'rules');
SELECT pg_temp.rows('vr-members');
SELECT count(event_store.append_event('VrRefund', 'r-2', NULL, 'Paid', '{"customer": "c-1", "amount": -1}'));
SELECT event_store.project('vr-members');
SELECT pg_temp.rows('vr-members');

-- what was skipped is skipped again; what had stopped goes on where it no longer fails
SELECT count(event_store.append_event('VrOrder', 'o-8', NULL, 'Paid', '{"customer": "c-0", "amount": "much"}'));
SELECT count(event_store.append_event('VrOrder', 'o-8', NULL, 'Paid', '{"customer": "c-0", "amount": 10000}'));
SELECT event_store.project('vr-skips') > 0;
SELECT event_store.rebuild_projection('vr-skips');
SELECT pg_temp.rows('vr-skips');
SELECT pg_temp.outcome($$SELECT event_store.rebuild_projection('vr-members')$$);
SELECT event_store.alter_subscription('vr-members', max_attempts => 1);
SELECT event_store.project('vr-members');
SELECT max(state) FROM event_store.projection_status WHERE projection_name = 'vr-members' AND last_error IS NOT NULL;
SELECT event_store.replace_projection('vr-members', '{VrOrder}', '"$.payload.customer"', '{"events": {"Paid": [{"op": "append", "path": "$.amounts", "from": "$.payload.amount"}]}}');
SELECT count(last_error) FROM event_store.projection_status WHERE projection_name = 'vr-members';
SELECT pg_temp.rows('vr-members');

-- what is no event's fault ends a rebuild, also of a projection that skips
CREATE FUNCTION public.vr_reduce(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('vr.locked') = event.sequence::text THEN
        RAISE EXCEPTION 'not to be had' USING ERRCODE = 'lock_not_available';
    ELSIF current_setting('vr.slow') = event.sequence::text THEN
        PERFORM pg_sleep(10);
    END IF;
    RETURN jsonb_build_object('events', coalesce((state ->> 'events')::int, 0) + 1);
END
$$;
SET vr.locked = '';
SET vr.slow = '';
SELECT event_store.set_reducer('VrReduced', 'public.vr_reduce'::regproc);
BEGIN;
SELECT event_store.create_view_projection('vr-reduced', '{VrReduced}', on_failure => 'skip');
SELECT event_store.pause_subscription('vr-reduced');
COMMIT;
SELECT count(event_store.append_event('VrReduced', 'r-1', NULL, 'E')) FROM generate_series(1, 3);
SELECT event_store.project('vr-reduced');
SET vr.locked = 2;
SELECT pg_temp.outcome($$SELECT event_store.rebuild_projection('vr-reduced')$$);
SET vr.locked = '';
SET vr.slow = 1;
SET statement_timeout = '200ms';
SELECT event_store.rebuild_projection('vr-reduced');
RESET statement_timeout;
SET vr.slow = '';
SELECT event_store.rebuild_projection('vr-reduced');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'vr-reduced';

SELECT count(*) FROM (SELECT event_store.drop_projection(projection_name) FROM event_store.projections WHERE projection_name LIKE 'vr-%') d;
SELECT event_store.set_reducer('VrReduced', NULL);
DROP FUNCTION public.vr_reduce;
SELECT count(*) FROM event_store.sticky_keys WHERE projection_name LIKE 'vr-%';
SELECT count(*) FROM (SELECT event_store.clear_view(view_name) FROM (SELECT DISTINCT view_name FROM event_store.domain_views WHERE view_name LIKE 'vr-%') v) c;
