-- A store whose owner is no superuser: the worker, which is one, never runs
-- what the owner attached to the tables with more than the owner's rights.
\set QUIET on
\pset format unaligned
\t on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS event_store;
SELECT plan(14);

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

-- what he attaches is known by what it is: not by the name of the guard of the log, nor by
-- the table that is written to, and the guard itself is his
CREATE TABLE found (by text, path text);
GRANT INSERT ON found TO PUBLIC;
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
SELECT * FROM finish();
DROP FUNCTION look(), leave();
REASSIGN OWNED BY event_store_test_owner TO CURRENT_USER;
DROP OWNED BY event_store_test_owner;
DROP ROLE event_store_test_owner;
