/*
 * lock.c
 *		The locks of aggregates and view keys.
 *
 * A pair of texts is locked through a 64-bit hash of it, in lock spaces of our
 * own: tags of PostgreSQL's advisory locks, whose fourth field is neither 1
 * nor 2, so that they never meet what an application locks with
 * pg_advisory_lock.  Two pairs of equal hash share a lock, which costs
 * waiting and nothing else.
 *
 * Lock order, for all of event_store:
 *	 0. a subscription, then one of its members; who fetches events waits for
 *		neither, so whoever holds what comes below may do so
 *	 1. the gate of the lock space: RowExclusive on a relation
 *	 2. the life of an aggregate, by who moves its events or deletes them; then
 *		aggregates, then view keys: each sorted by hash within one call
 *	 3. the tables, as PostgreSQL does it
 *	 4. staging segments
 *	 5. the drain lock, held to commit by whoever moves rows; others only
 *		touch it in share mode for a moment, to wait where the deadlock
 *		detector sees it
 *	 6. the positions lock, or that of fencing numbers, or of the archive's mark,
 *		released at once
 *
 * The lock table of the server is small, and shared with everybody.  Calls that
 * lock many pairs therefore share a budget, counted in shared memory; one that
 * would exceed it closes the gate against other writers instead of locking
 * pair by pair.  The gate is the relation of an empty composite type, which
 * nothing else ever locks: so a writer passes it at the price of a fast-path
 * lock, and the drain, which takes no locks of pairs, does not pass it at all.
 *
 * Triggers that run in a round of draining may append, though, and who holds the
 * aggregate may wait for that round, or sit idle.  So the waits of a round are
 * bounded: it queues for what is locked, since it would hardly ever get what is
 * in demand otherwise, but for a moment, and finds out at once when the holder
 * waits for it.  Then the lock is refused; what is refused once in a round is
 * not waited for again.
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/lockdefs.h"
#include "storage/proc.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/waiter.h"
static void
make_tag(LOCKTAG *tag, LockSpace space, uint64 hash)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32),
						 (uint32) hash, space);
}

static Oid
gate_of(LockSpace space)
{
	return space == ES_LOCK_AGGREGATE ? es_store()->aggregate_gate
									  : es_store()->view_key_gate;
}

/* How many pairs calls with many have locked, in the whole cluster. */
static Size
budget_size(void)
{
	return sizeof(pg_atomic_uint64);
}

static void
initialise_budget(void *memory)
{
	pg_atomic_init_u64(memory, 0);
}

static ClusterPart budget = {"event_store locks", budget_size, initialise_budget};

void
es_share_locks(void)
{
	es_share(&budget);
}

/* Of this transaction: whether it holds a lock of a pair, and its reservation. */
static bool holds_locks = false;
static int64 reserved = 0;

/* How long the waits of a round may be, in all and before a look for a deadlock. */
#define BOUNDED_WAIT_MS 100
#define BOUNDED_DEADLOCK_MS 5

/* Whose waits are bounded, what is left of their time, and what was refused. */
static SubTransactionId bounded_in = InvalidSubTransactionId;
static int64 bounded_time_us = 0;
static RefusedLock refused_locks[ES_REFUSED_LOCKS];
static int refused_count = 0;
static bool refused = false;
static bool waits_refused = false;

static void
abort_locks(SubTransactionId id)
{
	if (bounded_in >= id)
		bounded_in = InvalidSubTransactionId;
}

static void
end_locks(SharedDatabase *db, bool committed)
{
	bounded_in = InvalidSubTransactionId;
	waits_refused = false;
	if (reserved > 0)
		pg_atomic_fetch_sub_u64(budget.memory, reserved);
	reserved = 0;
	holds_locks = false;
}

/* Calls that lock so few pairs are not counted. */
#define FEW_PAIRS 16

/* The entries of the server's lock table, roughly. */
static int64
lock_table_size(void)
{
	return (int64) max_locks_per_xact * (MaxBackends + max_prepared_xacts);
}

