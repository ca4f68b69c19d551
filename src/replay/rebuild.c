/*
 * rebuild.c
 *		Views made anew from events: one row for each aggregate of a type.
 *
 * A rebuild folds the durable events of all aggregates of a type into rows of
 * view_rebuild_rows, which nobody reads, and puts them in the place of the
 * view's rows at the end, in one transaction: a reader sees the old view or the
 * new one.
 *
 * What is folded is kept with the sequence it has come to.  So a rebuild can be
 * done in steps, each in a transaction of its own, and goes on after a crash or
 * a cancel from the last step that committed.  The last pass reads all events
 * once more in their order and folds what came since, starting each aggregate
 * at its kept row; rebuild_view() is that last pass, which finds nothing kept
 * where no step went before.  Snapshots are not used: a view is rebuilt where
 * something is in doubt.  Another reducer, or another aggregate type, begins
 * from the start.
 *
 * What is staged becomes durable before events are folded.  Writers of the view
 * go on meanwhile.  For the exchange their keys are locked, and what they have
 * staged becomes durable.  A row that they
 * have put meanwhile stays if its version is that of an event which the rebuild
 * has not seen; every other row is replaced, or removed where its aggregate has
 * no state.
 *
 * How far a rebuild is can be seen from other sessions while its transaction
 * runs, so it stands in shared memory; what steps have committed stands in
 * view_rebuilds.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/lock.h"
#include "ground/log_plan.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "log/view_owner.h"
#include "replay/fold.h"
#include "replay/rebuild.h"
#include "replay/reducer.h"
#include "replay/upcaster.h"
#include "staging/flush.h"
#include "staging/own_rows.h"
#include "staging/staged_scan.h"

PG_FUNCTION_INFO_V1(es_rebuild_view);
PG_FUNCTION_INFO_V1(es_rebuild_view_step);
PG_FUNCTION_INFO_V1(es_rebuild_state);

/* ---------- progress in shared memory ---------- */

/* Rebuilds beyond so many at once are not shown. */
#define MAX_REBUILDS 16
#define NAME_BYTES (ES_MAX_NAME_CHARS * 4 + 1)

/* How far a rebuild is that runs now; SharedState.lock protects it. */
typedef struct RebuildProgress
{
	int pid; /* 0 = free */
	Oid database;
	char view_name[NAME_BYTES];
	char aggregate_type[NAME_BYTES];
	pg_atomic_uint64 done; /* aggregates, by any process without the lock */
	int64 done_before;	   /* by earlier steps */
	int64 total;
	TimestampTz started_at;
} RebuildProgress;

static Size
progress_size(void)
{
	return MAX_REBUILDS * sizeof(RebuildProgress);
}

static void
initialise_progress(void *memory)
{
	RebuildProgress *rebuilds = memory;

	for (int i = 0; i < MAX_REBUILDS; i++)
		pg_atomic_init_u64(&rebuilds[i].done, 0);
}

static ClusterPart progress_part = {"event_store rebuilds", progress_size,
									initialise_progress};

void
es_share_rebuilds(void)
{
	es_share(&progress_part);
}

static RebuildProgress *
running_rebuild(int i)
{
	return (RebuildProgress *) progress_part.memory + i;
}

/* Takes a place; NULL without preload, or when all are taken. */
static RebuildProgress *
begin_progress(text *view_name, text *aggregate_type, int64 done, int64 total)
{
	RebuildProgress *mine = NULL;

	if (es_shared == NULL)
		return NULL;
	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_REBUILDS && mine == NULL; i++)
	{
		if (running_rebuild(i)->pid == 0)
			mine = running_rebuild(i);
	}
	if (mine != NULL)
	{
		mine->pid = MyProcPid;
		mine->database = MyDatabaseId;
		text_to_cstring_buffer(view_name, mine->view_name, NAME_BYTES);
		text_to_cstring_buffer(aggregate_type, mine->aggregate_type, NAME_BYTES);
		pg_atomic_write_u64(&mine->done, (uint64) done);
		mine->done_before = done;
		mine->total = total;
		mine->started_at = GetCurrentTimestamp();
	}
	LWLockRelease(es_shared->lock);
	return mine;
}

