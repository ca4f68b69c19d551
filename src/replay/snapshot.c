/*
 * snapshot.c
 *		Snapshots: the state of an aggregate at a sequence, kept in a table.
 *
 * An aggregate has at most one snapshot of each source.  The server's is made
 * here and used by replay; an application's is kept for it and never used by
 * the server.  Neither goes back to an earlier sequence or beyond the last
 * durable event, so staged events, which a crash may take, are in none.  The
 * server's counts only for the version of the reducer that made it, so one of a
 * later version takes its place wherever it stands, and one of an earlier never.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/due_snapshot.h"
#include "ground/kept_error.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"
#include "log/archived.h"
#include "log/closed_aggregate.h"
#include "log/log.h"
#include "replay/fold.h"
#include "replay/reducer.h"
#include "replay/snapshot.h"
#include "replay/upcaster.h"

PG_FUNCTION_INFO_V1(es_save_snapshot);
PG_FUNCTION_INFO_V1(es_load_snapshot);
PG_FUNCTION_INFO_V1(es_delete_snapshot);
PG_FUNCTION_INFO_V1(es_take_snapshot);

/*
 * The snapshot lies at or before the time, or the position, only if its last event
 * does: neither the recorded times nor the positions of an aggregate decrease.
 */
static KeptPlan usable_snapshot =
	{.sql = "SELECT s.sequence, s.state FROM event_store.snapshots s"
			" WHERE s.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND s.aggregate_id OPERATOR(pg_catalog.=) $2"
			" AND s.source OPERATOR(pg_catalog.=) 'server'"
			" AND s.reducer_version OPERATOR(pg_catalog.=) $3"
			" AND s.sequence OPERATOR(pg_catalog.<=) $4"
			" AND ($5 IS NULL OR EXISTS (SELECT FROM event_store.domain_events e"
			" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
			" AND e.sequence OPERATOR(pg_catalog.=) s.sequence"
			" AND e.recorded_at OPERATOR(pg_catalog.<=) $5"
			" AND e.global_position OPERATOR(pg_catalog.<=) $6))",
	 .nargs = 6,
	 .argtypes = {TEXTOID, TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID, INT8OID}};

static KeptPlan store_snapshot =
	{.sql = "INSERT INTO event_store.snapshots AS s"
			" (aggregate_type, aggregate_id, source, sequence, state, state_bytes,"
			" reducer_version) VALUES ($1, $2, $3, $4, $5, $6, $7)"
			" ON CONFLICT (aggregate_type, aggregate_id, source) DO UPDATE"
			" SET sequence = EXCLUDED.sequence, state = EXCLUDED.state,"
			" state_bytes = EXCLUDED.state_bytes,"
			" reducer_version = EXCLUDED.reducer_version,"
			" created_at = pg_catalog.clock_timestamp()"
			" WHERE ROW(COALESCE(s.reducer_version, 0), s.sequence)"
			" OPERATOR(pg_catalog.<=)"
			" ROW(COALESCE(EXCLUDED.reducer_version, 0), EXCLUDED.sequence)",
	 .nargs = 7,
	 .argtypes = {TEXTOID, TEXTOID, TEXTOID, INT8OID, JSONBOID, BYTEAOID,
				  INT4OID}};

/* 'client' sorts before 'server': it wins where both stand at one sequence. */
static KeptPlan newest_snapshot =
	{.sql = "SELECT s.aggregate_type, s.aggregate_id, s.source, s.sequence,"
			" s.state, s.state_bytes, s.reducer_version, s.created_at"
			" FROM event_store.snapshots s"
			" WHERE s.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND s.aggregate_id OPERATOR(pg_catalog.=) $2"
			" AND (s.source OPERATOR(pg_catalog.=) 'client'"
			" OR s.reducer_version OPERATOR(pg_catalog.=) COALESCE("
			"(SELECT r.reducer_version FROM event_store.reducers r"
			" WHERE r.aggregate_type OPERATOR(pg_catalog.=) $1), 0))"
			" ORDER BY s.sequence DESC, s.source LIMIT 1",
	 .nargs = 2,
	 .argtypes = {TEXTOID, TEXTOID}};

/* ---------- the server's ---------- */

