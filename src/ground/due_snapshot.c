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
 * They stand here since a failure may have been the end of its worker, and stay
 * with their counts when they are well again, while there is room: of more than
 * it holds the one that has been well for longest goes, or the one whose rest
 * ends first.
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

/*
 * A type whose snapshot failed is left alone for so many times as long as that
 * took, doubled by every further failure, up to so many milliseconds.
 */
#define REST 9
#define LONGEST_REST_MS 3600000

/* The ring; SharedDatabase.lock protects it. */
typedef struct DueShare
{
	int64 positions[HINTS]; /* of events */
	int first;
	int count;
	FailingType failing[ES_FAILING_TYPES];
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
	memset(due_of(db)->failing, 0, sizeof(due_of(db)->failing));
}

/* ---------- types whose snapshots failed ---------- */

/* Where a type stands; NULL = nowhere. */
static FailingType *
find_failing(SharedDatabase *db, uint64 type)
{
	for (int i = 0; i < ES_FAILING_TYPES; i++)
	{
		if (due_of(db)->failing[i].type == type)
			return &due_of(db)->failing[i];
	}
	return NULL;
}

/* Whether a type gives way to another before a second one does. */
static bool
goes_before(const FailingType *one, const FailingType *other)
{
	if (one->type == 0 || other->type == 0)
		return other->type != 0;
	if ((one->failures == 0) != (other->failures == 0))
		return one->failures == 0;
	return one->until < other->until;
}

/* A place for another type. */
static FailingType *
place_for_failing(SharedDatabase *db)
{
	FailingType *place = &due_of(db)->failing[0];

	for (int i = 1; i < ES_FAILING_TYPES; i++)
	{
		if (goes_before(&due_of(db)->failing[i], place))
			place = &due_of(db)->failing[i];
	}
	return place;
}

bool
es_snapshots_rest(SharedDatabase *db, uint64 type)
{
	FailingType *failing;
	bool rests;

	LWLockAcquire(db->lock, LW_SHARED);
	failing = find_failing(db, type);
	rests = failing != NULL && failing->failures > 0 &&
			failing->until > GetCurrentTimestamp();
	LWLockRelease(db->lock);
	return rests;
}

int
es_let_snapshots_rest(SharedDatabase *db, uint64 type, const char *name,
					  TimestampTz started, const char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz longest = TimestampTzPlusMilliseconds(now, LONGEST_REST_MS);
	int64 rest = REST * Max(now - started, 1);
	FailingType *failing;
	int failures;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	failing = find_failing(db, type);
	if (failing == NULL)
	{
		failing = place_for_failing(db);
		memset(failing, 0, sizeof(*failing));
		failing->type = type;
		es_copy_error(failing->name, name);
	}
	for (int i = 0; i < failing->failures && now + rest < longest; i++)
		rest *= 2;
	failures = ++failing->failures;
	failing->total++;
	failing->until = Min(now + rest, longest);
	failing->failed_at = now;
	es_copy_error(failing->error, error);
	LWLockRelease(db->lock);
	return failures;
}

void
es_end_snapshots_rest(SharedDatabase *db, uint64 type)
{
	FailingType *failing;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	failing = find_failing(db, type);
	if (failing != NULL)
	{
		failing->failures = 0;
		failing->error[0] = '\0';
	}
	LWLockRelease(db->lock);
}

int
es_failing_types(SharedDatabase *db, FailingType *types)
{
	int count = 0;

	LWLockAcquire(db->lock, LW_SHARED);
	for (int i = 0; i < ES_FAILING_TYPES; i++)
	{
		if (due_of(db)->failing[i].type != 0)
			types[count++] = due_of(db)->failing[i];
	}
	LWLockRelease(db->lock);
	return count;
}
