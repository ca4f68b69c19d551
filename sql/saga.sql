-- saga: what the steps of a saga are done in, undone in, and what may be said of them
\pset null null
SELECT event_store.create_store();

CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN coalesce(answer, 'null');
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || regexp_replace(sqlerrm, '\mlease \d+', 'lease N');
END
$$;

-- Executors of the test remember the leases of steps by the attempt.
CREATE TEMP TABLE claims (saga_id text, step text, kind text, attempt int, lease bigint, input jsonb);
CREATE FUNCTION pg_temp.claim(name text, how_many int DEFAULT 1, lease_time interval DEFAULT '1h') RETURNS SETOF text
    LANGUAGE sql AS $$
    WITH c AS (INSERT INTO claims SELECT saga_id, step, kind, attempt, lease, input
                 FROM event_store.claim_steps(name, 'test', max_count => how_many, lease_time => lease_time) RETURNING *)
    SELECT format('%s %s %s %s %s', c.saga_id, c.step, c.kind, c.attempt, c.input) FROM c
$$;
CREATE FUNCTION pg_temp.report(name text, id text, the_step text, outcome text, result jsonb DEFAULT NULL, which text DEFAULT 'step',
                               nth int DEFAULT NULL, error text DEFAULT NULL, retry_in interval DEFAULT NULL) RETURNS text
    LANGUAGE sql AS $$
    SELECT pg_temp.outcome(format('SELECT event_store.report_step(%L, %L, %L, %L, %s, %L, %L, %L)', name, id, the_step, outcome,
        (SELECT c.lease FROM claims c WHERE c.saga_id = id AND c.step = the_step AND c.kind = which
            AND (nth IS NULL OR c.attempt = nth) ORDER BY c.lease DESC LIMIT 1), result, error, retry_in))
$$;
-- What has happened to a saga, without times and leases.
CREATE FUNCTION pg_temp.log(name text, id text) RETURNS TABLE (event text, payload jsonb)
    LANGUAGE sql AS $$
    SELECT event_type, payload - '{lease,deadline,not_before,queue_deadline,retry_at,executor,by}'::text[]
           || CASE WHEN payload ? 'retry_at' THEN '{"retry_at": true}' ELSE '{}' END::jsonb
      FROM event_store.load_events('saga:' || name, id)
$$;
-- A time of a saga is over.  In one transaction, so that nobody in the background sees it, and holds the saga when it is claimed next.
CREATE PROCEDURE pg_temp.let_pass(id text, what text)
    LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        UPDATE event_store.saga_steps SET due_at = now() WHERE saga_id = id AND step = what;
        PERFORM event_store.fire_saga_timers();
        EXIT WHEN NOT EXISTS (SELECT FROM event_store.saga_steps WHERE saga_id = id AND step = what AND due_at <= now())
              AND (what <> 'saga' OR NOT EXISTS (SELECT FROM event_store.sagas WHERE saga_id = id AND state = 'running'));
        ROLLBACK;
    END LOOP;
END
$$;
CREATE PROCEDURE pg_temp.let_back_off_end(id text)
    LANGUAGE sql AS $$
    UPDATE event_store.saga_steps SET claimable_at = now() WHERE saga_id = id AND claimable_at IS NOT NULL
$$;

-- Attempts do not time out by themselves while the test runs.
CREATE FUNCTION pg_temp.define(name text, definition jsonb) RETURNS int
    LANGUAGE sql AS $$
    SELECT event_store.define_saga(name, jsonb_set(definition, '{steps}',
        (SELECT jsonb_agg('{"timeout": "1h"}' || s ORDER BY n) FROM jsonb_array_elements(definition -> 'steps') WITH ORDINALITY e (s, n))))
$$;

