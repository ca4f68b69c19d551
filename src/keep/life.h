/*
 * life.h
 *		An aggregate in the hands of who moves its events.
 */
#ifndef ES_LIFE_H
#define ES_LIFE_H

#include "ground/catalog.h"
#include "log/closed_aggregate.h"

typedef struct Life
{
	Datum type;
	Datum id;
	uint64 hash;
} Life;

/*
 * Takes an aggregate into hand to the end of the transaction, which writes durably from
 * here on.  Appends to it go on.  55000 for a saga that has not ended, and where the store
 * has no archive yet.
 */
extern void es_begin_life(Life *life, const char *function, Datum type, Datum id);
/*
 * Holds off appends as well, to the end of the transaction: what was staged is durable
 * then.  Returns what the aggregate is.  VS006 if it has dead letters.
 */
extern AggregateState es_stop_appends(const Life *life);

/* Whether one could be had without waiting for anybody. */
typedef enum LifeTaken
{
	ES_LIFE_TAKEN,
	ES_LIFE_HELD,	  /* somebody has it */
	ES_LIFE_OTHERWISE /* it is not as was said, or a saga that has not ended */
} LifeTaken;

/*
 * Both of these, if nothing is waited for and the last event has this sequence: in
 * domain_events, or in the archive of an aggregate that is archived.
 */
extern LifeTaken es_try_life(Life *life, Datum type, Datum id, int64 last,
							 bool archived);
/* 55000 where the store is of before, and has no archive. */
extern void es_require_archive(void);

/* Where events go. */
typedef enum Move
{
	ES_MOVE_TO_ARCHIVE,
	ES_MOVE_TO_LOG
} Move;

/*
 * Moves the first events of an aggregate that are not there yet, of a sequence below
 * "before" and so many at most; returns how many.
 */
extern int64 es_move_events(const Life *life, Move move, int64 before, int limit);
/* The same until there are none. */
extern int64 es_move_all_events(const Life *life, Move move, int64 before);
/* Runs a statement that changes what there is of an aggregate: $1 and $2 are its type and id. */
extern void es_change_life(const Life *life, KeptPlan *plan);
/* Appends are stopped.  Closes an aggregate whose events are all in the archive, if any. */
extern void es_close_archived(const Life *life);
/* Appends are stopped.  Opens an aggregate whose events are back. */
extern void es_open_again(const Life *life);

#endif /* ES_LIFE_H */
