-- metrics: every counter moves by exactly what was done
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
\set VERBOSITY terse
SHOW event_store.write_delay;
SELECT event_store.flush();
SELECT last_position > 0 FROM event_store.append_event('Metrics', 'm-0', 0, 'Opened');
SELECT durable FROM event_store.append_event('Metrics', 'm-0', 1, 'Opened', durability => 'staged');
SELECT event_store.flush(timeout => '1min');

-- its shape
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = 'event_store.metrics'::regclass AND a.attnum > 0
 ORDER BY a.attnum;

-- every metric is there, used or not
SELECT metric, kind, unit, count(*), string_agg(DISTINCT name, ' '), count(DISTINCT operation), count(DISTINCT quantile)
  FROM event_store.metrics GROUP BY metric, kind, unit ORDER BY metric COLLATE "C";

-- what moved since the last look, but for times and what the worker does
CREATE TABLE seen (metric text, name text, operation text, value double precision);
CREATE FUNCTION moved() RETURNS SETOF text
    LANGUAGE plpgsql
AS $$
BEGIN
    CREATE TEMP TABLE now_seen AS
        SELECT m.metric, m.name, m.operation, m.value FROM event_store.metrics m
         WHERE m.kind = 'counter' AND m.metric NOT LIKE 'worker.%';
    RETURN QUERY
        SELECT concat_ws(' ', replace(n.metric, 'persistence.', ''), n.name, n.operation, '+' || n.value - COALESCE(s.value, 0))
          FROM now_seen n LEFT JOIN seen s
            ON s.metric = n.metric AND s.name IS NOT DISTINCT FROM n.name AND s.operation IS NOT DISTINCT FROM n.operation
         WHERE n.value IS DISTINCT FROM s.value
         ORDER BY n.metric COLLATE "C", n.name COLLATE "C", n.operation COLLATE "C";
    DELETE FROM seen;
    INSERT INTO seen SELECT * FROM now_seen;
    DROP TABLE now_seen;
END
$$;
SELECT count(*) > 0 FROM moved();
SELECT * FROM moved();

-- storing: one by one, in batches
SELECT outcome FROM event_store.append_event('Metrics', 'm-1', 0, 'Added', event_id => '00000000-0000-7000-9999-000000000001');
SELECT outcome FROM event_store.append_event('Metrics', 'm-1', 0, 'Added', event_id => '00000000-0000-7000-9999-000000000001');
SELECT * FROM moved();
SELECT last_sequence FROM event_store.append_events('Metrics', 'm-1', 1, '[{"event_type": "Added"}, {"event_type": "Added"}]');
SELECT count(*) FROM event_store.append_batch(ARRAY['Metrics', 'Metrics', 'Metrics'], ARRAY['m-2', 'm-2', 'm-3'], ARRAY['Added', 'Added', 'Added'], NULL);
SELECT count(*) FROM event_store.append_batch('[{"aggregate_type": "Metrics", "aggregate_id": "m-3", "event_type": "Added"}]'::jsonb);
SELECT count(*) FROM event_store.append_batch('[]'::jsonb);
SELECT * FROM moved();
SELECT event_store.put_view('Metrics', 'v-1', '{"n": 1}', 1);
SELECT event_store.put_view('Metrics', 'v-1', '{"n": 1}', 1);
SELECT event_store.put_views('Metrics', ARRAY['v-1', 'v-2', 'v-3', 'v-3'], ARRAY['1', '2', '3', '4']::jsonb[], ARRAY[1, 1, 1, 2]);
SELECT * FROM moved();
SELECT event_store.save_snapshot('Metrics', 'm-1', 3, '{}');
SELECT event_store.take_snapshot('Metrics', 'm-1'), event_store.take_snapshot('Metrics', 'm-1');
SELECT * FROM moved();

