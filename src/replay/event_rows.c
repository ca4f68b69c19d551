/*
 * event_rows.c
 *		The rows of a view that an event belongs to, as the view's key says.
 *
 * A key gives text: a string as it is, numbers and booleans as ->> shows them.  Where
 * the event has nothing, null, an array or an object, or an empty string, there is no
 * row, and a concat of which one part is not there gives none either.  So an event
 * that does not name a customer is in the row of no customer, rather than in one that
 * all such events share.
 *
 * What a key needs beyond the event, such as the last value of a sticky, is asked of
 * whoever keeps the view: this file reads and writes nothing.  Each sticky is settled
 * once for an event, before any row is made of it, so that it is the same in all.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/iso_time.h"
#include "ground/pair_table.h"
#include "replay/event_path.h"
#include "replay/event_rows.h"
#include "replay/fold.h"
#include "replay/json_value.h"
#include "replay/path.h"
#include "replay/row_key.h"
#include "replay/state.h"

PG_FUNCTION_INFO_V1(es_view_keys);

/* A sticky's value before the event and with it; NULL = nothing. */
typedef struct Sticky
{
	bool settled;
	text *before;
	text *now;
} Sticky;

/* An event on its way to its rows. */
typedef struct RowSearch
{
	const RowKey *key;
	const RowKeyAccess *access;
	PathEvent event;
	Sticky *stickies;
	EventRowKey *rows;
	int count;
	int room;
} RowSearch;

/* Which of a sticky's values a key is made of. */
typedef enum StickyTime
{
	NOW,
	BEFORE
} StickyTime;

/* ---------- the text of one row ---------- */

/* What the event has there as text; NULL where that gives no row. */
static text *
text_at(const EventPath *path, PathEvent *event)
{
	JsonbValue value;

	if (!es_event_path_follow(path, event, &value) || !es_make_string(&value) ||
		value.val.string.len == 0)
		return NULL;
	return cstring_to_text_with_len(value.val.string.val, value.val.string.len);
}

static bool
same_text(const text *a, const text *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return es_same_text(PointerGetDatum(a), PointerGetDatum(b));
}

static const Sticky *
settle_sticky(const KeyPart *part, RowSearch *search)
{
	Sticky *sticky = &search->stickies[part->place];
	const RowKeyAccess *access = search->access;
	Datum type = search->event.values[EV_AGGREGATE_TYPE];
	Datum id = search->event.values[EV_AGGREGATE_ID];
	text *given;

	if (sticky->settled)
		return sticky;
	sticky->settled = true;
	sticky->before = access->get_sticky(part->place, type, id, access->arg);
	given = text_at(&part->path, &search->event);
	sticky->now = given == NULL ? sticky->before : given;
	if (!same_text(sticky->before, sticky->now))
		access->set_sticky(part->place, type, id, sticky->now, access->arg);
	return sticky;
}

/* Reads a time as one of the key's zone; a date alone is the same in all. */
static bool
read_time(const KeyPart *part, const JsonbValue *value, struct pg_tm *tm)
{
	const char *text = value->val.string.val;
	int size = value->val.string.len;
	pg_tz *zone = part->zone;
	TimestampTz time;
	fsec_t fraction;
	int offset;

	if (value->type != jbvString)
		return false;
	if (size == (int) strlen("YYYY-MM-DD") && part->kind != KEY_HOUR)
	{
		text = psprintf("%.*sT00:00Z", size, text);
		size = strlen(text);
		zone = pg_tzset("UTC");
	}
	return es_read_iso_time(text, size, &time) &&
		   timestamp2tm(time, &offset, tm, &fraction, NULL, zone) == 0;
}

/* The time at a path; false if there is none. */
static bool
time_at(const KeyPart *part, PathEvent *event, struct pg_tm *tm)
{
	JsonbValue value;

	if (!es_event_path_follow(&part->path, event, &value) || value.type == jbvNull)
		return false;
	if (!read_time(part, &value, tm))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%.*s of the event is not a time", part->path.path.size,
						part->path.path.text),
				 errhint("A time is a string such as \"2024-02-29T12:30:00Z\".")));
	return true;
}

