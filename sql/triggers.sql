-- triggers: what users attach to the tables of the store, and what it may do
\pset format unaligned
\pset null null
\t on
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
SELECT event_store.flush();

CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- a trigger that appends on top of what fired it
CREATE FUNCTION react() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE NEW.event_type
        WHEN 'Placed' THEN
            PERFORM event_store.append_event(NEW.aggregate_type, NEW.aggregate_id, NULL, 'Numbered');
        WHEN 'Audited' THEN
            PERFORM event_store.append_event('TriggerAudit', 'log', NULL, 'Noted', durability => 'durable');
        WHEN 'Logged' THEN
            PERFORM event_store.append_event('TriggerLog', 'log', NULL, 'Noted', durability => 'staged');
        WHEN 'Set' THEN
            SET default_transaction_read_only = on;
        ELSE
    END CASE;
    RETURN NULL;
END
$$;
CREATE TRIGGER react AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION react();

SELECT last_sequence FROM event_store.append_event('Trigger', 'a', 0, 'Placed');
SELECT event_store.aggregate_sequence('Trigger', 'a');
SELECT last_sequence FROM event_store.append_event('Trigger', 'a', 2, 'Paid');
SELECT last_sequence FROM event_store.append_event('Trigger', 'b', 0, 'Placed');
SELECT pg_temp.refused($$SELECT event_store.append_event('Trigger', 'b', 1, 'Lost', durability => 'staged')$$);
SELECT last_sequence FROM event_store.append_event('Trigger', 'b', 2, 'Paid', durability => 'staged');
SELECT event_store.flush('60s');
SELECT sequence, event_type FROM event_store.load_events('Trigger', 'b');