-- three steps
SELECT pg_temp.define('trip', '{"steps": [{"name": "flight", "compensate": true}, {"name": "hotel", "compensate": true}, {"name": "mail"}]}');
SELECT pg_temp.define('trip', '{"steps": [{"name": "flight", "compensate": true}, {"name": "hotel", "compensate": true}, {"name": "mail"}]}');
SELECT event_store.start_saga('trip', 't-1', '{"to": "Rome"}', 'request-1');
SELECT event_store.start_saga('trip', 't-1', '{"to": "Rome"}');
SELECT pg_temp.outcome($$SELECT event_store.start_saga('trip', 't-1', '{"to": "Oslo"}')$$);
SELECT state, step, attempt, deadline, context FROM event_store.saga_status WHERE saga_id = 't-1';
SELECT pg_temp.claim('trip');
SELECT pg_temp.claim('trip');
SELECT state, step, attempt, deadline > now() AS deadline FROM event_store.saga_status WHERE saga_id = 't-1';
SELECT pg_temp.report('trip', 't-1', 'flight', 'succeeded', '{"seat": "12A"}');
-- the same again, and something else
SELECT pg_temp.report('trip', 't-1', 'flight', 'succeeded', '{"seat": "12A"}');
SELECT pg_temp.report('trip', 't-1', 'flight', 'succeeded', '{"seat": "12B"}');
SELECT pg_temp.report('trip', 't-1', 'flight', 'failed');
SELECT pg_temp.claim('trip');
SELECT pg_temp.report('trip', 't-1', 'hotel', 'retry', error => 'no connection', retry_in => '0');
SELECT state, step, attempt, last_error FROM event_store.saga_status WHERE saga_id = 't-1';
SELECT pg_temp.claim('trip');
SELECT pg_temp.report('trip', 't-1', 'hotel', 'succeeded');
SELECT pg_temp.claim('trip');
SELECT pg_temp.report('trip', 't-1', 'mail', 'succeeded');
SELECT * FROM pg_temp.log('trip', 't-1');
SELECT DISTINCT aggregate_type, saga_id, correlation_id FROM event_store.load_events('saga:trip', 't-1');
SELECT state, step, context FROM event_store.saga_status WHERE saga_id = 't-1';
SELECT count(*) FROM event_store.saga_steps WHERE saga_id = 't-1';
-- the state at any point is a fold of the events
SELECT n, state ->> 'state' AS state, jsonb_path_query_array(state, '$.steps[*].state') AS steps
  FROM generate_series(1, 13) n, event_store.replay_aggregate('saga:trip', 't-1', n);
-- after its end
SELECT pg_temp.report('trip', 't-1', 'mail', 'succeeded');
SELECT pg_temp.report('trip', 't-1', 'mail', 'failed');
SELECT event_store.cancel_saga('trip', 't-1', 'too late');
SELECT pg_temp.outcome($$SELECT event_store.signal_saga('trip', 't-1', 's')$$);
SELECT pg_temp.outcome($$SELECT event_store.extend_step('trip', 't-1', 'mail', 1)$$);

-- a step fails: what was done is undone, the last first
SELECT event_store.start_saga('trip', 't-2');
SELECT pg_temp.claim('trip');
SELECT pg_temp.report('trip', 't-2', 'flight', 'succeeded', '7');
SELECT pg_temp.claim('trip');
SELECT pg_temp.report('trip', 't-2', 'hotel', 'succeeded', '8');
SELECT pg_temp.claim('trip');
SELECT pg_temp.report('trip', 't-2', 'mail', 'failed', error => 'no address');
SELECT pg_temp.claim('trip', 5);
SELECT pg_temp.report('trip', 't-2', 'hotel', 'succeeded', which => 'compensation');
SELECT pg_temp.report('trip', 't-2', 'hotel', 'compensated', which => 'compensation');
SELECT pg_temp.claim('trip', 5);
SELECT pg_temp.report('trip', 't-2', 'flight', 'compensated', which => 'compensation');
SELECT pg_temp.report('trip', 't-2', 'flight', 'compensated', which => 'compensation');
SELECT state, step, last_error FROM event_store.saga_status WHERE saga_id = 't-2';
SELECT * FROM pg_temp.log('trip', 't-2') OFFSET 9;

-- a sole attempt that failed has nothing to undo; attempt 1 may have had an effect
SELECT pg_temp.define('short', '{"steps": [{"name": "a", "compensate": true, "max_attempts": 2}]}');
SELECT event_store.start_saga('short', 's-1');
SELECT pg_temp.claim('short');
SELECT pg_temp.report('short', 's-1', 'a', 'failed');
SELECT event_store.start_saga('short', 's-2');
SELECT pg_temp.claim('short');
CALL pg_temp.let_pass('s-2', 'a');
SELECT pg_temp.claim('short');
SELECT pg_temp.report('short', 's-2', 'a', 'failed');
SELECT pg_temp.claim('short');
SELECT pg_temp.report('short', 's-2', 'a', 'compensated', which => 'compensation');
SELECT * FROM pg_temp.log('short', 's-2');
SELECT saga_id, state FROM event_store.saga_status WHERE saga_name = 'short' ORDER BY 1;