/*
 * Whether a call may lock so many more pairs one by one: at most a quarter of
 * the lock table, and half of it together with all others.  What it reserves is
 * given back at the end of the transaction.
 *
 * A transaction that has passed the gate keeps to single pairs while they are
 * not very many: closing the gate then could deadlock with a single call.
 */
static bool
reserve_pairs(LockSpace space, int count)
{
	LOCKTAG gate;

	if (count <= FEW_PAIRS)
		return true;
	if (count > lock_table_size() / 4)
		return false;
	SET_LOCKTAG_RELATION(gate, MyDatabaseId, gate_of(space));
	if (LockHeldByMe(&gate, RowExclusiveLock, false))
		return true;
	/* without preload nobody counts */
	if (es_shared == NULL)
		return count <= 4 * max_locks_per_xact;
	if (pg_atomic_add_fetch_u64(budget.memory, count) >
		(uint64) lock_table_size() / 2)
	{
		pg_atomic_fetch_sub_u64(budget.memory, count);
		return false;
	}
	reserved += count;
	return true;
}

static void
note_lock(void)
{
	es_at_end(ES_END_LOCKS, end_locks, abort_locks);
	es_note_write();
	holds_locks = true;
}

bool
es_holds_locks(void)
{
	return holds_locks;
}

static void
explain_full_table(void *arg)
{
	if (holds_locks && geterrcode() == ERRCODE_OUT_OF_MEMORY)
		errhint("Each aggregate and view key that a transaction writes holds an entry of the lock table until it ends. "
				"Write many of them in one call of append_batch or put_views, or raise max_locks_per_transaction.");
}

void
es_begin_explaining(ErrorContextCallback *callback)
{
	callback->callback = explain_full_table;
	callback->arg = NULL;
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

void
es_end_explaining(const ErrorContextCallback *callback)
{
	error_context_stack = callback->previous;
}

void
es_bound_lock_waits(bool bounded)
{
	es_at_end(ES_END_LOCKS, end_locks, abort_locks);
	bounded_in = bounded ? GetCurrentSubTransactionId() : InvalidSubTransactionId;
	if (!bounded)
		return;
	bounded_time_us = BOUNDED_WAIT_MS * INT64CONST(1000);
	refused_count = 0;
}

void
es_refuse_waits(void)
{
	es_bound_lock_waits(true);
	bounded_time_us = 0;
	waits_refused = true;
}

bool
es_waits_are_refused(void)
{
	return waits_refused;
}

bool
es_lock_was_refused(void)
{
	return refused;
}

void
es_forget_refused_lock(void)
{
	refused = false;
}

int
es_refused_locks(RefusedLock *locks)
{
	memcpy(locks, refused_locks, refused_count * sizeof(RefusedLock));
	return refused_count;
}

/* Whether this transaction has locked the archive in whatever way. */
static bool
holds_archive(void)
{
	LOCKTAG tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, es_store()->archive);
	for (LOCKMODE mode = AccessShareLock; mode <= MaxLockMode; mode++)
	{
		if (LockHeldByMe(&tag, mode, false))
			return true;
	}
	return false;
}

bool
es_holds_refused_lock(const RefusedLock *lock)
{
	LOCKTAG tag;

	if (lock->space == ES_LOCK_LIFE)
		return holds_archive();
	if (lock->hash == 0)
	{
		SET_LOCKTAG_RELATION(tag, MyDatabaseId, gate_of(lock->space));
		return LockHeldByMe(&tag, ShareRowExclusiveLock, false);
	}
	make_tag(&tag, lock->space, lock->hash);
	return LockHeldByMe(&tag, ExclusiveLock, false);
}

static bool
was_refused(LockSpace space, uint64 hash)
{
	for (int i = 0; i < refused_count; i++)
	{
		if (refused_locks[i].space == space && refused_locks[i].hash == hash)
			return true;
	}
	return false;
}

