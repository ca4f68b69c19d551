-- Grouped appends: another process commits them, together with those of others, and the
-- caller gets what a durable append would have given him.

\pset format unaligned
\pset null null
\t on
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;

-- ---------- the same answers
SELECT first_sequence, last_sequence, last_position > 0 AS has_position, durable, outcome, staging_epoch
  FROM event_store.append_event('Grouped', 'g-1', 0, 'Opened', '{"n": 1}', durability => 'grouped');
SELECT first_sequence, last_sequence, durable, outcome
  FROM event_store.append_event('Grouped', 'g-1', 1, 'Added', '{"n": 2}', durability => 'grouped');
SELECT * FROM event_store.append_event('Grouped', 'g-1', 1, 'Added', durability => 'grouped');
SELECT first_sequence, last_sequence, durable, outcome, staging_epoch
  FROM event_store.append_events('Grouped', 'g-1', 2, '[{"event_type": "Added", "payload": {"n": 3}},
      {"event_type": "Added", "payload": {"n": 4}, "metadata": {"by": "me"}, "correlation_id": "c", "causation_id": "d",
       "saga_id": "s", "schema_version": 7, "occurred_at": "2020-02-03T04:05:06Z"}]', durability => 'grouped');
SELECT first_sequence, last_sequence, durable
  FROM event_store.append_event('Grouped', 'bytes', -4, 'Added', payload_bytes => '\x0001', durability => 'grouped');
SELECT first_sequence, last_sequence, durable
  FROM event_store.append_event('Grouped', 'bytes', 0, 'Added', payload_bytes => '\x0001', durability => 'grouped');
SELECT sequence, event_type, schema_version, payload, metadata, correlation_id, causation_id, saga_id,
       occurred_at AT TIME ZONE 'UTC' = '2020-02-03 04:05:06' AS occurred, occurred_at = recorded_at AS now
  FROM event_store.load_events('Grouped', 'g-1');
SELECT sequence, payload, payload_bytes FROM event_store.load_events('Grouped', 'bytes');

-- ---------- repeated events
SELECT first_sequence, durable, outcome FROM event_store.append_event('Grouped', 'again', 0, 'Added', '{"n": 1}',
    event_id => '0190a6e8-3c5e-7000-8000-00000000aaaa', durability => 'grouped');
SELECT first_sequence, durable, outcome FROM event_store.append_event('Grouped', 'again', 0, 'Added', '{"n": 1}',
    event_id => '0190a6e8-3c5e-7000-8000-00000000aaaa', durability => 'grouped');
\set VERBOSITY terse
SELECT first_sequence FROM event_store.append_event('Grouped', 'again', 0, 'Added', '{"n": 2}',
    event_id => '0190a6e8-3c5e-7000-8000-00000000aaaa', durability => 'grouped');
SELECT first_sequence FROM event_store.append_events('Grouped', 'again', NULL, '[{"event_type": "Added", "payload": {"n": 1},
    "event_id": "0190a6e8-3c5e-7000-8000-00000000aaaa"}, {"event_type": "Added"}]', durability => 'grouped');
\set VERBOSITY default
SELECT count(*) FROM event_store.load_events('Grouped', 'again');

-- ---------- batches
SELECT ordinal, sequence, outcome FROM event_store.append_batch(ARRAY['Grouped', 'Grouped', 'Grouped'], ARRAY['b-1', 'b-2', 'b-1'],
    ARRAY['Added', 'Added', 'Added'], ARRAY['1', '2', '3']::jsonb[], durability => 'grouped');
SELECT ordinal, sequence, global_position IS NULL AS no_position, outcome FROM event_store.append_batch('[
    {"aggregate_type": "Grouped", "aggregate_id": "b-1", "event_type": "Added", "expected_sequence": 2},
    {"aggregate_type": "Grouped", "aggregate_id": "b-2", "event_type": "Added", "expected_sequence": 7},
    {"aggregate_type": "Grouped", "aggregate_id": "b-3", "event_type": "Added", "expected_sequence": 0}]',
    on_conflict => 'report', durability => 'grouped');
