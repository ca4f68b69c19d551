/*
 * launcher.c
 *		The launcher: starts a database worker wherever one is wanted.
 *
 * One launcher per cluster is connected to no database.  It knows databases as
 * slots in shared memory and has a worker started once in every database after
 * the server started, to find out whether there is a store and what was left
 * in its staging, later whenever a commit asks for one: worker_slot.c draws the
 * states that a slot goes through.
 *
 * Where none can be had, or each ends before it is running, it says so in the
 * slot and goes on trying; that is the only time when it wakes up unasked.  A
 * worker that ran was ended by somebody, and the next one is worth waiting for.
 *
 * The launcher waits for the end of a process that it started before it starts
 * the next one for that slot.  Workers outlive a launcher that is terminated;
 * the next one knows them by their marks in shared memory.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lockdefs.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/common.h"
#include "ground/compat.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "process/launcher.h"
#include "process/process.h"
#include "staging/staging_state.h"

/* The launcher is restarted after so many seconds. */
#define ES_LAUNCHER_RESTART_S 5
/* So many workers are on their way up at most. */
#define ES_STARTS_AT_ONCE 4
/* So many failed starts in a row are an outage. */
#define ES_OUTAGE_FAILURES 3
/* Workers that ran, but not for long, are replaced no faster than this. */
#define ES_REPLACE_PAUSE_MS 100
/* The first and the longest pause before a failed start is tried again. */
#define ES_START_PAUSE_MS 1000
#define ES_START_PAUSE_MAX_MS 60000

PGDLLEXPORT void es_launcher_main(Datum arg);

/* What the launcher remembers of the worker of each slot. */
typedef struct Start
{
	Oid database;					/* whose worker the rest speaks of */
	BackgroundWorkerHandle *handle; /* until its end was noticed */
	TimestampTz started_at;
	TimestampTz retry_at; /* 0 = at once */
	int failures;		  /* in a row, to get one running */
	bool refused;		  /* there was no process to be had */
} Start;

static Start starts[ES_MAX_DATABASES];
static List *unprobed = NIL; /* databases not yet looked at */

void
es_register_launcher(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = ES_LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_library_name, ES_SCHEMA, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "es_launcher_main",
			sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "event_store launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "event_store launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* Lists the databases, all or those meant to be worked in, in "context". */
static List *
list_databases(MemoryContext context, bool all)
{
	List *databases = NIL;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!all && (!form->datallowconn || form->datistemplate))
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return databases;
}

/* Frees the slot of a database that is gone; returns whether it was. */
static bool
forget_if_dropped(Oid database)
{
	List *databases;
	bool dropped;

	es_begin_busy(false);
	databases = list_databases(CurrentMemoryContext, true);
	es_end_busy();
	dropped = !list_member_oid(databases, database);

	list_free(databases);
	if (dropped)
		es_free_database(database);
	return dropped;
}

/* How long to wait after so many failed starts. */
static long
start_pause(int failures)
{
	long pause = ES_START_PAUSE_MS;

	for (int i = ES_OUTAGE_FAILURES;
		 i < failures && pause < ES_START_PAUSE_MAX_MS; i++)
		pause *= 2;
	return Min(pause, ES_START_PAUSE_MAX_MS);
}

/* Draws the lesson from the end of a worker. */
static void
settle_start(SharedDatabase *db, Start *start)
{
	TimestampTz now = GetCurrentTimestamp();
	bool ran;

	pfree(start->handle);
	start->handle = NULL;

	if (!es_worker_missed(db, start->database, &ran))
	{
		start->failures = 0;
		es_release_database(start->database);
		return;
	}

	start->failures = ran ? 0 : start->failures + 1;
	if (start->failures < ES_OUTAGE_FAILURES)
	{
		if (ran)
			start->retry_at = TimestampTzPlusMilliseconds(start->started_at,
														  ES_REPLACE_PAUSE_MS);
		es_settle_start(db, start->database, true);
		return;
	}
	if (forget_if_dropped(start->database))
		return;
	if (start->failures == ES_OUTAGE_FAILURES)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event_store worker of database %u keeps ending",
						start->database),
				 errdetail("Callers do its work meanwhile; it is tried again at least once a minute.")));
	start->retry_at =
		TimestampTzPlusMilliseconds(now, start_pause(start->failures));
	es_settle_start(db, start->database, false);
}

/* Whether a worker is waiting for a process, which was reported then. */
static bool
any_refused(void)
{
	for (int i = 0; i < ES_MAX_DATABASES; i++)
	{
		if (starts[i].refused)
			return true;
	}
	return false;
}