-- loading, with and without finding anything
SELECT count(*) FROM event_store.load_events('Metrics', 'm-1');
SELECT count(*) FROM event_store.load_events('Metrics', 'm-1', 3);
SELECT count(*) FROM event_store.load_events('Metrics', 'm-1', backward => true);
SELECT count(*) FROM event_store.load_events('Metrics', 'nothing', backward => true);
SELECT count(*) FROM event_store.load_event('00000000-0000-7000-9999-000000000001');
SELECT count(*) FROM event_store.load_event('00000000-0000-7000-9999-000000000002');
SELECT event_store.aggregate_sequence('Metrics', 'm-1'), event_store.aggregate_sequence('Metrics', 'nothing');
SELECT count(*) FROM event_store.load_aggregate_ids('Metrics', max_count => 2);
SELECT count(*) FROM event_store.load_aggregate_ids('Metrics', 'm-9');
SELECT count(*) FROM event_store.saga_log('nothing');
SELECT count(*) FROM event_store.read_events(0, 2);
SELECT count(*) FROM event_store.read_events(event_store.safe_position(), 2);
SELECT sequence FROM event_store.replay_aggregate('Metrics', 'm-1');
SELECT sequence FROM event_store.replay_aggregate('Metrics', 'nothing');
SELECT count(*) FROM event_store.replay_aggregates('Metrics', ARRAY['m-1', 'm-2']);
SELECT count(*) FROM event_store.replay_aggregates('Nothing');
SELECT event_store.load_view('Metrics', 'v-1'), event_store.load_view('Metrics', 'nothing');
SELECT count(*) FROM event_store.load_views('Metrics');
SELECT count(*) FROM event_store.load_views('Metrics', ARRAY['nothing']);
SELECT count(*) FROM event_store.load_views('Metrics', ARRAY[]::text[]);
SELECT count(*) FROM event_store.load_view_keys('Metrics');
SELECT count(*) FROM event_store.load_view_keys('Nothing');
SELECT count(*) FROM event_store.load_snapshot('Metrics', 'm-1');
SELECT count(*) FROM event_store.load_snapshot('Metrics', 'nothing');
SELECT * FROM moved();

-- the feed waits for an open transaction that has appended, and for what it took
CREATE FUNCTION feed() RETURNS text
    LANGUAGE sql
AS $$ SELECT string_agg(value::text, ' ' ORDER BY metric COLLATE "C") FROM event_store.metrics WHERE metric IN ('feed.in_flight', 'feed.lag', 'feed.waiters') $$;
SELECT feed();
BEGIN;
SELECT last_sequence FROM event_store.append_events('Metrics', 'm-8', 0, '[{"event_type": "Added"}, {"event_type": "Added"}]');
SELECT feed();
ROLLBACK;
SELECT feed();
SELECT * FROM moved();

-- subscriptions: what stands of each, and what was done
SELECT event_store.create_subscription('metrics', ARRAY['Subscribed'], start_after => NULL), event_store.create_subscription('say "no"', ARRAY['Nothing'], start_after => NULL, members => 3);
CREATE FUNCTION subscription() RETURNS SETOF text
    LANGUAGE sql
AS $$
    SELECT concat_ws(' ', name, string_agg(CASE WHEN unit = 'seconds' AND value > 0 THEN 'aged' ELSE value::text END, ' ' ORDER BY metric COLLATE "C"))
      FROM event_store.metrics WHERE metric LIKE 'subscription.%' AND kind = 'gauge' GROUP BY name ORDER BY name
