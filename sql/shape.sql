-- shape: whatever an owner's DDL makes of the store, a call works or says what differs
\pset format unaligned
\pset null null
SELECT current_database() AS regression \gset
CREATE DATABASE regress_shape;
-- what is staged here is drained only on request
ALTER SYSTEM SET event_store.write_delay = '1h';
SELECT pg_catalog.pg_reload_conf();
\c regress_shape
\pset format unaligned
\pset null null
\t on
SET client_min_messages = warning;
CREATE EXTENSION event_store;
SELECT event_store.create_store();

-- something of everything
CREATE FUNCTION public.reduce(state jsonb, e event_store.event) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS
    $$SELECT pg_catalog.jsonb_build_object('n', COALESCE((state ->> 'n')::int, 0) + 1, 'last', e.event_type)$$;
SELECT event_store.set_reducer('Called', 'public.reduce');
SELECT event_store.set_reducer_rules('Ruled', '{"events": {"Placed": [{"op": "set", "path": "$.a", "value": 1}]}}');
SELECT count(*) FROM event_store.append_batch(
    (SELECT jsonb_agg(jsonb_build_object('aggregate_type', t, 'aggregate_id', 'a-1', 'event_type', 'Placed',
                                         'event_id', md5(t || i)::uuid, 'payload', jsonb_build_object('i', i)))
       FROM unnest(ARRAY['Merged', 'Called', 'Ruled']) t, generate_series(1, 20) i), durability => 'durable');
SELECT durable FROM event_store.append_event('Bytes', 'b-1', 0, 'Placed', payload_bytes => '\x0102030405', durability => 'durable');
SELECT event_store.put_view('Views', 'k-' || i, '{"a": [1, 2, 3]}', 1, 'durable') FROM generate_series(1, 3) i;
SELECT event_store.take_snapshot('Called', 'a-1');
SELECT event_store.save_snapshot('Merged', 'a-1', 5, '{"a": 1}');
INSERT INTO event_store.dead_letters (kind, aggregate_type, aggregate_id, sequence, event_id, event_type, schema_version,
                                      payload, occurred_at, recorded_at, error_code, error_message, attempts)
