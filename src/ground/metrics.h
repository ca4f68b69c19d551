/*
 * metrics.h
 *		Counters and latencies.
 */
#ifndef ES_METRICS_H
#define ES_METRICS_H

#include "datatype/timestamp.h"
#include "portability/instr_time.h"

#include "ground/shmem.h"

extern void es_share_metrics(void);

/* What is measured; to add one, give it a line in metrics.c as well. */
typedef enum Call
{
	ES_CALL_APPEND_EVENT,
	ES_CALL_APPEND_EVENTS,
	ES_CALL_APPEND_BATCH,
	ES_CALL_DRAINED_EVENTS, /* counted by es_count_round */
	ES_CALL_LOAD_EVENTS,
	ES_CALL_LOAD_EVENT,
	ES_CALL_AGGREGATE_SEQUENCE,
	ES_CALL_AGGREGATE_INFO,
	ES_CALL_LOCK_AGGREGATE,
	ES_CALL_ASSERT_SEQUENCE,
	ES_CALL_LOAD_AGGREGATE_IDS,
	ES_CALL_SAGA_LOG,
	ES_CALL_READ_EVENTS,
	ES_CALL_POSITION_AT,
	ES_CALL_REPLAY_AGGREGATE,
	ES_CALL_REPLAY_AGGREGATES,
	ES_CALL_SET_UPCASTER,
	ES_CALL_DROP_UPCASTER,
	ES_CALL_REDACT_EVENTS,
	ES_CALL_ERASE_AGGREGATE,
	ES_CALL_ERASE_EVENTS,
	ES_CALL_ARCHIVE_AGGREGATE,
	ES_CALL_RESTORE_AGGREGATE,
	ES_CALL_DELETE_AGGREGATE,
	ES_CALL_SET_RETENTION,
	ES_CALL_SCRUB_ERASED,
	ES_CALL_PUT_VIEW,
	ES_CALL_PUT_VIEWS,
	ES_CALL_DRAINED_VIEWS, /* counted by es_count_round */
	ES_CALL_LOAD_VIEW,
	ES_CALL_LOAD_VIEWS,
	ES_CALL_LOAD_VIEW_KEYS,
	ES_CALL_DELETE_VIEW,
	ES_CALL_CLEAR_VIEW,
	ES_CALL_SAVE_SNAPSHOT,
	ES_CALL_TAKE_SNAPSHOT,
	ES_CALL_LOAD_SNAPSHOT,
	ES_CALL_DELETE_SNAPSHOT,
	ES_CALL_DRAIN,
	ES_CALL_FLUSH,
	ES_CALL_RETRY_DEAD_LETTERS,
	ES_CALL_DISCARD_DEAD_LETTERS,
	ES_CALL_PRUNE_DEAD_LETTER_HISTORY,
	ES_CALL_PROCESS_ONCE,
	ES_CALL_RECORD_RESULT,
	ES_CALL_PROCESSED_RESULT,
	ES_CALL_FORGET_PROCESSED,
	ES_CALL_NEXT_EVENTS,
	ES_CALL_FAIL_EVENTS,
	ES_CALL_CLAIM_EVENTS,
	ES_CALL_ACK_EVENTS,
	ES_CALL_RELEASE_EVENTS,
	ES_CALL_EXTEND_LEASE,
	ES_CALL_RETRY_PARKED_EVENTS,
	ES_CALL_DISCARD_PARKED_EVENTS,
	ES_CALL_PROJECT, /* a batch */
	ES_CALL_SCHEDULE_EVENT,
	ES_CALL_RESCHEDULE_EVENT,
	ES_CALL_CANCEL_SCHEDULED_EVENT,
	ES_CALL_CANCEL_SCHEDULED_EVENTS,
	ES_CALL_DEFINE_SAGA,
	ES_CALL_START_SAGA,
	ES_CALL_CLAIM_STEPS,
	ES_CALL_EXTEND_STEP,
	ES_CALL_REPORT_STEP,
	ES_CALL_SIGNAL_SAGA,
	ES_CALL_RESOLVE_STEP,
	ES_CALL_CANCEL_SAGA,
	ES_CALL_FIRE_SAGA_TIMERS,
	ES_CALL_RUN_SAGA_HANDLERS,
	ES_CALLS
} Call;

/* Which metrics a call counts in. */
typedef enum CallGroup
{
	ES_GROUP_STORE,
	ES_GROUP_BATCH,
	ES_GROUP_LOAD,
	ES_GROUP_DELETE,
	ES_GROUP_PROJECT,
	ES_GROUP_OTHER /* errors alone */
} CallGroup;

typedef struct CallKind
{
	const char *name; /* which part of the store */
	const char *operation;
	CallGroup group;
} CallKind;

extern const CallKind es_call_kinds[ES_CALLS];

/*
 * Around what a call does.  "rows" are those that a batch has written, or that
 * a load has found; others give 0.  A call that raises between the two counts
 * as an error.
 */
