/*
 * projection_status.c
 *		Where projections stand: one row each, whatever its members are.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/member.h"
#include "consume/pace.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "consume/subscription_status.h"
#include "ground/catalog.h"
#include "ground/kept_error.h"
#include "read/feed.h"

PG_FUNCTION_INFO_V1(es_projection_state);

enum
{
	ST_PROJECTION_NAME,
	ST_KIND,
	ST_MODE,
	ST_POSITION,
	ST_LAG_EVENTS,
	ST_LAG,
	ST_STATE,
	ST_EVENTS_PER_SECOND,
	ST_ATTEMPTS,
	ST_RETRY_AT,
	ST_LAST_ERROR,
	ST_REBUILD_DONE,
	ST_REBUILD_TOTAL,
	ST_STALE,
	ST_COLUMNS
};

/* What the members come to. */
typedef struct Whole
{
	int64 position; /* of the last of them */
	bool stopped;	/* one of them, at least */
	bool fetching;
	int attempts;
	TimestampTz retry_at;
	Datum last_error;
} Whole;

static void
add_member(Datum name, int member, Whole *whole)
{
	Progress progress =
		es_read_progress(es_progress_key(es_subscription_hash(name), member));
	MemberState state;
	int64 passed;

	if (!es_read_member(name, member, GetActiveSnapshot(), &state))
		return;
	passed = state.position;
	if (progress.number == state.number)
		passed = Max(passed, progress.position);
	whole->position = Min(whole->position, passed);
	whole->stopped = whole->stopped || state.stopped;
	whole->fetching = whole->fetching || progress.pid != 0;
	whole->attempts = Max(whole->attempts, state.attempts);
	whole->retry_at = Max(whole->retry_at, state.retry_at);
	if (state.last_error != (Datum) 0)
		whole->last_error = state.last_error;
}

static const char *
state_of(bool paused, const Whole *whole, const Pace *pace)
{
	if (paused)
		return "paused";
	if (whole->stopped)
		return "stopped";
	if (pace->failures > 0 || whole->attempts > 0)
		return "retrying";
	return whole->fetching ? "running" : "idle";
}

/* Puts the row of a projection, whose columns that stand in tables are there. */
static void
put_projection(ReturnSetInfo *result, Datum *values, bool *nulls, int members,
			   bool paused, int64 safe, Oid reader)
{
	Datum name = values[ST_PROJECTION_NAME];
	Pace pace = es_read_pace(es_subscription_hash(name));
	Whole whole = {.position = PG_INT64_MAX};
	TimestampTz retry_at;

	for (int m = 0; m < members; m++)
		add_member(name, m, &whole);
	whole.position = Min(whole.position, safe);
	retry_at = Max(whole.retry_at, pace.retry_at);
	values[ST_POSITION] = Int64GetDatum(whole.position);
	values[ST_LAG_EVENTS] = Int64GetDatum(safe - whole.position);
	es_age_behind(whole.position, safe, &values[ST_LAG], &nulls[ST_LAG]);
	values[ST_STATE] = CStringGetTextDatum(state_of(paused, &whole, &pace));
	values[ST_EVENTS_PER_SECOND] = Float8GetDatum(pace.rate);
	values[ST_ATTEMPTS] = Int32GetDatum(Max(pace.failures, whole.attempts));
	values[ST_RETRY_AT] = TimestampTzGetDatum(retry_at);
	nulls[ST_RETRY_AT] = retry_at == 0;
	values[ST_LAST_ERROR] = pace.error[0] != '\0'
								? CStringGetTextDatum(pace.error)
								: whole.last_error;
	nulls[ST_LAST_ERROR] = values[ST_LAST_ERROR] == (Datum) 0;
	if (!nulls[ST_LAST_ERROR])
		values[ST_LAST_ERROR] = es_shown_error(values[ST_LAST_ERROR], reader);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The rows of projection_status. */
Datum
es_projection_state(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {
		"SELECT p.projection_name, p.kind, p.mode, p.rebuild_done, p.rebuild_total,"
		" p.stale, s.members, s.paused FROM event_store.projections p"
		" JOIN event_store.subscriptions s"
		" ON s.subscription_name OPERATOR(pg_catalog.=) p.projection_name"
		" ORDER BY p.projection_name"};
	static const int places[] = {ST_PROJECTION_NAME,
								 ST_KIND,
								 ST_MODE,
								 ST_REBUILD_DONE,
								 ST_REBUILD_TOTAL,
								 ST_STALE};
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
		HeapTuple row = table->vals[i];
		Datum values[ST_COLUMNS] = {0};
		bool nulls[ST_COLUMNS] = {false};
		bool isnull;
		int members;
		bool paused;

		for (int c = 0; c < (int) lengthof(places); c++)
			values[places[c]] =
				SPI_getbinval(row, table->tupdesc, c + 1, &nulls[places[c]]);
		members = es_places_of(SPI_getbinval(row, table->tupdesc, 7, &isnull));
		paused = DatumGetBool(SPI_getbinval(row, table->tupdesc, 8, &isnull));
		put_projection(result, values, nulls, members, paused, safe, scope.user);
	}
	es_end(&scope);
	return (Datum) 0;
}
