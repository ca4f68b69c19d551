-- feed: the order over all events

CREATE FUNCTION event_store.aggregate_member(aggregate_type text, aggregate_id text, members int) RETURNS int
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_aggregate_member';
COMMENT ON FUNCTION event_store.aggregate_member(text, text, int) IS
'Internal: which member, from 0 to members - 1, reads an aggregate; the hash behind it never changes.';

CREATE FUNCTION event_store.read_events(
    after_position bigint DEFAULT 0, max_count int DEFAULT 1000, aggregate_types text[] DEFAULT NULL,
    event_types text[] DEFAULT NULL, member int DEFAULT NULL, members int DEFAULT NULL,
    up_to_position bigint DEFAULT NULL, backward boolean DEFAULT false, upcast boolean DEFAULT true)
    RETURNS SETOF event_store.event
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_read_events';
COMMENT ON FUNCTION event_store.read_events(bigint, int, text[], text[], int, int, bigint, boolean, boolean) IS
$$Returns durable events of all aggregates in global_position order, after a position and up to the safe position: a reader that goes on after the last position it got sees every committed event exactly once.
after_position is exclusive, up_to_position inclusive (NULL = the safe position); max_count limits the rows (NULL = all); aggregate_types and event_types select (NULL = all, an empty list = none), quickly with the index of create_store(category_index => true) or (event_type_index => true); member (0-based) of members gets its share of the aggregates, always the same; backward turns the order only. Events are as their last version has them (set_upcaster), and event_types are the types of that; upcast => false reads them, and selects, as they were written.
A consumer gives as up_to_position what wait_for_events returned, and goes on from there when fewer than max_count events came, else from the last one it got.
Errors: 22023, also when after_position was never given here: the log is another one, or an older state of it (a standby, which may only be behind, returns nothing); 55000 without preload, and where domain_events is fed by logical replication; and whatever an upcaster raises, with the event in the DETAIL.
Example: SELECT global_position, aggregate_id, event_type FROM event_store.read_events(after_position => 0, max_count => 10);$$;

CREATE FUNCTION event_store.safe_position() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_safe_position';
COMMENT ON FUNCTION event_store.safe_position() IS
$$Returns the global position up to which no event can appear any more. It bounds what later statements may read, not the statement it is called in.
Errors: 55000 without preload, and where domain_events is fed by logical replication.
Example: SELECT event_store.safe_position();$$;

CREATE FUNCTION event_store.position_at(at timestamptz) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_position_at';
COMMENT ON FUNCTION event_store.position_at(timestamptz) IS
$$Returns the position of the last event, up to the safe position, at and before which no event was recorded later than a time; 0 = there is none. Who reads on after it misses nothing that was recorded after that time, and may get a few events from before it.
recorded_at nearly follows the positions: an event that was staged is recorded when it is staged and gets its position when it is drained, and clocks are set back. An event recorded ahead of its time, by a clock that was wrong, keeps the answer before itself for all times up to its own. Once an event recorded after the time is safe the answer stays the same. It reads the events on one side of the time, at most about half of the log: 1 million events take about 0.1 s.
Errors: 22004; 55000 without preload, and where domain_events is fed by logical replication.
Example: SELECT event_store.position_at('2026-01-01 00:00:00+00');$$;

CREATE FUNCTION event_store.wait_for_events(after_position bigint, timeout interval DEFAULT '5s') RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait_for_events';
COMMENT ON FUNCTION event_store.wait_for_events(bigint, interval) IS
$$Waits until the safe position is above after_position, at most for timeout, and returns the safe position. Calls of one session return at least 10 ms apart, so that a consumer that follows a busy log reads it in batches.
Errors: 22004; 22023 when timeout is negative or above 10 minutes, or after_position was never given here (a standby waits for it); 55000 without preload, and where domain_events is fed by logical replication.
Example: SELECT event_store.wait_for_events(after_position => 0, timeout => '1s');$$;

CREATE FUNCTION event_store.feed_state(
    OUT safe_position bigint, OUT last_position bigint, OUT in_flight int,
    OUT blocker_pid int, OUT blocked_since timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_feed_state';
COMMENT ON FUNCTION event_store.feed_state() IS
'Internal: the row of view feed_status.';

CREATE VIEW event_store.feed_status AS SELECT * FROM event_store.feed_state();
COMMENT ON VIEW event_store.feed_status IS
'One row: the safe position, the last position taken, how many transactions have positions in flight, and the process whose transaction holds the safe position back, since when.';
