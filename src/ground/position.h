/*
 * position.h
 *		Global positions.
 */
#ifndef ES_POSITION_H
#define ES_POSITION_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/spin.h"

#include "ground/shmem.h"

/*
 * The block of positions that are given out next.  "mutex" protects it, and in
 * the same critical section a position that is taken is published as in flight.
 */
typedef struct PositionShare
{
	slock_t mutex; /* protects the five below */
	Oid sequence;  /* whose block this is */
	int64 next;
	int64 limit;			   /* last position of the reserved block */
	uint32 looks_wanted;	   /* look at the log first ... */
	uint32 looks_done;		   /* ... unless that was done as often */
	pg_atomic_uint32 unstored; /* the worker shall store how far it is safe to
								* read */
} PositionShare;

extern void es_share_positions(void);

extern DatabasePart es_position_part;

static inline PositionShare *
es_positions(const SharedDatabase *db)
{
	return es_part(db, &es_position_part);
}

/*
 * Takes "count" consecutive global positions and returns the first.  Call it
 * only after everything that can refuse the append has been checked.
 */
extern int64 es_take_positions(int64 count);
/* Has the log looked at before positions are taken again. */
extern void es_recheck_positions(void);

/*
 * Around what writes positions that were not taken here, with preload: before its
 * first row, whether that was said in this transaction, and when rows were
 * written.
 */
extern void es_begin_outside_write(void);
extern bool es_writes_outside(void);
extern void es_pass_over_used_positions(void);

/* The positions that are taken, and the lowest that is in flight. */
typedef struct FeedState
{
	int64 last; /* the last position taken */
	int64 safe;
	int in_flight;	 /* transactions */
	int blocker_pid; /* of the lowest; 0 = none */
	TimestampTz blocked_since;
	bool behind; /* somebody has locked the log, which alone would tell */
} FeedState;

extern void es_read_feed_state(SharedDatabase *db, FeedState *state);
/* The same from shared memory alone: "last" may be behind the log. */
extern void es_read_in_flight(SharedDatabase *db, FeedState *state);
/*
 * No position beyond it was given; after a restart it may itself not have been
 * given.  Not less than a safe position of this server.
 */
extern int64 es_last_given_position(SharedDatabase *db);
/* The lowest position that this transaction has in flight; 0 = none. */
extern int64 es_own_position_in_flight(void);
/* Stores the safe position, for standbys, if it changed. */
extern void es_store_safe_position(void);
/* What a standby can read up to. */
extern int64 es_stored_safe_position(void);

#endif /* ES_POSITION_H */
