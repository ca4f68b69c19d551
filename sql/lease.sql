-- lease: a batch in the hands of a consumer, fenced by a number; at least once, in order
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
    RETURN sqlstate || ' ' || regexp_replace(sqlerrm, 'lease \d+', 'lease N');
END
$$;
-- a subscription of its own over new events: "a a b c", one letter an aggregate
CREATE FUNCTION pg_temp.start(name text, list text, more text DEFAULT '') RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT event_store.create_subscription(%L, ARRAY[%L], start_after => event_store.safe_position() %s)', name, 'Lease ' || name, more);
    PERFORM event_store.append_event('Lease ' || name, e, NULL, 'E') FROM unnest(string_to_array(list, ' ')) e;
END
$$;
-- what a claim gives, as "a:1 b:1", with the attempt where it is not the first; the lease is kept as that of its name
CREATE TEMPORARY TABLE leases (name text PRIMARY KEY, member int, lease bigint);
CREATE FUNCTION pg_temp.claim(name text, max_count int DEFAULT 100, lease_time interval DEFAULT '1h') RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    given text;
BEGIN
    WITH c AS MATERIALIZED (SELECT * FROM event_store.claim_events($1, 'regress', $2, $3)),
         l AS (INSERT INTO leases SELECT DISTINCT $1, c.member, c.lease FROM c
               ON CONFLICT ON CONSTRAINT leases_pkey DO UPDATE SET member = excluded.member, lease = excluded.lease)
    SELECT string_agg(c.aggregate_id || ':' || c.sequence || CASE WHEN c.attempt > 1 THEN '(' || c.attempt || ')' ELSE '' END, ' ' ORDER BY c.global_position)
      INTO given FROM c;
    RETURN given;
END
$$;
CREATE FUNCTION pg_temp.at(name text, ids text[]) RETURNS bigint[]
    LANGUAGE sql AS $$
    SELECT array_agg(e.global_position ORDER BY n) FROM unnest($2) WITH ORDINALITY i (i, n)
      JOIN event_store.domain_events e ON e.aggregate_type = 'Lease ' || $1 AND e.aggregate_id || ':' || e.sequence = i
$$;
CREATE FUNCTION pg_temp.ack(name text, up_to text DEFAULT NULL, failed text[] DEFAULT NULL, action text DEFAULT 'retry') RETURNS boolean
    LANGUAGE sql AS $$
    SELECT event_store.ack_events($1, l.member, l.lease, (pg_temp.at($1, ARRAY[$2]))[1], pg_temp.at($1, $3),
                                  CASE WHEN $3 IS NOT NULL THEN array_fill('it failed'::text, ARRAY[cardinality($3)]) END, $4)
      FROM leases l WHERE l.name = $1
$$;
CREATE FUNCTION pg_temp.expire(name text) RETURNS void
    LANGUAGE sql AS $$
    SELECT event_store.extend_lease($1, l.member, l.lease, '1us') FROM leases l WHERE l.name = $1
$$;
CREATE FUNCTION pg_temp.aside(name text) RETURNS text
    LANGUAGE sql AS $$
    SELECT string_agg(e.aggregate_id || ':' || e.sequence || ' ' || p.state || ' ' || p.attempts || coalesce(' ' || p.error_code, '') || ' ' || p.error_message, ', ' ORDER BY p.global_position)
      FROM event_store.parked_events p JOIN event_store.domain_events e USING (global_position) WHERE p.subscription_name = $1
$$;
CREATE FUNCTION pg_temp.status(name text) RETURNS text
    LANGUAGE sql AS $$
    SELECT string_agg(s.state || coalesce(' ' || s.consumer, '') || CASE WHEN s.lease_until > clock_timestamp() THEN ' for a time' ELSE '' END || ' ' || s.attempts, ', ' ORDER BY s.member)
      FROM event_store.subscription_status s WHERE s.subscription_name = $1
$$;