/* Starts a worker for a slot; false when no process is to be had. */
static bool
start_worker(SharedDatabase *db, Start *start)
{
	BackgroundWorker worker;
	Oid database = start->database;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, ES_SCHEMA, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "es_worker_main",
			sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, BGW_MAXLEN, "event_store worker of database %u",
			 database);
	strlcpy(worker.bgw_type, "event_store worker", BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum(es_number_of_database(db));
	memcpy(worker.bgw_extra, &database, sizeof(database));
	worker.bgw_notify_pid = MyProcPid;

	start->started_at = GetCurrentTimestamp();
	start->retry_at = 0;
	es_begin_start(db);
	if (RegisterDynamicBackgroundWorker(&worker, &start->handle))
	{
		start->refused = false;
		es_mark_starting(db, database);
		return true;
	}

	start->handle = NULL;
	start->retry_at =
		TimestampTzPlusMilliseconds(start->started_at, ES_START_PAUSE_MS);
	if (!any_refused())
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start an event_store worker"),
				 errdetail("Callers do its work meanwhile; it is tried again every few seconds."),
				 errhint("You might need to increase %s.",
						 "max_worker_processes")));
	start->refused = true;
	es_settle_start(db, database, false);
	return false;
}

/* Gives databases that nobody has looked at a slot with a worker wanted. */
static void
admit_unprobed(int room)
{
	while (room-- > 0 && unprobed != NIL)
	{
		Oid database = linitial_oid(unprobed);
		SharedDatabase *db = es_make_database(database);

		if (db == NULL)
			return; /* later, when a slot is given back */
		unprobed = list_delete_first(unprobed);
		if (es_staging_is(db, ES_STAGING_UNKNOWN))
			es_want_worker(db, database);
	}
}

/* Notices ended workers; returns whether one is on its way up in this slot. */
static bool
tend_slot(SharedDatabase *db, Start *start)
{
	pid_t pid;

	if (start->handle != NULL &&
		GetBackgroundWorkerPid(start->handle, &pid) == BGWH_STOPPED)
		settle_start(db, start);

	if (start->handle != NULL)
		return es_worker_starting(db);
	if (start->database != db->database)
	{
		memset(start, 0, sizeof(*start));
		start->database = db->database;
	}
	/* started by a launcher that is no more, and never arrived */
	es_want_lost_worker(db);
	return false;
}

/* May a worker be started in this slot? */
static bool
is_wanted(SharedDatabase *db, const Start *start)
{
	return start->handle == NULL && OidIsValid(start->database) &&
		   es_worker_wanted(db, start->database);
}

/*
 * Does all that can be done now.  Returns when to come back unasked, in
 * milliseconds; -1 = not at all.
 */
static long
tend_workers(void)
{
	int starting = 0;
	long timeout = -1;

	for (int i = 0; i < ES_MAX_DATABASES; i++)
		starting += tend_slot(es_database_numbered(i), &starts[i]);
	admit_unprobed(ES_STARTS_AT_ONCE - starting);
	for (int i = 0; i < ES_MAX_DATABASES; i++)
	{
		SharedDatabase *db = es_database_numbered(i);
		Start *start = &starts[i];

		/* a slot just assigned */
		if (start->handle == NULL && start->database != db->database)
			tend_slot(db, start);
		if (!is_wanted(db, start))
		{
			start->refused = false;
			continue;
		}
		if (starting >= ES_STARTS_AT_ONCE)
			continue;
		if (start->retry_at <= GetCurrentTimestamp() && start_worker(db, start))
			starting++;
		else
		{
			long pause = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														 start->retry_at);

			timeout = timeout < 0 ? pause : Min(timeout, pause);
		}
	}
	return timeout;
}

void
es_launcher_main(Datum arg)
{
	uint32 wait_event;

	es_enter_process(NULL);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	wait_event = WaitEventExtensionNew("EventStoreLauncherMain");

	es_enter_launcher_slot();
	unprobed = list_databases(TopMemoryContext, false);
	MemoryContextSwitchTo(TopMemoryContext);
	es_warn_of_settings();
	es_end_busy();
	while (!es_asked_to_leave())
	{
		bool reloaded = ConfigReloadPending;

		es_heed_signals();
		if (reloaded)
			es_warn_of_settings();
		es_sleep_on_latch(tend_workers(), wait_event);
	}
	/* another one is started after a failure only */
	proc_exit(es_server_stops() ? 0 : 1);
}
