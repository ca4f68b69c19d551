/*
 * event_path.c
 *		Paths in an event: $.payload.total, $.event_type, $.item.
 *
 * To a path an event is an object of its columns, without payload_bytes.  Below
 * payload and metadata it goes on as in any JSON; other columns are a string or a
 * number.  Times are ISO 8601 strings in UTC, because the session's settings must
 * not decide what comes of an event.
 *
 * Where an event belongs to several rows of a view, one for each element of an
 * array of its own, $.item is that element.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "ground/event.h"
#include "replay/event_path.h"
#include "replay/json_value.h"
#include "replay/patch.h"
#include "replay/path.h"
#include "replay/state.h"

#define ITEM_NAME "item"

static bool
is_named(const RuleStep *step, const char *name)
{
	return !step->is_index && step->name.size == (int) strlen(name) &&
		   memcmp(step->name.data, name, step->name.size) == 0;
}

/* The column that a path begins with; -1 = none that paths can use. */
static int
column_named(const RulePath *path, bool has_item)
{
	if (path->count == 0)
		return -1;
	if (has_item && is_named(&path->steps[0], ITEM_NAME))
		return ES_ITEM;
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		if (es_event_columns[i].type != BYTEAOID &&
			is_named(&path->steps[0], es_event_columns[i].name))
			return i;
	}
	return -1;
}

static char *
columns_hint(bool has_item)
{
	StringInfoData list;
	const char *separator = "The columns of an event are ";

	initStringInfo(&list);
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		if (es_event_columns[i].type == BYTEAOID)
			continue;
		appendStringInfo(&list, "%s%s", separator, es_event_columns[i].name);
		separator = ", ";
	}
	appendStringInfoString(&list, has_item ? "; $.item is an element." : ".");
	return list.data;
}

const char *
es_event_path_read(const JsonbValue *string, bool has_item, EventPath *path,
				   const char **hint)
{
	const char *problem = es_path_read(string, &path->path);

	if (problem != NULL)
		return problem;
	path->column = column_named(&path->path, has_item);
	if (path->column < 0)
	{
		*hint = columns_hint(has_item);
		return "it does not begin with a column of the event";
	}
	if (path->path.count > 1 && path->column != ES_ITEM &&
		es_event_columns[path->column].type != JSONBOID)
	{
		*hint = "Only $.payload and $.metadata have members.";
		return "it goes below a column without members";
	}
	return NULL;
}

const char *
es_document_path_read(const JsonbValue *string, EventPath *path)
{
	path->column = ES_DOCUMENT;
	return es_path_read(string, &path->path);
}

int
es_event_path_columns(const EventPath *path)
{
	return path->column >= ES_ITEM ? 0 : path->column + 1;
}

/* A document is detoasted once per event. */
static Jsonb *
document(PathEvent *event, EventColumn column)
{
	Jsonb **jsonb = column == EV_PAYLOAD ? &event->payload : &event->metadata;

	if (*jsonb == NULL)
		*jsonb = DatumGetJsonbP(event->values[column]);
	return *jsonb;
}

static void
set_number(JsonbValue *value, int64 number)
{
	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(number);
}

static bool
column_value(PathEvent *event, EventColumn column, JsonbValue *value)
{
	Datum datum = event->values[column];
	/* the session's time zone must not decide */
	const int utc = 0;

	if (event->nulls[column])
		return false;
	switch (es_event_columns[column].type)
	{
		case JSONBOID:
			es_whole_value(document(event, column), value);
			break;
		case INT8OID:
			set_number(value, DatumGetInt64(datum));
			break;
		case INT4OID:
			set_number(value, DatumGetInt32(datum));
			break;
		case UUIDOID:
			es_set_string(value,
						  DatumGetCString(DirectFunctionCall1(uuid_out, datum)));
			break;
		case TIMESTAMPTZOID:
			es_set_string(value, JsonEncodeDateTime(palloc(MAXDATELEN + 1),
													datum, TIMESTAMPTZOID, &utc));
			break;
		default:
			es_set_string(value, TextDatumGetCString(datum));
			break;
	}
	return true;
}

/* What a payload that is being changed has there. */
static bool
follow_patch(const RulePath *path, const Patch *patch, JsonbValue *value)
{
	const JsonbValue *member;

	if (path->count == 1)
	{
		es_whole_value(es_patch_result(patch), value);
		return true;
	}
	if (path->steps[1].is_index)
		return false;
	member = es_patch_find(patch, path->steps[1].name);
	if (member == NULL)
		return false;
	*value = *member;
	return es_path_follow(path, 2, value);
}

bool
es_event_path_follow(const EventPath *path, PathEvent *event, JsonbValue *value)
{
	if (path->column == EV_PAYLOAD && event->patch != NULL)
		return follow_patch(&path->path, event->patch, value);
	if (path->column >= ES_ITEM)
	{
		if (event->item == NULL)
			return false;
		*value = *event->item;
	}
	else if (!column_value(event, path->column, value))
		return false;
	return es_path_follow(&path->path, path->column == ES_DOCUMENT ? 0 : 1, value);
}
