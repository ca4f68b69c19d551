-- The tables belong to their owner, who may be no superuser: what he writes into them by
-- hand makes calls fail, and takes the server down for nobody.
SELECT plan(19);
SELECT event_store.create_store() \g /dev/null
CREATE FUNCTION handle(event event_store.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION empty() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
SELECT event_store.append_event('Spoiled', 's-1', NULL, 'Made'), event_store.append_event('Kept', 'k-1', NULL, 'Made') \g /dev/null
SELECT event_store.create_subscription('spoiled', '{Spoiled}'), event_store.create_subscription('spoiled too', '{Spoiled}') \g /dev/null
SELECT event_store.fail_events('spoiled', n.global_position, 'no', 'park') FROM event_store.next_events('spoiled', 1) n \g /dev/null
SELECT count(*) FROM event_store.claim_events('spoiled too', 'c', 1, '1 hour') \g /dev/null
SELECT event_store.create_projection('spoiled handler', 'public.handle(event_store.event)'::regprocedure, '{Nothing}', reset => 'public.empty()'::regprocedure) \g /dev/null
SELECT event_store.create_view_projection('spoiled view', '{Kept}', '"$.aggregate_id"', '{"events": {"*": [{"op": "increment", "path": "$.n", "value": 1}]}}') \g /dev/null
SELECT event_store.create_view_projection('spoiled inline', '{Inline}', mode => 'inline') \g /dev/null

-- What a call says with a row like that; the row is put back.
CREATE FUNCTION pg_temp.with_row(change text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text := 'nothing';
BEGIN
    BEGIN
        EXECUTE change;
        EXECUTE call;
        RAISE EXCEPTION 'undone' USING ERRCODE = 'UNDO1';
    EXCEPTION
        WHEN SQLSTATE 'UNDO1' THEN NULL;
        WHEN OTHERS THEN answer := SQLSTATE;
    END;
    RETURN answer;
END
$$;

SELECT is(pg_temp.with_row($$UPDATE event_store.subscriptions SET members = -1 WHERE subscription_name = 'spoiled'$$, 'SELECT count(*) FROM event_store.subscription_status'), '55000', 'less than no member');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscriptions SET members = 2147483647 WHERE subscription_name = 'spoiled'$$, $$SELECT event_store.resize_subscription('spoiled', 3)$$), '55000', 'very many');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscriptions SET members = 2147483647 WHERE projection$$, 'SELECT count(*) FROM event_store.projection_status'), 'nothing', 'of a projection');
SELECT is(pg_temp.with_row($$UPDATE event_store.parked_events SET member = -1$$, 'SELECT count(*) FROM event_store.subscription_status'), 'nothing', 'a parked event of no member');
SELECT is(pg_temp.with_row($$UPDATE event_store.parked_events SET member = -2147483648$$, 'SELECT count(*) FROM event_store.metrics'), 'nothing', 'in the metrics');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscription_positions SET consumer = NULL$$, 'SELECT count(*) FROM event_store.subscription_status'), 'nothing', 'a lease of nobody');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscription_positions SET consumer = NULL$$, $$SELECT count(*) FROM event_store.claim_events('spoiled too', 'd', 1, '1 hour')$$), 'nothing', 'is none');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscription_positions SET lease = -1$$, 'SELECT count(*) FROM event_store.subscription_status'), 'nothing', 'a lease with a number of its own');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscriptions SET aggregate_types = NULL WHERE subscription_name = 'spoiled view'$$, $$SELECT event_store.rebuild_projection('spoiled view')$$), '55000', 'a view without types');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscriptions SET aggregate_types = '{}' WHERE subscription_name = 'spoiled view'$$, $$SELECT event_store.rebuild_projection('spoiled view')$$), '55000', 'none in a list');
SELECT is(pg_temp.with_row($$UPDATE event_store.subscriptions SET aggregate_types = NULL WHERE subscription_name = 'spoiled inline';
    UPDATE event_store.projections SET timeout = timeout WHERE projection_name = 'spoiled inline'$$, $$SELECT event_store.append_event('Inline', 'i-1', NULL, 'Made')$$), '55000', 'an inline one');
SELECT is(pg_temp.with_row($$UPDATE event_store.projections SET handler_owner = NULL$$, $$SELECT event_store.rebuild_projection('spoiled handler')$$), '42883', 'a handler of nobody');
SELECT is(pg_temp.with_row($$UPDATE event_store.projections SET reset = ''$$, $$SELECT event_store.rebuild_projection('spoiled handler')$$), '42883', 'no name of a function');
SELECT is(pg_temp.with_row($$UPDATE event_store.projections SET reset = 'empty()'$$, $$SELECT event_store.rebuild_projection('spoiled handler')$$), '42883', 'one without a schema');
SELECT is(pg_temp.with_row($$UPDATE event_store.projections SET reset = 'public.handle(event_store.event)'$$, $$SELECT event_store.rebuild_projection('spoiled handler')$$), '42883', 'and one with arguments');
SELECT is(pg_temp.with_row($$UPDATE event_store.projections SET reset = 'empty'$$, $$SELECT event_store.rebuild_projection('spoiled handler')$$), '42883', 'nor is a name without arguments one');
UPDATE event_store.projections SET reset = 'public.handle(event_store.event)' WHERE projection_name = 'spoiled handler';
SELECT throws_like($$SELECT event_store.rebuild_projection('spoiled handler')$$, '%cannot reset a projection%', 'a handler resets nothing');
UPDATE event_store.projections SET reset = 'public.empty()' WHERE projection_name = 'spoiled handler';
SELECT is(pg_temp.with_row($$UPDATE event_store.projections SET handler = 'x'$$, $$SELECT event_store.rebuild_projection('spoiled handler')$$), 'nothing', 'what is not needed is not looked at');
SELECT is((SELECT count(*) FROM event_store.subscription_status), 5::bigint, 'and all is as it was');
SELECT * FROM finish();