SELECT ordinal, sequence, outcome FROM event_store.append_batch('[
    {"aggregate_type": "Grouped", "aggregate_id": "b-1", "event_type": "Added", "expected_sequence": 3},
    {"aggregate_type": "Grouped", "aggregate_id": "b-2", "event_type": "Added", "expected_sequence": 7}]',
    on_conflict => 'report_all', durability => 'grouped');
SELECT count(*) FROM event_store.append_batch('[
    {"aggregate_type": "Grouped", "aggregate_id": "b-1", "event_type": "Added", "expected_sequence": 3},
    {"aggregate_type": "Grouped", "aggregate_id": "b-2", "event_type": "Added", "expected_sequence": 7}]', durability => 'grouped');
SELECT * FROM event_store.append_batch('[]', durability => 'grouped');
-- what is larger than a place in the queue, and than all of it
SELECT count(*), max(sequence) FROM event_store.append_batch(
    (SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Grouped', 'aggregate_id', 'long', 'event_type', 'Added',
         'payload', repeat('x', 100))) FROM generate_series(1, 1000)), durability => 'grouped');
SELECT last_sequence, durable FROM event_store.append_event('Grouped', 'long', 1000, 'Added',
    to_jsonb(repeat('y', 3 * 1024 * 1024)), durability => 'grouped');
SELECT count(*), max(sequence) FROM event_store.append_batch(
    (SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Grouped', 'aggregate_id', 'wide-' || n, 'event_type', 'Added'))
       FROM generate_series(1, 300) n), durability => 'grouped');

-- ---------- a transaction of its own
BEGIN;
SELECT last_sequence FROM event_store.append_event('Grouped', 'g-1', NULL, 'Added', durability => 'grouped');
ROLLBACK;
CREATE FUNCTION grouped_in_subtransaction() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM event_store.append_event('Grouped', 'g-1', NULL, 'Added', durability => 'grouped');
    EXCEPTION WHEN others THEN
        RETURN SQLSTATE;
    END;
    RETURN 'appended';
END
$$;
SELECT grouped_in_subtransaction();
DROP FUNCTION grouped_in_subtransaction;
-- where the transaction has written to the store
SELECT (event_store.append_event('Grouped', 'own', 0, 'Added', durability => 'durable')).last_sequence,
       (event_store.append_event('Grouped', 'other', 0, 'Added', durability => 'grouped')).last_sequence;
SELECT event_store.put_view('grouped', 'k', '{}'), event_store.append_event('Grouped', 'other', 0, 'Added', durability => 'grouped');
SELECT event_store.lock_aggregate('Grouped', 'own'), event_store.append_event('Grouped', 'own', 0, 'Added', durability => 'grouped');
SELECT event_store.aggregate_sequence('Grouped', 'own'), event_store.aggregate_sequence('Grouped', 'other');
-- several in one statement are several
SELECT count(*) FROM generate_series(1, 20) n,
    LATERAL event_store.append_event('Grouped', 'many', n - 1, 'Added', durability => 'grouped');
SELECT count(*) FROM event_store.load_events('Grouped', 'many');
-- of which those before an error stay
SELECT event_store.append_event('Grouped', 'kept', NULL, 'Added', durability => 'grouped'), 1 / (2 - n) FROM generate_series(1, 2) n;
SELECT event_store.aggregate_sequence('Grouped', 'kept') > 0 AS kept;

-- ---------- the setting asks for it where it is possible
SET event_store.durability = 'grouped';
SHOW event_store.durability;
SELECT last_sequence, durable FROM event_store.append_event('Grouped', 'set', 0, 'Added');
BEGIN;
SELECT last_sequence, durable FROM event_store.append_event('Grouped', 'set', 1, 'Added');
SAVEPOINT s;
SELECT last_sequence, durable FROM event_store.append_event('Grouped', 'set', 2, 'Added');
ROLLBACK;
SELECT event_store.aggregate_sequence('Grouped', 'set');
RESET event_store.durability;
SELECT last_sequence FROM event_store.append_event('Grouped', 'set', 1, 'Added', durability => 'group');

-- a trigger's belongs to what has fired it
CREATE TABLE grouped_rows (n int, durability text);
CREATE FUNCTION grouped_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.append_event('Grouped', 'trigger', NULL, 'Added', durability => NEW.durability);
    RETURN NEW;
