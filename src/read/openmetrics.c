/*
 * openmetrics.c
 *		Metrics as they are shown: the view metrics, and the series that
 *		Prometheus reads, as text and as the view metrics_series.
 *
 * One table says which metrics there are, where each comes from and what it is
 * called; all forms are made from it, and docs/metrics.md has its lines.
 *
 * In the text a metric with labels is there from the start, with the value 0:
 * a rate needs a first value, and a dashboard must not ask for what does not
 * exist.  Only what is not known is left out.  Counters are declared under the
 * full name of their samples, with _total, as the text format, promtool and the
 * second version of OpenMetrics have it.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/due_snapshot.h"
#include "ground/metrics.h"
#include "ground/shmem.h"
#include "read/gauges.h"

PG_FUNCTION_INFO_V1(es_metrics_state);
PG_FUNCTION_INFO_V1(es_metrics_series);
PG_FUNCTION_INFO_V1(es_openmetrics);
PG_FUNCTION_INFO_V1(es_histogram_quantiles);

/* ---------- metrics as they are shown ---------- */

typedef enum Source
{
	FROM_COUNT, /* of the calls of a group ... */
	FROM_DURATION,
	FROM_ROWS,
	FROM_MISSES,
	FROM_ERRORS,	/* of all real calls */
	FROM_CONFLICTS, /* of all appends */
	FROM_COUNTER,	/* one number ... */
	FROM_GAUGE,
	FROM_HISTOGRAM,		/* the distribution of numbers */
	FROM_TYPES,			/* a counter by aggregate type */
	FROM_SUBSCRIPTIONS, /* a gauge by subscription */
	FROM_VERSIONS		/* 1, with a version for a name */
} Source;

typedef struct Metric
{
	const char *metric;
	const char *kind;
	const char *unit;
	const char *name; /* a label, where there are no calls; or NULL */
	Source source;
	int of; /* CallGroup, Counter, Gauge, Histogram or SubscriptionGauge */
	const char *help;
} Metric;

typedef enum Version
{
	ES_VERSION_LIBRARY,
	ES_VERSION_SQL
} Version;

