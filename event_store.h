/*
 * event_store.h
 *		The one header shared by all parts of event_store.
 *
 * The sections below stand in the order in which the parts may call each
 * other: a file uses what is declared above its own section (the ground) and
 * nothing below it.  ARCHITECTURE.md draws the same picture.
 *
 * Copyright (c) 2026, event_store contributors
 */
#ifndef EVENT_STORE_H
#define EVENT_STORE_H

#include "postgres.h"

#include "access/htup.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "storage/condition_variable.h"
#include "storage/itemptr.h"
#include "storage/latch.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "tcop/dest.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "compat.h"

/* The number of a wait event of ours, registered when first needed. */
static inline uint32
es_wait_event(uint32 *cached, const char *name)
{
	if (*cached == 0)
		*cached = WaitEventExtensionNew(name);
	return *cached;
}

#define ES_VERSION "0.1.0"
#define ES_SCHEMA "event_store"

/* Types, ids and keys are at most this many characters long. */
#define ES_MAX_NAME_CHARS 255
/* A payload is at most this many bytes, as a jsonb value is. */
#define ES_MAX_PAYLOAD_BYTES (256 * 1024 * 1024 - 1)
/* Durable rows are written in statements of at most this many rows ... */
#define ES_CHUNK_ROWS 1000
/* ... and about this many bytes, so that one statement stays small. */
#define ES_CHUNK_BYTES (16 * 1024 * 1024)
/* A caller never waits longer than this, in milliseconds. */
#define ES_MAX_TIMEOUT_MS (10 * 60 * 1000)

/* Error codes of our own; DESIGN calls them VS001 to VS006. */
#define ES_ERRCODE_SEQUENCE_CONFLICT MAKE_SQLSTATE('V', 'S', '0', '0', '1')
#define ES_ERRCODE_EVENT_ID_REUSED MAKE_SQLSTATE('V', 'S', '0', '0', '2')
#define ES_ERRCODE_APPEND_ONLY MAKE_SQLSTATE('V', 'S', '0', '0', '3')
#define ES_ERRCODE_STAGING_FULL MAKE_SQLSTATE('V', 'S', '0', '0', '4')
#define ES_ERRCODE_DEAD_LETTERS MAKE_SQLSTATE('V', 'S', '0', '0', '6')

/*
 * The columns of domain_events and of the type event, in table order,
 * counted from 0.  A row on its way in or out is a Datum array in this order.
 */
typedef enum EventColumn
{
	EV_GLOBAL_POSITION,
	EV_AGGREGATE_TYPE,
	EV_AGGREGATE_ID,
	EV_SEQUENCE,
	EV_EVENT_ID,
	EV_EVENT_TYPE,
	EV_SCHEMA_VERSION,
	EV_PAYLOAD,
	EV_PAYLOAD_BYTES,
	EV_METADATA,
	EV_CORRELATION_ID,
	EV_CAUSATION_ID,
	EV_SAGA_ID,
	EV_OCCURRED_AT,
	EV_RECORDED_AT,
	EV_COLUMNS
} EventColumn;

/* Selects the columns of an event, in that order, from domain_events as e. */
#define ES_EVENT_SELECT                                                        \
	"SELECT e.global_position, e.aggregate_type, e.aggregate_id, e.sequence,"  \
	" e.event_id, e.event_type, e.schema_version, e.payload, e.payload_bytes," \
	" e.metadata, e.correlation_id, e.causation_id, e.saga_id, e.occurred_at," \
	" e.recorded_at FROM event_store.domain_events e"

typedef struct EventRow
{
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
} EventRow;

/* ---------- settings.c: every setting ---------- */

typedef enum Durability
{
	ES_DURABLE,
	ES_STAGED
} Durability;

typedef enum OnStagingFull
{
	ES_FULL_DURABLE,
	ES_FULL_BLOCK,
	ES_FULL_ERROR
} OnStagingFull;

extern int es_durability;		/* Durability */
extern int es_on_staging_full;	/* OnStagingFull */
extern int es_write_delay;		/* ms */
extern int es_write_batch_size; /* rows */
extern int es_staging_limit;	/* rows; 0 = staging off */
extern int es_retry_initial;	/* ms */
extern int es_retry_max;		/* ms */
extern int es_snapshot_every;	/* events; 0 = never */

extern void es_define_settings(void);

/* The durability a call asks for; NULL = the setting.  22023 on other words. */
extern Durability es_durability_argument(FunctionCallInfo fcinfo, int argno);

/* ---------- arguments.c: checking what callers give ---------- */

/*
 * All report the argument by name: 22004 for NULL, 22023 for empty, 22001 for
 * too long.  "where" is NULL or " of event 3", appended to the name.
 */
extern text *es_required_text(FunctionCallInfo fcinfo, int argno,
							  const char *name);
extern void es_check_name(Datum value, bool isnull, const char *name,
						  const char *where, bool required);
extern int64 es_max_count_argument(FunctionCallInfo fcinfo, int argno);
extern void es_check_timeout(const Interval *timeout, const char *name,
							 int64 *milliseconds);
/*
 * A one-dimensional array argument without NULL elements where "nullable" is
 * false, its length equal to *count (or setting *count when that is -1).
 */
extern void es_array_argument(FunctionCallInfo fcinfo, int argno,
							  const char *name, bool nullable, int *count,
							  Datum **values, bool **nulls);

/* ---------- uuid7.c: event ids made here ---------- */

/* A new UUIDv7, greater than all that this backend has made before. */
extern pg_uuid_t *es_uuid7(void);

/* ---------- event_input.c: the events that callers give ---------- */

/* One event that a caller wants to append. */
typedef struct NewEvent
{
	EventRow row;	/* position, sequence, recorded_at still unset */
	bool expects;	/* an expected_sequence was given ... */
	int64 expected; /* ... namely this: -4, 0 or n */
	bool id_given;	/* the caller gave the event_id */
	int aggregate;	/* used by event_store.c */
} NewEvent;

typedef struct NewEvents
{
	NewEvent *events;
	int count;
} NewEvents;

#define ES_EXPECT_EXISTS (-4)

/*
 * Checks one event's columns as far as they do not depend on the store and
 * fills in what was not given: payload {}, a UUIDv7 event_id, schema_version
 * 1; occurred_at stays NULL until recorded_at is known.  Sets id_given, and
 * checks "expected" if "expects" is set.  "where" as above.  Once per event.
 */
extern void es_complete_event(NewEvent *event, const char *where);
/* 22023 with the hint about -1 unless -4, 0 or positive. */
extern void es_check_expected(int64 expected, const char *where);

/*
 * The list of append_events and append_batch(jsonb).  Where the aggregate is
 * the same for all, give it; else pass NULL and each object names its own.
 * This and the next complete every event themselves, naming it by its place.
 */
extern NewEvents es_events_from_json(Jsonb *events, text *aggregate_type,
									 text *aggregate_id);
/* The arrays of append_batch, arguments 0 to 12 in their order. */
extern NewEvents es_events_from_arrays(FunctionCallInfo fcinfo);
/* About the bytes of an event's large values. */
extern Size es_event_size(const EventRow *row);

/* ---------- worker_slot.c: a database's worker, and the launcher ---------- */

