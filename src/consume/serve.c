/*
 * serve.c
 *		Giving a consumer the events that come next, in whichever way he consumes.
 *
 * A call takes a member whose lock is free, without waiting for anybody, beginning
 * behind the one that was served last, so that none starves.  It reads the member's
 * newest position with the latest snapshot, since the lock was granted by then, and
 * the log from there up to the safe position, one bounded stretch of it.  What is
 * not for this member is passed over: in shared memory where nothing was found, and
 * with the position where something was.
 *
 * A partition that was set aside (parked.c) is retried by its member, alone in a
 * batch, when that is due; retried batches and new ones take turns.
 */
#include "postgres.h"

#include "access/xact.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "consume/aside.h"
#include "consume/consume.h"
#include "consume/deaths.h"
#include "consume/failure.h"
#include "consume/lease.h"
#include "consume/member.h"
#include "consume/pace.h"
#include "consume/progress.h"
#include "consume/retry.h"
#include "consume/serve.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "consume/work.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "read/feed.h"

/* A statement that waits keeps its snapshot, so it does not wait longer, in ms. */
#define MAX_TIMEOUT_MS 5000

/* ---------- a member ---------- */

static int64
limited(int64 count, int limit)
{
	return limit == 0 ? count : Min(count, limit);
}

/* Of what may yet be rolled back nothing is remembered. */
static bool
may_be_rolled_back(const Turn *turn)
{
	return turn->state.own || turn->call->subscription.own;
}

/* Who waits goes on from here. */
static void
note_nothing(const Turn *turn)
{
	if (!may_be_rolled_back(turn))
		es_note_nothing(turn->call->work, turn->member, &turn->state);
}

/* Nothing is for the member up to there. */
static Served
pass_over(Turn *turn, int64 reached)
{
	Serving *call = turn->call;

	if (!may_be_rolled_back(turn))
		es_note_progress(es_progress_key(call->hash, turn->member),
						 turn->state.number, reached);
	else if (!call->kind->looks && reached > turn->state.position)
	{
		/* or the next call of this transaction would read it again */
		es_move_member(&turn->state, reached);
		turn->changed = true;
	}
	if (reached < call->safe)
		return SERVED_PASSED;
	note_nothing(turn);
	/* what is set aside may have waited for the member to pass it */
	if (call->work != NULL && call->subscription.sets_aside && !turn->state.own)
		call->work->again = true;
	return SERVED_NOTHING;
}

static void
note_given(Serving *call, const Stretch *stretch)
{
	call->count += stretch->count;
	es_count_many(ES_COUNT_DELIVERIES, stretch->count);
}

/* Somebody else has it: who waits is told when it is free. */
static Served
meet_lock(Serving *call)
{
	call->busy = true;
	if (call->work != NULL)
		call->work->busy = true;
	return SERVED_NOTHING;
}

/*
 * The member meets an event that cannot be upcast, before it has anything to give: as
 * if its consumer had failed.  "attempts" were made before, of what was set aside.
 */
static void
fail_upcast(Turn *turn, const Stretch *stretch, const DueRetry *due)
{
	Serving *call = turn->call;
	Failure f = {.subscription = call->subscription,
				 .position = stretch->failed,
				 .cause = stretch->cause,
				 .action = ES_FAIL_RETRY,
				 .partition = stretch->failed_partition,
				 .member = turn->member,
				 .state = turn->state,
				 .passed = turn->served};
	bool again = f.state.attempt_position == f.position;

	es_consume_durably();
	es_count(ES_COUNT_FAILED_EVENTS);
	f.served = es_partition_served(&call->subscription,
								   DatumGetTextPP(f.partition), turn->served);
	if (due == NULL)
	{
		(void) es_fail_new(&f, (again ? f.state.attempts : 0) + 1);
		es_move_member(&f.state, f.held ? f.position - 1 : f.position);
	}
	else if (due->alone)
		(void) es_fail_alone(&f);
	else
		(void) es_fail_retried(&f, due->attempts + 1);
	if (due == NULL || f.held)
	{
		turn->state = f.state;
		turn->state.own = true;
		turn->changed = true;
		turn->served = Max(turn->served, turn->state.position);
	}
	call->subscription.sets_aside = true;
	call->wrote = true;
}

