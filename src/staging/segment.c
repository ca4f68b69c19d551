/*
 * segment.c
 *		The life of the staging segments: open, rotate, truncate, close.
 *
 * Staging is open only while store_state says "dirty", durably, and it is opened
 * only for who stages: a first look at a store that is clean leaves it closed.  So a
 * store that does not stage has nothing to lose.  The unlogged table staging_marker
 * carries the epoch: it is emptied by whatever empties the segments (crash, failover,
 * a restored dump).  So at opening
 *
 *	 marker there				a clean restart: nothing was lost
 *	 marker gone, not dirty		nothing was staged: nothing was lost
 *	 marker gone, dirty			what was staged is lost: a new epoch
 *
 * Segments take turns.  When the active one has grown large, writers are sent
 * to an empty one; a segment whose rows are all drained is truncated in place.
 * Locks on segments are only ever tried for, so no writer waits for this and a
 * reader but a moment; a segment in use is left for later.
 *
 * Rows that an old snapshot may still show are kept while they are few.  Then
 * they are given up, so that staging does not grow with the age of the oldest
 * snapshot: the truncated generation is noted as a LostRange, before it is
 * truncated, and who needs its rows gets an error instead of a wrong answer
 * (staged_scan.c).  A snapshot needs them if it shows the transaction that
 * opened the segment, and not the last one that drained rows from it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "staging/drain_state.h"
#include "staging/own_rows.h"
#include "staging/segment.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staging_state.h"

/* The active segment is left for another one from this size on. */
#define SEGMENT_BLOCKS (8 * 1024 * 1024 / BLCKSZ)
/* So much of what is drained is kept for old snapshots. */
#define KEPT_BLOCKS (16 * 1024 * 1024 / BLCKSZ)

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

static void truncate_drained(SharedDatabase *db, bool active_too);

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

	(void) es_store();
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

/* The epoch that the marker carries; 0 = there is none. */
static int64
marker_epoch(void)
{
	Oid marker = get_relname_relid("staging_marker", es_store()->schema);
	Relation table = table_open(marker, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan =
		systable_beginscan(table, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple tuple;
	int64 epoch = 0;

	(void) es_store();
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;

		epoch = DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(table),
										   &isnull));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(table, AccessShareLock);
	return epoch;
}

/*
 * Who makes or repairs the store may be another than the owner of its tables, and
 * what that one attached to them does not run as him.  A row that was lost while
 * something was staged comes back with what the marker tells, so that a crash after
 * that loses nothing unnoticed.
 */
void
es_make_store_state(void)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.store_state (staging_epoch, staging_dirty)"
		 " SELECT GREATEST($1, 1), $1 OPERATOR(pg_catalog.>) 0"
		 " WHERE NOT EXISTS (SELECT FROM event_store.store_state)",
		 1,
		 {INT8OID}};
	OwnerScope scope;
	Datum epoch = Int64GetDatum(marker_epoch());

	es_begin(&scope);
	es_execute(&plan, &epoch, NULL, false, SPI_OK_INSERT);
	es_end(&scope);
}

/* Reads what store_state says; returns whether it is dirty. */
static bool
read_store_state(StagingOpening *opening)
{
	static KeptPlan plan = {
		"SELECT s.staging_epoch, s.staging_dirty::int::bigint, s.last_drain_at"
		" FROM event_store.store_state s FOR UPDATE"};
	bool isnull;

	if (es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT) != 1)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table event_store.store_state has no row"),
						errhint("Run SELECT event_store.create_store();")));
	opening->epoch = result_int64(1, &isnull);
	opening->last_drain_at = result_int64(3, &isnull);
	return result_int64(2, &isnull) != 0;
}

/* Tells whether staging was lost, and which epoch it is in from now on. */
static void
settle_epoch(StagingOpening *opening, bool was_dirty)
{
	static KeptPlan dirty =
		{"UPDATE event_store.store_state SET staging_epoch = $1, staging_dirty = true",
		 1,
		 {INT8OID}};
	Datum epoch;

	if (was_dirty && !marker_carries(opening->epoch, false))
	{
		opening->epoch++;
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("staging is empty after an unclean stop: what was staged and not drained is lost"),
				 errdetail("The last drain was at %s; staging goes on with epoch " INT64_FORMAT
						   ". The database is \"%s\".",
						   opening->last_drain_at == 0
							   ? "never"
							   : timestamptz_to_str(opening->last_drain_at),
						   opening->epoch, get_database_name(MyDatabaseId))));
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
	StagedScan *scan =
		es_staged_scan(ES_BY_TXN, ForwardScanDirection, snapshot, 0, NULL);
	StagedRow row;

	/* above all that were given before a crash or a restart */
	opening->next_sid = Max(GetCurrentTimestamp(), 1);
	while (es_staged_next_row(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		opening->next_sid = Max(opening->next_sid, row.sid + ES_WINDOW_EVENTS);
		opening->rows[row.segment] += row.count;
		if (row.kind == ES_KIND_EVENT)
			opening->events += row.count;
		else
			opening->views++;
		es_staged_free(&row);
	}
	es_staged_end(scan);
	UnregisterSnapshot(snapshot);

	opening->active_segment = 0;
	for (int i = ES_SEGMENTS - 1; i >= 0; i--)
	{
		StagingSegment segment = es_store()->segments[i];

		if (is_pristine(&segment))
			opening->active_segment = i;
		else
			opening->used |= 1 << i;
	}
}

