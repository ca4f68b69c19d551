/*
 * worker_slot.c
 *		The places of a database's worker and of the launcher in shared memory.
 *
 * Who wants a worker, starts one, is one, or needs it out of the way meets the
 * others in the WorkerSlot of the database.  Its state:
 *
 *		NONE --call--> WANTED --launcher--> STARTING --connected--> RUNNING
 *		 ^               ^ ^------ failed -----'                     |  |
 *		 |               '------------- terminated ------------------'  |
 *		 '---- no store, nothing to do for a minute, or dismissed ------'
 *
 * Processes may be fewer than databases that want one.  Then a worker is asked
 * to leave its process to the one that has waited longest, and its own database
 * wants one again from when it has something due: so WANTED may speak of later.
 *
 * While no worker can be had, or each ends before it is running, the state is
 * UNAVAILABLE instead of WANTED: whoever waits for the worker then does its work
 * in the foreground.  It stays so until the launcher, which keeps trying, has
 * started one: whoever waits would otherwise believe in it again and again.
 *
 * A call asks for staging to be open and drained, a nudge for anything else.
 * Whoever makes work says so after the work can be seen, and a worker that
 * leaves looks, under the lock, whether somebody did since it last looked for
 * work: so no call is lost.
 *
 * A worker is dismissed, and others are kept out by a bar, while a command
 * needs the database for itself.  The bar is a count, as two commands may want
 * the same template.
 *
 * Everybody who waits for something that the worker does sleeps on one
 * condition variable, "progress".  It is broadcast when the lock was released.
 * Somebody else's code that a job runs, a reducer or a trigger, may come to
 * such a wait in the worker itself: there it raises an error at once.
 */
#include "postgres.h"

#include <signal.h>

#include "datatype/timestamp.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"

/* A launcher that was not seen for so long does not come back by itself. */
#define ES_LAUNCHER_RETURN_MS 15000
/* Callers are told so often that there is no worker. */
#define ES_COMPLAINT_MS 60000

/* ---------- states ---------- */

static const char *const state_names[] = {[ES_WORKER_NONE] = "none",
										  [ES_WORKER_WANTED] = "wanted",
										  [ES_WORKER_STARTING] = "starting",
										  [ES_WORKER_RUNNING] = "running",
										  [ES_WORKER_UNAVAILABLE] = "unavailable"};

#define FROM(state) (1 << ES_WORKER_##state)

/* The states that may come before each. */
PG_USED_FOR_ASSERTS_ONLY static const int states_before[] =
	{[ES_WORKER_NONE] = FROM(NONE) | FROM(WANTED) | FROM(STARTING) |
						FROM(RUNNING) | FROM(UNAVAILABLE),
	 [ES_WORKER_WANTED] =
		 FROM(NONE) | FROM(WANTED) | FROM(STARTING) | FROM(RUNNING),
	 [ES_WORKER_STARTING] =
		 FROM(NONE) | FROM(WANTED) | FROM(STARTING) | FROM(UNAVAILABLE),
	 [ES_WORKER_RUNNING] = FROM(STARTING),
	 [ES_WORKER_UNAVAILABLE] = FROM(NONE) | FROM(WANTED) | FROM(STARTING)};

StaticAssertDecl(lengthof(state_names) == ES_WORKER_UNAVAILABLE + 1,
				 "a name for each state");
StaticAssertDecl(lengthof(states_before) == ES_WORKER_UNAVAILABLE + 1,
				 "what may come before each state");

const char *
es_worker_state_name(WorkerState state)
{
	return state_names[state];
}

/* The one place where the state changes; the slot's lock is held. */
static void
set_state(SharedDatabase *db, WorkerState state)
{
	Assert(LWLockHeldByMeInMode(db->lock, LW_EXCLUSIVE));
	Assert((states_before[state] & (1 << es_worker_slot(db)->state)) != 0);
	es_worker_slot(db)->state = state;
	/* who waits keeps its place in the queue until one is running */
	if (state == ES_WORKER_NONE || state == ES_WORKER_RUNNING)
		es_worker_slot(db)->wanted_at = 0;
	else if (es_worker_slot(db)->wanted_at == 0)
		es_worker_slot(db)->wanted_at = GetCurrentTimestamp();
}