static void
end_progress(int code, Datum arg)
{
	RebuildProgress *mine = (RebuildProgress *) DatumGetPointer(arg);

	if (mine == NULL)
		return;
	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	mine->pid = 0;
	LWLockRelease(es_shared->lock);
}

/* ---------- what is kept between steps ---------- */

typedef struct Rebuild
{
	text *view_name;
	text *aggregate_type;
	Fold *fold;
	Datum after_id; /* aggregates up to this one are folded; "" = none */
	int64 done;		/* that many */
	int64 total;	/* aggregates, when the rebuild began */
	RebuildProgress *progress;

	/* rows on their way into view_rebuild_rows */
	MemoryContext row_context;
	Datum keys[ES_CHUNK_ROWS];
	Datum sequences[ES_CHUNK_ROWS];
	Datum states[ES_CHUNK_ROWS];
	bool no_states[ES_CHUNK_ROWS];
	int count;
	Size bytes;
} Rebuild;

static KeptPlan begin_rebuild_row =
	{.sql = "INSERT INTO event_store.view_rebuilds"
			" (view_name, aggregate_type, reducer_version)"
			" VALUES ($1, $2, $3) ON CONFLICT (view_name) DO NOTHING",
	 .nargs = 3,
	 .argtypes = {TEXTOID, TEXTOID, INT4OID}};

static KeptPlan lock_rebuild_row =
	{.sql = "SELECT b.after_id, b.done, b.total,"
			" b.aggregate_type OPERATOR(pg_catalog.=) $2"
			" AND b.reducer_version OPERATOR(pg_catalog.=) $3"
			" FROM event_store.view_rebuilds b"
			" WHERE b.view_name OPERATOR(pg_catalog.=) $1 FOR UPDATE",
	 .nargs = 3,
	 .argtypes = {TEXTOID, TEXTOID, INT4OID}};

static KeptPlan restart_rebuild_row =
	{.sql = "UPDATE event_store.view_rebuilds SET aggregate_type = $2,"
			" reducer_version = $3, after_id = '', done = 0, total = 0,"
			" started_at = pg_catalog.clock_timestamp(),"
			" updated_at = pg_catalog.clock_timestamp()"
			" WHERE view_name OPERATOR(pg_catalog.=) $1",
	 .nargs = 3,
	 .argtypes = {TEXTOID, TEXTOID, INT4OID}};

static KeptPlan advance_rebuild_row =
	{.sql = "UPDATE event_store.view_rebuilds SET after_id = $2, done = $3,"
			" total = $4, updated_at = pg_catalog.clock_timestamp()"
			" WHERE view_name OPERATOR(pg_catalog.=) $1",
	 .nargs = 4,
	 .argtypes = {TEXTOID, TEXTOID, INT8OID, INT8OID}};

static KeptPlan delete_rebuild_row = {.sql =
										  "DELETE FROM event_store.view_rebuilds"
										  " WHERE view_name OPERATOR(pg_catalog.=) $1",
									  .nargs = 1,
									  .argtypes = {TEXTOID}};

static KeptPlan delete_kept_rows = {.sql =
										"DELETE FROM event_store.view_rebuild_rows"
										" WHERE view_name OPERATOR(pg_catalog.=) $1",
									.nargs = 1,
									.argtypes = {TEXTOID}};

static KeptPlan keep_rows =
	{.sql = "INSERT INTO event_store.view_rebuild_rows"
			" (view_name, view_key, sequence, state)"
			" SELECT $1, k.view_key, k.sequence, k.state"
			" FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3),"
			" pg_catalog.unnest($4)) AS k (view_key, sequence, state)"
			" ON CONFLICT (view_name, view_key) DO UPDATE"
			" SET sequence = excluded.sequence, state = excluded.state",
	 .nargs = 4,
	 .argtypes = {TEXTOID, TEXTARRAYOID, INT8ARRAYOID, JSONBARRAYOID}};

