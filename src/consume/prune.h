/*
 * prune.h
 *		Old positions of members, deleted.
 */
#ifndef ES_PRUNE_H
#define ES_PRUNE_H

#include "ground/shmem.h"

extern void es_share_pruning(void);
/* A transaction has stored a position and committed. */
extern void es_note_stored(SharedDatabase *db);
/* Whether the worker has something to delete, and that it deletes it. */
extern bool es_pruning_due(const SharedDatabase *db);
extern void es_prune_positions(SharedDatabase *db);

#endif /* ES_PRUNE_H */
