/*
 * worker.c
 *		The database worker: its turns, and its end.
 *
 * A worker serves one database.  The launcher starts it (launcher.c); it finds
 * out whether there is a store, else it leaves at once.
 *
 * What it does is a table of jobs (job.c), each of which takes steps (step.c).
 *
 * A job that fails is tried again after a pause that doubles.  Its failure is
 * its own: the other jobs go on, and only the drain's, and that of opening
 * staging, which comes before it, makes the drain back off.
 * Jobs take turns, so that none is kept waiting by one that is always due; some
 * give way to rounds of draining under sustained load.
 *
 * Between turns it sleeps on its latch: until a job is due, or, when nothing is
 * staged, until it has been idle for long enough to leave.  Whoever makes work
 * wakes it; so an idle store runs no queries.
 *
 * SIGTERM makes it exit at once (process.c): the step is rolled back, staged rows
 * stay, and its exit callback asks for the next worker.  So does a reload of the
 * settings, between two turns, since those of the database are read at the start.
 * When the server stops it first drains what is staged, in bounded time.  It leaves
 * of its own accord only if nobody called it meanwhile (worker_slot.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "ground/kept_error.h"
#include "ground/metrics.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "process/job.h"
#include "process/process.h"
#include "process/step.h"
#include "replay/snapshot.h"
#include "staging/drain_state.h"
#include "staging/staging_state.h"

/* At a stop of the server: who may stage is looked for so often, and so long. */
#define ES_LAST_LOOK_MS 10
#define ES_LAST_CLIENTS_MS 500
/*
 * While somebody waits, the pause after a failure is so many times shorter, though
 * never below the first one: it grows all the same, and is well within the time
 * that a waiter has.
 */
#define ES_HURRY 8

PGDLLEXPORT void es_worker_main(Datum arg);

/* Before this process leaves its place. */
static void
stop_draining(int code, Datum arg)
{
	SharedDatabase *db = (SharedDatabase *) DatumGetPointer(arg);
	int job = es_overdue_job();

	if (es_worker_slot(db)->pid != MyProcPid)
		return;
	if (job >= 0)
	{
		const char *error = es_give_up_snapshot(db);

		ereport(LOG, errmsg_internal("event_store worker ends itself: %s",
									 error == NULL ? "a step did not end"
												   : es_kept_message(error)));
		es_count_in(db, ES_COUNT_WORKER_FAILURES);
		(void) es_end_job(db, job, false, error);
	}
	es_set_drain_state(db, ES_DRAIN_STOPPED);
}

/* Comes up in this database, or exits where it is not wanted there. */
static void
begin_duty(SharedDatabase *db, Oid database)
{
	if (!es_enter_worker_slot(db, database))
		proc_exit(0);
	on_shmem_exit(stop_draining, PointerGetDatum(db));
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	if (!es_report_for_duty(db))
		proc_exit(0);
	es_set_drain_state(db, ES_DRAIN_IDLE);
	es_count_in(db, ES_COUNT_WORKER_STARTS);
}

/* ---------- turns ---------- */

static int
first_pause(const Job *job)
{
	return job->first_pause > 0 ? job->first_pause : es_first_pause();
}

/* The pause after so many failures in a row: doubled each time. */
static double
doubled_pause(const Job *job, int failures)
{
	double pause = first_pause(job);
	double longest = Max(pause, es_retry_max);

	for (int i = 1; i < failures && pause < longest; i++)
		pause *= 2;
	return Min(pause, longest);
}

/* The same, jittered. */
static long
failure_pause(const Job *job, int failures)
{
	return (long) (doubled_pause(job, failures) *
				   (1.0 + 0.25 * pg_prng_double(&pg_global_prng_state)));
}

/* The same while somebody waits. */
static long
hurried_pause(const Job *job, int failures)
{
	return Max((long) (doubled_pause(job, failures) / ES_HURRY), first_pause(job));
}

/*
 * When a job runs next: in milliseconds, 0 = now, -1 = not at all.  But for the
 * one that finds out, there is nothing to do without a store.
 */
static long
time_until(Work *work, int number)
{
	const Job *job = &es_jobs[number];
	JobTurn *turn = &work->turns[number];
	long rest;
	int failures = es_worker_slot(work->db)->jobs[number].failures;
	long due;

	if (work->store_gone && number != ES_JOB_OPEN)
		return -1;
	due = job->time_until_due(work);
	if (due < 0)
		return -1;
	rest = es_milliseconds_of(turn->not_before, turn->rest);
	if (failures > 0 && job->hurried != NULL && job->hurried(work->db))
		rest = Min(rest, es_milliseconds_left(turn->failed_at,
											  hurried_pause(job, failures)));
	return Max(due, rest);
}

