-- subscription: named places in the feed; each event once, in the transaction of its effect
\pset null null
\pset format unaligned
\pset tuples_only on
SELECT event_store.create_store();
SELECT last_sequence FROM event_store.append_event('SubBefore', 'b-1', 0, 'E');
SELECT event_store.safe_position() AS start \gset

CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
-- appends events: "A/a-1 E, A/a-2 F"
CREATE FUNCTION pg_temp.append(list text) RETURNS void
    LANGUAGE sql AS $$
    SELECT count(event_store.append_event('Sub' || split_part(split_part(e, ' ', 1), '/', 1), split_part(split_part(e, ' ', 1), '/', 2),
                                          NULL, split_part(e, ' ', 2)))
      FROM unnest(string_to_array(list, ', ')) WITH ORDINALITY u (e, n)
$$;
-- what a call gives, as "a-1:1 a-2:1": id and sequence
CREATE FUNCTION pg_temp.next(name text, max_count int DEFAULT 100) RETURNS text
    LANGUAGE sql AS $$
    SELECT string_agg(e.aggregate_id || ':' || e.sequence, ' ' ORDER BY e.global_position) FROM event_store.next_events(name, max_count) e
$$;

-- making one: true, false for the same, 42710 for another
SELECT event_store.create_subscription('plain', '{SubA}', start_after => :start);
SELECT event_store.create_subscription('plain', '{SubA,SubA}', start_after => :start);
SELECT event_store.create_subscription('plain', '{SubA}', '{}', start_after => :start);
SELECT pg_temp.outcome(format($$SELECT event_store.create_subscription('plain', '{SubB}', start_after => %s)$$, :start));
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('plain', '{SubA}')$$);
-- what is other is named
DO $$
DECLARE
    detail text;
    hint text;
BEGIN
    PERFORM event_store.create_subscription('plain', '{SubB}', members => 2, partition_by => 'saga_id');
EXCEPTION WHEN duplicate_object THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE NOTICE USING MESSAGE = detail || ' ' || hint, ERRCODE = '00000';
END
$$;
SELECT subscription_name, aggregate_types, event_types, members, on_failure, max_attempts, partition_by, paused
  FROM event_store.subscriptions;

-- next_events: in order, each once
SELECT pg_temp.next('plain');
SELECT pg_temp.append('A/a-1 E, A/a-2 E, B/b-1 E, A/a-1 F, A/a-3 E');
SELECT pg_temp.next('plain', 2);
SELECT pg_temp.next('plain');
SELECT pg_temp.next('plain');
-- the columns are those of an event
SELECT pg_temp.append('A/a-4 E');
SELECT e = r FROM event_store.next_events('plain') e, event_store.load_events('SubA', 'a-4') r;
-- a statement that keeps little has had all
SELECT pg_temp.append('A/a-5 E, A/a-6 E');
SELECT aggregate_id FROM event_store.next_events('plain') LIMIT 1;
SELECT pg_temp.next('plain');
SELECT pg_temp.append('A/a-5 E, A/a-6 E');
SELECT aggregate_id FROM event_store.next_events('plain') WHERE aggregate_id = 'none';
SELECT pg_temp.next('plain');
-- one statement with the effect
CREATE TEMPORARY TABLE effects (id text, sequence bigint, PRIMARY KEY (id, sequence));
SELECT pg_temp.append('A/a-7 E, A/a-8 E');
INSERT INTO effects SELECT aggregate_id, sequence FROM event_store.next_events('plain');
INSERT INTO effects SELECT aggregate_id, sequence FROM event_store.next_events('plain');
SELECT string_agg(id, ' ' ORDER BY id) FROM effects;

