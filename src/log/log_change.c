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
 * Rules are all that becomes a part of the statement itself, so there may be none.
 */
#include "postgres.h"

#include "access/table.h"
#include "fmgr.h"
#include "rewrite/prs2lock.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/rel.h"

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
				   strcmp(permission->command, command) == 0);
}

/* Where a rule was dropped the catalog may still say that there are some. */
static void
refuse_rules(Oid table)
{
	Relation relation = table_open(table, AccessShareLock);

	if (relation->rd_rules != NULL && relation->rd_rules->numLocks > 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("%s has rules, so nothing is changed in it",
							   RelationGetRelationName(relation)),
						errhint("Drop them; a trigger does what they do.")));
	table_close(relation, AccessShareLock);
}

uint64
es_change_log(KeptPlan *plan, Datum *values, const char *nulls, Oid table,
			  LogChange change)
{
	Permission permission = {.table = table, .command = commands[change]};
	ErrorContextCallback context = {.previous = error_context_stack,
									.callback = say_nothing,
									.arg = &permission};
	uint64 count;

	/* plans are made, and so locks are taken, before we look */
	(void) es_plan(plan);
	refuse_rules(table);
	error_context_stack = &context;
	count = es_write_ours(plan, values, nulls);
	error_context_stack = context.previous;
	return count;
}