/* Those of one name follow each other. */
static const Metric shown[] =
	{{"version.library", "gauge", "libraries", NULL, FROM_VERSIONS,
	  ES_VERSION_LIBRARY, "The version of the library, which is its name"},
	 {"version.sql", "gauge", "extensions", NULL, FROM_VERSIONS, ES_VERSION_SQL,
	  "The version of the extension in this database, which is its name"},
	 {"store.primary", "gauge", "servers", NULL, FROM_GAUGE, ES_GAUGE_PRIMARY,
	  "Whether this is a primary and no standby"},
	 {"persistence.store.count", "counter", "calls", NULL, FROM_COUNT,
	  ES_GROUP_STORE, "Calls that stored one thing"},
	 {"persistence.store.duration", "histogram", "seconds", NULL, FROM_DURATION,
	  ES_GROUP_STORE, "Time taken by calls that stored one thing"},
	 {"persistence.store.batch.count", "counter", "calls", NULL, FROM_COUNT,
	  ES_GROUP_BATCH, "Calls that stored a list, and rounds of draining"},
	 {"persistence.store.batch.entries", "counter", "rows", NULL, FROM_ROWS,
	  ES_GROUP_BATCH,
	  "Rows written by batches, and taken out of staging by the drain"},
	 {"persistence.store.batch.duration", "histogram", "seconds", NULL,
	  FROM_DURATION, ES_GROUP_BATCH,
	  "Time taken by batches, with the commit for rounds of draining"},
	 {"persistence.load.count", "counter", "calls", NULL, FROM_COUNT,
	  ES_GROUP_LOAD, "Calls that read"},
	 {"persistence.load.miss", "counter", "calls", NULL, FROM_MISSES,
	  ES_GROUP_LOAD, "Calls that read and found nothing"},
	 {"persistence.load.duration", "histogram", "seconds", NULL, FROM_DURATION,
	  ES_GROUP_LOAD, "Time taken by calls that read"},
	 {"persistence.delete.count", "counter", "calls", NULL, FROM_COUNT,
	  ES_GROUP_DELETE, "Calls that deleted views or snapshots"},
	 {"persistence.delete.duration", "histogram", "seconds", NULL, FROM_DURATION,
	  ES_GROUP_DELETE, "Time taken by calls that deleted views or snapshots"},
	 {"persistence.projection.batch.count", "counter", "calls", NULL,
	  FROM_COUNT, ES_GROUP_PROJECT, "Batches of projections"},
	 {"persistence.projection.batch.entries", "counter", "rows", NULL,
	  FROM_ROWS, ES_GROUP_PROJECT, "Events that batches of projections took in"},
	 {"persistence.projection.batch.duration", "histogram", "seconds", NULL,
	  FROM_DURATION, ES_GROUP_PROJECT,
	  "Time taken by batches of projections, without the commit"},
	 {"persistence.errors", "counter", "calls", NULL, FROM_ERRORS, 0,
	  "Calls that ended with an error or were cancelled"},
	 {"persistence.conflicts", "counter", "conflicts", NULL, FROM_CONFLICTS, 0,
	  "Appends refused by their expected sequence"},
	 {"persistence.queue.depth", "gauge", "rows", "events", FROM_GAUGE,
	  ES_GAUGE_STAGED_EVENTS, "Committed rows in staging"},
	 {"persistence.queue.depth", "gauge", "rows", "views", FROM_GAUGE,
	  ES_GAUGE_STAGED_VIEWS, "Committed rows in staging"},
	 {"persistence.queue.age", "gauge", "seconds", NULL, FROM_GAUGE,
	  ES_GAUGE_OLDEST_AGE, "For how long the oldest row has been in staging"},
	 {"persistence.queue.limit", "gauge", "rows", NULL, FROM_GAUGE,
	  ES_GAUGE_STAGING_LIMIT, "Rows that staging takes"},
	 {"persistence.queue.bytes", "gauge", "bytes", NULL, FROM_GAUGE,
	  ES_GAUGE_STAGING_BYTES, "What the segments of staging take on disk"},
	 {"persistence.queue.blocked", "counter", "calls", NULL, FROM_COUNTER,
	  ES_COUNT_BLOCKED, "Writes that waited for space in staging"},
	 {"persistence.queue.waiting", "gauge", "calls", NULL, FROM_GAUGE,
	  ES_GAUGE_WAITING, "Writes that are waiting for space in staging"},
	 {"persistence.queue.refused", "counter", "calls", NULL, FROM_COUNTER,
	  ES_COUNT_REFUSED, "Writes refused because staging was full"},
	 {"persistence.queue.bypassed", "counter", "calls", NULL, FROM_COUNTER,
	  ES_COUNT_BYPASSED, "Writes made durable at once because staging was full"},
	 {"persistence.drain.rounds", "counter", "rounds", NULL, FROM_COUNTER,
	  ES_COUNT_ROUNDS, "Rounds of draining that committed"},
	 {"persistence.drain.rows", "histogram", "rows", NULL, FROM_HISTOGRAM,
	  ES_HISTOGRAM_DRAINED_ROWS, "Rows moved by the rounds that moved any"},
	 {"persistence.drain.rate", "gauge", "rows per second", NULL, FROM_GAUGE,
	  ES_GAUGE_DRAIN_RATE, "Rows drained a second in the last ten seconds"},
	 {"persistence.drain.age", "gauge", "seconds", NULL, FROM_GAUGE,
	  ES_GAUGE_DRAIN_AGE, "Time since a round last moved rows"},
	 {"persistence.drain.failures", "gauge", "rounds", NULL, FROM_GAUGE,
	  ES_GAUGE_DRAIN_FAILURES, "Failures of the drain since its last success"},
	 {"persistence.drain.waiting", "gauge", "seconds", NULL, FROM_GAUGE,
	  ES_GAUGE_DRAIN_WAITING,
	  "For how long the worker has waited for a lock that somebody holds"},
	 {"persistence.dead_letters", "gauge", "rows", NULL, FROM_GAUGE,
	  ES_GAUGE_DEAD_LETTERS, "Rows in dead_letters"},
	 {"persistence.dead_letters.age", "gauge", "seconds", NULL, FROM_GAUGE,
	  ES_GAUGE_DEAD_LETTER_AGE, "How long ago the oldest dead letter failed"},
	 {"persistence.lost_epochs", "counter", "losses", NULL, FROM_GAUGE,
	  ES_GAUGE_LOST_EPOCHS,
	  "Times that staging was lost in the life of the store"},
	 {"persistence.snapshots", "counter", "rows", NULL, FROM_COUNTER,
	  ES_COUNT_SNAPSHOTS, "Snapshots taken by the server"},
	 {"persistence.snapshot.failures", "counter", "failures", NULL, FROM_TYPES,
	  ES_COUNT_SNAPSHOT_FAILURES,
	  "Snapshots that the server could not take, by aggregate type"},
	 {"worker.starts", "counter", "workers", NULL, FROM_COUNTER,
	  ES_COUNT_WORKER_STARTS, "Workers of this database that came up"},
	 {"worker.failures", "counter", "failures", NULL, FROM_COUNTER,
	  ES_COUNT_WORKER_FAILURES, "Steps of the worker that failed"},
	 {"worker.running", "gauge", "workers", NULL, FROM_GAUGE,
	  ES_GAUGE_WORKER_RUNNING, "Whether the worker is running"},
	 {"worker.wanted", "gauge", "workers", NULL, FROM_GAUGE,
	  ES_GAUGE_WORKER_WANTED, "Whether the worker is waited for"},
	 {"worker.unavailable", "gauge", "workers", NULL, FROM_GAUGE,
	  ES_GAUGE_WORKER_UNAVAILABLE, "Whether no worker could be had"},
	 {"worker.bypassed", "counter", "calls", NULL, FROM_COUNTER,
	  ES_COUNT_UNATTENDED,
	  "Writes made durable at once because no worker could be had"},
	 {"feed.in_flight", "gauge", "transactions", NULL, FROM_GAUGE,
	  ES_GAUGE_FEED_IN_FLIGHT, "Open transactions that have appended"},
	 {"feed.last_position", "gauge", "positions", NULL, FROM_GAUGE,
	  ES_GAUGE_LAST_POSITION, "The last position taken"},
	 {"feed.safe_position", "gauge", "positions", NULL, FROM_GAUGE,
	  ES_GAUGE_SAFE_POSITION, "How far the feed shows the log"},
	 {"feed.lag", "gauge", "positions", NULL, FROM_GAUGE, ES_GAUGE_FEED_LAG,
	  "Positions taken that the feed does not show yet"},
	 {"feed.waiters", "gauge", "calls", NULL, FROM_GAUGE, ES_GAUGE_FEED_WAITERS,
	  "Calls that are waiting for events"},
	 {"feed.wake_ups", "counter", "wake-ups", NULL, FROM_COUNTER,
	  ES_COUNT_WAKE_UPS, "Times that a call that waits was woken to look"},
	 {"subscription.lag", "gauge", "events", NULL, FROM_SUBSCRIPTIONS,
	  ES_SUBSCRIPTION_LAG, "Events that a subscription has yet to be given"},
	 {"subscription.age", "gauge", "seconds", NULL, FROM_SUBSCRIPTIONS,
	  ES_SUBSCRIPTION_AGE,
	  "How long ago the oldest event not yet handled was recorded, what is set aside included"},
	 {"subscription.set_aside", "gauge", "partitions", NULL, FROM_SUBSCRIPTIONS,
	  ES_SUBSCRIPTION_SET_ASIDE, "Partitions that wait for a retry"},
	 {"subscription.parked", "gauge", "rows", NULL, FROM_SUBSCRIPTIONS,
	  ES_SUBSCRIPTION_PARKED,
	  "Partitions and events that are parked until somebody decides"},
	 {"subscription.parked.age", "gauge", "seconds", NULL, FROM_SUBSCRIPTIONS,
	  ES_SUBSCRIPTION_PARKED_AGE, "How long ago the oldest of them was parked"},
	 {"subscription.deliveries", "counter", "events", NULL, FROM_COUNTER,
	  ES_COUNT_DELIVERIES, "Events given to consumers"},
	 {"subscription.failures", "counter", "events", NULL, FROM_COUNTER,
	  ES_COUNT_FAILED_EVENTS, "Attempts of events that failed"},
	 {"subscription.claims", "counter", "leases", NULL, FROM_COUNTER,
	  ES_COUNT_CLAIMS, "Leases given"},
	 {"subscription.lost_leases", "counter", "calls", NULL, FROM_COUNTER,
	  ES_COUNT_LOST_LEASES, "Calls refused because their lease was lost"},
	 {"deadlines.appended", "counter", "events", NULL, FROM_COUNTER,
	  ES_COUNT_DEADLINES, "Scheduled events appended when they were due"},
	 {"deadlines.failed", "counter", "events", NULL, FROM_COUNTER,
	  ES_COUNT_FAILED_DEADLINES, "Scheduled events that were refused when due"},
	 {"deadlines.lateness", "histogram", "milliseconds", NULL, FROM_HISTOGRAM,
	  ES_HISTOGRAM_LATENESS, "Time between due and appended"},
	 {"deadlines.due", "gauge", "events", NULL, FROM_GAUGE, ES_GAUGE_DEADLINES_DUE,
	  "Scheduled events that are due and not appended, counted up to 10,000"},
	 {"deadlines.age", "gauge", "seconds", NULL, FROM_GAUGE,
	  ES_GAUGE_DEADLINES_AGE, "For how long the first of them has been due"},
	 {"sagas.started", "counter", "sagas", NULL, FROM_COUNTER,
	  ES_COUNT_SAGAS_STARTED, "Sagas started"},
	 {"sagas.completed", "counter", "sagas", NULL, FROM_COUNTER,
	  ES_COUNT_SAGAS_COMPLETED, "Sagas that have ended as completed"},
	 {"sagas.compensated", "counter", "sagas", NULL, FROM_COUNTER,
	  ES_COUNT_SAGAS_COMPENSATED, "Sagas that have ended as compensated"},
	 {"sagas.failed", "counter", "sagas", NULL, FROM_COUNTER,
	  ES_COUNT_SAGAS_FAILED, "Sagas that have ended as failed"},
	 {"sagas.stuck", "counter", "sagas", NULL, FROM_COUNTER,
	  ES_COUNT_SAGAS_STUCK, "Times that a saga was stuck"},
	 {"sagas.open", "gauge", "sagas", "running", FROM_GAUGE,
	  ES_GAUGE_SAGAS_RUNNING, "Sagas that have not ended"},
	 {"sagas.open", "gauge", "sagas", "compensating", FROM_GAUGE,
	  ES_GAUGE_SAGAS_COMPENSATING, "Sagas that have not ended"},
	 {"sagas.open", "gauge", "sagas", "stuck", FROM_GAUGE, ES_GAUGE_SAGAS_STUCK,
	  "Sagas that have not ended"},
	 {"sagas.compensations", "counter", "steps", NULL, FROM_COUNTER,
	  ES_COUNT_COMPENSATIONS, "Steps of sagas that were compensated"},
	 {"sagas.retries", "counter", "attempts", NULL, FROM_COUNTER,
	  ES_COUNT_STEP_RETRIES, "Attempts of steps that followed a failed one"},
	 {"sagas.timeouts", "counter", "attempts", NULL, FROM_COUNTER,
	  ES_COUNT_STEP_TIMEOUTS,
	  "Attempts and requests of steps whose time or lease was over"},
	 {"sagas.circuits_opened", "counter", "circuits", NULL, FROM_COUNTER,
	  ES_COUNT_OPENED_CIRCUITS, "Times that a circuit opened"},
	 {"sagas.step_duration", "histogram", "milliseconds", NULL, FROM_HISTOGRAM,
	  ES_HISTOGRAM_STEPS, "Time between the claim of a step and its report"},
	 {"archive.archived", "counter", "events", NULL, FROM_COUNTER,
	  ES_COUNT_ARCHIVED_EVENTS, "Events moved into the archive"},
	 {"archive.restored", "counter", "events", NULL, FROM_COUNTER,
	  ES_COUNT_RESTORED_EVENTS, "Events moved back from the archive"},
	 {"archive.deleted", "counter", "events", NULL, FROM_COUNTER,
	  ES_COUNT_DELETED_EVENTS, "Events deleted with their aggregates"}};

