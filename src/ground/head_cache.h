/*
 * head_cache.h
 *		Heads remembered in shared memory.
 */
#ifndef ES_HEAD_CACHE_H
#define ES_HEAD_CACHE_H

#include "datatype/timestamp.h"

#include "ground/shmem.h"

extern void es_share_heads(void);
/*
 * The last sequence of an aggregate whose lock is held, if it is remembered,
 * and whether that event was staged.  db is NULL without preload.
 */
extern bool es_cached_head(SharedDatabase *db, Datum type, Datum id,
						   int64 *sequence, TimestampTz *recorded_at,
						   bool *staged);
/* Remembers a head once the transaction has committed. */
extern void es_note_head(SharedDatabase *db, Datum type, Datum id,
						 int64 sequence, TimestampTz recorded_at, bool staged);
/* Forgets one, of an aggregate whose lock is held, once the transaction has committed. */
extern void es_forget_head(SharedDatabase *db, Datum type, Datum id);
/* Forgets all heads once the transaction has committed ... */
extern void es_forget_heads(void);
/* ... or at once. */
extern void es_raise_head_generation(SharedDatabase *db);

#endif /* ES_HEAD_CACHE_H */
