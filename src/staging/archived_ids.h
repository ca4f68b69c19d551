/*
 * archived_ids.h
 *		Which staged events may have an id that is in the archive by now.
 */
#ifndef ES_ARCHIVED_IDS_H
#define ES_ARCHIVED_IDS_H

#include "ground/shmem.h"

/* Call it before a sid is taken. */
extern void es_note_unmoved(SharedDatabase *db);
/*
 * Whether the id of what has this sid has to be looked for in the archive.  It is asked
 * after the event was inserted into the log, and stays as it is while nobody moves anything.
 */
extern bool es_may_be_archived(SharedDatabase *db, int64 sid);

#endif /* ES_ARCHIVED_IDS_H */
