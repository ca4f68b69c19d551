-- schedule: an event is appended once, when it is due, unless it is moved or cancelled
\pset null null
SELECT event_store.create_store();

CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END
$$;
-- waits until nothing is due any more
CREATE PROCEDURE pg_temp.delivered() LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM event_store.scheduled_events WHERE state = 'scheduled' AND due_at <= clock_timestamp()) LOOP
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;

-- what is due already is appended at once, with all that it was given
SELECT event_store.schedule_event('2020-01-01 12:00Z', 'Scheduled', 'a', 'Due', '{"n": 1}', '{"by": "me"}', 'corr', 'cause', 'saga',
                                  '0192d160-0000-7000-8000-000000000001', 3);
CALL pg_temp.delivered();
SELECT e.sequence, e.event_id, e.event_type, e.schema_version, e.payload, e.metadata, e.correlation_id, e.causation_id, e.saga_id,
       e.occurred_at = '2020-01-01 12:00Z' AS due, e.recorded_at > now() - interval '1 hour' AS recorded
  FROM event_store.load_events('Scheduled', 'a') e;
-- the same again is the same one; with other content it is not
SELECT event_store.schedule_event('2020-01-01 12:00Z', 'Scheduled', 'a', 'Due', '{"n": 1}', schema_version => 3,
                                  schedule_id => '0192d160-0000-7000-8000-000000000001');
SELECT pg_temp.outcome($$SELECT event_store.schedule_event('2020-01-01 12:00Z', 'Scheduled', 'a', 'Due', '{"n": 2}', schema_version => 3,
    schedule_id => '0192d160-0000-7000-8000-000000000001')$$);
SELECT count(*) FROM event_store.scheduled_events;

-- one that waits
SELECT event_store.schedule_event('2999-01-01Z', 'Scheduled', 'b', 'Due', schedule_id => '0192d160-0000-7000-8000-000000000002');
SELECT event_store.schedule_event('2999-01-01Z', 'Scheduled', 'b', 'Due', schedule_id => '0192d160-0000-7000-8000-000000000002');
SELECT pg_temp.outcome($$SELECT event_store.schedule_event('2999-01-01Z', 'Scheduled', 'b', 'Other', schedule_id => '0192d160-0000-7000-8000-000000000002')$$);
SELECT pg_temp.outcome($$SELECT event_store.schedule_event('2998-01-01Z', 'Scheduled', 'b', 'Due', schedule_id => '0192d160-0000-7000-8000-000000000002')$$);
SELECT pg_temp.outcome($$SELECT event_store.schedule_event('2999-01-01Z', 'Scheduled', 'b', 'Due', unless_event_types => '{Paid}',
    schedule_id => '0192d160-0000-7000-8000-000000000002')$$);
SELECT state, aggregate_id, event_type, payload, error FROM event_store.scheduled_events;
-- moved; the first call is still the same
SELECT event_store.reschedule_event('0192d160-0000-7000-8000-000000000002', '2998-01-01Z'),
       event_store.reschedule_event('0192d160-0000-7000-8000-000000000009', '2998-01-01Z');
SELECT event_store.schedule_event('2999-01-01Z', 'Scheduled', 'b', 'Due', schedule_id => '0192d160-0000-7000-8000-000000000002');
-- cancelled, and scheduled anew with other content
SELECT event_store.cancel_scheduled_event('0192d160-0000-7000-8000-000000000002'),
       event_store.cancel_scheduled_event('0192d160-0000-7000-8000-000000000002'),
       event_store.cancel_scheduled_event('0192d160-0000-7000-8000-000000000001');
SELECT event_store.schedule_event('2999-01-01Z', 'Scheduled', 'b', 'Other', schedule_id => '0192d160-0000-7000-8000-000000000002');
-- moved to now
SELECT event_store.reschedule_event('0192d160-0000-7000-8000-000000000002', '2020-01-01Z');
CALL pg_temp.delivered();
SELECT event_type FROM event_store.load_events('Scheduled', 'b');
SELECT event_store.reschedule_event('0192d160-0000-7000-8000-000000000002', '2020-01-01Z');

