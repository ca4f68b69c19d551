/*
 * view_store.c
 *		Writing views: the last value of every (view_name, view_key).
 *
 * A view is a read model that projections or applications put together.  Only
 * its last value counts, so writes are upserts under one version rule: a value
 * whose version is not newer than the known one changes nothing, and a value
 * without a version always wins.  The known value is the newest staged row of
 * the key, else its durable row.
 *
 * Every writer of a key first takes the lock of that key, to the end of its
 * transaction, and then looks under a snapshot taken afterwards.  So whatever
 * is staged for one key was accepted in the order in which it stands there,
 * and the drain need not judge it again: the last row is the value.  A durable
 * write of a key that others have staged makes those rows durable first; else
 * the drain would put the older value over the newer one.
 *
 * es_write_views is the only place that changes domain_views by key.  It works
 * on sets and in key order, for put_views as for the drain.
 *
 * At REPEATABLE READ and above, a writer must not overwrite what its snapshot
 * cannot see.  ON CONFLICT raises 40001 by itself; for deletes, which would
 * just miss such a row, and for staged writes the same is done here.
 *
 * Called through SQL, and by drain.c.
 */
#include "event_store.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(es_put_view);
PG_FUNCTION_INFO_V1(es_put_views);
PG_FUNCTION_INFO_V1(es_delete_view);
PG_FUNCTION_INFO_V1(es_clear_view);

static void
refuse_unseen(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}

/* ---------- durable writes ---------- */

/* One column of a set of rows, on its way into a statement. */
typedef struct Column
{
	Datum *values;
	bool *nulls;
} Column;

static Column *
make_columns(int columns, int rows)
{
	Column *made = palloc_array(Column, columns);

	for (int i = 0; i < columns; i++)
	{
		made[i].values = palloc_array(Datum, rows);
		made[i].nulls = palloc0_array(bool, rows);
	}
	return made;
}

/* The column as an array of a type that is either as long as int8 or as text. */
static Datum
column_array(Column *column, int count, Oid type)
{
	bool wide = type == INT8OID || type == TIMESTAMPTZOID;
	int dimension = count;
	int first = 1;

	return PointerGetDatum(construct_md_array(column->values, column->nulls, 1,
											  &dimension, &first, type,
											  wide ? (int) sizeof(int64) : -1,
											  wide && FLOAT8PASSBYVAL,
											  wide ? TYPALIGN_DOUBLE
												   : TYPALIGN_INT));
}

/* The end of a chunk that starts at "start". */
static int
chunk_end(const ViewWrite *writes, int start, int count)
{
	Size bytes = 0;
	int end = start;

	while (end < count && end - start < ES_CHUNK_ROWS)
	{
		if (writes[end].view_data != (Datum) 0)
			bytes += toast_raw_datum_size(writes[end].view_data);
		if (bytes > ES_CHUNK_BYTES && end > start)
			break;
		end++;
	}
	return end;
}

/* Upserts the rows of a chunk that have data. */
static int64
put_chunk(const ViewWrite *writes, int count, bool accepted)
{
	static KeptPlan upsert =
		{.sql = "INSERT INTO event_store.domain_views AS v"
				" (view_name, view_key, view_data, version, created_at, updated_at)"
				" SELECT w.view_name, w.view_key, w.view_data, w.version,"
				" w.updated_at, w.updated_at"
				" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
				" pg_catalog.unnest($3), pg_catalog.unnest($4),"
				" pg_catalog.unnest($5))"
				" AS w (view_name, view_key, view_data, version, updated_at)"
				" ON CONFLICT (view_name, view_key) DO UPDATE"
				" SET view_data = excluded.view_data, version = excluded.version,"
				" updated_at = excluded.updated_at"
				" WHERE $6 OR excluded.version IS NULL OR v.version IS NULL"
				" OR excluded.version OPERATOR(pg_catalog.>) v.version",
		 .nargs = 6,
		 .argtypes = {TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID, INT8ARRAYOID,
					  TIMESTAMPTZARRAYOID, BOOLOID}};
	Column *columns = make_columns(5, count);
	Datum arguments[6];
	TimestampTz now = GetCurrentTimestamp();
	int n = 0;

	for (int i = 0; i < count; i++)
	{
		const ViewWrite *w = &writes[i];

		if (w->view_data == (Datum) 0)
			continue;
		columns[0].values[n] = w->view_name;
		columns[1].values[n] = w->view_key;
		columns[2].values[n] = w->view_data;
		columns[3].values[n] = Int64GetDatum(w->version);
		columns[3].nulls[n] = !w->has_version;
		columns[4].values[n] =
			TimestampTzGetDatum(w->updated_at != 0 ? w->updated_at : now);
		n++;
	}
	if (n == 0)
		return 0;
	arguments[0] = column_array(&columns[0], n, TEXTOID);
	arguments[1] = column_array(&columns[1], n, TEXTOID);
	arguments[2] = column_array(&columns[2], n, JSONBOID);
	arguments[3] = column_array(&columns[3], n, INT8OID);
	arguments[4] = column_array(&columns[4], n, TIMESTAMPTZOID);
	arguments[5] = BoolGetDatum(accepted);
	return es_execute(&upsert, arguments, NULL, false, SPI_OK_INSERT);
}

