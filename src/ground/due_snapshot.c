/*
 * due_snapshot.c
 *		Aggregates of which the server shall take a snapshot: a ring of hints.
 *
 * An event at which a snapshot is due leaves its position here when its
 * transaction has committed; the worker finds the aggregate by it.  A hint that
 * is lost, for want of room or in a crash, costs nothing but a longer replay
 * until the next one.
 *
 * Beside it stand the types whose snapshots failed, which are left alone a while.
 */
#include "postgres.h"

#include "access/xact.h"
#include "datatype/timestamp.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

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

/* So many types whose snapshots failed are known. */
#define RESTING_TYPES 32

/*
 * A type whose snapshot failed is left alone for so many times as long as that
 * took, doubled by every further failure, up to so many milliseconds.
 */
#define REST 9
#define LONGEST_REST_MS 3600000

/*
 * An aggregate type whose last snapshot failed, by the hash of its name.  It is
 * kept here since a failure may have been the end of its worker.
 */
typedef struct RestingType
{
	uint64 type;	   /* 0 = none */
	int failures;	   /* in a row */
	TimestampTz until; /* is left alone */
} RestingType;

/* The ring; SharedDatabase.lock protects it. */
typedef struct DueShare
{
	int64 positions[HINTS]; /* of events */
	int first;
	int count;
	RestingType resting[RESTING_TYPES];
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
	memset(due_of(db), 0, sizeof(DueShare));
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

/* ---------- types that rest ---------- */

/* Where a type stands; NULL = nowhere. */
static RestingType *
find_resting(SharedDatabase *db, uint64 type)
{
	for (int i = 0; i < RESTING_TYPES; i++)
	{
		if (due_of(db)->resting[i].type == type)
			return &due_of(db)->resting[i];
	}
	return NULL;
}

/* A place for another type: a free one, or that of the one whose rest ends first. */
static RestingType *
place_for_resting(SharedDatabase *db)
{
	RestingType *place = &due_of(db)->resting[0];

	for (int i = 0; i < RESTING_TYPES; i++)
	{
		RestingType *other = &due_of(db)->resting[i];

		if (other->type == 0)
			return other;
		if (other->until < place->until)
			place = other;
	}
	return place;
}

bool
es_snapshots_rest(SharedDatabase *db, uint64 type)
{
	RestingType *resting;
	bool rests;

	LWLockAcquire(db->lock, LW_SHARED);
	resting = find_resting(db, type);
	rests = resting != NULL && resting->until > GetCurrentTimestamp();
	LWLockRelease(db->lock);
	return rests;
}

int
es_let_snapshots_rest(SharedDatabase *db, uint64 type, TimestampTz started)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz longest = TimestampTzPlusMilliseconds(now, LONGEST_REST_MS);
	int64 rest = REST * Max(now - started, 1);
	RestingType *resting;
	int failures;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	resting = find_resting(db, type);
	if (resting == NULL)
	{
		resting = place_for_resting(db);
		resting->type = type;
		resting->failures = 0;
	}
	for (int i = 0; i < resting->failures && now + rest < longest; i++)
		rest *= 2;
	failures = ++resting->failures;
	resting->until = Min(now + rest, longest);
	LWLockRelease(db->lock);
	return failures;
}

void
es_end_snapshots_rest(SharedDatabase *db, uint64 type)
{
	RestingType *resting;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	resting = find_resting(db, type);
	if (resting != NULL)
		memset(resting, 0, sizeof(RestingType));
	LWLockRelease(db->lock);
}
