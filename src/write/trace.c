/*
 * trace.c
 *		What events get from the settings, where the call does not say.
 *
 * An application that passes its arguments through many hands need not pass what
 * only traces want: it says it once, for the transaction or for the session.  What
 * the call gives, or the event that it reacts to, goes before.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "ground/compat.h"
#include "ground/event.h"
#include "ground/settings.h"
#include "write/event_input.h"
#include "write/trace.h"

/* A setting as a value of a column; "" is none. */
static text *
setting_text(const char *value)
{
	return value[0] == '\0' ? NULL : cstring_to_text(value);
}

/* A copy: a trigger may set it anew before the event is written. */
static Jsonb *
setting_members(void)
{
	Jsonb *copy;

	if (es_metadata_members == NULL)
		return NULL;
	copy = palloc(VARSIZE(es_metadata_members));
	memcpy(copy, es_metadata_members, VARSIZE(es_metadata_members));
	return copy;
}

static void
fill_in(EventRow *row, EventColumn column, text *value)
{
	if (value == NULL || !row->nulls[column])
		return;
	row->values[column] = PointerGetDatum(value);
	row->nulls[column] = false;
}

/* What is no object has no members to be filled in. */
static void
fill_in_metadata(EventRow *row, Jsonb *members)
{
	if (members == NULL)
		return;
	if (row->nulls[EV_METADATA])
		row->values[EV_METADATA] = JsonbPGetDatum(members);
	else if (JB_ROOT_IS_OBJECT(DatumGetJsonbP(row->values[EV_METADATA])))
		row->values[EV_METADATA] =
			DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(members),
								row->values[EV_METADATA]);
	row->nulls[EV_METADATA] = false;
}

void
es_trace(NewEvents *list)
{
	text *correlation;
	text *causation;
	Jsonb *members;

	if (es_correlation_id[0] == '\0' && es_causation_id[0] == '\0' &&
		es_metadata[0] == '\0')
		return;
	correlation = setting_text(es_correlation_id);
	causation = setting_text(es_causation_id);
	members = setting_members();
	for (int i = 0; i < list->count; i++)
	{
		EventRow *row = &list->events[i].row;

		fill_in(row, EV_CORRELATION_ID, correlation);
		fill_in(row, EV_CAUSATION_ID, causation);
		fill_in_metadata(row, members);
	}
}
