/*
 * upcast_failure.c
 *		What an upcast that fails says of its event, and whose fault it is.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "ground/event.h"
#include "replay/upcast_failure.h"

static void
describe_event(void *arg)
{
	const UpcastEvent *written = arg;
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"global_position\": ");
	if (written->nulls[EV_GLOBAL_POSITION])
		appendStringInfoString(&detail, "null");
	else
		appendStringInfo(&detail, INT64_FORMAT,
						 DatumGetInt64(written->values[EV_GLOBAL_POSITION]));
	appendStringInfoString(&detail, ", \"event_type\": ");
	escape_json(&detail, TextDatumGetCString(written->values[EV_EVENT_TYPE]));
	appendStringInfo(&detail, ", \"schema_version\": %d}",
					 DatumGetInt32(written->values[EV_SCHEMA_VERSION]));
	errdetail_internal("%s", detail.data);
	errcontext("upcasting an event of %s/%s",
			   TextDatumGetCString(written->values[EV_AGGREGATE_TYPE]),
			   TextDatumGetCString(written->values[EV_AGGREGATE_ID]));
}

void
es_begin_upcasting(UpcastEvent *event)
{
	event->callback.callback = describe_event;
	event->callback.arg = event;
	event->callback.previous = error_context_stack;
	error_context_stack = &event->callback;
}

void
es_end_upcasting(const UpcastEvent *event)
{
	error_context_stack = event->callback.previous;
}

bool
es_is_upcasting(void)
{
	for (ErrorContextCallback *c = error_context_stack; c != NULL; c = c->previous)
	{
		if (c->callback == describe_event)
			return true;
	}
	return false;
}

bool
es_is_fault_of_event(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) ||
		   category ==
			   ERRCODE_TO_CATEGORY(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_PLPGSQL_ERROR);
}

bool
es_is_fault_of_upcaster(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) ==
		   ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION);
}

bool
es_is_upcast_failure(int sqlerrcode)
{
	return es_is_fault_of_event(sqlerrcode) ||
		   es_is_fault_of_upcaster(sqlerrcode);
}