VALUES ('event', 'Dead', 'd-1', 1, md5('dead')::uuid, 'Placed', 1, '{}', now(), now(), '23514', 'refused', 1);
-- every way into the store; some wait for the worker, which DDL that is not committed holds up
CREATE TABLE public.calls (call text, waits boolean DEFAULT false);
INSERT INTO public.calls (call, waits) VALUES
    ($$append_event('Merged', 'a-2', NULL, 'Placed', '{"a": 1}', durability => 'staged')$$, true),
    ($$append_batch('[{"aggregate_type": "Merged", "aggregate_id": "a-4", "event_type": "A"},
                     {"aggregate_type": "Merged", "aggregate_id": "a-5", "event_type": "A"}]', durability => 'staged')$$, true),
    ($$put_view('Views', 'k-2', '{}', 2, 'staged')$$, true),
    ($$clear_view('Other')$$, true),
    ($$rebuild_view('Rebuilt', 'Ruled')$$, true),
    ($$rebuild_view_step('Stepped', 'Merged', 1)$$, true);
INSERT INTO public.calls VALUES
    ($$append_event('Merged', 'a-1', NULL, 'Placed', '{"a": 1}', durability => 'durable')$$),
    ($$append_event('Merged', 'a-1', 20, 'Placed', '{"i": 20}', event_id => md5('Merged20')::uuid, durability => 'durable')$$),
    ($$append_event('Bytes', 'b-1', NULL, 'Placed', payload_bytes => '\x01', durability => 'durable')$$),
    ($$append_events('Merged', 'a-3', 0, '[{"event_type": "A"}, {"event_type": "B"}]', durability => 'durable')$$),
    ($$append_batch(ARRAY['Merged', 'Merged'], ARRAY['a-6', 'a-7'], ARRAY['A', 'A'], NULL, durability => 'durable')$$),
    ($$load_events('Merged', 'a-1')$$),
    ($$load_events('Bytes', 'b-1')$$),
    ($$load_events('Merged', 'a-2', backward => true)$$),
    ($$load_event(md5('Merged3')::uuid)$$),
    ($$aggregate_sequence('Merged', 'a-1')$$),
    ($$aggregate_info('Merged', 'a-1')$$),
    ($$lock_aggregate('Merged', 'a-1')$$),
    ($$assert_sequence('Merged', 'a-1', -4)$$),
    ($$position_at('now')$$),
    ($$delete_snapshot('Merged', 'a-none')$$),
    ($$load_aggregate_ids('Merged')$$),
    ($$put_view('Views', 'k-1', '{}', 2, 'durable')$$),
    ($$put_views('Views', ARRAY['k-1', 'k-9'], ARRAY['{}', '{}']::jsonb[], ARRAY[3, 3], 'durable')$$),
    ($$load_view('Views', 'k-1')$$),
    ($$load_view('Views', 'k-1', for_update => true)$$),
    ($$put_view('Views', 'k-1', '{}', 4, 'durable', expected_version => 3)$$),
    ($$load_views('Views')$$),
    ($$load_view_keys('Views')$$),
    ($$delete_view('Views', 'k-3', 'durable')$$),
    ($$replay_aggregate('Merged', 'a-1')$$),
    ($$replay_aggregate('Called', 'a-1')$$),
    ($$replay_aggregate('Ruled', 'a-1', as_of_sequence => 3)$$),
    ($$replay_aggregates('Called')$$),
    ($$replay_aggregates('Ruled', ARRAY['a-1'])$$),
    ($$save_snapshot('Called', 'a-1', 3, '{}')$$),
    ($$load_snapshot('Merged', 'a-1')$$),
    ($$take_snapshot('Ruled', 'a-1')$$),
    ($$set_reducer('Reduced', 'public.reduce')$$),
    ($$retry_dead_letters('Dead', 'd-1')$$),
    ($$discard_dead_letters('Dead', 'd-1', 'test')$$),
    ($$read_events(0, 5)$$),
    ($$safe_position()$$),
    ($$feed_state()$$),
    ($$staged_rows()$$),
    ($$staging_state()$$),
    ($$metrics_state()$$),
    ($$metrics_series_state()$$),
    ($$openmetrics()$$),
    ($$rebuild_state()$$),
    ($$worker_state()$$),
    ($$load_events('Called', 'a-1') x HAVING event_store.fold_events(x) IS NULL$$),
    ($$load_events('Merged', 'a-1') x HAVING event_store.fold_events(x) IS NULL$$);

-- what all calls come to, with the number of those that say the same
CREATE FUNCTION public.outcomes(waiting boolean) RETURNS SETOF text
    LANGUAGE plpgsql AS $$
DECLARE
    c record;
    said text;
    hint text;
    counts jsonb := '{}';
BEGIN
    FOR c IN SELECT call FROM public.calls WHERE waiting OR NOT waits LOOP
        BEGIN
            EXECUTE pg_catalog.format('SELECT pg_catalog.count(x::text) FROM event_store.%s',
                                      CASE WHEN c.call LIKE '% x %' THEN c.call ELSE c.call || ' x' END);
            said := 'fine';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
            said := sqlstate || ' ' || sqlerrm || COALESCE(E'\n    ' || NULLIF(hint, ''), '');
        END;
        counts := counts || pg_catalog.jsonb_build_object(said, COALESCE((counts ->> said)::int, 0) + 1);
    END LOOP;
    RETURN QUERY SELECT '  ' || key || ' (' || value || ')' FROM pg_catalog.jsonb_each_text(counts) ORDER BY key COLLATE "C" DESC;
END
$$;

-- the same after some DDL, which is undone
CREATE FUNCTION after(VARIADIC ddl text[]) RETURNS SETOF text
    LANGUAGE plpgsql AS $$
DECLARE
    statement text;
    found text[];
BEGIN
    BEGIN
        FOREACH statement IN ARRAY ddl LOOP
            EXECUTE statement;
        END LOOP;
        found := ARRAY['available: ' || event_store.is_available()] || ARRAY(SELECT public.outcomes(NOT event_store.is_available()));
        RAISE EXCEPTION 'undo' USING ERRCODE = 'UNDO1';
    EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
        NULL;
    END;
    RETURN NEXT pg_catalog.array_to_string(ddl, E';\n');
    RETURN QUERY SELECT pg_catalog.unnest(found);
    -- and it is as it was
    IF NOT event_store.is_available() THEN
        RETURN NEXT '  is not available afterwards';
    END IF;
END
$$;

-- columns of the log
\set e 'ALTER TABLE event_store.domain_events '
SELECT after(:'e' || 'ALTER payload_bytes TYPE bigint USING 1 + octet_length(payload_bytes)');
SELECT after(:'e' || 'ALTER sequence TYPE int');
SELECT after(:'e' || 'ALTER event_id TYPE text');
SELECT after(:'e' || 'ALTER global_position TYPE numeric');
SELECT after(:'e' || 'ALTER payload TYPE bigint USING CASE WHEN payload IS NOT NULL THEN 12345 END');
SELECT after(:'e' || 'ALTER payload TYPE text');
SELECT after(:'e' || 'ALTER schema_version TYPE bigint');
SELECT after(:'e' || 'ALTER occurred_at TYPE text');
SELECT after(:'e' || 'ALTER recorded_at TYPE timestamptz(0)');
SELECT after(:'e' || 'ALTER aggregate_id TYPE varchar');
SELECT after(:'e' || 'ALTER aggregate_id TYPE text');
SELECT after(:'e' || 'ALTER metadata TYPE int USING 1');
SELECT after(:'e' || 'ALTER event_type DROP NOT NULL');
SELECT after(:'e' || 'ALTER global_position ADD GENERATED ALWAYS AS IDENTITY');
SELECT after(:'e' || 'DROP metadata');
SELECT after(:'e' || 'DROP aggregate_id CASCADE');
SELECT after(:'e' || 'RENAME saga_id TO saga');
SELECT after(:'e' || 'DROP metadata', :'e' || 'ADD metadata jsonb');
SELECT after(:'e' || 'RENAME payload TO p', :'e' || 'RENAME metadata TO payload', :'e' || 'RENAME p TO metadata');
-- what an owner may add
SELECT after(:'e' || 'ADD tenant text DEFAULT current_user');
SELECT after(:'e' || 'ADD total numeric GENERATED ALWAYS AS ((payload ->> ''total'')::numeric) STORED');
SELECT after(:'e' || 'ADD extra int', :'e' || 'DROP extra');
SELECT after('CREATE INDEX ON event_store.domain_events (causation_id)');
SELECT after('CREATE UNIQUE INDEX ON event_store.domain_events (event_id, sequence)');
SELECT after('DROP INDEX event_store.domain_events_saga_id_idx');
SELECT after('ALTER TABLE event_store.domain_views ADD note text DEFAULT ''x'', ADD hash text GENERATED ALWAYS AS (md5(view_key)) STORED');

-- something else in a table's place
SELECT after('ALTER TABLE event_store.domain_events RENAME TO log',
             'CREATE VIEW event_store.domain_events AS SELECT * FROM event_store.log');
SELECT after('ALTER TABLE event_store.domain_views RENAME TO rows',
             'CREATE VIEW event_store.domain_views AS SELECT * FROM event_store.rows');
SELECT after('ALTER TABLE event_store.domain_views RENAME TO rows',
             'CREATE TABLE event_store.domain_views (LIKE event_store.rows) PARTITION BY LIST (view_name)');
SELECT after('ALTER TABLE event_store.snapshots RENAME TO rows',
             'CREATE MATERIALIZED VIEW event_store.snapshots AS SELECT * FROM event_store.rows');
SELECT after(:'e' || 'SET UNLOGGED');
SELECT after('ALTER TABLE event_store.domain_events RENAME TO log');
SELECT after('DROP TABLE event_store.domain_views');
SELECT after('DROP TABLE event_store.snapshots');
SELECT after('DROP TABLE event_store.view_rebuild_rows');

-- indexes that C reads, and those that SQL names the columns of
\set drop_key 'ALTER TABLE event_store.domain_events DROP CONSTRAINT domain_events_aggregate_key'
\set key ' INDEX domain_events_aggregate_key ON event_store.domain_events '
SELECT after(:'drop_key');
SELECT after(:'drop_key', 'CREATE' || :'key' || '(aggregate_type, aggregate_id, sequence)');
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_id, aggregate_type, sequence)');
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_type, aggregate_id, sequence, event_id)');
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_type, aggregate_id, sequence) WHERE sequence > 3');
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_type, lower(aggregate_id), sequence)');
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_type, aggregate_id text_pattern_ops, sequence)');
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_type, aggregate_id COLLATE "POSIX", sequence)');
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_type, aggregate_id, sequence DESC)');
SELECT after(:'drop_key', 'CREATE' || :'key' || 'USING hash (aggregate_type)');
SELECT after(:'drop_key', :'e' || 'ADD CONSTRAINT domain_events_aggregate_key UNIQUE (aggregate_type, aggregate_id, sequence) DEFERRABLE');
SELECT after(:'drop_key', 'CREATE UNIQUE INDEX domain_events_aggregate_key ON event_store.snapshots (aggregate_type, aggregate_id, source)');
SELECT after(:'drop_key', 'CREATE TABLE event_store.domain_events_aggregate_key ()');
SELECT after('UPDATE pg_catalog.pg_index SET indisvalid = false WHERE indexrelid = ''event_store.domain_events_event_id_key''::pg_catalog.regclass');
SELECT after(:'e' || 'DROP CONSTRAINT domain_events_event_id_key',
             'CREATE UNIQUE INDEX domain_events_event_id_key ON event_store.domain_events (event_type, event_id)');
