/*
 * segment.c
 *		The life of the staging segments: open, rotate, truncate, close.
 *
 * Staging is open only while store_state says "dirty", durably.  The unlogged
 * table staging_marker carries the epoch: it is emptied by whatever empties
 * the segments (crash, failover, a restored dump).  So at opening
 *
 *	 marker there				a clean restart: nothing was lost
 *	 marker gone, not dirty		nothing was staged: nothing was lost
 *	 marker gone, dirty			what was staged is lost: a new epoch
 *
 * Segments take turns.  When the active one has grown large, writers are sent
 * to an empty one; a segment is truncated, in place, once every row in it is
 * dead to every snapshot.  Locks on segments are only ever tried for, so no
 * writer or reader waits for this.
 *
 * Called by worker.c, and by SQL for staging_status and DROP EXTENSION.
 */
#include "event_store.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/heap.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The active segment is left for another one from this size on. */
#define SEGMENT_BLOCKS (16 * 1024 * 1024 / BLCKSZ)

PG_FUNCTION_INFO_V1(es_staging_state);
PG_FUNCTION_INFO_V1(es_guard_drop);

/* An index without entries is this long: its metapage. */
#define EMPTY_INDEX_BLOCKS 1

static BlockNumber
blocks_of(Oid relation, bool is_index)
{
	Relation rel = is_index ? index_open(relation, AccessShareLock)
							: table_open(relation, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);

	relation_close(rel, AccessShareLock);
	return blocks;
}

/*
 * Whether a segment is as new.  One without rows may still have entries in its
 * indexes, if truncating it failed half way; new rows would be found by them.
 */
static bool
is_pristine(const StagingSegment *segment)
{
	return blocks_of(segment->table, false) == 0 &&
		   blocks_of(segment->by_key, true) == EMPTY_INDEX_BLOCKS &&
		   blocks_of(segment->by_event_id, true) == EMPTY_INDEX_BLOCKS &&
		   blocks_of(segment->by_txn, true) == EMPTY_INDEX_BLOCKS;
}

/* ---------- open and close ---------- */

/* A value of the first row of the last SELECT. */
static int64
result_int64(int column, bool *isnull)
{
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								column, isnull);

	return *isnull ? 0 : DatumGetInt64(value);
}

/* Reads the marker: does it carry this epoch?  With "set", makes it so. */
static bool
marker_carries(int64 epoch, bool set)
{
	Oid marker = get_relname_relid("staging_marker", es_store()->schema);
	Relation table = table_open(marker, RowExclusiveLock);
	TupleDesc desc = RelationGetDescr(table);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan =
		systable_beginscan(table, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple tuple;
	bool found = false;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;

		if (DatumGetInt64(heap_getattr(tuple, 1, desc, &isnull)) == epoch)
			found = true;
		else if (set)
			simple_heap_delete(table, &tuple->t_self);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	if (set && !found)
	{
		Datum value = Int64GetDatum(epoch);
		bool isnull = false;

		simple_heap_insert(table, heap_form_tuple(desc, &value, &isnull));
	}
	table_close(table, NoLock);
	return found;
}

/* Tells whether staging was lost, and which epoch it is in from now on. */
static void
settle_epoch(StagingOpening *opening)
{
	static KeptPlan state = {
		"SELECT s.staging_epoch, s.staging_dirty::int::bigint, s.last_drain_at"
		" FROM event_store.store_state s FOR UPDATE"};
	static KeptPlan dirty =
		{"UPDATE event_store.store_state SET staging_epoch = $1, staging_dirty = true",
		 1,
		 {INT8OID}};
	bool never_drained;
	bool isnull;
	bool was_dirty;
	Datum epoch;
	const char *last_drain = "never";

	if (es_execute(&state, NULL, NULL, false, SPI_OK_SELECT) != 1)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table event_store.store_state has no row"),
						errhint("Run SELECT event_store.create_store();")));
	opening->epoch = result_int64(1, &isnull);
	was_dirty = result_int64(2, &isnull) != 0;
	opening->last_drain_at = result_int64(3, &never_drained);
	if (!never_drained)
		last_drain = timestamptz_to_str(opening->last_drain_at);
	if (was_dirty && !marker_carries(opening->epoch, false))
	{
		opening->epoch++;
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("staging is empty after an unclean stop: what was staged and not drained is lost"),
				 errdetail("The last drain was at %s; staging goes on with epoch " INT64_FORMAT
						   ".",
						   last_drain, opening->epoch)));
	}
	(void) marker_carries(opening->epoch, true);
	epoch = Int64GetDatum(opening->epoch);
	es_execute(&dirty, &epoch, NULL, false, SPI_OK_UPDATE);
}

