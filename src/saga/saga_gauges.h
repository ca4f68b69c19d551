/*
 * saga_gauges.h
 *		How many sagas are under way, for metrics.
 */
#ifndef ES_SAGA_GAUGES_H
#define ES_SAGA_GAUGES_H

#include "read/gauges.h"

/* Counts them; NaN where somebody has locked their table. */
extern void es_saga_gauges(SagaGauges *gauges);

#endif /* ES_SAGA_GAUGES_H */