-- a claim: its columns, what the status says, who is kept off
SELECT pg_temp.start('plain', 'a b a c');
SELECT member, lease > 0, attempt, aggregate_id, sequence, event_type, partition_key, consumer.name
  FROM (VALUES ('mailer')) consumer (name), event_store.claim_events('plain', consumer.name, 2);
SELECT pg_temp.status('plain');
SELECT pg_temp.claim('plain');
SELECT count(*) FROM event_store.next_events('plain');
SELECT pg_temp.outcome(format($$SELECT event_store.fail_events('plain', %s, 'bad')$$, (pg_temp.at('plain', '{a:1}'))[1]));
INSERT INTO leases SELECT 'plain', member, lease FROM event_store.subscription_positions WHERE subscription_name = 'plain' ORDER BY number DESC LIMIT 1;
SELECT pg_temp.ack('plain');
SELECT pg_temp.status('plain');
SELECT pg_temp.outcome($$SELECT pg_temp.ack('plain')$$);
-- the columns are those of an event
SELECT (SELECT array_agg(n) FROM unnest(p.proargnames) WITH ORDINALITY u (n, i) WHERE i BETWEEN 11 AND 10 + (SELECT count(*) FROM pg_attribute WHERE attrelid = 'event_store.event'::regclass AND attnum > 0))
     = (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'event_store.event'::regclass AND attnum > 0)
  FROM pg_proc p WHERE p.oid = 'event_store.claim_events'::regproc;

-- in the transaction that claimed it; rolled back it is nobody's, and its number is not given again
BEGIN;
SELECT pg_temp.claim('plain', 1);
SELECT lease AS lost FROM leases WHERE name = 'plain' \gset
SELECT pg_temp.ack('plain');
SAVEPOINT s;
SELECT pg_temp.claim('plain');
ROLLBACK TO s;
ROLLBACK;
SELECT pg_temp.claim('plain', 1);
SELECT lease > :lost FROM leases WHERE name = 'plain';
SELECT pg_temp.outcome(format($$SELECT event_store.ack_events('plain', 0, %s)$$, :lost));
-- the last batch and the next in one call; a lease that is lost claims nothing
SELECT lease AS before FROM leases WHERE name = 'plain' \gset
SELECT aggregate_id, sequence, lease > :before FROM event_store.claim_events('plain', 'regress', done_member => 0, done_lease => :before);
SELECT count(*) FROM event_store.subscription_positions WHERE subscription_name = 'plain' AND lease IS NULL AND number > (SELECT min(number) FROM event_store.subscription_positions WHERE lease = :before);
SELECT pg_temp.outcome(format($$SELECT FROM event_store.claim_events('plain', 'regress', done_member => 0, done_lease => %s)$$, :before));
SELECT lease AS last FROM event_store.subscription_positions WHERE subscription_name = 'plain' ORDER BY number DESC LIMIT 1 \gset
SELECT count(*) FROM event_store.claim_events('plain', 'regress', done_member => 0, done_lease => :last);
SELECT pg_temp.status('plain');
SELECT count(*) FROM event_store.next_events('plain');

-- released and extended
SELECT pg_temp.start('back', 'a b a c');
SELECT pg_temp.claim('back', 3);
SELECT event_store.extend_lease('back', member, lease, '2h') > clock_timestamp() + interval '1h' FROM leases WHERE name = 'back';
SELECT event_store.release_events('back', member, lease) FROM leases WHERE name = 'back';
SELECT pg_temp.status('back');
SELECT pg_temp.outcome($$SELECT event_store.extend_lease('back', member, lease) FROM leases WHERE name = 'back'$$);
SELECT pg_temp.outcome($$SELECT event_store.release_events('back', member, lease) FROM leases WHERE name = 'back'$$);
-- a part of it
SELECT pg_temp.claim('back');
SELECT pg_temp.ack('back', 'b:1');
SELECT pg_temp.ack('back', 'a:1');
SELECT pg_temp.status('back');
SELECT pg_temp.outcome(format($$SELECT event_store.ack_events('back', member, lease, %s) FROM leases WHERE name = 'back'$$, event_store.safe_position() + 1)) ~ '^22023 up_to_position: \d+ lies beyond the batch$';
SELECT event_store.release_events('back', member, lease) FROM leases WHERE name = 'back';
SELECT pg_temp.claim('back');
SELECT pg_temp.ack('back', 'c:1');

