-- moved_partitions: a subscription that is divided by what is erased gives each event once, whatever was given, set aside or yet to come
\pset format unaligned
\pset null null
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT event_store.create_store();
CREATE FUNCTION pg_temp.id(n int) RETURNS uuid LANGUAGE sql RETURN ('00000000-0000-4e1b-8000-' || lpad(n::text, 12, '0'))::uuid;
CREATE FUNCTION pg_temp.append(id text, n int, who text) RETURNS bigint
    LANGUAGE sql AS $$
    SELECT last_sequence FROM event_store.append_event('Divided', id, NULL, 'E', jsonb_build_object('who', who, 'n', n), event_id => pg_temp.id(n),
                                                       correlation_id => 'for ' || who)
$$;
-- What is given is kept; a call is a transaction.
CREATE TEMPORARY TABLE given (number int GENERATED ALWAYS AS IDENTITY, subscription text, n int);
CREATE FUNCTION pg_temp.take(name text, most int DEFAULT 100) RETURNS text
    LANGUAGE sql AS $$
    WITH taken AS (
        INSERT INTO given (subscription, n)
        SELECT name, coalesce((e.payload ->> 'n')::int, right(e.event_id::text, 12)::int) FROM event_store.next_events(name, most) e RETURNING n)
    SELECT string_agg(n::text, ' ') FROM taken
$$;
-- One after the other, until there is nothing.
CREATE PROCEDURE pg_temp.take_all(name text)
    LANGUAGE plpgsql AS $$
DECLARE
    empty int := 0;
    taken text;
BEGIN
    -- a call may find a member that has nothing, and what is due comes in turns with what is new
    WHILE empty < 12 LOOP
        taken := pg_temp.take(name);
        COMMIT;
        empty := CASE WHEN taken IS NULL THEN empty + 1 ELSE 0 END;
    END LOOP;
END
$$;
-- What a subscription gives more or less than once; in which order events of an aggregate were given.
CREATE FUNCTION pg_temp.wrong(name text, type text) RETURNS text
    LANGUAGE sql AS $$
    SELECT string_agg(coalesce(right(e.event_id::text, 12)::int, n) || ' ' || coalesce(count, 0), ', ')
      FROM (SELECT * FROM event_store.domain_events WHERE aggregate_type = type) e
      FULL JOIN (SELECT n, count(*) FROM given WHERE subscription = name GROUP BY 1) g ON pg_temp.id(g.n) = e.event_id
     WHERE count IS DISTINCT FROM 1
$$;
CREATE FUNCTION pg_temp.aside(name text) RETURNS TABLE (partition text, n int, state text, due boolean, member boolean)
    LANGUAGE sql AS $$
    SELECT p.partition_key, right(p.event_id::text, 12)::int, p.state, p.retry_at IS NOT NULL, p.member = event_store.partition_member(p.partition_key, s.members)
      FROM event_store.parked_events p JOIN event_store.subscriptions s USING (subscription_name) WHERE subscription_name = name ORDER BY 2
$$;

-- a partition that is parked: what leaves it is given once it is retried, and what is left waits from its next event on
SELECT event_store.safe_position() AS start \gset
SELECT event_store.create_subscription('by who', '{Divided}', start_after => :start, partition_by => '$.payload.who');
SELECT pg_temp.append('m-1', 1, 'Ann'), pg_temp.append('m-1', 2, 'Ann'), pg_temp.append('m-1', 3, 'Bob'), pg_temp.append('m-1', 4, 'Ann'), pg_temp.append('m-2', 5, 'Cy');
BEGIN;
SELECT count(*) FROM event_store.next_events('by who', 1);
SELECT event_store.fail_events('by who', global_position, 'of Ann', 'park') FROM event_store.domain_events WHERE event_id = pg_temp.id(1);
COMMIT;
SELECT pg_temp.take('by who');
SELECT * FROM pg_temp.aside('by who');
SELECT event_store.redact_events(ARRAY[pg_temp.id(1), pg_temp.id(2)], 'r', '{$.payload.who}');
SELECT * FROM pg_temp.aside('by who');
SELECT error_message FROM event_store.parked_events WHERE subscription_name = 'by who';
SELECT pg_temp.take('by who');
SELECT event_store.retry_parked_events('by who');
CALL pg_temp.take_all('by who');
SELECT pg_temp.wrong('by who', 'Divided'), (SELECT string_agg(n::text, ' ' ORDER BY number) FROM given WHERE n IN (1, 2)) AS in_order;
SELECT * FROM pg_temp.aside('by who');

