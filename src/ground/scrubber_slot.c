/*
 * scrubber_slot.c
 *		The place of a database's scrubber in shared memory.
 *
 * What was erased is made unreadable on disk by VACUUM, REINDEX and a walk over pages, which take
 * long and wait for others; so that is done by a process of its own.  The worker starts it
 * when something was erased and, after a pause, while something is left.  Each process does one
 * pass.
 *
 * Who erases says so at his commit; a server that comes up does not know, so each store is
 * looked at once.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "ground/database_process.h"
#include "ground/scrubber_slot.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"

/* The pause after a pass that has left something; doubled each time. */
#define FIRST_PAUSE_MS 1000
#define LONGEST_PAUSE_MS 60000
/* A process that has not arrived after so long does not come. */
#define ARRIVAL_MS 5000

static void
initialise_slot(void *memory)
{
	ScrubberSlot *slot = memory;

	LWLockInitialize(&slot->lock, es_shared->lock->tranche);
	pg_atomic_init_u32(&slot->wanted, 1);
}

static DatabasePart scrubber_part;

static ScrubberSlot *
slot_of(const SharedDatabase *db)
{
	return es_part(db, &scrubber_part);
}

static void
clear_slot(SharedDatabase *db)
{
	ScrubberSlot *slot = slot_of(db);

	pg_atomic_write_u32(&slot->wanted, 1);
	slot->starting = false;
	slot->started_at = slot->not_before = 0;
	slot->pauses = 0;
	slot->pid = 0;
	slot->asked = slot->taken = slot->done = 0;
	slot->error[0] = '\0';
}

static DatabasePart scrubber_part = {sizeof(ScrubberSlot), initialise_slot,
									 clear_slot};

void
es_share_scrubbers(void)
{
	es_share_by_database(&scrubber_part);
}

/* ---------- what is wanted ---------- */

static bool wanted_at_commit = false;

static void
want_if_committed(SharedDatabase *db, bool committed)
{
	if (committed && wanted_at_commit && db != NULL)
	{
		pg_atomic_write_u32(&slot_of(db)->wanted, 1);
		es_nudge_worker(db);
	}
	wanted_at_commit = false;
}

void
es_want_scrub(void)
{
	wanted_at_commit = true;
	es_at_end(ES_END_SCRUB, want_if_committed, NULL);
}

/* Whether a process is at work, or on its way; the lock is held. */
static bool
is_present(const ScrubberSlot *slot)
{
	return slot->pid != 0 ||
		   (slot->starting &&
			es_may_arrive(slot->started_at, GetCurrentTimestamp(), ARRIVAL_MS));
}

TimestampTz
es_scrub_due(SharedDatabase *db)
{
	ScrubberSlot *slot = slot_of(db);
	TimestampTz due;

	if (pg_atomic_read_u32(&slot->wanted) == 0)
		return DT_NOEND;
	LWLockAcquire(&slot->lock, LW_SHARED);
	if (is_present(slot))
		due = DT_NOEND;
	else
		due = slot->asked > slot->done
				  ? 0
				  : es_end_of_pause(slot->not_before, GetCurrentTimestamp(),
									LONGEST_PAUSE_MS);
	LWLockRelease(&slot->lock);
	return due;
}

void
es_find_nothing_to_scrub(SharedDatabase *db)
{
	ScrubberSlot *slot = slot_of(db);

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	slot->done = slot->taken = slot->asked;
	slot->pauses = 0;
	slot->error[0] = '\0';
	LWLockRelease(&slot->lock);
	es_tell_progress(db);
}

bool
es_take_scrub_wanted(SharedDatabase *db)
{
	return pg_atomic_exchange_u32(&slot_of(db)->wanted, 0) != 0;
}

void
es_keep_scrub_wanted(SharedDatabase *db)
{
	pg_atomic_write_u32(&slot_of(db)->wanted, 1);
}

/* ---------- callers that wait ---------- */

uint64
es_ask_for_scrub(SharedDatabase *db)
{
	ScrubberSlot *slot = slot_of(db);
	uint64 number;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	number = ++slot->asked;
	LWLockRelease(&slot->lock);
	pg_atomic_write_u32(&slot->wanted, 1);
	es_nudge_worker(db);
	return number;
}

bool
es_scrub_is_over(SharedDatabase *db, uint64 number, char *error)
{
	ScrubberSlot *slot = slot_of(db);
	bool over;

	LWLockAcquire(&slot->lock, LW_SHARED);
	over = slot->done >= number;
	strlcpy(error, slot->error, ES_ERROR_CHARS);
	LWLockRelease(&slot->lock);
	return over;
}

/* ---------- starting ---------- */

void
es_start_scrubber(SharedDatabase *db)
{
	ScrubberSlot *slot = slot_of(db);
	bool start;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	start = !is_present(slot) && es_worker_slot(db)->bars == 0;
	if (start)
	{
		slot->starting = true;
		slot->started_at = GetCurrentTimestamp();
	}
	LWLockRelease(&slot->lock);
	if (!start || es_start_process(db, "scrubber"))
		return;
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	slot->starting = false;
	LWLockRelease(&slot->lock);
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not start an event_store scrubber"),
			 errdetail("All processes for it are taken; it is tried again."),
			 errhint("You might need to increase %s.", "max_worker_processes")));
}

/* ---------- the process ---------- */

/* One that has not come to its end leaves something. */
static void
leave_slot(int code, Datum arg)
{
	SharedDatabase *db = (SharedDatabase *) DatumGetPointer(arg);
	ScrubberSlot *slot = slot_of(db);

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	if (slot->pid == MyProcPid)
		slot->pid = 0;
	LWLockRelease(&slot->lock);
	es_tell_progress(db);
	if (pg_atomic_read_u32(&slot->wanted) != 0)
		es_nudge_worker(db);
}

bool
es_enter_scrubber_slot(SharedDatabase *db, Oid database)
{
	ScrubberSlot *slot = slot_of(db);
	bool entered;

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	entered = db->database == database && slot->pid == 0 &&
			  es_worker_slot(db)->bars == 0;
	if (entered)
		slot->pid = MyProcPid;
	slot->starting = false;
	LWLockRelease(&slot->lock);
	if (entered)
		on_shmem_exit(leave_slot, PointerGetDatum(db));
	return entered;
}

void
es_begin_scrub(SharedDatabase *db)
{
	ScrubberSlot *slot = slot_of(db);

	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	slot->taken = slot->asked;
	LWLockRelease(&slot->lock);
}

void
es_end_scrub(SharedDatabase *db, const char *error, bool left)
{
	ScrubberSlot *slot = slot_of(db);
	int pause = FIRST_PAUSE_MS;

	if (left)
		es_keep_scrub_wanted(db);
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	for (int i = 0; i < slot->pauses && pause < LONGEST_PAUSE_MS; i++)
		pause *= 2;
	slot->pauses = left ? slot->pauses + 1 : 0;
	slot->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   Min(pause, LONGEST_PAUSE_MS));
	slot->done = slot->taken;
	es_copy_error(slot->error, error);
	LWLockRelease(&slot->lock);
	es_tell_progress(db);
}

bool
es_dismiss_scrubber(SharedDatabase *db, Oid database)
{
	ScrubberSlot *slot = slot_of(db);

	return es_dismiss_process(db, database, &slot->lock, &slot->pid);
}
