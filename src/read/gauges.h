/*
 * gauges.h
 *		What stands at this moment.
 */
#ifndef ES_GAUGES_H
#define ES_GAUGES_H

#include "ground/metrics.h"

/* A value that is not known is NaN here, NULL in SQL, absent in openmetrics. */
typedef enum Gauge
{
	ES_GAUGE_STAGED_EVENTS,
	ES_GAUGE_STAGED_VIEWS,
	ES_GAUGE_OLDEST_AGE,
	ES_GAUGE_WAITING,
	ES_GAUGE_DRAIN_RATE,
	ES_GAUGE_DRAIN_AGE,
	ES_GAUGE_DRAIN_FAILURES,
	ES_GAUGE_DEAD_LETTERS,
	ES_GAUGE_LOST_EPOCHS,
	ES_GAUGE_WORKER_RUNNING,
	ES_GAUGE_WORKER_WANTED,
	ES_GAUGE_WORKER_UNAVAILABLE,
	ES_GAUGE_FEED_IN_FLIGHT,
	ES_GAUGE_FEED_LAG,
	ES_GAUGES
} Gauge;

/* Reads all ES_GAUGES of them. */
extern void es_read_gauges(const MetricsReading *metrics, double *gauges);

#endif /* ES_GAUGES_H */
