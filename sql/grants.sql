-- grants: what each level may do, and that nobody gets around the log
\pset format unaligned
\pset null null
\t on
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
CREATE ROLE regress_monitor;
CREATE ROLE regress_reader;
CREATE ROLE regress_writer;
CREATE ROLE regress_admin;
CREATE ROLE regress_stranger;

-- how a statement is refused, or that it is not
CREATE FUNCTION public.regress_refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

SELECT public.regress_refused($$SELECT event_store.grant_access(NULL, 'reader')$$);
SELECT public.regress_refused($$SELECT event_store.grant_access('regress_reader', NULL)$$);
SELECT public.regress_refused($$SELECT event_store.grant_access('regress_reader', 'owner')$$);
SELECT public.regress_refused($$SELECT event_store.grant_access('regress_nobody', 'reader')$$);
SELECT event_store.grant_access('regress_monitor', 'monitor');
SELECT event_store.grant_access('regress_reader', 'reader');
SELECT event_store.grant_access('regress_writer', 'writer');
SELECT event_store.grant_access('regress_admin', 'admin');
-- granting again changes nothing
SELECT event_store.grant_access('regress_reader', 'reader');

-- who may execute what; the rest is for the owner
SELECT p.proname COLLATE "C" || CASE WHEN count(DISTINCT p.oid) > 1 THEN ' (' || count(DISTINCT p.oid) || ')' ELSE '' END AS function,
       string_agg(DISTINCT rolname, ' ' ORDER BY rolname) AS roles
  FROM pg_catalog.pg_proc p
  LEFT JOIN pg_catalog.pg_roles r
    ON rolname IN ('regress_reader', 'regress_writer', 'regress_admin', 'regress_monitor', 'regress_stranger')
       AND pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE')
 WHERE p.pronamespace = 'event_store'::regnamespace
 GROUP BY p.proname ORDER BY p.proname COLLATE "C";
SELECT c.relname COLLATE "C" AS relation, rolname, string_agg(privilege, ' ' ORDER BY privilege)
  FROM pg_catalog.pg_class c,
       pg_catalog.pg_roles r,
       unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) privilege
 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'v')
   AND rolname IN ('regress_reader', 'regress_writer', 'regress_admin', 'regress_monitor', 'regress_stranger')
   AND pg_catalog.has_table_privilege(r.oid, c.oid, privilege)
 GROUP BY c.relname, rolname ORDER BY c.relname COLLATE "C", rolname;
SELECT rolname, pg_catalog.has_schema_privilege(oid, 'event_store', 'USAGE'),
       pg_catalog.has_schema_privilege(oid, 'event_store', 'CREATE')
  FROM pg_catalog.pg_roles
 WHERE rolname IN ('regress_reader', 'regress_writer', 'regress_admin', 'regress_monitor', 'regress_stranger') ORDER BY rolname;

-- a stranger
SET ROLE regress_stranger;
SELECT public.regress_refused($$SELECT event_store.append_event('Granted', 'g-1', NULL, 'Added')$$);
SELECT public.regress_refused($$SELECT event_store.load_events('Granted', 'g-1')$$);
SELECT public.regress_refused($$SELECT count(*) FROM event_store.domain_events$$);

-- a monitor: how things stand, and nothing of what events hold
SET ROLE regress_monitor;
SELECT drain_state <> '', waiting_for, waiting_since FROM event_store.staging_status;
SELECT state <> '', waiting_for, waiting_since FROM event_store.worker_status;
SELECT count(*) > 0 FROM event_store.worker_jobs;
SELECT in_flight FROM event_store.feed_status;
SELECT count(*) FROM event_store.rebuild_status;
SELECT count(*) FROM event_store.dead_letter_status;
SELECT count(*) > 0 FROM event_store.metrics;
SELECT event_store.is_available();
SELECT public.regress_refused($$SELECT event_store.load_events('Granted', 'g-1')$$);
SELECT public.regress_refused($$SELECT count(*) FROM event_store.domain_events$$);
SELECT public.regress_refused($$SELECT count(*) FROM event_store.dead_letters$$);
SELECT public.regress_refused($$SELECT count(*) FROM event_store.staging$$);
SELECT public.regress_refused($$SELECT event_store.append_event('Granted', 'g-1', NULL, 'Added')$$);
SELECT public.regress_refused($$SELECT event_store.drain()$$);

