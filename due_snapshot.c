/*
 * due_snapshot.c
 *		Aggregates of which the server shall take a snapshot: a ring of hints.
 *
 * An event at which a snapshot is due leaves its position here when its
 * transaction has committed; the worker finds the aggregate by it.  A hint that
 * is lost, for want of room or in a crash, costs nothing but a longer replay
 * until the next one.
 */
#include "event_store.h"

#include "access/xact.h"
#include "utils/memutils.h"

/* What this transaction has to leave. */
typedef struct DueSnapshot
{
	int64 position;
	SubTransactionId subtransaction;
} DueSnapshot;

static DueSnapshot *due = NULL; /* room for ES_DUE_SNAPSHOTS */
static int ndue = 0;

/* Leaves hints for the worker where there is room. */
static void
publish(SharedDatabase *db)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ndue && db->due_count < ES_DUE_SNAPSHOTS; i++)
	{
		int place = (db->first_due + db->due_count++) % ES_DUE_SNAPSHOTS;

		db->due_snapshots[place] = due[i].position;
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
								 ES_DUE_SNAPSHOTS * sizeof(DueSnapshot));
	if (ndue == ES_DUE_SNAPSHOTS)
		return;
	due[ndue].position = position;
	due[ndue++].subtransaction = GetCurrentSubTransactionId();
}

bool
es_snapshots_due(SharedDatabase *db)
{
	bool any;

	LWLockAcquire(db->lock, LW_SHARED);
	any = db->due_count > 0;
	LWLockRelease(db->lock);
	return any;
}

int64
es_next_snapshot_due(SharedDatabase *db)
{
	int64 position = 0;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (db->due_count > 0)
	{
		position = db->due_snapshots[db->first_due];
		db->first_due = (db->first_due + 1) % ES_DUE_SNAPSHOTS;
		db->due_count--;
	}
	LWLockRelease(db->lock);
	return position;
}