static bool
is_coming_or_there(const SharedDatabase *db)
{
	return es_worker_slot(db)->state == ES_WORKER_STARTING ||
		   es_worker_slot(db)->state == ES_WORKER_RUNNING;
}

bool
es_worker_possible(const SharedDatabase *db)
{
	return db != NULL && es_worker_slot(db)->state != ES_WORKER_UNAVAILABLE &&
		   es_worker_slot(db)->bars == 0;
}

bool
es_worker_unavailable(const SharedDatabase *db)
{
	return es_worker_slot(db)->state == ES_WORKER_UNAVAILABLE;
}

void
es_complain_of_no_worker(SharedDatabase *db)
{
	TimestampTz now = GetCurrentTimestamp();
	bool due;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	due = es_worker_slot(db)->complained_at == 0 ||
		  TimestampDifferenceExceeds(es_worker_slot(db)->complained_at, now,
									 ES_COMPLAINT_MS);
	if (due)
		es_worker_slot(db)->complained_at = now;
	LWLockRelease(db->lock);
	if (due)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("event_store has no worker for database \"%s\": what is to be staged is written durably",
						get_database_name(MyDatabaseId)),
				 errdetail("It is tried again; this is said once a minute at most."),
				 errhint("You might need to increase %s; the server log says why none could be started.",
						 "max_worker_processes")));
}

static void
initialise_slot(void *memory)
{
	ConditionVariableInit(&((WorkerSlot *) memory)->progress);
}

static void
clear_slot(SharedDatabase *db)
{
	WorkerSlot *slot = es_worker_slot(db);

	set_state(db, ES_WORKER_NONE);
	slot->pid = 0;
	slot->latch = NULL;
	slot->started_at = 0;
	slot->resting_at = 0;
	slot->asked_to_go = false;
	slot->complained_at = 0;
	slot->ran = false;
	slot->called = false;
	slot->nudged = false;
	slot->bars = 0;
	memset(slot->jobs, 0, sizeof(slot->jobs));
}

DatabasePart es_worker_part = {sizeof(WorkerSlot), initialise_slot, clear_slot};

/* Whether a worker has looked, and its database does without a place. */
static bool
is_unused(const SharedDatabase *db)
{
	const WorkerSlot *slot = es_worker_slot(db);

	return !db->claimed && slot->bars == 0 && slot->pid == 0 &&
		   slot->state == ES_WORKER_NONE;
}

/* The same, when nobody has looked. */
static bool
is_unused_and_unreserved(const SharedDatabase *db)
{
	return is_unused(db) && !db->reserved;
}

void
es_release_database(Oid database)
{
	(void) es_give_back_slot(database, is_unused);
}

void
es_free_database(Oid database)
{
	SharedDatabase *db = es_give_back_slot(database, NULL);

	if (db != NULL)
		es_tell_progress(db);
}

void
es_tell_progress(SharedDatabase *db)
{
	Assert(!LWLockHeldByMe(db->lock));
	ConditionVariableBroadcast(&es_worker_slot(db)->progress);
}

bool
es_is_worker(const SharedDatabase *db)
{
	return db != NULL && es_worker_slot(db)->pid == MyProcPid;
}

/*
 * Under the drain this blames the row whose trigger does it, as any error that
 * a trigger raises of its own accord: trying again would not help.
 */
void
es_refuse_in_worker(const SharedDatabase *db)
{
	if (es_is_worker(db))
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("the worker cannot wait for itself"),
				 errdetail("Code that the worker runs has to do without what is staged becoming durable, which is the worker's own work.")));
}

void
es_begin_wait(SharedDatabase *db)
{
	es_refuse_in_worker(db);
	es_begin_wait_on(&es_worker_slot(db)->progress);
}

void
es_wait(SharedDatabase *db, long timeout, uint32 wait_event)
{
	es_wait_on(&es_worker_slot(db)->progress, timeout, wait_event);
}

