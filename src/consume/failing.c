/*
 * failing.c
 *		fail_events: what becomes of an event that its consumer cannot handle.
 *
 * There are two cases.  Where the batch is still this transaction's, a savepoint
 * after the fetch having saved it, COMMIT acknowledges what lies before the event:
 * the member's state is stored anew, with the position that this comes to.  Where the
 * batch was rolled back, or is another transaction's, nothing is acknowledged; the
 * partition waits from its first event that is not, and everything else goes on.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/fetches.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/progress.h"
#include "consume/retry.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "read/feed.h"

PG_FUNCTION_INFO_V1(es_fail_events);

typedef struct Failure
{
	Subscription subscription;
	int64 position;
	Datum error;
	FailureAction action;
	Datum partition;
	int member;
	MemberState state;
	int64 served; /* how far the member has come */
} Failure;

/* ---------- what failed ---------- */

/* Finds the event, and so its partition and member. */
static void
find_event(Failure *f)
{
	static KeptPlan plan = {ES_EVENT_SELECT
							" WHERE e.global_position OPERATOR(pg_catalog.=) $1",
							1,
							{INT8OID}};
	Datum position = Int64GetDatum(f->position);
	EventRow event;
	uint64 found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, &position, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	for (int i = 0; i < EV_COLUMNS && found > 0; i++)
		event.values[i] =
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1,
						  &event.nulls[i]);
	if (found == 0 ||
		!es_subscribes(&f->subscription, event.values[EV_AGGREGATE_TYPE],
					   event.values[EV_EVENT_TYPE]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no event at position %lld for subscription \"%s\"",
						(long long) f->position,
						TextDatumGetCString(f->subscription.name))));
	f->partition = PointerGetDatum(es_partition_of(&f->subscription.partitioning,
												   event.values, event.nulls));
	f->member = es_partition_member(DatumGetTextPP(f->partition),
									f->subscription.members);
}

/* The batch of this transaction that has the event, or NULL. */
static Fetch *
find_batch(const Failure *f)
{
	Fetch *batch = es_open_fetch(f->subscription.hash);

	for (; batch != NULL; batch = batch->next)
	{
		if (batch->subscription != f->subscription.hash ||
			batch->member != f->member)
			continue;
		for (int64 i = 0; i < batch->events; i++)
		{
			if (batch->positions[i] == f->position)
				return batch;
		}
	}
	return NULL;
}

/* Whether an attempt is the last one; then it ends in what on_failure says. */
static bool
ends(Failure *f, int attempts)
{
	int most = f->subscription.max_attempts;

	if (f->action != ES_FAIL_RETRY || most == 0 || attempts < most)
		return false;
	f->action = f->subscription.on_failure;
	return true;
}

static void
store(Failure *f, int64 position)
{
	f->state.position = position;
	es_store_member(f->subscription.name, f->member, &f->state);
}

/* The member waits, or stops, as a whole: it goes on with this event. */
static const char *
stop_member(Failure *f, int64 position, int attempts)
{
	f->state.attempts = attempts;
	f->state.attempt_position = f->position;
	f->state.stopped = f->action == ES_FAIL_STOP;
	f->state.retry_at = f->state.stopped ? 0 : es_retry_at(attempts);
	f->state.last_error = f->error;
	store(f, position);
	return f->state.stopped ? "stopped" : "retrying";
}

/* Sets the partition aside from an event on. */
static const char *
set_aside(Failure *f, int64 first, int attempts)
{
	ParkedRow row = {.position = first,
					 .attempts = attempts,
					 .retrying = f->action == ES_FAIL_RETRY};

	es_set_aside(f->subscription.name, f->partition, &row, f->error);
	return row.retrying ? "retrying" : "parked";
}

/* ---------- in this transaction ---------- */

/* What was given behind the event is not this transaction's any more. */
static bool
give_back(const Failure *f)
{
	bool before = false;

	for (Fetch *b = es_open_fetch(f->subscription.hash); b != NULL; b = b->next)
	{
		int64 kept = 0;

		if (b->subscription != f->subscription.hash || b->member != f->member)
			continue;
		while (kept < b->events && b->positions[kept] < f->position)
			kept++;
		b->events = kept;
		before = before || kept > 0;
	}
	return before;
}

/* An event of a batch that is new. */
static const char *
fail_new(Failure *f, const Fetch *batch)
{
	bool again = batch->before.attempt_position == f->position;
	int attempts = (again ? batch->before.attempts : 0) + 1;
	const char *done;

	(void) ends(f, attempts);
	if (f->action == ES_FAIL_STOP || (f->action == ES_FAIL_RETRY &&
									  f->subscription.on_failure == ES_FAIL_STOP))
		return stop_member(f, f->position - 1, attempts);
	if (f->action == ES_FAIL_PARK_EVENT)
		es_park_event(f->subscription.name, f->partition, f->position, f->error);
	done = f->action == ES_FAIL_SKIP ? "skipped"
		   : f->action == ES_FAIL_PARK_EVENT
			   ? "parked"
			   : set_aside(f, f->position, attempts);
	store(f, f->position);
	return done;
}

/* An event that had been parked alone, and was retried alone. */
static const char *
fail_alone(Failure *f)
{
	if (f->action == ES_FAIL_SKIP)
		return "skipped";
	es_park_event(f->subscription.name, f->partition, f->position, f->error);
	return f->action == ES_FAIL_STOP ? stop_member(f, f->state.position, 0)
									 : "parked";
}

