/*
 * timer_slot.h
 *		When the timers of a database have something to do, in shared memory.
 */
#ifndef ES_TIMER_SLOT_H
#define ES_TIMER_SLOT_H

#include "datatype/timestamp.h"

#include "ground/shmem.h"

/* What is done by the clock; timer.c says how. */
typedef enum Timer
{
	ES_TIMER_DEADLINES,
	ES_TIMER_SAGAS,
	ES_TIMER_RETENTION,
	ES_TIMERS
} Timer;

/* Nobody knows: the tables have to be asked. */
#define ES_TIMER_UNKNOWN DT_NOBEGIN

extern void es_share_timers(void);

/*
 * A timer has something to do from a time on, if this transaction commits; or
 * at once.
 */
extern void es_note_timer(Timer timer, TimestampTz due);
extern void es_set_timer(SharedDatabase *db, Timer timer, TimestampTz due);
/* The same without waking anybody. */
extern void es_lower_timer(SharedDatabase *db, Timer timer, TimestampTz due);
/* When it has something to do; DT_NOEND = never. */
extern TimestampTz es_timer_due(const SharedDatabase *db, Timer timer);
/*
 * The same, and takes it, before the tables are looked at: what is noted from now on
 * is found there, or noted after it.
 */
extern TimestampTz es_take_timer(SharedDatabase *db, Timer timer);

#endif /* ES_TIMER_SLOT_H */
