-- log_change: what code of an owner's could do to the log in the midst of a statement of the store's, and does not
\pset format unaligned
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
CREATE FUNCTION pg_temp.id(n int) RETURNS uuid LANGUAGE sql RETURN ('00000000-0000-4e19-8000-' || lpad(n::text, 12, '0'))::uuid;
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
SELECT last_sequence FROM generate_series(1, 3) n, event_store.append_event('Guarded', 'g-' || n, NULL, 'Named', '{"name": "Ann"}', event_id => pg_temp.id(n));
CREATE FUNCTION pg_temp.log() RETURNS TABLE (aggregate_id text, event_type text, payload jsonb, erased boolean)
    LANGUAGE sql AS $$
    SELECT aggregate_id, event_type, payload, metadata ? '$erased' FROM event_store.domain_events WHERE aggregate_type = 'Guarded' ORDER BY global_position
$$;

-- a cursor has no statement around it when a function of the server's own fetches from it in a CHECK
ALTER TABLE event_store.domain_events ADD CONSTRAINT guarded
    CHECK (payload <> '{}' OR aggregate_type <> 'Guarded' OR pg_catalog.cursor_to_xml('guarded', 9, true, false, '') IS NOT NULL) NOT VALID;
DO $$
DECLARE
    c refcursor := 'guarded';
BEGIN
    OPEN c FOR UPDATE event_store.domain_events SET payload = '{"name": "Eve"}' WHERE aggregate_type = 'Guarded' AND aggregate_id = 'g-2' RETURNING event_id;
    PERFORM event_store.redact_events('{00000000-0000-4e19-8000-000000000001}', 'attacked');
END
$$;
ALTER TABLE event_store.domain_events DROP CONSTRAINT guarded;
SELECT * FROM pg_temp.log();

-- a trigger that keeps the content, or changes what else the event is
CREATE FUNCTION public.guarded_keep() RETURNS trigger
    LANGUAGE plpgsql AS $$BEGIN NEW.payload := OLD.payload; NEW.event_type := 'Other'; RETURN NEW; END$$;
CREATE TRIGGER z_keep BEFORE INSERT OR UPDATE ON event_store.domain_events FOR EACH ROW WHEN (NEW.aggregate_type = 'Guarded') EXECUTE FUNCTION public.guarded_keep();
SELECT event_store.redact_events(ARRAY[pg_temp.id(3)], 'attacked');
SELECT event_store.erase_aggregate('Guarded', 'g-3', 'attacked', 'gone-3');
ALTER TABLE event_store.domain_events DISABLE TRIGGER z_keep;
BEGIN;
SELECT event_store.redact_events(ARRAY[pg_temp.id(3)], 'not attacked');
SELECT * FROM pg_temp.log();
ROLLBACK;
DROP TRIGGER z_keep ON event_store.domain_events;
DROP FUNCTION public.guarded_keep;
SELECT * FROM pg_temp.log();

-- who stands in the place of our function when the extension is gone
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EXTENSION event_store;
SELECT pg_temp.outcome('DELETE FROM event_store.domain_events');
CREATE FUNCTION event_store.is_log_change(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SELECT pg_temp.outcome('DELETE FROM event_store.domain_events'), pg_temp.outcome('UPDATE event_store.domain_events_archive SET payload = NULL');
ROLLBACK;
SET session_replication_role = replica;
SELECT pg_temp.outcome('DELETE FROM event_store.domain_events'), pg_temp.outcome('DELETE FROM event_store.domain_events_archive');
RESET session_replication_role;

-- the mark of what was erased is the store's
SELECT pg_temp.outcome($$SELECT event_store.append_event('Guarded', 'g-4', NULL, 'Named', '{}', '{"$erased": {"name": "Ann"}}')$$);
SELECT pg_temp.outcome($$SELECT event_store.append_events('Guarded', 'g-4', NULL, '[{"event_type": "Named"}, {"event_type": "Named", "metadata": {"$erased": 1}}]')$$);
