-- uuid7: properties of the event ids made in the server
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS event_store;
SELECT event_store.create_store();
RESET client_min_messages;

SELECT plan(9);

-- 100,000 ids in one call
CREATE TEMP TABLE span (before timestamptz, after timestamptz);
INSERT INTO span SELECT clock_timestamp();
CREATE TEMP TABLE made AS
    SELECT ordinal, event_id
      FROM event_store.append_batch(
               (SELECT jsonb_agg(jsonb_build_object('aggregate_type', 'Uuid7', 'aggregate_id', (i % 1000)::text,
                                                    'event_type', 'Made'))
                  FROM generate_series(1, 100000) i));

-- and one each in 1,000 calls
DO $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        PERFORM event_store.append_event('Uuid7', 'single', i - 1, 'Made');
        INSERT INTO made
        SELECT 100000 + i, e.event_id FROM event_store.load_events('Uuid7', 'single', after_sequence => i - 1) e;
    END LOOP;
END
$$;
UPDATE span SET after = clock_timestamp();

SELECT is((SELECT count(*) FROM made), 101000::bigint, 'every event has an id');
SELECT is((SELECT count(DISTINCT event_id) FROM made), 101000::bigint, 'no id twice');
SELECT is((SELECT count(*) FROM made WHERE substr(event_id::text, 15, 1) <> '7'), 0::bigint, 'version 7');
SELECT is((SELECT count(*) FROM made WHERE substr(event_id::text, 20, 1) NOT IN ('8', '9', 'a', 'b')), 0::bigint,
          'variant of RFC 9562');
SELECT is((SELECT count(*)
             FROM (SELECT event_id <= lag(event_id) OVER (ORDER BY ordinal) AS back FROM made) s
            WHERE back), 0::bigint,
          'every id is greater than the one before, within a call and over calls');

-- the first 48 bits are milliseconds since 1970, taken while the calls ran
CREATE TEMP VIEW prefix AS
    SELECT ordinal, ('x' || lpad(left(replace(event_id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint AS ms
      FROM made;
SELECT is((SELECT count(*) FROM prefix, span
            WHERE ms NOT BETWEEN floor(extract(epoch FROM before) * 1000) AND ceil(extract(epoch FROM after) * 1000)),
          0::bigint, 'the prefix is the time of the call');

-- the 12 bits after the version divide the millisecond
SELECT cmp_ok((SELECT count(DISTINCT substr(event_id::text, 16, 3)) FROM made), '>', 500::bigint,
              'the sub-millisecond part varies');

-- the rest is random: among 2^62 values no two are the same, and no bit leans to one side
SELECT is((SELECT count(DISTINCT right(event_id::text, 17)) FROM made), 101000::bigint, 'no random part twice');
SELECT is((SELECT count(*)
             FROM (SELECT avg(get_bit(uuid_send(event_id), b)) AS ones
                     FROM made, generate_series(96, 127) b GROUP BY b) s
            WHERE ones NOT BETWEEN 0.48 AND 0.52), 0::bigint, 'the random bits are even');

SELECT * FROM finish();
ROLLBACK;