END
$$;
CREATE TRIGGER grouped_note BEFORE INSERT ON grouped_rows FOR EACH ROW EXECUTE FUNCTION grouped_note();
SET event_store.durability = 'grouped';
INSERT INTO grouped_rows SELECT 1 / (2 - n) FROM generate_series(1, 2) n;
INSERT INTO grouped_rows VALUES (1);
SELECT event_store.aggregate_sequence('Grouped', 'trigger');
INSERT INTO grouped_rows VALUES (1, 'grouped');
RESET event_store.durability;
DROP TABLE grouped_rows;
DROP FUNCTION grouped_note;

-- a read-only transaction writes nothing
SET default_transaction_read_only = on;
SELECT last_sequence FROM event_store.append_event('Grouped', 'set', 1, 'Added', durability => 'grouped');
RESET default_transaction_read_only;

-- ---------- what was staged comes first
SELECT last_sequence, durable FROM event_store.append_event('Grouped', 'staged', 0, 'Added', durability => 'staged');
SELECT last_sequence, durable FROM event_store.append_event('Grouped', 'staged', 1, 'Added', durability => 'grouped');
SELECT sequence, global_position IS NULL AS staged FROM event_store.load_events('Grouped', 'staged');

-- ---------- views
SELECT event_store.put_view('grouped', 'a', '1', 1, 'grouped'), event_store.put_view('grouped', 'a', '1', 1, 'grouped'),
       event_store.put_view('grouped', 'a', '2', 2, 'grouped');
