/*
 * event_input.c
 *		The events that a caller wants to append, checked and completed.
 *
 * Three SQL signatures bring events in three shapes: scalar arguments, a JSON
 * list, and parallel arrays.  This file turns the last two into one list of
 * NewEvent and brings the events of all three to the same state: everything
 * that can be judged without looking at the store has been judged, everything
 * not given has its default.  append.c works on that list only.
 *
 * A list may hold a million events, so nothing is allocated per event beyond
 * its values, values inside an argument are pointed to rather than copied
 * where their form allows it, and texts for messages are made only when there
 * is something to report.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "ground/arguments.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/iso_time.h"
#include "ground/settings.h"
#include "ground/uuid7.h"
#include "write/event_input.h"

#define DEFAULT_SCHEMA_VERSION 1
/* A refused value is quoted up to this many bytes. */
#define MAX_QUOTED_BYTES 100

/* The place of expected_sequence, which is no column, among the keys ... */
#define EXPECTED_KEY 3
/* ... and of the first that append_events knows. */
#define FIRST_LIST_KEY 4
/* The array argument of append_batch with the expected sequences. */
#define EXPECTED_ARRAY 4

/* A key of an event object, or an array argument. */
typedef struct EventKey
{
	const char *name;
	int length;
	EventColumn column; /* EV_COLUMNS = expected_sequence */
} EventKey;

static EventKey keys[EV_COLUMNS + 1]; /* in the order of the hint */
static int nkeys = 0;
static EventKey arrays[EV_COLUMNS + 1]; /* as they are numbered */
static int narrays = 0;

static void
set_key(EventKey *key, const char *name, EventColumn column)
{
	key->name = name;
	key->length = strlen(name);
	key->column = column;
}

/* Makes both from the columns, which know their places. */
static void
find_keys(void)
{
	if (nkeys > 0)
		return;
	set_key(&arrays[EXPECTED_ARRAY], "expected_sequences", EV_COLUMNS);
	set_key(&keys[EXPECTED_KEY - 1], "expected_sequence", EV_COLUMNS);
	narrays = EXPECTED_ARRAY + 1;
	nkeys = EXPECTED_KEY;
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		const EventColumnInfo *column = &es_event_columns[i];

		if (column->array != NULL)
		{
			set_key(&arrays[column->array_argument], column->array, i);
			narrays = Max(narrays, column->array_argument + 1);
		}
		if (column->key > 0)
		{
			set_key(&keys[column->key - 1], column->name, i);
			nkeys = Max(nkeys, column->key);
		}
	}
}

/*
 * Returns the words that tell which event a message is about: "where" as
 * given, or made from the event's place in its list, counted from 1.
 */
static const char *
place(const char *where, int ordinal)
{
	if (where != NULL)
		return where;
	return ordinal > 0 ? psprintf(" of event %d", ordinal) : "";
}

/*
 * Whether an expectation is one.  What a driver makes of a variable that was never
 * set is NULL, and that would turn the check off; hence a number that says any, and
 * the setting.
 */
static bool
is_expected(bool given, int64 expected, const char *where, int ordinal)
{
	if (!given && es_require_expected_sequence)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("expected_sequence%s must not be null",
							   place(where, ordinal)),
						errdetail("event_store.require_expected_sequence is on."),
						errhint("Any sequence is expected with -2.")));
	if (!given || expected == ES_EXPECT_ANY)
		return false;
	if (expected < 0 && expected != ES_EXPECT_EXISTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid expected_sequence%s: " INT64_FORMAT,
						place(where, ordinal), expected),
				 errhint("A new aggregate is expected with 0 (where message-db and Eventuous say -1), "
						 "an existing one with -4, any with -2 or NULL.")));
	return true;
}

bool
es_is_expected(bool given, int64 expected)
{
	return is_expected(given, expected, NULL, 0);
}

/* Checks the names of an event. */
static void
check_names(EventRow *row, const char *where, int ordinal)
{
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		NameLimit limit = es_event_columns[i].limit;

		if (limit == ES_NOT_A_NAME)
			continue;
		if (!row->nulls[i])
		{
			text *value = DatumGetTextPP(row->values[i]);
			Size bytes = VARSIZE_ANY_EXHDR(value);

			row->values[i] = PointerGetDatum(value);
			if (bytes > 0 && bytes <= ES_MAX_NAME_CHARS)
				continue;
		}
		else if (limit == ES_NAME_OPTIONAL)
			continue;
		es_check_name(row->values[i], row->nulls[i], es_event_columns[i].name,
					  place(where, ordinal), limit == ES_NAME_REQUIRED);
	}
}

