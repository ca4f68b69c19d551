/*
 * metrics.c
 *		Counters and latencies of everything the store does.
 *
 * Each database with a store has one SharedMetrics beside its slot in shared
 * memory: for every kind of call a histogram of durations and a few counters,
 * some histograms of numbers, and some counters of the write-behind path.  A call
 * costs two readings of the clock and two atomic additions, no lock; reading all of
 * it takes a time that depends on nothing but its size.  Without preload nothing is
 * counted.
 *
 * A call is counted when it ends.  One that raises does not end: it is still on
 * the stack of running calls when its transaction or subtransaction aborts, and
 * is counted as an error there.  So errors cost nothing to watch for, and those
 * that a client catches (a block with EXCEPTION, a savepoint) count as well.
 * The stack is an array of ours, not a chain through the C stack, since that is
 * gone by then.  The callbacks are apart from those of transaction.c because
 * they are wanted in sessions that only read, too.
 *
 * What a round of draining moved counts when it has committed, with the time
 * until then; own_rows.c reports it.
 *
 * The histograms are logarithmic with four buckets to each power of two, so a
 * percentile is at most 12 % away from the value it stands for.
 *
 * Counters begin at the start of the server, as those of any process do, except
 * that of lost epochs, which is stored.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "ground/metrics.h"
#include "ground/shmem.h"

/* ---------- what is counted ---------- */

