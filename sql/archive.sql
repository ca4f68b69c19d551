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
DROP TABLE event_store.domain_events_archive, event_store.retention;
DROP SEQUENCE event_store.archived_position;
SELECT outcome FROM event_store.append_event('Archive', 'a-0', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000a0');
SELECT outcome FROM event_store.append_event('Archive', 'a-0', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000a0');
SELECT event_store.grant_access(current_role::regrole, 'reader');
SELECT pg_temp.refused($$SELECT event_store.archive_aggregate('Archive', 'a-0')$$);
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

-- ---------- a whole aggregate is moved, and closed
CREATE FUNCTION pg_temp.placed(id text) RETURNS text LANGUAGE sql AS $$
    SELECT format('log %s, archive %s, %s', (SELECT array_agg(sequence ORDER BY sequence) FROM event_store.domain_events WHERE aggregate_id = id),
                  (SELECT array_agg(sequence ORDER BY sequence) FROM event_store.domain_events_archive WHERE aggregate_id = id),
                  COALESCE((SELECT state || ' at ' || last_sequence FROM event_store.closed_aggregates WHERE aggregate_id = id), 'open'))
$$;
SELECT last_sequence FROM event_store.append_events('Archive', 'b-1', 0, '[{"event_type": "Placed", "event_id": "018f3b1c-0000-7000-8000-0000000000b1"},
    {"event_type": "Paid"}, {"event_type": "Shipped"}]') ORDER BY 1 DESC LIMIT 1;
CREATE TEMPORARY TABLE written AS SELECT * FROM event_store.domain_events WHERE aggregate_id = 'b-1';
SELECT event_store.archive_aggregate('Archive', 'b-1');
SELECT pg_temp.placed('b-1');
SELECT count(*) FROM (TABLE written EXCEPT ALL SELECT * FROM event_store.domain_events_archive) lost;
SELECT count(*) FROM written JOIN event_store.all_events USING (global_position, event_id);
SELECT (SELECT last_value FROM event_store.archived_position) >= max(global_position) FROM written;
-- the head that was remembered is forgotten; a retry is a duplicate
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'b-1', 3, 'Returned')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'b-1', 3, 'Returned', durability => 'staged')$$);
SELECT first_sequence, outcome FROM event_store.append_event('Archive', 'b-1', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000b1');
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'b-2', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000b1')$$)
       LIKE 'VS002 %"aggregate_id": "b-1", "sequence": 1,%';
SELECT event_store.aggregate_sequence('Archive', 'b-1');
-- once more changes nothing, and nothing is there to be closed
SELECT event_store.archive_aggregate('Archive', 'b-1'), event_store.archive_aggregate('Archive', 'nobody');
SELECT count(*) FROM event_store.closed_aggregates WHERE aggregate_id = 'nobody';
-- and back
SELECT event_store.restore_aggregate('Archive', 'b-1');
SELECT pg_temp.placed('b-1');
SELECT count(*) FROM (TABLE written EXCEPT ALL SELECT * FROM event_store.domain_events) lost;
SELECT last_sequence, outcome FROM event_store.append_event('Archive', 'b-1', 3, 'Returned');
SELECT event_store.restore_aggregate('Archive', 'b-1');

-- ---------- a part of one: it stays open, and its last event where it is
SELECT before, event_store.archive_aggregate('Archive', 'b-1', before) FROM unnest('{0,1,3,100}'::bigint[]) before;
SELECT pg_temp.placed('b-1');
SELECT last_sequence FROM event_store.append_event('Archive', 'b-1', 4, 'Placed again');
SELECT pg_temp.refused($$SELECT event_store.archive_aggregate('Archive', 'b-1', -1)$$);
SELECT event_store.restore_aggregate('Archive', 'b-1');
SELECT pg_temp.placed('b-1');
-- the rest of it
SELECT event_store.archive_aggregate('Archive', 'b-1', 3), event_store.archive_aggregate('Archive', 'b-1');
SELECT pg_temp.placed('b-1');
SELECT event_store.archive_aggregate('Archive', 'b-1', 3);

-- ---------- in a transaction
BEGIN;
SELECT event_store.restore_aggregate('Archive', 'b-1');
SELECT last_sequence FROM event_store.append_event('Archive', 'b-1', 5, 'Paid');
SELECT event_store.archive_aggregate('Archive', 'b-1');
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'b-1', 6, 'Paid')$$);
SAVEPOINT before;
SELECT event_store.restore_aggregate('Archive', 'b-1');
SELECT last_sequence FROM event_store.append_event('Archive', 'b-1', 6, 'Paid');
ROLLBACK TO before;
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'b-1', 6, 'Paid')$$);
ROLLBACK;
SELECT pg_temp.placed('b-1');
BEGIN;
SELECT event_store.restore_aggregate('Archive', 'b-1');
ROLLBACK;
SELECT pg_temp.refused($$SELECT event_store.append_event('Archive', 'b-1', 5, 'Paid')$$);
BEGIN READ ONLY;
SELECT event_store.archive_aggregate('Archive', 'b-1');
ROLLBACK;
BEGIN;
SELECT event_store.archive_aggregate('Archive', 'a-0');
PREPARE TRANSACTION 'archive';
-- the caller's snapshot does not matter, as it does not to appends
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT last_sequence FROM event_store.append_event('Archive', 'b-3', 0, 'Placed');
SELECT event_store.archive_aggregate('Archive', 'b-3');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT event_store.restore_aggregate('Archive', 'b-3');
COMMIT;
SELECT pg_temp.placed('b-3');

