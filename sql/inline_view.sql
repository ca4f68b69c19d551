-- inline_view: a view that appends fold is neither behind nor ahead of the log
\pset null null
\pset format unaligned
\pset tuples_only on
SELECT event_store.create_store();
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    context text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RETURN sqlstate || ' ' || sqlerrm || coalesce(' @ ' || substring(context FROM 'projection "[^\n]*'), '');
END
$$;
CREATE FUNCTION pg_temp.rows(name text) RETURNS SETOF text
    LANGUAGE sql AS $$ SELECT view_key || ' ' || view_data FROM event_store.domain_views WHERE view_name = name ORDER BY view_key $$;
CREATE FUNCTION pg_temp.append(id text, type text, payload jsonb, how text DEFAULT 'durable') RETURNS void
    LANGUAGE sql AS $$ SELECT count(event_store.append_event('IvOrder', id, NULL, type, payload, durability => how)) $$;
-- waits until a view is inline
CREATE PROCEDURE pg_temp.wait(name text) LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT EXISTS (SELECT FROM event_store.projections WHERE projection_name = name AND mode = 'inline') LOOP
        COMMIT;
    END LOOP;
END
$$;
\set rules '{"events": {"Paid": [{"op": "increment", "path": "$.sum", "from": "$.payload.amount"}, {"op": "append", "path": "$.ids", "from": "$.aggregate_id"}]}}'
SELECT pg_temp.outcome(format($$SELECT event_store.create_view_projection('iv-a', '{IvOrder}', '"$.payload.customer"', %L, 'inline', start_after => 1)$$, :'rules'));
SELECT pg_temp.outcome(format($$SELECT event_store.create_view_projection('iv-a', '{IvOrder}', '"$.payload.customer"', %L, 'inline', members => 2)$$, :'rules'));

-- where there are no events it is inline at once; again it is the same
SELECT event_store.create_view_projection('iv-sums', '{IvOrder}', '"$.payload.customer"', :'rules', 'inline');
SELECT event_store.create_view_projection('iv-sums', '{IvOrder}', '"$.payload.customer"', :'rules', 'inline');
SELECT event_store.create_view_projection('iv-states', '{IvOrder}', mode => 'inline');
SELECT event_store.create_view_projection('iv-moves', '{IvOrder}', '{"concat": [{"sticky": "$.payload.customer"}, {"value": "/"}, "$.aggregate_id"]}', :'rules', 'inline');
SELECT projection_name, mode, lag_events, state FROM event_store.projection_status WHERE projection_name LIKE 'iv-%' ORDER BY 1;

-- appends of all kinds fold, in the transaction and at once; a staged one is durable
SELECT pg_temp.append('o-1', 'Paid', '{"customer": "ann", "amount": 1}');
SELECT pg_temp.append('o-1', 'Paid', '{"customer": "bob", "amount": 2}', 'staged');
SELECT count(*) FROM event_store.append_events('IvOrder', 'o-2', 0, '[{"event_type": "Paid", "payload": {"customer": "ann", "amount": 4}}, {"event_type": "Paid", "payload": {"amount": 8}}]');
SELECT count(*) FROM event_store.append_batch('[{"aggregate_type": "IvOrder", "aggregate_id": "o-3", "event_type": "Paid", "payload": {"customer": "ann", "amount": 16}},
    {"aggregate_type": "IvOther", "aggregate_id": "x", "event_type": "Paid", "payload": {"customer": "ann", "amount": 1000}},
    {"aggregate_type": "IvOrder", "aggregate_id": "o-2", "event_type": "Paid", "payload": {"customer": "cid", "amount": 32}}]');
SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'IvOrder';
SELECT pg_temp.rows('iv-sums');
SELECT pg_temp.rows('iv-states');
SELECT pg_temp.rows('iv-moves');
BEGIN;
SELECT pg_temp.append('o-4', 'Paid', '{"customer": "ann", "amount": 64}');
SELECT pg_temp.append('o-4', 'Paid', '{"customer": "ann", "amount": 128}');
SELECT pg_temp.rows('iv-sums');
ROLLBACK;
SELECT pg_temp.rows('iv-sums');
-- what is repeated or refused is not folded
SELECT count(*) FROM event_store.append_event('IvOrder', 'r', NULL, 'Paid', '{"customer": "dora", "amount": 1}', event_id => '1f5e0c1a-7a51-4c15-8e0d-15c0de15c0de') a;
SELECT a.outcome FROM event_store.append_event('IvOrder', 'r', NULL, 'Paid', '{"customer": "dora", "amount": 1}', event_id => '1f5e0c1a-7a51-4c15-8e0d-15c0de15c0de') a;
SELECT pg_temp.outcome($$SELECT event_store.append_event('IvOrder', 'r', 0, 'Paid', '{"customer": "dora", "amount": 1}')$$);
SELECT view_data FROM event_store.domain_views WHERE view_name = 'iv-sums' AND view_key = 'dora';
-- an error of a fold is that of the append, which it names
SELECT pg_temp.outcome($$SELECT event_store.append_event('IvOrder', 'o-5', NULL, 'Paid', '{"customer": "ann", "amount": "much"}')$$);
SELECT event_store.aggregate_sequence('IvOrder', 'o-5');
SELECT pg_temp.outcome($$SELECT event_store.put_view('iv-sums', 'ann', '1')$$);