/* Ends a change of the slot. */
static void
unlock_and_tell(SharedDatabase *db)
{
	LWLockRelease(db->lock);
	es_tell_progress(db);
}

/* ---------- the launcher's place ---------- */

static Size
launcher_size(void)
{
	return sizeof(LauncherSlot);
}

static bool launcher_registered = false;

void
es_expect_launcher(bool expected)
{
	launcher_registered = expected;
}

/* One that could not even be registered will never be there. */
static void
initialise_launcher(void *memory)
{
	if (launcher_registered)
		((LauncherSlot *) memory)->gone_at = GetCurrentTimestamp();
}

static ClusterPart launcher_part = {"event_store launcher", launcher_size,
									initialise_launcher};

static LauncherSlot *
launcher_slot(void)
{
	return launcher_part.memory;
}

void
es_share_worker_slots(void)
{
	es_share_by_database(&es_worker_part);
	es_share(&launcher_part);
}

static void
leave_launcher_slot(int code, Datum arg)
{
	LauncherSlot *launcher = launcher_slot();

	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	if (launcher->pid == MyProcPid)
	{
		launcher->pid = 0;
		launcher->latch = NULL;
		launcher->gone_at = GetCurrentTimestamp();
	}
	LWLockRelease(es_shared->lock);
}

void
es_enter_launcher_slot(void)
{
	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	launcher_slot()->pid = MyProcPid;
	launcher_slot()->latch = MyLatch;
	LWLockRelease(es_shared->lock);
	on_shmem_exit(leave_launcher_slot, (Datum) 0);
}

pid_t
es_launcher_pid(void)
{
	pid_t pid;

	LWLockAcquire(es_shared->lock, LW_SHARED);
	pid = launcher_slot()->pid;
	LWLockRelease(es_shared->lock);
	return pid;
}

/* Is there a launcher, or will there be one soon? */
static bool
launcher_expected(void)
{
	bool expected;

	LWLockAcquire(es_shared->lock, LW_SHARED);
	expected = launcher_slot()->pid != 0 ||
			   !TimestampDifferenceExceeds(launcher_slot()->gone_at,
										   GetCurrentTimestamp(),
										   ES_LAUNCHER_RETURN_MS);
	LWLockRelease(es_shared->lock);
	return expected;
}

void
es_wake_launcher(void)
{
	LWLockAcquire(es_shared->lock, LW_SHARED);
	if (launcher_slot()->latch != NULL)
		SetLatch(launcher_slot()->latch);
	LWLockRelease(es_shared->lock);
}

/* ---------- waking the worker ---------- */

/* Called from a commit callback: nothing here raises. */
static void
rouse_worker(SharedDatabase *db, bool call)
{
	bool expected = launcher_expected();
	bool wanted = false;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (call)
		es_worker_slot(db)->called = true;
	else
		es_worker_slot(db)->nudged = true;
	switch (es_worker_slot(db)->state)
	{
		case ES_WORKER_STARTING:
		case ES_WORKER_RUNNING:
			if (es_worker_slot(db)->latch != NULL)
				SetLatch(es_worker_slot(db)->latch);
			break;
		case ES_WORKER_NONE:
		case ES_WORKER_WANTED:
			wanted = true;
			set_state(db, expected ? ES_WORKER_WANTED : ES_WORKER_UNAVAILABLE);
			/* it may have been wanted for later */
			es_worker_slot(db)->wanted_at =
				Min(es_worker_slot(db)->wanted_at, GetCurrentTimestamp());
			break;
		case ES_WORKER_UNAVAILABLE:
			break;
	}
	LWLockRelease(db->lock);

	if (wanted && expected)
		es_wake_launcher();
	else if (wanted)
		es_tell_progress(db);
}

void
es_wake_worker(SharedDatabase *db)
{
	/*
	 * Called and not yet looked: it will see, after it has taken the call, all
	 * that was counted before we read this.
	 */
	pg_memory_barrier();
	if (!es_worker_slot(db)->called ||
		es_worker_slot(db)->state != ES_WORKER_RUNNING)
		rouse_worker(db, true);
}

