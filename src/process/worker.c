/*
 * worker.c
 *		The database worker: when its jobs run.
 *
 * A worker serves one database.  The launcher starts it (launcher.c); it finds
 * out whether there is a store, else it leaves at once.
 *
 * What it does is a table of jobs: opening staging, the drain, giving space
 * back, storing the safe position for standbys, snapshots of aggregates,
 * pruning the history of dead letters, forgetting processed messages, deleting old
 * positions of subscriptions, closing staging.  A job says when it is due, and does a bounded
 * piece of work in steps, each in a transaction of its own.  What a step does
 * stands in drain.c, segment.c, position.c, snapshot.c, processed.c and prune.c, and every step can also
 * be run in the foreground by a function.
 *
 * A job that fails is tried again after a pause that doubles.  Its failure is
 * its own: the other jobs go on, and only the drain's, and that of opening
 * staging, which comes before it, makes the drain back off.
 * Jobs take turns, so that none is kept waiting by one that is always due; some
 * give way to rounds of draining under sustained load.
 *
 * Nothing that a job runs may wait for this worker, since it would wait for
 * itself; and its steps but the drain give up soon what they wait for, since
 * who holds it may wait for the drain.
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

#include <signal.h>

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "common/pg_prng.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/processed.h"
#include "consume/prune.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/due_snapshot.h"
#include "ground/log_identity.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "process/process.h"
#include "replay/snapshot.h"
#include "staging/drain.h"
#include "staging/drain_state.h"
#include "staging/segment.h"
#include "staging/staging_state.h"
#include "write/settle.h"

/* A worker with nothing to do leaves after this long. */
#define ES_IDLE_EXIT_MS 60000
/* At a stop of the server: who may stage is looked for so often, and so long. */
#define ES_LAST_LOOK_MS 10
#define ES_LAST_CLIENTS_MS 500
/* The first pause after a round that was due and found nothing to move. */
#define ES_EMPTY_ROUND_PAUSE_MS 10
/* Under sustained load jobs that give way get a turn after so many rounds. */
#define ES_ROUNDS_PER_TURN 16
/*
 * A snapshot is followed by a rest of so many times the time it took, up to so
 * long: a slow aggregate type shall not keep the others waiting.
 */
#define ES_SNAPSHOT_REST 9
#define ES_SNAPSHOT_REST_MS 1000

/*
 * While somebody waits, the pause after a failure is so many times shorter, though
 * never below the first one: it grows all the same, and is well within the time
 * that a waiter has.
 */
#define ES_HURRY 8

/* A snapshot may take so long. */
#define ES_SNAPSHOT_MS 10000
/* Steps but the drain wait so long for locks. */
#define ES_STEP_LOCK_TIMEOUT "1s"
/* The safe position is stored at most this often, and if that failed, this. */
#define ES_POSITION_PAUSE_MS 1000
#define ES_POSITION_RETRY_MS 30000

/* Rows of the history of dead letters go in steps of so many, and so often. */
#define ES_PRUNE_ROWS 1000
#define ES_PRUNE_PAUSE_MS 3600000

PGDLLEXPORT void es_worker_main(Datum arg);

/* When a job may run again. */
typedef struct JobTurn
{
	TimestampTz not_before; /* it rests, or pauses after a failure */
	TimestampTz failed_at;
} JobTurn;

typedef struct Work
{
	SharedDatabase *db;
	char database[NAMEDATALEN];
	bool store_gone; /* as far as we know */
	bool called;	 /* staging shall be open, and open for this very store */
	bool needed;	 /* by anybody since it came up, so that it stays a while */

	/* what the last step told */
	RoundResult round;			/* the last */
	bool rotated;				/* writers go to another segment now */
	bool closed;				/* staging is */
	int64 pruned;				/* rows of the history */
	char error[ES_ERROR_CHARS]; /* "" = none */

	/* the pace */
	TimestampTz last_work_at;  /* end of the last job to stay for */
	TimestampTz last_round_at; /* end of the last round */
	int empty_rounds;		   /* due, yet without effect, in a row */
	int rounds;				   /* since others had a turn */
	TimestampTz prune_at; /* the history of dead letters, at the earliest */
	bool space_drained;	  /* since it was looked after */
	int last_job;
	JobTurn turns[ES_MAX_JOBS];
} Work;

