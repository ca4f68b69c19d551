/*
 * waiter.c
 *		Who waits for the feed, and which one of them looks at it for all.
 *
 * A commit that woke everybody who waits would cost more than the append: each of
 * them works out how far it is safe to read, finds nothing for it, and sleeps again.
 * So one of those who sleep leads.  A commit sets its latch, unless somebody did so
 * since it last looked; it looks for all, and wakes whom it has found something for
 * (read/waker.c).
 *
 * The leader is one of the waiters and no process of its own: so there is one exactly
 * where it is needed, on a standby as well, without a place among the background
 * workers, and it cannot be held up by another job.  Only who sleeps leads.
 * Whoever looks by itself, leaves, is cancelled or terminated hands over to another
 * sleeper; where all are awake nobody leads, and the next one that falls asleep does,
 * and looks first.  An entry is what its waiter says of itself, and outlives no error
 * of it: the wait takes it back at every end (waker.c).
 *
 * Nothing is missed.  What a waiter has looked at itself ends where it was safe then,
 * and what lies behind that is the leader's; one who looked so slowly that the leader
 * is ahead tells it to look again.
 * "signalled" goes to 0 before the leader reads how far it is safe, and a transaction
 * clears what it has in flight before it reads "signalled": one of the two sees
 * the other.  Without a leader it stays 1, and a commit pays one read.
 *
 * Who found a member taken is told when it is free: at the end of whoever changed it,
 * once the locks are gone, which no transaction callback is late enough for, but the
 * callbacks of resource owners are; and at once when a look leaves it as it was.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/resowner.h"

#include "ground/compat.h"
#include "ground/metrics.h"
#include "ground/shmem.h"
#include "ground/waiter.h"

static Size
waiters_size(void)
{
	return mul_size(MaxBackends, sizeof(Waiter));
}

static void
initialise_waiters(void *memory)
{
}

static ClusterPart waiters_part = {"event_store waiters", waiters_size,
								   initialise_waiters};

static void
initialise_share(void *memory)
{
	WaiterShare *share = memory;

	LWLockInitialize(&share->lock, es_shared->lock->tranche);
	pg_atomic_init_u32(&share->leader, 0);
	pg_atomic_init_u32(&share->signalled, 1);
	pg_atomic_init_u64(&share->last_round, 0);
	pg_atomic_init_u32(&share->waiters, 0);
	pg_atomic_init_u32(&share->listeners, 0);
	for (int i = 0; i < ES_FREED_COUNTERS; i++)
		pg_atomic_init_u32(&share->freed[i], 0);
}

/* Nobody waits in a database that is no more. */
static void
clear_share(SharedDatabase *db)
{
	es_waiters(db)->looked = 0;
	pg_atomic_write_u64(&es_waiters(db)->last_round, 0);
}

DatabasePart es_waiter_part = {sizeof(WaiterShare), initialise_share, clear_share};

void
es_share_waiters(void)
{
	es_share_by_database(&es_waiter_part);
	es_share(&waiters_part);
}

static Waiter *
waiter_numbered(int number)
{
	return (Waiter *) waiters_part.memory + number;
}

static Waiter *
me(void)
{
	return waiter_numbered(MyProcNumber);
}

uint32
es_type_hash(Datum type)
{
	text *word = DatumGetTextPP(type);

	return hash_bytes((unsigned char *) VARDATA_ANY(word),
					  (int) VARSIZE_ANY_EXHDR(word));
}

/* ---------- waking ---------- */

static void
wake(Waiter *waiter)
{
	if (waiter->woken)
		return;
	waiter->woken = true;
	es_count(ES_COUNT_WAKE_UPS);
	SetLatch(waiter->latch);
}

void
es_tell_leader(SharedDatabase *db)
{
	WaiterShare *share = es_waiters(db);
	uint32 leader;

	if (pg_atomic_read_u32(&share->signalled) != 0 ||
		pg_atomic_exchange_u32(&share->signalled, 1) != 0)
		return;
	leader = pg_atomic_read_u32(&share->leader);
	if (leader != 0)
		SetLatch(waiter_numbered((int) leader - 1)->latch);
}

bool
es_leads(const SharedDatabase *db)
{
	return pg_atomic_read_u32(&es_waiters(db)->leader) ==
		   (uint32) MyProcNumber + 1;
}

/* Somebody who sleeps leads from now on, or nobody; the lock is held. */
static void
hand_over(WaiterShare *share)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		Waiter *other = waiter_numbered(i);

		if (other->database != MyDatabaseId || !other->asleep || other->woken)
			continue;
		pg_atomic_write_u32(&share->leader, (uint32) i + 1);
		pg_memory_barrier();
		SetLatch(other->latch);
		return;
	}
	pg_atomic_write_u32(&share->leader, 0);
	pg_memory_barrier();
	pg_atomic_write_u32(&share->signalled, 1);
}

