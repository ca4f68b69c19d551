/*
 * committer_slot.h
 *		The committer of a database, in shared memory.
 */
#ifndef ES_COMMITTER_SLOT_H
#define ES_COMMITTER_SLOT_H

#include "datatype/timestamp.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "ground/shmem.h"

/* "lock" protects it, and the calls of the database: see grouped_call.c. */
typedef struct CommitterSlot
{
	LWLock lock;
	bool starting; /* a process was asked for */
	TimestampTz started_at;
	TimestampTz retry_at; /* none is asked for before: there was none */
	pid_t pid;			  /* 0 = none */
	Latch *latch;
	bool asleep; /* a call sets the latch */
	int first;	 /* the queue, from here, 1 + number, 0 = none ... */
	int last;	 /* ... to here ... */
	int length;	 /* ... so many; may be read without the lock */
} CommitterSlot;

extern void es_share_committers(void);

extern DatabasePart es_committer_part;

static inline CommitterSlot *
es_committer_slot(const SharedDatabase *db)
{
	return es_part(db, &es_committer_part);
}

/* Whether there is one, or one on its way: one is started if there is none. */
extern bool es_ensure_committer(SharedDatabase *db);
/* It looks again. */
extern void es_wake_committer(SharedDatabase *db);

/* The committer takes its place, until it exits; false where it is not wanted. */
extern bool es_enter_committer_slot(SharedDatabase *db, Oid database);
/* It is connected. */
extern void es_note_committer_arrived(void);
/* It leaves, unless a call waits. */
extern bool es_retire_committer(SharedDatabase *db);
/* Tells it to go, which a command needs; whether it is gone. */
extern bool es_dismiss_committer(SharedDatabase *db, Oid database);

#endif /* ES_COMMITTER_SLOT_H */