const CallKind es_call_kinds[ES_CALLS] =
	{[ES_CALL_APPEND_EVENT] = {"events", "append_event", ES_GROUP_STORE},
	 [ES_CALL_APPEND_EVENTS] = {"events", "append_events", ES_GROUP_BATCH},
	 [ES_CALL_APPEND_BATCH] = {"events", "append_batch", ES_GROUP_BATCH},
	 [ES_CALL_DRAINED_EVENTS] = {"events", "drain", ES_GROUP_BATCH},
	 [ES_CALL_LOAD_EVENTS] = {"events", "load_events", ES_GROUP_LOAD},
	 [ES_CALL_LOAD_EVENT] = {"events", "load_event", ES_GROUP_LOAD},
	 [ES_CALL_AGGREGATE_SEQUENCE] = {"events", "aggregate_sequence", ES_GROUP_LOAD},
	 [ES_CALL_AGGREGATE_INFO] = {"events", "aggregate_info", ES_GROUP_LOAD},
	 [ES_CALL_LOCK_AGGREGATE] = {"events", "lock_aggregate", ES_GROUP_OTHER},
	 [ES_CALL_ASSERT_SEQUENCE] = {"events", "assert_sequence", ES_GROUP_OTHER},
	 [ES_CALL_LOAD_AGGREGATE_IDS] = {"events", "load_aggregate_ids", ES_GROUP_LOAD},
	 [ES_CALL_SAGA_LOG] = {"events", "saga_log", ES_GROUP_LOAD},
	 [ES_CALL_READ_EVENTS] = {"events", "read_events", ES_GROUP_LOAD},
	 [ES_CALL_POSITION_AT] = {"events", "position_at", ES_GROUP_LOAD},
	 [ES_CALL_REPLAY_AGGREGATE] = {"events", "replay_aggregate", ES_GROUP_LOAD},
	 [ES_CALL_REPLAY_AGGREGATES] = {"events", "replay_aggregates", ES_GROUP_LOAD},
	 [ES_CALL_SET_UPCASTER] = {"events", "set_upcaster", ES_GROUP_OTHER},
	 [ES_CALL_DROP_UPCASTER] = {"events", "drop_upcaster", ES_GROUP_OTHER},
	 [ES_CALL_REDACT_EVENTS] = {"events", "redact_events", ES_GROUP_DELETE},
	 [ES_CALL_ERASE_AGGREGATE] = {"events", "erase_aggregate", ES_GROUP_DELETE},
	 [ES_CALL_ERASE_EVENTS] = {"events", "erase_events", ES_GROUP_DELETE},
	 [ES_CALL_ARCHIVE_AGGREGATE] = {"events", "archive_aggregate", ES_GROUP_OTHER},
	 [ES_CALL_RESTORE_AGGREGATE] = {"events", "restore_aggregate", ES_GROUP_OTHER},
	 [ES_CALL_DELETE_AGGREGATE] = {"events", "delete_aggregate", ES_GROUP_DELETE},
	 [ES_CALL_SET_RETENTION] = {"events", "set_retention", ES_GROUP_OTHER},
	 [ES_CALL_SCRUB_ERASED] = {"events", "scrub_erased", ES_GROUP_OTHER},
	 [ES_CALL_PUT_VIEW] = {"views", "put_view", ES_GROUP_STORE},
	 [ES_CALL_PUT_VIEWS] = {"views", "put_views", ES_GROUP_BATCH},
	 [ES_CALL_DRAINED_VIEWS] = {"views", "drain", ES_GROUP_BATCH},
	 [ES_CALL_LOAD_VIEW] = {"views", "load_view", ES_GROUP_LOAD},
	 [ES_CALL_LOAD_VIEWS] = {"views", "load_views", ES_GROUP_LOAD},
	 [ES_CALL_LOAD_VIEW_KEYS] = {"views", "load_view_keys", ES_GROUP_LOAD},
	 [ES_CALL_DELETE_VIEW] = {"views", "delete_view", ES_GROUP_DELETE},
	 [ES_CALL_CLEAR_VIEW] = {"views", "clear_view", ES_GROUP_DELETE},
	 [ES_CALL_SAVE_SNAPSHOT] = {"snapshots", "save_snapshot", ES_GROUP_STORE},
	 [ES_CALL_TAKE_SNAPSHOT] = {"snapshots", "take_snapshot", ES_GROUP_STORE},
	 [ES_CALL_LOAD_SNAPSHOT] = {"snapshots", "load_snapshot", ES_GROUP_LOAD},
	 [ES_CALL_DELETE_SNAPSHOT] = {"snapshots", "delete_snapshot", ES_GROUP_DELETE},
	 [ES_CALL_DRAIN] = {"staging", "drain", ES_GROUP_OTHER},
	 [ES_CALL_FLUSH] = {"staging", "flush", ES_GROUP_OTHER},
	 [ES_CALL_RETRY_DEAD_LETTERS] = {"staging", "retry_dead_letters",
									 ES_GROUP_OTHER},
	 [ES_CALL_PRUNE_DEAD_LETTER_HISTORY] = {"staging", "prune_dead_letter_history",
											ES_GROUP_OTHER},
	 [ES_CALL_DISCARD_DEAD_LETTERS] = {"staging", "discard_dead_letters",
									   ES_GROUP_OTHER},
	 [ES_CALL_PROCESS_ONCE] = {"consumers", "process_once", ES_GROUP_STORE},
	 [ES_CALL_RECORD_RESULT] = {"consumers", "record_result", ES_GROUP_STORE},
	 [ES_CALL_PROCESSED_RESULT] = {"consumers", "processed_result", ES_GROUP_LOAD},
	 [ES_CALL_FORGET_PROCESSED] = {"consumers", "forget_processed", ES_GROUP_OTHER},
	 [ES_CALL_NEXT_EVENTS] = {"consumers", "next_events", ES_GROUP_LOAD},
	 [ES_CALL_FAIL_EVENTS] = {"consumers", "fail_events", ES_GROUP_OTHER},
	 [ES_CALL_CLAIM_EVENTS] = {"consumers", "claim_events", ES_GROUP_LOAD},
	 [ES_CALL_ACK_EVENTS] = {"consumers", "ack_events", ES_GROUP_OTHER},
	 [ES_CALL_RELEASE_EVENTS] = {"consumers", "release_events", ES_GROUP_OTHER},
	 [ES_CALL_EXTEND_LEASE] = {"consumers", "extend_lease", ES_GROUP_OTHER},
	 [ES_CALL_RETRY_PARKED_EVENTS] = {"consumers", "retry_parked_events",
									  ES_GROUP_OTHER},
	 [ES_CALL_DISCARD_PARKED_EVENTS] = {"consumers", "discard_parked_events",
										ES_GROUP_OTHER},
	 [ES_CALL_PROJECT] = {"projections", "project", ES_GROUP_PROJECT},
	 [ES_CALL_SCHEDULE_EVENT] = {"deadlines", "schedule_event", ES_GROUP_STORE},
	 [ES_CALL_RESCHEDULE_EVENT] = {"deadlines", "reschedule_event", ES_GROUP_STORE},
	 [ES_CALL_CANCEL_SCHEDULED_EVENT] = {"deadlines", "cancel_scheduled_event",
										 ES_GROUP_DELETE},
	 [ES_CALL_CANCEL_SCHEDULED_EVENTS] = {"deadlines", "cancel_scheduled_events",
										  ES_GROUP_DELETE},
	 [ES_CALL_DEFINE_SAGA] = {"sagas", "define_saga", ES_GROUP_OTHER},
	 [ES_CALL_START_SAGA] = {"sagas", "start_saga", ES_GROUP_STORE},
	 [ES_CALL_CLAIM_STEPS] = {"sagas", "claim_steps", ES_GROUP_LOAD},
	 [ES_CALL_EXTEND_STEP] = {"sagas", "extend_step", ES_GROUP_OTHER},
	 [ES_CALL_REPORT_STEP] = {"sagas", "report_step", ES_GROUP_STORE},
	 [ES_CALL_SIGNAL_SAGA] = {"sagas", "signal_saga", ES_GROUP_STORE},
	 [ES_CALL_RESOLVE_STEP] = {"sagas", "resolve_step", ES_GROUP_OTHER},
	 [ES_CALL_CANCEL_SAGA] = {"sagas", "cancel_saga", ES_GROUP_OTHER},
	 [ES_CALL_FIRE_SAGA_TIMERS] = {"sagas", "fire_saga_timers", ES_GROUP_OTHER},
	 [ES_CALL_RUN_SAGA_HANDLERS] = {"sagas", "run_saga_handlers", ES_GROUP_OTHER}};