-- an expired lease can be acknowledged until somebody else has its events; then the next batch is half as large
SELECT pg_temp.start('late', 'a b c d e f g h');
SELECT pg_temp.claim('late', 4);
SELECT pg_temp.expire('late');
SELECT pg_temp.status('late');
SELECT pg_temp.ack('late', 'b:1'), pg_temp.ack('late', 'd:1');
SELECT pg_temp.claim('late', 4);
SELECT pg_temp.expire('late');
SELECT pg_temp.claim('late', 4);
-- and stays so until the member has passed the events of that one
SELECT pg_temp.ack('late');
SELECT pg_temp.claim('late', 4);
SELECT pg_temp.ack('late');
SELECT event_store.append_batch('{Lease late,Lease late,Lease late}', '{i,j,k}', '{E,E,E}', NULL) IS NOT NULL;
SELECT pg_temp.claim('late', 4);
-- next_events takes what has expired, too
SELECT pg_temp.expire('late');
SELECT aggregate_id FROM event_store.next_events('late');
SELECT pg_temp.outcome($$SELECT pg_temp.ack('late')$$);
-- a clock that was set back
SELECT pg_temp.claim('late', 1);
UPDATE event_store.subscription_positions SET lease_since = lease_since + interval '1 day', lease_until = lease_until + interval '1 day' WHERE subscription_name = 'late';
SELECT pg_temp.status('late');
SELECT pg_temp.claim('late', 9);

-- only a batch of one counts an attempt; the last one ends in on_failure, and nobody else is parked
SELECT pg_temp.start('killed', 'a b b', ', max_attempts => 2');
SELECT pg_temp.claim('killed');
SELECT pg_temp.expire('killed'), pg_temp.aside('killed');
SELECT pg_temp.claim('killed');
SELECT pg_temp.expire('killed');
SELECT pg_temp.claim('killed'), pg_temp.aside('killed');
SELECT pg_temp.status('killed');
SELECT pg_temp.expire('killed');
SELECT pg_temp.claim('killed'), pg_temp.aside('killed');
SELECT pg_temp.ack('killed');
SELECT pg_temp.claim('killed');
-- retried, it counts from there
SELECT event_store.retry_parked_events('killed');
SELECT last_sequence FROM event_store.append_event('Lease killed', 'a', NULL, 'E');
SELECT pg_temp.claim('killed');
SELECT pg_temp.ack('killed');
SELECT pg_temp.claim('killed', 1);
SELECT pg_temp.expire('killed');
SELECT event_store.alter_subscription('killed', on_failure => 'stop', max_attempts => 2);
SELECT pg_temp.claim('killed');
SELECT pg_temp.status('killed');
SELECT pg_temp.expire('killed');
SELECT pg_temp.claim('killed'), pg_temp.aside('killed');
SELECT pg_temp.status('killed');
SELECT event_store.resume_subscription('killed');
SELECT pg_temp.claim('killed');

