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
	ES_GAUGE_STAGING_LIMIT,
	ES_GAUGE_STAGING_BYTES,
	ES_GAUGE_WAITING,
	ES_GAUGE_DRAIN_RATE,
	ES_GAUGE_DRAIN_AGE,
	ES_GAUGE_DRAIN_FAILURES,
	ES_GAUGE_DRAIN_WAITING,
	ES_GAUGE_DEAD_LETTERS,
	ES_GAUGE_DEAD_LETTER_AGE,
	ES_GAUGE_LOST_EPOCHS,
	ES_GAUGE_WORKER_RUNNING,
	ES_GAUGE_WORKER_WANTED,
	ES_GAUGE_WORKER_UNAVAILABLE,
	ES_GAUGE_FEED_IN_FLIGHT,
	ES_GAUGE_LAST_POSITION,
	ES_GAUGE_SAFE_POSITION,
	ES_GAUGE_FEED_LAG,
	ES_GAUGE_FEED_WAITERS,
	ES_GAUGE_SAGAS_RUNNING,
	ES_GAUGE_SAGAS_COMPENSATING,
	ES_GAUGE_SAGAS_STUCK,
	ES_GAUGE_DEADLINES_DUE,
	ES_GAUGE_DEADLINES_AGE,
	ES_GAUGE_PRIMARY,
	ES_GAUGES
} Gauge;

/* Reads all ES_GAUGES of them. */
extern void es_read_gauges(const MetricsReading *metrics, double *gauges);

/* What stands of each subscription. */
typedef enum SubscriptionGauge
{
	ES_SUBSCRIPTION_LAG,
	ES_SUBSCRIPTION_AGE,
	ES_SUBSCRIPTION_SET_ASIDE,
	ES_SUBSCRIPTION_PARKED,
	ES_SUBSCRIPTION_PARKED_AGE,
	ES_SUBSCRIPTION_GAUGES
} SubscriptionGauge;

typedef struct SubscriptionGauges
{
	const char *name;
	double gauges[ES_SUBSCRIPTION_GAUGES];
} SubscriptionGauges;

/* Reads those of all subscriptions; who knows them is registered (module.c). */
typedef int (*SubscriptionReader)(SubscriptionGauges **all);

extern void es_register_subscriptions(SubscriptionReader reader);
extern int es_read_subscription_gauges(SubscriptionGauges **all);

/* How many sagas there are, by what they are at; the same for who counts them. */
typedef struct SagaGauges
{
	double running;
	double compensating;
	double stuck;
} SagaGauges;

typedef void (*SagaReader)(SagaGauges *gauges);

extern void es_register_sagas(SagaReader reader);

/* Scheduled events that are due; the same for who counts them. */
typedef struct DeadlineGauges
{
	double due;
	double age; /* of the first */
} DeadlineGauges;

typedef void (*DeadlineReader)(DeadlineGauges *gauges);

extern void es_register_deadlines(DeadlineReader reader);

#endif /* ES_GAUGES_H */
