/*
 * gauges.c
 *		What stands at this moment: gauges, read from those whose they are.
 *
 * Counters and latencies are kept by metrics.c, which knows nobody.  How much is
 * staged, how the drain goes, whether a worker runs and how far the feed is
 * behind is known to the owners of these things, and is asked for when somebody
 * looks.
 */
#include "postgres.h"

#include <math.h>

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/waiter.h"
#include "ground/worker_slot.h"
#include "read/gauges.h"
#include "staging/drain_state.h"
#include "staging/staging_state.h"

static double
seconds_since(TimestampTz then)
{
	return Max((double) (GetCurrentTimestamp() - then) / USECS_PER_SEC, 0.0);
}

/* A row may be drained, and taken off, before it was counted. */
static double
rows_in(pg_atomic_uint64 *counter)
{
	return Max((double) (int64) pg_atomic_read_u64(counter), 0.0);
}

static void
read_staging(SharedDatabase *db, TimestampTz left_at, double *gauges)
{
	StagingShare *staging = es_staging(db);
	DrainProgress *drain = es_drain_progress(db);
	TimestampTz oldest;
	TimestampTz drained;
	bool known;

	LWLockAcquire(db->lock, LW_SHARED);
	oldest = left_at != 0 ? left_at : staging->first_staged_at;
	drained = drain->last_drain_at;
	known = !es_staging_is(db, ES_STAGING_UNKNOWN);
	gauges[ES_GAUGE_DRAIN_FAILURES] = drain->failures;
	gauges[ES_GAUGE_WORKER_RUNNING] =
		es_worker_slot(db)->state == ES_WORKER_RUNNING ? 1 : 0;
	gauges[ES_GAUGE_WORKER_UNAVAILABLE] = es_worker_unavailable(db) ? 1 : 0;
	gauges[ES_GAUGE_WORKER_WANTED] =
		es_worker_slot(db)->wanted_at != 0 &&
				es_worker_slot(db)->wanted_at <= GetCurrentTimestamp()
			? 1
			: 0;
	gauges[ES_GAUGE_LOST_EPOCHS] = known ? (double) (staging->epoch - 1) : NAN;
	LWLockRelease(db->lock);
	/* until staging was looked at, nobody knows what a stop left there */
	if (known)
	{
		gauges[ES_GAUGE_STAGED_EVENTS] = rows_in(&staging->staged_events);
		gauges[ES_GAUGE_STAGED_VIEWS] = rows_in(&staging->staged_views);
		gauges[ES_GAUGE_OLDEST_AGE] =
			oldest == 0 || es_staged_rows(db) == 0 ? 0 : seconds_since(oldest);
	}
	gauges[ES_GAUGE_DRAIN_AGE] = drained == 0 ? NAN : seconds_since(drained);
}

static SubscriptionReader read_subscriptions = NULL;

void
es_register_subscriptions(SubscriptionReader reader)
{
	read_subscriptions = reader;
}

int
es_read_subscription_gauges(SubscriptionGauges **all)
{
	*all = NULL;
	return read_subscriptions == NULL ? 0 : read_subscriptions(all);
}

void
es_read_gauges(const MetricsReading *metrics, double *gauges)
{
	SharedDatabase *db = es_find_database(MyDatabaseId);
	FeedState feed = {0};

	for (int i = 0; i < ES_GAUGES; i++)
		gauges[i] = 0;
	gauges[ES_GAUGE_WAITING] = metrics->waiting;
	gauges[ES_GAUGE_DRAIN_RATE] = metrics->drain_rate;
	gauges[ES_GAUGE_DEAD_LETTERS] = metrics->dead_letters;
	gauges[ES_GAUGE_STAGED_EVENTS] = NAN;
	gauges[ES_GAUGE_STAGED_VIEWS] = NAN;
	gauges[ES_GAUGE_OLDEST_AGE] = NAN;
	gauges[ES_GAUGE_LOST_EPOCHS] = NAN;
	gauges[ES_GAUGE_DRAIN_AGE] = NAN;
	if (db == NULL)
		return;
	read_staging(db, metrics->left_at, gauges);
	es_read_in_flight(db, &feed);
	gauges[ES_GAUGE_FEED_IN_FLIGHT] = feed.in_flight;
	gauges[ES_GAUGE_FEED_LAG] = (double) (feed.last - feed.safe);
	gauges[ES_GAUGE_FEED_WAITERS] = es_count_waiters(db);
}
