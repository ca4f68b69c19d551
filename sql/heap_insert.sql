-- heap_insert: appends put their rows into the log without a statement where that loses
-- nothing, and with one where it would; what changes between two appends of a session counts
\pset format unaligned
\pset null null
\t on
-- PostgreSQL 19 compresses in another way, to another size
SET default_toast_compression = pglz;
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
SELECT event_store.flush();

CREATE FUNCTION pg_temp.refused(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    relation text;
    named text;
BEGIN
    EXECUTE statement;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS relation = TABLE_NAME, named = CONSTRAINT_NAME;
    RETURN SQLSTATE || ' ' || SQLERRM || ' (' || relation || ', ' || named || ')';
END
$$;

-- Which way events go: more than a statement takes are one command without statements.
CREATE FUNCTION pg_temp.way() RETURNS text
    LANGUAGE plpgsql
AS $$
DECLARE
    first bigint;
    last bigint;
BEGIN
    SELECT min(a.global_position), max(a.global_position) INTO first, last
      FROM event_store.append_batch(array_fill('Heap'::text, ARRAY[1001]), array_fill('way'::text, ARRAY[1001]),
                                    array_fill('Made'::text, ARRAY[1001]), NULL) a;
    RETURN (SELECT CASE count(DISTINCT e.cmin::text) WHEN 1 THEN 'direct' ELSE 'statements' END
              FROM event_store.domain_events e WHERE e.global_position BETWEEN first AND last);
END
$$;
-- Appends one event.
CREATE FUNCTION pg_temp.append(id text, type text DEFAULT 'Made') RETURNS text
    LANGUAGE sql
AS $$ SELECT pg_temp.refused(format('SELECT event_store.append_event(''Heap'', %L, NULL, %L)', id, type)) $$;

SELECT pg_temp.way();

-- a unique key that is violated, alone and in a batch, and the session goes on
CREATE UNIQUE INDEX heap_unique_idx ON event_store.domain_events (correlation_id) WHERE saga_id IS NOT NULL AND causation_id IS NULL;
SELECT last_sequence FROM event_store.append_event('Heap', 'unique', 0, 'Made', correlation_id => 'one', saga_id => 'heap');
SELECT pg_temp.refused($$SELECT event_store.append_event('Heap', 'unique', 1, 'Made', correlation_id => 'one', saga_id => 'heap')$$);
SELECT last_sequence FROM event_store.append_event('Heap', 'unique', 1, 'Made', correlation_id => 'two', saga_id => 'heap');
SELECT pg_temp.refused($$SELECT event_store.append_events('Heap', 'unique', 2, '[{"event_type": "Made"}, {"event_type": "Made", "correlation_id": "two", "saga_id": "heap"}]')$$);
SELECT last_sequence FROM event_store.append_events('Heap', 'unique', 2, '[{"event_type": "Made"}, {"event_type": "Made", "correlation_id": "three", "saga_id": "heap"}]');
SELECT event_store.append_event('Heap', 'unique', 4, 'Made', correlation_id => 'three', saga_id => 'heap');
SELECT last_sequence FROM event_store.append_event('Heap', 'unique', 4, 'Made');
DROP INDEX event_store.heap_unique_idx;
SELECT count(*), max(sequence) FROM event_store.load_events('Heap', 'unique');

-- the same rows either way: rare columns, large values, such as are stored elsewhere, NULL
CREATE TABLE heap_large AS SELECT jsonb_build_object('text', string_agg(md5(i::text), '')) AS one, decode(string_agg(md5(i::text), ''), 'hex') AS two
    FROM generate_series(1, 2000) i;
CREATE FUNCTION pg_temp.fill(way text) RETURNS bigint
    LANGUAGE sql
AS $$
    SELECT count(*) FROM (
        SELECT event_store.append_event('Heap', way, 0, 'All', '{"n": 1}', metadata => '{"m": 1}', correlation_id => 'c', causation_id => 'd',
                                        saga_id => 's', schema_version => 7, occurred_at => '2020-01-01')
        UNION ALL SELECT event_store.append_event('Heap', way, 1, 'Few')
        UNION ALL SELECT event_store.append_event('Heap', way, 2, 'Large', (SELECT one FROM heap_large))
        UNION ALL SELECT event_store.append_event('Heap', way, 3, 'Raw', payload_bytes => (SELECT two FROM heap_large))
        UNION ALL SELECT event_store.append_event('Heap', way, 4, 'Null', 'null')) s
$$;
CREATE FUNCTION pg_temp.fill_many(way text) RETURNS bigint
    LANGUAGE sql
AS $$
    SELECT count(*) FROM event_store.append_events('Heap', way, 5, (SELECT
        '[{"event_type": "Few"}, {"event_type": "All", "payload": {"n": 1}, "metadata": {"m": 1}, "correlation_id": "c", "causation_id": "d",
           "saga_id": "s", "schema_version": 7}]'::jsonb || jsonb_build_object('event_type', 'Large', 'payload', one) FROM heap_large))
$$;
CREATE FUNCTION heap_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.heap_seen SELECT count(*), string_agg(e.event_type, ' ' ORDER BY e.sequence) FROM added e;
    RETURN NULL;
END
$$;
CREATE TABLE heap_seen (rows bigint, types text);
SELECT pg_temp.fill('direct'), pg_temp.fill_many('direct');
SELECT count(*) FROM heap_seen;

-- a trigger for statements, with a transition table
CREATE TRIGGER heap_count AFTER INSERT ON event_store.domain_events
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION heap_count();
SELECT pg_temp.fill('statement'), pg_temp.fill_many('statement');
SELECT * FROM heap_seen;
TRUNCATE heap_seen;
SELECT pg_temp.way();
SELECT sum(rows) FROM heap_seen;
DROP TRIGGER heap_count ON event_store.domain_events;
SELECT pg_temp.way();
SELECT sequence, event_type, schema_version, md5(payload::text), pg_column_size(payload), md5(payload_bytes), pg_column_size(payload_bytes),
       metadata, correlation_id, causation_id, saga_id
  FROM event_store.domain_events WHERE (aggregate_type, aggregate_id) = ('Heap', 'direct') ORDER BY sequence;
SELECT count(*) FROM (
    SELECT aggregate_id, to_jsonb(e) - ARRAY['aggregate_id', 'global_position', 'event_id', 'occurred_at', 'recorded_at'],
           pg_column_size(payload), pg_column_compression(payload), pg_column_size(payload_bytes), pg_column_size(metadata)
      FROM event_store.domain_events e WHERE aggregate_type = 'Heap' AND aggregate_id IN ('direct', 'statement')) s
 GROUP BY to_jsonb(s) - 'aggregate_id' HAVING count(*) <> 2;

-- the same counters
CREATE VIEW pg_temp.counted AS
    SELECT n_tup_ins, n_tup_upd + n_tup_del + n_tup_hot_upd AS others
      FROM pg_stat_xact_user_tables WHERE relid = 'event_store.domain_events'::regclass;
BEGIN;
SELECT * FROM pg_temp.counted \gset
SELECT pg_temp.append('counted'), pg_temp.way();
SELECT n_tup_ins - :n_tup_ins, others - :others FROM pg_temp.counted;
ROLLBACK;
CREATE TRIGGER heap_count AFTER INSERT ON event_store.domain_events
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION heap_count();
BEGIN;
SELECT * FROM pg_temp.counted \gset
SELECT pg_temp.append('counted'), pg_temp.way();
SELECT n_tup_ins - :n_tup_ins, others - :others FROM pg_temp.counted;
ROLLBACK;
DROP TRIGGER heap_count ON event_store.domain_events;

-- a trigger for rows that suppresses
CREATE FUNCTION heap_suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER heap_suppress BEFORE INSERT ON event_store.domain_events
    FOR EACH ROW WHEN (NEW.event_type = 'Noise') EXECUTE FUNCTION heap_suppress();
SELECT pg_temp.append('noise'), pg_temp.append('noise', 'Noise');
DROP TRIGGER heap_suppress ON event_store.domain_events;
SELECT pg_temp.append('noise', 'Noise');
-- a name makes no guard of the log of it
DROP TRIGGER domain_events_append_only ON event_store.domain_events;
CREATE TRIGGER domain_events_append_only BEFORE INSERT ON event_store.domain_events
    FOR EACH ROW WHEN (NEW.event_type = 'Noise') EXECUTE FUNCTION heap_suppress();
SELECT pg_temp.append('noise'), pg_temp.append('noise', 'Noise'), pg_temp.way();
DROP TRIGGER domain_events_append_only ON event_store.domain_events;
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
SELECT pg_temp.append('noise', 'Noise'), pg_temp.way();

-- a rule
CREATE RULE heap_also AS ON INSERT TO event_store.domain_events DO ALSO INSERT INTO public.heap_seen VALUES (0, NEW.event_type);
SELECT pg_temp.append('rule', 'Ruled');
DROP RULE heap_also ON event_store.domain_events;
-- until then the catalog says that there may be rules
VACUUM event_store.domain_events;
SELECT pg_temp.way();
SELECT * FROM heap_seen WHERE rows = 0;

-- constraints: such as ours, and others
ALTER TABLE event_store.domain_events ADD CONSTRAINT heap_plain CHECK (causation_id IS NULL) NOT VALID;
SELECT pg_temp.way();
SELECT pg_temp.refused($$SELECT event_store.append_event('Heap', 'check', NULL, 'Made', causation_id => 'x')$$);
SELECT pg_temp.refused($$SELECT event_store.append_events('Heap', 'check', NULL, '[{"event_type": "Made"}, {"event_type": "Made", "causation_id": "x"}]')$$);
SELECT pg_temp.append('check'), pg_temp.way();
ALTER TABLE event_store.domain_events DROP CONSTRAINT heap_plain;
SELECT pg_temp.refused($$SELECT event_store.append_event('Heap', 'check', NULL, 'Made', causation_id => 'x')$$);
ALTER TABLE event_store.domain_events ADD CONSTRAINT heap_other CHECK (lower(event_type) <> 'refused') NOT VALID;
SELECT pg_temp.append('check', 'Refused'), pg_temp.way();
ALTER TABLE event_store.domain_events DROP CONSTRAINT heap_other;
SELECT pg_temp.append('check', 'Refused');
BEGIN;
ALTER TABLE event_store.domain_events ADD CONSTRAINT heap_plain CHECK (saga_id IS NULL) NOT VALID;
SAVEPOINT s;
SELECT pg_temp.refused($$SELECT event_store.append_event('Heap', 'check', NULL, 'Made', saga_id => 'x')$$);
ROLLBACK TO s;
ALTER TABLE event_store.domain_events DROP CONSTRAINT heap_plain;
SELECT last_sequence > 0 FROM event_store.append_event('Heap', 'check', NULL, 'Made', saga_id => 'x');
ROLLBACK;
SELECT pg_temp.append('check');

-- a foreign key
CREATE TABLE heap_types (type text COLLATE "C" PRIMARY KEY);
INSERT INTO heap_types VALUES ('Made');
ALTER TABLE event_store.domain_events ADD CONSTRAINT heap_type FOREIGN KEY (event_type) REFERENCES heap_types NOT VALID;
SELECT pg_temp.append('key'), pg_temp.append('key', 'Unknown'), pg_temp.way();
ALTER TABLE event_store.domain_events DROP CONSTRAINT heap_type;

-- columns: a default, values that are computed, one that was added and dropped again
ALTER TABLE event_store.domain_events ALTER saga_id SET DEFAULT 'by default';
SELECT pg_temp.way();
SELECT DISTINCT saga_id FROM event_store.domain_events WHERE aggregate_type = 'Heap' AND aggregate_id = 'way' ORDER BY 1;
ALTER TABLE event_store.domain_events ALTER saga_id DROP DEFAULT;
BEGIN;
ALTER TABLE event_store.domain_events ADD heap_hash text GENERATED ALWAYS AS (md5(event_type)) STORED, ADD heap_user text DEFAULT current_user;
SELECT pg_temp.append('computed'), pg_temp.way();
SELECT heap_hash = md5('Made'), heap_user = current_user FROM event_store.domain_events WHERE (aggregate_type, aggregate_id) = ('Heap', 'computed');
ROLLBACK;
SELECT pg_temp.way();
BEGIN;
ALTER TABLE event_store.domain_events ADD heap_gone text;
ALTER TABLE event_store.domain_events DROP heap_gone;
SELECT pg_temp.append('dropped'), pg_temp.way();
SELECT count(*) FROM event_store.load_events('Heap', 'dropped');
ROLLBACK;
BEGIN;
ALTER TABLE event_store.domain_events ALTER saga_id SET STORAGE PLAIN;
SELECT pg_temp.append('storage'), pg_temp.way();
ROLLBACK;

-- indexes: one more, one of an expression, a partial one, rebuilt ones
CREATE FUNCTION pg_temp.found(condition text) RETURNS bigint
    LANGUAGE plpgsql
    SET enable_seqscan = off
AS $$
DECLARE
    found bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM event_store.domain_events WHERE ' || condition INTO found;
    RETURN found;
END
$$;
CREATE INDEX heap_causation_idx ON event_store.domain_events (causation_id) WHERE causation_id IS NOT NULL;
CREATE INDEX heap_payload_idx ON event_store.domain_events USING gin (payload);
SELECT pg_temp.way();
SELECT count(event_store.append_event('Heap', 'index', NULL, 'Made', jsonb_build_object('heap', i), causation_id => 'heap-' || i)) FROM generate_series(1, 3) i;
SELECT pg_temp.found($$causation_id LIKE 'heap-%'$$), pg_temp.found($$payload @> '{"heap": 2}'$$);
DROP INDEX event_store.heap_payload_idx;
REINDEX INDEX event_store.heap_causation_idx;
REINDEX TABLE event_store.domain_events;
SELECT last_sequence FROM event_store.append_event('Heap', 'index', NULL, 'Made', causation_id => 'heap-4');
REINDEX INDEX CONCURRENTLY event_store.heap_causation_idx;
SELECT last_sequence FROM event_store.append_event('Heap', 'index', NULL, 'Made', causation_id => 'heap-5');
SELECT pg_temp.found($$causation_id >= 'heap-' AND causation_id < 'heap.'$$), pg_temp.found($$aggregate_type = 'Heap' AND aggregate_id = 'index'$$);
DROP INDEX event_store.heap_causation_idx;
CREATE INDEX heap_lower_idx ON event_store.domain_events (lower(aggregate_id));
SELECT pg_temp.append('UPPER'), pg_temp.way(), pg_temp.found($$lower(aggregate_id) = 'upper'$$);
DROP INDEX event_store.heap_lower_idx;
SELECT pg_temp.append('UPPER'), pg_temp.way();

-- nothing is written where nothing may be
BEGIN READ ONLY;
SELECT event_store.append_event('Heap', 'read only', 0, 'Made');
ROLLBACK;

-- what a transaction has appended it sees, and what a savepoint took back it does not
BEGIN;
SELECT last_sequence FROM event_store.append_event('Heap', 'own', 0, 'Made');
SELECT count(*) FROM event_store.domain_events WHERE (aggregate_type, aggregate_id) = ('Heap', 'own');
SAVEPOINT s;
SELECT last_sequence FROM event_store.append_event('Heap', 'own', 1, 'Made');
ROLLBACK TO s;
SELECT last_sequence FROM event_store.append_event('Heap', 'own', 1, 'Kept');
COMMIT;
SELECT sequence, event_type FROM event_store.load_events('Heap', 'own');

-- an owner who is no superuser: policies that hold for him, rights that are taken from him
BEGIN;
CREATE ROLE regress_heap_owner;
GRANT USAGE ON SCHEMA event_store, public TO regress_heap_owner;
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT k.relname, k.relkind FROM pg_class k
              WHERE k.relnamespace = 'event_store'::regnamespace AND k.relkind IN ('r', 'S')
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = k.oid AND d.deptype IN ('e', 'i', 'a')) LOOP
        EXECUTE format('ALTER %s event_store.%I OWNER TO regress_heap_owner', CASE c.relkind WHEN 'r' THEN 'TABLE' ELSE 'SEQUENCE' END, c.relname);
    END LOOP;
