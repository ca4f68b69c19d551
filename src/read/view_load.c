/*
 * view_load.c
 *		Reading views: staged values laid over durable ones.
 *
 * A reader sees each key once, as of the one snapshot that the calling query
 * has: the newest staged row of a key, which may say that it is deleted, else
 * its durable row.  A single key asks staging first and the table only if it
 * must.  Many keys collect the staged rows, of which there are few, and merge
 * them in key order with the durable ones, which may be many and so go through
 * a tuplestore; without staged rows they go straight into the result.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "read/view_load.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staged_view.h"

PG_FUNCTION_INFO_V1(es_load_views);
PG_FUNCTION_INFO_V1(es_load_view_keys);

static int
compare_key_datums(const void *a, const void *b)
{
	return es_compare_keys(*(const Datum *) a, *(const Datum *) b);
}

Datum
es_find_view(Datum view_name, Datum view_key, bool look_in_staging)
{
	static KeptPlan load = {.sql = "SELECT v.view_data FROM event_store.domain_views AS v"
								   " WHERE v.view_name OPERATOR(pg_catalog.=) $1"
								   " AND v.view_key OPERATOR(pg_catalog.=) $2",
							.nargs = 2,
							.argtypes = {TEXTOID, TEXTOID}};
	MemoryContext caller = CurrentMemoryContext;
	Datum arguments[2] = {view_name, view_key};
	Datum data = (Datum) 0;
	StagedRow row;
	OwnerScope scope;

	if (look_in_staging && es_find_staged_view(view_name, view_key, true, &row))
		return row.view_data;
	es_begin_read(&scope);
	if (es_execute(&load, arguments, NULL, true, SPI_OK_SELECT) > 0)
	{
		bool isnull;
		Datum value = SPI_getbinval(SPI_tuptable->vals[0],
									SPI_tuptable->tupdesc, 1, &isnull);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		data = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
		MemoryContextSwitchTo(spi);
	}
	es_end(&scope);
	return data;
}

/* The newest staged row of a key. */
typedef struct StagedView
{
	Datum key;
	Datum data; /* (Datum) 0 = deleted, or not asked for */
	bool deleted;
	bool has_version;
	int64 version;
	TimestampTz updated_at;
} StagedView;

/* The newest staged rows of many keys, in key order. */
typedef struct StagedViews
{
	StagedView *rows;
	int count;
	int size;
	bool with_data;
	Datum after_key; /* (Datum) 0 = from the first */
} StagedViews;

/* Keeps a row unless the one kept last is of the same key. */
static void
add_staged(StagedViews *staged, const StagedRow *row)
{
	StagedView *view;

	if (staged->count > 0 &&
		es_compare_keys(staged->rows[staged->count - 1].key, row->key) == 0)
		return;
	if (staged->count == staged->size)
	{
		staged->size *= 2;
		staged->rows = repalloc_huge(staged->rows,
									 (Size) staged->size * sizeof(StagedView));
	}
	view = &staged->rows[staged->count++];
	view->key = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->key));
	view->deleted = row->view_data == (Datum) 0;
	view->data = (Datum) 0;
	if (staged->with_data && !view->deleted)
		view->data = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->view_data));
	view->has_version = row->has_version;
	view->version = row->version;
	view->updated_at = row->staged_at;
}

static void
reverse_staged(StagedViews *staged)
{
	for (int i = 0, j = staged->count - 1; i < j; i++, j--)
	{
		StagedView row = staged->rows[i];

		staged->rows[i] = staged->rows[j];
		staged->rows[j] = row;
	}
}

/*
 * Collects the newest staged row of each key of a view.  The scan goes
 * backward, so that it comes to that row first.
 */
