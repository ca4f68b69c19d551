/*
 * view_store.c
 *		The SQL functions that write views, or lock a key of one.
 *
 * They take arguments apart; what a write is stands in view_write.c.
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "log/view_table.h"
#include "read/view_load.h"
#include "staging/staged_scan.h"
#include "write/grouped.h"
#include "write/view_group.h"
#include "write/view_write.h"

PG_FUNCTION_INFO_V1(es_put_view);
PG_FUNCTION_INFO_V1(es_put_views);
PG_FUNCTION_INFO_V1(es_load_view);
PG_FUNCTION_INFO_V1(es_delete_view);
PG_FUNCTION_INFO_V1(es_clear_view);

/*
 * put_view(view_name, view_key, view_data, version, durability, expected_version):
 * whether the value was accepted.
 */
Datum
es_put_view(PG_FUNCTION_ARGS)
{
	ViewWrite write = {0};
	ViewExpectation expected = {0};
	PutCall put = {.writes = &write, .count = 1};
	Durability wanted;
	int64 changed;

	es_check_version();
	es_begin_call(ES_CALL_PUT_VIEW);
	PreventCommandIfReadOnly("put_view()");
	PreventCommandIfParallelMode("put_view()");
	write.view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	write.view_key = PointerGetDatum(es_required_text(fcinfo, 1, "view_key"));
	if (PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("view_data must not be null")));
	write.view_data = PointerGetDatum(PG_GETARG_JSONB_P(2));
	write.has_version = !PG_ARGISNULL(3);
	if (write.has_version)
		write.version = PG_GETARG_INT64(3);
	wanted = es_durability_argument(fcinfo, 4);
	expected.given = !PG_ARGISNULL(5);
	if (expected.given)
		expected.version = PG_GETARG_INT64(5);

	put.expected = expected.given ? &expected : NULL;
	changed = es_run_put("put_view()", &put, wanted, !PG_ARGISNULL(4));
	es_end_call(ES_CALL_PUT_VIEW, changed);
	PG_RETURN_BOOL(changed > 0);
}

/* A row of put_views and its place in the arrays. */
typedef struct PlacedWrite
{
	ViewWrite write;
	ViewExpectation expected;
	int place;
} PlacedWrite;

static int
compare_placed(const void *a, const void *b)
{
	const PlacedWrite *x = a;
	const PlacedWrite *y = b;
	int order = es_compare_keys(x->write.view_key, y->write.view_key);

	return order != 0 ? order : x->place < y->place ? -1 : 1;
}

/*
 * Brings rows into key order; of each key the last one only, or all if something is
 * expected of them.  Returns how many.
 */
static int
order_writes(PlacedWrite *placed, int count, ViewWrite *writes,
			 ViewExpectation *expected)
{
	int n = 0;

	qsort(placed, count, sizeof(PlacedWrite), compare_placed);
	for (int i = 0; i < count; i++)
	{
		if (expected == NULL && i + 1 < count &&
			es_compare_keys(placed[i].write.view_key,
							placed[i + 1].write.view_key) == 0)
			continue;
		if (expected != NULL)
			expected[n] = placed[i].expected;
		writes[n++] = placed[i].write;
	}
	return n;
}

static void *
alloc_rows(int count, Size size)
{
	return MemoryContextAllocHuge(CurrentMemoryContext,
								  (Size) Max(count, 1) * size);
}

/* An optional array of numbers, an element of which may be NULL, too. */
static void
numbers_argument(FunctionCallInfo fcinfo, int argno, const char *name,
				 int *count, Datum **values, bool **nulls)
{
	*values = NULL;
	*nulls = NULL;
	if (!PG_ARGISNULL(argno))
		es_array_argument(fcinfo, argno, name, true, count, values, nulls);
}

/*
 * put_views(view_name, view_keys, view_data, versions, durability,
 * expected_versions): how many rows were accepted.
 */