-- max_attempts 1: the lease expires, the compensation is claimed; late reports change nothing
SELECT pg_temp.define('once', '{"steps": [{"name": "a", "compensate": true, "max_attempts": 1}]}');
SELECT event_store.start_saga('once', 'o-1');
SELECT pg_temp.claim('once');
CALL pg_temp.let_pass('o-1', 'a');
SELECT pg_temp.claim('once');
SELECT pg_temp.report('once', 'o-1', 'a', 'failed');
SELECT pg_temp.report('once', 'o-1', 'a', 'compensated', which => 'compensation');
SELECT pg_temp.report('once', 'o-1', 'a', 'succeeded');
SELECT * FROM pg_temp.log('once', 'o-1');
-- before it is claimed they count: it was not done, or it was
SELECT event_store.start_saga('once', 'o-2'), event_store.start_saga('once', 'o-3');
SELECT pg_temp.claim('once', 2);
CALL pg_temp.let_pass('o-2', 'a');
CALL pg_temp.let_pass('o-3', 'a');
SELECT pg_temp.report('once', 'o-2', 'a', 'failed'), pg_temp.report('once', 'o-3', 'a', 'succeeded', '1');
SELECT pg_temp.claim('once', 2);
SELECT * FROM pg_temp.log('once', 'o-2') OFFSET 3;
SELECT pg_temp.report('once', 'o-3', 'a', 'compensated', which => 'compensation');
SELECT saga_id, state, context FROM event_store.saga_status WHERE saga_name = 'once' ORDER BY 1;

-- a group: nothing is compensated while an attempt is live, then the last end first
SELECT pg_temp.define('group', '{"steps": [{"name": "a", "compensate": true, "group": "g"}, {"name": "b", "compensate": true, "group": "g"},
    {"name": "c", "compensate": true, "group": "g"}, {"name": "d"}]}');
SELECT event_store.start_saga('group', 'g-1', '{"x": 1}');
SELECT pg_temp.claim('group', 5);
SELECT pg_temp.report('group', 'g-1', 'a', 'succeeded', '1');
SELECT pg_temp.report('group', 'g-1', 'c', 'failed');
SELECT pg_temp.claim('group', 5);
SELECT pg_temp.outcome(format('SELECT event_store.extend_step(%L, %L, %L, %s)', 'group', 'g-1', 'b', lease)) FROM claims WHERE saga_id = 'g-1' AND step = 'b';
SELECT pg_temp.report('group', 'g-1', 'b', 'succeeded', '2');
SELECT pg_temp.claim('group', 5);
SELECT pg_temp.report('group', 'g-1', 'b', 'compensated', which => 'compensation');
SELECT pg_temp.claim('group', 5);
SELECT pg_temp.report('group', 'g-1', 'a', 'compensated', which => 'compensation');

-- a timeout, then 'retry' of the same lease with max_attempts 3: exactly three claims
SELECT pg_temp.define('thrice', '{"steps": [{"name": "a", "retry_initial": "1h", "retry_max": "1h"}]}');
SELECT event_store.start_saga('thrice', 'r-1');
SELECT pg_temp.claim('thrice');
CALL pg_temp.let_pass('r-1', 'a');
SELECT pg_temp.report('thrice', 'r-1', 'a', 'retry');
SELECT pg_temp.claim('thrice', lease_time => '1min');
SELECT pg_temp.report('thrice', 'r-1', 'a', 'retry');
SELECT pg_temp.claim('thrice');
-- its row tells when it is time, which moves with a clock that is set back
CALL pg_temp.let_back_off_end('r-1');
SELECT pg_temp.claim('thrice');
SELECT pg_temp.report('thrice', 'r-1', 'a', 'succeeded', nth => 1);
SELECT pg_temp.report('thrice', 'r-1', 'a', 'retry', nth => 3);
SELECT pg_temp.claim('thrice');
SELECT event_store.cancel_saga('thrice', 'r-1', 'enough');
SELECT state, attempt, last_error FROM event_store.saga_status WHERE saga_id = 'r-1';
SELECT * FROM pg_temp.log('thrice', 'r-1');
-- and no fourth
SELECT pg_temp.define('soon', '{"steps": [{"name": "a", "retry_initial": "1us", "retry_max": "1us"}]}');
SELECT event_store.start_saga('soon', 'r-2');
SELECT pg_temp.claim('soon');
CALL pg_temp.let_pass('r-2', 'a');
SELECT pg_temp.report('soon', 'r-2', 'a', 'retry');
SELECT pg_temp.claim('soon');
SELECT pg_temp.report('soon', 'r-2', 'a', 'retry');
SELECT pg_temp.claim('soon');
SELECT pg_temp.report('soon', 'r-2', 'a', 'retry');
SELECT pg_temp.claim('soon');
SELECT event, payload ->> 'attempt' AS attempt FROM pg_temp.log('soon', 'r-2');

