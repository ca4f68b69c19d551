/*
 * fetch.c
 *		next_events: the events that come next, in the consumer's transaction.
 *
 * A member's position moves in the transaction that its events were given to: COMMIT
 * acknowledges what the calls returned, ROLLBACK, to a savepoint as well, delivers
 * it again.  That takes no more than a row and a lock, which both end so with
 * PostgreSQL's own transactions and subtransactions.
 *
 * At REPEATABLE READ the effects are made under a snapshot of before.  A member whose newest
 * position that snapshot does not show was served by a transaction whose effects it does not
 * show either; such members are passed over, and 40001 where only they have events.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/snapmgr.h"

#include "consume/aside.h"
#include "consume/consume.h"
#include "consume/fetch.h"
#include "consume/fetches.h"
#include "consume/member.h"
#include "consume/retry.h"
#include "consume/serve.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/metrics.h"
#include "ground/worker_slot.h"
#include "read/feed.h"

PG_FUNCTION_INFO_V1(es_next_events);

/* ---------- members ---------- */

/* A transaction goes on in the member that it has, unless that was retried. */
static int
only_member(const Serving *call)
{
	const Fetch *open = es_open_fetch(call->hash);

	return open == NULL ? -1 : open->retried ? ES_NO_MEMBER : open->member;
}

/* Whether the transaction's own snapshot shows what the members' events did before. */
static bool
snapshot_shows(const Turn *turn)
{
	return !IsolationUsesXactSnapshot() ||
		   es_snapshot_shows_member(turn->call->name, turn->member);
}

static bool
begin_fetch(Turn *turn)
{
	turn->shown = snapshot_shows(turn);
	turn->max_count = Min(turn->max_count,
						  turn->progress.limit -
							  es_events_fetched(turn->call->hash, turn->member));
	return true;
}

static void
refuse_hidden(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to events given to another transaction"),
			 errhint("The transaction might succeed if retried.")));
}

static void
read_rows(Turn *turn, Stretch *stretch, const DueRetry *due)
{
	stretch->into = turn->call->into;
}

/* Gives a batch in this transaction: the state that follows it is stored. */
static void
give(Turn *turn, const Stretch *stretch, Fetch *fetch)
{
	Serving *call = turn->call;

	fetch->subscription = call->hash;
	fetch->member = turn->member;
	fetch->events = stretch->count;
	fetch->positions = stretch->positions;
	fetch->projected = call->kind->projects;
	es_store_member(call->name, turn->member, &turn->state);
	es_note_fetch(fetch);
}

static void
give_new(Turn *turn, const Stretch *stretch, int64 reached)
{
	Fetch fetch = {.before = turn->state};

	es_move_member(&turn->state, reached);
	give(turn, stretch, &fetch);
}

/* What is left of it is written at once, since COMMIT is the acknowledgement. */
static void
give_due(Turn *turn, const Stretch *stretch, const DueRetry *due)
{
	Fetch fetch = {.before = turn->state,
				   .retried = true,
				   .partition = due->partition,
				   .alone = due->alone,
				   .attempts = due->attempts};

	es_settle_retried(&turn->call->subscription, due->partition, due->alone,
					  stretch->positions[stretch->count - 1],
					  es_served_of(turn, due));
	/* what waited there was passed over, which the row has told until now */
	turn->state.position = turn->served;
	give(turn, stretch, &fetch);
}

static const ServeKind fetching = {"next_events", only_member, begin_fetch,
								   read_rows,	  give_new,	   give_due,
								   false};

/* ---------- projections ---------- */

static int
any_member(const Serving *call)
{
	return -1;
}

static bool
begin_batch(Turn *turn)
{
	turn->shown = snapshot_shows(turn);
	return true;
}

static const ServeKind projecting = {"project",		  any_member, begin_batch,
									 read_rows,		  give_new,	  give_due,
									 .projects = true};

Served
es_serve_projection(Datum name, int64 max_count, bool foreground,
					Tuplestorestate *into, bool *busy)
{
	Serving call = {.kind = &projecting,
					.name = name,
					.hash = es_subscription_hash(name),
					.max_count = max_count,
					.into = into,
					.waits = foreground};
	Served served;

	served = es_serve_within(&call, 0);
	if (served == SERVED_HIDDEN)
		refuse_hidden();
	*busy = call.busy;
	return served;
}

/* ---------- SQL ---------- */

Datum
es_next_events(PG_FUNCTION_ARGS)
{
	Serving call = {.kind = &fetching};
	int64 timeout;

	es_begin_call(ES_CALL_NEXT_EVENTS);
	es_check_in_from(fcinfo, fetching.function);
	call.name = PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	call.hash = es_subscription_hash(call.name);
	call.max_count = es_limit_argument(fcinfo, 1, "max_count");
	timeout = es_serve_timeout(fcinfo, 2, fetching.function);
	es_begin_consuming("next_events()");
	if (timeout > 0)
		es_refuse_in_worker(es_feed_database());
	else
		(void) es_feed_database();
	es_begin_result(fcinfo);
	call.into = ((ReturnSetInfo *) fcinfo->resultinfo)->setResult;
	if (es_serve_within(&call, timeout) == SERVED_HIDDEN)
		refuse_hidden();
	es_end_call(ES_CALL_NEXT_EVENTS, call.count);
	return (Datum) 0;
}
