-- The places that a change has forgotten, as far as the catalog knows them: what
-- nobody was granted or everybody, what has no comment, what is not counted.

\set ON_ERROR_STOP on
SELECT event_store.create_store() \g /dev/null
SELECT * FROM no_plan();

-- what the schema holds: routines by name, and what can be looked at
CREATE TEMPORARY VIEW held AS
SELECT DISTINCT 'routine' AS kind, p.proname::text AS name
  FROM pg_proc p WHERE p.pronamespace = 'event_store'::regnamespace
UNION ALL
SELECT 'relation', c.relname::text
  FROM pg_class c WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f');

CREATE TEMPORARY VIEW listed AS
SELECT l.level, o.kind, o.name
  FROM event_store.access_levels() l,
       LATERAL (SELECT 'routine' AS kind, unnest(l.routines) AS name
                UNION ALL SELECT 'relation', unnest(l.relations)) o;

-- ---------- who may do what
SELECT is(array_agg(format('%s %s is in %s levels of access_levels() in schema/grants.sql', h.kind, h.name, h.levels)),
          NULL, 'everything is in one level, or for the owner alone')
  FROM (SELECT h.kind, h.name, count(l.level) AS levels
          FROM held h LEFT JOIN listed l USING (kind, name) GROUP BY h.kind, h.name ORDER BY h.kind, h.name) h
 WHERE h.levels <> 1;
SELECT is(array_agg(format('%s %s of level %s is not there', kind, name, level)), NULL, 'and every name is one of something')
  FROM listed WHERE (kind, name) NOT IN (SELECT kind, name FROM held);

-- the levels build on each other, in this order
CREATE TEMPORARY TABLE levels (level text, includes text[]);
INSERT INTO levels VALUES
    ('monitor', '{every,feed,monitor}'),
    ('reader', '{every,reader}'),
    ('consumer', '{every,reader,consumer}'),
    ('writer', '{every,feed,reader,writer}'),
    ('admin', '{every,feed,monitor,reader,consumer,writer,admin}');
SELECT set_eq($$SELECT level FROM event_store.access_levels() WHERE level NOT IN ('every', 'feed', 'owner')$$, $$SELECT level FROM levels$$,
              'this test knows every level');
SELECT is(array_agg(v.level), NULL, 'the COMMENT and the hint of grant_access name every level')
  FROM levels v, pg_proc p
 WHERE p.oid = 'event_store.grant_access'::regproc
   AND (strpos(obj_description(p.oid, 'pg_proc'), v.level || ' (') = 0 OR strpos(p.prosrc, '''''' || v.level || '''''') = 0);
SELECT format('CREATE ROLE house_%s', level) FROM levels \gexec
SELECT event_store.grant_access(('house_' || level)::regrole, level) FROM levels \g /dev/null
CREATE TEMPORARY VIEW granted AS
SELECT v.level, 'routine' AS kind, p.proname::text AS name
  FROM levels v, pg_proc p
 WHERE p.pronamespace = 'event_store'::regnamespace AND has_function_privilege('house_' || v.level, p.oid, 'EXECUTE')
UNION
SELECT v.level, 'relation', c.relname::text
  FROM levels v, pg_class c
 WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND has_table_privilege('house_' || v.level, c.oid, 'SELECT');
SELECT set_eq(format('SELECT kind, name FROM granted WHERE level = %L', level),
              format('SELECT kind, name FROM listed WHERE level = ANY (%L)', includes),
              'level ' || level || ' grants what the lists say')
  FROM levels;
CREATE ROLE house_pg_monitor IN ROLE pg_monitor;
SELECT is(array_agg(l.name ORDER BY l.name), '{dead_letter_status,parked_event_status}', 'members of pg_monitor may look at what a monitor may, but for dead letters and parked events')
  FROM listed l
 WHERE l.level IN ('every', 'feed', 'monitor') AND l.kind = 'relation'
   AND NOT has_table_privilege('house_pg_monitor', 'event_store.' || l.name, 'SELECT');
SET ROLE house_pg_monitor;
SELECT lives_ok('SELECT FROM event_store.' || name, 'and ' || name || ' answers them')
  FROM unnest('{metrics,metrics_series,staging_status,worker_status,worker_jobs,reducer_status,feed_status,rebuild_status,subscription_status,projection_status}'::text[]) name;
