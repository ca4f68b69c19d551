-- staging: staged, drained, buried, retried; limits
\pset format unaligned
\pset null null
\t on
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
-- what is staged here is drained only on request; a new session has the setting
ALTER SYSTEM SET event_store.write_delay = '1h';
ALTER SYSTEM SET event_store.write_batch_size = 10000;
SELECT pg_catalog.pg_reload_conf();
\c -
\pset format unaligned
\pset null null
\t on
\set VERBOSITY terse
SHOW event_store.write_delay;
SELECT event_store.flush();

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
-- an event_id that a test can name
CREATE FUNCTION pg_temp.id(n int) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    RETURN ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid;
-- the events of an aggregate: staged or durable
CREATE FUNCTION pg_temp.events(type text, id text) RETURNS text
    LANGUAGE sql
AS $$ SELECT string_agg(sequence || CASE WHEN global_position IS NULL THEN 's' ELSE 'd' END, ' ') FROM event_store.load_events(type, id) $$;
CREATE FUNCTION pg_temp.staged() RETURNS text
    LANGUAGE sql
AS $$ SELECT staged_events || ' ' || staged_views FROM event_store.staging_status $$;
SELECT staging_epoch AS epoch FROM event_store.staging_status \gset

-- after a durable write of the same transaction nothing is staged any more
SELECT pg_temp.staged() AS staged \gset
BEGIN;
SELECT durable, staging_epoch IS NULL FROM event_store.append_event('Half', 'h-1', 0, 'Added');
SELECT durable, staging_epoch IS NULL, last_position IS NOT NULL FROM event_store.append_event('Half', 'h-2', 0, 'Added', durability => 'staged');
SELECT durable FROM event_store.append_events('Half', 'h-1', 1, '{"event_type": "Added"}', durability => 'staged');
SELECT global_position IS NOT NULL FROM event_store.append_batch(ARRAY['Half'], ARRAY['h-3'], ARRAY['Added'], NULL, durability => 'staged');
SELECT event_store.put_view('Half', 'k-1', '1', durability => 'staged');
SELECT event_store.put_views('Half', ARRAY['k-2'], ARRAY['1']::jsonb[], durability => 'staged');
SELECT event_store.delete_view('Half', 'k-2', durability => 'staged');
COMMIT;
SELECT pg_temp.staged() = :'staged', pg_temp.events('Half', 'h-1'), pg_temp.events('Half', 'h-2'), pg_temp.events('Half', 'h-3'),
       (SELECT view_data FROM event_store.domain_views WHERE view_name = 'Half');
-- after each kind of durable write: of a view, and of what the transaction staged before
CREATE FUNCTION pg_temp.is_durable_after(statement text) RETURNS boolean
    LANGUAGE plpgsql
AS $$
DECLARE
    result boolean;
BEGIN
    BEGIN
        EXECUTE statement;
        SELECT durable INTO result FROM event_store.append_event('Half', 'after', NULL, 'Added', durability => 'staged');
        RAISE EXCEPTION 'undo';
    EXCEPTION WHEN raise_exception THEN
        RETURN result;
    END;
END
$$;
SELECT statement, pg_temp.is_durable_after(statement)
  FROM unnest(ARRAY[
    $$SELECT event_store.append_event('Half', 'h-1', NULL, 'Added')$$,
    $$SELECT event_store.append_batch(ARRAY['Half'], ARRAY['h-9'], ARRAY['Added'], NULL, ARRAY[7], on_conflict => 'report')$$,
    $$SELECT event_store.append_event('Half', 'h-1', NULL, 'Added', durability => 'staged')$$,
    $$SELECT event_store.put_view('Half', 'k-1', '2')$$,
    $$SELECT event_store.put_view('Half', 'k-1', '2', durability => 'staged')$$,
    $$SELECT event_store.delete_view('Half', 'k-1')$$,
    $$SELECT event_store.clear_view('Half')$$,
    $$SELECT event_store.load_events('Half', 'h-1')$$,
    $$SELECT event_store.discard_dead_letters('Half', 'h-1', 'none')$$]) WITH ORDINALITY s(statement, n)
 ORDER BY n;
