-- store: created, repeated, repaired, guarded; dropped with the extension and not
\pset format unaligned
\pset null null

-- a database that has the extension, but no store, whatever ran in it before
SET client_min_messages = warning;
SELECT event_store.create_store();
SELECT event_store.flush();
DROP EXTENSION event_store CASCADE;
DROP SCHEMA event_store CASCADE;
CREATE EXTENSION event_store;
RESET client_min_messages;

-- how a statement is refused, or that it is not
CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    state text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN pg_catalog.concat_ws(E'\n  ', state || ' ' || message,
                                NULLIF('DETAIL ' || detail, 'DETAIL '),
                                NULLIF('HINT ' || hint, 'HINT '));
END
$$;

-- what the extension is made of; array and row types, which are members since PostgreSQL 17, follow from the others
\t on
SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0) COLLATE "C" AS member
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid
 WHERE e.extname = 'event_store' AND d.deptype = 'e'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
                    WHERE d.classid = 'pg_catalog.pg_type'::regclass AND t.oid = d.objid
                      AND (t.typcategory = 'A' OR c.relkind <> 'c'))
 ORDER BY 1;
SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'event_store';
-- nothing is for everybody
SELECT p.oid::regprocedure
  FROM pg_catalog.pg_proc p, LATERAL pg_catalog.aclexplode(
           COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
 WHERE p.pronamespace = 'event_store'::regnamespace AND a.grantee = 0;
SELECT c.oid::regclass
  FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) a
 WHERE c.relnamespace = 'event_store'::regnamespace AND a.grantee = 0;
-- every function can be read about, the public ones by example
SELECT p.oid::regprocedure
  FROM pg_catalog.pg_proc p
 WHERE p.pronamespace = 'event_store'::regnamespace
   AND COALESCE(pg_catalog.obj_description(p.oid, 'pg_proc'), '') !~ '(^Internal: |Example: .*(SELECT|CALL) .*;$)';

-- before create_store(): 55000 and what to run
SELECT event_store.is_available();
SELECT event_store.provider_name();
SELECT event_store.extension_version() = extversion FROM pg_catalog.pg_extension WHERE extname = 'event_store';
SELECT pg_temp.refused('SELECT event_store.' || call), count(*)
  FROM unnest(ARRAY[
    $$append_event('Store', 'o-1', 0, 'OrderPlaced')$$,
    $$append_event('Store', 'o-1', 0, 'OrderPlaced', durability => 'staged')$$,
    $$append_events('Store', 'o-1', 0, '{"event_type": "OrderPlaced"}')$$,
    $$append_batch('{"aggregate_type": "Store", "aggregate_id": "o-1", "event_type": "OrderPlaced"}')$$,
    $$append_batch(ARRAY['Store'], ARRAY['o-1'], ARRAY['OrderPlaced'], NULL)$$,
    $$load_events('Store', 'o-1')$$,
    $$load_event('018f3b1c-0000-7000-8000-000000000000')$$,
    $$aggregate_sequence('Store', 'o-1')$$,
    $$load_aggregate_ids('Store')$$,
    $$saga_log('s-1')$$,
    $$put_view('Orders', 'o-1', '{}')$$,
    $$put_views('Orders', ARRAY['o-1'], ARRAY['{}']::jsonb[])$$,
    $$load_view('Orders', 'o-1')$$,
    $$load_views('Orders')$$,
    $$load_view_keys('Orders')$$,
    $$delete_view('Orders', 'o-1')$$,
    $$clear_view('Orders')$$,
    $$retry_dead_letters('Store', 'o-1')$$,
    $$discard_dead_letters('Store', 'o-1', 'test')$$,
    $$set_reducer('Store', NULL)$$,
    $$replay_aggregate('Store', 'o-1')$$,
    $$save_snapshot('Store', 'o-1', 1, '{}')$$,
    $$load_snapshot('Store', 'o-1')$$,
    $$staging_state()$$]) call
 GROUP BY 1 ORDER BY 1;
SELECT event_store.flush();
\echo :SQLSTATE
SELECT event_store.drain();
\echo :SQLSTATE

-- created once, and again
SELECT event_store.create_store();
SELECT event_store.create_store();
SELECT event_store.is_available();
SELECT last_sequence FROM event_store.append_event('Store', 'o-1', 0, 'OrderPlaced', '{"total": "19.99"}');
SELECT event_store.create_store();
SELECT sequence, event_type, payload FROM event_store.load_events('Store', 'o-1');
\d event_store.domain_events
\d event_store.domain_views
\d event_store.snapshots
\d event_store.reducers
\d event_store.dead_letters
\d event_store.store_state
SELECT conrelid::regclass, conname COLLATE "C", pg_catalog.pg_get_constraintdef(oid)
  FROM pg_catalog.pg_constraint
 WHERE connamespace = 'event_store'::regnamespace AND contype <> 'n'
 ORDER BY conname COLLATE "C";
