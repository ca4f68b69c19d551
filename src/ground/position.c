/*
 * position.c
 *		Global positions: the order over all events, and how far it is safe to
 *		read in it.
 *
 * A position must never be given twice, not even after a crash that lost the
 * transaction it was given to, since a client may have seen it.  Positions
 * therefore come from blocks: a durable sequence holds the end of the last
 * block reserved, its WAL is flushed before the first position of a block is
 * used, and within a block taking positions is a spinlock and an addition in
 * shared memory.  What is left of a block is skipped after a restart.
 *
 * A log that goes on from an older state of itself (log_identity.c), or holds
 * more than was reserved here, as one that was fed by logical replication, does
 * not know which positions were given elsewhere.  It jumps far beyond them
 * before it gives its first one.
 *
 * Without preload there is no shared memory: every call moves the sequence
 * itself, under a lock that is released at once.
 *
 * Rows may also come into the log around all this, with positions that their
 * writer chose (src/log/outside_write.c notices).  They are passed over: who
 * has written one makes the positions go on behind the end of the log before
 * anybody takes the next, and is in flight from the next position on.  Without
 * preload nobody notices, and every call looks at the end of the log.
 *
 * In both ways an appender takes its positions while it holds the lock of the
 * aggregate, so within an aggregate they rise with the sequence.
 *
 * Positions become visible in another order than they are taken.  A reader
 * must not pass one that may still appear.  So every backend publishes the
 * lowest position it has taken in its transaction, in the same critical section
 * as it takes it, and clears it when the transaction has ended and what it
 * wrote is visible or never will be.  Whoever reads the next position first
 * and the published ones after it knows the safe position: everything below
 * it is decided.  No lock is held to commit, no clock and no transaction id
 * plays a part, and a transaction that takes no position is never waited for.
 * A snapshot taken afterwards sees every event up to the safe position.
 *
 * A standby has none of this in its memory.  It reads up to the position that
 * the primary's worker stores in store_state, at most once a second and only
 * after positions were taken: the first transaction to end since the worker
 * last looked raises a flag and nudges it.  Where no worker can be had, every
 * transaction that has taken positions stores it itself just before it commits.
 *
 * After a restart the end of the log alone does not tell how far positions had come:
 * the last events may have been removed since, and the last positions may have been
 * given to transactions that were rolled back.  So what was stored counts, too, and
 * the safe position does not fall.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "replication/walsender.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/log_identity.h"
#include "ground/position.h"
#include "ground/projector_slot.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/waiter.h"
#include "ground/worker_slot.h"

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

static Size
in_flight_size(void)
{
	return mul_size(MaxBackends, sizeof(InFlight));
}

static void
initialise_in_flight(void *memory)
{
	InFlight *entries = memory;

	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u64(&entries[i].position, 0);
}

static void
initialise_share(void *memory)
{
	PositionShare *share = memory;

	SpinLockInit(&share->mutex);
	pg_atomic_init_u32(&share->unstored, 0);
}

static void
clear_share(SharedDatabase *db)
{
	PositionShare *share = es_positions(db);

	SpinLockAcquire(&share->mutex);
	share->sequence = InvalidOid;
	share->next = 0;
	share->limit = 0;
	share->looks_wanted = 0;
	share->looks_done = 0;
	SpinLockRelease(&share->mutex);
	pg_atomic_write_u32(&share->unstored, 0);
}

DatabasePart es_position_part = {sizeof(PositionShare), initialise_share,
								 clear_share};
static ClusterPart in_flight_part = {"event_store positions in flight",
									 in_flight_size, initialise_in_flight};

void
es_share_positions(void)
{
	es_share_by_database(&es_position_part);
	es_share(&in_flight_part);
}

/* The entry of a backend. */
static InFlight *
in_flight(int proc_number)
{
	return (InFlight *) in_flight_part.memory + proc_number;
}

/* Positions reserved at once; each block costs one flush of the WAL. */
#define POSITION_BLOCK 8192

/*
 * A row that was written around the API with a position from here on counts for
 * nothing: positions that went on behind it would soon come to their end.
 */
#define POSITION_CEILING (INT64CONST(1) << 62)

