-- erase: content taken out of events, and all that knows of it

CREATE FUNCTION event_store.redact_events(event_ids uuid[], reason text, paths text[] DEFAULT NULL, replacement jsonb DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_redact_events';
COMMENT ON FUNCTION event_store.redact_events(uuid[], text, text[], jsonb) IS
$$Takes the content out of events, or members of it, and returns how many were changed. Position, sequence, type and ids stay; a payload that is gone is {} (or no bytes), and the metadata has the mark {"$erased": erasure id}, with "$partly": true where the payload is empty, but was not erased as a whole.
paths: only these members, such as $.payload.customer.name, $.metadata.ip, $.correlation_id, $.causation_id, $.saga_id; an element of an array becomes null. replacement: takes their place. NULL paths: all of payload and metadata. Events in the archive are erased, too; unknown ids are passed over.
With them go, for their aggregates: snapshots, dead letters and their history, scheduled events, sticky keys, and of sagas that the events belong to what they know; errors that tell of the events, and results that have their ids or those of the aggregates. Rows of projected views that are of one such aggregate are folded anew; other rows of views under an aggregate's id are removed. A NOTICE names the views that are to be made anew.
It is registered in table erasures and announced in the same transaction, by an event Erased of aggregate ("store:erasure", erasure id), with reason, paths, positions and event_ids. Reducers of rules and merges pass over events of which nothing is left, functions get them. An append that repeats such an event is compared by aggregate, event_type and schema_version only. One erasure at a time; waits for snapshots, rebuilds and open appends of the aggregates, and for batches of subscriptions that are divided by what is erased, which give each event once all the same. The text is on the disk until scrub_erased() was there.
Errors: 22004 event_ids or reason is NULL; 22023 a path or the replacement is wrong; 22001; 55000 a saga concerned has not ended, domain_events has rules, triggers before updates or forced row security, or there is no store; 25006; 42501.
Example: SELECT event_store.redact_events('{018f3e5c-0000-7000-8000-000000000001}', 'request 17', '{$.payload.name}');$$;

CREATE PROCEDURE event_store.scrub_erased()
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_scrub_erased';
COMMENT ON PROCEDURE event_store.scrub_erased() IS
$$Waits until what was erased is gone from the disk, as far as that can be: a process of the database vacuums the tables and their TOAST, makes indexes anew that have content in their keys, clears the free space of pages (also on standbys) and writes that to disk. It does so by itself after each erasure; scrubbed_at in table erasures says when it was done.
What somebody can still see with an older snapshot stays until he has ended: blocked_by says who it is, a NOTICE that something is left, and it is tried again.
Errors: 25001 in a transaction block; 25006 on a standby; 55000 without preload or store, or what went wrong.
Example: CALL event_store.scrub_erased();$$;

CREATE FUNCTION event_store.erase_aggregate(aggregate_type text, aggregate_id text, reason text, pseudonym text DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_erase_aggregate';
COMMENT ON FUNCTION event_store.erase_aggregate(text, text, text, text) IS
$$Takes the content out of all events of an aggregate, and of what else knows of it, as redact_events does; returns how many events were changed, those of sagas included.
pseudonym: for ids that say who somebody is; it takes the id's place in log, archive and registers, and the old id is new again. Other aggregates that name the id are not reached: erase_events finds them.
Errors: 22004, 22001, 22023 an argument is missing, too long or empty; 23505 there is or was an aggregate of the pseudonym; 0A000 a pseudonym for a saga; 55000 a saga concerned has not ended, domain_events has rules, triggers before updates or forced row security, or there is no store; 25006; 42501.
Example: SELECT event_store.erase_aggregate('Customer', 'ann@example.org', 'request 17', pseudonym => 'gone-1');$$;

CREATE FUNCTION event_store.erase_events(query jsonb, reason text, paths text[] DEFAULT NULL, dry_run boolean DEFAULT false,
                                         max_count int DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_erase_events';
COMMENT ON FUNCTION event_store.erase_events(jsonb, text, text[], boolean, int) IS
$$Takes the content, or members of it, out of all events that match, as redact_events does; returns how many were changed, those of sagas that they belong to included.
query: {"aggregate_type", "aggregate_id", "correlation_id", "saga_id", "event_types": [...], "where": [comparisons as in docs/rules.md]}; all that are given must hold, and at least one must be given. Types and comparisons are of events as their last version has them.
dry_run: counts what would be changed. max_count: finds so many at most, in the order of positions; repeat it, each time in a transaction of its own, until it returns 0. A query without an id reads the whole log.
Errors: 22004 query or reason is NULL; 22023 the query, a path or max_count is wrong; 55000 a saga concerned has not ended, domain_events has rules, triggers before updates or forced row security, or there is no store; 25006; 42501; and what an upcaster raises.
Example: SELECT event_store.erase_events('{"where": [{"path": "$.payload.email", "is": "ann@example.org"}]}', 'request 17', dry_run => true);$$;