RESET ROLE;
DROP ROLE house_pg_monitor;
SET ROLE house_monitor;
SELECT lives_ok('SELECT FROM event_store.' || name, name || ' answers a monitor')
  FROM unnest('{metrics,metrics_series,staging_status,worker_status,worker_jobs,reducer_status,feed_status,rebuild_status,subscription_status,projection_status,dead_letter_status,parked_event_status}'::text[]) name;
RESET ROLE;
SELECT is(array_agg(p.oid::regprocedure::text), NULL, 'nothing is for everybody')
  FROM pg_proc p
 WHERE p.pronamespace = 'event_store'::regnamespace
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0);

-- ---------- what it says about itself; comments.sql looks at functions more closely
SELECT is(array_agg(p.oid::regprocedure::text), NULL, 'every routine has a COMMENT')
  FROM pg_proc p WHERE p.pronamespace = 'event_store'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT is(array_agg(l.name), NULL, 'everything that a level may look at has a COMMENT')
  FROM listed l
 WHERE l.kind = 'relation' AND l.level <> 'owner' AND obj_description(to_regclass('event_store.' || l.name), 'pg_class') IS NULL;
SELECT is(array_agg(t.typname), NULL, 'every type has a COMMENT')
  FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid
 WHERE t.typnamespace = 'event_store'::regnamespace AND c.relkind = 'c' AND obj_description(t.oid, 'pg_type') IS NULL;

-- ---------- what it counts
CREATE TEMPORARY TABLE uncounted (name text, why text);
INSERT INTO uncounted VALUES
    ('fold_events', 'an aggregate: what gives it events counts'),
    ('view_keys', 'reads no data'),
    ('safe_position', 'reads a number'),    ('wait_for_events', 'waits'),
    ('wait_for_subscription', 'waits'),
    ('wait_for_subscriptions', 'waits'),
    ('is_available', 'reads no data'),
    ('provider_name', 'reads no data'),
    ('extension_version', 'reads no data'),
    ('openmetrics', 'reads the metrics'),
    ('create_projection', 'rare'),
    ('drop_projection', 'rare'),
    ('rebuild_projection', 'rare'),
    ('create_view_projection', 'rare'),
    ('replace_projection', 'rare'),
    ('rebuild_projection_step', 'rare'),
    ('create_subscription', 'rare'),
    ('alter_subscription', 'rare'),
    ('drop_subscription', 'rare'),
    ('pause_subscription', 'rare'),
    ('resume_subscription', 'rare'),
    ('move_subscription', 'rare'),
    ('resize_subscription', 'rare'),
    ('set_reducer', 'rare'),
    ('upcast', 'has no more than its event'),
    ('set_reducer_rules', 'rare'),
    ('rebuild_view', 'has its own progress, rebuild_status'),
    ('rebuild_view_step', 'has its own progress, rebuild_status');
CREATE TEMPORARY VIEW counted AS
SELECT DISTINCT operation AS name FROM event_store.metrics WHERE metric = 'persistence.errors';
CREATE TEMPORARY VIEW callable AS
SELECT DISTINCT l.name
  FROM listed l
  JOIN pg_proc p ON p.proname = l.name AND p.pronamespace = 'event_store'::regnamespace
 WHERE l.kind = 'routine' AND l.level <> 'owner'
   AND (coalesce(obj_description(p.oid, 'pg_proc'), '') NOT LIKE 'Internal:%' OR l.name = 'take_snapshot');
SELECT is(array_agg(format('%s has no es_begin_call, and no reason in test/pgtap/house.sql', name)), NULL,
          'every function that a level may call is counted in the metrics')
  FROM callable WHERE name NOT IN (SELECT name FROM counted UNION SELECT name FROM uncounted);
SELECT is(array_agg(name), NULL, 'what is counted is such a function')
  FROM counted WHERE name IS NULL OR name NOT IN (SELECT name FROM callable);
SELECT is(array_agg(name), NULL, 'what is not counted is one too')
  FROM uncounted WHERE name IN (SELECT name FROM counted) OR name NOT IN (SELECT name FROM callable);

SELECT format('DROP OWNED BY house_%1$s; DROP ROLE house_%1$s', level) FROM levels \gexec
SELECT * FROM finish();