/* Everything at about one moment. */
typedef struct Reading
{
	MetricsReading *metrics;
	double gauges[ES_GAUGES];
	FailingType types[ES_FAILING_TYPES + 1]; /* the last one for all others */
	int ntypes;
	SubscriptionGauges *subscriptions;
	int nsubscriptions;
} Reading;

/* What is counted of types that are not known any more. */
static void
read_types(Reading *reading)
{
	SharedDatabase *db = es_find_database(MyDatabaseId);
	FailingType *others;
	int64 known = 0;

	if (db != NULL)
		reading->ntypes = es_failing_types(db, reading->types);
	for (int i = 0; i < reading->ntypes; i++)
		known += reading->types[i].total;
	others = &reading->types[reading->ntypes++];
	strlcpy(others->name, "(others)", sizeof(others->name));
	others->total =
		Max((int64) reading->metrics->counters[ES_COUNT_SNAPSHOT_FAILURES] - known,
			0);
}

static Reading *
read_all(void)
{
	Reading *reading = palloc0(sizeof(Reading));

	reading->metrics = es_read_metrics();
	es_read_gauges(reading->metrics, reading->gauges);
	read_types(reading);
	reading->nsubscriptions =
		es_read_subscription_gauges(&reading->subscriptions);
	return reading;
}