-- what failed: the lowest one of a partition counts, once; its later events come again behind it
SELECT pg_temp.start('fails', 'a b a c a b');
SELECT pg_temp.claim('fails');
SELECT pg_temp.ack('fails', 'c:1', '{a:2,a:1}'), pg_temp.aside('fails');
SELECT pg_temp.status('fails');
SELECT pg_temp.outcome($$SELECT pg_temp.ack('fails', NULL, '{a:3}')$$) ~ '^22023 failed_positions: \d+ is not in the batch$';
SELECT pg_temp.ack('fails');
UPDATE event_store.parked_events SET retry_at = clock_timestamp() WHERE retry_at IS NOT NULL;
SELECT pg_temp.claim('fails');
SELECT pg_temp.ack('fails', 'a:2', '{a:2}'), pg_temp.aside('fails');
UPDATE event_store.parked_events SET retry_at = clock_timestamp() WHERE retry_at IS NOT NULL;
SELECT pg_temp.claim('fails', 1);
SELECT pg_temp.ack('fails'), pg_temp.aside('fails');
SELECT pg_temp.claim('fails');
SELECT pg_temp.ack('fails', NULL, '{a:3}', 'park'), pg_temp.aside('fails');
-- discarded while it is retried: its lease is lost
SELECT event_store.retry_parked_events('fails');
SELECT pg_temp.claim('fails');
SELECT event_store.discard_parked_events('fails', 'Lease fails/a', 'test');
SELECT pg_temp.outcome($$SELECT pg_temp.ack('fails')$$), pg_temp.aside('fails');
SELECT pg_temp.claim('fails');
-- passed over, or parked alone: those behind it count as handled
SELECT pg_temp.start('alone', 'a a a b b b');
SELECT pg_temp.claim('alone');
SELECT pg_temp.ack('alone', 'b:1', '{a:1,a:2}', 'skip'), pg_temp.aside('alone');
SELECT pg_temp.ack('alone', 'b:2', '{b:2}', 'park_event'), pg_temp.aside('alone');
SELECT pg_temp.ack('alone');
SELECT event_store.retry_parked_events('alone');
SELECT pg_temp.claim('alone');
SELECT pg_temp.ack('alone', NULL, '{b:2}'), pg_temp.aside('alone');
SELECT event_store.retry_parked_events('alone');
SELECT pg_temp.claim('alone');
SELECT pg_temp.ack('alone'), pg_temp.aside('alone');
-- stopped: the member goes on with that very event, and gives again what lies behind it
SELECT pg_temp.start('stopped', 'a b a b');
SELECT pg_temp.claim('stopped');
SELECT pg_temp.ack('stopped', 'b:2', '{b:1}', 'stop'), pg_temp.status('stopped');
SELECT pg_temp.claim('stopped');
SELECT event_store.resume_subscription('stopped');
SELECT pg_temp.claim('stopped');
-- a filter that changes meanwhile
SELECT event_store.alter_subscription('stopped', event_types => '{F}');
SELECT pg_temp.ack('stopped');

-- paused: open leases finish; moved: they are lost
SELECT pg_temp.start('paused', 'a b a c');
SELECT pg_temp.claim('paused', 2);
SELECT event_store.pause_subscription('paused');
SELECT pg_temp.ack('paused', 'a:1'), pg_temp.ack('paused', 'b:1');
SELECT pg_temp.claim('paused');
SELECT event_store.resume_subscription('paused');
SELECT pg_temp.claim('paused', 1);
SELECT event_store.pause_subscription('paused'), event_store.move_subscription('paused', (pg_temp.at('paused', '{a:1}'))[1] - 1), event_store.resume_subscription('paused');
SELECT pg_temp.outcome($$SELECT pg_temp.ack('paused')$$);
SELECT pg_temp.claim('paused', 1);
-- made anew under its name: an old lease is lost
SELECT event_store.drop_subscription('paused'), event_store.create_subscription('paused', '{Lease paused}');
SELECT pg_temp.outcome($$SELECT pg_temp.ack('paused')$$);

-- several members: a claim each; what a transaction has fetched is not free
SELECT pg_temp.start('divided', 'a b c d e f g h', ', members => 2');
BEGIN;
SELECT count(*) AS fetched FROM event_store.next_events('divided') \gset
SELECT count(DISTINCT member), count(*) = 8 - :fetched FROM event_store.claim_events('divided', 'one');
SELECT count(*) FROM event_store.claim_events('divided', 'two');
COMMIT;
SELECT state, consumer FROM event_store.subscription_status WHERE subscription_name = 'divided' ORDER BY 1;

