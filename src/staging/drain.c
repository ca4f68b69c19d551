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
 * then row by row, each probe in a subtransaction, and buried in dead_letters.
 * The later events of its aggregate follow it there, in this round and in
 * later ones, because the aggregate has dead letters; and so do the view
 * writes of those transactions.  Any other error ends the round.
 *
 * A trigger may append to an aggregate that somebody has locked, and who holds
 * it may wait for this round.  The round does not wait for him (lock.c bounds
 * that to moments): it leaves the transaction whose row has the trigger do so,
 * and those that come after it on one of its aggregates or view keys, for a
 * later round.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heapam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "log/log.h"
#include "log/view_table.h"
#include "staging/dead_letter.h"
#include "staging/drain.h"
#include "staging/drain_set.h"
#include "staging/drain_state.h"
#include "staging/own_rows.h"
#include "staging/staged_row.h"

/*
 * When every transaction of a round fails in the same way, the cause is taken
 * for one of the world, as often as this; then for one of the rows.
 */
#define ALIKE_ATTEMPTS 5

/* So often rows are written whose positions turn out to be taken. */
#define POSITION_ATTEMPTS 3

/* The stored time of the last round is at most so old, in ms. */
#define DRAIN_TIME_MS 1000

/*
 * A transaction that writes very many aggregates or view keys is written in
 * parts of so many, so that the worker's memory does not grow with it.
 */
#define MAX_PAIRS 50000

/*
 * When a round had to leave so many transactions, it leaves the others, too: each
 * costs a look at all its rows.
 */
#define MAX_LEFT 1000

typedef struct Round
{
	Snapshot snapshot;
	MemoryContext context; /* lives as long as the round */
	Relation tables[ES_SEGMENTS];
	TupleTableSlot *slots[ES_SEGMENTS];
	DrainSet set;
	bool alone; /* in its transaction */
	bool own;	/* rows of this transaction; nothing is buried */
	int attempts;
	int succeeded;		/* probes that succeeded */
	int failed;			/* transactions with a failing row */
	ErrorData *failure; /* the first of those errors */
	bool alike;			/* all had its SQLSTATE */

	bool *left;				/* by rank: not in this round after all */
	int nleft;				/* of them */
	PairTable *left_events; /* the aggregates and view keys of those; NULL */
	PairTable *left_views;	/* while there are none */
	TimestampTz left_at;	/* when the oldest of their rows was staged */
} Round;

/* A view row of a piece. */
typedef struct ViewRow
{
	DrainRow *row;
	int previous;	 /* of the same key in views[]; -1 = none */
	bool superseded; /* a later one will be written */
} ViewRow;

/* The part of a round that is written in one go. */
typedef struct Piece
{
	Round *round;
	int low; /* ranks low <= rank < high */
	int high;
	bool careful;		   /* every row by itself */
	PairTable *aggregates; /* the sequence each goes on with */
	int64 naggregates;
	EventRow **chunk;
	StagedRow *chunk_rows;
	int nchunk;
	Size chunk_bytes;
	MemoryContext chunk_context;
	ViewRow *views; /* view rows, in sid order */
	int nviews;
	PairTable *view_keys; /* the last of views[] of each key */
	Datum *culprits;	  /* per rank - low: type and id of the aggregate
								 * that died in it, or 0 */
} Piece;

/* Instead of the sequence an aggregate goes on with: it has dead letters. */
#define AGGREGATE_DEAD (-1)

/* ---------- probes ---------- */

/*
 * Runs what the owner's tables have deferred to the end of the transaction,
 * while it can still be told which rows are to blame.
 */
static void
run_deferred(void)
{
	static KeptPlan plan = {.sql = "SET CONSTRAINTS ALL IMMEDIATE"};
	OwnerScope scope;

	if (es_store()->plain)
		return;
	es_begin(&scope);
	es_execute(&plan, NULL, NULL, false, SPI_OK_UTILITY);
	es_end(&scope);
}

/*
 * Runs work in a subtransaction.  Returns NULL or the error.  A trigger that goes
 * on without a lock that it was refused has not done what it should.
 */
