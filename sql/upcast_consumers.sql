-- What consumers of every kind get of events that have another name in their last version, of one that cannot be
-- upcast, and while an upcaster is gone.
SELECT event_store.create_store();
\pset format unaligned
\pset tuples_only on
SELECT event_store.safe_position() AS before \gset
CREATE TABLE public.upcast_got (consumer text, aggregate_id text, sequence bigint, event_type text, n int GENERATED ALWAYS AS IDENTITY);
CREATE FUNCTION public.upcast_got(consumer text, event event_store.event) RETURNS void LANGUAGE sql
    AS 'INSERT INTO public.upcast_got (consumer, aggregate_id, sequence, event_type) VALUES (consumer, event.aggregate_id, event.sequence, event.event_type)';
-- what a subscription gives until it gives nothing, by next_events and by claims
CREATE PROCEDURE pg_temp.fetch(name text, at_once int) LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        PERFORM public.upcast_got(name, e) FROM event_store.next_events(name, at_once) e;
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
END $$;
CREATE PROCEDURE pg_temp.claim(name text, at_once int) LANGUAGE plpgsql AS $$
DECLARE
    batch record;
BEGIN
    LOOP
        WITH e AS MATERIALIZED (SELECT * FROM event_store.claim_events(name, 'c', at_once)),
             got AS (INSERT INTO public.upcast_got (consumer, aggregate_id, sequence, event_type)
                     SELECT name, e.aggregate_id, e.sequence, e.event_type FROM e ORDER BY e.global_position RETURNING 1)
        SELECT min(e.member) AS member, min(e.lease) AS lease INTO batch FROM e, (SELECT count(*) FROM got) g;
        EXIT WHEN batch.lease IS NULL;
        PERFORM event_store.ack_events(name, batch.member, batch.lease);
        COMMIT;
    END LOOP;
END $$;
-- each consumer, how many events of which type it got, and whether each once
CREATE FUNCTION pg_temp.got(pattern text) RETURNS TABLE (consumer text, event_type text, events bigint, once boolean) LANGUAGE sql AS $$
    SELECT g.consumer, g.event_type, count(*), count(*) = count(DISTINCT (g.aggregate_id, g.sequence)) FROM public.upcast_got g
     WHERE g.consumer LIKE pattern GROUP BY 1, 2 ORDER BY 1, 2 $$;

-- ---------- a type that was renamed: each old event comes once under the new name, none under the old one

-- in the log, in the archive, and in both; some were written under the new name
SELECT count(event_store.append_event('UpcastAll', 'a-' || a, NULL, CASE n WHEN 2 THEN 'NewerName' ELSE 'OlderName' END, '{"n": 1}', schema_version => CASE n WHEN 2 THEN 2 ELSE 1 END))
  FROM generate_series(1, 6) a, generate_series(1, 3) n;
SELECT event_store.archive_aggregate('UpcastAll', 'a-1'), event_store.archive_aggregate('UpcastAll', 'a-2', 3), event_store.archive_aggregate('UpcastAll', 'a-6');
SELECT event_store.set_upcaster('OlderName', 1, aggregate_type => 'UpcastAll', rules => '{"event_type": "NewerName", "operations": [{"op": "set", "path": "$.up", "value": true}]}');

-- reads of everything at once, in batches, backward, by members
SELECT t, count(*), count(DISTINCT global_position), min(schema_version), bool_and(payload ? 'up' OR sequence = 2)
  FROM unnest('{NewerName,OlderName}'::text[]) t LEFT JOIN LATERAL event_store.read_events(:before, NULL, event_types => ARRAY[t]) ON true WHERE global_position IS NOT NULL GROUP BY t;
