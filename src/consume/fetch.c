/*
 * fetch.c
 *		next_events: the events that come next, in the consumer's transaction.
 *
 * A member's position moves in the transaction that its events were given to: COMMIT
 * acknowledges what the calls returned, ROLLBACK, to a savepoint as well, delivers
 * it again.  That takes no more than a row and a lock, which both end so with
 * PostgreSQL's own transactions and subtransactions.
 *
 * A call takes a member whose lock is free, without waiting for anybody, beginning
 * behind the one that was served last, so that none starves.  It reads the member's
 * newest position with the latest snapshot, since the lock was granted by then, and
 * the log from there up to the safe position, one bounded stretch of it.  What is
 * not for this member is passed over: in shared memory where nothing was found, and
 * with the position where something was.
 *
 * At REPEATABLE READ the effects are made under a snapshot of before.  A member whose newest
 * position that snapshot does not show was served by a transaction whose effects it does not
 * show either; such members are passed over, and 40001 where only they have events.
 *
 * A partition that was set aside (parked.c) is retried by its member, alone in a
 * batch, when that is due.
 */
#include "postgres.h"

#include "access/xact.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/consume.h"
#include "consume/fetches.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/progress.h"
#include "consume/retry.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"
#include "read/feed.h"

/* A statement that waits keeps its snapshot, so it does not wait longer, in ms. */
#define MAX_TIMEOUT_MS 5000

PG_FUNCTION_INFO_V1(es_next_events);

/* ---------- members ---------- */

typedef enum Served
{
	SERVED_NOTHING,
	SERVED_PASSED, /* nothing, but there is more to look at */
	SERVED_HIDDEN, /* it has events, which the snapshot must not be given */
	SERVED_EVENTS
} Served;

typedef struct NextCall
{
	Datum name;
	uint64 hash; /* of the subscription */
	int64 max_count;
	Tuplestorestate *into;
	Subscription subscription;
	int64 safe;
	int64 count; /* events it has found */
} NextCall;

/* Whether the transaction's own snapshot shows that state as the newest one. */
static bool
snapshot_shows(const NextCall *call, int member, const MemberState *newest)
{
	MemberState shown;

	return !IsolationUsesXactSnapshot() ||
		   (es_read_member(call->name, member, GetTransactionSnapshot(), &shown) &&
			shown.number == newest->number);
}

/* A member at its turn; its lock is held. */
typedef struct Turn
{
	NextCall *call;
	int member;
	bool again; /* the transaction has been given events of it */
	bool shown; /* its snapshot shows the newest state */
	MemberState state;
	Progress progress;
	int64 served; /* how far the member has come */
	int64 max_count;
} Turn;

/* Gives a batch in this transaction: the state that follows it is stored. */
static void
give(Turn *turn, const Stretch *stretch, Fetch *fetch)
{
	NextCall *call = turn->call;

	fetch->subscription = call->hash;
	fetch->member = turn->member;
	fetch->events = stretch->count;
	fetch->positions = stretch->positions;
	es_store_member(call->name, turn->member, &turn->state);
	es_note_fetch(fetch);
	es_note_served(call->hash, turn->member);
	call->count += stretch->count;
}

/* What comes next in the log. */
static Served
serve_new(Turn *turn)
{
	NextCall *call = turn->call;
	Stretch stretch = {.subscription = &call->subscription,
					   .member = turn->member,
					   .max_count = turn->shown ? turn->max_count : 1,
					   .into = turn->shown ? call->into : NULL};
	Fetch fetch = {.before = turn->state};
	int64 reached;

	if (turn->served >= call->safe)
		return SERVED_NOTHING;
	reached = es_read_stretch(&stretch, turn->served, call->safe);
	if (!turn->shown)
		return stretch.count > 0 ? SERVED_HIDDEN : SERVED_NOTHING;
	if (stretch.count == 0)
	{
		/* of a state that may yet be rolled back nothing is remembered */
		if (!turn->again)
			es_note_progress(es_progress_key(call->hash, turn->member),
							 turn->state.number, reached);
		return reached < call->safe ? SERVED_PASSED : SERVED_NOTHING;
	}
	es_consume_durably();
	turn->state =
		(MemberState){.number = turn->state.number, .position = reached};
	give(turn, &stretch, &fetch);
	return SERVED_EVENTS;
}