static bool
is_append(Call call)
{
	return call == ES_CALL_APPEND_EVENT || call == ES_CALL_APPEND_EVENTS ||
		   call == ES_CALL_APPEND_BATCH;
}

/* Whether a metric has a value for a call. */
static bool
applies(const Metric *metric, Call call)
{
	switch (metric->source)
	{
		case FROM_ERRORS:
			return call != ES_CALL_DRAINED_EVENTS && call != ES_CALL_DRAINED_VIEWS;
		case FROM_CONFLICTS:
			return is_append(call);
		case FROM_COUNTER:
		case FROM_GAUGE:
		case FROM_HISTOGRAM:
		case FROM_TYPES:
		case FROM_SUBSCRIPTIONS:
		case FROM_VERSIONS:
			return false;
		default:
			return es_call_kinds[call].group == (CallGroup) metric->of;
	}
}

/* A metric's number for a call. */
static double
call_value(const Metric *metric, const CallReading *call)
{
	switch (metric->source)
	{
		case FROM_COUNT:
			return (double) call->durations.count;
		case FROM_ROWS:
			return (double) call->rows;
		case FROM_MISSES:
			return (double) call->misses;
		case FROM_ERRORS:
			return (double) call->errors;
		case FROM_CONFLICTS:
			return (double) call->conflicts;
		default:
			elog(ERROR, "metric %s has no number for a call", metric->metric);
	}
}

