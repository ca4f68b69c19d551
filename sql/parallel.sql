-- parallel: what is not for parallel workers is 25000 there, or works
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;

BEGIN;
SELECT outcome FROM event_store.append_event('Parallel', 'p-1', NULL, 'Added', '{}');

CREATE FUNCTION result(statement text) RETURNS text
    LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE statement;
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- somebody calls it safe
DO $$
DECLARE
    routine text;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.pronamespace = 'event_store'::regnamespace AND p.proparallel <> 's' AND l.lanname = 'c'
           AND p.prokind = 'f' AND p.prorettype <> 'event_trigger'::regtype
    LOOP
        EXECUTE format('ALTER FUNCTION %s PARALLEL SAFE', routine);
    END LOOP;
    -- it has another name since PostgreSQL 16
    PERFORM set_config(name, 'on', true) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
END
$$;

-- each with NULL, or what comes nearest to it, or with what it wants
SELECT p.proname, result(format('SELECT event_store.%I(%s)', p.proname,
           coalesce(c.arguments,
                    (SELECT string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY n)
                       FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a(t, n)))))
  FROM pg_proc p
  LEFT JOIN (VALUES
      ('put_view', $$'v', 'k', '{}'$$), ('put_views', $$'v', ARRAY['k'], ARRAY['{}'::jsonb]$$),
      ('delete_view', $$'v', 'k'$$), ('clear_view', $$'v'$$),
      ('append_event', $$'Parallel', 'p-1', NULL, 'Added'$$),
      ('append_events', $$'Parallel', 'p-1', NULL, '{"event_type": "Added"}'$$),
      ('save_snapshot', $$'Parallel', 'p-1', 1, '{}'$$), ('take_snapshot', $$'Parallel', 'p-1'$$),
      ('load_events', $$'Parallel', 'p-1'$$), ('load_view', $$'v', 'k'$$), ('load_views', $$'v'$$),
      ('load_view_keys', $$'v'$$), ('saga_log', $$'s-1'$$), ('load_aggregate_ids', $$'Parallel'$$),
      ('aggregate_sequence', $$'Parallel', 'p-1'$$), ('aggregate_info', $$'Parallel', 'p-1'$$),
      ('lock_aggregate', $$'Parallel', 'p-1'$$), ('assert_sequence', $$'Parallel', 'p-1', 0$$),
      ('position_at', 'now()'), ('delete_snapshot', $$'Parallel', 'p-1'$$), ('load_snapshot', $$'Parallel', 'p-1'$$),
      ('load_event', 'gen_random_uuid()'),
      ('read_events', ''), ('wait_for_events', $$0, '0s'$$), ('flush', ''), ('drain', ''),
      ('retry_dead_letters', $$'Parallel', 'p-1'$$), ('discard_dead_letters', $$'Parallel', 'p-1', 'r'$$),
      ('set_reducer', $$'Parallel', NULL$$), ('set_reducer_rules', $$'Parallel', NULL$$),
      ('rebuild_view', $$'v', 'Parallel'$$), ('rebuild_view_step', $$'v', 'Parallel', 1$$)) c (name, arguments)
    ON c.name = p.proname
  JOIN pg_language l ON l.oid = p.prolang
 WHERE p.pronamespace = 'event_store'::regnamespace AND l.lanname = 'c' AND p.proparallel = 's'
   AND p.prorettype <> 'event_trigger'::regtype AND p.proname NOT LIKE 'fold_events%'
   AND (c.name IS NOT NULL OR p.pronargs = 0)
 ORDER BY p.proname COLLATE "C";
ROLLBACK;
