/*
 * project.c
 *		Projections going on: one batch.
 *
 * A batch is the next events of one member, as next_events gives them, in one transaction
 * with what they do.  It is taken in by the kind of the projection in a
 * subtransaction, which is undone where that raises.  Then the first half of the
 * batch is tried alone, and so on, until the event that fails is found; what lies
 * before it stays, and the event is dealt with as by fail_events().
 *
 * Only what is an event's fault is found so.  A deadlock, a full disk or a lock
 * that somebody holds is no event's: nothing is counted, halved or set
 * aside, and the projection tries again after a pause.
 *
 * Batches are as large as what 50 to 100 ms suffice for, up to batch_size, and never
 * wait to become so: they grow with what has gathered.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/consume.h"
#include "consume/failing.h"
#include "consume/fetch.h"
#include "consume/handler.h"
#include "consume/handler_call.h"
#include "consume/inline_switch.h"
#include "consume/member.h"
#include "consume/pace.h"
#include "consume/project.h"
#include "consume/projection.h"
#include "consume/subscription.h"
#include "consume/view_projection.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/transaction.h"
#include "read/feed.h"
#include "write/cause.h"

/* A batch that takes less time is followed by a larger one; more, by a smaller. */
#define SHORT_MS 50
#define LONG_MS 100
/* So much memory holds the events of a batch; then they go to a file. */
#define BATCH_KB (8 * 1024)

PG_FUNCTION_INFO_V1(es_project_events);

static const ProjectionKind kinds[] = {{"handler", es_apply_handler},
									   {"view", es_apply_view}};

static const ProjectionKind *
kind_of(const Projection *projection)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		if (strcmp(kinds[i].name, projection->kind) == 0)
			return &kinds[i];
	}
	elog(ERROR, "unknown kind of projection: %s", projection->kind);
}

/* ---------- what is whose fault ---------- */

bool
es_is_failure(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	/* of our own: what another try may find otherwise */
	if (category == ERRCODE_TO_CATEGORY(ES_ERRCODE_APPEND_ONLY))
		return sqlerrcode != ES_ERRCODE_SEQUENCE_CONFLICT &&
			   sqlerrcode != ES_ERRCODE_LEASE_LOST &&
			   sqlerrcode != ES_ERRCODE_STAGING_FULL;
	return category == ERRCODE_DATA_EXCEPTION ||
		   category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
		   category == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
		   category == ERRCODE_PLPGSQL_ERROR;
}

/* ---------- the events ---------- */

/* A batch of events, and how far it has come. */
typedef struct Run
{
	const Projection *projection;
	EventRow *events;
	int count;
	int done;		  /* taken in */
	int size;		  /* how many the next call gets */
	bool ended;		  /* what is left of it is given again */
	bool met_overdue; /* it has come to the call that ended a process */
	bool foreground;
	Projected result;
} Run;

/* Takes the events out of a tuplestore, as they are to be handed on. */
static EventRow *
read_events(Tuplestorestate *store, TupleDesc desc, int count)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	EventRow *events = palloc_array(EventRow, Max(count, 1));

	for (int i = 0; i < count; i++)
	{
		HeapTuple tuple;

		if (!tuplestore_gettupleslot(store, true, true, slot))
			elog(ERROR, "a batch has fewer events than were found");
		tuple = ExecCopySlotHeapTuple(slot);
		heap_deform_tuple(tuple, desc, events[i].values, events[i].nulls);
	}
	ExecDropSingleTupleTableSlot(slot);
	return events;
}

/* ---------- calls ---------- */

/* Has the kind take in events; NULL, or what it raised, when all is undone. */
static ErrorData *
try_call(ProjectionBatch *batch)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		kind_of(batch->projection)->apply(batch);
		PopActiveSnapshot();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

static int64
position_of(const Run *run, int event)
{
	return DatumGetInt64(run->events[event].values[EV_GLOBAL_POSITION]);
}

/* What was the matter, as it is shown. */
static char *
describe(const ErrorData *error)
{
	char *text =
		psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);

	return error->hint == NULL ? text : psprintf("%s (%s)", text, error->hint);
}