-- rolled back, it comes again, in smaller batches down to one; they grow again
SELECT pg_temp.append('A/r-1 E, A/r-2 E, A/r-3 E, A/r-4 E, A/r-5 E, A/r-6 E, A/r-7 E, A/r-8 E, A/r-9 E');
BEGIN;
SELECT pg_temp.next('plain', 4);
ROLLBACK;
SELECT state, attempts, pid FROM event_store.subscription_status WHERE subscription_name = 'plain';
BEGIN;
SELECT pg_temp.next('plain', 4);
ROLLBACK;
BEGIN;
SELECT pg_temp.next('plain', 4);
ROLLBACK;
BEGIN;
SELECT pg_temp.next('plain', 4);
SELECT state, attempts, pid = pg_backend_pid(), since IS NOT NULL FROM event_store.subscription_status WHERE subscription_name = 'plain';
-- one event is the whole batch of this transaction
SELECT pg_temp.next('plain', 4);
COMMIT;
SELECT state, attempts, pid FROM event_store.subscription_status WHERE subscription_name = 'plain';
SELECT pg_temp.next('plain');
SELECT pg_temp.next('plain');
SELECT pg_temp.next('plain');

-- several calls of a transaction go on behind each other; to a savepoint
SELECT pg_temp.append('A/s-1 E, A/s-2 E, A/s-3 E, A/s-4 E, A/s-5 E');
BEGIN;
SELECT pg_temp.next('plain', 1);
SAVEPOINT s;
SELECT pg_temp.next('plain', 2);
ROLLBACK TO s;
SELECT pg_temp.next('plain', 1);
SAVEPOINT t;
SELECT pg_temp.next('plain', 1);
RELEASE t;
COMMIT;
SELECT pg_temp.next('plain');
-- a savepoint before the first one frees the member
SELECT pg_temp.append('A/t-1 E, A/t-2 E');
BEGIN;
SAVEPOINT s;
SELECT pg_temp.next('plain');
ROLLBACK TO s;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
COMMIT;
SELECT pg_temp.next('plain');
SELECT pg_temp.next('plain');
-- an error takes the whole statement back
DO $$
BEGIN
    INSERT INTO effects VALUES ('t-3', 1);
    PERFORM pg_temp.append('A/t-3 E, A/t-4 E');
END
$$;
SELECT pg_temp.outcome('INSERT INTO effects SELECT aggregate_id, sequence FROM event_store.next_events($$plain$$)');
DELETE FROM effects;
INSERT INTO effects SELECT aggregate_id, sequence FROM event_store.next_events('plain');
INSERT INTO effects SELECT aggregate_id, sequence FROM event_store.next_events('plain');
SELECT string_agg(id, ' ' ORDER BY id) FROM effects;
-- a cursor that was read in part had all, too
SELECT pg_temp.append('A/u-1 E, A/u-2 E');
BEGIN;
DECLARE c CURSOR FOR SELECT aggregate_id FROM event_store.next_events('plain');
FETCH 1 FROM c;
COMMIT;
SELECT pg_temp.next('plain');

-- nowhere but in FROM
SELECT event_store.next_events('plain');
SELECT count(*) FROM (SELECT (event_store.next_events('plain')).*) n;

-- filters by both kinds of types; changed from the position on
SELECT event_store.create_subscription('filtered', '{SubA,SubB}', '{F,G}', start_after => :start);
SELECT pg_temp.append('A/f-1 E, B/f-1 F, C/f-1 F, A/f-2 G');
SELECT pg_temp.next('filtered');
SELECT pg_temp.append('A/f-3 E, C/f-2 F');
SELECT pg_temp.next('filtered');
SELECT event_store.alter_subscription('filtered', event_types => '{}', on_failure => 'skip');
SELECT pg_temp.append('A/f-4 E, C/f-3 F');
SELECT pg_temp.next('filtered');
SELECT event_store.alter_subscription('filtered', aggregate_types => '{SubC}', max_attempts => 0);
SELECT aggregate_types, event_types, on_failure, max_attempts FROM event_store.subscriptions WHERE subscription_name = 'filtered';
SELECT pg_temp.append('A/f-5 E, C/f-4 F');
SELECT pg_temp.next('filtered');
-- a rare type: a call looks at a stretch, moves over it, and need not find anything
SELECT event_store.safe_position() AS middle \gset
SELECT count(*) FROM event_store.append_batch(array_fill('SubMany'::text, ARRAY[25000]), (SELECT array_agg('m-' || i % 100) FROM generate_series(1, 25000) i),
                                              array_fill('E'::text, ARRAY[25000]), NULL);
