-- Whatever is dropped of the store, create_store() brings it back; until then calls
-- and is_available() say what is missing, where they need it.
SET client_min_messages = warning;
SELECT event_store.create_store() \g /dev/null
SELECT event_store.append_event('Repair', 'r-1', NULL, 'Made', correlation_id => 'c', durability => 'durable') \g /dev/null
SELECT event_store.put_view('Repair', 'r-1', '{}', durability => 'durable') \g /dev/null

-- the durable tables and sequences, in every respect but the order of columns
CREATE VIEW pg_temp.parts AS
SELECT c.relname AS owner, 'column ' || a.attname AS part,
       pg_catalog.concat_ws(' ', a.atttypid::regtype, a.attcollation::regcollation, a.attnotnull, a.attidentity,
                            pg_catalog.pg_get_expr(d.adbin, d.adrelid)) AS what
  FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
UNION ALL
SELECT r.relname, CASE WHEN k.contype IN ('p', 'u') THEN 'key ' ELSE 'check ' END || k.conname,
       pg_catalog.pg_get_constraintdef(k.oid)
  FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid
 WHERE r.relnamespace = 'event_store'::regnamespace AND k.contype IN ('p', 'u', 'c')
UNION ALL
SELECT r.relname, 'index ' || i.relname, pg_catalog.pg_get_indexdef(i.oid)
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class r ON r.oid = x.indrelid
 WHERE r.relnamespace = 'event_store'::regnamespace AND r.relpersistence = 'p' AND r.relkind = 'r'
   AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid)
UNION ALL
SELECT r.relname, 'trigger ' || t.tgname, pg_catalog.pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
  FROM pg_trigger t JOIN pg_class r ON r.oid = t.tgrelid
 WHERE r.relnamespace = 'event_store'::regnamespace AND NOT t.tgisinternal
UNION ALL
SELECT c.relname, CASE c.relkind WHEN 'r' THEN 'table ' ELSE 'sequence ' END || c.relname, c.relpersistence::text
  FROM pg_class c
 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'S') AND c.relpersistence = 'p';
CREATE FUNCTION pg_temp.all_parts() RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(owner || ': ' || part || ' ' || what, E'\n' ORDER BY owner COLLATE "C", part COLLATE "C") FROM pg_temp.parts $$;

-- What takes a part away, and whether the store can do without it.  A column of the
-- log has its place, and the log itself is the store.
CREATE FUNCTION pg_temp.losses(OUT loss text, OUT part text, OUT needed boolean) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT format('ALTER TABLE event_store.%I DROP CONSTRAINT %I', p.owner, split_part(p.part, ' ', 2)),
           split_part(p.part, ' ', 2), p.part LIKE 'key %'
      FROM pg_temp.parts p WHERE p.part ~ '^(key|check) '
    UNION ALL
    SELECT format('DROP INDEX event_store.%I', split_part(p.part, ' ', 2)), split_part(p.part, ' ', 2),
           -- those that are read without the planner
           p.part IN ('index parked_events_retry_idx', 'index parked_events_state_idx')
      FROM pg_temp.parts p WHERE p.part LIKE 'index %'
    UNION ALL
    SELECT format('DROP TRIGGER %I ON event_store.%I', split_part(p.part, ' ', 2), p.owner), split_part(p.part, ' ', 2), false
      FROM pg_temp.parts p WHERE p.part LIKE 'trigger %'
    UNION ALL
    SELECT format('ALTER TABLE event_store.%I DISABLE TRIGGER %I', p.owner, split_part(p.part, ' ', 2)), split_part(p.part, ' ', 2), false
      FROM pg_temp.parts p WHERE p.part LIKE 'trigger %'
    UNION ALL
    SELECT format('DROP SEQUENCE event_store.%I', p.owner), p.owner, true
      FROM pg_temp.parts p
     WHERE p.part LIKE 'sequence %' AND p.owner IN ('global_position_seq', 'log_identity', 'fencing_number_seq', 'fencing_identity', 'archived_position')
    UNION ALL
    SELECT format('DROP TABLE event_store.%I', p.owner), p.owner, true
      FROM pg_temp.parts p WHERE p.part LIKE 'table %' AND p.owner <> 'domain_events'
    UNION ALL
    SELECT format('ALTER TABLE event_store.%I DROP COLUMN %I', p.owner, split_part(p.part, ' ', 2)), split_part(p.part, ' ', 2), true
      FROM pg_temp.parts p
     WHERE p.part LIKE 'column %'
       -- whose columns are read by their number, and come back only as the last ones
       AND p.owner NOT IN ('domain_events', 'domain_events_archive', 'closed_aggregates', 'parked_events', 'subscription_marks', 'subscription_positions', 'subscriptions')
       -- of the row that is there
       AND (p.owner, p.part) NOT IN (('domain_views', 'column view_name'), ('domain_views', 'column view_key'),
                                     ('domain_views', 'column view_data'))
    UNION ALL
    SELECT format('ALTER TABLE event_store.%I ALTER COLUMN %I DROP NOT NULL', c.relname, a.attname), a.attname, true
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
       AND a.attnum > 0 AND a.attnotnull AND a.attidentity = ''
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey))
    UNION ALL
    SELECT format('ALTER TABLE event_store.%I ALTER COLUMN %I %s', c.relname, a.attname,
                  CASE WHEN a.atthasdef THEN 'DROP DEFAULT' ELSE 'DROP IDENTITY' END), a.attname, NULL
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
       AND a.attnum > 0 AND (a.atthasdef OR a.attidentity <> '')
