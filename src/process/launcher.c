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
 * Processes may be fewer than databases that want one, since the server, or
 * event_store.max_workers, has no more.  Then they take turns: who has waited
 * longest is next, and a projector or worker that has nothing due leaves at once, the longest
 * idle one first; if there is none, one that has been at work for a second.  It
 * comes back to the end of the queue when something is due.
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
#include "storage/ipc.h"
#include "storage/lockdefs.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/common.h"
#include "ground/compat.h"
#include "ground/database_process.h"
#include "ground/projector_slot.h"
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
/* A worker with something due may be asked to leave after so long. */
#define ES_TENURE_MS 1000
/* That there are no processes is said so often. */
#define ES_REPORT_PAUSE_MS 60000

PGDLLEXPORT void es_launcher_main(Datum arg);

/* What the launcher remembers of the worker of each slot. */
typedef struct Start
{
	Oid database;					/* whose worker the rest speaks of */
	BackgroundWorkerHandle *handle; /* until its end was noticed */
	TimestampTz started_at;
	TimestampTz retry_at; /* 0 = at once */
	int failures;		  /* in a row, to get one running */
} Start;

static Start *starts;		 /* by slot */
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
	/* it says only in the log that all processes are taken */
	es_expect_launcher(newest_background_worker() != NULL &&
					   strcmp(newest_background_worker()->rw_worker.bgw_type,
							  worker.bgw_type) == 0);
}

/* Has "visit" look at the row of every database. */
static void
visit_databases(void (*visit)(Form_pg_database form, void *arg), void *arg)
{
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		visit((Form_pg_database) GETSTRUCT(tuple), arg);
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/* Those meant to be worked in are to be looked at. */
static void
add_unprobed(Form_pg_database form, void *arg)
{
	MemoryContext old;

	if (!form->datallowconn || form->datistemplate)
		return;
	old = MemoryContextSwitchTo(TopMemoryContext);
	unprobed = lappend_oid(unprobed, form->oid);
	MemoryContextSwitchTo(old);
}

static void
add_database(Form_pg_database form, void *arg)
{
	List **databases = arg;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	*databases = lappend_oid(*databases, form->oid);
	MemoryContextSwitchTo(old);
}

/* Frees the places of databases that were dropped while nobody saw it. */
static void
free_dropped(void)
{
	List *databases = NIL;

	visit_databases(add_database, &databases);
	for (int i = 0; i < es_slots(); i++)
	{
		Oid database = es_database_numbered(i)->database;

		if (OidIsValid(database) && es_database_numbered(i)->reserved &&
			!list_member_oid(databases, database))
			es_free_database(database);
	}
	list_free(databases);
}

/* A database, and what it is called; "" = there is none. */
typedef struct DatabaseName
{
	Oid database;
	char name[NAMEDATALEN];
} DatabaseName;

static void
note_name(Form_pg_database form, void *arg)
{
	DatabaseName *wanted = arg;

	if (form->oid == wanted->database)
		strlcpy(wanted->name, NameStr(form->datname), NAMEDATALEN);
}

static DatabaseName
name_of_database(Oid database)
{
	DatabaseName wanted = {database, ""};

	es_begin_busy(false);
	visit_databases(note_name, &wanted);
	es_end_busy();
	return wanted;
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
	DatabaseName of;
	bool ran;

	pfree(start->handle);
	start->handle = NULL;
	for (int i = 0; i < es_slots(); i++)
	{
		/* there is a process for who has waited for one */
		if (starts[i].failures == 0)
			starts[i].retry_at = 0;
	}

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
	of = name_of_database(start->database);
	if (of.name[0] == '\0')
	{
		es_free_database(start->database);
		return;
	}
	if (start->failures == ES_OUTAGE_FAILURES)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event_store worker of database \"%s\" keeps ending",
						of.name),
				 errdetail("Callers do its work meanwhile; it is tried again at least once a minute.")));
	start->retry_at =
		TimestampTzPlusMilliseconds(now, start_pause(start->failures));
	es_settle_start(db, start->database, false);
}

