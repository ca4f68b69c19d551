-- processed: messages that have had their effect

CREATE FUNCTION event_store.process_once(consumer text, message_id text, fingerprint text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_process_once';
COMMENT ON FUNCTION event_store.process_once(text, text, text) IS
$$Returns true the first time that a consumer processes a message, and notes it in the caller's transaction: what else that does has its effect once. False when it was processed before; waits for a transaction that is just deciding.
consumer: a name of yours; message_id: unique for it; fingerprint (a hash of the request, say): where the message was processed with another one, it is VS002. What the transaction has staged becomes durable with it.
Errors: VS002; 22004, 22001, 22023; 25006 on a standby; 40001 at REPEATABLE READ and SERIALIZABLE where the snapshot does not show who processed it; 55000.
Example: SELECT event_store.process_once('billing', 'order-17/paid');$$;

CREATE FUNCTION event_store.record_result(consumer text, message_id text, result jsonb) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_record_result';
COMMENT ON FUNCTION event_store.record_result(text, text, jsonb) IS
$$Keeps the answer to a message that process_once has noted, for processed_result. A later result replaces it.
A refusal can be kept as well: ROLLBACK TO a savepoint that was set after process_once, then record it.
Errors: 22004, 22001, 22023; 25006 on a standby; 55000 also when the message was not processed.
Example: WITH p AS MATERIALIZED (SELECT event_store.process_once('billing', 'order-18/paid') AS first) SELECT event_store.record_result('billing', 'order-18/paid', '{"status": "paid"}') FROM p WHERE p.first;$$;

CREATE FUNCTION event_store.processed_result(consumer text, message_id text) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_processed_result';
COMMENT ON FUNCTION event_store.processed_result(text, text) IS
$$Returns the result that was recorded for a message, as the statement's snapshot sees it: NULL when there is none.
Errors: 22004, 22001, 22023, 55000.
Example: SELECT event_store.processed_result('billing', 'order-17/paid');$$;

CREATE FUNCTION event_store.forget_processed(consumer text DEFAULT NULL, older_than interval DEFAULT '30d') RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_forget_processed';
COMMENT ON FUNCTION event_store.forget_processed(text, interval) IS
$$Forgets what was processed longer ago than older_than, by one consumer or (NULL) all, and returns how many messages. One that comes again after that is processed again.
The worker does the same when event_store.processed_retention is not 0, in small transactions, while messages come in.
Errors: 22004; 22023 when older_than is negative; 25006 on a standby; 55000.
Example: SELECT event_store.forget_processed('billing', older_than => '90 days');$$;
