/*
 * log_change.c
 *		The few statements of ours that change rows of the log, and how the guard
 *		knows them.
 *
 * The log is append-only: its triggers raise VS003 at each UPDATE, DELETE and
 * TRUNCATE (refuse_change(), made by create_store()).  They ask us whether it is we
 * who are at work.  A flag would be a hole: the triggers, rules and functions that an
 * owner attaches run in the midst of our statement, and what they delete would pass
 * with it, as would all that comes after an error that left it up.  So what says that
 * we are at work is a place in the stack of error contexts, which every language
 * and every statement within another one adds to, and which each error takes back:
 *
 *		es_change_log	puts its own there
 *		SPI				for the statement
 *		PL/pgSQL		for refuse_change(), which asks
 *
 * and there is nothing between these.  A statement that code of a user's runs, be it
 * in a trigger, in a column that is generated or in an index, has at least one more.
 * A cursor that is fetched from has none, and functions of the server's own can fetch
 * from it in a CHECK; but it is a portal, which is the active one meanwhile.
 *
 * Rules become a part of the statement itself, what a trigger before an update makes of
 * a row is what the statement writes, and one before a delete may keep the row, so there may
 * be none of these.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "rewrite/prs2lock.h"
#include "storage/lockdefs.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

#include "ground/catalog.h"
#include "log/log_change.h"
#include "log/outside_write.h"

/* What lies above our own context when the guard asks: SPI's and PL/pgSQL's. */
#define CONTEXTS_ABOVE 2

/* The statement that is carried out. */
typedef struct Permission
{
	Oid table;
	const char *command; /* as in TG_OP */
	Portal portal; /* in which it is carried out; it has none of its own */
} Permission;

static const char *const commands[] =
	{[ES_CHANGE_UPDATE] = "UPDATE", [ES_CHANGE_DELETE] = "DELETE"};

PG_FUNCTION_INFO_V1(es_is_log_change);

/* By this function our context is known; errors need no explanation from it. */
static void
say_nothing(void *permission)
{
}

/* Whether the guard is asked on behalf of a statement of es_change_log(). */
Datum
es_is_log_change(PG_FUNCTION_ARGS)
{
	Oid table = PG_GETARG_OID(0);
	char *command = text_to_cstring(PG_GETARG_TEXT_PP(1));
	ErrorContextCallback *context = error_context_stack;
	const Permission *permission;

	for (int i = 0; i < CONTEXTS_ABOVE && context != NULL; i++)
		context = context->previous;
	if (context == NULL || context->callback != say_nothing)
		PG_RETURN_BOOL(false);
	permission = context->arg;
	PG_RETURN_BOOL(permission->table == table &&
				   strcmp(permission->command, command) == 0 &&
				   permission->portal == ActivePortal);
}

/* Where a rule was dropped the catalog may still say that there are some. */
static void
refuse_rules(Relation relation)
{
	if (relation->rd_rules != NULL && relation->rd_rules->numLocks > 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("%s has rules, so nothing is changed in it",
							   RelationGetRelationName(relation)),
						errhint("Drop them; a trigger does what they do.")));
}

static bool
is_guard(Oid function)
{
	char *name = get_func_name(function);

	return name != NULL && strcmp(name, "refuse_change") == 0 &&
		   get_func_namespace(function) == es_store()->schema;
}

/* The first trigger that is not the guard and sees each row before this is done to it. */
static const Trigger *
find_trigger(Relation relation, int16 event)
{
	/* what is looked up meanwhile may have the relation built anew */
	TriggerDesc *triggers = CopyTriggerDesc(relation->trigdesc);

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_ROW,
								 TRIGGER_TYPE_BEFORE, event) &&
			trigger->tgenabled != TRIGGER_DISABLED && !is_guard(trigger->tgfoid))
			return trigger;
	}
	return NULL;
}

/* Such a trigger could keep the row, write it as it was, or another one. */
static void
refuse_triggers(Relation relation, LogChange change)
{
	bool updates = change == ES_CHANGE_UPDATE;
	const Trigger *trigger =
		find_trigger(relation,
					 updates ? TRIGGER_TYPE_UPDATE : TRIGGER_TYPE_DELETE);

	if (trigger != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s has a trigger before %s of rows, \"%s\", so nothing is changed in it",
						RelationGetRelationName(relation),
						updates ? "updates" : "deletes", trigger->tgname),
				 updates
					 ? errhint("Make it one before INSERT only; nobody but the store updates these rows.")
					 : errhint("Make it one after DELETE; nobody but the store deletes these rows.")));
}

/* Holds the table as it is to the end of the transaction. */
static void
check_table(Oid table, LogChange change)
{
	Relation relation = table_open(table, RowExclusiveLock);

	refuse_rules(relation);
	refuse_triggers(relation, change);
	table_close(relation, NoLock);
}

bool
es_inserts_as_given(Oid table)
{
	Relation relation = table_open(table, RowExclusiveLock);
	bool as_given;

	refuse_rules(relation);
	as_given = find_trigger(relation, TRIGGER_TYPE_INSERT) == NULL;
	table_close(relation, NoLock);
	return as_given;
}

uint64
es_change_log(KeptPlan *plan, Datum *values, const char *nulls, Oid table,
			  LogChange change)
{
	Permission permission = {.table = table,
							 .command = commands[change],
							 .portal = ActivePortal};
	ErrorContextCallback context = {.previous = error_context_stack,
									.callback = say_nothing,
									.arg = &permission};
	uint64 count;

	(void) es_plan(plan);
	check_table(table, change);
	error_context_stack = &context;
	count = es_write_ours(plan, values, nulls);
	error_context_stack = context.previous;
	return count;
}