/* What comes next in the log. */
static Served
serve_new(Turn *turn)
{
	Serving *call = turn->call;
	Stretch stretch = {.subscription = &call->subscription,
					   .member = turn->member,
					   .max_count = turn->shown ? limited(turn->max_count,
														  turn->state.batch_limit)
												: 1};
	int64 reached;

	if (turn->served >= call->safe)
	{
		note_nothing(turn);
		return SERVED_NOTHING;
	}
	stretch.heeds_failures = true;
	if (turn->shown)
		call->kind->read(turn, &stretch, NULL);
	reached = es_read_stretch(&stretch, turn->served, call->safe);
	if (stretch.count == 0 && stretch.failed != 0)
	{
		if (!turn->shown)
			return SERVED_HIDDEN;
		fail_upcast(turn, &stretch, NULL);
		return turn->state.position < stretch.failed ? SERVED_NOTHING
													 : serve_new(turn);
	}
	if (stretch.count == 0)
		return pass_over(turn, reached);
	if (!turn->shown)
		return SERVED_HIDDEN;
	es_consume_durably();
	call->kind->give_new(turn, &stretch, reached);
	note_given(call, &stretch);
	return SERVED_EVENTS;
}

int64
es_served_of(const Turn *turn, const DueRetry *due)
{
	return es_partition_served(&turn->call->subscription,
							   DatumGetTextPP(due->partition), turn->served);
}

/*
 * One partition that was set aside, from its first event on as far as it was
 * served, or one event that was parked alone.  A partition of which nothing is left
 * is released.
 */
static Served
serve_due(Turn *turn, const DueRetry *due)
{
	Serving *call = turn->call;
	Stretch stretch = {.subscription = &call->subscription,
					   .member = -1,
					   .partition = due->partition,
					   .alone = due->alone,
					   .heeds_failures = true,
					   .max_count =
						   due->alone ? 1 : limited(turn->max_count, due->limit)};
	int64 served = es_served_of(turn, due);

	call->kind->read(turn, &stretch, due);
	es_read_stretches(&stretch, due->position - 1,
					  due->alone ? due->position : served);
	es_consume_durably();
	if (stretch.count > 0)
	{
		call->kind->give_due(turn, &stretch, due);
		note_given(call, &stretch);
		return SERVED_EVENTS;
	}
	if (stretch.failed != 0)
	{
		fail_upcast(turn, &stretch, due);
		return SERVED_NOTHING;
	}
	es_settle_retried(&call->subscription, due->partition, due->alone,
					  due->alone ? due->position : served, served);
	call->wrote = true;
	return SERVED_NOTHING;
}

static Served
serve_retried(Turn *turn)
{
	const Subscription *subscription = &turn->call->subscription;
	bool held = false;
	DueRetry due;

	while (subscription->sets_aside &&
		   es_find_due(subscription, turn->member, turn->served, &due, &held))
	{
		if (!turn->shown)
			return SERVED_HIDDEN;
		if (!es_hold_aside(subscription->name, due.partition, due.position))
			return meet_lock(turn->call);
		if (serve_due(turn, &due) == SERVED_EVENTS)
			return SERVED_EVENTS;
	}
	return held ? meet_lock(turn->call) : SERVED_NOTHING;
}

/* Batches that are retried and new ones take turns; a call that goes on has new ones. */
static Served
serve_turn(Turn *turn, bool again)
{
	bool retried_last = turn->progress.retried;
	Served retried = SERVED_NOTHING;
	Served served;

	if (turn->max_count <= 0 || turn->state.stopped)
		return SERVED_NOTHING;
	if (es_pause_end(turn->state.retry_at) > GetCurrentTimestamp())
	{
		es_note_due(turn->call->work, turn->state.retry_at);
		return SERVED_NOTHING;
	}
	if (!again && !retried_last)
		retried = serve_retried(turn);
	if (retried == SERVED_EVENTS)
		return retried;
	served = serve_new(turn);
	if (served == SERVED_EVENTS)
		return served;
	if (!again && retried_last)
		retried = serve_retried(turn);
	return retried != SERVED_NOTHING ? retried : served;
}