-- a definition and the times of a saga mean the same in every session
SELECT pg_temp.define('styled', '{"timeout": "10 days -1 hour", "steps": [{"name": "a", "delay": "1 day -23:59:59.999999"}, {"name": "b", "queue_timeout": "-1 day 25:00"}]}');
SET IntervalStyle = sql_standard;
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'Asia/Kolkata';
SELECT pg_temp.define('styled', '{"timeout": "10 days -1 hour", "steps": [{"name": "a", "delay": "1 day -23:59:59.999999"}, {"name": "b", "queue_timeout": "-1 day 25:00"}]}');
SELECT event_store.start_saga('styled', 'i-1');
SELECT pg_temp.claim('styled');
SET TimeZone = 'America/St_Johns';
SET IntervalStyle = iso_8601;
SELECT pg_temp.report('styled', 'i-1', 'a', 'succeeded');
SELECT count(*) FROM event_store.sagas s JOIN event_store.saga_steps t USING (saga_name, saga_id)
 WHERE s.saga_id = 'i-1' AND s.deadline - s.started_at = '239 hours' AND t.due_at - s.started_at BETWEEN '1 hour' AND '62 minutes';
SELECT pg_temp.outcome($$SELECT event_store.define_saga('bad', '{"steps": [{"name": "a", "delay": "P-1D"}]}')$$);
SHOW IntervalStyle;
RESET IntervalStyle;
RESET DateStyle;
RESET TimeZone;
SELECT event_store.cancel_saga('styled', 'i-1', 'enough');

-- extending a lease: never beyond the deadline, and only a live one
SELECT event_store.start_saga('short', 's-3');
SELECT pg_temp.claim('short', lease_time => '1min');
SELECT event_store.extend_step('short', 's-3', 'a', lease, '2h', '{"done": 10}')
       = (SELECT deadline FROM event_store.saga_status WHERE saga_id = 's-3') AS at_deadline
  FROM claims WHERE saga_id = 's-3';
SELECT progress FROM event_store.saga_steps WHERE saga_id = 's-3';
SELECT pg_temp.report('short', 's-3', 'a', 'succeeded');

-- a compensation that cannot be done waits for somebody who decides
SELECT pg_temp.define('stuck', '{"steps": [{"name": "a", "compensate": true}, {"name": "b", "compensate": true, "compensation": {"max_attempts": 1}}, {"name": "c"}]}');
SELECT event_store.start_saga('stuck', 'k-' || n) FROM generate_series(1, 4) n;
SELECT count(*) FROM pg_temp.claim('stuck', 4);
SELECT pg_temp.report('stuck', 'k-' || n, 'a', 'succeeded') FROM generate_series(1, 4) n;
SELECT count(*) FROM pg_temp.claim('stuck', 4);
SELECT pg_temp.report('stuck', 'k-' || n, 'b', 'succeeded') FROM generate_series(1, 4) n;
SELECT event_store.cancel_saga('stuck', 'k-' || n, 'test') FROM generate_series(1, 4) n;
SELECT count(*) FROM pg_temp.claim('stuck', 4);
SELECT pg_temp.report('stuck', 'k-' || n, 'b', CASE n WHEN 1 THEN 'failed' ELSE 'retry' END, which => 'compensation', error => 'bank closed') FROM generate_series(1, 4) n;
SELECT saga_id, state, step, attempt, last_error FROM event_store.saga_status WHERE state = 'stuck' ORDER BY 1;
SELECT pg_temp.claim('stuck', 4);
SELECT pg_temp.outcome($$SELECT event_store.resolve_step('stuck', 'k-1', 'a', 'skip', 'no')$$);
SELECT pg_temp.outcome($$SELECT event_store.resolve_step('stuck', 'k-1', 'b', 'ignore', 'no')$$);
SELECT event_store.resolve_step('stuck', 'k-1', 'b', 'retry', 'open again');
SELECT event_store.resolve_step('stuck', 'k-2', 'b', 'skip', 'by hand');
SELECT event_store.resolve_step('stuck', 'k-3', 'b', 'succeeded', 'by hand', '{"by": "phone"}');
SELECT event_store.resolve_step('stuck', 'k-4', 'b', 'give_up', 'lost');
SELECT pg_temp.claim('stuck', 4);
SELECT pg_temp.report('stuck', 'k-1', 'b', 'compensated', which => 'compensation');
SELECT pg_temp.claim('stuck', 4);
SELECT pg_temp.report('stuck', 'k-' || n, 'a', 'compensated', which => 'compensation') FROM generate_series(1, 3) n;
SELECT saga_id, state FROM event_store.saga_status WHERE saga_name = 'stuck' ORDER BY 1;
SELECT * FROM pg_temp.log('stuck', 'k-4') OFFSET 10;
SELECT pg_temp.outcome($$SELECT event_store.resolve_step('stuck', 'k-4', 'b', 'retry', 'late')$$);