$$;
SELECT * FROM subscription();
SELECT count(*) FROM event_store.append_batch(ARRAY['Subscribed', 'Subscribed', 'Subscribed', 'Other'], ARRAY['a', 'b', 'b', 'b'], ARRAY['E', 'E', 'F', 'E'], NULL);
SELECT * FROM moved();
-- age, lag, parked and since when, set aside
SELECT * FROM subscription();
SELECT count(*) FROM event_store.next_events('metrics', 1);
SELECT * FROM subscription();
SELECT global_position AS b FROM event_store.domain_events WHERE aggregate_type = 'Subscribed' AND aggregate_id = 'b' AND event_type = 'E' \gset
SELECT event_store.fail_events('metrics', :b, 'no');
SELECT event_store.fail_events('metrics', :b, 'no', 'park');
SELECT event_store.fail_events('metrics', :b - 1, 'it is done');
SELECT * FROM subscription();
SELECT count(*) FROM event_store.claim_events('metrics', 'c');
SELECT * FROM subscription();
SELECT event_store.retry_parked_events('metrics');
SELECT * FROM subscription();
SELECT lease FROM event_store.claim_events('metrics', 'c', 1) \gset
SELECT event_store.ack_events('metrics', 0, :lease, failed_positions => ARRAY[:b], action => 'park_event');
\set VERBOSITY sqlstate
SELECT event_store.ack_events('metrics', 0, :lease);
SELECT count(*) FROM event_store.claim_events('metrics', 'c', done_member => 0, done_lease => :lease);
\set VERBOSITY terse
SELECT * FROM subscription();
SELECT * FROM moved() m WHERE m NOT LIKE 'load.%';
-- where there is none a row is there all the same
SELECT event_store.drop_subscription('metrics'), event_store.drop_subscription('say "no"');
SELECT * FROM subscription();
SELECT * FROM moved();

-- deleting
SELECT event_store.delete_view('Metrics', 'v-1'), event_store.delete_view('Metrics', 'nothing');
SELECT event_store.clear_view('Metrics');
SELECT * FROM moved();

-- errors: at the top, caught in a block, behind a savepoint, of the arguments
SELECT event_store.append_event('Metrics', 'm-1', 1, 'Late');
SELECT * FROM moved();
DO $$
BEGIN
    PERFORM event_store.append_event('Metrics', 'm-1', 1, 'Late');
EXCEPTION WHEN SQLSTATE 'VS001' THEN
    NULL;
END
$$;
BEGIN;
SAVEPOINT s;
SELECT event_store.put_view('Metrics', 'v-9', '{}');
SELECT event_store.put_view(NULL, 'v-9', '{}');
ROLLBACK TO s;
SELECT event_store.put_view('Metrics', 'v-9', '{}');
COMMIT;
SELECT * FROM moved();
SELECT outcome FROM event_store.append_batch(ARRAY['Metrics', 'Metrics'], ARRAY['m-1', 'm-4'], ARRAY['Late', 'Added'], NULL,
                                             ARRAY[1, 0], on_conflict => 'report');
SELECT * FROM moved();
SELECT event_store.load_events(NULL, 'm-1');
SELECT event_store.drain(0);
SELECT event_store.flush('-1s');
SELECT event_store.retry_dead_letters(NULL, 'm-1');
SELECT event_store.discard_dead_letters('Metrics', 'm-1', NULL);
SELECT * FROM moved();
-- the error of something else is not ours
BEGIN;
SELECT event_store.load_view('Metrics', 'nothing');
SELECT 1 / 0;
ROLLBACK;
SELECT * FROM moved();
-- a call within a call: both end with an error, the outer one goes on or not
CREATE FUNCTION append_in_turn() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF NEW.aggregate_type = 'Metrics' AND NEW.event_type = 'Doubled' THEN
        BEGIN
            PERFORM event_store.append_event('Metrics', 'm-5', 99, 'Never');
        EXCEPTION WHEN SQLSTATE 'VS001' THEN
            PERFORM event_store.append_event('Metrics', 'm-6', NULL, 'Instead');
        END;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER append_in_turn BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION append_in_turn();
SELECT last_sequence FROM event_store.append_event('Metrics', 'm-7', 0, 'Doubled');
DROP TRIGGER append_in_turn ON event_store.domain_events;
DROP FUNCTION append_in_turn();
SELECT * FROM moved();

-- the queue: what is committed counts, what is rolled back does not
CREATE FUNCTION queue() RETURNS text
    LANGUAGE sql
