-- feed: the order over all events, how far it is safe to read, waiting for more
\pset format unaligned
\pset null null
\t on
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
SELECT event_store.flush();

-- how a statement is refused, or that it is not
CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- what a reader gets after a position, in the order in which it gets it
CREATE FUNCTION pg_temp.read(after_position bigint) RETURNS text
    LANGUAGE sql
AS $$
    SELECT coalesce(string_agg(e.aggregate_id || '/' || e.sequence, ' ' ORDER BY n), 'nothing')
      FROM event_store.read_events(after_position, NULL) WITH ORDINALITY
           AS e(global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, schema_version,
                payload, payload_bytes, metadata, correlation_id, causation_id, saga_id, occurred_at, recorded_at, n)
$$;

SELECT event_store.append_event('Feed', 'first', NULL, 'Placed') \g /dev/null
SELECT event_store.safe_position() AS start \gset

-- nothing new
SELECT pg_temp.read(:start);
SELECT event_store.wait_for_events(:start - 1, '10min') = :start AS "returns at once";
SELECT event_store.wait_for_events(:start, '0') = :start AS "after no time";
SELECT event_store.wait_for_events(:start, '10ms') = :start AS "after its timeout";
SELECT safe_position = :start, last_position = :start, in_flight, blocker_pid, blocked_since FROM event_store.feed_status;

-- order, start, limit; all columns as in the log
SELECT event_store.append_event('Feed', 'a', 0, 'Placed', '{"n": 1}', saga_id => 'one') \g /dev/null
SELECT event_store.append_events('Feed', 'b', 0, '[{"event_type": "Placed"}, {"event_type": "Paid"}]') \g /dev/null
SELECT event_store.append_batch(ARRAY['Feed', 'Other', 'Feed', 'Other'], ARRAY['a', 'c', 'b', 'd'],
    ARRAY['Paid', 'Placed', 'Shipped', 'Placed'], NULL) \g /dev/null
SELECT event_store.append_event('Other', 'c', 1, 'Paid', payload_bytes => '\x00ff') \g /dev/null
SELECT pg_temp.read(:start);
SELECT pg_temp.read(event_store.safe_position());
SELECT count(*) FROM event_store.read_events(event_store.safe_position());
SELECT aggregate_id, sequence FROM event_store.read_events(:start, 3);
SELECT max(global_position) AS third FROM event_store.read_events(:start, 3) \gset
SELECT aggregate_id, sequence FROM event_store.read_events(max_count => 2, after_position => :third);
SELECT count(*) FROM event_store.read_events(:start, 0);
SELECT count(*) FROM event_store.read_events(:start, NULL);
-- (other tests write rows around the API, below 0)
SELECT (SELECT array_agg(r) FROM event_store.read_events(:start, NULL) r)
     = (SELECT array_agg(e::text::event_store.event ORDER BY global_position)
          FROM event_store.domain_events e WHERE global_position > :start) AS "every column";
-- by default from the start, which is position 0
SELECT count(*) = least(1000, (SELECT count(*) FROM event_store.domain_events WHERE global_position > 0)),
       min(global_position) = (SELECT min(global_position) FROM event_store.domain_events WHERE global_position > 0)
  FROM event_store.read_events();
SELECT min(global_position) = (SELECT min(global_position) FROM event_store.domain_events WHERE global_position > 0), count(*)
  FROM event_store.read_events(NULL, 3);

-- filters
SELECT aggregate_id, sequence FROM event_store.read_events(:start, aggregate_types => '{Other}');
SELECT aggregate_id, sequence FROM event_store.read_events(:start, event_types => '{Paid,Shipped}');
SELECT aggregate_id, sequence FROM event_store.read_events(:start, 1, '{Feed,Nobody}', '{Paid}');
SELECT count(*) FROM event_store.read_events(:start, aggregate_types => '{}');
SELECT count(*) FROM event_store.read_events(:start, event_types => '{Nothing,NULL}');

-- up to a position, which may lie beyond what is safe; backward turns the order only
SELECT aggregate_id, sequence FROM event_store.read_events(:start, up_to_position => :third);
SELECT count(*) FROM event_store.read_events(:start, up_to_position => :start);
SELECT count(*) FROM event_store.read_events(:third, up_to_position => :start);
SELECT count(*) FROM event_store.read_events(:start, up_to_position => 9223372036854775807);
SELECT aggregate_id, sequence FROM event_store.read_events(:start, up_to_position => :third, backward => true);
SELECT aggregate_id, sequence FROM event_store.read_events(:start, 2, backward => true);
SELECT aggregate_id, sequence FROM event_store.read_events(:start, 2, '{Feed}', '{Paid,Placed}', 0, 1, :third, true);
SELECT count(*) FROM event_store.read_events(:start, up_to_position => NULL, backward => NULL);

