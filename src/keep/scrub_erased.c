/*
 * scrub_erased.c
 *		The procedure that waits until what was erased is unreadable on disk.
 *
 * The scrubber does the work.  Who waits for it must not have a snapshot, which is what the
 * scrubber would wait for, so the transaction in which it is called ends first.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/kept_error.h"
#include "ground/metrics.h"
#include "ground/scrubber_slot.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"
#include "keep/scrub.h"
#include "read/feed.h"

/* The scrubber's end wakes us; this only bounds a lost signal. */
#define LOOK_AGAIN_MS 1000

PG_FUNCTION_INFO_V1(es_scrub_erased);

static bool
is_atomic(FunctionCallInfo fcinfo)
{
	return fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		   ((CallContext *) fcinfo->context)->atomic;
}

/* A transaction without a snapshot takes the place of the caller's. */
static void
end_callers_transaction(void)
{
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	SPI_commit();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

static void
await_scrub(SharedDatabase *db)
{
	static uint32 wait_event = 0;
	uint64 number = es_ask_for_scrub(db);
	char error[ES_ERROR_CHARS];

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("EventStoreScrub");
	es_begin_wait(db);
	while (!es_scrub_is_over(db, number, error))
		es_wait(db, LOOK_AGAIN_MS, wait_event);
	es_end_wait();
	if (error[0] != '\0')
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("what was erased could not be scrubbed: %s",
							   es_kept_message(error)),
						errhint("It is tried again; see the server's log.")));
}

static void
tell_what_is_left(void)
{
	OwnerScope scope;
	bool left;

	PushActiveSnapshot(GetTransactionSnapshot());
	es_begin_read(&scope);
	left = es_has_unscrubbed();
	es_end(&scope);
	PopActiveSnapshot();
	if (left)
		ereport(NOTICE,
				(errmsg("something that was erased is still on the disk"),
				 errhint("Column blocked_by of event_store.erasures says what it waits for; it is tried again.")));
}

Datum
es_scrub_erased(PG_FUNCTION_ARGS)
{
	SharedDatabase *db;

	PreventCommandIfReadOnly("scrub_erased()");
	db = es_feed_database();
	if (is_atomic(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("scrub_erased() cannot be called in a transaction block")));
	end_callers_transaction();
	es_begin_call(ES_CALL_SCRUB_ERASED);
	await_scrub(db);
	tell_what_is_left();
	es_end_call(ES_CALL_SCRUB_ERASED, 0);
	PG_RETURN_VOID();
}