/* From 2^32, 18 minutes of ticks, everything falls into one bucket. */
#define OVERFLOW_BIT 32
#define SUBBUCKETS 4

StaticAssertDecl(ES_BUCKETS == (OVERFLOW_BIT - 1) * SUBBUCKETS + 1,
				 "as many buckets as values need");

typedef struct HistogramMetrics
{
	pg_atomic_uint64 sum; /* nanoseconds for durations */
	pg_atomic_uint64 buckets[ES_BUCKETS];
} HistogramMetrics;

typedef struct CallMetrics
{
	HistogramMetrics durations;
	pg_atomic_uint64 rows;	 /* written by batches */
	pg_atomic_uint64 misses; /* loads that found nothing */
	pg_atomic_uint64 errors;
	pg_atomic_uint64 conflicts;
} CallMetrics;

/* The drain rate is that of so many seconds; a power of two is above it. */
#define RATE_SECONDS 10
#define RATE_SLOTS 16

typedef struct SharedMetrics
{
	CallMetrics calls[ES_CALLS];
	HistogramMetrics histograms[ES_HISTOGRAMS];
	pg_atomic_uint64 counters[ES_COUNTERS];
	pg_atomic_uint64 waiting;		/* appends, for space in staging */
	pg_atomic_uint64 dead_letters;	/* signed */
	pg_atomic_uint64 letters_known; /* 0 = not counted yet */
	pg_atomic_uint64 left_at;		/* when the oldest row that the last round
									 * left had been staged; 0 = none left */
	pg_atomic_uint64 rate_second[RATE_SLOTS];
	pg_atomic_uint64 rate_rows[RATE_SLOTS];
} SharedMetrics;

/* ---------- shared memory ---------- */

/* A SharedMetrics is nothing but atomics. */
#define METRICS_ATOMICS (sizeof(SharedMetrics) / sizeof(pg_atomic_uint64))

static void
initialise_metrics(void *memory)
{
	pg_atomic_uint64 *atomics = memory;

	for (Size i = 0; i < METRICS_ATOMICS; i++)
		pg_atomic_init_u64(&atomics[i], 0);
}

static void clear_metrics(SharedDatabase *db);

static DatabasePart part = {sizeof(SharedMetrics), initialise_metrics,
							clear_metrics};

void
es_share_metrics(void)
{
	es_share_by_database(&part);
}

static SharedMetrics *
metrics_of(const SharedDatabase *db)
{
	return es_part(db, &part);
}

static void
clear_metrics(SharedDatabase *db)
{
	pg_atomic_uint64 *atomics = (pg_atomic_uint64 *) metrics_of(db);

	for (Size i = 0; i < METRICS_ATOMICS; i++)
		pg_atomic_write_u64(&atomics[i], 0);
}

