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

#include "access/xlog.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/waiter.h"
#include "ground/worker_slot.h"
#include "read/gauges.h"
#include "staging/dead_letter.h"
#include "staging/drain_state.h"
#include "staging/staging_state.h"
#include "staging/staging_status.h"

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

/* For how long a process has waited for a lock. */
static double
lock_wait(pid_t pid)
{
	PGPROC *proc = pid == 0 ? NULL : BackendPidGetProc(pid);
	TimestampTz since =
		proc == NULL ? 0 : (TimestampTz) pg_atomic_read_u64(&proc->waitStart);

	return since == 0 ? 0 : seconds_since(since);
}

/* What stands in tables; who watches a server waits for nobody who has locked them. */
static void
read_tables(double dead_letters, double *gauges)
{
	int64 bytes = es_staging_size();
	TimestampTz oldest;

	gauges[ES_GAUGE_STAGING_BYTES] = bytes < 0 ? NAN : (double) bytes;
	gauges[ES_GAUGE_DEAD_LETTER_AGE] = isnan(dead_letters) ? NAN : 0;
	if (dead_letters > 0)
	{
		oldest = es_oldest_dead_letter();
		gauges[ES_GAUGE_DEAD_LETTER_AGE] =
			oldest == 0 ? NAN : seconds_since(oldest);
	}
}

/*
 * Positions.  A standby has none of them in its memory, and a server that was just
 * started not yet: then it is what is stored for standbys.
 */
static void
read_positions(const FeedState *feed, double *gauges)
{
	const Store *store;
	int64 last = feed->last;
	int64 safe = feed->safe;

	gauges[ES_GAUGE_LAST_POSITION] = gauges[ES_GAUGE_SAFE_POSITION] = NAN;
	if (RecoveryInProgress() || last <= 0)
	{
		store = es_store_if_any();
		if (store == NULL || !es_try_lock_table(store->store_state) ||
			es_store_if_any() == NULL)
			return;
		last = safe = es_stored_safe_position();
	}
	gauges[ES_GAUGE_LAST_POSITION] = (double) last;
	gauges[ES_GAUGE_SAFE_POSITION] = (double) safe;
}

static void
read_staging(SharedDatabase *db, TimestampTz left_at, double *gauges)
{
	StagingShare *staging = es_staging(db);
	DrainProgress *drain = es_drain_progress(db);
	TimestampTz oldest;
	TimestampTz drained;
	bool known;
	pid_t worker;

	LWLockAcquire(db->lock, LW_SHARED);
	worker = es_worker_slot(db)->pid;
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
	gauges[ES_GAUGE_DRAIN_WAITING] = lock_wait(worker);
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

static SagaReader read_sagas = NULL;

void
es_register_sagas(SagaReader reader)
{
	read_sagas = reader;
}

static void
read_saga_gauges(double *gauges)
{
	SagaGauges sagas = {NAN, NAN, NAN};

	if (read_sagas != NULL)
		read_sagas(&sagas);
	gauges[ES_GAUGE_SAGAS_RUNNING] = sagas.running;
	gauges[ES_GAUGE_SAGAS_COMPENSATING] = sagas.compensating;
	gauges[ES_GAUGE_SAGAS_STUCK] = sagas.stuck;
}

static DeadlineReader read_deadlines = NULL;

void
es_register_deadlines(DeadlineReader reader)
{
	read_deadlines = reader;
}

static void
read_deadline_gauges(double *gauges)
{
	DeadlineGauges deadlines = {NAN, NAN};

	if (read_deadlines != NULL)
		read_deadlines(&deadlines);
	gauges[ES_GAUGE_DEADLINES_DUE] = deadlines.due;
	gauges[ES_GAUGE_DEADLINES_AGE] = deadlines.age;
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
	gauges[ES_GAUGE_STAGING_LIMIT] = es_staging_limit;
	gauges[ES_GAUGE_PRIMARY] = RecoveryInProgress() ? 0 : 1;
	read_tables(metrics->dead_letters, gauges);
	read_saga_gauges(gauges);
	read_deadline_gauges(gauges);
	if (db != NULL)
		es_read_in_flight(db, &feed);
	read_positions(&feed, gauges);
	if (db == NULL)
		return;
	read_staging(db, metrics->left_at, gauges);
	gauges[ES_GAUGE_FEED_IN_FLIGHT] = feed.in_flight;
	gauges[ES_GAUGE_FEED_LAG] = (double) (feed.last - feed.safe);
	gauges[ES_GAUGE_FEED_WAITERS] = es_count_waiters(db);
}
