/*
 * outside_write.c
 *		Notices rows that come into the log around the API.
 *
 * The owner of the log may INSERT and COPY into it: he imports, repairs or
 * restores.  What shared memory knows of the log is wrong then: the next
 * positions may be taken, and so may the sequences that follow the heads it
 * remembers.  Asking the log before each append would tell, at the price of a
 * look at the busiest page of an index.  Instead a hook around each statement
 * that writes to the log says so: before its first row, the transaction counts
 * as in flight (position.c), so that the feed waits for what it writes, and all
 * heads are forgotten when it commits; after its last row the positions go on
 * behind it, committed or not, so that an append neither meets nor waits for it.
 * Only an append that takes a position while the statement runs can meet one of
 * its rows, and ends with 40001.
 *
 * Rows of scheduled events and sagas that come around the API, as when a dump is restored, are
 * told to the process that does what is due (timer_slot.c), and definitions of sagas that are
 * changed so to the sessions that have read them (kept_definition.c).
 *
 * What writes rows without a statement on this very table is not noticed: a row
 * routed to it from a partitioned parent, or an apply worker (a log that is fed
 * by a subscription is never appended to).  Such a row is met once, with 40001 or
 * VS001, and looked up from then on: see log.c.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "executor/execdesc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "storage/lockdefs.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/head_cache.h"
#include "ground/position.h"
#include "ground/projector_slot.h"
#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "ground/transaction.h"
#include "log/outside_write.h"

bool es_inserts = false;

static ExecutorStart_hook_type previous_start = NULL;
static ExecutorFinish_hook_type previous_finish = NULL;
static ProcessUtility_hook_type previous_utility = NULL;
/* whether this session has written to the archive: only then its statements are looked at when they end */
static bool wrote_archive = false;

/* The tables that are watched: the log, and those that say what is due. */
#define LOG_TABLE "domain_events"
#define ARCHIVE_TABLE "domain_events_archive"

static const struct
{
	const char *name;
	Timer timer;
} due_tables[] = {{"scheduled_events", ES_TIMER_DEADLINES},
				  {"sagas", ES_TIMER_SAGAS},
				  {"saga_steps", ES_TIMER_SAGAS},
				  {"retention", ES_TIMER_RETENTION}};

/* Whether a relation is one of ours, by its name, which all statements can ask. */
static bool
is_named(Oid relation, const char *name)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Form_pg_class class;
	bool is;

	if (!HeapTupleIsValid(tuple))
		return false;
	class = (Form_pg_class) GETSTRUCT(tuple);
	is = strcmp(NameStr(class->relname), name) == 0 &&
		 class->relnamespace == get_namespace_oid(ES_SCHEMA, true);
	ReleaseSysCache(tuple);
	return is;
}

/* Whether a statement can write rows at all; most cannot. */
static bool
can_write(const QueryDesc *query)
{
	return query->operation != CMD_SELECT || query->plannedstmt->hasModifyingCTE;
}

/* What a statement writes to is locked in this mode, and nothing else is. */
static Oid
find_written(const QueryDesc *query, const char *name)
{
	ListCell *cell;

	foreach (cell, query->plannedstmt->rtable)
	{
		RangeTblEntry *entry = lfirst(cell);

		if (entry->rtekind == RTE_RELATION &&
			entry->rellockmode == RowExclusiveLock &&
			is_named(entry->relid, name))
			return entry->relid;
	}
	return InvalidOid;
}

static bool
writes_to(const QueryDesc *query, const char *name)
{
	return OidIsValid(find_written(query, name));
}

/* Whether the user may insert into at least a column of a relation. */
static bool
may_insert(Oid relation)
{
	return pg_class_aclcheck(relation, GetUserId(), ACL_INSERT) == ACLCHECK_OK ||
		   pg_attribute_aclcheck_all(relation, GetUserId(), ACL_INSERT,
									 ACLMASK_ANY) == ACLCHECK_OK;
}

/*
 * The same of COPY.  The relation is looked up again by the command itself, which
 * locks it and decides whether it is allowed; who is refused there must not have
 * made the feed wait for his transaction.
 */
static bool
copies_to(Node *command, const char *name)
{
	CopyStmt *copy = (CopyStmt *) command;
	Oid relation;

	if (!IsA(command, CopyStmt) || !copy->is_from || copy->relation == NULL)
		return false;
	relation = RangeVarGetRelid(copy->relation, NoLock, true);
	return OidIsValid(relation) && is_named(relation, name) &&
		   may_insert(relation);
}

/*
 * Before the first row.  A store that is not whole, as while it is restored, has
 * nothing to be told, and no complaint is due to who fills it.
 */