/* This database's metrics; NULL without preload, or when it has no slot. */
static SharedMetrics *
my_metrics(void)
{
	static SharedMetrics *mine = NULL;
	static bool looked = false;
	SharedDatabase *db;

	if (mine != NULL || looked || !OidIsValid(MyDatabaseId))
		return mine;
	looked = true;
	db = es_my_database();
	if (db != NULL)
		mine = metrics_of(db);
	return mine;
}

static void
add(pg_atomic_uint64 *counter, int64 n)
{
	if (n != 0)
		pg_atomic_fetch_add_u64(counter, n);
}

/* ---------- histograms ---------- */

int
es_bucket_of(uint64 value)
{
	int bit;

	if (value < SUBBUCKETS)
		return (int) value;
	bit = pg_leftmost_one_pos64(value);
	if (bit >= OVERFLOW_BIT)
		return ES_BUCKETS - 1;
	return (bit - 1) * SUBBUCKETS +
		   (int) ((value >> (bit - 2)) & (SUBBUCKETS - 1));
}

double
es_bucket_start(int bucket)
{
	if (bucket < SUBBUCKETS)
		return bucket;
	return ldexp(SUBBUCKETS + bucket % SUBBUCKETS, bucket / SUBBUCKETS - 1);
}

static uint64
total_of(const uint64 *buckets)
{
	uint64 total = 0;

	for (int i = 0; i < ES_BUCKETS; i++)
		total += buckets[i];
	return total;
}

/*
 * The value that a part "quantile" of a histogram's values does not exceed: the
 * geometric middle of its bucket, which ends with the last whole number in it, or
 * where the next one begins.  The histogram is not empty.
 */
double
es_quantile_of(const uint64 *buckets, double quantile, bool whole)
{
	uint64 total = total_of(buckets);
	double rank = ceil(quantile * (double) total);
	uint64 seen = 0;
	int bucket = 0;

	for (bucket = 0; bucket < ES_BUCKETS - 1; bucket++)
	{
		seen += buckets[bucket];
		if (seen > 0 && (double) seen >= rank)
			break;
	}
	if (bucket == ES_BUCKETS - 1)
		return es_bucket_start(bucket);
	if (whole)
		return sqrt(es_bucket_start(bucket) * (es_bucket_start(bucket + 1) - 1));
	if (bucket == 0)
		return es_bucket_start(1) / 2;
	return sqrt(es_bucket_start(bucket) * es_bucket_start(bucket + 1));
}

static void
observe(HistogramMetrics *histogram, int bucket, uint64 value)
{
	add(&histogram->buckets[bucket], 1);
	add(&histogram->sum, (int64) value);
}

void
es_observe(Histogram histogram, uint64 value)
{
	SharedMetrics *metrics = my_metrics();

	if (metrics != NULL)
		observe(&metrics->histograms[histogram], es_bucket_of(value), value);
}

static void
observe_call(CallMetrics *call, instr_time started, int64 rows)
{
	instr_time now;
	uint64 nanoseconds;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, started);
	nanoseconds = (uint64) Max((int64) INSTR_TIME_GET_NANOSEC(now), 0);
	observe(&call->durations, es_bucket_of(nanoseconds / ES_TICK_NS), nanoseconds);
	add(&call->rows, rows);
}

/* ---------- the running calls of this backend ---------- */

/* Deeper ones (triggers that call in turn) are not counted. */
#define MAX_RUNNING 32

typedef struct RunningCall
{
	Call call;
	SubTransactionId subtransaction;
	instr_time started;
} RunningCall;

static RunningCall running[MAX_RUNNING];
static int nrunning = 0;

/* Dead letters that come or go with the current transaction. */
typedef struct LetterNote
{
	SubTransactionId subtransaction;
	int64 change;
} LetterNote;

static LetterNote *letters = NULL; /* in TopTransactionContext */
static int nletters = 0;
static int maxletters = 0;

/* What waits for space: invalid = nothing. */
static SubTransactionId waiting_in = InvalidSubTransactionId;

/* What the round that runs has left behind. */
static TimestampTz round_left_at = 0;

/* Counts as errors the calls that ended with a subtransaction, or all. */
static void
abort_calls(SubTransactionId subtransaction)
{
	SharedMetrics *metrics = my_metrics();

	while (nrunning > 0 && running[nrunning - 1].subtransaction >= subtransaction)
	{
		nrunning--;
		if (metrics != NULL)
			add(&metrics->calls[running[nrunning].call].errors, 1);
	}
	if (waiting_in >= subtransaction)
		es_end_blocked();
	while (nletters > 0 && letters[nletters - 1].subtransaction >= subtransaction)
		nletters--;
}

