/*
 * erased_events.h
 *		Which events are erased, and erasing them.
 */
#ifndef ES_ERASED_EVENTS_H
#define ES_ERASED_EVENTS_H

#include "utils/array.h"
#include "utils/jsonb.h"

#include "keep/erased_part.h"
#include "keep/moved_partitions.h"
#include "replay/condition.h"

/* What all events have in common that are erased; (Datum) 0 = that does not matter. */
typedef struct ErasureQuery
{
	Datum aggregate_type; /* text */
	Datum aggregate_id;
	Datum correlation_id;
	Datum saga_id;
	Datum event_types; /* text[], of their last version */
	Datum event_ids;   /* uuid[] */
	Condition *where;
	int conditions;
} ErasureQuery;

/* One aggregate of them. */
typedef struct ErasedAggregate
{
	Datum type;
	Datum id;
	bool related; /* a saga that some of the events belong to */
} ErasedAggregate;

/* What was found, in the memory in which it began. */
typedef struct ErasedEvents
{
	MemoryContext context;
	int64 count;
	int64 asked; /* so many of them the query asked for; others are of sagas */
	int64 room;
	Datum *positions;
	Datum *event_ids; /* of those that were changed, once they are */
	int64 changed;
	struct PairTable *numbers; /* of aggregates */
	int aggregate_count;
	int aggregate_room;
	ErasedAggregate *aggregates;
} ErasedEvents;

/* Reads the argument "query"; 22023 says what is wrong. */
extern void es_read_erasure_query(Jsonb *given, ErasureQuery *query);
extern ErasedEvents *es_begin_erased_events(void);
extern void es_add_erased_aggregate(ErasedEvents *events, Datum type, Datum id);
/* Finds at most so many events that have something to be erased; 0 = all. */
extern void es_find_erased_events(ErasedEvents *events, const ErasureQuery *query,
								  const ErasedParts *parts, int max_count);
/* Finds the events of sagas once more, to which those belong that the query asked for. */
extern void es_find_erased_sagas(ErasedEvents *events);
/* The types of the aggregates, a text[]. */
extern Datum es_erased_types(const ErasedEvents *events);
/*
 * Takes the parts out of what was found; the aggregates are locked.  Notes which partitions
 * of subscriptions events leave.
 */
extern void es_change_erased_events(ErasedEvents *events, const ErasedParts *parts,
									Datum erasure, PartitionMoves *moves);
/* The aggregate gets another id, which no other one may have: 23505. */
extern void es_rename_aggregate(Datum type, Datum id, Datum pseudonym,
								PartitionMoves *moves);
/* All positions, and ids, of the events that were changed, as arrays. */
extern Datum es_erased_positions(const ErasedEvents *events);
extern Datum es_erased_event_ids(const ErasedEvents *events);

#endif /* ES_ERASED_EVENTS_H */