/* The next job in turn that is due; -1 = none. */
static int
next_job(Work *work, const long *times)
{
	bool sustained =
		times[ES_JOB_DRAIN] == 0 && work->rounds < ES_ROUNDS_PER_TURN;

	for (int i = 1; i <= es_job_count; i++)
	{
		int number = (work->last_job + i) % es_job_count;

		if (times[number] == 0 && !(sustained && es_jobs[number].gives_way))
			return number;
	}
	return -1;
}

static void
run_job(Work *work, int number)
{
	const Job *job = &es_jobs[number];
	JobTurn *turn = &work->turns[number];
	bool succeeded;
	int failures;

	work->last_job = number;
	work->error[0] = '\0';
	turn->not_before = 0;
	es_set_running_job(number);
	es_begin_job(work->db, number);
	succeeded = job->run(work, turn);
	es_set_running_job(-1);
	failures = es_end_job(work->db, number, succeeded,
						  work->error[0] == '\0' ? NULL : work->error);
	if (!succeeded)
	{
		turn->failed_at = GetCurrentTimestamp();
		turn->not_before =
			TimestampTzPlusMilliseconds(turn->failed_at,
										failure_pause(job, failures));
		if (job->failed != NULL)
			job->failed(work);
	}
	else if (job->keeps_worker)
		work->last_work_at = GetCurrentTimestamp();
	turn->rest = es_milliseconds_until(turn->not_before);
}

/*
 * Nothing is due: sleeps, or leaves when staging is closed and there was nothing
 * to stay for long enough.  Who was started to have a look, and found nothing,
 * leaves at once: others may be waiting for the process.
 */
static void
rest(Work *work, const long *times, uint32 wait_event)
{
	bool stays = es_staging_is(work->db, ES_STAGING_OPEN);
	long timeout = -1;

	for (int i = 0; i < es_job_count; i++)
	{
		if (times[i] < 0)
			continue;
		timeout = timeout < 0 ? times[i] : Min(timeout, times[i]);
		stays = stays || es_jobs[i].keeps_worker;
	}
	if (!stays)
	{
		long left = es_milliseconds_left(work->last_work_at, ES_IDLE_EXIT_MS);

		if (left == 0 || !work->needed)
		{
			es_leave_unless_called(work);
			return;
		}
		timeout = timeout < 0 ? left : Min(timeout, left);
	}
	es_note_rest(work->db, true);
	es_sleep_on_latch(timeout, wait_event);
	es_note_rest(work->db, false);
}

/* ---------- the end ---------- */

/* Others wait for the process: leaves it to them until something is due again. */
static void
leave_to_others(Work *work, const long *times)
{
	bool open = es_staging_is(work->db, ES_STAGING_OPEN);
	long due = -1;

	for (int i = 0; i < es_job_count; i++)
	{
		if (times[i] >= 0 && (open || es_jobs[i].keeps_worker))
			due = due < 0 ? times[i] : Min(due, times[i]);
	}
	es_yield_worker(work->db, due, work->called);
	proc_exit(0);
}

/*
 * Whether anybody may still stage something.  Who is connected is being
 * terminated, and may be in the middle of a commit; a client of another kind, as
 * one that reads the log, stays.
 */
static bool
may_be_staged(SharedDatabase *db)
{
	TimestampTz asked_at =
		TimestampTzPlusMilliseconds(es_grace_end(), -es_drain_at_shutdown);

	if (pg_atomic_read_u64(&es_staging(db)->uncommitted) > 0)
		return true;
	return CountDBConnections(MyDatabaseId) > 0 &&
		   !TimestampDifferenceExceeds(asked_at, GetCurrentTimestamp(),
									   ES_LAST_CLIENTS_MS);
}

/* Runs a step that has to end with the grace; returns whether it went through. */
static bool
run_last_step(Work *work, const Step *step)
{
	long left = es_milliseconds_until(es_grace_end());
	bool succeeded;

	if (left == 0)
		return false;
	enable_timeout_after(STATEMENT_TIMEOUT, left);
	succeeded = es_run_step(work->db, step, work, work->error);
	disable_timeout(STATEMENT_TIMEOUT, false);
	return succeeded && !work->store_gone;
}