static void
transaction_ended(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			for (int i = 0; i < nletters; i++)
				add(&my_metrics()->dead_letters, letters[i].change);
			break;
		case XACT_EVENT_ABORT:
			abort_calls(TopSubTransactionId);
			break;
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	nrunning = 0;
	letters = NULL;
	nletters = maxletters = 0;
}

static void
subtransaction_ended(SubXactEvent event, SubTransactionId id,
					 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		abort_calls(id);
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
	registered = true;
}

void
es_begin_call(Call call)
{
	RunningCall *entry;

	if (my_metrics() == NULL || nrunning == MAX_RUNNING)
		return;
	register_callbacks();
	entry = &running[nrunning++];
	entry->call = call;
	entry->subtransaction = GetCurrentSubTransactionId();
	INSTR_TIME_SET_CURRENT(entry->started);
	if (call == ES_CALL_DRAIN)
		round_left_at = 0;
}

void
es_end_call(Call call, int64 rows)
{
	SharedMetrics *metrics = my_metrics();
	CallGroup group = es_call_kinds[call].group;
	bool in_batches = group == ES_GROUP_BATCH || group == ES_GROUP_PROJECT;
	int i = nrunning - 1;

	while (i >= 0 && running[i].call != call)
		i--;
	if (i < 0)
		return;
	nrunning = i;
	if (group == ES_GROUP_LOAD)
		add(&metrics->calls[call].misses, rows == 0 ? 1 : 0);
	observe_call(&metrics->calls[call], running[i].started, in_batches ? rows : 0);
}

/* ---------- single counters ---------- */

void
es_count(Counter counter)
{
	es_count_many(counter, 1);
}

void
es_count_many(Counter counter, int64 count)
{
	SharedMetrics *metrics = my_metrics();

	if (metrics != NULL)
		add(&metrics->counters[counter], count);
}

void
es_count_in(const SharedDatabase *db, Counter counter)
{
	add(&metrics_of(db)->counters[counter], 1);
}

void
es_count_conflict(void)
{
	if (nrunning > 0)
		add(&my_metrics()->calls[running[nrunning - 1].call].conflicts, 1);
}

void
es_begin_blocked(void)
{
	SharedMetrics *metrics = my_metrics();

	if (metrics == NULL)
		return;
	register_callbacks();
	add(&metrics->counters[ES_COUNT_BLOCKED], 1);
	waiting_in = GetCurrentSubTransactionId();
	add(&metrics->waiting, 1);
}

void
es_end_blocked(void)
{
	if (waiting_in == InvalidSubTransactionId)
		return;
	waiting_in = InvalidSubTransactionId;
	add(&my_metrics()->waiting, -1);
}

/* ---------- draining ---------- */

void
es_count_left_behind(TimestampTz staged_at)
{
	round_left_at = staged_at;
}

void
es_describe_round(RoundMetrics *round)
{
	round->left_at = round_left_at;
	INSTR_TIME_SET_ZERO(round->started);
	if (nrunning > 0 && running[nrunning - 1].call == ES_CALL_DRAIN)
		round->started = running[nrunning - 1].started;
}

/* Rounds follow each other under the drain lock, so there is one writer. */
static void
count_rate(SharedMetrics *metrics, int64 rows)
{
	uint64 second = (uint64) (GetCurrentTimestamp() / USECS_PER_SEC);
	int slot = (int) (second % RATE_SLOTS);

	if (pg_atomic_read_u64(&metrics->rate_second[slot]) != second)
	{
		pg_atomic_write_u64(&metrics->rate_rows[slot], 0);
		pg_atomic_write_u64(&metrics->rate_second[slot], second);
	}
	add(&metrics->rate_rows[slot], rows);
}

void
es_count_round(const SharedDatabase *db, int64 events, int64 views,
			   const RoundMetrics *round)
{
	SharedMetrics *metrics = metrics_of(db);

	add(&metrics->counters[ES_COUNT_ROUNDS], 1);
	if (INSTR_TIME_IS_ZERO(round->started))
		return;
	if (events > 0)
		observe_call(&metrics->calls[ES_CALL_DRAINED_EVENTS], round->started,
					 events);
	if (views > 0)
		observe_call(&metrics->calls[ES_CALL_DRAINED_VIEWS], round->started,
					 views);
	if (events + views > 0)
	{
		count_rate(metrics, events + views);
		es_observe(ES_HISTOGRAM_DRAINED_ROWS, (uint64) (events + views));
	}
	pg_atomic_write_u64(&metrics->left_at, (uint64) round->left_at);
}

