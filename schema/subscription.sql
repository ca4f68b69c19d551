-- subscription: named places in the feed, kept by the server

CREATE FUNCTION event_store.create_subscription(
    subscription_name text, aggregate_types text[] DEFAULT NULL, event_types text[] DEFAULT NULL, members int DEFAULT 1,
    start_after bigint DEFAULT 0, on_failure text DEFAULT 'park', max_attempts int DEFAULT 5, partition_by text DEFAULT 'aggregate')
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_subscription';
COMMENT ON FUNCTION event_store.create_subscription(text, text[], text[], int, bigint, text, int, text) IS
$$Makes a subscription, a place in the feed under a name: next_events gives the events behind it, each once. Returns true when it made one, false when the same one is there.
aggregate_types, event_types: only these (NULL or empty = all). members: so many consumers share it, each with partitions of its own; 1 to 1000. start_after: 0 = from the first event on, NULL = what commits from now on. partition_by: what keeps its order: aggregate, correlation_id, saga_id or a path such as $.payload.customerId; an event that has none belongs to its aggregate. on_failure (park, park_event, skip, stop) and max_attempts (0 = without end): what becomes of events that fail.
Errors: 22004, 22001; 22023 also when start_after was never given; 25006 on a standby; 42710 when another one of that name is there; 55000 without preload, and where domain_events is fed by logical replication.
Example: SELECT event_store.create_subscription('invoices', aggregate_types => '{Order}');$$;

CREATE FUNCTION event_store.alter_subscription(
    subscription_name text, aggregate_types text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
    on_failure text DEFAULT NULL, max_attempts int DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_alter_subscription';
COMMENT ON FUNCTION event_store.alter_subscription(text, text[], text[], text, int) IS
$$Changes a subscription from where its members stand on. NULL leaves a thing as it is; an empty list of types means all types.
Errors: 22001, 22004, 22023; 25006 on a standby; 42704 when there is none of that name; 55000.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('altered')) SELECT event_store.alter_subscription('altered', event_types => '{OrderPlaced}') FROM c;$$;

CREATE FUNCTION event_store.drop_subscription(subscription_name text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_subscription';
COMMENT ON FUNCTION event_store.drop_subscription(text) IS
$$Drops a subscription and its positions; waits for transactions that have events of it (lock_timeout counts). Returns whether there was one.
Errors: 22004, 22001; 25006 on a standby; 55000; 55P03.
Example: SELECT event_store.drop_subscription('no longer wanted');$$;

CREATE FUNCTION event_store.pause_subscription(subscription_name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_pause_subscription';
COMMENT ON FUNCTION event_store.pause_subscription(text) IS
$$Pauses a subscription: next_events and claim_events give nothing, until resume_subscription. What transactions and leases have of it they finish.
Errors: 22004, 22001; 25006 on a standby; 42704 when there is none of that name; 55000.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('paused')) SELECT event_store.pause_subscription('paused') FROM c;$$;

CREATE FUNCTION event_store.resume_subscription(subscription_name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_resume_subscription';
COMMENT ON FUNCTION event_store.resume_subscription(text) IS
$$Lets a paused subscription go on from where it stands.
Errors: 22004, 22001; 25006 on a standby; 42704 when there is none of that name; 55000.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('resumed')) SELECT event_store.resume_subscription('resumed') FROM c;$$;

CREATE FUNCTION event_store.move_subscription(subscription_name text, after_position bigint) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_move_subscription';
COMMENT ON FUNCTION event_store.move_subscription(text, bigint) IS
$$Moves all members of a paused subscription: they go on behind after_position, back (0 = all events again) or forth. Their leases are lost. Waits for transactions that have events of it (lock_timeout counts).
Errors: 22004, 22001; 22023 also when after_position was never given; 25006 on a standby; 42704 when there is none of that name; 55000 also when it is not paused; 55P03.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('moved')), p AS MATERIALIZED (SELECT event_store.pause_subscription('moved') FROM c) SELECT event_store.move_subscription('moved', 0) FROM p;$$;

CREATE FUNCTION event_store.resize_subscription(subscription_name text, members int) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_resize_subscription';
COMMENT ON FUNCTION event_store.resize_subscription(text, int) IS
$$Divides a subscription among another number of members, 1 to 1000. Nothing is lost, repeated or overtaken within its partition. Waits for transactions that have events of it, and for leases, until they are acknowledged, released or over; holds off new ones meanwhile (lock_timeout counts). The new members begin where the last of the old ones stood, and pass over what the others had been given.
Errors: 22004, 22001, 22023; 25006 on a standby; 42704 when there is none of that name; 55000 also while a member has stopped; 55006 until all members have passed where the first one stood at the resize before, and in a transaction that has events of it; 55P03.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('resized')) SELECT event_store.resize_subscription('resized', 4) FROM c;$$;

