/*
 * projector.c
 *		The projector: a process that takes events into projections.
 *
 * The handler of a projection is code of its owner.  So it runs in a process that has
 * connected as that role and has no other's rights to lose, and that nobody waits for:
 * whatever it does, the worker drains, and other roles' projections
 * go on in processes of their own.  A call of a handler leaves nothing to the session
 * (handler_call.c) but what sequences gave last, which is forgotten before another projection has
 * its turn.  DISCARD ALL would have all plans made anew at each turn.
 *
 * The worker starts a projector when a projection of a role without one has something to do
 * (es_start_projectors, one of its jobs).  The projector gives the projections of its
 * role turns, one batch each, who has waited longest first.  When none has anything
 * to do it sleeps on its latch until the next transaction with events, or until a
 * pause is over, and leaves after a minute, or at once where others wait for a process.  When another role waits for its place
 * it leaves as soon as each of its own has had a turn.
 *
 * The projector of the store itself, which takes in views and runs no user's code, does what
 * is to be done by the clock as well: a step of each timer that is due (timer.c) before each
 * batch.  It stays as long as a timer waits, and asks no table meanwhile.
 *
 * A turn of a projection is one transaction.  What an error in it means project.c says; one
 * that is no event's fault ends up here, and the projection pauses.  The steps of sagas that
 * handlers of the role do (handled_step.c) have turns beside its projections, as if they
 * were one of them: some steps, each in two transactions.
 *
 * SIGTERM ends it: the batch is rolled back, and its exit callback has the worker start
 * the next one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/due_projection.h"
#include "consume/handler.h"
#include "consume/handler_call.h"
#include "consume/pace.h"
#include "consume/project.h"
#include "consume/projection.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/database_process.h"
#include "ground/projector_slot.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "process/process.h"
#include "process/projector.h"
#include "process/timer.h"
#include "saga/handled_step.h"
#include "saga/step_handler.h"

/* One with nothing to do leaves after so long. */
#define IDLE_EXIT_MS 60000
/* The clock may be set while it sleeps: it is looked at as often. */
#define CLOCK_CHECK_MS 60000L
/* A projection that somebody else is at is looked at again after so long. */
#define BUSY_PAUSE_MS 50
/* A turn of steps goes on until it has taken so long. */
#define STEPS_TURN_MS 100
/* Where somebody has locked a table, what it says is looked at again after this, ... */
#define LOCKED_PAUSE_MS 1000
/* ... and transactions that others wait behind give up after that. */
#define LOCK_TIMEOUT "1s"
/* One of which something set aside is due, but not yet to be had, after this. */
#define ASIDE_PAUSE_MS 1000

PGDLLEXPORT void es_projector_main(Datum arg);

/* What the process is told when it starts. */
typedef struct Order
{
	Oid database;
	Oid role;
	int place;
} Order;

StaticAssertDecl(sizeof(Order) <= BGW_EXTRALEN, "an order fits into its place");

/* ---------- starting ---------- */

static void
start_process(SharedDatabase *db, Oid role, int place)
{
	BackgroundWorker worker;
	Order order = {.database = db->database, .role = role, .place = place};

	es_describe_process(&worker, db, db->database, "projector");
	snprintf(worker.bgw_name, BGW_MAXLEN,
			 "event_store projector of database %u, role %u", db->database, role);
	memcpy(worker.bgw_extra, &order, sizeof(order));
	if (RegisterDynamicBackgroundWorker(&worker, NULL))
		return;
	es_give_back_projector_place(db, place);
	(void) es_ask_resting_projector();
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not start an event_store projector"),
			 errdetail("All processes for it are taken; it is tried again."),
			 errhint("You might need to increase %s.", "max_worker_processes")));
}

static int
compare_turns(const void *a, const void *b)
{
	TimestampTz x = ((const DueWork *) a)->turn_at;
	TimestampTz y = ((const DueWork *) b)->turn_at;

	return x < y ? -1 : x > y ? 1 : 0;
}

/* The first of a role that nobody is there for; it takes a place if one is free. */
static void
start_one(SharedDatabase *db, const DueWork *projection)
{
	int place;

	if (projection->role_is_gone || (OidIsValid(projection->role) &&
									 !es_may_run_projector(projection->role)))
	{
		es_note_pause(projection->hash,
					  "the role that the handler runs as is gone, lacks LOGIN or CONNECT, or is a superuser and the owner of the store is none");
		es_want_projectors(db);
		return;
	}
	place = es_take_projector_place(db, projection->role, es_projectors);
	if (place >= 0)
		start_process(db, projection->role, place);
}

/*
 * Lists them, and has the next transaction with events say so if one waits for events.  Who
 * has locked the table of steps holds up no projection: it is looked at "again" then.
 */
