/*
 * flush.c
 *		Waiting until what was staged is durable.
 *
 * Who waits makes a request (drain_state.c), and the worker does the rounds.
 * Where no worker can run, without preload or out of worker slots, the waiter
 * does them itself.
 *
 * A durable write may wait here with locks of aggregates held.  The worker
 * could in turn wait for that very transaction, at a unique key or a table
 * lock; so while a round runs the waiter also waits for the drain lock, where
 * the deadlock detector sees it.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/kept_error.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"
#include "staging/drain.h"
#include "staging/drain_state.h"
#include "staging/flush.h"
#include "staging/own_rows.h"
#include "staging/segment.h"
#include "staging/staged_scan.h"
#include "staging/staging_state.h"

/* How long a waiter sleeps before it tests for a deadlock again, in ms. */
#define WAIT_SLICE_MS 1000

/* After a round here that left rows the next comes so much later, in ms. */
#define AGAIN_MS 10

/* A round of flush() in the foreground moves so many batches. */
#define BATCHES_PER_ROUND 100

static uint32 wait_drain;

PG_FUNCTION_INFO_V1(es_flush);
PG_FUNCTION_INFO_V1(es_drain);

static int64
milliseconds_until(TimestampTz end)
{
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
}

/* ---------- settling ---------- */

/* What a durable write waits for, how long, and how it finds out. */
typedef struct Settling
{
	TimestampTz since;
	bool (*in_the_way)(void *arg); /* NULL = all that was staged */
	void *arg;
	bool left;	  /* the last rounds left rows */
	int attempts; /* to drain here */
} Settling;

/* Until settle_timeout or lock_timeout is over. */
static int64
time_left(const Settling *settling)
{
	int64 time = es_settle_timeout;

	if (LockTimeout > 0)
		time = Min(time, LockTimeout);
	return milliseconds_until(TimestampTzPlusMilliseconds(settling->since, time));
}

/* Raises that the time is over, as PostgreSQL does where it was lock_timeout's. */
static void
raise_unsettled(void)
{
	SharedDatabase *db = es_my_database();
	char last_error[ES_ERROR_CHARS] = "";
	int failures = 0;

	if (LockTimeout > 0 && LockTimeout <= es_settle_timeout)
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("canceling statement due to lock timeout")));
	if (db != NULL)
	{
		LWLockAcquire(db->lock, LW_SHARED);
		failures = es_drain_progress(db)->failures;
		strlcpy(last_error, es_drain_progress(db)->last_error, sizeof(last_error));
		LWLockRelease(db->lock);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("staged rows did not become durable within %d ms",
					es_settle_timeout),
			 failures > 0
				 ? errdetail("The drain has failed %d times in a row: %s",
							 failures, es_kept_message(last_error))
				 : errdetail("The drain has not failed; view event_store.staging_status tells what it waits for."),
			 errhint("A durable write comes after what is staged for the same aggregate or view key. How long it waits for that is event_store.settle_timeout.")));
}

/*
 * Does what waits for locks, but no longer than there is time, and not for a
 * client that has gone.
 */
static void
with_lock_limit(Settling *settling, void (*work)(Settling *settling))
{
	MemoryContext context = CurrentMemoryContext;
	int64 left = time_left(settling);
	int lock_timeout = LockTimeout;
	int interval;

	if (left <= 0)
		raise_unsettled();
	interval = es_begin_lock_wait();
	PG_TRY();
	{
		LockTimeout = (int) left;
		work(settling);
		LockTimeout = lock_timeout;
		es_end_lock_wait(interval);
	}
	PG_CATCH();
	{
		ErrorData *error;

		LockTimeout = lock_timeout;
		es_end_lock_wait(interval);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE ||
			time_left(settling) > 0)
			PG_RE_THROW();
		FlushErrorState();
		raise_unsettled();
	}
	PG_END_TRY();
}

/* Waits for the end of the round that runs, where the deadlock detector sees it. */
static void
wait_for_round(Settling *settling)
{
	es_lock_acquire(ES_LOCK_DRAIN, ShareLock);
	es_lock_release(ES_LOCK_DRAIN, ShareLock);
}

