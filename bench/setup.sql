-- What the benchmark measures the store against, made once in the database that
-- every round copies.  Nothing here is part of event_store.

CREATE SCHEMA bench;

-- "raw": the log's table, with the same columns, checks and indexes, and
-- nothing else.  LIKE copies no storage parameters.
CREATE TABLE bench.raw_events (LIKE event_store.domain_events INCLUDING ALL)
    WITH (autovacuum_vacuum_insert_scale_factor = 0.05,
          autovacuum_analyze_scale_factor = 0.02,
          autovacuum_freeze_min_age = 0);
CREATE SEQUENCE bench.raw_position;

CREATE TABLE bench.raw_views (LIKE event_store.domain_views INCLUDING ALL)
    WITH (fillfactor = 80);

-- Where an application that keeps order by hand has the last sequence of an aggregate.
CREATE TABLE bench.heads (aggregate int PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO bench.heads VALUES (1, 0);

-- What a consumer keeps by hand, and the effects that it has.
CREATE TABLE bench.checkpoints (consumer text PRIMARY KEY, position bigint NOT NULL) WITH (fillfactor = 50);
INSERT INTO bench.checkpoints VALUES ('bench', 0);
CREATE TABLE bench.effects (global_position bigint NOT NULL, aggregate_id text NOT NULL, event_type text NOT NULL);
CREATE TABLE bench.processed (LIKE event_store.processed_messages INCLUDING ALL);

-- What a client sends with a batch: ids that no other client or call uses,
-- events of the aggregates by turns.
CREATE FUNCTION bench.batch_ids(client int, visit int, events int, aggregates int)
    RETURNS text[]
    LANGUAGE sql IMMUTABLE
    RETURN (SELECT array_agg(md5(format('%s %s %s', client, visit, i % aggregates)) ORDER BY i)
              FROM generate_series(0, events - 1) i);

-- An order as a payload of exactly the bytes asked for, 200 at least.
CREATE FUNCTION bench.order_payload(seed int, bytes int) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    result text := format('{"order": "%s", "customer": "c-%s", "placed_at": "2025-03-%sT12:%s:07Z", "lines": [',
                          substr(md5(seed::text), 1, 12), 1000 + seed % 8999, 10 + seed % 20, 10 + seed % 50);
    line text;
    n int := 0;
BEGIN
    LOOP
        n := n + 1;
        line := format('%s{"sku": "%s", "pieces": %s, "price": "%s.%s"}',
                       CASE WHEN n = 1 THEN '' ELSE ', ' END,
                       substr(md5(format('%s %s', seed, n)), 1, 12),
                       1 + (seed * 31 + n * 7) % 9, 100 + (seed * 17 + n * 131) % 400, 10 + (seed + n * 37) % 90);
        EXIT WHEN length(result) + length(line) + length('], "note": ""}') > bytes;
        result := result || line;
    END LOOP;
    result := result || '], "note": "';
    line := md5(format('%s note', seed)) || md5(format('%s more', seed)) || md5(format('%s rest', seed));
    RETURN result || left(line, bytes - length(result) - length('"}')) || '"}';
END
$$;

-- The arrays that clients fetch before their first batch of a size and send with
-- every one; stored so that fetching them costs little.
CREATE TABLE bench.batches (
    events int PRIMARY KEY,
    types text[],
    event_types text[],
    payloads text[],
    sequences bigint[],
    uuids text[]
);
ALTER TABLE bench.batches
    ALTER types SET STORAGE EXTERNAL, ALTER event_types SET STORAGE EXTERNAL,
    ALTER payloads SET STORAGE EXTERNAL, ALTER sequences SET STORAGE EXTERNAL,
    ALTER uuids SET STORAGE EXTERNAL;

CREATE FUNCTION bench.make_batch(events int, aggregates int, bytes int) RETURNS void
    LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO bench.batches
    SELECT events, array_agg('Order'::text), array_agg('OrderPlaced'::text),
           array_agg(bench.order_payload(i, bytes) ORDER BY i),
           array_agg(i / aggregates + 1 ORDER BY i),
           array_agg((1000000000000000 + i)::text ORDER BY i)
      FROM generate_series(0, events - 1) i;
END;

-- An event of about 230 bytes that sets 5 of the 60 keys of an account.
CREATE FUNCTION bench.account_payload(i int) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN (SELECT jsonb_object_agg('key_' || to_char((i * 5 + j) % 60, 'FM00'),
                                    md5(format('%s %s', i, j)))
              FROM generate_series(0, 4) j);

-- The fold that an application without the extension would put into the
-- database: RFC 7396, recursing only where it must.
CREATE FUNCTION bench.merge_patch(target jsonb, patch jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    name text;
    value jsonb;
BEGIN
    IF jsonb_typeof(patch) <> 'object' THEN
        RETURN patch;
    END IF;
    IF target IS NULL OR jsonb_typeof(target) <> 'object' THEN
        target := '{}';
    END IF;
    FOR name, value IN SELECT * FROM jsonb_each(patch) LOOP
        IF value = 'null' THEN
            target := target - name;
        ELSIF jsonb_typeof(value) = 'object' THEN
            target := jsonb_set(target, ARRAY[name], bench.merge_patch(target -> name, value));
        ELSE
            target := jsonb_set(target, ARRAY[name], value);
        END IF;
    END LOOP;
    RETURN target;
END
$$;

CREATE FUNCTION bench.replay(wanted_type text, wanted_id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE
AS $$
DECLARE
    patch jsonb;
    state jsonb;
BEGIN
    FOR patch IN
        SELECT e.payload FROM event_store.domain_events e
         WHERE e.aggregate_type = wanted_type AND e.aggregate_id = wanted_id
         ORDER BY e.sequence
    LOOP
        state := bench.merge_patch(state, patch);
    END LOOP;
    RETURN state;
END
$$;
