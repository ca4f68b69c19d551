/*
 * view_table.c
 *		The table domain_views: writes by key and look-ups.
 *
 * es_write_views is the only place that changes domain_views by key.  It works
 * on sets and in key order, for put_views as for the drain.
 *
 * At REPEATABLE READ and above, a writer must not overwrite what its snapshot
 * cannot see.  ON CONFLICT raises 40001 by itself; for deletes, which would
 * just miss such a row, the same is done here.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "log/view_table.h"

void
es_refuse_unseen_view(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}

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

static Datum
column_array(Column *column, int count, Oid type)
{
	int dimension = count;
	int first = 1;
	int16 length;
	bool by_value;
	char align;

	get_typlenbyvalalign(type, &length, &by_value, &align);
	return PointerGetDatum(construct_md_array(column->values, column->nulls, 1,
											  &dimension, &first, type, length,
											  by_value, align));
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

/*
 * The rows of a chunk that have data, and are known to be there or not, as five arrays,
 * and a sixth of where they are known to be; returns how many.
 */
static int
gather_puts(const ViewWrite *writes, int count, bool known, Datum *arrays)
{
	Column *columns = make_columns(6, count);
	TimestampTz now = GetCurrentTimestamp();
	int n = 0;

	for (int i = 0; i < count; i++)
	{
		const ViewWrite *w = &writes[i];

		if (w->view_data == (Datum) 0 || (w->at != (Datum) 0) != known)
			continue;
		columns[0].values[n] = w->view_name;
		columns[1].values[n] = w->view_key;
		columns[2].values[n] = w->view_data;
		columns[3].values[n] = Int64GetDatum(w->version);
		columns[3].nulls[n] = !w->has_version;
		columns[4].values[n] =
			TimestampTzGetDatum(w->updated_at != 0 ? w->updated_at : now);
		columns[5].values[n] = w->at;
		n++;
	}
	if (n == 0)
		return 0;
	arrays[0] = column_array(&columns[0], n, TEXTOID);
	arrays[1] = column_array(&columns[1], n, TEXTOID);
	arrays[2] = column_array(&columns[2], n, JSONBOID);
	arrays[3] = column_array(&columns[3], n, INT8OID);
	arrays[4] = column_array(&columns[4], n, TIMESTAMPTZOID);
	if (known)
		arrays[5] = column_array(&columns[5], n, TIDOID);
	return n;
}

/* Upserts rows, given as arrays. */
static int64
upsert_rows(Datum *arguments)
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

	return es_execute(&upsert, arguments, NULL, false, SPI_OK_INSERT);
}

/*
 * Updates rows where they are known to be, which costs less than half of an upsert; should
 * one not be there, all are upserted.
 */
static int64
update_rows(Datum *arguments, int count)
{
	static KeptPlan update =
		{.sql = "UPDATE event_store.domain_views AS v"
				" SET view_data = w.view_data, version = w.version,"
				" updated_at = w.updated_at"
				" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
				" pg_catalog.unnest($3), pg_catalog.unnest($4),"
				" pg_catalog.unnest($5), pg_catalog.unnest($6))"
				" AS w (view_name, view_key, view_data, version, updated_at, at)"
				" WHERE v.ctid OPERATOR(pg_catalog.=) w.at"
				" AND v.view_name OPERATOR(pg_catalog.=) w.view_name"
				" AND v.view_key OPERATOR(pg_catalog.=) w.view_key",
		 .nargs = 6,
		 .argtypes = {TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID, INT8ARRAYOID,
					  TIMESTAMPTZARRAYOID, TIDARRAYOID}};
	uint64 updated = es_execute(&update, arguments, NULL, false, SPI_OK_UPDATE);

	if (updated == (uint64) count)
		return count;
	arguments[5] = BoolGetDatum(true);
	(void) upsert_rows(arguments);
	return count;
}

/* Updates one row where it is known to be; false if it is not there. */
static bool
update_row(const ViewWrite *write)
{
	static KeptPlan update = {.sql = "UPDATE event_store.domain_views AS v"
									 " SET view_data = $3, version = $4, updated_at = $5"
									 " WHERE v.ctid OPERATOR(pg_catalog.=) $6"
									 " AND v.view_name OPERATOR(pg_catalog.=) $1"
									 " AND v.view_key OPERATOR(pg_catalog.=) $2",
							  .nargs = 6,
							  .argtypes = {TEXTOID, TEXTOID, JSONBOID, INT8OID,
										   TIMESTAMPTZOID, TIDOID}};
	Datum arguments[6] = {write->view_name,
						  write->view_key,
						  write->view_data,
						  Int64GetDatum(write->version),
						  TimestampTzGetDatum(write->updated_at != 0
												  ? write->updated_at
												  : GetCurrentTimestamp()),
						  write->at};

	return es_execute(&update, arguments, write->has_version ? NULL : "   n  ",
					  false, SPI_OK_UPDATE) == 1;
}