/*
 * Deletes the rows of a chunk that have no data.  A row that the transaction's
 * own snapshot does not show would survive unnoticed, so it is looked for.
 */
static int64
delete_chunk(const ViewWrite *writes, int count)
{
	static KeptPlan delete =
		{.sql = "DELETE FROM event_store.domain_views AS v"
				" USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2))"
				" AS w (view_name, view_key)"
				" WHERE v.view_name OPERATOR(pg_catalog.=) w.view_name"
				" AND v.view_key OPERATOR(pg_catalog.=) w.view_key",
		 .nargs = 2,
		 .argtypes = {TEXTARRAYOID, TEXTARRAYOID}};
	static KeptPlan left =
		{.sql = "SELECT 1 FROM event_store.domain_views AS v,"
				" ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2))"
				" AS w (view_name, view_key)"
				" WHERE v.view_name OPERATOR(pg_catalog.=) w.view_name"
				" AND v.view_key OPERATOR(pg_catalog.=) w.view_key LIMIT 1",
		 .nargs = 2,
		 .argtypes = {TEXTARRAYOID, TEXTARRAYOID}};
	Column *columns = make_columns(2, count);
	Datum arguments[2];
	int64 deleted;
	int n = 0;

	for (int i = 0; i < count; i++)
	{
		if (writes[i].view_data != (Datum) 0)
			continue;
		columns[0].values[n] = writes[i].view_name;
		columns[1].values[n] = writes[i].view_key;
		n++;
	}
	if (n == 0)
		return 0;
	arguments[0] = column_array(&columns[0], n, TEXTOID);
	arguments[1] = column_array(&columns[1], n, TEXTOID);
	deleted = es_execute(&delete, arguments, NULL, false, SPI_OK_DELETE);
	if (deleted < n && IsolationUsesXactSnapshot())
	{
		PushActiveSnapshot(GetLatestSnapshot());
		if (es_execute(&left, arguments, NULL, true, SPI_OK_SELECT) > 0)
			refuse_unseen();
		PopActiveSnapshot();
	}
	return deleted;
}

int64
es_write_views(const ViewWrite *writes, int count, bool accepted)
{
	int64 changed = 0;
	int start = 0;

	while (start < count)
	{
		int end = chunk_end(writes, start, count);
		OwnerScope scope;

		CHECK_FOR_INTERRUPTS();
		es_begin_write(&scope);
		changed += delete_chunk(writes + start, end - start);
		changed += put_chunk(writes + start, end - start, accepted);
		es_end(&scope);
		start = end;
	}
	return changed;
}

/* ---------- staged writes ---------- */

/* What is known of a key before it is written. */
typedef struct Known
{
	bool found;
	bool has_version;
	int64 version;
	TimestampTz updated_at;
} Known;