/* This one does not sleep any more; the lock is held. */
static void
awake(SharedDatabase *db, Waiter *waiter)
{
	WaiterShare *share = es_waiters(db);

	if (waiter->hears != ES_HEARS_CHANGES)
		pg_atomic_fetch_sub_u32(&share->listeners, 1);
	waiter->hears = ES_HEARS_CHANGES;
	waiter->asleep = false;
	if (es_leads(db))
		hand_over(share);
}

/* ---------- a waiter ---------- */

/* Whatever comes behind a position is for it. */
static void
open_to_all(Waiter *waiter, int64 after)
{
	waiter->count = 1;
	memset(&waiter->filters[0], 0, sizeof(WaitFilter));
	waiter->filters[0].after = after;
	waiter->filters[0].aggregate_types = -1;
	waiter->filters[0].event_types = -1;
}

void
es_enter_waiters(SharedDatabase *db)
{
	WaiterShare *share = es_waiters(db);
	Waiter *mine = me();

	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	mine->asleep = false;
	mine->woken = false;
	mine->hears = ES_HEARS_CHANGES;
	mine->position = PG_INT64_MAX;
	mine->latch = &MyProc->procLatch;
	mine->count = 0;
	mine->database = MyDatabaseId;
	pg_atomic_fetch_add_u32(&share->waiters, 1);
	LWLockRelease(&share->lock);
}

void
es_leave_waiters(SharedDatabase *db)
{
	WaiterShare *share = es_waiters(db);
	Waiter *mine = me();

	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	mine->database = InvalidOid;
	awake(db, mine);
	pg_atomic_fetch_sub_u32(&share->waiters, 1);
	LWLockRelease(&share->lock);
}

void
es_wait_for_changes(SharedDatabase *db, const uint64 *subscriptions, int count)
{
	WaiterShare *share = es_waiters(db);
	Waiter *mine = me();

	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	memset(mine->filters, 0, sizeof(mine->filters));
	if (count > ES_WAIT_FILTERS)
		open_to_all(mine, PG_INT64_MAX);
	else
	{
		/* its own look comes first */
		for (int i = 0; i < count; i++)
			mine->filters[i] = (WaitFilter){.subscription = subscriptions[i],
											.after = PG_INT64_MAX};
		mine->count = count;
	}
	LWLockRelease(&share->lock);
}

void
es_begin_look(SharedDatabase *db, WaitFilter *filters, int count)
{
	WaiterShare *share = es_waiters(db);
	Waiter *mine = me();

	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	if (count > 0 && count == mine->count)
		memcpy(filters, mine->filters, count * sizeof(WaitFilter));
	for (int i = 0; i < mine->count; i++)
		mine->filters[i].after = PG_INT64_MAX;
	awake(db, mine);
	mine->position = PG_INT64_MAX;
	mine->woken = false;
	mine->looks++;
	LWLockRelease(&share->lock);
}

void
es_end_look(SharedDatabase *db, int64 position, const WaitFilter *filters,
			int count, Hearing hears)
{
	WaiterShare *share = es_waiters(db);
	Waiter *mine = me();
	bool behind;

	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	if (count < 0)
		open_to_all(mine, filters[0].after);
	else
	{
		memcpy(mine->filters, filters, count * sizeof(WaitFilter));
		mine->count = count;
	}
	mine->position = position;
	mine->looks++;
	mine->hears = hears;
	if (hears != ES_HEARS_CHANGES)
		pg_atomic_fetch_add_u32(&share->listeners, 1);
	mine->asleep = true;
	if (pg_atomic_read_u32(&share->leader) == 0)
	{
		pg_atomic_write_u32(&share->leader, (uint32) MyProcNumber + 1);
		pg_memory_barrier();
	}
	behind = mine->position < share->looked;
	for (int i = 0; i < mine->count; i++)
		behind = behind || mine->filters[i].after < share->looked;
	LWLockRelease(&share->lock);
	if (behind)
		es_tell_leader(db);
}

uint32
es_times_freed(const SharedDatabase *db, uint64 subscription)
{
	return pg_atomic_read_u32(&es_waiters(db)
								   ->freed[subscription % ES_FREED_COUNTERS]);
}

bool
es_woken(void)
{
	return *(volatile bool *) &me()->woken;
}

/* ---------- what the leader does for all ---------- */

bool
es_leader_told(const SharedDatabase *db)
{
	return pg_atomic_read_u32(&es_waiters(db)->signalled) != 0;
}

/* Who commits from here on tells it again. */
void
es_begin_round(SharedDatabase *db)
{
	WaiterShare *share = es_waiters(db);

	pg_atomic_write_u64(&share->last_round, (uint64) GetCurrentTimestamp());
	pg_atomic_write_u32(&share->signalled, 0);
	pg_memory_barrier();
}

