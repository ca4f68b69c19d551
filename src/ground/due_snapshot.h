/*
 * due_snapshot.h
 *		Hints for the worker's snapshots.
 */
#ifndef ES_DUE_SNAPSHOT_H
#define ES_DUE_SNAPSHOT_H

#include "datatype/timestamp.h"

#include "ground/shmem.h"
#include "ground/worker_slot.h"

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

/* So many types whose snapshots failed are known. */
#define ES_FAILING_TYPES 32

/* An aggregate type of which a snapshot has failed. */
typedef struct FailingType
{
	uint64 type;  /* a hash of its name; 0 = none */
	int failures; /* in a row */
	int64 total;
	TimestampTz until; /* is left alone, while the last one failed */
	TimestampTz failed_at;
	char name[ES_ERROR_CHARS];	/* as much as fits */
	char error[ES_ERROR_CHARS]; /* "" = none since its last success */
} FailingType;

/*
 * Aggregate types, each by a hash of its name that is not 0, whose snapshots
 * failed: whether one is left alone now; that it failed, in what was started
 * then, which returns its failures in a row; that it did not; and all that are
 * known, of whom there is room for ES_FAILING_TYPES.
 */
extern bool es_snapshots_rest(SharedDatabase *db, uint64 type);
extern int es_let_snapshots_rest(SharedDatabase *db, uint64 type, const char *name,
								 TimestampTz started, const char *error);
extern void es_end_snapshots_rest(SharedDatabase *db, uint64 type);
extern int es_failing_types(SharedDatabase *db, FailingType *types);

#endif /* ES_DUE_SNAPSHOT_H */
