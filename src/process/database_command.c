/*
 * database_command.c
 *		Makes the worker leave a database that a command needs for itself.
 *
 * DROP DATABASE, CREATE DATABASE (for its template), ALTER DATABASE RENAME and
 * SET TABLESPACE refuse while a process is connected, and background workers
 * count.  A ProcessUtility hook around these commands bars the database, asks
 * its worker to go and lifts the bar afterwards, so that nobody has to know
 * that there is a worker.  Termination loses nothing: a round that was under
 * way is rolled back, its rows stay staged.
 *
 * The bar is lifted on error and when the session is terminated, too; the
 * launcher starts no worker while it is up, and a worker on its way in that
 * finds it turns back.
 *
 * The hook only prepares: whether the command is allowed is decided by the
 * command itself.  It stays out of the way of roles that cannot succeed anyway,
 * so that they cannot disturb the worker.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "ground/committer_slot.h"
#include "ground/compat.h"
#include "ground/projector_slot.h"
#include "ground/scrubber_slot.h"
#include "ground/shmem.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"
#include "process/database_command.h"

/* The worker's exit wakes us; this only bounds a lost signal. */
#define ES_SIGNAL_AGAIN_MS 1000

static ProcessUtility_hook_type previous_hook = NULL;

/* A copy of a database with a store that this transaction makes. */
static Oid copied_database = InvalidOid;
static bool callback_registered = false;

/* Lifts the bar, also on error and when the session is terminated. */
static void
unbar(int code, Datum arg)
{
	es_unbar_worker(DatumGetObjectId(arg));
}

static void
await_departure(SharedDatabase *db, Oid database)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("EventStoreWorkerDeparture");
	es_begin_wait(db);
	while (!(es_dismiss_worker(db, database) &&
			 es_dismiss_projectors(db, database) &&
			 es_dismiss_committer(db, database) &&
			 es_dismiss_scrubber(db, database)))
		es_wait(db, ES_SIGNAL_AGAIN_MS, wait_event);
	es_end_wait();
}

/* The value of an option of CREATE or ALTER DATABASE, or NULL. */
static DefElem *
option_named(List *options, const char *name)
{
	ListCell *cell;

	foreach (cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

/* Which database does the command need for itself?  NULL = none. */
static const char *
database_needed(Node *command)
{
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) command)->dbname;
		case T_CreatedbStmt:
		{
			DefElem *template =
				option_named(((CreatedbStmt *) command)->options, "template");

			return template != NULL && template->arg != NULL
					   ? defGetString(template)
					   : "template1";
		}
		case T_RenameStmt:
			return ((RenameStmt *) command)->renameType == OBJECT_DATABASE
					   ? ((RenameStmt *) command)->subname
					   : NULL;
		case T_AlterDatabaseStmt:
			return option_named(((AlterDatabaseStmt *) command)->options,
								"tablespace") != NULL
					   ? ((AlterDatabaseStmt *) command)->dbname
					   : NULL;
		default:
			return NULL;
	}
}

/* Could the command succeed for this role, as far as the database says? */
static bool
may_need(Node *command, Oid database)
{
	HeapTuple tuple;
	bool allowed = object_ownercheck(DatabaseRelationId, database, GetUserId());

	if (allowed || !IsA(command, CreatedbStmt))
		return allowed;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		allowed = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return allowed;
}

/* A copy holds what was staged in its template: a worker shall look at it. */
static void
look_at_copy(XactEvent event, void *arg)
{
	SharedDatabase *db;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (event == XACT_EVENT_COMMIT && OidIsValid(copied_database))
	{
		db = es_make_database(copied_database);
		if (db != NULL)
			es_wake_worker(db);
	}
	copied_database = InvalidOid;
}

static void
note_copy(const char *name)
{
	if (!callback_registered)
	{
		RegisterXactCallback(look_at_copy, NULL);
		callback_registered = true;
	}
	copied_database = get_database_oid(name, true);
}

/* What a hook of this kind is given. */
typedef struct Command
{
	PlannedStmt *pstmt;
	const char *query;
	bool read_only_tree;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *environment;
	DestReceiver *dest;
	QueryCompletion *completion;
} Command;

static void
carry_out(const Command *c)
{
	ProcessUtility_hook_type next =
		previous_hook != NULL ? previous_hook : standard_ProcessUtility;

	next(c->pstmt, c->query, c->read_only_tree, c->context, c->params,
		 c->environment, c->dest, c->completion);
}

/*
 * A function of its own: compilers cannot tell which variables of a function keep
 * their values where its errors are caught.
 */
static void
carry_out_without_worker(const Command *command, SharedDatabase *db, Oid database)
{
	PG_ENSURE_ERROR_CLEANUP(unbar, ObjectIdGetDatum(database));
	{
		await_departure(db, database);
		carry_out(command);
	}
	PG_END_ENSURE_ERROR_CLEANUP(unbar, ObjectIdGetDatum(database));
}

static void
database_command(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				 ProcessUtilityContext context, ParamListInfo params,
				 QueryEnvironment *environment, DestReceiver *dest,
				 QueryCompletion *completion)
{
	Command given = {pstmt,	 query,		  read_only_tree, context,
					 params, environment, dest,			  completion};
	Node *command = pstmt->utilityStmt;
	const char *name = database_needed(command);
	Oid database = name != NULL ? get_database_oid(name, true) : InvalidOid;
	SharedDatabase *db = NULL;
	bool has_store = false;

	if (OidIsValid(database) && may_need(command, database))
		db = es_bar_worker(database, &has_store);
	if (db == NULL)
	{
		carry_out(&given);
		return;
	}
	carry_out_without_worker(&given, db, database);

	if (IsA(command, DropdbStmt))
		es_free_database(database);
	else
		es_unbar_worker(database);
	if (IsA(command, CreatedbStmt) && has_store)
		note_copy(((CreatedbStmt *) command)->dbname);
}

/* Installs the hook; called while the library is preloaded. */
void
es_utility_hook_install(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = database_command;
}