Datum
es_put_views(PG_FUNCTION_ARGS)
{
	Datum view_name;
	Datum *keys;
	Datum *data;
	Datum *versions;
	Datum *expectations;
	bool *no_version;
	bool *no_expectation;
	int count = -1;
	PlacedWrite *placed;
	ViewWrite *writes;
	ViewExpectation *expected = NULL;
	PutCall put;
	Durability wanted;
	int64 changed;

	es_check_version();
	es_begin_call(ES_CALL_PUT_VIEWS);
	PreventCommandIfReadOnly("put_views()");
	PreventCommandIfParallelMode("put_views()");
	view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	es_array_argument(fcinfo, 1, "view_keys", false, &count, &keys, NULL);
	es_array_argument(fcinfo, 2, "view_data", false, &count, &data, NULL);
	numbers_argument(fcinfo, 3, "versions", &count, &versions, &no_version);
	numbers_argument(fcinfo, 5, "expected_versions", &count, &expectations,
					 &no_expectation);
	for (int i = 0; i < count; i++)
	{
		char where[32];

		snprintf(where, sizeof(where), "[%d]", i + 1);
		es_check_name(keys[i], false, "view_keys", where, true);
	}
	wanted = es_durability_argument(fcinfo, 4);

	placed = alloc_rows(count, sizeof(PlacedWrite));
	memset(placed, 0, (Size) count * sizeof(PlacedWrite));
	writes = alloc_rows(count, sizeof(ViewWrite));
	if (expectations != NULL)
		expected = alloc_rows(count, sizeof(ViewExpectation));
	for (int i = 0; i < count; i++)
	{
		PlacedWrite *row = &placed[i];

		row->place = i;
		row->write.view_name = view_name;
		row->write.view_key = keys[i];
		row->write.view_data = data[i];
		row->write.has_version = versions != NULL && !no_version[i];
		if (row->write.has_version)
			row->write.version = DatumGetInt64(versions[i]);
		row->expected.given = expected != NULL && !no_expectation[i];
		if (row->expected.given)
			row->expected.version = DatumGetInt64(expectations[i]);
	}
	count = order_writes(placed, count, writes, expected);
	pfree(placed);

	put = (PutCall){.writes = writes, .expected = expected, .count = count};
	changed = es_run_put("put_views()", &put, wanted, !PG_ARGISNULL(4));
	es_end_call(ES_CALL_PUT_VIEWS, changed);
	PG_RETURN_INT64(changed);
}

/* Who may not put must not make those wait who do. */
static void
check_may_lock(void)
{
	Oid put_view =
		LookupFuncName(list_make2(makeString(ES_SCHEMA), makeString("put_view")),
					   -1, NULL, false);

	if (object_aclcheck(ProcedureRelationId, put_view, GetUserId(),
						ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to load a view for update"),
				 errhint("It needs EXECUTE on event_store.put_view, as level writer of grant_access has it.")));
}

/*
 * load_view(view_name, view_key, for_update): the value, NULL when there is none.
 * With the key locked it is the latest one, which nobody can replace.
 */
Datum
es_load_view(PG_FUNCTION_ARGS)
{
	Datum view_name;
	Datum view_key;
	Datum data;
	bool staged = true;
	StagedRead read;

	es_check_version();
	es_begin_call(ES_CALL_LOAD_VIEW);
	view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	view_key = PointerGetDatum(es_required_text(fcinfo, 1, "view_key"));
	if (!PG_ARGISNULL(2) && PG_GETARG_BOOL(2))
	{
		PreventCommandIfReadOnly("load_view() for update");
		PreventCommandIfParallelMode("load_view() for update");
		check_may_lock();
		es_lock_view_key(view_name, view_key);
		staged = es_begin_latest_read(&read, es_store()->views);
	}
	else
		es_begin_staged_read(&read, GetActiveSnapshot());
	data = es_find_view(view_name, view_key, staged);
	es_end_staged_read(&read);
	es_end_call(ES_CALL_LOAD_VIEW, data != (Datum) 0 ? 1 : 0);
	if (data == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(data);
}

/* delete_view(view_name, view_key, durability): whether there was a row. */
Datum
es_delete_view(PG_FUNCTION_ARGS)
{
	ViewWrite write = {0};
	PutCall put = {.writes = &write, .count = 1};
	Durability wanted;
	int64 changed;

	es_begin_call(ES_CALL_DELETE_VIEW);
	PreventCommandIfReadOnly("delete_view()");
	PreventCommandIfParallelMode("delete_view()");
	write.view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	write.view_key = PointerGetDatum(es_required_text(fcinfo, 1, "view_key"));
	wanted = es_durability_argument(fcinfo, 2);

	changed = es_run_put("delete_view()", &put, wanted, !PG_ARGISNULL(2));
	es_end_call(ES_CALL_DELETE_VIEW, changed);
	PG_RETURN_BOOL(changed > 0);
}

/*
 * clear_view(view_name): how many rows it had.  It locks no keys, which may be
 * too many for the lock table; so a put that comes meanwhile may stay.  The
 * rows are locked in key order, as put_views locks them.
 */
Datum
es_clear_view(PG_FUNCTION_ARGS)
{
	Datum view_name;
	int64 removed;

	es_begin_call(ES_CALL_CLEAR_VIEW);
	PreventCommandIfReadOnly("clear_view()");
	PreventCommandIfParallelMode("clear_view()");
	view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	removed = es_clear_view_writes(view_name);
	es_end_call(ES_CALL_CLEAR_VIEW, removed);
	PG_RETURN_INT64(removed);
}
