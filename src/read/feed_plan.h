/*
 * feed_plan.h
 *		Which statement reads events in the order of their positions.
 */
#ifndef ES_FEED_PLAN_H
#define ES_FEED_PLAN_H

#include "utils/tuplestore.h"

typedef struct FeedRange
{
	int64 after; /* exclusive */
	int64 up_to; /* inclusive */
	int64 max_count;
	bool backward;
	/* arrays of text; (Datum) 0 = all */
	Datum aggregate_types;
	Datum event_types;
	int member;
	int members; /* 0 = all */
	bool upcast; /* give events, and take event_types, as of their last version */
} FeedRange;

/* Reads a range as the owner of the store; returns how many events. */
extern uint64 es_read_feed(const FeedRange *range, Tuplestorestate *into);

#endif /* ES_FEED_PLAN_H */