/* Counts what is left from before, and sees where new rows go. */
static void
count_leftovers(StagingOpening *opening)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	StagedScan *scan = es_staged_scan(ES_BY_TXN, ForwardScanDirection, snapshot,
									  0, NULL, AccessShareLock);
	StagedRow row;

	opening->next_sid = 1;
	while (es_staged_next(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		opening->next_sid = Max(opening->next_sid, row.sid + 1);
		if (row.kind == ES_KIND_EVENT)
			opening->events++;
		else
			opening->views++;
		heap_freetuple(row.tuple);
	}
	es_staged_end(scan);
	UnregisterSnapshot(snapshot);

	opening->active_segment = 0;
	for (int i = ES_SEGMENTS - 1; i >= 0; i--)
	{
		StagingSegment segment = es_store()->segments[i];

		if (is_pristine(&segment))
			opening->active_segment = i;
	}
}

void
es_open_staging(void)
{
	static KeptPlan letters = {
		"SELECT EXISTS (SELECT FROM event_store.dead_letters)::int::bigint"};
	StagingOpening opening = {0};
	OwnerScope scope;
	bool isnull;

	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	ForceSyncCommit();
	es_begin(&scope);
	settle_epoch(&opening);
	es_execute(&letters, NULL, NULL, false, SPI_OK_SELECT);
	opening.dead_letters = result_int64(1, &isnull) != 0;
	es_end(&scope);
	count_leftovers(&opening);
	opening.table = es_store()->segments[0].table;
	es_note_opening(&opening);
}

bool
es_close_staging(void)
{
	static KeptPlan clean = {
		"UPDATE event_store.store_state SET staging_dirty = false"};
	SharedDatabase *db = es_my_database();
	OwnerScope scope;
	bool empty;

	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	db->staging_state = ES_STAGING_CLOSED;
	pg_memory_barrier();
	empty = pg_atomic_read_u64(&db->uncommitted) == 0 &&
			pg_atomic_read_u64(&db->staged_events) == 0 &&
			pg_atomic_read_u64(&db->staged_views) == 0;
	if (!empty)
	{
		db->staging_state = ES_STAGING_OPEN;
		return false;
	}
	es_begin(&scope);
	es_execute(&clean, NULL, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
	return true;
}

/* ---------- rotate and truncate ---------- */

/* Sends writers to an empty segment when the active one is large. */
static void
rotate(SharedDatabase *db)
{
	int active = db->active_segment;

	if (blocks_of(es_store()->segments[active].table, false) < SEGMENT_BLOCKS)
		return;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		StagingSegment segment = es_store()->segments[i];

		if (i != active && is_pristine(&segment))
		{
			LWLockAcquire(db->lock, LW_EXCLUSIVE);
			db->active_segment = i;
			LWLockRelease(db->lock);
			return;
		}
	}
}

/* Whether every row of a segment is dead to every snapshot there is. */
static bool
all_dead(Relation table)
{
	TransactionId oldest = GetOldestNonRemovableTransactionId(table);
	BlockNumber blocks = RelationGetNumberOfBlocks(table);
	bool dead = true;

	for (BlockNumber block = 0; block < blocks && dead; block++)
	{
		Buffer buffer = ReadBuffer(table, block);
		Page page;

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		page = BufferGetPage(buffer);
		for (OffsetNumber n = FirstOffsetNumber;
			 n <= PageGetMaxOffsetNumber(page) && dead; n++)
		{
			ItemId item = PageGetItemId(page, n);
			HeapTupleData tuple;

			if (!ItemIdIsNormal(item))
				continue;
			tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
			tuple.t_len = ItemIdGetLength(item);
			tuple.t_tableOid = RelationGetRelid(table);
			ItemPointerSet(&tuple.t_self, block, n);
			dead = HeapTupleSatisfiesVacuum(&tuple, oldest, buffer) ==
				   HEAPTUPLE_DEAD;
		}
		UnlockReleaseBuffer(buffer);
	}
	return dead;
}

/*
 * Truncates a segment if all in it is dead and nobody is using it.  Under the
 * exclusive lock no transaction can have rows in it that others do not see.
 * Truncating in place cannot be rolled back, so it is not interrupted; one that
 * failed half way is made up for by the next.
 */
static void
truncate_if_dead(const StagingSegment *segment)
{
	Relation table;

	if (!ConditionalLockRelationOid(segment->table, AccessExclusiveLock))
		return;
	table = try_relation_open(segment->table, NoLock);
	if (table == NULL)
		return;
	if (!is_pristine(segment) && all_dead(table))
	{
		HOLD_INTERRUPTS();
		heap_truncate_one_rel(table);
		RESUME_INTERRUPTS();
	}
	relation_close(table, NoLock);
}

void
es_reclaim_segments(void)
{
	SharedDatabase *db = es_my_database();

	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	rotate(db);
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		StagingSegment segment = es_store()->segments[i];

		if (i != db->active_segment)
			truncate_if_dead(&segment);
	}
}

/* ---------- SQL ---------- */