CREATE FUNCTION pg_temp.read_on(consumer text, first bigint, type text, backward boolean, member int, members int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    place bigint := CASE WHEN backward THEN event_store.safe_position() ELSE first END;
    batch event_store.event[];
BEGIN
    LOOP
        batch := ARRAY(SELECT e FROM event_store.read_events(CASE WHEN backward THEN first ELSE place END, 4, '{UpcastAll}', ARRAY[type], member, members,
                                                             CASE WHEN backward THEN place END, backward) e);
        EXIT WHEN batch = '{}';
        PERFORM public.upcast_got(consumer || ' ' || type, e) FROM unnest(batch) e;
        place := (batch[cardinality(batch)]).global_position - CASE WHEN backward THEN 1 ELSE 0 END;
    END LOOP;
END $$;
SELECT pg_temp.read_on('feed forward', :before, t, false, NULL, NULL), pg_temp.read_on('feed backward', :before, t, true, NULL, NULL),
       pg_temp.read_on('feed members', :before, t, false, 0, 2), pg_temp.read_on('feed members', :before, t, false, 1, 2)
  FROM unnest('{NewerName,OlderName}'::text[]) t \g /dev/null
SELECT * FROM pg_temp.got('feed%');

-- subscriptions, of one member and of three
SELECT count(event_store.create_subscription('upcast ' || way || members || ' ' || t, '{UpcastAll}', ARRAY[t], members, :before))
  FROM unnest('{NewerName,OlderName}'::text[]) t, unnest('{fetch,claim}'::text[]) way, unnest('{1,3}'::int[]) members;
SELECT format('CALL pg_temp.%s(%L, 4)', CASE WHEN subscription_name LIKE '%fetch%' THEN 'fetch' ELSE 'claim' END, subscription_name)
  FROM event_store.subscriptions WHERE subscription_name LIKE 'upcast %' ORDER BY subscription_name \gexec
SELECT * FROM pg_temp.got('upcast %');
SELECT count(event_store.drop_subscription(subscription_name)) FROM event_store.subscriptions WHERE subscription_name LIKE 'upcast %';

-- projections: handlers, and views by the server and by the append
CREATE FUNCTION public.upcast_new_handler(event event_store.event) RETURNS void LANGUAGE sql AS $$ SELECT public.upcast_got('handler new', event) $$;
CREATE FUNCTION public.upcast_old_handler(event event_store.event) RETURNS void LANGUAGE sql AS $$ SELECT public.upcast_got('handler old', event) $$;
SELECT event_store.create_projection('upcast handler new', 'public.upcast_new_handler(event_store.event)', '{UpcastAll}', '{NewerName}', :before),
       event_store.create_projection('upcast handler old', 'public.upcast_old_handler(event_store.event)', '{UpcastAll}', '{OlderName}', :before);
SELECT count(event_store.create_view_projection('upcast view ' || mode, '{UpcastAll}', NULL,
    '{"events": {"NewerName": [{"op": "increment", "path": "$.n", "from": "$.payload.n"}], "OlderName": [{"op": "set", "path": "$.wrong", "value": true}]}}', mode => mode))
  FROM unnest('{async,inline}'::text[]) mode;
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM event_store.projections WHERE projection_name = 'upcast view inline' AND mode = 'inline') LOOP
        PERFORM event_store.project('upcast view inline');
        COMMIT;
    END LOOP;
END $$;
SELECT count(event_store.append_event('UpcastAll', 'a-' || a, NULL, 'OlderName', '{"n": 1}')) FROM generate_series(3, 4) a;
SELECT event_store.project('upcast handler new') >= 0, event_store.project('upcast handler old') >= 0, event_store.project('upcast view async') >= 0;
SELECT * FROM pg_temp.got('handler%');
SELECT view_name, string_agg(view_key || ' ' || view_data, ', ' ORDER BY view_key) FROM event_store.domain_views WHERE view_name LIKE 'upcast view%' GROUP BY 1 ORDER BY 1;
SELECT count(event_store.drop_projection(projection_name)) FROM event_store.projections WHERE projection_name LIKE 'upcast %';

-- ---------- one that cannot be upcast: what lies before it comes, it waits with its partition, the others go on