typedef struct SharedDatabase SharedDatabase;

/* Of the message of an error so much is shown. */
#define ES_ERROR_CHARS 256
/* A worker has at most so many kinds of work; worker.c has their table. */
#define ES_MAX_JOBS 16

typedef enum WorkerState
{
	ES_WORKER_NONE,
	ES_WORKER_WANTED, /* the launcher shall start one */
	ES_WORKER_STARTING,
	ES_WORKER_RUNNING,
	ES_WORKER_UNAVAILABLE /* could not be started; tried again later */
} WorkerState;

/* How a job of the worker goes; it outlives the worker. */
typedef struct JobStatus
{
	bool running;
	int failures; /* in a row */
	TimestampTz last_run_at;
	char last_error[ES_ERROR_CHARS];
} JobStatus;

/*
 * The place of a database's worker.  SharedDatabase.lock protects all of it but
 * the condition variable.  "state" changes in worker_slot.c alone, and is read
 * without the lock where a stale answer does no harm.
 */
typedef struct WorkerSlot
{
	WorkerState state;
	pid_t pid;	  /* 0 = none */
	Latch *latch; /* NULL = none */
	TimestampTz started_at;
	bool ran;	 /* the last one got as far as running */
	bool called; /* es_wake_worker() since it last looked */
	bool nudged; /* es_nudge_worker(), or it was dismissed */
	int bars;	 /* commands that need the database to themselves; no
				  * worker starts meanwhile */
	JobStatus jobs[ES_MAX_JOBS]; /* in the order of worker.c's table */
	/* after every change of state, every round and every opening of staging */
	ConditionVariable progress;
} WorkerSlot;

/* The place of the cluster's launcher.  SharedState.lock protects it. */
typedef struct LauncherSlot
{
	pid_t pid; /* 0 = none */
	Latch *latch;
	TimestampTz gone_at; /* since when there is none */
} LauncherSlot;

extern void es_init_launcher_slot(LauncherSlot *launcher);
extern void es_init_worker_slot(WorkerSlot *slot);
/* For a database that is new in its slot; the lock is held. */
extern void es_clear_worker_slot(SharedDatabase *db);

extern const char *es_worker_state_name(WorkerState state);
/* Whether there is a worker, or can be one. */
extern bool es_worker_possible(const SharedDatabase *db);
/*
 * Wakes the worker of a slot, or asks the launcher for one.  It makes sure that
 * staging is open and drains what is due.  Never raises.
 */
extern void es_wake_worker(SharedDatabase *db);
/* The same for other work, which is no reason to open staging. */
extern void es_nudge_worker(SharedDatabase *db);
/* Lets those look again who wait for something that the worker does. */
extern void es_tell_progress(SharedDatabase *db);
/*
 * Around waiting for that; begin before the first look.  In the worker itself,
 * which would wait for ever, beginning raises an error.
 */
extern void es_begin_wait(SharedDatabase *db);
extern void es_wait(SharedDatabase *db, long timeout, uint32 wait_event);
extern void es_end_wait(void);
/* Whether this process is that worker, and the error that says so. */
extern bool es_is_worker(const SharedDatabase *db);
extern void es_refuse_in_worker(const SharedDatabase *db);

/* The launcher takes its place, until it exits. */
extern void es_enter_launcher_slot(void);
extern pid_t es_launcher_pid(void); /* 0 = none */
extern void es_wake_launcher(void);

/* What the launcher does: is a worker to be started in this slot? */
extern bool es_worker_wanted(SharedDatabase *db, Oid database);
extern bool es_worker_starting(SharedDatabase *db);
/* Wants a worker where there is none. */
extern void es_want_worker(SharedDatabase *db, Oid database);
/* Wants another one instead of one on its way that nobody knows of. */
extern void es_want_lost_worker(SharedDatabase *db);
/* Before a process is asked for, and when it was granted. */
extern void es_begin_start(SharedDatabase *db);
extern void es_mark_starting(SharedDatabase *db, Oid database);
/*
 * After the end of a worker that was started: whether there should be another,
 * and whether this one got as far as running.
 */
extern bool es_worker_missed(SharedDatabase *db, Oid database, bool *ran);
/* What becomes of a wish: it stays one, or nobody shall count on it. */
extern void es_settle_start(SharedDatabase *db, Oid database, bool possible);

/*
 * The worker takes its place, until it exits, and says that it is connected.
 * False where it is not wanted (any more): then it exits.
 */
extern bool es_enter_worker_slot(SharedDatabase *db, Oid database);
extern bool es_report_for_duty(SharedDatabase *db);
/* Whether it was called since the last time that this was asked. */
extern bool es_take_call(SharedDatabase *db);
/* Lets it go, unless it was called or nudged since then. */
extern bool es_retire_worker(SharedDatabase *db);
/*
 * Around a run of one of its jobs.  An error, or NULL, is shown also where the
 * job as a whole did not fail.  Returns its failures in a row.
 */
extern void es_begin_job(SharedDatabase *db, int job);
extern int es_end_job(SharedDatabase *db, int job, bool succeeded,
					  const char *error);
/* Copies as much of a message as is shown. */
extern void es_copy_error(char *error, const char *message);

/*
 * Keeps workers out of a database that a command needs for itself; NULL when
 * the cluster has no slot left for this.  Sets whether it has a store.
 */
extern SharedDatabase *es_bar_worker(Oid database, bool *has_store);
extern void es_unbar_worker(Oid database);
/* Tells the worker to go; its end is then no outage.  Returns whether it went. */
extern bool es_dismiss_worker(SharedDatabase *db, Oid database);

/* ---------- drain_state.c: how the drain goes, and who waits for it ---------- */

typedef enum DrainState
{
	ES_DRAIN_IDLE,
	ES_DRAIN_DRAINING,
	ES_DRAIN_BACKING_OFF,
	ES_DRAIN_STOPPED
} DrainState;

/*
 * SharedDatabase.lock protects the plain fields but for the two "pending" ones,
 * which belong to who holds the drain lock.  "state" changes in drain_state.c
 * alone.
 */
typedef struct DrainProgress
{
	pg_atomic_uint64 requested; /* the last request */
	pg_atomic_uint64 done;		/* the one last fulfilled */
	uint64 pending_request;		/* that rounds work on */
	int64 pending_sid;			/* what it asks for has lower sids */
	DrainState state;
	int failures; /* of the worker's rounds, in a row */
	char last_error[ES_ERROR_CHARS];
	TimestampTz last_drain_at;
} DrainProgress;

extern void es_init_drain_progress(DrainProgress *drain);
/* For a database that is new in its slot; the lock is held. */
extern void es_clear_drain_progress(SharedDatabase *db);

extern const char *es_drain_state_name(DrainState state);
extern void es_set_drain_state(SharedDatabase *db, DrainState state);
/* A round, or what it needs, failed: backs off.  Returns the failures in a row. */
extern int es_note_drain_failure(SharedDatabase *db, const char *message);
extern void es_note_drain_success(SharedDatabase *db);

