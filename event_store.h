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
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "port/atomics.h"
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

/* ---------- shmem.c: everything in shared memory ---------- */

/*
 * As many databases of one cluster can hold a store at once.  A slot is small
 * (about 2 kB) and is given back when its database is dropped.
 */
#define ES_MAX_DATABASES 128
#define ES_ERROR_CHARS 256

/* Number of staging segments; see staging.c. */
#define ES_SEGMENTS 4

typedef enum StagingState
{
	ES_STAGING_UNKNOWN, /* not looked at since the server started */
	ES_STAGING_OPEN,	/* takes rows; store_state says dirty */
	ES_STAGING_CLOSED	/* known to be empty, takes no rows */
} StagingState;

typedef enum WorkerState
{
	ES_WORKER_NONE,
	ES_WORKER_WANTED, /* the launcher shall start one */
	ES_WORKER_STARTING,
	ES_WORKER_RUNNING,
	ES_WORKER_UNAVAILABLE /* could not be started; tried again later */
} WorkerState;

typedef enum DrainState
{
	ES_DRAIN_IDLE,
	ES_DRAIN_DRAINING,
	ES_DRAIN_BACKING_OFF,
	ES_DRAIN_STOPPED
} DrainState;

/*
 * What the processes that work in one database share.  "lock" protects every
 * plain field; atomics are read and written without it, in the order that
 * staging.c describes.  Never hold the lock over anything that can block or
 * raise.
 */
typedef struct SharedDatabase
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
	pg_atomic_uint32 head_generation; /* head_cache.c */

	/* staging: staging.c */
	StagingState staging_state;
	Oid staging_table; /* first segment; tells one CREATE EXTENSION
								 * from the next */
	int64 staging_epoch;
	int active_segment;
	pg_atomic_uint64 next_sid;
	pg_atomic_uint64 uncommitted;	/* rows staged by open transactions, an
									 * upper bound */
	pg_atomic_uint64 staged_events; /* committed, not drained */
	pg_atomic_uint64 staged_views;
	TimestampTz first_staged_at; /* since the last round; 0 = nothing */
	bool dead_letters_possible;

	/* drain */
	pg_atomic_uint64 drains_requested;
	pg_atomic_uint64 drains_done; /* the request last fulfilled */
	uint64 pending_request;	   /* that rounds work on, under the drain lock */
	int64 pending_sid;		   /* what it asks for has lower sids */
	ConditionVariable drained; /* after every round and state change */
	DrainState drain_state;
	int consecutive_failures;
	char last_error[ES_ERROR_CHARS];
	TimestampTz last_drain_at;

	/* the database worker: worker.c */
	WorkerState worker_state;
	pid_t worker_pid;	 /* 0 = none */
	Latch *worker_latch; /* NULL = none */
	TimestampTz worker_started_at;
	bool worker_called; /* es_wake_worker() since it last looked */
	int worker_bars;	/* commands that need the database to
								 * themselves; no worker starts meanwhile */
	ConditionVariable worker_changed; /* after every change of worker_state */
} SharedDatabase;

typedef struct SharedState
{
	LWLock *lock; /* protects the assignment of slots */
	pid_t launcher_pid;
	Latch *launcher_latch;
	TimestampTz launcher_gone_at; /* since when there is none */
	SharedDatabase databases[ES_MAX_DATABASES];
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

extern void es_shmem_define(void); /* installs the hooks, while preloading */
/* The slot of this database, made if missing; NULL without preload. */
extern SharedDatabase *es_my_database(void);
/* The same, NULL when there is no slot yet; never raises. */
extern SharedDatabase *es_my_database_if_any(void);
/* The slot of any database, or NULL; made if missing, NULL when all are taken. */
extern SharedDatabase *es_find_database(Oid database);
extern SharedDatabase *es_make_database(Oid database);
extern void es_free_database(Oid database);
/* Gives a slot back in which no process of its database has shown interest. */
extern void es_release_database(Oid database);
/* Wakes the worker of a slot, or asks the launcher for one.  Never raises. */
extern void es_wake_worker(SharedDatabase *db);
extern void es_wake_launcher(void);
/* Committed rows in staging, events and views. */
extern uint64 es_staged_rows(SharedDatabase *db);

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
/* Wakes (or starts) this database's worker once the transaction committed. */
extern void es_note_wake(void);

/* A row this transaction staged. */
typedef struct OwnRow
{
	ItemPointerData tid;
	uint8 segment;
	bool is_event;
	SubTransactionId subtransaction; /* that staged it */
	SubTransactionId moved_in;		 /* that made it durable, or invalid */
} OwnRow;

extern int64 es_own_txn(int64 sid);
extern void es_note_staging(SharedDatabase *db);
extern void es_unnote_staging(SharedDatabase *db);
extern void es_note_staged(int segment, ItemPointer tid, bool is_event);
extern OwnRow *es_own_rows(int *count);
extern void es_note_drained(int64 events, int64 views, uint64 request);

/* What is known of staging when it opens; published at commit. */
typedef struct StagingOpening
{
	Oid table;
	int64 epoch;
	int active_segment;
	int64 next_sid;
	int64 events;
	int64 views;
	bool dead_letters;
	TimestampTz last_drain_at;
} StagingOpening;

/* Whether this transaction is just moving staged rows (and runs triggers). */
extern void es_note_draining(bool draining);
extern bool es_draining(void);
extern void es_note_opening(const StagingOpening *opening);

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

/* ---------- staging.c: stage, rotate, drain one round, flush ---------- */

typedef enum StagedKind
{
	ES_KIND_EVENT = 1,
	ES_KIND_VIEW = 2 /* a put, or a delete where view_data is NULL */
} StagedKind;

/* One row of a staging segment, taken apart. */
typedef struct StagedRow
{
	int64 sid;
	int64 txn;
	StagedKind kind;
	EventRow event;	 /* kind event */
	Datum view_name; /* kind view */
	Datum view_key;
	Datum view_data; /* (Datum) 0 = deleted */
	bool has_version;
	int64 version;
	TimestampTz staged_at;
	bool own; /* written by this transaction */
	int segment;
	ItemPointerData tid;
	HeapTuple tuple; /* what the Datums point into; may be freed */
} StagedRow;

/*
 * Decides how a write of "rows" rows will be done, before it takes any lock:
 * honours write_delay = 0, staging_limit and on_staging_full, waits for space
 * where that is asked for, opens staging if need be.  55000 without preload.
 */
extern Durability es_admit(Durability wanted, int64 rows);

/*
 * False if no staged row can be visible to a snapshot taken after this call:
 * then staging need not be looked at.  Call it after locking the aggregate or
 * key and before taking the snapshot.
 */
extern bool es_may_have_staged(void);

/*
 * Staged rows of one aggregate or view key, newest or oldest first, visible in
 * "snapshot".  The row returned lives in the current memory context.
 */
typedef struct StagedScan StagedScan;
extern StagedScan *es_staged_begin(StagedKind kind, Datum name, Datum key,
								   Snapshot snapshot, bool backward);
extern bool es_staged_next(StagedScan *scan, StagedRow *row);
extern void es_staged_end(StagedScan *scan);
/* key = (Datum) 0 above: all keys of the name, in key order.  By event id: */
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
								  const ScanKeyData *keys, LOCKMODE lockmode);
