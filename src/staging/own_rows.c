/*
 * own_rows.c
 *		What the current transaction does to staging, published at its end.
 *
 * The rows that it stages, the rounds of draining that it runs, and that it
 * opens staging or sends writers to another segment: others shall know of it
 * once it has committed, and never if it aborts.
 *
 * The counters in shared memory obey one rule: "uncommitted" is raised before
 * a row is inserted and lowered only after the row was counted as staged (or
 * is gone), and staged rows are taken off only after the transaction that
 * moved them became visible.  So a reader that finds uncommitted and then
 * staged zero, and takes its snapshot afterwards, misses no row.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"
#include "staging/drain_state.h"
#include "staging/own_rows.h"
#include "staging/staging_state.h"

/* A round of draining that this transaction ran. */
typedef struct DrainNote
{
	int64 events;
	int64 views;
	int64 rows[ES_SEGMENTS]; /* moved from each segment */
	uint64 request;			 /* the request it fulfilled; 0 = none */
	uint64 tried;			 /* the same but for rows it left */
	RoundMetrics metrics;
	SubTransactionId subtransaction;
} DrainNote;

/* Everything about the current top-level transaction; all zero in between. */
typedef struct Own
{
	int64 txn;		   /* first sid; 0 = nothing staged yet */
	int64 uncommitted; /* what we added to the shared counter */

	OwnRow *rows; /* staged and not rolled back, in their order */
	int nrows;
	int maxrows;

	DrainNote *drains; /* rounds run by this transaction */
	int ndrains;

	/* the lowest that wrote durably, or invalid; when it ends in an abort, so
	 * did all others, whose numbers are higher */
	SubTransactionId durable_in;

	SubTransactionId draining_in; /* that moves rows right now, or invalid */
	bool opens;					  /* opens staging, with what follows */
	StagingOpening opening;
	bool rotates; /* to this segment */
	int rotates_to;
	FullTransactionId xid; /* of the rounds, the opening, the rotation */
} Own;

static Own current;

/* Counts this transaction's staged rows as committed. */
static void
publish_staged(SharedDatabase *db)
{
	int64 events = 0;
	int64 views = 0;
	bool first;
	uint64 total;

	for (int i = 0; i < current.nrows; i++)
	{
		if (current.rows[i].moved_in != InvalidSubTransactionId)
			continue;
		if (current.rows[i].is_event)
			events += current.rows[i].count;
		else
			views++;
	}
	if (events + views == 0)
		return;
	if (events > 0)
		pg_atomic_fetch_add_u64(&es_staging(db)->staged_events, events);
	if (views > 0)
		pg_atomic_fetch_add_u64(&es_staging(db)->staged_views, views);

	/* a round may have moved the rows, and taken them off, before */
	total = es_staged_rows(db);
	first = es_staging(db)->first_staged_at == 0;
	if (first || total == 0)
	{
		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		total = es_staged_rows(db);
		first = total > 0 && es_staging(db)->first_staged_at == 0;
		if (first)
			es_staging(db)->first_staged_at = GetCurrentTimestamp();
		else if (total == 0)
			es_staging(db)->first_staged_at = 0;
		LWLockRelease(db->lock);
	}
	if (first || total >= (uint64) es_write_batch_size)
		es_note_wake();
}

/*
 * Remembers that rows of some segments are gone from this transaction on.  The
 * drain lock is held, so who comes here last has committed last: a snapshot
 * that shows it shows all rounds before it, whatever their ids.
 */
static void
publish_emptied(SharedDatabase *db, const DrainNote *note)
{
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if (note->rows[i] == 0)
			continue;
		es_staging(db)->segments[i].emptied = current.xid;
		es_staging(db)->segments[i].emptied_in = es_staging(db)->rounds;
		if (es_staging_is(db, ES_STAGING_OPEN))
			pg_atomic_fetch_sub_u64(&es_staging(db)->segment_rows[i],
									note->rows[i]);
	}
}

/* Takes off rows of ours that nobody will drain. */
static void
forget_row(SharedDatabase *db, const OwnRow *row)
{
	pg_atomic_fetch_sub_u64(&es_staging(db)->segment_rows[row->segment],
							row->count);
}