-- ---------- what is staged is durable before
SELECT durable FROM event_store.append_event('Archive', 'b-3', 1, 'Paid', durability => 'staged');
SELECT event_store.archive_aggregate('Archive', 'b-3');
SELECT pg_temp.placed('b-3');
BEGIN;
SELECT durable FROM event_store.append_event('Archive', 'b-4', 0, 'Placed', durability => 'staged');
SELECT event_store.archive_aggregate('Archive', 'b-4');
COMMIT;
SELECT pg_temp.placed('b-4');

-- ---------- what is refused
ALTER TABLE event_store.domain_events ADD CONSTRAINT archive_no_poison CHECK (event_type <> 'Poison') NOT VALID;
SELECT durable FROM event_store.append_event('Archive', 'b-5', 0, 'Placed');
SELECT durable FROM event_store.append_event('Archive', 'b-5', 1, 'Poison', durability => 'staged');
SELECT event_store.flush();
SELECT pg_temp.refused($$SELECT event_store.archive_aggregate('Archive', 'b-5')$$);
SELECT pg_temp.refused($$SELECT event_store.delete_aggregate('Archive', 'b-5', 'test')$$);
SELECT event_store.discard_dead_letters('Archive', 'b-5', 'test');
ALTER TABLE event_store.domain_events DROP CONSTRAINT archive_no_poison;
SELECT event_store.archive_aggregate('Archive', 'b-5');
SELECT event_store.define_saga('archived', '{"steps": [{"name": "first"}]}');
SELECT event_store.start_saga('archived', 's-1');
SELECT pg_temp.refused(call) FROM unnest(ARRAY[
    $$SELECT event_store.archive_aggregate('saga:archived', 's-1')$$,
    $$SELECT event_store.archive_aggregate('saga:archived', 's-1', 2)$$,
    $$SELECT event_store.delete_aggregate('saga:archived', 's-1', 'test')$$,
    $$SELECT event_store.archive_aggregate(NULL, 's-1')$$,
    $$SELECT event_store.delete_aggregate('Archive', 'b-1', NULL)$$,
    $$SELECT event_store.restore_aggregate('Archive', '')$$]) call;