long
es_rest_of_leader(const SharedDatabase *db, long rest_ms)
{
	TimestampTz last =
		(TimestampTz) pg_atomic_read_u64(&es_waiters(db)->last_round);
	TimestampTz now = GetCurrentTimestamp();

	/* a clock that was set back must not make it longer */
	if (now < last)
		return 0;
	return TimestampDifferenceMilliseconds(now,
										   TimestampTzPlusMilliseconds(last,
																	   rest_ms));
}

int
es_count_waiters(const SharedDatabase *db)
{
	return (int) pg_atomic_read_u32(&es_waiters(db)->waiters);
}

int
es_open_filters(SharedDatabase *db, int64 safe, OpenFilter *open, int most)
{
	WaiterShare *share = es_waiters(db);
	int count = 0;

	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	share->looked = safe;
	for (int i = 0; i < MaxBackends; i++)
	{
		Waiter *waiter = waiter_numbered(i);

		if (waiter->database != MyDatabaseId || waiter->woken)
			continue;
		if (waiter->position < safe)
			wake(waiter);
		for (int f = 0; f < waiter->count && !waiter->woken; f++)
		{
			if (waiter->filters[f].after >= safe)
				continue;
			/* one who came too late for the room looks by itself */
			if (count == most)
				wake(waiter);
			else
				open[count++] = (OpenFilter){.waiter = i,
											 .number = f,
											 .looks = waiter->looks,
											 .filter = waiter->filters[f]};
		}
	}
	LWLockRelease(&share->lock);
	return count;
}

void
es_close_filters(SharedDatabase *db, const OpenFilter *open, int count,
				 int64 reached)
{
	WaiterShare *share = es_waiters(db);

	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	for (int i = 0; i < count; i++)
	{
		Waiter *waiter = waiter_numbered(open[i].waiter);
		int64 *after = &waiter->filters[open[i].number].after;

		if (waiter->database != MyDatabaseId || waiter->looks != open[i].looks)
			continue;
		*after = Max(*after, open[i].found != 0 ? open[i].found - 1 : reached);
		if (open[i].found != 0)
			wake(waiter);
	}
	LWLockRelease(&share->lock);
}

/* ---------- members that are free again ---------- */

/* Subscriptions that this transaction has had to do with; more are all. */
#define MAX_NOTED 16

typedef struct Noted
{
	uint64 subscription; /* 0 = all */
	bool changed;
} Noted;

static Noted noted[MAX_NOTED];
static int noted_count = 0;

/* Whether a waiter is to be told of a subscription. */
static bool
listens(const Waiter *waiter, const Noted *note, Hearing least)
{
	if (!note->changed && waiter->hears < least)
		return false;
	for (int i = 0; i < waiter->count; i++)
	{
		if (note->subscription == 0 || waiter->filters[i].subscription == 0 ||
			waiter->filters[i].subscription == note->subscription)
			return true;
	}
	return false;
}

static void
tell(SharedDatabase *db, const Noted *note, Hearing least)
{
	WaiterShare *share = es_waiters(db);
	/* 0 is all of them */
	int first = (int) (note->subscription % ES_FREED_COUNTERS);
	int last = note->subscription == 0 ? ES_FREED_COUNTERS - 1 : first;

	for (int i = first; i <= last; i++)
		pg_atomic_fetch_add_u32(&share->freed[i], 1);
	if (pg_atomic_read_u32(&share->waiters) == 0 ||
		(!note->changed && pg_atomic_read_u32(&share->listeners) == 0))
		return;
	LWLockAcquire(&share->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MaxBackends; i++)
	{
		Waiter *waiter = waiter_numbered(i);

		if (waiter->database == MyDatabaseId && listens(waiter, note, least))
			wake(waiter);
	}
	LWLockRelease(&share->lock);
}

/*
 * Of an aborted subtransaction, or a portal that failed, it is told as well, and again
 * at the end.
 */
static void
tell_noted(ResourceReleasePhase phase, bool committed, bool top, void *arg)
{
	SharedDatabase *db;

	if (noted_count == 0 || phase != RESOURCE_RELEASE_AFTER_LOCKS ||
		(committed && !top))
		return;
	db = es_my_database_if_any();
	for (int i = 0; i < noted_count && db != NULL; i++)
		tell(db, &noted[i], ES_HEARS_PROGRESS);
	if (top)
		noted_count = 0;
}

void
es_note_freed(uint64 subscription, bool changed)
{
	static bool registered = false;

	if (!registered)
		RegisterResourceReleaseCallback(tell_noted, NULL);
	registered = true;
	for (int i = 0; i < noted_count; i++)
	{
		if (noted[i].subscription != subscription)
			continue;
		noted[i].changed = noted[i].changed || changed;
		return;
	}
	if (noted_count == MAX_NOTED)
		noted[0] = (Noted){0, true};
	else
		noted[noted_count++] = (Noted){subscription, changed};
}

void
es_tell_freed(SharedDatabase *db, uint64 subscription)
{
	Noted note = {subscription, false};

	tell(db, &note, ES_HEARS_FREED);
}