void
es_open_staging(SharedDatabase *db)
{
	static KeptPlan letters = {
		"SELECT pg_catalog.count(*) FROM event_store.dead_letters"};
	StagingOpening opening = {0};
	OwnerScope scope;
	bool was_dirty;
	bool isnull;

	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	es_begin(&scope);
	was_dirty = read_store_state(&opening);
	count_leftovers(&opening);
	opening.closed = !was_dirty && opening.events + opening.views == 0 &&
					 pg_atomic_read_u32(&es_staging(db)->wanted) == 0;
	if (!opening.closed)
	{
		ForceSyncCommit();
		settle_epoch(&opening, was_dirty);
	}
	es_execute(&letters, NULL, NULL, false, SPI_OK_SELECT);
	opening.dead_letters = result_int64(1, &isnull);
	es_end(&scope);
	opening.table = es_store()->segments[0].table;
	es_note_opening(&opening);
}

static void
set_staging_state(SharedDatabase *db, StagingState state)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_set_staging_state(db, state);
	LWLockRelease(db->lock);
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
	pg_atomic_write_u32(&es_staging(db)->wanted, 0);
	set_staging_state(db, ES_STAGING_CLOSED);
	pg_memory_barrier();
	empty = pg_atomic_read_u64(&es_staging(db)->uncommitted) == 0 &&
			pg_atomic_read_u64(&es_staging(db)->staged_events) == 0 &&
			pg_atomic_read_u64(&es_staging(db)->staged_views) == 0;
	if (!empty)
	{
		set_staging_state(db, ES_STAGING_OPEN);
		es_tell_progress(db);
		return false;
	}
	truncate_drained(db, true);
	es_begin(&scope);
	es_execute(&clean, NULL, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
	return true;
}

/* ---------- rotate and truncate ---------- */

/* The blocks of a segment, with what it stores out of line. */
static BlockNumber
segment_blocks(const StagingSegment *segment)
{
	Relation table = table_open(segment->table, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(table);

	if (OidIsValid(table->rd_rel->reltoastrelid))
		blocks += blocks_of(table->rd_rel->reltoastrelid, false);
	table_close(table, AccessShareLock);
	return blocks;
}

/* Sends writers to an empty segment when the active one is large. */
static bool
rotate(SharedDatabase *db)
{
	int active = es_staging(db)->active_segment;

	if (segment_blocks(&es_store()->segments[active]) < SEGMENT_BLOCKS)
		return false;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		StagingSegment segment = es_store()->segments[i];

		if (i != active && is_pristine(&segment))
		{
			es_note_rotation(i);
			return true;
		}
	}
	return false;
}

typedef enum SegmentState
{
	SEGMENT_LIVE,	 /* has rows to be drained, or is in use */
	SEGMENT_DRAINED, /* some snapshots may show rows */
	SEGMENT_DEAD	 /* none does */
} SegmentState;

/* What the rows of a page are to snapshots. */
static SegmentState
page_state(Relation table, BlockNumber block, TransactionId oldest)
{
	Buffer buffer = ReadBuffer(table, block);
	SegmentState state = SEGMENT_DEAD;
	Page page;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	for (OffsetNumber n = FirstOffsetNumber;
		 n <= PageGetMaxOffsetNumber(page) && state != SEGMENT_LIVE; n++)
	{
		ItemId item = PageGetItemId(page, n);
		HeapTupleData tuple;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(table);
		ItemPointerSet(&tuple.t_self, block, n);
		switch (HeapTupleSatisfiesVacuum(&tuple, oldest, buffer))
		{
			case HEAPTUPLE_DEAD:
				break;
			case HEAPTUPLE_RECENTLY_DEAD:
				state = SEGMENT_DRAINED;
				break;
			default:
				state = SEGMENT_LIVE;
		}
	}
	UnlockReleaseBuffer(buffer);
	return state;
}