-- with more in it, it still serves
SELECT after(:'drop_key', 'CREATE UNIQUE' || :'key' || '(aggregate_type, aggregate_id, sequence) INCLUDE (event_id)');
SELECT after('ALTER TABLE event_store.domain_views DROP CONSTRAINT domain_views_pkey');
SELECT after('ALTER TABLE event_store.snapshots DROP CONSTRAINT snapshots_pkey');
SELECT after('ALTER TABLE event_store.reducers DROP CONSTRAINT reducers_pkey');

-- the other tables
SELECT after('ALTER TABLE event_store.domain_views ALTER view_data TYPE bigint USING 99');
SELECT after('ALTER TABLE event_store.domain_views ALTER view_data TYPE json');
SELECT after('ALTER TABLE event_store.domain_views ALTER version TYPE text');
SELECT after('ALTER TABLE event_store.domain_views ALTER updated_at TYPE date');
SELECT after('ALTER TABLE event_store.domain_views DROP version');
SELECT after('ALTER TABLE event_store.domain_views DROP version', 'ALTER TABLE event_store.domain_views ADD version bigint');
SELECT after('ALTER TABLE event_store.snapshots ALTER state TYPE bigint USING 99');
SELECT after('ALTER TABLE event_store.snapshots ALTER state_bytes TYPE int USING 99');
SELECT after('ALTER TABLE event_store.snapshots ALTER sequence TYPE text');
SELECT after('ALTER TABLE event_store.snapshots ALTER created_at DROP DEFAULT');
SELECT after('ALTER TABLE event_store.reducers ALTER reducer TYPE int USING 99');
SELECT after('ALTER TABLE event_store.reducers ALTER rules TYPE text');
SELECT after('ALTER TABLE event_store.reducers ALTER reducer_version TYPE bigint');
SELECT after('ALTER TABLE event_store.reducers DROP reducer_owner');
SELECT after('ALTER TABLE event_store.dead_letters ALTER payload TYPE bigint USING 99');
SELECT after('ALTER TABLE event_store.dead_letters ALTER sequence TYPE text');
SELECT after('ALTER TABLE event_store.dead_letters DROP view_key');
SELECT after('ALTER TABLE event_store.dead_letters ALTER id DROP IDENTITY');
SELECT after('ALTER TABLE event_store.store_state ALTER safe_position TYPE text');
SELECT after('ALTER TABLE event_store.store_state ALTER staging_epoch DROP DEFAULT, ALTER staging_epoch TYPE boolean USING true');
SELECT after('ALTER TABLE event_store.view_rebuilds ALTER after_id DROP DEFAULT, ALTER after_id TYPE int USING 7');
SELECT after('ALTER TABLE event_store.view_rebuilds ALTER started_at DROP DEFAULT, ALTER started_at TYPE text');
SELECT after('ALTER TABLE event_store.view_rebuild_rows ALTER state TYPE int USING 7');
SELECT after('ALTER SEQUENCE event_store.global_position_seq INCREMENT 10');
SELECT after('ALTER SEQUENCE event_store.global_position_seq MAXVALUE 30000 CYCLE');
SELECT after('DROP SEQUENCE event_store.global_position_seq');
SELECT after('DROP SEQUENCE event_store.global_position_seq', 'CREATE TABLE event_store.global_position_seq ()');