-- whose lease is over by then has nothing more to say: it would be undone twice
SELECT pg_temp.define('settled', '{"steps": [{"name": "a", "compensate": true}, {"name": "b", "compensate": true, "compensation": {"max_attempts": 1}}, {"name": "c"}]}');
SELECT event_store.start_saga('settled', 'h-' || n) FROM generate_series(1, 3) n;
SELECT count(*) FROM pg_temp.claim('settled', 3);
SELECT pg_temp.report('settled', 'h-' || n, 'a', 'succeeded') FROM generate_series(1, 3) n;
SELECT count(*) FROM pg_temp.claim('settled', 3);
SELECT pg_temp.report('settled', 'h-' || n, 'b', 'succeeded') FROM generate_series(1, 3) n;
SELECT event_store.cancel_saga('settled', 'h-' || n, 'test') FROM generate_series(1, 3) n;
SELECT count(*) FROM pg_temp.claim('settled', 3);
CALL pg_temp.let_pass('h-1', 'b');
CALL pg_temp.let_pass('h-2', 'b');
CALL pg_temp.let_pass('h-3', 'b');
SELECT event_store.resolve_step('settled', 'h-1', 'b', 'skip', 'by hand'), event_store.resolve_step('settled', 'h-2', 'b', 'succeeded', 'by hand'),
       event_store.resolve_step('settled', 'h-3', 'b', 'retry', 'again');
SELECT pg_temp.report('settled', 'h-' || n, 'b', 'retry', which => 'compensation') FROM generate_series(1, 2) n;
SELECT pg_temp.report('settled', 'h-' || n, 'b', 'compensated', which => 'compensation') FROM generate_series(1, 3) n;
SELECT pg_temp.claim('settled', 3);

-- what a late report says of its effect is known to who undoes it
SELECT pg_temp.define('late', '{"steps": [{"name": "a", "compensate": true, "max_attempts": 1}]}');
SELECT event_store.start_saga('late', 'late-1');
SELECT pg_temp.claim('late');
CALL pg_temp.let_pass('late-1', 'a');
SELECT pg_temp.report('late', 'late-1', 'a', 'succeeded', '{"reservation": 7}');
SELECT pg_temp.claim('late');
SELECT pg_temp.report('late', 'late-1', 'a', 'compensated', which => 'compensation');

-- signals: one that comes before its step waits for it, one a wait, the oldest first; ids are idempotent
SELECT pg_temp.define('pay', '{"timeout": "1d", "steps": [{"name": "ask", "compensate": true}, {"name": "paid", "wait": {"signal": "paid", "timeout": "1h"}},
    {"name": "again", "wait": {"signal": "paid", "timeout": "1h", "on_timeout": "continue"}}, {"name": "ship"}]}');
