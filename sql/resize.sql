-- resize: the partitions of a subscription divided among another number of members; nothing is
-- lost, repeated or overtaken within its partition
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
-- appends an event to each of r-1 to r-12, so often
CREATE FUNCTION pg_temp.append(times int DEFAULT 1) RETURNS bigint
    LANGUAGE sql AS $$
    SELECT count(event_store.append_event('Resize', 'r-' || i, NULL, 'E')) FROM generate_series(1, times) n, generate_series(1, 12) i
$$;
-- what is given has its effect once: the key sees to that; and in order within its aggregate
CREATE TEMPORARY TABLE effects (nth serial, id text, sequence bigint, PRIMARY KEY (id, sequence));
CREATE FUNCTION pg_temp.take(name text, max_count int DEFAULT 100) RETURNS bigint
    LANGUAGE sql AS $$
    INSERT INTO effects (id, sequence) SELECT aggregate_id, sequence FROM event_store.next_events(name, max_count) ORDER BY global_position;
    SELECT count(*) FROM effects
$$;
-- all that is left, a transaction a call
CREATE PROCEDURE pg_temp.take_all(name text, max_count int DEFAULT 100)
    LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    quiet int := 0;
BEGIN
    WHILE quiet < 12 LOOP
        SELECT count(*) INTO before FROM effects;
        quiet := CASE WHEN pg_temp.take(name, max_count) > before THEN 0 ELSE quiet + 1 END;
        COMMIT;
    END LOOP;
END
$$;
CREATE TEMPORARY VIEW taken AS
SELECT count(*), bool_and(in_order) AS in_order
  FROM (SELECT sequence - min(sequence) OVER (PARTITION BY id) + 1 = row_number() OVER (PARTITION BY id ORDER BY nth) AS in_order FROM effects) e;
CREATE VIEW pg_temp.members AS
SELECT s.members, s.old_positions IS NOT NULL AS resized,
       (SELECT count(DISTINCT t."position") FROM event_store.subscription_status t WHERE t.subscription_name = s.subscription_name) AS places
  FROM event_store.subscriptions s;

-- 4 members at different places become 6, these 3
SELECT event_store.safe_position() AS start \gset
SELECT event_store.create_subscription('resized', '{Resize}', members => 4, start_after => :start);
SELECT pg_temp.append(3);
SELECT pg_temp.take('resized', 5);
SELECT pg_temp.take('resized', 2);
SELECT pg_temp.take('resized', 9);
TABLE pg_temp.members;
SELECT event_store.resize_subscription('resized', 6);
TABLE pg_temp.members;
-- all begin at the lowest place, with what the old ones had been given behind them
SELECT count(DISTINCT "position") = 1 AND min("position") = min(old)
  FROM event_store.subscription_status t, event_store.subscriptions s, unnest(s.old_positions) old WHERE t.subscription_name = s.subscription_name;
-- not again before all have passed the highest place
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('resized', 3)$$);
-- the same size is no other one
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('resized', 6)$$);
SELECT pg_temp.append(1);
CALL pg_temp.take_all('resized');
TABLE pg_temp.taken;
SELECT pg_temp.append(1);
SELECT pg_temp.take('resized', 1);
SELECT pg_temp.take('resized', 1);
SELECT event_store.resize_subscription('resized', 3);
TABLE pg_temp.members;
CALL pg_temp.take_all('resized');
TABLE pg_temp.taken;
-- and back: numbers of states go on, whatever was there before
SELECT event_store.resize_subscription('resized', 5);
SELECT pg_temp.append(1);
CALL pg_temp.take_all('resized');
TABLE pg_temp.taken;
SELECT count(*) - count(DISTINCT (subscription_name, member, number)) FROM event_store.subscription_positions;
SELECT event_store.resize_subscription('resized', 1);
SELECT pg_temp.append(1);
CALL pg_temp.take_all('resized');
TABLE pg_temp.taken;

-- rolled back, all is as it was
SELECT pg_temp.append(1);
BEGIN;
SELECT event_store.resize_subscription('resized', 2);
ROLLBACK;
SELECT pg_temp.take('resized', 3);
BEGIN;
SELECT event_store.resize_subscription('resized', 2);
SAVEPOINT s;
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('resized', 8)$$);
ROLLBACK TO s;
COMMIT;
CALL pg_temp.take_all('resized');
TABLE pg_temp.taken;
TABLE pg_temp.members;

-- what is set aside waits on, and is retried as far as its old member had come
SELECT event_store.drop_subscription('resized');
TRUNCATE effects;
SELECT event_store.safe_position() AS aside \gset
CREATE FUNCTION pg_temp.fail(id text, nth int, action text) RETURNS text
    LANGUAGE sql AS $$
    SELECT event_store.fail_events('aside', e.global_position, 'it failed', action) FROM event_store.domain_events e
     WHERE e.aggregate_type = 'Resize' AND e.aggregate_id = id AND e.sequence = nth
