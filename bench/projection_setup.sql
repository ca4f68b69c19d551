-- The view that projections.py measures: what each customer has spent, made by rules, by a trigger and by clients.

CREATE FUNCTION bench.spent_rules() RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    RETURN '{"events": {"Paid": [{"op": "increment", "path": "$.times", "value": 1},
                                 {"op": "increment", "path": "$.total", "from": "$.payload.amount"},
                                 {"op": "set", "path": "$.last", "from": "$.event_id"}]}}'::jsonb;

-- Payments of customers by chance, about 100 bytes each, ten an aggregate, a thousand a transaction.
CREATE PROCEDURE bench.spend(events int, customers int)
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM setseed(0.5);
    FOR batch IN 0 .. events / 1000 - 1 LOOP
        PERFORM event_store.append_batch(array_fill('Spent'::text, ARRAY[1000]),
            array_agg('o-' || (batch * 100 + i / 10)), array_fill('Paid'::text, ARRAY[1000]),
            array_agg(jsonb_build_object('customer', 'c-' || floor(random() * customers), 'amount', (i * 37 % 9973)::numeric / 100,
                                         'method', 'card', 'note', substr(md5(i::text), 1, 20))))
           FROM generate_series(0, 999) i;
        COMMIT;
    END LOOP;
END
$$;

CREATE FUNCTION bench.keep_spent() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO bench.raw_views AS v (view_name, view_key, view_data, version)
    VALUES ('spent', NEW.payload ->> 'customer',
            jsonb_build_object('times', 1, 'total', (NEW.payload ->> 'amount')::numeric, 'last', NEW.event_id), NEW.global_position)
    ON CONFLICT (view_name, view_key) DO UPDATE SET
        view_data = jsonb_build_object('times', (v.view_data ->> 'times')::bigint + 1,
                                       'total', (v.view_data ->> 'total')::numeric + (NEW.payload ->> 'amount')::numeric,
                                       'last', NEW.event_id),
        version = NEW.global_position, updated_at = clock_timestamp();
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_spent AFTER INSERT ON bench.raw_events FOR EACH ROW EXECUTE FUNCTION bench.keep_spent();
ALTER TABLE bench.raw_events DISABLE TRIGGER keep_spent;

-- The log once more, into the table with or without the trigger, in transactions as large.
CREATE PROCEDURE bench.copy_log()
    LANGUAGE plpgsql
AS $$
DECLARE
    copied bigint := 0;
    upto bigint;
BEGIN
    LOOP
        SELECT max(global_position) INTO upto
          FROM (SELECT global_position FROM event_store.domain_events WHERE global_position > copied ORDER BY 1 LIMIT 1000) e;
        EXIT WHEN upto IS NULL;
        INSERT INTO bench.raw_events
        SELECT * FROM event_store.domain_events WHERE global_position > copied AND global_position <= upto ORDER BY global_position;
        COMMIT;
        copied := upto;
    END LOOP;
END
$$;
