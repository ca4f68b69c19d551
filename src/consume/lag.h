/*
 * lag.h
 *		What lies ahead of the members of a subscription.
 */
#ifndef ES_LAG_H
#define ES_LAG_H

#include "datatype/timestamp.h"

#include "consume/aside.h"
#include "consume/subscription.h"

typedef struct Lag
{
	int64 events;
	TimestampTz oldest; /* when the first one was recorded; 0 = there is none */
} Lag;

/*
 * What next_events has yet to give to each member, of which is told how far it has
 * come: counted as far as a stretch of the log reaches, estimated beyond that.  In an
 * owner's scope.
 */
extern void es_measure_lag(const Subscription *subscription,
						   const int64 *passed, int64 safe, Lag *lags);

/* What is set aside of a member is not handled either, so it counts for the age. */
extern void es_add_aside_lag(Lag *lag, const AsideSum *aside);

#endif /* ES_LAG_H */