/* Takes off what this transaction moved and lets waiters look again. */
static void
publish_drained(SharedDatabase *db)
{
	uint64 request = 0;
	uint64 tried = 0;
	int64 moved = 0;
	TimestampTz now = GetCurrentTimestamp();

	Assert(es_lock_held(ES_LOCK_DRAIN));
	for (int i = 0; i < current.ndrains; i++)
	{
		const DrainNote *note = &current.drains[i];

		if (es_staging_is(db, ES_STAGING_OPEN))
		{
			pg_atomic_fetch_sub_u64(&es_staging(db)->staged_events, note->events);
			pg_atomic_fetch_sub_u64(&es_staging(db)->staged_views, note->views);
		}
		request = Max(request, note->request);
		tried = Max(tried, note->tried);
		moved += note->events + note->views;
		es_count_round(db, note->events, note->views, &note->metrics);
	}
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < current.ndrains; i++)
		publish_emptied(db, &current.drains[i]);
	if (moved > 0)
	{
		es_drain_progress(db)->last_drain_at = now;
		es_staging(db)->last_drained = current.xid;
		es_staging(db)->rounds++;
	}
	es_staging(db)->first_staged_at = es_staged_rows(db) > 0 ? now : 0;
	/* who counted its rows before it could see that we forgot about others */
	pg_memory_barrier();
	if (es_staging(db)->first_staged_at == 0 && es_staged_rows(db) > 0)
	{
		es_staging(db)->first_staged_at = now;
		es_note_wake();
	}
	es_end_drain_request(db, request, tried);
	LWLockRelease(db->lock);
	es_tell_progress(db);
}

/* Marks a segment as used before the first row can get there. */
static void
publish_rotation(SharedDatabase *db, int segment)
{
	Assert(es_lock_held(ES_LOCK_DRAIN));
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_staging(db)->segments[segment].used = true;
	es_staging(db)->segments[segment].opened = current.xid;
	es_staging(db)->segments[segment].emptied = InvalidFullTransactionId;
	pg_memory_barrier();
	es_staging(db)->active_segment = segment;
	LWLockRelease(db->lock);
}

static void
publish_opened(SharedDatabase *db)
{
	const StagingOpening *o = &current.opening;

	Assert(es_lock_held(ES_LOCK_DRAIN));
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (OidIsValid(es_staging(db)->table) && es_staging(db)->table != o->table)
	{
		/* those of another CREATE EXTENSION: what they held is not here */
		memset(es_staging(db)->segments, 0, sizeof(es_staging(db)->segments));
		es_staging(db)->lost[0].opened = InvalidFullTransactionId;
		es_staging(db)->lost[0].emptied = current.xid;
		es_staging(db)->lost_count = 1;
	}
	es_staging(db)->last_drained = current.xid;
	es_staging(db)->table = o->table;
	es_staging(db)->epoch = o->epoch;
	es_staging(db)->active_segment = o->active_segment;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		es_staging(db)->segments[i].used =
			es_staging(db)->segments[i].used || (o->used & (1 << i)) != 0;
		/* what has been drained since the server started, by whomever */
		es_staging(db)->segments[i].emptied = current.xid;
		pg_atomic_write_u64(&es_staging(db)->segment_rows[i], o->rows[i]);
	}
	if (!es_staging(db)->segments[o->active_segment].used)
	{
		es_staging(db)->segments[o->active_segment].used = true;
		es_staging(db)->segments[o->active_segment].opened = current.xid;
	}
	es_staging(db)->dead_letters_possible = o->dead_letters > 0;
	es_set_dead_letters(db, o->dead_letters);
	es_drain_progress(db)->last_drain_at = o->last_drain_at;
	pg_atomic_write_u64(&es_staging(db)->next_sid, o->next_sid);
	pg_atomic_write_u64(&es_staging(db)->staged_events, o->events);
	pg_atomic_write_u64(&es_staging(db)->staged_views, o->views);
	es_staging(db)->first_staged_at =
		o->events + o->views > 0 ? GetCurrentTimestamp() : 0;
	pg_memory_barrier();
	if (!o->closed)
		pg_atomic_write_u32(&es_staging(db)->wanted, 0);
	es_set_staging_state(db, o->closed ? ES_STAGING_CLOSED : ES_STAGING_OPEN);
	LWLockRelease(db->lock);
	es_tell_progress(db);
}

/*
 * "uncommitted" goes down last: until then staging is looked at, whatever the
 * other counters say.
 */
static void
publish(SharedDatabase *db, bool committed)
{
	if (committed && current.nrows > 0)
		publish_staged(db);
	for (int i = 0; i < current.nrows; i++)
	{
		if (!committed || current.rows[i].moved_in != InvalidSubTransactionId)
			forget_row(db, &current.rows[i]);
	}
	if (committed && current.opens)
		publish_opened(db);
	if (committed && current.rotates)
		publish_rotation(db, current.rotates_to);
	if (committed && current.ndrains > 0)
		publish_drained(db);
	if (current.uncommitted > 0)
	{
		pg_memory_barrier();
		pg_atomic_fetch_sub_u64(&es_staging(db)->uncommitted, current.uncommitted);
	}
}