static double
single_value(const Metric *metric, const Reading *reading)
{
	return metric->source == FROM_COUNTER
			   ? (double) reading->metrics->counters[metric->of]
			   : reading->gauges[metric->of];
}

/* How the values of a histogram are shown. */
typedef struct Scale
{
	uint64 first_limit; /* of the buckets in the text; doubled up to ... */
	uint64 last_limit;
	double value; /* one in the unit of the metric */
	double sum;	  /* and one of the sum */
	bool whole;
} Scale;

/* from 8 us to 34 s */
static const Scale durations = {32, 32 << 22, ES_TICK_NS / 1e9, 1e-9, false};
static const Scale numbers = {2, 1 << 24, 1, 1, true};

/* ---------- the view metrics ---------- */

#define STATE_COLUMNS 7

/* One row; quantile 0 = none, a value that is NaN is NULL. */
static void
put_row(ReturnSetInfo *result, const Metric *metric, const char *name,
		const char *operation, double quantile, double value)
{
	Datum values[STATE_COLUMNS] = {0};
	bool nulls[STATE_COLUMNS] = {false};

	values[0] = CStringGetTextDatum(metric->metric);
	nulls[1] = name == NULL;
	values[1] = nulls[1] ? (Datum) 0 : CStringGetTextDatum(name);
	nulls[2] = operation == NULL;
	values[2] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(operation);
	nulls[3] = quantile == 0;
	values[3] = Float8GetDatum(quantile);
	nulls[4] = isnan(value);
	values[4] = Float8GetDatum(value);
	values[5] = CStringGetTextDatum(metric->kind);
	values[6] = CStringGetTextDatum(metric->unit);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The rows of one histogram. */
static void
put_quantiles(ReturnSetInfo *result, const Metric *metric, const char *name,
			  const char *operation, const HistogramReading *histogram,
			  const Scale *scale)
{
	static const double quantiles[] = {0.5, 0.95, 0.99};

	for (int q = 0; q < (int) lengthof(quantiles); q++)
		put_row(result, metric, name, operation, quantiles[q],
				histogram->count == 0
					? NAN
					: es_quantile_of(histogram->buckets, quantiles[q],
									 scale->whole) *
						  scale->value);
}

/* A row a subscription; where none is known, one that says so. */
static void
put_subscriptions(ReturnSetInfo *result, const Metric *metric,
				  const Reading *reading)
{
	for (int s = 0; s < reading->nsubscriptions; s++)
		put_row(result, metric, reading->subscriptions[s].name, NULL, 0,
				reading->subscriptions[s].gauges[metric->of]);
	if (reading->nsubscriptions == 0)
		put_row(result, metric, NULL, NULL, 0, NAN);
}

static const char *
version_of(const Metric *metric)
{
	const char *sql =
		metric->of == ES_VERSION_SQL ? es_sql_version() : ES_VERSION;

	return sql == NULL ? "none" : sql;
}

/* metrics_state(): the rows of the view metrics. */
Datum
es_metrics_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Reading *reading = read_all();

	InitMaterializedSRF(fcinfo, 0);
	for (int m = 0; m < (int) lengthof(shown); m++)
	{
		const Metric *metric = &shown[m];

		if (metric->source == FROM_COUNTER || metric->source == FROM_GAUGE)
			put_row(result, metric, metric->name, NULL, 0,
					single_value(metric, reading));
		for (int t = 0; t < reading->ntypes && metric->source == FROM_TYPES; t++)
			put_row(result, metric, reading->types[t].name, NULL, 0,
					(double) reading->types[t].total);
		if (metric->source == FROM_VERSIONS)
			put_row(result, metric, version_of(metric), NULL, 0, 1);
		if (metric->source == FROM_SUBSCRIPTIONS)
			put_subscriptions(result, metric, reading);
		if (metric->source == FROM_HISTOGRAM)
			put_quantiles(result, metric, metric->name, NULL,
						  &reading->metrics->histograms[metric->of], &numbers);
		for (int c = 0; c < ES_CALLS; c++)
		{
			const CallKind *kind = &es_call_kinds[c];
			const CallReading *call = &reading->metrics->calls[c];

			if (!applies(metric, c))
				continue;
			if (metric->source == FROM_DURATION)
				put_quantiles(result, metric, kind->name, kind->operation,
							  &call->durations, &durations);
			else
				put_row(result, metric, kind->name, kind->operation, 0,
						call_value(metric, call));
		}
	}
	pfree(reading);
	return (Datum) 0;
}

