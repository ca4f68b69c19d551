/*
 * ack.c
 *		ack_events: what a consumer has handled of his lease, and what failed.
 *
 * All of a batch is one row: the state without the lease, its position where the batch
 * ended.  Where only a part is handled, the lease goes on for the rest, which is found by
 * reading the log again between here and the end of the batch: what else is set aside
 * there was so when the batch was claimed, for nothing comes in the way of a
 * member that is leased.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "consume/ack.h"
#include "consume/aside.h"
#include "consume/failure.h"
#include "consume/lease.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/retry.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"

PG_FUNCTION_INFO_V1(es_ack_events);

/* An event that failed. */
typedef struct FailedEvent
{
	int64 position;
	Datum error;	 /* 0 = none is given */
	Datum partition; /* once that is known */
	bool later;		 /* another one of its partition failed before it */
} FailedEvent;

typedef struct Ack
{
	LeaseCall lease;
	int64 up_to;
	FailedEvent *failed; /* in their order */
	int failed_count;
	FailureAction action;
} Ack;

/* ---------- what is left ---------- */

/* The lease goes on with what is left of it behind a position; false if nothing is. */
static bool
keep_rest(LeaseCall *call, int64 after)
{
	Lease *lease = &call->state.lease;
	Stretch rest = {.subscription = &call->subscription,
					.member = lease->partition == 0 ? call->member : -1,
					.partition = lease->partition,
					.max_count = PG_INT64_MAX};

	if (after < lease->last)
		es_read_stretches(&rest, after, lease->last);
	if (rest.count == 0)
	{
		*lease = (Lease){0};
		return false;
	}
	lease->first = rest.positions[0];
	lease->events = (int) rest.count;
	return true;
}

/* How far a partition was given to anybody, but for this batch. */
static int64
served_to(const LeaseCall *call, Datum partition)
{
	return es_partition_served(&call->subscription, DatumGetTextPP(partition),
							   call->state.position);
}

/* All up to there is handled or given up. */
static void
pass(LeaseCall *call, int64 up_to)
{
	const Lease *lease = &call->state.lease;

	if (lease->partition == 0)
		es_move_member(&call->state, up_to);
	else
		es_settle_retried(&call->subscription, lease->partition, lease->alone,
						  up_to, served_to(call, lease->partition));
}

void
es_acknowledge_all(LeaseCall *call)
{
	pass(call, call->state.lease.last);
	call->state.lease = (Lease){0};
}

/* ---------- what failed ---------- */

static void
refuse_position(const char *argument, int64 position, const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("%s: %lld %s", argument, (long long) position, why)));
}

static void
refuse_failed(int64 position, const char *why)
{
	refuse_position("failed_positions", position, why);
}

/* Checks that an event is of the batch, and finds its partition. */
static void
check_failed(const Ack *ack, FailedEvent *event)
{
	const LeaseCall *call = &ack->lease;
	const Lease *lease = &call->state.lease;
	Failure failure = {.subscription = call->subscription,
					   .position = event->position};

	if (event->position < lease->first || event->position > lease->last)
		refuse_failed(event->position, "is not in the batch");
	if (event->position > ack->up_to)
		refuse_failed(event->position, "lies beyond up_to_position");
	es_find_failed(&failure);
	event->partition = failure.partition;
	if (failure.member != call->member ||
		(lease->partition != 0 &&
		 !es_same_text(failure.partition, lease->partition)) ||
		(!lease->alone &&
		 es_find_aside(call->subscription.name, failure.partition,
					   event->position, lease->partition == 0) != ES_NOT_ASIDE))
		refuse_failed(event->position, "is not in the batch");
	for (const FailedEvent *other = ack->failed; other < event; other++)
		event->later =
			event->later || es_same_text(other->partition, event->partition);
}

static void
begin_failure(const Ack *ack, const FailedEvent *event, Failure *failure)
{
	const LeaseCall *call = &ack->lease;

	*failure = (Failure){.subscription = call->subscription,
						 .position = event->position,
						 .cause.message = event->error,
						 .action = ack->action,
						 .partition = event->partition,
						 .member = call->member,
						 .state = call->state,
						 .passed = call->state.position,
						 .served = served_to(call, event->partition)};
}

/*
 * A retry that ended in passing over the event alone: what comes behind it in its
 * partition was not handled, and waits for its turn.
 */
static void
wait_behind(const Ack *ack, const Failure *failure)
{
	if (ack->action == ES_FAIL_RETRY && (failure->action == ES_FAIL_SKIP ||
										 failure->action == ES_FAIL_PARK_EVENT))
		es_advance_partition(&failure->subscription, failure->partition,
							 failure->position, ack->up_to);
}