static ErrorData *
try_once(Round *round, void (*work)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		if (round->alone)
			run_deferred();
		if (es_lock_was_refused())
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("a trigger goes on without a lock that was refused")));
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(round->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Runs work that can be repeated.  Returns NULL or the error.  A position that is
 * taken already is nobody's fault: others are taken, and if that does not help it
 * is one of the world.
 */
static ErrorData *
attempt(Round *round, void (*work)(void *arg), void *arg)
{
	for (int tries = 1;; tries++)
	{
		ErrorData *error = try_once(round, work, arg);

		if (error == NULL || es_violated_key(error) != ES_KEY_POSITION)
			return error;
		if (tries == POSITION_ATTEMPTS)
			es_raise_race();
		es_recheck_positions();
		FreeErrorData(error);
	}
}

/* The same, but passes errors on that no row is to blame for. */
static ErrorData *
probe(Round *round, void (*work)(void *arg), void *arg)
{
	ErrorData *error = attempt(round, work, arg);

	if (error != NULL &&
		(es_lock_was_refused() || !es_blames_row(error->sqlerrcode)))
		ReThrowError(error);
	return error;
}

/* Remembers a failure, to tell whether all probes fail alike. */
static void
note_failure(Round *round, const ErrorData *error)
{
	round->failed++;
	if (round->failure == NULL)
	{
		round->failure = unconstify(ErrorData *, error);
		round->alike = true;
	}
	else if (round->failure->sqlerrcode != error->sqlerrcode)
		round->alike = false;
}

/* ---------- writing a piece ---------- */

static bool
fetch(Round *round, DrainRow *row, StagedRow *result)
{
	Relation table = round->tables[row->segment];
	TupleTableSlot *slot = round->slots[row->segment];
	bool found;

	found =
		table_tuple_fetch_row_version(table, &row->tid, round->snapshot, slot);
	if (found)
	{
		HeapTuple tuple = ExecCopySlotHeapTuple(slot);

		tuple->t_self = row->tid;
		es_deform_staged(tuple, RelationGetDescr(table), row->segment, result);
	}
	ExecClearTuple(slot);
	return found;
}

static void
insert_chunk(void *arg)
{
	Piece *piece = arg;

	es_insert_events(piece->chunk, piece->nchunk);
}

/* The aggregate that died in the transaction of a row. */
static Datum *
culprit_of(Piece *piece, const DrainRow *row)
{
	return &piece->culprits[2 * (row->rank - piece->low)];
}

/*
 * Buries an event; its aggregate is dead from here on.  Whose own rows these are
 * was told that they are in the store; the next try says what is in their way.
 */
static void
bury_event(Piece *piece, DrainRow *row, const StagedRow *staged,
		   int64 *expected, int sqlstate, const char *message)
{
	Datum *culprit = culprit_of(piece, row);

	if (piece->round->own)
		es_raise_race();
	es_bury(staged, (Datum) 0, (Datum) 0, sqlstate, message,
			piece->round->attempts);
	*expected = AGGREGATE_DEAD;
	if (culprit[0] == (Datum) 0)
	{
		culprit[0] =
			PointerGetDatum(PG_DETOAST_DATUM_COPY(staged->event
													  .values[EV_AGGREGATE_TYPE]));
		culprit[1] =
			PointerGetDatum(PG_DETOAST_DATUM_COPY(staged->event
													  .values[EV_AGGREGATE_ID]));
	}
}

static void
flush_chunk(Piece *piece)
{
	if (piece->nchunk > 0)
		insert_chunk(piece);
	piece->nchunk = 0;
	piece->chunk_bytes = 0;
	/* what was forgotten is read again from the log */
	if (piece->naggregates >= MAX_PAIRS)
	{
		es_pair_table_drop(piece->aggregates);
		piece->aggregates = es_pair_table(MAX_PAIRS);
		piece->naggregates = 0;
	}
}

/*
 * Locks the log before the round takes its snapshot: an ALTER TABLE that writes
 * the table anew would leave it empty to a snapshot older than the wait.
 */
static void
lock_log(void)
{
	LockRelationOid(es_store()->events, RowExclusiveLock);
}

/* Where the aggregate of an event stands: looked up in the log at first. */
static int64 *
expected_of(Piece *piece, const StagedRow *staged)
{
	Datum type = staged->event.values[EV_AGGREGATE_TYPE];
	Datum id = staged->event.values[EV_AGGREGATE_ID];
	bool found;
	int64 *expected = es_pair_enter(piece->aggregates, type, id, &found);

	if (!found)
	{
		Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());

		piece->naggregates++;
		*expected = es_has_dead_letters(type, id, snapshot)
						? AGGREGATE_DEAD
						: es_durable_head(type, id, snapshot, NULL) + 1;
		UnregisterSnapshot(snapshot);
	}
	return expected;
}

