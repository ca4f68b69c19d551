/*
 * transaction.c
 *		What the current transaction did to the store, and what has to happen
 *		in shared memory when it ends.
 *
 * Two callbacks, registered once per backend, do all of it.  At commit they
 * turn rows staged by this transaction into rows the worker may drain, take
 * off what this transaction drained, and wake whoever waits; at abort they
 * forget.  They raise nothing, but for the refusal of PREPARE TRANSACTION,
 * which comes while the transaction can still abort.
 *
 * The counters in shared memory obey one rule: "uncommitted" is raised before
 * a row is inserted and lowered only after the row was counted as staged (or
 * is gone), and staged rows are taken off only after the transaction that
 * moved them became visible.  So a reader that finds uncommitted and then
 * staged zero, and takes its snapshot afterwards, misses no row.
 *
 * Called by the writing files; calls shmem.c.
 */
#include "event_store.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A round of draining that this transaction ran. */
typedef struct DrainNote
{
	int64 events;
	int64 views;
	int64 rows[ES_SEGMENTS]; /* moved from each segment */
	uint64 request;			 /* the request it fulfilled; 0 = none */
	RoundMetrics metrics;
	SubTransactionId subtransaction;
} DrainNote;

/* The position of an event at which a snapshot is due. */
typedef struct DueSnapshot
{
	int64 position;
	SubTransactionId subtransaction;
} DueSnapshot;

/* Everything about the current top-level transaction; all zero in between. */
typedef struct Transaction
{
	bool wrote;
	bool holds_locks;
	int64 reserved_pairs;
	bool wake;
	bool took_positions;
	int64 txn;		   /* first sid; 0 = nothing staged yet */
	int64 uncommitted; /* what we added to the shared counter */

	OwnRow *rows; /* staged and not rolled back, in their order */
	int nrows;
	int maxrows;

	DrainNote *drains; /* rounds run by this transaction */
	int ndrains;

	DueSnapshot *due; /* room for ES_DUE_SNAPSHOTS */
	int ndue;

	SubTransactionId draining_in; /* that moves rows right now, or invalid */
	bool opens;					  /* opens staging, with what follows */
	StagingOpening opening;
	bool rotates; /* to this segment */
	int rotates_to;
	FullTransactionId xid; /* of the rounds, the opening, the rotation */
} Transaction;

static Transaction current;
static bool callbacks_registered = false;

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
		pg_atomic_fetch_add_u64(&db->staged_events, events);
	if (views > 0)
		pg_atomic_fetch_add_u64(&db->staged_views, views);

	/* a round may have moved the rows, and taken them off, before */
	total = es_staged_rows(db);
	first = db->first_staged_at == 0;
	if (first || total == 0)
	{
		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		total = es_staged_rows(db);
		first = total > 0 && db->first_staged_at == 0;
		if (first)
			db->first_staged_at = GetCurrentTimestamp();
		else if (total == 0)
			db->first_staged_at = 0;
		LWLockRelease(db->lock);
	}
	if (first || total >= (uint64) es_write_batch_size)
		current.wake = true;
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
		db->segments[i].emptied = current.xid;
		db->segments[i].emptied_in = db->rounds;
		if (es_staging_is(db, ES_STAGING_OPEN))
			pg_atomic_fetch_sub_u64(&db->segment_rows[i], note->rows[i]);
	}
}

/* Takes off rows of ours that nobody will drain. */
static void
forget_row(SharedDatabase *db, const OwnRow *row)
{
	pg_atomic_fetch_sub_u64(&db->segment_rows[row->segment], row->count);
}

/* Takes off what this transaction moved and lets waiters look again. */
static void
publish_drained(SharedDatabase *db)
{
	uint64 request = 0;
	int64 moved = 0;
	TimestampTz now = GetCurrentTimestamp();

	Assert(es_lock_held(ES_LOCK_DRAIN));
	for (int i = 0; i < current.ndrains; i++)
	{
		const DrainNote *note = &current.drains[i];

		if (es_staging_is(db, ES_STAGING_OPEN))
		{
			pg_atomic_fetch_sub_u64(&db->staged_events, note->events);
			pg_atomic_fetch_sub_u64(&db->staged_views, note->views);
		}
		request = Max(request, note->request);
		moved += note->events + note->views;
		es_count_round(db, note->events, note->views, &note->metrics);
	}
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < current.ndrains; i++)
		publish_emptied(db, &current.drains[i]);
	if (moved > 0)
	{
		db->drain.last_drain_at = now;
		db->last_drained = current.xid;
		db->rounds++;
	}
	db->first_staged_at = es_staged_rows(db) > 0 ? now : 0;
	/* who counted its rows before it could see that we forgot about others */
	pg_memory_barrier();
	if (db->first_staged_at == 0 && es_staged_rows(db) > 0)
	{
		db->first_staged_at = now;
		current.wake = true;
	}
	es_end_drain_request(db, request);
	LWLockRelease(db->lock);
	es_tell_progress(db);
}

