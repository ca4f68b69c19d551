/*
 * partition.c
 *		Partitions: within one, events reach a consumer in their order.
 *
 * A partition is a text: "type/id" of the aggregate, or what the event has in a
 * column or under a path, and where it has nothing there, its aggregate.  Equal texts
 * are one partition.  Members of a subscription divide the partitions among
 * themselves by a hash of the text, which must never change: their positions rely
 * on it.
 *
 * The text is part of a key in an index, so a very long one stands as its beginning
 * and a hash of the whole.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "consume/partition.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "replay/event_rows.h"
#include "replay/path.h"
#include "replay/row_key.h"

PG_FUNCTION_INFO_V1(es_partition_member_of);

/* From so many bytes on, a text is shortened to this. */
#define MAX_BYTES 1500
#define KEPT_BYTES 1000

/* The column that a path begins in, as its first step names it; -1 if none. */
static int
column_of_path(const RulePath *path)
{
	static const int columns[] = {EV_PAYLOAD, EV_METADATA};

	for (int i = 0; i < (int) lengthof(columns); i++)
	{
		const char *name = es_event_columns[columns[i]].name;

		if (path->count > 1 && !path->steps[0].is_index &&
			path->steps[0].name.size == (int) strlen(name) &&
			memcmp(path->steps[0].name.data, name, strlen(name)) == 0)
			return columns[i];
	}
	return -1;
}

static void
refuse(const char *word, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid partition_by: \"%s\"", word),
			 reason == NULL ? 0 : errdetail("It is no path: %s.", reason),
			 errhint("Give 'aggregate', 'correlation_id', 'saga_id', or a path into the event, as in '$.payload.customerId'.")));
}

bool
es_is_partitioned_by_row(const text *word)
{
	return VARSIZE_ANY_EXHDR(word) == strlen(ES_PARTITION_BY_ROW) &&
		   memcmp(VARDATA_ANY(word), ES_PARTITION_BY_ROW,
				  strlen(ES_PARTITION_BY_ROW)) == 0;
}

void
es_read_partitioning(const text *word, RowKey *key, Partitioning *partitioning)
{
	char *given = text_to_cstring(word);
	JsonbValue string = {.type = jbvString};
	const char *fault;

	memset(partitioning, 0, sizeof(*partitioning));
	if (strcmp(given, "aggregate") == 0)
		return;
	if (strcmp(given, "correlation_id") == 0 || strcmp(given, "saga_id") == 0)
	{
		bool saga = given[0] == 's';

		partitioning->by = saga ? ES_BY_SAGA_ID : ES_BY_CORRELATION_ID;
		partitioning->column = saga ? EV_SAGA_ID : EV_CORRELATION_ID;
		return;
	}
	if (key != NULL && es_is_partitioned_by_row(word))
	{
		partitioning->by = ES_BY_ROW;
		partitioning->key = key;
		return;
	}
	if (given[0] != '$')
		refuse(given, NULL);
	string.val.string.val = given;
	string.val.string.len = (int) strlen(given);
	fault = es_path_read(&string, &partitioning->path);
	if (fault != NULL)
		refuse(given, fault);
	partitioning->by = ES_BY_PATH;
	partitioning->column = column_of_path(&partitioning->path);
	if (partitioning->column < 0)
		refuse(given,
			   "it begins neither with payload nor with metadata, and a name in it");
}