/* Reads the durable rows of up to ES_CHUNK_ROWS keys under the active snapshot. */
static void
find_durable(const ViewWrite *writes, int count, Known *known)
{
	static KeptPlan find = {.sql =
								"SELECT w.ordinal, v.version, v.updated_at"
								" FROM ROWS FROM (pg_catalog.unnest($2)) WITH ORDINALITY"
								" AS w (view_key, ordinal)"
								" JOIN event_store.domain_views AS v"
								" ON v.view_name OPERATOR(pg_catalog.=) $1"
								" AND v.view_key OPERATOR(pg_catalog.=) w.view_key",
							.nargs = 2,
							.argtypes = {TEXTOID, TEXTARRAYOID}};
	Column *keys;
	Datum arguments[2];
	OwnerScope scope;
	uint64 rows;

	es_begin_read(&scope);
	keys = make_columns(1, count);
	for (int i = 0; i < count; i++)
		keys->values[i] = writes[i].view_key;
	arguments[0] = writes[0].view_name;
	arguments[1] = column_array(keys, count, TEXTOID);
	rows = es_execute(&find, arguments, NULL, true, SPI_OK_SELECT);
	for (uint64 i = 0; i < rows; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		Known *k;

		k = &known[DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)) - 1];
		k->found = true;
		k->version = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
		k->has_version = !isnull;
		k->updated_at =
			DatumGetTimestampTz(SPI_getbinval(tuple, desc, 3, &isnull));
	}
	es_end(&scope);
}

bool
es_find_staged_view(Datum view_name, Datum view_key, bool newest, StagedRow *row)
{
	StagedScan *scan = es_staged_begin(ES_KIND_VIEW, view_name, view_key,
									   GetActiveSnapshot(), newest);
	bool found = es_staged_next(scan, row);

	es_staged_end(scan);
	return found;
}

/* What the active snapshot knows of all keys of a call, which share one view. */
static Known *
find_known(const ViewWrite *writes, int count, bool staged)
{
	Known *known = palloc0_array(Known, count);
	MemoryContext scratch;

	for (int start = 0; start < count; start += ES_CHUNK_ROWS)
		find_durable(writes + start, Min(ES_CHUNK_ROWS, count - start),
					 known + start);

	scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store views",
									ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; staged && i < count; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(scratch);
		StagedRow row;

		CHECK_FOR_INTERRUPTS();
		if (es_find_staged_view(writes[i].view_name, writes[i].view_key, true,
								&row))
		{
			known[i].found = row.view_data != (Datum) 0;
			known[i].has_version = row.has_version;
			known[i].version = row.version;
			known[i].updated_at = row.staged_at;
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	return known;
}

/*
 * Whether two snapshots know the same of a key.  The time of the last write
 * stays the same when a row moves from staging into the table.
 */
static bool
same_known(const Known *a, const Known *b)
{
	if (!a->found || !b->found)
		return a->found == b->found;
	return a->updated_at == b->updated_at && a->has_version == b->has_version &&
		   (!a->has_version || a->version == b->version);
}

/* The version rule; delete_view has nothing to do where nothing is. */
static bool
is_accepted(const ViewWrite *write, const Known *known)
{
	if (write->view_data == (Datum) 0)
		return known->found;
	return !known->found || !known->has_version || !write->has_version ||
		   write->version > known->version;
}

/* Whether the version rule accepts all of them whatever is known. */
static bool
always_accepted(const ViewWrite *writes, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (writes[i].has_version || writes[i].view_data == (Datum) 0)
			return false;
	}
	return true;
}

/* Stages what the version rule accepts.  The keys are locked. */
static int64
stage_views(const ViewWrite *writes, int count)
{
	Known *known = NULL;
	ViewWrite *accepted = palloc_array(ViewWrite, count);
	StagedRead read;
	int changed = 0;

	if (IsolationUsesXactSnapshot() || !always_accepted(writes, count))
	{
		known = find_known(writes, count, es_begin_latest_read(&read));
		es_end_staged_read(&read);
	}

	if (IsolationUsesXactSnapshot())
	{
		Known *seen;

		es_begin_staged_read(&read, GetTransactionSnapshot());
		seen = find_known(writes, count, true);
		es_end_staged_read(&read);

		for (int i = 0; i < count; i++)
		{
			if (!same_known(&known[i], &seen[i]))
				refuse_unseen();
		}
		pfree(seen);
	}
	for (int i = 0; i < count; i++)
	{
		if (known == NULL || is_accepted(&writes[i], &known[i]))
			accepted[changed++] = writes[i];
	}
	/* the next call of the same command looks at these rows */
	if (changed > 0)
	{
		es_stage_views(accepted, changed);
		CommandCounterIncrement();
	}
	pfree(accepted);
	return changed;
}