/*
 * Checks that an event has one payload and brings it into a form that lasts
 * for the call.  Bytes are measured before they are brought into memory.
 */
static void
complete_payload(EventRow *row, const char *where, int ordinal)
{
	static Jsonb empty_object;

	if (!row->nulls[EV_PAYLOAD_BYTES])
	{
		Datum bytes = row->values[EV_PAYLOAD_BYTES];

		if (!row->nulls[EV_PAYLOAD])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("payload and payload_bytes%s must not both be given",
							place(where, ordinal))));
		if (toast_raw_datum_size(bytes) - VARHDRSZ > ES_MAX_PAYLOAD_BYTES)
			ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
							errmsg("payload_bytes%s is longer than %d bytes",
								   place(where, ordinal), ES_MAX_PAYLOAD_BYTES)));
		row->values[EV_PAYLOAD_BYTES] =
			PointerGetDatum(PG_DETOAST_DATUM_PACKED(bytes));
	}
	else if (!row->nulls[EV_PAYLOAD])
		row->values[EV_PAYLOAD] =
			PointerGetDatum(PG_DETOAST_DATUM(row->values[EV_PAYLOAD]));
	else
	{
		SET_VARSIZE(&empty_object, sizeof(empty_object));
		empty_object.root.header = JB_FOBJECT;
		row->values[EV_PAYLOAD] = JsonbPGetDatum(&empty_object);
		row->nulls[EV_PAYLOAD] = false;
	}
}

/*
 * Refuses metadata that is an object in a string.  Nobody means that, and rules and
 * queries would find no member in it.  In a payload it may be meant.  The mark of what was
 * erased is ours: reducers pass over such events, and retries of them are not compared.
 */
static void
check_metadata(Jsonb *metadata, const char *where, int ordinal)
{
	JsonbValue value;

	if (es_has_member(JsonbPGetDatum(metadata), ES_ERASED))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata%s has the key \"%s\", which the store gives to what was erased",
						place(where, ordinal), ES_ERASED)));
	if (!JB_ROOT_IS_SCALAR(metadata))
		return;
	if (JsonbExtractScalar(&metadata->root, &value) && value.type == jbvString &&
		value.val.string.len > 0 && value.val.string.val[0] == '{')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("metadata%s is a JSON object within a JSON string",
							   place(where, ordinal)),
						es_hint_encoded_twice(true)));
}

/* Checks and completes one event, which "where" or "ordinal" name. */
static void
complete_event(NewEvent *event, const char *where, int ordinal)
{
	EventRow *row = &event->row;

	check_names(row, where, ordinal);
	complete_payload(row, where, ordinal);
	if (!row->nulls[EV_METADATA])
	{
		row->values[EV_METADATA] =
			PointerGetDatum(PG_DETOAST_DATUM(row->values[EV_METADATA]));
		check_metadata(DatumGetJsonbP(row->values[EV_METADATA]), where, ordinal);
	}

	event->id_given = !row->nulls[EV_EVENT_ID];
	if (!event->id_given)
	{
		row->values[EV_EVENT_ID] = UUIDPGetDatum(es_uuid7());
		row->nulls[EV_EVENT_ID] = false;
	}

	if (row->nulls[EV_SCHEMA_VERSION])
	{
		row->values[EV_SCHEMA_VERSION] = Int32GetDatum(DEFAULT_SCHEMA_VERSION);
		row->nulls[EV_SCHEMA_VERSION] = false;
	}
	else if (DatumGetInt32(row->values[EV_SCHEMA_VERSION]) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("schema_version%s must not be negative",
							   place(where, ordinal))));

	if (!row->nulls[EV_OCCURRED_AT] &&
		TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(row->values[EV_OCCURRED_AT])))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("occurred_at%s must be finite", place(where, ordinal))));
}

/* Checks and completes the one event of append_event. */
void
es_complete_event(NewEvent *event, const char *where)
{
	complete_event(event, where, 0);
}

/* Returns a list of "count" events of which nothing is given yet. */
static NewEvents
new_events(int count)
{
	NewEvents list;

	list.count = count;
	list.events = NULL;
	if (count > 0)
		list.events = palloc_extended((Size) count * sizeof(NewEvent),
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < count; i++)
		memset(list.events[i].row.nulls, true, sizeof(list.events[i].row.nulls));
	return list;
}

/* Refuses the value of a key because it is not of the JSON type "wanted". */
static void
check_json_type(const EventKey *key, JsonbValue *value, enum jbvType type,
				const char *wanted, int ordinal)
{
	if (value->type == type)
		return;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("%s of event %d must be a JSON %s, but is a JSON %s",
						   key->name, ordinal, wanted, JsonbTypeName(value))));
}