/* Asks for a drain; it is done when that says so of the result. */
extern uint64 es_request_drain(SharedDatabase *db);
extern bool es_drain_done(SharedDatabase *db, uint64 request);
/* Whether anybody waits for a request. */
extern bool es_drain_requested(SharedDatabase *db);
/*
 * What a round starts from, before it takes its snapshot; the request that is
 * fulfilled once it has committed, 0 = none, if it had all that ended below
 * "stopped_at"; and, when it has, under the lock.
 */
extern uint64 es_begin_drain_requests(SharedDatabase *db);
extern uint64 es_fulfilled_request(SharedDatabase *db, uint64 request,
								   int64 stopped_at);
extern void es_end_drain_request(SharedDatabase *db, uint64 request);

/* ---------- staging_state.c: whether staging takes rows, and how many ---------- */

typedef enum StagingState
{
	ES_STAGING_UNKNOWN, /* not looked at since the server started */
	ES_STAGING_OPEN,	/* takes rows; store_state says dirty */
	ES_STAGING_CLOSED	/* known to be empty, takes no rows */
} StagingState;

/* The lock is held. */
extern void es_set_staging_state(SharedDatabase *db, StagingState state);
/* That of whatever store the database had when it was last looked at. */
extern bool es_staging_is(const SharedDatabase *db, StagingState state);
/* Whether shared memory speaks of the segments of this very extension ... */
extern bool es_staging_known(const SharedDatabase *db);
/* ... and they take rows. */
extern bool es_staging_open(const SharedDatabase *db);
/* Committed rows in staging, events and views. */
extern uint64 es_staged_rows(SharedDatabase *db);

/* ---------- shmem.c: everything in shared memory ---------- */

/*
 * As many databases of one cluster can hold a store at once.  A slot is small
 * (about 8 kB) and is given back when its database is dropped.
 */
#define ES_MAX_DATABASES 128
/* So many snapshots may be due at once; further ones are forgotten. */
#define ES_DUE_SNAPSHOTS 256

/* Number of staging segments; see staging.c. */
#define ES_SEGMENTS 8
/* So many truncated generations of segments are told apart; see segment.c. */
#define ES_LOST_RANGES 16

/* A staging segment as it stands. */
typedef struct SharedSegment
{
	bool used;				   /* may hold rows */
	FullTransactionId opened;  /* had ended before its first row was written */
	FullTransactionId emptied; /* the last to commit that drained rows from it */
	uint64 emptied_in;		   /* the round that did, counted as they commit */
} SharedSegment;

/*
 * Rows given up although old snapshots may show them: those that see the one
 * transaction and not the other.
 */
typedef struct LostRange
{
	FullTransactionId opened;
	FullTransactionId emptied;
} LostRange;

/*
 * What the processes that work in one database share.  "lock" protects every
 * plain field; atomics are read and written without it, in the order that
 * staging.c describes.  Never hold the lock over anything that can block or
 * raise.
 */
struct SharedDatabase
{
	LWLock *lock;
	Oid database; /* InvalidOid = free slot */
	bool claimed; /* a process of that database keeps a pointer */

	/* global positions: feed.c */
	slock_t position_mutex; /* protects the four below */
	Oid position_sequence;	/* whose block this is */
	int64 next_position;
	int64 position_limit;			  /* last position of the reserved block */
	bool position_recheck;			  /* look at the log first */
	ConditionVariable position_ended; /* positions are not in flight any more */
	pg_atomic_uint32 position_unstored; /* the worker shall store how far it is
										 * safe to read */
	pg_atomic_uint32 head_generation;	/* head_cache.c */

	/* staging: staging.c */
	StagingState staging_state;
	Oid staging_table; /* first segment; tells one CREATE EXTENSION
								 * from the next */
	int64 staging_epoch;
	int active_segment;
	SharedSegment segments[ES_SEGMENTS];
	LostRange lost[ES_LOST_RANGES];
	int lost_count;
	FullTransactionId last_drained; /* the last to commit that drained rows */
	uint64 rounds;					/* that committed */
	pg_atomic_uint32 generations[ES_SEGMENTS];	/* raised by truncating */
	pg_atomic_uint64 segment_rows[ES_SEGMENTS]; /* not drained, also those of
												 * open transactions */
	pg_atomic_uint64 next_sid;
	pg_atomic_uint64 uncommitted;	/* rows staged by open transactions, an
									 * upper bound */
	pg_atomic_uint64 staged_events; /* committed, not drained */
	pg_atomic_uint64 staged_views;
	TimestampTz first_staged_at; /* since the last round; 0 = nothing */
	bool dead_letters_possible;

	DrainProgress drain;

	/* hints for the worker's snapshots: transaction.c, snapshot.c */
	int64 due_snapshots[ES_DUE_SNAPSHOTS]; /* positions of events, a ring */
	int first_due;
	int due_count;

	WorkerSlot worker;
};

/* How far a rebuild of a view is that runs now; see rebuild.c. */
#define ES_MAX_REBUILDS 16
#define ES_MAX_NAME_BYTES (ES_MAX_NAME_CHARS * 4 + 1)

typedef struct RebuildProgress
{
	int pid; /* 0 = free */
	Oid database;
	char view_name[ES_MAX_NAME_BYTES];
	char aggregate_type[ES_MAX_NAME_BYTES];
	pg_atomic_uint64 done; /* aggregates, by any process without the lock */
	int64 done_before;	   /* by earlier steps */
	int64 total;
	TimestampTz started_at;
} RebuildProgress;

typedef struct SharedState
{
	LWLock *lock; /* protects the assignment of slots */
	LauncherSlot launcher;
	pg_atomic_uint64 reserved_pairs; /* locks of calls with many; lock.c */
	SharedDatabase databases[ES_MAX_DATABASES];
	RebuildProgress rebuilds[ES_MAX_REBUILDS];
} SharedState;

/* NULL unless shared_preload_libraries names us. */
extern SharedState *es_shared;

/*
 * The lowest global position that a backend has taken in its transaction, one
 * entry a backend, at its MyProcNumber.  Only its backend writes it: database,
 * pid and since first, then the position; 0 = nothing in flight.
 */
typedef struct InFlight
{
	pg_atomic_uint64 position;
	Oid database;
	int pid;
	TimestampTz since;
	char padding[40]; /* one cache line */
} InFlight;

/* Heads of aggregates; see head_cache.c.  NULL as above. */
typedef struct HeadCache HeadCache;
extern HeadCache *es_head_cache;

extern InFlight *es_in_flight; /* MaxBackends entries; NULL as above */

/* What is counted, one for each slot; see metrics.c.  NULL as above. */
typedef struct SharedMetrics SharedMetrics;
extern SharedMetrics *es_metrics;

extern void es_shmem_define(void); /* installs the hooks, while preloading */
/* The slot of this database, made if missing; NULL without preload. */
extern SharedDatabase *es_my_database(void);
/* The same, NULL when there is no slot yet; never raises. */
extern SharedDatabase *es_my_database_if_any(void);
/* The slot, made if missing; NULL also when all are taken. */
extern SharedDatabase *es_claim_database(void);
/* The slot of any database, or NULL; made if missing, NULL when all are taken. */
extern SharedDatabase *es_find_database(Oid database);
extern SharedDatabase *es_make_database(Oid database);
extern void es_free_database(Oid database);
/* Gives a slot back in which no process of its database has shown interest. */
extern void es_release_database(Oid database);