SELECT event_store.start_saga('pay', 'p-1'), event_store.start_saga('pay', 'p-2'), event_store.start_saga('pay', 'p-3');
SELECT event_store.signal_saga('pay', 'p-1', 'paid', '{"n": 1}', 'id-1'), event_store.signal_saga('pay', 'p-1', 'paid', '{"n": 1}', 'id-1');
SELECT count(*) FROM pg_temp.claim('pay', 3);
SELECT pg_temp.report('pay', 'p-' || n, 'ask', 'succeeded') FROM generate_series(1, 3) n;
SELECT saga_id, step, context FROM event_store.saga_status WHERE saga_name = 'pay' ORDER BY 1;
SELECT event_store.signal_saga('pay', 'p-1', 'other', '{}'), event_store.signal_saga('pay', 'p-1', 'paid', '{"n": 2}', 'id-2');
SELECT event_store.signal_saga('pay', 'p-3', 'paid');
CALL pg_temp.let_pass('p-2', 'paid');
CALL pg_temp.let_pass('p-3', 'again');
SELECT saga_id, state, step, context FROM event_store.saga_status WHERE saga_name = 'pay' ORDER BY 1;
SELECT event_store.signal_saga('pay', 'p-2', 'paid');
SELECT pg_temp.claim('pay', 3);
SELECT pg_temp.report('pay', 'p-2', 'ask', 'compensated', which => 'compensation');
SELECT * FROM pg_temp.log('pay', 'p-2');
-- the whole saga's time
SELECT pg_temp.define('brief', '{"timeout": "10ms", "steps": [{"name": "a", "compensate": true}]}');
SELECT event_store.start_saga('brief', 'b-1');
CALL pg_temp.let_pass('b-1', 'saga');
SELECT * FROM pg_temp.log('brief', 'b-1');
SELECT pg_temp.claim('brief');

-- conditions, optional steps, delays
SELECT pg_temp.define('ways', '{"steps": [{"name": "gift", "when": {"path": "$.gift", "is": true}}, {"name": "try", "optional": true, "max_attempts": 1},
    {"name": "later", "delay": "1h", "queue_timeout": "1s", "when": [{"path": "$.gift", "exists": false}, {"path": "$.n", "greater": 3}]}, {"name": "end"}]}');
SELECT event_store.start_saga('ways', 'w-1', '{"n": 5}'), event_store.start_saga('ways', 'w-2', '{"gift": true}');
SELECT pg_temp.claim('ways', 5);
SELECT pg_temp.report('ways', 'w-1', 'try', 'failed'), pg_temp.report('ways', 'w-2', 'gift', 'succeeded');
SELECT pg_temp.claim('ways', 5);
CALL pg_temp.let_pass('w-2', 'try');
SELECT saga_id, state, step FROM event_store.saga_status WHERE saga_name = 'ways' ORDER BY 1;
SELECT due_at - claimable_at AS queue_time, claimable_at > now() + interval '50min' AS later FROM event_store.saga_steps WHERE saga_id = 'w-1';
CALL pg_temp.let_pass('w-1', 'later');
SELECT * FROM pg_temp.log('ways', 'w-1');

-- what nobody claims in time
SELECT pg_temp.define('queue', '{"steps": [{"name": "a", "queue_timeout": "1h", "compensate": true}]}');
SELECT event_store.start_saga('queue', 'q-1');
CALL pg_temp.let_pass('q-1', 'a');
SELECT * FROM pg_temp.log('queue', 'q-1');

-- a new version is for new sagas
SELECT event_store.start_saga('short', 'v-1');
SELECT pg_temp.define('short', '{"steps": [{"name": "b"}]}');
SELECT event_store.start_saga('short', 'v-2');
SELECT saga_id, version, step FROM event_store.saga_status WHERE saga_id IN ('v-1', 'v-2') ORDER BY 1;
SELECT pg_temp.claim('short', 5);
SELECT step FROM event_store.claim_steps('short', 'e', steps => '{c}');
SELECT pg_temp.report('short', 'v-1', 'a', 'succeeded'), pg_temp.report('short', 'v-2', 'b', 'succeeded');

-- nobody else writes a saga, or says what its state is
SELECT pg_temp.outcome($$SELECT event_store.append_event('saga:trip', 't-1', NULL, 'SagaFailed')$$);
SELECT pg_temp.outcome($$SELECT event_store.append_batch('[{"aggregate_type": "saga:x", "aggregate_id": "y", "event_type": "E"}]')$$);
SELECT pg_temp.outcome($$SELECT event_store.set_reducer_rules('saga:trip', '{"events": {}}')$$);