void
es_start_from_snapshot(Fold *fold, text *aggregate_type, text *aggregate_id)
{
	Datum values[6] = {PointerGetDatum(aggregate_type),
					   PointerGetDatum(aggregate_id),
					   Int32GetDatum(fold->reducer.version),
					   Int64GetDatum(fold->up_to),
					   TimestampTzGetDatum(fold->until),
					   Int64GetDatum(fold->up_to_position)};
	/* the last event need not be looked up for neither */
	bool by_event =
		fold->until != DT_NOEND || fold->up_to_position != PG_INT64_MAX;
	const char *nulls = by_event ? NULL : "    n ";
	KeptPlan *plan = &usable_snapshot;
	Datum state = (Datum) 0;
	int64 sequence = 0;

	if (by_event && fold->reducer.registered)
		plan = es_aggregate_plan(plan, values[0], values[1]);
	if (fold->reducer.registered &&
		es_execute(plan, values, nulls, true, SPI_OK_SELECT) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		sequence = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		state = SPI_getbinval(row, desc, 2, &isnull);
		if (isnull)
			state = (Datum) 0;
	}
	es_fold_start(fold, state, sequence);
}

/*
 * Stores a snapshot unless a later one of its source stands there; returns
 * whether it did.  state and state_bytes may be (Datum) 0.
 */
static bool
write_snapshot(text *aggregate_type, text *aggregate_id, const char *source,
			   int64 sequence, Datum state, Datum state_bytes,
			   const int *reducer_version)
{
	Datum values[7] = {PointerGetDatum(aggregate_type),
					   PointerGetDatum(aggregate_id),
					   CStringGetTextDatum(source),
					   Int64GetDatum(sequence),
					   state,
					   state_bytes,
					   Int32GetDatum(reducer_version == NULL ? 0
															 : *reducer_version)};
	char nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};
	bool stored;

	if (state == (Datum) 0)
		nulls[4] = 'n';
	if (state_bytes == (Datum) 0)
		nulls[5] = 'n';
	if (reducer_version == NULL)
		nulls[6] = 'n';
	stored = es_execute(&store_snapshot, values, nulls, false, SPI_OK_INSERT) > 0;
	if (stored)
		es_note_write();
	return stored;
}

/* Folds until the time has come, and stores what it has come to. */
static bool
snapshot_until(text *aggregate_type, text *aggregate_id, TimestampTz stop_at)
{
	Fold *fold = es_fold_create(NULL);
	OwnerScope scope;
	Reducer reducer;
	int64 start;
	bool stored = false;

	fold->stop_at = stop_at;
	es_begin(&scope);
	es_hold_upcasters();
	PushActiveSnapshot(GetTransactionSnapshot());
	reducer = es_registered_reducer(aggregate_type, &scope, fold->context);
	es_fold_use(fold, &reducer);
	es_start_from_snapshot(fold, aggregate_type, aggregate_id);
	start = fold->sequence;
	es_fold_durable(fold, aggregate_type, aggregate_id);
	PopActiveSnapshot();
	if (fold->sequence > start)
		stored = write_snapshot(aggregate_type, aggregate_id, "server",
								fold->sequence, es_fold_result(fold), (Datum) 0,
								&reducer.version);
	es_end(&scope);
	MemoryContextDelete(fold->context);
	if (stored)
		es_count(ES_COUNT_SNAPSHOTS);
	return stored;
}

bool
es_snapshot_aggregate(text *aggregate_type, text *aggregate_id)
{
	return snapshot_until(aggregate_type, aggregate_id, DT_NOEND);
}

/* ---------- snapshots that are due ---------- */

/*
 * The worker ends one after 10 s.  It folds for so long, in milliseconds, so
 * that of an aggregate that takes longer every snapshot stands further on.
 */
#define FOLD_MS 5000

/* What the worker is at, for the case that it has to give up for good. */
static uint64 type_at_work = 0; /* 0 = nothing */
static TimestampTz started_work;
static char name_at_work[ES_ERROR_CHARS]; /* of the type */
static char aggregate_at_work[ES_ERROR_CHARS];

/*
 * The aggregate of a position, unless it has got a snapshot less than $2 events
 * before it, or after it.  What went to the archive meanwhile needs none.
 */