/* Marks a segment as used before the first row can get there. */
static void
publish_rotation(SharedDatabase *db, int segment)
{
	Assert(es_lock_held(ES_LOCK_DRAIN));
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	db->segments[segment].used = true;
	db->segments[segment].opened = current.xid;
	db->segments[segment].emptied = InvalidFullTransactionId;
	pg_memory_barrier();
	db->active_segment = segment;
	LWLockRelease(db->lock);
}

static void
publish_opened(SharedDatabase *db)
{
	const StagingOpening *o = &current.opening;

	Assert(es_lock_held(ES_LOCK_DRAIN));
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	if (OidIsValid(db->staging_table) && db->staging_table != o->table)
	{
		/* those of another CREATE EXTENSION: what they held is not here */
		memset(db->segments, 0, sizeof(db->segments));
		db->lost[0].opened = InvalidFullTransactionId;
		db->lost[0].emptied = current.xid;
		db->lost_count = 1;
	}
	db->last_drained = current.xid;
	db->staging_table = o->table;
	db->staging_epoch = o->epoch;
	db->active_segment = o->active_segment;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		db->segments[i].used = db->segments[i].used || (o->used & (1 << i)) != 0;
		/* what has been drained since the server started, by whomever */
		db->segments[i].emptied = current.xid;
		pg_atomic_write_u64(&db->segment_rows[i], o->rows[i]);
	}
	if (!db->segments[o->active_segment].used)
	{
		db->segments[o->active_segment].used = true;
		db->segments[o->active_segment].opened = current.xid;
	}
	db->dead_letters_possible = o->dead_letters > 0;
	es_set_dead_letters(db, o->dead_letters);
	db->drain.last_drain_at = o->last_drain_at;
	pg_atomic_write_u64(&db->next_sid, o->next_sid);
	pg_atomic_write_u64(&db->staged_events, o->events);
	pg_atomic_write_u64(&db->staged_views, o->views);
	db->first_staged_at = o->events + o->views > 0 ? GetCurrentTimestamp() : 0;
	pg_memory_barrier();
	es_set_staging_state(db, ES_STAGING_OPEN);
	LWLockRelease(db->lock);
	es_tell_progress(db);
}

/* Leaves hints for the worker where there is room. */
static void
publish_due_snapshots(SharedDatabase *db)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	for (int i = 0; i < current.ndue && db->due_count < ES_DUE_SNAPSHOTS; i++)
	{
		int place = (db->first_due + db->due_count++) % ES_DUE_SNAPSHOTS;

		db->due_snapshots[place] = current.due[i].position;
	}
	LWLockRelease(db->lock);
	es_nudge_worker(db);
}

static void
end_transaction(bool committed)
{
	SharedDatabase *db = es_shared != NULL ? es_my_database_if_any() : NULL;

	if (db != NULL)
	{
		/* first, so that the feed has what a flush has waited for */
		es_end_heads(db, committed);
		if (current.took_positions)
			es_end_positions(db);
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
		if (committed && current.ndue > 0)
			publish_due_snapshots(db);
		if (current.uncommitted > 0)
		{
			pg_memory_barrier();
			pg_atomic_fetch_sub_u64(&db->uncommitted, current.uncommitted);
		}
		if (committed && current.wake)
			es_wake_worker(db);
	}
	if (current.reserved_pairs > 0)
		pg_atomic_fetch_sub_u64(&es_shared->reserved_pairs,
								current.reserved_pairs);
	memset(&current, 0, sizeof(current));
}

static void
transaction_ended(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			end_transaction(true);
			break;
		case XACT_EVENT_ABORT:
			end_transaction(false);
			break;
		case XACT_EVENT_PREPARE:
			end_transaction(false);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (current.wrote || current.holds_locks)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has written to the event store")));
			break;
		default:
			break;
	}
}

