-- trace: what events get from the settings, where the call does not say
\pset null null
SET client_min_messages = warning;
SELECT event_store.create_store();
RESET client_min_messages;
CREATE TEMPORARY VIEW traced AS
SELECT aggregate_id AS id, sequence AS n, correlation_id, causation_id, metadata
  FROM unnest(ARRAY['a', 'b', 'c', 'd']) i, LATERAL event_store.load_events('Trace', i);

-- for a transaction, as through a pooler; durable and staged, by each call
BEGIN;
SET LOCAL event_store.correlation_id = 'request-1';
SET LOCAL event_store.causation_id = 'command-1';
SET LOCAL event_store.metadata = '{"user": "ada", "from": {"ip": "10.0.0.1"}}';
SELECT outcome FROM event_store.append_event('Trace', 'a', 0, 'Added');
SELECT outcome FROM event_store.append_events('Trace', 'b', 0, '[{"event_type": "Added"}, {"event_type": "Added"}]', durability => 'staged');
SELECT outcome FROM event_store.append_batch(ARRAY['Trace'], ARRAY['c'], ARRAY['Added'], NULL);
COMMIT;
SELECT outcome FROM event_store.append_event('Trace', 'd', 0, 'Added');
SELECT * FROM traced;

-- what the call gives goes before; metadata member by member, and what is no object stays
SET event_store.correlation_id = 'session';
SET event_store.metadata = '{"user": "ada", "from": {"ip": "10.0.0.1"}}';
SELECT outcome FROM event_store.append_event('Trace', 'a', 1, 'Added', correlation_id => 'own', metadata => '{"user": "bob", "from": null}');
SELECT outcome FROM event_store.append_event('Trace', 'a', 2, 'Added', causation_id => 'own', metadata => '["list"]');
SELECT outcome FROM event_store.append_batch('{"aggregate_type": "Trace", "aggregate_id": "a", "event_type": "Added", "metadata": {"more": 1}}');
-- one setting alone
RESET event_store.metadata;
SELECT outcome FROM event_store.append_event('Trace', 'a', 4, 'Added', durability => 'staged');
RESET event_store.correlation_id;
SET event_store.metadata = '{}';
SELECT outcome FROM event_store.append_event('Trace', 'a', 5, 'Added');
RESET event_store.metadata;
SELECT * FROM traced WHERE id = 'a' AND n > 1;

-- a repeated event is the first one, whoever traces it
SET event_store.correlation_id = 'first';
SELECT outcome FROM event_store.append_event('Trace', 'd', 1, 'Added', event_id => '018f3b1c-7a10-7000-8000-00000000d001');
SET event_store.correlation_id = 'again';
SELECT outcome FROM event_store.append_event('Trace', 'd', 1, 'Added', event_id => '018f3b1c-7a10-7000-8000-00000000d001');
RESET event_store.correlation_id;
SELECT correlation_id FROM event_store.load_event('018f3b1c-7a10-7000-8000-00000000d001');

-- what is none is refused when it is set
SELECT set_config('event_store.correlation_id', repeat('é', 255), false) = repeat('é', 255);
SELECT set_config('event_store.correlation_id', repeat('x', 256), false);
SELECT set_config('event_store.causation_id', repeat('é', 256), false);
SET event_store.metadata = '{"user": ';
SET event_store.metadata = '["ada"]';
SET event_store.metadata = '"{}"';
SET event_store.metadata = '{"user": "\u0000"}';
-- the mark of what was erased is the store's own
SET event_store.metadata = '{"$erased": {}}';
SHOW event_store.metadata;
RESET ALL;

-- an event that is scheduled has what its call was traced by
SET event_store.correlation_id = 'request-2';
SET event_store.metadata = '{"user": "ada"}';
SELECT event_store.schedule_event('2999-01-01', 'Trace', 'e', 'Added', metadata => '{"more": 1}', schedule_id => '018f3b1c-7a10-7000-8000-00000000d002');
SET event_store.correlation_id = 'again';
SELECT event_store.schedule_event('2999-01-01', 'Trace', 'e', 'Added', metadata => '{"more": 1}', schedule_id => '018f3b1c-7a10-7000-8000-00000000d002');
RESET ALL;
SELECT correlation_id, metadata FROM event_store.scheduled_events WHERE aggregate_type = 'Trace';
SELECT event_store.cancel_scheduled_events('Trace', 'e');
SELECT event_store.flush();