-- types
SELECT after('ALTER TYPE event_store.event ADD ATTRIBUTE note text');
SELECT after('ALTER TYPE event_store.event ADD ATTRIBUTE note text', 'ALTER TYPE event_store.event DROP ATTRIBUTE note');
SELECT after('ALTER TYPE event_store.event DROP ATTRIBUTE payload');
SELECT after('ALTER TYPE event_store.event DROP ATTRIBUTE recorded_at');
SELECT after('ALTER TYPE event_store.event RENAME ATTRIBUTE saga_id TO saga');
SELECT after('ALTER TYPE event_store.event ALTER ATTRIBUTE payload TYPE int');
SELECT after('ALTER TYPE event_store.event ALTER ATTRIBUTE sequence TYPE text');
SELECT after('ALTER TYPE event_store.append_result ADD ATTRIBUTE note text');
SELECT after('ALTER TYPE event_store.append_result ALTER ATTRIBUTE last_position TYPE text');
SELECT after('ALTER TYPE event_store.aggregate_state ADD ATTRIBUTE note text');
SELECT after('ALTER TYPE event_store.aggregate_state ALTER ATTRIBUTE sequence TYPE jsonb');
SELECT after('ALTER TYPE event_store.snapshot ALTER ATTRIBUTE sequence TYPE text');