/*
 * The place of a staged event in the log, or its id, is taken: by rows that were
 * written around the API, or by an event of the same id that another aggregate
 * got at the same time.  If the log has this very event it is where it belongs.
 */
static void
meet_log(Piece *piece, DrainRow *row, StagedRow *staged, int64 *expected)
{
	EventRow *event = &staged->event;
	Datum type = event->values[EV_AGGREGATE_TYPE];
	Datum id = event->values[EV_AGGREGATE_ID];
	int64 sequence = DatumGetInt64(event->values[EV_SEQUENCE]);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	EventRow standing;
	Logged logged = es_look_in_log(event, snapshot, &standing);
	int64 head = es_durable_head(type, id, snapshot, NULL);

	UnregisterSnapshot(snapshot);
	if (logged == ES_LOGGED && sequence <= head)
		*expected = head + 1;
	else if (logged != ES_NOT_LOGGED)
		bury_event(piece, row, staged, expected, ES_ERRCODE_EVENT_ID_REUSED,
				   "the event_id was used at the same time for another event");
	else if (head + 1 == sequence)
		es_raise_race();
	else
		bury_event(piece, row, staged, expected, ES_ERRCODE_SEQUENCE_CONFLICT,
				   psprintf("sequence conflict on %s/%s: expected " INT64_FORMAT
							", actual " INT64_FORMAT,
							TextDatumGetCString(type), TextDatumGetCString(id),
							sequence - 1, head));
}

/* Inserts one event by itself, burying it if it fails. */
static void
insert_carefully(Piece *piece, DrainRow *row, StagedRow *staged, int64 *expected)
{
	EventRow *event = &staged->event;
	ErrorData *error;

	piece->chunk[0] = event;
	piece->nchunk = 1;
	error = probe(piece->round, insert_chunk, piece);
	piece->nchunk = 0;
	if (error == NULL)
	{
		(*expected)++;
		return;
	}
	if (es_violated_key(error) != ES_KEY_NONE)
		meet_log(piece, row, staged, expected);
	else
	{
		note_failure(piece->round, error);
		bury_event(piece, row, staged, expected, error->sqlerrcode,
				   error->message);
	}
	if (error != piece->round->failure)
		FreeErrorData(error);
}

static void
write_event(Piece *piece, DrainRow *row, StagedRow *staged)
{
	int64 *expected = expected_of(piece, staged);
	int64 sequence = DatumGetInt64(staged->event.values[EV_SEQUENCE]);

	if (*expected == AGGREGATE_DEAD)
	{
		bury_event(piece, row, staged, expected, ES_ERRCODE_DEAD_LETTERS,
				   "an earlier event of the aggregate is a dead letter");
		return;
	}
	if (*expected != sequence)
	{
		meet_log(piece, row, staged, expected);
		return;
	}
	if (piece->careful)
	{
		insert_carefully(piece, row, staged, expected);
		return;
	}
	(*expected)++;
	piece->chunk_rows[piece->nchunk] = *staged;
	piece->chunk[piece->nchunk] = &piece->chunk_rows[piece->nchunk].event;
	piece->nchunk++;
	piece->chunk_bytes += es_event_size(&staged->event);
	if (piece->nchunk >= ES_CHUNK_ROWS || piece->chunk_bytes >= ES_CHUNK_BYTES)
		flush_chunk(piece);
}

/* ---------- view writes ---------- */

static int
compare_view_rows(const void *a, const void *b)
{
	const StagedRow *x = a;
	const StagedRow *y = b;
	int result = es_compare_keys(x->name, y->name);

	return result != 0 ? result : es_compare_keys(x->key, y->key);
}

static void
write_one_view(void *arg)
{
	(void) es_write_views(arg, 1, true);
}

static void
set_view_write(ViewWrite *write, const StagedRow *row)
{
	write->view_name = row->name;
	write->view_key = row->key;
	write->view_data = row->view_data;
	write->has_version = row->has_version;
	write->version = row->version;
	write->updated_at = row->staged_at;
}

/* Remembers a view row and which one of its key it follows. */
static void
note_view(Piece *piece, DrainRow *row, const StagedRow *staged)
{
	ViewRow *view = &piece->views[piece->nviews];
	bool found;
	int64 *last =
		es_pair_enter(piece->view_keys, staged->name, staged->key, &found);

	view->row = row;
	view->previous = found ? (int) *last : -1;
	view->superseded = false;
	*last = piece->nviews++;
}