AS $$
    SELECT string_agg(m.value::text, ' ' ORDER BY m.name)
           || CASE WHEN (SELECT a.value > 0 FROM event_store.metrics a WHERE a.metric = 'persistence.queue.age') THEN ' aged' ELSE '' END
           || CASE WHEN min(s.staged_events) = min(m.value) FILTER (WHERE m.name = 'events')
                    AND min(s.staged_views) = min(m.value) FILTER (WHERE m.name = 'views') THEN '' ELSE ' not as in staging_status' END
           || CASE WHEN bool_and(s.oldest_staged_at IS NULL) THEN ' empty' ELSE '' END
      FROM event_store.metrics m, event_store.staging_status s WHERE m.metric = 'persistence.queue.depth'
$$;
SELECT queue();
SELECT durable FROM event_store.append_event('Metrics', 's-1', 0, 'Added', durability => 'staged');
SELECT queue();
BEGIN;
SELECT durable FROM event_store.append_event('Metrics', 's-1', 1, 'Added', durability => 'staged');
SAVEPOINT s;
SELECT durable FROM event_store.append_event('Metrics', 's-1', 2, 'Undone', durability => 'staged');
ROLLBACK TO s;
SELECT event_store.put_view('Metrics', 's-1', '{"n": 1}', durability => 'staged');
SELECT queue();
COMMIT;
SELECT queue();
BEGIN;
SELECT durable FROM event_store.append_event('Metrics', 's-1', 2, 'Undone', durability => 'staged');
ROLLBACK;
SELECT event_store.put_view('Metrics', 's-1', '{"n": 2}', durability => 'staged');
SELECT event_store.put_view('Metrics', 's-2', '{"n": 2}', durability => 'staged');
SELECT queue();
SELECT * FROM moved();
-- a round is a batch, of events and of views; one that finds nothing is a round,
-- but has moved no rows: rounds of at most 1, of at most 3, all, and their rows
CREATE FUNCTION drained() RETURNS bigint[]
    LANGUAGE sql
AS $$
    SELECT array_agg(l[2]::bigint)
      FROM regexp_matches(event_store.openmetrics(),
               '^event_store_persistence_drain_rows_(bucket\{database="\w+",le="[13]"\}|count\{.*\}|sum\{.*\}) (\d+)$', 'gn') l
$$;
SELECT drained() AS before \gset
SELECT event_store.drain(1);
SELECT queue();
-- what it left is older than the round
SELECT max(value) FILTER (WHERE metric = 'persistence.queue.age') > max(value) FILTER (WHERE metric = 'persistence.drain.age')
  FROM event_store.metrics;
SELECT * FROM moved();
SELECT last_drain_at AS drained FROM event_store.staging_status \gset
SELECT event_store.drain();
SELECT queue();
SELECT * FROM moved();
SELECT last_drain_at > :'drained' FROM event_store.staging_status;
SELECT last_drain_at AS drained FROM event_store.staging_status \gset
SELECT event_store.drain();
SELECT * FROM moved();
SELECT last_drain_at = :'drained' FROM event_store.staging_status;
SELECT string_agg((d.after - d.before)::text, ' ' ORDER BY d.n)
  FROM unnest(drained(), :'before'::bigint[]) WITH ORDINALITY d (after, before, n);
SELECT value >= 0 FROM event_store.metrics WHERE metric IN ('persistence.drain.age', 'persistence.drain.rate');

-- a round that fails is an error, and moves nothing
SELECT durable FROM event_store.append_event('Metrics', 's-1', NULL, 'Added', durability => 'staged');
SELECT * FROM moved();
CREATE FUNCTION fail() RETURNS trigger
    LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '55000'; END $$;
CREATE TRIGGER fail BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION fail();
SELECT event_store.drain();
SELECT * FROM moved();
SELECT queue();
SELECT consecutive_failures FROM event_store.staging_status;
-- a row that fails by itself becomes a dead letter
CREATE OR REPLACE FUNCTION fail() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF NEW.aggregate_id = 's-1' THEN
        RAISE EXCEPTION 'never' USING ERRCODE = '22000';
    END IF;
    RETURN NEW;
