/*
 * schedule.c
 *		Events that are to be appended later: scheduled, moved, cancelled.
 *
 * Each is a row of scheduled_events, written in the caller's transaction, and from its commit
 * on the process of views knows when it is due (timer_slot.c).  An id that a caller gives
 * makes a repeated call find what the first one did: the row, or the event that it has become.
 * The row is inserted before the log is looked at: while it is being delivered
 * the insert waits, and after that the event is there.
 *
 * Whoever appends the event has the row locked: so to move or cancel it waits, and then
 * finds that it is gone.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "consume/consume.h"
#include "consume/scheduled_event.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/metrics.h"
#include "ground/timer_slot.h"
#include "log/log.h"
#include "log/outside_write.h"
#include "read/feed.h"
#include "staging/head.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "write/append.h"
#include "write/cause.h"
#include "write/event_input.h"
#include "write/trace.h"

PG_FUNCTION_INFO_V1(es_schedule_event);
PG_FUNCTION_INFO_V1(es_reschedule_event);
PG_FUNCTION_INFO_V1(es_cancel_scheduled_event);
PG_FUNCTION_INFO_V1(es_cancel_scheduled_events);

/* Arguments of schedule_event. */
enum
{
	ARG_DUE_AT,
	ARG_AGGREGATE_TYPE,
	ARG_AGGREGATE_ID,
	ARG_EVENT_TYPE,
	ARG_PAYLOAD,
	ARG_METADATA,
	ARG_CORRELATION_ID,
	ARG_CAUSATION_ID,
	ARG_SAGA_ID,
	ARG_SCHEDULE_ID,
	ARG_SCHEMA_VERSION,
	ARG_UNLESS
};

static const EventColumn column_of[] = {[ARG_EVENT_TYPE] = EV_EVENT_TYPE,
										[ARG_PAYLOAD] = EV_PAYLOAD,
										[ARG_METADATA] = EV_METADATA,
										[ARG_CORRELATION_ID] = EV_CORRELATION_ID,
										[ARG_CAUSATION_ID] = EV_CAUSATION_ID,
										[ARG_SAGA_ID] = EV_SAGA_ID,
										[ARG_SCHEDULE_ID] = EV_EVENT_ID,
										[ARG_SCHEMA_VERSION] = EV_SCHEMA_VERSION};

static TimestampTz
due_at_argument(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("due_at must not be null")));
	if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(argno)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("due_at must be finite")));
	return PG_GETARG_TIMESTAMPTZ(argno);
}

static Datum
id_argument(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("schedule_id must not be null")));
	return PG_GETARG_DATUM(argno);
}

static void
unless_argument(FunctionCallInfo fcinfo, ScheduledEvent *scheduled)
{
	int count = -1;
	Datum *types;
	bool *nulls;

	if (PG_ARGISNULL(ARG_UNLESS))
		return;
	es_array_argument(fcinfo, ARG_UNLESS, "unless_event_types", false, &count,
					  &types, &nulls);
	for (int i = 0; i < count; i++)
		es_check_name(types[i], false, "unless_event_types", NULL, true);
	scheduled->unless = count > 0;
	scheduled->unless_types = PG_GETARG_DATUM(ARG_UNLESS);
}

/* The event that is to come, checked and completed as in an append. */
static void
read_arguments(FunctionCallInfo fcinfo, ScheduledEvent *scheduled)
{
	EventRow *row = &scheduled->event.row;

	memset(scheduled, 0, sizeof(*scheduled));
	memset(row->nulls, true, sizeof(row->nulls));
	scheduled->first_due_at = due_at_argument(fcinfo, ARG_DUE_AT);
	row->values[EV_OCCURRED_AT] = TimestampTzGetDatum(scheduled->first_due_at);
	row->nulls[EV_OCCURRED_AT] = false;
	row->values[EV_AGGREGATE_TYPE] =
		PointerGetDatum(es_required_text(fcinfo, ARG_AGGREGATE_TYPE,
										 "aggregate_type"));
	row->nulls[EV_AGGREGATE_TYPE] = false;
	row->values[EV_AGGREGATE_ID] =
		PointerGetDatum(es_required_text(fcinfo, ARG_AGGREGATE_ID,
										 "aggregate_id"));
	row->nulls[EV_AGGREGATE_ID] = false;
	for (int i = ARG_EVENT_TYPE; i <= ARG_SCHEMA_VERSION; i++)
	{
		row->nulls[column_of[i]] = PG_ARGISNULL(i);
		if (!PG_ARGISNULL(i))
			row->values[column_of[i]] = PG_GETARG_DATUM(i);
	}
	es_complete_event(&scheduled->event, NULL);
	es_refuse_reserved(row->values[EV_AGGREGATE_TYPE],
					   row->values[EV_AGGREGATE_ID]);
	unless_argument(fcinfo, scheduled);
}

