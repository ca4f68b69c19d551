-- Every function of the extension is documented: a comment, and as its last line
-- an example that runs in a database with a store.  Functions whose comment
-- starts with "Internal:" are the exception.

\set ON_ERROR_STOP off
\set ON_ERROR_ROLLBACK off

SELECT event_store.create_store() \g /dev/null
-- what the examples speak of
SELECT event_store.append_event('Order', 'o-1', 0, 'OrderPlaced', '{"total": "19.99"}') \g /dev/null
SELECT event_store.define_saga('order', '{"steps": [{"name": "reserve"}]}') \g /dev/null
SELECT event_store.start_saga('order', 'o-17', '{"amount": 42}'), event_store.start_saga('order', 'o-18') \g /dev/null

CREATE TEMPORARY VIEW documented AS
SELECT p.proname AS name,
       p.oid::regprocedure::text AS function,
       d.description,
       (regexp_match(d.description, '\nExample: ([^\n]+);\s*$'))[1] AS example
  FROM pg_depend e
  JOIN pg_extension x ON x.oid = e.refobjid AND x.extname = 'event_store'
  JOIN pg_proc p ON p.oid = e.objid
  LEFT JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
 WHERE e.classid = 'pg_proc'::regclass
   AND e.refclassid = 'pg_extension'::regclass
   AND e.deptype = 'e'
   AND p.prorettype <> 'trigger'::regtype
   AND coalesce(d.description, '') NOT LIKE 'Internal:%';

SELECT * FROM no_plan();
SELECT ok(count(*) > 20, 'the extension has functions') FROM documented;
SELECT ok(description IS NOT NULL, function || ' has a comment') FROM documented ORDER BY function;
SELECT ok(example IS NOT NULL, function || ' has an example as its last line') FROM documented ORDER BY function;
SELECT ok(example LIKE '%event_store.' || name || '(%', 'the example of ' || function || ' calls it')
  FROM documented WHERE example IS NOT NULL ORDER BY function;

-- Every example runs at top level, as a reader would run it: some must not run
-- in a transaction block.  psql runs a script made from the comments.
\set script `mktemp`
\pset tuples_only on
\pset format unaligned
\o :script
SELECT example || E' \\g /dev/null\n'
       || E'SELECT ok(NOT :\'ERROR\'::boolean, ' || quote_literal('the example of ' || function || ' runs')
       || E') || CASE WHEN :\'ERROR\'::boolean THEN E\'\\n# \' || :\'LAST_ERROR_MESSAGE\' ELSE \'\' END;'
  FROM documented
 WHERE example IS NOT NULL
 ORDER BY function;
\o
\i :script
\setenv SCRIPT :script
\! rm -f "$SCRIPT"

SELECT * FROM finish();
