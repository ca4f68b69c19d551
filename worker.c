/*
 * worker.c
 *		The database worker: when the steps that keep staging in motion run.
 *
 * A worker serves one database.  The launcher starts it (launcher.c); it finds
 * out whether there is a store, else it leaves at once.  It runs one step at a
 * time, each in a transaction of its own: it opens staging, drains a round,
 * reclaims space, takes a snapshot of an aggregate, closes staging.  What a step
 * does stands in drain.c, segment.c and snapshot.c, and every step can also be
 * run in the foreground by a function.
 *
 * Between steps it sleeps on its latch: until the oldest staged row has waited
 * for write_delay, until a pause after a failure is over, or, when nothing is
 * staged, until it has been idle for long enough to leave.  A commit that
 * stages the first row or fills a batch, and whoever asks for a drain, wakes
 * it; so an idle store runs no queries.
 *
 * Beside that it stores the safe position for standbys (feed.c) and takes
 * snapshots that are due (snapshot.c), which is no reason to open staging or to
 * keep it open.  A snapshot that takes long is given up, since a reducer is
 * somebody else's code.
 *
 * SIGTERM makes it exit at once: the step is rolled back, staged rows stay, and
 * its exit callback asks for the next worker.  It leaves of its own accord only
 * if nobody called it meanwhile (worker_slot.c).
 *
 * Calls drain.c, segment.c, snapshot.c, feed.c, catalog.c and worker_slot.c.
 */
#include "event_store.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "common/pg_prng.h"
#include "funcapi.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* A worker with nothing to do leaves after this long. */
#define ES_IDLE_EXIT_MS 60000
/* The first pause after a round that was due and found nothing to move. */
#define ES_EMPTY_ROUND_PAUSE_MS 10
/* Space is looked after once in so many rounds, and when they end. */
#define ES_ROUNDS_PER_RECLAIM 16
/*
 * A snapshot is followed by a rest of so many times the time it took, up to so
 * long: a slow aggregate type shall not keep the others waiting.
 */
#define ES_SNAPSHOT_REST 9
#define ES_SNAPSHOT_REST_MS 1000

/* A snapshot may take so long. */
#define ES_SNAPSHOT_MS 10000
/* Steps but the drain wait so long for locks. */
#define ES_STEP_LOCK_TIMEOUT "1s"
/* The safe position is stored at most this often, and if that failed, this. */
#define ES_POSITION_PAUSE_MS 1000
#define ES_POSITION_RETRY_MS 30000

PGDLLEXPORT void es_worker_main(Datum arg);

/* ---------- both processes ---------- */

void
es_enter_process(void)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
}

/* Sleeps on the latch; a negative timeout means: until it is set. */
void
es_sleep_on_latch(long timeout, uint32 wait_event)
{
	int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

	if (timeout >= 0)
		events |= WL_TIMEOUT;
	WaitLatch(MyLatch, events, timeout, wait_event);
	ResetLatch(MyLatch);
}