-- all of an aggregate, or of a type
SELECT count(event_store.schedule_event('2999-01-01Z', 'Scheduled', 'c', t)) FROM unnest('{A,A,B}'::text[]) t;
SELECT event_store.cancel_scheduled_events('Scheduled', 'c', 'A'), event_store.cancel_scheduled_events('Scheduled', 'd');
SELECT event_store.cancel_scheduled_events('Scheduled', 'c');

-- what is rolled back was never scheduled
BEGIN;
SAVEPOINT s;
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'e', 'No'));
ROLLBACK TO s;
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'e', 'Yes'));
COMMIT;
CALL pg_temp.delivered();
SELECT event_type FROM event_store.load_events('Scheduled', 'e');

-- in the order of due_at, across calls
SELECT count(event_store.schedule_event('2020-01-01Z'::timestamptz + n * interval '1 s', 'Scheduled', 'f', 'N', to_jsonb(n)))
  FROM (SELECT n FROM generate_series(1, 1500) n ORDER BY md5(n::text)) n;
CALL pg_temp.delivered();
SELECT count(*), bool_and(payload = to_jsonb(sequence)) FROM event_store.load_events('Scheduled', 'f');

-- unless: an event since it was scheduled, also one that is due before it in the same batch
SELECT FROM event_store.append_event('Scheduled', 'g', 0, 'Paid');
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'g', 'Reminder', unless_event_types => '{Paid}'));
CALL pg_temp.delivered();
BEGIN;
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'g', 'Overdue', unless_event_types => '{Other,Paid}'));
SELECT FROM event_store.append_event('Scheduled', 'g', NULL, 'Paid');
COMMIT;
CALL pg_temp.delivered();
SELECT count(event_store.schedule_event('2020-01-01Z'::timestamptz + n * interval '1 s', 'Scheduled', 'g', 'Once', unless_event_types => '{Once}'))
  FROM generate_series(1, 3) n;
CALL pg_temp.delivered();
-- staged ones count, too
BEGIN;
SELECT FROM event_store.append_event('Scheduled', 'h', 0, 'Paid', durability => 'staged');
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'h', 'Overdue', unless_event_types => '{Paid}'));
SELECT count(event_store.schedule_event('2020-01-02Z', 'Scheduled', 'h', 'Unpaid', unless_event_types => '{Paid}'));
SELECT FROM event_store.append_event('Scheduled', 'h', 1, 'Refunded', durability => 'staged');
SELECT count(event_store.schedule_event('2020-01-03Z', 'Scheduled', 'h', 'NotRefunded', unless_event_types => '{Refunded}'));
SELECT FROM event_store.append_event('Scheduled', 'h', 2, 'Refunded', durability => 'staged');
COMMIT;
SELECT FROM event_store.append_event('Scheduled', 'i', 0, 'Placed', durability => 'staged');
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'i', 'Due'));
CALL pg_temp.delivered();
SELECT aggregate_id, event_type FROM event_store.domain_events WHERE aggregate_type = 'Scheduled' AND aggregate_id >= 'g' ORDER BY aggregate_id, sequence;

