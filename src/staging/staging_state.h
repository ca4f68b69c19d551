/*
 * staging_state.h
 *		Whether staging takes rows, and how many.
 */
#ifndef ES_STAGING_STATE_H
#define ES_STAGING_STATE_H

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"

#include "ground/catalog.h"
#include "ground/shmem.h"

typedef enum StagingState
{
	ES_STAGING_UNKNOWN, /* not looked at since the server started */
	ES_STAGING_OPEN,	/* takes rows; store_state says dirty */
	ES_STAGING_CLOSED	/* known to be empty, takes no rows */
} StagingState;

/* So many truncated generations of segments are told apart; see segment.c. */
#define ES_LOST_RANGES 16

/* A staging segment as it stands. */
typedef struct SharedSegment
{
	bool used;				   /* may hold rows */
	FullTransactionId opened;  /* had ended before its first row was written */
	FullTransactionId emptied; /* the last to commit that drained rows from it */
	uint64 emptied_in;		   /* the round that did, counted as they commit */
} SharedSegment;

/*
 * Rows given up although old snapshots may show them: those that see the one
 * transaction and not the other.
 */
typedef struct LostRange
{
	FullTransactionId opened;
	FullTransactionId emptied;
} LostRange;

/*
 * What a database's processes know of staging.  SharedDatabase.lock protects the
 * plain fields; those that say where rows may be (state, table, active_segment,
 * used) are read without it, in the order that staging.c and staged_scan.c
 * describe.  Counters are atomics, in the order that own_rows.c describes.
 */
typedef struct StagingShare
{
	StagingState state;
	Oid table; /* first segment; tells one CREATE EXTENSION from the next */
	int64 epoch;
	int active_segment;
	SharedSegment segments[ES_SEGMENTS];
	LostRange lost[ES_LOST_RANGES];
	int lost_count;
	FullTransactionId last_drained; /* the last to commit that drained rows */
	uint64 rounds;					/* that committed */
	pg_atomic_uint32 generations[ES_SEGMENTS];	/* raised by truncating */
	pg_atomic_uint64 segment_rows[ES_SEGMENTS]; /* not drained, also those of
												 * open transactions */
	pg_atomic_uint32 wanted; /* somebody waits for staging to be open */
	pg_atomic_uint64 next_sid;
	/* nothing staged from this sid on was there before so many moves: archived_ids.c */
	pg_atomic_uint64 unmoved_from;
	pg_atomic_uint64 unmoved_since;
	pg_atomic_uint64 uncommitted;	/* rows staged by open transactions, an
									 * upper bound */
	pg_atomic_uint64 staged_events; /* committed, not drained */
	pg_atomic_uint64 staged_views;
	TimestampTz first_staged_at; /* since the last round; 0 = nothing */
	bool dead_letters_possible;
} StagingShare;

extern void es_share_staging(void);

extern DatabasePart es_staging_part;

static inline StagingShare *
es_staging(const SharedDatabase *db)
{
	return es_part(db, &es_staging_part);
}

/* The lock is held. */
extern void es_set_staging_state(SharedDatabase *db, StagingState state);
/* That of whatever store the database had when it was last looked at. */
extern bool es_staging_is(const SharedDatabase *db, StagingState state);
/* Whether shared memory speaks of the segments of this very extension ... */
extern bool es_staging_known(const SharedDatabase *db);
/* ... and they take rows. */
extern bool es_staging_open(const SharedDatabase *db);
/* Committed rows in staging, events and views. */
extern uint64 es_staged_rows(SharedDatabase *db);

#endif /* ES_STAGING_STATE_H */