SELECT event_store.put_view('grouped', 'a', '3', 3, 'grouped', expected_version => 1);
SELECT event_store.put_view('grouped', 'a', '3', 3, 'grouped', expected_version => 2);
SELECT event_store.put_view('grouped', 'new', '3', 3, 'grouped', expected_version => 0);
SELECT event_store.put_view('grouped', 'new', '3', 3, 'grouped', expected_version => 0);
SELECT event_store.put_views('grouped', ARRAY['a', 'b', 'c', 'b'], ARRAY['1', '2', '3', '4']::jsonb[], ARRAY[1, 2, 3, 4], 'grouped');
-- one that is refused writes nothing
SELECT event_store.put_views('grouped', ARRAY['b', 'c', 'd'], ARRAY['7', '8', '9']::jsonb[], ARRAY[7, 8, 9], 'grouped', ARRAY[4, 2, 0]);
SELECT event_store.put_views('grouped', ARRAY['b', 'c', 'b'], ARRAY['7', '8', '9']::jsonb[], ARRAY[7, 8, 9], 'grouped', ARRAY[4, 3, 7]);
SELECT event_store.put_views('grouped', '{}', '{}', durability => 'grouped');
SELECT event_store.delete_view('grouped', 'c', 'grouped'), event_store.delete_view('grouped', 'c', 'grouped');
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'grouped' ORDER BY view_key;
BEGIN;
SELECT event_store.put_view('grouped', 'a', '5', 5, 'grouped');
ROLLBACK;
-- the setting asks for it where it is possible
SET event_store.durability = 'grouped';
BEGIN;
SELECT event_store.put_views('grouped', ARRAY['a'], ARRAY['5']::jsonb[], ARRAY[5]);
ROLLBACK;
SELECT event_store.put_view('grouped', 'a', '4', 4);
RESET event_store.durability;
SELECT event_store.put_view('grouped', 's', '1', 1, 'staged');
SELECT event_store.put_view('grouped', 's', '0', 0, 'grouped'), event_store.put_view('grouped', 's', '2', 2, 'grouped');
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'grouped' ORDER BY view_key;
SELECT event_store.put_view('grouped', 'long', to_jsonb(repeat('x', 100000)), durability => 'grouped');
SELECT length(event_store.load_view('grouped', 'long') #>> '{}');
-- a view that a projection keeps
SELECT event_store.create_view_projection('grouped_kept', '{GroupedKept}');
\set VERBOSITY terse
SELECT event_store.put_view('grouped_kept', 'a', '1', durability => 'grouped');
\set VERBOSITY default
SELECT event_store.drop_projection('grouped_kept');

-- ---------- triggers: who they see, what they raise, what they append
CREATE TABLE grouped_seen (aggregate_id text, session_name text, pid int);
CREATE FUNCTION grouped_see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.grouped_seen VALUES (NEW.aggregate_id, session_user, pg_catalog.pg_backend_pid());
    IF NEW.aggregate_id = 'refused' THEN
        RAISE EXCEPTION 'no more' USING ERRCODE = 'P0042', DETAIL = 'It is enough.', HINT = 'Go home.',
            CONSTRAINT = 'enough', TABLE = 'there', SCHEMA = 'here', COLUMN = 'this', DATATYPE = 'that';
    END IF;
    IF NEW.aggregate_id = 'asked' THEN
        PERFORM event_store.append_event('Grouped', 'by a trigger', NULL, 'Added');
        PERFORM event_store.append_event('Grouped', 'by a trigger', NULL, 'Added', durability => 'grouped');
    END IF;
    IF NEW.aggregate_id = 'appends' THEN
        PERFORM event_store.append_event('Grouped', 'by a trigger', NULL, 'Added');
        PERFORM event_store.append_event('Grouped', 'by a trigger', NULL, 'Added', durability => 'staged');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER see AFTER INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION grouped_see();
SELECT last_sequence FROM event_store.append_event('Grouped', 'seen', 0, 'Added', durability => 'grouped');
SELECT aggregate_id, pid <> pg_backend_pid() AS elsewhere FROM grouped_seen ORDER BY aggregate_id;
\set VERBOSITY verbose
SELECT last_sequence FROM event_store.append_event('Grouped', 'refused', 0, 'Added', durability => 'grouped');
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT last_sequence FROM event_store.append_event('Grouped', 'asked', 0, 'Added', durability => 'grouped');
\set SHOW_CONTEXT errors
SELECT last_sequence FROM event_store.append_event('Grouped', 'appends', 0, 'Added', durability => 'grouped');
SELECT sequence, global_position IS NULL AS staged FROM event_store.load_events('Grouped', 'by a trigger');
DROP TRIGGER see ON event_store.domain_events;
DROP FUNCTION grouped_see;
DROP TABLE grouped_seen;

-- a deferred constraint is checked before the answer
CREATE FUNCTION grouped_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.aggregate_id = 'refused' THEN
        RAISE EXCEPTION 'late, but no';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON event_store.domain_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION grouped_refuse();
\set SHOW_CONTEXT never
SELECT last_sequence FROM event_store.append_event('Grouped', 'refused', 0, 'Added', durability => 'grouped');
\set SHOW_CONTEXT errors
SELECT last_sequence FROM event_store.append_event('Grouped', 'taken', 0, 'Added', durability => 'grouped');
DROP TRIGGER refuse ON event_store.domain_events;
DROP FUNCTION grouped_refuse;

-- ---------- who may append may append like this, and needs nothing else
CREATE ROLE grouped_writer;
SELECT event_store.grant_access('grouped_writer', 'writer');
SET ROLE grouped_writer;
SELECT last_sequence, durable FROM event_store.append_event('Grouped', 'writer', 0, 'Added', durability => 'grouped');
RESET ROLE;
DROP OWNED BY grouped_writer;
DROP ROLE grouped_writer;

-- ---------- each call counts once, where it was made
CREATE FUNCTION pg_temp.counted(named text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(value::text, ' ') FROM event_store.metrics WHERE metric = named AND operation = 'append_event'
$$;
SELECT pg_temp.counted('persistence.store.count') AS stored, pg_temp.counted('persistence.errors') AS errors,
       pg_temp.counted('persistence.conflicts') AS conflicts \gset
SELECT last_sequence FROM event_store.append_event('Grouped', 'counted', 0, 'Added', durability => 'grouped');
SELECT last_sequence FROM event_store.append_event('Grouped', 'counted', 0, 'Added', durability => 'grouped');
SELECT pg_temp.counted('persistence.store.count')::numeric - :stored,
       pg_temp.counted('persistence.errors')::numeric - :errors,
       pg_temp.counted('persistence.conflicts')::numeric - :conflicts;

SELECT event_store.flush();
SELECT event_store.clear_view('grouped');
