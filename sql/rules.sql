-- rules: every operation, what is refused when they are set, and what fails at an event
SELECT event_store.create_store();
-- long lines, which padding would make unreadable
\pset format unaligned

-- What a statement ends with: its SQLSTATE and message, or "ok".
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN sqlstate || ' ' || sqlerrm || CASE hint WHEN '' THEN '' ELSE E'\n  ' || hint END;
END
$$;

-- What comes of setting rules.
CREATE FUNCTION pg_temp.set_rules(rules jsonb) RETURNS text
    LANGUAGE sql AS $$
    SELECT pg_temp.outcome(format('SELECT event_store.set_reducer_rules(''Checked'', %L)', rules));
$$;

-- What comes of setting one rule, the second of its event type.
CREATE FUNCTION pg_temp.set_rule(rule jsonb) RETURNS text
    LANGUAGE sql AS $$
    SELECT pg_temp.set_rules(jsonb_build_object('events', jsonb_build_object('Made', jsonb_build_array(
        '{"op": "unset", "path": "$.x"}'::jsonb, rule))));
$$;

-- The state that events of one type leave, as text, or the error and the part
-- of the context that names the rule.
CREATE TEMPORARY SEQUENCE folded;
CREATE FUNCTION pg_temp.folded(state jsonb, operations jsonb, VARIADIC payloads jsonb[]) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    id text := 'f-' || nextval('folded');
    context text;
    rules jsonb := jsonb_build_object('events', jsonb_build_object('Made',
        CASE jsonb_typeof(operations) WHEN 'array' THEN operations ELSE jsonb_build_array(operations) END));
BEGIN
    IF state IS NOT NULL THEN
        rules := rules || jsonb_build_object('initial', state);
    END IF;
    PERFORM event_store.set_reducer_rules('Ruled', rules);
    PERFORM event_store.append_batch(array_fill('Ruled'::text, ARRAY[cardinality(payloads)]),
                                     array_fill(id, ARRAY[cardinality(payloads)]),
                                     array_fill('Made'::text, ARRAY[cardinality(payloads)]), payloads,
                                     metadata => array_fill('{"user": "ada", "roles": ["a", "b"]}'::jsonb, ARRAY[cardinality(payloads)]));
    RETURN coalesce((event_store.replay_aggregate('Ruled', id)).state::text, 'NULL');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RETURN sqlstate || ' ' || sqlerrm || coalesce(E'\n  ' || substring(context FROM '^rule [^\n]*'), '');
END
$$;

--
-- Refused when they are set
--
SELECT n, pg_temp.set_rules(rules) FROM (VALUES
    (1, '[]'::jsonb),
    (2, '"events"'),
    (3, '{}'),
    (4, '{"events": []}'),
    (5, '{"events": {}, "unknwon": "error"}'),
    (6, '{"events": {}, "unknown": "fail"}'),
    (7, '{"events": {}, "unknown": true}'),
    (8, '{"events": {}, "initial": []}'),
    (9, '{"events": {}, "initial": null}'),
    (10, '{"events": {"Made": {"op": "set"}}}'),
    (11, '{"events": {"": []}}'),
    (12, jsonb_build_object('events', jsonb_build_object(repeat('é', 256), '[]'::jsonb))),
    (13, jsonb_build_object('events', jsonb_build_object('Made', (
            SELECT jsonb_agg('{"op": "unset", "path": "$.x"}'::jsonb) FROM generate_series(1, 1001)))))) r (n, rules)
 ORDER BY n;
-- and what is just allowed
SELECT n, pg_temp.set_rules(rules) FROM (VALUES
    (1, '{"events": {}}'::jsonb),
    (2, '{"events": {"Made": []}, "unknown": "error", "initial": {}}'),
    (3, '{"events": {}, "unknown": "ignore"}'),
    (4, jsonb_build_object('events', jsonb_build_object(repeat('é', 255), '[]'::jsonb))),
    (5, jsonb_build_object('events', jsonb_build_object('Made', (
            SELECT jsonb_agg('{"op": "unset", "path": "$.x"}'::jsonb) FROM generate_series(1, 1000)))))) r (n, rules)
 ORDER BY n;