/* ---------- head_cache.c: heads remembered in shared memory ---------- */

extern Size es_head_cache_size(void);
extern void es_head_cache_init(HeadCache *cache);
/*
 * The last sequence of an aggregate whose lock is held, if it is remembered,
 * and whether that event was staged.  db is NULL without preload.
 */
extern bool es_cached_head(SharedDatabase *db, Datum type, Datum id,
						   int64 *sequence, TimestampTz *recorded_at,
						   bool *staged);
/* Remembers a head once the transaction has committed. */
extern void es_note_head(SharedDatabase *db, Datum type, Datum id,
						 int64 sequence, TimestampTz recorded_at, bool staged);
/* Forgets all heads once the transaction has committed ... */
extern void es_forget_heads(void);
/* ... or at once. */
extern void es_raise_head_generation(SharedDatabase *db);
/* At the end of transactions and aborted subtransactions; raise nothing. */
extern void es_end_heads(SharedDatabase *db, bool committed);
extern void es_abort_heads(SubTransactionId subtransaction);

/* ---------- metrics.c: counters and latencies ---------- */

extern Size es_metrics_size(void);
extern void es_metrics_init(SharedMetrics *metrics);
/* For a database that is new in its slot. */
extern void es_clear_metrics(const SharedDatabase *db);

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
	ES_CALL_LOAD_AGGREGATE_IDS,
	ES_CALL_READ_EVENTS,
	ES_CALL_REPLAY_AGGREGATE,
	ES_CALL_REPLAY_AGGREGATES,
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
	ES_CALL_DRAIN,
	ES_CALL_FLUSH,
	ES_CALL_RETRY_DEAD_LETTERS,
	ES_CALL_DISCARD_DEAD_LETTERS,
	ES_CALLS
} Call;

/* Which metrics a call counts in. */
typedef enum CallGroup
{
	ES_GROUP_STORE,
	ES_GROUP_BATCH,
	ES_GROUP_LOAD,
	ES_GROUP_DELETE,
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
	ES_COUNT_BLOCKED,  /* by es_begin_blocked */
	ES_COUNT_REFUSED,  /* writes, with staging full */
	ES_COUNT_BYPASSED, /* durable writes that were to be staged */
	ES_COUNT_ROUNDS,   /* by es_count_round */
	ES_COUNT_SNAPSHOTS,
	ES_COUNT_WORKER_STARTS,
	ES_COUNT_WORKER_FAILURES,
	ES_COUNTERS
} Counter;

extern void es_count(Counter counter);
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

/* Dead letters that come (or go) if the (sub)transaction commits ... */
extern void es_count_dead_letters(int64 change);
/* ... and all there are, when they have been counted. */
extern void es_set_dead_letters(const SharedDatabase *db, int64 count);

/*
 * A histogram of durations is an array of counts.  Which of them counts a
 * duration; where it begins, in seconds; the duration, in seconds, that a part of
 * those counted (one at least) does not exceed.
 */
#define ES_BUCKETS 125
extern int es_bucket_of(uint64 nanoseconds);
extern double es_bucket_start(int bucket);
extern double es_quantile_of(const uint64 *buckets, double quantile);

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
	ES_GAUGE_FEED_IN_FLIGHT,
	ES_GAUGE_FEED_LAG,
	ES_GAUGES
} Gauge;

/* Everything at about one moment. */
typedef struct CallReading
{
	double seconds;
	uint64 count;
	uint64 rows;
	uint64 misses;
	uint64 errors;
	uint64 conflicts;
	uint64 buckets[ES_BUCKETS];
} CallReading;

typedef struct MetricsReading
{
	CallReading calls[ES_CALLS];
	uint64 counters[ES_COUNTERS];
	double gauges[ES_GAUGES];
} MetricsReading;

/* 55000 without preload. */
extern MetricsReading *es_read_metrics(void);

/* ---------- database_command.c: DROP DATABASE and its like ---------- */
extern void es_utility_hook_install(void); /* while preloading */

/* ---------- catalog.c: the store of this database ---------- */

typedef struct StagingSegment
{
	Oid table;
	Oid by_key;		 /* (kind, name, key, ordinal) */
	Oid by_event_id; /* (event_id) */
	Oid by_txn;		 /* (txn, sid) */
} StagingSegment;

/*
 * What this database's store is made of.  Valid until the next command that
 * may process invalidations; never keep a pointer over one.
 */
typedef struct Store
{
	Oid schema;
	Oid owner; /* owner of domain_events, runs all SQL */
	Oid extension;
	Oid events;				 /* domain_events */
	Oid events_by_aggregate; /* its unique index on
										 * (aggregate_type, aggregate_id,
										 * sequence) */
	Oid events_by_id;		 /* its unique index on (event_id) */
	Oid views;				 /* domain_views */
	bool plain;				 /* nothing is attached to these two */
	Oid aggregate_gate;		 /* see lock.c */
	Oid view_key_gate;
	Oid positions; /* the sequence of global positions */
	Oid dead_letters;
	StagingSegment segments[ES_SEGMENTS];
	Oid event_type; /* composite type event */
} Store;

/* The store, or 55000 with a hint saying what to run. */
extern const Store *es_store(void);
/* The store, or NULL when there is none (never raises for that). */
extern const Store *es_store_if_any(void);
/*
 * The same for a worker: DROP EXTENSION waits until the transaction ends, and
 * if it was faster there is no store.
 */
extern const Store *es_lock_store(void);
/*
 * A worker is a superuser; it becomes the owner of the store for a transaction,
 * its commit included, since the owner's deferred triggers run there.
 */
extern void es_become_owner(void);

/*
 * Runs SQL as the owner of the store, so that callers need EXECUTE only.
 * es_begin connects to SPI and switches the user, es_end undoes both; an
 * error in between is cleaned up by the (sub)transaction's abort.
 */
typedef struct OwnerScope
{
	Oid user;
	int security;
	int guc_level; /* 0 = settings are the caller's */
} OwnerScope;

/*
 * Code that the owner attached to a table (a trigger, say) must not find the
 * caller's search_path: es_begin pins it.  es_begin_write does so where
 * something is attached to domain_events or domain_views, which only such a
 * scope may write; es_begin_read, for reading alone, never does.
 */
extern void es_begin(OwnerScope *scope);
extern void es_begin_write(OwnerScope *scope);
extern void es_begin_read(OwnerScope *scope);
extern void es_end(const OwnerScope *scope);

/*
 * A statement prepared at first use in a backend and kept.  Give nargs and
 * argtypes; leave plan NULL.  The SQL is constant and fully qualified.
 */
#define ES_MAX_PARAMS 24

typedef struct KeptPlan
{
	const char *sql;
	int nargs;
	Oid argtypes[ES_MAX_PARAMS];
	SPIPlanPtr plan;
} KeptPlan;

extern SPIPlanPtr es_plan(KeptPlan *kept);

/*
 * Executes a kept plan under the active snapshot if "read_only", else under a
 * fresh one, and checks that it did what it is expected to (SPI_OK_*).
 * Returns SPI_processed.
 */
extern uint64 es_execute(KeptPlan *kept, Datum *values, const char *nulls,
						 bool read_only, int expected_result);
