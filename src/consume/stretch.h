/*
 * stretch.h
 *		The log as a subscription reads it.
 */
#ifndef ES_STRETCH_H
#define ES_STRETCH_H

#include "utils/tuplestore.h"

#include "consume/parked.h"
#include "consume/subscription.h"

/* So many events of the log are read at most at a time. */
#define ES_STRETCH_EVENTS 10000

/* What is wanted, and what was found. */
struct TupleTableSlot;

typedef struct Stretch
{
	const Subscription *subscription;
	int member;		 /* only its partitions; -1 = all */
	Datum partition; /* only this one; (Datum) 0 = all */
	bool alone;		 /* an event that was parked alone */
	int64 max_count;
	Tuplestorestate *into; /* NULL = none */
	/* instead of that; the partition is NULL where nothing has asked for it */
	void (*put)(struct Stretch *stretch, struct TupleTableSlot *slot,
				text *partition);
	void *own; /* for it */

	int64 count;
	int64 *positions; /* of those found */
	int64 room;
	int64 read; /* looked at, and the last of them, and the last that may be */
	int64 last;
	int64 up_to;
	bool ended;			   /* before an event that cannot be given */
	MemoryContext context; /* of one event */
	struct TupleTableSlot *last_version; /* of one that was upcast; NULL = none is */
	const struct TupleTableSlot *written; /* the same as it was written; NULL = so it is */
	bool one_by_one; /* each old event is upcast in a subtransaction of its own */
	bool upcasting; /* an upcaster is at work */
	/*
	 * Whether reading ends before an event that cannot be upcast, at this position then,
	 * 0 = none; else it is taken as it was written.  Where an upcaster is gone or not allowed
	 * that is raised instead if the event is the first; what does not end there takes
	 * the event unless it is "exact".
	 */
	bool heeds_failures;
	bool exact;
	int64 failed;
	Datum failed_partition;
	FailureCause cause;
} Stretch;

/*
 * Reads a stretch behind a position, up to another one, leaving out what is set aside
 * and, but for a partition of its own, what waits behind that.  Returns how far it
 * came.  In an owner's scope.
 */
extern int64 es_read_stretch(Stretch *stretch, int64 after, int64 up_to);
/* The same in as many stretches as it takes. */
extern void es_read_stretches(Stretch *stretch, int64 after, int64 up_to);

#endif /* ES_STRETCH_H */
