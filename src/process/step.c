/*
 * step.c
 *		A step of a worker's job: a transaction of its own, and what becomes of its
 *		failure.
 *
 * A step leaves nothing behind in the session: settings, locks and the identity
 * end with it.  Who holds what it waits for may wait for the drain, so every step
 * but that gives up soon.
 *
 * A step that has a limit is canceled after it; code that catches this may go on, and
 * nothing is raised a second time.  Then the process ends as by SIGTERM, which no
 * code can catch, and the next one goes on with the other work.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "ground/kept_error.h"
#include "ground/metrics.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "process/process.h"
#include "process/step.h"

/* Steps but the drain wait so long for locks. */
#define ES_STEP_LOCK_TIMEOUT "1s"

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

void
es_prepare_limits(void)
{
	overdue_timeout = RegisterTimeout(USER_TIMEOUT, end_overdue_process);
}

void
es_limit_step(int ms)
{
	enable_timeout_after(STATEMENT_TIMEOUT, ms);
	enable_timeout_after(overdue_timeout, 2 * ms);
}

void
es_lift_limit(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	disable_timeout(overdue_timeout, false);
}

void
es_set_running_job(int job)
{
	running_job = job;
}

int
es_overdue_job(void)
{
	return overdue ? running_job : -1;
}

/*
 * Whether the log shall tell of a failure: the first, the second, the fourth of the
 * same in a row, and so on.
 */
static bool
is_worth_logging(const SharedDatabase *db, const char *message)
{
	const JobStatus *job;
	char shown[ES_ERROR_CHARS];
	int failures;

	/* the last steps before a stop are no jobs */
	if (running_job < 0)
		return true;
	job = &es_worker_slot(db)->jobs[running_job];
	failures = job->failures + 1;
	es_copy_error(shown, message);
	return (failures & (failures - 1)) == 0 ||
		   strcmp(shown, job->last_error) != 0;
}

bool
es_run_step(SharedDatabase *db, const Step *step, Work *work, char *message)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool succeeded = false;
	int synchronous = synchronous_commit;
	Oid user;
	int security;
	int level;

	if (step->unflushed)
		synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	es_begin_busy(step->worth_finishing);
	/* what the log names as the statement */
	debug_query_string = step->activity;
	pgstat_report_activity(STATE_RUNNING, step->activity);
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		GetUserIdAndSecContext(&user, &security);
		PushActiveSnapshot(GetTransactionSnapshot());
		level = NewGUCNestLevel();
		/* who waits for us may hold what we wait for; see es_settle */
		if (!step->waits)
			(void) set_config_option("lock_timeout", ES_STEP_LOCK_TIMEOUT,
									 PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		step->run(work);
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
		es_lift_limit();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		es_copy_error(message, es_kept_error(error->sqlerrcode, error->message));
		/* what a stop of the server cuts short is no fault */
		logged = (es_grace_end() == 0 ||
				  error->sqlerrcode != ERRCODE_QUERY_CANCELED) &&
				 is_worth_logging(db, message);
		if (logged)
			EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		if (!logged)
			ereport(DEBUG1, (errmsg_internal("%s again: %s", step->activity,
											 es_kept_message(message))));
		es_count_in(db, ES_COUNT_WORKER_FAILURES);
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
	synchronous_commit = synchronous;
	return succeeded;
}
