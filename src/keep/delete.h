/*
 * delete.h
 *		The end of an aggregate.
 */
#ifndef ES_DELETE_H
#define ES_DELETE_H

#include "keep/life.h"

/*
 * Holds off who makes states of events, to the end of the transaction: before an aggregate is
 * deleted, and before its locks are taken.  False if that would be waited for.
 */
extern bool es_hold_off_snapshots(bool waits);
/* Deletes all events of an aggregate and leaves a tombstone; returns how many there were. */
extern int64 es_delete_whole(const Life *life, Datum reason);

#endif /* ES_DELETE_H */