/* Refuses the value of a key because "type" does not know it. */
static void
refuse_json_value(const EventKey *key, const char *value, const char *type,
				  int ordinal)
{
	int length = strlen(value);
	int shown = pg_mbcliplen(value, length, MAX_QUOTED_BYTES);

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s of event %d is not a valid %s: \"%.*s%s\"", key->name,
					ordinal, type, shown, value, shown < length ? "..." : "")));
}

/*
 * Reads a JSON string by a type's input function.  That function raises its
 * own errors of data, which name neither key nor event; others pass.
 */
static Datum
read_json_string(PGFunction input, const char *type, const EventKey *key,
				 JsonbValue *value, int ordinal)
{
	MemoryContext context = CurrentMemoryContext;
	char *string;
	Datum result;

	check_json_type(key, value, jbvString, "string", ordinal);
	string = pnstrdup(value->val.string.val, value->val.string.len);
	PG_TRY();
	{
		result = DirectFunctionCall3(input, CStringGetDatum(string),
									 ObjectIdGetDatum(InvalidOid),
									 Int32GetDatum(-1));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		refuse_json_value(key, string, type, ordinal);
	}
	PG_END_TRY();
	pfree(string);
	return result;
}

/* Reads a JSON string that is a time with its offset. */
static Datum
read_json_time(const EventKey *key, JsonbValue *value, int ordinal)
{
	TimestampTz result;

	check_json_type(key, value, jbvString, "string", ordinal);
	if (!es_read_iso_time(value->val.string.val, value->val.string.len, &result))
		refuse_json_value(key,
						  pnstrdup(value->val.string.val, value->val.string.len),
						  "ISO 8601 time with Z or an offset", ordinal);
	return TimestampTzGetDatum(result);
}

/* Reads a JSON number without fraction. */
static int64
read_json_integer(int64 min, int64 max, const char *type, const EventKey *key,
				  JsonbValue *value, int ordinal)
{
	char *digits;
	char *end;
	int64 result;

	check_json_type(key, value, jbvNumeric, "number", ordinal);
	digits =
		DatumGetCString(DirectFunctionCall1(numeric_out,
											NumericGetDatum(value->val.numeric)));
	errno = 0;
	result = strtoll(digits, &end, 10);
	if (*end == '.')
		end += 1 + strspn(end + 1, "0");
	if (*end != '\0' || errno != 0 || result < min || result > max)
		refuse_json_value(key, digits, type, ordinal);
	pfree(digits);
	return result;
}

/* Puts the value of one JSON key into an event.  A JSON null is not given. */
static void
set_json_key(NewEvent *event, const EventKey *key, JsonbValue *value, int ordinal)
{
	Datum datum = (Datum) 0;

	if (value->type == jbvNull)
		return;

	if (key->column == EV_COLUMNS)
	{
		event->expected = read_json_integer(PG_INT64_MIN, PG_INT64_MAX,
											"bigint", key, value, ordinal);
		event->expects = true;
		return;
	}
	switch (es_event_columns[key->column].type)
	{
		case TEXTOID:
			check_json_type(key, value, jbvString, "string", ordinal);
			datum =
				PointerGetDatum(cstring_to_text_with_len(value->val.string.val,
														 value->val.string.len));
			break;
		case JSONBOID:
			datum = JsonbPGetDatum(JsonbValueToJsonb(value));
			break;
		case UUIDOID:
			datum = read_json_string(uuid_in, "uuid", key, value, ordinal);
			break;
		case TIMESTAMPTZOID:
			datum = read_json_time(key, value, ordinal);
			break;
		case INT4OID:
			datum =
				Int32GetDatum((int32) read_json_integer(PG_INT32_MIN,
														PG_INT32_MAX, "integer",
														key, value, ordinal));
			break;
		default:
			elog(ERROR, "%s has no form in JSON", key->name);
	}
	event->row.values[key->column] = datum;
	event->row.nulls[key->column] = false;
}

/*
 * Returns the key of this name, not one of those skipped.  An unknown one is refused
 * rather than ignored: it is nearly always a misspelt one.
 */