$$;
SELECT sequence AS last FROM event_store.domain_events WHERE aggregate_type = 'Resize' AND aggregate_id = 'r-1' ORDER BY sequence DESC LIMIT 1 \gset
SELECT event_store.create_subscription('aside', '{Resize}', members => 2, start_after => :aside);
SELECT pg_temp.append(3);
SELECT pg_temp.fail('r-1', :last + 1, 'park'), pg_temp.fail('r-2', :last + 2, 'park_event'), pg_temp.fail('r-3', :last + 1, 'skip');
-- one member takes all that it has, the other one little
SELECT pg_temp.take('aside') > 3;
SELECT pg_temp.take('aside', 1) > 3;
SELECT event_store.resize_subscription('aside', 3);
-- what was given before counts as handled, or waits; what was not is taken as it is
SELECT pg_temp.fail(id, sequence::int, 'park') FROM effects WHERE sequence = :last + 1 GROUP BY 1;
SELECT pg_temp.fail('r-1', :last + 3, 'park'), pg_temp.fail('r-2', :last + 2, 'park'), pg_temp.fail('r-3', :last + 1, 'skip');
SELECT event_store.retry_parked_events('aside', 'Resize/r-1'), event_store.retry_parked_events('aside', 'Resize/r-2');
SELECT pg_temp.append(1);
CALL pg_temp.take_all('aside', 4);
-- all but the one that was skipped
SELECT count(*), count(*) FILTER (WHERE id = 'r-1'), count(*) FILTER (WHERE id = 'r-2'), count(*) FILTER (WHERE id = 'r-3') FROM effects;
SELECT count(*) FROM (SELECT sequence <= lag(sequence) OVER (PARTITION BY id ORDER BY nth) AS over FROM effects WHERE id <> 'r-2') e WHERE over;
SELECT count(*) FROM event_store.parked_events;
-- discarded while the members are behind: as far as the old one had come
SELECT event_store.drop_subscription('aside');
TRUNCATE effects;
SELECT event_store.create_subscription('aside', '{Resize}', members => 2, start_after => :aside);
SELECT pg_temp.fail('r-1', :last + 1, 'park');
SELECT pg_temp.take('aside') > 3;
SELECT pg_temp.take('aside', 1) > 3;
SELECT event_store.resize_subscription('aside', 1);
SELECT event_store.discard_parked_events('aside', 'Resize/r-1', 'a test') AS discarded \gset
CALL pg_temp.take_all('aside');
SELECT count(*) + :discarded, count(*) FILTER (WHERE id = 'r-1') + :discarded FROM effects;

-- a member that has stopped is resumed first; attempts are handed on
SELECT event_store.drop_subscription('aside');
TRUNCATE effects;
SELECT event_store.create_subscription('aside', '{Resize}', members => 2, start_after => :aside, on_failure => 'stop', max_attempts => 3);
SELECT pg_temp.fail('r-1', :last + 1, 'stop');
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', 3)$$) ~ '^55000 member [01] of subscription "aside" has stopped$';
SELECT event_store.resume_subscription('aside');
SELECT pg_temp.fail('r-1', :last + 1, 'retry'), pg_temp.fail('r-1', :last + 1, 'retry');
SELECT event_store.resize_subscription('aside', 5);
SELECT attempts, last_error FROM event_store.subscription_status WHERE attempts > 0;
SELECT pg_temp.fail('r-1', :last + 1, 'retry');

-- a move drops the old places: all comes again
SELECT event_store.resume_subscription('aside');
CALL pg_temp.take_all('aside', 7);
SELECT event_store.resize_subscription('aside', 2);
SELECT event_store.pause_subscription('aside');
SELECT event_store.move_subscription('aside', :aside);
SELECT event_store.resume_subscription('aside');
TRUNCATE effects;
CALL pg_temp.take_all('aside');
TABLE pg_temp.taken;
TABLE pg_temp.members;

-- a lease is waited for as a lock is; not by who has it himself
SELECT pg_temp.append(1);
BEGIN;
SELECT count(*) > 0 FROM event_store.claim_events('aside', 'c');
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', 4)$$);
ROLLBACK;
SELECT count(*) AS claimed, min(member) AS member, min(lease) AS lease FROM event_store.claim_events('aside', 'c') \gset leased_
SET lock_timeout = '20ms';
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', 4)$$);
RESET lock_timeout;
SELECT event_store.ack_events('aside', :leased_member, :leased_lease);
SELECT event_store.resize_subscription('aside', 4);
TABLE pg_temp.members;
SELECT pg_temp.outcome(format($$SELECT event_store.ack_events('aside', %s, %s)$$, :leased_member, :leased_lease)) LIKE 'VS007 %';
TRUNCATE effects;
CALL pg_temp.take_all('aside');
SELECT count(*) + :leased_claimed FROM effects;
-- one that expires is waited for so long, and its events come again
SELECT pg_temp.append(1);
SELECT count(*) > 1 AS given, min(member) AS member, min(lease) AS lease FROM event_store.claim_events('aside', 'c', lease_time => '100ms') \gset leased_
SELECT event_store.resize_subscription('aside', 3);
SELECT pg_temp.outcome(format($$SELECT event_store.ack_events('aside', %s, %s)$$, :leased_member, :leased_lease)) LIKE 'VS007 %';
SELECT :'leased_given';
CALL pg_temp.take_all('aside');
SELECT count(*) + :leased_claimed FROM effects;

-- arguments; not in a transaction that has events of it
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('unknown', 2)$$);
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription(NULL, 2)$$);
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', 0)$$);
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', 1001)$$);
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', NULL)$$);
SELECT pg_temp.append(1);
BEGIN;
SELECT pg_temp.take('aside') > 0;
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', 3)$$);
COMMIT;
SET default_transaction_read_only = on;
SELECT pg_temp.outcome($$SELECT event_store.resize_subscription('aside', 3)$$);
RESET default_transaction_read_only;
SELECT event_store.drop_subscription('aside');