/* The next event has failed, or the projection as a whole, before it. */
static void
fail_next(Run *run, const char *code, const char *error, FailureAction action)
{
	FailureCause cause = {.code = CStringGetTextDatum(code),
						  .message = CStringGetTextDatum(error)};

	(void) es_fail_given(run->projection->name, position_of(run, run->done),
						 &cause, action);
	run->ended = true;
}

/* Something that is none of the events' fault. */
static void
pause_or_raise(Run *run, ErrorData *error)
{
	if (run->done == 0 || run->foreground)
		ReThrowError(error);
	es_end_batch(run->projection->name, position_of(run, run->done));
	es_note_pause(run->projection->hash, describe(error));
	run->ended = true;
	run->result = ES_PROJECTED_PAUSES;
}

/* How many events the next call gets, after one that has raised with several. */
static int
smaller(const ProjectionBatch *batch)
{
	if (batch->exact)
		return Max(batch->done, 1);
	/* it reacts: each event has to be alone */
	return es_has_caused() ? 1 : batch->count / 2;
}

/* Whether what was raised is the fault of an event. */
static bool
is_failure(const ProjectionBatch *batch, const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return batch->overdue;
	return es_is_failure(error->sqlerrcode);
}

/* One call with the next events. */
static void
call(Run *run)
{
	ProjectionBatch batch = {.projection = run->projection,
							 .events = run->events + run->done,
							 .count = Min(run->size, run->count - run->done)};
	ErrorData *error = try_call(&batch);
	bool reacted = es_has_caused();

	if (error == NULL)
	{
		run->done += batch.done;
		if (batch.ends && run->done < run->count)
		{
			es_end_batch(run->projection->name, position_of(run, run->done));
			run->ended = true;
		}
	}
	else if (batch.broken)
		fail_next(run, unpack_sql_state(error->sqlerrcode), describe(error),
				  ES_FAIL_STOP);
	else if (!is_failure(&batch, error) && !(reacted && batch.count > 1))
		pause_or_raise(run, error);
	else if (batch.count > 1)
		run->size = smaller(&batch);
	else
		fail_next(run, unpack_sql_state(error->sqlerrcode), describe(error),
				  ES_FAIL_RETRY);
}

/*
 * A call that ended its process is not made again with so many events.  Those before its
 * first are taken in without it, or they would be undone with it each time.
 */
static void
heed_overdue(Run *run, const Pace *pace)
{
	int first = run->done;

	while (first < run->count && position_of(run, first) < pace->overdue_position)
		first++;
	if (first == run->count || position_of(run, first) != pace->overdue_position)
		return;
	if (first > run->done)
	{
		run->size = Min(run->size, first - run->done);
		return;
	}
	run->met_overdue = true;
	if (pace->overdue_count > 1)
		run->size = Min(run->size, pace->overdue_count / 2);
	else
		fail_next(run, "57014",
				  "57014: the handler did not end when it was cancelled",
				  ES_FAIL_RETRY);
}

/* The size of the next batch, after one that has taken so long. */
static int
next_size(const Run *run, int size, long took)
{
	if (run->size < size)
		return Max(run->size, 1);
	if (took < SHORT_MS && run->done >= size)
		return Min(size * 2, run->projection->batch_size);
	if (took > LONG_MS && run->done > 0)
		return Max((int) ((int64) run->done * LONG_MS / took), 1);
	return size;
}

static Projected
take_in(const Projection *projection, Tuplestorestate *store, int size,
		bool foreground, int64 *events)
{
	TimestampTz started = GetCurrentTimestamp();
	Pace pace = es_read_pace(projection->hash);
	int count = (int) tuplestore_tuple_count(store);
	Run run = {.projection = projection,
			   .events = read_events(store, es_event_desc(), count),
			   .count = count,
			   .size = size,
			   .foreground = foreground,
			   .result = ES_PROJECTED_EVENTS};

	es_begin_call(ES_CALL_PROJECT);
	while (run.done < run.count && !run.ended)
	{
		CHECK_FOR_INTERRUPTS();
		heed_overdue(&run, &pace);
		if (!run.ended)
			call(&run);
	}
	if (run.met_overdue)
		es_forget_overdue(projection->hash);
	if (run.result == ES_PROJECTED_EVENTS)
		es_note_batch(projection->hash,
					  next_size(&run, size,
								TimestampDifferenceMilliseconds(started,
																GetCurrentTimestamp())),
					  run.done);
	es_end_call(ES_CALL_PROJECT, run.done);
	*events += run.done;
	return run.result;
}

