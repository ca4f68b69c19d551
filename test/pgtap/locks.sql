-- What an append locks: its aggregates, until the transaction ends, and nothing
-- that anybody else needs.  Other sessions are connections of dblink.

\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION dblink;
SELECT event_store.create_store() \g /dev/null

CREATE FUNCTION pg_temp.run(session text, statement text) RETURNS text LANGUAGE sql
AS $$ SELECT r FROM dblink(session, statement) AS t(r text) $$;
-- how another session's statement ends
CREATE FUNCTION pg_temp.state(session text, statement text) RETURNS text LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_temp.run(session, statement);
    RETURN '00000';
EXCEPTION WHEN OTHERS OR query_canceled THEN
    RETURN SQLSTATE;
END
$$;
CREATE FUNCTION pg_temp.connect(session text) RETURNS text LANGUAGE sql
AS $$
    SELECT dblink_connect(session, format('host=%s port=%s dbname=%s user=%s application_name=%s',
        split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'),
        current_database(), session_user, session))
$$;
CREATE FUNCTION pg_temp.batch(count int, prefix text, durability text DEFAULT 'durable') RETURNS bigint LANGUAGE sql
AS $$
    SELECT count(*) FROM event_store.append_batch(
        array_fill('Locked'::text, ARRAY[count]), (SELECT array_agg(prefix || i) FROM generate_series(1, count) i),
        array_fill('Added'::text, ARRAY[count]), NULL, durability => durability)
$$;
SELECT pg_temp.connect('other') \g /dev/null
SELECT pg_temp.connect('third') \g /dev/null

-- what this backend holds; a lock space of ours is the objsubid of an advisory
-- lock: 58625 is that of aggregates, an application's own are 1 and 2
CREATE TEMPORARY VIEW held AS
SELECT locktype, relation::regclass::text AS relation, objsubid::int & 65535 AS space, mode, granted
  FROM pg_locks
 WHERE pid = pg_backend_pid() AND locktype NOT IN ('virtualxid', 'transactionid')
   AND (relation IS NULL OR relation::regclass::text LIKE 'event_store.%');
CREATE FUNCTION pg_temp.spaces() RETURNS text LANGUAGE sql
AS $$
    SELECT coalesce(string_agg(line, ', ' ORDER BY line), 'none')
      FROM (SELECT format('%s: %s %s', space, count(*), mode) AS line
              FROM held WHERE locktype = 'advisory' GROUP BY space, mode) s
$$;
-- locks of other things that are wider than those of a reader or writer of rows
CREATE FUNCTION pg_temp.wider() RETURNS text LANGUAGE sql
AS $$
    SELECT coalesce(string_agg(concat_ws(' ', locktype, relation, mode), ', '), 'none')
      FROM held WHERE locktype <> 'advisory' AND mode NOT IN ('AccessShareLock', 'RowExclusiveLock')
$$;

SELECT * FROM no_plan();

-- the first append in a server reserves positions: its locks are gone as well
BEGIN;
SELECT is(last_sequence, 1::bigint, 'append_event') FROM event_store.append_event('Locked', 'a', 0, 'Added');
SELECT is(pg_temp.spaces(), '58625: 1 ExclusiveLock', 'locks its aggregate');
SELECT is(string_agg(DISTINCT locktype, ' ' ORDER BY locktype), 'advisory relation', 'and relations') FROM held;
SELECT is(pg_temp.wider(), 'none',
    'as a reader or writer of rows does');