$$;

-- Takes a part away and has it brought back; NULL = all is well.
CREATE FUNCTION pg_temp.repair(loss text, part text, needed boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before CONSTANT text := pg_temp.all_parts();
    after text;
    said text := 'nothing';
    faults text[] := '{}';
BEGIN
    EXECUTE loss;
    IF pg_temp.all_parts() = before THEN
        faults := faults || 'the test took nothing away'::text;
    END IF;
    IF event_store.is_available() = needed THEN
        faults := faults || format('is_available() is %s', event_store.is_available());
    END IF;
    BEGIN
        PERFORM event_store.append_event('Repair', 'r-1', NULL, 'Made', durability => 'durable');
    EXCEPTION WHEN OTHERS THEN
        said := sqlstate || ' ' || sqlerrm;
    END;
    IF needed AND said !~ ('^55000 .*\m' || part || '\M') OR NOT needed AND said <> 'nothing' THEN
        faults := faults || ('an append says ' || said);
    END IF;
    PERFORM event_store.create_store();
    after := pg_temp.all_parts();
    IF after <> before THEN
        faults := faults || (SELECT 'another store: ' || string_agg(line, ', ')
                               FROM (SELECT unnest(string_to_array(before, E'\n')) EXCEPT SELECT unnest(string_to_array(after, E'\n'))
                                     UNION ALL
                                     SELECT unnest(string_to_array(after, E'\n')) EXCEPT SELECT unnest(string_to_array(before, E'\n'))) l (line));
    END IF;
    IF NOT event_store.is_available() THEN
        faults := faults || 'it is not available afterwards'::text;
    END IF;
    IF (SELECT count(*) FROM event_store.store_state) <> 1 THEN
        faults := faults || 'store_state has not one row'::text;
    END IF;
    PERFORM event_store.append_event('Repair', 'r-1', NULL, 'Made', durability => 'durable');
    RETURN NULLIF(array_to_string(faults, '; '), '');
END
$$;
SELECT count(*) AS losses FROM pg_temp.losses() \gset
SELECT plan(:losses + 1);
SELECT is(pg_temp.repair(loss, part, needed), NULL, loss) FROM (SELECT * FROM pg_temp.losses() ORDER BY loss COLLATE "C") l;
SELECT cmp_ok(:losses, '>', 100, 'a store has many parts');
SELECT * FROM finish();
