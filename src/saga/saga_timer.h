/*
 * saga_timer.h
 *		What happens to sagas when a time is over.
 */
#ifndef ES_SAGA_TIMER_H
#define ES_SAGA_TIMER_H

#include "datatype/timestamp.h"

/* When the first is due; DT_NOEND = there is none.  A TimerJob of timer.h. */
extern TimestampTz es_find_saga_timer(void);
/* Does what is due, a bounded piece of it, in this transaction. */
extern TimestampTz es_run_saga_timers(TimestampTz noted);

#endif /* ES_SAGA_TIMER_H */
