/*
 * claim.c
 *		claim_events: a batch by lease, for effects elsewhere.
 *
 * A claim stores the state of a member with a lease and returns the lease's events with
 * what the consumer needs to name them.  The position moves with the acknowledgement, so
 * a claim reads like a fetch and takes nothing away but the member, for a time.  A
 * partition that was set aside keeps its row until then, too.
 *
 * The acknowledgement of the batch before may come with the call.  It stays in memory
 * until the member is claimed again or the call ends, so it costs no row of its own
 * where there is one member.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/execnodes.h"
#include "storage/lockdefs.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/ack.h"
#include "consume/aside.h"
#include "consume/consume.h"
#include "consume/fetches.h"
#include "consume/lease.h"
#include "consume/member.h"
#include "consume/partition.h"
#include "consume/progress.h"
#include "consume/prune.h"
#include "consume/serve.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/fencing.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "read/feed.h"

PG_FUNCTION_INFO_V1(es_claim_events);

/* What stands in a row before and behind the columns of an event. */
enum
{
	CL_MEMBER,
	CL_LEASE,
	CL_ATTEMPT,
	CL_EVENT,
	CL_PARTITION = CL_EVENT + EV_COLUMNS,
	CL_COLUMNS
};

typedef struct Claim
{
	Datum consumer;
	int64 time;	  /* of the lease, in microseconds */
	int64 number; /* the next lease's; 0 = none is taken yet */
	TupleDesc desc;
	/* of the turn whose rows are read */
	int member;
	int attempts;			/* before, at the event of that position ... */
	int64 attempt_position; /* ... or at all, with 0 */
} Claim;

/* ---------- members ---------- */

static int
any_member(const Serving *call)
{
	return -1;
}

/* What this transaction itself has fetched is not free either. */
static bool
begin_claim(Turn *turn)
{
	const Fetch *open = es_open_fetch(turn->call->hash);

	return open == NULL || open->member != turn->member;
}

static void
put_row(Stretch *stretch, TupleTableSlot *slot, text *partition)
{
	Serving *call = stretch->own;
	Claim *claim = call->own;
	Datum values[CL_COLUMNS];
	bool nulls[CL_COLUMNS] = {false};
	bool attempted = claim->attempt_position == 0 ||
					 claim->attempt_position == stretch->last;

	/* with the member's lock, so a member's numbers rise */
	if (claim->number == 0)
		claim->number = es_take_fencing_number();
	slot_getallattrs(slot);
	if (partition == NULL)
		partition = es_partition_of(&call->subscription.partitioning,
									slot->tts_values, slot->tts_isnull);
	values[CL_MEMBER] = Int32GetDatum(claim->member);
	values[CL_LEASE] = Int64GetDatum(claim->number);
	values[CL_ATTEMPT] = Int32GetDatum((attempted ? claim->attempts : 0) + 1);
	memcpy(&values[CL_EVENT], slot->tts_values, EV_COLUMNS * sizeof(Datum));
	memcpy(&nulls[CL_EVENT], slot->tts_isnull, EV_COLUMNS * sizeof(bool));
	values[CL_PARTITION] = PointerGetDatum(partition);
	tuplestore_putvalues(call->into, claim->desc, values, nulls);
}

static void
read_rows(Turn *turn, Stretch *stretch, const DueRetry *due)
{
	Claim *claim = turn->call->own;

	claim->number = 0;
	claim->member = turn->member;
	claim->attempts = due != NULL ? due->attempts : turn->state.attempts;
	claim->attempt_position = due != NULL ? 0 : turn->state.attempt_position;
	stretch->put = put_row;
	stretch->own = turn->call;
}

/* Stores the state with a lease for the events that were found. */
static void
give(Turn *turn, const Stretch *stretch, Lease lease)
{
	const Claim *claim = turn->call->own;

	es_count(ES_COUNT_CLAIMS);
	lease.number = claim->number;
	lease.consumer = claim->consumer;
	lease.first = stretch->positions[0];
	lease.events = (int) stretch->count;
	lease.since = GetCurrentTimestamp();
	lease.until = lease.since + claim->time;
	/* what lies between is not for this member */
	turn->state.position = turn->served;
	turn->state.lease = lease;
	es_store_member(turn->call->name, turn->member, &turn->state);
	es_note_turn(es_progress_key(turn->call->hash, turn->member),
				 lease.partition != 0);
	es_note_stored(es_my_database());
}

static void
give_new(Turn *turn, const Stretch *stretch, int64 reached)
{
	give(turn, stretch, (Lease){.last = reached});
}

static void
give_due(Turn *turn, const Stretch *stretch, const DueRetry *due)
{
	give(turn, stretch,
		 (Lease){.last = stretch->positions[stretch->count - 1],
				 .partition = due->partition,
				 .alone = due->alone});
}

static const ServeKind claiming = {"claim_events", any_member, begin_claim,
								   read_rows,	   give_new,   give_due,
								   false};

/* ---------- the batch before ---------- */

/* Acknowledges it, in memory, if one is named. */
static void
acknowledge_before(FunctionCallInfo fcinfo, Serving *call)
{
	MemberState *state;
	LeaseCall before;
	OwnerScope scope;

	if (PG_ARGISNULL(5) != PG_ARGISNULL(6))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("done_member and done_lease are given together")));
	if (PG_ARGISNULL(5))
		return;
	state = palloc(sizeof(MemberState));
	es_consume_durably();
	es_lock_hash(ES_LOCK_SUBSCRIPTION, call->hash, RowShareLock);
	es_begin(&scope);
	es_begin_lease_call(&before, call->name, PG_GETARG_INT32(5),
						PG_GETARG_INT64(6));
	es_acknowledge_all(&before);
	*state = before.state;
	if (state->last_error != 0)
	{
		MemoryContext scoped =
			MemoryContextSwitchTo(GetMemoryChunkContext(state));

		state->last_error = datumCopy(state->last_error, false, -1);
		MemoryContextSwitchTo(scoped);
	}
	es_end(&scope);
	call->before = state;
	call->before_member = before.member;
}

/* The member has not been claimed again. */
static void
store_before(Serving *call)
{
	OwnerScope scope;

	if (call->before == NULL)
		return;
	es_begin(&scope);
	es_store_member(call->name, call->before_member, call->before);
	es_end(&scope);
	es_note_stored(es_my_database());
}

/* ---------- SQL ---------- */

Datum
es_claim_events(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Claim claim = {0};
	Serving call = {.kind = &claiming, .own = &claim};
	int64 timeout;

	es_begin_call(ES_CALL_CLAIM_EVENTS);
	es_check_in_from(fcinfo, claiming.function);
	call.name = PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	call.hash = es_subscription_hash(call.name);
	claim.consumer = PointerGetDatum(es_required_text(fcinfo, 1, "consumer"));
	call.max_count = es_limit_argument(fcinfo, 2, "max_count");
	claim.time = es_lease_time(fcinfo, 3);
	timeout = es_serve_timeout(fcinfo, 4, claiming.function);
	es_begin_consuming("claim_events()");
	if (timeout > 0)
		es_refuse_in_worker(es_feed_database());
	else
		(void) es_feed_database();
	es_begin_result(fcinfo);
	call.into = result->setResult;
	claim.desc = result->setDesc;
	if (claim.desc->natts != CL_COLUMNS)
		elog(ERROR, "claim_events() returns other columns than an event has");
	acknowledge_before(fcinfo, &call);
	(void) es_serve_within(&call, timeout);
	store_before(&call);
	es_end_call(ES_CALL_CLAIM_EVENTS, call.count);
	return (Datum) 0;
}