/* A SELECT under the active snapshot with every row going to a receiver ... */
extern uint64 es_execute_to(KeptPlan *kept, Datum *values, const char *nulls,
							DestReceiver *receiver);
/* ... or straight into a tuplestore. */
extern uint64 es_execute_into(KeptPlan *kept, Datum *values, const char *nulls,
							  Tuplestorestate *into);
/* Prepares the result of a function that returns loaded rows. */
extern void es_begin_result(FunctionCallInfo fcinfo);

/* ---------- transaction.c: what this transaction did to the store ---------- */

/* Remembers that it wrote: PREPARE TRANSACTION will be refused. */
extern void es_note_write(void);
/* Has positions in flight, to be ended with the transaction. */
extern void es_note_positions(void);
/* Holds a lock of an aggregate or key (so it must not wait for space). */
extern void es_note_lock(void);
extern bool es_holds_locks(void);
/* Gives reserved room in the lock table back at the end. */
extern void es_note_reserved_pairs(int count);
/* Wakes (or starts) this database's worker once the transaction committed. */
extern void es_note_wake(void);

/*
 * Wants a server snapshot of the aggregate that has its event at this position;
 * the worker is told when the transaction has committed.  A hint: it may be lost.
 */
extern void es_note_snapshot_due(int64 position);

/* A row this transaction staged. */
typedef struct OwnRow
{
	int64 sid;
	int count; /* events, or 1 view write */
	ItemPointerData tid;
	uint8 segment;
	bool is_event;
	SubTransactionId subtransaction; /* that staged it */
	SubTransactionId moved_in;		 /* that made it durable, or invalid */
} OwnRow;

extern int64 es_own_txn(int64 sid);
/* Announces rows before they are inserted, or takes that back. */
extern void es_note_staging(SharedDatabase *db, int64 rows);
extern void es_unnote_staging(SharedDatabase *db, int64 rows);
extern void es_note_staged(const OwnRow *row);
extern OwnRow *es_own_rows(int *count);
/* Rows moved, and how many of them from which segment. */
extern void es_note_drained(int64 events, int64 views,
							const int64 rows[ES_SEGMENTS], uint64 request);

/* What is known of staging when it opens; published at commit. */
typedef struct StagingOpening
{
	Oid table;
	int64 epoch;
	int active_segment;
	uint32 used; /* segments that are not empty, a bit each */
	int64 next_sid;
	int64 rows[ES_SEGMENTS];
	int64 events;
	int64 views;
	int64 dead_letters;
	TimestampTz last_drain_at;
} StagingOpening;

/* Whether this transaction is just moving staged rows (and runs triggers). */
extern void es_note_draining(bool draining);
extern bool es_draining(void);
extern void es_note_opening(const StagingOpening *opening);
/* Sends writers to another segment once the transaction has committed. */
extern void es_note_rotation(int segment);

/* ---------- feed.c: global positions ---------- */

/*
 * Takes "count" consecutive global positions and returns the first.  Call it
 * only after everything that can refuse the append has been checked.
 */
extern int64 es_take_positions(int64 count);
/* Looks at the log before positions are taken again. */
extern void es_recheck_positions(void);
/* Ends what is in flight, after the transaction; raises nothing. */
extern void es_end_positions(SharedDatabase *db);
/* Stores the safe position, for standbys, if it changed. */
extern void es_store_safe_position(void);

/* ---------- lock.c: the locks of aggregates and view keys ---------- */

typedef enum LockSpace
{
	ES_LOCK_AGGREGATE = 0xE501,
	ES_LOCK_VIEW_KEY = 0xE502,
	ES_LOCK_DRAIN = 0xE503,
	ES_LOCK_POSITIONS = 0xE504
} LockSpace;

/* The 64-bit hash that stands for a pair of texts in a lock. */
extern uint64 es_pair_hash(Datum first, Datum second);
/*
 * Locks one pair exclusively until the transaction ends, passing the gate of
 * its space.
 */
extern void es_lock_pair(LockSpace space, uint64 hash);
/*
 * Locks many, each once, in the order of their hashes; if they are very many,
 * closes the gate instead.  Sorts the array.
 */
extern void es_lock_pairs(LockSpace space, uint64 *hashes, int count);
/* The one lock of a space that has one: drain, positions. */
extern void es_lock_acquire(LockSpace space, LOCKMODE mode);
extern void es_lock_release(LockSpace space, LOCKMODE mode);
/* Whether this transaction holds it exclusively. */
extern bool es_lock_held(LockSpace space);

/* ---------- pair_table.c: a hash table from pairs of texts to numbers ---------- */

typedef struct PairTable PairTable;

extern bool es_same_text(Datum a, Datum b);
/* Orders keys as the C collation of the tables does. */
extern int es_compare_keys(Datum a, Datum b);
extern PairTable *es_pair_table(int64 expected_size);
/* The number of a pair, entered if missing (then undefined until set). */
extern int64 *es_pair_enter(PairTable *table, Datum first, Datum second,
							bool *found);
extern void es_pair_table_drop(PairTable *table);

/* ---------- staged_row.c: the shape of a staged row ---------- */

typedef enum StagedKind
{
	ES_KIND_EVENT = 1, /* a run of events */
	ES_KIND_VIEW = 2   /* a put, or a delete where view_data is NULL */
} StagedKind;

/* Columns of a segment, numbered from 1. */
typedef enum StagedColumn
{
	ST_SID = 1,
	ST_TXN,
	ST_KIND,
	ST_NAME,	 /* aggregate_type or view_name */
	ST_KEY,		 /* aggregate_id or view_key */
	ST_ORDINAL,	 /* sequence of the first event, or for views the sid */
	ST_COUNT,	 /* events */
	ST_EVENT_ID, /* of the first event */
	ST_EVENTS,
	ST_RECORDED_AT, /* when it was staged */
	ST_VIEW_DATA,	/* NULL = deleted */
	ST_VERSION,
	ST_COLUMNS = ST_VERSION
} StagedColumn;

/* The most columns of an index on them. */
#define ST_KEY_COLUMNS 4

/* Rows of one call with one sid hold at most so many events. */
#define ES_WINDOW_EVENTS 1000

/* A row as it stands in a segment, or one event of it. */
typedef struct StagedRow
{
	int64 sid;
	int64 txn;
	StagedKind kind;
	Datum name;
	Datum key;
	int64 ordinal;
	int count;
	Datum events;	 /* packed; of a whole row of kind event */
	int place;		 /* within the window, and ... */
	EventRow event;	 /* ... the event; of one event of a row */
	Datum view_data; /* (Datum) 0 = deleted */
	bool has_version;
	int64 version;
	TimestampTz staged_at;
	bool own; /* written by this transaction */
	int segment;
	ItemPointerData tid;
	void *memory; /* what the Datums point into; see es_staged_free */
} StagedRow;

/* A write of one view key; see view_store.c. */
typedef struct ViewWrite
{
	Datum view_name;
	Datum view_key;
	Datum view_data; /* (Datum) 0 = delete */
	bool has_version;
	int64 version;
	TimestampTz updated_at; /* when it was staged; 0 = now */
} ViewWrite;