END
$$;
CREATE FUNCTION letters() RETURNS text
    LANGUAGE sql
AS $$ SELECT m.value || ' of ' || (SELECT count(*) FROM event_store.dead_letters)
        FROM event_store.metrics m WHERE m.metric = 'persistence.dead_letters' $$;
SELECT letters();
SELECT durable FROM event_store.append_event('Metrics', 's-2', NULL, 'Added', durability => 'staged');
SELECT durable FROM event_store.append_event('Metrics', 's-1', NULL, 'Added', durability => 'staged');
SET client_min_messages = error;
SELECT event_store.drain();
RESET client_min_messages;
SELECT letters(), queue();
SELECT * FROM moved();
SELECT event_store.append_event('Metrics', 's-1', NULL, 'Added');
SELECT event_store.retry_dead_letters('Metrics', 's-1');
SELECT letters();
SELECT * FROM moved();
DROP TRIGGER fail ON event_store.domain_events;
DROP FUNCTION fail();
BEGIN;
SELECT event_store.discard_dead_letters('Metrics', 's-1', 'a test');
SELECT letters();
ROLLBACK;
SELECT letters();
SELECT event_store.retry_dead_letters('Metrics', 's-1');
SELECT letters();
SELECT * FROM moved();

-- staging that is full
ALTER SYSTEM SET event_store.staging_limit = 1;
SELECT pg_catalog.pg_reload_conf();
\c -
\pset format unaligned
\pset null null
\t on
\set VERBOSITY terse
SHOW event_store.staging_limit;
SELECT durable FROM event_store.append_event('Metrics', 'f-1', 0, 'Added', durability => 'staged');
SET event_store.on_staging_full = 'durable';
SELECT durable FROM event_store.append_event('Metrics', 'f-2', 0, 'Added', durability => 'staged');
SET event_store.on_staging_full = 'error';
SELECT durable FROM event_store.append_event('Metrics', 'f-3', 0, 'Added', durability => 'staged');
SELECT * FROM moved();
SET event_store.on_staging_full = 'block';
SELECT durable FROM event_store.append_event('Metrics', 'f-4', 0, 'Added', durability => 'staged');
-- how much the worker drains for it is its affair
SELECT m FROM moved() m WHERE m NOT LIKE '%drain%';
SELECT value FROM event_store.metrics WHERE metric = 'persistence.queue.waiting';
ALTER SYSTEM RESET event_store.staging_limit;
SELECT pg_catalog.pg_reload_conf();
SELECT event_store.flush(timeout => '1min');

-- percentiles: monotone, NULL where nothing was measured, of all that ended
SELECT count(*) > 5, bool_and(p50 <= p95 AND p95 <= p99), bool_and(p50 > 0), bool_and(p99 < 100 OR unit <> 'seconds')
  FROM (SELECT unit, max(value) FILTER (WHERE quantile = 0.5) AS p50,
               max(value) FILTER (WHERE quantile = 0.95) AS p95,
               max(value) FILTER (WHERE quantile = 0.99) AS p99
          FROM event_store.metrics WHERE kind = 'histogram' AND value IS NOT NULL GROUP BY metric, name, operation, unit) q;
-- and within 12 % of the truth, from 1 us to 1000 s
CREATE FUNCTION off(durations double precision[]) RETURNS text
    LANGUAGE sql
AS $$
    SELECT string_agg(CASE WHEN abs(h / t - 1) <= 0.12 THEN 'right' ELSE h || ' for ' || t END, ' ' ORDER BY q)
      FROM (VALUES (0.5), (0.95), (0.99)) v (q),
           LATERAL (SELECT percentile_disc(q) WITHIN GROUP (ORDER BY d) AS t FROM unnest(durations) d) truth,
           LATERAL (SELECT (event_store.histogram_quantiles(durations, ARRAY[q]))[1] AS h) histogram
