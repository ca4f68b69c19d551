-- projection: read models that the server keeps, by handlers

CREATE FUNCTION event_store.create_projection(
    projection_name text, handler regprocedure, aggregate_types text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
    start_after bigint DEFAULT 0, batch_size int DEFAULT 500, members int DEFAULT 1, partition_by text DEFAULT 'aggregate',
    timeout interval DEFAULT '30s', on_failure text DEFAULT 'stop', max_attempts int DEFAULT 5, reset regprocedure DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_projection';
COMMENT ON FUNCTION event_store.create_projection(text, regprocedure, text[], text[], bigint, int, int, text, interval, text, int, regprocedure) IS
$$Makes a projection: the server calls handler, a function (events event_store.event[]) RETURNS void or (event event_store.event) RETURNS void that the caller owns, with every event, in order, in one transaction with the position, so each has its effect exactly once. Returns true when it made one, false when the same one is there.
The handler runs in a process that connects as its owner, with search_path pg_catalog, pg_temp, as a security-restricted operation. aggregate_types, event_types, start_after, members, partition_by, on_failure and max_attempts are those of create_subscription: a projection is a subscription, which can be paused, moved and waited for. batch_size: at most so many events a batch, 1 to 10,000; timeout: of a call of the handler; reset: a function () RETURNS void for rebuild_projection.
Errors: 22001, 22004, 22023; 25006 on a standby; 42501 when the caller does not own the functions, or their owner is a superuser and that of the store is none; 42710 when another one, or a subscription, of that name is there; 55000 also when the owner lacks LOGIN or CONNECT.
Example: SELECT event_store.create_projection('mails', f) FROM to_regprocedure('shop.mail(event_store.event)') f WHERE f IS NOT NULL;$$;

CREATE FUNCTION event_store.create_view_projection(
    view_name text, aggregate_types text[], key jsonb DEFAULT NULL, rules jsonb DEFAULT NULL, mode text DEFAULT 'async',
    start_after bigint DEFAULT 0, batch_size int DEFAULT 500, members int DEFAULT 1, on_failure text DEFAULT 'stop', max_attempts int DEFAULT 5)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_view_projection';
COMMENT ON FUNCTION event_store.create_view_projection(text, text[], jsonb, jsonb, text, bigint, int, int, text, int) IS
$$Makes a projection that keeps a view: the server folds every event of the aggregate types into the rows of view_name that it belongs to, in one transaction with the position, so exactly once. Returns true when it made one, false when the same one is there.
key says which rows an event belongs to, as view_keys has it; NULL = one, named by the aggregate's id. rules say what it does to them, as those of set_reducer_rules; NULL = what the reducer of the one aggregate type does, with no key. An event of which no operation applies makes no row; a state that becomes null removes the row. A row's version is the sequence of the last event in it where it is that of an aggregate of one type, else the global_position. mode: async = behind the log by milliseconds; inline = each append folds its events, in its transaction, so the view is never behind: where there are events already it follows the log until it has caught up, then becomes inline by itself. start_after is 0 and members 1 then. start_after, on_failure and max_attempts are those of create_subscription; members > 1 divide the rows among themselves, and need a key that the event itself gives, one a time. batch_size: at most so many events a batch, 1 to 10,000. Nobody else writes the view then (VS008). Waits for those who are writing views (lock_timeout counts).
Errors: 22001, 22004; 22023 also for a bad key or rules, naming the place; 25006 on a standby; 42710 when another one, or a subscription, of that name is there; 55000 also when the view has rows; 55P03.
Example: SELECT event_store.create_view_projection('orders of a day', '{Order}', '{"day": "$.occurred_at"}', '{"events": {"OrderPlaced": [{"op": "increment", "path": "$.orders", "value": 1}]}}');$$;

CREATE FUNCTION event_store.drop_projection(projection_name text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_projection';
COMMENT ON FUNCTION event_store.drop_projection(text) IS
$$Drops a projection, its positions and what is parked of it; what it has made stays. Waits for its batch (lock_timeout counts). Returns whether there was one.
Errors: 22004, 22001; 25006 on a standby; 55000; 55P03.
Example: SELECT event_store.drop_projection('no longer wanted');$$;

CREATE FUNCTION event_store.replace_projection(
    view_name text, aggregate_types text[], key jsonb, rules jsonb, in_steps boolean DEFAULT false)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_replace_projection';
COMMENT ON FUNCTION event_store.replace_projection(text, text[], jsonb, jsonb, boolean) IS
$$Gives a projected view another definition: builds the view anew from where the projection began, beside the live one, and puts it in its place, all in this transaction. Readers see the old view or the new one. Returns how many rows that has changed. in_steps: the definition is only stored, and rebuild_projection_step builds it; meanwhile the view goes on by the old one. What was set aside is folded with all else. An event that cannot be folded ends it, unless the projection skips those.
Arguments as those of create_view_projection.
Errors: 22001, 22004; 22023 also for a bad key or rules, naming the place; 25001 at REPEATABLE READ and above; 25006 on a standby; 42704 when there is none of that name; 55000 also when it keeps no view; 55P03; that of an event.
Example: SELECT event_store.replace_projection(p.projection_name, '{Order}', '{"month": "$.occurred_at"}', p.rules) FROM event_store.projections p WHERE p.projection_name = 'orders of a month';$$;

CREATE FUNCTION event_store.rebuild_projection_step(projection_name text, max_events int) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_projection_step';
COMMENT ON FUNCTION event_store.rebuild_projection_step(text, int) IS
$$Does a part of building a projected view anew, by the definition that replace_projection has stored, or by its own: folds at most so many events. Returns true once the view is the new one. Each step is a transaction; after a crash the next one goes on from the last that committed. projection_status shows how far it has come, in positions.
Errors: 22001, 22004, 22023; 25001 at REPEATABLE READ and above; 25006 on a standby; 42704 when there is none of that name; 55000 also when it keeps no view; 55P03; that of an event.
Example: SELECT event_store.rebuild_projection_step(p.projection_name, 10000) FROM event_store.projections p WHERE p.projection_name = 'orders of a month';$$;

CREATE FUNCTION event_store.rebuild_projection(projection_name text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_projection';
COMMENT ON FUNCTION event_store.rebuild_projection(text) IS
$$Makes a projected view anew, by its own definition, as replace_projection does, and returns how many rows that has changed. Begins a projection of a handler anew, in this transaction: calls its reset function and moves it back to where it began. The events come again once this has committed. Returns how many positions it goes back. Waits for its batch (lock_timeout counts).
Errors: 22004, 22001; 25001 for a view at REPEATABLE READ and above; 25006 on a standby; 42704 when there is none of that name; 55000 also when a handler has no reset function; 55P03; what the function raises; that of an event.
Example: SELECT event_store.rebuild_projection(p.projection_name) FROM event_store.projections p WHERE p.projection_name = 'letters' AND p.reset IS NOT NULL;$$;

CREATE FUNCTION event_store.project(projection_name text, max_events int DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_project_events';
COMMENT ON FUNCTION event_store.project(text, int) IS
$$Takes in the events of a projection in this transaction, all there are now or (max_events) so many, as the server does by itself: for tests. The handler runs as its owner. Returns how many events were taken in. A process that is at it is waited for, and a projection that is paused goes on here alone: pause_subscription makes a test of it. What is no event's fault is raised. Constraints are immediate afterwards.
Errors: 22004, 22001, 22023; 25006 on a standby; 42704 when there is none of that name; 0A000 in a handler; 55000 without preload; what the handler raises, but for what is an event's failure.
Example: SELECT event_store.project(p.projection_name, max_events => 100) FROM event_store.projections p WHERE p.projection_name = 'letters';$$;

CREATE FUNCTION event_store.projection_state(
    OUT projection_name text, OUT kind text, OUT mode text, OUT "position" bigint, OUT lag_events bigint, OUT lag interval,
    OUT state text, OUT events_per_second float8, OUT attempts int, OUT retry_at timestamptz, OUT last_error text,
    OUT rebuild_done bigint, OUT rebuild_total bigint, OUT stale boolean)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_projection_state';
COMMENT ON FUNCTION event_store.projection_state() IS
'Internal: the rows of view projection_status.';

CREATE VIEW event_store.projection_status AS SELECT * FROM event_store.projection_state();
COMMENT ON VIEW event_store.projection_status IS
'One row a projection: its kind and mode; how far the last of its members has come, the positions from there to where it is safe to read, gaps included, and the age of the first event there; its state (running, idle, retrying: after failures, as many as attempts says, until retry_at; stopped: until resume_subscription; paused), with the error (of which who may not read events sees the SQLSTATE); events a second in the last ten seconds; how far a rebuild has come; and whether it has taken in events that set_upcaster or drop_upcaster has changed since, until rebuild_projection.';