/* Without preload there is nobody to tell. */
static void
end_own(SharedDatabase *db, bool committed)
{
	if (db != NULL)
		publish(db, committed);
	memset(&current, 0, sizeof(current));
}

/*
 * Forgets what an aborted subtransaction did.  Identifiers of subtransactions
 * only grow, so its rows and those of its children are the last of the list.
 */
static void
abort_own(SubTransactionId id)
{
	if (current.draining_in >= id)
		current.draining_in = InvalidSubTransactionId;
	if (current.durable_in >= id)
		current.durable_in = InvalidSubTransactionId;
	while (current.nrows > 0 &&
		   current.rows[current.nrows - 1].subtransaction >= id)
		forget_row(es_my_database_if_any(), &current.rows[--current.nrows]);
	for (int i = 0; i < current.nrows; i++)
	{
		if (current.rows[i].moved_in >= id)
			current.rows[i].moved_in = InvalidSubTransactionId;
	}
	while (current.ndrains > 0 &&
		   current.drains[current.ndrains - 1].subtransaction >= id)
		current.ndrains--;
}

static Own *
own(void)
{
	es_at_end(ES_END_STAGING, end_own, abort_own);
	return &current;
}

void
es_note_durable_write(void)
{
	SubTransactionId id = GetCurrentSubTransactionId();
	Own *o = own();

	if (o->durable_in == InvalidSubTransactionId || id < o->durable_in)
		o->durable_in = id;
}

bool
es_wrote_durably(void)
{
	return current.durable_in != InvalidSubTransactionId;
}

/* The number that names this transaction in staging: its first sid. */
int64
es_own_txn(int64 sid)
{
	Own *o = own();

	if (o->txn == 0)
		o->txn = sid;
	return o->txn;
}

void
es_note_staging(SharedDatabase *db, int64 rows)
{
	own()->uncommitted += rows;
	pg_atomic_fetch_add_u64(&es_staging(db)->uncommitted, rows);
}

void
es_unnote_staging(SharedDatabase *db, int64 rows)
{
	own()->uncommitted -= rows;
	pg_atomic_fetch_sub_u64(&es_staging(db)->uncommitted, rows);
}

void
es_note_staged(const OwnRow *staged)
{
	Own *o = own();
	OwnRow *row;

	if (o->nrows == o->maxrows)
	{
		Size size;
		int maxrows = o->maxrows == 0 ? 64 : o->maxrows * 2;

		size = (Size) maxrows * sizeof(OwnRow);
		o->rows = o->rows == NULL
					  ? MemoryContextAllocHuge(TopTransactionContext, size)
					  : repalloc_huge(o->rows, size);
		o->maxrows = maxrows;
	}
	row = &o->rows[o->nrows++];
	*row = *staged;
	row->subtransaction = GetCurrentSubTransactionId();
	row->moved_in = InvalidSubTransactionId;
	es_note_write();
	pg_atomic_fetch_add_u64(&es_staging(es_my_database())->segment_rows[row->segment],
							row->count);
}

/* The rows staged by this transaction, moved ones among them, in their order. */
OwnRow *
es_own_rows(int *count)
{
	*count = current.nrows;
	return current.rows;
}

void
es_note_drained(int64 events, int64 views, const int64 rows[ES_SEGMENTS],
				uint64 request, uint64 tried)
{
	Own *o = own();
	Size size = (o->ndrains + 1) * sizeof(DrainNote);
	DrainNote *note;

	o->drains = o->drains == NULL
					? MemoryContextAlloc(TopTransactionContext, size)
					: repalloc(o->drains, size);
	note = &o->drains[o->ndrains++];
	note->events = events;
	note->views = views;
	memcpy(note->rows, rows, sizeof(note->rows));
	note->request = request;
	note->tried = tried;
	es_describe_round(&note->metrics);
	note->subtransaction = GetCurrentSubTransactionId();
	if (events + views > 0)
		o->xid = GetTopFullTransactionId();
	es_note_write();
}

/*
 * While rows are moved, triggers may write to the store.  What they write is
 * staged for a later round: it must not wait for the one that runs them.
 */
void
es_note_draining(bool draining)
{
	own()->draining_in =
		draining ? GetCurrentSubTransactionId() : InvalidSubTransactionId;
}

bool
es_draining(void)
{
	return current.draining_in != InvalidSubTransactionId;
}

void
es_note_opening(const StagingOpening *opening)
{
	Own *o = own();

	o->opens = true;
	o->opening = *opening;
	o->xid = GetTopFullTransactionId();
}

void
es_note_rotation(int segment)
{
	Own *o = own();

	o->rotates = true;
	o->rotates_to = segment;
	o->xid = GetTopFullTransactionId();
}