-- a writer: through the functions, in both durabilities, not to the tables
SET ROLE regress_writer;
SELECT last_sequence, durable FROM event_store.append_event('Granted', 'g-1', 0, 'Added', '{"n": 1}');
SELECT last_sequence, durable FROM event_store.append_event('Granted', 'g-1', 1, 'Added', '{"n": 2}', durability => 'staged');
SELECT last_sequence, durable FROM event_store.append_events('Granted', 'g-1', 2, '[{"event_type": "Added"}]');
SELECT ordinal, sequence, outcome FROM event_store.append_batch(
    '[{"aggregate_type": "Granted", "aggregate_id": "g-2", "event_type": "Added"}]');
SELECT event_store.put_view('Granted', 'g-1', '{"n": 2}');
SELECT event_store.put_view('Granted', 'g-2', '{"n": 1}', durability => 'staged');
SELECT event_store.put_views('Granted', ARRAY['g-3'], ARRAY['{"n": 1}']::jsonb[]);
SELECT event_store.delete_view('Granted', 'g-3');
SELECT event_store.save_snapshot('Granted', 'g-1', 1, '{"n": 1}');
SELECT event_store.flush();
SELECT (event_store.replay_aggregate('Granted', 'g-1')).*;
SELECT sequence, payload FROM event_store.load_events('Granted', 'g-1');
SELECT view_key, view_data FROM event_store.load_views('Granted');
SELECT public.regress_refused($$INSERT INTO event_store.domain_events SELECT * FROM event_store.domain_events$$);
SELECT public.regress_refused($$UPDATE event_store.domain_events SET payload = NULL$$);
SELECT public.regress_refused($$DELETE FROM event_store.domain_events$$);
SELECT public.regress_refused($$TRUNCATE event_store.domain_events$$);
SELECT public.regress_refused($$ALTER TABLE event_store.domain_events DISABLE TRIGGER ALL$$);
SELECT public.regress_refused($$UPDATE event_store.domain_views SET view_data = '{}'$$);
SELECT public.regress_refused($$INSERT INTO event_store.staging_0 SELECT * FROM event_store.staging_0$$);
SELECT public.regress_refused($$SELECT nextval('event_store.global_position_seq')$$);
SELECT public.regress_refused($$SELECT * FROM event_store.snapshots$$);
SELECT public.regress_refused($$SELECT event_store.drain()$$);
SELECT public.regress_refused($$SELECT event_store.clear_view('Granted')$$);
SELECT public.regress_refused($$SELECT event_store.discard_dead_letters('Granted', 'g-1', 'mine')$$);
SELECT public.regress_refused($$SELECT event_store.create_store()$$);
SELECT public.regress_refused($$SELECT event_store.grant_access('regress_writer', 'admin')$$);

SELECT event_store.load_view('Granted', 'g-1', for_update => true) IS NOT NULL, count(*) FROM event_store.feed_status;

-- a reader
SET ROLE regress_reader;
SELECT sequence, payload FROM event_store.load_events('Granted', 'g-1');
SELECT event_store.aggregate_sequence('Granted', 'g-1');
SELECT event_store.load_aggregate_ids('Granted');
SELECT event_store.load_view('Granted', 'g-1');
SELECT event_store.load_view_keys('Granted');
SELECT sequence, source FROM event_store.load_snapshot('Granted', 'g-1');
SELECT state FROM event_store.replay_aggregate('Granted', 'g-1');
SELECT event_store.is_available(), event_store.provider_name();
SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Granted';
SELECT public.regress_refused($$SELECT event_store.append_event('Granted', 'g-1', NULL, 'Added')$$);
SELECT public.regress_refused($$SELECT event_store.append_batch('[]')$$);
SELECT public.regress_refused($$SELECT event_store.put_view('Granted', 'g-1', '{}')$$);
SELECT public.regress_refused($$SELECT event_store.load_view('Granted', 'g-1', for_update => true)$$);
SELECT public.regress_refused($$SELECT event_store.flush()$$);
SELECT public.regress_refused($$SELECT * FROM event_store.staging_status$$);
SELECT public.regress_refused($$SELECT * FROM event_store.feed_status$$);