-- savepoints: what was rolled back wrote nothing, what was released did
BEGIN;
SAVEPOINT a;
SELECT durable FROM event_store.append_event('Half', 'h-4', 0, 'Added');
ROLLBACK TO a;
SELECT durable FROM event_store.append_event('Half', 'h-5', 0, 'Added', durability => 'staged');
SAVEPOINT b;
SAVEPOINT c;
SELECT durable FROM event_store.append_event('Half', 'h-4', 0, 'Added');
SELECT durable FROM event_store.append_event('Half', 'h-6', 0, 'Added', durability => 'staged');
RELEASE c;
SELECT durable FROM event_store.append_event('Half', 'h-6', 1, 'Added', durability => 'staged');
ROLLBACK TO b;
SELECT durable FROM event_store.append_event('Half', 'h-6', 0, 'Added', durability => 'staged');
SAVEPOINT d;
SELECT durable FROM event_store.append_event('Half', 'h-4', 0, 'Added');
RELEASE d;
SAVEPOINT e;
SELECT durable FROM event_store.append_event('Half', 'h-4', 1, 'Added');
ROLLBACK TO e;
SELECT durable FROM event_store.append_event('Half', 'h-6', 1, 'Added', durability => 'staged');
COMMIT;
SELECT pg_temp.staged() = :'staged', pg_temp.events('Half', 'h-4'), pg_temp.events('Half', 'h-5'), pg_temp.events('Half', 'h-6');
-- a retry that only finds its duplicate wrote nothing
BEGIN;
SELECT outcome FROM event_store.append_event('Half', 'h-7', 0, 'Added', event_id => pg_temp.id(91));
COMMIT;
BEGIN;
SELECT outcome FROM event_store.append_event('Half', 'h-7', 0, 'Added', event_id => pg_temp.id(91));
SELECT durable FROM event_store.append_event('Half', 'h-7', 1, 'Added', durability => 'staged');
ROLLBACK;
-- what triggers stage within a durable write, and while the rows of this transaction become durable
CREATE FUNCTION pg_temp.echo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event('Echo', 'of-' || NEW.aggregate_id, NULL, 'Heard', durability => 'staged');
    PERFORM event_store.put_view('Echo', NEW.aggregate_id, '1', durability => 'staged');
    RETURN NULL;
END
$$;
CREATE TRIGGER regress_echo AFTER INSERT ON event_store.domain_events
    FOR EACH ROW WHEN (NEW.aggregate_type = 'Half') EXECUTE FUNCTION pg_temp.echo();
BEGIN;
SELECT durable FROM event_store.append_event('Half', 'h-8', 0, 'Added', durability => 'staged');
SELECT durable FROM event_store.append_event('Half', 'h-9', 0, 'Added');
COMMIT;
SELECT pg_temp.staged() = :'staged', pg_temp.events('Echo', 'of-h-8'), pg_temp.events('Echo', 'of-h-9'),
       (SELECT count(*) FROM event_store.domain_views WHERE view_name = 'Echo');
DROP TRIGGER regress_echo ON event_store.domain_events;

-- staged: seen by loading, not by the tables, counted when committed
SELECT pg_temp.staged();
SELECT last_sequence, last_position, durable, outcome, staging_epoch = :epoch AS epoch
  FROM event_store.append_event('Staged', 's-1', 0, 'Added', '{"n": 1}', durability => 'staged');
SELECT first_sequence, last_sequence, durable
  FROM event_store.append_events('Staged', 's-1', 1, '[{"event_type": "Added"}, {"event_type": "Added"}]', durability => 'staged');
SELECT ordinal, sequence, global_position, outcome
  FROM event_store.append_batch(ARRAY['Staged', 'Staged'], ARRAY['s-2', 's-1'], ARRAY['Added', 'Added'], NULL, ARRAY[0, 3], durability => 'staged');
SELECT event_store.put_view('Staged', 's-1', '{"n": 1}', durability => 'staged');
SELECT pg_temp.staged();
SELECT pg_temp.events('Staged', 's-1'), pg_temp.events('Staged', 's-2'), event_store.aggregate_sequence('Staged', 's-1'),
       event_store.load_view('Staged', 's-1');
SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Staged';
SELECT count(*) FROM event_store.domain_views WHERE view_name = 'Staged';
SELECT staged_bytes > 0, oldest_staged_at <= clock_timestamp(), drain_state IN ('idle', 'draining'), consecutive_failures
  FROM event_store.staging_status;