/* ---------- put and delete ---------- */

/*
 * Makes durable what others have staged for these locked keys.  Where the
 * oldest row of a key is this transaction's own, all others are too.
 */
static void
settle_others(const ViewWrite *writes, int count)
{
	MemoryContext scratch =
		AllocSetContextCreate(CurrentMemoryContext, "event_store views",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	StagedRead read;
	bool others = false;

	es_begin_staged_read(&read, NULL);
	for (int i = 0; !others && i < count; i++)
	{
		StagedRow row;

		CHECK_FOR_INTERRUPTS();
		others = es_find_staged_view(writes[i].view_name, writes[i].view_key,
									 false, &row) &&
				 !row.own;
		MemoryContextReset(scratch);
	}
	es_end_staged_read(&read);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);

	/* waits without a snapshot, which would hold back what it waits for */
	if (others)
		es_settle();
}

/* Puts and deletes distinct keys, in key order.  Returns how many changed. */
static int64
write_views(const ViewWrite *writes, int count, Durability wanted)
{
	Durability durability;
	uint64 *hashes;

	/* before staging is waited for, which nobody opens without a store */
	(void) es_store();
	if (count == 0)
		return 0;
	durability = es_admit(wanted, count);

	es_note_write();
	hashes = palloc_array(uint64, count);
	for (int i = 0; i < count; i++)
		hashes[i] = es_pair_hash(writes[i].view_name, writes[i].view_key);
	es_lock_pairs(ES_LOCK_VIEW_KEY, hashes, count);
	pfree(hashes);

	if (durability == ES_STAGED)
		return stage_views(writes, count);
	if (es_may_have_staged())
		settle_others(writes, count);
	es_move_own_rows();
	return es_write_views(writes, count, false);
}

/*
 * put_view(view_name, view_key, view_data, version, durability): whether the
 * value was accepted.
 */
Datum
es_put_view(PG_FUNCTION_ARGS)
{
	ViewWrite write = {0};
	Durability wanted;
	int64 changed;

	es_begin_call(ES_CALL_PUT_VIEW);
	PreventCommandIfReadOnly("put_view()");
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

	changed = write_views(&write, 1, wanted);
	es_end_call(ES_CALL_PUT_VIEW, changed);
	PG_RETURN_BOOL(changed > 0);
}