extern void es_begin_call(Call call);
extern void es_end_call(Call call, int64 rows);

typedef enum Counter
{
	ES_COUNT_BLOCKED,	 /* by es_begin_blocked */
	ES_COUNT_REFUSED,	 /* writes, with staging full */
	ES_COUNT_BYPASSED,	 /* durable writes that were to be staged */
	ES_COUNT_UNATTENDED, /* the same, for want of a worker */
	ES_COUNT_ROUNDS,	 /* by es_count_round */
	ES_COUNT_SNAPSHOTS,
	ES_COUNT_SNAPSHOT_FAILURES, /* by snapshot.c */
	ES_COUNT_WORKER_STARTS,
	ES_COUNT_WORKER_FAILURES,
	ES_COUNT_WAKE_UPS,
	ES_COUNT_DELIVERIES,
	ES_COUNT_FAILED_EVENTS,
	ES_COUNT_CLAIMS,
	ES_COUNT_LOST_LEASES,
	ES_COUNT_DEADLINES, /* appended */
	ES_COUNT_FAILED_DEADLINES,
	ES_COUNT_SAGAS_STARTED,
	ES_COUNT_SAGAS_COMPLETED,
	ES_COUNT_SAGAS_COMPENSATED,
	ES_COUNT_SAGAS_FAILED,
	ES_COUNT_SAGAS_STUCK,
	ES_COUNT_COMPENSATIONS, /* of steps */
	ES_COUNT_STEP_RETRIES,
	ES_COUNT_STEP_TIMEOUTS,
	ES_COUNT_OPENED_CIRCUITS,
	ES_COUNT_ARCHIVED_EVENTS,
	ES_COUNT_RESTORED_EVENTS,
	ES_COUNT_DELETED_EVENTS,
	ES_COUNTERS
} Counter;

extern void es_count(Counter counter);
extern void es_count_many(Counter counter, int64 count);
extern void es_count_in(const SharedDatabase *db, Counter counter);
/* A sequence conflict of the running append. */
extern void es_count_conflict(void);
/* Around waiting for space in staging; an abort ends it. */
extern void es_begin_blocked(void);
extern void es_end_blocked(void);

/*
 * A round of draining, between es_begin_call and es_end_call: when the oldest
 * row that it leaves behind was staged; what it will report; and its report,
 * once it has committed.
 */
typedef struct RoundMetrics
{
	instr_time started;
	TimestampTz left_at; /* 0 = nothing left behind */
} RoundMetrics;

extern void es_count_left_behind(TimestampTz staged_at);
extern void es_describe_round(RoundMetrics *round);
extern void es_count_round(const SharedDatabase *db, int64 events, int64 views,
						   const RoundMetrics *round);

/* Numbers, not durations, whose distribution is counted. */
typedef enum Histogram
{
	ES_HISTOGRAM_DRAINED_ROWS, /* by es_count_round */
	ES_HISTOGRAM_LATENESS,	   /* of due events, ms */
	ES_HISTOGRAM_STEPS,		   /* from claim to report, ms */
	ES_HISTOGRAMS
} Histogram;

extern void es_observe(Histogram histogram, uint64 value);

/* Dead letters that come (or go) if the (sub)transaction commits ... */
extern void es_count_dead_letters(int64 change);
/* ... and all there are, when they have been counted. */
extern void es_set_dead_letters(const SharedDatabase *db, int64 count);

/*
 * A histogram is an array of counts, of numbers, or of durations in ticks of so
 * many nanoseconds.  Which of them counts a value; with which value it begins; and
 * the value that a part of those counted (one at least) does not exceed.  "whole":
 * there is nothing between one value and the next.
 */
#define ES_BUCKETS 125
#define ES_TICK_NS 250
extern int es_bucket_of(uint64 value);
extern double es_bucket_start(int bucket);
extern double es_quantile_of(const uint64 *buckets, double quantile, bool whole);

/* Everything at about one moment. */
typedef struct HistogramReading
{
	uint64 count;
	uint64 sum; /* nanoseconds for durations */
	uint64 buckets[ES_BUCKETS];
} HistogramReading;

typedef struct CallReading
{
	HistogramReading durations;
	uint64 rows;
	uint64 misses;
	uint64 errors;
	uint64 conflicts;
} CallReading;

typedef struct MetricsReading
{
	CallReading calls[ES_CALLS];
	HistogramReading histograms[ES_HISTOGRAMS];
	uint64 counters[ES_COUNTERS];
	double waiting; /* appends, for space in staging */
	double drain_rate;
	double dead_letters; /* NaN = not counted yet */
	TimestampTz left_at; /* when the oldest row that the last round left had been
						  * staged; 0 = none left */
} MetricsReading;

/* 55000 without preload. */
extern MetricsReading *es_read_metrics(void);

#endif /* ES_METRICS_H */