/*
 * One partition that was set aside, from its first event on as far as the member
 * has come, or one event that was parked alone.  What is left of it is written at
 * once, since COMMIT is the acknowledgement.
 */
static Served
serve_due(Turn *turn, const DueRetry *due)
{
	NextCall *call = turn->call;
	Stretch stretch = {.subscription = &call->subscription,
					   .member = -1,
					   .partition = due->partition,
					   .alone = due->alone,
					   .max_count = due->alone ? 1 : turn->max_count,
					   .into = call->into};
	Fetch fetch = {.before = turn->state,
				   .retried = true,
				   .partition = due->partition,
				   .alone = due->alone,
				   .attempts = due->attempts};

	es_consume_durably();
	es_read_stretches(&stretch, due->position - 1,
					  due->alone ? due->position : turn->served);
	if (due->alone)
		es_settle_alone(call->name, due->partition, due->position, turn->served);
	else
		es_advance_partition(&call->subscription, due->partition,
							 stretch.count > 0
								 ? stretch.positions[stretch.count - 1]
								 : turn->served,
							 turn->served);
	if (stretch.count == 0)
		return SERVED_NOTHING;
	/* what waited there was passed over, which the row has told until now */
	turn->state.position = turn->served;
	give(turn, &stretch, &fetch);
	return SERVED_EVENTS;
}

static Served
serve_retried(Turn *turn)
{
	NextCall *call = turn->call;
	DueRetry due;

	while (!turn->again && call->subscription.sets_aside &&
		   es_find_due(&call->subscription, turn->member, turn->served, &due))
	{
		if (!turn->shown)
			return SERVED_HIDDEN;
		if (serve_due(turn, &due) == SERVED_EVENTS)
			return SERVED_EVENTS;
	}
	return SERVED_NOTHING;
}

/* Batches that are retried and new ones take turns. */
static Served
serve_locked(NextCall *call, int member, bool again)
{
	uint64 key = es_progress_key(call->hash, member);
	Turn turn = {.call = call, .member = member, .again = again};
	Served served = SERVED_NOTHING;

	turn.progress = es_read_progress(key);
	turn.state = es_newest_member(call->name, member);
	turn.shown = again || snapshot_shows(call, member, &turn.state);
	turn.served = turn.state.position;
	turn.max_count =
		Min(call->max_count,
			turn.progress.limit - es_events_fetched(call->hash, member));
	if (turn.progress.number == turn.state.number)
		turn.served = Max(turn.served, turn.progress.position);
	if (turn.max_count <= 0 || turn.state.stopped ||
		turn.state.retry_at > GetCurrentTimestamp())
		return SERVED_NOTHING;
	if (!turn.progress.retried)
		served = serve_retried(&turn);
	if (served != SERVED_EVENTS)
		served = serve_new(&turn);
	if (served != SERVED_EVENTS && turn.progress.retried)
	{
		Served retried = serve_retried(&turn);

		if (retried != SERVED_NOTHING)
			served = retried;
	}
	return served;
}

static Served
serve_member(NextCall *call, int member, bool again)
{
	Served served;

	if (!es_try_lock_member(call->hash, member))
		return SERVED_NOTHING;
	served = serve_locked(call, member, again);
	if (served != SERVED_EVENTS)
		es_unlock_member(call->hash, member);
	return served;
}