/*
 * Forgets what an aborted subtransaction did.  Identifiers of subtransactions
 * only grow, so its rows and those of its children are the last of the list.
 */
static void
subtransaction_ended(SubXactEvent event, SubTransactionId id,
					 SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	es_abort_heads(id);
	if (current.draining_in >= id)
		current.draining_in = InvalidSubTransactionId;
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
	while (current.ndue > 0 && current.due[current.ndue - 1].subtransaction >= id)
		current.ndue--;
}

static Transaction *
transaction(void)
{
	if (!callbacks_registered)
	{
		RegisterXactCallback(transaction_ended, NULL);
		RegisterSubXactCallback(subtransaction_ended, NULL);
		callbacks_registered = true;
	}
	return &current;
}

void
es_note_write(void)
{
	transaction()->wrote = true;
}

void
es_note_positions(void)
{
	transaction()->took_positions = true;
}

void
es_note_lock(void)
{
	transaction()->holds_locks = true;
}

void
es_note_reserved_pairs(int count)
{
	transaction()->reserved_pairs += count;
}

bool
es_holds_locks(void)
{
	return current.holds_locks;
}

void
es_note_wake(void)
{
	transaction()->wake = true;
}

void
es_note_snapshot_due(int64 position)
{
	Transaction *t = transaction();

	if (t->due == NULL)
		t->due = MemoryContextAlloc(TopTransactionContext,
									ES_DUE_SNAPSHOTS * sizeof(DueSnapshot));
	if (t->ndue == ES_DUE_SNAPSHOTS)
		return;
	t->due[t->ndue].position = position;
	t->due[t->ndue++].subtransaction = GetCurrentSubTransactionId();
}

/* The number that names this transaction in staging: its first sid. */
int64
es_own_txn(int64 sid)
{
	Transaction *t = transaction();

	if (t->txn == 0)
		t->txn = sid;
	return t->txn;
}

void
es_note_staging(SharedDatabase *db, int64 rows)
{
	transaction()->uncommitted += rows;
	pg_atomic_fetch_add_u64(&db->uncommitted, rows);
}

void
es_unnote_staging(SharedDatabase *db, int64 rows)
{
	transaction()->uncommitted -= rows;
	pg_atomic_fetch_sub_u64(&db->uncommitted, rows);
}

void
es_note_staged(const OwnRow *staged)
{
	Transaction *t = transaction();
	OwnRow *row;

	if (t->nrows == t->maxrows)
	{
		Size size;
		int maxrows = t->maxrows == 0 ? 64 : t->maxrows * 2;

		size = (Size) maxrows * sizeof(OwnRow);
		t->rows = t->rows == NULL
					  ? MemoryContextAllocHuge(TopTransactionContext, size)
					  : repalloc_huge(t->rows, size);
		t->maxrows = maxrows;
	}
	row = &t->rows[t->nrows++];
	*row = *staged;
	row->subtransaction = GetCurrentSubTransactionId();
	row->moved_in = InvalidSubTransactionId;
	t->wrote = true;
	pg_atomic_fetch_add_u64(&es_my_database()->segment_rows[row->segment],
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
				uint64 request)
{
	Transaction *t = transaction();
	Size size = (t->ndrains + 1) * sizeof(DrainNote);
	DrainNote *note;

	t->drains = t->drains == NULL
					? MemoryContextAlloc(TopTransactionContext, size)
					: repalloc(t->drains, size);
	note = &t->drains[t->ndrains++];
	note->events = events;
	note->views = views;
	memcpy(note->rows, rows, sizeof(note->rows));
	note->request = request;
	es_describe_round(&note->metrics);
	note->subtransaction = GetCurrentSubTransactionId();
	if (events + views > 0)
		t->xid = GetTopFullTransactionId();
	t->wrote = true;
}

/*
 * While rows are moved, triggers may write to the store.  What they write is
 * staged for a later round: it must not wait for the one that runs them.
 */
void
es_note_draining(bool draining)
{
	transaction()->draining_in =
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
	Transaction *t = transaction();

	t->opens = true;
	t->opening = *opening;
	t->xid = GetTopFullTransactionId();
}

void
es_note_rotation(int segment)
{
	Transaction *t = transaction();

	t->rotates = true;
	t->rotates_to = segment;
	t->xid = GetTopFullTransactionId();
}
