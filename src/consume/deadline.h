/*
 * deadline.h
 *		Scheduled events that are due.
 */
#ifndef ES_DEADLINE_H
#define ES_DEADLINE_H

#include "datatype/timestamp.h"

/* When the first one is due; DT_NOEND = there is none.  A TimerJob of timer.h. */
extern TimestampTz es_find_deadline(void);
/* Appends a batch of those that are, in this transaction. */
extern TimestampTz es_append_deadlines(TimestampTz noted);

#endif /* ES_DEADLINE_H */