-- by a partition of its own
SELECT event_store.create_subscription('keyed', '{Lease keyed}', partition_by => '$.payload.k', start_after => event_store.safe_position());
SELECT event_store.append_event('Lease keyed', 'x', NULL, 'E', '{"k": 7}') IS NOT NULL;
SELECT partition_key, payload FROM event_store.claim_events('keyed', 'one');

-- the clock and the isolation level play no part in who has it
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM event_store.claim_events('keyed', 'two');
SELECT pg_temp.start('serial', 'a b');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.claim('serial', 1);
SELECT pg_temp.ack('serial');
SELECT pg_temp.claim('serial', 1);
COMMIT;
SELECT pg_temp.ack('serial');
SELECT pg_temp.claim('serial');

-- arguments
SELECT event_store.claim_events('plain', 'c');
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('unknown', 'c')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events(NULL, 'c')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', NULL)$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', '')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', -1)$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', lease_time => '0')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', lease_time => '-1s')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', lease_time => '31 days')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', lease_time => NULL)$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', timeout => '5001ms')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', done_member => 0)$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', done_member => 7, done_lease => 1)$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c', timeout => '1ms')$$);
ROLLBACK;
SELECT count(*) FROM event_store.claim_events('plain', 'c', timeout => '10ms');
SELECT count(*) FROM event_store.claim_events('stopped', 'c', 0);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('unknown', 0, 1)$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', NULL, 1)$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', 0, NULL)$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', -1, 1)$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', 0, 1, failed_positions => '{1,NULL}')$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', 0, 1, failed_positions => '{1}', errors => '{a,b}')$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', 0, 1, errors => '{a}')$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', 0, 1, action => 'ignore')$$);
SELECT pg_temp.outcome($$SELECT event_store.release_events('plain', 0, 1)$$);
SELECT pg_temp.outcome($$SELECT event_store.extend_lease('plain', 0, 1, '0')$$);
SELECT pg_temp.start('bad', 'a b c');
SELECT pg_temp.claim('bad', 2);
SELECT pg_temp.outcome($$SELECT pg_temp.ack('bad', 'a:1', '{b:1}')$$) ~ '^22023 failed_positions: \d+ lies beyond up_to_position$';
SELECT pg_temp.outcome($$SELECT pg_temp.ack('bad', NULL, '{c:1}')$$) ~ '^22023 failed_positions: \d+ is not in the batch$';
SELECT pg_temp.outcome($$SELECT event_store.ack_events('bad', member, lease, failed_positions => ARRAY[(pg_temp.at('plain', '{a:1}'))[1]]) FROM leases WHERE name = 'bad'$$) ~ '^22023 failed_positions: \d+ is not in the batch$';
SET default_transaction_read_only = on;
SELECT pg_temp.outcome($$SELECT FROM event_store.claim_events('plain', 'c')$$);
SELECT pg_temp.outcome($$SELECT event_store.ack_events('plain', 0, 1)$$);
RESET default_transaction_read_only;
-- a claim is durable, and what the transaction has staged with it; nothing of it is prepared
BEGIN;
SELECT pg_temp.claim('bad', 1) IS NULL;
SELECT pg_temp.ack('bad');
PREPARE TRANSACTION 'lease';
SELECT pg_temp.ack('bad');

CREATE ROLE lease_consumer;
SELECT event_store.grant_access('lease_consumer', 'consumer');
SET ROLE lease_consumer;
SELECT count(*) FROM event_store.claim_events('bad', 'c');
RESET ROLE;
DROP OWNED BY lease_consumer;
DROP ROLE lease_consumer;
SELECT count(event_store.drop_subscription(subscription_name)) FROM event_store.subscriptions WHERE NOT projection;