-- an admin
SET ROLE regress_admin;
SELECT last_sequence FROM event_store.append_event('Granted', 'g-2', 1, 'Added');
SELECT event_store.drain() >= 0;
SELECT event_store.retry_dead_letters('Granted', 'g-1');
SELECT event_store.discard_dead_letters('Granted', 'g-1', 'nothing there');
SELECT event_store.set_reducer('Granted', NULL);
SELECT event_store.clear_view('Granted');
SELECT drain_state IN ('idle', 'draining', 'stopped'), staged_bytes >= 0 FROM event_store.staging_status;
SELECT count(*) FROM event_store.worker_status;
SELECT count(*) FROM event_store.dead_letters WHERE aggregate_type = 'Granted';
SELECT count(*) >= 1 FROM event_store.store_state;
SELECT public.regress_refused($$DELETE FROM event_store.dead_letters$$);
SELECT public.regress_refused($$DELETE FROM event_store.domain_events$$);
RESET ROLE;

-- what a caller puts on the search_path is never called with the owner's rights
CREATE SCHEMA regress_trap AUTHORIZATION regress_writer;
SET ROLE regress_writer;
CREATE TABLE regress_trap.caught (who text);
CREATE FUNCTION regress_trap.catch_text(a text, b text) RETURNS boolean LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO regress_trap.caught VALUES (current_user); RETURN true; END $$;
CREATE FUNCTION regress_trap.catch_bigint(a bigint, b bigint) RETURNS boolean LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO regress_trap.caught VALUES (current_user); RETURN true; END $$;
CREATE FUNCTION regress_trap.max(bigint) RETURNS bigint LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO regress_trap.caught VALUES (current_user); RETURN 1; END $$;
CREATE OPERATOR regress_trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_trap.catch_text);
CREATE OPERATOR regress_trap.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = regress_trap.catch_text);
CREATE OPERATOR regress_trap.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = regress_trap.catch_bigint);
CREATE OPERATOR regress_trap.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = regress_trap.catch_bigint);
CREATE OPERATOR regress_trap.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = regress_trap.catch_bigint);
GRANT USAGE ON SCHEMA regress_trap TO PUBLIC;
GRANT INSERT ON regress_trap.caught TO PUBLIC;
RESET ROLE;
-- the trap catches
SET search_path = regress_trap, pg_catalog;
SELECT 'a'::text = 'b'::text, 1::bigint > 2::bigint, max(2::bigint);
RESET search_path;
DELETE FROM regress_trap.caught RETURNING who = current_user;
\c -
\pset format unaligned
\pset null null
\t on
SET ROLE regress_admin;
SET search_path = regress_trap, pg_catalog;
SELECT last_sequence FROM event_store.append_event('Trapped', 't-1', 0, 'Added', '{"n": 1}');
SELECT last_sequence FROM event_store.append_events('Trapped', 't-1', 1, '[{"event_type": "Added"}, {"event_type": "Added"}]');
SELECT last_sequence FROM event_store.append_event('Trapped', 't-1', 3, 'Added', durability => 'staged');
SELECT event_store.put_view('Trapped', 't-1', '{}', 1);
SELECT event_store.put_view('Trapped', 't-1', '{}', 2, durability => 'staged');
SELECT event_store.put_views('Trapped', ARRAY['t-1', 't-2'], ARRAY['{}', '{}']::jsonb[]);
SELECT event_store.drain() >= 0;
SELECT count(*) FROM event_store.load_events('Trapped', 't-1', 1, 3);
SELECT count(*) FROM event_store.load_views('Trapped');
SELECT event_store.load_view('Trapped', 't-1');
SELECT event_store.load_aggregate_ids('Trapped');
SELECT sequence FROM event_store.replay_aggregate('Trapped', 't-1');
SELECT event_store.save_snapshot('Trapped', 't-1', 1, '{}');
SELECT sequence FROM event_store.load_snapshot('Trapped', 't-1');
SELECT event_store.set_reducer('Trapped', NULL);
SELECT event_store.delete_view('Trapped', 't-1');
SELECT event_store.clear_view('Trapped');
SELECT event_store.retry_dead_letters('Trapped', 't-1');
RESET search_path;
RESET ROLE;
SELECT event_store.flush();
SELECT count(*) FROM regress_trap.caught;

-- create_store() and grant_access() by their caller's search_path neither
SET search_path = regress_trap, pg_catalog;
SET client_min_messages = warning;
SELECT event_store.create_store();
SELECT event_store.grant_access('regress_stranger', 'reader');
RESET client_min_messages;
RESET search_path;
SELECT count(*) FROM regress_trap.caught;

SET client_min_messages = warning;
DROP SCHEMA regress_trap CASCADE;
DROP FUNCTION public.regress_refused(text);
DROP OWNED BY regress_monitor, regress_reader, regress_writer, regress_admin, regress_stranger;
DROP ROLE regress_monitor, regress_reader, regress_writer, regress_admin, regress_stranger;
