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

#include "consume/aside.h"
#include "consume/consume.h"
#include "consume/failing.h"
#include "consume/failure.h"
#include "consume/fetches.h"
#include "consume/lease.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/retry.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/waiter.h"
#include "read/feed.h"

PG_FUNCTION_INFO_V1(es_fail_events);

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

static void
store(Failure *f, int64 position)
{
	f->state.position = position;
	es_store_member(f->subscription.name, f->member, &f->state);
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
	const char *done = es_fail_new(f, (again ? batch->before.attempts : 0) + 1);

	store(f, f->held ? f->position - 1 : f->position);
	return done;
}

static const char *
fail_here(Failure *f, const Fetch *batch)
{
	bool before = give_back(f);
	const char *done;

	if (!batch->retried)
		return fail_new(f, batch);
	done = batch->alone ? es_fail_alone(f)
						: es_fail_retried(f, (before ? 0 : batch->attempts) + 1);
	if (f->held)
		store(f, f->state.position);
	return done;
}

/* ---------- elsewhere ---------- */

static const char *
hold(Failure *f, int attempts)
{
	const char *done = es_hold_member(f, attempts);

	store(f, f->state.position);
	return done;
}

/* The partition waits already, from this event or one before it. */
static const char *
fail_behind(Failure *f, const ParkedRow *row)
{
	int attempts = row->attempts + 1;
	bool ended = es_failure_ends(f, attempts);
	int64 target = ended ? row->position : f->position;

	if (f->action == ES_FAIL_STOP)
		return hold(f, attempts);
	if (f->action == ES_FAIL_RETRY || f->action == ES_FAIL_PARK)
		return es_fail_partition(f, row->position, attempts);
	if (row->position != target)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event %lld waits behind event %lld of its partition",
						(long long) target, (long long) row->position)));
	if (f->action == ES_FAIL_PARK_EVENT)
	{
		es_release_partition(f->subscription.name, f->partition);
		es_park_event(&f->subscription, f->partition, target, &f->cause);
	}
	else if (target > f->served)
		es_mark_event(f->subscription.name, target);
	es_advance_partition(&f->subscription, f->partition, target, f->served);
	store(f, f->passed);
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
	(void) es_failure_ends(f, attempts);
	if (f->action == ES_FAIL_STOP || (f->action == ES_FAIL_RETRY &&
									  f->subscription.on_failure == ES_FAIL_STOP))
		return hold(f, attempts);
	/*
	 * What is set aside stands in other tables.  With a state of this transaction nobody
	 * remembers how far it has passed over that, and no older snapshot shows the
	 * newest state.
	 */
	store(f, f->passed);
	if (f->action == ES_FAIL_RETRY || f->action == ES_FAIL_PARK)
		return es_fail_partition(f, first_waiting(f), attempts);
	if (f->action == ES_FAIL_PARK_EVENT)
		es_park_event(&f->subscription, f->partition, f->position, &f->cause);
	else
		es_mark_event(f->subscription.name, f->position);
	return f->action == ES_FAIL_SKIP ? "skipped" : "parked";
}

/* ---------- SQL ---------- */

/*
 * A lease that is over is lost from here on: what is done about its events must not
 * be met by an acknowledgement of them.
 */
static void
refuse_leased(Failure *f)
{
	if (es_lease_is_open(&f->state))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("member %d of subscription \"%s\" is leased", f->member,
						TextDatumGetCString(f->subscription.name)),
				 errhint("Its consumer says what failed with ack_events().")));
	if (f->state.lease.number == 0)
		return;
	f->state.lease = (Lease){0};
	es_store_member(f->subscription.name, f->member, &f->state);
}

/* Finds the event, and its member as it stands. */
static void
find_failing(Failure *f)
{
	es_read_subscription(f->subscription.name, &f->subscription);
	es_find_failed(f);
	es_lock_member(f->subscription.hash, f->member);
	f->state = es_newest_member(f->subscription.name, f->member);
	refuse_leased(f);
	f->passed = es_member_passed(f->subscription.hash, f->member, &f->state);
	f->served = es_partition_served(&f->subscription,
									DatumGetTextPP(f->partition), f->passed);
}

static const char *
fail_event(Failure *f)
{
	const Fetch *batch;

	find_failing(f);
	batch = find_batch(f);
	return batch != NULL ? fail_here(f, batch) : fail_elsewhere(f);
}

const char *
es_fail_given(Datum name, int64 position, const FailureCause *cause,
			  FailureAction action)
{
	Failure failure = {.position = position, .cause = *cause, .action = action};
	OwnerScope scope;
	const char *done;

	failure.subscription.name = name;
	es_begin(&scope);
	done = fail_event(&failure);
	es_end(&scope);
	return done;
}

void
es_end_batch(Datum name, int64 next)
{
	Failure rest = {.position = next};
	const Fetch *batch;
	OwnerScope scope;

	rest.subscription.name = name;
	es_begin(&scope);
	find_failing(&rest);
	batch = find_batch(&rest);
	(void) give_back(&rest);
	if (batch->retried)
		es_advance_partition(&rest.subscription, rest.partition, next - 1,
							 rest.served);
	else
		store(&rest, next - 1);
	es_end(&scope);
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
	failure.cause.message =
		PG_ARGISNULL(2) ? (Datum) 0 : PointerGetDatum(PG_GETARG_TEXT_PP(2));
	failure.action =
		es_failure_action(es_required_text(fcinfo, 3, "action"), "action", true);
	es_begin_consuming("fail_events()");
	(void) es_feed_database();
	es_consume_durably();
	/* a resize that waits for leases lets this end as well: see es_open_lease_call */
	es_lock_hash(ES_LOCK_SUBSCRIPTION,
				 es_subscription_hash(failure.subscription.name), RowShareLock);
	es_note_freed(es_subscription_hash(failure.subscription.name), true);
	es_begin(&scope);
	done = fail_event(&failure);
	es_end(&scope);
	if (strcmp(done, "handled") != 0)
		es_count(ES_COUNT_FAILED_EVENTS);
	es_end_call(ES_CALL_FAIL_EVENTS, 0);
	PG_RETURN_TEXT_P(cstring_to_text(done));
}