-- one that is retried goes on by itself; all of it leaves
SELECT pg_temp.append('m-1', 6, 'Ann'), pg_temp.append('m-1', 7, 'Ann');
BEGIN;
SELECT count(*) FROM event_store.next_events('by who', 1);
SELECT event_store.fail_events('by who', global_position, 'of Ann') FROM event_store.domain_events WHERE event_id = pg_temp.id(6);
COMMIT;
SELECT pg_temp.take('by who');
SELECT event_store.erase_aggregate('Divided', 'm-1', 'r');
SELECT * FROM pg_temp.aside('by who');
CALL pg_temp.take_all('by who');
SELECT pg_temp.wrong('by who', 'Divided'), (SELECT string_agg(n::text, ' ' ORDER BY number) FROM given WHERE n IN (6, 7)) AS in_order;
-- an event that is parked alone, and one that was passed over
SELECT pg_temp.append('m-3', 8, 'Dan'), pg_temp.append('m-3', 9, 'Dan'), pg_temp.append('m-3', 10, 'Dan');
BEGIN;
SELECT count(*) FROM event_store.next_events('by who', 1);
SELECT event_store.fail_events('by who', global_position, 'of Dan', 'park_event') FROM event_store.domain_events WHERE event_id = pg_temp.id(8);
COMMIT;
SELECT event_store.fail_events('by who', global_position, 'of Dan', 'skip') FROM event_store.domain_events WHERE event_id = pg_temp.id(10);
SELECT event_store.redact_events(ARRAY[pg_temp.id(8), pg_temp.id(10)], 'r');
SELECT * FROM pg_temp.aside('by who');
SELECT event_store.retry_parked_events('by who');
CALL pg_temp.take_all('by who');
SELECT pg_temp.wrong('by who', 'Divided');

-- members that stand in different places: given, or yet to come, is each event once; by other columns, and by a pseudonym as well
CREATE TEMPORARY TABLE divided AS
SELECT s, CASE WHEN s = 'by aggregate' THEN 'aggregate' WHEN s = 'by correlation' THEN 'correlation_id' ELSE '$.payload.who' END AS by
  FROM unnest('{by aggregate,by correlation,by content}'::text[]) s;
SELECT event_store.create_subscription(s, '{Divided}', start_after => event_store.safe_position(), members => 5, partition_by => by) FROM divided;
DELETE FROM given;
SELECT count(pg_temp.append('w-' || n % 7, n, 'who ' || n % 11)) FROM generate_series(101, 180) n;
SELECT count(pg_temp.take(s, m)) FROM divided, LATERAL (VALUES (2), (9), (5)) m (m) WHERE s IS NOT NULL;
SELECT event_store.redact_events(array(SELECT pg_temp.id(n) FROM generate_series(101, 180) n WHERE n % 3 = 0), 'r', '{$.payload.who,$.correlation_id}');
SELECT count(pg_temp.take(s, m)) FROM divided, LATERAL (VALUES (7), (3)) m (m) WHERE s IS NOT NULL;
SELECT event_store.erase_aggregate('Divided', 'w-' || i, 'r', 'gone-' || i) > 0 FROM generate_series(1, 4) i;
CALL pg_temp.take_all('by aggregate');
CALL pg_temp.take_all('by correlation');
CALL pg_temp.take_all('by content');
SELECT s, count(*), count(DISTINCT n) FROM divided JOIN given ON subscription = s GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM event_store.parked_events p JOIN divided ON s = p.subscription_name;

SELECT event_store.drop_subscription(s) FROM divided;
SELECT event_store.drop_subscription('by who');
CALL event_store.scrub_erased();