/* Says that there is no process for a worker, once in a while. */
static void
report_refusal(Oid database, bool by_us)
{
	static TimestampTz reported_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	DatabaseName of;

	if (reported_at != 0 &&
		!TimestampDifferenceExceeds(reported_at, now, ES_REPORT_PAUSE_MS))
		return;
	reported_at = now;
	of = name_of_database(database);
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not start an event_store worker for database \"%s\"",
					of.name),
			 errdetail("All processes for it are taken. Callers do its work until it is next; this is said once a minute at most."),
			 errhint("You might need to increase %s.",
					 by_us ? "event_store.max_workers" : "max_worker_processes")));
}

/* Nobody shall count on a worker that cannot be had now. */
static void
refuse(SharedDatabase *db, Start *start)
{
	start->retry_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ES_START_PAUSE_MS);
	es_settle_start(db, start->database, false);
}

/* Starts a worker for a slot; false when no process is to be had. */
static bool
start_worker(SharedDatabase *db, Start *start)
{
	BackgroundWorker worker;
	Oid database = start->database;

	es_describe_process(&worker, db, database, "worker");
	worker.bgw_notify_pid = MyProcPid;

	start->started_at = GetCurrentTimestamp();
	start->retry_at = 0;
	es_begin_start(db);
	if (RegisterDynamicBackgroundWorker(&worker, &start->handle))
	{
		es_mark_starting(db, database);
		return true;
	}

	start->handle = NULL;
	return false;
}

/*
 * Gives databases that nobody has looked at a slot with a worker wanted; those
 * that find none later, when one is given back.
 */
