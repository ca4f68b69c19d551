/*
 * subscription_status.c
 *		Where the members of all subscriptions stand.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/member.h"
#include "consume/partition.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "read/feed.h"

PG_FUNCTION_INFO_V1(es_subscription_state);

enum
{
	ST_SUBSCRIPTION_NAME,
	ST_MEMBER,
	ST_POSITION,
	ST_SAFE_POSITION,
	ST_LAG_EVENTS,
	ST_LAG,
	ST_STATE,
	ST_CONSUMER,
	ST_PID,
	ST_SINCE,
	ST_LEASE_UNTIL,
	ST_ATTEMPTS,
	ST_PARKED,
	ST_LAST_ERROR,
	ST_COLUMNS
};

/* Sets the age of the first event behind a position, if there is one. */
static void
set_age(int64 after, int64 safe, Datum *age, bool *isnull)
{
	static KeptPlan plan = {"SELECT pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) e.recorded_at"
							" FROM event_store.domain_events e"
							" WHERE e.global_position OPERATOR(pg_catalog.>) $1"
							" AND e.global_position OPERATOR(pg_catalog.<=) $2"
							" ORDER BY e.global_position LIMIT 1",
							2,
							{INT8OID, INT8OID}};
	Datum values[2] = {Int64GetDatum(after), Int64GetDatum(safe)};

	*isnull = after >= safe ||
			  es_execute(&plan, values, NULL, true, SPI_OK_SELECT) == 0;
	if (!*isnull)
		*age = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
							 isnull);
}

static const char *
state_of(bool paused, const MemberState *state, const Progress *progress)
{
	if (paused)
		return "paused";
	if (state->stopped)
		return "stopped";
	if (progress->pid != 0)
		return "fetching";
	return progress->aborted > 0 || state->attempts > 0 ? "retrying" : "idle";
}

/* How much is set aside of a member's partitions. */
static int64
count_parked(Datum name, int member, int members)
{
	static KeptPlan plan = {"SELECT p.partition_key FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};
	uint64 count = es_execute(&plan, &name, NULL, true, SPI_OK_SELECT);
	int64 parked = 0;

	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum key = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								  1, &isnull);

		if (es_partition_member(DatumGetTextPP(key), members) == member)
			parked++;
	}
	return parked;
}

/* Puts the row of a member, under the active snapshot. */
static void
put_member(ReturnSetInfo *result, Datum name, bool paused, int member,
		   int members, int64 safe)
{
	Progress progress =
		es_read_progress(es_progress_key(es_subscription_hash(name), member));
	MemberState state;
	Datum values[ST_COLUMNS] = {0};
	bool nulls[ST_COLUMNS] = {false};
	int64 passed;

	if (!es_read_member(name, member, GetActiveSnapshot(), &state))
		return;
	passed = state.position;
	if (progress.number == state.number)
		passed = Max(passed, progress.position);
	values[ST_SUBSCRIPTION_NAME] = name;
	values[ST_MEMBER] = Int32GetDatum(member);
	values[ST_POSITION] = Int64GetDatum(passed);
	values[ST_SAFE_POSITION] = Int64GetDatum(safe);
	values[ST_LAG_EVENTS] = Int64GetDatum(Max(safe - passed, 0));
	set_age(passed, safe, &values[ST_LAG], &nulls[ST_LAG]);
	values[ST_STATE] = CStringGetTextDatum(state_of(paused, &state, &progress));
	nulls[ST_CONSUMER] = nulls[ST_LEASE_UNTIL] = true;
	values[ST_LAST_ERROR] = state.last_error;
	nulls[ST_LAST_ERROR] = state.last_error == 0;
	values[ST_PID] = Int32GetDatum(progress.pid);
	values[ST_SINCE] = TimestampTzGetDatum(progress.since);
	nulls[ST_PID] = nulls[ST_SINCE] = progress.pid == 0;
	values[ST_ATTEMPTS] = Int32GetDatum(Max(progress.aborted, state.attempts));
	values[ST_PARKED] = Int64GetDatum(count_parked(name, member, members));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The rows of subscription_status. */
Datum
es_subscription_state(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {
		"SELECT s.subscription_name, s.members, s.paused"
		" FROM event_store.subscriptions s ORDER BY s.subscription_name"};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SPITupleTable *table;
	OwnerScope scope;
	uint64 count;
	int64 safe;

	(void) es_feed_database();
	safe = es_feed_position();
	InitMaterializedSRF(fcinfo, 0);
	es_begin_read(&scope);
	count = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	table = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum name = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);
		int members = DatumGetInt32(SPI_getbinval(table->vals[i],
												  table->tupdesc, 2, &isnull));
		bool paused = DatumGetBool(SPI_getbinval(table->vals[i], table->tupdesc,
												 3, &isnull));

		for (int m = 0; m < members; m++)
			put_member(result, name, paused, m, members, safe);
	}
	es_end(&scope);
	return (Datum) 0;
}