/*
 * Locks the rebuild of this view, which only one transaction works on at a
 * time, and begins it where there is none, or one of something else.
 */
static void
enter_rebuild(Rebuild *rebuild)
{
	Datum values[3] = {PointerGetDatum(rebuild->view_name),
					   PointerGetDatum(rebuild->aggregate_type),
					   Int32GetDatum(rebuild->fold->reducer.version)};
	HeapTuple row;
	TupleDesc desc;
	bool isnull;

	/* the row may go between the two, with a rebuild that ends */
	do
		es_execute(&begin_rebuild_row, values, NULL, false, SPI_OK_INSERT);
	while (es_execute(&lock_rebuild_row, values, NULL, false, SPI_OK_SELECT) == 0);

	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	rebuild->after_id = SPI_getbinval(row, desc, 1, &isnull);
	rebuild->done = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
	rebuild->total = DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
	if (DatumGetBool(SPI_getbinval(row, desc, 4, &isnull)))
		return;
	es_execute(&restart_rebuild_row, values, NULL, false, SPI_OK_UPDATE);
	es_execute(&delete_kept_rows, values, NULL, false, SPI_OK_DELETE);
	rebuild->after_id = CStringGetTextDatum("");
	rebuild->done = 0;
	rebuild->total = 0;
}

