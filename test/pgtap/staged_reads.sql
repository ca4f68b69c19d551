-- Whatever loads or replays sees staged and durable rows together.  A function with
-- such a name is called here with some of both, or says why it is not.

\set ON_ERROR_STOP on
SELECT event_store.create_store() \g /dev/null
SELECT * FROM no_plan();

CREATE TEMPORARY TABLE reads (function text, call text, seen text);
INSERT INTO reads VALUES
    ('load_events',
     $$SELECT string_agg(concat(sequence, ' ', global_position IS NULL), ', ' ORDER BY sequence) FROM event_store.load_events('Seen', 's-1')$$,
     '1 f, 2 t'),
    ('load_event',
     $$SELECT string_agg(concat(e.sequence, ' ', e.global_position IS NULL), ', ' ORDER BY e.sequence)
         FROM event_store.load_events('Seen', 's-1') l, LATERAL event_store.load_event(l.event_id) e$$,
     '1 f, 2 t'),
    ('aggregate_sequence',
     $$SELECT concat(event_store.aggregate_sequence('Seen', 's-1'), ', ', event_store.aggregate_sequence('Seen', 's-2'))$$,
     '2, 1'),
    ('aggregate_info',
     $$SELECT string_agg(concat(event_count, ' ', staged_count), ', ')
         FROM unnest(ARRAY['s-1', 's-2']) id, LATERAL event_store.aggregate_info('Seen', id)$$,
     '2 1, 1 1'),
    ('load_aggregate_ids',
     $$SELECT string_agg(id, ', ') FROM event_store.load_aggregate_ids('Seen') id$$,
     's-1, s-2'),
    ('saga_log',
     $$SELECT string_agg(concat(aggregate_id, ' ', sequence, ' ', global_position IS NULL), ', ') FROM event_store.saga_log('seen')$$,
     's-1 1 f, s-1 2 t, s-2 1 t'),
    ('replay_aggregate',
     $$SELECT concat(state, ' ', sequence) FROM event_store.replay_aggregate('Seen', 's-1')$$,
     '{"staged": 2, "durable": 1} 2'),
    ('replay_aggregates',
     $$SELECT string_agg(concat(aggregate_id, ' ', state, ' ', sequence), ', ') FROM event_store.replay_aggregates('Seen')$$,
     's-1 {"staged": 2, "durable": 1} 2, s-2 {"staged": 1} 1'),
    ('load_view',
     $$SELECT concat(event_store.load_view('Seen', 'k-1'), ', ', event_store.load_view('Seen', 'k-2'))$$,
     '"durable", "staged"'),
    ('load_views',
     $$SELECT string_agg(concat(view_key, ' ', view_data), ', ') FROM event_store.load_views('Seen')$$,
     'k-1 "durable", k-2 "staged"'),
    ('load_view_keys',
     $$SELECT string_agg(key, ', ') FROM event_store.load_view_keys('Seen') key$$,
     'k-1, k-2'),
    ('load_snapshot', NULL, 'snapshots are of durable events');

SELECT is(array_agg(DISTINCT p.proname::text), NULL, 'each load_*, replay_* and aggregate_* has a row here')
  FROM pg_proc p
 WHERE p.pronamespace = 'event_store'::regnamespace
   AND p.proname ~ '^(load|replay|aggregate)_'
   AND coalesce(obj_description(p.oid, 'pg_proc'), '') NOT LIKE 'Internal:%'
   AND p.proname NOT IN (SELECT function FROM reads);
SELECT ok(call LIKE '%event_store.' || function || '(%', function || ' is what its row calls')
  FROM reads WHERE call IS NOT NULL;

SELECT event_store.append_event('Seen', 's-1', 0, 'Added', '{"durable": 1}', saga_id => 'seen') \g /dev/null
SELECT event_store.put_view('Seen', 'k-1', '"durable"') \g /dev/null
-- before it commits, what is staged is not drained
BEGIN;
SELECT event_store.append_event('Seen', 's-1', 1, 'Added', '{"staged": 2}', saga_id => 'seen', durability => 'staged') \g /dev/null
SELECT event_store.append_event('Seen', 's-2', 0, 'Added', '{"staged": 1}', saga_id => 'seen', durability => 'staged') \g /dev/null
SELECT event_store.put_view('Seen', 'k-2', '"staged"', durability => 'staged') \g /dev/null
SELECT is((SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Seen'), 1::bigint, 'one event is durable');
SELECT format('SELECT is((%s), %L, %L)', call, seen, function || ' sees durable and staged rows') FROM reads WHERE call IS NOT NULL \gexec
COMMIT;

SELECT * FROM finish();
