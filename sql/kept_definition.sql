-- kept_definition: a session reads a definition of a saga once, and no longer goes by it than it stands in its table
\pset format unaligned
\pset tuples_only on
SELECT event_store.create_store();
CREATE FUNCTION pg_temp.first_step(name text, id text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_store.start_saga(name, id);
    RETURN (SELECT step FROM event_store.saga_steps WHERE saga_name = name AND saga_id = id);
END
$$;
SELECT event_store.define_saga('kept', '{"steps": [{"name": "a"}]}');
SELECT pg_temp.first_step('kept', '1'), pg_temp.first_step('kept', '2');
-- what is undone is not kept
BEGIN;
SELECT event_store.define_saga('kept', '{"steps": [{"name": "undone"}]}');
SELECT pg_temp.first_step('kept', '3'), pg_temp.first_step('kept', '4');
ROLLBACK;
SELECT event_store.define_saga('kept', '{"steps": [{"name": "b"}]}');
SELECT pg_temp.first_step('kept', '3'), pg_temp.first_step('kept', '4');
BEGIN;
SAVEPOINT s;
SELECT event_store.define_saga('kept', '{"steps": [{"name": "undone"}]}');
SELECT pg_temp.first_step('kept', '5');
ROLLBACK TO s;
SELECT event_store.define_saga('kept', '{"steps": [{"name": "c"}]}');
SELECT pg_temp.first_step('kept', '5');
COMMIT;
SELECT pg_temp.first_step('kept', '6');
-- nor what an owner changes
UPDATE event_store.saga_definitions SET definition = '{"steps": [{"name": "changed"}]}' WHERE saga_name = 'kept' AND version = 3;
SELECT pg_temp.first_step('kept', '7');
DELETE FROM event_store.saga_definitions WHERE saga_name = 'kept';
SELECT event_store.define_saga('kept', '{"steps": [{"name": "anew"}]}');
SELECT pg_temp.first_step('kept', '8');
-- more than there are places, in one transaction and in many; larger than any place
SELECT count(event_store.define_saga('kept ' || n, format('{"steps": [{"name": "step %s"}]}', n)::jsonb)) FROM generate_series(1, 80) n;
SELECT count(*), count(*) FILTER (WHERE pg_temp.first_step('kept ' || n, n::text || ' ' || r) = 'step ' || n) FROM generate_series(1, 2) r, generate_series(1, 80) n;
DO $$
BEGIN
    FOR n IN 1 .. 80 LOOP
        IF pg_temp.first_step('kept ' || n, 'alone') <> 'step ' || n THEN
            RAISE EXCEPTION 'another definition';
        END IF;
        COMMIT;
    END LOOP;
END
$$;
SELECT event_store.define_saga('kept', jsonb_build_object('steps', (SELECT jsonb_agg(jsonb_build_object('name', repeat('x', 100) || n)) FROM generate_series(1, 1000) n)));
SELECT length(pg_temp.first_step('kept', '9')), length(pg_temp.first_step('kept', '10'));
DELETE FROM event_store.sagas WHERE saga_name LIKE 'kept%';
DELETE FROM event_store.saga_steps WHERE saga_name LIKE 'kept%';
DELETE FROM event_store.saga_definitions WHERE saga_name LIKE 'kept%';