SELECT n, rule, pg_temp.set_rule(rule) AS outcome FROM (VALUES
    (1, '7'::jsonb),
    (2, '[]'),
    (3, '{"path": "$.a", "value": 1}'),
    (4, '{"op": 1, "path": "$.a", "value": 1}'),
    (5, '{"op": "put", "path": "$.a", "value": 1}'),
    (6, '{"op": "set", "path": "$.a", "value": 1, "form": "$.payload"}'),
    (7, '{"op": "set", "path": "$.a", "value": 1, "times": 2}'),
    (8, '{"op": "unset", "path": "$.a", "value": 1}'),
    (9, '{"op": "append", "path": "$.a", "value": 1, "member": "id"}'),
    (10, '{"op": "set", "value": 1}'),
    (11, '{"op": "set", "path": ["a"], "value": 1}'),
    (12, '{"op": "set", "path": "$.a"}'),
    (13, '{"op": "set", "path": "$.a", "value": 1, "from": "$.payload.a"}'),
    (14, '{"op": "set", "path": "$.a", "value": 1, "default": 2}'),
    (15, '{"op": "set", "path": "$.a", "default": 2}'),
    (16, '{"op": "put_into", "path": "$.a", "value": 1}'),
    (17, '{"op": "set", "path": "$.a", "value": 1, "key": 3}'),
    (18, '{"op": "set", "path": "$.a", "value": 1, "key": {"value": 3}}'),
    (19, '{"op": "set", "path": "$.a", "value": 1, "key": {"value": "a", "from": "b"}}'),
    (20, '{"op": "set", "path": "$.a", "value": 1, "key": {"name": "a"}}'),
    (21, '{"op": "set", "path": "$.a", "value": 1, "key": "payload.id"}'),
    (22, '{"op": "increment", "path": "$.a", "value": "abc"}'),
    (23, '{"op": "increment", "path": "$.a", "value": "1e5"}'),
    (24, '{"op": "increment", "path": "$.a", "value": null}'),
    (25, '{"op": "increment", "path": "$.a", "value": "NaN"}'),
    (26, '{"op": "increment", "path": "$.a", "from": "$.payload.a", "default": {}}'),
    (27, '{"op": "increment", "path": "$.a", "value": 1, "times": null}'),
    (28, '{"op": "increment", "path": "$.a", "value": 1, "times": "2"}'),
    (29, '{"op": "remove", "path": "$.a", "value": 1, "member": 1}'),
    (37, '{"op": "increment", "path": "$.a", "value": 1, "times": [1, null]}'),
    (38, '{"op": "increment", "path": "$.a", "value": 1, "times": [1, 2, 3, 4, 5, 6, 7, 8, 9]}'),
    (30, '{"op": "set", "path": "$.a", "from": 5}'),
    (31, '{"op": "set", "path": "$.a", "from": "$"}'),
    (39, '{"op": "set", "path": "$.a", "from": "$.item"}'),
    (32, '{"op": "set", "path": "$.a", "from": "$[0]"}'),
    (33, '{"op": "set", "path": "$.a", "from": "$.payloads.a"}'),
    (34, '{"op": "set", "path": "$.a", "from": "$.payload_bytes"}'),
    (35, '{"op": "set", "path": "$.a", "from": "$.event_type.a"}'),
    (36, '{"op": "set", "path": "$.a", "from": "$.sequence[0]"}')) r (n, rule)
 ORDER BY n;