static KeptPlan find_due =
	{.sql = "SELECT e.aggregate_type, e.aggregate_id"
			" FROM event_store.domain_events e"
			" WHERE e.global_position OPERATOR(pg_catalog.=) $1"
			" AND COALESCE((SELECT s.sequence FROM event_store.snapshots s"
			" WHERE s.aggregate_type OPERATOR(pg_catalog.=) e.aggregate_type"
			" AND s.aggregate_id OPERATOR(pg_catalog.=) e.aggregate_id"
			" AND s.source OPERATOR(pg_catalog.=) 'server'"
			" AND s.reducer_version OPERATOR(pg_catalog.=) COALESCE("
			"(SELECT r.reducer_version FROM event_store.reducers r"
			" WHERE r.aggregate_type OPERATOR(pg_catalog.=) e.aggregate_type), 0)),"
			" 0) OPERATOR(pg_catalog.+) $2 OPERATOR(pg_catalog.<=) e.sequence",
	 .nargs = 2,
	 .argtypes = {INT8OID, INT8OID}};

/* Finds the aggregate of a hint; false where nothing is to be done. */
static bool
find_due_aggregate(int64 position, text **aggregate_type, text **aggregate_id)
{
	Datum values[2] = {Int64GetDatum(position), Int64GetDatum(es_snapshot_every)};
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	bool found;

	es_begin(&scope);
	found = es_execute(&find_due, values, NULL, true, SPI_OK_SELECT) > 0;
	if (found)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext spi = MemoryContextSwitchTo(caller);
		bool isnull;

		*aggregate_type = DatumGetTextPCopy(SPI_getbinval(row, desc, 1, &isnull));
		*aggregate_id = DatumGetTextPCopy(SPI_getbinval(row, desc, 2, &isnull));
		MemoryContextSwitchTo(spi);
	}
	es_end(&scope);
	return found;
}

/*
 * Has the type rest after an error in what was started then, and logs the first
 * one.  Returns what went wrong.
 */
static const char *
note_snapshot_failure(SharedDatabase *db, const ErrorData *error)
{
	const char *message = psprintf("could not take a snapshot of %s: %s",
								   aggregate_at_work, error->message);
	const char *kept = es_kept_error(error->sqlerrcode, message);

	es_count(ES_COUNT_SNAPSHOT_FAILURES);
	if (es_let_snapshots_rest(db, type_at_work, name_at_work, started_work,
							  kept) == 1)
		ereport(WARNING,
				(errcode(error->sqlerrcode), errmsg_internal("%s", message),
				 error->detail != NULL ? errdetail_internal("%s", error->detail)
									   : 0,
				 error->context != NULL ? errcontext("%s", error->context) : 0));
	return kept;
}

const char *
es_give_up_snapshot(SharedDatabase *db)
{
	static char message[ES_ERROR_CHARS];

	if (type_at_work == 0)
		return NULL;
	snprintf(message, sizeof(message),
			 "%s: could not take a snapshot of %.173s: the reducer went on after it was canceled",
			 unpack_sql_state(ERRCODE_QUERY_CANCELED), aggregate_at_work);
	es_count_in(db, ES_COUNT_SNAPSHOT_FAILURES);
	(void) es_let_snapshots_rest(db, type_at_work, name_at_work, started_work,
								 message);
	return message;
}

/* Whose snapshot is begun. */
static void
note_work(text *aggregate_type, text *aggregate_id)
{
	Datum type = PointerGetDatum(aggregate_type);

	type_at_work = es_pair_hash(type, type) | 1;
	started_work = GetCurrentTimestamp();
	es_copy_error(name_at_work, text_to_cstring(aggregate_type));
	snprintf(aggregate_at_work, sizeof(aggregate_at_work), "%s/%s",
			 text_to_cstring(aggregate_type), text_to_cstring(aggregate_id));
}

const char *
es_take_due_snapshot(SharedDatabase *db)
{
	int64 position = es_next_snapshot_due(db);
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	text *aggregate_type;
	text *aggregate_id;
	const char *volatile message = NULL;

	if (position == 0 || es_snapshot_every == 0 ||
		!find_due_aggregate(position, &aggregate_type, &aggregate_id))
		return NULL;
	note_work(aggregate_type, aggregate_id);
	if (es_snapshots_rest(db, type_at_work))
	{
		type_at_work = 0;
		return NULL;
	}

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContextSwitchTo(caller);
		snapshot_until(aggregate_type, aggregate_id,
					   TimestampTzPlusMilliseconds(started_work, FOLD_MS));
		ReleaseCurrentSubTransaction();
		es_end_snapshots_rest(db, type_at_work);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		message = note_snapshot_failure(db, error);
	}
	PG_END_TRY();
	type_at_work = 0;
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return message;
}

/* ---------- an application's ---------- */

