/*
 * deadline_gauges.h
 *		What stands of scheduled events, for metrics.
 */
#ifndef ES_DEADLINE_GAUGES_H
#define ES_DEADLINE_GAUGES_H

#include "read/gauges.h"

/* A DeadlineReader of gauges.h. */
extern void es_deadline_gauges(DeadlineGauges *gauges);

#endif /* ES_DEADLINE_GAUGES_H */