static void
note_refused(LockSpace space, uint64 hash)
{
	if (refused_count < ES_REFUSED_LOCKS && !was_refused(space, hash))
		refused_locks[refused_count++] = (RefusedLock){space, hash};
	refused = true;
}

bool
es_take_archive(void)
{
	Oid archive = es_store()->archive;

	/* others may queue behind what this transaction has; it need not */
	if (holds_archive())
		LockRelationOid(archive, AccessShareLock);
	else if (!es_try_lock_table(archive))
	{
		note_refused(ES_LOCK_LIFE, 0);
		return false;
	}
	return true;
}

static void
refuse(LockSpace space, uint64 hash)
{
	note_refused(space, hash);
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("an aggregate or view key is locked, which is not waited for here")));
}

/* Waits for what is left of the time, and not for who waits for this transaction. */
static void
queue_for(const LOCKTAG *tag, LockSpace space, uint64 hash)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz start = GetCurrentTimestamp();
	int lock_timeout = LockTimeout;
	int deadlock_timeout = DeadlockTimeout;

	PG_TRY();
	{
		LockTimeout = (int) (bounded_time_us / 1000);
		DeadlockTimeout = BOUNDED_DEADLOCK_MS;
		(void) LockAcquire(tag, ExclusiveLock, false, false);
	}
	PG_CATCH();
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		ErrorData *error = CopyErrorData();

		LockTimeout = lock_timeout;
		DeadlockTimeout = deadlock_timeout;
		bounded_time_us -= GetCurrentTimestamp() - start;
		if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
			error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
			note_refused(space, hash);
		FreeErrorData(error);
		MemoryContextSwitchTo(old);
		PG_RE_THROW();
	}
	PG_END_TRY();
	LockTimeout = lock_timeout;
	DeadlockTimeout = deadlock_timeout;
	bounded_time_us -= GetCurrentTimestamp() - start;
}

static void
lock_one(LockSpace space, uint64 hash)
{
	bool bounded = bounded_in != InvalidSubTransactionId;
	LOCKTAG tag;

	make_tag(&tag, space, hash);
	if (LockAcquire(&tag, ExclusiveLock, false, bounded) != LOCKACQUIRE_NOT_AVAIL)
		return;
	if (bounded_time_us < 1000 || was_refused(space, hash))
		refuse(space, hash);
	queue_for(&tag, space, hash);
}

static void
pass_gate(LockSpace space, LOCKMODE mode)
{
	if (bounded_in == InvalidSubTransactionId)
		LockRelationOid(gate_of(space), mode);
	else if (!ConditionalLockRelationOid(gate_of(space), mode))
		refuse(space, 0);
}

void
es_lock_pair(LockSpace space, uint64 hash)
{
	note_lock();
	pass_gate(space, RowExclusiveLock);
	lock_one(space, hash);
}

bool
es_try_lock_pair(LockSpace space, uint64 hash)
{
	LOCKTAG tag;

	if (!ConditionalLockRelationOid(gate_of(space), RowExclusiveLock))
		return false;
	note_lock();
	make_tag(&tag, space, hash);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

bool
es_holds_pair(LockSpace space, uint64 hash)
{
	LOCKTAG tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, gate_of(space));
	if (LockHeldByMe(&tag, ShareRowExclusiveLock, false))
		return true;
	make_tag(&tag, space, hash);
	return LockHeldByMe(&tag, ExclusiveLock, false);
}

void
es_unlock_pair(LockSpace space, uint64 hash)
{
	LOCKTAG tag;

	make_tag(&tag, space, hash);
	(void) LockRelease(&tag, ExclusiveLock, false);
}