SELECT pg_temp.append('A/rare E');
SELECT event_store.create_subscription('rare', '{SubA}', start_after => :middle);
-- beyond a stretch lag is estimated
SELECT event_store.create_subscription('behind', start_after => :middle, members => 2), event_store.create_subscription('near', start_after => :middle + 20000);
SELECT subscription_name, round(sum(lag_events), -2), bool_and(lag > '0') FROM event_store.subscription_status WHERE subscription_name IN ('behind', 'near', 'rare') GROUP BY 1 ORDER BY 1;
SELECT lag_events FROM event_store.subscription_status WHERE subscription_name = 'near';
SELECT event_store.drop_subscription('behind'), event_store.drop_subscription('near');
SELECT pg_temp.next('rare');
SELECT position - :middle FROM event_store.subscription_status WHERE subscription_name = 'rare';
SELECT pg_temp.next('rare');
SELECT pg_temp.next('rare');
SELECT pg_temp.next('rare');
-- without a limit a call gives what it reads
SELECT event_store.create_subscription('many', '{SubMany}', start_after => :middle);
SELECT count(*) FROM event_store.next_events('many', NULL);
SELECT count(*) FROM event_store.next_events('many', 20000);
SELECT count(*) FROM event_store.next_events('many', 0);
SELECT count(*) FROM event_store.next_events('many', 1000000);
SELECT count(*) FROM event_store.next_events('many');
-- one that waits looks on
SELECT event_store.create_subscription('waiting', '{SubA}', start_after => :middle);
SELECT aggregate_id FROM event_store.next_events('waiting', timeout => '5s');

-- start_after: NULL is now
SELECT event_store.create_subscription('from now', start_after => NULL);
SELECT pg_temp.append('A/now E');
SELECT pg_temp.next('from now');
SELECT event_store.create_subscription('from now', start_after => NULL);

-- members: each partition to one of them, always the same; a transaction has one member
SELECT event_store.safe_position() AS divided \gset
SELECT event_store.create_subscription('divided', '{SubD}', members => 3, start_after => :divided);
SELECT pg_temp.append(string_agg('D/d-' || i % 12 || ' E', ', ')) FROM generate_series(0, 35) i;
CREATE TEMPORARY TABLE divided (call int, id text, sequence bigint);
INSERT INTO divided SELECT 1, aggregate_id, sequence FROM event_store.next_events('divided');
INSERT INTO divided SELECT 2, aggregate_id, sequence FROM event_store.next_events('divided');
INSERT INTO divided SELECT 3, aggregate_id, sequence FROM event_store.next_events('divided');
INSERT INTO divided SELECT 4, aggregate_id, sequence FROM event_store.next_events('divided');
SELECT count(*), count(DISTINCT (id, sequence)), count(DISTINCT call) FROM divided;
SELECT id FROM divided GROUP BY id HAVING count(DISTINCT call) > 1;
SELECT call, string_agg(DISTINCT id, ' ') FROM divided GROUP BY call ORDER BY call;
SELECT member, state, lag_events, lag FROM event_store.subscription_status WHERE subscription_name = 'divided' ORDER BY 1;
SELECT pg_temp.append(string_agg('D/d-' || i % 12 || ' E, A/gap E', ', ')) FROM generate_series(0, 11) i;
-- lag counts events that it has yet to give, and nothing else
SELECT count(*), sum(lag_events), count(lag) FROM event_store.subscription_status WHERE subscription_name = 'divided';
BEGIN;
SELECT count(*) AS first FROM event_store.next_events('divided', 1);
SELECT count(DISTINCT call) FROM divided WHERE id IN (SELECT aggregate_id FROM event_store.next_events('divided'));
ROLLBACK;
-- by other things than the aggregate, which stands in where there is none
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', partition_by => 'customer')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', partition_by => '$')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', partition_by => '$.event_type')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', partition_by => '$.payload')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', partition_by => '$.payload.')$$);
SELECT event_store.safe_position() AS keyed \gset
SELECT event_store.create_subscription('by customer', '{SubK}', members => 2, start_after => :keyed, partition_by => '$.payload.customer.id'),
       event_store.create_subscription('by correlation', '{SubK}', members => 2, start_after => :keyed, partition_by => 'correlation_id'),
       event_store.create_subscription('by saga', '{SubK}', members => 2, start_after => :keyed, partition_by => 'saga_id');