/*
 * Packs the events of a window into rows, result[0 ..], and returns how many.
 * groups[i] numbers the aggregate of event i (NULL: all of one); open_runs has
 * -1 for each of them, before and after.
 */
extern int es_form_runs(TupleDesc desc, int64 sid, int64 txn, EventRow **rows,
						const int *groups, int count, int *open_runs,
						HeapTuple *result);
extern HeapTuple es_form_view(TupleDesc desc, int64 sid, int64 txn,
							  const ViewWrite *write);
/* Takes a row apart, which points into the tuple. */
extern void es_deform_staged(HeapTuple tuple, TupleDesc desc, int segment,
							 StagedRow *row);

/* The events of a row, unpacked in the current memory context. */
typedef struct UnpackedRun
{
	StagedRow run;
	MinimalTuple *tuples; /* one an event */
	char *memory;
} UnpackedRun;

extern void es_unpack_begin(UnpackedRun *unpacked, const StagedRow *run);
extern void es_unpack_end(UnpackedRun *unpacked);
/* One of them: pointing into the run, or copied. */
extern void es_event_of_run(const UnpackedRun *unpacked, int i, StagedRow *row);
extern void es_copy_event_of_run(const UnpackedRun *unpacked, int i,
								 StagedRow *row);
/* The run with an event_id starts with an id between this and that one. */
extern pg_uuid_t es_event_id_floor(const pg_uuid_t *event_id);

/* ---------- staged_scan.c: reading staged rows ---------- */

/*
 * False if no staged row can be visible to a snapshot taken after this call:
 * then staging need not be looked at.
 */
extern bool es_may_have_staged(void);

/*
 * Between these, the active snapshot is one under which staged and durable
 * rows are read together, each exactly once: the one wanted, or a newer one
 * where READ COMMITTED allows that (else 40001); NULL = the latest.  Staged rows
 * cannot be given up meanwhile.
 */
typedef struct StagedRead
{
	uint32 locked;		/* segments, a bit each */
	bool tables_locked; /* domain_events and domain_views */
} StagedRead;

extern void es_begin_staged_read(StagedRead *read, Snapshot wanted);
/*
 * The latest snapshot, and whether staging has to be looked at at all.  Call it
 * after locking the aggregate or key.  The snapshot is one that sees what is in
 * the durable tables even if an ALTER TABLE has just written them anew.
 */
extern bool es_begin_latest_read(StagedRead *read);
extern void es_end_staged_read(StagedRead *read);

/*
 * Staged events of an aggregate, or writes of a view key, newest or oldest
 * first, visible in "snapshot"; key = (Datum) 0: all keys of the name, in key
 * order.  A row returned lives in the current memory context.
 */
typedef struct StagedScan StagedScan;
extern StagedScan *es_staged_begin(StagedKind kind, Datum name, Datum key,
								   Snapshot snapshot, bool backward);
extern bool es_staged_next(StagedScan *scan, StagedRow *row);
extern void es_staged_free(StagedRow *row);
extern void es_staged_end(StagedScan *scan);
/* By event id: */
extern bool es_staged_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot,
								  StagedRow *row);

/* The order in which a scan over all segments returns rows: an index each. */
typedef enum StagedOrder
{
	ES_BY_KEY, /* (kind, name, key, ordinal) */
	ES_BY_EVENT_ID,
	ES_BY_TXN /* (txn, sid) */
} StagedOrder;

extern StagedScan *es_staged_scan(StagedOrder order, ScanDirection direction,
								  Snapshot snapshot, int nkeys,
								  const ScanKeyData *keys);
/*
 * Call it when a segment was locked, before its indexes are opened: what this
 * process has cached of them may be of before a truncation.
 */
extern void es_refresh_segment(int segment);
/*
 * For the drain: only segments with rows that are not drained, in the order of
 * transactions.
 */
extern StagedScan *es_staged_scan_live(Snapshot snapshot, LOCKMODE lockmode);
/* Whole rows instead of single events. */
extern bool es_staged_next_row(StagedScan *scan, StagedRow *row);

/* ---------- staging.c: admitting and writing ---------- */

/*
 * Decides how a write of "rows" rows will be done, before it takes any lock:
 * honours write_delay = 0, staging_limit and on_staging_full, waits for space
 * where that is asked for, opens staging if need be.  55000 without preload.
 */
extern Durability es_admit(Durability wanted, int64 rows);

/*
 * Write staged rows; the caller holds the locks of the aggregates or keys.
 * groups[i] < ngroups numbers the aggregate of event i; NULL: all of one.
 */
extern void es_stage_events(EventRow **rows, const int *groups, int ngroups,
							int count);
extern void es_stage_views(const ViewWrite *writes, int count);
extern int64 es_staging_epoch(void);

/* ---------- log.c: the table domain_events ---------- */

/*
 * Inserts rows whose other columns are all set, in statements of bounded size;
 * takes their positions, one after the other.
 */
extern void es_insert_events(EventRow **rows, int count);
/*
 * In PG_CATCH around that: the error if a unique key of the store was violated,
 * in a memory context that is made the current one; passes other errors on.
 */
extern ErrorData *es_catch_unique_violation(MemoryContext context);

/* The last event of an aggregate, as of a snapshot. */
typedef struct Head
{
	int64 sequence;			 /* staged and durable together; 0 = none */
	TimestampTz recorded_at; /* -infinity when there is none */
	bool staged;			 /* staged rows are visible */
} Head;

extern void es_read_head(Datum aggregate_type, Datum aggregate_id,
						 Snapshot snapshot, bool look_in_staging, Head *head);
/* The durable part alone; recorded_at may be NULL, is set if there is one. */
extern int64 es_durable_head(Datum aggregate_type, Datum aggregate_id,
							 Snapshot snapshot, TimestampTz *recorded_at);
extern bool es_durable_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot,
								   EventRow *row);

/* ---------- dead_letter.c: staged rows that could not be drained ---------- */

/* False if no aggregate can have any. */
extern bool es_dead_letters_possible(void);
/* Whether appends to the aggregate must be refused (VS006). */
extern bool es_has_dead_letters(Datum aggregate_type, Datum aggregate_id,
								Snapshot snapshot);
/* Writes one dead letter.  For a view, the aggregate that took it along. */
extern void es_bury(const StagedRow *row, Datum aggregate_type, Datum aggregate_id,
					int sqlstate, const char *message, int attempts);

/* ---------- view_store.c: durable views ---------- */

/*
 * Writes one value per (view_name, view_key) by the version rule; rows with
 * data (Datum) 0 are deletes.  Keys are distinct and in key order.  Used by
 * put_view, put_views, delete_view and the drain.  Returns rows changed.
 *
 * "accepted" says that the rule was applied before, when the row was staged
 * under its key's lock: the last of several staged writes of a key replaces the
 * durable row even where a delete between them let the version start again.
 */
extern int64 es_write_views(const ViewWrite *writes, int count, bool accepted);

/*
 * The newest, or the oldest, staged row of a key under the active snapshot, in
 * the current memory context.
 */
extern bool es_find_staged_view(Datum view_name, Datum view_key, bool newest,
								StagedRow *row);

/* ---------- drain_set.c: which rows a round moves ---------- */

