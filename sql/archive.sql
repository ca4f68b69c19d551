-- archive: events in a second table: their ids are taken, their aggregates closed
\pset null null
\set first_database :DBNAME

-- a database of its own: that something was moved is never forgotten
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_archive;
CREATE DATABASE regress_archive;
\c regress_archive
SET client_min_messages = warning;
CREATE EXTENSION event_store;
SELECT event_store.create_store();
RESET client_min_messages;

CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    message text;
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN pg_catalog.concat_ws(E'\n  ', SQLSTATE || ' ' || message, NULLIF(detail, ''));
END
$$;

-- the archive has the columns of the log, its keys, and what create_store() was asked for
SELECT a.attname, a.attnum
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid IN ('event_store.domain_events'::regclass, 'event_store.domain_events_archive'::regclass)
   AND a.attnum > 0 AND NOT a.attisdropped
 GROUP BY a.attname, a.attnum, a.atttypid, a.attcollation, a.attnotnull
HAVING count(*) <> 2;
SELECT pg_catalog.pg_get_indexdef(i.indexrelid) COLLATE "C"
  FROM pg_catalog.pg_index i WHERE i.indrelid IN ('event_store.domain_events_archive'::regclass, 'event_store.closed_aggregates'::regclass)
 ORDER BY 1;
SELECT conname COLLATE "C", pg_catalog.pg_get_constraintdef(oid)
  FROM pg_catalog.pg_constraint
 WHERE conrelid IN ('event_store.domain_events_archive'::regclass, 'event_store.closed_aggregates'::regclass) AND contype <> 'n'
 ORDER BY 1;
SELECT pg_temp.refused('SELECT event_store.create_store(archive_tablespace => ''nowhere'')');
BEGIN;
DROP TABLE event_store.domain_events_archive;
SELECT pg_temp.refused('SELECT event_store.create_store(archive_tablespace => ''nowhere'')');
SELECT event_store.create_store(category_index => true, archive_tablespace => 'pg_default');
SELECT pg_catalog.to_regclass('event_store.domain_events_archive_category_idx');
ROLLBACK;

-- a part of the archive that is missing, and a store that has none of it, as one of before
BEGIN;
DROP TABLE event_store.closed_aggregates;
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'a-0', 0, 'Placed')$$);
DROP TABLE event_store.domain_events_archive;
DROP SEQUENCE event_store.archived_position;
SELECT outcome FROM event_store.append_event('Archive', 'a-0', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000a0');
SELECT outcome FROM event_store.append_event('Archive', 'a-0', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000a0');
SELECT event_store.grant_access(current_role::regrole, 'reader');
SELECT event_store.create_store();
SELECT event_store.is_available();
SELECT count(*) FROM event_store.closed_aggregates;
ROLLBACK;

-- view all_events has both tables, and finds an aggregate by its key in both
EXPLAIN (COSTS OFF) SELECT FROM event_store.all_events WHERE aggregate_type = 'Archive' AND aggregate_id = 'a-1' AND sequence = 1;
BEGIN;
ALTER TABLE event_store.domain_events ALTER payload_bytes TYPE bytea USING payload_bytes;
ROLLBACK;

-- what came into the archive: the id is taken, and the aggregate closed
SELECT last_sequence FROM event_store.append_event('Archive', 'a-0', 0, 'Placed');
INSERT INTO event_store.domain_events_archive
    (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
VALUES (-1, 'Archive', 'a-1', 1, '018f3b1c-0000-7000-8000-0000000000a1', 'Placed', '{"n": 1}', now(), now());
INSERT INTO event_store.closed_aggregates (aggregate_type, aggregate_id, state, last_sequence, last_position, last_recorded_at)
VALUES ('Archive', 'a-1', 'archived', 1, -1, now()), ('Archive', 'a-2', 'deleted', 7, -1, now());
SELECT pg_catalog.setval('event_store.archived_position', 1);
-- shared memory hears of it by a new session
\c
\pset null null
CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    message text;
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN pg_catalog.concat_ws(E'\n  ', SQLSTATE || ' ' || message, NULLIF(detail, ''));
END
$$;
SELECT event_store.aggregate_sequence('Archive', 'a-1'), event_store.aggregate_sequence('Archive', 'a-2');
SELECT pg_temp.refused(format($$SELECT event_store.append_event('Archive', %L, %s, 'Placed', durability => %L)$$, id, expected, durability))
  FROM unnest('{a-1,a-2}'::text[]) id, unnest('{0,1,null::bigint}'::text[]) expected, unnest('{durable,staged}'::text[]) durability;
SELECT pg_temp.refused($$SELECT event_store.append_batch('[{"aggregate_type": "Archive", "aggregate_id": "a-0", "event_type": "Paid"},
    {"aggregate_type": "Archive", "aggregate_id": "a-1", "event_type": "Paid"}]', on_conflict => 'report')$$);
SELECT event_store.append_event('Archive', 'a-1', 1, 'Paid', durability => 'grouped');
\echo :SQLSTATE
SELECT event_store.aggregate_sequence('Archive', 'a-0');
-- a retry is a duplicate, another use of the id is none
SELECT first_sequence, last_position, outcome
  FROM event_store.append_event('Archive', 'a-1', 0, 'Placed', '{"n": 1}', event_id => '018f3b1c-0000-7000-8000-0000000000a1');
SELECT first_sequence, last_position, outcome
  FROM event_store.append_event('Archive', 'a-1', 0, 'Placed', '{"n": 1}', event_id => '018f3b1c-0000-7000-8000-0000000000a1', durability => 'staged');
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'a-0', 1, 'Placed', '{"n": 1}', event_id => '018f3b1c-0000-7000-8000-0000000000a1')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'a-3', 0, 'Placed', '{"n": 2}', event_id => '018f3b1c-0000-7000-8000-0000000000a1')$$);

\c :first_database
DROP DATABASE regress_archive;
