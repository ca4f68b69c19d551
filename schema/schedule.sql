-- schedule: events that are appended later

CREATE FUNCTION event_store.schedule_event(due_at timestamptz, aggregate_type text, aggregate_id text, event_type text,
                                           payload jsonb DEFAULT '{}', metadata jsonb DEFAULT NULL,
                                           correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL, saga_id text DEFAULT NULL,
                                           schedule_id uuid DEFAULT NULL, schema_version int DEFAULT 1,
                                           unless_event_types text[] DEFAULT NULL) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_schedule_event';
COMMENT ON FUNCTION event_store.schedule_event(timestamptz, text, text, text, jsonb, jsonb, text, text, text, uuid, int, text[]) IS
$$Has an event appended when due_at has come, and returns its schedule_id, which becomes its event_id; due_at becomes its occurred_at. It is appended exactly once, whatever its aggregate's last event is then; what is due already, at once.
schedule_id: give one, and the call can be repeated, also after the event was appended; with other content it is VS002, and so with another due_at before that. unless_event_types: the event is left out if its aggregate got one of these types after this call, as it was written or in its last version (set_upcaster); where its upcaster fails the scheduled event has failed, too. In a handler it takes causation_id, correlation_id and saga_id of its cause. What the transaction has staged becomes durable with it.
Errors: VS002, VS010; 42501 for a saga; 0A000, 22004, 22001, 22023, 54000; 25006 on a standby; 55000.
Example: SELECT event_store.schedule_event(now() + interval '30 minutes', 'Order', 'o-30', 'PaymentOverdue', unless_event_types => ARRAY['OrderPaid']);$$;

CREATE FUNCTION event_store.reschedule_event(schedule_id uuid, due_at timestamptz) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_reschedule_event';
COMMENT ON FUNCTION event_store.reschedule_event(uuid, timestamptz) IS
$$Moves a scheduled event to another time. One that has failed is tried again then. False when there is none: it was appended, left out or cancelled. While it is being appended this waits, and is false then.
Errors: 22004, 22023; 25006 on a standby; 40001 at REPEATABLE READ and SERIALIZABLE when it is appended or moved meanwhile; 55000.
Example: SELECT event_store.reschedule_event('0192a000-0000-7000-8000-000000000030', now() + interval '1 hour');$$;

CREATE FUNCTION event_store.cancel_scheduled_event(schedule_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_cancel_scheduled_event';
COMMENT ON FUNCTION event_store.cancel_scheduled_event(uuid) IS
$$Cancels a scheduled event, also one that has failed. False when there is none: it was appended, left out or cancelled. While it is being appended this waits, and is false then. The same schedule_id can be scheduled anew.
Errors: 22004; 25006 on a standby; 40001 at REPEATABLE READ and SERIALIZABLE when it is appended or moved meanwhile; 55000.
Example: SELECT event_store.cancel_scheduled_event('0192a000-0000-7000-8000-000000000030');$$;

CREATE FUNCTION event_store.cancel_scheduled_events(aggregate_type text, aggregate_id text, event_type text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_cancel_scheduled_events';
COMMENT ON FUNCTION event_store.cancel_scheduled_events(text, text, text) IS
$$Cancels what is scheduled for an aggregate, all or of one event_type, and returns how many. What is being appended is waited for, and not counted.
Errors: 22004, 22001, 22023; 25006 on a standby; 40001 at REPEATABLE READ and SERIALIZABLE when one is appended or moved meanwhile; 55000.
Example: SELECT event_store.cancel_scheduled_events('Order', 'o-30', 'PaymentOverdue');$$;
