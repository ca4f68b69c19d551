/*
 * subscription_gauges.h
 *		How far subscriptions are behind, and what is set aside of them.
 */
#ifndef ES_SUBSCRIPTION_GAUGES_H
#define ES_SUBSCRIPTION_GAUGES_H

#include "read/gauges.h"

/* All of them, in the current memory context; none where somebody has locked a table. */
extern int es_subscription_gauges(SubscriptionGauges **all);

#endif /* ES_SUBSCRIPTION_GAUGES_H */