static DueWork *
list_and_watch(SharedDatabase *db, int *count, TimestampTz *again)
{
	DueWork *list;
	bool waits = false;

	DueWork *steps;
	int more;

	*again = DT_NOEND;
	es_watch_events(db, true);
	list = es_list_due_projections(count);
	for (int i = 0; i < *count; i++)
		waits = waits || list[i].waits;
	if (!waits)
		es_watch_events(db, false);
	if (!es_try_lock_steps())
	{
		*again =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_PAUSE_MS);
		return list;
	}
	steps = es_list_due_steps(&more);
	if (more == 0)
		return list;
	list = repalloc(list, (*count + more) * sizeof(DueWork));
	memcpy(list + *count, steps, more * sizeof(DueWork));
	*count += more;
	return list;
}

/*
 * The store's own projector is there as long as a timer waits, also for a time that
 * is far: then it sleeps, and the worker need not.
 */
static void
start_for_timers(SharedDatabase *db, TimestampTz not_before, TimestampTz *next)
{
	int place;

	if (es_projector_present(db, InvalidOid) || es_find_timers(db) == DT_NOEND)
		return;
	if (not_before > GetCurrentTimestamp())
	{
		*next = Min(*next, not_before);
		return;
	}
	place = es_take_projector_place(db, InvalidOid, es_projectors);
	if (place >= 0)
		start_process(db, InvalidOid, place);
}

TimestampTz
es_start_projectors(SharedDatabase *db)
{
	TimestampTz not_before = es_projector_start_at(db);
	TimestampTz next;
	TimestampTz now;
	int count;
	DueWork *list = list_and_watch(db, &count, &next);

	qsort(list, count, sizeof(DueWork), compare_turns);
	now = GetCurrentTimestamp();
	for (int i = 0; i < count; i++)
	{
		TimestampTz due = Max(list[i].due, not_before);

		if (list[i].due == DT_NOEND || es_projector_present(db, list[i].role) ||
			(OidIsValid(list[i].role) && es_projectors == 0))
			continue;
		if (due <= now)
			start_one(db, &list[i]);
		else
			next = Min(next, due);
	}
	/* the last, since it raises where somebody has locked a table of theirs */
	start_for_timers(db, not_before, &next);
	return next;
}

/* ---------- the process ---------- */

typedef struct Projector
{
	SharedDatabase *db;
	Oid role;
	int place;
	TimestampTz started_at;
	TimestampTz worked_at; /* when it last had something to do */
	uint64 last;		   /* the projection that had the last turn */

	/* what was found by the last look, in "found" */
	MemoryContext found;
	DueWork *list;
	int count;
	TimestampTz again; /* when what could not be looked at is */
	bool store_gone;

	bool to_look; /* something may have happened since, whoever calls */

	/* a turn */
	DueWork *next;
	Projected result;
	MemoryContext of_step; /* a step outlives the transaction that claims it */
	StepWork work;
	StepTaken taken;
	bool in_step; /* it is being run */

	/* the timers, of the store's own */
	int timer;		/* that had the last step */
	bool in_timer;	/* it is having one */
	bool ran_timer; /* since it came up */
} Projector;

/* Whether the log shall tell of a failure: the first, the second, the fourth, ... */
static bool
is_worth_logging(uint64 projection)
{
	int failures = es_read_pace(projection).failures + 1;

	return (failures & (failures - 1)) == 0;
}

static void
note_failure(Projector *p, MemoryContext context)
{
	ErrorData *error;
	uint64 projection = p->next == NULL ? 0 : p->next->hash;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (p->in_timer ? es_timer_failure_is_worth_logging(p->timer)
					: is_worth_logging(projection))
		EmitErrorReport();
	AbortCurrentTransaction();
	FlushErrorState();
	if (p->in_timer)
		es_note_timer_failure(p->db, p->timer);
	else
		es_note_pause(projection,
					  psprintf("%s: %s", unpack_sql_state(error->sqlerrcode),
							   error->message));
	if (p->in_step)
		es_note_step_error(&p->work, error);
	FreeErrorData(error);
	RESUME_INTERRUPTS();
}

/*
 * From here to the end of the transaction locks of rows and tables are not waited for longer: who
 * holds one must not stop all that the process has to do.  Each of these is tried again.
 */
