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

#include "access/xact.h"
#include "access/xlog.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/settings.h"
#include "ground/shmem.h"
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

static uint32 wait_drain;

PG_FUNCTION_INFO_V1(es_flush);
PG_FUNCTION_INFO_V1(es_drain);

/* Drains everything in this transaction. */
static void
drain_here(bool alone)
{
	bool more = true;

	while (more)
	{
		CHECK_FOR_INTERRUPTS();
		(void) es_drain_round(0, alone, &more);
	}
}

void
es_settle(void)
{
	SharedDatabase *db = es_my_database();
	uint64 request;

	if (es_draining())
		ereport(ERROR,
				(errcode(ERRCODE_RAISE_EXCEPTION),
				 errmsg("a trigger cannot wait for staged rows while they are drained")));
	if (!es_worker_possible(db) || es_lock_held(ES_LOCK_DRAIN))
	{
		drain_here(false);
		return;
	}
	es_begin_wait(db);
	request = es_request_drain(db);
	while (!es_drain_done(db, request))
	{
		if (!es_worker_possible(db))
			break;
		if (es_drain_progress(db)->state == ES_DRAIN_DRAINING)
		{
			es_end_wait();
			es_lock_acquire(ES_LOCK_DRAIN, ShareLock);
			es_lock_release(ES_LOCK_DRAIN, ShareLock);
			es_begin_wait(db);
			if (es_drain_done(db, request))
				break;
		}
		es_wake_worker(db);
		es_wait(db, WAIT_SLICE_MS, es_wait_event(&wait_drain, "EventStoreDrain"));
	}
	es_end_wait();
	if (!es_drain_done(db, request))
		drain_here(false);
}

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
		es_settle();
		es_drain_own_rows();
	}
}

/* Requests a drain, and returns whether it was done within the time. */
static bool
wait_for_drain(SharedDatabase *db, int64 timeout)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	uint64 request;
	bool done;

	es_begin_wait(db);
	request = es_request_drain(db);
	for (;;)
	{
		int64 left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

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

/* Whether all that was committed before is durable within the time. */
static bool
flush_within(int64 timeout)
{
	SharedDatabase *db;

	if (RecoveryInProgress() || !es_may_have_staged())
		return true;
	db = es_my_database();
	if (es_worker_possible(db) && wait_for_drain(db, timeout))
		return true;
	if (es_worker_possible(db))
		return false;
	PreventCommandIfReadOnly("flush()");
	PreventCommandIfParallelMode("flush()");
	drain_here(true);
	return true;
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
	bool more;

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
	PG_RETURN_INT64(es_drain_round(max_rows, true, &more));
}