SELECT count(*), count(DISTINCT sid), count(DISTINCT txn) FROM event_store.staging;
-- the transaction's own rows count when it commits, and not when it does not
BEGIN;
SELECT durable FROM event_store.append_event('Staged', 's-3', 0, 'Added', durability => 'staged');
SELECT pg_temp.staged();
ROLLBACK;
SELECT pg_temp.staged(), pg_temp.events('Staged', 's-3');
BEGIN;
SELECT durable FROM event_store.append_event('Staged', 's-3', 0, 'Kept', durability => 'staged');
SAVEPOINT s;
SELECT durable FROM event_store.append_event('Staged', 's-3', 1, 'Undone', durability => 'staged');
ROLLBACK TO s;
SELECT pg_temp.events('Staged', 's-3');
COMMIT;
SELECT pg_temp.staged(), pg_temp.events('Staged', 's-3');
-- not without a flush
SELECT pg_temp.refused('DROP EXTENSION event_store');
SELECT pg_temp.refused('DROP EXTENSION event_store CASCADE');
SELECT event_store.flush();
SELECT pg_temp.staged(), pg_temp.events('Staged', 's-1'), pg_temp.events('Staged', 's-2'), pg_temp.events('Staged', 's-3');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'Staged';
SELECT oldest_staged_at, last_drain_at <= clock_timestamp() FROM event_store.staging_status;
SELECT count(*) FROM event_store.staging;
-- folded while staged, each event once
SELECT last_sequence FROM event_store.append_events('Staged', 's-4', 0,
    (SELECT jsonb_agg(jsonb_build_object('event_type', 'Added', 'payload', jsonb_build_object('n' || i, i)) ORDER BY i) FROM generate_series(1, 6) i), 'staged');
SELECT state, sequence FROM event_store.replay_aggregate('Staged', 's-4');
SELECT state, sequence FROM event_store.replay_aggregate('Staged', 's-4', 4);
SELECT event_store.flush();
SELECT state, sequence FROM event_store.replay_aggregate('Staged', 's-4');

-- not in a transaction block
BEGIN;
SELECT event_store.flush();
\echo :SQLSTATE
ROLLBACK;
BEGIN;
SELECT event_store.drain();
\echo :SQLSTATE
ROLLBACK;
SELECT pg_temp.refused('SELECT event_store.drain()');
SELECT event_store.flush(timeout => '-1s');
\echo :SQLSTATE
SELECT event_store.flush(timeout => '1h');
\echo :SQLSTATE
SELECT event_store.flush(timeout => '600.001s');
\echo :SQLSTATE
SELECT event_store.flush(timeout => '10min');
SELECT event_store.flush(timeout => '0');
SELECT event_store.flush(timeout => NULL);
SELECT event_store.drain(0);
\echo :SQLSTATE
SELECT event_store.drain(-1);
\echo :SQLSTATE
SELECT event_store.drain();

-- a round ends at the first transaction boundary, and never splits one
SELECT count(*) FROM event_store.append_batch(array_fill('Round'::text, ARRAY[3]), ARRAY['r-1', 'r-2', 'r-1'], array_fill('Added'::text, ARRAY[3]), NULL, durability => 'staged');
SELECT durable FROM event_store.append_event('Round', 'r-3', 0, 'Added', durability => 'staged');
SELECT count(*) FROM event_store.append_batch(array_fill('Round'::text, ARRAY[4]), ARRAY['r-3', 'r-4', 'r-1', 'r-4'], array_fill('Added'::text, ARRAY[4]), NULL, durability => 'staged');
SELECT durable FROM event_store.append_event('Round', 'r-5', 0, 'Added', durability => 'staged');
SELECT event_store.drain(1), pg_temp.events('Round', 'r-1');
SELECT pg_temp.events('Round', 'r-1'), pg_temp.events('Round', 'r-2'), pg_temp.events('Round', 'r-3'), pg_temp.events('Round', 'r-4'), pg_temp.events('Round', 'r-5');
SELECT event_store.drain(2);
SELECT pg_temp.events('Round', 'r-1'), pg_temp.events('Round', 'r-2'), pg_temp.events('Round', 'r-3'), pg_temp.events('Round', 'r-4'), pg_temp.events('Round', 'r-5');
SELECT pg_temp.staged();
SELECT event_store.drain(1000);
SELECT event_store.drain(1000);
SELECT pg_temp.staged();
-- positions follow the order of staging
SELECT aggregate_id, sequence FROM event_store.domain_events WHERE aggregate_type = 'Round' ORDER BY global_position;
-- one large transaction goes alone, in one round
SELECT count(*) FROM event_store.append_batch(array_fill('Large'::text, ARRAY[500]), array_fill('l-1'::text, ARRAY[500]), array_fill('Added'::text, ARRAY[500]), NULL, durability => 'staged');
SELECT event_store.drain(10);
SELECT count(global_position), max(sequence), max(global_position) - min(global_position) FROM event_store.load_events('Large', 'l-1');