$$;
SELECT off(ARRAY(SELECT n * 1e-6 FROM generate_series(1, 1000) n)),
       off(ARRAY(SELECT n * 1e-3 FROM generate_series(1, 1000) n)),
       off(ARRAY(SELECT 1e-6 * pow(10, n / 111.2) FROM generate_series(1, 1000) n)),
       off(ARRAY[0.000001]), off(ARRAY[1000]), off(ARRAY[0.1, 0.2, 0.3]);
SELECT count(*) FILTER (WHERE abs((event_store.histogram_quantiles(ARRAY[d], ARRAY[0.5]))[1] / d - 1) > 0.12)
  FROM (SELECT 1e-6 * pow(1.001, n) AS d FROM generate_series(0, 20700) n) every_size;
SELECT event_store.histogram_quantiles(ARRAY[0, 100000], ARRAY[0, 0.5, 1]);
SELECT event_store.histogram_quantiles('{}', ARRAY[0.5]);

-- the text says the same as the view
SELECT count(*), count(*) FILTER (WHERE m.value IS DISTINCT FROM o.value)
  FROM event_store.metrics m
  LEFT JOIN LATERAL (
       SELECT l[2]::double precision AS value
         FROM regexp_matches(event_store.openmetrics(),
                  '^(event_store_' || replace(m.metric, '.', '_') || CASE m.kind WHEN 'counter' THEN '_total' ELSE '' END
                  || CASE WHEN m.operation IS NOT NULL THEN '\{database="\w+",name="' || m.name || '",operation="' || m.operation || '"\}'
                          WHEN m.name IS NOT NULL THEN '\{database="\w+",name="' || regexp_replace(m.name, '[()]', '\\\&', 'g') || '"\}' ELSE '\{database="\w+"\}' END || ') (\S+)$', 'gn') l) o ON true
 WHERE m.kind <> 'histogram' AND m.unit <> 'seconds' AND m.metric <> 'persistence.drain.rate' AND m.value IS NOT NULL;
SELECT event_store.openmetrics() LIKE '# TYPE event_store_version_library gauge%# EOF';
-- and the rows of metrics_series the same as the text, without NULL
SELECT count(*) > 1000, count(*) FILTER (WHERE t.line IS NULL OR s.line IS NULL), count(*) FILTER (WHERE s.bad)
  FROM (SELECT l[1] AS line FROM regexp_matches(event_store.openmetrics(), '^(event_store_\S+\{.*\}) \S+$', 'gn') l) t
  FULL JOIN (SELECT s.series || '{' || concat_ws(',', 'database="' || s.database || '"',
                        'name="' || nullif(replace(s.name, '"', '\"'), '') || '"', 'operation="' || nullif(s.operation, '') || '"',
                        'le="' || nullif(s.le, '') || '"') || '}' AS line,
                    num_nulls(s.series, s.database, s.name, s.operation, s.le, s.value) > 0 AS bad
               FROM event_store.metrics_series s) s USING (line);

-- who may look
CREATE ROLE regress_metrics_nobody;
SET ROLE regress_metrics_nobody;
SELECT count(*) FROM event_store.metrics;
SELECT event_store.openmetrics();
RESET ROLE;
GRANT pg_monitor TO regress_metrics_nobody;
SET ROLE regress_metrics_nobody;
SELECT count(*) > 100 FROM event_store.metrics;
SELECT length(event_store.openmetrics()) > 1000;
SELECT event_store.load_view('Metrics', 'v-1');
RESET ROLE;
REVOKE pg_monitor FROM regress_metrics_nobody;
SELECT event_store.grant_access('regress_metrics_nobody', 'reader');
SET ROLE regress_metrics_nobody;
SELECT count(*) > 100 FROM event_store.metrics;
RESET ROLE;
DROP OWNED BY regress_metrics_nobody;
DROP ROLE regress_metrics_nobody;

-- leave nothing behind for the next test
ALTER SYSTEM RESET event_store.write_delay;
SELECT pg_catalog.pg_reload_conf();
DROP FUNCTION moved(), queue(), drained(), letters(), feed(), subscription(), off(double precision[]);
DROP TABLE seen;
