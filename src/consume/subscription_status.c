/*
 * subscription_status.c
 *		Where the members of all subscriptions stand.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/aside.h"
#include "consume/lag.h"
#include "consume/lease.h"
#include "consume/member.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "consume/subscription_status.h"
#include "ground/catalog.h"
#include "ground/kept_error.h"
#include "ground/log_plan.h"
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

void
es_age_behind(int64 after, int64 safe, Datum *age, bool *isnull)
{
	static KeptPlan plan = {"SELECT pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) e.recorded_at"
							" FROM event_store.domain_events e"
							" WHERE e.global_position OPERATOR(pg_catalog.>) $1"
							" AND e.global_position OPERATOR(pg_catalog.<=) $2"
							" ORDER BY e.global_position LIMIT 1",
							2,
							{INT8OID, INT8OID}};
	Datum values[2] = {Int64GetDatum(after), Int64GetDatum(safe)};

	*isnull = after >= safe || es_execute(es_log_plan_after(&plan, after),
										  values, NULL, true, SPI_OK_SELECT) == 0;
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
	if (es_lease_is_open(state))
		return "leased";
	return state->lease.number != 0 || progress->aborted > 0 || state->attempts > 0
			   ? "retrying"
			   : "idle";
}

/* A subscription, and what is known of its members. */
typedef struct Shown
{
	Subscription subscription;
	MemberState *states; /* by member, as are the others */
	Progress *progress;
	int64 *passed;
	Lag *lags;
	AsideSum *aside;
	int64 safe;
	Oid reader;
} Shown;

/* Reads where the members stand, under the active snapshot; false if it shows others. */
static bool
read_members(Shown *shown)
{
	const Subscription *s = &shown->subscription;

	shown->states = palloc(s->members * sizeof(MemberState));
	shown->progress = palloc(s->members * sizeof(Progress));
	shown->passed = palloc(s->members * sizeof(int64));
	shown->lags = palloc(s->members * sizeof(Lag));
	for (int m = 0; m < s->members; m++)
	{
		if (!es_read_member(s->name, m, GetActiveSnapshot(), &shown->states[m]))
			return false;
		shown->progress[m] = es_read_progress(es_progress_key(s->hash, m));
		shown->passed[m] = es_member_passed(s->hash, m, &shown->states[m]);
	}
	return true;
}

static void
put_member(ReturnSetInfo *result, const Shown *shown, int member)
{
	const MemberState *state = &shown->states[member];
	const Progress *progress = &shown->progress[member];
	const Lag *lag = &shown->lags[member];
	const AsideSum *aside = &shown->aside[member];
	Datum values[ST_COLUMNS] = {0};
	bool nulls[ST_COLUMNS] = {false};

	values[ST_SUBSCRIPTION_NAME] = shown->subscription.name;
	values[ST_MEMBER] = Int32GetDatum(member);
	values[ST_POSITION] =
		Int64GetDatum(state->position == PG_INT64_MAX ? shown->safe
													  : shown->passed[member]);
	values[ST_SAFE_POSITION] = Int64GetDatum(shown->safe);
	values[ST_LAG_EVENTS] = Int64GetDatum(lag->events);
	nulls[ST_LAG] = lag->oldest == 0;
	if (!nulls[ST_LAG])
		values[ST_LAG] =
			DirectFunctionCall2(timestamp_mi,
								TimestampTzGetDatum(GetCurrentTimestamp()),
								TimestampTzGetDatum(lag->oldest));
	values[ST_STATE] = CStringGetTextDatum(state_of(shown->subscription.paused,
													state, progress));
	values[ST_CONSUMER] = state->lease.consumer;
	values[ST_LEASE_UNTIL] = TimestampTzGetDatum(state->lease.until);
	nulls[ST_CONSUMER] = nulls[ST_LEASE_UNTIL] = state->lease.number == 0;
	values[ST_LAST_ERROR] =
		state->last_error != 0 ? state->last_error : aside->error;
	nulls[ST_LAST_ERROR] = values[ST_LAST_ERROR] == 0;
	if (!nulls[ST_LAST_ERROR])
		values[ST_LAST_ERROR] =
			es_shown_error(values[ST_LAST_ERROR], shown->reader);
	values[ST_PID] = Int32GetDatum(progress->pid);
	nulls[ST_PID] = progress->pid == 0;
	values[ST_SINCE] =
		TimestampTzGetDatum(progress->pid != 0 ? progress->since
											   : state->lease.since);
	nulls[ST_SINCE] = progress->pid == 0 && state->lease.number == 0;
	values[ST_ATTEMPTS] = Int32GetDatum(Max(progress->aborted, state->attempts));
	values[ST_PARKED] = Int64GetDatum(aside->rows);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Puts the rows of a subscription, unless it is gone by now. */
static void
put_subscription(ReturnSetInfo *result, Datum name, int64 safe, Oid reader)
{
	Shown shown = {.safe = safe, .reader = reader};

	if (!es_find_subscription(name, &shown.subscription) || !read_members(&shown))
		return;
	es_look_set_aside(&shown.subscription);
	es_measure_lag(&shown.subscription, shown.passed, safe, shown.lags);
	shown.aside = es_sum_aside(&shown.subscription);
	for (int m = 0; m < shown.subscription.members; m++)
		es_add_aside_lag(&shown.lags[m], &shown.aside[m]);
	for (int m = 0; m < shown.subscription.members; m++)
		put_member(result, &shown, m);
}

/* The rows of subscription_status. */
Datum
es_subscription_state(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {
		"SELECT s.subscription_name"
		" FROM event_store.subscriptions s ORDER BY s.subscription_name"};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SPITupleTable *table;
	OwnerScope scope;
	uint64 count;
	int64 safe;

	PreventCommandIfParallelMode("subscription_state()");
	(void) es_feed_database();
	safe = es_feed_position();
	InitMaterializedSRF(fcinfo, 0);
	es_begin_read(&scope);
	/* all of it as it is now, whatever the caller's snapshot shows */
	PushActiveSnapshot(GetLatestSnapshot());
	count = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	table = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		put_subscription(result,
						 SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull),
						 safe, scope.user);
	}
	PopActiveSnapshot();
	es_end(&scope);
	return (Datum) 0;
}
