/*
 * due_snapshot.c
 *		Aggregates of which the server shall take a snapshot: a ring of hints.
 *
 * An event at which a snapshot is due leaves its position here when its
 * transaction has committed; the worker finds the aggregate by it.  A hint that
 * is lost, for want of room or in a crash, costs nothing but a longer replay
 * until the next one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "ground/due_snapshot.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"

/* What this transaction has to leave. */
typedef struct DueSnapshot
{
	int64 position;
	SubTransactionId subtransaction;
} DueSnapshot;

static DueSnapshot *due = NULL; /* room for HINTS */
static int ndue = 0;

/* So many may be due at once; further ones are forgotten. */
#define HINTS 256

/* The ring; SharedDatabase.lock protects it. */
typedef struct DueShare
{
	int64 positions[HINTS]; /* of events */
	int first;
	int count;
} DueShare;

static void clear_share(SharedDatabase *db);

static DatabasePart part = {sizeof(DueShare), NULL, clear_share};

static DueShare *
due_of(SharedDatabase *db)
{
	return es_part(db, &part);
}

static void
clear_share(SharedDatabase *db)
{
	due_of(db)->first = 0;
	due_of(db)->count = 0;
}

void
es_share_due_snapshots(void)
{
	es_share_by_database(&part);
}

/* Leaves hints for the worker where there is room. */
static void
publish(SharedDatabase *db)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ndue && due_of(db)->count < HINTS; i++)
	{
		int place = (due_of(db)->first + due_of(db)->count++) % HINTS;

		due_of(db)->positions[place] = due[i].position;
	}
	LWLockRelease(db->lock);
	es_nudge_worker(db);
}

static void
end_due(SharedDatabase *db, bool committed)
{
	if (committed && ndue > 0)
		publish(db);
	due = NULL;
	ndue = 0;
}

static void
abort_due(SubTransactionId id)
{
	while (ndue > 0 && due[ndue - 1].subtransaction >= id)
		ndue--;
}

void
es_note_snapshot_due(int64 position)
{
	es_at_end(ES_END_DUE, end_due, abort_due);
	if (due == NULL)
		due = MemoryContextAlloc(TopTransactionContext,
								 HINTS * sizeof(DueSnapshot));
	if (ndue == HINTS)
		return;
	due[ndue].position = position;
	due[ndue++].subtransaction = GetCurrentSubTransactionId();
}

bool
es_snapshots_due(SharedDatabase *db)
{
	bool any;

	LWLockAcquire(db->lock, LW_SHARED);
	any = due_of(db)->count > 0;
	LWLockRelease(db->lock);
	return any;
}

int64
es_next_snapshot_due(SharedDatabase *db)
{
	int64 position = 0;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (due_of(db)->count > 0)
	{
		position = due_of(db)->positions[due_of(db)->first];
		due_of(db)->first = (due_of(db)->first + 1) % HINTS;
		due_of(db)->count--;
	}
	LWLockRelease(db->lock);
	return position;
}

void
es_forget_snapshots_due(SharedDatabase *db)
{
	Assert(LWLockHeldByMeInMode(db->lock, LW_EXCLUSIVE));
	due_of(db)->count = 0;
}
