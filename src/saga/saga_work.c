/*
 * saga_work.c
 *		What sagas have to do, in shared memory: executors that wait for a step, and the
 *		time of the next timer.
 *
 * Both are told at commit, when what was written can be seen.  That time is a hint,
 * never too late: a server that has just started looks at once.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "utils/timestamp.h"

#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"
#include "saga/saga_work.h"

typedef struct SagaShare
{
	ConditionVariable requests;
	pg_atomic_uint64 timer_at;
} SagaShare;

/* Of this transaction. */
static bool claimable_noted = false;
static TimestampTz due_noted = DT_NOEND;

static void
initialise(void *memory)
{
	SagaShare *share = memory;

	ConditionVariableInit(&share->requests);
	pg_atomic_init_u64(&share->timer_at, 0);
}

static DatabasePart part;

static SagaShare *
share_of(const SharedDatabase *db)
{
	return es_part(db, &part);
}

static void
clear(SharedDatabase *db)
{
	pg_atomic_write_u64(&share_of(db)->timer_at, 0);
}

static DatabasePart part = {sizeof(SagaShare), initialise, clear};

void
es_share_saga_work(void)
{
	es_share_by_database(&part);
}

ConditionVariable *
es_saga_requests(SharedDatabase *db)
{
	return &share_of(db)->requests;
}

TimestampTz
es_saga_timer_at(SharedDatabase *db)
{
	return (TimestampTz) pg_atomic_read_u64(&share_of(db)->timer_at);
}

void
es_forget_saga_timers(SharedDatabase *db)
{
	(void) pg_atomic_exchange_u64(&share_of(db)->timer_at, (uint64) DT_NOEND);
}

void
es_note_saga_timer(SharedDatabase *db, TimestampTz due_at)
{
	pg_atomic_uint64 *timer_at = &share_of(db)->timer_at;
	uint64 known = pg_atomic_read_u64(timer_at);

	while (due_at < (TimestampTz) known)
	{
		if (pg_atomic_compare_exchange_u64(timer_at, &known, (uint64) due_at))
		{
			es_nudge_worker(db);
			return;
		}
	}
}

static void
end_work(SharedDatabase *db, bool committed)
{
	if (committed && db != NULL)
	{
		if (claimable_noted)
			ConditionVariableBroadcast(es_saga_requests(db));
		if (due_noted != DT_NOEND)
			es_note_saga_timer(db, due_noted);
	}
	claimable_noted = false;
	due_noted = DT_NOEND;
}

void
es_note_saga_work(bool claimable, TimestampTz due_at)
{
	claimable_noted = claimable_noted || claimable;
	if (due_at != 0)
		due_noted = Min(due_noted, due_at);
	es_at_end(ES_END_SAGAS, end_work, NULL);
}
