-- processed: a message has its effect once, and a request its answer
\pset null null
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

-- the first time, and again; a consumer's messages are its own
SELECT event_store.process_once('billing', 'm-1');
SELECT event_store.process_once('billing', 'm-1');
SELECT event_store.process_once('mail', 'm-1'), event_store.process_once('billing', 'm-2');
-- also within one transaction; what is rolled back was not processed
BEGIN;
SELECT event_store.process_once('billing', 'm-3'), event_store.process_once('billing', 'm-3');
ROLLBACK;
SELECT event_store.process_once('billing', 'm-3');
BEGIN;
SAVEPOINT s;
SELECT event_store.process_once('billing', 'm-4');
ROLLBACK TO s;
SELECT event_store.process_once('billing', 'm-4');
COMMIT;
SELECT event_store.process_once('billing', 'm-4');

-- a fingerprint is compared where both have one
SELECT event_store.process_once('api', 'r-1', 'hash a'), event_store.process_once('api', 'r-2');
SELECT event_store.process_once('api', 'r-1', 'hash a'), event_store.process_once('api', 'r-1'),
       event_store.process_once('api', 'r-2', 'hash b');
DO $$
DECLARE
    detail text;
BEGIN
    PERFORM event_store.process_once('api', 'r-1', 'hash b');
EXCEPTION WHEN SQLSTATE 'VS002' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE USING MESSAGE = sqlerrm || ': ' || detail, ERRCODE = '00000';
END
$$;

-- a result is there for who comes again, a refusal too; the last one counts
SELECT event_store.record_result('api', 'r-1', '{"status": 201}');
SELECT event_store.processed_result('api', 'r-1'), event_store.processed_result('api', 'r-2'),
       event_store.processed_result('api', 'unknown');
BEGIN;
SELECT event_store.process_once('api', 'r-3');
SAVEPOINT work;
SELECT FROM event_store.append_event('Processed', 'o-1', 0, 'Placed');
ROLLBACK TO work;
SELECT event_store.record_result('api', 'r-3', '{"status": 409}');
COMMIT;
SELECT event_store.processed_result('api', 'r-3'), (SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Processed');
SELECT event_store.record_result('api', 'r-3', '{"status": 410}'), event_store.record_result('api', 'r-1', NULL);
SELECT event_store.processed_result('api', 'r-3'), event_store.processed_result('api', 'r-1');
-- a long one
SELECT event_store.record_result('api', 'r-1', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 5000) i));
SELECT jsonb_array_length(event_store.processed_result('api', 'r-1'));
SELECT pg_temp.outcome($$SELECT event_store.record_result('api', 'r-9', '{}')$$);

-- what the transaction has staged becomes durable with it, and all that follows
BEGIN;
SELECT durable FROM event_store.append_event('ProcessedStaged', 's-1', 0, 'E', durability => 'staged');
SELECT event_store.process_once('staged', 'm-1');
SELECT durable FROM event_store.append_event('ProcessedStaged', 's-1', 1, 'E', durability => 'staged');
COMMIT;
SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'ProcessedStaged';
BEGIN;
SELECT event_store.process_once('staged', 'm-2');
PREPARE TRANSACTION 'processed';

-- arguments
SELECT pg_temp.outcome($$SELECT event_store.process_once(NULL, 'm')$$);
SELECT pg_temp.outcome($$SELECT event_store.process_once('c', NULL)$$);
SELECT pg_temp.outcome($$SELECT event_store.process_once('', 'm')$$);
SELECT pg_temp.outcome(format($$SELECT event_store.process_once('c', %L)$$, repeat('x', 256)));
SELECT pg_temp.outcome(format($$SELECT event_store.process_once('c', 'm', %L)$$, repeat('x', 256)));
SELECT pg_temp.outcome($$SELECT event_store.record_result('c', '', '{}')$$);
SELECT pg_temp.outcome($$SELECT event_store.processed_result(NULL, 'm')$$);
SELECT pg_temp.outcome($$SELECT event_store.forget_processed('')$$);
SELECT pg_temp.outcome($$SELECT event_store.forget_processed(older_than => NULL)$$);
SELECT pg_temp.outcome($$SELECT event_store.forget_processed(older_than => '-1s')$$);
SET default_transaction_read_only = on;
SELECT pg_temp.outcome($$SELECT event_store.process_once('c', 'm')$$);
SELECT event_store.processed_result('api', 'r-3');
RESET default_transaction_read_only;

-- forgetting: by age and consumer; over more than one piece of the table
UPDATE event_store.processed_messages SET processed_at = processed_at - interval '31 days' WHERE message_id IN ('m-1', 'm-2');
INSERT INTO event_store.processed_messages (consumer, message_id, result, processed_at)
SELECT 'many', i, to_jsonb(repeat(md5(i::text), 20)), now() - interval '1 year' * (i % 2) FROM generate_series(1, 6000) i;
SELECT pg_relation_size('event_store.processed_messages') > 2 * 1024 * 1024 AS pieces;
SELECT event_store.forget_processed('mail');
SELECT event_store.forget_processed('mail');
SELECT event_store.forget_processed(older_than => '60d');
SELECT event_store.forget_processed();
SELECT consumer, count(*) FROM event_store.processed_messages GROUP BY 1 ORDER BY 1;
SELECT event_store.process_once('billing', 'm-1');
SELECT event_store.forget_processed(older_than => '0') > 3000 AS forgotten;
SELECT count(*) FROM event_store.processed_messages;

-- the worker forgets while messages come in
CREATE PROCEDURE pg_temp.wait_until(condition text)
    LANGUAGE plpgsql
AS $$
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
SELECT format('ALTER DATABASE %I SET event_store.processed_retention = ''1h''', current_database()) \gexec
CALL pg_temp.wait_until($$(SELECT state = 'running' FROM event_store.worker_status)$$);
SELECT pg_terminate_backend(pid) FROM event_store.worker_status;
\c -
\pset null null
INSERT INTO event_store.processed_messages (consumer, message_id, processed_at)
VALUES ('late', 'old', now() - interval '2 hours'), ('late', 'young', now() - interval '30 minutes');
SELECT event_store.process_once('late', 'new');
CREATE PROCEDURE pg_temp.wait_until(condition text)
    LANGUAGE plpgsql
AS $$
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
CALL pg_temp.wait_until($$NOT EXISTS (SELECT FROM event_store.processed_messages WHERE message_id = 'old')$$);
SELECT message_id FROM event_store.processed_messages ORDER BY 1;
SELECT format('ALTER DATABASE %I RESET event_store.processed_retention', current_database()) \gexec

-- the level of a consumer
CREATE ROLE processed_consumer;
SELECT event_store.grant_access('processed_consumer', 'consumer');
SET ROLE processed_consumer;
SELECT event_store.process_once('role', 'm-1');
SELECT event_store.record_result('role', 'm-1', '1');
SELECT event_store.processed_result('role', 'm-1');
SELECT event_store.forget_processed();
SELECT FROM event_store.processed_messages;
SELECT FROM event_store.append_event('Processed', 'o-2', 0, 'Placed');
RESET ROLE;
DROP OWNED BY processed_consumer;
DROP ROLE processed_consumer;
