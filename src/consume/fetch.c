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
 * Fetches that are open are remembered here by subtransaction, for what their
 * end tells shared memory: who fetches, and how large the next batch may be.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/consume.h"
#include "consume/member.h"
#include "consume/partition.h"
#include "consume/progress.h"
#include "consume/prune.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"
#include "read/feed.h"
#include "replay/fold.h"

/* A call reads so many events of the log at most, for one member. */
#define STRETCH_EVENTS 10000
/* A statement that waits keeps its snapshot, so it does not wait longer, in ms. */
#define MAX_TIMEOUT_MS 5000

PG_FUNCTION_INFO_V1(es_next_events);

/* ---------- open fetches ---------- */

/* A batch that this transaction was given. */
typedef struct Fetch
{
	uint64 subscription;
	int member;
	int64 events;
	int64 lost; /* events of calls behind it that were rolled back */
	SubTransactionId subtransaction;
	struct Fetch *next; /* an older one */
} Fetch;

static Fetch *fetches = NULL;

/* The events of a member that this transaction was given. */
static int64
events_fetched(uint64 subscription, int member)
{
	int64 events = 0;

	for (Fetch *f = fetches; f != NULL; f = f->next)
	{
		if (f->subscription == subscription && f->member == member)
			events += f->events;
	}
	return events;
}

/* The newest fetch of a subscription in this transaction, or NULL. */
static Fetch *
open_fetch(uint64 subscription)
{
	for (Fetch *f = fetches; f != NULL; f = f->next)
	{
		if (f->subscription == subscription)
			return f;
	}
	return NULL;
}

/*
 * Ends the newest fetch.  Several calls for one member are one batch: what there is
 * to tell of it is told with the first of them.
 */
static void
end_newest(bool committed)
{
	Fetch *f = fetches;
	Fetch *older;

	fetches = f->next;
	older = open_fetch(f->subscription);
	if (committed)
		es_note_stored(es_my_database());
	if (older != NULL && older->member == f->member)
		older->lost += f->lost + (committed ? 0 : f->events);
	else
		es_end_progress(es_progress_key(f->subscription, f->member),
						f->events + f->lost, committed);
}

static void
end_fetches(SharedDatabase *db, bool committed)
{
	while (fetches != NULL)
		end_newest(committed);
}

/* Those of its children have the same number or higher ones. */
static void
abort_fetches(SubTransactionId subtransaction)
{
	while (fetches != NULL && fetches->subtransaction >= subtransaction)
		end_newest(false);
}

static void
note_fetch(uint64 subscription, int member, int64 events)
{
	Fetch *f = MemoryContextAlloc(TopTransactionContext, sizeof(Fetch));

	es_at_end(ES_END_FETCHES, end_fetches, abort_fetches);
	f->subscription = subscription;
	f->member = member;
	f->events = events;
	f->lost = 0;
	f->subtransaction = GetCurrentSubTransactionId();
	f->next = fetches;
	fetches = f;
	es_begin_progress(es_progress_key(subscription, member));
}

/* ---------- one batch ---------- */

typedef struct Batch
{
	const Subscription *subscription;
	int member;
	int64 max_count;
	Tuplestorestate *into; /* NULL = only counts */
	MemoryContext row_context;
	int64 count; /* events in it */
	int64 read;	 /* events looked at, and the last of them */
	int64 last;
} Batch;

/* Whether a partition is this member's. */
static bool
is_members(Batch *batch, TupleTableSlot *slot)
{
	MemoryContext caller;
	text *partition;

	if (batch->subscription->members == 1)
		return true;
	slot_getallattrs(slot);
	caller = MemoryContextSwitchTo(batch->row_context);
	partition = es_partition_of(&batch->subscription->partitioning,
								slot->tts_values, slot->tts_isnull);
	MemoryContextSwitchTo(caller);
	return es_partition_member(partition, batch->subscription->members) ==
		   batch->member;
}

