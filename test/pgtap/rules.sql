-- Rules against an independent interpreter in PL/pgSQL: random rules on random
-- events, compared after every event, failures included.
SELECT event_store.create_store() \g /dev/null

\ir merge_patch.psql

CREATE FUNCTION pg_temp.number(value jsonb) RETURNS numeric
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(value) = 'number' OR jsonb_typeof(value) = 'string' AND value #>> '{}' ~ '^[-+]?[0-9]+(\.[0-9]+)?$' THEN
        RETURN (value #>> '{}')::numeric;
    END IF;
    RAISE 'not a number';
END
$$;

CREATE FUNCTION pg_temp.is_number(value jsonb) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN coalesce(pg_temp.number(value) IS NOT NULL, false);
EXCEPTION WHEN raise_exception THEN
    RETURN false;
END
$$;

-- The first in the order of numbers, then other strings.
CREATE FUNCTION pg_temp.least_of(a jsonb, b jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS $$
    SELECT v FROM (VALUES (1, a), (2, b)) l (n, v)
     ORDER BY pg_temp.is_number(v) DESC, CASE WHEN pg_temp.is_number(v) THEN pg_temp.number(v) END, (v #>> '{}') COLLATE "C", n LIMIT 1;
$$;

-- What the operation makes of its target; NULL stands for no value.
CREATE FUNCTION pg_temp.changed(target jsonb, operation jsonb, value jsonb, factor numeric) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    sum numeric;
BEGIN
    CASE operation ->> 'op'
        WHEN 'set', 'put_into' THEN
            RETURN value;
        WHEN 'set_once' THEN
            RETURN coalesce(target, value);
        WHEN 'min', 'max' THEN
            IF jsonb_typeof(target) NOT IN ('number', 'string') OR jsonb_typeof(value) NOT IN ('number', 'string') THEN
                RAISE 'no order';
            ELSIF target IS NULL THEN
                RETURN value;
            ELSIF pg_temp.is_number(target) AND pg_temp.is_number(value) AND pg_temp.number(target) = pg_temp.number(value) THEN
                RETURN target;
            END IF;
            RETURN CASE operation ->> 'op' WHEN 'min' THEN pg_temp.least_of(target, value)
                        ELSE CASE pg_temp.least_of(target, value) WHEN target THEN value ELSE target END END;
        WHEN 'merge' THEN
            RETURN pg_temp.merge_patch(target, value);
        WHEN 'increment' THEN
            sum := pg_temp.number(coalesce(target, '0')) + pg_temp.number(value) * factor;
            RETURN CASE WHEN 'string' IN (jsonb_typeof(target), jsonb_typeof(value)) THEN to_jsonb(sum::text) ELSE to_jsonb(sum) END;
        WHEN 'append' THEN
            IF jsonb_typeof(target) <> 'array' THEN
                RAISE 'not an array';
            END IF;
            RETURN coalesce(target, '[]') || jsonb_build_array(value);
        WHEN 'remove' THEN
            IF jsonb_typeof(target) <> 'array' THEN
                RAISE 'not an array';
            END IF;
            RETURN coalesce((SELECT jsonb_agg(e ORDER BY n) FROM jsonb_array_elements(target) WITH ORDINALITY l (e, n)
                              WHERE CASE WHEN operation ? 'member'
                                         THEN jsonb_typeof(e) <> 'object' OR e -> (operation ->> 'member') IS DISTINCT FROM value
                                         ELSE e <> value END), '[]');
    END CASE;
END
$$;

-- A path is a list of steps: '.name' or '[n]'.
-- The same at a place below a node.
CREATE FUNCTION pg_temp.changed_at(node jsonb, path text[], operation jsonb, value jsonb, factor numeric) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    make boolean := operation ->> 'op' NOT IN ('unset', 'remove');
    unset boolean := operation ->> 'op' = 'unset' AND cardinality(path) = 1;
    made jsonb;
    index int;
BEGIN
    IF node IS NULL AND NOT make THEN
        RETURN NULL;
    ELSIF cardinality(path) = 0 THEN
        RETURN pg_temp.changed(node, operation, value, factor);
    ELSIF path[1] LIKE '.%' THEN
        node := coalesce(node, '{}');
        IF jsonb_typeof(node) <> 'object' THEN
            RAISE 'not an object';
        ELSIF unset THEN
            RETURN node - substr(path[1], 2);
        END IF;
        made := pg_temp.changed_at(node -> substr(path[1], 2), path[2:], operation, value, factor);
        RETURN CASE WHEN made IS NULL THEN node ELSE node || jsonb_build_object(substr(path[1], 2), made) END;
    END IF;
    IF node IS NULL OR jsonb_typeof(node) <> 'array' THEN
        RAISE 'not an array';
    END IF;
    index := trim(path[1], '[]')::int;
    index := CASE WHEN index < 0 THEN index + jsonb_array_length(node) ELSE index END;
    IF index < 0 OR index >= jsonb_array_length(node) THEN
        IF make THEN
            RAISE 'no such element';
        END IF;
        RETURN node;
    ELSIF unset THEN
        RETURN node - index;
    END IF;
    made := pg_temp.changed_at(node -> index, path[2:], operation, value, factor);
    RETURN CASE WHEN made IS NULL THEN node ELSE jsonb_set(node, ARRAY[index::text], made) END;
END
$$;

CREATE FUNCTION pg_temp.steps(path text) RETURNS text[]
    LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(m[1] ORDER BY n), '{}') FROM regexp_matches(path, '\.[a-z_]+|\[-?[0-9]+\]', 'g') WITH ORDINALITY r (m, n);
$$;

CREATE FUNCTION pg_temp.found(event jsonb, path text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    step text;
BEGIN
    IF path IS NULL THEN
        RETURN NULL;
    END IF;
    FOREACH step IN ARRAY pg_temp.steps(path) LOOP
        event := CASE WHEN step LIKE '.%' AND jsonb_typeof(event) = 'object' THEN event -> substr(step, 2)
                      WHEN step LIKE '[%' AND jsonb_typeof(event) = 'array' THEN event -> trim(step, '[]')::int END;
    END LOOP;
    RETURN event;
END
$$;

-- Whether a comparison holds.
CREATE FUNCTION pg_temp.holds(comparison jsonb, event jsonb) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    had jsonb := pg_temp.found(event, comparison ->> 'path');
    kind text := (SELECT k FROM jsonb_object_keys(comparison) k WHERE k <> 'path');
    given jsonb := comparison -> kind;
    order_of int;
BEGIN
    IF pg_temp.is_number(given) AND pg_temp.is_number(had) THEN
        order_of := sign(pg_temp.number(had) - pg_temp.number(given));
    ELSIF NOT pg_temp.is_number(given) AND jsonb_typeof(had) = 'string' THEN
        order_of := CASE WHEN (had #>> '{}') COLLATE "C" < given #>> '{}' THEN -1 WHEN (had #>> '{}') COLLATE "C" > given #>> '{}' THEN 1 END;
    END IF;
    RETURN CASE kind
        WHEN 'is' THEN coalesce(had = given, false)
        WHEN 'is_not' THEN coalesce(had <> given, true)
        WHEN 'in' THEN coalesce((SELECT bool_or(e = had) FROM jsonb_array_elements(given) e), false)
        WHEN 'exists' THEN (had IS NOT NULL) = given::boolean
        WHEN 'less' THEN coalesce(order_of < 0, false)
        WHEN 'greater' THEN coalesce(order_of > 0, false) END;
END
$$;

-- The state after one event.
CREATE FUNCTION pg_temp.folded(state jsonb, rules jsonb, event jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    operations jsonb := coalesce(rules -> 'events' -> '*', '[]') || (rules -> 'events' -> (event ->> 'event_type'));
    operation jsonb;
    value jsonb;
    key jsonb;
    factor jsonb;
BEGIN
    IF operations <> '[]' THEN
        state := coalesce(state, rules -> 'initial', '{}');
    END IF;
    FOR operation IN SELECT * FROM jsonb_array_elements(operations) LOOP
        CONTINUE WHEN NOT coalesce((SELECT bool_and(pg_temp.holds(c, event)) FROM jsonb_array_elements(
            CASE jsonb_typeof(operation -> 'when') WHEN 'object' THEN jsonb_build_array(operation -> 'when') ELSE operation -> 'when' END) c), true);
        value := coalesce(operation -> 'value', pg_temp.found(event, operation ->> 'from'), operation -> 'default');
        key := coalesce(operation -> 'key' -> 'value', pg_temp.found(event, operation ->> 'key'));
        factor := CASE jsonb_typeof(operation -> 'times') WHEN 'number' THEN operation -> 'times'
                       WHEN 'string' THEN pg_temp.found(event, operation ->> 'times') ELSE '1' END;
        CONTINUE WHEN value IS NULL AND operation ->> 'op' <> 'unset' OR operation ? 'key' AND key IS NULL OR factor IS NULL;
        IF jsonb_typeof(key) IN ('null', 'array', 'object') THEN
            RAISE 'not a name';
        ELSIF operation ->> 'op' IN ('min', 'max') AND jsonb_typeof(value) NOT IN ('number', 'string') THEN
            RAISE 'no order';
        END IF;
        state := coalesce(state, rules -> 'initial', '{}');
        IF operation ->> 'op' = 'unset' AND operation ->> 'path' = '$' AND key IS NULL THEN
            state := NULL;
        ELSE
            state := pg_temp.changed_at(state, pg_temp.steps(operation ->> 'path') || CASE WHEN key IS NOT NULL THEN ARRAY['.' || (key #>> '{}')] ELSE '{}' END,
                                        operation, value, CASE operation ->> 'op' WHEN 'increment' THEN pg_temp.number(factor) END);
        END IF;
    END LOOP;
    RETURN state;
END
$$;

CREATE FUNCTION pg_temp.one_of(VARIADIC choices text[]) RETURNS text
    LANGUAGE sql AS $$ SELECT choices[1 + floor(random() * cardinality(choices))::int] $$;

-- Members a hold objects, b arrays, c numbers, d anything; most of the time.
CREATE FUNCTION pg_temp.random_value(name text, depth int DEFAULT 0) RETURNS jsonb
    LANGUAGE plpgsql AS $$
BEGIN
    IF random() < 0.03 OR name = 'd' OR depth > 3 THEN
        name := pg_temp.one_of('a', 'b', 'c', 'x', 'n');
        name := CASE WHEN depth > 3 AND name < 'c' THEN 'x' ELSE name END;
    END IF;
    RETURN CASE name
        WHEN 'a' THEN (SELECT coalesce(jsonb_object_agg(m, pg_temp.random_value(m, depth + 1)), '{}')
                         FROM unnest(ARRAY['a', 'b', 'c', 'd']) m WHERE random() < 0.5)
        WHEN 'b' THEN (SELECT coalesce(jsonb_agg(pg_temp.random_value(pg_temp.one_of('a', 'b', 'c', 'c', 'x'), depth + 1)), '[]')
                         FROM generate_series(1, floor(random() * 5)::int))
        WHEN 'c' THEN CASE WHEN random() < 0.5 THEN to_jsonb((random() * 4)::int)
                           ELSE to_jsonb(((random() * 14)::numeric(10, 1))::text) END
        WHEN 'n' THEN 'null'
        ELSE pg_temp.one_of('"x"', '"b"', 'true', 'false', '"1e3"', '1.50')::jsonb END;
END
$$;

CREATE FUNCTION pg_temp.random_comparison() RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    kind text := pg_temp.one_of('is', 'is_not', 'in', 'exists', 'less', 'greater');
BEGIN
    RETURN jsonb_build_object('path', pg_temp.one_of('$.payload.c', '$.payload.c', '$.payload.d', '$.payload.b[0]', '$.payload.a.c', '$.payload.k', '$.event_type'),
        kind, CASE kind WHEN 'exists' THEN pg_temp.one_of('true', 'false')::jsonb
                        WHEN 'in' THEN jsonb_build_array(pg_temp.random_value('c'), pg_temp.random_value('d'), '"b"'::jsonb)
                        WHEN 'is' THEN pg_temp.random_value(pg_temp.one_of('c', 'c', 'd'))
                        WHEN 'is_not' THEN pg_temp.random_value(pg_temp.one_of('c', 'd'))
                        ELSE pg_temp.one_of('2', '"1.5"', '"b"', '0')::jsonb END);
END
$$;

CREATE FUNCTION pg_temp.random_operation() RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    op text := pg_temp.one_of('set', 'set', 'merge', 'unset', 'increment', 'increment', 'append', 'append', 'remove', 'put_into',
                              'min', 'max', 'set_once');
    holds text := CASE WHEN random() < 0.05 THEN pg_temp.one_of('a', 'b', 'c', 'd')
                       WHEN op IN ('append', 'remove') THEN 'b' WHEN op IN ('increment', 'min', 'max') THEN 'c' WHEN op = 'put_into' THEN 'a'
                       WHEN op = 'merge' THEN pg_temp.one_of('a', 'd') ELSE pg_temp.one_of('a', 'b', 'c', 'd') END;
    element text := CASE WHEN op IN ('append', 'remove', 'put_into') THEN pg_temp.one_of('a', 'c', 'c', 'x') ELSE holds END;
    made jsonb := jsonb_build_object('op', op, 'path',
        '$' || repeat('.a', floor(random() * 3)::int) || CASE WHEN random() < 0.08 THEN '.b[' || pg_temp.one_of('0', '1', '-1', '-2', '7') || ']' ELSE '' END
            || CASE WHEN random() < 0.01 THEN '' ELSE '.' || holds END);
BEGIN
    IF op = 'put_into' OR random() < 0.08 THEN
        made := made || jsonb_build_object('key', pg_temp.one_of('"$.payload.k"', '"$.payload.k"', '{"value": "c"}', '"$.event_type"')::jsonb);
    END IF;
    IF random() < 0.3 THEN
        made := made || jsonb_build_object('when', CASE WHEN random() < 0.5 THEN pg_temp.random_comparison()
                                                        ELSE jsonb_build_array(pg_temp.random_comparison(), pg_temp.random_comparison()) END);
    END IF;
    IF op = 'unset' THEN
        RETURN made;
    ELSIF random() < 0.3 OR op = 'increment' AND random() < 0.3 THEN
        made := made || jsonb_build_object('value', CASE WHEN op IN ('increment', 'min', 'max') THEN pg_temp.one_of('1', '"0.25"', '-3.0')::jsonb
                                                            ELSE pg_temp.random_value(element) END);
    ELSE
        made := made || jsonb_build_object('from', '$.payload' || pg_temp.one_of('', '', '.a', '.b[0]', '.b[-1]') || '.' || CASE element WHEN 'x' THEN 'd' ELSE element END);
        IF random() < 0.2 THEN
            made := made || jsonb_build_object('default', CASE WHEN op IN ('increment', 'min', 'max') THEN '2' ELSE pg_temp.random_value(element) END);
        END IF;
    END IF;
    IF op = 'increment' AND random() < 0.3 THEN
        made := made || jsonb_build_object('times', pg_temp.one_of('-1', '0.5', '"$.payload.c"', '"$.payload.a.c"')::jsonb);
    ELSIF op = 'remove' AND random() < 0.4 THEN
        made := made || '{"member": "c"}';
    END IF;
    RETURN made;
END
$$;

SELECT setseed(0.5150) \g /dev/null
CREATE TEMPORARY TABLE trials AS
SELECT t, jsonb_build_object('initial', pg_temp.random_value('a'), 'events', (
           SELECT jsonb_object_agg(type, operations) FROM (
               SELECT type, (SELECT coalesce(jsonb_agg(pg_temp.random_operation()), '[]') FROM generate_series(1, floor(random() * 4)::int + 0 * (t + n))) AS operations
                 FROM (VALUES ('b', 1), ('c', 2), ('d', 3), ('*', 4)) y (type, n) WHERE type <> '*' OR t % 4 = 0) z)) AS rules
  FROM generate_series(1, 1000) t;
DELETE FROM trials WHERE jsonb_typeof(rules -> 'initial') <> 'object';
CREATE TEMPORARY TABLE events AS
SELECT t, n, pg_temp.one_of('b', 'c', 'd') AS event_type,
       jsonb_build_object('a', pg_temp.random_value('a', 1), 'b', pg_temp.random_value('b', 1), 'c', pg_temp.random_value('c'),
                          'd', pg_temp.random_value('d')) || CASE WHEN random() < 0.9 THEN jsonb_build_object('k', pg_temp.one_of('a', 'b', 'c', 'd', 'e')) ELSE '{}' END AS payload
  FROM trials, generate_series(1, 8) n;

-- after every event the state; "failed" from the first failure on
CREATE TEMPORARY TABLE outcomes (t int, n int, expected text, actual text);
DO $$
DECLARE
    trial record;
    event record;
    state jsonb;
    expected text;
    actual text;
BEGIN
    FOR trial IN SELECT * FROM trials LOOP
        PERFORM event_store.set_reducer_rules('Random' || trial.t, trial.rules);
        state := NULL;
        FOR event IN SELECT * FROM events e WHERE e.t = trial.t ORDER BY n LOOP
            PERFORM event_store.append_event('Random' || trial.t, 'r', event.n - 1, event.event_type, event.payload);
            BEGIN
                state := pg_temp.folded(state, trial.rules, jsonb_build_object('event_type', event.event_type, 'payload', event.payload));
                expected := coalesce(state::text, 'NULL');
            EXCEPTION WHEN raise_exception THEN
                expected := 'failed';
            END;
            BEGIN
                actual := coalesce((event_store.replay_aggregate('Random' || trial.t, 'r')).state::text, 'NULL');
            EXCEPTION WHEN invalid_parameter_value THEN
                actual := 'failed';
            END;
            INSERT INTO outcomes VALUES (trial.t, event.n, expected, actual);
            EXIT WHEN expected = 'failed';
        END LOOP;
    END LOOP;
END
$$;

BEGIN;
SELECT * FROM no_plan();
SELECT ok(count(*) > 5000 AND count(DISTINCT expected) > 2000 AND max(length(expected)) > 400
          AND count(*) FILTER (WHERE expected = 'failed') > 200 AND count(*) FILTER (WHERE n = 8 AND expected <> 'failed') > 400,
          'many different states come of it, and failures') FROM outcomes;
SELECT is(count(*)::int, 0, 'after every event the state is that of the independent interpreter')
  FROM outcomes WHERE expected IS DISTINCT FROM actual;
SELECT diag(format('trial %s event %s: expected %s, got %s, rules %s, event %s %s', o.t, o.n, expected, actual, rules, event_type, payload))
  FROM outcomes o JOIN trials USING (t) JOIN events USING (t, n) WHERE expected IS DISTINCT FROM actual LIMIT 5;
SELECT * FROM finish();
ROLLBACK;
