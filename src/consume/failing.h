/*
 * failing.h
 *		Events that cannot be handled, and the end of a batch before its last event.
 */
#ifndef ES_FAILING_H
#define ES_FAILING_H

#include "consume/parked.h"
#include "consume/subscription.h"

/*
 * Says that an event of a batch of this transaction has failed: COMMIT acknowledges
 * what lies before it.  Returns what is done, as fail_events() does.
 */
extern const char *es_fail_given(Datum name, int64 position,
								 const FailureCause *cause, FailureAction action);
/*
 * Ends a batch of this transaction before one of its events: that and what lies
 * behind it is given again.
 */
extern void es_end_batch(Datum name, int64 next);

#endif /* ES_FAILING_H */
