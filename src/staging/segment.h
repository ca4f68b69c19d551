/*
 * segment.h
 *		The space of the segments.
 */
#ifndef ES_SEGMENT_H
#define ES_SEGMENT_H

#include "ground/catalog.h"
#include "ground/shmem.h"
#include "staging/staging_state.h"

/*
 * Whether a segment is as new.  One without rows may still have entries in its
 * indexes, if truncating it failed half way; new rows would be found by them.
 */
extern bool es_is_pristine(const StagingSegment *segment);
/* Notes that the rows of a segment are given up; ranges may become one. */
extern void es_note_lost(SharedDatabase *db, const SharedSegment *segment);
/* Truncates what is drained, but for a little that snapshots may show. */
extern void es_truncate_drained(SharedDatabase *db, bool active_too);
/*
 * Starts a new segment when the active one is large, once the transaction has
 * committed (then true); truncates those that are drained.  Needs a transaction
 * of its own.  Never waits.
 */
extern bool es_reclaim_segments(void);

#endif /* ES_SEGMENT_H */