/* The highest position that is committed in the log. */
static int64
last_logged_position(void)
{
	static KeptPlan plan = {"SELECT coalesce(pg_catalog.max(e.global_position), 0)"
							" FROM event_store.domain_events e"
							" WHERE e.global_position OPERATOR(pg_catalog.<) $1",
							1,
							{INT8OID}};
	Datum ceiling = Int64GetDatum(POSITION_CEILING);
	bool isnull;

	es_execute(&plan, &ceiling, NULL, false, SPI_OK_SELECT);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * The highest position that is in use: also by an open transaction, and at every
 * isolation level.  A unique key sees no less.
 */
static int64
last_used_position(void)
{
	Relation table = table_open(es_store()->events, AccessShareLock);
	Relation index = index_open(es_store()->events_by_position, AccessShareLock);
	int64 last = 0;
	SnapshotData dirty;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, EV_GLOBAL_POSITION + 1, BTLessStrategyNumber, F_INT8LT,
				Int64GetDatum(POSITION_CEILING));
	scan = systable_beginscan_ordered(table, index, &dirty, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;

		last = DatumGetInt64(heap_getattr(tuple, EV_GLOBAL_POSITION + 1,
										  RelationGetDescr(table), &isnull));
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return Max(last, 0);
}

/* Makes the sequence stand at "last" and the WAL of that durable. */
static void
advance_sequence(Oid sequence, int64 last)
{
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence),
						Int64GetDatum(last));
	XLogFlush(XactLastRecEnd);
}

/* How often the log was to be looked at; read it before doing so. */
static uint32
looks_wanted(SharedDatabase *db)
{
	uint32 wanted;

	SpinLockAcquire(&es_positions(db)->mutex);
	wanted = es_positions(db)->looks_wanted;
	SpinLockRelease(&es_positions(db)->mutex);
	return wanted;
}

/*
 * Reserves a block that has room for "count"; the positions lock is held.  It
 * goes on where the last one ended, unless the sequence was moved by somebody
 * else, and beyond what is in the log, as after a restart.
 *
 * The end of the block is durable before the log is noted: a crash in between
 * costs another jump.
 */
static void
reserve_block(SharedDatabase *db, Oid sequence, int64 count)
{
	uint32 wanted = looks_wanted(db);
	int64 reserved = nextval_internal(sequence, false) - 1;
	int64 logged = last_used_position();
	bool goes_on = es_positions(db)->sequence == sequence &&
				   es_positions(db)->limit >= reserved;
	int64 last = goes_on ? es_positions(db)->limit : reserved;

	if (logged > last || es_log_is_another(es_store()->log_identity))
	{
		last = es_far_beyond(Max(last, logged));
		goes_on = false;
	}
	advance_sequence(sequence, last + count + POSITION_BLOCK);
	es_note_log(es_store()->log_identity);

	SpinLockAcquire(&es_positions(db)->mutex);
	if (!goes_on)
		es_positions(db)->next = last + 1;
	else
		es_positions(db)->next = Max(es_positions(db)->next, logged + 1);
	es_positions(db)->sequence = sequence;
	es_positions(db)->limit = last + count + POSITION_BLOCK;
	es_positions(db)->looks_done = wanted;
	SpinLockRelease(&es_positions(db)->mutex);
}

void
es_recheck_positions(void)
{
	SharedDatabase *db = es_my_database();

	if (db == NULL)
		return;
	SpinLockAcquire(&es_positions(db)->mutex);
	es_positions(db)->looks_wanted++;
	SpinLockRelease(&es_positions(db)->mutex);
}

/* Whether what is written here can reach a standby. */
static bool
standby_possible(void)
{
	return XLogIsNeeded() && (max_wal_senders > 0 || XLogArchivingActive());
}

/* Of this transaction. */
static bool in_flight_here = false;
static bool writes_outside = false;

static void store_without_worker(void);

static void
end_positions(SharedDatabase *db, bool committed)
{
	if (!in_flight_here)
		return;
	in_flight_here = false;
	writes_outside = false;
	pg_atomic_write_u64(&in_flight(MyProcNumber)->position, 0);
	pg_memory_barrier();
	es_tell_leader(db);
	es_tell_projectors(db);

	/* the first one since the worker looked tells it that it may look again */
	if (standby_possible() &&
		pg_atomic_read_u32(&es_positions(db)->unstored) == 0 &&
		pg_atomic_exchange_u32(&es_positions(db)->unstored, 1) == 0)
		es_nudge_worker(db);
}