/* ---------- series ---------- */

/* One number as Prometheus knows it; what is NULL is left out. */
typedef struct Sample
{
	const char *series; /* with what a histogram adds */
	const char *name;
	const char *operation;
	const char *le; /* of a bucket: it has what is at most this */
	double value;
} Sample;

typedef void (*PutSample)(void *out, const Sample *sample);

/* Where the samples of a metric go. */
typedef struct Sink
{
	PutSample put;
	void *out;
	const char *series;
} Sink;

/* event_store_, the name with underscores, the unit, _total. */
static char *
series_name(const Metric *metric)
{
	StringInfoData name;
	bool counter = strcmp(metric->kind, "counter") == 0;

	initStringInfo(&name);
	appendStringInfo(&name, "%s_%s%s%s", ES_SCHEMA, metric->metric,
					 strcmp(metric->unit, "seconds") == 0 ? "_seconds" : "",
					 counter ? "_total" : "");
	for (char *c = name.data; *c != '\0'; c++)
	{
		if (*c == '.')
			*c = '_';
	}
	return name.data;
}

/* A number; one that is not known is not there. */
static void
put_number(const Sink *sink, const char *name, const char *operation, double value)
{
	Sample sample = {sink->series, name, operation, NULL, value};

	if (!isnan(value))
		sink->put(sink->out, &sample);
}