-- segments
SELECT after('ALTER TABLE event_store.staging_0 ADD note text DEFAULT ''x''');
SELECT after('ALTER TABLE event_store.staging_0 ALTER events TYPE bigint USING 99');
SELECT after('ALTER TABLE event_store.staging_0 ALTER view_data TYPE text');
SELECT after('ALTER TABLE event_store.staging_0 ALTER sid TYPE int');
SELECT after('ALTER TABLE event_store.staging_7 ALTER txn TYPE text');
SELECT after('ALTER TABLE event_store.staging_0 ALTER name DROP NOT NULL');
SELECT after('ALTER TABLE event_store.staging_0 SET LOGGED');
SELECT after('ALTER INDEX event_store.staging_0_txn_idx RENAME TO staging_txn_idx',
             'CREATE INDEX staging_0_txn_idx ON event_store.staging_0 (sid)');
SELECT after('ALTER INDEX event_store.staging_0_event_id_idx RENAME TO staging_event_id_idx',
             'CREATE INDEX staging_0_event_id_idx ON event_store.staging_0 (event_id)');
SELECT after('ALTER INDEX event_store.staging_0_key_idx RENAME TO staging_key_idx',
             'CREATE INDEX staging_0_key_idx ON event_store.staging_0 (kind, key, name, ordinal)');