END
$$;
SELECT pg_temp.append('owner'), pg_temp.way();
CREATE POLICY heap_visible ON event_store.domain_events USING (true) WITH CHECK (event_type <> 'Secret');
ALTER TABLE event_store.domain_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT pg_temp.append('owner'), pg_temp.append('owner', 'Secret'), pg_temp.way();
ALTER TABLE event_store.domain_events DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
SELECT pg_temp.append('owner', 'Secret'), pg_temp.way();
SAVEPOINT s;
REVOKE INSERT ON event_store.domain_events FROM regress_heap_owner;
SELECT pg_temp.append('owner');
ROLLBACK TO s;
REVOKE USAGE ON SCHEMA event_store FROM regress_heap_owner;
SELECT pg_temp.append('owner');
ROLLBACK TO s;
-- and such as he has by another role, or as a superuser
CREATE ROLE regress_heap_writer;
REVOKE INSERT ON event_store.domain_events FROM regress_heap_owner;
GRANT INSERT ON event_store.domain_events TO regress_heap_writer;
GRANT regress_heap_writer TO regress_heap_owner;
SELECT pg_temp.append('owner');
REVOKE regress_heap_writer FROM regress_heap_owner;
SELECT pg_temp.append('owner');
ALTER ROLE regress_heap_owner SUPERUSER;
SELECT pg_temp.append('owner'), pg_temp.way();
ALTER ROLE regress_heap_owner NOSUPERUSER;
SELECT pg_temp.append('owner');
ROLLBACK TO s;
SELECT pg_temp.append('owner'), pg_temp.way();
ROLLBACK;
SELECT pg_temp.append('owner'), pg_temp.way();

DROP TABLE heap_large, heap_seen, heap_types;
DROP FUNCTION heap_count(), heap_suppress();