/* From here on the end of the transaction clears what is published. */
static InFlight *
begin_flight(void)
{
	InFlight *mine = in_flight(MyProcNumber);

	es_at_end(ES_END_POSITIONS, end_positions, NULL);
	es_before_commit(store_without_worker);
	in_flight_here = true;
	if (pg_atomic_read_u64(&mine->position) == 0)
	{
		mine->database = MyDatabaseId;
		mine->pid = MyProcPid;
		mine->since = GetCurrentStatementStartTimestamp();
	}
	return mine;
}

int64
es_own_position_in_flight(void)
{
	return in_flight_here
			   ? (int64) pg_atomic_read_u64(&in_flight(MyProcNumber)->position)
			   : 0;
}

/* Publishes a position, if no lower one is; the mutex is held. */
static void
publish(InFlight *mine, int64 position)
{
	if (pg_atomic_read_u64(&mine->position) != 0)
		return;
	pg_write_barrier();
	pg_atomic_write_u64(&mine->position, position);
}

/*
 * Takes positions from the block in shared memory and publishes them as in
 * flight; 0 = not enough left.
 */
static int64
take_from_block(SharedDatabase *db, Oid sequence, int64 count)
{
	InFlight *mine = begin_flight();
	int64 first = 0;

	SpinLockAcquire(&es_positions(db)->mutex);
	if (es_positions(db)->sequence == sequence &&
		es_positions(db)->looks_done == es_positions(db)->looks_wanted &&
		es_positions(db)->limit - es_positions(db)->next + 1 >= count)
	{
		first = es_positions(db)->next;
		es_positions(db)->next += count;
		/* later ones of the transaction are higher */
		publish(mine, first);
	}
	SpinLockRelease(&es_positions(db)->mutex);
	return first;
}

/* Takes positions from the sequence itself; the positions lock is held. */
static int64
take_from_sequence(Oid sequence, int64 count)
{
	static Oid checked = InvalidOid;
	XLogRecPtr before = XactLastRecEnd;
	int64 first = nextval_internal(sequence, false);
	int64 logged = last_used_position();

	/* what is in the log from "first" on was not taken here */
	if (checked != sequence || logged >= first)
	{
		if (logged >= first || es_log_is_another(es_store()->log_identity))
			first = es_far_beyond(Max(first, logged)) + 1;
		advance_sequence(sequence, first + count - 1);
		es_note_log(es_store()->log_identity);
		checked = sequence;
	}
	else if (count > 1)
		advance_sequence(sequence, first + count - 1);
	else if (XactLastRecEnd != before)
		XLogFlush(XactLastRecEnd);
	return first;
}

int64
es_take_positions(int64 count)
{
	Oid sequence = es_own_store()->positions;
	SharedDatabase *db = es_my_database();
	OwnerScope scope;
	int64 first = 0;

	if (db != NULL)
		first = take_from_block(db, sequence, count);
	if (first != 0)
		return first;

	es_begin(&scope);
	es_lock_acquire(ES_LOCK_POSITIONS, ExclusiveLock);
	if (db == NULL)
		first = take_from_sequence(sequence, count);
	else
	{
		while ((first = take_from_block(db, sequence, count)) == 0)
			reserve_block(db, sequence, count);
	}
	es_lock_release(ES_LOCK_POSITIONS, ExclusiveLock);
	es_end(&scope);
	return first;
}

/* ---------- rows written around the API ---------- */

/* The last position taken; -1 when none was since the server started. */
static int64
last_taken_position(SharedDatabase *db, Oid sequence)
{
	int64 last = -1;

	SpinLockAcquire(&es_positions(db)->mutex);
	if (es_positions(db)->sequence == sequence)
		last = es_positions(db)->next - 1;
	SpinLockRelease(&es_positions(db)->mutex);
	return last;
}

/*
 * The positions that will be written are known to their writer alone.  Those
 * from the next one on wait for the end of this transaction.
 */