-- events are never coalesced, staged views are
SELECT durable FROM event_store.append_event('Coalesced', 'c-1', NULL, 'Added', durability => 'staged');
SELECT event_store.put_view('Coalesced', 'c-1', '1', 1, 'staged'), event_store.put_view('Coalesced', 'c-1', '2', 2, 'staged'),
       event_store.put_view('Coalesced', 'c-2', '1', durability => 'staged');
SELECT event_store.put_view('Coalesced', 'c-1', '3', 3, 'staged');
SELECT event_store.put_view('Coalesced', 'c-1', '2.5', 2, 'staged');
SELECT event_store.delete_view('Coalesced', 'c-2', 'staged');
SELECT durable FROM event_store.append_event('Coalesced', 'c-1', NULL, 'Added', durability => 'staged');
SELECT pg_temp.staged();
CREATE TABLE public.regress_writes (view_key text, operation text);
CREATE FUNCTION public.regress_note_write() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO public.regress_writes VALUES (COALESCE(NEW.view_key, OLD.view_key), TG_OP); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON event_store.domain_views FOR EACH ROW EXECUTE FUNCTION public.regress_note_write();
SELECT event_store.drain();
SELECT * FROM public.regress_writes ORDER BY 1, 2;
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'Coalesced';
SELECT pg_temp.events('Coalesced', 'c-1');
DROP TRIGGER note ON event_store.domain_views;
DROP FUNCTION public.regress_note_write();
DROP TABLE public.regress_writes;

-- what a row is to blame for: it, the later events of its aggregate and the view
-- writes of those transactions become dead letters, all else goes on
SET client_min_messages = error;
ALTER TABLE event_store.domain_events ADD CONSTRAINT regress_no_poison CHECK (event_type <> 'Poison') NOT VALID;
SELECT durable FROM event_store.append_event('Dead', 'd-1', 0, 'Added', '{"n": 1}', durability => 'staged');
BEGIN;
SELECT durable FROM event_store.append_event('Dead', 'd-1', 1, 'Poison', '{"n": 2}', '{"m": 1}', pg_temp.id(1), 'corr', 'caus', 'saga', '2020-02-29 00:00+00', durability => 'staged');
SELECT event_store.put_view('Dead', 'd-1', '{"n": 2}', 2, durability => 'staged');
SELECT durable FROM event_store.append_event('Dead', 'd-2', 0, 'Added', durability => 'staged');
COMMIT;
SELECT durable FROM event_store.append_event('Dead', 'd-2', 1, 'Added', durability => 'staged');
BEGIN;
SELECT durable FROM event_store.append_event('Dead', 'd-1', 2, 'Added', '{"n": 3}', durability => 'staged');
SELECT event_store.put_view('Dead', 'd-1', '{"n": 3}', 3, durability => 'staged');
SELECT event_store.put_view('Dead', 'd-1b', '{"n": 3}', durability => 'staged');
COMMIT;
SELECT event_store.put_view('Dead', 'd-3', '{"n": 1}', durability => 'staged');
SELECT durable FROM event_store.append_event('Dead', 'd-3', 0, 'Added', payload_bytes => '\x01', durability => 'staged');
SELECT event_store.drain();
SELECT pg_temp.staged();
SELECT kind, aggregate_type, aggregate_id, sequence, event_id = pg_temp.id(1) AS same_id, event_type, schema_version, payload, metadata,
       correlation_id, causation_id, saga_id, occurred_at = '2020-02-29 00:00+00' AS occurred, recorded_at IS NOT NULL AS recorded,
       view_name, view_key, view_data, version, error_code, error_message, attempts, failed_at <= clock_timestamp() AS failed
  FROM event_store.dead_letters WHERE aggregate_type = 'Dead' ORDER BY id;
