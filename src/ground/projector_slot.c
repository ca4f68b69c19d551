/*
 * projector_slot.c
 *		The places of a database's projectors in shared memory.
 *
 * A projector works for one role, and leaves when it has nothing to do.  Who makes
 * work for one that is not there asks the worker, which knows from the tables
 * whose projections are due, takes a place and starts a process for it; a place is its
 * process's from when that enters it until it exits.
 *
 * Whoever looks for work and finds none has the next transaction with events tell him:
 * "watching" is raised first and the log looked at after it, and the transaction
 * takes it down after its events can be seen.  It wakes the projectors that
 * are there, or the worker where there is none; they see to the others.  So one
 * transaction pays for that, however many follow until somebody has looked again, and
 * in a store without projections none does.
 *
 * A projector that exits for whatever reason has the worker look again.
 */
#include "postgres.h"

#include <signal.h>

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "ground/database_process.h"
#include "ground/projector_slot.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"

/* After one that could not connect the next is started so much later. */
#define ES_START_PAUSE_MS 1000
/* A process that has not arrived after so long does not come. */
#define ES_ARRIVAL_MS 10000

static void
initialise_projectors(void *memory)
{
	pg_atomic_init_u32(&((ProjectorSlot *) memory)->watching, 0);
	/* after a start somebody has to look */
	pg_atomic_init_u32(&((ProjectorSlot *) memory)->wanted, 1);
}

static void
clear_projectors(SharedDatabase *db)
{
	ProjectorSlot *slot = es_projector_slot(db);

	pg_atomic_write_u32(&slot->watching, 0);
	pg_atomic_write_u32(&slot->wanted, 1);
	slot->start_at = 0;
	memset(slot->places, 0, sizeof(slot->places));
}

DatabasePart es_projector_part = {sizeof(ProjectorSlot), initialise_projectors,
								  clear_projectors};

void
es_share_projectors(void)
{
	es_share_by_database(&es_projector_part);
}

/* ---------- waking ---------- */

/* Called from a commit callback: nothing here raises. */
void
es_end_watch(SharedDatabase *db)
{
	ProjectorSlot *slot = es_projector_slot(db);
	bool present = false;

	pg_memory_barrier();
	if (pg_atomic_exchange_u32(&slot->watching, 0) == 0)
		return;
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ES_PROJECTOR_PLACES; i++)
	{
		ProjectorPlace *place = &slot->places[i];

		if (place->latch == NULL)
			continue;
		present = true;
		place->called = true;
		SetLatch(place->latch);
	}
	LWLockRelease(db->lock);
	if (!present)
		es_want_projectors(db);
}

void
es_watch_events(SharedDatabase *db, bool watch)
{
	pg_atomic_write_u32(&es_projector_slot(db)->watching, watch ? 1 : 0);
	pg_memory_barrier();
}

void
es_want_projectors(SharedDatabase *db)
{
	ProjectorSlot *slot = es_projector_slot(db);

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ES_PROJECTOR_PLACES; i++)
	{
		slot->places[i].called = true;
		if (slot->places[i].latch != NULL)
			SetLatch(slot->places[i].latch);
	}
	LWLockRelease(db->lock);
	es_want_worker_to_start(db);
}

/* Called from a commit callback: nothing here raises. */
void
es_call_projector(SharedDatabase *db, Oid role)
{
	bool present = false;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ES_PROJECTOR_PLACES; i++)
	{
		ProjectorPlace *place = &es_projector_slot(db)->places[i];

		if (!place->taken || place->role != role)
			continue;
		/* one that is on its way out has the worker look when it has left */
		place->called = true;
		if (place->latch == NULL)
			continue;
		present = true;
		SetLatch(place->latch);
	}
	LWLockRelease(db->lock);
	if (!present)
		es_want_worker_to_start(db);
}

/* Once is enough until it has looked. */
void
es_want_worker_to_start(SharedDatabase *db)
{
	if (pg_atomic_exchange_u32(&es_projector_slot(db)->wanted, 1) == 0)
		es_nudge_worker(db);
}

static bool want_at_commit = false;