void
es_nudge_worker(SharedDatabase *db)
{
	rouse_worker(db, false);
}

static bool wake_at_commit = false;

static void
wake_if_committed(SharedDatabase *db, bool committed)
{
	if (committed && wake_at_commit && db != NULL)
		es_wake_worker(db);
	wake_at_commit = false;
}

void
es_note_wake(void)
{
	es_at_end(ES_END_WAKE, wake_if_committed, NULL);
	wake_at_commit = true;
}

/* ---------- what the launcher does ---------- */

/* One that is about to exit still stands in the slot; its end is reported. */
bool
es_worker_wanted(SharedDatabase *db, Oid database, TimestampTz *wanted_at)
{
	bool wanted;

	LWLockAcquire(db->lock, LW_SHARED);
	wanted = db->database == database && es_worker_slot(db)->pid == 0 &&
			 es_worker_slot(db)->bars == 0 &&
			 (es_worker_slot(db)->state == ES_WORKER_WANTED ||
			  es_worker_slot(db)->state == ES_WORKER_UNAVAILABLE);
	*wanted_at = es_worker_slot(db)->wanted_at;
	LWLockRelease(db->lock);
	return wanted;
}

bool
es_worker_present(SharedDatabase *db)
{
	bool present;

	LWLockAcquire(db->lock, LW_SHARED);
	present = es_worker_slot(db)->pid != 0 || is_coming_or_there(db);
	LWLockRelease(db->lock);
	return present;
}

bool
es_worker_may_go(SharedDatabase *db, TimestampTz tenure,
				 TimestampTz *resting_at, TimestampTz *started_at)
{
	const WorkerSlot *slot = es_worker_slot(db);
	bool may_go;

	LWLockAcquire(db->lock, LW_SHARED);
	may_go = slot->state == ES_WORKER_RUNNING && !slot->asked_to_go &&
			 (slot->resting_at != 0 || slot->started_at <= tenure);
	*resting_at = slot->resting_at;
	*started_at = slot->started_at;
	LWLockRelease(db->lock);
	return may_go;
}

bool
es_worker_asked_to_go(const SharedDatabase *db)
{
	return es_worker_slot(db)->asked_to_go && es_worker_slot(db)->pid != 0;
}

void
es_ask_to_go(SharedDatabase *db)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (es_worker_slot(db)->latch != NULL)
	{
		es_worker_slot(db)->asked_to_go = true;
		SetLatch(es_worker_slot(db)->latch);
	}
	LWLockRelease(db->lock);
}

bool
es_worker_starting(SharedDatabase *db)
{
	return es_worker_slot(db)->state == ES_WORKER_STARTING;
}

void
es_want_worker(SharedDatabase *db, Oid database)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (db->database == database && es_worker_slot(db)->state == ES_WORKER_NONE)
		set_state(db, ES_WORKER_WANTED);
	unlock_and_tell(db);
}

void
es_want_lost_worker(SharedDatabase *db)
{
	if (!es_worker_starting(db))
		return;
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (es_worker_slot(db)->state == ES_WORKER_STARTING &&
		es_worker_slot(db)->pid == 0)
		set_state(db, ES_WORKER_WANTED);
	unlock_and_tell(db);
}

void
es_begin_start(SharedDatabase *db)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (es_worker_slot(db)->pid == 0)
		es_worker_slot(db)->ran = false;
	LWLockRelease(db->lock);
}

/* It may be up already, and even gone again. */
void
es_mark_starting(SharedDatabase *db, Oid database)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (db->database == database && es_worker_slot(db)->pid == 0 &&
		(es_worker_slot(db)->state == ES_WORKER_WANTED ||
		 es_worker_slot(db)->state == ES_WORKER_UNAVAILABLE))
		set_state(db, ES_WORKER_STARTING);
	unlock_and_tell(db);
}

bool
es_worker_missed(SharedDatabase *db, Oid database, bool *ran)
{
	bool missed;

	LWLockAcquire(db->lock, LW_SHARED);
	missed = db->database == database && es_worker_slot(db)->pid == 0 &&
			 (es_worker_slot(db)->state == ES_WORKER_WANTED ||
			  es_worker_slot(db)->state == ES_WORKER_STARTING);
	*ran = es_worker_slot(db)->ran;
	LWLockRelease(db->lock);
	return missed;
}

