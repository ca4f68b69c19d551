/*
 * drain.c
 *		One round of draining: from staging into the durable tables.
 *
 * A round moves a closed set of committed transactions (drain_set.c): if it moves
 * one that appended to an aggregate after another, it moves that other one too.
 * The round runs under one snapshot, in one transaction, under the drain lock.
 * It takes no aggregate lock: moving rows changes no head.
 *
 * A row that fails for its own sake is found by bisection over transactions,
 * then row by row (drain_piece.c), each probe in a subtransaction, and buried in
 * dead_letters.  What needs a lock that somebody holds is left for a later round
 * (drain_left.c).  Any other error ends the round.
 */
#include "postgres.h"

#include "access/xact.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "storage/lockdefs.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "log/log.h"
#include "staging/dead_letter.h"
#include "staging/drain.h"
#include "staging/drain_left.h"
#include "staging/drain_piece.h"
#include "staging/drain_round.h"
#include "staging/drain_set.h"
#include "staging/drain_state.h"
#include "staging/own_rows.h"

/*
 * When every transaction of a round fails in the same way, the cause is taken
 * for one of the world, as often as this; then for one of the rows.
 */
#define ALIKE_ATTEMPTS 5

/* The stored time of the last round is at most so old, in ms. */
#define DRAIN_TIME_MS 1000

/*
 * When a round had to leave so many transactions, it leaves the others, too: each
 * costs a look at all its rows.
 */
#define MAX_LEFT 1000

/* ---------- the transactions of a round ---------- */

/* Writes one transaction in which a row is to blame, row by row. */
static ErrorData *
write_carefully(Round *round, Piece *piece)
{
	int failed = round->failed;
	ErrorData *error;

	piece->careful = true;
	error = es_attempt(round, es_write_piece, piece);
	if (error == NULL && round->failed == failed)
		round->succeeded++;
	if (error != NULL)
		round->failed = failed;
	return error;
}

/*
 * Writes transactions low to high, halving where a row is to blame or needs a
 * lock that cannot be had.
 */
static void
write_transactions(Round *round, int low, int high)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store drain piece",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Piece piece = {round, low, high};
	ErrorData *error;

	es_leave_dependents(round, low, high);
	es_forget_refused_lock();
	error = es_attempt(round, es_write_piece, &piece);
	if (error == NULL)
		round->succeeded++;
	else if (high - low == 1 && !es_lock_was_refused() &&
			 es_blames_row(error->sqlerrcode))
		error = write_carefully(round, &piece);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	if (error != NULL && !es_lock_was_refused() &&
		(high - low == 1 || !es_blames_row(error->sqlerrcode)))
		ReThrowError(error);
	if (error != NULL && high - low == 1)
		es_leave(round, low);
	if (error != NULL && round->nleft - round->left_untried > MAX_LEFT)
		es_leave_rest(round, low);
	else if (error != NULL && high - low > 1)
	{
		int middle = low + (high - low) / 2;

		write_transactions(round, low, middle);
		write_transactions(round, middle, high);
	}
}

/* ---------- rounds ---------- */

/*
 * Stores when rows were last moved, for the report of a loss.  Not in every
 * round: while a snapshot is held open, no version of that row can be removed.
 */