/* A row of put_views and its place in the arrays. */
typedef struct PlacedWrite
{
	ViewWrite write;
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

/* Brings rows into key order, the last of each key only.  Returns how many. */
static int
order_writes(PlacedWrite *placed, int count, ViewWrite *writes)
{
	int n = 0;

	qsort(placed, count, sizeof(PlacedWrite), compare_placed);
	for (int i = 0; i < count; i++)
	{
		if (i + 1 == count || es_compare_keys(placed[i].write.view_key,
											  placed[i + 1].write.view_key) != 0)
			writes[n++] = placed[i].write;
	}
	return n;
}

/*
 * put_views(view_name, view_keys, view_data, versions, durability): how many
 * rows were accepted.
 */
Datum
es_put_views(PG_FUNCTION_ARGS)
{
	Datum view_name;
	Datum *keys;
	Datum *data;
	Datum *versions = NULL;
	bool *nulls = NULL;
	int count = -1;
	PlacedWrite *placed;
	ViewWrite *writes;
	Durability wanted;
	int64 changed;

	es_begin_call(ES_CALL_PUT_VIEWS);
	PreventCommandIfReadOnly("put_views()");
	view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	es_array_argument(fcinfo, 1, "view_keys", false, &count, &keys, NULL);
	es_array_argument(fcinfo, 2, "view_data", false, &count, &data, NULL);
	if (!PG_ARGISNULL(3))
		es_array_argument(fcinfo, 3, "versions", true, &count, &versions, &nulls);
	for (int i = 0; i < count; i++)
	{
		char where[32];

		snprintf(where, sizeof(where), "[%d]", i + 1);
		es_check_name(keys[i], false, "view_keys", where, true);
	}
	wanted = es_durability_argument(fcinfo, 4);

	placed = MemoryContextAllocHuge(CurrentMemoryContext,
									(Size) Max(count, 1) * sizeof(PlacedWrite));
	writes = MemoryContextAllocHuge(CurrentMemoryContext,
									(Size) Max(count, 1) * sizeof(ViewWrite));
	for (int i = 0; i < count; i++)
	{
		ViewWrite *w = &placed[i].write;

		placed[i].place = i;
		w->view_name = view_name;
		w->view_key = keys[i];
		w->view_data = data[i];
		w->has_version = versions != NULL && !nulls[i];
		w->version = w->has_version ? DatumGetInt64(versions[i]) : 0;
		w->updated_at = 0;
	}
	count = order_writes(placed, count, writes);
	pfree(placed);

	changed = write_views(writes, count, wanted);
	es_end_call(ES_CALL_PUT_VIEWS, changed);
	PG_RETURN_INT64(changed);
}

/* delete_view(view_name, view_key, durability): whether there was a row. */
Datum
es_delete_view(PG_FUNCTION_ARGS)
{
	ViewWrite write = {0};
	Durability wanted;
	int64 changed;

	es_begin_call(ES_CALL_DELETE_VIEW);
	PreventCommandIfReadOnly("delete_view()");
	write.view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	write.view_key = PointerGetDatum(es_required_text(fcinfo, 1, "view_key"));
	wanted = es_durability_argument(fcinfo, 2);

	changed = write_views(&write, 1, wanted);
	es_end_call(ES_CALL_DELETE_VIEW, changed);
	PG_RETURN_BOOL(changed > 0);
}

/* Whether others have staged rows of any key of a view. */
static bool
others_staged(Datum view_name)
{
	StagedRead read;
	StagedScan *scan;
	StagedRow row;
	bool others = false;

	es_begin_staged_read(&read, NULL);
	scan = es_staged_begin(ES_KIND_VIEW, view_name, (Datum) 0,
						   GetActiveSnapshot(), false);
	while (!others && es_staged_next(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		others = !row.own;
		es_staged_free(&row);
	}
	es_staged_end(scan);
	es_end_staged_read(&read);
	return others;
}

/*
 * clear_view(view_name): how many rows it had.  It locks no keys, which may be
 * too many for the lock table; so a put that comes meanwhile may stay.  The
 * rows are locked in key order, as put_views locks them.
 */
Datum
es_clear_view(PG_FUNCTION_ARGS)
{
	static KeptPlan clear =
		{.sql = "WITH doomed AS (SELECT d.view_key"
				" FROM event_store.domain_views AS d"
				" WHERE d.view_name OPERATOR(pg_catalog.=) $1"
				" ORDER BY d.view_key FOR UPDATE)"
				" DELETE FROM event_store.domain_views AS v USING doomed"
				" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
				" AND v.view_key OPERATOR(pg_catalog.=) doomed.view_key",
		 .nargs = 1,
		 .argtypes = {TEXTOID}};
	static KeptPlan left = {.sql =
								"SELECT 1 FROM event_store.domain_views AS v"
								" WHERE v.view_name OPERATOR(pg_catalog.=) $1 LIMIT 1",
							.nargs = 1,
							.argtypes = {TEXTOID}};
	Datum view_name;
	OwnerScope scope;
	int64 removed;

	es_begin_call(ES_CALL_CLEAR_VIEW);
	PreventCommandIfReadOnly("clear_view()");
	view_name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));

	es_note_write();
	if (es_may_have_staged() && others_staged(view_name))
		es_settle();
	es_move_own_rows();

	es_begin_write(&scope);
	removed = es_execute(&clear, &view_name, NULL, false, SPI_OK_DELETE);
	if (IsolationUsesXactSnapshot())
	{
		/* also rows that it showed in staging and that have moved since */
		PushActiveSnapshot(GetLatestSnapshot());
		if (es_execute(&left, &view_name, NULL, true, SPI_OK_SELECT) > 0)
			refuse_unseen();
		PopActiveSnapshot();
	}
	es_end(&scope);
	es_end_call(ES_CALL_CLEAR_VIEW, removed);
	PG_RETURN_INT64(removed);
}
