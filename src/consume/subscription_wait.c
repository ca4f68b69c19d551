/*
 * subscription_wait.c
 *		Waiting for subscriptions: until one has something, without a snapshot, and
 *		until one has handled what was written.
 *
 * A statement holds its snapshot while it waits, and so keeps VACUUM from its work.
 * A procedure need not: wait_for_subscriptions gives its snapshot back before it
 * waits, and takes one for each look alone.  Called by itself it ends its transaction
 * after each look, too, so that it holds no lock of a table either; inside a
 * transaction the caller's locks are his own affair.  Where another snapshot is held, it would
 * be in vain, and is 25001.
 *
 * wait_for_subscription is a function, which keeps the statement's snapshot, but each of
 * its looks is a subtransaction that is rolled back: it has no lock of a table while
 * it sleeps, which may be for minutes.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/member.h"
#include "consume/progress.h"
#include "consume/serve.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "consume/work.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/waiter.h"
#include "ground/worker_slot.h"
#include "read/feed.h"
#include "read/waker.h"

#define DEFAULT_TIMEOUT_MS 5000

PG_FUNCTION_INFO_V1(es_wait_for_subscription);
PG_FUNCTION_INFO_V1(es_wait_for_subscriptions);

static int64
timeout_argument(FunctionCallInfo fcinfo, int argno)
{
	int64 timeout = DEFAULT_TIMEOUT_MS;

	if (!PG_ARGISNULL(argno))
		es_check_timeout(PG_GETARG_INTERVAL_P(argno), "timeout", &timeout);
	return timeout;
}

/* ---------- until one has something ---------- */

/* Only looks whether there is something. */
static int
any_member(const Serving *call)
{
	return -1;
}

static bool
begin_looking(Turn *turn)
{
	turn->shown = false;
	return true;
}

static const ServeKind looking = {.function = "wait_for_subscriptions",
								  .looks = true,
								  .only = any_member,
								  .begin = begin_looking};

typedef struct Watch
{
	int count;
	Datum *names;
	Work *works;
	bool *ready;
	bool looked;	/* since it last slept */
	bool by_itself; /* a statement of its own, whose transaction it may end */
} Watch;

static bool
has_something(Datum name, Work *work)
{
	Serving call = {.kind = &looking, .name = name, .max_count = 1, .work = work};
	Served served;

	call.hash = work->subscription;
	served = es_serve(&call);
	work->again = work->again || served == SERVED_PASSED;
	return served == SERVED_HIDDEN;
}

/* A transaction that has nothing yet, and so no snapshot and no lock. */
static void
begin_anew(void)
{
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	SPI_finish();
}

static void
refuse_snapshot(const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("wait_for_subscriptions() does not wait where a snapshot is held"),
			 errhint("%s", hint)));
}

/* As PostgreSQL does it where a procedure ends its transaction. */
static void
forget_snapshot(Portal portal)
{
	if (portal == NULL || portal->portalSnapshot == NULL ||
		!ActiveSnapshotSet() || portal->portalSnapshot != GetActiveSnapshot())
		refuse_snapshot("Call it as a statement of its own, not in a function.");
	PopActiveSnapshot();
	portal->portalSnapshot = NULL;
	if (portal->holdSnapshot != NULL && portal->resowner != NULL)
		UnregisterSnapshotFromOwner(portal->holdSnapshot, portal->resowner);
	portal->holdSnapshot = NULL;
}

static bool
look_at_all(void *arg)
{
	Watch *watch = arg;
	bool found = false;

	for (int i = 0; i < watch->count; i++)
	{
		watch->ready[i] = has_something(watch->names[i], &watch->works[i]);
		found = found || watch->ready[i];
	}
	watch->looked = true;
	return found;
}

/*
 * Before it sleeps, what was looked with is given back, which PostgreSQL takes
 * for the statement where it finds none.
 */
static void
give_back(void *arg)
{
	Watch *watch = arg;

	if (!watch->looked && !ActiveSnapshotSet())
		return;
	if (watch->by_itself)
		begin_anew();
	else if (ActiveSnapshotSet())
		forget_snapshot(ActivePortal);
	watch->looked = false;
}
/*
 * Gives back the snapshot that the statement has; where it is a part of another
 * one, or a cursor is open, there is another.
 */
static void
give_back_snapshot(Watch *watch, const CallContext *context)
{
	if (IsolationUsesXactSnapshot())
		refuse_snapshot("Call it at READ COMMITTED.");
	watch->by_itself = !context->atomic && !SPI_inside_nonatomic_context();
	if (watch->by_itself)
		begin_anew();
	else
		forget_snapshot(ActivePortal);
	InvalidateCatalogSnapshot();
	if (ActiveSnapshotSet() || TransactionIdIsValid(MyProc->xmin))
		refuse_snapshot("Close cursors before, and call it as a statement of its own.");
}