CREATE FUNCTION event_store.next_events(subscription_name text, max_count int DEFAULT 100, timeout interval DEFAULT '0')
    RETURNS SETOF event_store.event
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'es_next_events';
COMMENT ON FUNCTION event_store.next_events(text, int, interval) IS
$$Returns the next events of a subscription, of one member that nobody else has, in their order, and moves its position in this transaction: COMMIT acknowledges all of them, ROLLBACK (also to a savepoint) delivers them again. With effects in this database, in the same transaction or statement (INSERT ... SELECT FROM next_events), each event has its effect exactly once.
max_count limits the rows (NULL = as many as a call reads, 10,000). A further call in the transaction goes on behind the first. After a rollback the next batch is half as large, down to one event, and grows again. Where types select little, a call looks at 10,000 events of the log, moves over them and may return nothing while there is more. timeout waits for events, at most 5 seconds, with the statement's snapshot.
Errors: 0A000 outside FROM; 22004, 22001, 22023; 25001 with a timeout at REPEATABLE READ and SERIALIZABLE; 25006 on a standby; 40001 where only members have events that were served since the snapshot; 42704 when there is none of that name; 55000 without preload.
Example: SELECT e.global_position, e.event_type FROM (SELECT event_store.create_subscription('example') AS made OFFSET 0) c, LATERAL event_store.next_events(CASE WHEN c.made IS NOT NULL THEN 'example' END, max_count => 10) e;$$;

CREATE FUNCTION event_store.wait_for_subscription(subscription_name text, up_to_position bigint, timeout interval DEFAULT '5s') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait_for_subscription';
COMMENT ON FUNCTION event_store.wait_for_subscription(text, bigint, interval) IS
$$Waits until a subscription has handled everything up to a position (NULL = what is safe to read now), at most for timeout (up to 10 minutes, NULL = 5 seconds), with the statement's snapshot, and returns whether it has: so that a caller who appended, and committed, reads what its consumers made of it.
Errors: 22001, 22004; 22023 also when up_to_position was never given; 25001 in the transaction that itself appended up to there; 42704 when there is none of that name; 55000 without preload, and where the subscription does not get there by itself: paused, stopped, or an event up to there is parked.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('handled', start_after => event_store.safe_position())) SELECT event_store.wait_for_subscription('handled', 0) FROM c;$$;

CREATE PROCEDURE event_store.wait_for_subscriptions(subscription_names text[], timeout interval, INOUT ready text[] DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_wait_for_subscriptions';
COMMENT ON PROCEDURE event_store.wait_for_subscriptions(text[], interval, text[]) IS
$$Waits until one of these subscriptions has something for a consumer, at most for timeout (up to 10 minutes, NULL = 5 seconds), and returns the names of those that have; none when the time was over. Unlike a SELECT it holds no snapshot meanwhile. One call serves all consumers of a process.
Errors: 22001, 22004, 22023; 25001 where a snapshot is held: at REPEATABLE READ and SERIALIZABLE, in a function, with an open cursor; 42704 when one of them does not exist; 55000 without preload.
Example: CALL event_store.wait_for_subscriptions(CASE WHEN event_store.create_subscription('waited') THEN '{waited}'::text[] END, timeout => '10ms');$$;

CREATE FUNCTION event_store.fail_events(subscription_name text, at_position bigint, error text, action text DEFAULT 'retry') RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_fail_events';
COMMENT ON FUNCTION event_store.fail_events(text, bigint, text, text) IS
$$Says that the event at a position could not be handled, and returns what is done: retrying, parked, skipped, stopped, or handled when it was acknowledged before.
action: retry sets the partition aside and tries it again after a pause that doubles from event_store.retry_initial to retry_max, until max_attempts end in what on_failure says; park: until retry_parked_events or discard_parked_events; park_event: this event alone; skip: passes over it; stop: the member, until resume_subscription. Under on_failure = stop a retry lets the member itself wait.
Where the transaction still has the batch (a savepoint after the fetch was rolled back to), COMMIT acknowledges what lies before at_position, and the caller keeps no effect of it or of later ones. Where the batch was rolled back, or is another transaction's (waited for), nothing is acknowledged, and the partition waits from its first event that is not.
Errors: 22004, 22001; 22023 also when there is no such event for the subscription; 25006 on a standby; 42704; 55006 where the member is leased; 55000 also for skip and park_event where the event waits behind another one of its partition.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('failing') AS made) SELECT event_store.fail_events('failing', e.global_position, 'no such customer', 'park') FROM c, LATERAL (SELECT global_position FROM event_store.read_events(max_count => 1) OFFSET 0) e;$$;