/* The member's state, or what this call has already made of it. */
static void
begin_turn(Turn *turn)
{
	Serving *call = turn->call;

	turn->progress = es_read_progress(es_progress_key(call->hash, turn->member));
	if (call->before != NULL && call->before_member == turn->member)
	{
		turn->state = *call->before;
		turn->state.own = true;
		turn->changed = true;
		call->before = NULL;
	}
	else
		turn->state = es_newest_member(call->name, turn->member);
	turn->served = turn->state.position;
	turn->max_count = call->max_count;
	if (turn->progress.number == turn->state.number && !turn->changed)
		turn->served = Max(turn->served, turn->progress.position);
}

/*
 * A lease that is over is taken off; false while it is open.  Who only looks is told
 * that there is something: its batch.
 */
static bool
end_lease(Turn *turn, Served *served)
{
	Serving *call = turn->call;

	if (turn->state.lease.number == 0)
		return true;
	if (es_lease_is_open(&turn->state))
	{
		es_note_due(call->work, turn->state.lease.until);
		(void) meet_lock(call);
		return false;
	}
	if (call->kind->looks)
	{
		*served = SERVED_HIDDEN;
		return false;
	}
	es_consume_durably();
	if (turn->state.lease.partition != 0 &&
		!es_hold_aside(call->name, turn->state.lease.partition,
					   turn->state.lease.first))
	{
		(void) meet_lock(call);
		return false;
	}
	es_expire_lease(&call->subscription, turn->member, &turn->state);
	call->subscription.sets_aside = true;
	turn->state.own = true;
	turn->changed = true;
	turn->served = Max(turn->served, turn->state.position);
	return true;
}

/* Sessions that ended with an event of it in hand count. */
static void
count_deaths(Turn *turn)
{
	Serving *call = turn->call;

	if (call->kind->looks || turn->changed || turn->progress.deaths == 0 ||
		!es_count_deaths(&call->subscription, turn->member, &turn->state,
						 &turn->progress))
		return;
	es_consume_durably();
	call->subscription.sets_aside = true;
	turn->state.own = true;
	turn->changed = true;
	turn->served = Max(turn->served, turn->state.position);
}

static Served
serve_locked(Serving *call, int member, bool again)
{
	Turn turn = {.call = call, .member = member, .shown = true};
	Served served = SERVED_NOTHING;

	begin_turn(&turn);
	if (call->kind->begin(&turn) && end_lease(&turn, &served))
	{
		count_deaths(&turn);
		served = serve_turn(&turn, again);
	}
	if (turn.changed && served != SERVED_EVENTS)
	{
		es_store_member(call->name, member, &turn.state);
		call->wrote = true;
	}
	return served;
}

/*
 * Who waits looks without the lock first: letting go of a member he would wake those
 * who wait for one that somebody else has, and they him.
 */
static bool
has_nothing(Serving *call, int member)
{
	Turn turn = {.call = call, .member = member};
	const MemberState *state = &turn.state;
	bool held = false;
	DueRetry due;

	if (call->before != NULL && call->before_member == member)
		return false;
	begin_turn(&turn);
	if (state->lease.number != 0)
	{
		if (!es_lease_is_open(state))
			return false;
		es_note_due(call->work, state->lease.until);
		call->work->leased = true;
		return true;
	}
	if (state->stopped)
		return true;
	if (es_pause_end(state->retry_at) > GetCurrentTimestamp())
	{
		es_note_due(call->work, state->retry_at);
		return true;
	}
	if (turn.served < call->safe ||
		es_find_due(&call->subscription, member, turn.served, &due, &held))
		return false;
	if (held)
		(void) meet_lock(call);
	es_note_nothing(call->work, member, state);
	return true;
}