/* The last event that the aggregate has got, staged or durable: what comes is later. */
static int64
last_sequence(const ScheduledEvent *scheduled)
{
	StagedRead read;
	bool staged = es_begin_latest_read(&read, es_store()->events);
	Head head;

	es_read_head(scheduled->event.row.values[EV_AGGREGATE_TYPE],
				 scheduled->event.row.values[EV_AGGREGATE_ID],
				 GetActiveSnapshot(), staged, &head);
	es_end_staged_read(&read);
	return head.sequence;
}

static void
refuse_id(const ScheduledEvent *scheduled, const EventRow *standing,
		  const char *why, const char *hint)
{
	Datum id = scheduled->event.row.values[EV_EVENT_ID];

	ereport(ERROR,
			(errcode(ES_ERRCODE_EVENT_ID_REUSED),
			 errmsg("schedule_id %s was used before: %s",
					DatumGetCString(DirectFunctionCall1(uuid_out, id)), why),
			 errdetail_internal("%s", es_event_id_detail(id, standing)),
			 hint == NULL ? 0 : errhint("%s", hint)));
}

static bool
same_unless(const ScheduledEvent *a, const ScheduledEvent *b)
{
	if (!a->unless || !b->unless)
		return a->unless == b->unless;
	return datumIsEqual(a->unless_types, b->unless_types, false, -1);
}

/* What waits under the id of a call must be the same; false if it waits no more. */
static bool
compare_waiting(const ScheduledEvent *scheduled)
{
	ScheduledEvent standing;

	if (!es_find_scheduled(scheduled->event.row.values[EV_EVENT_ID], &standing))
		return false;
	if (!es_same_content(&scheduled->event.row, &standing.event.row) ||
		!same_unless(scheduled, &standing))
		refuse_id(scheduled, NULL,
				  "the event scheduled under it has other content", NULL);
	if (scheduled->first_due_at != standing.first_due_at &&
		scheduled->first_due_at != es_due_at(&standing))
		refuse_id(scheduled, NULL,
				  "the event scheduled under it is due at another time",
				  "reschedule_event() moves it.");
	return true;
}

/* Whether the event of this id has been appended. */
static bool
is_delivered(const ScheduledEvent *scheduled)
{
	const EventRow *row = &scheduled->event.row;
	pg_uuid_t *id = DatumGetUUIDP(row->values[EV_EVENT_ID]);
	StagedRead read;
	bool staged = es_begin_latest_read(&read, es_store()->events);
	EventRow standing;
	StagedRow other;
	Logged logged = es_look_in_log(row, GetActiveSnapshot(), &standing);

	if (logged == ES_LOGGED_OTHERWISE)
		refuse_id(scheduled, &standing,
				  "the event stored under it has other content", NULL);
	if (logged == ES_NOT_LOGGED && staged &&
		es_staged_by_event_id(id, GetActiveSnapshot(), &other))
		refuse_id(scheduled, &other.event,
				  "an event was appended under it that was not scheduled", NULL);
	es_end_staged_read(&read);
	return logged == ES_LOGGED;
}

/*
 * Writes the row, unless the same one waits or was delivered.  Only a caller's
 * own id can be either.
 */
static void
write_schedule(ScheduledEvent *scheduled, bool id_given)
{
	OwnerScope scope;
	bool waits = false;
	bool inserted;

	do
	{
		CHECK_FOR_INTERRUPTS();
		es_begin(&scope);
		inserted = es_insert_scheduled(scheduled);
		es_end(&scope);
		if (!inserted)
		{
			es_begin(&scope);
			waits = compare_waiting(scheduled);
			es_end(&scope);
		}
	} while (!inserted && !waits);
	if (inserted && id_given && is_delivered(scheduled))
	{
		static KeptPlan plan = {"DELETE FROM event_store.scheduled_events s"
								" WHERE s.schedule_id OPERATOR(pg_catalog.=) $1",
								1,
								{UUIDOID}};

		es_begin(&scope);
		(void) es_execute_latest(&plan,
								 &scheduled->event.row.values[EV_EVENT_ID], NULL);
		es_end(&scope);
	}
	else if (inserted)
		es_note_timer(ES_TIMER_DEADLINES, scheduled->first_due_at);
}

