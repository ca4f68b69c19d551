/*
 * saga_work.c
 *		Who waits for what sagas have to do: executors for a step, and the timers for their
 *		time (timer_slot.c).
 *
 * Both are told at commit, when what was written can be seen.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/condition_variable.h"

#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "ground/transaction.h"
#include "saga/saga_work.h"

typedef struct SagaShare
{
	ConditionVariable requests;
} SagaShare;

/* Of this transaction. */
static bool claimable_noted = false;

static void
initialise(void *memory)
{
	ConditionVariableInit(&((SagaShare *) memory)->requests);
}

static DatabasePart part = {sizeof(SagaShare), initialise, NULL};

void
es_share_saga_work(void)
{
	es_share_by_database(&part);
}

ConditionVariable *
es_saga_requests(SharedDatabase *db)
{
	return &((SagaShare *) es_part(db, &part))->requests;
}

static void
end_work(SharedDatabase *db, bool committed)
{
	if (claimable_noted && committed && db != NULL)
		ConditionVariableBroadcast(es_saga_requests(db));
	claimable_noted = false;
}

void
es_note_saga_work(bool claimable, TimestampTz due_at)
{
	if (due_at != 0)
		es_note_timer(ES_TIMER_SAGAS, due_at);
	if (!claimable)
		return;
	claimable_noted = true;
	es_at_end(ES_END_SAGAS, end_work, NULL);
}
