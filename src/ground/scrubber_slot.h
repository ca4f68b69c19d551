/*
 * scrubber_slot.h
 *		The scrubber of a database, in shared memory.
 */
#ifndef ES_SCRUBBER_SLOT_H
#define ES_SCRUBBER_SLOT_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#include "ground/shmem.h"
#include "ground/worker_slot.h"

/* "lock" protects it, but for what is atomic. */
typedef struct ScrubberSlot
{
	LWLock lock;
	pg_atomic_uint32 wanted; /* there may be something to be scrubbed */
	bool starting;			 /* a process was asked for */
	TimestampTz started_at;
	TimestampTz not_before; /* the next pass, unless somebody waits for it */
	int pauses;				/* passes in a row that have left something */
	pid_t pid;				/* 0 = none */
	uint64 asked;			/* passes that callers wait for, numbered ... */
	uint64 taken;			/* ... those that the pass under way is for ... */
	uint64 done;			/* ... and those that are over */
	char error[ES_ERROR_CHARS]; /* of the last pass; empty = none */
} ScrubberSlot;

extern void es_share_scrubbers(void);

/* Something is to be scrubbed, once the transaction has committed. */
extern void es_want_scrub(void);
/* When the worker has to look whether that is so; DT_NOEND = not at all. */
extern TimestampTz es_scrub_due(SharedDatabase *db);
/*
 * Before a look: the wish is taken, and put back where the look has not settled it.  What
 * is wished from now on is seen by the next.
 */
extern bool es_take_scrub_wanted(SharedDatabase *db);
extern void es_keep_scrub_wanted(SharedDatabase *db);
/* A look has found nothing: nobody need wait. */
extern void es_find_nothing_to_scrub(SharedDatabase *db);
/* Starts a process, unless there is one; raises if none is to be had. */
extern void es_start_scrubber(SharedDatabase *db);

/* The scrubber takes its place, until it exits; false where it is not wanted. */
extern bool es_enter_scrubber_slot(SharedDatabase *db, Oid database);
/* A pass begins; it is over: what has gone wrong, "" = nothing, and whether something is left. */
extern void es_begin_scrub(SharedDatabase *db);
extern void es_end_scrub(SharedDatabase *db, const char *error, bool left);
/* Asks for a pass that begins from now on; whether it is over, and its error. */
extern uint64 es_ask_for_scrub(SharedDatabase *db);
extern bool es_scrub_is_over(SharedDatabase *db, uint64 number, char *error);
/* Tells it to go, which a command needs; whether it is gone. */
extern bool es_dismiss_scrubber(SharedDatabase *db, Oid database);

#endif /* ES_SCRUBBER_SLOT_H */
