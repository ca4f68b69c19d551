/*
 * saga_work.c
 *		Who waits for what sagas have to do: executors for a step, the projectors of roles
 *		whose handlers do steps, and the timers for their time (timer_slot.c).
 *
 * All are told at commit, when what was written can be seen.  What the clock has told stands
 * here as well: see saga_clock.c.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "utils/acl.h"

#include "ground/projector_slot.h"
#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "ground/transaction.h"
#include "saga/saga_work.h"

typedef struct SagaShare
{
	ConditionVariable requests;
	pg_atomic_uint64 clock; /* TimestampTz */
} SagaShare;

/* Of this transaction. */
static bool claimable_noted = false;
static TimestampTz clock_noted = 0;
static Oid handling_role = InvalidOid; /* it has steps to do */
static bool handling_roles = false;	   /* so have several */

static void
initialise(void *memory)
{
	SagaShare *share = memory;

	ConditionVariableInit(&share->requests);
	pg_atomic_init_u64(&share->clock, 0);
}

static void clear(SharedDatabase *db);

static DatabasePart part = {sizeof(SagaShare), initialise, clear};

static void
clear(SharedDatabase *db)
{
	es_set_saga_clock(db, 0);
}

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
	if (handling_roles && committed && db != NULL)
		es_want_projectors(db);
	else if (OidIsValid(handling_role) && committed && db != NULL)
		es_call_projector(db, handling_role);
	if (clock_noted != 0 && committed && db != NULL)
		es_set_saga_clock(db, clock_noted);
	claimable_noted = handling_roles = false;
	handling_role = InvalidOid;
	clock_noted = 0;
}

TimestampTz
es_saga_clock(SharedDatabase *db)
{
	SagaShare *share = es_part(db, &part);

	return (TimestampTz) pg_atomic_read_u64(&share->clock);
}

void
es_set_saga_clock(SharedDatabase *db, TimestampTz now)
{
	SagaShare *share = es_part(db, &part);

	pg_atomic_write_u64(&share->clock, (uint64) now);
}

void
es_note_saga_clock(TimestampTz now)
{
	clock_noted = now;
	es_at_end(ES_END_SAGAS, end_work, NULL);
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

void
es_note_handled_step(const char *role)
{
	Oid oid = get_role_oid(role, true);

	/* one that is gone may come back: then somebody has to look */
	if (!OidIsValid(oid) || (OidIsValid(handling_role) && handling_role != oid))
		handling_roles = true;
	else
		handling_role = oid;
	es_at_end(ES_END_SAGAS, end_work, NULL);
}