SELECT count(event_store.append_event('SubK', 'k-' || i, 0, 'E', jsonb_build_object('customer', jsonb_build_object('id', i % 7), 'n', i),
                                      correlation_id => 'c-' || i % 5, saga_id => CASE WHEN i % 2 = 0 THEN 's-' || i % 3 END))
  FROM generate_series(1, 40) i;
CREATE TEMPORARY TABLE keyed (name text, call int, customer int, correlation text, saga text);
PREPARE keyed (text, int) AS
    INSERT INTO keyed SELECT $1, $2, (e.payload #>> '{customer,id}')::int, e.correlation_id, e.saga_id FROM event_store.next_events($1) e;
EXECUTE keyed ('by customer', 1);
EXECUTE keyed ('by customer', 2);
EXECUTE keyed ('by correlation', 1);
EXECUTE keyed ('by correlation', 2);
EXECUTE keyed ('by saga', 1);
EXECUTE keyed ('by saga', 2);
SELECT name, count(*), count(DISTINCT call) FROM keyed GROUP BY name ORDER BY name;
SELECT count(*) FROM (SELECT FROM keyed WHERE name = 'by customer' GROUP BY customer HAVING count(DISTINCT call) > 1) x;
SELECT count(*) FROM (SELECT FROM keyed WHERE name = 'by correlation' GROUP BY correlation HAVING count(DISTINCT call) > 1) x;
SELECT count(*) FROM (SELECT FROM keyed WHERE name = 'by saga' AND saga IS NOT NULL GROUP BY saga HAVING count(DISTINCT call) > 1) x;

-- pause and resume; move
SELECT event_store.safe_position() AS paused \gset
SELECT event_store.create_subscription('paused', '{SubP}', start_after => :paused);
SELECT pg_temp.append('P/p-1 E, P/p-2 E');
SELECT event_store.pause_subscription('paused');
SELECT pg_temp.next('paused');
SELECT state FROM event_store.subscription_status WHERE subscription_name = 'paused';
SELECT event_store.resume_subscription('paused');
SELECT pg_temp.next('paused');
SELECT pg_temp.outcome(format($$SELECT event_store.move_subscription('paused', %s)$$, :paused));
SELECT event_store.pause_subscription('paused');
SELECT event_store.move_subscription('paused', :paused);
SELECT event_store.resume_subscription('paused');
SELECT pg_temp.next('paused', 1);
SELECT event_store.pause_subscription('paused');
SELECT event_store.move_subscription('paused', event_store.safe_position());
SELECT event_store.resume_subscription('paused');
SELECT pg_temp.next('paused');
-- back behind what was passed over for other types
SELECT pg_temp.append('C/f-7 E, C/f-8 E');
SELECT pg_temp.next('paused');
SELECT event_store.pause_subscription('paused'), event_store.alter_subscription('paused', '{SubC}');
SELECT event_store.move_subscription('paused', :paused);
SELECT event_store.resume_subscription('paused');
SELECT pg_temp.next('paused');

-- dropped, and made again
SELECT event_store.drop_subscription('paused'), event_store.drop_subscription('paused');
SELECT count(*) FROM event_store.subscription_positions WHERE subscription_name = 'paused';
SELECT event_store.create_subscription('paused', '{SubP}', start_after => :paused);
SELECT pg_temp.next('paused');

-- nothing is remembered of the one before
SELECT event_store.create_subscription('again', '{SubNone}', start_after => :paused);
SELECT pg_temp.next('again');
SELECT event_store.drop_subscription('again');
SELECT event_store.create_subscription('again', '{SubP}', start_after => :paused);
SELECT pg_temp.next('again');
-- old positions are deleted, also under who reads on
CREATE PROCEDURE pg_temp.consume(name text, calls int)
    LANGUAGE plpgsql AS $$
DECLARE
    given bigint := 0;
    n int;
BEGIN
    FOR i IN 1 .. calls LOOP
        SELECT count(*) INTO n FROM event_store.next_events(name, 1);
        COMMIT;
        given := given + n;
    END LOOP;
    RAISE NOTICE '% events', given;
END
$$;
CREATE PROCEDURE pg_temp.wait_until(condition text)
    LANGUAGE plpgsql AS $$
DECLARE
    met boolean := false;
BEGIN
    WHILE NOT met LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT event_store.create_subscription('pruned', '{SubMany}', members => 2, start_after => :middle);
CALL pg_temp.consume('pruned', 1500);
CALL pg_temp.wait_until($$(SELECT count(*) < 1000 FROM event_store.subscription_positions WHERE subscription_name = 'pruned')$$);
CALL pg_temp.consume('pruned', 1500);
CALL pg_temp.wait_until($$(SELECT count(*) < 1000 FROM event_store.subscription_positions WHERE subscription_name = 'pruned')$$);
SELECT count(*) FROM event_store.next_events('pruned', NULL);

-- what the transaction has staged becomes durable with it
SELECT pg_temp.append('P/p-3 E');
BEGIN;
SELECT durable FROM event_store.append_event('SubStaged', 's-1', 0, 'E', durability => 'staged');
SELECT pg_temp.next('paused');
SELECT durable FROM event_store.append_event('SubStaged', 's-1', 1, 'E', durability => 'staged');
COMMIT;
SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'SubStaged';
-- and a staged event is not given to anybody
SELECT event_store.create_subscription('staged', '{SubUnseen}', start_after => :paused);
SET event_store.durability = staged;
BEGIN;
SELECT pg_temp.append('Unseen/u-1 E');
SELECT pg_temp.next('staged');
COMMIT;
RESET event_store.durability;
SELECT event_store.flush();
SELECT pg_temp.next('staged');
SELECT pg_temp.append('P/p-4 E');
BEGIN;
SELECT pg_temp.next('paused');
PREPARE TRANSACTION 'subscription';

-- isolation levels
SELECT pg_temp.next('paused');
SELECT pg_temp.append('P/p-5 E, P/p-6 E');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.next('paused', 1);
SELECT pg_temp.next('paused', 1);
COMMIT;
SELECT pg_temp.append('P/p-7 E, P/p-8 E');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pg_temp.next('paused', 1);
SELECT pg_temp.next('paused', 1);
COMMIT;
SELECT pg_temp.next('paused');

-- arguments
SELECT pg_temp.outcome($$SELECT event_store.create_subscription(NULL)$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('')$$);
SELECT pg_temp.outcome(format($$SELECT event_store.create_subscription(%L)$$, repeat('x', 256)));
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', '{A,NULL}')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', '{{A},{B}}')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', event_types => '{""}')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', members => 0)$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', members => NULL)$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', start_after => -1)$$);
SELECT pg_temp.outcome(format($$SELECT event_store.create_subscription('bad', start_after => %s)$$, event_store.safe_position() + 100000000)) LIKE '22023 start_after % is beyond the last position given';
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', on_failure => 'retry')$$);
SELECT pg_temp.outcome($$SELECT event_store.create_subscription('bad', max_attempts => -1)$$);
SELECT pg_temp.outcome($$SELECT event_store.alter_subscription('unknown')$$);
SELECT pg_temp.outcome($$SELECT event_store.alter_subscription('paused', on_failure => 'retry')$$);
SELECT pg_temp.outcome($$SELECT event_store.pause_subscription('unknown')$$);
SELECT pg_temp.outcome($$SELECT event_store.resume_subscription('unknown')$$);
SELECT pg_temp.outcome($$SELECT event_store.move_subscription('unknown', 0)$$);
SELECT pg_temp.outcome($$SELECT event_store.move_subscription('paused', NULL)$$);
SELECT pg_temp.outcome($$SELECT event_store.move_subscription('paused', -1)$$);
SELECT event_store.drop_subscription('unknown');
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('unknown')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events(NULL)$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('paused', -1)$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('paused', timeout => '-1s')$$);
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('paused', timeout => '5001ms')$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('paused', timeout => '1ms')$$);
COMMIT;
SELECT count(*) FROM event_store.next_events('paused', timeout => '10ms');
SET default_transaction_read_only = on;
SELECT pg_temp.outcome($$SELECT FROM event_store.next_events('paused')$$);
SELECT count(*) FROM event_store.subscription_status WHERE subscription_name = 'paused';
RESET default_transaction_read_only;

