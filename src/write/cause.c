/*
 * cause.c
 *		The event that an append reacts to.
 *
 * What a handler appends is caused by the event that it was called with: it takes
 * that one's event_id for its causation_id, and the correlation_id and saga_id,
 * unless the handler gives its own.  How many causes an event has behind it is
 * counted in its metadata, since handlers that react to each other would go on for ever.
 *
 * A handler may catch the refusal of an append; that it tried is remembered, so
 * whoever called it does not take it for one that appends nothing.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

#include "ground/common.h"
#include "ground/event.h"
#include "ground/settings.h"
#include "write/cause.h"
#include "write/event_input.h"

#define HOPS "$hops"

static const EventRow *cause = NULL;
static bool cause_is_one_of_several = false;
static bool caused = false;

void
es_set_cause(const EventRow *event, bool several)
{
	cause = event;
	cause_is_one_of_several = several;
	if (event != NULL)
		caused = false;
}

bool
es_has_caused(void)
{
	return caused;
}

/* How many causes an event has behind it, whatever a caller has written there. */
static int64
hops_of(const EventRow *event)
{
	Jsonb *metadata;
	JsonbValue found;
	JsonbValue *hops;
	int64 number;

	if (event->nulls[EV_METADATA])
		return 0;
	metadata = DatumGetJsonbP(event->values[EV_METADATA]);
	if (!JB_ROOT_IS_OBJECT(metadata))
		return 0;
	hops = getKeyJsonValueFromContainer(&metadata->root, HOPS, strlen(HOPS),
										&found);
	if (hops == NULL || hops->type != jbvNumeric ||
		numeric_is_nan(hops->val.numeric) || numeric_is_inf(hops->val.numeric))
		return 0;
	number =
		DatumGetInt64(DirectFunctionCall1(numeric_int8,
										  NumericGetDatum(hops->val.numeric)));
	return Min(Max(number, 0), PG_INT32_MAX);
}

/* Writes the number of causes into the metadata. */
static void
set_hops(EventRow *row, int64 hops)
{
	char *json = psprintf("{\"" HOPS "\": %lld}", (long long) hops);
	Datum own = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));

	if (row->nulls[EV_METADATA])
		row->values[EV_METADATA] = own;
	else if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(row->values[EV_METADATA])))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata of an event that a handler appends must be a JSON object"),
				 errdetail("How many events it has behind it is counted there.")));
	else
		row->values[EV_METADATA] =
			DirectFunctionCall2(jsonb_concat, row->values[EV_METADATA], own);
	row->nulls[EV_METADATA] = false;
}

static void
inherit(EventRow *row, EventColumn column)
{
	if (!row->nulls[column] || cause->nulls[column])
		return;
	row->values[column] = cause->values[column];
	row->nulls[column] = false;
}

void
es_follow_cause(NewEvents *list)
{
	int64 hops;

	if (cause == NULL)
		return;
	caused = true;
	if (cause_is_one_of_several)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an append has one cause, and the handler was called with several events"),
				 errdetail("It is called again with each of them.")));
	hops = hops_of(cause) + 1;
	if (hops > es_max_hops)
		ereport(ERROR,
				(errcode(ES_ERRCODE_TOO_MANY_HOPS),
				 errmsg("event %s has %lld causes behind it, and event_store.max_hops is %d",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															cause->values[EV_EVENT_ID])),
						(long long) hops - 1, es_max_hops),
				 errhint("Handlers that react to each other's events go on for ever; break the circle, or raise the setting.")));
	for (int i = 0; i < list->count; i++)
	{
		EventRow *row = &list->events[i].row;

		inherit(row, EV_CORRELATION_ID);
		inherit(row, EV_SAGA_ID);
		if (row->nulls[EV_CAUSATION_ID])
		{
			row->values[EV_CAUSATION_ID] = CStringGetTextDatum(DatumGetCString(
				DirectFunctionCall1(uuid_out, cause->values[EV_EVENT_ID])));
			row->nulls[EV_CAUSATION_ID] = false;
		}
		set_hops(row, hops);
	}
}
