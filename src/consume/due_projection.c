/*
 * due_projection.c
 *		Which projections have something to do, and from when on.
 *
 * One statement over the definitions, and for each member a step back in an index; the
 * log is not read.  So that a projection has something to do means that there are events it
 * has not looked at, or that something set aside is to be tried again.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/due_projection.h"
#include "consume/member.h"
#include "consume/pace.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "read/feed.h"

/* Columns of the statement. */
enum
{
	LD_NAME = 1,
	LD_OWNER,
	LD_MEMBERS,
	LD_PAUSED,
	LD_RETRY_AT,
	LD_SWITCHES /* it is to become inline */
};

/* Looks from when on a member has events to look at. */
static void
look_at_member(DueWork *due, int member, int64 safe)
{
	Progress progress = es_read_progress(es_progress_key(due->hash, member));
	MemberState state;
	int64 passed;

	if (!es_read_member(due->name, member, GetActiveSnapshot(), &state) ||
		state.stopped)
		return;
	due->waits = true;
	passed = state.position;
	if (progress.number == state.number)
		passed = Max(passed, progress.position);
	if (passed < safe)
		due->due = Min(due->due, es_pause_end(state.retry_at));
}

static void
look_at(DueWork *due, int members, bool paused, TimestampTz retry_at,
		bool switches, int64 safe)
{
	Pace pace = es_read_pace(due->hash);

	due->turn_at = pace.turn_at;
	due->due = DT_NOEND;
	if (paused)
		return;
	for (int m = 0; m < members; m++)
		look_at_member(due, m, safe);
	due->by_log = due->due != DT_NOEND;
	if (due->waits)
		due->due = Min(due->due, switches ? 0 : retry_at);
	if (due->due != DT_NOEND)
		due->due = Max(due->due, es_pause_end(pace.retry_at));
}

/* The role of a handler, by the name that it has now. */
static void
set_role(DueWork *due, HeapTuple row, TupleDesc desc)
{
	bool isnull;
	Datum owner = SPI_getbinval(row, desc, LD_OWNER, &isnull);

	if (isnull)
		return;
	due->role = get_role_oid(TextDatumGetCString(owner), true);
	due->role_is_gone = !OidIsValid(due->role);
}

DueWork *
es_list_due_projections(int *count)
{
	static KeptPlan plan = {
		"SELECT p.projection_name, p.handler_owner, s.members, s.paused,"
		" (SELECT pg_catalog.min(a.retry_at) FROM event_store.parked_events a"
		" WHERE a.subscription_name OPERATOR(pg_catalog.=) p.projection_name"
		" AND a.state OPERATOR(pg_catalog.<>) 'parked'),"
		" p.mode OPERATOR(pg_catalog.<>) 'async'"
		" FROM event_store.projections p JOIN event_store.subscriptions s"
		" ON s.subscription_name OPERATOR(pg_catalog.=) p.projection_name"
		" WHERE p.mode OPERATOR(pg_catalog.<>) 'inline'"};
	MemoryContext caller = CurrentMemoryContext;
	SPITupleTable *table;
	DueWork *list;
	OwnerScope scope;
	uint64 found;
	int64 safe;

	(void) es_feed_database();
	safe = es_feed_position();
	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	table = SPI_tuptable;
	list = MemoryContextAllocZero(caller, Max(found, 1) * sizeof(DueWork));
	for (uint64 i = 0; i < found; i++)
	{
		HeapTuple row = table->vals[i];
		bool isnull;
		Datum name = SPI_getbinval(row, table->tupdesc, LD_NAME, &isnull);
		int members =
			es_places_of(SPI_getbinval(row, table->tupdesc, LD_MEMBERS, &isnull));
		bool paused =
			DatumGetBool(SPI_getbinval(row, table->tupdesc, LD_PAUSED, &isnull));
		Datum retry_at = SPI_getbinval(row, table->tupdesc, LD_RETRY_AT, &isnull);
		bool no_retry = isnull;
		bool switches = DatumGetBool(SPI_getbinval(row, table->tupdesc,
												   LD_SWITCHES, &isnull));
		MemoryContext scratch = MemoryContextSwitchTo(caller);

		list[i].name = PointerGetDatum(PG_DETOAST_DATUM_COPY(name));
		MemoryContextSwitchTo(scratch);
		list[i].hash = es_subscription_hash(name);
		set_role(&list[i], row, table->tupdesc);
		look_at(&list[i], members, paused,
				no_retry ? DT_NOEND : es_pause_end(DatumGetTimestampTz(retry_at)),
				switches, safe);
	}
	PopActiveSnapshot();
	es_end(&scope);
	*count = (int) found;
	return list;
}