void
es_settle_start(SharedDatabase *db, Oid database, bool possible)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (db->database == database && es_worker_slot(db)->pid == 0 &&
		(es_worker_slot(db)->state == ES_WORKER_WANTED ||
		 es_worker_slot(db)->state == ES_WORKER_STARTING))
		set_state(db, possible ? ES_WORKER_WANTED : ES_WORKER_UNAVAILABLE);
	unlock_and_tell(db);
}

/* ---------- what the worker does ---------- */

/*
 * Takes this process's marks out of the slot.  Runs after the process has left
 * the process array, so that who waits for its end finds it gone.
 */
static void
leave_worker_slot(int code, Datum arg)
{
	SharedDatabase *db = (SharedDatabase *) DatumGetPointer(arg);

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (es_worker_slot(db)->pid == MyProcPid)
	{
		es_worker_slot(db)->pid = 0;
		es_worker_slot(db)->latch = NULL;
		for (int i = 0; i < ES_MAX_JOBS; i++)
			es_worker_slot(db)->jobs[i].running = false;
		if (is_coming_or_there(db) || (es_worker_slot(db)->state == ES_WORKER_NONE &&
									   es_worker_slot(db)->called))
			set_state(db, ES_WORKER_WANTED);
	}
	unlock_and_tell(db);
	es_wake_launcher();
}

/* Takes the place, if it is still there to be taken. */
bool
es_enter_worker_slot(SharedDatabase *db, Oid database)
{
	bool entered;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	entered = db->database == database && es_worker_slot(db)->pid == 0 &&
			  es_worker_slot(db)->bars == 0;
	if (entered)
	{
		es_worker_slot(db)->pid = MyProcPid;
		es_worker_slot(db)->latch = MyLatch;
		es_worker_slot(db)->started_at = GetCurrentTimestamp();
		es_worker_slot(db)->resting_at = 0;
		es_worker_slot(db)->asked_to_go = false;
		set_state(db, ES_WORKER_STARTING);
	}
	else if (db->database == database && es_worker_slot(db)->pid == 0)
	{
		/* barred: it is called again afterwards, which is no failure */
		set_state(db, ES_WORKER_NONE);
		es_worker_slot(db)->called = true;
	}
	unlock_and_tell(db);
	if (entered)
		on_shmem_exit(leave_worker_slot, PointerGetDatum(db));
	return entered;
}

/* False if it was dismissed while it connected. */
bool
es_report_for_duty(SharedDatabase *db)
{
	bool starting;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	starting = es_worker_slot(db)->state == ES_WORKER_STARTING;
	if (starting)
	{
		set_state(db, ES_WORKER_RUNNING);
		es_worker_slot(db)->ran = true;
	}
	unlock_and_tell(db);
	es_wake_launcher();
	return starting;
}

bool
es_take_call(SharedDatabase *db, bool *needed)
{
	bool called;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (es_worker_slot(db)->called || es_worker_slot(db)->nudged)
		*needed = true;
	/* one that was dismissed must not take what calls the next */
	called = es_worker_slot(db)->state == ES_WORKER_RUNNING &&
			 es_worker_slot(db)->called;
	if (es_worker_slot(db)->state == ES_WORKER_RUNNING)
	{
		es_worker_slot(db)->called = false;
		es_worker_slot(db)->nudged = false;
	}
	LWLockRelease(db->lock);
	return called;
}

/* One that was dismissed goes, too; the state is then not its own any more. */
bool
es_retire_worker(SharedDatabase *db)
{
	bool retired;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	retired = !es_worker_slot(db)->called && !es_worker_slot(db)->nudged;
	if (retired)
	{
		es_worker_slot(db)->latch = NULL;
		if (es_worker_slot(db)->state == ES_WORKER_RUNNING)
			set_state(db, ES_WORKER_NONE);
	}
	unlock_and_tell(db);
	return retired;
}