void
es_begin_outside_write(void)
{
	SharedDatabase *db = es_my_database();
	PositionShare *share = es_positions(db);
	Oid sequence = es_store()->positions;
	int64 at_rest = 0;
	InFlight *mine;

	if (writes_outside)
		return;
	if (last_taken_position(db, sequence) < 0)
		at_rest = last_used_position();
	mine = begin_flight();
	writes_outside = true;
	SpinLockAcquire(&share->mutex);
	publish(mine, share->sequence == sequence ? share->next : at_rest + 1);
	SpinLockRelease(&share->mutex);
}

bool
es_writes_outside(void)
{
	return writes_outside;
}

/* As long as no position was taken, whoever takes the first one looks. */
void
es_pass_over_used_positions(void)
{
	SharedDatabase *db = es_my_database();
	Oid sequence = es_store()->positions;
	OwnerScope scope;
	int64 last;

	/* of nobody's triggers: these are left as their owner's transaction has them */
	es_begin_read(&scope);
	es_lock_acquire(ES_LOCK_POSITIONS, ExclusiveLock);
	last = last_taken_position(db, sequence);
	if (last >= 0 && last_used_position() > last)
		reserve_block(db, sequence, 0);
	es_lock_release(ES_LOCK_POSITIONS, ExclusiveLock);
	es_end(&scope);
}

/* ---------- the safe position ---------- */

/* No backend's number. */
#define NOBODY (-1)

/*
 * Whether the log can be read without waiting for anybody.  A statement locks the
 * table, which it holds by then, and all its indexes.
 */
static bool
log_is_free(void)
{
	Oid events = es_store()->events;
	Relation log;
	ListCell *cell;
	bool is_free = true;
	List *indexes;

	if (!ConditionalLockRelationOid(events, AccessShareLock))
		return false;
	log = try_relation_open(events, NoLock);
	if (log == NULL)
		return false;
	indexes = RelationGetIndexList(log);
	foreach (cell, indexes)
		is_free = is_free &&
				  ConditionalLockRelationOid(lfirst_oid(cell), AccessShareLock);
	list_free(indexes);
	relation_close(log, NoLock);
	return is_free;
}

/* As far as it can be one of those given here. */
static int64
last_archived_position(void)
{
	int64 last = es_highest_archived_position();

	return last < POSITION_CEILING ? last : 0;
}

/*
 * As long as no position was taken since the server started, nothing is in
 * flight but what is written around the API: the log says how far it goes, and what
 * was stored how far it went when its last events were still there.  While somebody
 * has locked the log, what is stored has to do, which may be behind.
 */
static int64
last_position_at_rest(bool *behind)
{
	OwnerScope scope;
	int64 last = 0;

	if (es_try_lock_table(es_store()->store_state))
		last = es_stored_safe_position();
	*behind = !log_is_free();
	if (*behind)
		return last;
	es_begin_read(&scope);
	last = Max(last, last_logged_position());
	es_end(&scope);
	return Max(last, last_archived_position());
}

/* What the sequence says was reserved. */
static int64
reserved_at_rest(void)
{
	static KeptPlan plan = {"SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END"
							" FROM event_store.global_position_seq s"};
	OwnerScope scope;
	int64 last;
	bool isnull;

	es_begin_read(&scope);
	es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT);
	last = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	return last;
}

/*
 * After a restart the end of the log does not tell: positions of transactions
 * that were rolled back were given, too.  All that was reserved may have been.
 */
int64
es_last_given_position(SharedDatabase *db)
{
	Oid sequence = es_store()->positions;
	int64 last = last_taken_position(db, sequence);
	bool behind;

	if (last >= 0)
		return last;
	last = last_position_at_rest(&behind);
	/* nobody can tell */
	if (behind)
		return PG_INT64_MAX;
	last = Max(last, reserved_at_rest());
	return Max(last, last_taken_position(db, sequence));
}

/* Looks at what is in flight, but for one backend; "last" was read before. */
static void
find_safe(FeedState *state, int but)
{
	state->safe = state->last;
	for (int i = 0; i < MaxBackends; i++)
	{
		InFlight *other = in_flight(i);
		int64 position = (int64) pg_atomic_read_u64(&other->position);

		if (position == 0 || i == but)
			continue;
		pg_read_barrier();
		if (other->database != MyDatabaseId)
			continue;
		state->in_flight++;
		if (position > state->safe)
			continue;
		state->safe = position - 1;
		state->blocker_pid = other->pid;
		state->blocked_since = other->since;
	}
}