SELECT count(event_store.append_event('UpcastPart', 'p-' || CASE n WHEN 4 THEN 3 ELSE n END, NULL, 'Partly', jsonb_build_object('n', CASE n WHEN 3 THEN '"none"' ELSE '1' END::jsonb))) FROM generate_series(1, 6) n;
SELECT event_store.set_upcaster('Partly', 1, rules => '[{"op": "increment", "path": "$.n", "value": 1}]');
SELECT count(event_store.create_subscription('upcast ' || n, '{UpcastPart}', start_after => :before, on_failure => 'park', max_attempts => 1)) FROM unnest('{part claim,part fetch,part archive}'::text[]) n;
SELECT string_agg(aggregate_id || ' ' || sequence, ', ') FROM event_store.next_events('upcast part fetch');
CALL pg_temp.fetch('upcast part fetch', 100);
CALL pg_temp.claim('upcast part claim', 100);
-- out of the archive as well
SELECT event_store.archive_aggregate('UpcastPart', 'p-1'), event_store.archive_aggregate('UpcastPart', 'p-3');
CALL pg_temp.claim('upcast part archive', 100);
SELECT consumer, string_agg(aggregate_id || ' ' || sequence, ', ' ORDER BY n) FROM public.upcast_got WHERE consumer LIKE 'upcast part%' GROUP BY 1 ORDER BY 1;
SELECT subscription_name, partition_key, state, attempts, error_code FROM event_store.parked_events WHERE subscription_name LIKE 'upcast part%' ORDER BY 1;
-- a handler, and a view; batches of the feed before it come
CREATE FUNCTION public.upcast_part_handler(event event_store.event) RETURNS void LANGUAGE sql AS $$ SELECT public.upcast_got('handler part', event) $$;
SELECT event_store.create_projection('upcast part handler', 'public.upcast_part_handler(event_store.event)', '{UpcastPart}', start_after => :before, on_failure => 'park', max_attempts => 1);
SELECT event_store.project('upcast part handler') >= 0;
SELECT string_agg(aggregate_id || ' ' || sequence, ', ' ORDER BY n) FROM public.upcast_got WHERE consumer = 'handler part';
SELECT string_agg(partition_key || ' ' || state, ', ') FROM event_store.parked_events WHERE subscription_name = 'upcast part handler';
SELECT event_store.create_view_projection('upcast part view', '{UpcastPart}', NULL, '{"events": {"Partly": [{"op": "set", "path": "$.n", "from": "$.payload.n"}]}}', on_failure => 'skip', max_attempts => 1);
SELECT event_store.project('upcast part view') >= 0;
SELECT string_agg(view_key || ' ' || view_data, ', ' ORDER BY view_key) FROM event_store.load_views('upcast part view');
SELECT string_agg(aggregate_id || ' ' || sequence, ', ') FROM event_store.read_events(:before, 2, '{UpcastPart}');
\set VERBOSITY terse
SELECT count(*) FROM event_store.read_events(:before, 3, '{UpcastPart}');
SELECT count(*) FROM event_store.read_events(:before, NULL, '{UpcastPart}', upcast => false);
-- mended, all come in their order
SELECT event_store.set_upcaster('Partly', 1, rules => '[{"op": "set", "path": "$.n", "value": 7}]');
SELECT count(event_store.retry_parked_events(subscription_name)) FROM event_store.subscriptions WHERE subscription_name LIKE 'upcast part%';
CALL pg_temp.fetch('upcast part fetch', 100);
CALL pg_temp.claim('upcast part claim', 100);
CALL pg_temp.claim('upcast part archive', 100);
SELECT event_store.project('upcast part handler') >= 0;
SELECT consumer, string_agg(aggregate_id || ' ' || sequence, ', ' ORDER BY n) FROM public.upcast_got WHERE consumer LIKE '%part%' GROUP BY 1 ORDER BY 1;
SELECT count(event_store.drop_projection(projection_name)) FROM event_store.projections WHERE projection_name LIKE 'upcast part%';
SELECT count(event_store.drop_subscription(subscription_name)) FROM event_store.subscriptions WHERE subscription_name LIKE 'upcast part%';

