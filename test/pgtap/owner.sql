-- A store whose owner is no superuser: the worker, which is one, never runs
-- what the owner attached to the tables with more than the owner's rights.
SET client_min_messages = warning;
SELECT plan(27);

DROP ROLE IF EXISTS event_store_test_owner;
CREATE ROLE event_store_test_owner;
GRANT USAGE ON SCHEMA event_store TO event_store_test_owner;
-- in one transaction, since a worker that is at work would be in the way
BEGIN;
SELECT event_store.create_store() \g /dev/null
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT c.relname, c.relkind
          FROM pg_class c
         WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'S')
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('e', 'i', 'a'))
    LOOP
        EXECUTE format('ALTER %s event_store.%I OWNER TO event_store_test_owner',
                       CASE t.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, t.relname);
    END LOOP;
END
$$;
COMMIT;
CREATE TABLE seen (at_once name, deferred name);
GRANT INSERT ON seen TO PUBLIC;
CREATE FUNCTION note_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_NAME = 'at_once' THEN
        INSERT INTO public.seen (at_once) VALUES (current_user);
    ELSE
        INSERT INTO public.seen (deferred) VALUES (current_user);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER at_once AFTER INSERT ON event_store.domain_events
    FOR EACH ROW EXECUTE FUNCTION note_user();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON event_store.domain_events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_user();

SELECT is((SELECT durable FROM event_store.append_event('Owner', 'o-1', 0, 'Made', durability => 'staged')),
          false, 'staged');
SELECT ok(event_store.flush('60s'), 'and drained by the worker');
SELECT is((SELECT array_agg(DISTINCT at_once) FROM seen WHERE at_once IS NOT NULL), '{event_store_test_owner}',
          'a trigger runs as the owner');
SELECT is((SELECT array_agg(DISTINCT deferred) FROM seen WHERE deferred IS NOT NULL), '{event_store_test_owner}',
          'a deferred one as well');