/* When the oldest staged row was staged; false when there is none. */
static bool
oldest_staged(TimestampTz *at)
{
	StagedScan *scan =
		es_staged_scan(ES_BY_TXN, ForwardScanDirection, GetActiveSnapshot(), 0,
					   NULL, AccessShareLock);
	StagedRow row;
	bool found = es_staged_next(scan, &row);

	if (found)
		*at = row.staged_at;
	es_staged_end(scan);
	return found;
}

static int64
segments_size(void)
{
	int64 size = 0;

	for (int i = 0; i < ES_SEGMENTS && !RecoveryInProgress(); i++)
		size +=
			DatumGetInt64(DirectFunctionCall1(pg_total_relation_size,
											  ObjectIdGetDatum(es_store()
																   ->segments[i]
																   .table)));
	return size;
}

/* The row of staging_status. */
Datum
es_staging_state(PG_FUNCTION_ARGS)
{
	static const char *const drain_states[] = {"idle", "draining",
											   "backing_off", "stopped"};
	SharedDatabase *db;
	TupleDesc desc;
	Datum values[9];
	bool nulls[9] = {false};
	TimestampTz oldest;

	(void) es_store();
	db = es_my_database();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = values[1] = values[5] = Int64GetDatum(0);
	values[2] = Int64GetDatum(segments_size());
	nulls[3] = !oldest_staged(&oldest);
	values[3] = nulls[3] ? (Datum) 0 : TimestampTzGetDatum(oldest);
	values[4] = CStringGetTextDatum(drain_states[ES_DRAIN_STOPPED]);
	nulls[6] = nulls[7] = nulls[8] = true;
	if (db != NULL)
	{
		char error[ES_ERROR_CHARS];

		LWLockAcquire(db->lock, LW_SHARED);
		/* a row may be drained, and taken off, before it was counted */
		values[0] =
			Int64GetDatum(Max((int64) pg_atomic_read_u64(&db->staged_events), 0));
		values[1] =
			Int64GetDatum(Max((int64) pg_atomic_read_u64(&db->staged_views), 0));
		values[4] = Int32GetDatum(db->worker_pid == 0 ? ES_DRAIN_STOPPED
													  : db->drain_state);
		values[5] = Int64GetDatum(db->consecutive_failures);
		strlcpy(error, db->last_error, sizeof(error));
		values[7] = TimestampTzGetDatum(db->last_drain_at);
		nulls[7] = db->last_drain_at == 0;
		values[8] = Int64GetDatum(db->staging_epoch);
		nulls[8] = db->staging_state == ES_STAGING_UNKNOWN;
		LWLockRelease(db->lock);
		values[4] = CStringGetTextDatum(drain_states[DatumGetInt32(values[4])]);
		nulls[6] = error[0] == '\0';
		values[6] = CStringGetTextDatum(error);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * Makes sure that nothing is staged and nothing can be any more, and says so
 * in store_state; raises if something is.
 */
static void
prepare_drop(void)
{
	static KeptPlan clean = {
		"UPDATE event_store.store_state SET staging_dirty = false"};
	Snapshot snapshot;
	StagedScan *scan;
	StagedRow row;
	OwnerScope scope;

	/* the extension first, as a worker does */
	LockDatabaseObject(ExtensionRelationId, es_store()->extension, 0,
					   AccessExclusiveLock);
	for (int i = 0; i < ES_SEGMENTS; i++)
		LockRelationOid(es_store()->segments[i].table, AccessExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = es_staged_scan(ES_BY_TXN, ForwardScanDirection, snapshot, 0, NULL,
						  AccessShareLock);
	if (es_staged_next(scan, &row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot drop extension event_store while events or views are staged"),
				 errhint("Run SELECT event_store.flush(); first.")));
	es_staged_end(scan);
	UnregisterSnapshot(snapshot);
	es_begin(&scope);
	es_execute(&clean, NULL, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

/* Event trigger: refuses DROP EXTENSION event_store while rows are staged. */
Datum
es_guard_drop(PG_FUNCTION_ARGS)
{
	EventTriggerData *trigger;
	DropStmt *statement;
	ListCell *cell;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("guard_drop can only be called as an event trigger")));
	trigger = (EventTriggerData *) fcinfo->context;
	if (!IsA(trigger->parsetree, DropStmt))
		PG_RETURN_VOID();
	statement = (DropStmt *) trigger->parsetree;
	if (statement->removeType != OBJECT_EXTENSION)
		PG_RETURN_VOID();
	foreach (cell, statement->objects)
	{
		if (strcmp(strVal(lfirst(cell)), ES_SCHEMA) == 0 &&
			es_store_if_any() != NULL &&
			object_ownercheck(ExtensionRelationId, es_store()->extension,
							  GetUserId()))
			prepare_drop();
	}
	PG_RETURN_VOID();
}