-- definitions are checked as a whole, and messages name the step
SELECT pg_temp.outcome(format('SELECT event_store.define_saga(%L, %L)', 'bad', d)) FROM unnest(ARRAY[
    '[]', '"{}"', '{}', '{"steps": []}', '{"steps": {}}', '{"steps": [{"name": "a"}], "retries": 3}', '{"steps": ["a"]}', '{"steps": [{}]}',
    '{"steps": [{"name": ""}]}', '{"steps": [{"name": "a"}, {"name": "a"}]}', '{"steps": [{"name": "a", "max_attempt": 1}]}',
    '{"steps": [{"name": "a", "max_attempts": 0}]}', '{"steps": [{"name": "a", "max_attempts": "3"}]}', '{"steps": [{"name": "a", "timeout": 10}]}',
    '{"steps": [{"name": "a", "timeout": "soon"}]}', '{"steps": [{"name": "a", "timeout": "-1s"}]}', '{"steps": [{"name": "a", "timeout": null}]}',
    '{"steps": [{"name": "a", "compensate": 1}]}', '{"steps": [{"name": "a", "compensation": {"timeout": "1s"}}]}',
    '{"steps": [{"name": "a", "compensate": true, "compensation": {"name": "1s"}}]}', '{"steps": [{"name": "a", "retry_initial": "1min"}]}',
    '{"steps": [{"name": "a", "when": {"is": 1}}]}', '{"steps": [{"name": "a", "when": {"path": "x", "is": 1}}]}',
    '{"steps": [{"name": "a", "group": "g"}, {"name": "b"}, {"name": "c", "group": "g"}]}', '{"steps": [{"name": "a", "wait": {}}]}',
    '{"steps": [{"name": "a", "wait": {"signal": "s", "on_timeout": "stop"}}]}', '{"steps": [{"name": "a", "wait": {"signal": "s", "on_timeout": "continue"}}]}',
    '{"steps": [{"name": "a", "wait": {"signal": "s"}, "compensate": true}]}', '{"steps": [{"name": "a", "wait": {"signal": "s"}, "delay": "1s"}]}',
    '{"timeout": "1h", "steps": [{"name": "a", "delay": "2h"}]}', '{"timeout": "1h", "steps": [{"name": "a", "wait": {"signal": "s", "timeout": "1h"}}]}']) d;
SELECT count(*) FROM event_store.saga_definitions WHERE saga_name = 'bad';

-- arguments
SELECT pg_temp.outcome(s) FROM unnest(ARRAY[
    $$SELECT event_store.define_saga(NULL, '{}')$$, $$SELECT event_store.define_saga('s', NULL)$$,
    $$SELECT event_store.start_saga('none', 'x')$$, $$SELECT event_store.start_saga('short', NULL)$$, $$SELECT event_store.start_saga('short', 'x', '[]')$$,
    $$SELECT event_store.start_saga('short', 'x', NULL)$$, $$SELECT event_store.start_saga('short', '')$$,
    format($$SELECT event_store.start_saga(%L, 'x')$$, repeat('n', 251)),
    $$SELECT event_store.report_step('short', 'none', 'a', 'succeeded', 1)$$, $$SELECT event_store.report_step('short', 's-3', 'none', 'succeeded', 1)$$,
    $$SELECT event_store.report_step('short', 's-3', 'a', 'done', 1)$$, $$SELECT event_store.report_step('short', 's-3', 'a', 'succeeded', NULL)$$,
    $$SELECT event_store.report_step('short', 's-3', 'a', 'succeeded', 1)$$, $$SELECT event_store.report_step('short', 's-3', 'a', 'failed', 1, retry_in => '1s')$$,
    $$SELECT event_store.signal_saga('short', 'none', 's')$$, $$SELECT event_store.signal_saga('short', 's-3', NULL)$$, $$SELECT event_store.signal_saga('short', 's-3', 's', NULL)$$,
    $$SELECT event_store.cancel_saga('short', 'none', 'x')$$, $$SELECT event_store.cancel_saga('short', 's-3', NULL)$$,
    $$SELECT event_store.resolve_step('short', 's-3', 'a', 'retry', NULL)$$, $$SELECT event_store.resolve_step('short', 's-3', 'a', 'retry', 'x')$$,
    $$SELECT event_store.extend_step('short', 's-3', 'a', NULL)$$, $$SELECT event_store.extend_step('short', 's-3', 'a', 1, '0')$$,
    $$SELECT saga_id FROM event_store.claim_steps('none', 'e')$$, $$SELECT event_store.claim_steps('short', 'e')$$, $$SELECT saga_id FROM event_store.claim_steps('short', NULL)$$,
    $$SELECT saga_id FROM event_store.claim_steps('short', 'e', max_count => 0)$$, $$SELECT saga_id FROM event_store.claim_steps('short', 'e', timeout => '6s')$$,
    $$SELECT event_store.fire_saga_timers(0)$$, $$SELECT event_store.fire_saga_timers(1001)$$,
    format($$SELECT event_store.define_saga(%L, '{"steps": [{"name": "a"}]}')$$, repeat('n', 251))]) s;

