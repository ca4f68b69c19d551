/*
 * feed.h
 *		The order over all events.
 */
#ifndef ES_FEED_H
#define ES_FEED_H

#include "ground/shmem.h"

/* This database, whose positions are known; 55000 without preload. */
extern SharedDatabase *es_feed_database(void);
/* How far it is safe to read, on a standby as well; the snapshot comes after it. */
extern int64 es_feed_position(void);
/*
 * Refuses a position that was never given here, by the name of its argument.
 * "safe" was read before.
 */
extern void es_check_position(const char *name, int64 after, int64 safe);

#endif /* ES_FEED_H */