-- ---------- an upcaster is gone: what was given is acknowledged, what is parked is told to be retried, and the next call says what is missing

CREATE PROCEDURE pg_temp.come() LANGUAGE plpgsql AS $$
BEGIN
    CREATE FUNCTION public.upcast_gone(event event_store.event) RETURNS event_store.event LANGUAGE plpgsql IMMUTABLE
        AS 'BEGIN event.payload := jsonb_build_object(''customer'', event.payload -> ''cust''); RETURN event; END';
END $$;
CREATE FUNCTION pg_temp.says(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'nothing';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN replace(concat_ws(' ', sqlstate, sqlerrm, hint), format('role "%s"', current_user), 'its role');
END $$;
CALL pg_temp.come();
SELECT event_store.set_upcaster('Gone', 1, 'public.upcast_gone');
SELECT count(event_store.append_event('UpcastGone', 'g-' || a, NULL, 'Gone', jsonb_build_object('cust', 'c-' || a))) FROM (SELECT a FROM generate_series(1, 3) n, generate_series(1, 2) a ORDER BY n, a) e;
SELECT event_store.create_subscription('upcast gone', '{UpcastGone}', '{Gone}', start_after => :before);
-- in pieces; one that fails is set aside
SELECT min(lease) AS lease, min(global_position) AS first, (array_agg(global_position ORDER BY global_position))[3] AS third, count(*) FROM event_store.claim_events('upcast gone', 'c') \gset
DROP FUNCTION public.upcast_gone;
SELECT event_store.ack_events('upcast gone', 0, :lease, :first);
SELECT event_store.ack_events('upcast gone', 0, :lease, :third, ARRAY[:third], action => 'park');
SELECT event_store.ack_events('upcast gone', 0, :lease);
SELECT partition_key, state, global_position = :third FROM event_store.parked_events WHERE subscription_name = 'upcast gone';
SELECT event_store.retry_parked_events('upcast gone');
SELECT pg_temp.says($$SELECT count(*) FROM event_store.claim_events('upcast gone', 'c')$$);
SELECT pg_temp.says($$SELECT count(*) FROM event_store.next_events('upcast gone')$$);
SELECT pg_temp.says($$SELECT event_store.discard_parked_events('upcast gone', 'UpcastGone/g-1', 'not while nobody knows what it is')$$);
-- with another signature it is gone as well
CREATE FUNCTION public.upcast_gone(event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT event';
SELECT event_store.retry_parked_events('upcast gone');
SELECT pg_temp.says($$SELECT count(*) FROM event_store.claim_events('upcast gone', 'c')$$);
DROP FUNCTION public.upcast_gone(jsonb);
-- there again, what is left comes in its order; so it does where the batch of a retry ends while it belongs to another
CALL pg_temp.come();
SELECT aggregate_id, sequence, lease FROM event_store.claim_events('upcast gone', 'c', 1) \gset
CREATE ROLE regress_upcast_other;
ALTER FUNCTION public.upcast_gone(event_store.event) OWNER TO regress_upcast_other;
SELECT :'aggregate_id', :sequence, event_store.ack_events('upcast gone', 0, :lease);
SELECT pg_temp.says($$SELECT count(*) FROM event_store.claim_events('upcast gone', 'c')$$);
ALTER FUNCTION public.upcast_gone(event_store.event) OWNER TO CURRENT_USER;
DROP ROLE regress_upcast_other;
CALL pg_temp.claim('upcast gone', 10);
SELECT string_agg(aggregate_id || ' ' || sequence, ', ' ORDER BY n) FROM public.upcast_got WHERE consumer = 'upcast gone';
SELECT count(*) FROM event_store.parked_events WHERE subscription_name = 'upcast gone';
-- what lies before comes without it, and what is not for the member does not hold it
SELECT event_store.create_subscription('upcast before', '{UpcastKept,UpcastGone}', start_after => event_store.safe_position());
SELECT count(event_store.append_event(t, 'g-3', NULL, 'Gone', '{"cust": "c-3"}', schema_version => v)) FROM (VALUES ('UpcastKept', 2), ('UpcastKept', 2), ('UpcastGone', 1), ('UpcastKept', 2)) e (t, v);
DROP FUNCTION public.upcast_gone;
SELECT aggregate_type, sequence FROM event_store.next_events('upcast before');
SELECT pg_temp.says($$SELECT count(*) FROM event_store.next_events('upcast before')$$);
CALL pg_temp.come();
SELECT aggregate_type, sequence FROM event_store.next_events('upcast before');

-- where the upcaster says what partition an event is of: nothing is passed over that nobody can tell
SELECT event_store.create_subscription('upcast by path', '{UpcastPath}', members => 2, partition_by => '$.payload.customer', start_after => event_store.safe_position());
SELECT count(event_store.append_event('UpcastPath', 'x-' || n, NULL, 'Gone', jsonb_build_object('cust', 'c-' || 2 + n % 2))) FROM generate_series(1, 8) n;
SELECT count(DISTINCT event_store.partition_member('c-' || n, 2)) FROM generate_series(2, 3) n;
SELECT member, min(lease) AS lease, min(global_position) AS first, string_agg(aggregate_id, ', ' ORDER BY global_position) AS events FROM event_store.claim_events('upcast by path', 'c') GROUP BY 1 \gset
DROP FUNCTION public.upcast_gone;
SELECT :'events', event_store.ack_events('upcast by path', :member, :lease, :first);
SELECT event_store.ack_events('upcast by path', :member, :lease);
CALL pg_temp.come();
-- the other member's, of which the first fails: it is retried alone, and the next stays behind it
SELECT member, min(lease) AS lease, min(global_position) AS first, string_agg(aggregate_id, ', ' ORDER BY global_position) AS events FROM event_store.claim_events('upcast by path', 'c') GROUP BY 1 \gset
SELECT :'events', event_store.ack_events('upcast by path', :member, :lease, failed_positions => ARRAY[:first], action => 'park');
SELECT partition_key, state FROM event_store.parked_events WHERE subscription_name = 'upcast by path';
SELECT event_store.retry_parked_events('upcast by path');
SELECT member, lease, aggregate_id FROM event_store.claim_events('upcast by path', 'c', 1) \gset
DROP FUNCTION public.upcast_gone;
SELECT :'aggregate_id', event_store.ack_events('upcast by path', :member, :lease);
CALL pg_temp.come();
CALL pg_temp.claim('upcast by path', 10);
SELECT string_agg(aggregate_id, ', ' ORDER BY n) FROM public.upcast_got WHERE consumer = 'upcast by path';
SELECT count(*) FROM event_store.parked_events WHERE subscription_name = 'upcast by path';

-- cleaned up
SELECT count(event_store.restore_aggregate(aggregate_type, aggregate_id)) FROM (SELECT DISTINCT aggregate_type, aggregate_id FROM event_store.domain_events_archive WHERE aggregate_type LIKE 'Upcast%') a;
SELECT count(event_store.drop_subscription(subscription_name)) FROM event_store.subscriptions WHERE subscription_name LIKE 'upcast %';
SELECT count(event_store.drop_upcaster(event_type, from_version, NULLIF(aggregate_type, ''))) FROM event_store.upcasters;
DROP FUNCTION public.upcast_gone, public.upcast_new_handler, public.upcast_old_handler, public.upcast_part_handler, public.upcast_got;
DROP TABLE public.upcast_got;
DELETE FROM event_store.reducers WHERE aggregate_type LIKE 'Upcast%';