typedef void (*WorkerStep)(Work *work);

/*
 * A step that outlives its time is canceled; code that catches this may go on, and
 * nothing is raised a second time.  Then the process ends as by SIGTERM, which no
 * code can catch, and the next one goes on with the other work.
 */
static TimeoutId overdue_timeout;
static volatile sig_atomic_t overdue = false;
static int running_job = -1;

static void
end_overdue_process(void)
{
	overdue = true;
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* The step has so many milliseconds, and as many again to end when canceled. */
static void
limit_step(int ms)
{
	enable_timeout_after(STATEMENT_TIMEOUT, ms);
	enable_timeout_after(overdue_timeout, 2 * ms);
}

static void
lift_limit(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	disable_timeout(overdue_timeout, false);
}

/* Before this process leaves its place. */
static void
stop_draining(int code, Datum arg)
{
	SharedDatabase *db = (SharedDatabase *) DatumGetPointer(arg);

	if (es_worker_slot(db)->pid != MyProcPid)
		return;
	if (overdue && running_job >= 0)
	{
		const char *error = es_give_up_snapshot(db);

		ereport(LOG,
				errmsg_internal("event_store worker ends itself: %s",
								error == NULL ? "a step did not end" : error));
		es_count_in(db, ES_COUNT_WORKER_FAILURES);
		(void) es_end_job(db, running_job, false, error);
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

/*
 * Exits, unless somebody called or nudged us since we last looked.  What was
 * known of a store that is no more is forgotten; what comes meanwhile speaks of
 * the next one, which is looked at from the start.
 */
static void
leave_unless_called(Work *work)
{
	SharedDatabase *db = work->db;

	if (work->store_gone)
	{
		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		es_set_staging_state(db, ES_STAGING_UNKNOWN);
		es_forget_snapshots_due(db);
		LWLockRelease(db->lock);
		pg_atomic_write_u32(&es_positions(db)->unstored, 0);
	}
	if (es_retire_worker(db))
		proc_exit(0);
}

static void step_open(Work *work);
static void step_drain(Work *work);
static void step_close(Work *work);

/* ---------- steps ---------- */

/*
 * Whether the log shall tell of a failure: the first, the second, the fourth of the
 * same in a row, and so on.
 */
static bool
is_worth_logging(const Work *work, const char *message)
{
	const JobStatus *job;
	char shown[ES_ERROR_CHARS];
	int failures;

	/* the last steps before a stop are no jobs */
	if (running_job < 0)
		return true;
	job = &es_worker_slot(work->db)->jobs[running_job];
	failures = job->failures + 1;
	es_copy_error(shown, message);
	return (failures & (failures - 1)) == 0 ||
		   strcmp(shown, job->last_error) != 0;
}

/* Runs one step in its own transaction; of an error the message is left. */
static bool
run_step(Work *work, WorkerStep step, const char *activity)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool succeeded = false;
	Oid user;
	int security;
	int level;

	es_begin_busy(step == step_open || step == step_drain || step == step_close);
	/* what the log names as the statement */
	debug_query_string = activity;
	pgstat_report_activity(STATE_RUNNING, activity);
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		GetUserIdAndSecContext(&user, &security);
		PushActiveSnapshot(GetTransactionSnapshot());
		level = NewGUCNestLevel();
		/* who waits for us may hold what we wait for; see es_settle */
		if (step != step_drain)
			(void) set_config_option("lock_timeout", ES_STEP_LOCK_TIMEOUT,
									 PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		step(work);
		/* what triggers do, and what they set, ends with the step */
		AfterTriggerFireDeferred();
		AtEOXact_GUC(false, level);
		PopActiveSnapshot();
		CommitTransactionCommand();
		/* an abort does this by itself */
		SetUserIdAndSecContext(user, security);
		succeeded = true;
	}
	PG_CATCH();
	{
		ErrorData *error;
		bool logged;

		HOLD_INTERRUPTS();
		lift_limit();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		es_copy_error(work->error, error->message != NULL ? error->message : "");
		/* what a stop of the server cuts short is no fault */
		logged = (es_grace_end() == 0 ||
				  error->sqlerrcode != ERRCODE_QUERY_CANCELED) &&
				 is_worth_logging(work, work->error);
		if (logged)
			EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		if (!logged)
			ereport(DEBUG1,
					(errmsg_internal("%s again: %s", activity, work->error)));
		es_count_in(work->db, ES_COUNT_WORKER_FAILURES);
		FreeErrorData(error);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	/* an owner's code may have locked something for the session */
	LockReleaseSession(USER_LOCKMETHOD);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	debug_query_string = NULL;
	es_end_busy();
	return succeeded;
}

/*
 * The same for what nobody waits for, and what a later run makes up for if it is
 * lost in a crash: its commit is not flushed.
 */
static bool
run_unflushed(Work *work, WorkerStep step, const char *activity)
{
	int synchronous = synchronous_commit;
	bool succeeded;

	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	succeeded = run_step(work, step, activity);
	synchronous_commit = synchronous;
	return succeeded;
}

/* Is there (still) a store?  Opens staging for it, if that is wanted. */
static void
step_open(Work *work)
{
	bool was_gone = work->store_gone;

	/* without a place a store is left alone, as without preload */
	work->store_gone = es_lock_store() == NULL || es_my_database() == NULL;
	if (work->store_gone)
		return;
	/* while there was no worker for it, positions may have been taken */
	if (was_gone)
		pg_atomic_write_u32(&es_positions(work->db)->unstored, 1);
	es_become_owner();
	if (!es_staging_known(work->db) ||
		(es_staging_is(work->db, ES_STAGING_CLOSED) &&
		 pg_atomic_read_u32(&es_staging(work->db)->wanted) != 0))
		es_open_staging(work->db);
}

static void
step_drain(Work *work)
{
	int64 max_rows = es_write_batch_size + work->round.left;

	memset(&work->round, 0, sizeof(work->round));
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	/* rows were counted for a store that is no more */
	if (!es_staging_known(work->db))
		es_open_staging(work->db);
	else
		es_drain_round(max_rows, true, &work->round);
}

static void
step_reclaim(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	work->rotated = !work->store_gone && es_reclaim_segments();
}

static void
step_close(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	if (!work->store_gone)
		es_become_owner();
	work->closed = work->store_gone || es_close_staging();
}

static void
step_position(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	es_store_safe_position();
}

static void
step_snapshot(Work *work)
{
	const char *error;

	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	limit_step(ES_SNAPSHOT_MS);
	error = es_take_due_snapshot(work->db);
	lift_limit();
	if (error != NULL)
		es_copy_error(work->error, error);
}

static void
step_forget(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	es_forget_next(work->db);
}

static void
step_prune_history(Work *work)
{
	work->pruned = 0;
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	work->pruned = es_prune_letter_history(ES_PRUNE_ROWS);
}

static void
step_prune(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	es_prune_positions(work->db);
}

/* ---------- jobs: when they are due, and what they do ---------- */

static long
milliseconds_until(TimestampTz at)
{
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), at);
}

/*
 * Is it to be found out whether there is a store, or staging to be opened?  For
 * a call that is so unless rows are staged there, which are looked at anyway.
 */
static bool
needs_opening(const Work *work)
{
	return work->store_gone || es_staging_is(work->db, ES_STAGING_UNKNOWN) ||
		   work->called;
}

static long
time_until_open(const Work *work)
{
	return needs_opening(work) ? 0 : -1;
}

/*
 * Opens staging if that is wanted, and leaves where there is no store.
 *
 * What failed before, in this process or the one before it, is not over
 * because staging could be opened: a round has to show that.
 */
static bool
run_open(Work *work, JobTurn *turn)
{
	if (!run_step(work, step_open, "open staging"))
		return false;
	work->called = false;
	if (work->store_gone)
		leave_unless_called(work);
	else if (es_drain_progress(work->db)->failures == 0)
		work->last_round_at = GetCurrentTimestamp();
	return true;
}

/* The next round, by what is staged and asked for. */
static long
time_until_drain(const Work *work)
{
	SharedDatabase *db = work->db;
	uint64 staged = es_staged_rows(db);
	TimestampTz since;

	if (needs_opening(work))
		return -1;
	/* what a round left has waited as long as what it took */
	if (work->round.left > 0 || (work->round.more && work->round.moved > 0))
		return 0;
	if (es_drain_requested(db) || es_drain_progress(db)->failures > 0 ||
		staged >= (uint64) es_write_batch_size)
		return 0;
	if (staged == 0)
		return -1;
	LWLockAcquire(db->lock, LW_SHARED);
	since = es_staging(db)->first_staged_at;
	LWLockRelease(db->lock);
	if (since == 0)
		since = work->last_round_at;
	return milliseconds_until(TimestampTzPlusMilliseconds(since, es_write_delay));
}

/* After a round that went through. */
static void
note_round(Work *work, JobTurn *turn)
{
	long pause = ES_EMPTY_ROUND_PAUSE_MS;

	es_note_drain_success(work->db);
	work->last_round_at = GetCurrentTimestamp();
	if (work->round.moved > 0)
	{
		work->rounds++;
		work->space_drained = true;
		work->needed = true;
		work->empty_rounds = 0;
	}
	if (work->round.left == 0 &&
		(work->round.moved > 0 ||
		 (es_staged_rows(work->db) == 0 && !es_drain_requested(work->db))))
	{
		work->empty_rounds = 0;
		return;
	}
	/* due, yet this could not be moved: somebody else is at it, or holds it */
	for (int i = 0; i < work->empty_rounds && pause < es_first_pause(); i++)
		pause *= 2;
	work->empty_rounds++;
	turn->not_before = TimestampTzPlusMilliseconds(work->last_round_at, pause);
}

/* One round. */
static bool
run_drain(Work *work, JobTurn *turn)
{
	if (es_drain_progress(work->db)->state != ES_DRAIN_DRAINING)
		es_set_drain_state(work->db, ES_DRAIN_DRAINING);
	if (work->rounds >= ES_ROUNDS_PER_TURN)
		work->rounds = 0;
	if (!run_step(work, step_drain, "drain"))
		return false;
	if (!work->store_gone)
		note_round(work, turn);
	return true;
}

static void
drain_failed(Work *work)
{
	work->last_round_at = GetCurrentTimestamp();
	(void) es_note_drain_failure(work->db, work->error);
}

static long
time_until_reclaim(const Work *work)
{
	return work->space_drained ? 0 : -1;
}

/* What writers have just left may be drained already. */
static bool
run_reclaim(Work *work, JobTurn *turn)
{
	do
	{
		if (!run_step(work, step_reclaim, "reclaim"))
			return false;
	} while (work->rotated);
	work->space_drained = false;
	return true;
}

static long
time_until_position(const Work *work)
{
	return pg_atomic_read_u32(&es_positions(work->db)->unstored) != 0 ? 0 : -1;
}

/*
 * Lets standbys read on.  The flag goes down first: what ends from now on raises
 * it again.
 */
static bool
run_position(Work *work, JobTurn *turn)
{
	(void) pg_atomic_exchange_u32(&es_positions(work->db)->unstored, 0);
	if (!run_unflushed(work, step_position, "store position"))
	{
		pg_atomic_write_u32(&es_positions(work->db)->unstored, 1);
		return false;
	}
	turn->not_before =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ES_POSITION_PAUSE_MS);
	return true;
}