static const EventKey *
find_key(int skipped, const JsonbValue *name, int ordinal)
{
	StringInfoData known;
	int shown;

	for (int i = skipped; i < nkeys; i++)
	{
		if (keys[i].length == name->val.string.len &&
			memcmp(keys[i].name, name->val.string.val, keys[i].length) == 0)
			return &keys[i];
	}

	initStringInfo(&known);
	for (int i = skipped; i < nkeys; i++)
		appendStringInfo(&known, "%s%s", i > skipped ? ", " : "", keys[i].name);
	shown = pg_mbcliplen(name->val.string.val, name->val.string.len,
						 MAX_QUOTED_BYTES);
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("event %d has an unknown key: \"%.*s%s\"", ordinal,
						   shown, name->val.string.val,
						   shown < name->val.string.len ? "..." : ""),
					errhint("The keys of an event are %s.", known.data)));
	return NULL;
}

/* Reads the object that the iterator has just entered, up to its end. */
static void
read_json_event(JsonbIterator **iterator, int skipped, NewEvent *event, int ordinal)
{
	JsonbValue name;
	JsonbValue value;

	while (JsonbIteratorNext(iterator, &name, true) == WJB_KEY)
	{
		const EventKey *key = find_key(skipped, &name, ordinal);

		JsonbIteratorNext(iterator, &value, true);
		set_json_key(event, key, &value, ordinal);
	}
}

/*
 * Reads the JSON list of append_events or, with aggregate_type NULL, of
 * append_batch.  One object is a list of one.
 */
NewEvents
es_events_from_json(Jsonb *events, text *aggregate_type, text *aggregate_id)
{
	int skipped = aggregate_type == NULL ? 0 : FIRST_LIST_KEY - 1;
	JsonbIterator *iterator;
	JsonbValue value;
	NewEvents list;
	bool is_list;

	if (JB_ROOT_IS_SCALAR(events))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events must be a JSON array of objects or one object"),
				 es_hint_encoded_twice(JsonbExtractScalar(&events->root, &value) &&
									   value.type == jbvString)));

	find_keys();
	is_list = JB_ROOT_IS_ARRAY(events);
	list = new_events(is_list ? JB_ROOT_COUNT(events) : 1);
	iterator = JsonbIteratorInit(&events->root);
	JsonbIteratorNext(&iterator, &value, false);
	for (int i = 0; i < list.count; i++)
	{
		NewEvent *event = &list.events[i];

		CHECK_FOR_INTERRUPTS();
		if (is_list &&
			JsonbIteratorNext(&iterator, &value, false) != WJB_BEGIN_OBJECT)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event %d must be a JSON object, but is a JSON %s",
							i + 1, JsonbTypeName(&value)),
					 es_hint_encoded_twice(value.type == jbvString)));
		if (aggregate_type != NULL)
		{
			event->row.values[EV_AGGREGATE_TYPE] =
				PointerGetDatum(aggregate_type);
			event->row.nulls[EV_AGGREGATE_TYPE] = false;
			event->row.values[EV_AGGREGATE_ID] = PointerGetDatum(aggregate_id);
			event->row.nulls[EV_AGGREGATE_ID] = false;
		}
		read_json_event(&iterator, skipped, event, i + 1);
		complete_event(event, NULL, i + 1);
		if (aggregate_type == NULL)
			event->expects =
				is_expected(event->expects, event->expected, NULL, i + 1);
	}
	return list;
}

/*
 * Reads the arrays of append_batch, one after the other, so that only one of
 * them is held in pieces at a time.
 */
NewEvents
es_events_from_arrays(FunctionCallInfo fcinfo)
{
	NewEvents list = {NULL, -1};

	find_keys();
	for (int argno = 0; argno < narrays; argno++)
	{
		const EventKey *array = &arrays[argno];
		bool required = array->column != EV_COLUMNS &&
						es_event_columns[array->column].limit == ES_NAME_REQUIRED;
		Datum *values;
		bool *nulls;

		if (!required && PG_ARGISNULL(argno))
			continue;
		es_array_argument(fcinfo, argno, array->name, !required, &list.count,
						  &values, &nulls);
		if (argno == 0)
			list = new_events(list.count);
		for (int i = 0; i < list.count; i++)
		{
			NewEvent *event = &list.events[i];

			if (nulls[i])
				continue;
			if (array->column == EV_COLUMNS)
			{
				event->expects = true;
				event->expected = DatumGetInt64(values[i]);
				continue;
			}
			event->row.values[array->column] = values[i];
			event->row.nulls[array->column] = false;
		}
		pfree(values);
		pfree(nulls);
	}

	for (int i = 0; i < list.count; i++)
	{
		NewEvent *event = &list.events[i];

		CHECK_FOR_INTERRUPTS();
		complete_event(event, NULL, i + 1);
		event->expects =
			is_expected(event->expects, event->expected, NULL, i + 1);
	}
	return list;
}