/*
 * Finds out about a segment, and locks it exclusively unless it is live: then
 * no transaction can have rows in it that others do not see.
 */
static SegmentState
lock_unless_live(const StagingSegment *segment)
{
	SegmentState state = SEGMENT_DEAD;
	TransactionId oldest;
	BlockNumber blocks;
	Relation table;

	if (!ConditionalLockRelationOid(segment->table, AccessExclusiveLock))
		return SEGMENT_LIVE;
	table = try_relation_open(segment->table, NoLock);
	if (table == NULL)
		return SEGMENT_LIVE;
	oldest = GetOldestNonRemovableTransactionId(table);
	blocks = RelationGetNumberOfBlocks(table);
	for (BlockNumber block = 0; block < blocks && state != SEGMENT_LIVE; block++)
	{
		SegmentState page;

		CHECK_FOR_INTERRUPTS();
		page = page_state(table, block, oldest);
		if (page < state)
			state = page;
	}
	relation_close(table, state == SEGMENT_LIVE ? AccessExclusiveLock : NoLock);
	return state;
}

/* Forgets ranges that no snapshot is old enough for. */
static void
forget_lost(SharedDatabase *db)
{
	TransactionId oldest = GetOldestNonRemovableTransactionId(NULL);
	int kept = 0;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < es_staging(db)->lost_count; i++)
	{
		TransactionId emptied =
			XidFromFullTransactionId(es_staging(db)->lost[i].emptied);

		if (TransactionIdFollowsOrEquals(emptied, oldest))
			es_staging(db)->lost[kept++] = es_staging(db)->lost[i];
	}
	es_staging(db)->lost_count = kept;
	LWLockRelease(db->lock);
}

/* Notes that the rows of a segment are given up; ranges may become one. */
static void
note_lost(SharedDatabase *db, const SharedSegment *segment)
{
	LostRange *range;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (es_staging(db)->lost_count < ES_LOST_RANGES)
	{
		range = &es_staging(db)->lost[es_staging(db)->lost_count++];
		range->opened = segment->opened;
		range->emptied = FullTransactionIdIsValid(segment->emptied)
							 ? segment->emptied
							 : es_staging(db)->last_drained;
	}
	else
	{
		/* xids are not in the order of commits: all that is older than now */
		range = &es_staging(db)->lost[ES_LOST_RANGES - 1];
		range->opened = InvalidFullTransactionId;
		range->emptied = es_staging(db)->last_drained;
	}
	LWLockRelease(db->lock);
}

/*
 * Truncates a segment that is locked exclusively.  Truncating in place cannot
 * be rolled back, so it is not interrupted; one that failed half way is made
 * up for by the next.
 */
static void
truncate_segment(SharedDatabase *db, int number)
{
	Relation table = table_open(es_store()->segments[number].table, NoLock);

	Assert(CheckRelationLockedByMe(table, AccessExclusiveLock, false));
	/* others hear of it even if this transaction cannot commit */
	pg_atomic_fetch_add_u32(&es_staging(db)->generations[number], 1);
	HOLD_INTERRUPTS();
	heap_truncate_one_rel(table);
	RESUME_INTERRUPTS();
	table_close(table, NoLock);
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	memset(&es_staging(db)->segments[number], 0, sizeof(SharedSegment));
	LWLockRelease(db->lock);
}

/* The drained one of several segments that was emptied first; -1 = none. */
static int
first_emptied(SharedDatabase *db, const SegmentState *states)
{
	int first = -1;

	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if (states[i] == SEGMENT_DRAINED &&
			(first < 0 || es_staging(db)->segments[i].emptied_in <
							  es_staging(db)->segments[first].emptied_in))
			first = i;
	}
	return first;
}

/* Truncates what is drained, but for a little that snapshots may show. */
static void
truncate_drained(SharedDatabase *db, bool active_too)
{
	SegmentState states[ES_SEGMENTS];
	BlockNumber kept = 0;
	int next;

	Assert(es_lock_held(ES_LOCK_DRAIN));
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		StagingSegment segment = es_store()->segments[i];

		states[i] = SEGMENT_LIVE;
		if (!es_staging(db)->segments[i].used ||
			(i == es_staging(db)->active_segment && !active_too))
			continue;
		states[i] = lock_unless_live(&segment);
		if (states[i] == SEGMENT_DEAD)
			truncate_segment(db, i);
		else if (states[i] == SEGMENT_DRAINED)
			kept += segment_blocks(&segment);
	}
	while (kept > KEPT_BLOCKS && (next = first_emptied(db, states)) >= 0)
	{
		StagingSegment segment = es_store()->segments[next];

		kept -= segment_blocks(&segment);
		note_lost(db, &es_staging(db)->segments[next]);
		truncate_segment(db, next);
		states[next] = SEGMENT_DEAD;
	}
	/* readers need not wait for the end of this transaction */
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if (states[i] == SEGMENT_DRAINED)
			UnlockRelationOid(es_store()->segments[i].table, AccessExclusiveLock);
	}
}