static long
time_until_snapshot(const Work *work)
{
	return es_snapshots_due(work->db) ? 0 : -1;
}

/* Takes one, then rests several times as long, so that appends go on. */
static bool
run_snapshot(Work *work, JobTurn *turn)
{
	TimestampTz started = GetCurrentTimestamp();
	TimestampTz now;

	if (!run_unflushed(work, step_snapshot, "snapshot"))
		return false;
	now = GetCurrentTimestamp();
	turn->not_before = Min(now + ES_SNAPSHOT_REST * (now - started),
						   TimestampTzPlusMilliseconds(now, ES_SNAPSHOT_REST_MS));
	return true;
}

static long
time_until_forget(const Work *work)
{
	return es_forgetting_due(work->db) ? 0 : -1;
}

static long
time_until_prune(const Work *work)
{
	return es_pruning_due(work->db) ? 0 : -1;
}

static bool
run_prune(Work *work, JobTurn *turn)
{
	return run_unflushed(work, step_prune, "prune positions");
}

/* The history of dead letters is looked at when a worker comes, and every hour. */
static long
time_until_prune_history(const Work *work)
{
	if (es_dead_letter_retention == 0)
		return -1;
	return milliseconds_until(work->prune_at);
}

static bool
run_prune_history(Work *work, JobTurn *turn)
{
	if (!run_unflushed(work, step_prune_history, "prune history"))
		return false;
	if (work->pruned < ES_PRUNE_ROWS)
		work->prune_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 ES_PRUNE_PAUSE_MS);
	return true;
}