/* The samples of one histogram. */
static void
put_histogram(const Sink *sink, const char *name, const char *operation,
			  const HistogramReading *histogram, const Scale *scale)
{
	Sample sample = {psprintf("%s_bucket", sink->series), name, operation};
	int decimals = scale->whole ? 0 : 6;
	uint64 seen = 0;
	int bucket = 0;

	for (uint64 limit = scale->first_limit; limit <= scale->last_limit; limit *= 2)
	{
		uint64 last = scale->whole ? limit - 1 : limit;

		while (bucket < es_bucket_of(limit))
			seen += histogram->buckets[bucket++];
		sample.le = psprintf("%.*f", decimals, (double) last * scale->value);
		sample.value = (double) seen;
		sink->put(sink->out, &sample);
	}
	sample.le = "+Inf";
	sample.value = (double) histogram->count;
	sink->put(sink->out, &sample);
	sample.le = NULL;
	sample.series = psprintf("%s_count", sink->series);
	sink->put(sink->out, &sample);
	sample.series = psprintf("%s_sum", sink->series);
	sample.value = (double) histogram->sum * scale->sum;
	sink->put(sink->out, &sample);
}

/* The samples that are counted by call. */
static void
put_calls(const Sink *sink, const Metric *metric, const Reading *reading)
{
	for (int c = 0; c < ES_CALLS; c++)
	{
		const CallKind *kind = &es_call_kinds[c];
		const CallReading *call = &reading->metrics->calls[c];

		if (!applies(metric, c))
			continue;
		if (metric->source == FROM_DURATION)
			put_histogram(sink, kind->name, kind->operation, &call->durations,
						  &durations);
		else
			put_number(sink, kind->name, kind->operation,
					   call_value(metric, call));
	}
}

static void
put_samples(const Sink *sink, const Metric *metric, const Reading *reading)
{
	switch (metric->source)
	{
		case FROM_COUNTER:
		case FROM_GAUGE:
			put_number(sink, metric->name, NULL, single_value(metric, reading));
			break;
		case FROM_VERSIONS:
			put_number(sink, version_of(metric), NULL, 1);
			break;
		case FROM_TYPES:
			for (int t = 0; t < reading->ntypes; t++)
				put_number(sink, reading->types[t].name, NULL,
						   (double) reading->types[t].total);
			break;
		case FROM_SUBSCRIPTIONS:
			for (int s = 0; s < reading->nsubscriptions; s++)
				put_number(sink, reading->subscriptions[s].name, NULL,
						   reading->subscriptions[s].gauges[metric->of]);
			break;
		case FROM_HISTOGRAM:
			put_histogram(sink, metric->name, NULL,
						  &reading->metrics->histograms[metric->of], &numbers);
			break;
		default:
			put_calls(sink, metric, reading);
	}
}

/* ---------- the view metrics_series ---------- */

#define SERIES_COLUMNS 5