SELECT is((SELECT outcome FROM event_store.append_event('Owner', 'o-1', 1, 'Made')), 'appended', 'durable');
SELECT is((SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Owner'), 2::bigint, 'both are there');

-- a policy of row security runs for every reader, and neither finds what he put in
-- its way nor leaves anything for his rights
CREATE FUNCTION look() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% %', current_user, current_setting('search_path');
END
$$;
CREATE FUNCTION leave() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'DECLARE later CURSOR WITH HOLD FOR SELECT current_user';
    RETURN true;
END
$$;
ALTER TABLE event_store.domain_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY attached ON event_store.domain_events USING (public.look());
SELECT throws_ok($$SELECT * FROM event_store.load_events('Owner', 'o-1')$$, 'P0001',
                 'event_store_test_owner pg_catalog, pg_temp', 'a policy has a search_path of its own');
ALTER POLICY attached ON event_store.domain_events USING (public.leave());
SELECT throws_ok($$SELECT * FROM event_store.read_events()$$, '42501', NULL, 'and leaves nothing to run later');
DROP POLICY attached ON event_store.domain_events;
ALTER TABLE event_store.domain_events DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;

-- nor does a constraint of the log, where it is computed when a plan is made: what is constant in it
CREATE TABLE found (by text, path text);
GRANT INSERT ON found TO PUBLIC;
CREATE SEQUENCE others;
CREATE FUNCTION note_path_now() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'event_store_test_owner' THEN
        -- stays when what is done here is undone
        PERFORM nextval('public.others');
    END IF;
    INSERT INTO public.found VALUES (current_user, current_setting('search_path'));
END
$$;
CREATE FUNCTION constant_path() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM public.note_path_now(); RETURN 1; END $$;
ALTER TABLE event_store.domain_events ADD CONSTRAINT attached CHECK (public.constant_path() = 1);
TRUNCATE found;
SET constraint_exclusion = on;
SELECT count(*) FROM event_store.load_events('Owner', 'o-1') \g /dev/null
RESET constraint_exclusion;
ALTER TABLE event_store.domain_events DROP CONSTRAINT attached;
SELECT is((SELECT array_agg(DISTINCT f::text) FROM found f), '{"(event_store_test_owner,\"pg_catalog, pg_temp\")"}',
          'nor a constraint that is computed');
TRUNCATE found;

-- what he attaches is known by what it is: not by the name of the guard of the log, nor by
-- the table that is written to, and the guard itself is his
CREATE FUNCTION note_path() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.found VALUES (TG_TABLE_NAME, current_setting('search_path'));
    RETURN COALESCE(NEW, OLD);
END
$$;
DROP TRIGGER at_once ON event_store.domain_events;
DROP TRIGGER deferred ON event_store.domain_events;
CREATE TRIGGER domain_events_append_only BEFORE INSERT ON event_store.domain_views
    FOR EACH ROW EXECUTE FUNCTION note_path();
SELECT ok(event_store.put_view('owner', 'o-1', '{}'), 'a view is written');
SELECT is((SELECT array_agg(f::text) FROM found f), '{"(domain_views,\"pg_catalog, pg_temp\")"}', 'a trigger with that name');
DROP TRIGGER domain_events_append_only ON event_store.domain_views;
TRUNCATE found;
CREATE TABLE child () INHERITS (event_store.domain_views);
ALTER TABLE child OWNER TO event_store_test_owner;
INSERT INTO child (view_name, view_key, view_data) VALUES ('owner', 'o-1', '{}');
CREATE TRIGGER note_path BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION note_path();
SELECT ok(event_store.delete_view('owner', 'o-1'), 'it is deleted');
SELECT is((SELECT array_agg(f::text) FROM found f), '{"(child,\"pg_catalog, pg_temp\")"}', 'a trigger of a child table');
DROP TABLE child;
TRUNCATE found;
BEGIN;
SELECT event_store.append_event('Owner', 'erased', 0, 'Made', '{"a": 1}') \g /dev/null
DROP TRIGGER domain_events_append_only_row ON event_store.domain_events;
CREATE TRIGGER domain_events_append_only_row AFTER UPDATE ON event_store.domain_events
    FOR EACH ROW EXECUTE FUNCTION note_path();
GRANT EXECUTE ON FUNCTION event_store.is_log_change(oid, text) TO event_store_test_owner;
SELECT event_store.erase_aggregate('Owner', 'erased', 'test') \g /dev/null
SELECT string_agg(DISTINCT f::text, ' ') AS found FROM found f \gset
ROLLBACK;
SELECT is(:'found'::text, '(domain_events,"pg_catalog, pg_temp")', 'one that meets what is erased');

-- nor does a trigger run as who repairs the store
TRUNCATE seen;
CREATE TRIGGER at_once AFTER INSERT ON event_store.store_state
    FOR EACH STATEMENT EXECUTE FUNCTION note_user();
SELECT event_store.create_store() \g /dev/null
SELECT is((SELECT array_agg(DISTINCT at_once) FROM seen), '{event_store_test_owner}', 'create_store() runs it as the owner');
DROP TRIGGER at_once ON event_store.store_state;

-- what is constant in a constraint of a child table is computed when a plan is made: by
-- whoever reads, and it leaves nothing for him
CREATE TABLE later (by name);
CREATE FUNCTION note_later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.seen (deferred) VALUES (current_user);
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION note_later();
GRANT INSERT ON later TO PUBLIC;
CREATE FUNCTION put_off() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.later VALUES (current_user);
END
$$;
CREATE FUNCTION constant_later() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM public.put_off(); RETURN 1; END $$;
TRUNCATE found;
CREATE TABLE child (CHECK (public.constant_path() = 1)) INHERITS (event_store.domain_events);
ALTER TABLE child OWNER TO event_store_test_owner;
SELECT is((SELECT count(*) FROM event_store.load_events('Owner', 'o-1')), 2::bigint, 'events are read where there is a child table');
SELECT is((SELECT array_agg(DISTINCT f::text) FROM found f), '{"(event_store_test_owner,\"pg_catalog, pg_temp\")"}',
          'its constraint has the owner''s rights, and a search_path of its own');
ALTER TABLE child ADD CHECK (public.constant_later() = 1);
SELECT throws_ok($$SELECT * FROM event_store.load_events('Owner', 'o-1')$$, '42501', NULL, 'and leaves nothing to run later');
DROP TABLE child;
CREATE TABLE child (CHECK (public.constant_later() = 1)) INHERITS (event_store.sagas);
ALTER TABLE child OWNER TO event_store_test_owner;
SELECT throws_ok('SELECT * FROM event_store.metrics', '42501', NULL, 'nor for who watches');
DROP TABLE child;

-- who repairs the store alters the tables as the owner: a CHECK may cast a column of the
-- owner's type, and whether a column is NULL is asked of the owner's constraints
CREATE TYPE word AS (t text);
CREATE FUNCTION cast_text(word) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.note_path_now(); RETURN ($1).t; END $$;
CREATE CAST (word AS text) WITH FUNCTION cast_text AS IMPLICIT;
BEGIN;
ALTER TABLE event_store.snapshots DROP CONSTRAINT snapshots_source_check, DROP CONSTRAINT snapshots_pkey;
ALTER TABLE event_store.snapshots ALTER COLUMN source TYPE word USING ROW(source)::word;
INSERT INTO event_store.snapshots (aggregate_type, aggregate_id, source, sequence) VALUES ('Owner', 'o-1', ROW('server'), 1);
TRUNCATE found;
SELECT setval('others', 1, false) \g /dev/null
SELECT event_store.create_store() \g /dev/null
SELECT array_agg(DISTINCT f.by) AS by FROM found f \gset
ROLLBACK;
SELECT is(:'by'::text, '{event_store_test_owner}', 'a cast in a CHECK that is added runs as the owner');
SELECT is((SELECT is_called FROM others), false, 'and as nobody else');
BEGIN;
ALTER TABLE event_store.snapshots ADD CONSTRAINT attached CHECK (public.constant_path() = 1), ALTER COLUMN sequence DROP NOT NULL;
TRUNCATE found;
SELECT setval('others', 1, false) \g /dev/null
SELECT event_store.create_store() \g /dev/null
SELECT array_agg(DISTINCT f.by) AS by FROM found f \gset
ROLLBACK;
SELECT is(:'by'::text, '{event_store_test_owner}', 'so does a constraint that is asked whether a column is NULL');
SELECT is((SELECT is_called FROM others), false, 'and as nobody else');
BEGIN;
ALTER TABLE event_store.snapshots ADD CONSTRAINT attached CHECK (public.constant_path() = 1), DROP CONSTRAINT snapshots_pkey,
    ALTER COLUMN source DROP NOT NULL;
INSERT INTO event_store.snapshots (aggregate_type, aggregate_id, sequence) VALUES ('Owner', 'o-1', 1);
SELECT setval('others', 1, false) \g /dev/null
SELECT event_store.create_store() \g /dev/null
ROLLBACK;
SELECT is((SELECT is_called FROM others), false, 'nor one where a key is added');
BEGIN;
CREATE TABLE child (CHECK (public.constant_path() = 1)) INHERITS (event_store.domain_events_archive);
SELECT setval('others', 1, false) \g /dev/null
SELECT event_store.create_store() \g /dev/null
ROLLBACK;
SELECT is((SELECT is_called FROM others), false, 'nor one of a child of the archive');

-- the table that says which function handles events is the owner's: no superuser's runs by that
CREATE FUNCTION nightly() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.found VALUES (current_user); END $$;
CREATE FUNCTION handle(event event_store.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
SELECT throws_like($$SELECT event_store.create_projection('owner', 'public.handle(event_store.event)'::regprocedure)$$,
                   '%superuser%', 'a superuser''s function is not registered');
SELECT event_store.create_subscription('owner') \g /dev/null
SET ROLE event_store_test_owner;
INSERT INTO event_store.projections (projection_name, kind, batch_size, start_position, handler, reset, handler_owner, timeout)
SELECT 'owner', 'handler', 1, 0, 'public.handle(event_store.event)', 'public.nightly()', r.rolname, '1 min'
  FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner WHERE p.oid = 'public.nightly()'::regprocedure;
RESET ROLE;
SELECT throws_like($$SELECT event_store.rebuild_projection('owner')$$, '%superuser%', 'nor is it run when the owner has put it into the table');
DELETE FROM event_store.projections WHERE projection_name = 'owner';
SELECT event_store.drop_subscription('owner') \g /dev/null
SELECT * FROM finish();
DROP FUNCTION look(), leave();
REASSIGN OWNED BY event_store_test_owner TO CURRENT_USER;
DROP OWNED BY event_store_test_owner;
DROP ROLE event_store_test_owner;