static void
bound_waits(void)
{
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* Runs something in a transaction of its own; false if that failed. */
static bool
in_transaction(Projector *p, void (*run)(Projector *p), const char *activity)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool succeeded = false;

	es_begin_busy(false);
	debug_query_string = activity;
	pgstat_report_activity(STATE_RUNNING, activity);
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		p->store_gone = es_lock_store() == NULL || es_my_database() == NULL;
		if (!p->store_gone)
			run(p);
		AfterTriggerFireDeferred();
		PopActiveSnapshot();
		CommitTransactionCommand();
		succeeded = true;
	}
	PG_CATCH();
	{
		note_failure(p, context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	LockReleaseSession(USER_LOCKMETHOD);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	debug_query_string = NULL;
	es_end_busy();
	return succeeded;
}

static void
look(Projector *p)
{
	MemoryContext caller = MemoryContextSwitchTo(p->found);

	p->list = list_and_watch(p->db, &p->count, &p->again);
	MemoryContextSwitchTo(caller);
}

static void
take_turn(Projector *p)
{
	Projection projection;
	int64 events = 0;

	p->result = ES_PROJECTED_NOTHING;
	es_note_projection_turn(p->next->hash);
	if (!OidIsValid(p->role))
		es_become_owner();
	if (es_find_projection(p->next->name, &projection))
		p->result = es_project(&projection, PG_INT32_MAX, false, &events);
}

static void
claim_step(Projector *p)
{
	bound_waits();
	es_note_projection_turn(p->next->hash);
	p->taken = es_take_handled_step(p->next->name, p->of_step, &p->work);
}

static void
run_step(Projector *p)
{
	/* a call of the handler has a bound of its own */
	bound_waits();
	es_run_handled_step(&p->work);
}

/* Without a bound: what is not put back has lost its attempt. */
static void
put_back_step(Projector *p)
{
	es_put_back_step(&p->work);
}

/* Some steps of sagas, one after the other; each was claimed for good before it is run. */
static void
take_turn_of_steps(Projector *p)
{
	TimestampTz until =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), STEPS_TURN_MS);

	do
	{
		bool done;

		MemoryContextReset(p->of_step);
		p->taken = STEP_NOT_FOUND;
		if (!in_transaction(p, claim_step, "claim a step"))
			return;
		if (p->taken == STEP_HELD)
			es_rest_projection(p->next->hash, BUSY_PAUSE_MS);
		p->in_step = p->taken == STEP_TAKEN;
		done = !p->in_step || in_transaction(p, run_step, "run a step");
		p->in_step = false;
		if (!done)
		{
			(void) in_transaction(p, put_back_step, "put a step back");
			return;
		}
		if (p->store_gone)
			proc_exit(0);
		(void) es_heed_signals();
	} while ((p->taken == STEP_TAKEN || p->taken == STEP_PUT_OFF) &&
			 GetCurrentTimestamp() < until && !es_asked_to_leave());
	if (p->taken != STEP_HELD)
		es_note_batch(p->next->hash, 1, 0);
}

/* A batch of a projection. */
static void
take_turn_of_projection(Projector *p)
{
	if (in_transaction(p, take_turn, "project") && p->result == ES_PROJECTED_BUSY)
		es_rest_projection(p->next->hash, BUSY_PAUSE_MS);
	else if (p->result == ES_PROJECTED_NOTHING && !p->next->by_log)
		es_rest_projection(p->next->hash, ASIDE_PAUSE_MS);
}

static void
step_timer(Projector *p)
{
	bound_waits();
	es_run_timer(p->db, p->timer);
}

/* A step of a timer that is due, if this is the store's own. */
static void
run_due_timer(Projector *p)
{
	int timer = OidIsValid(p->role) ? -1 : es_next_due_timer(p->db, p->timer);
	bool succeeded;

	if (timer < 0)
		return;
	p->worked_at = GetCurrentTimestamp();
	p->timer = timer;
	p->in_timer = p->ran_timer = true;
	succeeded = in_transaction(p, step_timer, es_timer_jobs[timer].activity);
	p->in_timer = false;
	es_end_timer(succeeded);
	if (p->store_gone)
		proc_exit(0);
}

/* The one of this role that is due and has waited longest; NULL = none. */
static DueWork *
choose(const Projector *p, bool asked_to_go)
{
	TimestampTz now = GetCurrentTimestamp();
	DueWork *next = NULL;

	for (int i = 0; i < p->count; i++)
	{
		DueWork *one = &p->list[i];

		if (one->role != p->role || one->role_is_gone || one->due > now)
			continue;
		/* who is asked to go gives nobody a second turn */
		if (asked_to_go && one->turn_at >= p->started_at)
			continue;
		if (next == NULL || one->turn_at < next->turn_at)
			next = one;
	}
	return next;
}

/* Has the worker see to other roles that have something to do, and no process. */
static void
see_to_others(const Projector *p)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < p->count; i++)
	{
		const DueWork *one = &p->list[i];

		if (one->role == p->role || one->due > now ||
			es_projector_present(p->db, one->role))
			continue;
		es_want_worker_to_start(p->db);
		return;
	}
}

/* When something of this role is due next; DT_NOEND = not by the clock. */
static TimestampTz
next_due(const Projector *p)
{
	TimestampTz first = p->again;

	for (int i = 0; i < p->count; i++)
	{
		if (p->list[i].role == p->role && !p->list[i].role_is_gone)
			first = Min(first, p->list[i].due);
	}
	return first;
}