/* A piece of the table of processed messages. */
static bool
run_forget(Work *work, JobTurn *turn)
{
	return run_unflushed(work, step_forget, "forget processed");
}

/*
 * Staging is closed, whatever else goes on, a minute after the last round, or at
 * once when it was opened only to find out what was left there.
 */
static long
time_until_close(const Work *work)
{
	if (!es_staging_is(work->db, ES_STAGING_OPEN) || needs_opening(work) ||
		time_until_drain(work) >= 0)
		return -1;
	if (!work->needed)
		return 0;
	return milliseconds_until(TimestampTzPlusMilliseconds(work->last_round_at,
														  ES_IDLE_EXIT_MS));
}

static bool
run_close(Work *work, JobTurn *turn)
{
	if (!run_step(work, step_close, "close staging"))
		return false;
	/* there is a writer: in another minute */
	if (!work->closed)
	{
		work->needed = true;
		work->last_round_at = GetCurrentTimestamp();
	}
	return true;
}

/* ---------- the table of jobs ---------- */

typedef struct Job
{
	const char *name;
	/* in milliseconds: 0 = now, -1 = there is nothing to do */
	long (*time_until_due)(const Work *work);
	/* does a bounded piece; may set when it is to run again at the earliest */
	bool (*run)(Work *work, JobTurn *turn);
	bool keeps_worker; /* who has this to do stays, and for a minute longer */
	bool gives_way;	   /* to rounds of draining under sustained load */
	int first_pause;   /* after a failure, in ms; 0 = retry_initial */
	/* whether somebody waits: then it pauses for a part of the time */
	bool (*hurried)(SharedDatabase *db);
	void (*failed)(Work *work);
} Job;