void
es_read_feed_state(SharedDatabase *db, FeedState *state)
{
	Oid sequence = es_store()->positions;

	memset(state, 0, sizeof(*state));
	state->last = last_taken_position(db, sequence);
	if (state->last < 0)
	{
		int64 at_rest = last_position_at_rest(&state->behind);

		/* what was taken meanwhile may have been seen out of its order */
		state->last = last_taken_position(db, sequence);
		if (state->last < 0)
			state->last = at_rest;
		else
			state->behind = false;
	}
	find_safe(state, NOBODY);
}

void
es_read_in_flight(SharedDatabase *db, FeedState *state)
{
	PositionShare *share = es_positions(db);

	memset(state, 0, sizeof(*state));
	SpinLockAcquire(&share->mutex);
	state->last = share->next - 1;
	SpinLockRelease(&share->mutex);
	find_safe(state, NOBODY);
}

/*
 * What was safe when this looked stays safe.  The record of this commit follows
 * those of all transactions that ended before, so a standby which sees the
 * position sees their events.
 */
void
es_store_safe_position(void)
{
	static KeptPlan plan = {"UPDATE event_store.store_state SET safe_position = $1"
							" WHERE safe_position OPERATOR(pg_catalog.<) $1",
							1,
							{INT8OID}};
	OwnerScope scope;
	FeedState state;
	Datum position;

	es_read_feed_state(es_my_database(), &state);
	position = Int64GetDatum(state.safe);
	es_begin(&scope);
	es_execute(&plan, &position, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

/*
 * Stores the safe position in a transaction that is about to commit, as though it had:
 * its own positions appear with the very record that carries this one, and all
 * others up to it have ended.  Of several that commit at once, one stores, and the
 * others do not wait for its row: what they add comes with the next, or with a worker,
 * which the flag tells that there is something to store.
 *
 * Nor does it wait for DDL.  A serializable transaction leaves it to others, which
 * it would otherwise depend on; one that has become read-only has to.  Under REPEATABLE
 * READ a row that somebody else has just stored would be an error, so it is met as
 * under READ COMMITTED.  After an error the transaction ends, and its level with it.
 */
static void
store_without_worker(void)
{
	static KeptPlan plan = {"UPDATE event_store.store_state AS s SET safe_position = $1"
							" FROM (SELECT l.id FROM event_store.store_state l"
							" WHERE l.id OPERATOR(pg_catalog.=) 1"
							" AND l.safe_position OPERATOR(pg_catalog.<) $1"
							" FOR NO KEY UPDATE SKIP LOCKED) AS k"
							" WHERE s.id OPERATOR(pg_catalog.=) k.id",
							1,
							{INT8OID}};
	SharedDatabase *db = es_my_database_if_any();
	const Store *store;
	FeedState state = {0};
	int isolation = XactIsoLevel;
	OwnerScope scope;
	Datum position;

	if (!in_flight_here || db == NULL || es_worker_possible(db) ||
		!standby_possible() || IsolationIsSerializable() || XactReadOnly)
		return;
	/* the transaction may have dropped it */
	store = es_store_if_any();
	if (store == NULL ||
		!ConditionalLockRelationOid(store->store_state, RowExclusiveLock))
		return;
	state.last = last_taken_position(db, es_store()->positions);
	find_safe(&state, MyProcNumber);
	position = Int64GetDatum(state.safe);
	XactIsoLevel = XACT_READ_COMMITTED;
	es_begin(&scope);
	(void) es_execute_latest(&plan, &position, NULL);
	es_end(&scope);
	XactIsoLevel = isolation;
}

/*
 * What a standby can read up to.  It is read under the latest snapshot at every
 * isolation level, as the events are.
 */
int64
es_stored_safe_position(void)
{
	static KeptPlan plan = {
		"SELECT s.safe_position FROM event_store.store_state s"};
	OwnerScope scope;
	int64 position = 0;
	bool isnull;

	PushActiveSnapshot(GetLatestSnapshot());
	es_begin_read(&scope);
	if (es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT) > 0)
		position =
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	PopActiveSnapshot();
	return position;
}