-- the rule of a consumer: what comes between its two calls comes once
SELECT event_store.wait_for_events(:third) AS waited, count(*) AS before FROM event_store.read_events(:third) \gset
SELECT event_store.append_event('Feed', 'between', 0, 'Placed') \g /dev/null
SELECT count(*) = :before FROM event_store.read_events(:third, NULL, up_to_position => :waited);
SELECT pg_temp.read(:waited);

-- members: consumers keep their place by the hash, which is the same for ever
SELECT t, i, array_agg(event_store.aggregate_member(t, i, m) ORDER BY m)
  FROM (VALUES ('Order', 'o-1'), ('Order', 'o-2'), ('a', 'bc'), ('ab', 'c'), ('Bestellung', 'ö-ß'), ('x', ''),
               ('Account', '3f2504e0-4f89-11d3-9a0c-0305e82c3301')) v(t, i),
       unnest(ARRAY[1, 2, 3, 16, 1000, 2147483647]) m
 GROUP BY t, i ORDER BY t COLLATE "C", i COLLATE "C";
-- ids that count up are shared out evenly
SELECT m, min(c) > 800 / m, max(c) < 1200 / m, count(*) = m
  FROM (SELECT m, count(*) AS c FROM unnest(ARRAY[2, 4, 16]) m, generate_series(1, 1000) i
         GROUP BY m, event_store.aggregate_member('Order', 'o-' || i, m)) shares
 GROUP BY m ORDER BY m;
SELECT pg_temp.refused('SELECT event_store.aggregate_member(''a'', ''b'', 0)');
SELECT event_store.safe_position() AS members \gset
SELECT count(*) FROM event_store.append_batch(array_fill('Shared'::text, ARRAY[300]),
    (SELECT array_agg('s-' || i % 100) FROM generate_series(1, 300) i), array_fill('Added'::text, ARRAY[300]), NULL);
-- every aggregate has one member, every event is read once, and each share is in order
SELECT count(*), count(DISTINCT global_position), count(DISTINCT aggregate_id), count(DISTINCT (aggregate_id, member)),
       bool_and(member = event_store.aggregate_member(aggregate_type, aggregate_id, 3)), count(DISTINCT member)
  FROM generate_series(0, 2) member, event_store.read_events(:members, NULL, member => member, members => 3);
SELECT count(*), bool_and(rises)
  FROM (SELECT member, global_position > lag(global_position, 1, :members::bigint) OVER (PARTITION BY member) AS rises
          FROM generate_series(0, 2) member, event_store.read_events(:members, NULL, member => member, members => 3)) r;
SELECT count(*) FROM event_store.read_events(:members, 7, '{Shared}', '{Added}', 1, 3);
SELECT count(*) FROM event_store.read_events(:members, NULL, '{Shared}', member => 0, members => 1);
SELECT count(*) FROM event_store.read_events(:members, NULL, NULL, '{Shared}', 0, 1);

-- bad input
SELECT pg_temp.refused($$SELECT event_store.read_events(-1)$$);
SELECT pg_temp.refused($$SELECT event_store.read_events(0, -1)$$);
SELECT pg_temp.refused($$SELECT event_store.read_events(0, member => 0)$$);
SELECT pg_temp.refused($$SELECT event_store.read_events(0, members => 2)$$);
SELECT pg_temp.refused($$SELECT event_store.read_events(0, member => 0, members => 0)$$);
SELECT pg_temp.refused($$SELECT event_store.read_events(0, member => 2, members => 2)$$);
SELECT pg_temp.refused($$SELECT event_store.read_events(0, member => -1, members => 2)$$);
SELECT pg_temp.refused($$SELECT event_store.read_events(0, up_to_position => -1)$$);
-- a position that was never given: the log is another one
SELECT pg_temp.refused($$SELECT event_store.read_events(9223372036854775807)$$);
SELECT pg_temp.refused($$SELECT event_store.wait_for_events(9223372036854775807, '10min')$$);
SELECT pg_temp.refused(format('SELECT event_store.read_events(%s)', last_position)) FROM event_store.feed_status;
SELECT left(pg_temp.refused(format('SELECT event_store.read_events(%s)', last_position + 1)), 5)
  FROM event_store.feed_status;