SELECT pg_catalog.pg_get_indexdef(i.indexrelid) COLLATE "C"
  FROM pg_catalog.pg_index i WHERE i.indrelid = 'event_store.domain_events'::regclass
 ORDER BY 1;
-- core types only, keys in collation "C", and none of it a member of the extension
SELECT a.attrelid::regclass, a.attname, a.atttypid::regtype, a.attcollation::regcollation
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
   AND a.attnum > 0 AND NOT a.attisdropped
   AND (a.atttypid >= 16384 OR a.atttypid::regtype::text LIKE 'reg%'
        OR (a.attcollation <> 0 AND a.attcollation <> '"C"'::regcollation
            AND a.attname NOT IN ('reducer', 'error_code', 'error_message')))
 ORDER BY a.attrelid::regclass::text COLLATE "C";
SELECT c.oid::regclass
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relpersistence = 'p' AND c.relkind <> 'v' AND d.deptype = 'e';
-- pg_dump carries it all: one owner, no row of configuration hidden in the extension
SELECT extconfig FROM pg_catalog.pg_extension WHERE extname = 'event_store';

-- indexes on demand, also later; the others stay
SELECT event_store.create_store(category_index => true);
SELECT event_store.create_store(event_type_index => true, payload_index => true);
SELECT event_store.create_store();
SELECT pg_catalog.pg_get_indexdef(i.indexrelid) COLLATE "C"
  FROM pg_catalog.pg_index i WHERE i.indrelid = 'event_store.domain_events'::regclass
 ORDER BY 1;

-- append-only, for the owner and for a superuser
SELECT pg_temp.refused($$UPDATE event_store.domain_events SET payload = '{}'$$);
SELECT pg_temp.refused($$UPDATE event_store.domain_events SET payload = '{}' WHERE false$$);
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events$$);
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events WHERE false$$);
SELECT pg_temp.refused($$TRUNCATE event_store.domain_events$$);
SELECT pg_temp.refused($$TRUNCATE event_store.domain_views, event_store.domain_events CASCADE$$);
SELECT pg_temp.refused($$INSERT INTO event_store.domain_events SELECT * FROM event_store.domain_events
    ON CONFLICT (global_position) DO UPDATE SET payload = '{"total": "0"}'$$);
SELECT pg_temp.refused($$MERGE INTO event_store.domain_events e USING (VALUES (1)) v(i) ON e.aggregate_id = 'o-1'
    WHEN MATCHED THEN UPDATE SET payload = '{"total": "0"}'$$);
SELECT pg_temp.refused($$MERGE INTO event_store.domain_events e USING (VALUES (1)) v(i) ON e.aggregate_id = 'o-1'
    WHEN MATCHED THEN DELETE$$);
SELECT pg_temp.refused($$WITH gone AS (DELETE FROM event_store.domain_events RETURNING *) SELECT count(*) FROM gone$$);
SET session_replication_role = replica;
SELECT pg_temp.refused($$UPDATE event_store.domain_events SET payload = '{}'$$);
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events$$);
SELECT pg_temp.refused($$TRUNCATE event_store.domain_events$$);
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events_archive$$);
SELECT pg_temp.refused($$UPDATE event_store.domain_events_archive SET payload = '{}'$$);
SELECT pg_temp.refused($$TRUNCATE event_store.domain_events_archive$$);
SET session_replication_role = local;
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events$$);
RESET session_replication_role;
SELECT sequence, event_type, payload FROM event_store.load_events('Store', 'o-1');

-- a guard disabled, half disabled, dropped, without its function: repaired
CREATE FUNCTION pg_temp.guard() RETURNS text
    LANGUAGE sql
AS $$
    SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname COLLATE "C") FROM pg_catalog.pg_trigger
     WHERE tgrelid = 'event_store.domain_events'::regclass AND NOT tgisinternal
