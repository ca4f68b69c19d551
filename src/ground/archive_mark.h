/*
 * archive_mark.h
 *		What has to be known of the archive by who does not look into it.
 */
#ifndef ES_ARCHIVE_MARK_H
#define ES_ARCHIVE_MARK_H

#include "c.h"

extern void es_share_archive_mark(void);

/*
 * Nothing above this position was ever moved out of domain_events, or deleted; 0 =
 * nothing at all was.  It never falls.  It covers all that a snapshot misses in
 * domain_events which was taken before the call.
 */
extern int64 es_highest_archived_position(void);

static inline bool
es_anything_moved(void)
{
	return es_highest_archived_position() > 0;
}

/*
 * Notes that a statement of this transaction has taken rows out of domain_events, or
 * put some back, up to this position.  Call it after each such statement, before the
 * commit and in a scope of es_begin_write().
 */
extern void es_note_move(int64 position);
/* The same of rows that came into the archive around the API. */
extern void es_note_archived_rows(void);
/* The same of rows that a restore or a subscription brought, if there are any. */
extern void es_repair_archive_mark(void);
/*
 * Whether a row may have gone from one table to the other, and been seen in neither,
 * since the first of these was called, before a snapshot was taken.  It may, too, while
 * somebody has moved rows and not committed.
 */
extern uint64 es_moves(void);
extern bool es_moved_since(uint64 moves);

#endif /* ES_ARCHIVE_MARK_H */
