/*
 * saga_work.h
 *		Who waits for what sagas have to do.
 */
#ifndef ES_SAGA_WORK_H
#define ES_SAGA_WORK_H

#include "datatype/timestamp.h"
#include "storage/condition_variable.h"

#include "ground/shmem.h"

extern void es_share_saga_work(void);

/*
 * At the commit of this transaction: executors that wait look again if something
 * can be claimed, and the timers at that time; 0 = none.
 */
extern void es_note_saga_work(bool claimable, TimestampTz due_at);
/* The same: the projector of a role looks what its handlers have to do. */
extern void es_note_handled_step(const char *role);
/* On which executors wait. */
extern ConditionVariable *es_saga_requests(SharedDatabase *db);

/*
 * The latest time that the clock has told while all rows of saga_steps were in order with it;
 * 0 = not known.  It is set, at once or with the commit of this transaction.
 */
extern TimestampTz es_saga_clock(SharedDatabase *db);
extern void es_set_saga_clock(SharedDatabase *db, TimestampTz now);
extern void es_note_saga_clock(TimestampTz now);

#endif /* ES_SAGA_WORK_H */