static bool
is_settled(Settling *settling)
{
	return settling->in_the_way == NULL ? !settling->left
										: !settling->in_the_way(settling->arg);
}

/* Runs one round; false, so that it is rolled back, if it was of no use. */
static bool
drain_for_settling(void *arg)
{
	Settling *settling = arg;
	bool possible = es_worker_possible(es_my_database());
	RoundResult result = {0};

	/* with a worker it is about the oldest rows, which were left so far */
	es_drain_round(possible ? (int64) es_write_batch_size
								  << Min(settling->attempts, 10)
							: 0,
				   false, &result);
	settling->left = result.left > 0 || result.more;
	return is_settled(settling);
}

/*
 * Drains in this transaction.  It would keep the drain lock until its end, so
 * others may wait for it: it does without both if that does not help.
 */
static void
drain_here(Settling *settling)
{
	ErrorData *error = es_in_subtransaction(drain_for_settling, settling);

	if (error != NULL)
		ReThrowError(error);
	settling->attempts++;
}

/* Waits until rounds have come to all that was staged before now. */
static void
wait_for_worker(SharedDatabase *db, Settling *settling)
{
	uint64 request;
	int64 left;

	es_begin_wait(db);
	request = es_request_drain(db);
	while (!es_drain_tried(db, request) && es_worker_possible(db))
	{
		if (es_drain_progress(db)->state == ES_DRAIN_DRAINING)
		{
			es_end_wait();
			with_lock_limit(settling, wait_for_round);
			es_begin_wait(db);
			if (es_drain_tried(db, request))
				break;
		}
		left = time_left(settling);
		if (left <= 0)
			raise_unsettled();
		es_wake_worker(db);
		es_wait(db, Min(left, WAIT_SLICE_MS),
				es_wait_event(&wait_drain, "EventStoreDrain"));
	}
	es_end_wait();
	settling->left = !es_drain_done(db, request);
}

/*
 * The worker's rounds leave rows whose triggers need what somebody has locked.
 * If that is this very transaction, it drains them itself.  It does so as the
 * last resort: it keeps the drain lock, and may wait for who waits for the drain.
 */
void
es_settle(bool (*in_the_way)(void *arg), void *arg)
{
	SharedDatabase *db = es_my_database();
	Settling settling = {GetCurrentTimestamp(), in_the_way, arg, true, 0};

	if (es_draining())
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("a trigger cannot wait for staged rows while they are drained")));
	if (es_waits_are_refused())
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("staged rows are in the way, which are not waited for here")));
	for (;;)
	{
		bool possible = es_worker_possible(db) && !es_lock_held(ES_LOCK_DRAIN);

		if (possible)
			wait_for_worker(db, &settling);
		if (possible && is_settled(&settling))
			return;
		if (!possible || es_holds_up_drain(db))
		{
			with_lock_limit(&settling, drain_here);
			if (is_settled(&settling))
				return;
		}
		es_wait_on(NULL, Min(Max(time_left(&settling), 1), AGAIN_MS),
				   es_wait_event(&wait_drain, "EventStoreDrain"));
	}
}

/* ---------- this transaction's own rows ---------- */

/* Whether this transaction has rows in staging that it has not moved. */
static bool
has_own_staged(void)
{
	int count;
	OwnRow *rows = es_own_rows(&count);

	for (int i = 0; i < count; i++)
	{
		if (rows[i].moved_in == InvalidSubTransactionId)
			return true;
	}
	return false;
}

void
es_move_own_rows(void)
{
	/* triggers on what is moved may stage more */
	while (!es_draining() && has_own_staged())
	{
		CHECK_FOR_INTERRUPTS();
		/* others' rows of the same aggregates come before ours */
		es_settle(NULL, NULL);
		es_drain_own_rows();
	}
}

/* ---------- flush() and drain() ---------- */

