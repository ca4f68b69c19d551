/*
 * lock.h
 *		The locks of aggregates and view keys.
 */
#ifndef ES_LOCK_H
#define ES_LOCK_H

#include "storage/lockdefs.h"

extern void es_share_locks(void);

typedef enum LockSpace
{
	ES_LOCK_AGGREGATE = 0xE501,
	ES_LOCK_VIEW_KEY = 0xE502,
	ES_LOCK_DRAIN = 0xE503,
	ES_LOCK_POSITIONS = 0xE504,
	ES_LOCK_SUBSCRIPTION = 0xE505,
	ES_LOCK_MEMBER = 0xE506,
	ES_LOCK_FENCING = 0xE507,
	ES_LOCK_LIFE = 0xE508
} LockSpace;

/*
 * Locks one pair exclusively until the transaction ends, passing the gate of
 * its space.
 */
extern void es_lock_pair(LockSpace space, uint64 hash);
/* The same without waiting; false if somebody else has it. */
extern bool es_try_lock_pair(LockSpace space, uint64 hash);
/* Whether this transaction has locked a pair, or closed the gate to all. */
extern bool es_holds_pair(LockSpace space, uint64 hash);
/* Gives back one lock of a pair that this transaction has read under, and not written. */
extern void es_unlock_pair(LockSpace space, uint64 hash);
/*
 * Locks many, each once, in the order of their hashes; if they are very many,
 * closes the gate instead.  Sorts the array.
 */
extern void es_lock_pairs(LockSpace space, uint64 *hashes, int count);
/*
 * Locks of many what is free, without waiting for anybody, and says which it holds.  False
 * if it cannot lock any, since the gate is closed or there are too many.
 */
extern bool es_lock_free_pairs(LockSpace space, const uint64 *hashes, int count,
							   bool *held);
/*
 * Closes the gate of a space to the end of the transaction, waiting for those that have
 * passed it; trying not for longer than this, since others wait behind: false if it was
 * not to be had.
 */
extern void es_close_gate(LockSpace space);
extern bool es_try_close_gate(LockSpace space, int milliseconds);
/*
 * Between the two a full lock table says what to do about it.  PostgreSQL names only
 * max_locks_per_transaction.  It costs nothing until there is an error.
 */
extern void es_begin_explaining(ErrorContextCallback *callback);
extern void es_end_explaining(const ErrorContextCallback *callback);
/*
 * Until this subtransaction ends, or it is called with false, locking pairs waits
 * only for moments, and refuses with an error what then is not free.  Whether
 * anything was refused since the last time it was forgotten.
 */
extern void es_bound_lock_waits(bool bounded);
extern bool es_lock_was_refused(void);
/*
 * The same without even a moment, until the transaction ends; and whether that is so.  Other
 * waits of the store are to be refused then, too.
 */
extern void es_refuse_waits(void);
extern bool es_waits_are_refused(void);
/*
 * Locks what es_lock_pairs would, if all of it can be had at once; else false, and the
 * lock that was not to be had, 0 = the gate.  Those before it stay locked.
 */
extern bool es_try_lock_pairs(LockSpace space, uint64 *hashes, int count,
							  uint64 *refused_lock);
extern void es_forget_refused_lock(void);

/* So many of the locks that were refused are remembered. */
#define ES_REFUSED_LOCKS 64

typedef struct RefusedLock
{
	LockSpace space; /* ES_LOCK_LIFE: the archive */
	uint64 hash;	 /* 0 = the gate */
} RefusedLock;

/* Those since waits were bounded; returns how many. */
extern int es_refused_locks(RefusedLock *locks);
/* Whether this transaction holds what was refused to another. */
extern bool es_holds_refused_lock(const RefusedLock *lock);
/*
 * Locks the archive for reading, to the end of the transaction, if somebody who has locked it
 * need not be waited for; else false, and that was refused.
 */
extern bool es_take_archive(void);
/* Whether this transaction has locked any pair: then it must not wait for space. */
extern bool es_holds_locks(void);
/*
 * A lock by its hash in a space without a gate, to the end of the transaction or
 * until it is released.  Trying waits for nobody, and fails also where
 * somebody waits for a lock that conflicts.
 */
extern void es_lock_hash(LockSpace space, uint64 hash, LOCKMODE mode);
extern bool es_try_lock_hash(LockSpace space, uint64 hash, LOCKMODE mode);
extern void es_unlock_hash(LockSpace space, uint64 hash, LOCKMODE mode);
/* The one lock of a space that has one: drain, positions, fencing numbers, the archive's mark. */
extern void es_lock_acquire(LockSpace space, LOCKMODE mode);
extern void es_lock_release(LockSpace space, LOCKMODE mode);
/* Whether this transaction holds it exclusively. */
extern bool es_lock_held(LockSpace space);

#endif /* ES_LOCK_H */
