-- views: the same answers whether values are durable, staged or both by turns
\pset null (null)
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;

-- Each step is a transaction.  %1$L is the view.
CREATE TEMPORARY TABLE steps (step int GENERATED ALWAYS AS IDENTITY, statement text);
CREATE TEMPORARY TABLE results (mode text, step int, result text);
INSERT INTO steps (statement) VALUES
-- versions
('put_view(%1$L, ''a'', ''1'', 1)'),
('put_view(%1$L, ''a'', ''0'', 1)'),
('put_view(%1$L, ''a'', ''0'', 0)'),
('put_view(%1$L, ''a'', ''0'', -9223372036854775808)'),
('put_view(%1$L, ''a'', ''3'', 3)'),
('load_view(%1$L, ''a'')'),
('put_view(%1$L, ''a'', ''4'')'),
('load_view(%1$L, ''a'')'),
('put_view(%1$L, ''a'', ''2'', 2)'),
('put_view(%1$L, ''a'', ''0'', 2)'),
('pg_temp.rows_of(%1$L)'),
-- many keys; of a repeated one the last counts, whatever its version
('put_views(%1$L, ARRAY[''c'', ''b'', ''c''], ARRAY[''30'', ''20'', ''31'']::jsonb[], ARRAY[9, NULL, 5])'),
('pg_temp.rows_of(%1$L)'),
('put_views(%1$L, ARRAY[''a'', ''b'', ''c'', ''d''], ARRAY[''0'', ''21'', ''0'', ''40'']::jsonb[], ARRAY[2, 1, 5, 1])'),
('pg_temp.rows_of(%1$L)'),
('put_views(%1$L, ARRAY[''a'', ''b''], ARRAY[''{"a": null}'', ''null'']::jsonb[])'),
('pg_temp.rows_of(%1$L)'),
('load_view(%1$L, ''b'') IS NULL'),
('put_views(%1$L, ''{}'', ''{}'')'),
-- deleting forgets the version
('delete_view(%1$L, ''c'')'),
('delete_view(%1$L, ''c'')'),
('delete_view(%1$L, ''never'')'),
('load_view(%1$L, ''c'')'),
('pg_temp.rows_of(%1$L)'),
('put_view(%1$L, ''c'', ''32'', 1)'),
('put_view(%1$L, ''c'', ''0'', 1)'),
('delete_view(%1$L, ''d'')'),
('put_view(%1$L, ''d'', ''41'')'),
('pg_temp.rows_of(%1$L)'),
-- several calls in one command see each other
('(SELECT string_agg(event_store.put_view(%1$L, ''e'', to_jsonb(v), v)::text, '' '' ORDER BY n)
    FROM unnest(ARRAY[1, 2, 2, 1, 3]) WITH ORDINALITY AS u(v, n))'),
('(SELECT concat_ws('' '', event_store.delete_view(%1$L, ''e''), event_store.delete_view(%1$L, ''e''),
    event_store.put_view(%1$L, ''e'', ''1'', 1), event_store.put_view(%1$L, ''e'', ''1'', 1)))'),