static void
begin_write(void)
{
	const Store *store;

	if (XactReadOnly ||
		!OidIsValid(get_relname_relid("domain_events_pkey",
									  get_namespace_oid(ES_SCHEMA, true))) ||
		es_my_database() == NULL)
		return;
	store = es_store_if_any();
	if (store == NULL || store->subscribed)
		return;
	es_note_write();
	es_forget_heads();
	es_begin_outside_write();
}

/* Rows come into the archive: once they are there, each session looks up to where. */
static void
note_archive(void)
{
	const Store *store = es_store_if_any();

	if (store == NULL || !OidIsValid(store->archive))
		return;
	CacheInvalidateRelcacheByRelid(store->archive);
	wrote_archive = true;
}

/* They are there. */
static void
note_archived_rows(void)
{
	const Store *store = es_store_if_any();
	OwnerScope scope;

	if (store == NULL || !OidIsValid(store->archive))
		return;
	es_begin_write(&scope);
	es_note_archived_rows();
	es_end(&scope);
}

/* Something may be due that nobody has noted: the table is looked at. */
static void
note_due(Timer timer)
{
	if (XactReadOnly || es_my_database() == NULL)
		return;
	es_note_write();
	es_note_timer(timer, ES_TIMER_UNKNOWN);
	/* a step may be there for a handler */
	if (timer == ES_TIMER_SAGAS)
		es_note_projectors_wanted();
}

static void
note_due_of_statement(const QueryDesc *query)
{
	for (int i = 0; i < (int) lengthof(due_tables); i++)
	{
		if (writes_to(query, due_tables[i].name))
			note_due(due_tables[i].timer);
	}
}

static void
note_due_of_copy(Node *command)
{
	for (int i = 0; i < (int) lengthof(due_tables); i++)
	{
		if (copies_to(command, due_tables[i].name))
			note_due(due_tables[i].timer);
	}
}

/* Sessions forget what they have read of the definitions of sagas. */
static void
forget_definitions(const QueryDesc *query)
{
	Oid definitions = find_written(query, "saga_definitions");

	if (OidIsValid(definitions))
		CacheInvalidateRelcacheByRelid(definitions);
}

uint64
es_write_ours(KeptPlan *plan, Datum *values, const char *nulls)
{
	volatile uint64 count = 0;

	es_inserts = true;
	PG_TRY();
	{
		count = es_execute_latest(plan, values, nulls);
	}
	PG_FINALLY();
	{
		es_inserts = false;
	}
	PG_END_TRY();
	return count;
}

static void
start_statement(QueryDesc *query, int flags)
{
	if (previous_start != NULL)
		previous_start(query, flags);
	else
		standard_ExecutorStart(query, flags);
	if (!can_write(query) || flags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	if (es_inserts)
	{
		es_inserts = false;
		return;
	}
	forget_definitions(query);
	if (writes_to(query, LOG_TABLE))
		begin_write();
	else if (query->operation == CMD_DELETE)
		return;
	else if (writes_to(query, ARCHIVE_TABLE))
		note_archive();
	else
		note_due_of_statement(query);
}

static void
finish_statement(QueryDesc *query)
{
	if (previous_finish != NULL)
		previous_finish(query);
	else
		standard_ExecutorFinish(query);
	if (!can_write(query))
		return;
	if (es_writes_outside() && writes_to(query, LOG_TABLE))
		es_pass_over_used_positions();
	if (wrote_archive && query->operation != CMD_DELETE &&
		writes_to(query, ARCHIVE_TABLE))
		note_archived_rows();
}

static void
run_utility(PlannedStmt *statement, const char *query, bool read_only_tree,
			ProcessUtilityContext context, ParamListInfo params,
			QueryEnvironment *environment, DestReceiver *dest,
			QueryCompletion *completion)
{
	ProcessUtility_hook_type next =
		previous_utility != NULL ? previous_utility : standard_ProcessUtility;
	bool copies = copies_to(statement->utilityStmt, LOG_TABLE);
	bool archives = copies_to(statement->utilityStmt, ARCHIVE_TABLE);

	if (copies)
		begin_write();
	else if (archives)
		note_archive();
	else
		note_due_of_copy(statement->utilityStmt);
	next(statement, query, read_only_tree, context, params, environment, dest,
		 completion);
	if (copies && es_writes_outside())
		es_pass_over_used_positions();
	if (archives)
		note_archived_rows();
}

void
es_watch_log(void)
{
	previous_start = ExecutorStart_hook;
	ExecutorStart_hook = start_statement;
	previous_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = finish_statement;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = run_utility;
}
