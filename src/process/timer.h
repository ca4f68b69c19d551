/*
 * timer.h
 *		What the store's own projector does by the clock.
 */
#ifndef ES_TIMER_H
#define ES_TIMER_H

#include "datatype/timestamp.h"

#include "ground/shmem.h"
#include "ground/timer_slot.h"

/*
 * One timer.  Both functions run in a transaction of their own, as the owner of the
 * store, and return when there is something to do next: DT_NOEND = when somebody notes it
 * (es_note_timer); a time that is past = at once.
 */
typedef struct TimerJob
{
	const char *activity; /* in pg_stat_activity and the log */
	/* Only looks. */
	TimestampTz (*find)(void);
	/*
	 * Does a part of what is due, bounded in time and memory.  "noted" is the earliest
	 * time that was noted since the last step, or that step's own result;
	 * ES_TIMER_UNKNOWN = anything may have happened.  What it remembers of the tables
	 * it forgets then: also after a step that failed.
	 */
	TimestampTz (*run)(TimestampTz noted);
} TimerJob;

extern const TimerJob es_timer_jobs[ES_TIMERS];

/*
 * Finds out what is not known, and returns when the first timer has something to do.
 * In a transaction of the worker.
 */
extern TimestampTz es_find_timers(SharedDatabase *db);
/* When the first one has; known or not. */
extern TimestampTz es_first_timer(const SharedDatabase *db);
/* The next one after "last" that has something to do now; -1 = none. */
extern int es_next_due_timer(SharedDatabase *db, int last);
/* One step of it, in this transaction, as the owner. */
extern void es_run_timer(SharedDatabase *db, Timer timer);
/* Its transaction has ended, by a commit or not. */
extern void es_end_timer(bool succeeded);
/* A step has failed: it is tried again after a pause, which grows with failures. */
extern void es_note_timer_failure(SharedDatabase *db, Timer timer);
/* Whether the log shall tell of it: the first, the second, the fourth, ... */
extern bool es_timer_failure_is_worth_logging(Timer timer);
/* From here on the end of this process makes what it was at not known. */
extern void es_enter_timers(SharedDatabase *db);

#endif /* ES_TIMER_H */