/* What a round remembers of a row: where it is and whose. */
typedef struct DrainRow
{
	int64 sid;
	int32 rank;	 /* of its transaction in the round */
	int32 count; /* of its events, or 1 view write */
	ItemPointerData tid;
	uint8 segment;
	bool is_event;
} DrainRow;

typedef struct DrainSet
{
	DrainRow *rows; /* in sid order */
	int nrows;
	int64 events; /* in them */
	int64 views;
	int64 in_segment[ES_SEGMENTS]; /* of them */
	int ntxns;
	int64 stopped_at; /* it has all visible transactions that ended below */
} DrainSet;

/*
 * Finds a closed set of about max_rows events and view writes (0 = all) under a
 * snapshot, not those of this transaction; returns whether more are left.
 */
extern bool es_collect_set(Snapshot snapshot, int64 max_rows, DrainSet *set);

/* ---------- drain.c: from staging into the durable tables ---------- */

/*
 * Moves one closed set of committed staged rows, about max_rows (0 = all),
 * within the current transaction, holding the drain lock until it ends.
 * Returns the rows moved and whether more are left.  Raises errors of the
 * world; rows that fail for their own sake go to dead_letters.  "alone": the
 * transaction does nothing else, so its deferred triggers speak of these rows.
 */
extern int64 es_drain_round(int64 max_rows, bool alone, bool *more);
/* Moves what this transaction itself has staged and not moved yet. */
extern void es_drain_own_rows(void);

/* ---------- segment.c: the life of the segments ---------- */

/*
 * Opens staging: tells a clean restart from a loss (a new epoch), finds what is
 * left over, marks store_state dirty.  Needs a transaction of its own, and
 * staging is open once that committed.  Only the worker calls it.
 */
extern void es_open_staging(void);
/*
 * Marks staging closed and store_state clean if it is empty and nobody is
 * writing; returns whether it did.  Needs a transaction of its own.
 */
extern bool es_close_staging(void);
/*
 * Starts a new segment when the active one is large, once the transaction has
 * committed (then true); truncates those that are drained.  Needs a transaction
 * of its own.  Never waits.
 */
extern bool es_reclaim_segments(void);

/* ---------- flush.c: waiting for the drain ---------- */

/*
 * Returns when all rows staged by transactions that had committed before the
 * call are durable (or dead letters).  For durable writes that meet staged
 * rows.  May be called with locks of aggregates held.
 */
extern void es_settle(void);
/*
 * Moves this transaction's own staged rows into the durable tables, in their
 * order.  Every durable write calls it before writing; nearly always a no-op.
 */
extern void es_move_own_rows(void);

/* ---------- state.c: a state taken apart ---------- */

/*
 * A JSON value on which reducers work at a cost that does not grow with it.
 * It lives in a context of its own below the one that es_state_begin was
 * called in.  NULL is the state before any event.
 */
typedef struct State State;

extern State *es_state_begin(Jsonb *state);
/* Encoded anew by every call, in the current memory context; NULL if none. */
extern Jsonb *es_state_result(State *state);
extern void es_state_end(State *state);

typedef enum NodeKind
{
	NODE_NONE, /* no value: of a state, a new member or a removed element */
	NODE_NULL,
	NODE_FALSE,
	NODE_TRUE,
	NODE_NUMERIC,
	NODE_STRING,
	NODE_ENCODED, /* an array or object in which nobody has looked yet */
	NODE_ARRAY,
	NODE_OBJECT
} NodeKind;

/* One value of a state. */
typedef struct StateNode
{
	NodeKind kind;
	int size; /* of the bytes */
	union
	{
		char *bytes;				  /* number, string, encoded */
		struct StateElements *array;  /* array */
		struct members_hash *members; /* object */
	} u;
} StateNode;

typedef struct StateElements
{
	int count;
	int room;
	StateNode *nodes;
} StateElements;

/* The name of a member, and its hash. */
typedef struct MemberName
{
	const char *data;
	int size;
	uint32 hash;
} MemberName;

extern MemberName es_member_name(const char *data, int size);