static void
put_sample_row(void *out, const Sample *sample)
{
	ReturnSetInfo *result = out;
	Datum values[SERIES_COLUMNS];
	bool nulls[SERIES_COLUMNS] = {false};

	values[0] = CStringGetTextDatum(sample->series);
	values[1] = CStringGetTextDatum(sample->name == NULL ? "" : sample->name);
	values[2] =
		CStringGetTextDatum(sample->operation == NULL ? "" : sample->operation);
	values[3] = CStringGetTextDatum(sample->le == NULL ? "" : sample->le);
	values[4] = Float8GetDatum(sample->value);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* metrics_series_state(): the rows of the view metrics_series. */
Datum
es_metrics_series(PG_FUNCTION_ARGS)
{
	Reading *reading = read_all();
	Sink sink = {put_sample_row, fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, 0);
	for (int m = 0; m < (int) lengthof(shown); m++)
	{
		sink.series = series_name(&shown[m]);
		put_samples(&sink, &shown[m], reading);
	}
	return (Datum) 0;
}

/* ---------- openmetrics ---------- */

static void
put_header(StringInfo out, const Metric *metric, const char *series)
{
	appendStringInfo(out, "# TYPE %s %s\n", series, metric->kind);
	if (strcmp(metric->unit, "seconds") == 0)
		appendStringInfo(out, "# UNIT %s seconds\n", series);
	appendStringInfo(out, "# HELP %s %s.\n", series, metric->help);
}

/* A label, with what would end its value escaped. */
static void
put_label(StringInfo out, const char *label, const char *value)
{
	appendStringInfo(out, "%s%s=\"", out->data[out->len - 1] == '{' ? "" : ",",
					 label);
	for (; *value != '\0'; value++)
	{
		if (*value == '\n')
			appendStringInfoString(out, "\\n");
		else if (*value == '"' || *value == '\\')
			appendStringInfo(out, "\\%c", *value);
		else
			appendStringInfoChar(out, *value);
	}
	appendStringInfoChar(out, '"');
}

/*
 * A line.  The database is one of the labels: who reads the texts of two databases
 * side by side would take their series for the same.
 */
static void
put_line(void *out, const Sample *sample)
{
	double value = sample->value;

	appendStringInfo(out, "%s{", sample->series);
	put_label(out, "database", get_database_name(MyDatabaseId));
	if (sample->name != NULL)
		put_label(out, "name", sample->name);
	if (sample->operation != NULL)
		put_label(out, "operation", sample->operation);
	if (sample->le != NULL)
		put_label(out, "le", sample->le);
	if (value == rint(value) && fabs(value) < 1e15)
		appendStringInfo(out, "} %.0f\n", value);
	else
		appendStringInfo(out, "} %.9f\n", value);
}

/* openmetrics(): all metrics in the text format of Prometheus. */
Datum
es_openmetrics(PG_FUNCTION_ARGS)
{
	Reading *reading = read_all();
	StringInfoData out;
	Sink sink = {put_line, &out};

	initStringInfo(&out);
	for (int m = 0; m < (int) lengthof(shown); m++)
	{
		const Metric *metric = &shown[m];

		sink.series = series_name(metric);
		if (m == 0 || strcmp(shown[m - 1].metric, metric->metric) != 0)
			put_header(&out, metric, sink.series);
		put_samples(&sink, metric, reading);
	}
	/* psql ends its output with the line's end; a second one would be too many */
	appendStringInfoString(&out, "# EOF");
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/*
 * histogram_quantiles(durations, quantiles): what a histogram of these
 * durations, in seconds, says its quantiles are.
 */
Datum
es_histogram_quantiles(PG_FUNCTION_ARGS)
{
	uint64 buckets[ES_BUCKETS] = {0};
	Datum *values;
	Datum *quantiles;
	int ndurations = -1;
	int nquantiles = -1;

	es_array_argument(fcinfo, 0, "durations", false, &ndurations, &values, NULL);
	es_array_argument(fcinfo, 1, "quantiles", false, &nquantiles, &quantiles,
					  NULL);
	for (int i = 0; i < ndurations; i++)
		buckets[es_bucket_of((uint64) (DatumGetFloat8(values[i]) * 1e9) / ES_TICK_NS)]++;
	for (int i = 0; i < nquantiles && ndurations > 0; i++)
		quantiles[i] =
			Float8GetDatum(es_quantile_of(buckets, DatumGetFloat8(quantiles[i]),
										  durations.whole) *
						   durations.value);
	PG_RETURN_ARRAYTYPE_P(construct_array(quantiles,
										  ndurations > 0 ? nquantiles : 0,
										  FLOAT8OID, sizeof(float8),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