/*
 * Nothing is due: sleeps, or leaves.  It looks at the clock now and then, which may be
 * set; the tables it asks only when it was called, or a projection is due.
 */
static void
rest(Projector *p, uint32 wait_event)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz leave_at =
		TimestampTzPlusMilliseconds(p->worked_at, IDLE_EXIT_MS);
	TimestampTz due = next_due(p);
	TimestampTz timer = OidIsValid(p->role) ? DT_NOEND : es_first_timer(p->db);
	bool useless = p->count == 0 && !p->ran_timer;
	bool far = due > TimestampTzPlusMilliseconds(now, IDLE_EXIT_MS);

	if (timer == DT_NOEND && es_rest_projector(p->db, p->place))
		leave_at = now;
	/* what is due much later the worker waits for */
	if (timer == DT_NOEND && far && due != DT_NOEND && leave_at <= now)
		proc_exit(0);
	if (timer == DT_NOEND && (useless || (leave_at <= now && far)) &&
		es_retire_projector(p->db, p->place))
		proc_exit(0);
	if (leave_at > now)
		due = Min(due, leave_at);
	due = Min(due, timer);
	es_sleep_on_latch(due == DT_NOEND
						  ? CLOCK_CHECK_MS
						  : Min(TimestampDifferenceMilliseconds(now, due),
								CLOCK_CHECK_MS),
					  wait_event);
	p->to_look = es_projector_called(p->db, p->place) ||
				 next_due(p) <= GetCurrentTimestamp();
}

/* Looks which projections are due; returns whether another role waits for the place. */
static bool
look_anew(Projector *p)
{
	bool asked_to_go = es_begin_looking(p->db, p->place);

	MemoryContextReset(p->found);
	p->count = 0;
	if (!in_transaction(p, look, "look for events") || p->store_gone)
		proc_exit(p->store_gone ? 0 : 1);
	see_to_others(p);
	return asked_to_go;
}

/* One turn: of a timer and a projection that are due, or a rest. */
static void
go_on(Projector *p, uint32 wait_event)
{
	bool asked_to_go = false;

	(void) es_heed_signals();
	if (es_asked_to_leave() || (OidIsValid(p->role) && p->place > es_projectors))
		proc_exit(0);
	p->next = NULL;
	run_due_timer(p);
	if (p->to_look)
		asked_to_go = look_anew(p);
	p->next = choose(p, asked_to_go);
	if (p->next == NULL && asked_to_go)
		proc_exit(0);
	p->to_look = p->next != NULL || OidIsValid(p->role);
	if (p->next == NULL)
	{
		rest(p, wait_event);
		return;
	}
	p->worked_at = GetCurrentTimestamp();
	if (p->last != p->next->hash)
		ResetSequenceCaches();
	p->last = p->next->hash;
	if (p->next->steps)
		take_turn_of_steps(p);
	else
		take_turn_of_projection(p);
}

/* A database's or role's settings must not change how it works. */
static void
pin_settings(void)
{
	static const char *const pinned[][2] =
		{{"default_transaction_isolation", "read committed"},
		 {"default_transaction_read_only", "off"},
		 {"default_transaction_deferrable", "off"},
		 {"statement_timeout", "0"},
		 {"idle_in_transaction_session_timeout", "0"},
		 {"transaction_timeout", "0"}};

	for (int i = 0; i < (int) lengthof(pinned); i++)
	{
		/* not every version has all of them */
		if (GetConfigOption(pinned[i][0], true, false) != NULL)
			SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}
}

void
es_projector_main(Datum arg)
{
	Projector projector = {.db = es_database_numbered(DatumGetInt32(arg))};
	Order order;
	uint32 wait_event;

	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	projector.role = order.role;
	projector.place = order.place;
	es_enter_process(NULL);
	if (!es_enter_projector_place(projector.db, order.database, order.place,
								  order.role))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(order.database, order.role, 0);
	es_note_projector_arrived();
	es_end_busy();
	pin_settings();
	es_let_handlers_end_process();
	pgstat_report_appname("event_store projector");
	wait_event = WaitEventExtensionNew("EventStoreProjectorMain");
	MemoryContextSwitchTo(TopMemoryContext);
	projector.found =
		AllocSetContextCreate(TopMemoryContext, "event_store due projections",
							  ALLOCSET_DEFAULT_SIZES);
	projector.of_step =
		AllocSetContextCreate(TopMemoryContext, "event_store handled step",
							  ALLOCSET_DEFAULT_SIZES);
	projector.started_at = projector.worked_at = GetCurrentTimestamp();
	projector.to_look = true;
	projector.timer = ES_TIMERS - 1;
	if (!OidIsValid(order.role))
		es_enter_timers(projector.db);
	for (;;)
		go_on(&projector, wait_event);
}