-- min, max, set_once and when
SELECT n, rule, pg_temp.set_rule(rule) AS outcome FROM (VALUES
    (1, '{"op": "min", "path": "$.a", "value": null}'::jsonb),
    (2, '{"op": "max", "path": "$.a", "value": true}'),
    (3, '{"op": "max", "path": "$.a", "from": "$.payload.a", "default": []}'),
    (4, '{"op": "max", "path": "$.a", "value": 1, "times": 2}'),
    (5, '{"op": "max", "path": "$.a"}'),
    (6, '{"op": "set_once", "path": "$.a"}'),
    (7, '{"op": "set_once", "value": 1}'),
    (8, '{"op": "unset", "path": "$.a", "when": "$.payload.a"}'),
    (9, '{"op": "unset", "path": "$.a", "when": {}}'),
    (10, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a"}}'),
    (11, '{"op": "unset", "path": "$.a", "when": {"is": 1}}'),
    (12, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a", "is": 1, "less": 2}}'),
    (13, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a", "equals": 1}}'),
    (14, '{"op": "unset", "path": "$.a", "when": {"path": 1, "is": 1}}'),
    (15, '{"op": "unset", "path": "$.a", "when": {"path": "payload.a", "is": 1}}'),
    (16, '{"op": "unset", "path": "$.a", "when": {"path": "$.payloads.a", "is": 1}}'),
    (17, '{"op": "unset", "path": "$.a", "when": {"path": "$.sequence.a", "is": 1}}'),
    (18, '{"op": "unset", "path": "$.a", "when": {"path": "$.item", "is": 1}}'),
    (19, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a", "in": 1}}'),
    (20, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a", "in": {"a": 1}}}'),
    (21, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a", "exists": 1}}'),
    (22, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a", "less": null}}'),
    (23, '{"op": "unset", "path": "$.a", "when": {"path": "$.payload.a", "greater": [1]}}'),
    (24, '{"op": "unset", "path": "$.a", "when": [{"path": "$.payload.a", "is": 1}, {"path": "$.payload.a", "exists": "true"}]}'),
    (25, '{"op": "unset", "path": "$.a", "when": [[]]}'),
    (26, jsonb_build_object('op', 'unset', 'path', '$.a', 'when', (
            SELECT jsonb_agg('{"path": "$.payload.a", "is": 1}'::jsonb) FROM generate_series(1, 33)))),
    (27, jsonb_build_object('op', 'unset', 'path', '$.a', 'when', (
            SELECT jsonb_agg('{"path": "$.payload.a", "is": 1}'::jsonb) FROM generate_series(1, 32)))),
    (28, '{"op": "set_once", "path": "$.a", "value": null, "when": []}'),
    (29, '{"op": "min", "path": "$.a", "key": "$.event_type", "from": "$.payload.a", "default": "", "when": {"path": "$.metadata.a", "in": []}}')) r (n, rule)
 ORDER BY n;
-- of every event
SELECT pg_temp.set_rules('{"events": {"*": [{"op": "unset", "path": "$.x"}, {"op": "set", "path": "$.a"}]}}');

-- paths
SELECT path, pg_temp.set_rule(jsonb_build_object('op', 'unset', 'path', path)) AS outcome FROM (VALUES
    (1, ''), (2, 'a'), (3, '.a'), (4, '$a'), (5, '$.'), (6, '$..a'), (7, '$.a.'), (8, '$. a'), (9, '$.a b'), (10, '$.*'),
    (11, '$["a"]'), (12, '$.a[]'), (13, '$.a[1'), (14, '$.a[x]'), (15, '$.a[1.5]'), (16, '$.a[-]'), (17, '$.a[-0]'),
    (18, '$.a[2147483648]'), (19, '$.a[99999999999999999999999999]'), (20, '$.a[ 1]'), (21, '$.a]'), (22, '$."a'),
    (23, '$."a\'), (24, '$."a\n"'), (25, '$."a"b'), (26, '$.a[1]b'), (27, '$' || repeat('.a', 33)),
    (28, '$'), (29, '$.a'), (30, '$.a-b_c.1.é'), (31, '$.""'), (32, '$."a b"."\"\\"'), (33, '$[0][-1].a[2147483647]'),
    (34, '$.a[-2147483647]'), (35, '$' || repeat('[0]', 32))) p (n, path)
 ORDER BY n;

-- a refused set leaves the rules that were there
SELECT event_store.set_reducer_rules('Checked', '{"events": {"Made": [{"op": "set", "path": "$.a", "value": 1}]}}', 100);
SELECT pg_temp.set_rule('{"op": "set"}');
SELECT rules, reducer, reducer_version FROM event_store.reducers WHERE aggregate_type = 'Checked';

--
-- Operations
--
SELECT n, coalesce(state::text, 'NULL') AS state, operations, payload, pg_temp.folded(state, operations, payload) AS result FROM (VALUES
    -- set
    (1, NULL::jsonb, '{"op": "set", "path": "$.a", "value": 1}'::jsonb, '{}'::jsonb),
    (2, '{"a": 0, "b": 2}', '{"op": "set", "path": "$.a", "from": "$.payload"}', '{"x": {"y": [null]}}'),
    (3, '{}', '{"op": "set", "path": "$.a.b.\"c d\"", "from": "$.payload.x.y[-1]"}', '{"x": {"y": [1, 2]}}'),
    (4, '{"a": [1, {"b": 2}, 3]}', '{"op": "set", "path": "$.a[1].b", "value": null}', '{}'),
    (5, '{"a": [1, {"b": 2}, 3]}', '{"op": "set", "path": "$.a[-3]", "value": {"c": null}}', '{}'),
    (6, '{"a": [1]}', '{"op": "set", "path": "$.a[1]", "value": 2}', '{}'),
    (7, '{"a": [1]}', '{"op": "set", "path": "$.a[-2]", "value": 2}', '{}'),
    (8, '{"a": [1]}', '{"op": "set", "path": "$.a[2147483647].b", "value": 2}', '{}'),
    (9, '{}', '{"op": "set", "path": "$.a[0]", "value": 2}', '{}'),
    (10, '{"a": {"b": "text"}}', '{"op": "set", "path": "$.a.b.c.d", "value": 2}', '{}'),
    (11, '{"a": null}', '{"op": "set", "path": "$.a.b", "value": 2}', '{}'),
    (12, '{"a": [{}]}', '{"op": "set", "path": "$.a.b", "value": 2}', '{}'),
    (13, '{"a": {"b": 1}}', '{"op": "set", "path": "$.a[0]", "value": 2}', '{}'),
    (14, '{"a": 1}', '{"op": "set", "path": "$", "from": "$.payload.x"}', '{"x": [1, 2]}'),
    (15, '{"a": 1}', '{"op": "set", "path": "$", "value": "text"}', '{}'),
    (16, '{"a": 1}', '{"op": "set", "path": "$", "value": null}', '{}'),
    (17, '{"a": 1}', '{"op": "set", "path": "$.b", "from": "$.payload.x"}', '{"x": null}'),
    (18, '{"a": 1}', '{"op": "set", "path": "$.b.c", "from": "$.payload.x"}', '{"y": 1}'),
    (19, '{"a": 1}', '{"op": "set", "path": "$.b.c", "from": "$.payload.x", "default": [0]}', '{"y": 1}'),
    (20, '{"a": 1}', '{"op": "set", "path": "$.b", "from": "$.payload.x", "default": 0}', '{"x": null}'),
    -- merge
    (21, '{"a": {"b": 1, "c": {"d": 2, "e": 3}}}', '{"op": "merge", "path": "$.a", "from": "$.payload"}', '{"b": null, "c": {"d": 4, "f": [null]}}'),
    (22, '{"a": 1}', '{"op": "merge", "path": "$.b.c", "from": "$.payload"}', '{"x": null, "y": {"z": null}}'),
    (23, '{"a": 1}', '{"op": "merge", "path": "$", "from": "$.payload"}', '{"a": null, "b": 2}'),
    (24, '{"a": 1}', '{"op": "merge", "path": "$.a", "value": null}', '{}'),
    (25, '{"a": [1]}', '{"op": "merge", "path": "$.a", "value": [2]}', '{}'),
    (26, '{"a": [{"b": 1}]}', '{"op": "merge", "path": "$.a[0]", "from": "$.payload"}', '{"c": 2}'),
    -- unset
    (27, '{"a": 1, "b": {"c": [1, 2, 3]}}', '[{"op": "unset", "path": "$.a"}, {"op": "unset", "path": "$.b.c[1]"}]', '{}'),
    (28, '{"a": [1, 2, 3]}', '[{"op": "unset", "path": "$.a[-1]"}, {"op": "unset", "path": "$.a[7]"}, {"op": "unset", "path": "$.a[-7].b"}]', '{}'),
    (29, '{"a": 1}', '[{"op": "unset", "path": "$.b"}, {"op": "unset", "path": "$.c.d.e"}, {"op": "unset", "path": "$.c[0]"}]', '{}'),
    (30, '{"a": 1}', '{"op": "unset", "path": "$.a.b"}', '{}'),
    (31, '{"a": 1}', '{"op": "unset", "path": "$.a[0]"}', '{}'),
    (32, '{"a": 1}', '{"op": "unset", "path": "$"}', '{}'),
    (33, '{"a": 1}', '[{"op": "unset", "path": "$"}, {"op": "set", "path": "$.b", "value": 2}]', '{}'),
    (107, '{"a": 1}', '[{"op": "unset", "path": "$"}, {"op": "set", "path": "$.b", "from": "$.payload.x"}]', '{}'),
    (34, '{"a": {"x": 1, "y": 2}}', '{"op": "unset", "path": "$.a", "key": "$.payload.id"}', '{"id": "x"}'),
    -- increment
    (35, '{}', '{"op": "increment", "path": "$.a.n", "value": 1}', '{}'),
    (36, '{"n": 2}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": -5.25}'),
    (37, '{"n": "10.00"}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "0.50"}'),
    (38, '{"n": "10.00"}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": 0.125}'),
    (39, '{"n": 10}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "0.50"}'),
    (40, '{}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "+007.50"}'),
    (41, '{"n": "0.1"}', '{"op": "increment", "path": "$.n", "value": "0.2"}', '{}'),
    (42, '{"n": "99999999999999999999999999999.99"}', '{"op": "increment", "path": "$.n", "value": "0.01"}', '{}'),
    (43, '{"n": "100.00"}', '{"op": "increment", "path": "$.n", "from": "$.payload.price", "times": "$.payload.quantity"}', '{"price": "19.99", "quantity": 3}'),
    (44, '{"n": "100.00"}', '{"op": "increment", "path": "$.n", "from": "$.payload.price", "times": -1}', '{"price": "19.99"}'),
    (45, '{"n": 1}', '{"op": "increment", "path": "$.n", "value": 2, "times": "$.payload.factor"}', '{"factor": "1.5"}'),
    (46, '{"n": 1}', '{"op": "increment", "path": "$.n", "value": 2, "times": "$.payload.factor"}', '{}'),
    (47, '{"n": 1}', '{"op": "increment", "path": "$.n", "value": 2, "times": "$.payload.factor"}', '{"factor": null}'),
    (108, '{"n": "10.00"}', '{"op": "increment", "path": "$.n", "from": "$.payload.price", "times": ["$.payload.quantity", -1]}', '{"price": "1.25", "quantity": 3}'),
    (109, '{"n": "10.00"}', '{"op": "increment", "path": "$.n", "from": "$.payload.price", "times": ["$.payload.quantity", "$.payload.rate", -1]}', '{"price": "1.25", "quantity": 3}'),
    (110, '{"n": "10.00"}', '{"op": "increment", "path": "$.n", "value": 2, "times": []}', '{}'),
    (48, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x", "default": 10}', '{}'),
    (49, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "abc"}'),
    (50, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "NaN"}'),
    (51, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "Infinity"}'),
    (52, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "1e3"}'),
    (53, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": " 1"}'),
    (54, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "1."}'),
    (55, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": ".5"}'),
    (56, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": ""}'),
    (57, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": "-"}'),
    (58, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": null}'),
    (59, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": {"y": 1}}'),
    (60, '{"n": 1}', '{"op": "increment", "path": "$.n", "from": "$.payload.x"}', '{"x": true}'),
    (61, '{"n": "abc"}', '{"op": "increment", "path": "$.n", "value": 1}', '{}'),
    (62, '{"n": null}', '{"op": "increment", "path": "$.n", "value": 1}', '{}'),
    (63, '{"n": [1]}', '{"op": "increment", "path": "$.n", "value": 1}', '{}'),
    (64, '{"n": [1, 2]}', '{"op": "increment", "path": "$.n[1]", "value": 1}', '{}'),
    (65, '{"n": {}}', '{"op": "increment", "path": "$.n", "key": "$.payload.id", "value": 1}', '{"id": "new"}'),
    (66, '{"n": 1}', '{"op": "increment", "path": "$", "value": 1}', '{}'),
    -- append
    (67, '{}', '{"op": "append", "path": "$.a.list", "from": "$.payload"}', '{"x": 1}'),
    (68, '{"list": [1, [2]]}', '[{"op": "append", "path": "$.list", "value": [3]}, {"op": "append", "path": "$.list[1]", "value": null}]', '{}'),
    (69, '{"list": "text"}', '{"op": "append", "path": "$.list", "value": 1}', '{}'),
    (70, '{"list": {"a": 1}}', '{"op": "append", "path": "$.list", "value": 1}', '{}'),
    (71, '{"list": null}', '{"op": "append", "path": "$.list", "value": 1}', '{}'),
    (72, '{"lists": {}}', '{"op": "append", "path": "$.lists", "key": "$.payload.id", "value": 1}', '{"id": 7}'),
    (73, '{}', '{"op": "append", "path": "$.list", "from": "$.payload.x"}', '{}'),
    -- remove
    (74, '{"list": [1, 2, 1.0, "1", [1], {"a": 1}]}', '{"op": "remove", "path": "$.list", "value": 1.00}', '{}'),
    (75, '{"list": [1, {"b": 1, "a": [2.0]}, {"a": [2]}]}', '{"op": "remove", "path": "$.list", "value": {"a": [2.00], "b": 1}}', '{}'),
    (76, '{"list": [null, false, true, ""]}', '[{"op": "remove", "path": "$.list", "value": null}, {"op": "remove", "path": "$.list", "value": false}, {"op": "remove", "path": "$.list", "value": ""}]', '{}'),
    (77, '{"list": [{"id": 1, "n": 1}, {"id": "1"}, {"n": 1}, 1, [1], {"id": 1}]}', '{"op": "remove", "path": "$.list", "member": "id", "from": "$.payload.id"}', '{"id": 1}'),
    (78, '{"list": [{"id": {"a": [1, {}]}}, {"id": {"a": [1, []]}}]}', '{"op": "remove", "path": "$.list", "member": "id", "from": "$.payload.id"}', '{"id": {"a": [1, {}]}}'),
    (79, '{"list": [1]}', '{"op": "remove", "path": "$.list", "value": 1}', '{}'),
    (80, '{"a": 1}', '[{"op": "remove", "path": "$.list", "value": 1}, {"op": "remove", "path": "$.b.list[3]", "value": 1}]', '{}'),
    (81, '{"list": "text"}', '{"op": "remove", "path": "$.list", "value": "text"}', '{}'),
    (82, '{"list": {"a": 1}}', '{"op": "remove", "path": "$.list", "value": 1}', '{}'),
    (83, '{"list": [1]}', '{"op": "remove", "path": "$.list", "from": "$.payload.x"}', '{}'),
    -- an array and an object that were changed before they are compared
    (84, '{"list": [[1], {"a": 1}]}', '[{"op": "append", "path": "$.list[0]", "value": 2}, {"op": "set", "path": "$.list[1].b", "value": 2}, {"op": "remove", "path": "$.list", "value": [1, 2]}, {"op": "remove", "path": "$.list", "value": {"a": 1, "b": 3}}, {"op": "remove", "path": "$.list", "value": {"a": 1}}]', '{}'),
    (85, '{"list": [[1], {"a": 1}]}', '[{"op": "append", "path": "$.list[0]", "value": 2}, {"op": "set", "path": "$.list[1].b", "value": 2}, {"op": "remove", "path": "$.list", "value": [1, 3]}, {"op": "remove", "path": "$.list", "value": {"a": 1, "b": 2}}]', '{}'),
    -- put_into and keys
    (86, '{}', '{"op": "put_into", "path": "$.lines", "key": "$.payload.id", "from": "$.payload"}', '{"id": "p-1"}'),
    (87, '{"lines": {"p-1": 0, "p-2": 1}}', '{"op": "put_into", "path": "$.lines", "key": {"value": "p-1"}, "value": 2}', '{}'),
    (88, '{}', '{"op": "put_into", "path": "$", "key": "$.payload.id", "value": 1}', '{"id": ""}'),
    (89, '{}', '{"op": "put_into", "path": "$.a", "key": "$.payload.id", "value": 1}', '{"id": 1.50}'),
    (90, '{}', '{"op": "put_into", "path": "$.a", "key": "$.payload.id", "value": 1}', '{"id": true}'),
    (91, '{}', '{"op": "put_into", "path": "$.a", "key": "$.payload.id", "value": 1}', '{"id": null}'),
    (92, '{}', '{"op": "put_into", "path": "$.a", "key": "$.payload.id", "value": 1}', '{"id": ["a"]}'),
    (93, '{}', '{"op": "put_into", "path": "$.a", "key": "$.payload.id", "value": 1}', '{}'),
    (94, '{"a": []}', '{"op": "put_into", "path": "$.a", "key": "$.payload.id", "value": 1}', '{"id": "x"}'),
    (95, '{"a": "text"}', '{"op": "put_into", "path": "$.a", "key": {"value": "x"}, "value": 1}', '{}'),
    (96, '{"a": {"x": 1}}', '{"op": "append", "path": "$.a", "key": "$.payload.id", "value": 1}', '{"id": "x"}'),
    (97, '{"a": {"x": {"b": 1}}}', '{"op": "merge", "path": "$.a", "key": "$.payload.id", "value": {"b": null, "c": 2}}', '{"id": "x"}'),
    (98, '{"a": {"x": [1, 2]}}', '{"op": "remove", "path": "$.a", "key": "$.payload.id", "value": 2}', '{"id": "x"}'),
    -- min and max: numbers and decimal strings by value, before other strings, which go by bytes
    (120, '{}', '{"op": "min", "path": "$.a.b", "from": "$.payload.x"}', '{"x": "9.50"}'),
    (121, '{"a": "10.00"}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{"x": "9.50"}'),
    (122, '{"a": "9.5"}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{"x": 9.50}'),
    (123, '{"a": 10}', '{"op": "max", "path": "$.a", "from": "$.payload.x"}', '{"x": "10.01"}'),
    (124, '{"a": 10}', '{"op": "max", "path": "$.a", "from": "$.payload.x"}', '{"x": "9"}'),
    (125, '{"a": "2024-02-29"}', '{"op": "max", "path": "$.a", "from": "$.payload.x"}', '{"x": "2024-03-01"}'),
    (126, '{"a": "Z"}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{"x": "a"}'),
    (127, '{"a": "é"}', '{"op": "max", "path": "$.a", "from": "$.payload.x"}', '{"x": "z"}'),
    (128, '{"a": "ab"}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{"x": "a"}'),
    (129, '{"a": "+5 apples"}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{"x": 7}'),
    (130, '{"a": "+5 apples"}', '{"op": "max", "path": "$.a", "from": "$.payload.x"}', '{"x": "7"}'),
    (131, '{"a": -1}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{"x": -99999999999999999999.5}'),
    (132, '{"a": 1}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{}'),
    (133, '{"a": 1}', '{"op": "min", "path": "$.a", "from": "$.payload.x", "default": 0}', '{}'),
    (134, '{"a": 1}', '{"op": "min", "path": "$.a", "from": "$.payload.x"}', '{"x": null}'),
    (135, '{"a": 1}', '{"op": "max", "path": "$.a", "from": "$.payload.x"}', '{"x": true}'),
    (136, '{"a": 1}', '{"op": "max", "path": "$.a", "from": "$.payload.x"}', '{"x": [1]}'),
    (137, '{"a": null}', '{"op": "max", "path": "$.a", "value": 1}', '{}'),
    (138, '{"a": false}', '{"op": "max", "path": "$.a", "value": 1}', '{}'),
    (139, '{"a": {"b": 1}}', '{"op": "max", "path": "$.a", "value": 1}', '{}'),
    (140, '{"a": {"b": 1}}', '{"op": "max", "path": "$.a", "key": "$.payload.k", "value": 2}', '{"k": "b"}'),
    (141, '{"a": [1, 5]}', '{"op": "max", "path": "$.a[-1]", "value": 7}', '{}'),
    (142, '{"a": 1}', '{"op": "max", "path": "$", "value": 7}', '{}'),
    -- set_once
    (150, '{}', '[{"op": "set_once", "path": "$.a.b", "from": "$.payload.x"}, {"op": "set_once", "path": "$.a.b", "value": 2}]', '{"x": 1}'),
    (151, '{"a": null}', '{"op": "set_once", "path": "$.a", "value": 2}', '{}'),
    (152, '{}', '[{"op": "set_once", "path": "$.a", "from": "$.payload.x"}, {"op": "set_once", "path": "$.a", "value": 2}]', '{"x": null}'),
    (153, '{}', '{"op": "set_once", "path": "$.a", "from": "$.payload.x"}', '{}'),
    (154, '{"a": {"b": 1}}', '[{"op": "set_once", "path": "$.a", "key": "$.payload.k", "value": 2}, {"op": "set_once", "path": "$.a", "key": {"value": "c"}, "value": 3}]', '{"k": "b"}'),
    (155, '{"a": "text"}', '{"op": "set_once", "path": "$.a.b", "value": 2}', '{}'),
    (156, '{"a": [1]}', '{"op": "set_once", "path": "$.a[0]", "value": 2}', '{}'),
    (157, '{"a": [1]}', '{"op": "set_once", "path": "$.a[1]", "value": 2}', '{}'),
    (158, '{"a": 1}', '{"op": "set_once", "path": "$", "value": 2}', '{}'),
    -- when: one that does not hold leaves no trace, nor an error of what it guards
    (160, NULL, '{"op": "increment", "path": "$.a.b", "from": "$.payload.x", "when": {"path": "$.payload.y", "is": true}}', '{"x": "much", "y": false}'),
    (161, '{}', '{"op": "increment", "path": "$.a.b", "from": "$.payload.x", "when": {"path": "$.payload.y", "is": true}}', '{"x": 3, "y": true}'),
    (162, '{}', '[{"op": "set", "path": "$.a", "value": 1, "when": [{"path": "$.payload.x", "is": 1}, {"path": "$.payload.y", "is": 2}]}, {"op": "set", "path": "$.b", "value": 1, "when": [{"path": "$.payload.x", "is": 1}, {"path": "$.payload.y", "is": 1}]}, {"op": "set", "path": "$.c", "value": 1, "when": []}]', '{"x": 1, "y": 2}'),
    (163, '{"a": 1}', '{"op": "unset", "path": "$", "when": {"path": "$.event_type", "is": "Made"}}', '{}'),
    (164, '{"a": 1}', '{"op": "unset", "path": "$", "when": {"path": "$.event_type", "is_not": "Made"}}', '{}'),
    (165, '{}', '{"op": "set", "path": "$.a", "value": 1, "when": {"path": "$.metadata.roles[1]", "is": "b"}}', '{}'),
    -- the first event with operations begins the state, even if all are left out
    (99, NULL, '[]', '{}'),
    (100, NULL, '{"op": "set", "path": "$.a", "from": "$.payload.a"}', '{}'),
    (101, '{"a": 1}', '{"op": "set", "path": "$.a", "from": "$.payload.a"}', '{}'),
    (102, NULL, '{"op": "unset", "path": "$.a"}', '{}'),
    (103, NULL, '{"op": "append", "path": "$", "value": 1}', '{}'),
    -- left out at other places
    (104, '{}', '[{"op": "set", "path": "$.a", "from": "$.metadata.user"}, {"op": "set", "path": "$.b", "from": "$.metadata.roles[1]"}, {"op": "set", "path": "$.c", "from": "$.metadata.roles[2]"}, {"op": "set", "path": "$.d", "from": "$.metadata.roles.a"}, {"op": "set", "path": "$.e", "from": "$.metadata.user.name"}, {"op": "set", "path": "$.f", "from": "$.payload[0]"}]', '{}'),
    (105, '{}', '[{"op": "set", "path": "$.a", "from": "$.payload"}, {"op": "set", "path": "$.b", "from": "$.payload[1].x"}]', '[1, {"x": 2}]'),
    (106, '{}', '[{"op": "set", "path": "$.a", "from": "$.payload"}, {"op": "set", "path": "$.b", "from": "$.payload[0]"}]', '"scalar"')) t (n, state, operations, payload)
 ORDER BY n;

--
-- Comparisons
--
-- a row for each value, with what holds for it; "missing" stands for an event without it
CREATE FUNCTION pg_temp.holds(comparison jsonb, value jsonb) RETURNS boolean
    LANGUAGE sql AS $$
    SELECT pg_temp.folded('{}', jsonb_build_object('op', 'set', 'path', '$.held', 'value', true, 'when', '{"path": "$.payload.x"}' || comparison),
                          CASE value WHEN '"missing"' THEN '{}' ELSE jsonb_build_object('x', value) END) = '{"held": true}';
$$;
SELECT comparison, string_agg(value::text, ' ' ORDER BY n) FILTER (WHERE pg_temp.holds(comparison, value)) AS holds_for
  FROM (VALUES
    (1, '{"is": 1}'::jsonb), (2, '{"is": "1"}'), (3, '{"is": null}'), (4, '{"is": true}'), (5, '{"is": {"b": 1, "a": [1]}}'), (6, '{"is": [1]}'),
    (7, '{"is_not": 1}'), (8, '{"is_not": null}'), (9, '{"in": [1, null, "b"]}'), (10, '{"in": []}'), (11, '{"in": [[1], {}]}'),
    (12, '{"exists": true}'), (13, '{"exists": false}'), (14, '{"less": 10}'), (15, '{"greater": 1}'), (16, '{"less": "10.0"}'),
    (17, '{"greater": "a"}'), (18, '{"less": "a"}'), (19, '{"greater": ""}')) c (m, comparison),
    (VALUES (1, '1'::jsonb), (2, '1.00'), (3, '"1"'), (4, '"1.00"'), (5, '9.5'), (6, '"9.5"'), (7, '10'), (8, '"10"'), (9, '-3'), (10, '""'), (11, '"A"'),
            (12, '"b"'), (13, '"é"'), (14, 'null'), (15, 'true'), (16, 'false'), (17, '[1.0]'), (18, '{}'), (19, '{"a": [1.0], "b": 1}'), (20, '"missing"')) v (n, value)
 GROUP BY m, comparison ORDER BY m;

--
-- Operations of every event
--
SELECT outcome FROM event_store.append_events('Every', 'e', 0, '[{"event_type": "First", "payload": {"n": 3}}, {"event_type": "Other", "payload": {"n": 1}}, {"event_type": "*", "payload": {"n": 2}}, {"event_type": "First", "payload": {"n": 2}}]');
SELECT event_store.set_reducer_rules('Every', '{"events": {
    "First": [{"op": "append", "path": "$.log", "value": "own"}],
    "*": [{"op": "append", "path": "$.log", "from": "$.event_type"},
          {"op": "set_once", "path": "$.first", "from": "$.payload.n"},
          {"op": "min", "path": "$.least", "from": "$.payload.n"},
          {"op": "set", "path": "$.late", "value": true, "when": {"path": "$.sequence", "greater": 2}}]}}');
SELECT s AS sequence, (event_store.replay_aggregate('Every', 'e', s)).state FROM generate_series(0, 4) s;
SELECT (event_store.replay_aggregate('Every', 'e')).state = event_store.fold_events(e ORDER BY e.sequence) AS same FROM event_store.load_events('Every', 'e') e;
-- it lists no type
SELECT event_store.set_reducer_rules('Every', '{"events": {"First": [], "*": [{"op": "increment", "path": "$.n", "value": 1}]}, "unknown": "error"}');
SELECT (event_store.replay_aggregate('Every', 'e', 1)).state;
SELECT (event_store.replay_aggregate('Every', 'e', 2)).state;
-- what fails names it
SELECT event_store.set_reducer_rules('Every', '{"events": {"First": [], "*": [{"op": "set", "path": "$.n", "value": "many"}, {"op": "increment", "path": "$.n", "value": 1}]}}');
SELECT (event_store.replay_aggregate('Every', 'e')).state;
-- a view takes the same rules
SELECT event_store.set_reducer_rules('Every', '{"events": {"*": [{"op": "max", "path": "$.most", "from": "$.payload.n", "when": {"path": "$.payload.n", "less": 3}}]}}');
SELECT event_store.rebuild_view('every', 'Every');
SELECT view_key, view_data FROM event_store.load_views('every');

--
-- The columns of an event
--
SELECT event_store.set_reducer_rules('Columns', jsonb_build_object('events', jsonb_build_object('Made', (
    SELECT jsonb_agg(jsonb_build_object('op', 'set', 'path', '$.' || name, 'from', '$.' || name, 'default', 'none'))
      FROM unnest('{global_position,aggregate_type,aggregate_id,sequence,event_id,event_type,schema_version,payload,metadata,correlation_id,causation_id,saga_id,occurred_at,recorded_at}'::text[]) name))));
SELECT outcome FROM event_store.append_event('Columns', 'full', 0, 'Made', '{"a": [1.50]}', '{"b": null}', 'aaaaaaaa-0000-4000-8000-000000000001',
    'cor', 'cau', 'saga', '2024-02-29 23:59:59.123456+02', schema_version => 7);
SELECT outcome FROM event_store.append_event('Columns', 'bare', 0, 'Made');
SELECT outcome FROM event_store.append_event('Columns', 'bytes', 0, 'Made', payload_bytes => '\x00');
SELECT state - '{global_position,recorded_at}'::text[] AS full_event FROM event_store.replay_aggregate('Columns', 'full');
-- as to_jsonb gives them in UTC, whatever the session's time zone is
SET timezone = 'UTC';
CREATE TEMPORARY TABLE columns_in_utc AS
SELECT to_jsonb(e) - 'payload_bytes' AS event FROM event_store.load_events('Columns', 'full') e;
SET timezone = 'America/New_York';
SET datestyle = 'German';
SELECT state = event AS right FROM event_store.replay_aggregate('Columns', 'full'), columns_in_utc;
RESET timezone;
RESET datestyle;
SELECT state - '{global_position,recorded_at,event_id,occurred_at}'::text[] AS bare_event FROM event_store.replay_aggregate('Columns', 'bare');
SELECT state -> 'payload' AS payload FROM event_store.replay_aggregate('Columns', 'bytes');

--
-- Unknown event types
--
SELECT outcome FROM event_store.append_events('Typed', 't', 0, '[{"event_type": "Other"}, {"event_type": "Known"}, {"event_type": "known"}, {"event_type": "Known"}, {"event_type": "Silent"}]');
SELECT event_store.set_reducer_rules('Typed', '{"events": {"Known": [{"op": "increment", "path": "$.known", "value": 1}], "Silent": []}, "initial": {"known": 10}}');
SELECT s AS sequence, (event_store.replay_aggregate('Typed', 't', s)).state FROM generate_series(0, 5) s;
SELECT event_store.set_reducer_rules('Typed', '{"events": {"Known": [{"op": "increment", "path": "$.known", "value": 1}], "Silent": [], "Other": []}, "unknown": "error"}');
SELECT s AS sequence, (event_store.replay_aggregate('Typed', 't', s)).state FROM generate_series(0, 2) s;
SELECT event_store.replay_aggregate('Typed', 't');

--
-- Many events on one state
--
-- a map, an array and sums against SQL
SELECT event_store.set_reducer_rules('Thousand', '{"events": {
    "Added": [{"op": "put_into", "path": "$.lines", "key": "$.payload.id", "from": "$.payload"},
              {"op": "increment", "path": "$.total", "from": "$.payload.price", "times": "$.payload.quantity"},
              {"op": "increment", "path": "$.by_color", "key": "$.payload.color", "value": 1},
              {"op": "append", "path": "$.log", "from": "$.payload.id"}],
    "Dropped": [{"op": "unset", "path": "$.lines", "key": "$.payload.id"},
                {"op": "increment", "path": "$.total", "from": "$.payload.price", "times": "$.payload.quantity"},
                {"op": "remove", "path": "$.log", "from": "$.payload.id"}]}}');
CREATE TEMPORARY TABLE many AS
SELECT n, CASE WHEN n % 5 = 0 THEN 'Dropped' ELSE 'Added' END AS type,
       jsonb_build_object('id', 'p-' || n * 7 % 83, 'price', ((n * 37 % 1000) / 100.0)::numeric(10, 2)::text,
                          'quantity', CASE WHEN n % 5 = 0 THEN -1 ELSE n % 4 END,
                          'color', (ARRAY['red', 'green', 'blue'])[1 + n % 3]) AS payload
  FROM generate_series(1, 1000) n;
SELECT max(sequence) FROM (SELECT array_agg(type ORDER BY n) AS types, array_agg(payload ORDER BY n) AS payloads FROM many) m,
    LATERAL event_store.append_batch(array_fill('Thousand'::text, ARRAY[1000]), array_fill('m'::text, ARRAY[1000]), types, payloads);
SELECT state ->> 'total' AS total,
       state ->> 'total' = (SELECT sum((payload ->> 'price')::numeric * (payload ->> 'quantity')::int)::text FROM many) AS total_is_right,
       state -> 'by_color' = (SELECT jsonb_object_agg(color, c) FROM (
           SELECT payload ->> 'color' AS color, count(*) AS c FROM many WHERE type = 'Added' GROUP BY 1) x) AS counts_are_right,
       state -> 'lines' = (SELECT jsonb_object_agg(payload ->> 'id', payload) FROM (
           SELECT DISTINCT ON (payload ->> 'id') * FROM many ORDER BY payload ->> 'id', n DESC) l WHERE type = 'Added') AS lines_are_right,
       state -> 'log' = (SELECT jsonb_agg(payload -> 'id' ORDER BY n) FROM many a
           WHERE type = 'Added' AND NOT EXISTS (SELECT FROM many d WHERE d.type = 'Dropped' AND d.n > a.n AND d.payload -> 'id' = a.payload -> 'id')) AS log_is_right
  FROM event_store.replay_aggregate('Thousand', 'm');
-- from a snapshot, of which only a part is taken apart
-- (the worker may have taken it already)
SELECT event_store.take_snapshot('Thousand', 'm') IS NOT NULL AS taken;
SELECT last_sequence FROM event_store.append_event('Thousand', 'm', 1000, 'Added', '{"id": "last", "price": "1.00", "quantity": 1, "color": "red"}');
SELECT r.state = jsonb_set(jsonb_set(jsonb_set(jsonb_set(s.state, '{lines,last}', '{"id": "last", "price": "1.00", "quantity": 1, "color": "red"}'),
           '{total}', to_jsonb(((s.state ->> 'total')::numeric + 1)::text)),
           '{by_color,red}', to_jsonb((s.state #>> '{by_color,red}')::int + 1)),
           '{log}', (s.state -> 'log') || '"last"') AS as_from_snapshot, r.sequence
  FROM event_store.replay_aggregate('Thousand', 'm') r, event_store.snapshots s
 WHERE s.aggregate_type = 'Thousand' AND s.aggregate_id = 'm';
-- 32 steps and a key
SELECT pg_temp.folded(NULL, jsonb_build_object('op', 'increment', 'path', '$' || repeat('.a', 32), 'key', '{"value": "b"}'::jsonb, 'value', 1), '{}', '{}')
     = '{"a": ' || repeat('{"a": ', 31) || '{"b": 2}' || repeat('}', 32) AS deep;

--
-- What fails names rule, event and reducer, and leaves nothing behind
--
SELECT event_store.set_reducer_rules('Broken', '{"events": {"Made": [
    {"op": "increment", "path": "$.events", "value": 1},
    {"op": "increment", "path": "$.total", "from": "$.payload.amount"}]}}');
SELECT outcome FROM event_store.append_events('Broken', 'b', 0, '[{"event_type": "Made", "payload": {"amount": "1.00"}}, {"event_type": "Made", "payload": {"amount": "much"}}, {"event_type": "Made", "payload": {"amount": "2.00"}}]');
SELECT * FROM event_store.replay_aggregate('Broken', 'b', 1);
SELECT * FROM event_store.replay_aggregate('Broken', 'b');
SELECT event_store.take_snapshot('Broken', 'b');
SELECT count(*) FROM event_store.snapshots WHERE aggregate_type = 'Broken';
-- an error that is not ours has the rule in its context
SELECT pg_temp.folded(jsonb_build_object('n', repeat('9', 131072)), '{"op": "increment", "path": "$.n", "value": 1}', '{}') AS overflow;
SELECT pg_temp.folded('{}', (SELECT jsonb_agg('{"op": "append", "path": "$.list", "from": "$.payload"}'::jsonb) FROM generate_series(1, 14)),
              to_jsonb(repeat('y', 20000000))) AS limited;

--
-- Rules are replaced by a function, by other rules and by nothing
--
SELECT event_store.set_reducer_rules('Broken', NULL);
SELECT state FROM event_store.replay_aggregate('Broken', 'b');
SELECT rules, reducer, reducer_version FROM event_store.reducers WHERE aggregate_type = 'Broken';
SELECT event_store.set_reducer_rules(NULL, '{"events": {}}');

--
-- The four aggregates of order fulfilment, by rules alone
--
\pset format aligned
\getenv abs_srcdir PG_ABS_SRCDIR
\set example :abs_srcdir '/examples/order_fulfilment_rules.sql'
BEGIN;
\i :example
ROLLBACK;

DELETE FROM event_store.reducers WHERE aggregate_type IN ('Every', 'Checked', 'Ruled', 'Columns', 'Typed', 'Thousand', 'Broken');