/* Those that the others depend on. */
enum
{
	OPEN,
	DRAIN
};

static const Job jobs[] =
	{[OPEN] = {"open staging", time_until_open, run_open, .keeps_worker = true,
			   .failed = drain_failed},
	 [DRAIN] = {"drain", time_until_drain, run_drain, .keeps_worker = true,
				.hurried = es_drain_requested, .failed = drain_failed},
	 {"reclaim", time_until_reclaim, run_reclaim, .gives_way = true},
	 {"store position", time_until_position, run_position, .keeps_worker = true,
	  .first_pause = ES_POSITION_RETRY_MS},
	 {"snapshot", time_until_snapshot, run_snapshot, .keeps_worker = true,
	  .gives_way = true},
	 {"prune positions", time_until_prune, run_prune, .keeps_worker = true,
	  .gives_way = true},
	 {"prune history", time_until_prune_history, run_prune_history,
	  .gives_way = true},
	 {"forget processed", time_until_forget, run_forget, .keeps_worker = true,
	  .gives_way = true},
	 {"close staging", time_until_close, run_close}};

#define JOBS ((int) lengthof(jobs))

StaticAssertDecl(lengthof(jobs) <= ES_MAX_JOBS,
				 "shared memory has room for each job");

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
	const Job *job = &jobs[number];
	JobTurn *turn = &work->turns[number];
	TimestampTz not_before = turn->not_before;
	int failures = es_worker_slot(work->db)->jobs[number].failures;
	long due;

	if (work->store_gone && number != OPEN)
		return -1;
	due = job->time_until_due(work);
	if (due < 0)
		return -1;
	if (failures > 0 && job->hurried != NULL && job->hurried(work->db))
		not_before =
			Min(not_before,
				TimestampTzPlusMilliseconds(turn->failed_at,
											hurried_pause(job, failures)));
	return Max(due, milliseconds_until(not_before));
}

