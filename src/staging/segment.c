/*
 * segment.c
 *		The space of the staging segments: rotated, truncated.
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
#include "access/table.h"
#include "access/transam.h"
#include "catalog/heap.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/rel.h"

#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "staging/own_rows.h"
#include "staging/segment.h"
#include "staging/staging_state.h"

/* The active segment is left for another one from this size on. */
#define SEGMENT_BLOCKS (8 * 1024 * 1024 / BLCKSZ)
/* So much of what is drained is kept for old snapshots. */
#define KEPT_BLOCKS (16 * 1024 * 1024 / BLCKSZ)

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

bool
es_is_pristine(const StagingSegment *segment)
{
	return blocks_of(segment->table, false) == 0 &&
		   blocks_of(segment->by_key, true) == EMPTY_INDEX_BLOCKS &&
		   blocks_of(segment->by_event_id, true) == EMPTY_INDEX_BLOCKS &&
		   blocks_of(segment->by_txn, true) == EMPTY_INDEX_BLOCKS;
}

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

		if (i != active && es_is_pristine(&segment))
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

void
es_note_lost(SharedDatabase *db, const SharedSegment *segment)
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

void
es_truncate_drained(SharedDatabase *db, bool active_too)
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
		es_note_lost(db, &es_staging(db)->segments[next]);
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
	es_truncate_drained(db, false);
	return rotate(db);
}