/* What all of these begin with. */
static void
begin_scheduling(const char *function)
{
	es_begin_consuming(function);
	(void) es_feed_database();
	es_consume_durably();
}

Datum
es_schedule_event(PG_FUNCTION_ARGS)
{
	ScheduledEvent scheduled;
	NewEvents list = {.events = &scheduled.event, .count = 1};
	bool id_given = !PG_ARGISNULL(ARG_SCHEDULE_ID);

	es_begin_call(ES_CALL_SCHEDULE_EVENT);
	read_arguments(fcinfo, &scheduled);
	begin_scheduling("schedule_event()");
	es_follow_cause(&list);
	/* it is this call that traces it, and not what appends it */
	es_trace(&list);
	if (scheduled.unless)
		scheduled.unless_after = last_sequence(&scheduled);
	write_schedule(&scheduled, id_given);
	es_end_call(ES_CALL_SCHEDULE_EVENT, 0);
	PG_RETURN_DATUM(scheduled.event.row.values[EV_EVENT_ID]);
}

Datum
es_reschedule_event(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"UPDATE event_store.scheduled_events SET due_at = $2,"
							" state = 'scheduled', error_code = NULL, error = NULL, failed_at = NULL"
							" WHERE schedule_id OPERATOR(pg_catalog.=) $1",
							2,
							{UUIDOID, TIMESTAMPTZOID}};
	Datum values[2];
	OwnerScope scope;
	bool found;

	es_begin_call(ES_CALL_RESCHEDULE_EVENT);
	values[0] = id_argument(fcinfo, 0);
	values[1] = TimestampTzGetDatum(due_at_argument(fcinfo, 1));
	begin_scheduling("reschedule_event()");
	es_begin(&scope);
	found = es_write_ours(&plan, values, NULL) > 0;
	es_end(&scope);
	if (found)
		es_note_timer(ES_TIMER_DEADLINES, DatumGetTimestampTz(values[1]));
	es_end_call(ES_CALL_RESCHEDULE_EVENT, 0);
	PG_RETURN_BOOL(found);
}

Datum
es_cancel_scheduled_event(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"DELETE FROM event_store.scheduled_events"
							" WHERE schedule_id OPERATOR(pg_catalog.=) $1",
							1,
							{UUIDOID}};
	Datum id;
	OwnerScope scope;
	bool found;

	es_begin_call(ES_CALL_CANCEL_SCHEDULED_EVENT);
	id = id_argument(fcinfo, 0);
	begin_scheduling("cancel_scheduled_event()");
	es_begin(&scope);
	found = es_execute_latest(&plan, &id, NULL) > 0;
	es_end(&scope);
	es_end_call(ES_CALL_CANCEL_SCHEDULED_EVENT, 0);
	PG_RETURN_BOOL(found);
}

/* In one order, so that two of these do not wait for each other. */
Datum
es_cancel_scheduled_events(PG_FUNCTION_ARGS)
{
	static KeptPlan plan =
		{"WITH doomed AS MATERIALIZED (SELECT d.schedule_id"
		 " FROM event_store.scheduled_events d"
		 " WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND d.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " AND ($3 IS NULL OR d.event_type OPERATOR(pg_catalog.=) $3)"
		 " ORDER BY d.due_at, d.schedule_id FOR UPDATE)"
		 " DELETE FROM event_store.scheduled_events s USING doomed d"
		 " WHERE s.schedule_id OPERATOR(pg_catalog.=) d.schedule_id",
		 3,
		 {TEXTOID, TEXTOID, TEXTOID}};
	Datum values[3] = {0};
	char nulls[3] = {' ', ' ', 'n'};
	OwnerScope scope;
	int64 count;

	es_begin_call(ES_CALL_CANCEL_SCHEDULED_EVENTS);
	values[0] = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	values[1] = PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	if (!PG_ARGISNULL(2))
	{
		values[2] = PointerGetDatum(es_required_text(fcinfo, 2, "event_type"));
		nulls[2] = ' ';
	}
	begin_scheduling("cancel_scheduled_events()");
	es_begin(&scope);
	count = (int64) es_execute_latest(&plan, values, nulls);
	es_end(&scope);
	es_end_call(ES_CALL_CANCEL_SCHEDULED_EVENTS, 0);
	PG_RETURN_INT64(count);
}