/* The next job in turn that is due; -1 = none. */
static int
next_job(Work *work, const long *times)
{
	bool sustained = times[DRAIN] == 0 && work->rounds < ES_ROUNDS_PER_TURN;

	for (int i = 1; i <= JOBS; i++)
	{
		int number = (work->last_job + i) % JOBS;

		if (times[number] == 0 && !(sustained && jobs[number].gives_way))
			return number;
	}
	return -1;
}

static void
run_job(Work *work, int number)
{
	const Job *job = &jobs[number];
	JobTurn *turn = &work->turns[number];
	bool succeeded;
	int failures;

	work->last_job = number;
	work->error[0] = '\0';
	turn->not_before = 0;
	running_job = number;
	es_begin_job(work->db, number);
	succeeded = job->run(work, turn);
	running_job = -1;
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

	for (int i = 0; i < JOBS; i++)
	{
		if (times[i] < 0)
			continue;
		timeout = timeout < 0 ? times[i] : Min(timeout, times[i]);
		stays = stays || jobs[i].keeps_worker;
	}
	if (!stays)
	{
		long left =
			milliseconds_until(TimestampTzPlusMilliseconds(work->last_work_at,
														   ES_IDLE_EXIT_MS));

		if (left == 0 || !work->needed)
		{
			leave_unless_called(work);
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

	for (int i = 0; i < JOBS; i++)
	{
		if (times[i] >= 0 && (open || jobs[i].keeps_worker))
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
run_last_step(Work *work, WorkerStep step, const char *activity)
{
	long left = milliseconds_until(es_grace_end());
	bool succeeded;

	if (left == 0)
		return false;
	enable_timeout_after(STATEMENT_TIMEOUT, left);
	succeeded = run_step(work, step, activity);
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

	while (milliseconds_until(es_grace_end()) > 0)
	{
		bool staged = es_staged_rows(db) > 0;
		bool waits = !staged && may_be_staged(db);

		if (staged)
		{
			if (!run_last_step(work, step_drain, "drain"))
				break;
			waits = work->round.moved == 0;
		}
		else if (!waits)
		{
			if (!run_last_step(work, step_close, "close staging") || work->closed)
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
	long times[lengthof(jobs)] = {0};
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
	for (int i = 0; i < JOBS; i++)
	{
		times[i] = time_until(work, i);
		if (times[i] < 0)
			es_forget_job_failures(db, i);
	}
	if (times[DRAIN] != 0)
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

/* A database's or role's settings must not change how the worker works. */
static void
pin_settings(void)
{
	static const char *const pinned[][2] =
		{{"search_path", "pg_catalog, pg_temp"},
		 {"default_transaction_isolation", "read committed"},
		 {"default_transaction_read_only", "off"},
		 {"default_transaction_deferrable", "off"},
		 {"statement_timeout", "0"},
		 {"lock_timeout", "0"},
		 {"idle_in_transaction_session_timeout", "0"},
		 {"transaction_timeout", "0"},
		 {"row_security", "on"}};

	for (int i = 0; i < (int) lengthof(pinned); i++)
	{
		/* not every version has all of them */
		if (GetConfigOption(pinned[i][0], true, false) != NULL)
			SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}
}

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
	overdue_timeout = RegisterTimeout(USER_TIMEOUT, end_overdue_process);
	note_database(&work);
	es_end_busy();
	pin_settings();
	pgstat_report_appname("event_store worker");
	wait_event = WaitEventExtensionNew("EventStoreWorkerMain");

	work.store_gone = true; /* until it was looked for */
	/* only after the start of the server it is there to have a look */
	work.needed = !es_staging_is(work.db, ES_STAGING_UNKNOWN);
	work.last_job = JOBS - 1;
	MemoryContextSwitchTo(TopMemoryContext);
	for (;;)
		take_turn(&work, wait_event);
}

/* ---------- SQL functions ---------- */

PG_FUNCTION_INFO_V1(es_announce_store);
PG_FUNCTION_INFO_V1(es_worker_state);
PG_FUNCTION_INFO_V1(es_worker_jobs_state);

/*
 * announce_store(): has a worker look at this database once the transaction
 * has committed.  It locks the schema as COMMENT does, which only its owner can:
 * so two create_store() come one after the other, and nobody else holds one up.
 * A store that is new gets its row of store_state, and knows from now on which log
 * it is.
 */
Datum
es_announce_store(PG_FUNCTION_ARGS)
{
	PreventCommandIfParallelMode("announce_store()");
	LockDatabaseObject(NamespaceRelationId, get_namespace_oid(ES_SCHEMA, false),
					   0, ShareUpdateExclusiveLock);
	if (es_store_if_any() != NULL)
	{
		es_make_store_state();
		es_note_new_log();
	}
	es_recheck_positions();
	if (es_my_database() != NULL)
		es_note_wake();
	PG_RETURN_VOID();
}

#define WORKER_STATE_COLUMNS 9

/* worker_state(): the row of worker_status. */
Datum
es_worker_state(PG_FUNCTION_ARGS)
{
	SharedDatabase *db =
		es_shared != NULL ? es_find_database(MyDatabaseId) : NULL;
	Datum values[WORKER_STATE_COLUMNS] = {0};
	bool nulls[WORKER_STATE_COLUMNS];
	TupleDesc tupdesc;

	/* through the SQL of an earlier version it has fewer columns */
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));
	nulls[1] = false;
	values[1] = CStringGetTextDatum(es_shared == NULL	? "not preloaded"
									: es_has_no_place() ? "no place"
														: "none");
	if (es_shared != NULL)
	{
		values[3] = Int32GetDatum((int32) es_launcher_pid());
		nulls[3] = DatumGetInt32(values[3]) == 0;
	}
	if (db != NULL)
	{
		WorkerState state;
		DrainProgress drain;

		LWLockAcquire(db->lock, LW_SHARED);
		values[0] = Int32GetDatum((int32) es_worker_slot(db)->pid);
		values[2] = TimestampTzGetDatum(es_worker_slot(db)->started_at);
		state = es_worker_slot(db)->state;
		drain = *es_drain_progress(db);
		LWLockRelease(db->lock);
		nulls[0] = DatumGetInt32(values[0]) == 0;
		values[1] = CStringGetTextDatum(es_worker_state_name(state));
		nulls[2] = nulls[0];
		values[4] = CStringGetTextDatum(es_drain_state_name(drain.state));
		nulls[4] = false;
		values[5] = CStringGetTextDatum(drain.last_error);
		nulls[5] = drain.last_error[0] == '\0';
		values[6] = Int32GetDatum(drain.failures);
		nulls[6] = false;
		values[7] = TimestampTzGetDatum(drain.last_drain_at);
		nulls[7] = drain.last_drain_at == 0;
		values[8] = TimestampTzGetDatum(drain.last_error_at);
		nulls[8] = drain.last_error_at == 0;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}

#define JOB_COLUMNS 6

/* worker_jobs_state(): the rows of worker_jobs. */
Datum
es_worker_jobs_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SharedDatabase *db =
		es_shared != NULL ? es_find_database(MyDatabaseId) : NULL;
	JobStatus status[ES_MAX_JOBS] = {0};
	bool is_there = false;

	InitMaterializedSRF(fcinfo, 0);
	if (es_shared == NULL)
		return (Datum) 0;
	if (db != NULL)
	{
		LWLockAcquire(db->lock, LW_SHARED);
		memcpy(status, es_worker_slot(db)->jobs, sizeof(status));
		is_there = es_worker_slot(db)->pid != 0;
		LWLockRelease(db->lock);
	}
	for (int i = 0; i < JOBS; i++)
	{
		const char *state = "idle";
		Datum values[JOB_COLUMNS];
		bool nulls[JOB_COLUMNS] = {false};

		if (status[i].running)
			state = "running";
		else if (is_there && status[i].failures > 0)
			state = "backing_off";
		values[0] = CStringGetTextDatum(jobs[i].name);
		values[1] = CStringGetTextDatum(state);
		values[2] = Int32GetDatum(status[i].failures);
		values[3] = CStringGetTextDatum(status[i].last_error);
		nulls[3] = status[i].last_error[0] == '\0';
		values[4] = TimestampTzGetDatum(status[i].last_run_at);
		nulls[4] = status[i].last_run_at == 0;
		values[5] = TimestampTzGetDatum(status[i].last_error_at);
		nulls[5] = status[i].last_error_at == 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