-- events that fail, in a batch that is still this transaction's: what lies before is
-- acknowledged, the partition waits, the others go on
CREATE FUNCTION pg_temp.fail(name text, id text, sequence bigint, action text) RETURNS text
    LANGUAGE sql AS $$
    SELECT event_store.fail_events(name, e.global_position, 'no such customer', action)
      FROM event_store.domain_events e WHERE e.aggregate_type = 'SubF' AND e.aggregate_id = id AND e.sequence = $3
$$;
CREATE VIEW pg_temp.aside AS
SELECT p.partition_key, e.sequence, p.state, p.attempts, p.retry_at IS NOT NULL AS due, p.error_message, e.event_id = p.event_id AS same
  FROM event_store.parked_events p JOIN event_store.domain_events e USING (global_position) ORDER BY 1, 2;
SELECT event_store.safe_position() AS failing \gset
SELECT event_store.create_subscription('failing', '{SubF}', start_after => :failing, max_attempts => 2);
SELECT pg_temp.append('F/a E, F/b E, F/a E, F/c E, F/b E, F/a E');
BEGIN;
SELECT pg_temp.next('failing');
SAVEPOINT s;
ROLLBACK TO s;
SELECT pg_temp.fail('failing', 'b', 1, 'park');
COMMIT;
TABLE pg_temp.aside;
SELECT state, attempts, parked FROM event_store.subscription_status WHERE subscription_name = 'failing';
SELECT pg_temp.next('failing');
SELECT pg_temp.next('failing');
SELECT pg_temp.fail('failing', 'b', 2, 'retry'), pg_temp.fail('failing', 'a', 1, 'retry');
-- decided: it comes with all that waited behind it
SELECT pg_temp.append('F/b E, F/a E');
SELECT pg_temp.next('failing');
SELECT event_store.retry_parked_events('failing');
SELECT pg_temp.next('failing', 2);
TABLE pg_temp.aside;
SELECT pg_temp.next('failing');
SELECT pg_temp.next('failing');
TABLE pg_temp.aside;
-- or is passed over
SELECT pg_temp.append('F/d E, F/d E, F/e E');
BEGIN;
SELECT pg_temp.next('failing');
ROLLBACK;
SELECT pg_temp.fail('failing', 'd', 2, 'park');
TABLE pg_temp.aside;
SELECT pg_temp.next('failing', 1), pg_temp.next('failing', 1);
SELECT pg_temp.append('F/d E');
SELECT pg_temp.next('failing');
SELECT event_store.discard_parked_events('failing', 'SubF/d', 'a test order');
SELECT partition_key, events, reason, first_position < last_position FROM event_store.discarded_events WHERE subscription_name = 'failing';
SELECT event_store.discard_parked_events('failing', 'SubF/d', 'again');
SELECT pg_temp.append('F/d E');
SELECT pg_temp.next('failing');
-- retry: until max_attempts end in what on_failure says; a retry that fails counts on
SELECT pg_temp.append('F/f E, F/g E, F/f E');
BEGIN;
SELECT pg_temp.next('failing');
SELECT pg_temp.fail('failing', 'f', 1, 'retry');
UPDATE event_store.parked_events SET retry_at = retry_at + interval '50 s';
COMMIT;
SELECT pg_temp.next('failing');
TABLE pg_temp.aside;
SELECT event_store.retry_parked_events('failing', 'SubF/other'), event_store.retry_parked_events('failing', 'SubF/f', '{1}');
SELECT pg_temp.fail('failing', 'f', 1, 'retry');
TABLE pg_temp.aside;
SELECT event_store.retry_parked_events('failing', 'SubF/f');
BEGIN;
SELECT pg_temp.next('failing');
SELECT pg_temp.fail('failing', 'f', 1, 'park');
COMMIT;
TABLE pg_temp.aside;
SELECT event_store.retry_parked_events('failing', 'SubF/f');
BEGIN;
SELECT pg_temp.next('failing');
SELECT pg_temp.next('failing');
COMMIT;
TABLE pg_temp.aside;
-- park_event and skip: this event alone, its partition goes on
SELECT pg_temp.append('F/h E, F/h E, F/h E, F/h E');
BEGIN;
SELECT pg_temp.next('failing', 1);
SELECT pg_temp.fail('failing', 'h', 1, 'park_event');
COMMIT;
SELECT pg_temp.fail('failing', 'h', 3, 'skip'), pg_temp.fail('failing', 'h', 3, 'skip');
SELECT pg_temp.next('failing');
TABLE pg_temp.aside;
SELECT event_store.retry_parked_events('failing');
SELECT pg_temp.next('failing');
SELECT count(*) FROM event_store.parked_events;
-- stop: the member itself, until it is resumed
SELECT event_store.alter_subscription('failing', on_failure => 'stop');
SELECT pg_temp.append('F/i E, F/j E');
BEGIN;
SELECT pg_temp.next('failing');
SELECT pg_temp.fail('failing', 'j', 1, 'retry');
UPDATE event_store.subscription_positions SET retry_at = retry_at + interval '50 s';
COMMIT;
SELECT pg_temp.next('failing');
SELECT state, attempts, last_error FROM event_store.subscription_status WHERE subscription_name = 'failing';
SELECT pg_temp.fail('failing', 'j', 1, 'retry');
SELECT state, attempts FROM event_store.subscription_status WHERE subscription_name = 'failing';
SELECT event_store.resume_subscription('failing');
SELECT pg_temp.next('failing');
SELECT state, attempts, last_error FROM event_store.subscription_status WHERE subscription_name = 'failing';
-- several calls: what lies before the event over all of them
SELECT pg_temp.append('F/k E, F/l E, F/m E, F/n E');
BEGIN;
SELECT pg_temp.next('failing', 2), pg_temp.next('failing', 2);
SELECT pg_temp.fail('failing', 'l', 1, 'skip');
COMMIT;
SELECT pg_temp.next('failing');
-- a move back: what was parked waits from where it is met again
SELECT pg_temp.append('F/o E, F/o E');
SELECT pg_temp.next('failing', 1);
SELECT pg_temp.fail('failing', 'o', 2, 'park');
SELECT event_store.pause_subscription('failing');
SELECT event_store.move_subscription('failing', :failing);
SELECT event_store.resume_subscription('failing');
TABLE pg_temp.aside;
SELECT count(*) FROM event_store.next_events('failing');
SELECT event_store.drop_subscription('failing');
TABLE pg_temp.aside;
SELECT pg_temp.outcome($$SELECT event_store.fail_events('unknown', 1, 'x')$$);
SELECT pg_temp.outcome($$SELECT event_store.fail_events('paused', 0, 'x')$$);
SELECT pg_temp.outcome($$SELECT event_store.fail_events('paused', NULL, 'x')$$);
SELECT pg_temp.outcome($$SELECT event_store.fail_events('paused', 1, 'x', 'give up')$$);
SELECT pg_temp.outcome($$SELECT event_store.retry_parked_events('unknown')$$);
SELECT pg_temp.outcome($$SELECT event_store.discard_parked_events('unknown', 'a', 'b')$$);
SELECT pg_temp.outcome($$SELECT event_store.discard_parked_events('paused', NULL, 'b')$$);
SELECT pg_temp.outcome($$SELECT event_store.discard_parked_events('paused', 'a', NULL)$$);