static void
want_if_committed(SharedDatabase *db, bool committed)
{
	if (committed && want_at_commit && db != NULL)
		es_want_projectors(db);
	want_at_commit = false;
}

void
es_note_projectors_wanted(void)
{
	es_at_end(ES_END_PROJECTORS, want_if_committed, NULL);
	want_at_commit = true;
}

bool
es_projectors_wanted(const SharedDatabase *db)
{
	return pg_atomic_read_u32(&es_projector_slot(db)->wanted) != 0;
}

void
es_take_projectors_wanted(SharedDatabase *db)
{
	(void) pg_atomic_exchange_u32(&es_projector_slot(db)->wanted, 0);
}

/* ---------- places ---------- */

/* Whether somebody is there, or on his way; the lock is held. */
static bool
is_taken(const ProjectorPlace *place, TimestampTz now)
{
	return place->taken && (place->pid != 0 ||
							es_may_arrive(place->taken_at, now, ES_ARRIVAL_MS));
}

bool
es_projector_present(SharedDatabase *db, Oid role)
{
	TimestampTz now = GetCurrentTimestamp();
	bool present = false;

	LWLockAcquire(db->lock, LW_SHARED);
	for (int i = 0; i < ES_PROJECTOR_PLACES; i++)
	{
		const ProjectorPlace *place = &es_projector_slot(db)->places[i];

		present = present || (is_taken(place, now) && place->role == role);
	}
	LWLockRelease(db->lock);
	return present;
}

/* Takes the first one that is free from one on; the lock is held. */
static int
take_free(ProjectorSlot *slot, Oid role, int from, int to)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = from; i < to; i++)
	{
		if (is_taken(&slot->places[i], now))
			continue;
		slot->places[i] =
			(ProjectorPlace){.taken = true, .role = role, .taken_at = now};
		return i;
	}
	return -1;
}

int
es_take_projector_place(SharedDatabase *db, Oid role, int places)
{
	ProjectorSlot *slot = es_projector_slot(db);
	int taken;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (!OidIsValid(role))
		taken = take_free(slot, role, 0, 1);
	else
		taken =
			take_free(slot, role, 1, Min(places, ES_PROJECTOR_PLACES - 1) + 1);
	for (int i = 1; i < ES_PROJECTOR_PLACES && taken < 0; i++)
	{
		if (!OidIsValid(role) || slot->places[i].latch == NULL)
			continue;
		slot->places[i].asked_to_go = true;
		SetLatch(slot->places[i].latch);
	}
	LWLockRelease(db->lock);
	return taken;
}

void
es_give_back_projector_place(SharedDatabase *db, int place)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	memset(&es_projector_slot(db)->places[place], 0, sizeof(ProjectorPlace));
	LWLockRelease(db->lock);
}

static int my_place = -1;
static bool arrived = false;
static bool retired = false;

/* Runs after the process has left the process array: who waits for it finds it gone. */
static void
leave_place(int code, Datum arg)
{
	SharedDatabase *db = (SharedDatabase *) DatumGetPointer(arg);
	ProjectorPlace *mine = &es_projector_slot(db)->places[my_place];
	TimestampTz now = GetCurrentTimestamp();
	bool wanted = !retired;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (mine->pid == MyProcPid)
	{
		/* called after it had retired */
		wanted = wanted || mine->called;
		memset(mine, 0, sizeof(*mine));
		if (!arrived)
			es_projector_slot(db)->start_at =
				TimestampTzPlusMilliseconds(now, ES_START_PAUSE_MS);
	}
	LWLockRelease(db->lock);
	es_tell_progress(db);
	if (wanted)
		es_want_projectors(db);
}

void
es_note_projector_arrived(void)
{
	arrived = true;
}

TimestampTz
es_projector_start_at(SharedDatabase *db)
{
	TimestampTz at;

	LWLockAcquire(db->lock, LW_SHARED);
	at = es_projector_slot(db)->start_at;
	LWLockRelease(db->lock);
	return es_end_of_pause(at, GetCurrentTimestamp(), ES_START_PAUSE_MS);
}