-- 0 is no lease, neither of a step that nobody has claimed nor of one that waits; a pause is bounded in any unit
SELECT pg_temp.define('unclaimed', '{"steps": [{"name": "a", "group": "g"}, {"name": "w", "group": "g", "wait": {"signal": "s"}}]}');
SELECT event_store.start_saga('unclaimed', 'u-1');
SELECT s, pg_temp.outcome(format($$SELECT event_store.report_step('unclaimed', 'u-1', %L, %L, 0)$$, s, o))
  FROM unnest('{a,w}'::text[]) s, unnest('{succeeded,failed,retry}'::text[]) o;
SELECT pg_temp.outcome($$SELECT event_store.extend_step('unclaimed', 'u-1', 'a', 0)$$);
SELECT event, payload ->> 'step' AS step FROM pg_temp.log('unclaimed', 'u-1');
SELECT pg_temp.claim('unclaimed');
SELECT i, pg_temp.report('unclaimed', 'u-1', 'a', 'retry', retry_in => i) FROM unnest('{25 hours,2562047788 hours,1 mon,-1s,1 day -25 hours}'::interval[]) i;
SELECT pg_temp.report('unclaimed', 'u-1', 'a', 'retry', retry_in => '24 hours');

-- levels: who starts, who executes, who sees what is in it
CREATE ROLE saga_writer;
CREATE ROLE saga_executor;
CREATE ROLE saga_monitor;
SELECT event_store.grant_access('saga_writer', 'writer'), event_store.grant_access('saga_executor', 'consumer'), event_store.grant_access('saga_monitor', 'monitor');
SET ROLE saga_writer;
SELECT event_store.start_saga('short', 'l-1', '{"secret": 1}');
SELECT pg_temp.outcome($$SELECT saga_id FROM event_store.claim_steps('short', 'e')$$);
SET ROLE saga_executor;
SELECT saga_id, event_store.report_step('short', saga_id, step, 'succeeded', lease) FROM event_store.claim_steps('short', 'e');
SELECT pg_temp.outcome($$SELECT event_store.start_saga('short', 'l-2')$$);
SELECT saga_id, state, context FROM event_store.saga_status WHERE saga_id = 'l-1';
SET ROLE saga_monitor;
SELECT saga_id, state, context FROM event_store.saga_status WHERE saga_id = 'l-1';
RESET ROLE;
DROP OWNED BY saga_writer, saga_executor, saga_monitor;
DROP ROLE saga_writer, saga_executor, saga_monitor;

-- waiting for a step, also where the transaction has a snapshot of its own
SELECT count(*) FROM event_store.claim_steps('short', 'e', timeout => '1ms');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.outcome($$SELECT saga_id FROM event_store.claim_steps('short', 'e', timeout => '1ms')$$);
SELECT event_store.start_saga('short', 'rr-1');
SELECT saga_id, event_store.report_step('short', saga_id, step, 'succeeded', lease) FROM event_store.claim_steps('short', 'e');
COMMIT;
SET default_transaction_read_only = on;
SELECT pg_temp.outcome($$SELECT event_store.start_saga('short', 'x')$$);
RESET default_transaction_read_only;
SELECT pg_temp.outcome($$SELECT event_store.saga_transition('{"steps": [{"name": "a"}]}', NULL, '{"do": "start", "context": {}, "now": "2026-01-01T00:00:00Z"}') -> 'events' -> 0$$);
DELETE FROM event_store.sagas;
DELETE FROM event_store.saga_steps;
DELETE FROM event_store.saga_definitions;