/*
 * Finds the rows that need not be written since a later one of their key is.
 * Those of transactions with a dead event are not written, so they supersede
 * nothing.
 */
static void
coalesce_views(Piece *piece)
{
	for (int i = piece->nviews - 1; i >= 0; i--)
	{
		ViewRow *view = &piece->views[i];
		bool dead = culprit_of(piece, view->row)[0] != (Datum) 0;

		if (view->previous >= 0)
			piece->views[view->previous].superseded = !dead || view->superseded;
	}
}

/* Writes one view row by itself, burying it if it fails. */
static void
write_view_carefully(Piece *piece, const StagedRow *row)
{
	ViewWrite write;
	ErrorData *error;

	set_view_write(&write, row);
	error = probe(piece->round, write_one_view, &write);
	if (error == NULL)
		return;
	note_failure(piece->round, error);
	es_bury(row, row->name, row->key, error->sqlerrcode, error->message,
			piece->round->attempts);
	if (error != piece->round->failure)
		FreeErrorData(error);
}

/* Writes some view rows of distinct keys, in key order. */
static void
write_view_rows(Piece *piece, StagedRow *rows, int count)
{
	ViewWrite *writes = palloc(Max(count, 1) * sizeof(ViewWrite));

	qsort(rows, count, sizeof(StagedRow), compare_view_rows);
	for (int i = 0; i < count; i++)
		set_view_write(&writes[i], &rows[i]);
	if (count > 0)
		(void) es_write_views(writes, count, true);
}

/*
 * Writes the views of a piece, of each key the last, in chunks of bounded
 * size.  In a careful piece every one is tried, in its order.
 */
static void
write_views(Piece *piece)
{
	StagedRow *rows = palloc(ES_CHUNK_ROWS * sizeof(StagedRow));
	MemoryContext old = MemoryContextSwitchTo(piece->chunk_context);
	int n = 0;
	Size bytes = 0;

	if (!piece->careful)
		coalesce_views(piece);
	for (int i = 0; i < piece->nviews; i++)
	{
		ViewRow *view = &piece->views[i];
		Datum *culprit = culprit_of(piece, view->row);

		CHECK_FOR_INTERRUPTS();
		if ((view->superseded && culprit[0] == (Datum) 0) ||
			!fetch(piece->round, view->row, &rows[n]))
			continue;
		if (culprit[0] != (Datum) 0)
			es_bury(&rows[n], culprit[0], culprit[1], ES_ERRCODE_DEAD_LETTERS,
					"an event of the same transaction is a dead letter",
					piece->round->attempts);
		else if (piece->careful)
			write_view_carefully(piece, &rows[n]);
		else
		{
			if (rows[n].view_data != (Datum) 0)
				bytes += toast_raw_datum_size(rows[n].view_data);
			n++;
		}
		if (n == 0)
			MemoryContextReset(piece->chunk_context);
		if (n == ES_CHUNK_ROWS || bytes >= ES_CHUNK_BYTES)
		{
			write_view_rows(piece, rows, n);
			MemoryContextReset(piece->chunk_context);
			n = 0;
			bytes = 0;
		}
	}
	write_view_rows(piece, rows, n);
	MemoryContextSwitchTo(old);
	MemoryContextReset(piece->chunk_context);
	pfree(rows);
}

/* ---------- pieces ---------- */

/* An event of a window and the row it came in. */
typedef struct WindowEvent
{
	StagedRow staged;
	DrainRow *row;
} WindowEvent;

static int
compare_places(const void *a, const void *b)
{
	const WindowEvent *x = a;
	const WindowEvent *y = b;

	return x->staged.place - y->staged.place;
}

static void
prepare_piece(Piece *piece)
{
	Round *round = piece->round;

	piece->aggregates = es_pair_table(Min(round->set.events, MAX_PAIRS));
	piece->naggregates = 0;
	piece->chunk = palloc(ES_CHUNK_ROWS * sizeof(EventRow *));
	piece->chunk_rows = palloc(ES_CHUNK_ROWS * sizeof(StagedRow));
	piece->nchunk = 0;
	piece->chunk_bytes = 0;
	piece->chunk_context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store drain chunk",
							  ALLOCSET_DEFAULT_SIZES);
	piece->views = palloc(Min(round->set.views, MAX_PAIRS) * sizeof(ViewRow));
	piece->nviews = 0;
	piece->view_keys = es_pair_table(Min(round->set.views, MAX_PAIRS));
	piece->culprits = palloc0(2 * (piece->high - piece->low) * sizeof(Datum));
}