/* Rows drained a second, in the last full seconds. */
static double
drain_rate(SharedMetrics *metrics)
{
	uint64 now = (uint64) (GetCurrentTimestamp() / USECS_PER_SEC);
	uint64 rows = 0;

	for (int i = 0; i < RATE_SLOTS; i++)
	{
		uint64 second = pg_atomic_read_u64(&metrics->rate_second[i]);

		if (second < now && second + RATE_SECONDS >= now)
			rows += pg_atomic_read_u64(&metrics->rate_rows[i]);
	}
	return (double) rows / RATE_SECONDS;
}

/* ---------- dead letters ---------- */

void
es_count_dead_letters(int64 change)
{
	SubTransactionId current = GetCurrentSubTransactionId();

	if (my_metrics() == NULL || change == 0)
		return;
	register_callbacks();
	if (nletters > 0 && letters[nletters - 1].subtransaction == current)
	{
		letters[nletters - 1].change += change;
		return;
	}
	if (nletters == maxletters)
	{
		int size = maxletters == 0 ? 16 : maxletters * 2;

		letters = letters == NULL
					  ? MemoryContextAlloc(TopTransactionContext,
										   size * sizeof(LetterNote))
					  : repalloc_huge(letters, size * sizeof(LetterNote));
		maxletters = size;
	}
	letters[nletters].subtransaction = current;
	letters[nletters].change = change;
	nletters++;
}

void
es_set_dead_letters(const SharedDatabase *db, int64 count)
{
	SharedMetrics *metrics = metrics_of(db);

	pg_atomic_write_u64(&metrics->dead_letters, (uint64) count);
	pg_atomic_write_u64(&metrics->letters_known, 1);
}

/* ---------- reading ---------- */

static void
read_histogram(HistogramMetrics *from, HistogramReading *to)
{
	for (int b = 0; b < ES_BUCKETS; b++)
		to->buckets[b] = pg_atomic_read_u64(&from->buckets[b]);
	to->count = total_of(to->buckets);
	to->sum = pg_atomic_read_u64(&from->sum);
}

/*
 * Reads everything.  The store need not have been used, or be there, for its
 * metrics to exist: then nothing was done.
 */
MetricsReading *
es_read_metrics(void)
{
	MetricsReading *reading = palloc0(sizeof(MetricsReading));
	SharedDatabase *db;
	SharedMetrics *metrics;

	if (es_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("metrics need the library event_store to be preloaded"),
				 errhint("Set shared_preload_libraries = 'event_store' and restart the server.")));
	es_refuse_without_place("Metrics need");
	reading->dead_letters = NAN;
	db = es_find_database(MyDatabaseId);
	if (db == NULL)
		return reading;
	metrics = metrics_of(db);
	for (int i = 0; i < ES_CALLS; i++)
	{
		CallMetrics *call = &metrics->calls[i];
		CallReading *to = &reading->calls[i];

		read_histogram(&call->durations, &to->durations);
		to->rows = pg_atomic_read_u64(&call->rows);
		to->misses = pg_atomic_read_u64(&call->misses);
		to->errors = pg_atomic_read_u64(&call->errors);
		to->conflicts = pg_atomic_read_u64(&call->conflicts);
	}
	for (int i = 0; i < ES_HISTOGRAMS; i++)
		read_histogram(&metrics->histograms[i], &reading->histograms[i]);
	for (int i = 0; i < ES_COUNTERS; i++)
		reading->counters[i] = pg_atomic_read_u64(&metrics->counters[i]);
	reading->waiting = (double) pg_atomic_read_u64(&metrics->waiting);
	reading->drain_rate = drain_rate(metrics);
	reading->left_at = (TimestampTz) pg_atomic_read_u64(&metrics->left_at);
	if (pg_atomic_read_u64(&metrics->letters_known) != 0)
		reading->dead_letters =
			Max((double) (int64) pg_atomic_read_u64(&metrics->dead_letters), 0.0);
	return reading;
}