void
es_note_rest(SharedDatabase *db, bool rests)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_worker_slot(db)->resting_at = rests ? GetCurrentTimestamp() : 0;
	LWLockRelease(db->lock);
}

void
es_yield_worker(SharedDatabase *db, long due, bool called)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_worker_slot(db)->latch = NULL;
	if (called)
		es_worker_slot(db)->called = true;
	if (es_worker_slot(db)->called || es_worker_slot(db)->nudged)
		due = 0;
	if (es_worker_slot(db)->state == ES_WORKER_RUNNING)
		set_state(db, due < 0 ? ES_WORKER_NONE : ES_WORKER_WANTED);
	if (es_worker_slot(db)->state == ES_WORKER_WANTED)
		es_worker_slot(db)->wanted_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), due);
	unlock_and_tell(db);
}

void
es_copy_error(char *error, const char *message)
{
	int length = pg_mbcliplen(message, strlen(message), ES_ERROR_CHARS - 1);

	memcpy(error, message, length);
	error[length] = '\0';
}

void
es_begin_job(SharedDatabase *db, int job)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_worker_slot(db)->jobs[job].running = true;
	es_worker_slot(db)->jobs[job].last_run_at = now;
	LWLockRelease(db->lock);
}

/* A failure counts until what failed went through, or there is nothing to do. */
void
es_forget_job_failures(SharedDatabase *db, int job)
{
	if (es_worker_slot(db)->jobs[job].failures == 0)
		return;
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_worker_slot(db)->jobs[job].failures = 0;
	LWLockRelease(db->lock);
}

int
es_end_job(SharedDatabase *db, int job, bool succeeded, const char *error)
{
	JobStatus *status = &es_worker_slot(db)->jobs[job];
	TimestampTz now = GetCurrentTimestamp();
	int failures;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	status->running = false;
	if (succeeded)
		status->last_error[0] = '\0';
	if (error != NULL)
		es_copy_error(status->last_error, error);
	status->last_error_at = error != NULL ? now
							: succeeded	  ? 0
										  : status->last_error_at;
	failures = status->failures = succeeded ? 0 : status->failures + 1;
	LWLockRelease(db->lock);
	return failures;
}

/* ---------- commands that need the database for themselves ---------- */

SharedDatabase *
es_bar_worker(Oid database, bool *has_store)
{
	SharedDatabase *db;

	while ((db = es_make_database(database)) != NULL)
	{
		bool ours;

		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		/* the launcher may have given it back in between */
		ours = db->database == database;
		if (ours)
		{
			es_worker_slot(db)->bars++;
			*has_store = db->claimed;
		}
		unlock_and_tell(db);
		if (ours)
			break;
	}
	return db;
}

/* At the last bar a worker may come back, if there is reason. */
void
es_unbar_worker(Oid database)
{
	SharedDatabase *db = es_find_database(database);
	bool wake = false;

	if (db == NULL)
		return;
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (db->database == database && es_worker_slot(db)->bars > 0 &&
		--es_worker_slot(db)->bars == 0)
	{
		if (es_worker_slot(db)->state == ES_WORKER_NONE &&
			(es_worker_slot(db)->called || es_worker_slot(db)->nudged))
			set_state(db, ES_WORKER_WANTED);
		wake = es_worker_slot(db)->state == ES_WORKER_WANTED;
	}
	unlock_and_tell(db);
	if (wake)
		es_wake_launcher();
	else
		(void) es_give_back_slot(database, is_unused_and_unreserved);
}

bool
es_dismiss_worker(SharedDatabase *db, Oid database)
{
	bool gone;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	gone = db->database != database || es_worker_slot(db)->pid == 0;
	if (!gone)
	{
		if (is_coming_or_there(db))
		{
			set_state(db, ES_WORKER_NONE);
			/* another one shall go on with what it leaves */
			es_worker_slot(db)->nudged = true;
		}
		es_worker_slot(db)->latch = NULL;
		/* its exit callback needs the lock, so the process is still there */
		kill(es_worker_slot(db)->pid, SIGTERM);
	}
	LWLockRelease(db->lock);
	return gone;
}
