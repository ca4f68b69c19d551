/*
 * unwanted.c
 *		Whether a scheduled event is unwanted by now: its aggregate got an event that it was
 *		not to follow.
 *
 * An event counts under the type that it was written with, and under that of its last
 * version.  It may have been scheduled before a type was renamed, and what is appended
 * may come from an application that does not know the other name.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/scheduled_event.h"
#include "consume/unwanted.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "log/archived.h"
#include "replay/fold.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"

#define OF_TYPES                                        \
	" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1" \
	" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"     \
	" AND e.sequence OPERATOR(pg_catalog.>) $3"         \
	" AND e.event_type OPERATOR(pg_catalog.=) ANY ($4)"

/* What the events are looked at for. */
typedef struct Look
{
	Datum *types; /* that the scheduled event was not to follow */
	int count;
	bool found;
	ErrorData *error;
	MemoryContext context; /* of one event; the error is left there */
} Look;

/* Whether an event has one of the types in its last version; false where no more are needed. */
static bool
look_at_event(TupleTableSlot *slot, void *arg)
{
	Look *look = arg;
	MemoryContext caller;

	if (!es_is_old_row(slot))
		return true;
	MemoryContextReset(look->context);
	caller = MemoryContextSwitchTo(look->context);
	look->found = es_has_last_type(slot, look->types, look->count, &look->error);
	MemoryContextSwitchTo(caller);
	return !look->found && look->error == NULL;
}

/* The same where upcasters may give one of the types to events of others. */
static void
look_at_last_versions(Look *look, Datum *values)
{
	static KeptPlan plan = {ES_EVENT_SELECT OF_TYPES,
							4,
							{TEXTOID, TEXTOID, INT8OID, TEXTARRAYOID}};

	deconstruct_array(DatumGetArrayTypeP(values[3]), TEXTOID, -1, false,
					  TYPALIGN_INT, &look->types, NULL, &look->count);
	values[3] = es_stored_types(values[3]);
	es_for_each_row(es_aggregate_plan(&plan, values[0], values[1]), values,
					NULL, look_at_event, look);
}

bool
es_is_unwanted(const ScheduledEvent *scheduled, ErrorData **why)
{
	static KeptPlan plan = {"SELECT 1 FROM event_store.domain_events e" OF_TYPES
							" LIMIT 1",
							4,
							{TEXTOID, TEXTOID, INT8OID, TEXTARRAYOID}};
	const EventRow *row = &scheduled->event.row;
	Datum values[4] = {row->values[EV_AGGREGATE_TYPE],
					   row->values[EV_AGGREGATE_ID],
					   Int64GetDatum(scheduled->unless_after),
					   scheduled->unless_types};
	Look look = {.context = AllocSetContextCreate(CurrentMemoryContext,
												  "event_store unwanted",
												  ALLOCSET_SMALL_SIZES)};
	OwnerScope scope;

	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	look.found = es_execute(es_aggregate_plan(&plan, values[0], values[1]),
							values, NULL, true, SPI_OK_SELECT) > 0;
	if (!look.found && es_upcasts())
		look_at_last_versions(&look, values);
	PopActiveSnapshot();
	es_end(&scope);
	*why = look.error;
	if (look.error == NULL)
		MemoryContextDelete(look.context);
	return look.found;
}