static inline bool
es_same_name(MemberName a, MemberName b)
{
	return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* A whole document as a value: a scalar or an encoded container. */
extern void es_whole_value(Jsonb *jsonb, JsonbValue *value);

/* A pointer to a node holds until its array or object gets or loses one. */
extern StateNode *es_state_root(State *state);
/* Decodes one level of an encoded array or object; leaves others alone. */
extern void es_node_open(State *state, StateNode *node);
extern void es_node_clear(State *state, StateNode *node);
extern void es_node_set(State *state, StateNode *node, const JsonbValue *value);
/* Makes it an empty array or object. */
extern void es_node_set_empty(State *state, StateNode *node, NodeKind kind);
extern bool es_node_equals(const StateNode *node, const JsonbValue *value);
/* Of an opened object: NULL if it has no such member. */
extern StateNode *es_node_member(const StateNode *node, MemberName name);
/* Of an opened object: a new member has no value and must get one. */
extern StateNode *es_node_add_member(State *state, StateNode *node,
									 MemberName name);
extern void es_node_remove_member(State *state, StateNode *node, MemberName name);
/* To an opened array: it has no value and must get one. */
extern StateNode *es_node_add_element(State *state, StateNode *node);
/* Closes the gaps that elements left which were cleared. */
extern void es_node_close_gaps(StateNode *node);

/* ---------- merge.c: the built-in reducer ---------- */

/* Applies a JSON merge patch (RFC 7396) to the state, or to a part of it. */
extern void es_merge_apply(State *state, Jsonb *patch);
extern void es_merge_into(State *state, StateNode *node, const JsonbValue *patch);

/* ---------- path.c: JSON paths ---------- */

/* One step of a path: a member of an object or an element of an array. */
typedef struct RuleStep
{
	bool is_index;
	int index; /* negative: from the end */
	MemberName name;
	int start; /* where in the path's text it begins */
} RuleStep;

typedef struct RulePath
{
	const char *text;
	int size;
	int count;
	RuleStep *steps;
} RulePath;

/* Reads a path, which refers to the string; returns what is wrong, or NULL. */
extern const char *es_path_read(const JsonbValue *string, RulePath *path);
/* The place of an element in an array of so many; -1 if it has none. */
extern int es_step_place(const RuleStep *step, int64 count);
/* Follows a path from a step on; false if it leads nowhere. */
extern bool es_path_follow(const RulePath *path, int first, JsonbValue *value);

/* ---------- operation.c: what a rule does to the state ---------- */

typedef enum RuleSourceKind
{
	SOURCE_NONE,
	SOURCE_LITERAL,
	SOURCE_EVENT
} RuleSourceKind;

/* Where an operation takes something from. */
typedef struct RuleSource
{
	RuleSourceKind kind;
	JsonbValue literal;
	EventColumn column;
	RulePath path; /* in the event; its first step is the column */
} RuleSource;

typedef enum RuleOperationKind
{
	OP_SET,
	OP_MERGE,
	OP_UNSET,
	OP_INCREMENT,
	OP_APPEND,
	OP_REMOVE,
	OP_PUT_INTO
} RuleOperationKind;

/* An increment takes at most so many factors. */
#define ES_MAX_FACTORS 8

typedef struct RuleOperation
{
	RuleOperationKind kind;
	int number; /* in the list of its event type, from 1 */
	RulePath path;
	RuleSource key;
	RuleSource value;
	int factors;
	RuleSource *times; /* as many */
	bool has_default;
	JsonbValue default_value;
	bool by_member; /* remove compares this member */
	MemberName member;
} RuleOperation;

/* An event that rules are applied to. */
typedef struct RuleEvent
{
	const Datum *values; /* in the order of EventColumn */
	const bool *nulls;
	const JsonbValue *initial;		/* NULL = an empty object */
	const RuleOperation *operation; /* at hand, for messages */
	Jsonb *payload;					/* detoasted when first needed */
	Jsonb *metadata;
} RuleEvent;

/* Whether it is a JSON number or a decimal string. */
extern bool es_is_number(const JsonbValue *value);
extern void es_rule_state(State *state, const RuleEvent *event);
extern void es_operation_apply(const RuleOperation *operation, State *state,
							   RuleEvent *event);

/* ---------- rules.c: a reducer made of declarative rules ---------- */

typedef struct Rules Rules;

/*
 * Checks rules and prepares them, in the current memory context.  Reports
 * what is wrong as 22023, naming the rule.
 */
extern Rules *es_rules_parse(Jsonb *rules);
/* So many columns of an event, from the first, are looked at. */
extern int es_rules_columns(const Rules *rules);
/*
 * Changes the state as the rules for the event's type say.  Garbage goes to
 * the current memory context.
 */
extern void es_rules_apply(const Rules *rules, State *state, Datum *values,
						   bool *nulls);

/* ---------- reducer.c: which reducer an aggregate type has ---------- */

typedef struct Reducer
{
	Oid function;	 /* InvalidOid = rules, or the built-in merge */
	Rules *rules;	 /* NULL = none */
	char *name;		 /* for messages */
	int version;	 /* 0 where nothing was ever registered */
	Oid user;		 /* who the function runs as ... */
	int security;	 /* ... and in which security context */
	bool registered; /* else given in the call */
} Reducer;

/*
 * All are called between es_begin and es_end; what the result points to lives
 * in "context".  The second is for events that do not come from the store but
 * from the caller.  The third is a function that the caller gives for one call.
 */
extern Reducer es_registered_reducer(text *aggregate_type, const OwnerScope *scope,
									 MemoryContext context);
extern Reducer es_reducer_of_given_events(text *aggregate_type,
										  const OwnerScope *scope,
										  MemoryContext context);
extern Reducer es_given_reducer(Oid function, const OwnerScope *scope,
								MemoryContext context);

/* ---------- fold.c: events into a state, one by one ---------- */

typedef struct Fold
{
	Reducer reducer;
	MemoryContext context;	 /* of all this; outlives es_end */
	MemoryContext per_event; /* to make an event in; reset before each */
	int64 sequence;			 /* of the last event folded in */
	int64 up_to;			 /* fold nothing after this sequence ... */
	TimestampTz until;		 /* ... nor after this recorded time */
	bool finished;			 /* met an event after these */
	TimestampTz stop_at;	 /* read no more durable events from then on */

	State *state; /* merge and rules */

	/* a function: its state and where it lives, the other for the next one */
	FmgrInfo call;
	TupleDesc event_desc;
	Datum function_state; /* (Datum) 0 = NULL */
	MemoryContext state_context;
	MemoryContext next_context;

	/* for messages: the event at hand, and what encloses the fold */
	const Datum *event;
	ErrorContextCallback *enclosing;
} Fold;

/*
 * Makes a fold in the current memory context.  Call it before es_begin, so that
 * its result survives es_end.  Folds that are not used at the same time may
 * share a context for their events; NULL = one of its own.  54001 where folds
 * are nested too deep.
 */
extern Fold *es_fold_create(MemoryContext scratch);
/* Tells it the reducer, made in fold->context; once. */
extern void es_fold_use(Fold *fold, const Reducer *reducer);
/* Begins an aggregate, or the next one, with a state; (Datum) 0 = NULL. */
extern void es_fold_start(Fold *fold, Datum state, int64 sequence);
/*
 * Folds one event in; false if it lies after the bounds.  The event need only
 * live during the call.
 */
extern bool es_fold_event(Fold *fold, Datum *values, bool *nulls);
/* So many columns of an event, from the first, must be there. */
extern int es_fold_columns(const Fold *fold);
/* The state after the last event, in the current memory context; 0 = NULL. */
extern Datum es_fold_result(Fold *fold);
/*
 * Fold the events of one aggregate after the fold's sequence: first the durable
 * ones, then the staged ones.
 */
extern void es_fold_durable(Fold *fold, text *aggregate_type, text *aggregate_id);
extern void es_fold_staged(Fold *fold, text *aggregate_type, text *aggregate_id);

/* Calls a function with each row of a SELECT until it returns false. */
typedef bool (*RowFunction)(TupleTableSlot *slot, void *arg);
extern void es_for_each_row(KeptPlan *plan, Datum *values, const char *nulls,
							RowFunction function, void *arg);
/*
 * Plans a SELECT of the events of a type, or of a few aggregates of it, in the
 * order of aggregate and sequence, so that it stays good while the store grows.
 */
extern void es_plan_events(KeptPlan *plan, bool few);

/*
 * Folds many aggregates, one after the other.  "done" is called with the fold
 * after the last event of each.
 */
typedef struct Series
{
	Fold *fold;
	void (*done)(Fold *fold, Datum aggregate_id, void *arg);
	void *arg;
	text *aggregate_id; /* at hand; NULL before the first */
} Series;

/*
 * Takes an event.  Where it is the first of an aggregate the fold begins with
 * the seed, (Datum) 0 = NULL; events not after the seed's sequence are left out.
 */
extern void es_series_event(Series *series, Datum *values, bool *nulls,
							Datum seed, int64 seed_sequence);
/* The same for a row of an event, the sequence of its seed, and that seed. */
extern bool es_series_row(TupleTableSlot *slot, Series *series);
extern void es_series_end(Series *series);

/* ---------- snapshot.c: states kept at a sequence ---------- */

/* Starts a fold at the server's snapshot within its bounds, or before all. */
extern void es_start_from_snapshot(Fold *fold, text *aggregate_type,
								   text *aggregate_id);
/*
 * Folds the durable events of an aggregate and stores the state as the
 * server's snapshot.  False if there is nothing newer than what is stored.
 */
extern bool es_snapshot_aggregate(text *aggregate_type, text *aggregate_id);
/* Whether any aggregate is said to need a snapshot. */
extern bool es_snapshots_due(SharedDatabase *db);
/*
 * Takes the next of those snapshots, in a transaction of its own.  An error of
 * the reducer is logged, once, and its aggregate type rests for a while; then
 * what went wrong is returned, else NULL.
 */
extern const char *es_take_due_snapshot(SharedDatabase *db);

/* ---------- worker.c ---------- */

/* What launcher and worker have in common: signals, sleep. */
extern void es_enter_process(void);
extern void es_heed_signals(void);
/* A negative timeout (ms) means until the latch is set. */
extern void es_sleep_on_latch(long timeout, uint32 wait_event);

/* ---------- launcher.c ---------- */
extern void es_register_launcher(void); /* while preloading */

#endif /* EVENT_STORE_H */
