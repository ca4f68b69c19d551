/*
 * view_batch.c
 *		A batch of events folded into the rows of a view: the rows are read by one
 *		statement, and what has changed is written by another, however many events there are.
 *
 * Nothing is locked here.  The rows of a view are written by the members of its projection alone,
 * each its own, or by appends, which lock their keys between the two halves of a batch; and
 * whoever exchanges all of them holds the projection.
 *
 * A rebuild folds into view_rebuild_rows, which nobody reads, and else does the same.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/itemptr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/pair_table.h"
#include "log/view_table.h"
#include "replay/event_rows.h"
#include "replay/sticky.h"
#include "replay/view_batch.h"
#include "replay/view_fold.h"

/* ---------- reading rows ---------- */

static uint64
read_built_rows(Datum view_name, Datum *keys, int count)
{
	static KeptPlan plan = {"SELECT r.view_key, r.state, r.sequence, r.ctid"
							" FROM ROWS FROM (pg_catalog.unnest($2)) AS w (view_key)"
							" JOIN event_store.view_rebuild_rows r"
							" ON r.view_name OPERATOR(pg_catalog.=) $1"
							" AND r.view_key OPERATOR(pg_catalog.=) w.view_key",
							2,
							{TEXTOID, TEXTARRAYOID}};
	Datum values[2] = {view_name,
					   PointerGetDatum(construct_array(keys, count, TEXTOID, -1,
													   false, TYPALIGN_INT))};

	return es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
}

static ViewRow *
find_row(ViewRow **rows, int count, Datum key)
{
	int low = 0;
	int high = count - 1;

	while (low <= high)
	{
		int middle = low + (high - low) / 2;
		int order = es_compare_keys(key, PointerGetDatum(rows[middle]->key));

		if (order == 0)
			return rows[middle];
		if (order < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	elog(ERROR, "a row was found that was not asked for");
}

/* Fills in what was found of rows that stand in the order of their keys. */
static void
take_rows(ViewRow **rows, int count, SPITupleTable *table, uint64 found)
{
	int next = 0; /* where the next one stands, if all are found, in their order */

	for (uint64 i = 0; i < found; i++)
	{
		bool isnull;
		Datum value;
		Datum key = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);
		ViewRow *row =
			next < count &&
					es_compare_keys(key, PointerGetDatum(rows[next]->key)) == 0
				? rows[next]
				: find_row(rows, count, key);

		next++;

		row->kept = true;
		value = SPI_getbinval(table->vals[i], table->tupdesc, 2, &isnull);
		if (!isnull)
			row->data = PointerGetDatum(DatumGetJsonbPCopy(value));
		value = SPI_getbinval(table->vals[i], table->tupdesc, 3, &isnull);
		row->version = isnull ? 0 : DatumGetInt64(value);
		value = SPI_getbinval(table->vals[i], table->tupdesc, 4, &isnull);
		row->at = *(ItemPointer) DatumGetPointer(value);
	}
}

static void
read_rows(Datum view_name, bool building, ViewRow **rows, int count)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum keys[ES_CHUNK_ROWS];

	for (int start = 0; start < count; start += ES_CHUNK_ROWS)
	{
		int n = Min(ES_CHUNK_ROWS, count - start);
		OwnerScope scope;
		SPITupleTable *table;
		uint64 found;

		for (int i = 0; i < n; i++)
			keys[i] = PointerGetDatum(rows[start + i]->key);
		es_begin(&scope);
		/*
		 * As they are, whatever the transaction's snapshot shows.  What it does not show can
		 * then be found to change, and to write that is refused.
		 */
		PushActiveSnapshot(GetLatestSnapshot());
		found = building ? read_built_rows(view_name, keys, n)
						 : es_read_views(view_name, keys, n);
		PopActiveSnapshot();
		table = SPI_tuptable;
		MemoryContextSwitchTo(caller);
		take_rows(rows + start, n, table, found);
		es_end(&scope);
	}
}

/* ---------- writing rows ---------- */

/* The encoded state of a row, without the room that encoding takes. */
static Datum
row_data(const ViewRow *row, MemoryContext scratch)
{
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	Datum data = es_view_row_result(row);

	MemoryContextSwitchTo(caller);
	if (data != (Datum) 0)
		data = datumCopy(data, false, -1);
	MemoryContextReset(scratch);
	return data;
}

static void
write_live_rows(Datum view_name, ViewRow **rows, int count)
{
	ViewWrite *writes = palloc0(Max(count, 1) * sizeof(ViewWrite));
	MemoryContext scratch =
		AllocSetContextCreate(CurrentMemoryContext, "event_store encoded row",
							  ALLOCSET_DEFAULT_SIZES);
	int n = 0;

	for (int i = 0; i < count; i++)
	{
		Datum data;

		if (!rows[i]->changed)
			continue;
		data = row_data(rows[i], scratch);
		if (data == (Datum) 0 && !rows[i]->kept)
			continue;
		writes[n++] =
			(ViewWrite){.view_name = view_name,
						.view_key = PointerGetDatum(rows[i]->key),
						.view_data = data,
						.has_version = true,
						.version = rows[i]->version,
						.at = rows[i]->kept ? PointerGetDatum(&rows[i]->at)
											: (Datum) 0};
	}
	(void) es_write_views(writes, n, true);
}

