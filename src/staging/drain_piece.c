/*
 * drain_piece.c
 *		The writing of a piece of a round: its events into the log, its view rows
 *		into the views.
 *
 * Events go in chunks, and of each view key the last row.  In a careful piece every
 * row is tried by itself, and buried in dead_letters if it fails for its own sake.
 * The later events of its aggregate follow it there, in this round and in
 * later ones, because the aggregate has dead letters; and so do the view
 * writes of those transactions.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heapam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"

#include "ground/archive_mark.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "log/log.h"
#include "log/view_table.h"
#include "staging/archived_ids.h"
#include "staging/dead_letter.h"
#include "staging/drain_piece.h"
#include "staging/drain_round.h"
#include "staging/drain_set.h"
#include "staging/staged_row.h"

/*
 * A transaction that writes very many aggregates or view keys is written in
 * parts of so many, so that the worker's memory does not grow with it.
 */
#define MAX_PAIRS 50000

/* A view row of a piece. */
struct ViewRow
{
	DrainRow *row;
	int previous;	 /* of the same key in views[]; -1 = none */
	bool superseded; /* a later one will be written */
};

/* Instead of the sequence an aggregate goes on with: it has dead letters. */
#define AGGREGATE_DEAD (-1)

/* ---------- events ---------- */

/* Whose own rows these are waits for who has locked the archive; a round does not. */
static void
hold_archive(const Piece *piece)
{
	if (!piece->round->own && !es_take_archive())
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("the archive is locked, which is not waited for here")));
}

static void
insert_chunk(void *arg)
{
	Piece *piece = arg;

	es_insert_events(piece->chunk, piece->nchunk);
	if (!es_may_be_archived(es_my_database(), piece->chunk_sid))
		return;
	hold_archive(piece);
	es_refuse_archived_ids(piece->chunk, piece->nchunk);
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
	Snapshot snapshot;
	EventRow standing;
	Logged logged;
	int64 head;

	if (es_anything_moved())
		hold_archive(piece);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	logged = es_look_in_log(event, snapshot, &standing);
	head = es_durable_head(type, id, snapshot, NULL);
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
	piece->chunk_sid = staged->sid;
	piece->nchunk = 1;
	error = es_probe(piece->round, insert_chunk, piece);
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
		es_note_failure(piece->round, error);
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
	/* they come in the order of their sids */
	if (piece->nchunk == 0)
		piece->chunk_sid = staged->sid;
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
	*write = (ViewWrite){.view_name = row->name,
						 .view_key = row->key,
						 .view_data = row->view_data,
						 .has_version = row->has_version,
						 .version = row->version,
						 .updated_at = row->staged_at};
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
	error = es_probe(piece->round, write_one_view, &write);
	if (error == NULL)
		return;
	es_note_failure(piece->round, error);
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
			!es_fetch_drained(piece->round, view->row, &rows[n]))
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

		es_fetch_or_raise(piece->round, &rows[i], &row);
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
		es_fetch_or_raise(round, row, &staged);
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

void
es_write_piece(void *arg)
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
