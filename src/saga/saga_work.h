/*
 * saga_work.h
 *		What sagas have to do, in shared memory.
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
/* On which executors wait. */
extern ConditionVariable *es_saga_requests(SharedDatabase *db);
/* When a timer is due at the earliest; DT_NOEND = there is none. */
extern TimestampTz es_saga_timer_at(SharedDatabase *db);
/* From now on only what is noted later; the caller looks at the table after that. */
extern void es_forget_saga_timers(SharedDatabase *db);
extern void es_note_saga_timer(SharedDatabase *db, TimestampTz due_at);

#endif /* ES_SAGA_WORK_H */