bool
es_reclaim_segments(void)
{
	SharedDatabase *db = es_my_database();

	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	forget_lost(db);
	truncate_drained(db, false);
	return rotate(db);
}

/* ---------- SQL ---------- */

/* When the oldest staged row was staged; false when there is none. */
static bool
oldest_staged(TimestampTz *at)
{
	StagedScan *scan = es_staged_scan_live(GetActiveSnapshot(), AccessShareLock);
	StagedRow row;
	bool found = es_staged_next_row(scan, &row);

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
	SharedDatabase *db;
	TupleDesc desc;
	Datum values[10];
	bool nulls[10] = {false};
	DrainState state = ES_DRAIN_STOPPED;
	TimestampTz oldest;

	es_check_version();
	(void) es_store();
	db = es_my_database();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[5] = Int64GetDatum(0);
	values[2] = Int64GetDatum(segments_size());
	nulls[3] = !oldest_staged(&oldest);
	values[3] = nulls[3] ? (Datum) 0 : TimestampTzGetDatum(oldest);
	nulls[0] = nulls[1] = !es_staging_known(db);
	nulls[6] = nulls[7] = nulls[8] = nulls[9] = true;
	if (db != NULL)
	{
		char error[ES_ERROR_CHARS];

		LWLockAcquire(db->lock, LW_SHARED);
		/* a row may be drained, and taken off, before it was counted */
		values[0] =
			Int64GetDatum(Max((int64) pg_atomic_read_u64(&es_staging(db)->staged_events),
							  0));
		values[1] =
			Int64GetDatum(Max((int64) pg_atomic_read_u64(&es_staging(db)->staged_views),
							  0));
		if (es_worker_slot(db)->pid != 0)
			state = es_drain_progress(db)->state;
		values[5] = Int64GetDatum(es_drain_progress(db)->failures);
		strlcpy(error, es_drain_progress(db)->last_error, sizeof(error));
		values[7] = TimestampTzGetDatum(es_drain_progress(db)->last_drain_at);
		nulls[7] = es_drain_progress(db)->last_drain_at == 0;
		values[8] = Int64GetDatum(es_staging(db)->epoch);
		nulls[8] = es_staging_is(db, ES_STAGING_UNKNOWN);
		values[9] = TimestampTzGetDatum(es_drain_progress(db)->last_error_at);
		nulls[9] = es_drain_progress(db)->last_error_at == 0;
		LWLockRelease(db->lock);
		nulls[6] = error[0] == '\0';
		values[6] = CStringGetTextDatum(error);
	}
	values[4] = CStringGetTextDatum(es_drain_state_name(state));
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/*
 * What a drop must have for itself: the extension, as part 0, and all that
 * writers hold to commit, the gates and the segments.
 */
#define DROP_PARTS (3 + ES_SEGMENTS)

static Oid
relation_of_part(int part)
{
	const Store *store = es_store();

	switch (part)
	{
		case 1:
			return store->aggregate_gate;
		case 2:
			return store->view_key_gate;
		default:
			return store->segments[part - 3].table;
	}
}

static bool
lock_part(int part, bool wait)
{
	Oid extension = es_store()->extension;

	if (part == 0 && wait)
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessExclusiveLock);
	else if (part == 0)
		return ConditionalLockDatabaseObject(ExtensionRelationId, extension, 0,
											 AccessExclusiveLock);
	else if (wait)
		LockRelationOid(relation_of_part(part), AccessExclusiveLock);
	else
		return ConditionalLockRelationOid(relation_of_part(part),
										  AccessExclusiveLock);
	return true;
}

static void
unlock_part(int part)
{
	if (part == 0)
		UnlockDatabaseObject(ExtensionRelationId, es_store()->extension, 0,
							 AccessExclusiveLock);
	else
		UnlockRelationOid(relation_of_part(part), AccessExclusiveLock);
}

/*
 * Takes them all.  A writer that holds one may want another, or wait for the
 * worker, which wants the extension, where no deadlock detector sees it; so
 * while this waits for one part it holds none of the others.
 */