('load_view(%1$L, ''e'')'),
-- keys come in the order of their bytes
('put_views(%1$L, ARRAY[''Z'', ''é'', ''a b'', ''ab'', ''A'', ''_''], array_fill(''{}''::jsonb, ARRAY[6]))'),
('pg_temp.keys_of(%1$L)'),
('pg_temp.keys_of(%1$L, NULL, ''a b'')'),
('pg_temp.keys_of(%1$L, NULL, ''a b'', 3)'),
('pg_temp.keys_of(%1$L, NULL, NULL, 2)'),
('pg_temp.keys_of(%1$L, NULL, '''', 2)'),
('pg_temp.keys_of(%1$L, NULL, ''é'')'),
('pg_temp.keys_of(%1$L, NULL, NULL, 0)'),
('pg_temp.keys_of(%1$L, ARRAY[''e'', ''none'', ''A'', ''e'', ''c''])'),
('pg_temp.keys_of(%1$L, ARRAY[''e'', ''none'', ''A'', ''c''], ''A'', 1)'),
('pg_temp.keys_of(%1$L, ''{}'')'),
('(SELECT string_agg(k, '' '') FROM event_store.load_view_keys(%1$L) k)'),
-- a deleted key leaves its place to the next one
('delete_view(%1$L, ''Z'')'),
('pg_temp.keys_of(%1$L, NULL, NULL, 2)'),
('pg_temp.keys_of(%1$L, ARRAY[''e'', ''Z''])'),
-- a version that is expected
('pg_temp.put(%1$L, ''x'', 1, 1)'),
('pg_temp.put(%1$L, ''x'', 1, 0)'),
('pg_temp.put(%1$L, ''x'', 2, 0)'),
('pg_temp.put(%1$L, ''x'', 2, 2)'),
('pg_temp.put(%1$L, ''x'', 2, 1)'),
('pg_temp.put(%1$L, ''x'', 2, 2)'),
('pg_temp.put(%1$L, ''x'', 3, -1)'),
('pg_temp.put(%1$L, ''x'', NULL, 2)'),
('pg_temp.put(%1$L, ''x'', 3, 2)'),
('pg_temp.put(%1$L, ''x'', 3, 0)'),
('pg_temp.put(%1$L, ''x'', 3)'),
('delete_view(%1$L, ''x'')'),
('pg_temp.put(%1$L, ''x'', 4, 3)'),
('pg_temp.put(%1$L, ''x'', 0, 0)'),
('pg_temp.put(%1$L, ''x'', 1, 0)'),
('pg_temp.keys_of(%1$L, ARRAY[''x''])'),
-- of many: one conflict refuses all
('pg_temp.put_all(%1$L, ''{x,y,z}'', ''{5,1,1}'', ''{NULL,0,0}'')'),
('pg_temp.put_all(%1$L, ''{x,y,z}'', ''{6,2,2}'', ''{5,1,0}'')'),
('pg_temp.put_all(%1$L, ''{x,y,z}'', ''{6,2,1}'', ''{5,1,1}'')'),
('pg_temp.put_all(%1$L, ''{x,y,z}'', ''{7,3,3}'', ''{NULL,2,NULL}'')'),
-- a key that comes several times: each is judged by what the one before it left
('pg_temp.put_all(%1$L, ''{y,x,y,y}'', ''{4,8,5,6}'', ''{3,NULL,4,5}'')'),
('pg_temp.put_all(%1$L, ''{y,y}'', ''{7,8}'', ''{6,6}'')'),
('pg_temp.put_all(%1$L, ''{y,y}'', ''{6,8}'', ''{6,6}'')'),
('pg_temp.put_all(%1$L, ''{y,y}'', ''{9,8}'', ''{8,9}'')'),
('pg_temp.put_all(%1$L, ''{y,y}'', ''{10,11}'', ''{NULL,NULL}'')'),
('pg_temp.put_all(%1$L, ''{n,n}'', ''{1,2}'', ''{0,0}'')'),
('pg_temp.put_all(%1$L, ''{n,n}'', ''{1,2}'', ''{0,1}'')'),
('pg_temp.put_all(%1$L, ''{n}'', ''{NULL}'', ''{2}'')'),
('pg_temp.put_all(%1$L, ''{n}'', ''{3}'', ''{2}'')'),
('pg_temp.put_all(%1$L, ''{}'', ''{}'', ''{}'')'),
('pg_temp.rows_of(%1$L)'),
-- clearing
('clear_view(%1$L)'),
('clear_view(%1$L)'),
('pg_temp.keys_of(%1$L)'),
('put_view(%1$L, ''a'', ''1'', 1)'),
('pg_temp.rows_of(%1$L)');

CREATE FUNCTION pg_temp.rows_of(view_name text) RETURNS text
    LANGUAGE sql AS $$
    SELECT string_agg(concat(v.view_key, '=', v.view_data, '@' || v.version), ' ')
      FROM event_store.load_views(rows_of.view_name) v
$$;
CREATE FUNCTION pg_temp.keys_of(view_name text, keys text[] DEFAULT NULL, after_key text DEFAULT NULL,
                                max_count int DEFAULT NULL) RETURNS text
    LANGUAGE sql AS $$
    SELECT string_agg(v.view_key, ' ') FROM event_store.load_views(keys_of.view_name, keys, after_key, max_count) v
$$;
-- a put that expects a version: what it returned, or why it was refused
CREATE FUNCTION pg_temp.put(view_name text, view_key text, version bigint, expected bigint DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    detail jsonb;
BEGIN
    RETURN event_store.put_view(put.view_name, put.view_key, to_jsonb(coalesce(put.version, -1)), put.version, expected_version => expected);
EXCEPTION WHEN SQLSTATE 'VS001' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat(detail->>'view_key', ': ', detail->'expected', ' expected, ', detail->'actual', ' actual');
END
$$;
CREATE FUNCTION pg_temp.put_all(view_name text, keys text[], versions bigint[], expected bigint[]) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    detail jsonb;
BEGIN
    RETURN event_store.put_views(put_all.view_name, keys, ARRAY(SELECT to_jsonb(i) FROM generate_subscripts(keys, 1) i), versions,
                                 expected_versions => expected);
EXCEPTION WHEN SQLSTATE 'VS001' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat(detail->>'view_key', ': ', detail->'expected', ' expected, ', detail->'actual', ' actual');
END
$$;
CREATE PROCEDURE pg_temp.play(mode text, first int, last int)
    LANGUAGE plpgsql AS $$
DECLARE
    s steps;
    call text;
    result text;
BEGIN
    FOR s IN SELECT * FROM steps WHERE step BETWEEN first AND last ORDER BY step LOOP
        PERFORM set_config('event_store.durability',
                           CASE WHEN mode = 'staged' OR mode = 'mixed' AND s.step % 2 = 1
                                     OR mode = 'other' AND s.step % 2 = 0
                                THEN 'staged' ELSE 'durable' END, false);
        call := format(s.statement, mode);
        IF call !~ '^(pg_temp|\()' THEN
            call := 'event_store.' || call;
        END IF;
        EXECUTE 'SELECT ' || call INTO result;
        INSERT INTO results VALUES (mode, s.step, result);
        COMMIT;
    END LOOP;
END
$$;
SELECT step - 1 AS last FROM steps WHERE statement LIKE 'clear_view%' ORDER BY step LIMIT 1 \gset
CALL pg_temp.play('durable', 1, :last);
CALL pg_temp.play('staged', 1, :last);
CALL pg_temp.play('mixed', 1, :last);
CALL pg_temp.play('other', 1, :last);
-- the table holds what was seen once all is flushed
\pset format unaligned
SELECT event_store.flush('1min');
SELECT view_name, string_agg(concat(view_key, '=', view_data, '@' || version), ' ' ORDER BY view_key) AS rows
  FROM event_store.domain_views
 WHERE view_name IN ('durable', 'staged', 'mixed', 'other') GROUP BY view_name ORDER BY view_name COLLATE "C";
CALL pg_temp.play('durable', :last + 1, 1000);
CALL pg_temp.play('staged', :last + 1, 1000);
CALL pg_temp.play('mixed', :last + 1, 1000);
CALL pg_temp.play('other', :last + 1, 1000);
RESET event_store.durability;
SELECT s.step, regexp_replace(regexp_replace(s.statement, '%1\$L(, )?', '', 'g'), '\s+', ' ', 'g') AS statement, r.result
  FROM steps s JOIN results r USING (step)
 WHERE r.mode = 'durable' ORDER BY s.step;
SELECT r.mode, s.statement, d.result AS expected, r.result
  FROM steps s JOIN results d USING (step) JOIN results r USING (step)
 WHERE d.mode = 'durable' AND r.result IS DISTINCT FROM d.result
 ORDER BY r.mode, s.step;
SELECT mode, count(*) FROM results GROUP BY mode ORDER BY mode;
\pset format aligned

-- staged values are seen by load_view, load_views and load_view_keys alone
SELECT event_store.put_view('seen', 'durable', '1', 1, 'durable');
BEGIN;
SELECT event_store.put_views('seen', ARRAY['durable', 'staged'], ARRAY['2', '1']::jsonb[], ARRAY[2, 1], 'staged');
SELECT event_store.delete_view('seen', 'none', 'staged');
SELECT event_store.load_view('seen', 'durable'), event_store.load_view('seen', 'staged');
SELECT view_key, view_data, version FROM event_store.load_views('seen');
SELECT * FROM event_store.load_view_keys('seen');
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'seen';
-- and all of a transaction move with its first durable write
SELECT event_store.put_view('seen', 'another', '1', 1, 'durable');
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'seen' ORDER BY view_key;
COMMIT;
-- a durable row that a staged delete hides leaves its place to the next one
BEGIN;
SELECT event_store.delete_view('seen', 'another', 'staged');
SELECT view_key FROM event_store.load_views('seen', max_count => 2);
SELECT view_key FROM event_store.load_views('seen', ARRAY['staged', 'another'], max_count => 1);
ROLLBACK;
SELECT event_store.clear_view('seen');

-- what moved is staged again when the durable write is undone
BEGIN;
SELECT event_store.put_view('back', 'staged', '1', 1, 'staged');
SAVEPOINT s;
SELECT event_store.put_view('back', 'durable', '1', 1, 'durable');
SELECT view_key FROM event_store.domain_views WHERE view_name = 'back' ORDER BY view_key;
SELECT * FROM event_store.load_view_keys('back');
ROLLBACK TO s;
SELECT view_key FROM event_store.domain_views WHERE view_name = 'back' ORDER BY view_key;
SELECT * FROM event_store.load_view_keys('back');
SELECT event_store.put_view('back', 'staged', '2', 2, 'staged');
COMMIT;
SELECT event_store.flush('1min');
SELECT view_key, view_data FROM event_store.domain_views WHERE view_name = 'back' ORDER BY view_key;

-- the time of a value is the time of its put, not of the drain
BEGIN;
SELECT event_store.put_view('time', 'k', '1', NULL, 'staged');
SELECT updated_at AS put_at FROM event_store.load_views('time') \gset
COMMIT;
SELECT event_store.flush('1min');
SELECT updated_at = :'put_at' AS updated, created_at = :'put_at' AS created
  FROM event_store.domain_views WHERE view_name = 'time';
SELECT event_store.put_view('time', 'k', '2');
SELECT updated_at > :'put_at' AS updated, created_at = :'put_at' AS created
  FROM event_store.domain_views WHERE view_name = 'time';

-- 1,000 staged puts of one key are one durable write, of the last value
SELECT count(*) FILTER (WHERE event_store.put_view('hot', 'k', to_jsonb(i), i, 'staged')) FROM generate_series(1, 1000) i;
SELECT event_store.flush('1min');
SELECT view_key, view_data, version, created_at = updated_at AS written_once
  FROM event_store.domain_views WHERE view_name = 'hot';
-- also where a delete among them lets the version start again
BEGIN;
SELECT event_store.put_view('hot', 'k', '1001', 1001, 'staged'), event_store.delete_view('hot', 'k', 'staged'),
       event_store.put_view('hot', 'k', '7', 7, 'staged');
SELECT event_store.put_view('hot', 'gone', '1', 1, 'staged'), event_store.delete_view('hot', 'gone', 'staged');
COMMIT;
SELECT event_store.flush('1min');
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'hot';

-- more than one statement's worth of rows and of bytes
SELECT event_store.put_views('many', array_agg('k' || i ORDER BY i), array_agg(to_jsonb(i) ORDER BY i),
                             array_agg(i ORDER BY i), word)
  FROM generate_series(1, 2500) i, unnest(ARRAY['staged', 'durable']) word GROUP BY word ORDER BY word DESC;
SELECT event_store.put_views('many', array_agg('k' || i), array_agg(to_jsonb(i)), durability => 'durable')
  FROM generate_series(1, 2500) i;
SELECT count(*), sum(view_data::int) FROM event_store.load_views('many');
SELECT count(*), sum(view_data::int) FROM event_store.domain_views WHERE view_name = 'many';
SELECT count(*), sum(view_data::int) FROM event_store.load_views('many', (SELECT array_agg('k' || i) FROM generate_series(2000, 3000) i));
SELECT event_store.clear_view('many');
BEGIN;
SELECT event_store.put_views('large', array_agg('k' || i), array_agg(to_jsonb(repeat(chr(64 + i), 1000000))), durability => 'staged')
  FROM generate_series(1, 20) i;
SELECT count(*), count(DISTINCT md5(view_data::text)), min(length(view_data::text)) FROM event_store.load_views('large');
SELECT md5(event_store.load_view('large', 'k7')::text) = md5(to_jsonb(repeat(chr(71), 1000000))::text) AS same;
COMMIT;
SELECT event_store.flush('1min');
SELECT count(*), count(DISTINCT md5(view_data::text)), min(length(view_data::text)) FROM event_store.domain_views WHERE view_name = 'large';
SELECT md5(event_store.load_view('large', 'k7')::text) = md5(to_jsonb(repeat(chr(71), 1000000))::text) AS same;
SELECT event_store.clear_view('large');

-- rollback, whole and to a savepoint, after each kind of call
CREATE FUNCTION pg_temp.undone(word text, call text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    result text;
    before text := pg_temp.rows_of('undone');
    within text;
BEGIN
    BEGIN
        EXECUTE 'SELECT event_store.' || call INTO result USING word;
        within := pg_temp.rows_of('undone');
        RAISE EXCEPTION 'undo' USING ERRCODE = 'UNDOE';
    EXCEPTION WHEN SQLSTATE 'UNDOE' THEN
        RETURN concat_ws(' ', result || ':', within,
                         CASE WHEN pg_temp.rows_of('undone') IS DISTINCT FROM before THEN 'NOT UNDONE' END);
    END;
END
$$;
SELECT event_store.put_views('undone', ARRAY['durable', 'staged'], ARRAY['1', '1']::jsonb[], ARRAY[1, 1]);
SELECT event_store.put_view('undone', 'staged', '2', 2, 'staged');
SELECT word, call, pg_temp.undone(word, call)
  FROM unnest(ARRAY['durable', 'staged']) word,
       unnest(ARRAY['put_view(''undone'', ''durable'', ''3'', 3, $1)', 'put_view(''undone'', ''staged'', ''3'', 3, $1)',
                    'put_views(''undone'', ARRAY[''new'', ''staged''], ARRAY[''3'', ''3'']::jsonb[], durability => $1)',
                    'delete_view(''undone'', ''durable'', $1)', 'delete_view(''undone'', ''staged'', $1)']) call
 ORDER BY word, call;
SELECT pg_temp.undone(NULL, 'clear_view(''undone'')');
BEGIN;
SELECT event_store.put_view('undone', 'staged', '3', 3, 'staged'), event_store.delete_view('undone', 'durable', 'staged');
SAVEPOINT a;
SELECT event_store.put_view('undone', 'staged', '4', 4, 'staged');
SAVEPOINT b;
SELECT event_store.delete_view('undone', 'staged', 'staged');
RELEASE b;
SELECT pg_temp.rows_of('undone');
ROLLBACK TO a;
SELECT pg_temp.rows_of('undone');
SELECT event_store.put_view('undone', 'staged', '0', 3, 'staged');
ROLLBACK;
SELECT pg_temp.rows_of('undone');
BEGIN;
SELECT event_store.put_view('undone', 'durable', '3', 3), event_store.delete_view('undone', 'staged'), event_store.clear_view('undone');
ROLLBACK;
SELECT pg_temp.rows_of('undone');
SELECT event_store.flush('1min');
SELECT view_key, view_data, version FROM event_store.domain_views WHERE view_name = 'undone' ORDER BY view_key;

-- bad input that sql/arguments.sql does not have
SELECT * FROM event_store.load_views(NULL);
SELECT * FROM event_store.load_views('');
SELECT * FROM event_store.load_views('v', max_count => -1);
SELECT * FROM event_store.load_views('v', ARRAY['a', NULL]);
SELECT * FROM event_store.load_views('v', ARRAY[['a'], ['b']]);
SELECT * FROM event_store.load_view_keys(NULL);
SELECT * FROM event_store.load_view_keys(repeat('x', 256));
SELECT event_store.load_view('v', NULL);
SELECT event_store.load_view('v', '');
SELECT event_store.delete_view(NULL, 'k');
SELECT event_store.delete_view('v', '');
SELECT event_store.delete_view('v', 'k', 'later');
SELECT event_store.put_views('v', ARRAY['k'], ARRAY['{}']::jsonb[], ARRAY[[1]]);
SELECT event_store.put_views('', ARRAY['k'], ARRAY['{}']::jsonb[]);
SELECT event_store.put_views('v', ARRAY['k'], ARRAY['{}']::jsonb[], durability => '');
SELECT event_store.clear_view(NULL);
SELECT event_store.clear_view('');
SELECT * FROM event_store.load_view_keys('v');

-- who may write, and when
BEGIN READ ONLY;
SELECT pg_temp.rows_of('hot'), event_store.load_view('hot', 'k');
SAVEPOINT s;
SELECT event_store.put_view('hot', 'k', '8');
ROLLBACK TO s;
SELECT event_store.put_view('hot', 'k', '8', NULL, 'staged');
ROLLBACK TO s;
SELECT event_store.put_views('hot', ARRAY['k'], ARRAY['8']::jsonb[]);
ROLLBACK TO s;
SELECT event_store.delete_view('hot', 'k');
ROLLBACK TO s;
SELECT event_store.clear_view('hot');
ROLLBACK;
BEGIN;
SELECT event_store.put_view('hot', 'k', '8');
PREPARE TRANSACTION 'view_store';
BEGIN;
SELECT event_store.delete_view('hot', 'k', 'staged');
PREPARE TRANSACTION 'view_store';
SELECT pg_temp.rows_of('hot');

-- operators that a caller puts into the way are not used
CREATE SCHEMA view_trap;
CREATE FUNCTION view_trap.spring(text, text) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION view_trap.spring(bigint, bigint) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR view_trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = view_trap.spring);
CREATE OPERATOR view_trap.> (LEFTARG = text, RIGHTARG = text, FUNCTION = view_trap.spring);
CREATE OPERATOR view_trap.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = view_trap.spring);
\c -
SET search_path = view_trap, pg_catalog;
SELECT 'a'::text = 'a'::text;
SELECT event_store.put_view('trap', 'k', '1', 1), event_store.put_view('trap', 'k', '2', 2);
SELECT event_store.put_view('trap', 'k', '3', 3, 'staged');
SELECT event_store.put_view('trap', 'k', '4', 4, 'durable');
SELECT event_store.load_view('trap', 'k');
SELECT view_key, view_data FROM event_store.load_views('trap', ARRAY['k'], 'a', 1);
SELECT view_key, view_data FROM event_store.load_views('trap');
SELECT event_store.load_view_keys('trap');
SELECT event_store.delete_view('trap', 'k'), event_store.clear_view('trap');
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA view_trap CASCADE;

-- for update: where nothing may be written it is refused, and a NULL or no argument does not ask for it
SELECT event_store.put_view('update', 'k', '1', 1);
BEGIN READ ONLY;
SELECT event_store.load_view('update', 'k'), event_store.load_view('update', 'k', NULL), event_store.load_view('update', 'k', false);
SELECT event_store.load_view('update', 'k', for_update => true);
ROLLBACK;
-- what the transaction has put itself, durable or staged
BEGIN;
SELECT event_store.put_view('update', 'k', '2', 2, 'staged'), event_store.put_view('update', 'l', '2', 2, 'durable');
SELECT event_store.load_view('update', 'k', for_update => true), event_store.load_view('update', 'l', for_update => true),
       event_store.load_view('update', 'none', for_update => true);
SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND mode = 'ExclusiveLock';
COMMIT;
SELECT event_store.load_view('update', repeat('x', 256), for_update => true);

-- the detail of a version conflict is JSON, whatever the names
SELECT event_store.put_view('up"date', E'k\\1', '1', 1, expected_version => 7);
SELECT event_store.put_views('update', ARRAY['k', 'l'], ARRAY['1', '1']::jsonb[], expected_versions => ARRAY[1]);
SELECT event_store.put_views('update', ARRAY['k', 'l'], ARRAY['1', '1']::jsonb[], expected_versions => ARRAY[2, 7]::bigint[]);
