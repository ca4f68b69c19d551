/*
 * committer_slot.c
 *		The place of a database's committer in shared memory.
 *
 * The committer is a process that commits what others hand over to it
 * (grouped_call.c).  Who hands something over and finds none starts one, and waits
 * for it; whoever finds that none can be had does without.  It leaves when nothing has
 * come for a while, and when its exit callback runs all that have something in the
 * queue look again.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "ground/committer_slot.h"
#include "ground/database_process.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"

/* Where there was no process for one it is tried again after so long. */
#define START_PAUSE_MS 1000
/* A process that has not arrived after so long does not come. */
#define ARRIVAL_MS 5000

static void
initialise_slot(void *memory)
{
	LWLockInitialize(&((CommitterSlot *) memory)->lock, es_shared->lock->tranche);
}

static void
clear_slot(SharedDatabase *db)
{
	CommitterSlot *slot = es_committer_slot(db);

	slot->starting = false;
	slot->started_at = slot->retry_at = 0;
	slot->pid = 0;
	slot->latch = NULL;
	slot->asleep = false;
	slot->first = slot->last = slot->length = 0;
}

DatabasePart es_committer_part = {sizeof(CommitterSlot), initialise_slot,
								  clear_slot};

void
es_share_committers(void)
{
	es_share_by_database(&es_committer_part);
}

/* ---------- starting ---------- */

bool
es_ensure_committer(SharedDatabase *db)
{
	CommitterSlot *slot = es_committer_slot(db);
	TimestampTz now;
	bool there;
	bool start;

	if (slot->pid != 0)
		return true;
	now = GetCurrentTimestamp();
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	there = slot->pid != 0 ||
			(slot->starting && es_may_arrive(slot->started_at, now, ARRIVAL_MS));
	start = !there &&
			now >= es_end_of_pause(slot->retry_at, now, START_PAUSE_MS) &&
			es_worker_slot(db)->bars == 0;
	if (start)
	{
		slot->starting = true;
		slot->started_at = now;
	}
	LWLockRelease(&slot->lock);
	if (!start || es_start_process(db, "committer"))
		return there || start;
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	slot->starting = false;
	slot->retry_at = TimestampTzPlusMilliseconds(now, START_PAUSE_MS);
	LWLockRelease(&slot->lock);
	return false;
}

void
es_wake_committer(SharedDatabase *db)
{
	CommitterSlot *slot = es_committer_slot(db);

	LWLockAcquire(&slot->lock, LW_SHARED);
	if (slot->latch != NULL)
		SetLatch(slot->latch);
	LWLockRelease(&slot->lock);
}

/* ---------- the process ---------- */

static bool arrived = false;

/* Runs after the process has left the process array: who waits for it finds it gone. */
static void
leave_slot(int code, Datum arg)
{
	SharedDatabase *db = (SharedDatabase *) DatumGetPointer(arg);
	CommitterSlot *slot = es_committer_slot(db);
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	if (slot->pid == MyProcPid)
	{
		slot->pid = 0;
		slot->latch = NULL;
		slot->asleep = false;
		if (!arrived)
			slot->retry_at = TimestampTzPlusMilliseconds(now, START_PAUSE_MS);
	}
	LWLockRelease(&slot->lock);
	es_tell_progress(db);
}

void
es_note_committer_arrived(void)
{
	arrived = true;
}

bool
es_enter_committer_slot(SharedDatabase *db, Oid database)
{
	CommitterSlot *slot = es_committer_slot(db);
	bool entered;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	entered = db->database == database && slot->pid == 0 &&
			  es_worker_slot(db)->bars == 0;
	if (entered)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
	}
	if (slot->pid == 0 || entered)
		slot->starting = false;
	LWLockRelease(&slot->lock);
	if (entered)
		on_shmem_exit(leave_slot, PointerGetDatum(db));
	return entered;
}

bool
es_retire_committer(SharedDatabase *db)
{
	CommitterSlot *slot = es_committer_slot(db);
	bool retired;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	retired = slot->first == 0;
	if (retired)
	{
		slot->pid = 0;
		slot->latch = NULL;
	}
	LWLockRelease(&slot->lock);
	return retired;
}

bool
es_dismiss_committer(SharedDatabase *db, Oid database)
{
	CommitterSlot *slot = es_committer_slot(db);

	return es_dismiss_process(db, database, &slot->lock, &slot->pid);
}