static void
fetch_or_raise(Round *round, DrainRow *row, StagedRow *staged)
{
	if (!fetch(round, row, staged))
		elog(ERROR, "staged row " INT64_FORMAT " is gone", row->sid);
}

/* Writes the events of a window, which overlapping rows hold, in their order. */
static void
write_window(Piece *piece, DrainRow *rows, int nrows)
{
	MemoryContext caller = MemoryContextSwitchTo(piece->chunk_context);
	WindowEvent *events;
	int n = 0;

	for (int i = 0; i < nrows; i++)
		n += rows[i].count;
	events = palloc_array(WindowEvent, n);
	n = 0;
	for (int i = 0; i < nrows; i++)
	{
		StagedRow row;
		UnpackedRun unpacked;

		fetch_or_raise(piece->round, &rows[i], &row);
		es_unpack_begin(&unpacked, &row);
		for (int e = 0; e < rows[i].count; e++)
		{
			es_event_of_run(&unpacked, e, &events[n].staged);
			events[n++].row = &rows[i];
		}
	}
	MemoryContextSwitchTo(caller);
	if (nrows > 1)
		qsort(events, n, sizeof(WindowEvent), compare_places);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		write_event(piece, events[i].row, &events[i].staged);
	}
	if (piece->careful)
		flush_chunk(piece);
	if (piece->nchunk == 0)
		MemoryContextReset(piece->chunk_context);
}

static bool
is_in_piece(const Piece *piece, const DrainRow *row)
{
	return row->rank >= piece->low && row->rank < piece->high &&
		   !piece->round->left[row->rank];
}

static void
write_piece_events(Piece *piece)
{
	Round *round = piece->round;
	int next;

	for (int i = 0; i < round->set.nrows; i = next)
	{
		DrainRow *row = &round->set.rows[i];

		next = i + 1;
		if (!row->is_event || !is_in_piece(piece, row))
			continue;
		while (next < round->set.nrows && round->set.rows[next].sid == row->sid)
			next++;
		write_window(piece, row, next - i);
	}
	flush_chunk(piece);
	MemoryContextReset(piece->chunk_context);
}

static void
write_piece_views(Piece *piece)
{
	Round *round = piece->round;

	for (int i = 0; i < round->set.nrows; i++)
	{
		DrainRow *row = &round->set.rows[i];
		MemoryContext caller;
		StagedRow staged;

		CHECK_FOR_INTERRUPTS();
		if (row->is_event || !is_in_piece(piece, row))
			continue;
		caller = MemoryContextSwitchTo(piece->chunk_context);
		fetch_or_raise(round, row, &staged);
		MemoryContextSwitchTo(caller);
		note_view(piece, row, &staged);
		MemoryContextReset(piece->chunk_context);
		if (piece->nviews == MAX_PAIRS)
		{
			write_views(piece);
			piece->nviews = 0;
			es_pair_table_drop(piece->view_keys);
			piece->view_keys = es_pair_table(MAX_PAIRS);
		}
	}
	if (piece->nviews > 0)
		write_views(piece);
}

/* Writes the events of a piece in sid order, then its views, then deletes. */
static void
write_piece(void *arg)
{
	Piece *piece = arg;
	Round *round = piece->round;

	prepare_piece(piece);
	write_piece_events(piece);
	write_piece_views(piece);
	for (int i = 0; i < round->set.nrows; i++)
	{
		DrainRow *row = &round->set.rows[i];

		if (is_in_piece(piece, row))
			simple_heap_delete(round->tables[row->segment], &row->tid);
	}
	CommandCounterIncrement();
}

/* ---------- what a round leaves ---------- */

/*
 * Leaves a row's transaction if it comes after one that is left, and remembers
 * what it wrote if it is left.  Returns whether that was news.
 */
static bool
leave_if_it_depends(Round *round, const DrainRow *row, const StagedRow *staged)
{
	PairTable *table = row->is_event ? round->left_events : round->left_views;
	bool found = es_pair_find(table, staged->name, staged->key);

	if (!round->left[row->rank] && !found)
		return false;
	if (!round->left[row->rank])
	{
		round->left[row->rank] = true;
		round->nleft++;
		/* its rows before this one are to be remembered */
		(void) es_pair_enter(table, staged->name, staged->key, &found);
		return true;
	}
	if (round->left_at == 0 || staged->staged_at < round->left_at)
		round->left_at = staged->staged_at;
	(void) es_pair_enter(table, staged->name, staged->key, &found);
	return !found;
}