$$;
ALTER TABLE event_store.domain_events DISABLE TRIGGER domain_events_append_only;
SELECT pg_temp.guard();
SELECT event_store.create_store();
SELECT pg_temp.guard();
ALTER TABLE event_store.domain_events ENABLE TRIGGER domain_events_append_only;
SELECT event_store.create_store();
SELECT pg_temp.guard();
DROP TRIGGER domain_events_append_only ON event_store.domain_events;
SELECT event_store.create_store();
SELECT pg_temp.guard();
DROP FUNCTION event_store.refuse_change() CASCADE;
SELECT pg_temp.guard();
SELECT event_store.create_store();
SELECT pg_temp.guard();
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events$$);
ALTER TABLE event_store.domain_events DISABLE TRIGGER domain_events_append_only_row;
SELECT event_store.create_store();
SELECT pg_temp.guard();

-- nor is it a way around to go through a parent
CREATE TABLE public.regress_parent (LIKE event_store.domain_events);
ALTER TABLE event_store.domain_events INHERIT public.regress_parent;
SELECT pg_temp.refused($$UPDATE public.regress_parent SET payload = '{}'$$);
SELECT pg_temp.refused($$DELETE FROM public.regress_parent$$);
SELECT pg_temp.refused($$TRUNCATE public.regress_parent$$);
SELECT pg_temp.refused($$WITH gone AS (DELETE FROM public.regress_parent RETURNING 1) SELECT count(*) FROM gone$$);
ALTER TABLE event_store.domain_events NO INHERIT public.regress_parent;
DROP TABLE public.regress_parent;
SELECT count(*) > 0 FROM event_store.domain_events;

-- a part that is missing: what to run, and it is back
DROP TABLE event_store.dead_letters;
SELECT pg_temp.refused($$SELECT event_store.append_event('Store', 'o-1', NULL, 'OrderPaid')$$);
SELECT event_store.is_available();
SELECT event_store.create_store();
SELECT last_sequence FROM event_store.append_event('Store', 'o-1', 1, 'OrderPaid');

-- what was dropped comes back; what cannot is named, and the rest comes back
\set append 'SELECT pg_temp.refused($$SELECT event_store.append_event(''Store'', ''o-1'', 2, ''OrderShipped'')$$);'
ALTER TABLE event_store.domain_events
    DROP CONSTRAINT domain_events_pkey, DROP CONSTRAINT domain_events_event_id_key, DROP CONSTRAINT domain_events_sequence_check;
DROP INDEX event_store.domain_events_saga_id_idx;
:append
INSERT INTO event_store.domain_events
SELECT -i, 'Twice', 't-1', i, '018f3b1c-0000-7000-8000-000000000000', 'Made', 1, '{}', NULL, NULL, NULL, NULL, NULL, now(), now()
  FROM generate_series(1, 2) i;
SELECT event_store.create_store();
SELECT event_store.is_available();
:append
SELECT event_store.missing_parts('CREATE TABLE event_store.domain_events (
    global_position bigint CONSTRAINT domain_events_pkey PRIMARY KEY, event_id uuid CONSTRAINT domain_events_event_id_key UNIQUE,
    sequence bigint CONSTRAINT domain_events_sequence_check CHECK (sequence > 0))');
ALTER TABLE event_store.domain_events DISABLE TRIGGER USER;
DELETE FROM event_store.domain_events WHERE aggregate_type = 'Twice';
SELECT event_store.create_store();
SELECT event_store.is_available(), pg_temp.guard();
-- a column of the log has its place, one of a table with rows its values
BEGIN;
ALTER TABLE event_store.domain_events DROP payload;
ALTER TABLE event_store.domain_events DROP saga_id;
SELECT event_store.create_store();
ROLLBACK;
BEGIN;
SELECT event_store.put_view('Orders', 'o-9', '{}');
ALTER TABLE event_store.domain_views DROP view_data;
SELECT pg_temp.refused($$SELECT event_store.load_view('Orders', 'o-9')$$);
SELECT event_store.create_store();
ROLLBACK;
-- one that may be empty comes back, and with it the store
BEGIN;
ALTER TABLE event_store.domain_views DROP version;
SELECT pg_temp.refused($$SELECT event_store.load_view('Orders', 'o-9')$$);
SELECT event_store.create_store();
SELECT event_store.is_available();
ROLLBACK;
-- a second row of the state of the store
BEGIN;
ALTER TABLE event_store.store_state DROP CONSTRAINT store_state_pkey;
INSERT INTO event_store.store_state DEFAULT VALUES;
SELECT event_store.create_store();
SELECT count(*) FROM event_store.store_state;
ROLLBACK;