-- one that writes durably while its event is drained, to an aggregate with staged
-- events: what it writes is staged for the next round
BEGIN;
SELECT last_sequence FROM event_store.append_event('Trigger', 'c', 0, 'Audited', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('TriggerAudit', 'log', NULL, 'Opened', durability => 'staged');
COMMIT;
SELECT event_store.flush('60s') AND event_store.flush('60s');
SELECT sequence, event_type, global_position IS NOT NULL FROM event_store.load_events('TriggerAudit', 'log');
SELECT count(*) FROM event_store.dead_letters WHERE aggregate_type LIKE 'Trigger%';

-- one that stages while a transaction moves its own rows, in all sizes of their list
BEGIN;
SELECT count(*) FROM (SELECT event_store.append_event('Trigger', 'd' || i, 0, CASE i WHEN 1 THEN 'Logged' ELSE 'Made' END,
                                                      durability => 'staged') FROM generate_series(1, 64) i) s;
SELECT last_sequence FROM event_store.append_event('TriggerLog', 'log', NULL, 'Made');
COMMIT;
SELECT event_store.flush('60s');
SELECT staged_events FROM event_store.staging_status;
SELECT sequence, event_type FROM event_store.load_events('TriggerLog', 'log');

-- what one sets does not outlive the round
SELECT last_sequence FROM event_store.append_event('Trigger', 'e', 0, 'Set', durability => 'staged');
SELECT event_store.flush('60s');
SELECT last_sequence FROM event_store.append_event('Trigger', 'e', 1, 'Made', durability => 'staged');
SELECT event_store.flush('60s');
DROP TRIGGER react ON event_store.domain_events;

-- one that suppresses an event
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER suppress BEFORE INSERT ON event_store.domain_events
    FOR EACH ROW WHEN (NEW.event_type = 'Noise') EXECUTE FUNCTION suppress();
SELECT pg_temp.refused($$SELECT event_store.append_event('Trigger', 'f', 0, 'Noise')$$);
SELECT last_sequence FROM event_store.append_events('Trigger', 'f', 0, '[{"event_type": "Noise"}, {"event_type": "Made"}]', durability => 'staged');
SET client_min_messages = error;
SELECT event_store.flush('60s');
SELECT sequence, event_type, error_code FROM event_store.dead_letters WHERE aggregate_type = 'Trigger' ORDER BY sequence;
DROP TRIGGER suppress ON event_store.domain_events;
SELECT event_store.retry_dead_letters('Trigger', 'f');
SELECT sequence, event_type FROM event_store.load_events('Trigger', 'f');

-- one that trusts its search_path, and a caller who set a trap in it
CREATE SCHEMA trap;
CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
CREATE FUNCTION careless() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM lower('X'::text); RETURN NEW; END $$;
CREATE TRIGGER careless BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION careless();
CREATE TRIGGER careless BEFORE INSERT ON event_store.domain_views FOR EACH ROW EXECUTE FUNCTION careless();
SET search_path = trap, pg_catalog, public;
SELECT lower('X'::text);
SELECT last_sequence FROM event_store.append_event('Trigger', 'g', 0, 'Made');
SELECT event_store.put_view('trigger', 'g', '{}');
SHOW search_path;
RESET search_path;
DROP TRIGGER careless ON event_store.domain_events;
DROP TRIGGER careless ON event_store.domain_views;
DROP SCHEMA trap CASCADE;
DROP FUNCTION react(), suppress(), careless();

-- nor does a deferred one: it fires within the call, as the owner, on every version
CREATE ROLE regress_trigger_writer;
SELECT event_store.grant_access('regress_trigger_writer', 'writer');
CREATE SCHEMA trap;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'trapped as ' || current_user; END $$;
CREATE TABLE deferred_seen (operation text, as_owner boolean, lowered text);
CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.deferred_seen VALUES (TG_TABLE_NAME, current_user OPERATOR(pg_catalog.=)
        (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID), lower('X'::text));
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER "Deferred" AFTER INSERT ON event_store.domain_events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON event_store.domain_views
    DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION deferred();
CREATE CONSTRAINT TRIGGER deferred_snapshot AFTER INSERT ON event_store.snapshots
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
-- the caller's own stay deferred, and his
CREATE TABLE callers_own (who name);
GRANT INSERT ON callers_own TO regress_trigger_writer;
CREATE CONSTRAINT TRIGGER own AFTER INSERT ON callers_own
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
SET ROLE regress_trigger_writer;
SET search_path = trap, pg_catalog;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
SELECT last_sequence FROM event_store.append_event('Deferred', 'a', 0, 'Made');
SET CONSTRAINTS ALL DEFERRED;
SELECT last_sequence FROM event_store.append_event('Deferred', 'a', 1, 'Made');
SELECT event_store.put_view('deferred', 'a', '{}');
SELECT event_store.save_snapshot('Deferred', 'a', 1, '{}');
COMMIT;
BEGIN;
INSERT INTO public.callers_own VALUES ('me');
SELECT last_sequence FROM event_store.append_event('Deferred', 'b', 0, 'Made');
COMMIT;
\echo :LAST_ERROR_SQLSTATE
RESET search_path;
RESET ROLE;
SELECT * FROM deferred_seen;
DROP TRIGGER "Deferred" ON event_store.domain_events;
DROP TRIGGER deferred ON event_store.domain_views;
DROP TRIGGER deferred_snapshot ON event_store.snapshots;
-- its constraint is named in SET CONSTRAINTS, which may be called otherwise than the trigger
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON event_store.domain_events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
ALTER TRIGGER deferred ON event_store.domain_events RENAME TO renamed;
SET ROLE regress_trigger_writer;
SELECT last_sequence FROM event_store.append_event('Deferred', 'c', 0, 'Made');
RESET ROLE;
DROP TRIGGER renamed ON event_store.domain_events;
TRUNCATE deferred_seen;

-- what would be left to run later, with the caller's rights or search_path, is refused,
-- but to the owner
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON callers_own
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
CREATE FUNCTION leave_behind() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE NEW.payload ->> 'leave';
    RETURN NULL;
END
$$;
CREATE TRIGGER leave_behind AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION leave_behind();
CREATE FUNCTION leave(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event('Deferred', 'd', NULL, 'Made', pg_catalog.jsonb_build_object('leave', statement));
    RETURN 'left';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SET ROLE regress_trigger_writer;
SELECT public.leave($$INSERT INTO public.callers_own VALUES ('deferred')$$);
SELECT public.leave($$DECLARE later CURSOR WITH HOLD FOR SELECT trap.lower('X')$$);
SELECT public.leave($$CREATE TEMP VIEW later AS SELECT 1$$);
RESET ROLE;
SELECT public.leave($$INSERT INTO public.callers_own VALUES ('deferred')$$);
SELECT operation, as_owner FROM deferred_seen;
DROP TRIGGER leave_behind ON event_store.domain_events;
DROP TRIGGER later ON callers_own;
DROP FUNCTION leave(text), leave_behind();

-- a foreign key and an exclusion that are deferrable are not deferred either
CREATE TABLE kinds (kind text PRIMARY KEY);
CREATE FUNCTION same(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'x' $$;
ALTER TABLE event_store.domain_views
    ADD CONSTRAINT of_kind FOREIGN KEY (view_name) REFERENCES kinds DEFERRABLE INITIALLY DEFERRED NOT VALID,
    ADD CONSTRAINT only_one EXCLUDE ((same(view_key)) WITH =) WHERE (view_name = 'only') DEFERRABLE INITIALLY DEFERRED;
INSERT INTO kinds VALUES ('only');
SET ROLE regress_trigger_writer;
\set VERBOSITY sqlstate
BEGIN;
SELECT event_store.put_view('unknown', 'a', '{}');
ROLLBACK;
BEGIN;
SELECT event_store.put_view('only', 'a', '{}');
SELECT event_store.put_view('only', 'b', '{}');
ROLLBACK;
\set VERBOSITY default
RESET ROLE;
ALTER TABLE event_store.domain_views DROP CONSTRAINT of_kind, DROP CONSTRAINT only_one;
DROP TABLE kinds;
DROP FUNCTION same(text);

-- a check in the place of one of ours is code of the owner's, too
CREATE FUNCTION careless_check(bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN lower('X'::text) = 'x'; END $$;
ALTER TABLE event_store.domain_events
    DROP CONSTRAINT domain_events_sequence_check,
    ADD CONSTRAINT domain_events_sequence_check CHECK (careless_check(sequence)) NOT VALID;
SET ROLE regress_trigger_writer;
SET search_path = trap, pg_catalog;
SELECT last_sequence FROM event_store.append_event('Deferred', 'e', 0, 'Made');
RESET search_path;
RESET ROLE;
ALTER TABLE event_store.domain_events DROP CONSTRAINT domain_events_sequence_check;
SELECT event_store.create_store();
DROP FUNCTION careless_check(bigint);
DROP SCHEMA trap CASCADE;
DROP TABLE callers_own, deferred_seen;
DROP FUNCTION deferred();
DROP OWNED BY regress_trigger_writer;
DROP ROLE regress_trigger_writer;

-- a check deferred to the end of the transaction is the fault of a row, too
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.event_type = 'Poison' THEN
        RAISE EXCEPTION 'too late for %', NEW.aggregate_id USING ERRCODE = '23514';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON event_store.domain_events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
BEGIN;
SELECT last_sequence FROM event_store.append_event('Trigger', 'h', 0, 'Made', durability => 'staged');
SELECT last_sequence FROM event_store.append_event('Trigger', 'i', 0, 'Poison', durability => 'staged');
COMMIT;
SELECT last_sequence FROM event_store.append_event('Trigger', 'j', 0, 'Made', durability => 'staged');
SELECT event_store.flush('60s');
SELECT aggregate_id, sequence, event_type, error_code, error_message FROM event_store.dead_letters WHERE aggregate_type = 'Trigger';
SELECT aggregate_id, event_type FROM event_store.domain_events WHERE aggregate_type = 'Trigger' AND aggregate_id IN ('h', 'i', 'j') ORDER BY 1;
DROP TRIGGER late ON event_store.domain_events;
DROP FUNCTION late();
SELECT event_store.retry_dead_letters('Trigger', 'i');

-- a default or an index of the owner's is his code as well: it does not run with the caller's search_path
CREATE SCHEMA trap;
CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
CREATE FUNCTION careless_text(given text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN lower('X'::text) = 'x'; END $$;
ALTER TABLE event_store.domain_views ADD COLUMN note boolean DEFAULT careless_text('');
CREATE INDEX trapped ON event_store.domain_events (aggregate_id) WHERE careless_text(aggregate_id);
SET search_path = trap, pg_catalog, public;
SELECT last_sequence FROM event_store.append_event('Trigger', 'k', 0, 'Made');
SELECT event_store.put_view('trigger', 'k', '{}');
RESET search_path;
ALTER TABLE event_store.domain_views DROP COLUMN note;
DROP INDEX event_store.trapped;
DROP FUNCTION careless_text(text);
DROP SCHEMA trap CASCADE;