-- a type counts as it was written, and as it is in the last version; where nobody can tell that has failed
SELECT event_store.set_upcaster('OldPaid', 1, rules => '{"event_type": "NewPaid"}', aggregate_type => 'Scheduled');
SELECT event_store.set_upcaster('OddPaid', 1, rules => '{"event_type": "NewPaid", "operations": [{"op": "increment", "path": "$.n", "value": 1}]}', aggregate_type => 'Scheduled');
BEGIN;
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'k-' || lower(t), 'Overdue', unless_event_types => ARRAY[t])) FROM unnest('{OldPaid,NewPaid,Other}'::text[]) t;
SELECT count(event_store.append_event('Scheduled', 'k-' || lower(t), NULL, 'OldPaid')) FROM unnest('{OldPaid,NewPaid,Other}'::text[]) t;
SELECT count(event_store.schedule_event('2020-01-01Z', 'Scheduled', 'k-' || n, 'Overdue', unless_event_types => '{NewPaid}')) FROM unnest('{1,2}'::text[]) n;
SELECT count(event_store.append_event('Scheduled', 'k-' || n, NULL, 'OddPaid', jsonb_build_object('n', CASE n WHEN 2 THEN '"none"' ELSE '1' END::jsonb))) FROM generate_series(1, 2) n;
COMMIT;
CALL pg_temp.delivered();
SELECT aggregate_id, string_agg(event_type, ', ' ORDER BY sequence) FROM event_store.domain_events WHERE aggregate_type = 'Scheduled' AND aggregate_id LIKE 'k-%' GROUP BY 1 ORDER BY 1;
SELECT aggregate_id, state, error_code, error FROM event_store.scheduled_events;
SELECT event_store.set_upcaster('OddPaid', 1, rules => '{"event_type": "NewPaid"}', aggregate_type => 'Scheduled');
SELECT event_store.reschedule_event(schedule_id, '2020-01-02Z') FROM event_store.scheduled_events;
CALL pg_temp.delivered();
SELECT count(*) FROM event_store.scheduled_events;
SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Scheduled' AND aggregate_id LIKE 'k-%' AND event_type = 'Overdue';
SELECT event_store.drop_upcaster(t, 1, 'Scheduled') FROM unnest('{OldPaid,OddPaid}'::text[]) t;

-- what the aggregate refuses has failed, says why, and can be tried again
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '23514'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON event_store.domain_events FOR EACH ROW
    WHEN (NEW.event_type = 'Refused') EXECUTE FUNCTION pg_temp.refuse();
SELECT count(event_store.schedule_event('2020-01-01Z'::timestamptz + n * interval '1 s', 'Scheduled', 'j', (ARRAY['Due', 'Refused'])[1 + (n = 5)::int],
                                        to_jsonb(n)))
  FROM generate_series(1, 20) n;
CALL pg_temp.delivered();
SELECT state, payload, error_code, error, failed_at IS NOT NULL AS failed FROM event_store.scheduled_events;
SELECT count(*) FROM event_store.load_events('Scheduled', 'j');
DROP TRIGGER refuse ON event_store.domain_events;
SELECT event_store.reschedule_event(schedule_id, '2020-01-02Z') FROM event_store.scheduled_events;
CALL pg_temp.delivered();
SELECT event_type, payload FROM event_store.load_events('Scheduled', 'j') ORDER BY sequence DESC LIMIT 1;
SELECT count(*) FROM event_store.scheduled_events;

-- arguments
SELECT pg_temp.outcome(format('SELECT event_store.%s', call)) FROM unnest(ARRAY[
    $$schedule_event(NULL, 'A', 'a', 'E')$$, $$schedule_event('infinity', 'A', 'a', 'E')$$, $$schedule_event(now(), '', 'a', 'E')$$,
    $$schedule_event(now(), 'A', NULL, 'E')$$, $$schedule_event(now(), 'A', 'a', NULL)$$,
    $$schedule_event(now(), 'A', 'a', 'E', schema_version => -1)$$, $$schedule_event(now(), 'A', 'a', 'E', unless_event_types => ARRAY['A', NULL])$$,
    $$schedule_event(now(), 'A', 'a', 'E', unless_event_types => ARRAY[''])$$, $$schedule_event(now(), 'saga:a', 'a', 'E')$$,
    $$reschedule_event(NULL, now())$$, $$reschedule_event('0192d160-0000-7000-8000-000000000002', NULL)$$, $$cancel_scheduled_event(NULL)$$,
    $$cancel_scheduled_events('A', NULL)$$, $$cancel_scheduled_events('A', 'a', '')$$]) call;