SELECT event_store.append_event('Locked', 'a', 1, 'Added') \g /dev/null
SELECT is(pg_temp.spaces(), '58625: 1 ExclusiveLock', 'a second append to it takes no other lock');
SELECT event_store.append_events('Locked', 'b', NULL, '[{"event_type": "Added"}, {"event_type": "Added"}]') \g /dev/null
SELECT is(pg_temp.spaces(), '58625: 2 ExclusiveLock', 'append_events locks its aggregate');
SELECT is(pg_temp.batch(20, 'c-'), 20::bigint, 'append_batch');
SELECT is(pg_temp.spaces(), '58625: 22 ExclusiveLock', 'locks its aggregates');
SELECT event_store.append_event('Locked', 'd', NULL, 'Added', durability => 'staged') \g /dev/null
SELECT is(pg_temp.batch(5, 'e-', 'staged'), 5::bigint, 'staged appends');
SELECT is(pg_temp.spaces(), '58625: 28 ExclusiveLock', 'lock theirs');
SELECT is(pg_temp.wider(), 'none',
    'still nothing wider on a relation');
SELECT count(*) FROM event_store.read_events(), event_store.load_events('Locked', 'a'), event_store.feed_status \g /dev/null
SELECT is(pg_temp.spaces(), '58625: 28 ExclusiveLock', 'readers lock nothing');

