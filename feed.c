/*
 * feed.c
 *		Global positions: the order over all events.
 *
 * A position must never be given twice, not even after a crash that lost the
 * transaction it was given to, since a client may have seen it.  Positions
 * therefore come from blocks: a durable sequence holds the end of the last
 * block reserved, its WAL is flushed before the first position of a block is
 * used, and within a block taking positions is a spinlock and an addition in
 * shared memory.  What is left of a block is skipped after a restart.
 *
 * Without preload there is no shared memory: every call moves the sequence
 * itself, under a lock that is released at once.
 *
 * In both ways an appender takes its positions while it holds the lock of the
 * aggregate, so within an aggregate they rise with the sequence.
 *
 * Called by event_store.c and drain.c.
 */
#include "event_store.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"

/* Positions reserved at once; each block costs one flush of the WAL. */
#define POSITION_BLOCK 8192

/* The highest position in the log, for a sequence that lags behind it. */
static int64
last_logged_position(void)
{
	static KeptPlan plan = {
		"SELECT coalesce(pg_catalog.max(e.global_position), 0)"
		" FROM event_store.domain_events e"
	};
	bool		isnull;

	es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/* Makes the sequence stand at "last" and the WAL of that durable. */
static void
advance_sequence(Oid sequence, int64 last)
{
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence),
						Int64GetDatum(last));
	XLogFlush(XactLastRecEnd);
}

/* Reserves a block that has room for "count"; the positions lock is held. */
static void
reserve_block(SharedDatabase *db, Oid sequence, int64 count)
{
	bool		known = db->position_sequence == sequence;
	int64		last;
	int64		limit;

	if (known)
		last = db->position_limit;
	else
		last = Max(nextval_internal(sequence, false) - 1,
				   last_logged_position());
	limit = last + count + POSITION_BLOCK;
	advance_sequence(sequence, limit);

	SpinLockAcquire(&db->position_mutex);
	if (!known)
	{
		db->position_sequence = sequence;
		db->next_position = last + 1;
	}
	db->position_limit = limit;
	SpinLockRelease(&db->position_mutex);
}

/* Takes positions from the block in shared memory; 0 = not enough left. */
static int64
take_from_block(SharedDatabase *db, Oid sequence, int64 count)
{
	int64		first = 0;

	SpinLockAcquire(&db->position_mutex);
	if (db->position_sequence == sequence &&
		db->position_limit - db->next_position + 1 >= count)
	{
		first = db->next_position;
		db->next_position += count;
	}
	SpinLockRelease(&db->position_mutex);
	return first;
}

/* Takes positions from the sequence itself; the positions lock is held. */
static int64
take_from_sequence(Oid sequence, int64 count)
{
	static Oid	checked = InvalidOid;
	XLogRecPtr	logged = XactLastRecEnd;
	int64		first = nextval_internal(sequence, false);

	if (checked != sequence)
	{
		first = Max(first, last_logged_position() + 1);
		checked = sequence;
		count = Max(count, 1);
		advance_sequence(sequence, first + count - 1);
	}
	else if (count > 1)
		advance_sequence(sequence, first + count - 1);
	else if (XactLastRecEnd != logged)
		XLogFlush(XactLastRecEnd);
	return first;
}

int64
es_take_positions(int64 count)
{
	Oid			sequence = es_store()->positions;
	SharedDatabase *db = es_my_database();
	OwnerScope	scope;
	int64		first = 0;

	if (db != NULL)
		first = take_from_block(db, sequence, count);
	if (first != 0)
		return first;

	es_begin(&scope);
	es_lock_acquire(ES_LOCK_POSITIONS, ExclusiveLock);
	if (db == NULL)
		first = take_from_sequence(sequence, count);
	else
	{
		while ((first = take_from_block(db, sequence, count)) == 0)
			reserve_block(db, sequence, count);
	}
	es_lock_release(ES_LOCK_POSITIONS, ExclusiveLock);
	es_end(&scope);
	return first;
}