CREATE FUNCTION event_store.claim_events(
    subscription_name text, consumer text, max_count int DEFAULT 100, lease_time interval DEFAULT '30s', timeout interval DEFAULT '0',
    done_member int DEFAULT NULL, done_lease bigint DEFAULT NULL)
    RETURNS TABLE (member int, lease bigint, attempt int,
        global_position bigint, aggregate_type text, aggregate_id text, sequence bigint, event_id uuid, event_type text, schema_version int,
        payload jsonb, payload_bytes bytea, metadata jsonb, correlation_id text, causation_id text, saga_id text,
        occurred_at timestamptz, recorded_at timestamptz, partition_key text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'es_claim_events';
COMMENT ON FUNCTION event_store.claim_events(text, text, int, interval, interval, int, bigint) IS
$$Claims the next events of a subscription, of one member that nobody else has, by a lease: for lease_time they are given to nobody else, in or out of a transaction. For effects elsewhere; at least once, in order within a partition. Handle them in their order, then ack_events; or claim the next batch with done_member and done_lease, which acknowledges all of that one in the same round trip. A claim counts from COMMIT on.
consumer: a name, shown in subscription_status. lease_time: above 0, at most 30 days. max_count limits the rows (NULL = as many as a call reads, 10,000). timeout waits for events, at most 5 seconds, with the statement's snapshot. attempt counts those of the row's partition, from 1. A lease that expires, or was open when the server crashed, is free for the next claim, which gets fewer events, down to one; only a batch of one counts an attempt.
Errors: 0A000 outside FROM; 22004, 22001, 22023; 25001 with a timeout at REPEATABLE READ and SERIALIZABLE; 25006 on a standby; 42704 when there is none of that name; 55000 without preload; VS007 when done_lease is lost: then nothing is claimed.
Example: SELECT e.member, e.lease, e.event_type FROM (SELECT event_store.create_subscription('claimed') AS made OFFSET 0) c, LATERAL event_store.claim_events(CASE WHEN c.made IS NOT NULL THEN 'claimed' END, 'mailer-1', max_count => 10) e;$$;

CREATE FUNCTION event_store.ack_events(
    subscription_name text, member int, lease bigint, up_to_position bigint DEFAULT NULL,
    failed_positions bigint[] DEFAULT NULL, errors text[] DEFAULT NULL, action text DEFAULT 'retry') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_ack_events';
COMMENT ON FUNCTION event_store.ack_events(text, int, bigint, bigint, bigint[], text[], text) IS
$$Says that the events of a lease are handled up to up_to_position (NULL: all that was claimed), except those that failed. Returns true when the lease is finished, false when it goes on for the rest.
failed_positions lie in the batch and at or below up_to_position; errors has a text for each; action is that of fail_events. Under retry and park a partition's lowest failed one counts, once; its later events leave the lease and come again behind it. Under skip and park_event its later ones count as handled.
In a transaction it holds the member to its end: until then the lease does not expire.
Errors: 22004, 22001; 22023 also for a position beyond the batch or not in it; 25006 on a standby; 42704; 55000 without preload; VS007 when the lease is not the newest one of that member: nothing is changed.
Example: SELECT event_store.ack_events('acked', e.member, e.lease) FROM (SELECT event_store.create_subscription('acked') AS made OFFSET 0) c, LATERAL event_store.claim_events(CASE WHEN c.made IS NOT NULL THEN 'acked' END, 'mailer-1', max_count => 1) e;$$;

CREATE FUNCTION event_store.release_events(subscription_name text, member int, lease bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_release_events';
COMMENT ON FUNCTION event_store.release_events(text, int, bigint) IS
$$Gives a lease back before its time: what is left of its batch comes again, and no attempt is counted. Returns true.
Errors: 22004, 22001; 25006 on a standby; 42704; 55000 without preload; VS007 when the lease is not the newest one of that member.
Example: SELECT event_store.release_events('released', e.member, e.lease) FROM (SELECT event_store.create_subscription('released') AS made OFFSET 0) c, LATERAL event_store.claim_events(CASE WHEN c.made IS NOT NULL THEN 'released' END, 'mailer-1', max_count => 1) e;$$;

CREATE FUNCTION event_store.extend_lease(subscription_name text, member int, lease bigint, lease_time interval DEFAULT '30s') RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_extend_lease';
COMMENT ON FUNCTION event_store.extend_lease(text, int, bigint, interval) IS
$$Lets a lease end lease_time (above 0, at most 30 days) from now, one that has expired as well as long as nobody has claimed its events. Returns when it ends.
Errors: 22004, 22001, 22023; 25006 on a standby; 42704; 55000 without preload; VS007 when the lease is not the newest one of that member, or was open when the server crashed.
Example: SELECT event_store.extend_lease('extended', e.member, e.lease, '1min') > e.recorded_at FROM (SELECT event_store.create_subscription('extended') AS made OFFSET 0) c, LATERAL event_store.claim_events(CASE WHEN c.made IS NOT NULL THEN 'extended' END, 'mailer-1', max_count => 1) e;$$;

CREATE FUNCTION event_store.retry_parked_events(
    subscription_name text, partition_key text DEFAULT NULL, global_positions bigint[] DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_retry_parked_events';
COMMENT ON FUNCTION event_store.retry_parked_events(text, text, bigint[]) IS
$$Lets what is set aside be tried again at once, with all its attempts: of one partition or (NULL) all, the rows of parked_events at global_positions or (NULL) all. partition_key is that of parked_events, such as Order/o-1. Returns how many rows, 0 where there is no such one. An event that was parked alone comes alone, and so out of its order.
Errors: 22004, 22001; 25006 on a standby; 42704; 55000.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('retried') AS made) SELECT event_store.retry_parked_events('retried', 'Order/o-1') FROM c;$$;

CREATE FUNCTION event_store.discard_parked_events(subscription_name text, partition_key text, reason text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_parked_events';
COMMENT ON FUNCTION event_store.discard_parked_events(text, text, text) IS
$$Passes over what is set aside of a partition, from its first event as far as its member has come, or the batch that is leased of it goes, and over its events that are parked alone; the partition goes on behind them. A lease on that partition's retried batch is lost. Returns how many events; discarded_events keeps it with the reason. Waits for a transaction that has events of that member.
Errors: 22004, 22001, 22023; 25006 on a standby; 42704; 55000.
Example: WITH c AS MATERIALIZED (SELECT event_store.create_subscription('discarding') AS made) SELECT event_store.discard_parked_events('discarding', 'Order/o-1', 'a test order') FROM c;$$;

CREATE FUNCTION event_store.partition_member(partition_key text, members int) RETURNS int
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_partition_member_of';
COMMENT ON FUNCTION event_store.partition_member(text, int) IS
'Internal: the member, out of so many, that has a partition.';

CREATE FUNCTION event_store.subscription_state(
    OUT subscription_name text, OUT member int, OUT "position" bigint, OUT safe_position bigint, OUT lag_events bigint,
    OUT lag interval, OUT state text, OUT consumer text, OUT pid int, OUT since timestamptz, OUT lease_until timestamptz,
    OUT attempts int, OUT parked bigint, OUT last_error text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_subscription_state';
COMMENT ON FUNCTION event_store.subscription_state() IS
'Internal: the rows of view subscription_status.';

CREATE VIEW event_store.subscription_status AS SELECT * FROM event_store.subscription_state();
COMMENT ON VIEW event_store.subscription_status IS
'One row a member of each subscription. position: how far it has come; safe_position: how far it is safe to read; lag_events: the events that it has yet to be given (counted where it is less than 10,000 events of the log behind, beyond that estimated from these); lag: the age of the oldest event not yet handled, what is set aside included (NULL = none). state: idle, fetching (by process pid, since when), leased (by consumer, since when, until lease_until), retrying (after rollbacks, failures or an expired lease, attempts of them in a row), stopped, paused. parked: rows of its partitions in parked_events; last_error: of the member itself, else of what of its partitions was set aside last; who may not read events sees its SQLSTATE, or hidden where there is none.';

CREATE FUNCTION event_store.parked_event_state(
    OUT subscription_name text, OUT partition_key text, OUT global_position bigint, OUT event_id uuid, OUT state text,
    OUT attempts int, OUT retry_at timestamptz, OUT error_code text, OUT parked_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100 AS 'MODULE_PATHNAME', 'es_parked_event_state';
COMMENT ON FUNCTION event_store.parked_event_state() IS
'Internal: the rows of view parked_event_status.';

CREATE VIEW event_store.parked_event_status AS
SELECT p.subscription_name, p.partition_key, p.global_position, p.event_id, p.state, p.attempts, p.retry_at, p.error_code, p.parked_at
  FROM event_store.parked_event_state() p;
COMMENT ON VIEW event_store.parked_event_status IS
$$The rows of parked_events without what they hold: no error message, which may quote the event; partition_key is NULL where partition_by takes it from the event instead of its aggregate.
Example: SELECT subscription_name, state, error_code, count(*) FROM event_store.parked_event_status GROUP BY 1, 2, 3;$$;