void
es_heed_signals(void)
{
	/* a cancel that comes between steps has nothing to cancel */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* ---------- database worker ---------- */

typedef struct Work
{
	SharedDatabase *db;
	int64 moved;	 /* by the last round */
	bool more;		 /* was left by it */
	bool store_gone; /* as far as we know */
	bool called;	 /* staging shall be open, and open for this very store */
	bool closed;
	bool rotated; /* writers go to another segment now */

	/* the pace */
	TimestampTz last_work_at;  /* end of the last step that did something */
	TimestampTz last_round_at; /* end of the last round */
	long pause;				   /* ms before the next round; 0 = none */
	bool failed;			   /* the last step did */
	int empty_rounds;		   /* due, yet without effect, in a row */
	int rounds;				   /* since space was looked after */
	TimestampTz position_due;  /* not before this time */
	TimestampTz snapshot_due;  /* nor the next snapshot */
} Work;

typedef void (*WorkerStep)(Work *work);

/* Before this process leaves its place. */
static void
stop_draining(int code, Datum arg)
{
	SharedDatabase *db = (SharedDatabase *) DatumGetPointer(arg);

	if (es_worker_slot(db)->pid == MyProcPid)
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

/* The pause after so many failures in a row: doubled each time, and jittered. */
static long
failure_pause(int failures)
{
	double pause = es_retry_initial;
	double longest = Max(es_retry_initial, es_retry_max);

	for (int i = 1; i < failures && pause < longest; i++)
		pause *= 2;
	pause = Min(pause, longest);
	return (long) (pause * (1.0 + 0.25 * pg_prng_double(&pg_global_prng_state)));
}

static void
note_failure(Work *work, const char *message)
{
	work->failed = true;
	work->pause = failure_pause(es_note_drain_failure(work->db, message));
	es_count_in(work->db, ES_COUNT_WORKER_FAILURES);
	work->last_round_at = GetCurrentTimestamp();
}

static void step_drain(Work *work);

/* Runs one step in its own transaction; an error is noted and waited out. */
static bool
run_step(Work *work, WorkerStep step, const char *activity)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool succeeded = false;
	Oid user;
	int security;
	int level;

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

		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		note_failure(work, error->message != NULL ? error->message : "");
		FreeErrorData(error);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return succeeded;
}

/* Is there (still) a store?  If it was asked for, opens staging for it. */
static void
step_open(Work *work)
{
	bool was_gone = work->store_gone;

	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	/* while there was no worker for it, positions may have been taken */
	if (was_gone)
		pg_atomic_write_u32(&es_positions(work->db)->unstored, 1);
	es_become_owner();
	es_my_database();
	if (!es_staging_known(work->db) ||
		(work->called && es_staging_is(work->db, ES_STAGING_CLOSED)))
		es_open_staging();
}

static void
step_drain(Work *work)
{
	work->moved = 0;
	work->more = false;
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	/* rows were counted for a store that is no more */
	if (!es_staging_known(work->db))
		es_open_staging();
	else
		work->moved = es_drain_round(es_write_batch_size, true, &work->more);
}

static void
step_reclaim(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	work->rotated = !work->store_gone && es_reclaim_segments();
}

/* Gives space back; what writers have just left may be drained already. */
static bool
reclaim(Work *work)
{
	bool done;

	work->rounds = 0;
	do
		done = run_step(work, step_reclaim, "reclaim");
	while (done && work->rotated);
	return done;
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
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	enable_timeout_after(STATEMENT_TIMEOUT, ES_SNAPSHOT_MS);
	es_take_due_snapshot(work->db);
	disable_timeout(STATEMENT_TIMEOUT, false);
}

/*
 * When is the next round due?  In milliseconds; 0 = now, -1 = there is nothing
 * to drain.  A request ends a pause after failures early, but not before
 * retry_initial.
 */
static long
time_until_round(Work *work)
{
	SharedDatabase *db = work->db;
	bool requested = es_drain_requested(db);
	uint64 staged = es_staged_rows(db);
	TimestampTz due = 0;
	long pause = work->pause;

	if (staged == 0 && !requested && !work->failed)
		return -1;
	if (!requested && staged < (uint64) es_write_batch_size && !work->failed)
	{
		LWLockAcquire(db->lock, LW_SHARED);
		due = es_staging(db)->first_staged_at;
		LWLockRelease(db->lock);
		if (due == 0)
			due = work->last_round_at;
		due = TimestampTzPlusMilliseconds(due, es_write_delay);
	}
	if (requested && work->failed)
		pause = Min(pause, es_retry_initial);
	if (pause > 0)
		due = Max(due, TimestampTzPlusMilliseconds(work->last_round_at, pause));
	return due == 0
			   ? 0
			   : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due);
}

/* What failed before works again. */
static void
note_success(Work *work)
{
	work->last_work_at = GetCurrentTimestamp();
	work->failed = false;
	work->pause = 0;
	es_note_drain_success(work->db);
}

/* After a round that went through. */
static void
note_round(Work *work)
{
	note_success(work);
	work->last_round_at = work->last_work_at;
	if (work->moved > 0)
		work->rounds++;
	if (work->moved > 0 ||
		(es_staged_rows(work->db) == 0 && !es_drain_requested(work->db)))
		work->empty_rounds = 0;
	else
	{
		/* due, yet nothing could be moved: somebody else is at it */
		work->pause = ES_EMPTY_ROUND_PAUSE_MS;
		for (int i = 0;
			 i < work->empty_rounds && work->pause < es_retry_initial; i++)
			work->pause *= 2;
		work->empty_rounds++;
	}
}

/* The same for the safe position. */
static long
time_until_position(const Work *work)
{
	if (pg_atomic_read_u32(&es_positions(work->db)->unstored) == 0)
		return -1;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   work->position_due);
}

/*
 * Lets standbys read on.  Nobody waits for it, and a later one makes up for one
 * that is lost in a crash, so its commit is not flushed.  The flag goes down
 * first: what ends from now on raises it again.
 */