-- paused, it is left to project(); resumed, it catches up and is inline again
SELECT event_store.pause_subscription('iv-sums');
SELECT pg_temp.append('o-6', 'Paid', '{"customer": "eve", "amount": 1}');
SELECT mode, lag_events, state FROM event_store.projection_status WHERE projection_name = 'iv-sums';
SELECT count(*) FROM event_store.domain_views WHERE view_name = 'iv-sums' AND view_key = 'eve';
SELECT event_store.project('iv-sums');
SELECT mode FROM event_store.projection_status WHERE projection_name = 'iv-sums';
SELECT pg_temp.append('o-6', 'Paid', '{"customer": "eve", "amount": 2}');
SELECT event_store.resume_subscription('iv-sums');
CALL pg_temp.wait('iv-sums');
SELECT pg_temp.append('o-6', 'Paid', '{"customer": "eve", "amount": 4}');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'iv-sums' AND view_key = 'eve';
-- paused by who has just appended, it misses nothing and repeats nothing
BEGIN;
SELECT pg_temp.append('o-6', 'Paid', '{"customer": "eve", "amount": 8}');
SELECT event_store.pause_subscription('iv-sums');
SELECT pg_temp.append('o-6', 'Paid', '{"customer": "eve", "amount": 16}');
COMMIT;
SELECT event_store.resume_subscription('iv-sums');
CALL pg_temp.wait('iv-sums');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'iv-sums' AND view_key = 'eve';

-- made where there are events, it catches up by itself
SELECT event_store.create_view_projection('iv-late', '{IvOrder}', '"$.payload.customer"', :'rules', 'inline');
CALL pg_temp.wait('iv-late');
SELECT pg_temp.append('o-7', 'Paid', '{"customer": "ann", "amount": 256}');
SELECT count(*) > 3 AND bool_and(a.view_key IS NOT NULL AND b.view_key IS NOT NULL) AS same
  FROM (SELECT * FROM event_store.domain_views WHERE view_name = 'iv-sums') a
  FULL JOIN (SELECT * FROM event_store.domain_views WHERE view_name = 'iv-late') b USING (view_key, view_data, version);

-- rebuilt and replaced it is inline all the while
UPDATE event_store.domain_views SET view_data = '{}' WHERE view_name = 'iv-late' AND view_key = 'ann';
SELECT event_store.rebuild_projection('iv-late');
SELECT pg_temp.append('o-7', 'Paid', '{"customer": "ann", "amount": 512}');
SELECT count(*) > 3 AND bool_and(a.view_key IS NOT NULL AND b.view_key IS NOT NULL) AS same
  FROM (SELECT * FROM event_store.domain_views WHERE view_name = 'iv-sums') a
  FULL JOIN (SELECT * FROM event_store.domain_views WHERE view_name = 'iv-late') b USING (view_key, view_data, version);
SELECT event_store.replace_projection('iv-late', '{IvOrder}', '"$.event_type"', '{"events": {"*": [{"op": "increment", "path": "$.n", "value": 1}]}}') > 0;
SELECT pg_temp.append('o-7', 'Sent', '{}');
SELECT (SELECT view_data ->> 'n' FROM event_store.domain_views WHERE view_name = 'iv-late' AND view_key = 'Paid')::int
     = (SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'IvOrder' AND event_type = 'Paid');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'iv-late' AND view_key = 'Sent';
SELECT mode FROM event_store.projection_status WHERE projection_name = 'iv-late';
SELECT pg_temp.outcome($$SELECT event_store.move_subscription('iv-late', 0)$$);
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('iv-late', 2)$$);

-- what is written around the append is not folded, until the view is made anew
INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
SELECT max(global_position) + 1, 'IvOrder', 'o-8', 1, gen_random_uuid(), 'Sent', '{}', now(), now() FROM event_store.domain_events;
SELECT view_data FROM event_store.domain_views WHERE view_name = 'iv-late' AND view_key = 'Sent';
SELECT event_store.rebuild_projection('iv-late');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'iv-late' AND view_key = 'Sent';

-- a reducer that is gone refuses the appends of its type, and no others
CREATE FUNCTION public.iv_reduce(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('events', event.sequence) $$;
SELECT event_store.set_reducer('IvReduced', 'public.iv_reduce'::regproc);
SELECT event_store.create_view_projection('iv-reduced', '{IvReduced}', mode => 'inline');
SELECT count(event_store.append_event('IvReduced', 'r-1', NULL, 'E'));
DROP FUNCTION public.iv_reduce;
\c -
SELECT event_store.append_event('IvReduced', 'r-1', NULL, 'E');
SELECT count(event_store.append_event('IvOrder', 'o-7', NULL, 'Sent', '{}'));
CREATE FUNCTION public.iv_reduce(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('events', event.sequence) $$;
SELECT count(event_store.append_event('IvReduced', 'r-1', NULL, 'E'));
SELECT view_data FROM event_store.domain_views WHERE view_name = 'iv-reduced';
SELECT event_store.set_reducer('IvReduced', NULL);
DROP FUNCTION public.iv_reduce;

SELECT count(*) FROM (SELECT event_store.drop_projection(projection_name) FROM event_store.projections WHERE projection_name LIKE 'iv-%') d;
SELECT count(event_store.append_event('IvOrder', 'o-9', NULL, 'Paid', '{"customer": "zoe", "amount": 1}'));
SELECT count(*) FROM event_store.domain_views WHERE view_key = 'zoe';
SELECT count(*) FROM (SELECT event_store.clear_view(view_name) FROM (SELECT DISTINCT view_name FROM event_store.domain_views WHERE view_name LIKE 'iv-%') v) c;