-- the schema of somebody else, and a schema in which others may create
CREATE ROLE regress_owner;
CREATE ROLE regress_intruder;
ALTER SCHEMA event_store OWNER TO regress_owner;
SELECT pg_temp.refused('SELECT event_store.create_store()');
ALTER SCHEMA event_store OWNER TO CURRENT_USER;
GRANT CREATE ON SCHEMA event_store TO regress_intruder;
SELECT pg_temp.refused('SELECT event_store.create_store()');
REVOKE CREATE ON SCHEMA event_store FROM regress_intruder;
GRANT CREATE ON SCHEMA event_store TO PUBLIC;
SELECT pg_temp.refused('SELECT event_store.create_store()');
REVOKE CREATE ON SCHEMA event_store FROM PUBLIC;
SELECT event_store.create_store();

-- DROP EXTENSION, without CASCADE, leaves the tables and their guard
CREATE TEMPORARY TABLE before AS SELECT * FROM event_store.domain_events;
SELECT event_store.put_view('Orders', 'o-1', '{"total": "19.99"}');
DROP EXTENSION event_store;
SELECT pg_temp.guard();
SELECT pg_temp.refused($$UPDATE event_store.domain_events SET payload = '{}'$$);
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events$$);
SELECT pg_temp.refused($$TRUNCATE event_store.domain_events$$);
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events_archive$$);
-- nor does a function of that name help that fails, as one of a library that is not there
CREATE FUNCTION event_store.is_log_change(oid, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE undefined_file; END';
SELECT pg_temp.refused($$DELETE FROM event_store.domain_events$$);
DROP FUNCTION event_store.is_log_change;
SELECT count(*) FROM event_store.domain_events;
SELECT c.relname COLLATE "C", c.relkind FROM pg_catalog.pg_class c
 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind <> 'i' ORDER BY 1;

-- CREATE EXTENSION refuses what is not its own
ALTER SCHEMA event_store OWNER TO regress_owner;
SELECT pg_temp.refused('CREATE EXTENSION event_store');
ALTER SCHEMA event_store OWNER TO CURRENT_USER;
GRANT CREATE ON SCHEMA event_store TO regress_intruder;
SELECT pg_temp.refused('CREATE EXTENSION event_store');
REVOKE CREATE ON SCHEMA event_store FROM regress_intruder;
CREATE FUNCTION event_store.load_event(event_id uuid, upcast boolean) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT pg_temp.refused('CREATE EXTENSION event_store');
DROP FUNCTION event_store.load_event(uuid, boolean);
CREATE EXTENSION event_store SCHEMA public;
\echo :SQLSTATE

-- and brings the API back, with everything that was there
CREATE EXTENSION event_store;
SELECT event_store.is_available();
SELECT sequence, event_type, payload FROM event_store.load_events('Store', 'o-1');
SELECT event_store.load_view('Orders', 'o-1');
SELECT last_sequence, outcome FROM event_store.append_event('Store', 'o-1', 2, 'OrderShipped');
SELECT count(*) FROM (TABLE before EXCEPT ALL TABLE event_store.domain_events) lost;
SELECT count(*) = max(sequence), min(global_position) < max(global_position) FROM event_store.domain_events;
SELECT event_store.create_store();

-- not while something is staged
SELECT durable, outcome FROM event_store.append_event('Store', 'o-2', 0, 'OrderPlaced', durability => 'staged');
BEGIN;
SELECT durable FROM event_store.append_event('Store', 'o-3', 0, 'OrderPlaced', durability => 'staged');
DROP EXTENSION event_store;
\echo :SQLSTATE
ROLLBACK;
BEGIN;
SELECT event_store.put_view('Orders', 'o-3', '{}', durability => 'staged');
DROP EXTENSION event_store CASCADE;
\echo :SQLSTATE
ROLLBACK;
SELECT event_store.flush();
DROP EXTENSION event_store;
CREATE EXTENSION event_store;
SELECT sequence, global_position IS NOT NULL AS durable FROM event_store.load_events('Store', 'o-2');

-- functions that use its types go only by CASCADE
CREATE FUNCTION public.regress_user_function() RETURNS event_store.event LANGUAGE sql AS 'SELECT NULL::event_store.event';
DROP EXTENSION event_store;
\echo :SQLSTATE
DROP FUNCTION public.regress_user_function();

-- a role that is not the owner has no way around
CREATE ROLE regress_stranger;
SET ROLE regress_stranger;
SELECT pg_temp.refused($$SELECT count(*) FROM event_store.domain_events$$);
SELECT pg_temp.refused('DROP SCHEMA event_store CASCADE');
SELECT pg_temp.refused('DROP EXTENSION event_store CASCADE');
RESET ROLE;
DROP OWNED BY regress_owner, regress_intruder, regress_stranger;
DROP ROLE regress_owner, regress_intruder, regress_stranger;