/*
 * Leaves those of the transactions low to high that come after one that is left,
 * on any of its aggregates or view keys.  A transaction has a higher rank than
 * those it comes after, so the ones below are settled.
 */
static void
leave_dependents(Round *round, int low, int high)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store drain left",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool news = round->nleft > 0;

	while (news)
	{
		news = false;
		for (int i = 0; i < round->set.nrows; i++)
		{
			DrainRow *row = &round->set.rows[i];
			StagedRow staged;

			CHECK_FOR_INTERRUPTS();
			if (row->rank < low || row->rank >= high)
				continue;
			fetch_or_raise(round, row, &staged);
			if (leave_if_it_depends(round, row, &staged))
				news = true;
			MemoryContextReset(context);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Leaves a transaction for a later round. */
static void
leave(Round *round, int rank)
{
	if (round->nleft == 0)
	{
		MemoryContext old = MemoryContextSwitchTo(round->context);

		round->left_events = es_pair_table(64);
		round->left_views = es_pair_table(64);
		MemoryContextSwitchTo(old);
	}
	round->left[rank] = true;
	round->nleft++;
	leave_dependents(round, rank, rank + 1);
}

/* Leaves all from a transaction on. */
static void
leave_rest(Round *round, int low)
{
	for (int rank = low; rank < round->set.ntxns; rank++)
	{
		if (!round->left[rank])
			round->nleft++;
		round->left[rank] = true;
	}
}

/* Takes what was left out of the numbers of the round; returns how much it was. */
static int64
subtract_left(Round *round)
{
	int64 count = 0;

	for (int i = 0; i < round->set.nrows && round->nleft > 0; i++)
	{
		const DrainRow *row = &round->set.rows[i];

		if (!round->left[row->rank])
			continue;
		if (row->is_event)
			round->set.events -= row->count;
		else
			round->set.views--;
		round->set.in_segment[row->segment] -= row->count;
		count += row->count;
		/* rows are in sid order */
		if (count == row->count)
			round->set.stopped_at = Min(round->set.stopped_at, row->sid);
	}
	if (round->nleft > 0)
		es_count_left_behind(round->left_at);
	return count;
}

/* ---------- the transactions of a round ---------- */

/* Writes one transaction in which a row is to blame, row by row. */
static ErrorData *
write_carefully(Round *round, Piece *piece)
{
	int failed = round->failed;
	ErrorData *error;

	piece->careful = true;
	error = attempt(round, write_piece, piece);
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

	leave_dependents(round, low, high);
	es_forget_refused_lock();
	error = attempt(round, write_piece, &piece);
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
		leave(round, low);
	if (round->nleft > MAX_LEFT)
		leave_rest(round, low);
	else if (error != NULL && high - low > 1)
	{
		int middle = low + (high - low) / 2;

		write_transactions(round, low, middle);
		write_transactions(round, middle, high);
	}
}

/* ---------- rounds ---------- */

static void
open_tables(Round *round)
{
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		round->tables[i] =
			table_open(es_store()->segments[i].table, RowExclusiveLock);
		round->slots[i] = table_slot_create(round->tables[i], NULL);
	}
	(void) es_store();
}

static void
close_tables(Round *round)
{
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		ExecDropSingleTupleTableSlot(round->slots[i]);
		table_close(round->tables[i], NoLock);
	}
}

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
	lock_log();
	round.snapshot = RegisterSnapshot(GetLatestSnapshot());
	result->more = es_collect_set(round.snapshot, max_rows, &round.set);
	if (round.set.nrows > 0)
	{
		ForceSyncCommit();
		round.left = palloc0(round.set.ntxns * sizeof(bool));
		open_tables(&round);
		es_note_draining(true);
		es_bound_lock_waits(true);
		write_transactions(&round, 0, round.set.ntxns);
		es_bound_lock_waits(false);
		if (db != NULL)
			es_tell_refused_locks(db);
		es_note_draining(false);
		close_tables(&round);
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
	result->left = subtract_left(&round);
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
		write_piece(piece);
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
	lock_log();
	round.snapshot = RegisterSnapshot(GetLatestSnapshot());
	open_tables(&round);
	es_note_draining(true);
	write_own_rows(&piece);
	es_note_durable_write();
	es_note_draining(false);
	close_tables(&round);
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