-- meanwhile
SELECT pg_temp.run('other', 'SET lock_timeout = ''1ms''') \g /dev/null
SELECT is(pg_temp.run('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'x', 0, 'Added')$$), '1',
    'an append to another aggregate waits for nothing');
SELECT is(pg_temp.run('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'y', 0, 'Added', durability => 'staged')$$), '1',
    'nor does a staged one');
SELECT is(pg_temp.run('other', $$SELECT count(*) FROM event_store.append_batch(
        array_fill('Locked'::text, ARRAY[50]), (SELECT array_agg('z-' || i) FROM generate_series(1, 50) i),
        array_fill('Added'::text, ARRAY[50]), NULL)$$), '50', 'nor a batch');
SELECT is(pg_temp.run('other', $$SELECT count(*) FROM event_store.load_events('Locked', 'a')$$), '0', 'nor a reader');
SELECT is(pg_temp.run('other', format('SELECT pg_try_advisory_lock(%s::bit(32)::int, %s::bit(32)::int) AND pg_try_advisory_lock(%s)',
        classid::bigint, objid::bigint, (classid::bigint::bit(32) || objid::bigint::bit(32))::bit(64)::bigint)), 't',
    'an application''s advisory lock of the same key is another lock')
  FROM pg_locks WHERE objsubid::int & 65535 = 58625 AND pid = pg_backend_pid() LIMIT 1;
SELECT pg_temp.run('other', 'SELECT pg_advisory_unlock_all()') \g /dev/null

-- a blocked append gives up cleanly
SELECT is(pg_temp.state('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'a', NULL, 'Added')$$),
    '55P03', 'lock_timeout ends an append that is blocked');
SELECT is(pg_temp.run('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'x', 1, 'Added')$$), '2',
    'the session is usable afterwards');
SELECT is(pg_temp.state('other', $$SELECT count(*) FROM event_store.append_batch(ARRAY['Locked', 'Locked'], ARRAY['fresh', 'a'], ARRAY['Added', 'Added'], NULL)$$),
    '55P03', 'and a batch');
SELECT is(pg_temp.state('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'a', NULL, 'Added', durability => 'staged')$$),
    '55P03', 'and a staged append');
SELECT pg_temp.run('other', 'RESET lock_timeout') \g /dev/null
SELECT pg_temp.run('other', 'SET statement_timeout = ''50ms''') \g /dev/null
SELECT is(pg_temp.state('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'a', NULL, 'Added')$$),
    '57014', 'statement_timeout ends it, too');
SELECT pg_temp.run('other', 'RESET statement_timeout') \g /dev/null
-- in a transaction that goes on after it
SELECT pg_temp.run('other', 'BEGIN') \g /dev/null
SELECT pg_temp.run('other', 'SET LOCAL lock_timeout = ''1ms''') \g /dev/null
SELECT pg_temp.run('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'x', 2, 'Added')$$) \g /dev/null
SELECT pg_temp.run('other', 'SAVEPOINT s') \g /dev/null
SELECT is(pg_temp.state('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'b', NULL, 'Added')$$),
    '55P03', 'in a subtransaction');
SELECT pg_temp.run('other', 'ROLLBACK TO s') \g /dev/null
SELECT is(pg_temp.run('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'x', 3, 'Added')$$), '4',
    'the transaction goes on');
SELECT pg_temp.run('other', 'COMMIT') \g /dev/null
SELECT is((SELECT count(*) FROM pg_locks WHERE objsubid NOT IN (1, 2) AND pid <> pg_backend_pid() AND locktype = 'advisory'
              AND pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'other')),
    0::bigint, 'and leaves no lock behind');
COMMIT;
SELECT is(pg_temp.spaces(), 'none', 'the end of the transaction releases all');
SELECT is(pg_temp.run('other', $$SELECT last_sequence FROM event_store.append_event('Locked', 'a', 2, 'Added')$$), '3',
    'and the aggregate is free');
SELECT is(event_store.aggregate_sequence('Locked', 'fresh'), 0::bigint, 'nothing is left of the refused batch');

-- a refused append
BEGIN;
SAVEPOINT s;
SELECT throws_ok($$SELECT event_store.append_event('Locked', 'a', 99, 'Added')$$, 'VS001', NULL, 'a conflict');
SELECT is(outcome, 'conflict', 'a conflict that is reported')
  FROM event_store.append_batch(ARRAY['Locked'], ARRAY['a'], ARRAY['Added'], NULL, ARRAY[99], on_conflict => 'report');
SELECT is(pg_temp.spaces(), '58625: 1 ExclusiveLock', 'locks its aggregate');
ROLLBACK TO s;
SELECT is(pg_temp.spaces(), 'none', 'until its savepoint is rolled back');
ROLLBACK;

-- what fits into a quarter of the lock table is locked one by one, and into half
-- of it together with others; more closes the gate.  The table has room for other
-- processes than connections, too: how many depends on the version.
SELECT max_locks * max_connections / 4 AS most, max_locks * max_connections * 2 AS more,
       max_locks * (max_connections + others) / 2 - max_locks * max_connections / 4 * 2 + 1 AS rest
  FROM (SELECT current_setting('max_locks_per_transaction')::int AS max_locks,
               current_setting('max_connections')::int AS max_connections,
               COALESCE(current_setting('autovacuum_worker_slots', true), current_setting('autovacuum_max_workers'))::int
               + current_setting('max_worker_processes')::int + current_setting('max_wal_senders')::int
               + current_setting('max_prepared_transactions')::int + 2 AS others) s \gset
BEGIN;
SELECT is(pg_temp.batch(:most, 'm-'), :most::bigint, 'a batch of many');
SELECT is(pg_temp.spaces(), format('58625: %s ExclusiveLock', :most), 'locks each');
SELECT is(pg_temp.wider(), 'none', 'and does not close the gate');
SELECT pg_temp.run('other', 'BEGIN') \g /dev/null
SELECT pg_temp.run('other', format($$SELECT count(*) FROM event_store.append_batch(
        array_fill('Locked'::text, ARRAY[%1$s]), (SELECT array_agg('q-' || i) FROM generate_series(1, %1$s) i),
        array_fill('Added'::text, ARRAY[%1$s]), NULL)$$, :most)) \g /dev/null
SELECT is(count(*), :most::bigint, 'another one goes on beside it')
  FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid();
SELECT pg_temp.run('third', 'SET lock_timeout = ''1ms''') \g /dev/null
SELECT is(pg_temp.state('third', format($$SELECT count(*) FROM event_store.append_batch(
        array_fill('Locked'::text, ARRAY[%1$s]), (SELECT array_agg('r-' || i) FROM generate_series(1, %1$s) i),
        array_fill('Added'::text, ARRAY[%1$s]), NULL)$$, :rest)), '55P03', 'a third wants the gate closed');
SELECT pg_temp.run('other', 'ROLLBACK') \g /dev/null
ROLLBACK;
BEGIN;
SELECT is(pg_temp.batch(:more, 'm-'), :more::bigint, 'a batch of more');
SELECT is(pg_temp.spaces(), 'none', 'locks none');
SELECT is(pg_temp.wider(), 'relation event_store.aggregate_gate ShareRowExclusiveLock', 'and closes the gate');
SELECT is(pg_temp.run('other', $$SELECT count(*) FROM event_store.load_events('Locked', 'a')$$), '3', 'readers go on');
ROLLBACK;

-- an importer counts an aggregate once, and who has passed the gate does not close it
BEGIN;
SELECT is(sum(pg_temp.batch(100, 'i-')), (:most * 4 / 100 * 100)::numeric, 'batches to the same aggregates, as many as the lock table is large')
  FROM generate_series(1, :most * 4 / 100);
SELECT is(pg_temp.spaces(), '58625: 100 ExclusiveLock', 'lock each once');
SELECT is(pg_temp.wider(), 'none', 'and close no gate');
SELECT is(string_agg(mode, ' '), 'RowExclusiveLock', 'but pass it') FROM held WHERE relation = 'event_store.aggregate_gate';
ROLLBACK;
BEGIN;
SELECT is(sum(pg_temp.batch(:most / 2, 'j-' || i || '-')), (:most / 2 * 5)::numeric, 'batches to many aggregates one after the other')
  FROM generate_series(1, 5) i;
SELECT is(pg_temp.spaces(), format('58625: %s ExclusiveLock', :most / 2 * 5), 'lock each');
SELECT is(pg_temp.wider(), 'none', 'and close no gate, which they have passed');
ROLLBACK;

-- single calls fill the lock table: the hint names the calls that do not
CREATE FUNCTION pg_temp.fill(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    LOOP
        EXECUTE call;
    END LOOP;
EXCEPTION WHEN out_of_memory THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ' ' || hint;
END
$$;
SELECT matches(pg_temp.fill($$SELECT event_store.append_event('Full', gen_random_uuid()::text, 0, 'Added')$$),
    '^53200 .*append_batch.*put_views.*max_locks_per_transaction', 'appends one by one');
SELECT matches(pg_temp.fill($$SELECT event_store.put_view('Full', gen_random_uuid()::text, '{}')$$),
    '^53200 .*append_batch.*put_views.*max_locks_per_transaction', 'views one by one');
SELECT is(replace(pg_temp.fill($$DO 'BEGIN PERFORM pg_advisory_xact_lock(i) FROM generate_series(1, 1000000) i; END'$$), '"', ''),
    '53200 You might need to increase max_locks_per_transaction.', 'locks of others have PostgreSQL''s own');

-- 100,000 aggregates in one call, with the smallest lock table that a server has as it comes
SELECT is(current_setting('max_locks_per_transaction'), '64', 'the lock table is small');
SELECT is(pg_temp.batch(100000, 'n-'), 100000::bigint, 'a batch over 100,000 aggregates');
SELECT is(pg_temp.batch(100000, 'n-'), 100000::bigint, 'again, to aggregates that exist');
SELECT is(sum(sequence), 300000::numeric, 'all of it is there') FROM event_store.domain_events WHERE aggregate_id LIKE 'n-%';
SELECT is(pg_temp.batch(100000, 'o-', 'staged'), 100000::bigint, 'staged');
SELECT ok(event_store.flush('10min'), 'and drained');
SELECT is(count(*), 100000::bigint, 'all of it is there') FROM event_store.domain_events WHERE aggregate_id LIKE 'o-%';
SELECT is(event_store.put_views('Locked', (SELECT array_agg('k-' || i) FROM generate_series(1, 100000) i),
        array_fill('{}'::jsonb, ARRAY[100000])), 100000::bigint, 'and as many views');

SELECT * FROM finish();