static void
lock_for_drop(void)
{
	bool held[DROP_PARTS] = {false};
	int missing = 0;

	while (missing < DROP_PARTS)
	{
		held[missing] = lock_part(missing, true);
		for (missing = 0; missing < DROP_PARTS; missing++)
		{
			if (!held[missing])
				held[missing] = lock_part(missing, false);
			if (!held[missing])
				break;
		}
		for (int i = 0; i < DROP_PARTS && missing < DROP_PARTS; i++)
		{
			if (held[i])
				unlock_part(i);
			held[i] = false;
		}
	}
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
	static const SharedSegment nothing;
	SharedDatabase *db = es_my_database();
	Snapshot snapshot;
	StagedScan *scan;
	StagedRow row;
	OwnerScope scope;

	lock_for_drop();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = es_staged_scan(ES_BY_TXN, ForwardScanDirection, snapshot, 0, NULL);
	if (es_staged_next_row(scan, &row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot drop extension event_store while events or views are staged"),
				 errhint("Run SELECT event_store.flush(); first.")));
	es_staged_end(scan);
	UnregisterSnapshot(snapshot);
	/* an old snapshot may show rows that went with the segments */
	if (db != NULL)
		note_lost(db, &nothing);
	es_begin(&scope);
	es_execute(&clean, NULL, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

/* Whether a segment holds a row, whatever its columns are. */
static bool
has_any_row(Oid segment)
{
	Relation table = table_open(segment, AccessExclusiveLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan =
		systable_beginscan(table, InvalidOid, false, snapshot, 0, NULL);
	bool found = HeapTupleIsValid(systable_getnext(scan));

	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(table, NoLock);
	return found;
}

/*
 * What is staged in a store of another shape can be made durable once that is
 * mended, so it must not go by the way.
 */
static void
refuse_unreadable_rows(void)
{
	Oid schema = get_namespace_oid(ES_SCHEMA, true);

	if (!OidIsValid(get_relname_relid("domain_events", schema)))
		return;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		Oid segment = get_relname_relid(psprintf("staging_%d", i), schema);

		if (OidIsValid(segment) &&
			get_rel_relkind(segment) == RELKIND_RELATION && has_any_row(segment))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot drop extension event_store while events or views are staged"),
					 errdetail("The store has another shape, so they cannot be made durable."),
					 errhint("Mend the store and run SELECT event_store.flush(); or TRUNCATE the tables event_store.staging_0 to staging_%d, which loses them.",
							 ES_SEGMENTS - 1)));
	}
}

/* Whether one of the roles owns what the extension consists of. */
static bool
owns_extension(List *roles)
{
	Oid segment =
		get_relname_relid("staging_0", get_namespace_oid(ES_SCHEMA, true));
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(segment));
	Oid owner;
	ListCell *cell;

	if (!HeapTupleIsValid(tuple))
		return false;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	foreach (cell, roles)
	{
		if (get_rolespec_oid(lfirst_node(RoleSpec, cell), true) == owner)
			return has_privs_of_role(GetUserId(), owner);
	}
	return false;
}

/*
 * Whether a command drops the extension, by itself or with its schema or with
 * all that a role owns, and may do so.
 */
static bool
drops_extension(Node *command)
{
	Oid extension = get_extension_oid(ES_SCHEMA, true);
	DropStmt *drop;
	ListCell *cell;

	if (!OidIsValid(extension))
		return false;
	if (IsA(command, DropOwnedStmt))
		return owns_extension(((DropOwnedStmt *) command)->roles);
	if (!IsA(command, DropStmt))
		return false;
	drop = (DropStmt *) command;
	if (drop->removeType != OBJECT_EXTENSION &&
		(drop->removeType != OBJECT_SCHEMA || drop->behavior != DROP_CASCADE))
		return false;
	foreach (cell, drop->objects)
	{
		if (strcmp(strVal(lfirst(cell)), ES_SCHEMA) == 0)
			return drop->removeType == OBJECT_EXTENSION
					   ? object_ownercheck(ExtensionRelationId, extension,
										   GetUserId())
					   : object_ownercheck(NamespaceRelationId,
										   get_namespace_oid(ES_SCHEMA, false),
										   GetUserId());
	}
	return false;
}

/* Event trigger: refuses to drop the extension while rows are staged. */
Datum
es_guard_drop(PG_FUNCTION_ARGS)
{
	EventTriggerData *trigger;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("guard_drop can only be called as an event trigger")));
	trigger = (EventTriggerData *) fcinfo->context;
	if (drops_extension(trigger->parsetree))
	{
		/* whether another version has rows staged is not known here */
		es_check_version();
		if (es_store_if_any() != NULL)
			prepare_drop();
		else
			refuse_unreadable_rows();
	}
	PG_RETURN_VOID();
}