SELECT pg_temp.refused($$SELECT event_store.wait_for_events(NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.wait_for_events(-1)$$);
SELECT pg_temp.refused($$SELECT event_store.wait_for_events(0, '-1s')$$);
SELECT pg_temp.refused($$SELECT event_store.wait_for_events(0, '1h')$$);
SELECT pg_temp.refused($$SELECT event_store.wait_for_events(0, '10min')$$);

-- an open transaction's own events come after its commit, to itself as well
SELECT event_store.safe_position() AS open \gset
BEGIN;
SELECT last_sequence, durable FROM event_store.append_event('Feed', 'e', NULL, 'Placed');
SELECT last_sequence, durable FROM event_store.append_event('Feed', 'f', NULL, 'Placed');
SELECT event_store.safe_position() = :open;
SELECT pg_temp.read(:open);
SELECT event_store.wait_for_events(:open, '10ms') = :open;
SELECT safe_position = :open, last_position > safe_position, in_flight, blocker_pid = pg_backend_pid(),
       blocked_since BETWEEN transaction_timestamp() AND clock_timestamp() FROM event_store.feed_status;
COMMIT;
SELECT pg_temp.read(:open);
SELECT safe_position > :open, last_position = safe_position, in_flight, blocker_pid, blocked_since FROM event_store.feed_status;

-- a rolled-back append leaves a hole at most, and delays nobody
SELECT event_store.safe_position() AS hole \gset
BEGIN;
SELECT last_sequence FROM event_store.append_event('Feed', 'g', NULL, 'Placed');
SELECT last_position AS rolled_back FROM event_store.feed_status \gset
ROLLBACK;
SELECT safe_position = :rolled_back, in_flight FROM event_store.feed_status;
SELECT pg_temp.read(:rolled_back);
SELECT last_sequence, last_position > :rolled_back FROM event_store.append_event('Feed', 'h', NULL, 'Placed');
SELECT pg_temp.read(:hole);

-- an error is a rollback
SELECT pg_temp.refused($$DO 'BEGIN PERFORM event_store.append_event(''Feed'', ''g'', NULL, ''Placed''); RAISE division_by_zero; END'$$);
SELECT in_flight, safe_position = last_position FROM event_store.feed_status;

-- savepoints: what is rolled back is never delivered, the rest is with the commit
SELECT event_store.safe_position() AS saved \gset
BEGIN;
SAVEPOINT one;
SELECT last_sequence FROM event_store.append_event('Feed', 'i', NULL, 'RolledBack');
ROLLBACK TO one;
SELECT last_sequence FROM event_store.append_event('Feed', 'j', NULL, 'Kept');
SAVEPOINT two;
SELECT last_sequence FROM event_store.append_event('Feed', 'i', NULL, 'Kept');
SAVEPOINT three;
SELECT last_sequence FROM event_store.append_event('Feed', 'k', NULL, 'RolledBack');
ROLLBACK TO three;
RELEASE two;
SELECT event_store.safe_position() = :saved, pg_temp.read(:saved);
COMMIT;
SELECT pg_temp.read(:saved);
SELECT event_type, count(*) FROM event_store.read_events(:saved) GROUP BY 1;
-- all of it rolled back, and the transaction committed
SELECT event_store.safe_position() AS saved \gset
BEGIN;
SAVEPOINT one;
SELECT last_sequence FROM event_store.append_event('Feed', 'k', NULL, 'RolledBack');
ROLLBACK TO one;
COMMIT;
SELECT pg_temp.read(:saved), in_flight, safe_position = last_position FROM event_store.feed_status;
-- subtransactions of PL/pgSQL
DO $$
BEGIN
    FOR i IN 1 .. 4 LOOP
        BEGIN
            PERFORM event_store.append_event('Feed', 'sub-' || i, NULL, 'Placed');
            IF i % 2 = 0 THEN
                RAISE EXCEPTION 'rolled back';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT pg_temp.read(:saved);

-- staged events get their position when they are drained
SET event_store.durability = 'staged';
SELECT event_store.safe_position() AS staged \gset
BEGIN;
SELECT last_sequence, last_position, durable FROM event_store.append_event('Feed', 'l', NULL, 'Staged');
SELECT in_flight, safe_position = :staged, last_position = :staged FROM event_store.feed_status;
SELECT last_sequence, last_position > :staged, durable
  FROM event_store.append_event('Feed', 'm', NULL, 'Durable', durability => 'durable');
ROLLBACK;
BEGIN;
SELECT last_sequence, last_position, durable FROM event_store.append_event('Feed', 'l', NULL, 'Staged');
SELECT pg_temp.read(:staged);
COMMIT;
SET event_store.durability = 'durable';
SELECT last_sequence, durable FROM event_store.append_event('Feed', 'm', NULL, 'Durable');
SELECT event_store.flush();
SELECT min(global_position) FILTER (WHERE event_type = 'Staged') > :staged, array_agg(event_type ORDER BY event_type)
  FROM event_store.read_events(:staged);
SELECT in_flight, safe_position = last_position FROM event_store.feed_status;

-- every isolation level; a reader that may not write
SELECT event_store.safe_position() AS levels \gset
SELECT event_store.append_event('Feed', 'n', NULL, 'Placed') \g /dev/null
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT pg_temp.read(:levels), event_store.safe_position() > :levels;
SELECT event_store.wait_for_events(:levels, '10s') > :levels;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT pg_temp.read(:levels);
SELECT safe_position > :levels FROM event_store.feed_status;
COMMIT;

-- in a cursor, in a join, and more often than its plan is a custom one
BEGIN;
DECLARE feed CURSOR FOR SELECT aggregate_id FROM event_store.read_events(:start);
FETCH 2 FROM feed;
FETCH 1 FROM feed;
COMMIT;
SELECT string_agg(e.aggregate_id, ' ' ORDER BY n) FROM generate_series(1, 7) n,
       event_store.read_events(:start, 1, event_types => '{Shipped}') e;

-- a reader may call them, and sees how far it is; a stranger may not
CREATE ROLE regress_feed_reader;
SELECT event_store.grant_access('regress_feed_reader', 'reader');
SET ROLE regress_feed_reader;
SELECT pg_temp.read(:levels);
SELECT count(*) FROM event_store.read_events(:start, 5, member => 0, members => 1);
SELECT event_store.safe_position() > :levels, event_store.wait_for_events(:levels) > :levels;
SELECT pg_temp.refused('SELECT * FROM event_store.feed_status');
RESET ROLE;
-- nor does a COPY that is refused make it wait for his transaction
BEGIN;
SAVEPOINT before;
SET LOCAL ROLE regress_feed_reader;
\set VERBOSITY sqlstate
COPY event_store.domain_events FROM '/dev/null';
\set VERBOSITY default
ROLLBACK TO before;
SELECT in_flight FROM event_store.feed_status;
COMMIT;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA event_store FROM regress_feed_reader;
SET ROLE regress_feed_reader;
SELECT pg_temp.refused('SELECT event_store.read_events()');
SELECT pg_temp.refused('SELECT event_store.safe_position()');
SELECT pg_temp.refused('SELECT event_store.wait_for_events(0)');
RESET ROLE;
DROP OWNED BY regress_feed_reader;
DROP ROLE regress_feed_reader;

-- position_at: the last event at and before which nothing was recorded later, whatever
-- times the log has; what was staged before another event may be behind it
ALTER SYSTEM SET event_store.write_delay = '1h';
SELECT pg_catalog.pg_reload_conf();
\c -
SHOW event_store.write_delay;
SELECT event_store.flush();
SELECT event_store.append_event('Time', 'one', NULL, 'Added') \g /dev/null
SELECT event_store.append_event('Time', 'staged', NULL, 'Added', durability => 'staged') \g /dev/null
SELECT event_store.append_event('Time', 'durable', NULL, 'Added') \g /dev/null
SELECT event_store.flush();
SELECT d.recorded_at > s.recorded_at AS later, d.global_position < s.global_position AS before
  FROM event_store.load_events('Time', 'staged', backward => true, max_count => 1) s,
       event_store.load_events('Time', 'durable', backward => true, max_count => 1) d;
CREATE FUNCTION pg_temp.last_before_later(at timestamptz) RETURNS bigint
    LANGUAGE sql
AS $$
    SELECT coalesce(max(e.global_position), 0)
      FROM (SELECT d.global_position, max(d.recorded_at) OVER (ORDER BY d.global_position) AS latest
              FROM event_store.domain_events d WHERE d.global_position > 0) e
     WHERE e.latest <= at
$$;
SELECT count(*) >= 9 AS times, count(DISTINCT told) >= 3 AS answers, count(*) FILTER (WHERE told <> pg_temp.last_before_later(at)) AS wrong
  FROM (SELECT at, event_store.position_at(at) AS told
          FROM event_store.domain_events e, unnest(ARRAY['-1us', '0', '1us']::interval[]) d, LATERAL (SELECT e.recorded_at + d AS at) a
         WHERE e.global_position % 50 = 1 OR e.aggregate_type = 'Time'
            OR e.recorded_at = (SELECT min(recorded_at) FROM event_store.domain_events)) t;
SELECT event_store.position_at('-infinity'), event_store.position_at('infinity') = max(global_position) AS last
  FROM event_store.domain_events;
-- up to the safe position
SELECT event_store.position_at('infinity') AS last \gset
BEGIN;
SELECT event_store.append_event('Time', 'open', NULL, 'Added') \g /dev/null
SELECT event_store.position_at('infinity') = :last;
ROLLBACK;
SELECT event_store.position_at('infinity') = :last;
SELECT event_store.position_at(NULL);
ALTER SYSTEM RESET event_store.write_delay;
SELECT pg_catalog.pg_reload_conf();