static bool
store_position(Work *work)
{
	SharedDatabase *db = work->db;
	int synchronous = synchronous_commit;
	bool stored;

	(void) pg_atomic_exchange_u32(&es_positions(db)->unstored, 0);
	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	stored = run_step(work, step_position, "store position");
	synchronous_commit = synchronous;
	if (!stored)
		pg_atomic_write_u32(&es_positions(db)->unstored, 1);
	work->last_work_at = GetCurrentTimestamp();
	work->position_due =
		TimestampTzPlusMilliseconds(work->last_work_at,
									stored ? ES_POSITION_PAUSE_MS
										   : ES_POSITION_RETRY_MS);
	return stored;
}

/* When a snapshot can be taken: in milliseconds, 0 = now, -1 = none is wanted. */
static long
time_until_snapshot(const Work *work)
{
	if (work->failed || !es_snapshots_due(work->db))
		return -1;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   work->snapshot_due);
}

/*
 * Takes one snapshot, then rests several times as long, so that appends go on
 * at their speed.  One that is lost in a crash only makes replay slower, so its
 * commit is not flushed either.
 */
static bool
take_snapshot(Work *work)
{
	TimestampTz started = GetCurrentTimestamp();
	int synchronous = synchronous_commit;
	bool taken;

	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	taken = run_step(work, step_snapshot, "snapshot");
	synchronous_commit = synchronous;
	if (taken)
	{
		TimestampTz now = GetCurrentTimestamp();

		work->last_work_at = now;
		work->snapshot_due =
			Min(now + ES_SNAPSHOT_REST * (now - started),
				TimestampTzPlusMilliseconds(now, ES_SNAPSHOT_REST_MS));
	}
	return taken;
}

/* Drains while rounds are due, and looks after space. */
static void
drain_due(Work *work)
{
	bool due = true;

	es_set_drain_state(work->db, ES_DRAIN_DRAINING);
	while (due)
	{
		es_heed_signals();
		if (!run_step(work, step_drain, "drain"))
			return;
		if (work->store_gone)
			break;
		note_round(work);
		/* what one round left has waited as long as what it took */
		due = (work->more && work->moved > 0) || time_until_round(work) == 0;
		if (work->rounds >= (due ? ES_ROUNDS_PER_RECLAIM : 1) && !reclaim(work))
			return;
		if (time_until_position(work) == 0 && !store_position(work))
			return;
		/* under sustained staging they get a turn now and then */
		if (work->rounds == 0 && time_until_snapshot(work) == 0 &&
			!take_snapshot(work))
			return;
	}
	es_set_drain_state(work->db, ES_DRAIN_IDLE);
}

/* Sleeps until the pause after a failure is over, however often it is woken. */
static void
sleep_out_pause(const Work *work, uint32 wait_event)
{
	long left;

	while ((left = TimestampDifferenceMilliseconds(
				GetCurrentTimestamp(),
				TimestampTzPlusMilliseconds(work->last_round_at, work->pause))) > 0)
	{
		es_sleep_on_latch(left, wait_event);
		es_heed_signals();
	}
}

/*
 * Opens staging if that is wanted and still to be done, trying until it
 * succeeds.  Returns false when the database has no store.
 *
 * What failed before, in this process or the one before it, is not over
 * because staging could be opened: a round has to show that.
 */
static bool
open_staging(Work *work, uint32 wait_event)
{
	while (!run_step(work, step_open, "open staging"))
		sleep_out_pause(work, wait_event);
	if (work->store_gone)
		return false;
	work->last_work_at = GetCurrentTimestamp();
	work->failed = es_drain_progress(work->db)->failures > 0;
	if (!work->failed)
	{
		work->pause = 0;
		work->last_round_at = work->last_work_at;
	}
	return true;
}

/* How long until staging, or then this process, is of no use any more. */
static long
time_until_idle(const Work *work)
{
	TimestampTz since = es_staging_is(work->db, ES_STAGING_OPEN)
							? work->last_round_at
							: work->last_work_at;

	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   TimestampTzPlusMilliseconds(since,
																	   ES_IDLE_EXIT_MS));
}

/*
 * Open staging is closed whatever is waited for; nobody leaves who has a position
 * to store or a snapshot to take.
 */
static bool
may_retire(const Work *work, long position, long snapshot)
{
	return es_staging_is(work->db, ES_STAGING_OPEN) ||
		   (position < 0 && snapshot < 0);
}

