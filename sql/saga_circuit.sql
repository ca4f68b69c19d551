-- saga_circuit: a step that fails again and again is left alone for a while, over all sagas of a name
\pset null null
SELECT event_store.create_store();
SELECT event_store.define_saga('circuit call', '{"steps": [{"name": "a", "timeout": "1h", "max_attempts": 10, "retry_initial": "1us", "retry_max": "1us", "compensate": true,
    "compensation": {"timeout": "1h"}, "queue_timeout": "1h", "circuit": {"failures": 3, "pause": "1h"}}]}');
SELECT event_store.define_saga('circuit brief', '{"steps": [{"name": "a", "timeout": "1h", "max_attempts": 10, "retry_initial": "1us", "retry_max": "1us",
    "circuit": {"failures": 1, "pause": "1us"}}]}');
CREATE TEMP TABLE claims (saga_id text, lease bigint, kind text);
CREATE FUNCTION pg_temp.claim(name text, how_many int DEFAULT 1) RETURNS text LANGUAGE sql AS $$
    WITH c AS (INSERT INTO claims SELECT saga_id, lease, kind FROM event_store.claim_steps(name, 'test', max_count => how_many, lease_time => '1h') RETURNING *)
    SELECT string_agg(saga_id || ' ' || kind, ', ' ORDER BY saga_id) FROM c
$$;
CREATE FUNCTION pg_temp.report(name text, id text, outcome text) RETURNS text LANGUAGE sql AS $$
    SELECT event_store.report_step(name, id, 'a', outcome, (SELECT max(lease) FROM claims WHERE saga_id = id))
$$;
CREATE FUNCTION pg_temp.circuit(name text) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s %s %s', state, failures, opened_at IS NULL, next_trial_at > now()) FROM event_store.saga_circuits WHERE saga_name = name
$$;
-- A lease is over.  In one transaction, so that nobody in the background sees it, and holds the saga when it is claimed next.
CREATE PROCEDURE pg_temp.lose(name text, id text) LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        UPDATE event_store.saga_steps SET due_at = now() WHERE saga_name = name AND saga_id = id AND lease IS NOT NULL;
        PERFORM event_store.fire_saga_timers();
        EXIT WHEN NOT EXISTS (SELECT FROM event_store.saga_steps WHERE saga_name = name AND saga_id = id AND lease IS NOT NULL);
        ROLLBACK;
    END LOOP;
END
$$;

SELECT event_store.start_saga('circuit call', 'c-' || n) FROM generate_series(1, 5) n;
SELECT pg_temp.circuit('circuit call');
-- failures in a row; an answer ends the row, also a refusal
SELECT pg_temp.claim('circuit call', 3);
SELECT pg_temp.report('circuit call', 'c-1', 'retry'), pg_temp.report('circuit call', 'c-2', 'retry');
SELECT pg_temp.circuit('circuit call');
SELECT pg_temp.report('circuit call', 'c-3', 'failed');
SELECT pg_temp.circuit('circuit call');
SELECT pg_temp.claim('circuit call', 3);
-- what is rolled back was no failure
BEGIN;
SELECT pg_temp.report('circuit call', 'c-1', 'retry');
ROLLBACK;
SELECT pg_temp.circuit('circuit call');
SELECT pg_temp.report('circuit call', 'c-1', 'retry'), pg_temp.report('circuit call', 'c-5', 'retry');
SELECT pg_temp.circuit('circuit call');
-- the third one: a lease that is lost
CALL pg_temp.lose('circuit call', 'c-4');
SELECT pg_temp.circuit('circuit call');
SELECT pg_temp.claim('circuit call', 5);
-- no request times out meanwhile
BEGIN;
UPDATE event_store.saga_steps SET due_at = now() WHERE saga_id = 'c-2';
SELECT event_store.fire_saga_timers();
COMMIT;
SELECT state FROM event_store.sagas WHERE saga_id = 'c-2';

