-- saga: processes of several steps, which executors do and the store drives

CREATE FUNCTION event_store.define_saga(saga_name text, definition jsonb) RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_saga';
COMMENT ON FUNCTION event_store.define_saga(text, jsonb) IS
$$Says what the steps of a saga are, and returns the version: that of the newest definition where it is the same. Sagas that run keep theirs.
definition: {"steps": [step, ...], "timeout": "1h"}; a step has a "name" and may have "compensate", "timeout", "queue_timeout", "max_attempts", "retry_initial", "retry_max", "compensation" (the same for compensating it), "when", "optional", "group", "wait" ({"signal", "timeout", "on_timeout"}), "delay", "circuit" ({"failures", "pause"}), "handler" (the function of yours that does it, instead of executors: "schema.function", of (saga_id text, step text, attempt int, context jsonb) RETURNS jsonb; it raises VS011 where the step has failed). See docs/sagas.md.
Errors: 22023 where the definition is wrong, naming the step; 42501 for a handler of somebody else, or of a superuser where the owner of the store is none; 22004; 25006 on a standby; 55000 also where the role of handlers lacks LOGIN or CONNECT.
Example: SELECT event_store.define_saga('order', '{"steps": [{"name": "reserve", "compensate": true}, {"name": "charge", "max_attempts": 5}]}');$$;

