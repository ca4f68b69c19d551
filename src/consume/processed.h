/*
 * processed.h
 *		Messages that consumers have processed.
 */
#ifndef ES_PROCESSED_H
#define ES_PROCESSED_H

#include "port/atomics.h"

#include "ground/shmem.h"

/*
 * How the worker forgets old ones: a pass over the table, a piece at a time.
 * Only the worker writes what is no atomic.
 */
typedef struct ProcessedShare
{
	pg_atomic_uint32 wanted;  /* a pass is due, or runs */
	pg_atomic_uint64 pass_at; /* the next one is not due before */
	uint32 block;			  /* where the pass goes on */
} ProcessedShare;

extern void es_share_processed(void);

extern DatabasePart es_processed_part;

static inline ProcessedShare *
es_processed(const SharedDatabase *db)
{
	return es_part(db, &es_processed_part);
}

/* Whether the worker has something to look at. */
extern bool es_forgetting_due(const SharedDatabase *db);
/* Does the next piece of a pass. */
extern void es_forget_next(SharedDatabase *db);

#endif /* ES_PROCESSED_H */