static Served
serve_member(Serving *call, int member, bool again)
{
	bool wrote = call->wrote;
	Served served;

	if (call->work != NULL && has_nothing(call, member))
		return SERVED_NOTHING;
	if (call->waits)
		es_lock_member(call->hash, member);
	else if (!es_try_lock_member(call->hash, member))
		return meet_lock(call);
	call->wrote = false;
	es_look_set_aside(&call->subscription);
	served = serve_locked(call, member, again);
	if (served == SERVED_EVENTS)
		es_note_served(call->hash, member);
	else if (!call->wrote)
		es_unlock_member(call->hash, member);
	call->wrote = call->wrote || wrote;
	return served;
}

/* ---------- a subscription ---------- */

/* Serves one member, the one that it has to be, or any. */
static Served
serve_some_member(Serving *call)
{
	int members = call->subscription.members;
	int last = es_last_served(call->hash);
	int only = call->kind->only(call);
	bool hidden = false;
	bool passed = false;

	if ((call->subscription.paused && !call->waits) || only == ES_NO_MEMBER)
		return SERVED_NOTHING;
	if (only >= 0)
		return serve_member(call, only, true);
	for (int i = 1; i <= members; i++)
	{
		Served served = serve_member(call, (last + i) % members, false);

		if (served == SERVED_EVENTS)
			return served;
		hidden = hidden || served == SERVED_HIDDEN;
		passed = passed || served == SERVED_PASSED;
	}
	return passed ? SERVED_PASSED : hidden ? SERVED_HIDDEN : SERVED_NOTHING;
}

/* The events of a projection are the server's. */
static void
check_consumer(const Serving *call)
{
	if (call->subscription.projection && !call->kind->projects &&
		!call->kind->looks)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is a projection, whose consumer is the server",
						TextDatumGetCString(call->name)),
				 errhint("Make a subscription of another name with create_subscription().")));
}

/* One try; whoever moves, resizes or drops the subscription holds off new ones. */
Served
es_serve(Serving *call)
{
	Served served;
	OwnerScope scope;

	if (call->waits)
		es_lock_hash(ES_LOCK_SUBSCRIPTION, call->hash, ShareLock);
	else if (!es_try_lock_hash(ES_LOCK_SUBSCRIPTION, call->hash, ShareLock))
		return meet_lock(call);
	call->safe = es_feed_position();
	es_begin(&scope);
	es_read_subscription(call->name, &call->subscription);
	check_consumer(call);
	served = serve_some_member(call);
	es_end_work(call->work, &call->subscription, call->safe);
	es_end(&scope);
	if (served != SERVED_EVENTS && !call->wrote)
		es_unlock_hash(ES_LOCK_SUBSCRIPTION, call->hash, ShareLock);
	return served;
}

static bool
look(void *arg)
{
	Serving *call = arg;

	call->served = es_serve(call);
	call->work->again = call->work->again || call->served == SERVED_PASSED;
	return call->served == SERVED_EVENTS;
}

Served
es_serve_within(Serving *call, int64 timeout)
{
	if (timeout == 0)
		return es_serve(call);
	call->work = palloc0(sizeof(Work));
	call->work->subscription = call->hash;
	(void) es_wait_for_work(call->work, 1, timeout, look, NULL, call);
	return call->served;
}

/* ---------- arguments ---------- */

void
es_check_in_from(FunctionCallInfo fcinfo, const char *function)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		!(result->allowedModes & SFRM_Materialize_Preferred))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s() stands in FROM only", function),
				 errhint("Write SELECT * FROM event_store.%s(...).", function)));
}

int64
es_serve_timeout(FunctionCallInfo fcinfo, int argno, const char *function)
{
	int64 timeout = 0;

	if (!PG_ARGISNULL(argno))
		es_check_timeout(PG_GETARG_INTERVAL_P(argno), "timeout", &timeout);
	if (timeout > MAX_TIMEOUT_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be longer than %d seconds",
						MAX_TIMEOUT_MS / 1000),
				 errhint("To wait longer, CALL event_store.wait_for_subscriptions(...).")));
	if (timeout > 0 && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s() does not wait at this isolation level", function),
				 errhint("What it waited for would not be in the snapshot; leave timeout out.")));
	return timeout;
}