/* An event of a partition that was set aside. */
static const char *
fail_retried(Failure *f, const Fetch *batch, bool before)
{
	int attempts = (before ? 0 : batch->attempts) + 1;

	(void) ends(f, attempts);
	if (f->action == ES_FAIL_STOP)
	{
		f->action = ES_FAIL_RETRY;
		(void) set_aside(f, f->position, attempts);
		f->action = ES_FAIL_STOP;
		return stop_member(f, f->state.position, attempts);
	}
	if (f->action == ES_FAIL_RETRY || f->action == ES_FAIL_PARK)
		return set_aside(f, f->position, attempts);
	if (f->action == ES_FAIL_PARK_EVENT)
		es_park_event(f->subscription.name, f->partition, f->position, f->error);
	es_advance_partition(&f->subscription, f->partition, f->position, f->served);
	return f->action == ES_FAIL_SKIP ? "skipped" : "parked";
}

static const char *
fail_here(Failure *f, const Fetch *batch)
{
	bool before = give_back(f);

	if (batch->alone)
		return fail_alone(f);
	return batch->retried ? fail_retried(f, batch, before) : fail_new(f, batch);
}

/* ---------- elsewhere ---------- */

/* The partition waits already, from this event or one before it. */
static const char *
fail_behind(Failure *f, const ParkedRow *row)
{
	int attempts = row->attempts + 1;
	bool ended = ends(f, attempts);
	int64 target = ended ? row->position : f->position;

	if (f->action == ES_FAIL_STOP)
		return stop_member(f, f->state.position, attempts);
	if (f->action == ES_FAIL_RETRY || f->action == ES_FAIL_PARK)
		return set_aside(f, row->position, attempts);
	if (row->position != target)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event %lld waits behind event %lld of its partition",
						(long long) target, (long long) row->position)));
	if (f->action == ES_FAIL_PARK_EVENT)
	{
		es_release_partition(f->subscription.name, f->partition);
		es_park_event(f->subscription.name, f->partition, target, f->error);
	}
	else if (target > f->served)
		es_mark_event(f->subscription.name, target);
	es_advance_partition(&f->subscription, f->partition, target, f->served);
	store(f, f->served);
	return f->action == ES_FAIL_SKIP ? "skipped" : "parked";
}

/* The first event of the partition that is not acknowledged. */
static int64
first_waiting(const Failure *f)
{
	Stretch first = {.subscription = &f->subscription,
					 .member = -1,
					 .partition = f->partition,
					 .max_count = 1};

	es_read_stretches(&first, f->served, f->position);
	return first.count > 0 ? first.positions[0] : f->position;
}

static const char *
fail_elsewhere(Failure *f)
{
	ParkedRow row;
	bool again = f->state.attempt_position == f->position;
	int attempts = (again ? f->state.attempts : 0) + 1;
	Aside aside;

	if (es_find_parked(f->subscription.name, f->partition, &row) &&
		row.position <= f->position)
		return row.retrying ? fail_behind(f, &row) : "parked";
	aside = es_find_aside(f->subscription.name, f->partition, f->position, false);
	if (aside != ES_NOT_ASIDE)
		return aside == ES_ASIDE_MARKED ? "skipped" : "parked";
	if (f->position <= f->served)
		return "handled";
	if (f->state.stopped)
		return "stopped";
	(void) ends(f, attempts);
	if (f->action == ES_FAIL_STOP || (f->action == ES_FAIL_RETRY &&
									  f->subscription.on_failure == ES_FAIL_STOP))
		return stop_member(f, f->state.position, attempts);
	if (f->action == ES_FAIL_RETRY || f->action == ES_FAIL_PARK)
		return set_aside(f, first_waiting(f), attempts);
	if (f->action == ES_FAIL_PARK_EVENT)
		es_park_event(f->subscription.name, f->partition, f->position, f->error);
	else
		es_mark_event(f->subscription.name, f->position);
	return f->action == ES_FAIL_SKIP ? "skipped" : "parked";
}

/* ---------- SQL ---------- */

static const char *
fail_event(Failure *f)
{
	Progress progress;
	const Fetch *batch;

	es_read_subscription(f->subscription.name, &f->subscription);
	find_event(f);
	es_lock_member(f->subscription.hash, f->member);
	/* a row may have come while we waited */
	f->subscription.sets_aside = true;
	f->state = es_newest_member(f->subscription.name, f->member);
	progress = es_read_progress(es_progress_key(f->subscription.hash, f->member));
	f->served = f->state.position;
	if (progress.number == f->state.number)
		f->served = Max(f->served, progress.position);
	batch = find_batch(f);
	return batch != NULL ? fail_here(f, batch) : fail_elsewhere(f);
}

Datum
es_fail_events(PG_FUNCTION_ARGS)
{
	Failure failure = {0};
	OwnerScope scope;
	const char *done;

	es_begin_call(ES_CALL_FAIL_EVENTS);
	failure.subscription.name =
		PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("at_position must not be null")));
	failure.position = PG_GETARG_INT64(1);
	failure.error =
		PG_ARGISNULL(2) ? (Datum) 0 : PointerGetDatum(PG_GETARG_TEXT_PP(2));
	failure.action =
		es_failure_action(es_required_text(fcinfo, 3, "action"), "action", true);
	es_begin_consuming("fail_events()");
	(void) es_feed_database();
	es_consume_durably();
	es_lock_hash(ES_LOCK_SUBSCRIPTION,
				 es_subscription_hash(failure.subscription.name), ShareLock);
	es_begin(&scope);
	done = fail_event(&failure);
	es_end(&scope);
	es_end_call(ES_CALL_FAIL_EVENTS, 0);
	PG_RETURN_TEXT_P(cstring_to_text(done));
}