/* Those of a rebuild; one without a state stays, and makes no row in the end. */
static void
write_built_rows(Datum view_name, ViewRow **rows, int count)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.view_rebuild_rows"
		 " (view_name, view_key, sequence, state)"
		 " SELECT $1, k.view_key, k.sequence, k.state"
		 " FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3),"
		 " pg_catalog.unnest($4)) AS k (view_key, sequence, state)"
		 " ON CONFLICT (view_name, view_key) DO UPDATE"
		 " SET sequence = excluded.sequence, state = excluded.state",
		 4,
		 {TEXTOID, TEXTARRAYOID, INT8ARRAYOID, JSONBARRAYOID}};
	Size room = Max(count, 1) * sizeof(Datum);
	Datum *keys = palloc(room);
	Datum *versions = palloc(room);
	Datum *states = palloc(room);
	bool *no_states = palloc(Max(count, 1) * sizeof(bool));
	Datum values[4] = {view_name};
	int first = 1;
	int n = 0;
	OwnerScope scope;

	for (int i = 0; i < count; i++)
	{
		if (!rows[i]->changed)
			continue;
		keys[n] = PointerGetDatum(rows[i]->key);
		versions[n] = Int64GetDatum(rows[i]->version);
		states[n] = es_view_row_result(rows[i]);
		no_states[n] = states[n] == (Datum) 0;
		n++;
	}
	if (n == 0)
		return;
	values[1] = PointerGetDatum(construct_array(keys, n, TEXTOID, -1, false,
												TYPALIGN_INT));
	values[2] =
		PointerGetDatum(construct_array(versions, n, INT8OID, sizeof(int64),
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[3] =
		PointerGetDatum(construct_md_array(states, no_states, 1, &n, &first,
										   JSONBOID, -1, false, TYPALIGN_INT));
	es_begin(&scope);
	es_execute(&plan, values, NULL, false, SPI_OK_INSERT);
	es_end(&scope);
}

/* ---------- a batch ---------- */

struct ViewRun
{
	const ViewDefinition *definition;
	ViewBatch *batch;
	ViewFold *fold;
	Stickies *stickies;
	ViewRow **rows;
	int count;
};

ViewRun *
es_place_view_batch(const ViewDefinition *definition, ViewBatch *batch)
{
	ViewRun *run = palloc0(sizeof(ViewRun));
	RowKeyAccess access;

	run->definition = definition;
	run->batch = batch;
	run->fold = es_view_fold_begin(definition, batch->events, batch->count);
	run->stickies =
		es_begin_stickies(definition->name, definition->key, batch->building,
						  batch->events, batch->count, &access);
	batch->exact = true;
	es_view_fold_place(run->fold, &access, &batch->done);
	batch->exact = false;
	run->rows = es_view_fold_rows(run->fold, &run->count);
	return run;
}

int
es_view_run_hashes(const ViewRun *run, uint64 *hashes)
{
	for (int i = 0; hashes != NULL && i < run->count; i++)
		hashes[i] = es_pair_hash(run->definition->name,
								 PointerGetDatum(run->rows[i]->key));
	return run->count;
}

void
es_fold_view_batch(ViewRun *run)
{
	Datum name = run->definition->name;
	ViewBatch *batch = run->batch;

	read_rows(name, batch->building, run->rows, run->count);
	batch->exact = true;
	es_view_fold_apply(run->fold, &batch->done);
	batch->exact = false;
	if (batch->building)
		write_built_rows(name, run->rows, run->count);
	else
		write_live_rows(name, run->rows, run->count);
	es_write_stickies(run->stickies);
	batch->done = batch->count;
}

void
es_fold_into_view(const ViewDefinition *definition, ViewBatch *batch)
{
	es_fold_view_batch(es_place_view_batch(definition, batch));
}

/* ---------- what is left of a rebuild ---------- */

void
es_forget_built(Datum name)
{
	static KeptPlan rows = {"DELETE FROM event_store.view_rebuild_rows r"
							" WHERE r.view_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};
	static KeptPlan row = {"DELETE FROM event_store.view_rebuilds b"
						   " WHERE b.view_name OPERATOR(pg_catalog.=) $1",
						   1,
						   {TEXTOID}};

	es_execute(&rows, &name, NULL, false, SPI_OK_DELETE);
	es_execute(&row, &name, NULL, false, SPI_OK_DELETE);
	es_forget_stickies(name, true);
}