/* Puts the rows of a chunk that have data. */
static int64
put_chunk(const ViewWrite *writes, int count, bool accepted)
{
	Datum arguments[6] = {[5] = BoolGetDatum(accepted)};
	int64 changed = 0;
	int n;

	/* an append to one row, which needs no arrays */
	if (count == 1 && writes->at != (Datum) 0 &&
		writes->view_data != (Datum) 0 && update_row(writes))
		return 1;
	n = gather_puts(writes, count, false, arguments);

	if (n > 0)
		changed = upsert_rows(arguments);
	n = gather_puts(writes, count, true, arguments);
	if (n > 0)
		changed += update_rows(arguments, n);
	return changed;
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
			es_refuse_unseen_view();
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

/* Reads the durable rows of up to ES_CHUNK_ROWS keys under the active snapshot. */
void
es_find_durable_views(const ViewWrite *writes, int count, KnownView *known)
{
	static KeptPlan find = {.sql =
								"SELECT w.ordinal, v.version, v.updated_at, v.ctid"
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
		KnownView *k;

		k = &known[DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)) - 1];
		k->found = true;
		k->version = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
		k->has_version = !isnull;
		k->updated_at =
			DatumGetTimestampTz(SPI_getbinval(tuple, desc, 3, &isnull));
		k->at = *(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, desc, 4,
															 &isnull));
	}
	es_end(&scope);
}

/*
 * Few rows may be hot ones.  Under an old snapshot nobody can remove what they were before, and
 * a scan meets all of it unless it begins with the newest and ends with the first that it sees.
 * It is asked for a range of one key, since the planner sees no order in what is equal.
 */
#define FEW_ROWS 32

uint64
es_read_views(Datum view_name, Datum *keys, int count)
{
	static KeptPlan read = {.sql =
								"SELECT v.view_key, v.view_data, v.version, v.ctid"
								" FROM ROWS FROM (pg_catalog.unnest($2)) AS w (view_key)"
								" JOIN event_store.domain_views AS v"
								" ON v.view_name OPERATOR(pg_catalog.=) $1"
								" AND v.view_key OPERATOR(pg_catalog.=) w.view_key",
							.nargs = 2,
							.argtypes = {TEXTOID, TEXTARRAYOID}};
	static KeptPlan read_few =
		{.sql = "SELECT v.view_key, v.view_data, v.version, v.at"
				" FROM ROWS FROM (pg_catalog.unnest($2)) AS w (view_key),"
				" LATERAL (SELECT r.view_key, r.view_data, r.version,"
				" r.ctid AS at FROM event_store.domain_views AS r"
				" WHERE r.view_name OPERATOR(pg_catalog.=) $1"
				" AND r.view_key OPERATOR(pg_catalog.>=) w.view_key"
				" AND r.view_key OPERATOR(pg_catalog.<=) w.view_key"
				" ORDER BY r.view_key DESC LIMIT 1) AS v",
		 .nargs = 2,
		 .argtypes = {TEXTOID, TEXTARRAYOID}};
	static KeptPlan read_one = {.sql =
									"SELECT v.view_key, v.view_data, v.version, v.ctid"
									" FROM event_store.domain_views AS v"
									" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
									" AND v.view_key OPERATOR(pg_catalog.>=) $2"
									" AND v.view_key OPERATOR(pg_catalog.<=) $2"
									" ORDER BY v.view_key DESC LIMIT 1",
								.nargs = 2,
								.argtypes = {TEXTOID, TEXTOID}};
	Datum arguments[2] = {view_name, keys[0]};

	if (count == 1)
		return es_execute(&read_one, arguments, NULL, true, SPI_OK_SELECT);
	arguments[1] = PointerGetDatum(construct_array(keys, count, TEXTOID, -1,
												   false, TYPALIGN_INT));
	return es_execute(count > FEW_ROWS ? &read : &read_few, arguments, NULL,
					  true, SPI_OK_SELECT);
}

int64
es_clear_durable_view(Datum view_name)
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
	OwnerScope scope;
	int64 removed;

	es_begin_write(&scope);
	removed = es_execute(&clear, &view_name, NULL, false, SPI_OK_DELETE);
	if (IsolationUsesXactSnapshot())
	{
		/* also rows that it showed in staging and that have moved since */
		PushActiveSnapshot(GetLatestSnapshot());
		if (es_execute(&left, &view_name, NULL, true, SPI_OK_SELECT) > 0)
			es_refuse_unseen_view();
		PopActiveSnapshot();
	}
	es_end(&scope);
	return removed;
}
