/*
 * scrubber.c
 *		The scrubber: a process that makes unreadable on disk what was erased.
 *
 * The worker starts it when something was erased (its job "scrub").  It does one pass
 * (scrub.c says what that is), and leaves: commands of the database first, each as if a
 * client had given it by itself, since VACUUM and REINDEX CONCURRENTLY need transactions of their
 * own; then a walk over each relation.  What fails, or is left, is done by the next one after a
 * pause.
 *
 * REINDEX CONCURRENTLY waits for transactions that may want a lock that it holds.  PostgreSQL looks
 * once a wait whether all wait for each other, so it is who comes last that fails; this one
 * looks again and again, and gives up before anybody else looks.
 *
 * SIGTERM ends it at any time: all that it does can be done again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "nodes/plannodes.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/kept_error.h"
#include "ground/metrics.h"
#include "ground/scrubber_slot.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "keep/scrub.h"
#include "process/process.h"

/* It looks for a deadlock so many times while others wait to look once. */
#define LOOKS_OF_OTHERS 4

PGDLLEXPORT void es_scrubber_main(Datum arg);

/* A pass, and where it lives. */
typedef struct Pass
{
	MemoryContext context;
	Scrub scrub;
	bool clean;
} Pass;

static void
begin_transaction(const char *activity)
{
	debug_query_string = activity;
	pgstat_report_activity(STATE_RUNNING, activity);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	debug_query_string = NULL;
}

/*
 * Runs a command as a client's, outside of any transaction.  One for which PostgreSQL takes
 * a snapshot beforehand ends it itself, as it does its transaction.
 */
static void
run_command(const char *sql)
{
	RawStmt *raw;
	PlannedStmt *statement;

	begin_transaction(sql);
	/* it is needed until the command ends, whatever that commits meanwhile */
	MemoryContextSwitchTo(PortalContext);
	raw = linitial_node(RawStmt, pg_parse_query(sql));
	statement = makeNode(PlannedStmt);
	statement->commandType = CMD_UTILITY;
	statement->utilityStmt = raw->stmt;
	statement->stmt_len = (int) strlen(sql);
	ProcessUtility(statement, sql, false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL,
				   None_Receiver, NULL);
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
}

/* What is to be done; false where there is no store. */
static bool
plan(Pass *pass)
{
	bool found;

	begin_transaction("plan scrub");
	found = es_lock_store() != NULL;
	MemoryContextSwitchTo(pass->context);
	if (found)
		es_plan_scrub(&pass->scrub);
	end_transaction();
	return found;
}

static void
walk(Pass *pass)
{
	ListCell *cell;

	foreach (cell, pass->scrub.relations)
	{
		begin_transaction("scrub pages");
		pass->clean = es_scrub_relation(lfirst_oid(cell), pass->scrub.limit) &&
					  pass->clean;
		end_transaction();
	}
}

static void
finish(Pass *pass)
{
	begin_transaction("note scrub");
	if (es_lock_store() != NULL && pass->clean)
		es_note_scrubbed(&pass->scrub);
	else if (es_lock_store() != NULL)
		es_note_unscrubbed();
	end_transaction();
}

/* Returns whether something is left. */
static bool
run_pass(Pass *pass)
{
	ListCell *cell;

	pass->clean = true;
	if (!plan(pass) || pass->scrub.count == 0)
		return pass->scrub.left;
	foreach (cell, pass->scrub.commands)
		run_command(lfirst(cell));
	walk(pass);
	finish(pass);
	return pass->scrub.left || !pass->clean;
}

/* The same; what goes wrong is noted, and left for the next process. */
static void
try_pass(SharedDatabase *db, Pass *pass)
{
	MemoryContext context = CurrentMemoryContext;
	char message[ES_ERROR_CHARS] = "";
	volatile bool left = true;

	PG_TRY();
	{
		left = run_pass(pass);
	}
	PG_CATCH();
	{
		ErrorData *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		es_copy_error(message, es_kept_error(error->sqlerrcode, error->message));
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		es_count_in(db, ES_COUNT_WORKER_FAILURES);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	es_end_scrub(db, message, left);
}

void
es_scrubber_main(Datum arg)
{
	SharedDatabase *db = es_database_numbered(DatumGetInt32(arg));
	Pass pass = {0};
	Oid database;

	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
	es_enter_process(NULL);
	if (!es_enter_scrubber_slot(db, database))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	es_pin_settings(0);
	/* where it and somebody else wait for each other it is the one that gives up */
	enable_timeout_every(RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert),
						 GetCurrentTimestamp(),
						 Max(DeadlockTimeout / LOOKS_OF_OTHERS, 1));
	pgstat_report_appname("event_store scrubber");
	/* commands that commit keep what they know in a child of this */
	PortalContext =
		AllocSetContextCreate(TopMemoryContext, "event_store scrubber commands",
							  ALLOCSET_DEFAULT_SIZES);
	pass.context = AllocSetContextCreate(TopMemoryContext, "event_store scrub",
										 ALLOCSET_DEFAULT_SIZES);
	es_begin_scrub(db);
	(void) es_take_scrub_wanted(db);
	try_pass(db, &pass);
	proc_exit(0);
}