-- loading hides them, everything else is there
SELECT pg_temp.events('Dead', 'd-1'), pg_temp.events('Dead', 'd-2'), pg_temp.events('Dead', 'd-3');
SELECT view_key, view_data FROM event_store.load_views('Dead');
SELECT event_store.flush(), (SELECT count(*) FROM event_store.load_event(pg_temp.id(1)));
-- the aggregate takes no appends meanwhile, others do
SELECT pg_temp.refused($$SELECT event_store.append_event('Dead', 'd-1', NULL, 'Added')$$);
SELECT pg_temp.refused($$SELECT event_store.append_event('Dead', 'd-1', 1, 'Added', durability => 'staged')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Dead', 'd-1', NULL, '{"event_type": "Added"}')$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Dead', 'Dead'], ARRAY['d-2', 'd-1'], ARRAY['A', 'A'], NULL)$$);
SELECT pg_temp.refused($$SELECT event_store.append_batch(ARRAY['Dead', 'Dead'], ARRAY['d-2', 'd-1'], ARRAY['A', 'A'], NULL, on_conflict => 'report')$$);
SELECT last_sequence FROM event_store.append_event('Dead', 'd-2', 2, 'Added');
-- retried while the cause is there: one attempt more of all, and the error of the one that failed
CREATE TEMPORARY TABLE failed AS SELECT id, failed_at FROM event_store.dead_letters;
UPDATE event_store.dead_letters SET error_message = 'before' WHERE kind = 'event';
SET client_min_messages = warning;
SELECT event_store.retry_dead_letters('Dead', 'd-1');
SET client_min_messages = error;
SELECT d.kind, d.sequence, d.view_key, d.error_code, d.error_message, d.attempts, d.failed_at > f.failed_at AS failed_later
  FROM event_store.dead_letters d LEFT JOIN failed f USING (id) WHERE d.aggregate_type = 'Dead' ORDER BY d.id;
SELECT count(*) FROM event_store.dead_letter_history WHERE aggregate_type = 'Dead';
SELECT event_store.retry_dead_letters('Dead', 'nothing');
-- retried when it is gone
ALTER TABLE event_store.domain_events DROP CONSTRAINT regress_no_poison;
SELECT event_store.retry_dead_letters('Dead', 'd-1');
SELECT h.kind, h.aggregate_type, h.aggregate_id, h.sequence, h.event_id = pg_temp.id(1) AS same_id, h.event_type, h.view_name, h.view_key,
       h.error_code, h.attempts, h.failed_at > f.failed_at AS failed, h.outcome, h.reason, h.settled_by = current_user AS by_me,
       h.settled_at <= clock_timestamp() AS settled
  FROM event_store.dead_letter_history h JOIN failed f ON f.id = h.letter_id ORDER BY h.letter_id;
SELECT sequence, event_type, payload, correlation_id, global_position IS NOT NULL FROM event_store.load_events('Dead', 'd-1');
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'Dead' ORDER BY view_key;
SELECT count(*) FROM event_store.dead_letters WHERE aggregate_type = 'Dead';
SELECT last_sequence, outcome FROM event_store.append_event('Dead', 'd-1', 1, 'Poison', '{"n": 2}', event_id => pg_temp.id(1));
SELECT last_sequence FROM event_store.append_event('Dead', 'd-1', 3, 'Added');

-- discarded: they never happened
ALTER TABLE event_store.domain_events ADD CONSTRAINT regress_no_poison CHECK (event_type <> 'Poison') NOT VALID;
SELECT durable FROM event_store.append_event('Dead', 'd-4', 0, 'Poison', event_id => pg_temp.id(2), durability => 'staged');
SELECT durable FROM event_store.append_event('Dead', 'd-4', 1, 'Added', durability => 'staged');
SELECT event_store.drain();
SELECT pg_temp.events('Dead', 'd-4'), event_store.aggregate_sequence('Dead', 'd-4');
SELECT pg_temp.refused($$SELECT event_store.discard_dead_letters('Dead', 'd-4', NULL)$$);
SELECT event_store.discard_dead_letters('Dead', 'd-4', 'never happened');
SELECT event_store.discard_dead_letters('Dead', 'd-4', 'never happened');
SELECT sequence, event_type, attempts, outcome, reason FROM event_store.dead_letter_history WHERE aggregate_id = 'd-4' ORDER BY letter_id;
SELECT last_sequence, outcome FROM event_store.append_event('Dead', 'd-4', 0, 'Added', event_id => pg_temp.id(2));

-- a staged event whose id another aggregate took durably at the same time: VS002 in dead_letters
SELECT durable FROM event_store.append_event('Dead', 'd-5', 0, 'Added', event_id => pg_temp.id(3), durability => 'staged');
INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
    VALUES (-103, 'Dead', 'd-6', 1, pg_temp.id(3), 'Added', '{}', now(), now());
