/*
 * timer.c
 *		What the store's own projector does by the clock: the table of timers.
 *
 * A timer is a row here: how to find out when it has something to do, and how to do a part
 * of it.  When that is stands in shared memory (timer_slot.c), so a process
 * that waits for the time asks no table.  The process gives each timer that is due a
 * step in turn, and the views a batch in between.
 *
 * The time of a timer is taken before its step, and what the step finds is put back.  A
 * step that fails, or a process that ends in one, leaves it unknown.  A step has succeeded
 * when its transaction has committed.
 *
 * Triggers that others have deferred run with each statement of a step: what they refuse is
 * then one event's or one saga's, and not the whole step's, again and again.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "consume/deadline.h"
#include "ground/catalog.h"
#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "keep/retention.h"
#include "process/timer.h"
#include "saga/saga_timer.h"

/* A clock that goes back by more was set back. */
#define CLOCK_STEP_MS 1000
/* The first and the longest pause after a failure. */
#define FIRST_PAUSE_MS 100
#define LONGEST_PAUSE_MS 10000

const TimerJob es_timer_jobs[] = {[ES_TIMER_DEADLINES] = {"append due events",
														  es_find_deadline,
														  es_append_deadlines},
								  [ES_TIMER_SAGAS] = {"fire saga timers",
													  es_find_saga_timer,
													  es_run_saga_timers},
								  [ES_TIMER_RETENTION] = {"archive what is old",
														  es_find_retention,
														  es_run_retention}};

StaticAssertDecl(lengthof(es_timer_jobs) == ES_TIMERS,
				 "what each timer does is in the table");

/* What this process knows of each. */
static int failures[ES_TIMERS];
static TimestampTz not_before[ES_TIMERS];
static int running = -1;

TimestampTz
es_first_timer(const SharedDatabase *db)
{
	TimestampTz first = DT_NOEND;

	for (int i = 0; i < ES_TIMERS; i++)
	{
		TimestampTz due = es_timer_due(db, i);

		if (due != DT_NOEND)
			first = Min(first, Max(due, not_before[i]));
	}
	return first;
}

/* Asks the tables of one. */
static void
find(SharedDatabase *db, Timer timer)
{
	(void) es_take_timer(db, timer);
	PG_TRY();
	{
		es_lower_timer(db, timer, es_timer_jobs[timer].find());
	}
	PG_CATCH();
	{
		es_lower_timer(db, timer, ES_TIMER_UNKNOWN);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

TimestampTz
es_find_timers(SharedDatabase *db)
{
	for (int i = 0; i < ES_TIMERS; i++)
	{
		if (es_timer_due(db, i) == ES_TIMER_UNKNOWN)
			find(db, i);
	}
	return es_first_timer(db);
}

/*
 * Where the clock was set back, the times that it told before mean nothing, such as when
 * something that was passed over is looked at again: the tables are asked.
 */
static void
heed_clock(SharedDatabase *db, TimestampTz now)
{
	static TimestampTz seen = 0;

	if (now < TimestampTzPlusMilliseconds(seen, -CLOCK_STEP_MS))
	{
		for (int i = 0; i < ES_TIMERS; i++)
		{
			es_lower_timer(db, i, ES_TIMER_UNKNOWN);
			not_before[i] = 0;
		}
	}
	seen = now;
}

int
es_next_due_timer(SharedDatabase *db, int last)
{
	TimestampTz now = GetCurrentTimestamp();

	heed_clock(db, now);

	for (int i = 1; i <= ES_TIMERS; i++)
	{
		int timer = (last + i) % ES_TIMERS;

		if (es_timer_due(db, timer) <= now && not_before[timer] <= now)
			return timer;
	}
	return -1;
}

void
es_run_timer(SharedDatabase *db, Timer timer)
{
	TimestampTz next;

	running = timer;
	es_become_owner();
	AfterTriggerSetState(makeNode(ConstraintsSetStmt));
	next = es_timer_jobs[timer].run(es_take_timer(db, timer));
	es_lower_timer(db, timer, next);
}

bool
es_timer_failure_is_worth_logging(Timer timer)
{
	int count = failures[timer] + 1;

	return (count & (count - 1)) == 0;
}

void
es_note_timer_failure(SharedDatabase *db, Timer timer)
{
	double pause = FIRST_PAUSE_MS;

	for (int i = 0; i < failures[timer] && pause < LONGEST_PAUSE_MS; i++)
		pause *= 2;
	failures[timer]++;
	not_before[timer] =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									(int64) Min(pause, LONGEST_PAUSE_MS));
	es_lower_timer(db, timer, ES_TIMER_UNKNOWN);
}

static void
leave_timers(int code, Datum db)
{
	if (running >= 0)
		es_lower_timer((SharedDatabase *) DatumGetPointer(db), running,
					   ES_TIMER_UNKNOWN);
}

void
es_end_timer(bool succeeded)
{
	if (succeeded && running >= 0)
		failures[running] = 0;
	running = -1;
}

void
es_enter_timers(SharedDatabase *db)
{
	before_shmem_exit(leave_timers, PointerGetDatum(db));
}