SELECT after('ALTER TABLE event_store.staging_3 RENAME TO staging_9');
SELECT after('ALTER TABLE event_store.staging_marker ALTER epoch TYPE text');
SELECT after('ALTER TABLE event_store.staging_marker ADD note text DEFAULT ''x''');

-- what stays allowed once it is committed: all calls, those that wait for the worker, too
ALTER TABLE event_store.domain_events ADD tenant text DEFAULT current_user, ADD dropped int;
ALTER TABLE event_store.domain_events DROP dropped;
ALTER TABLE event_store.domain_views ADD note text DEFAULT 'x';
CREATE INDEX ON event_store.domain_events (causation_id);
SELECT public.outcomes(true);
SELECT event_store.flush();

-- staged rows wait while the store has another shape, and are durable once it is mended
SELECT last_sequence, durable FROM event_store.append_event('Merged', 's-1', 0, 'Placed', '{"a": 1}', durability => 'staged');
ALTER TABLE event_store.domain_events ALTER payload_bytes TYPE bigint USING 1 + octet_length(payload_bytes);
\set VERBOSITY terse
SELECT event_store.is_available();
SELECT event_store.drain();
SELECT event_store.flush();
SELECT count(*) FROM event_store.wait_for_events(0, '1s');
DROP EXTENSION event_store;
\c -
\t on
\set VERBOSITY terse
SELECT event_store.is_available();
SELECT event_store.drain();
SELECT last_sequence FROM event_store.append_event('Merged', 's-1', 1, 'Placed');
ALTER TABLE event_store.domain_events ALTER payload_bytes TYPE bytea
    USING CASE WHEN payload_bytes IS NOT NULL THEN '\x0102030405'::bytea END;
SELECT event_store.create_store();
SELECT event_store.is_available();
SELECT event_store.flush();
SELECT sequence, payload FROM event_store.domain_events WHERE aggregate_id = 's-1';
-- an index of staging that was dropped comes back while rows are staged
SELECT last_sequence, durable FROM event_store.append_event('Merged', 's-1', 1, 'Placed', durability => 'staged');
CREATE TEMP TABLE indexes AS SELECT * FROM pg_indexes WHERE schemaname = 'event_store' AND tablename ~ '^staging_\d';
DROP INDEX event_store.staging_0_key_idx, event_store.staging_3_event_id_idx, event_store.staging_7_txn_idx;
SELECT event_store.is_available();
\set VERBOSITY default
SELECT event_store.flush();
\set VERBOSITY terse
SELECT event_store.create_store();
SELECT count(*) FROM indexes JOIN pg_indexes USING (indexname, indexdef);
SELECT event_store.flush();
SELECT sequence FROM event_store.domain_events WHERE aggregate_id = 's-1';
-- of a store of another shape without staged rows, all but the durable tables may go
ALTER TYPE event_store.event ADD ATTRIBUTE note text;
DROP FUNCTION public.reduce;
DROP EXTENSION event_store;
CREATE EXTENSION event_store;
SELECT event_store.create_store();
SELECT event_store.is_available();
SELECT count(*) FROM event_store.load_events('Bytes', 'b-1');

-- an index may have the planner run a function that reads the store, and so plans in turn
CREATE FUNCTION public.reads() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM event_store.load_view('Views', 'k-1'), event_store.aggregate_sequence('Merged', 'a-1');
    RETURN true;
END $$;
CREATE INDEX reads ON event_store.domain_events (recorded_at) WHERE public.reads();
\c -
\t on
SELECT count(*) FROM event_store.load_events('Bytes', 'b-1');
SELECT count(*) FROM event_store.read_events(0, 1);

\c :regression
DROP DATABASE regress_shape;
ALTER SYSTEM RESET event_store.write_delay;
SELECT pg_catalog.pg_reload_conf();
