/*
 * timer_slot.c
 *		When the timers of a database have something to do, in shared memory.
 *
 * Who makes work for a timer writes it to a table and notes when it is due.  Once that
 * can be seen by others, the time is lowered here, and if it is the earliest the process
 * is woken, or started where there is none.  So a transaction that makes work for later
 * than what waits already costs a look at one number.
 *
 * The process takes the time before it looks at the tables, and puts back what it has
 * found.  What a crash, a restart or a promotion has forgotten is not known, and found out
 * by the worker that comes then.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"

#include "ground/projector_slot.h"
#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "ground/transaction.h"

typedef struct TimerShare
{
	pg_atomic_uint64 due[ES_TIMERS]; /* TimestampTz */
} TimerShare;

static void
initialise_timers(void *memory)
{
	for (int i = 0; i < ES_TIMERS; i++)
		pg_atomic_init_u64(&((TimerShare *) memory)->due[i],
						   (uint64) ES_TIMER_UNKNOWN);
}

static void clear_timers(SharedDatabase *db);

static DatabasePart part = {sizeof(TimerShare), initialise_timers, clear_timers};

static pg_atomic_uint64 *
due_of(const SharedDatabase *db, Timer timer)
{
	return &((TimerShare *) es_part(db, &part))->due[timer];
}

static void
clear_timers(SharedDatabase *db)
{
	for (int i = 0; i < ES_TIMERS; i++)
		pg_atomic_write_u64(due_of(db, i), (uint64) ES_TIMER_UNKNOWN);
}

void
es_share_timers(void)
{
	es_share_by_database(&part);
}

TimestampTz
es_timer_due(const SharedDatabase *db, Timer timer)
{
	return (TimestampTz) pg_atomic_read_u64(due_of(db, timer));
}

TimestampTz
es_take_timer(SharedDatabase *db, Timer timer)
{
	return (TimestampTz) pg_atomic_exchange_u64(due_of(db, timer),
												(uint64) DT_NOEND);
}

/* Whether somebody has to look: it is earlier than what was known, or nothing was. */
static bool
lower(SharedDatabase *db, Timer timer, TimestampTz due)
{
	uint64 known = pg_atomic_read_u64(due_of(db, timer));

	while (due < (TimestampTz) known)
	{
		if (pg_atomic_compare_exchange_u64(due_of(db, timer), &known, (uint64) due))
			return true;
	}
	return known == (uint64) ES_TIMER_UNKNOWN;
}

void
es_lower_timer(SharedDatabase *db, Timer timer, TimestampTz due)
{
	(void) lower(db, timer, due);
}

/* Called from a commit callback, too: nothing here raises. */
void
es_set_timer(SharedDatabase *db, Timer timer, TimestampTz due)
{
	if (lower(db, timer, due))
		es_call_projector(db, InvalidOid);
}

/* The earliest of this transaction; a subtransaction that is undone only wakes in vain. */
static TimestampTz noted[ES_TIMERS];
static bool any_noted = false;

static void
end_timers(SharedDatabase *db, bool committed)
{
	for (int i = 0; any_noted && committed && db != NULL && i < ES_TIMERS; i++)
	{
		if (noted[i] != DT_NOEND)
			es_set_timer(db, i, noted[i]);
	}
	any_noted = false;
}

void
es_note_timer(Timer timer, TimestampTz due)
{
	es_at_end(ES_END_TIMERS, end_timers, NULL);
	for (int i = 0; !any_noted && i < ES_TIMERS; i++)
		noted[i] = DT_NOEND;
	any_noted = true;
	noted[timer] = Min(noted[timer], due);
}