/* Serves one member, the one that this transaction has, if it has one. */
static Served
serve_some_member(NextCall *call)
{
	const Fetch *open = es_open_fetch(call->hash);
	int last = es_last_served(call->hash);
	bool hidden = false;
	bool passed = false;

	if (call->subscription.paused)
		return SERVED_NOTHING;
	if (open != NULL && open->retried)
		return SERVED_NOTHING;
	if (open != NULL)
		return serve_member(call, open->member, true);
	for (int i = 1; i <= call->subscription.members; i++)
	{
		Served served =
			serve_member(call, (last + i) % call->subscription.members, false);

		if (served == SERVED_EVENTS)
			return served;
		hidden = hidden || served == SERVED_HIDDEN;
		passed = passed || served == SERVED_PASSED;
	}
	return passed ? SERVED_PASSED : hidden ? SERVED_HIDDEN : SERVED_NOTHING;
}

/* One try; whoever moves, resizes or drops the subscription holds off new ones. */
static Served
serve(NextCall *call)
{
	Served served;
	OwnerScope scope;

	if (!es_try_lock_hash(ES_LOCK_SUBSCRIPTION, call->hash, ShareLock))
		return SERVED_NOTHING;
	call->safe = es_feed_position();
	es_begin(&scope);
	es_read_subscription(call->name, &call->subscription);
	served = serve_some_member(call);
	es_end(&scope);
	if (served != SERVED_EVENTS)
		es_unlock_hash(ES_LOCK_SUBSCRIPTION, call->hash, ShareLock);
	return served;
}

/* Tries until there are events, or the time is over. */
static Served
serve_within(NextCall *call, int64 timeout)
{
	static uint32 wait_event;
	ConditionVariable *ended = &es_positions(es_my_database())->ended;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	Served served;

	if (timeout == 0)
		return serve(call);
	es_begin_wait_on(ended);
	for (;;)
	{
		long left;

		CHECK_FOR_INTERRUPTS();
		served = serve(call);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
		if (served == SERVED_EVENTS || left <= 0)
			break;
		if (served != SERVED_PASSED)
			es_wait_on(ended, left, es_wait_event(&wait_event, "EventStoreFeed"));
	}
	es_end_wait();
	return served;
}

/* ---------- SQL ---------- */

/* What is given stays given, whatever becomes of the rows: so only FROM, which takes all. */
static void
check_in_from(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		!(result->allowedModes & SFRM_Materialize_Preferred))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("next_events() stands in FROM only"),
				 errhint("Write SELECT * FROM event_store.next_events(...).")));
}

/* The timeout of a call that waits with a snapshot. */
static int64
timeout_argument(FunctionCallInfo fcinfo, int argno)
{
	int64 timeout = 0;

	if (!PG_ARGISNULL(argno))
		es_check_timeout(PG_GETARG_INTERVAL_P(argno), "timeout", &timeout);
	if (timeout > MAX_TIMEOUT_MS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("timeout must not be longer than %d seconds",
							   MAX_TIMEOUT_MS / 1000)));
	if (timeout > 0 && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("next_events() does not wait at this isolation level"),
				 errhint("What it waited for would not be in the snapshot; leave timeout out.")));
	return timeout;
}

Datum
es_next_events(PG_FUNCTION_ARGS)
{
	NextCall call = {0};
	int64 timeout;

	es_begin_call(ES_CALL_NEXT_EVENTS);
	check_in_from(fcinfo);
	call.name = PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	call.hash = es_subscription_hash(call.name);
	call.max_count = es_max_count_argument(fcinfo, 1);
	timeout = timeout_argument(fcinfo, 2);
	es_begin_consuming("next_events()");
	if (timeout > 0)
		es_refuse_in_worker(es_feed_database());
	else
		(void) es_feed_database();
	es_begin_result(fcinfo);
	call.into = ((ReturnSetInfo *) fcinfo->resultinfo)->setResult;
	if (serve_within(&call, timeout) == SERVED_HIDDEN)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to events given to another transaction"),
				 errhint("The transaction might succeed if retried.")));
	es_end_call(ES_CALL_NEXT_EVENTS, call.count);
	return (Datum) 0;
}