static text *
time_text(const KeyPart *part, PathEvent *event)
{
	struct pg_tm tm;

	if (!time_at(part, event, &tm))
		return NULL;
	if (part->kind == KEY_MONTH)
		return cstring_to_text(psprintf("%04d-%02d", tm.tm_year, tm.tm_mon));
	if (part->kind == KEY_DAY)
		return cstring_to_text(psprintf("%04d-%02d-%02d", tm.tm_year, tm.tm_mon,
										tm.tm_mday));
	return cstring_to_text(psprintf("%04d-%02d-%02dT%02d", tm.tm_year,
									tm.tm_mon, tm.tm_mday, tm.tm_hour));
}

static text *part_text(const KeyPart *part, RowSearch *search, StickyTime when);

static text *
concat_text(const KeyPart *part, RowSearch *search, StickyTime when)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < part->count; i++)
	{
		const KeyPart *piece = part->parts[i];
		text *text;

		if (piece->kind == KEY_VALUE)
		{
			appendBinaryStringInfo(&out, piece->text, piece->size);
			continue;
		}
		text = part_text(piece, search, when);
		if (text == NULL)
			return NULL;
		appendBinaryStringInfo(&out, VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text));
	}
	return out.len == 0 ? NULL : cstring_to_text_with_len(out.data, out.len);
}

static text *
lookup_text(const KeyPart *part, RowSearch *search, StickyTime when)
{
	text *key = part_text(part->parts[0], search, when);
	Datum data;
	JsonbValue value;

	if (key == NULL)
		return NULL;
	data = search->access->lookup(part->view, key, search->access->arg);
	if (data == (Datum) 0)
		return NULL;
	es_whole_value(DatumGetJsonbP(data), &value);
	if (!es_path_follow(&part->view_path, 0, &value) ||
		!es_make_string(&value) || value.val.string.len == 0)
		return NULL;
	return cstring_to_text_with_len(value.val.string.val, value.val.string.len);
}

/* The text of a part that gives at most one row; NULL = none. */
static text *
part_text(const KeyPart *part, RowSearch *search, StickyTime when)
{
	switch (part->kind)
	{
		case KEY_PATH:
			return text_at(&part->path, &search->event);
		case KEY_STICKY:
			return when == BEFORE ? settle_sticky(part, search)->before
								  : settle_sticky(part, search)->now;
		case KEY_DAY:
		case KEY_HOUR:
		case KEY_MONTH:
			return time_text(part, &search->event);
		case KEY_CONCAT:
			return concat_text(part, search, when);
		case KEY_LOOKUP:
			return lookup_text(part, search, when);
		case KEY_VALUE:
		case KEY_BY_TYPE:
		case KEY_EACH:
		case KEY_LIST:
			break;
	}
	elog(ERROR, "unexpected key of kind %d", (int) part->kind);
}

/* ---------- rows that move ---------- */

/* The aggregate itself, which no event changes. */
static bool
is_of_aggregate(const KeyPart *part, EventColumn column)
{
	return part->kind == KEY_PATH && part->path.column == (int) column;
}

static bool
has_part(const KeyPart *part, EventColumn column)
{
	for (int i = 0; part->kind == KEY_CONCAT && i < part->count; i++)
	{
		if (is_of_aggregate(part->parts[i], column))
			return true;
	}
	return false;
}

/* Whether no other aggregate has a part in its rows; those of two types may share an id. */
static bool
is_own(const KeyPart *part, const RowKey *key)
{
	return has_part(part, EV_AGGREGATE_ID) &&
		   (!key->several_types || has_part(part, EV_AGGREGATE_TYPE));
}

/* Whether nothing but stickies makes its text change for one aggregate. */
static bool
moves(const KeyPart *part)
{
	bool has_sticky = false;

	if (part->kind == KEY_STICKY)
		return true;
	if (part->kind != KEY_CONCAT)
		return false;
	for (int i = 0; i < part->count; i++)
	{
		const KeyPart *piece = part->parts[i];

		if (piece->kind == KEY_STICKY)
			has_sticky = true;
		else if (piece->kind != KEY_VALUE &&
				 !is_of_aggregate(piece, EV_AGGREGATE_ID) &&
				 !is_of_aggregate(piece, EV_AGGREGATE_TYPE))
			return false;
	}
	return has_sticky;
}

/* ---------- all rows ---------- */

