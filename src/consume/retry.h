/*
 * retry.h
 *		Going on with a partition that is set aside.
 */
#ifndef ES_RETRY_H
#define ES_RETRY_H

#include "consume/subscription.h"

/*
 * Lets a partition that is set aside begin behind an event, as far as its member
 * has come; where nothing is left there, it is set aside no more.
 */
extern void es_advance_partition(const Subscription *subscription,
								 Datum partition, int64 after, int64 served);
/*
 * A batch of a partition that was set aside, or an event that was parked alone, is
 * settled up to a position.
 */
extern void es_settle_retried(const Subscription *subscription, Datum partition,
							  bool alone, int64 up_to, int64 served);

/* What is set aside, after its members were moved to go on behind a position. */
extern void es_move_parked(const Subscription *subscription, int64 position);

#endif /* ES_RETRY_H */