/* One batch. */
static Projected
project_batch(const Projection *projection, int max_events, bool foreground,
			  int64 *events)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, BATCH_KB);
	Pace pace = es_read_pace(projection->hash);
	int size = Min(pace.size, projection->batch_size);
	bool busy;
	Served served;
	Projected result = ES_PROJECTED_NOTHING;

	size = Min(size, max_events);
	served =
		es_serve_projection(projection->name, size, foreground, store, &busy);
	if (served == SERVED_EVENTS)
		result = take_in(projection, store, size, foreground, events);
	else if (served == SERVED_PASSED)
		result = ES_PROJECTED_PASSED;
	else if (busy)
		result = ES_PROJECTED_BUSY;
	/* what kept it from going on was none of what there is now */
	if (!busy && served != SERVED_EVENTS && pace.failures > 0)
		es_note_batch(projection->hash, pace.size, 0);
	tuplestore_end(store);
	return result;
}

/* A member that has come to the end, and has nothing set aside. */
static bool
is_at_the_end(const Projection *projection, const Subscription *subscription)
{
	FeedState feed;
	OwnerScope scope;
	MemberState state;

	/* no append is open: what was given and rolled back is nobody's any more */
	es_read_feed_state(es_feed_database(), &feed);
	es_begin_read(&scope);
	state = es_newest_member(projection->name, 0);
	es_end(&scope);
	return !feed.behind && !state.stopped && !subscription->sets_aside &&
		   es_member_passed(projection->hash, 0, &state) >= feed.last;
}

/*
 * A view that has caught up becomes inline: takes in what is left while no append is
 * open.  Returns what keeps it from that; NULL = nothing, or it is paused.
 */
static const char *
become_inline(const Projection *projection, bool foreground, int64 *events)
{
	MemoryContext context = CurrentMemoryContext;
	Subscription subscription;
	OwnerScope scope;

	es_begin(&scope);
	MemoryContextSwitchTo(context);
	es_read_subscription(projection->name, &subscription);
	es_look_set_aside(&subscription);
	es_end(&scope);
	if (subscription.paused)
		return NULL;
	if (!es_try_hold_appends())
		return "appends are open, which the view waits for to become inline";
	while (project_batch(projection, PG_INT32_MAX, foreground, events) ==
		   ES_PROJECTED_EVENTS)
		CHECK_FOR_INTERRUPTS();
	if (!is_at_the_end(projection, &subscription))
		return "events are left, which the view waits for to become inline";
	es_begin_inline(projection->name);
	return NULL;
}

Projected
es_project(const Projection *projection, int max_events, bool foreground,
		   int64 *events)
{
	Projected result = project_batch(projection, max_events, foreground, events);
	const char *hindrance;

	if (result != ES_PROJECTED_NOTHING ||
		strcmp(projection->mode, ES_MODE_CATCHING_UP) != 0)
		return result;
	hindrance = become_inline(projection, foreground, events);
	if (hindrance != NULL && !foreground)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("%s", hindrance)));
	return result;
}

/* ---------- SQL ---------- */

/*
 * In the foreground: all that there is to do now, or so many events.  Its transaction
 * is the caller's, so what is no event's fault ends that.
 */
Datum
es_project_events(PG_FUNCTION_ARGS)
{
	Datum name = PointerGetDatum(es_required_text(fcinfo, 0, "projection_name"));
	int64 max_events = es_limit_argument(fcinfo, 1, "max_events");
	MemoryContext per_batch =
		AllocSetContextCreate(CurrentMemoryContext, "event_store projected batch",
							  ALLOCSET_DEFAULT_SIZES);
	int64 events = 0;
	Projected result;

	es_begin_consuming("project()");
	(void) es_feed_database();
	if (es_is_in_handler())
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("a handler cannot call project()")));
	es_note_write();
	do
	{
		MemoryContext caller = MemoryContextSwitchTo(per_batch);
		Projection projection;

		CHECK_FOR_INTERRUPTS();
		es_read_projection(name, &projection);
		result = es_project(&projection,
							(int) Min(max_events - events, PG_INT32_MAX), true,
							&events);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(per_batch);
	} while (result != ES_PROJECTED_NOTHING && events < max_events);
	PG_RETURN_INT64(events);
}