/* A value of the event as text; NULL where it has none, or one that is no scalar. */
static text *
scalar_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return value->val.string.len == 0
					   ? NULL
					   : cstring_to_text_with_len(value->val.string.val,
												  value->val.string.len);
		case jbvNumeric:
			/* 1 and 1.0 are one number, and so one partition */
			return cstring_to_text(numeric_normalize(value->val.numeric));
		case jbvBool:
			return cstring_to_text(value->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

static text *
text_at_path(const Partitioning *partitioning, Datum document)
{
	Jsonb *json = DatumGetJsonbP(document);
	JsonbValue value = {.type = jbvBinary};

	value.val.binary.data = &json->root;
	value.val.binary.len = VARSIZE(json) - VARHDRSZ;
	return es_path_follow(&partitioning->path, 1, &value) ? scalar_text(&value)
														  : NULL;
}

static text *
aggregate_text(const Datum *values)
{
	text *type = DatumGetTextPP(values[EV_AGGREGATE_TYPE]);
	text *id = DatumGetTextPP(values[EV_AGGREGATE_ID]);
	int type_size = VARSIZE_ANY_EXHDR(type);
	int id_size = VARSIZE_ANY_EXHDR(id);
	text *result = palloc(VARHDRSZ + type_size + 1 + id_size);

	SET_VARSIZE(result, VARHDRSZ + type_size + 1 + id_size);
	memcpy(VARDATA(result), VARDATA_ANY(type), type_size);
	VARDATA(result)[type_size] = '/';
	memcpy(VARDATA(result) + type_size + 1, VARDATA_ANY(id), id_size);
	return result;
}

static text *
shortened(text *whole)
{
	int size = VARSIZE_ANY_EXHDR(whole);
	StringInfoData out;

	if (size <= MAX_BYTES)
		return whole;
	initStringInfo(&out);
	appendBinaryStringInfo(&out, VARDATA_ANY(whole),
						   pg_mbcliplen(VARDATA_ANY(whole), size, KEPT_BYTES));
	appendStringInfo(&out, "#%s",
					 TextDatumGetCString(DirectFunctionCall1(md5_text,
															 PointerGetDatum(whole))));
	return cstring_to_text_with_len(out.data, out.len);
}

/*
 * The row of a view that an event belongs to; NULL if none.  An event of which the key
 * cannot be read is in none here, and fails when it is taken in.  What the key does is
 * to compute, so there is nothing to be undone when it raises.
 */
static text *
row_text(const Partitioning *partitioning, const Datum *values, const bool *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	EventRowKey *volatile rows = NULL;
	volatile int found = 0;

	PG_TRY();
	{
		int count;

		rows = es_event_rows(partitioning->key, NULL, values, nulls, &count);
		found = count;
	}
	PG_CATCH();
	{
		int category = ERRCODE_TO_CATEGORY(geterrcode());

		if (category != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return found == 0 ? NULL : rows[0].key;
}

text *
es_partition_of(const Partitioning *partitioning, const Datum *values,
				const bool *nulls)
{
	text *found = NULL;

	if (partitioning->by == ES_BY_ROW)
		found = row_text(partitioning, values, nulls);
	else if (partitioning->by != ES_BY_AGGREGATE && !nulls[partitioning->column])
	{
		if (partitioning->by == ES_BY_PATH)
			found = text_at_path(partitioning, values[partitioning->column]);
		else
			found = DatumGetTextPP(values[partitioning->column]);
	}
	return shortened(found != NULL ? found : aggregate_text(values));
}

bool
es_partition_is_kept(const Partitioning *partitioning)
{
	return partitioning->by != ES_BY_PATH && partitioning->by != ES_BY_ROW;
}

/* FNV-1a, then the last step of MurmurHash3, as aggregate_member() has it. */
int
es_partition_member(const text *partition, int members)
{
	const unsigned char *bytes = (const unsigned char *) VARDATA_ANY(partition);
	int size = VARSIZE_ANY_EXHDR(partition);
	uint64 hash = UINT64CONST(14695981039346656037);

	if (members == 1)
		return 0;
	for (int i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * UINT64CONST(1099511628211);
	hash = (hash ^ (hash >> 33)) * UINT64CONST(0xff51afd7ed558ccd);
	hash = (hash ^ (hash >> 33)) * UINT64CONST(0xc4ceb9fe1a85ec53);
	hash ^= hash >> 33;
	return (int) (hash % (uint64) members);
}

/* The same for statements. */
Datum
es_partition_member_of(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(es_partition_member(PG_GETARG_TEXT_PP(0),
										Max(PG_GETARG_INT32(1), 1)));
}