static int
compare_hashes(const void *a, const void *b)
{
	uint64 x = *(const uint64 *) a;
	uint64 y = *(const uint64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

/* How many of them this transaction has not locked before. */
static int
new_pairs(LockSpace space, const uint64 *hashes, int count)
{
	int n = 0;

	if (count <= FEW_PAIRS)
		return count;
	for (int i = 0; i < count; i++)
	{
		LOCKTAG tag;

		make_tag(&tag, space, hashes[i]);
		if (!LockHeldByMe(&tag, ExclusiveLock, false))
			n++;
	}
	return n;
}

void
es_lock_pairs(LockSpace space, uint64 *hashes, int count)
{
	note_lock();
	if (!reserve_pairs(space, new_pairs(space, hashes, count)))
	{
		pass_gate(space, ShareRowExclusiveLock);
		return;
	}
	pass_gate(space, RowExclusiveLock);
	if (count > 1)
		qsort(hashes, count, sizeof(uint64), compare_hashes);
	for (int i = 0; i < count; i++)
	{
		if (i == 0 || hashes[i] != hashes[i - 1])
			lock_one(space, hashes[i]);
	}
}

void
es_close_gate(LockSpace space)
{
	note_lock();
	LockRelationOid(gate_of(space), ShareRowExclusiveLock);
}

bool
es_try_lock_pairs(LockSpace space, uint64 *hashes, int count, uint64 *refused_lock)
{
	*refused_lock = 0;
	note_lock();
	if (!reserve_pairs(space, new_pairs(space, hashes, count)) ||
		!ConditionalLockRelationOid(gate_of(space), RowExclusiveLock))
		return false;
	for (int i = 0; i < count; i++)
	{
		LOCKTAG tag;

		make_tag(&tag, space, hashes[i]);
		if (LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
			continue;
		*refused_lock = hashes[i];
		return false;
	}
	return true;
}

bool
es_lock_free_pairs(LockSpace space, const uint64 *hashes, int count, bool *held)
{
	note_lock();
	if (!reserve_pairs(space, count) ||
		!ConditionalLockRelationOid(gate_of(space), RowExclusiveLock))
		return false;
	for (int i = 0; i < count; i++)
	{
		LOCKTAG tag;

		make_tag(&tag, space, hashes[i]);
		held[i] = LockAcquire(&tag, ExclusiveLock, false, true) !=
				  LOCKACQUIRE_NOT_AVAIL;
	}
	return true;
}

bool
es_try_close_gate(LockSpace space, int milliseconds)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Oid gate = gate_of(space);
	int lock_timeout = LockTimeout;
	volatile bool closed = false;

	note_lock();
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		LockTimeout = milliseconds;
		LockRelationOid(gate, ShareRowExclusiveLock);
		LockTimeout = lock_timeout;
		ReleaseCurrentSubTransaction();
		closed = true;
	}
	PG_CATCH();
	{
		int code = geterrcode();

		LockTimeout = lock_timeout;
		if (code != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return closed;
}

void
es_lock_hash(LockSpace space, uint64 hash, LOCKMODE mode)
{
	LOCKTAG tag;

	/* he holds off all others, also while he waits himself */
	if (space == ES_LOCK_SUBSCRIPTION && mode >= ShareRowExclusiveLock)
		es_note_freed(hash, true);
	make_tag(&tag, space, hash);
	(void) LockAcquire(&tag, mode, false, false);
}

bool
es_try_lock_hash(LockSpace space, uint64 hash, LOCKMODE mode)
{
	LOCKTAG tag;

	make_tag(&tag, space, hash);
	return LockAcquire(&tag, mode, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
es_unlock_hash(LockSpace space, uint64 hash, LOCKMODE mode)
{
	LOCKTAG tag;

	make_tag(&tag, space, hash);
	(void) LockRelease(&tag, mode, false);
}

void
es_lock_acquire(LockSpace space, LOCKMODE mode)
{
	LOCKTAG tag;

	make_tag(&tag, space, 0);
	(void) LockAcquire(&tag, mode, false, false);
}

void
es_lock_release(LockSpace space, LOCKMODE mode)
{
	LOCKTAG tag;

	make_tag(&tag, space, 0);
	(void) LockRelease(&tag, mode, false);
}

bool
es_lock_held(LockSpace space)
{
	LOCKTAG tag;

	make_tag(&tag, space, 0);
	return LockHeldByMe(&tag, ExclusiveLock, false);
}
