/*
 * due_snapshot.h
 *		Hints for the worker's snapshots.
 */
#ifndef ES_DUE_SNAPSHOT_H
#define ES_DUE_SNAPSHOT_H

#include "datatype/timestamp.h"

#include "ground/shmem.h"

extern void es_share_due_snapshots(void);

/*
 * Wants a server snapshot of the aggregate that has its event at this position;
 * the worker is told when the transaction has committed.  It may be lost.
 */
extern void es_note_snapshot_due(int64 position);
/* Whether any aggregate is said to need a snapshot. */
extern bool es_snapshots_due(SharedDatabase *db);
/* Takes the first position out; 0 = there is none. */
extern int64 es_next_snapshot_due(SharedDatabase *db);
/* Forgets all of a store that is no more; the slot's lock is held. */
extern void es_forget_snapshots_due(SharedDatabase *db);

/*
 * Aggregate types, each by a hash of its name that is not 0, whose snapshots
 * failed: whether one is left alone now; that it failed, in what was started
 * then, which returns its failures in a row; and that it did not.
 */
extern bool es_snapshots_rest(SharedDatabase *db, uint64 type);
extern int es_let_snapshots_rest(SharedDatabase *db, uint64 type,
								 TimestampTz started);
extern void es_end_snapshots_rest(SharedDatabase *db, uint64 type);

#endif /* ES_DUE_SNAPSHOT_H */
