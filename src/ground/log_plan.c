/*
 * log_plan.c
 *		Statements that read the log, of which a part may be in the archive.
 *
 * Events that are moved to domain_events_archive keep their positions and sequences, and
 * a reader is to find them where they were in its order.  So a statement has a second
 * form, made of its text, that reads both tables under its one snapshot: the planner
 * takes the two apart again and merges what their indexes give.  It is prepared when a
 * session first needs it, and a session of a store that moved nothing never does.
 *
 * Whoever moves events raises the marks in shared memory before any of them can be
 * missing from a snapshot.  So a reader takes its snapshot first and then looks at the
 * mark; the other way round something could be moved in between.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/log_plan.h"

KeptPlan *
es_plan_on(KeptPlan *plan, LogTables tables)
{
	MemoryContext caller;
	KeptPlan *other;

	if (plan->elsewhere[tables] != NULL)
		return plan->elsewhere[tables];
	caller = MemoryContextSwitchTo(TopMemoryContext);
	other = palloc0(sizeof(KeptPlan));
	other->sql = es_log_sql(plan->sql, tables);
	other->nargs = plan->nargs;
	memcpy(other->argtypes, plan->argtypes, sizeof(other->argtypes));
	other->kind = plan->kind;
	plan->elsewhere[tables] = other;
	MemoryContextSwitchTo(caller);
	return other;
}

KeptPlan *
es_log_plan(KeptPlan *plan)
{
	return es_anything_moved() ? es_plan_on(plan, ES_BOTH_TABLES) : plan;
}

KeptPlan *
es_log_plan_after(KeptPlan *plan, int64 after)
{
	return Max(after, 0) < es_highest_archived_position()
			   ? es_plan_on(plan, ES_BOTH_TABLES)
			   : plan;
}

uint64
es_execute_on_log(KeptPlan *plan, int64 after, Datum *values, const char *nulls,
				  Snapshot snapshot)
{
	int result;

	PushActiveSnapshot(snapshot);
	result = SPI_execute_snapshot(es_plan(es_log_plan_after(plan, after)),
								  values, nulls, GetActiveSnapshot(),
								  InvalidSnapshot, false, true, 0);
	PopActiveSnapshot();
	if (result < 0)
		elog(ERROR, "\"%s\" returned %s", plan->sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}