static void
admit_unprobed(int room)
{
	ListCell *cell;

	foreach (cell, unprobed)
	{
		Oid database = lfirst_oid(cell);
		SharedDatabase *db;

		if (room <= 0)
			return;
		db = es_make_database(database);
		if (db == NULL)
			continue;
		unprobed = foreach_delete_current(unprobed, cell);
		room--;
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

/* ---------- who is next ---------- */

/* A slot that waits for a worker. */
typedef struct Waiting
{
	int number;
	TimestampTz since; /* or from then on */
} Waiting;

static int
compare_waiting(const void *a, const void *b)
{
	TimestampTz x = ((const Waiting *) a)->since;
	TimestampTz y = ((const Waiting *) b)->since;

	return x < y ? -1 : x > y ? 1 : 0;
}

/* Those that wait, who has waited longest first.  Returns how many. */
static int
list_waiting(Waiting *waiting)
{
	int count = 0;

	for (int i = 0; i < es_slots(); i++)
	{
		SharedDatabase *db = es_database_numbered(i);
		Start *start = &starts[i];

		/* a slot just assigned */
		if (start->handle == NULL && start->database != db->database)
			tend_slot(db, start);
		waiting[count].number = i;
		if (start->handle == NULL && OidIsValid(start->database) &&
			es_worker_wanted(db, start->database, &waiting[count].since))
			count++;
	}
	qsort(waiting, count, sizeof(Waiting), compare_waiting);
	return count;
}

/* The workers that are there or on their way, and those asked to leave. */
static int
count_workers(int *leaving)
{
	int count = 0;

	*leaving = 0;
	for (int i = 0; i < es_slots(); i++)
	{
		SharedDatabase *db = es_database_numbered(i);

		if (starts[i].handle == NULL && !es_worker_present(db))
			continue;
		count++;
		if (es_worker_asked_to_go(db))
			(*leaving)++;
	}
	return count;
}

/*
 * The worker that leaves next: of those with nothing due the one for which this
 * has been so for longest, else the one that has been there for longest.  NULL =
 * none may go yet.
 */
static SharedDatabase *
next_to_go(TimestampTz now)
{
	TimestampTz tenure = TimestampTzPlusMilliseconds(now, -ES_TENURE_MS);
	SharedDatabase *next = NULL;
	TimestampTz next_rests = 0;
	TimestampTz next_started = 0;

	for (int i = 0; i < es_slots(); i++)
	{
		SharedDatabase *db = es_database_numbered(i);
		TimestampTz rests;
		TimestampTz started;
		bool sooner;

		if (!es_worker_may_go(db, tenure, &rests, &started))
			continue;
		if (rests != 0)
			sooner = next_rests == 0 || rests < next_rests;
		else
			sooner = next_rests == 0 && started < next_started;
		if (next != NULL && !sooner)
			continue;
		next = db;
		next_rests = rests;
		next_started = started;
	}
	return next;
}

/*
 * Has as many workers leave as others wait, or as are too many; projectors that rest before,
 * where it is the server that has no more processes.  The ends of workers wake us.
 * Returns when to look again, in milliseconds; -1 = not at all.
 */
static long
make_room(int wanted, bool of_server)
{
	TimestampTz now = GetCurrentTimestamp();

	for (; wanted > 0; wanted--)
	{
		SharedDatabase *db;

		if (of_server && es_ask_resting_projector())
			continue;
		db = next_to_go(now);
		if (db == NULL)
			return ES_TENURE_MS;
		es_ask_to_go(db);
	}
	return -1;
}

static long
sooner(long a, long b)
{
	return a < 0 ? b : b < 0 ? a : Min(a, b);
}

/*
 * Starts workers for those that wait, in their order, as long as there are
 * processes.  Returns when to come back unasked; -1 = not at all.
 */
static long
serve_waiting(int starting)
{
	Waiting *waiting = palloc_array(Waiting, es_slots());
	int count = list_waiting(waiting);
	int leaving;
	int workers = count_workers(&leaving);
	int refused = 0;
	bool full = false; /* the server has no more */
	long timeout = -1;

	for (int i = 0; i < count; i++)
	{
		SharedDatabase *db = es_database_numbered(waiting[i].number);
		Start *start = &starts[waiting[i].number];
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz due =
			Max(es_end_of_pause(waiting[i].since, now, ES_START_PAUSE_MAX_MS),
				es_end_of_pause(start->retry_at, now, ES_START_PAUSE_MAX_MS));
		bool by_us = es_max_workers > 0 && workers >= es_max_workers;

		if (due > now)
		{
			timeout = sooner(timeout, TimestampDifferenceMilliseconds(now, due));
			continue;
		}
		/* one that is up makes room for the next */
		if (starting >= ES_STARTS_AT_ONCE)
			continue;
		if (refused == 0 && !by_us && start_worker(db, start))
		{
			starting++;
			workers++;
			continue;
		}
		if (refused++ == 0)
			report_refusal(start->database, by_us);
		full = full || !by_us;
		refuse(db, start);
		timeout = sooner(timeout, ES_START_PAUSE_MS);
	}
	if (es_max_workers > 0)
		refused = Max(refused, workers - es_max_workers);
	pfree(waiting);
	return sooner(timeout, make_room(refused - leaving, full));
}

/*
 * Does all that can be done now.  Returns when to come back unasked, in
 * milliseconds; -1 = not at all.
 */
static long
tend_workers(void)
{
	int starting = 0;

	for (int i = 0; i < es_slots(); i++)
		starting += tend_slot(es_database_numbered(i), &starts[i]);
	admit_unprobed(ES_STARTS_AT_ONCE - starting);
	es_keep_places();
	return serve_waiting(starting);
}

void
es_launcher_main(Datum arg)
{
	uint32 wait_event;

	es_enter_process(NULL);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	wait_event = WaitEventExtensionNew("EventStoreLauncherMain");

	es_enter_launcher_slot();
	starts = MemoryContextAllocZero(TopMemoryContext, es_slots() * sizeof(Start));
	visit_databases(add_unprobed, NULL);
	free_dropped();
	MemoryContextSwitchTo(TopMemoryContext);
	es_warn_of_settings();
	es_end_busy();
	while (!es_asked_to_leave())
	{
		if (es_heed_signals())
			es_warn_of_settings();
		es_sleep_on_latch(tend_workers(), wait_event);
	}
	/* another one is started after a failure only */
	proc_exit(es_server_stops() ? 0 : 1);
}