-- what was passed over because of what is then rolled back comes again
SELECT event_store.safe_position() AS undone \gset
SELECT event_store.create_subscription('undone', '{SubF}', start_after => :undone);
SELECT pg_temp.append('F/undone-1 E, F/undone-2 E');
BEGIN;
SELECT pg_temp.fail('undone', 'undone-1', 1, 'park'), pg_temp.fail('undone', 'undone-2', 1, 'skip');
SELECT pg_temp.next('undone');
ROLLBACK;
BEGIN;
SELECT event_store.alter_subscription('undone', event_types => '{F}');
SELECT pg_temp.next('undone');
SELECT count(*) FROM event_store.next_events('undone', timeout => '10ms');
ROLLBACK;
SELECT pg_temp.next('undone');

-- the level of a consumer
CREATE ROLE subscription_consumer;
SELECT event_store.grant_access('subscription_consumer', 'consumer');
SET ROLE subscription_consumer;
SELECT count(*) FROM event_store.next_events('paused');
SELECT event_store.create_subscription('mine');
SELECT FROM event_store.subscription_positions;
RESET ROLE;
DROP OWNED BY subscription_consumer;
DROP ROLE subscription_consumer;
SELECT count(event_store.drop_subscription(subscription_name)) FROM event_store.subscriptions WHERE NOT projection;
