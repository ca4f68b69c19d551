/*
 * drain_set.h
 *		Which rows a round moves.
 */
#ifndef ES_DRAIN_SET_H
#define ES_DRAIN_SET_H

#include "storage/itemptr.h"
#include "utils/snapshot.h"

#include "ground/catalog.h"

/* What a round remembers of a row: where it is and whose. */
typedef struct DrainRow
{
	int64 sid;
	int32 rank;	 /* of its transaction in the round */
	int32 count; /* of its events, or 1 view write */
	ItemPointerData tid;
	uint8 segment;
	bool is_event;
} DrainRow;

typedef struct DrainSet
{
	DrainRow *rows; /* in sid order */
	int nrows;
	int64 events; /* in them */
	int64 views;
	int64 in_segment[ES_SEGMENTS]; /* of them */
	int ntxns;
	int64 stopped_at; /* it has all visible transactions that ended below */
} DrainSet;

/*
 * Finds a closed set of about max_rows events and view writes (0 = all) under a
 * snapshot, not those of this transaction; returns whether more are left.
 */
extern bool es_collect_set(Snapshot snapshot, int64 max_rows, DrainSet *set);

#endif /* ES_DRAIN_SET_H */