/* Requests a drain, and returns whether it was done within the time. */
static bool
wait_for_drain(SharedDatabase *db, TimestampTz end)
{
	uint64 request;
	bool done;

	es_begin_wait(db);
	request = es_request_drain(db);
	for (;;)
	{
		int64 left = milliseconds_until(end);

		done = es_drain_done(db, request);
		if (done || left <= 0 || !es_worker_possible(db))
			break;
		es_wake_worker(db);
		es_wait(db, Min(left, WAIT_SLICE_MS),
				es_wait_event(&wait_drain, "EventStoreDrain"));
	}
	es_end_wait();
	return done;
}

static void
prevent_in_transaction(const char *function)
{
	int staged;

	/* a statement of its own may still have staged something before */
	(void) es_own_rows(&staged);
	if (IsTransactionBlock() || IsSubTransaction() || staged > 0)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", function)));
}

/*
 * A round in the foreground may wait for a table, or for whatever a trigger waits
 * for.  When the time is up it is canceled, as by the user.
 */
static TimeoutId flush_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t time_is_up = false;

static void
cancel_round(void)
{
	time_is_up = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
start_clock(int64 timeout)
{
	if (flush_timeout == MAX_TIMEOUTS)
		flush_timeout = RegisterTimeout(USER_TIMEOUT, cancel_round);
	time_is_up = false;
	enable_timeout_after(flush_timeout, (int) timeout);
}

/* What fired too late to be heard must not cancel what comes next. */
static void
stop_clock(void)
{
	disable_timeout(flush_timeout, false);
	if (time_is_up)
		QueryCancelPending = false;
}

static bool
run_round(void *arg)
{
	es_drain_round((int64) es_write_batch_size * BATCHES_PER_ROUND, true, arg);
	return true;
}

/* Runs one round; false, and nothing was done, if the time is up. */
static bool
round_within(int64 timeout, RoundResult *result)
{
	ErrorData *error;

	if (timeout <= 0)
		return false;
	start_clock(timeout);
	error = es_in_subtransaction(run_round, result);
	stop_clock();
	if (error != NULL &&
		(!time_is_up || error->sqlerrcode != ERRCODE_QUERY_CANCELED))
		ReThrowError(error);
	return error == NULL;
}

/* Whether all that was committed before is durable within the time. */
static bool
flush_within(int64 timeout)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	SharedDatabase *db;
	RoundResult result = {.more = true};

	if (RecoveryInProgress() || !es_may_have_staged())
		return true;
	db = es_my_database();
	if (es_worker_possible(db) && wait_for_drain(db, end))
		return true;
	if (es_worker_possible(db))
		return false;
	PreventCommandIfReadOnly("flush()");
	PreventCommandIfParallelMode("flush()");
	while (result.more)
	{
		if (!round_within(milliseconds_until(end), &result))
			return false;
	}
	return result.left == 0;
}

Datum
es_flush(PG_FUNCTION_ARGS)
{
	int64 timeout = 5000;
	bool flushed;

	es_begin_call(ES_CALL_FLUSH);
	if (!PG_ARGISNULL(0))
		es_check_timeout(PG_GETARG_INTERVAL_P(0), "timeout", &timeout);
	es_refuse_in_worker(es_my_database_if_any());
	prevent_in_transaction("flush()");
	(void) es_store();
	flushed = flush_within(timeout);
	es_end_call(ES_CALL_FLUSH, 0);
	PG_RETURN_BOOL(flushed);
}

Datum
es_drain(PG_FUNCTION_ARGS)
{
	SharedDatabase *db;
	int64 max_rows = es_write_batch_size;
	RoundResult result;

	if (!PG_ARGISNULL(0))
		max_rows = PG_GETARG_INT32(0);
	if (max_rows <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_rows must be positive")));
	es_refuse_in_worker(es_my_database_if_any());
	prevent_in_transaction("drain()");
	PreventCommandIfReadOnly("drain()");
	PreventCommandIfParallelMode("drain()");
	(void) es_store();
	db = es_my_database();
	/* of what rounds before this one have moved, where no worker does it */
	if (db != NULL && !es_worker_possible(db) &&
		es_staging_is(db, ES_STAGING_OPEN))
		(void) es_reclaim_segments();
	es_drain_round(max_rows, true, &result);
	PG_RETURN_INT64(result.moved);
}