bool
es_enter_projector_place(SharedDatabase *db, Oid database, int place, Oid role)
{
	ProjectorPlace *mine = &es_projector_slot(db)->places[place];
	bool entered;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	entered = db->database == database && mine->taken && mine->role == role &&
			  mine->pid == 0 && es_worker_slot(db)->bars == 0;
	if (entered)
	{
		mine->pid = MyProcPid;
		mine->latch = MyLatch;
		mine->called = true;
	}
	else if (db->database == database && mine->taken && mine->role == role &&
			 mine->pid == 0)
	{
		/* barred: the worker looks again when it comes back */
		memset(mine, 0, sizeof(*mine));
		pg_atomic_write_u32(&es_projector_slot(db)->wanted, 1);
	}
	LWLockRelease(db->lock);
	if (!entered)
		return false;
	my_place = place;
	on_shmem_exit(leave_place, PointerGetDatum(db));
	return true;
}

bool
es_begin_looking(SharedDatabase *db, int place)
{
	bool asked;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_projector_slot(db)->places[place].called = false;
	es_projector_slot(db)->places[place].rests_since = 0;
	asked = es_projector_slot(db)->places[place].asked_to_go;
	LWLockRelease(db->lock);
	return asked;
}

bool
es_rest_projector(SharedDatabase *db, int place)
{
	ProjectorPlace *mine = &es_projector_slot(db)->places[place];
	bool gives_room;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	mine->rests_since = GetCurrentTimestamp();
	gives_room = mine->gives_room;
	mine->gives_room = false;
	LWLockRelease(db->lock);
	return gives_room;
}

/* The one of a database that has rested for longest, if before another; its place, or -1. */
static int
longest_resting(SharedDatabase *db, TimestampTz *since)
{
	int found = -1;

	LWLockAcquire(db->lock, LW_SHARED);
	for (int i = 0; OidIsValid(db->database) && i < ES_PROJECTOR_PLACES; i++)
	{
		const ProjectorPlace *place = &es_projector_slot(db)->places[i];

		if (place->latch == NULL || place->rests_since == 0 ||
			place->gives_room || place->rests_since >= *since)
			continue;
		*since = place->rests_since;
		found = i;
	}
	LWLockRelease(db->lock);
	return found;
}

/* It may have begun to work since; then it need not. */
static bool
ask_for_room(SharedDatabase *db, int number)
{
	ProjectorPlace *place = &es_projector_slot(db)->places[number];
	bool asked;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	asked = place->latch != NULL && place->rests_since != 0;
	if (asked)
	{
		place->gives_room = true;
		SetLatch(place->latch);
	}
	LWLockRelease(db->lock);
	return asked;
}

bool
es_ask_resting_projector(void)
{
	TimestampTz since = DT_NOEND;
	SharedDatabase *db = NULL;
	int place = -1;

	for (int i = 0; i < es_slots(); i++)
	{
		int found = longest_resting(es_database_numbered(i), &since);

		if (found < 0)
			continue;
		db = es_database_numbered(i);
		place = found;
	}
	return db != NULL && ask_for_room(db, place);
}

bool
es_projector_called(SharedDatabase *db, int place)
{
	bool called;

	LWLockAcquire(db->lock, LW_SHARED);
	called = es_projector_slot(db)->places[place].called ||
			 es_projector_slot(db)->places[place].asked_to_go;
	LWLockRelease(db->lock);
	return called;
}

bool
es_retire_projector(SharedDatabase *db, int place)
{
	ProjectorPlace *mine = &es_projector_slot(db)->places[place];

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	retired = !mine->called && !mine->asked_to_go;
	if (retired)
		mine->latch = NULL;
	LWLockRelease(db->lock);
	return retired;
}

bool
es_dismiss_projectors(SharedDatabase *db, Oid database)
{
	bool gone = true;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ES_PROJECTOR_PLACES && db->database == database; i++)
	{
		ProjectorPlace *place = &es_projector_slot(db)->places[i];

		if (place->pid == 0)
			continue;
		gone = false;
		place->latch = NULL;
		/* its exit callback needs the lock, so the process is still there */
		kill(place->pid, SIGTERM);
	}
	LWLockRelease(db->lock);
	return gone;
}