static void
collect_all(StagedViews *staged, Datum view_name)
{
	StagedScan *scan = es_staged_begin(ES_KIND_VIEW, view_name, (Datum) 0,
									   GetActiveSnapshot(), true);
	StagedRow row;

	while (es_staged_next(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		if (staged->after_key != (Datum) 0 &&
			es_compare_keys(row.key, staged->after_key) <= 0)
			break;
		add_staged(staged, &row);
		es_staged_free(&row);
	}
	es_staged_end(scan);
	reverse_staged(staged);
}

/* The same for some keys, which it sorts. */
static void
collect_some(StagedViews *staged, Datum view_name, Datum *keys, int nkeys)
{
	MemoryContext scratch =
		AllocSetContextCreate(CurrentMemoryContext, "event_store views",
							  ALLOCSET_DEFAULT_SIZES);

	qsort(keys, nkeys, sizeof(Datum), compare_key_datums);
	for (int i = 0; i < nkeys; i++)
	{
		MemoryContext caller;
		StagedRow row;
		bool found;

		CHECK_FOR_INTERRUPTS();
		if ((i > 0 && es_compare_keys(keys[i - 1], keys[i]) == 0) ||
			(staged->after_key != (Datum) 0 &&
			 es_compare_keys(keys[i], staged->after_key) <= 0))
			continue;
		caller = MemoryContextSwitchTo(scratch);
		found = es_find_staged_view(view_name, keys[i], true, &row);
		MemoryContextSwitchTo(caller);
		if (found)
			add_staged(staged, &row);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
}

static void
emit_staged(ReturnSetInfo *result, const StagedView *view)
{
	Datum values[4];
	bool nulls[4] = {false, false, false, false};

	values[0] = view->key;
	values[1] = view->data;
	values[2] = Int64GetDatum(view->version);
	nulls[2] = !view->has_version;
	values[3] = TimestampTzGetDatum(view->updated_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Merges staged rows over durable ones, both in key order. */
static void
merge_views(ReturnSetInfo *result, Tuplestorestate *durable,
			const StagedViews *staged, int64 max_count)
{
	TupleTableSlot *slot =
		MakeSingleTupleTableSlot(result->setDesc, &TTSOpsMinimalTuple);
	bool have = tuplestore_gettupleslot(durable, true, false, slot);
	int i = 0;

	while (max_count > 0 && (have || i < staged->count))
	{
		int order = 1;

		CHECK_FOR_INTERRUPTS();
		if (have)
		{
			bool isnull;

			order = i == staged->count
						? -1
						: es_compare_keys(slot_getattr(slot, 1, &isnull),
										  staged->rows[i].key);
		}
		if (order < 0)
		{
			tuplestore_puttupleslot(result->setResult, slot);
			max_count--;
		}
		else if (!staged->rows[i].deleted)
		{
			emit_staged(result, &staged->rows[i]);
			max_count--;
		}
		if (order >= 0)
			i++;
		if (order <= 0)
			have = tuplestore_gettupleslot(durable, true, false, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Returns the rows of a view, in key order: "plan" selects the durable ones by
 * (view_name, after_key, limit, keys), and staged ones are laid over them.
 */
static void
read_views(FunctionCallInfo fcinfo, KeptPlan *plan, StagedViews *staged,
		   Datum view_name, Datum *keys, int nkeys, int64 max_count)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum arguments[4];
	char nulls[4] = {' ', ' ', ' ', ' '};
	Tuplestorestate *durable = result->setResult;
	OwnerScope scope;
	StagedRead read;

	staged->size = 64;
	staged->rows = palloc_array(StagedView, staged->size);
	es_begin_staged_read(&read, GetActiveSnapshot());
	if (keys == NULL)
		collect_all(staged, view_name);
	else
		collect_some(staged, view_name, keys, nkeys);

	arguments[0] = view_name;
	arguments[1] = staged->after_key != (Datum) 0
					   ? staged->after_key
					   : PointerGetDatum(cstring_to_text(""));
	/* a staged row can hide a durable one, so that another takes its place */
	arguments[2] = Int64GetDatum(max_count + staged->count);
	if (max_count == PG_INT32_MAX)
		nulls[2] = 'n';
	if (plan->nargs == 4)
		arguments[3] = PG_GETARG_DATUM(1);

	if (staged->count > 0)
		durable = tuplestore_begin_heap(false, false, work_mem);
	es_begin_read(&scope);
	es_execute_into(plan, arguments, nulls, durable);
	es_end(&scope);
	es_end_staged_read(&read);
	if (staged->count > 0)
	{
		merge_views(result, durable, staged,
					max_count == PG_INT32_MAX ? PG_INT64_MAX : max_count);
		tuplestore_end(durable);
	}
}

static int64
rows_returned(FunctionCallInfo fcinfo)
{
	return tuplestore_tuple_count(((ReturnSetInfo *) fcinfo->resultinfo)->setResult);
}

/* load_views(view_name, view_keys, after_key, max_count) */
Datum
es_load_views(PG_FUNCTION_ARGS)
{
	static KeptPlan load_all = {.sql =
									"SELECT v.view_key, v.view_data, v.version, v.updated_at"
									" FROM event_store.domain_views AS v"
									" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
									" AND v.view_key OPERATOR(pg_catalog.>) $2"
									" ORDER BY v.view_key LIMIT $3",
								.nargs = 3,
								.argtypes = {TEXTOID, TEXTOID, INT8OID}};
	static KeptPlan load_some =
		{.sql =
			 "SELECT v.view_key, v.view_data, v.version, v.updated_at"
			 " FROM (SELECT DISTINCT k.view_key COLLATE pg_catalog.\"C\" AS view_key"
			 " FROM ROWS FROM (pg_catalog.unnest($4)) AS k (view_key)"
			 " WHERE k.view_key COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.>) $2"
			 " ORDER BY 1) AS k"
			 " JOIN event_store.domain_views AS v"
			 " ON v.view_name OPERATOR(pg_catalog.=) $1"
			 " AND v.view_key OPERATOR(pg_catalog.=) k.view_key"
			 " ORDER BY k.view_key LIMIT $3",
		 .nargs = 4,
		 .argtypes = {TEXTOID, TEXTOID, INT8OID, TEXTARRAYOID}};
	StagedViews staged = {.with_data = true};
	Datum view_name;
	Datum *keys = NULL;
	int nkeys = -1;
	int64 max_count = PG_INT32_MAX;

	es_begin_call(ES_CALL_LOAD_VIEWS);
	view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	if (!PG_ARGISNULL(1))
		es_array_argument(fcinfo, 1, "view_keys", false, &nkeys, &keys, NULL);
	if (!PG_ARGISNULL(2))
		staged.after_key = PointerGetDatum(PG_GETARG_TEXT_PP(2));
	if (!PG_ARGISNULL(3))
		max_count = PG_GETARG_INT32(3);
	if (max_count < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_count must not be negative")));

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(1))
		read_views(fcinfo, &load_all, &staged, view_name, NULL, 0, max_count);
	else if (nkeys > 0)
		read_views(fcinfo, &load_some, &staged, view_name, keys, nkeys, max_count);
	es_end_call(ES_CALL_LOAD_VIEWS, rows_returned(fcinfo));
	return (Datum) 0;
}

/* load_view_keys(view_name) */
Datum
es_load_view_keys(PG_FUNCTION_ARGS)
{
	static KeptPlan load_keys = {.sql =
									 "SELECT v.view_key FROM event_store.domain_views AS v"
									 " WHERE v.view_name OPERATOR(pg_catalog.=) $1"
									 " AND v.view_key OPERATOR(pg_catalog.>) $2"
									 " ORDER BY v.view_key LIMIT $3",
								 .nargs = 3,
								 .argtypes = {TEXTOID, TEXTOID, INT8OID}};
	StagedViews staged = {.with_data = false};
	Datum view_name;

	es_begin_call(ES_CALL_LOAD_VIEW_KEYS);
	view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	read_views(fcinfo, &load_keys, &staged, view_name, NULL, 0, PG_INT32_MAX);
	es_end_call(ES_CALL_LOAD_VIEW_KEYS, rows_returned(fcinfo));
	return (Datum) 0;
}
