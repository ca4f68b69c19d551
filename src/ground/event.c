/*
 * event.c
 *		An event as a row: the one description of its columns.
 *
 * Whatever handles all columns of an event takes them from here: the keys of
 * a JSON list and the arguments of the append functions, the statements on
 * domain_events and dead_letters, the packed form in staging, what rules may
 * name.  So a column is added by a value of EventColumn and a row of this
 * table; test/pgtap/event.sql then takes it through the whole store.
 *
 * Statements name sets of columns in braces (catalog.c puts them in place when
 * it prepares one): {SET FORM}.  A set is "event", all columns; "common", those
 * that most events have; "letter", all but the position.  The form is missing,
 * names; an alias, names of that table; $N, parameters from that number on;
 * or unnest, the same as arrays in a FROM clause.
 *
 * Events that were moved to the archive stand in a table of the same columns.  A
 * statement that looks there, too, is made of the one that reads domain_events: each
 * mention of that table becomes the two of them as one.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"

#include "ground/compat.h"
#include "ground/event.h"
#include "ground/pair_table.h"

const EventColumnInfo es_event_columns[] = {
	[EV_GLOBAL_POSITION] = {"global_position", INT8OID, .required = true},
	[EV_AGGREGATE_TYPE] = {"aggregate_type", TEXTOID, .limit = ES_NAME_REQUIRED,
						   .key = 1, .array = "aggregate_types",
						   .array_argument = 0, .content = true, .required = true},
	[EV_AGGREGATE_ID] = {"aggregate_id", TEXTOID, .limit = ES_NAME_REQUIRED,
						 .key = 2, .array = "aggregate_ids",
						 .array_argument = 1, .content = true, .required = true},
	[EV_SEQUENCE] = {"sequence", INT8OID, .required = true},
	[EV_EVENT_ID] = {"event_id", UUIDOID, .key = 7, .argument = 6,
					 .array = "event_ids", .array_argument = 6, .packed = true,
					 .required = true},
	[EV_EVENT_TYPE] = {"event_type", TEXTOID, .limit = ES_NAME_REQUIRED, .key = 4,
					   .argument = 3, .array = "event_types", .array_argument = 2,
					   .packed = true, .content = true, .required = true},
	[EV_SCHEMA_VERSION] = {"schema_version", INT4OID, .key = 12, .argument = 12,
						   .array = "schema_versions", .array_argument = 12,
						   .packed = true, .content = true, .required = true},
	[EV_PAYLOAD] = {"payload", JSONBOID, .key = 5, .argument = 4,
					.array = "payloads", .array_argument = 3, .packed = true,
					.content = true},
	[EV_PAYLOAD_BYTES] = {"payload_bytes", BYTEAOID, .argument = 11,
						  .array = "payload_bytes", .array_argument = 11,
						  .packed = true, .rare = true, .content = true},
	[EV_METADATA] = {"metadata", JSONBOID, .key = 6, .argument = 5,
					 .array = "metadata", .array_argument = 5, .packed = true,
					 .rare = true},
	[EV_CORRELATION_ID] = {"correlation_id", TEXTOID, .limit = ES_NAME_OPTIONAL,
						   .key = 8, .argument = 7, .array = "correlation_ids",
						   .array_argument = 7, .packed = true, .rare = true},
	[EV_CAUSATION_ID] = {"causation_id", TEXTOID, .limit = ES_NAME_OPTIONAL,
						 .key = 9, .argument = 8, .array = "causation_ids",
						 .array_argument = 8, .packed = true, .rare = true},
	[EV_SAGA_ID] = {"saga_id", TEXTOID, .limit = ES_NAME_OPTIONAL, .key = 10,
					.argument = 9, .array = "saga_ids", .array_argument = 9,
					.packed = true, .rare = true},
	[EV_OCCURRED_AT] = {"occurred_at", TIMESTAMPTZOID, .key = 11,
						.argument = 10, .array = "occurred_at",
						.array_argument = 10, .packed = true, .required = true},
	[EV_RECORDED_AT] = {"recorded_at", TIMESTAMPTZOID, .required = true},
};

StaticAssertDecl(lengthof(es_event_columns) == EV_COLUMNS,
				 "every column of an event is described");

/* Whether values of a type can be long, and stored out of line. */
bool
es_is_varlena(Oid type)
{
	return type != INT8OID && type != INT4OID && type != UUIDOID &&
		   type != TIMESTAMPTZOID;
}

Size
es_event_size(const EventRow *row)
{
	Size size = 0;

	for (int i = 0; i < EV_COLUMNS; i++)
	{
		Oid type = es_event_columns[i].type;

		if ((type == JSONBOID || type == BYTEAOID) && !row->nulls[i])
			size += toast_raw_datum_size(row->values[i]);
	}
	return size;
}

/* ---------- in statements ---------- */

typedef enum ColumnSet
{
	SET_EVENT,
	SET_COMMON,
	SET_LETTER
} ColumnSet;

static const char *const set_names[] = {"{event", "{common", "{letter"};

StaticAssertDecl(lengthof(set_names) == SET_LETTER + 1, "every set has a name");

static bool
is_in_set(ColumnSet set, int column)
{
	return set == SET_EVENT ||
		   (set == SET_COMMON && !es_event_columns[column].rare) ||
		   (set == SET_LETTER && column != EV_GLOBAL_POSITION);
}

