/*
 * archived_ids.c
 *		Which staged events may have an id that is in the archive by now.
 *
 * Who stages an event has looked for its id in both tables.  Another may have appended
 * an event of that id since, and somebody moved that one to the archive, where the index
 * of the log does not meet it.  So the drain looks there for what it has inserted.
 * Somebody may have locked the archive, though, and most rows need not wait for him: what
 * was staged after the last move cannot be there.
 *
 * So who stages after a move notes, with the number of moves (archive_mark.c), the first sid
 * that was not given by then.  As long as the number stays, no row from there on can
 * be there: its sid was taken after all moves, and who staged it, if one of them came after
 * he had looked, has looked once more.  While the archive is locked nobody moves anything.
 */
#include "postgres.h"

#include "port/atomics.h"
#include "storage/lwlock.h"

#include "ground/archive_mark.h"
#include "ground/shmem.h"
#include "staging/archived_ids.h"
#include "staging/staging_state.h"

void
es_note_unmoved(SharedDatabase *db)
{
	StagingShare *staging = es_staging(db);
	uint64 moves;

	if (!es_anything_moved() ||
		pg_atomic_read_u64(&staging->unmoved_since) == es_moves())
		return;
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	moves = es_moves();
	pg_atomic_write_u64(&staging->unmoved_from,
						pg_atomic_read_u64(&staging->next_sid));
	/* who reads this number reads that sid, or a higher one */
	pg_memory_barrier();
	pg_atomic_write_u64(&staging->unmoved_since, moves);
	LWLockRelease(db->lock);
}

bool
es_may_be_archived(SharedDatabase *db, int64 sid)
{
	StagingShare *staging;
	uint64 since;

	if (!es_anything_moved())
		return false;
	if (db == NULL)
		return true;
	staging = es_staging(db);
	since = pg_atomic_read_u64(&staging->unmoved_since);
	pg_memory_barrier();
	return (uint64) sid < pg_atomic_read_u64(&staging->unmoved_from) ||
		   es_moved_since(since);
}