/* The names, checked; copied, since transactions may end. */
static void
watch_arguments(FunctionCallInfo fcinfo, Watch *watch)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("subscription_names must not be null")));
	es_array_argument(fcinfo, 0, "subscription_names", false, &watch->count,
					  &watch->names, NULL);
	if (watch->count == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("subscription_names must not be empty")));
	watch->works = palloc0(watch->count * sizeof(Work));
	watch->ready = palloc0(watch->count * sizeof(bool));
	for (int i = 0; i < watch->count; i++)
	{
		es_check_name(watch->names[i], false,
					  psprintf("subscription_names[%d]", i + 1), NULL, false);
		watch->works[i].subscription = es_subscription_hash(watch->names[i]);
	}
}

/* The names of those that are ready, as they were given. */
static Datum
names_of_ready(const Watch *watch)
{
	Datum *names = palloc(watch->count * sizeof(Datum));
	int count = 0;

	for (int i = 0; i < watch->count; i++)
	{
		if (watch->ready[i])
			names[count++] = watch->names[i];
	}
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* The row of one column that a procedure returns. */
static Datum
one_column(FunctionCallInfo fcinfo, Datum value)
{
	bool null = false;
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(desc, &value, &null));
}

Datum
es_wait_for_subscriptions(PG_FUNCTION_ARGS)
{
	const CallContext *context = (const CallContext *) fcinfo->context;
	Watch watch = {.count = -1};
	int64 timeout = timeout_argument(fcinfo, 1);

	if (context == NULL || !IsA(context, CallContext))
		elog(ERROR, "wait_for_subscriptions() is a procedure");
	watch_arguments(fcinfo, &watch);
	es_refuse_in_worker(es_feed_database());
	give_back_snapshot(&watch, context);
	(void) es_wait_for_work(watch.works, watch.count, timeout, look_at_all,
							give_back, &watch);
	return one_column(fcinfo, names_of_ready(&watch));
}

/* ---------- until one has handled something ---------- */

typedef struct Handling
{
	Datum name;
	uint64 hash;
	int64 up_to; /* -1 = what is safe at the first look */
	MemoryContext context;
	bool is_safe;
	bool is_handled;
	uint32 freed; /* before the look */
	/* by member: the state in which an event was found that waits; 0 = none was */
	int members;
	int64 *waiting;
} Handling;

static void
refuse_to_wait(const Handling *handling, const char *why, Datum error,
			   const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("subscription \"%s\" does not get to that position: %s",
						   TextDatumGetCString(handling->name), why),
					error == 0 ? 0 : errdetail("%s", TextDatumGetCString(error)),
					errhint("%s", hint)));
}

/* Whether something is set aside there; 55000 if it waits for somebody to decide. */
static bool
is_set_aside(const Handling *handling)
{
	static KeptPlan plan =
		{"SELECT p.state OPERATOR(pg_catalog.=) 'retrying', p.error_message"
		 " FROM event_store.parked_events p"
		 " WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
		 " AND p.global_position OPERATOR(pg_catalog.<=) $2"
		 " ORDER BY p.state OPERATOR(pg_catalog.=) 'retrying', p.global_position LIMIT 1",
		 2,
		 {TEXTOID, INT8OID}};
	Datum values[2] = {handling->name, Int64GetDatum(handling->up_to)};
	uint64 count;
	Datum error;
	bool isnull;

	PushActiveSnapshot(GetLatestSnapshot());
	count = es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	if (count == 0)
		return false;
	if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								   1, &isnull)))
		return true;
	error =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	refuse_to_wait(handling, "an event is parked", isnull ? 0 : error,
				   "It is in parked_events: call retry_parked_events() or discard_parked_events().");
	return true;
}

static int64 *
state_of_member(Handling *handling, int member)
{
	if (member >= handling->members)
	{
		int members = Max(member + 1, 2 * handling->members);
		int64 *waiting =
			MemoryContextAllocZero(handling->context, members * sizeof(int64));

		for (int i = 0; i < handling->members; i++)
			waiting[i] = handling->waiting[i];
		handling->waiting = waiting;
		handling->members = members;
	}
	return &handling->waiting[member];
}

/*
 * Whether a member has an event there that it has not passed; 55000 if it has
 * stopped.  What was found once is not read again in the same state.
 */