SELECT event_store.drain();
SELECT aggregate_id, sequence, error_code, attempts FROM event_store.dead_letters WHERE aggregate_type = 'Dead' ORDER BY id;
SELECT event_store.discard_dead_letters('Dead', 'd-5', 'taken');
-- a staged event that does not continue its log
SELECT durable FROM event_store.append_event('Dead', 'd-7', 0, 'Added', durability => 'staged');
INSERT INTO event_store.domain_events (global_position, aggregate_type, aggregate_id, sequence, event_id, event_type, payload, occurred_at, recorded_at)
    VALUES (-104, 'Dead', 'd-7', 1, pg_temp.id(4), 'Added', '{}', now(), now());
SELECT event_store.drain();
SELECT aggregate_id, sequence, error_code, error_message FROM event_store.dead_letters WHERE aggregate_type = 'Dead' ORDER BY id;
SELECT pg_temp.refused($$SELECT event_store.retry_dead_letters('Dead', 'd-7')$$);
SELECT event_store.discard_dead_letters('Dead', 'd-7', 'taken');

-- a view write that fails by itself takes no event along
ALTER TABLE event_store.domain_views ADD CONSTRAINT regress_no_poison CHECK (view_data <> '"poison"');
BEGIN;
SELECT durable FROM event_store.append_event('Dead', 'd-8', 0, 'Added', durability => 'staged');
SELECT event_store.put_view('Dead', 'd-8', '"poison"', 7, 'staged');
SELECT event_store.put_view('Dead', 'd-9', '"good"', durability => 'staged');
COMMIT;
SELECT event_store.drain();
SELECT pg_temp.events('Dead', 'd-8'), event_store.load_view('Dead', 'd-8'), event_store.load_view('Dead', 'd-9');
SELECT kind, aggregate_type, aggregate_id, view_name, view_key, view_data, version, error_code FROM event_store.dead_letters;
SELECT last_sequence FROM event_store.append_event('Dead', 'd-8', 1, 'Added');
ALTER TABLE event_store.domain_views DROP CONSTRAINT regress_no_poison;
SELECT event_store.retry_dead_letters('Dead', 'd-8');
SELECT event_store.load_view('Dead', 'd-8');
SELECT count(*) FROM event_store.dead_letters;

-- ids that were restored are ahead of the identity: burying goes on behind them
SELECT durable FROM event_store.append_event('Dead', 'i-1', 0, 'Poison', durability => 'staged');
SELECT event_store.drain();
ALTER TABLE event_store.dead_letters ALTER id RESTART WITH 1;
UPDATE event_store.dead_letters SET id = DEFAULT;
INSERT INTO event_store.dead_letters (id, kind, aggregate_type, aggregate_id, view_name, view_key, error_code, error_message, attempts)
    OVERRIDING SYSTEM VALUE SELECT i, 'view', 'Restored', 'r-' || i, 'Restored', 'r-' || i, '23514', 'restored', 1 FROM generate_series(2, 50) i;
SELECT durable FROM event_store.append_event('Dead', 'i-2', 0, 'Poison', durability => 'staged');
SELECT event_store.drain();
SELECT id, aggregate_id FROM event_store.dead_letters WHERE aggregate_type = 'Dead' ORDER BY id;
SELECT event_store.discard_dead_letters('Dead', 'i-' || i, 'a test') FROM generate_series(1, 2) i;
DELETE FROM event_store.dead_letters;
-- what was settled is pruned by its age
SELECT event_store.prune_dead_letter_history(), event_store.prune_dead_letter_history('1 hour');
UPDATE event_store.dead_letter_history SET settled_at = now() - interval '2 hours' WHERE aggregate_id LIKE 'i-%';
SELECT event_store.prune_dead_letter_history('3 hours'), event_store.prune_dead_letter_history('1 hour');
SET event_store.dead_letter_retention = '1h';
UPDATE event_store.dead_letter_history SET settled_at = now() - interval '2 hours' WHERE aggregate_id = 'd-4';
SELECT event_store.prune_dead_letter_history(), event_store.prune_dead_letter_history();
RESET event_store.dead_letter_retention;
SELECT count(*) > 0 FROM event_store.dead_letter_history;
SELECT pg_temp.refused($$SELECT event_store.prune_dead_letter_history('-1s')$$);