static int64
count_aggregates(const Rebuild *rebuild)
{
	static KeptPlan plan = {"SELECT pg_catalog.count(*)"
							" FROM (SELECT FROM event_store.domain_events e"
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.sequence OPERATOR(pg_catalog.=) 1"
							" ORDER BY e.aggregate_id OFFSET 0) a",
							1,
							{TEXTOID}};
	Datum value = PointerGetDatum(rebuild->aggregate_type);
	bool isnull;

	es_execute(es_log_plan(&plan), &value, NULL, true, SPI_OK_SELECT);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/* Writes the rows gathered so far; runs beside the SELECT that brings them. */
static void
write_kept_rows(Rebuild *rebuild)
{
	int first = 1;
	int count = rebuild->count;
	Datum values[4] = {PointerGetDatum(rebuild->view_name)};
	OwnerScope scope;

	if (count == 0)
		return;
	es_begin(&scope);
	values[1] = PointerGetDatum(construct_array(rebuild->keys, count, TEXTOID,
												-1, false, TYPALIGN_INT));
	values[2] =
		PointerGetDatum(construct_array(rebuild->sequences, count, INT8OID,
										sizeof(int64), FLOAT8PASSBYVAL,
										TYPALIGN_DOUBLE));
	values[3] =
		PointerGetDatum(construct_md_array(rebuild->states, rebuild->no_states,
										   1, &count, &first, JSONBOID, -1,
										   false, TYPALIGN_INT));
	es_execute(&keep_rows, values, NULL, false, SPI_OK_INSERT);
	es_end(&scope);
	MemoryContextReset(rebuild->row_context);
	rebuild->count = 0;
	rebuild->bytes = 0;
}

static void
keep_state(Fold *fold, Datum aggregate_id, void *arg)
{
	Rebuild *rebuild = arg;
	MemoryContext caller = MemoryContextSwitchTo(rebuild->row_context);
	int n = rebuild->count++;

	rebuild->keys[n] = PointerGetDatum(DatumGetTextPCopy(aggregate_id));
	rebuild->sequences[n] = Int64GetDatum(fold->sequence);
	rebuild->states[n] = es_fold_result(fold);
	rebuild->no_states[n] = rebuild->states[n] == (Datum) 0;
	if (!rebuild->no_states[n])
		rebuild->bytes += VARSIZE(DatumGetPointer(rebuild->states[n]));
	MemoryContextSwitchTo(caller);
	if (rebuild->count == ES_CHUNK_ROWS || rebuild->bytes >= ES_CHUNK_BYTES)
		write_kept_rows(rebuild);
	if (rebuild->progress != NULL)
		pg_atomic_fetch_add_u64(&rebuild->progress->done, 1);
}

/* ---------- folding ---------- */

static KeptPlan all_events =
	{.sql = "SELECT {event e}, r.sequence, r.state"
			" FROM event_store.domain_events e"
			" LEFT JOIN (SELECT k.view_key, k.sequence, k.state"
			" FROM event_store.view_rebuild_rows k"
			" WHERE k.view_name OPERATOR(pg_catalog.=) $1 ORDER BY k.view_key) r"
			" ON r.view_key OPERATOR(pg_catalog.=) e.aggregate_id"
			" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $2"
			" AND e.sequence OPERATOR(pg_catalog.>) COALESCE(r.sequence, 0)"
			" ORDER BY e.aggregate_id, e.sequence",
	 .nargs = 2,
	 .argtypes = {TEXTOID, TEXTOID},
	 .kind = ES_PLAN_OF_LOG};

/* What a step folds comes after all that is kept, so no row belongs to it. */
static KeptPlan events_between =
	{.sql = "SELECT {event e}, NULL::pg_catalog.int8, NULL::pg_catalog.jsonb"
			" FROM event_store.domain_events e"
			" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND e.aggregate_id OPERATOR(pg_catalog.>) $2"
			" AND e.aggregate_id OPERATOR(pg_catalog.<=) $3"
			" ORDER BY e.aggregate_id, e.sequence",
	 .nargs = 3,
	 .argtypes = {TEXTOID, TEXTOID, TEXTOID}};

/* The last of the next "count" aggregates; (Datum) 0 when there are fewer. */
static Datum
end_of_step(const Rebuild *rebuild, int64 count)
{
	static KeptPlan plan = {"SELECT e.aggregate_id FROM event_store.domain_events e"
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.aggregate_id OPERATOR(pg_catalog.>) $2"
							" AND e.sequence OPERATOR(pg_catalog.=) 1"
							" ORDER BY e.aggregate_id OFFSET $3 LIMIT 1",
							3,
							{TEXTOID, TEXTOID, INT8OID}};
	Datum values[3] = {PointerGetDatum(rebuild->aggregate_type),
					   rebuild->after_id, Int64GetDatum(count - 1)};
	bool isnull;

	if (es_execute(es_log_plan(&plan), values, NULL, true, SPI_OK_SELECT) == 0)
		return (Datum) 0;
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
}

static bool
fold_row(TupleTableSlot *slot, void *arg)
{
	return es_series_row(slot, arg);
}

/* Folds all aggregates, or those up to one. */
static void
fold_aggregates(Rebuild *rebuild, Datum up_to_id)
{
	Series series = {.fold = rebuild->fold, .done = keep_state, .arg = rebuild};
	KeptPlan *plan;
	Datum values[3];

	if (up_to_id == (Datum) 0)
	{
		plan = es_log_plan(&all_events);
		es_plan_events(plan);
		values[0] = PointerGetDatum(rebuild->view_name);
		values[1] = PointerGetDatum(rebuild->aggregate_type);
	}
	else
	{
		plan = es_log_plan(&events_between);
		values[0] = PointerGetDatum(rebuild->aggregate_type);
		values[1] = rebuild->after_id;
		values[2] = up_to_id;
	}
	es_for_each_row(plan, values, NULL, fold_row, &series);
	es_series_end(&series);
	write_kept_rows(rebuild);
}

/* ---------- the exchange ---------- */

/*
 * What is kept may be nothing at one call and millions of rows at the next, and
 * so may be the view.
 */
static KeptPlan keys_to_lock =
	{.sql = "SELECT r.view_key FROM event_store.view_rebuild_rows r"
			" WHERE r.view_name OPERATOR(pg_catalog.=) $1"
			" UNION ALL SELECT v.view_key FROM event_store.domain_views v"
			" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
			" AND NOT EXISTS (SELECT FROM event_store.view_rebuild_rows r"
			" WHERE r.view_name OPERATOR(pg_catalog.=) $1"
			" AND r.view_key OPERATOR(pg_catalog.=) v.view_key)",
	 .nargs = 1,
	 .argtypes = {TEXTOID},
	 .kind = ES_PLAN_FOR_VALUES};

/* Hashes of the keys that will be written or removed. */
typedef struct KeyHashes
{
	Datum view_name;
	uint64 *hashes;
	int count;
	int room;
} KeyHashes;

static bool
add_hash(TupleTableSlot *slot, void *arg)
{
	KeyHashes *keys = arg;
	bool isnull;

	if (keys->count == keys->room)
	{
		keys->room *= 2;
		keys->hashes = repalloc_huge(keys->hashes, keys->room * sizeof(uint64));
	}
	keys->hashes[keys->count++] =
		es_pair_hash(keys->view_name, slot_getattr(slot, 1, &isnull));
	return true;
}

/* Makes durable what is staged, by others and by this transaction. */
static void
settle_staged(void)
{
	if (es_may_have_staged())
		es_settle(NULL, NULL);
	es_move_own_rows();
	es_note_durable_write();
}

/* Keeps writers of the view out, and makes durable what they have staged. */
static void
lock_view(const Rebuild *rebuild)
{
	KeyHashes keys = {.view_name = PointerGetDatum(rebuild->view_name),
					  .room = 64};
	Datum value = keys.view_name;

	keys.hashes = palloc(keys.room * sizeof(uint64));
	PushActiveSnapshot(GetTransactionSnapshot());
	es_for_each_row(&keys_to_lock, &value, NULL, add_hash, &keys);
	PopActiveSnapshot();
	if (keys.count > 0)
		es_lock_pairs(ES_LOCK_VIEW_KEY, keys.hashes, keys.count);
	pfree(keys.hashes);
	settle_staged();
}

/* A row of the view is of an event that the rebuild has not seen. */
#define NEWER_EVENT(id, sequence)                       \
	"EXISTS (SELECT FROM event_store.domain_events e"   \
	" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $2" \
	" AND e.aggregate_id OPERATOR(pg_catalog.=) " id    \
	" AND e.sequence OPERATOR(pg_catalog.>) " sequence  \
	" AND e.sequence OPERATOR(pg_catalog.<=) v.version)"

/* The rows of the view that belong to no aggregate with a state. */
#define ROWS_WITHOUT_STATE                              \
	"SELECT d.view_key, d.version, r.sequence"          \
	" FROM event_store.domain_views d"                  \
	" LEFT JOIN event_store.view_rebuild_rows r"        \
	" ON r.view_name OPERATOR(pg_catalog.=) $1"         \
	" AND r.view_key OPERATOR(pg_catalog.=) d.view_key" \
	" WHERE d.view_name OPERATOR(pg_catalog.=) $1"      \
	" AND r.state IS NULL"

static KeptPlan remove_rows =
	{.sql = "DELETE FROM event_store.domain_views v USING (" ROWS_WITHOUT_STATE ") o"
			" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
			" AND v.view_key OPERATOR(pg_catalog.=) o.view_key"
			" AND NOT " NEWER_EVENT("v.view_key", "COALESCE(o.sequence, 0)"),
	 .nargs = 2,
	 .argtypes = {TEXTOID, TEXTOID},
	 .kind = ES_PLAN_FOR_VALUES};
static KeptPlan rows_left =
	{.sql = "SELECT 1 FROM (" ROWS_WITHOUT_STATE ") v"
			" WHERE NOT " NEWER_EVENT("v.view_key",
									  "COALESCE(v.sequence, 0)") " LIMIT 1",
	 .nargs = 2,
	 .argtypes = {TEXTOID, TEXTOID},
	 .kind = ES_PLAN_FOR_VALUES};
static KeptPlan put_rows =
	{.sql = "INSERT INTO event_store.domain_views AS v"
			" (view_name, view_key, view_data, version, created_at, updated_at)"
			" SELECT r.view_name, r.view_key, r.state, r.sequence, $3, $3"
			" FROM event_store.view_rebuild_rows r"
			" WHERE r.view_name OPERATOR(pg_catalog.=) $1"
			" AND r.state IS NOT NULL ORDER BY r.view_key"
			" ON CONFLICT (view_name, view_key) DO UPDATE"
			" SET view_data = excluded.view_data, version = excluded.version,"
			" updated_at = excluded.updated_at"
			" WHERE v.version IS NULL"
			" OR v.version OPERATOR(pg_catalog.<=) excluded.version"
			" OR NOT " NEWER_EVENT("excluded.view_key", "excluded.version"),
	 .nargs = 3,
	 .argtypes = {TEXTOID, TEXTOID, TIMESTAMPTZOID},
	 .kind = ES_PLAN_FOR_VALUES};

/* Refuses to leave a row that was put since the transaction's snapshot. */
static void
check_rows_left(Datum *values)
{
	PushActiveSnapshot(GetLatestSnapshot());
	if (es_execute(es_log_plan(&rows_left), values, NULL, true, SPI_OK_SELECT) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
	PopActiveSnapshot();
}

/* Puts the kept rows in the place of the view's; returns how many. */
static int64
exchange_rows(const Rebuild *rebuild)
{
	Datum values[3] = {PointerGetDatum(rebuild->view_name),
					   PointerGetDatum(rebuild->aggregate_type),
					   TimestampTzGetDatum(GetCurrentTimestamp())};
	OwnerScope scope;
	int64 written;

	es_begin_write(&scope);
	es_execute_on_log(&remove_rows, 0, values, NULL, GetTransactionSnapshot());
	if (IsolationUsesXactSnapshot())
		check_rows_left(values);
	written =
		es_execute_on_log(&put_rows, 0, values, NULL, GetTransactionSnapshot());
	es_end(&scope);
	es_execute(&delete_kept_rows, values, NULL, false, SPI_OK_DELETE);
	es_execute(&delete_rebuild_row, values, NULL, false, SPI_OK_DELETE);
	return written;
}

/* ---------- SQL functions ---------- */

/* Folds the aggregates up to one and keeps them, or all and ends the rebuild. */
static int64
rebuild_up_to(Rebuild *rebuild, Datum end, int64 max_count)
{
	int64 written = 0;

	fold_aggregates(rebuild, end);
	PopActiveSnapshot();
	if (end == (Datum) 0)
	{
		lock_view(rebuild);
		written = exchange_rows(rebuild);
	}
	else
	{
		Datum values[4] = {PointerGetDatum(rebuild->view_name), end,
						   Int64GetDatum(rebuild->done + max_count),
						   Int64GetDatum(rebuild->total)};

		es_execute(&advance_rebuild_row, values, NULL, false, SPI_OK_UPDATE);
	}
	return written;
}

/* The same, seen by others while it runs. */
static int64
rebuild_in_public(Rebuild *rebuild, Datum end, int64 max_count)
{
	int64 written;

	rebuild->progress =
		begin_progress(rebuild->view_name, rebuild->aggregate_type,
					   rebuild->done, rebuild->total);
	PG_ENSURE_ERROR_CLEANUP(end_progress, PointerGetDatum(rebuild->progress));
	written = rebuild_up_to(rebuild, end, max_count);
	PG_END_ENSURE_ERROR_CLEANUP(end_progress, PointerGetDatum(rebuild->progress));
	end_progress(0, PointerGetDatum(rebuild->progress));
	return written;
}

/*
 * Does a step of max_count aggregates, or the rest.  Returns whether the rebuild
 * is complete, and then how many rows were written.
 */
static bool
rebuild_view(FunctionCallInfo fcinfo, int64 max_count, int64 *written)
{
	Rebuild *rebuild = palloc0(sizeof(Rebuild));
	OwnerScope scope;
	Reducer reducer;
	Datum end = (Datum) 0;

	rebuild->view_name = es_required_text(fcinfo, 0, "view_name");
	rebuild->aggregate_type = es_required_text(fcinfo, 1, "aggregate_type");
	(void) es_store();
	rebuild->fold = es_fold_create(NULL);
	rebuild->row_context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store rebuilt rows",
							  ALLOCSET_DEFAULT_SIZES);
	es_note_write();
	es_refuse_kept_view(PointerGetDatum(rebuild->view_name));
	settle_staged();

	es_begin(&scope);
	/* what it makes is of the upcasters, and events, that there are to its end */
	es_hold_upcasters();
	reducer = es_registered_reducer(rebuild->aggregate_type, &scope,
									rebuild->fold->context);
	es_fold_use(rebuild->fold, &reducer);
	enter_rebuild(rebuild);
	/* to a snapshot from before, a table that is rewritten meanwhile is empty */
	LockRelationOid(es_store()->events, AccessShareLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (rebuild->done == 0)
		rebuild->total = count_aggregates(rebuild);
	if (max_count < PG_INT64_MAX)
		end = end_of_step(rebuild, max_count);
	*written = rebuild_in_public(rebuild, end, max_count);
	es_end(&scope);
	return end == (Datum) 0;
}

Datum
es_rebuild_view(PG_FUNCTION_ARGS)
{
	int64 written = 0;

	PreventCommandIfReadOnly("event_store.rebuild_view()");
	PreventCommandIfParallelMode("event_store.rebuild_view()");
	(void) rebuild_view(fcinfo, PG_INT64_MAX, &written);
	PG_RETURN_INT64(written);
}

Datum
es_rebuild_view_step(PG_FUNCTION_ARGS)
{
	int64 written = 0;

	PreventCommandIfReadOnly("event_store.rebuild_view_step()");
	PreventCommandIfParallelMode("event_store.rebuild_view_step()");
	if (PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("max_count must not be null")));
	if (PG_GETARG_INT32(2) < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_count must be positive")));
	PG_RETURN_BOOL(rebuild_view(fcinfo, PG_GETARG_INT32(2), &written));
}

#define STATE_COLUMNS 7

/* Puts out the rebuilds that run in this database; returns their names. */
static Datum *
put_running(ReturnSetInfo *rsinfo, int *count)
{
	Datum *names = palloc(MAX_REBUILDS * sizeof(Datum));
	RebuildProgress *copy = palloc(sizeof(RebuildProgress));

	*count = 0;
	for (int i = 0; es_shared != NULL && i < MAX_REBUILDS; i++)
	{
		Datum values[STATE_COLUMNS];
		bool nulls[STATE_COLUMNS] = {0};
		double seconds;
		int64 done;

		LWLockAcquire(es_shared->lock, LW_SHARED);
		*copy = *running_rebuild(i);
		LWLockRelease(es_shared->lock);
		if (copy->pid == 0 || copy->database != MyDatabaseId)
			continue;
		done = (int64) pg_atomic_read_u64(&copy->done);
		seconds =
			(double) (GetCurrentTimestamp() - copy->started_at) / USECS_PER_SEC;
		values[0] = CStringGetTextDatum(copy->view_name);
		values[1] = CStringGetTextDatum(copy->aggregate_type);
		values[2] = Int64GetDatum(done);
		values[3] = Int64GetDatum(Max(copy->total, done));
		values[4] =
			Float8GetDatum(seconds > 0 ? (done - copy->done_before) / seconds : 0);
		values[5] = TimestampTzGetDatum(copy->started_at);
		values[6] = Int32GetDatum(copy->pid);
		names[(*count)++] = values[0];
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return names;
}

/* rebuild_state(): the rows of rebuild_status. */
Datum
es_rebuild_state(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"SELECT b.view_name, b.aggregate_type, b.done, b.total,"
							" NULL::pg_catalog.float8, b.started_at, NULL::int"
							" FROM event_store.view_rebuilds b"
							" WHERE NOT (b.view_name OPERATOR(pg_catalog.=) ANY ($1))"
							" ORDER BY b.view_name",
							1,
							{TEXTARRAYOID}};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	OwnerScope scope;
	Datum names;
	Datum *running;
	int count;

	es_check_version();
	InitMaterializedSRF(fcinfo, 0);
	running = put_running(rsinfo, &count);
	if (es_store_if_any() == NULL)
		return (Datum) 0;
	names = PointerGetDatum(construct_array(running, count, TEXTOID, -1, false,
											TYPALIGN_INT));
	es_begin_read(&scope);
	es_execute_into(&plan, &names, NULL, rsinfo->setResult);
	es_end(&scope);
	return (Datum) 0;
}
