/*
 * closing.c
 *		Types of events that aggregates end with.
 *
 * What retention is told of are types of the last version.  A statement can look for
 * the types that events were written with, of which one may lead to several; so the
 * event that was found is brought to its last version before it counts.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/event.h"
#include "keep/closing.h"
#include "log/archived.h"
#include "replay/fold.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"

/* What the event is looked at for. */
typedef struct Look
{
	MemoryContext context; /* of the caller, who gets the error */
	Datum *types;
	int count;
	bool found;
	ErrorData *error;
} Look;

Datum
es_stored_closing_types(Datum aggregate_type, Datum types)
{
	return es_upcasts_type(aggregate_type) ? es_stored_types(types) : types;
}

/* There is one event. */
static bool
look_at_event(TupleTableSlot *slot, void *arg)
{
	Look *look = arg;
	MemoryContext caller = MemoryContextSwitchTo(look->context);

	look->found = es_has_last_type(slot, look->types, look->count, &look->error);
	MemoryContextSwitchTo(caller);
	return false;
}

bool
es_is_closing(Datum aggregate_type, Datum aggregate_id, int64 sequence,
			  Datum types, ErrorData **why)
{
	static KeptPlan plan = {ES_EVENT_SELECT
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
							" AND e.sequence OPERATOR(pg_catalog.=) $3",
							3,
							{TEXTOID, TEXTOID, INT8OID}};
	Datum values[3] = {aggregate_type, aggregate_id, Int64GetDatum(sequence)};
	Look look = {.context = CurrentMemoryContext};
	OwnerScope scope;

	*why = NULL;
	if (!es_upcasts_type(aggregate_type))
		return true;
	deconstruct_array(DatumGetArrayTypeP(types), TEXTOID, -1, false,
					  TYPALIGN_INT, &look.types, NULL, &look.count);
	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	es_for_each_row(es_aggregate_plan(&plan, aggregate_type, aggregate_id),
					values, NULL, look_at_event, &look);
	PopActiveSnapshot();
	es_end(&scope);
	*why = look.error;
	return look.found;
}
