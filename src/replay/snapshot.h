/*
 * snapshot.h
 *		States kept at a sequence.
 */
#ifndef ES_SNAPSHOT_H
#define ES_SNAPSHOT_H

#include "ground/shmem.h"
#include "replay/fold.h"

/* Starts a fold at the server's snapshot within its bounds, or before all. */
extern void es_start_from_snapshot(Fold *fold, text *aggregate_type,
								   text *aggregate_id);
/*
 * Folds the durable events of an aggregate and stores the state as the
 * server's snapshot.  False if there is nothing newer than what is stored.
 */
extern bool es_snapshot_aggregate(text *aggregate_type, text *aggregate_id);
/*
 * Takes the next of those snapshots, in a transaction of its own.  An error of
 * the reducer is logged, once, and its aggregate type rests for a while; then
 * what went wrong is returned, else NULL.
 */
extern const char *es_take_due_snapshot(SharedDatabase *db);
/*
 * The worker ends in the middle of one that cannot be stopped in another way: its
 * type rests.  Returns what is to be shown of it; NULL = it is not at one.
 */
extern const char *es_give_up_snapshot(SharedDatabase *db);

#endif /* ES_SNAPSHOT_H */