/* Writes the columns of a set, in a form of so many characters. */
static void
put_columns(StringInfo out, ColumnSet set, const char *form, int length)
{
	bool unnest = length == 6 && strncmp(form, "unnest", 6) == 0;
	int parameter = unnest						   ? 1
					: length > 0 && form[0] == '$' ? atoi(form + 1)
												   : 0;
	const char *separator = "";

	for (int i = 0; i < EV_COLUMNS; i++)
	{
		if (!is_in_set(set, i))
			continue;
		appendStringInfoString(out, separator);
		if (unnest)
			appendStringInfo(out, "pg_catalog.unnest($%d)", parameter++);
		else if (parameter > 0)
			appendStringInfo(out, "$%d", parameter++);
		else if (length > 0)
			appendStringInfo(out, "%.*s.%s", length, form,
							 es_event_columns[i].name);
		else
			appendStringInfoString(out, es_event_columns[i].name);
		separator = ", ";
	}
}

/* Which set is named here, if any; sets where its name ends. */
static int
set_named(const char *text, const char **end)
{
	for (int i = 0; i < (int) lengthof(set_names); i++)
	{
		size_t length = strlen(set_names[i]);

		*end = text + length;
		if (strncmp(text, set_names[i], length) == 0 &&
			(**end == ' ' || **end == '}'))
			return i;
	}
	return -1;
}

char *
es_event_sql(const char *sql)
{
	StringInfoData out;

	initStringInfo(&out);
	while (*sql != '\0')
	{
		const char *form;
		const char *end;
		int set = set_named(sql, &form);

		if (set < 0)
		{
			appendStringInfoChar(&out, *sql++);
			continue;
		}
		while (isspace((unsigned char) *form))
			form++;
		end = strchr(form, '}');
		put_columns(&out, (ColumnSet) set, form, (int) (end - form));
		sql = end + 1;
	}
	return out.data;
}

/* What domain_events is replaced by where it stands in a FROM clause. */
static const char *const log_tables[] =
	{[ES_BOTH_TABLES] =
		 "(SELECT {event} FROM event_store.domain_events"
		 " UNION ALL SELECT {event} FROM event_store.domain_events_archive)",
	 [ES_ARCHIVE_ALONE] = "event_store.domain_events_archive"};

StaticAssertDecl(lengthof(log_tables) == ES_LOG_TABLES,
				 "tables of the log that statements look into");

char *
es_log_sql(const char *sql, LogTables tables)
{
	static const char name[] = "event_store.domain_events ";
	StringInfoData out;
	const char *next;

	initStringInfo(&out);
	while ((next = strstr(sql, name)) != NULL)
	{
		appendBinaryStringInfo(&out, sql, (int) (next - sql));
		appendStringInfo(&out, "%s ", log_tables[tables]);
		sql = next + strlen(name);
	}
	appendStringInfoString(&out, sql);
	return out.data;
}

static bool
same_column(const EventRow *a, const EventRow *b, EventColumn column)
{
	Datum x = a->values[column];
	Datum y = b->values[column];

	if (a->nulls[column] || b->nulls[column])
		return a->nulls[column] && b->nulls[column];
	switch (es_event_columns[column].type)
	{
		case INT4OID:
			return DatumGetInt32(x) == DatumGetInt32(y);
		case JSONBOID:
			return compareJsonbContainers(&DatumGetJsonbP(x)->root,
										  &DatumGetJsonbP(y)->root) == 0;
		default:
			return es_same_text(PointerGetDatum(PG_DETOAST_DATUM_PACKED(x)),
								PointerGetDatum(PG_DETOAST_DATUM_PACKED(y)));
	}
}

bool
es_same_content(const EventRow *a, const EventRow *standing)
{
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		bool erasable = i == EV_PAYLOAD || i == EV_PAYLOAD_BYTES;

		if (es_event_columns[i].content && !same_column(a, standing, i) &&
			!(erasable && es_is_redacted(standing->values, standing->nulls)))
			return false;
	}
	return true;
}

/* ---------- what was erased ---------- */

bool
es_has_member(Datum jsonb, const char *name)
{
	Jsonb *object = DatumGetJsonbP(jsonb);
	JsonbValue value;

	return JB_ROOT_IS_OBJECT(object) &&
		   getKeyJsonValueFromContainer(&object->root, name, strlen(name),
										&value) != NULL;
}

bool
es_is_redacted(const Datum *values, const bool *nulls)
{
	return !nulls[EV_METADATA] && es_has_member(values[EV_METADATA], ES_ERASED);
}

/* Of an event whose payload is empty: whether that is so by an erasure. */
static bool
is_emptied(const Datum *values)
{
	return es_has_member(values[EV_METADATA], ES_ERASED) &&
		   !es_has_member(values[EV_METADATA], ES_PARTLY);
}

/* An empty object is too short to be compressed, or to lie elsewhere. */
static bool
is_empty_object(Datum jsonb)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(jsonb);

	return !VARATT_IS_EXTERNAL(value) && !VARATT_IS_COMPRESSED(value) &&
		   VARSIZE_ANY_EXHDR(value) == sizeof(uint32) &&
		   JB_ROOT_IS_OBJECT(DatumGetJsonbP(jsonb));
}

/* Nearly all events have something in their payload, and are looked at no further. */
bool
es_is_erased(const Datum *values, const bool *nulls)
{
	if (nulls[EV_METADATA])
		return false;
	if (!nulls[EV_PAYLOAD])
		return is_empty_object(values[EV_PAYLOAD]) && is_emptied(values);
	return !nulls[EV_PAYLOAD_BYTES] &&
		   toast_raw_datum_size(values[EV_PAYLOAD_BYTES]) == VARHDRSZ &&
		   is_emptied(values);
}
