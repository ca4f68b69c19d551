/*
 * failure.c
 *		What becomes of an event that failed, whoever says so: its consumer, a lease that
 *		expired, a session that ended with it.
 *
 * All of it works on a member's state in memory, which the caller stores, and on
 * what is set aside.  The member's lock is held.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "consume/aside.h"
#include "consume/failure.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/retry.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/log_plan.h"
#include "ground/metrics.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"

bool
es_find_event(Failure *f)
{
	static KeptPlan plan = {ES_EVENT_SELECT
							" WHERE e.global_position OPERATOR(pg_catalog.=) $1",
							1,
							{INT8OID}};
	Datum position = Int64GetDatum(f->position);
	EventRow event;
	uint64 found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(es_log_plan_after(&plan, f->position - 1), &position,
					   NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	for (int i = 0; i < EV_COLUMNS && found > 0; i++)
		event.values[i] =
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1,
						  &event.nulls[i]);
	if (found == 0 ||
		!es_subscribes(&f->subscription, event.values[EV_AGGREGATE_TYPE],
					   event.values[EV_EVENT_TYPE]))
		return false;
	/*
	 * One that cannot be upcast is of the partition of what was written.  Where its upcaster
	 * is gone nobody knows the partition, unless no upcaster changes that.
	 */
	if (es_upcasts() && es_is_old_version(event.values))
		(void) es_try_upcast(event.values, event.nulls,
							 es_partition_is_kept(&f->subscription.partitioning));
	f->partition = PointerGetDatum(es_partition_of(&f->subscription.partitioning,
												   event.values, event.nulls));
	f->member = es_partition_member(DatumGetTextPP(f->partition),
									f->subscription.members);
	f->served = es_partition_served(&f->subscription,
									DatumGetTextPP(f->partition), f->passed);
	return true;
}

void
es_find_failed(Failure *f)
{
	if (!es_find_event(f))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no event at position %lld for subscription \"%s\"",
						(long long) f->position,
						TextDatumGetCString(f->subscription.name))));
}

bool
es_failure_ends(Failure *f, int attempts)
{
	int most = f->subscription.max_attempts;

	if (f->action != ES_FAIL_RETRY || most == 0 || attempts < most)
		return false;
	f->action = f->subscription.on_failure;
	return true;
}

const char *
es_hold_member(Failure *f, int attempts)
{
	f->held = true;
	f->state.attempts = attempts;
	f->state.attempt_position = f->position;
	f->state.stopped = f->action == ES_FAIL_STOP;
	f->state.retry_at = f->state.stopped ? 0 : es_retry_at(attempts);
	f->state.last_error = f->cause.message;
	return f->state.stopped ? "stopped" : "retrying";
}

const char *
es_fail_partition(Failure *f, int64 first, int attempts)
{
	ParkedRow row = {.position = first,
					 .attempts = attempts,
					 .retrying = f->action == ES_FAIL_RETRY};

	es_set_aside(&f->subscription, f->partition, &row, &f->cause);
	return row.retrying ? "retrying" : "parked";
}

const char *
es_fail_new(Failure *f, int attempts)
{
	(void) es_failure_ends(f, attempts);
	if (f->action == ES_FAIL_STOP || (f->action == ES_FAIL_RETRY &&
									  f->subscription.on_failure == ES_FAIL_STOP))
		return es_hold_member(f, attempts);
	if (f->action == ES_FAIL_RETRY || f->action == ES_FAIL_PARK)
		return es_fail_partition(f, f->position, attempts);
	if (f->action == ES_FAIL_SKIP)
		return "skipped";
	es_park_event(&f->subscription, f->partition, f->position, &f->cause);
	return "parked";
}

const char *
es_fail_alone(Failure *f)
{
	if (f->action == ES_FAIL_SKIP)
	{
		es_settle_alone(f->subscription.name, f->partition, f->position,
						f->served);
		return "skipped";
	}
	es_park_event(&f->subscription, f->partition, f->position, &f->cause);
	return f->action == ES_FAIL_STOP ? es_hold_member(f, 0) : "parked";
}

const char *
es_fail_retried(Failure *f, int attempts)
{
	(void) es_failure_ends(f, attempts);
	if (f->action == ES_FAIL_STOP)
	{
		f->action = ES_FAIL_RETRY;
		(void) es_fail_partition(f, f->position, attempts);
		f->action = ES_FAIL_STOP;
		return es_hold_member(f, attempts);
	}
	if (f->action == ES_FAIL_RETRY || f->action == ES_FAIL_PARK)
		return es_fail_partition(f, f->position, attempts);
	if (f->action == ES_FAIL_PARK_EVENT)
		es_park_event(&f->subscription, f->partition, f->position, &f->cause);
	es_advance_partition(&f->subscription, f->partition, f->position, f->served);
	return f->action == ES_FAIL_SKIP ? "skipped" : "parked";
}

/* The event is the next one of its member, and none of those that are set aside. */
static void
count_new(Failure *f, int attempts)
{
	if (f->state.attempt_position == f->position)
		attempts += f->state.attempts;
	if (!es_failure_ends(f, attempts))
	{
		f->state.attempts = attempts;
		f->state.attempt_position = f->position;
		f->state.last_error = f->cause.message;
		return;
	}
	(void) es_fail_new(f, attempts);
	if (!f->held)
		es_move_member(&f->state, f->position);
}

void
es_count_attempts(Failure *f, int attempts)
{
	Aside aside =
		es_find_aside(f->subscription.name, f->partition, f->position, false);
	ParkedRow row;

	es_count_many(ES_COUNT_FAILED_EVENTS, attempts);
	f->action = ES_FAIL_RETRY;
	if (aside == ES_ASIDE_EVENT)
		(void) es_fail_alone(f);
	else if (aside != ES_NOT_ASIDE)
		return;
	else if (es_find_parked(f->subscription.name, f->partition, &row) &&
			 row.position <= f->position)
	{
		if (row.retrying)
			(void) es_fail_retried(f, row.attempts + attempts);
	}
	else if (f->position > f->served)
		count_new(f, attempts);
}