extern void es_staged_deform(HeapTuple tuple, TupleDesc desc, int segment,
							 StagedRow *row);

/* Asks for a drain; it is done when drains_done has reached the result. */
extern uint64 es_request_drain(SharedDatabase *db);

/* Writes staged rows; the caller holds the lock of the aggregate or key. */
extern void es_stage_event(const EventRow *event);
extern void es_stage_view(Datum view_name, Datum view_key, Datum view_data,
						  bool deleted, bool has_version, int64 version);
extern int64 es_staging_epoch(void);

/* ---------- log.c: the table domain_events ---------- */

/* Inserts rows whose columns are all set, in statements of bounded size. */
extern void es_insert_events(EventRow **rows, int count);
extern Size es_event_size(const EventRow *row);

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
typedef struct ViewWrite
{
	Datum view_name;
	Datum view_key;
	Datum view_data; /* (Datum) 0 = delete */
	bool has_version;
	int64 version;
	TimestampTz updated_at; /* when it was staged; 0 = now */
} ViewWrite;

extern int64 es_write_views(const ViewWrite *writes, int count, bool accepted);

/*
 * The newest, or the oldest, staged row of a key under the active snapshot, in
 * the current memory context.
 */
extern bool es_find_staged_view(Datum view_name, Datum view_key, bool newest,
								StagedRow *row);

/* ---------- drain.c: from staging into the durable tables ---------- */

/*
 * Moves one closed set of committed staged rows, about max_rows (0 = all),
 * within the current transaction, holding the drain lock until it ends.
 * Returns the rows moved and whether more are left.  Raises errors of the
 * world; rows that fail for their own sake go to dead_letters.
 */
extern int64 es_drain_round(int64 max_rows, bool *more);
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
 * Starts a new segment when the active one is large, truncates those that
 * nobody can need any more.  Needs a transaction of its own.  Never waits.
 */
extern void es_reclaim_segments(void);

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

/* ---------- merge.c: the built-in reducer ---------- */

/*
 * A state taken apart, on which JSON merge patches (RFC 7396) work at a cost
 * that does not grow with the state.  NULL is the state before any patch.
 * The result is encoded anew by every call.
 */
typedef struct Merge Merge;

extern Merge *es_merge_begin(Jsonb *state);
extern void es_merge_apply(Merge *merge, Jsonb *patch);
extern Jsonb *es_merge_result(Merge *merge);
extern void es_merge_end(Merge *merge);

/* ---------- replay.c: reducers, the fold, snapshots ---------- */

/*
 * Folds the durable events of an aggregate and stores the state as the
 * server's snapshot.  False if there is nothing newer than what is stored.
 */
extern bool es_snapshot_aggregate(text *aggregate_type, text *aggregate_id);

/* ---------- worker.c ---------- */

/* What launcher and worker have in common: signals, sleep. */
extern void es_enter_process(void);
extern void es_heed_signals(void);
/* A negative timeout (ms) means until the latch is set. */
extern void es_sleep_on_latch(long timeout, uint32 wait_event);

/* ---------- launcher.c ---------- */
extern void es_register_launcher(void); /* while preloading */

#endif /* EVENT_STORE_H */