/* Adds a row, unless it is there; items are folded one by one. */
static void
add_row(const KeyPart *part, RowSearch *search)
{
	EventRowKey row = {.item = search->event.item};

	row.key = part_text(part, search, NOW);
	if (row.key == NULL)
		return;
	es_check_name(PointerGetDatum(row.key), false, "view_key", NULL, true);
	for (int i = 0; row.item == NULL && i < search->count; i++)
	{
		if (search->rows[i].item == NULL &&
			same_text(search->rows[i].key, row.key))
			return;
	}
	row.own = is_own(part, search->key);
	if (moves(part))
		row.moved_from = part_text(part, search, BEFORE);
	if (same_text(row.moved_from, row.key))
		row.moved_from = NULL;
	if (search->count == search->room)
	{
		search->room = Max(search->room * 2, 4);
		search->rows =
			search->rows == NULL
				? palloc(sizeof(EventRowKey) * search->room)
				: repalloc(search->rows, sizeof(EventRowKey) * search->room);
	}
	search->rows[search->count++] = row;
}

/* A row for each element of an array. */
static void
add_each(const KeyPart *part, RowSearch *search)
{
	JsonbValue array;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue element;

	if (!es_event_path_follow(&part->path, &search->event, &array) ||
		!es_is_array(&array))
		return;
	iterator = JsonbIteratorInit(array.val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
	{
		JsonbValue *item;

		CHECK_FOR_INTERRUPTS();
		if (token != WJB_ELEM)
			continue;
		item = palloc(sizeof(JsonbValue));
		*item = element;
		search->event.item = item;
		add_row(part->parts[0], search);
	}
	search->event.item = NULL;
}

/* The key for an event type: its own, else that of all others, else NULL. */
static const KeyPart *
key_of_type(const KeyPart *part, Datum event_type)
{
	text *type = DatumGetTextPP(event_type);
	MemberName name = es_member_name(VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
	const KeyPart *otherwise = NULL;

	for (int i = 0; i < part->count; i++)
	{
		if (part->types[i].size == 1 && part->types[i].data[0] == '*')
			otherwise = part->parts[i];
		else if (part->types[i].hash == name.hash &&
				 es_same_name(part->types[i], name))
			return part->parts[i];
	}
	return otherwise;
}

static void
add_rows(const KeyPart *part, RowSearch *search)
{
	switch (part->kind)
	{
		case KEY_BY_TYPE:
			part = key_of_type(part, search->event.values[EV_EVENT_TYPE]);
			if (part != NULL)
				add_rows(part, search);
			break;
		case KEY_LIST:
			for (int i = 0; i < part->count; i++)
				add_rows(part->parts[i], search);
			break;
		case KEY_EACH:
			add_each(part, search);
			break;
		default:
			add_row(part, search);
			break;
	}
}

EventRowKey *
es_event_rows(const RowKey *key, const RowKeyAccess *access,
			  const Datum *values, const bool *nulls, int *count)
{
	RowSearch search = {.key = key,
						.access = access,
						.event = {.values = values, .nulls = nulls}};

	if (key->stickies > 0)
		search.stickies = palloc0(sizeof(Sticky) * key->stickies);
	add_rows(key->whole, &search);
	*count = search.count;
	return search.rows;
}

/* ---------- in SQL ---------- */

/* Refuses a key that asks for more than an event. */
static void
check_event_alone(const RowKey *key)
{
	const char *part = key->stickies > 0   ? "sticky"
					   : key->views != NIL ? "lookup"
										   : NULL;

	if (part != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("view_keys() takes no key with \"%s\"", part),
				 errdetail("What it gives depends on more than the event.")));
}

/* view_keys(event, key): the keys of the rows that an event belongs to. */
Datum
es_view_keys(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	RowKey *key = es_row_key_parse(PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1));
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
	EventRowKey *rows;
	int count;

	check_event_alone(key);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	/* the event may be of a type that was changed since */
	(void) es_store();
	es_take_event(PG_GETARG_HEAPTUPLEHEADER(0), es_event_desc(), values, nulls);
	rows = es_event_rows(key, NULL, values, nulls, &count);
	for (int i = 0; i < count; i++)
	{
		Datum text = PointerGetDatum(rows[i].key);
		bool isnull = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &text, &isnull);
	}
	return (Datum) 0;
}