CREATE FUNCTION event_store.start_saga(saga_name text, saga_id text, context jsonb DEFAULT '{}', correlation_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_start_saga';
COMMENT ON FUNCTION event_store.start_saga(text, text, jsonb, text) IS
$$Starts a saga by its newest definition: an aggregate of type "saga:" and the name. Returns the sequence of its first event; again with the same context the same, which makes it safe to repeat.
context: a JSON object, the input of the steps, into which each result goes under its step's name.
Errors: VS002 where it was started with another context; 42704 where the saga is not defined; 22004, 22001, 22023; 25006 on a standby; 55000.
Example: SELECT event_store.start_saga('order', 'o-17', '{"amount": 42}', correlation_id => 'request-4');$$;

CREATE FUNCTION event_store.claim_steps(saga_name text, executor text, steps text[] DEFAULT NULL, max_count int DEFAULT 1,
        lease_time interval DEFAULT '30s', timeout interval DEFAULT '0')
    RETURNS TABLE (saga_id text, step text, kind text, attempt int, lease bigint, input jsonb, deadline timestamptz, time_left interval,
                   correlation_id text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'es_claim_steps';
COMMENT ON FUNCTION event_store.claim_steps(text, text, text[], int, interval, interval) IS
$$Gives an executor steps that are to be done, at most max_count, the oldest request first, without order between sagas. kind: step or compensation, which undoes the step of that name. Claim only what you begin at once.
Each claim is an attempt, and ends by report_step, when its lease is over (the lower of lease_time and the step's timeout, deadline) or at the deadline. The claim is on disk when the transaction has committed, whatever synchronous_commit says.
steps: only these (NULL = all); timeout: waits so long for one, at most 5s. Stands in FROM only.
Errors: 42704 where the saga is not defined; 22004, 22023; 0A000; 25001 with a timeout at REPEATABLE READ and above; 25006 on a standby; 55000 also without preload.
Example: SELECT saga_id, step, kind, attempt, lease, input FROM event_store.claim_steps('order', 'executor-1');$$;

CREATE FUNCTION event_store.extend_step(saga_name text, saga_id text, step text, lease bigint, lease_time interval DEFAULT '30s',
        progress jsonb DEFAULT NULL) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_extend_step';
COMMENT ON FUNCTION event_store.extend_step(text, text, text, bigint, interval, jsonb) IS
$$Makes a lease longer, to lease_time from now, and returns when it ends: never beyond the deadline of the attempt. NULL: the saga is compensating; stop, and report what was done. progress is kept beside the step.
Errors: VS007 when the lease is lost or its attempt has ended; 42704; 22004, 22023; 25006 on a standby; 55000.
Example: SELECT event_store.extend_step('order', c.saga_id, c.step, c.lease) FROM event_store.claim_steps('order', 'executor-1') c;$$;

CREATE FUNCTION event_store.report_step(saga_name text, saga_id text, step text, outcome text, lease bigint, result jsonb DEFAULT NULL,
        error text DEFAULT NULL, retry_in interval DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_report_step_sql';
COMMENT ON FUNCTION event_store.report_step(text, text, text, text, bigint, jsonb, text, interval) IS
$$Says how an attempt went, in the caller's transaction, and returns the saga's state. With the same lease, outcome and result again it returns the state and changes nothing.
outcome: succeeded, failed (this attempt had no effect, and trying again is of no use), retry (it may have had an effect: a network error) or compensated. result goes into the context under the step's name; error into last_error; retry_in: the pause before the next attempt, else as defined.
Errors: VS007 when another lease of the step is newer, or the saga has ended; VS002 when something else was reported for the lease; 42704 for a saga or step that is not there; 22004, 22023; 25006 on a standby; 55000.
Example: SELECT event_store.report_step('order', c.saga_id, c.step, 'succeeded', c.lease, '{"reservation": 7}') FROM event_store.claim_steps('order', 'executor-1') c;$$;

CREATE FUNCTION event_store.signal_saga(saga_name text, saga_id text, signal text, payload jsonb DEFAULT '{}', signal_id text DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_signal_saga';
COMMENT ON FUNCTION event_store.signal_saga(text, text, text, jsonb, text) IS
$$Tells a saga that something has happened, and returns its state: the step that has waited longest for that signal is done, with the payload as its result. One that comes before a step waits for it is kept, and one that comes after compensation began changes nothing. With a signal_id that the saga has had, nothing happens.
Errors: 55000 for a saga that has ended; 42704; 22004, 22023; 25006 on a standby.
Example: SELECT event_store.signal_saga('order', 'o-17', 'paid', '{"receipt": 9}', signal_id => 'payment-9');$$;

CREATE FUNCTION event_store.resolve_step(saga_name text, saga_id text, step text, action text, reason text, result jsonb DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_resolve_step';
COMMENT ON FUNCTION event_store.resolve_step(text, text, text, text, text, jsonb) IS
$$An operator's decision about a stuck step, whose compensation has no attempts left; returns the saga's state. action: retry (attempts count anew), skip or succeeded (it is settled; the next one is compensated), give_up (the saga has failed, and its last event says what was not compensated). The event says who decided.
Errors: 55000 when the step is not stuck; 42704; 22004, 22023; 25006 on a standby.
Example: SELECT event_store.resolve_step(s.saga_name, s.saga_id, s.step, 'retry', 'the bank is back') FROM event_store.saga_status s WHERE s.state = 'stuck';$$;

CREATE FUNCTION event_store.cancel_saga(saga_name text, saga_id text, reason text) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_cancel_saga';
COMMENT ON FUNCTION event_store.cancel_saga(text, text, text) IS
$$Makes a running saga compensate what it has done, and returns its state. Of one that is not running it changes nothing.
Errors: 42704; 22004; 25006 on a standby; 55000.
Example: SELECT event_store.cancel_saga('order', 'o-18', 'the customer has changed her mind');$$;

CREATE FUNCTION event_store.fire_saga_timers(max_count int DEFAULT 1000) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_fire_saga_timers';
COMMENT ON FUNCTION event_store.fire_saga_timers(int) IS
$$Does what is due of all sagas by now, at most max_count (1 to 1000) of each kind, and returns how many: leases that are over, steps and sagas that have timed out. With preload it is done by itself, as for scheduled events.
Errors: 22004, 22023; 25006 on a standby; 55000.
Example: SELECT event_store.fire_saga_timers();$$;

CREATE FUNCTION event_store.run_saga_handlers(max_count int DEFAULT 1000) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_run_saga_handlers';
COMMENT ON FUNCTION event_store.run_saga_handlers(int) IS
$$Has handlers do the steps of sagas that are due by now, at most max_count (1 to 1000), in the caller's transaction, and returns how many: for tests. Projectors do it by themselves. A claim is no attempt before the transaction has committed, and an error that is not the step's own, as a deadlock, ends it.
Errors: 22004, 22023; 0A000 in a handler; 25006 on a standby; 55000 also without preload.
Example: SELECT event_store.run_saga_handlers();$$;

CREATE FUNCTION event_store.saga_states(OUT saga_name text, OUT saga_id text, OUT version int, OUT state text, OUT deadline timestamptz, OUT started_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_saga_states';
COMMENT ON FUNCTION event_store.saga_states() IS
'Internal: the rows of saga_status, as far as they need no events.';

CREATE FUNCTION event_store.saga_detail(saga_name text, saga_id text, OUT step text, OUT attempt int, OUT deadline timestamptz, OUT updated_at timestamptz,
        OUT last_error text, OUT context jsonb)
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_saga_detail';
COMMENT ON FUNCTION event_store.saga_detail(text, text) IS
'Internal: what the events of a saga say, for saga_status. The context is NULL for who may not read events.';

CREATE VIEW event_store.saga_status AS
    SELECT s.saga_name, s.saga_id, s.version, s.state,
           (event_store.saga_detail(s.saga_name, s.saga_id)).step AS step,
           (event_store.saga_detail(s.saga_name, s.saga_id)).attempt AS attempt,
           COALESCE((event_store.saga_detail(s.saga_name, s.saga_id)).deadline, s.deadline) AS deadline,
           s.started_at,
           (event_store.saga_detail(s.saga_name, s.saga_id)).updated_at AS updated_at,
           (event_store.saga_detail(s.saga_name, s.saga_id)).last_error AS last_error,
           (event_store.saga_detail(s.saga_name, s.saga_id)).context AS context
      FROM event_store.saga_states() s;
COMMENT ON VIEW event_store.saga_status IS
$$One row a saga. state: running, compensating, completed, compensated, failed, stuck (a compensation that somebody has to decide about: resolve_step). step, attempt: where it is; deadline: of that attempt, or else of the saga; context: NULL for who may not read events; last_error: what was said last of an attempt that failed, of which who may not read events sees that there is something (hidden).
Example: SELECT state, count(*) FROM event_store.saga_status GROUP BY state;$$;

CREATE FUNCTION event_store.circuit_states(OUT saga_name text, OUT step text, OUT state text, OUT failures int, OUT opened_at timestamptz, OUT next_trial_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'es_saga_circuits';
COMMENT ON FUNCTION event_store.circuit_states() IS
'Internal: the rows of saga_circuits.';

CREATE VIEW event_store.saga_circuits AS
    SELECT c.saga_name, c.step, c.state, c.failures, c.opened_at, c.next_trial_at
      FROM event_store.circuit_states() c;
COMMENT ON VIEW event_store.saga_circuits IS
$$One row a circuit, of the steps that have one in the newest definition. state: closed, open (its requests wait until next_trial_at), half_open (one of them is tried); failures: in a row. Circuits are in shared memory, and start closed with the server.
Example: SELECT saga_name, step, next_trial_at FROM event_store.saga_circuits WHERE state = 'open';$$;

CREATE FUNCTION event_store.saga_transition(definition jsonb, state jsonb, input jsonb) RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_saga_transition';
COMMENT ON FUNCTION event_store.saga_transition(jsonb, jsonb, jsonb) IS
'Internal: what follows in a saga from what happens, without a saga: {"state", "events"} after an input such as {"do": "report", "step", "outcome", "lease", "now"}. The tests compare it with a model.';