/* Reports a snapshot that stands after the last durable event. */
static void
check_snapshot_sequence(text *aggregate_type, text *aggregate_id, int64 sequence)
{
	Datum type = PointerGetDatum(aggregate_type);
	Datum id = PointerGetDatum(aggregate_id);
	TimestampTz recorded_at;
	int64 head;

	PushActiveSnapshot(GetTransactionSnapshot());
	head = es_durable_head(type, id, GetActiveSnapshot(), NULL);
	if (head == 0)
		(void) es_read_closed(type, id, GetActiveSnapshot(), &head, &recorded_at);
	PopActiveSnapshot();
	if (sequence > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot at sequence %lld is beyond the last durable event of %s/%s, which is %lld",
						(long long) sequence, text_to_cstring(aggregate_type),
						text_to_cstring(aggregate_id), (long long) head),
				 errhint("Staged events are durable after event_store.flush().")));
}

Datum
es_save_snapshot(PG_FUNCTION_ARGS)
{
	text *aggregate_type;
	text *aggregate_id;
	Datum state = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	Datum state_bytes = PG_ARGISNULL(4) ? (Datum) 0 : PG_GETARG_DATUM(4);
	int64 sequence;
	OwnerScope scope;
	bool stored;

	es_begin_call(ES_CALL_SAVE_SNAPSHOT);
	aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");
	aggregate_id = es_required_text(fcinfo, 1, "aggregate_id");
	PreventCommandIfReadOnly("event_store.save_snapshot()");
	PreventCommandIfParallelMode("event_store.save_snapshot()");
	if (PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("sequence must not be null")));
	sequence = PG_GETARG_INT64(2);
	if (sequence < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("sequence must be positive")));
	if ((state == (Datum) 0) == (state_bytes == (Datum) 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a snapshot needs exactly one of state and state_bytes")));
	es_begin(&scope);
	check_snapshot_sequence(aggregate_type, aggregate_id, sequence);
	stored = write_snapshot(aggregate_type, aggregate_id, "client", sequence,
							state, state_bytes, NULL);
	es_end(&scope);
	es_end_call(ES_CALL_SAVE_SNAPSHOT, stored);
	PG_RETURN_BOOL(stored);
}

Datum
es_load_snapshot(PG_FUNCTION_ARGS)
{
	Datum values[2];
	OwnerScope scope;
	uint64 found;

	es_begin_call(ES_CALL_LOAD_SNAPSHOT);
	values[0] = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	values[1] = PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	InitMaterializedSRF(fcinfo, 0);
	es_begin_read(&scope);
	found = es_execute_into(&newest_snapshot, values, NULL,
							((ReturnSetInfo *) fcinfo->resultinfo)->setResult);
	es_end(&scope);
	es_end_call(ES_CALL_LOAD_SNAPSHOT, (int64) found);
	return (Datum) 0;
}

/* The server's own stays: it is made anew where it is wanted. */
Datum
es_delete_snapshot(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"DELETE FROM event_store.snapshots AS s"
							" WHERE s.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND s.aggregate_id OPERATOR(pg_catalog.=) $2"
							" AND s.source OPERATOR(pg_catalog.=) 'client'",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2];
	OwnerScope scope;
	bool deleted;

	es_begin_call(ES_CALL_DELETE_SNAPSHOT);
	values[0] = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	values[1] = PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	PreventCommandIfReadOnly("event_store.delete_snapshot()");
	PreventCommandIfParallelMode("event_store.delete_snapshot()");
	es_begin(&scope);
	deleted = es_execute(&plan, values, NULL, false, SPI_OK_DELETE) > 0;
	es_end(&scope);
	if (deleted)
		es_note_write();
	es_end_call(ES_CALL_DELETE_SNAPSHOT, deleted);
	PG_RETURN_BOOL(deleted);
}

Datum
es_take_snapshot(PG_FUNCTION_ARGS)
{
	text *aggregate_type;
	text *aggregate_id;
	bool stored;

	es_begin_call(ES_CALL_TAKE_SNAPSHOT);
	aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");
	aggregate_id = es_required_text(fcinfo, 1, "aggregate_id");
	PreventCommandIfReadOnly("event_store.take_snapshot()");
	PreventCommandIfParallelMode("event_store.take_snapshot()");
	stored = es_snapshot_aggregate(aggregate_type, aggregate_id);
	es_end_call(ES_CALL_TAKE_SNAPSHOT, stored);
	PG_RETURN_BOOL(stored);
}