SELECT event_store.cancel_saga('archived', 's-1', 'test');
SELECT event_store.archive_aggregate('saga:archived', 's-1') > 1;
-- a foreign key of the owner's
CREATE TABLE public.archive_reference (event_id uuid REFERENCES event_store.domain_events (event_id));
SELECT last_sequence FROM event_store.append_event('Archive', 'b-6', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000b6');
INSERT INTO public.archive_reference VALUES ('018f3b1c-0000-7000-8000-0000000000b6');
SELECT pg_temp.refused($$SELECT event_store.archive_aggregate('Archive', 'b-6')$$);
DROP TABLE public.archive_reference;
-- the archive is guarded as the log is
SELECT pg_temp.refused('UPDATE event_store.domain_events_archive SET payload = ''{}''');
SELECT pg_temp.refused('DELETE FROM event_store.domain_events_archive');
SELECT pg_temp.refused('TRUNCATE event_store.domain_events_archive');
-- whatever is set
SELECT count(*) > 10 AS many, array_agg(DISTINCT left(pg_temp.refused(format('SET %s = %L; DELETE FROM event_store.domain_events_archive', name,
           CASE WHEN name = 'session_replication_role' THEN 'replica' WHEN vartype = 'bool' THEN (setting <> 'on')::text
                WHEN vartype = 'enum' THEN enumvals[1] WHEN vartype = 'string' THEN setting ELSE min_val END)), 5)) AS outcome
  FROM pg_catalog.pg_settings
 WHERE (name LIKE 'event\_store.%' AND context IN ('user', 'superuser')) OR name IN ('session_replication_role', 'row_security', 'check_function_bodies');
-- by its owner, and without the extension
CREATE FUNCTION pg_temp.attacked() RETURNS TABLE (statement text, outcome text) LANGUAGE sql AS $$
    SELECT s, pg_temp.refused(s)
      FROM unnest('{domain_events,domain_events_archive}'::text[]) log, unnest('{UPDATE %s SET payload = NULL,DELETE FROM %s,TRUNCATE %s}'::text[]) f,
           format(f, 'event_store.' || log) s
$$;
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EXTENSION event_store;
SELECT * FROM pg_temp.attacked();
CREATE ROLE regress_archive_owner;
GRANT USAGE ON SCHEMA event_store TO regress_archive_owner;
ALTER TABLE event_store.domain_events OWNER TO regress_archive_owner;
ALTER TABLE event_store.domain_events_archive OWNER TO regress_archive_owner;
SET LOCAL ROLE regress_archive_owner;
DELETE FROM event_store.domain_events_archive;
ROLLBACK;

-- ---------- triggers of the owner's: what is moved stays as it is, and whole
CREATE FUNCTION public.archive_meddle() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF TG_ARGV[0] = 'suppress' AND (TG_OP = 'INSERT' AND NEW.sequence = 2 OR TG_OP = 'DELETE' AND OLD.sequence = 2) THEN
        RETURN NULL;
    ELSIF TG_OP = 'DELETE' THEN
        RETURN OLD;
    ELSIF TG_ARGV[0] = 'payload' AND NEW.sequence = 2 THEN
        NEW.payload := '{"n": 1.00}';
    ELSIF TG_ARGV[0] = 'position' AND NEW.sequence = 2 THEN
        NEW.global_position := NEW.global_position + 1000000;
    ELSIF TG_ARGV[0] = 'metadata' THEN
        NEW.metadata := '{}';
    END IF;
    RETURN NEW;
END
$$;
CREATE FUNCTION pg_temp.meddled(log text, event text, how text, call text) RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    outcome text;
BEGIN
    EXECUTE format('CREATE TRIGGER z_meddle BEFORE %s ON event_store.%I FOR EACH ROW EXECUTE FUNCTION public.archive_meddle(%L)', event, log, how);
    outcome := pg_temp.refused('SELECT event_store.' || call);
    EXECUTE format('DROP TRIGGER z_meddle ON event_store.%I', log);
    RETURN outcome;
END
$$;
SELECT max(last_sequence) FROM event_store.append_events('Archive', 'b-7', 0, '[{"event_type": "Placed"}, {"event_type": "Paid", "payload": {"n": 1.0}}, {"event_type": "Shipped"}]');
SELECT how, pg_temp.meddled('domain_events_archive', 'INSERT', how, 'archive_aggregate(''Archive'', ''b-7'')')
  FROM unnest('{suppress,payload,position,metadata}'::text[]) how;
SELECT pg_temp.meddled('domain_events', 'DELETE', 'suppress', call)
  FROM unnest(ARRAY['archive_aggregate(''Archive'', ''b-7'')', 'delete_aggregate(''Archive'', ''b-7'', ''test'')']) call;
SELECT pg_temp.placed('b-7');
SELECT pg_temp.meddled('domain_events_archive', 'INSERT', 'nothing', 'archive_aggregate(''Archive'', ''b-7'')') AS outcome, pg_temp.placed('b-7') AS before;
SELECT pg_temp.placed('b-7');
SELECT how, pg_temp.meddled('domain_events', 'INSERT', how, 'restore_aggregate(''Archive'', ''b-7'')')
  FROM unnest('{suppress,payload,position,metadata}'::text[]) how;
SELECT pg_temp.meddled('domain_events_archive', 'DELETE', 'suppress', call)
  FROM unnest(ARRAY['restore_aggregate(''Archive'', ''b-7'')', 'delete_aggregate(''Archive'', ''b-7'', ''test'')']) call;
CREATE RULE z_meddle AS ON INSERT TO event_store.domain_events DO ALSO NOTIFY archive_meddle;
SELECT pg_temp.refused('SELECT event_store.restore_aggregate(''Archive'', ''b-7'')');
DROP RULE z_meddle ON event_store.domain_events;
SELECT pg_temp.placed('b-7');
SELECT pg_temp.meddled('domain_events', 'INSERT', 'nothing', 'restore_aggregate(''Archive'', ''b-7'')');
SELECT pg_temp.placed('b-7');
SELECT sequence, payload, metadata FROM event_store.domain_events WHERE aggregate_id = 'b-7' ORDER BY 1;
DROP FUNCTION public.archive_meddle;

-- ---------- deleted: the id is never new again
SELECT pg_temp.placed('b-1');
SELECT event_store.save_snapshot('Archive', 'b-6', 1, '{}');
SELECT event_store.delete_aggregate('Archive', 'b-1', 'test of deletion'), event_store.delete_aggregate('Archive', 'b-6', 'test of deletion'),
       event_store.delete_aggregate('Archive', 'nobody', 'test of deletion');
SELECT pg_temp.placed('b-1'), pg_temp.placed('b-6'), pg_temp.placed('nobody');
SELECT count(*) FROM event_store.load_snapshot('Archive', 'b-6');
SELECT aggregate_id, state, last_sequence, reason FROM event_store.closed_aggregates WHERE reason IS NOT NULL ORDER BY 1;
SELECT pg_temp.refused(call) FROM unnest(ARRAY[
    $$SELECT event_store.append_event('Archive', 'b-6', 0, 'Placed')$$,
    $$SELECT event_store.append_event('Archive', 'b-6', 0, 'Placed', event_id => '018f3b1c-0000-7000-8000-0000000000b6')$$,
    $$SELECT event_store.append_event('Archive', 'b-6', NULL, 'Placed', durability => 'staged')$$,
    $$SELECT event_store.archive_aggregate('Archive', 'b-6')$$,
    $$SELECT event_store.restore_aggregate('Archive', 'b-6')$$]) call;
SELECT event_store.delete_aggregate('Archive', 'b-6', 'again');
-- and told
SELECT event_type, payload ->> 'reason', jsonb_array_length(payload -> 'positions'), jsonb_array_length(payload -> 'event_ids')
  FROM event_store.domain_events WHERE aggregate_type = 'store:erasure' ORDER BY global_position;

-- and set aside no more: neither alone, nor by its partition; of one that has more the rest comes
SELECT count(event_store.append_event('Aside', id, NULL, 'Placed', correlation_id => 'k')) FROM unnest('{c-1,c-2,c-1,c-3}'::text[]) id;
SELECT min(global_position) AS first FROM event_store.domain_events WHERE aggregate_id = 'c-1' \gset
SELECT event_store.create_subscription('aside_' || by, '{Aside}', max_attempts => 1, partition_by => by) FROM unnest('{aggregate,correlation_id}'::text[]) by;
SELECT event_store.create_subscription('aside_alone', '{Aside}', max_attempts => 1, on_failure => 'park_event');
SELECT event_store.fail_events(subscription_name, :first, 'test') FROM event_store.subscriptions ORDER BY subscription_name;
SELECT string_agg(aggregate_id, ' ') FROM event_store.next_events('aside_aggregate');
SELECT string_agg(aggregate_id, ' ') FROM event_store.next_events('aside_correlation_id');
SELECT string_agg(aggregate_id, ' ') FROM event_store.next_events('aside_alone');
SELECT subscription_name, partition_key, global_position - :first AS position, state FROM event_store.parked_events ORDER BY 1;
SELECT event_store.delete_aggregate('Aside', 'c-1', 'test of deletion');
SELECT subscription_name, partition_key, global_position - :first AS position, state, attempts, error_message FROM event_store.parked_events ORDER BY 1;
SELECT string_agg(aggregate_id, ' ') FROM event_store.next_events('aside_correlation_id');
SELECT count(*) FROM event_store.parked_events;
SELECT event_store.drop_subscription(subscription_name) FROM event_store.subscriptions ORDER BY subscription_name;

-- ---------- by age
SELECT pg_temp.refused(call) FROM unnest(ARRAY[
    $$SELECT event_store.set_retention(NULL, '1 day')$$,
    $$SELECT event_store.set_retention('Archive', '-1 day')$$,
    $$SELECT event_store.set_retention('Archive', delete_after => '-1 day')$$,
    $$SELECT event_store.set_retention('Archive', '1 day', ARRAY[''])$$,
    $$SELECT event_store.set_retention('Archive', '1 day', ARRAY[NULL])$$]) call;
SELECT event_store.set_retention('Archive', '1 year', '{Shipped}', '10 years');
SELECT aggregate_type, archive_after, closed_by, delete_after FROM event_store.retention;
SELECT event_store.set_retention('Archive');
SELECT count(*) FROM event_store.retention;

SELECT metric, value FROM event_store.metrics WHERE metric LIKE 'archive.%' AND value > 0 ORDER BY metric COLLATE "C";

\c :first_database
DROP DATABASE regress_archive;