/*
 * The server stops: what is staged would be there again after the start, but is
 * not on a standby, which may take over now.  Who stages is being terminated,
 * and streaming goes on to the very end.
 */
static void
drain_at_stop(Work *work, uint32 wait_event)
{
	SharedDatabase *db = work->db;

	while (es_milliseconds_until(es_grace_end()) > 0)
	{
		bool staged = es_staged_rows(db) > 0;
		bool waits = !staged && may_be_staged(db);

		if (staged)
		{
			if (!run_last_step(work, &es_drain_step))
				break;
			waits = work->round.moved == 0;
		}
		else if (!waits)
		{
			if (!run_last_step(work, &es_close_step) || work->closed)
				break;
			waits = true;
		}
		if (waits)
			es_sleep_on_latch(ES_LAST_LOOK_MS, wait_event);
		(void) es_heed_signals();
	}
	if (es_staged_rows(db) > 0)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event_store leaves " UINT64_FORMAT
						" rows staged in database \"%s\" at this stop",
						es_staged_rows(db), work->database),
				 errdetail("They are drained after the next start. A standby that takes over does not have them."),
				 errhint("You might need to increase %s.",
						 "event_store.drain_at_shutdown")));
}

/* SIGTERM: a command needs the database, or the server stops. */
static void
leave_for_good(Work *work, uint32 wait_event)
{
	if (es_grace_end() != 0 && es_drain_at_shutdown > 0 && !work->store_gone &&
		es_worker_slot(work->db)->state == ES_WORKER_RUNNING &&
		es_staging_is(work->db, ES_STAGING_OPEN))
		drain_at_stop(work, wait_event);
	proc_exit(0);
}

/*
 * What is set for a database is read when a process connects to it, so a reload
 * makes the next worker come.  A call that was taken is its.
 */
static void
start_anew(Work *work)
{
	if (work->called)
		es_wake_worker(work->db);
	proc_exit(0);
}

/* ---------- a turn ---------- */

/* One turn: runs a job that is due, or rests. */
static void
take_turn(Work *work, uint32 wait_event)
{
	SharedDatabase *db = work->db;
	long times[ES_MAX_JOBS] = {0};
	bool reloaded = es_heed_signals();
	int number;

	if (es_asked_to_leave())
		leave_for_good(work, wait_event);
	if (reloaded)
		start_anew(work);
	if (es_take_call(db, &work->needed))
		work->called = true;
	if (es_staging_is(db, ES_STAGING_OPEN) && es_staged_rows(db) > 0)
		work->called = false;
	for (int i = 0; i < es_job_count; i++)
	{
		times[i] = time_until(work, i);
		if (times[i] < 0)
			es_forget_job_failures(db, i);
	}
	if (times[ES_JOB_DRAIN] != 0)
	{
		work->rounds = 0;
		if (es_drain_progress(db)->state == ES_DRAIN_DRAINING)
			es_set_drain_state(db, ES_DRAIN_IDLE);
	}
	if (es_worker_asked_to_go(db))
		leave_to_others(work, times);
	number = next_job(work, times);
	if (number >= 0)
		run_job(work, number);
	else
		rest(work, times, wait_event);
}

/* ---------- the process ---------- */

/* Looks up the name of this database, for messages. */
static void
note_database(Work *work)
{
	char *name;

	StartTransactionCommand();
	name = get_database_name(MyDatabaseId);
	strlcpy(work->database, name != NULL ? name : "", NAMEDATALEN);
	CommitTransactionCommand();
}

void
es_worker_main(Datum arg)
{
	Work work;
	Oid database;
	uint32 wait_event;

	memset(&work, 0, sizeof(work));
	work.db = es_database_numbered(DatumGetInt32(arg));
	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
	es_enter_process(&es_drain_at_shutdown);
	begin_duty(work.db, database);
	es_prepare_limits();
	note_database(&work);
	es_end_busy();
	es_pin_settings(0);
	pgstat_report_appname("event_store worker");
	wait_event = WaitEventExtensionNew("EventStoreWorkerMain");

	work.store_gone = true; /* until it was looked for */
	/* only after the start of the server it is there to have a look */
	work.needed = !es_staging_is(work.db, ES_STAGING_UNKNOWN);
	work.last_job = es_job_count - 1;
	MemoryContextSwitchTo(TopMemoryContext);
	for (;;)
		take_turn(&work, wait_event);
}