static void
note_drain_time(void)
{
	static KeptPlan plan = {
		"UPDATE event_store.store_state SET last_drain_at = pg_catalog.clock_timestamp()"};
	static TimestampTz noted_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	OwnerScope scope;

	if (!TimestampDifferenceExceeds(noted_at, now, DRAIN_TIME_MS))
		return;
	noted_at = now;
	es_begin(&scope);
	es_execute(&plan, NULL, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

void
es_drain_round(int64 max_rows, bool alone, RoundResult *result)
{
	SharedDatabase *db = es_my_database();
	Round round;
	uint64 request;
	uint64 tried = 0;

	es_begin_call(ES_CALL_DRAIN);
	memset(&round, 0, sizeof(round));
	round.context = CurrentMemoryContext;
	round.alone = alone;
	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	request = db == NULL ? 0 : es_begin_drain_requests(db);
	round.attempts = 1 + (db == NULL ? 0 : es_drain_progress(db)->failures);
	es_lock_log();
	round.snapshot = RegisterSnapshot(GetLatestSnapshot());
	result->more = es_collect_set(round.snapshot, max_rows, &round.set);
	if (round.set.nrows > 0)
	{
		ForceSyncCommit();
		round.left = palloc0(round.set.ntxns * sizeof(bool));
		es_open_round(&round);
		es_note_draining(true);
		es_bound_lock_waits(true);
		if (es_anything_moved() && !es_take_archive())
			es_leave_archived(&round);
		write_transactions(&round, 0, round.set.ntxns);
		es_bound_lock_waits(false);
		if (db != NULL)
			es_tell_refused_locks(db);
		es_note_draining(false);
		es_close_round(&round);
		/* a worker, if there is one, comes back to them and counts how often */
		if (round.failed > 1 && round.succeeded == 0 && round.alike &&
			round.attempts < ALIKE_ATTEMPTS && es_worker_possible(db))
			ReThrowError(round.failure);
		if (!IsolationUsesXactSnapshot())
			note_drain_time();
	}
	UnregisterSnapshot(round.snapshot);
	if (db != NULL)
		tried = es_fulfilled_request(db, request, round.set.stopped_at);
	result->left = es_subtract_left(&round);
	if (db != NULL)
		request = es_fulfilled_request(db, request, round.set.stopped_at);
	es_note_drained(round.set.events, round.set.views, round.set.in_segment,
					request, tried);
	es_end_call(ES_CALL_DRAIN, 0);
	pfree(round.set.rows);
	result->moved = round.set.events + round.set.views;
}

/*
 * Writes a transaction's own rows.  Its caller was told that they are in the
 * store, so one that cannot be written ends the transaction.
 */
static void
write_own_rows(Piece *piece)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		es_write_piece(piece);
	}
	PG_CATCH();
	{
		if (es_catch_key_violation(context) != ES_KEY_EVENT_ID)
			es_raise_race();
		ereport(ERROR,
				(errcode(ES_ERRCODE_EVENT_ID_REUSED),
				 errmsg("an event_id that this transaction has staged was used at the same time by another append"),
				 errdetail_internal("%s", es_event_id_detail((Datum) 0, NULL))));
	}
	PG_END_TRY();
}

void
es_drain_own_rows(void)
{
	int count;
	int now;
	OwnRow *own = es_own_rows(&count);
	Round round;
	Piece piece = {&round, 0, 1};

	memset(&round, 0, sizeof(round));
	round.context = CurrentMemoryContext;
	round.own = true;
	round.attempts = 1;
	round.left = palloc0(sizeof(bool));
	round.set.rows =
		palloc_extended(Max(count, 1) * sizeof(DrainRow), MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
	{
		DrainRow *row = &round.set.rows[round.set.nrows];

		if (own[i].moved_in != InvalidSubTransactionId)
			continue;
		row->sid = own[i].sid;
		row->rank = 0;
		row->count = own[i].count;
		row->tid = own[i].tid;
		row->segment = own[i].segment;
		row->is_event = own[i].is_event;
		if (row->is_event)
			round.set.events += row->count;
		else
			round.set.views++;
		round.set.nrows++;
	}
	es_lock_log();
	round.snapshot = RegisterSnapshot(GetLatestSnapshot());
	es_open_round(&round);
	es_note_draining(true);
	write_own_rows(&piece);
	es_note_durable_write();
	es_note_draining(false);
	es_close_round(&round);
	UnregisterSnapshot(round.snapshot);
	/* triggers may have staged more, and so have moved the list */
	own = es_own_rows(&now);
	for (int i = 0; i < Min(count, now); i++)
	{
		if (own[i].moved_in == InvalidSubTransactionId)
			own[i].moved_in = GetCurrentSubTransactionId();
	}
	pfree(round.set.rows);
}