/* Events of a new batch failed; returns whether the member goes on without them. */
static bool
fail_new_batch(Ack *ack)
{
	LeaseCall *call = &ack->lease;
	bool alone = ack->action == ES_FAIL_SKIP || ack->action == ES_FAIL_PARK_EVENT;

	for (int i = 0; i < ack->failed_count; i++)
	{
		const FailedEvent *event = &ack->failed[i];
		int attempts = call->state.attempt_position == event->position
						   ? call->state.attempts
						   : 0;
		Failure failure;

		if (event->later && !alone)
			continue;
		begin_failure(ack, event, &failure);
		(void) es_fail_new(&failure, attempts + 1);
		if (failure.held)
		{
			call->state = failure.state;
			es_move_member(&call->state, event->position - 1);
			return false;
		}
		wait_behind(ack, &failure);
	}
	return true;
}

/* Events of a partition that was set aside failed; returns whether the rest goes on. */
static bool
fail_retried_batch(Ack *ack)
{
	LeaseCall *call = &ack->lease;
	bool before = call->state.lease.first < ack->failed[0].position;
	ParkedRow row = {0};
	Failure failure;

	begin_failure(ack, &ack->failed[0], &failure);
	if (ack->action == ES_FAIL_SKIP || ack->action == ES_FAIL_PARK_EVENT)
	{
		for (int i = 0; i < ack->failed_count; i++)
		{
			failure.cause.message = ack->failed[i].error;
			if (ack->action == ES_FAIL_PARK_EVENT)
				es_park_event(&call->subscription, failure.partition,
							  ack->failed[i].position, &failure.cause);
		}
		return true;
	}
	(void) es_find_parked(call->subscription.name, failure.partition, &row);
	(void) es_fail_retried(&failure, (before ? 0 : row.attempts) + 1);
	call->state = failure.state;
	return false;
}

/* Takes what failed out of the lease; returns whether that goes on. */
static bool
fail_events(Ack *ack)
{
	LeaseCall *call = &ack->lease;

	for (int i = 0; i < ack->failed_count; i++)
		check_failed(ack, &ack->failed[i]);
	es_count_many(ES_COUNT_FAILED_EVENTS, ack->failed_count);
	if (call->state.lease.alone)
	{
		Failure failure;

		begin_failure(ack, &ack->failed[0], &failure);
		(void) es_fail_alone(&failure);
		call->state = failure.state;
		return false;
	}
	return call->state.lease.partition == 0 ? fail_new_batch(ack)
											: fail_retried_batch(ack);
}

/* ---------- SQL ---------- */

static int
compare_failed(const void *a, const void *b)
{
	int64 x = ((const FailedEvent *) a)->position;
	int64 y = ((const FailedEvent *) b)->position;

	return x < y ? -1 : x > y;
}

/* Reads which events failed, with their errors. */
static void
failed_arguments(FunctionCallInfo fcinfo, Ack *ack)
{
	Datum *positions;
	Datum *errors = NULL;
	bool *nulls = NULL;

	ack->action =
		es_failure_action(es_required_text(fcinfo, 6, "action"), "action", true);
	if (PG_ARGISNULL(4))
	{
		if (!PG_ARGISNULL(5))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("errors are given without failed_positions")));
		return;
	}
	ack->failed_count = -1;
	es_array_argument(fcinfo, 4, "failed_positions", false, &ack->failed_count,
					  &positions, NULL);
	if (!PG_ARGISNULL(5))
		es_array_argument(fcinfo, 5, "errors", true, &ack->failed_count,
						  &errors, &nulls);
	ack->failed = palloc0(Max(ack->failed_count, 1) * sizeof(FailedEvent));
	for (int i = 0; i < ack->failed_count; i++)
	{
		ack->failed[i].position = DatumGetInt64(positions[i]);
		if (errors != NULL && !nulls[i])
			ack->failed[i].error = errors[i];
	}
	qsort(ack->failed, ack->failed_count, sizeof(FailedEvent), compare_failed);
}

/* Returns whether the lease is finished. */
static bool
acknowledge(Ack *ack)
{
	LeaseCall *call = &ack->lease;
	const Lease *lease = &call->state.lease;
	Lease end = *lease;

	if (ack->up_to > lease->last)
		refuse_position("up_to_position", ack->up_to, "lies beyond the batch");
	if (ack->failed_count > 0 && !fail_events(ack))
	{
		call->state.lease = (Lease){0};
		return true;
	}
	if (ack->up_to < lease->first)
		return false;
	pass(call, ack->up_to);
	if (keep_rest(call, ack->up_to))
		return false;
	/* what lies behind it in a new batch is not for this member, or waits */
	if (end.partition == 0)
		es_move_member(&call->state, end.last);
	return true;
}

Datum
es_ack_events(PG_FUNCTION_ARGS)
{
	Ack ack = {0};
	OwnerScope scope;
	bool finished;

	es_begin_call(ES_CALL_ACK_EVENTS);
	failed_arguments(fcinfo, &ack);
	es_open_lease_call(fcinfo, &ack.lease, "ack_events()", &scope);
	ack.up_to = PG_ARGISNULL(3) ? ack.lease.state.lease.last : PG_GETARG_INT64(3);
	finished = acknowledge(&ack);
	es_store_member(ack.lease.subscription.name, ack.lease.member,
					&ack.lease.state);
	es_end(&scope);
	es_end_call(ES_CALL_ACK_EVENTS, 0);
	PG_RETURN_BOOL(finished);
}
