/*
 * lease.c
 *		Leases: a batch that a consumer has in hand without a transaction.
 *
 * A lease stands in the state of its member: number, consumer, the events from its
 * first one to where it ends, when it was given and until when.  A claim stores a state
 * that has one, an acknowledgement a state whose position has moved.  So nobody else
 * has these events as long as it is the newest state; and what comes from a consumer
 * whose lease is not there any more changes nothing, whatever he believes.
 *
 * It expires by the clock of the moment.  One with more time left than it was given
 * has expired as well: the clock was set back.  So has one that was open when the server
 * crashed, since its consumer may have been the cause.  Until somebody takes its events
 * it can be acknowledged all the same: nobody else has them.
 *
 * An event that kills its consumer is found by halving: the batch after an expired one is
 * half as large, and so are those that follow, as long as the member has not passed the
 * events that the expired one had.  That is stored, for the event may kill the server.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/failure.h"
#include "consume/lease.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/fencing.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "read/feed.h"

/* A lease is not longer than this. */
#define MAX_LEASE_DAYS 30

PG_FUNCTION_INFO_V1(es_release_events);
PG_FUNCTION_INFO_V1(es_extend_lease);

bool
es_lease_is_open(const MemberState *state)
{
	const Lease *lease = &state->lease;
	TimestampTz now = GetCurrentTimestamp();

	return lease->number != 0 && now < lease->until && now >= lease->since &&
		   !es_number_is_before_crash(lease->number);
}

/* The attempt of a consumer that did not come back. */
static void
count_attempt(const Subscription *subscription, int member, MemberState *state,
			  const Lease *lease)
{
	Failure failure = {.subscription = *subscription,
					   .position = lease->first,
					   .member = member,
					   .state = *state,
					   .passed = state->position};

	failure.cause.code = CStringGetTextDatum("VS007");
	failure.cause.message =
		CStringGetTextDatum(psprintf("the lease of consumer \"%s\" expired",
									 TextDatumGetCString(lease->consumer)));
	failure.subscription.sets_aside = true;
	/* its types may have been altered since */
	if (!es_find_event(&failure))
		return;
	es_count_attempts(&failure, 1);
	*state = failure.state;
}

void
es_expire_lease(const Subscription *subscription, int member, MemberState *state)
{
	Lease lease = state->lease;
	int half =
		es_number_is_before_crash(lease.number) ? 1 : Max(lease.events / 2, 1);

	state->lease = (Lease){0};
	if (lease.partition == 0)
	{
		state->batch_limit = half;
		state->limit_until = lease.last;
	}
	else
		es_limit_partition(subscription->name, lease.partition, half);
	if (lease.events == 1)
		count_attempt(subscription, member, state, &lease);
}

/* ---------- calls ---------- */

static void
refuse_lost(Datum name, int member, int64 lease)
{
	es_count(ES_COUNT_LOST_LEASES);
	ereport(ERROR,
			(errcode(ES_ERRCODE_LEASE_LOST),
			 errmsg("lease %lld is lost", (long long) lease),
			 errdetail("It is not the open one of member %d of subscription \"%s\".",
					   member, TextDatumGetCString(name)),
			 errhint("Drop what is left of the batch and claim again; its events come again.")));
}

void
es_begin_lease_call(LeaseCall *call, Datum name, int member, int64 lease)
{
	es_read_subscription(name, &call->subscription);
	call->member = member;
	if (member < 0 || member >= call->subscription.members)
		refuse_lost(name, member, lease);
	es_lock_member(call->subscription.hash, member);
	/* a row may have come while we waited */
	call->subscription.sets_aside = true;
	call->state = es_newest_member(name, member);
	if (call->state.lease.number == 0 || call->state.lease.number != lease)
		refuse_lost(name, member, lease);
}

int64
es_lease_time(FunctionCallInfo fcinfo, int argno)
{
	const Interval *time;
	double microseconds;

	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("lease_time must not be null")));
	time = PG_GETARG_INTERVAL_P(argno);
	/* a double is exact far beyond the longest one */
	microseconds =
		(double) time->time +
		((double) time->month * DAYS_PER_MONTH + time->day) * USECS_PER_DAY;
	if (microseconds < 1 || microseconds > (double) MAX_LEASE_DAYS * USECS_PER_DAY)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("lease_time must be above 0 and at most %d days",
							   MAX_LEASE_DAYS),
						errhint("Give a unit, as in '30s'.")));
	return (int64) microseconds;
}

static int64
number_argument(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	return argno == 1 ? PG_GETARG_INT32(argno) : PG_GETARG_INT64(argno);
}

/* Begins a call whose arguments are subscription_name, member and lease. */
void
es_open_lease_call(FunctionCallInfo fcinfo, LeaseCall *call,
				   const char *function, OwnerScope *scope)
{
	Datum name =
		PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	int member = (int) number_argument(fcinfo, 1, "member");
	int64 lease = number_argument(fcinfo, 2, "lease");

	es_begin_consuming(function);
	(void) es_feed_database();
	es_consume_durably();
	/* a resize that waits for leases lets them end */
	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name), RowShareLock);
	es_begin(scope);
	es_begin_lease_call(call, name, member, lease);
}

Datum
es_release_events(PG_FUNCTION_ARGS)
{
	LeaseCall call;
	OwnerScope scope;

	es_begin_call(ES_CALL_RELEASE_EVENTS);
	es_open_lease_call(fcinfo, &call, "release_events()", &scope);
	call.state.lease = (Lease){0};
	es_store_member(call.subscription.name, call.member, &call.state);
	es_end(&scope);
	es_end_call(ES_CALL_RELEASE_EVENTS, 0);
	PG_RETURN_BOOL(true);
}

Datum
es_extend_lease(PG_FUNCTION_ARGS)
{
	LeaseCall call;
	OwnerScope scope;
	int64 time;
	TimestampTz until;

	es_begin_call(ES_CALL_EXTEND_LEASE);
	time = es_lease_time(fcinfo, 3);
	es_open_lease_call(fcinfo, &call, "extend_lease()", &scope);
	/* it would be over all the same */
	if (es_number_is_before_crash(call.state.lease.number))
		refuse_lost(call.subscription.name, call.member, call.state.lease.number);
	call.state.lease.since = GetCurrentTimestamp();
	until = call.state.lease.since + time;
	call.state.lease.until = until;
	es_store_member(call.subscription.name, call.member, &call.state);
	es_end(&scope);
	es_end_call(ES_CALL_EXTEND_LEASE, 0);
	PG_RETURN_TIMESTAMPTZ(until);
}