static bool
has_event(Handling *handling, const Subscription *subscription, int member)
{
	MemberState state = es_newest_member(handling->name, member);
	Progress progress = es_read_progress(es_progress_key(handling->hash, member));
	int64 *waiting = state_of_member(handling, member);
	/* with an upcaster gone there may be nothing to wait for, and nobody gets on */
	Stretch events = {.subscription = subscription,
					  .member = member,
					  .max_count = 1,
					  .exact = true};
	int64 served = state.position;

	if (progress.number == state.number)
		served = Max(served, progress.position);
	if (served >= handling->up_to)
		return false;
	if (*waiting != state.number)
	{
		es_read_stretches(&events, served, handling->up_to);
		if (events.count == 0)
			return false;
		*waiting = state.number;
	}
	if (state.stopped)
		refuse_to_wait(handling, "it has stopped", state.last_error,
					   "Call resume_subscription().");
	return true;
}

/*
 * An event goes from its member to what is set aside, and is looked for in this order, or
 * it is missed where it does so in between.  Members that a resize made meanwhile have not
 * been looked at.
 */
static bool
is_handled(Handling *handling)
{
	Subscription subscription;
	OwnerScope scope;
	bool waits = false;
	int members;

	es_begin_read(&scope);
	es_read_subscription(handling->name, &subscription);
	members = subscription.members;
	for (int m = 0; m < members && !waits; m++)
		waits = has_event(handling, &subscription, m);
	es_read_subscription(handling->name, &subscription);
	waits = waits || subscription.members != members;
	waits = (subscription.sets_aside && is_set_aside(handling)) || waits;
	if (waits && subscription.paused)
		refuse_to_wait(handling, "it is paused", (Datum) 0,
					   "Call resume_subscription().");
	es_end(&scope);
	return !waits;
}

/* Something that is looked at and leaves nothing behind. */
static void
look_in_passing(bool (*look)(void *arg), Handling *handling)
{
	ErrorData *error = es_in_subtransaction(look, handling);

	if (error != NULL)
		ReThrowError(error);
}

static bool
look_at_members(void *arg)
{
	Handling *handling = arg;

	handling->is_safe = es_feed_position() >= handling->up_to;
	handling->is_handled = handling->is_safe && is_handled(handling);
	return false;
}

static bool
look_whether_handled(FeedWait *wait)
{
	Handling *handling = wait->own;

	handling->freed = es_times_freed(es_my_database(), handling->hash);
	look_in_passing(look_at_members, handling);
	/* events are not waited for: all that matters is there */
	wait->count = 1;
	wait->filters[0] =
		(WaitFilter){.subscription = handling->hash, .after = PG_INT64_MAX};
	wait->hears = ES_HEARS_PROGRESS;
	wait->position = handling->is_safe ? PG_INT64_MAX : handling->up_to - 1;
	return handling->is_handled;
}

/* Whether somebody has handled something between the look and now. */
static bool
missed_progress(FeedWait *wait)
{
	const Handling *handling = wait->own;

	return handling->freed != es_times_freed(es_my_database(), handling->hash);
}

/* What this transaction has appended itself cannot be handled before it ends. */
static void
check_own_events(const Handling *handling)
{
	int64 own = es_own_position_in_flight();

	if (own == 0 || own > handling->up_to)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("wait_for_subscription() would wait for its own transaction"),
			 errdetail("The transaction has appended from position %lld on.",
					   (long long) own),
			 errhint("Commit first, and wait then.")));
}

/* One that is not there is told also where nothing is waited for. */
static bool
look_at_arguments(void *arg)
{
	Handling *handling = arg;
	Subscription subscription;
	OwnerScope scope;
	int64 safe;

	es_begin_read(&scope);
	es_read_subscription(handling->name, &subscription);
	es_end(&scope);
	safe = es_feed_position();
	if (handling->up_to < 0)
		handling->up_to = safe;
	es_check_position("up_to_position", handling->up_to, safe);
	return false;
}

Datum
es_wait_for_subscription(PG_FUNCTION_ARGS)
{
	Handling handling = {.context = CurrentMemoryContext};
	FeedWait wait = {.look = look_whether_handled,
					 .missed = missed_progress,
					 .own = &handling};
	int64 timeout = timeout_argument(fcinfo, 2);

	PreventCommandIfParallelMode("wait_for_subscription()");
	handling.name =
		PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	handling.hash = es_subscription_hash(handling.name);
	es_refuse_in_worker(es_feed_database());
	handling.up_to = es_number_argument(fcinfo, 1, "up_to_position", -1);
	look_in_passing(look_at_arguments, &handling);
	check_own_events(&handling);
	wait.subscriptions = &handling.hash;
	wait.subscription_count = 1;
	PG_RETURN_BOOL(es_wait_for_feed(&wait, timeout));
}