-- an error of the world: nothing becomes a dead letter, nothing is lost
CREATE FUNCTION public.regress_world() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER world BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION public.regress_world();
SELECT durable FROM event_store.append_event('World', 'w-1', 0, 'Added', durability => 'staged');
SELECT event_store.drain();
\echo :SQLSTATE
SELECT pg_temp.staged(), pg_temp.events('World', 'w-1'), (SELECT count(*) FROM event_store.dead_letters);
DROP TRIGGER world ON event_store.domain_events;
DROP FUNCTION public.regress_world();
SELECT event_store.drain();
SELECT pg_temp.staged(), pg_temp.events('World', 'w-1');
-- and where every row fails alike, it is taken for the world's
SELECT count(*) FROM unnest(ARRAY['w-2', 'w-3', 'w-4']) id, LATERAL event_store.append_event('World', id, 0, 'Poison', durability => 'staged');
SELECT durable FROM event_store.append_event('World', 'w-5', 0, 'Poison', durability => 'staged');
SELECT event_store.drain();
\echo :SQLSTATE
SELECT pg_temp.staged(), (SELECT count(*) FROM event_store.dead_letters);
-- but not for ever: the worker gives up on them after some rounds
ALTER SYSTEM SET event_store.retry_initial = '1ms';
ALTER SYSTEM SET event_store.retry_max = '1ms';
SELECT pg_catalog.pg_reload_conf();
SELECT event_store.flush('10min');
SELECT pg_temp.staged(), event_store.aggregate_sequence('World', 'w-3');
SELECT aggregate_id, sequence, error_code FROM event_store.dead_letters ORDER BY aggregate_id;
ALTER TABLE event_store.domain_events DROP CONSTRAINT regress_no_poison;
SELECT event_store.retry_dead_letters('World', 'w-' || i) FROM generate_series(2, 5) i;
SELECT pg_temp.events('World', 'w-3'), (SELECT count(*) FROM event_store.dead_letters);
ALTER SYSTEM RESET event_store.retry_initial;
ALTER SYSTEM RESET event_store.retry_max;
SELECT consecutive_failures, last_error FROM event_store.staging_status;
RESET client_min_messages;

-- ids of a caller that all begin alike: each is found by itself
CREATE FUNCTION pg_temp.plain_id(n int) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    RETURN ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid;
SELECT count(*), count(*) FILTER (WHERE outcome = 'appended')
  FROM generate_series(1, 2000) n,
       event_store.append_event('Plain', 'p-' || n % 7, NULL, 'Added', jsonb_build_object('n', n), event_id => pg_temp.plain_id(n), durability => 'staged');
SELECT last_sequence
  FROM event_store.append_events('Plain', 'list', 0,
           (SELECT jsonb_agg(jsonb_build_object('event_type', 'Added', 'event_id', pg_temp.plain_id(2499 + n)) ORDER BY n) FROM generate_series(1, 500) n), 'staged');
SELECT count(*), count(DISTINCT event_id), max(sequence) FROM event_store.load_events('Plain', 'list');
SELECT n, aggregate_id, sequence, payload, global_position FROM unnest(ARRAY[1, 77, 1000, 2000, 2500, 2750, 2999]) n, event_store.load_event(pg_temp.plain_id(n)) ORDER BY n;
SELECT count(*) FROM unnest(ARRAY[0, 2001, 2499, 3000]) n, event_store.load_event(pg_temp.plain_id(n));
SELECT first_sequence, last_sequence, outcome FROM event_store.append_event('Plain', 'p-1', NULL, 'Added', '{"n": 1002}', event_id => pg_temp.plain_id(1002), durability => 'staged');
SELECT first_sequence, last_sequence, outcome FROM event_store.append_event('Plain', 'p-1', NULL, 'Added', event_id => pg_temp.plain_id(2002), durability => 'staged');
SELECT pg_temp.refused($$SELECT event_store.append_event('Plain', 'p-2', NULL, 'Added', event_id => pg_temp.plain_id(1002), durability => 'staged')$$);
-- without a look at the others
CREATE FUNCTION pg_temp.blocks_read(statement text) RETURNS int
    LANGUAGE plpgsql
AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement INTO plan;
    RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::int + (plan #>> '{0,Plan,Shared Read Blocks}')::int;
END
$$;
SELECT n, pg_temp.blocks_read(format('SELECT FROM event_store.load_event(pg_temp.plain_id(%s))', n)) < 20 FROM unnest(ARRAY[1998, 2450, 3100]) n;
SELECT event_store.flush('10min');
SELECT event_store.aggregate_sequence('Plain', 'list'), e.sequence, e.global_position IS NOT NULL FROM event_store.load_event(pg_temp.plain_id(77)) e;

-- written through: no delay at all
ALTER SYSTEM SET event_store.write_delay = 0;
SELECT pg_catalog.pg_reload_conf();
\c -
\pset format unaligned
\pset null null
\t on
SELECT last_sequence, durable, last_position IS NOT NULL FROM event_store.append_event('Through', 't-1', 0, 'Added', durability => 'staged');
SELECT sequence, global_position IS NOT NULL FROM event_store.append_batch(ARRAY['Through'], ARRAY['t-1'], ARRAY['Added'], NULL, durability => 'staged');
SELECT event_store.put_view('Through', 't-1', '1', durability => 'staged');
SELECT view_data FROM event_store.domain_views WHERE view_name = 'Through';
-- no room at all
ALTER SYSTEM SET event_store.write_delay = '1h';
ALTER SYSTEM SET event_store.staging_limit = 0;
SELECT pg_catalog.pg_reload_conf();
\c -
\pset format unaligned
\pset null null
\t on
SELECT last_sequence, durable, last_position IS NOT NULL FROM event_store.append_event('Through', 't-1', 2, 'Added', durability => 'staged');
SET event_store.on_staging_full = 'error';
SELECT last_sequence, durable, last_position IS NOT NULL FROM event_store.append_event('Through', 't-1', 3, 'Added', durability => 'staged');
-- room for three: what is committed counts
ALTER SYSTEM SET event_store.staging_limit = 3;
SELECT pg_catalog.pg_reload_conf();
\c -
\pset format unaligned
\pset null null
\t on
SELECT event_store.flush();
SELECT durable FROM event_store.append_events('Full', 'f-1', 0, '[{"event_type": "A"}, {"event_type": "B"}]', durability => 'staged');
SELECT durable FROM event_store.append_event('Full', 'f-2', 0, 'A', durability => 'staged');
SELECT staged_events FROM event_store.staging_status;
-- durable, the default
SELECT durable FROM event_store.append_event('Full', 'f-3', 0, 'A', durability => 'staged');
SELECT staged_events FROM event_store.staging_status;
-- error
SET event_store.on_staging_full = 'error';
SELECT durable FROM event_store.append_event('Full', 'f-4', 0, 'A', durability => 'staged');
\echo :SQLSTATE
SELECT event_store.append_batch(ARRAY['Full'], ARRAY['f-4'], ARRAY['A'], NULL, durability => 'staged');
\echo :SQLSTATE
SELECT event_store.put_view('Full', 'f-4', '1', durability => 'staged');
\echo :SQLSTATE
SELECT durable FROM event_store.append_event('Full', 'f-4', 0, 'A', durability => 'durable');
-- block: the call asks for a drain and waits until there is room
SET event_store.on_staging_full = 'block';
SELECT durable FROM event_store.append_event('Full', 'f-5', 0, 'A', durability => 'staged');
-- what it waited for is gone; a round asked for twice may have taken its own as well
SELECT staged_events <= 1 FROM event_store.staging_status;
-- never in a transaction that holds a lock of an aggregate: there it is let in
SELECT durable FROM event_store.append_events('Full', 'f-6', 0, '[{"event_type": "A"}, {"event_type": "B"}]', durability => 'staged');
BEGIN;
SELECT outcome FROM event_store.append_batch(ARRAY['Full'], ARRAY['f-7'], ARRAY['A'], NULL, ARRAY[7], on_conflict => 'report', durability => 'durable');
SELECT durable FROM event_store.append_event('Full', 'f-8', 0, 'A', durability => 'staged');
COMMIT;
RESET event_store.on_staging_full;
ALTER SYSTEM RESET event_store.staging_limit;
ALTER SYSTEM RESET event_store.write_delay;
ALTER SYSTEM RESET event_store.write_batch_size;
SELECT pg_catalog.pg_reload_conf();
\c -
\t on
SELECT event_store.flush();
SELECT staged_events, staged_views FROM event_store.staging_status;
SELECT count(*) FROM (
    SELECT aggregate_type, aggregate_id FROM event_store.domain_events WHERE aggregate_type <> 'Around'
     GROUP BY 1, 2 HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) broken;
