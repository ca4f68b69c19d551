/*
 * saga_timer.h
 *		What happens to sagas when a time is over.
 */
#ifndef ES_SAGA_TIMER_H
#define ES_SAGA_TIMER_H

#include "ground/shmem.h"

/* Does what is due, a bounded piece of it, and remembers when the next is. */
extern void es_run_saga_timers(SharedDatabase *db);

#endif /* ES_SAGA_TIMER_H */