/* Takes an event of the log if it is for the member; false when the batch is full. */
static bool
take_event(TupleTableSlot *slot, void *arg)
{
	Batch *batch = arg;
	const Datum *values = slot->tts_values;

	slot_getsomeattrs(slot, EV_EVENT_TYPE + 1);
	batch->read++;
	batch->last = DatumGetInt64(values[EV_GLOBAL_POSITION]);
	MemoryContextReset(batch->row_context);
	if (!es_subscribes(batch->subscription, values[EV_AGGREGATE_TYPE],
					   values[EV_EVENT_TYPE]) ||
		!is_members(batch, slot))
		return true;
	if (batch->into != NULL)
		tuplestore_puttupleslot(batch->into, slot);
	batch->count++;
	return batch->count < batch->max_count;
}

/*
 * Reads a stretch of the log behind a position, up to the safe one; returns how far
 * the member has then come.
 */
static int64
read_stretch(Batch *batch, int64 after, int64 safe)
{
	static KeptPlan plan = {ES_EVENT_SELECT
							" WHERE e.global_position OPERATOR(pg_catalog.>) $1"
							" AND e.global_position OPERATOR(pg_catalog.<=) $2"
							" ORDER BY e.global_position LIMIT $3",
							3,
							{INT8OID, INT8OID, INT8OID}};
	Datum values[3] = {Int64GetDatum(after), Int64GetDatum(safe),
					   Int64GetDatum(STRETCH_EVENTS)};

	batch->last = after;
	batch->row_context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store partition",
							  ALLOCSET_SMALL_SIZES);
	PushActiveSnapshot(GetLatestSnapshot());
	es_for_each_row(&plan, values, NULL, take_event, batch);
	PopActiveSnapshot();
	MemoryContextDelete(batch->row_context);
	return batch->count >= batch->max_count || batch->read >= STRETCH_EVENTS
			   ? batch->last
			   : safe;
}

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

/* Reads the newest state of a member, whose lock is held. */
static MemberState
newest_state(const NextCall *call, int member)
{
	MemberState state;
	bool found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = es_read_member(call->name, member, GetActiveSnapshot(), &state);
	PopActiveSnapshot();
	if (!found)
		elog(ERROR, "member %d of subscription %s has no position", member,
			 TextDatumGetCString(call->name));
	return state;
}

/* Whether the transaction's own snapshot shows that state as the newest one. */
static bool
snapshot_shows(const NextCall *call, int member, const MemberState *newest)
{
	MemberState shown;

	return !IsolationUsesXactSnapshot() ||
		   (es_read_member(call->name, member, GetTransactionSnapshot(), &shown) &&
			shown.number == newest->number);
}

/* Moves a member in this transaction, over a batch. */
static void
move_member(const NextCall *call, int member, MemberState *state, int64 events)
{
	es_consume_durably();
	es_store_member(call->name, member, state);
	note_fetch(call->hash, member, events);
	if (events > 0)
		es_note_served(call->hash, member);
}

/* What a member that was served by nobody else has; its lock is held. */
static Served
serve_locked(NextCall *call, int member, bool again)
{
	uint64 key = es_progress_key(call->hash, member);
	Progress progress = es_read_progress(key);
	MemberState state = newest_state(call, member);
	bool shown = again || snapshot_shows(call, member, &state);
	int64 after = state.position;
	int64 limit = progress.limit - events_fetched(call->hash, member);
	Batch batch = {.subscription = &call->subscription,
				   .member = member,
				   .max_count = shown ? Min(call->max_count, limit) : 1,
				   .into = shown ? call->into : NULL};

	if (progress.number == state.number)
		after = Max(after, progress.position);
	if (batch.max_count <= 0 || after >= call->safe)
		return SERVED_NOTHING;
	state.position = read_stretch(&batch, after, call->safe);
	if (!shown)
		return batch.count > 0 ? SERVED_HIDDEN : SERVED_NOTHING;
	if (batch.count > 0)
	{
		move_member(call, member, &state, batch.count);
		call->count += batch.count;
		return SERVED_EVENTS;
	}
	/* of a state that may yet be rolled back nothing is remembered */
	if (!again)
		es_note_progress(key, state.number, state.position);
	return state.position < call->safe ? SERVED_PASSED : SERVED_NOTHING;
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
	const Fetch *open = open_fetch(call->hash);
	int last = es_last_served(call->hash);
	bool hidden = false;
	bool passed = false;

	if (call->subscription.paused)
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