-- after the pause one goes, and no second until it has ended; its failure opens the circuit anew
SELECT event_store.start_saga('circuit brief', 'b-' || n) FROM generate_series(1, 3) n;
SELECT pg_temp.claim('circuit brief');
SELECT pg_temp.report('circuit brief', 'b-1', 'retry');
SELECT pg_temp.claim('circuit brief', 5) IS NOT NULL AS trial, pg_temp.claim('circuit brief', 5);
SELECT pg_temp.circuit('circuit brief');
SELECT pg_temp.report('circuit brief', (SELECT saga_id FROM claims ORDER BY lease DESC LIMIT 1), 'retry');
SELECT pg_temp.circuit('circuit brief');
-- a claim that is rolled back hands the trial on
BEGIN;
SELECT pg_temp.claim('circuit brief', 5) IS NOT NULL AS trial;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT pg_temp.claim('circuit brief', 5) IS NOT NULL AS trial;
ROLLBACK TO s;
SELECT pg_temp.claim('circuit brief', 5) IS NOT NULL AS trial;
COMMIT;
-- an answer closes it
SELECT pg_temp.report('circuit brief', (SELECT saga_id FROM claims ORDER BY lease DESC LIMIT 1), 'succeeded');
SELECT pg_temp.circuit('circuit brief');
SELECT length(pg_temp.claim('circuit brief', 5)) AS two;

-- a trial whose lease is lost opens it anew, and the next one has its turn
SELECT event_store.start_saga('circuit brief', 'b-' || n) FROM generate_series(4, 6) n;
SELECT pg_temp.report('circuit brief', saga_id, 'retry') FROM (SELECT DISTINCT ON (c.saga_id) c.saga_id FROM claims c
    JOIN event_store.saga_steps s ON s.lease = c.lease WHERE s.saga_name = 'circuit brief' LIMIT 1) x;
SELECT pg_temp.circuit('circuit brief');
CREATE TEMP TABLE trial AS SELECT pg_temp.claim('circuit brief', 1) AS claim;
SELECT claim IS NOT NULL AS trial, pg_temp.claim('circuit brief', 5) FROM trial;
SELECT split_part(claim, ' ', 1) AS trial FROM trial \gset
CALL pg_temp.lose('circuit brief', :'trial');
SELECT pg_temp.circuit('circuit brief');
SELECT pg_temp.claim('circuit brief', 1) IS NOT NULL AS next_trial;
SELECT pg_temp.report('circuit brief', (SELECT saga_id FROM claims ORDER BY lease DESC LIMIT 1), 'succeeded');
SELECT pg_temp.circuit('circuit brief');

-- however many requests it holds off, others are found behind them, and who waits sleeps
SELECT event_store.define_saga('circuit full', '{"steps": [{"name": "a", "timeout": "1h", "compensate": true, "compensation": {"timeout": "1h"}, "circuit": {"failures": 1, "pause": "1h"}},
    {"name": "b", "timeout": "1h"}]}');
SELECT event_store.start_saga('circuit full', 'f-0');
SELECT pg_temp.claim('circuit full');
SELECT pg_temp.report('circuit full', 'f-0', 'retry');
SELECT count(event_store.start_saga('circuit full', 'f-' || n)) FROM generate_series(1, 1000) n;
SELECT pg_temp.claim('circuit full', 5);
BEGIN;
SELECT count(*) FROM event_store.claim_steps('circuit full', 'test', timeout => '1s');
SELECT count(*) FROM event_store.claim_steps('circuit full', 'test', steps => '{a}', timeout => '1s');
SELECT sum(pg_stat_get_xact_numscans(i)) < 100 AS few_looks, sum(pg_stat_get_xact_tuples_returned(i)) < 400 AS few_rows
  FROM unnest('{event_store.saga_steps_claimable_idx,event_store.saga_steps_step_idx}'::regclass[]) i;
COMMIT;
SELECT event_store.cancel_saga('circuit full', 'f-0', 'test');
SELECT pg_temp.claim('circuit full', 5);

-- compensations pass, and so do other sagas
SELECT event_store.cancel_saga('circuit call', 'c-1', 'test');
SELECT pg_temp.claim('circuit call', 5);
SELECT event_store.define_saga('circuit other', '{"steps": [{"name": "a"}]}'), event_store.start_saga('circuit other', 'o-1');
SELECT pg_temp.claim('circuit other');

-- definitions
SELECT event_store.define_saga('bad', '{"steps": [{"name": "a", "circuit": {"failures": 3}}]}');
SELECT event_store.define_saga('bad', '{"steps": [{"name": "a", "circuit": {"failures": 3, "pause": "1s", "for": 1}}]}');
SELECT event_store.define_saga('bad', '{"steps": [{"name": "a", "wait": {"signal": "s"}, "circuit": {"failures": 3, "pause": "1s"}}]}');
DELETE FROM event_store.sagas;
DELETE FROM event_store.saga_steps;
DELETE FROM event_store.saga_definitions;