/* Closes staging; leaves when that was done before. */
static void
retire(Work *work)
{
	if (!es_staging_is(work->db, ES_STAGING_OPEN))
		leave_unless_called(work);
	else if (!run_step(work, step_close, "close staging") || !work->closed)
		work->last_round_at = GetCurrentTimestamp();
}

/* One turn: does what is due, or sleeps. */
static void
take_turn(Work *work, uint32 wait_event)
{
	SharedDatabase *db = work->db;
	long timeout;
	long position;
	long snapshot;

	es_heed_signals();
	work->called = es_take_call(db);
	if (work->store_gone || es_staging_is(db, ES_STAGING_UNKNOWN) ||
		(work->called &&
		 (es_staged_rows(db) == 0 || !es_staging_is(db, ES_STAGING_OPEN))))
	{
		if (!open_staging(work, wait_event))
		{
			leave_unless_called(work);
			return;
		}
	}
	timeout = time_until_round(work);
	if (timeout == 0)
	{
		drain_due(work);
		return;
	}
	position = time_until_position(work);
	if (position == 0)
	{
		store_position(work);
		return;
	}
	snapshot = time_until_snapshot(work);
	if (snapshot == 0)
	{
		take_snapshot(work);
		return;
	}
	if (timeout < 0)
	{
		timeout = time_until_idle(work);
		if (timeout == 0 && may_retire(work, position, snapshot))
		{
			retire(work);
			return;
		}
		/* not at once again, but when what is waited for is due */
		timeout = timeout == 0 ? ES_IDLE_EXIT_MS : timeout;
	}
	if (position > 0)
		timeout = Min(timeout, position);
	if (snapshot > 0)
		timeout = Min(timeout, snapshot);
	es_sleep_on_latch(timeout, wait_event);
}

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

void
es_worker_main(Datum arg)
{
	Work work;
	Oid database;
	uint32 wait_event;

	memset(&work, 0, sizeof(work));
	work.db = es_database_numbered(DatumGetInt32(arg));
	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
	es_enter_process();
	begin_duty(work.db, database);
	pin_settings();
	pgstat_report_appname("event_store worker");
	wait_event = WaitEventExtensionNew("EventStoreWorkerMain");

	work.store_gone = true; /* until it was looked for */
	MemoryContextSwitchTo(TopMemoryContext);
	for (;;)
		take_turn(&work, wait_event);
}

/* ---------- SQL functions ---------- */

PG_FUNCTION_INFO_V1(es_announce_store);
PG_FUNCTION_INFO_V1(es_worker_state);

/*
 * announce_store(): has a worker look at this database once the transaction
 * has committed.
 */
Datum
es_announce_store(PG_FUNCTION_ARGS)
{
	es_recheck_positions();
	if (es_my_database() != NULL)
		es_note_wake();
	PG_RETURN_VOID();
}

#define WORKER_STATE_COLUMNS 8

/* worker_state(): the row of worker_status. */
Datum
es_worker_state(PG_FUNCTION_ARGS)
{
	SharedDatabase *db =
		es_shared != NULL ? es_find_database(MyDatabaseId) : NULL;
	Datum values[WORKER_STATE_COLUMNS] = {0};
	bool nulls[WORKER_STATE_COLUMNS];
	TupleDesc tupdesc;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));
	nulls[1] = false;
	values[1] = CStringGetTextDatum(es_shared == NULL ? "not preloaded" : "none");
	if (es_shared != NULL)
	{
		values[3] = Int32GetDatum((int32) es_launcher_pid());
		nulls[3] = DatumGetInt32(values[3]) == 0;
	}
	if (db != NULL)
	{
		WorkerSlot slot;
		DrainProgress drain;

		LWLockAcquire(db->lock, LW_SHARED);
		slot = *es_worker_slot(db);
		drain = *es_drain_progress(db);
		LWLockRelease(db->lock);
		values[0] = Int32GetDatum((int32) slot.pid);
		nulls[0] = slot.pid == 0;
		values[1] = CStringGetTextDatum(es_worker_state_name(slot.state));
		values[2] = TimestampTzGetDatum(slot.started_at);
		nulls[2] = nulls[0];
		values[4] = CStringGetTextDatum(es_drain_state_name(drain.state));
		nulls[4] = false;
		values[5] = CStringGetTextDatum(drain.last_error);
		nulls[5] = drain.last_error[0] == '\0';
		values[6] = Int32GetDatum(drain.failures);
		nulls[6] = false;
		values[7] = TimestampTzGetDatum(drain.last_drain_at);
		nulls[7] = drain.last_drain_at == 0;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}
