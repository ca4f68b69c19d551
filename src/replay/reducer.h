/*
 * reducer.h
 *		Which reducer an aggregate type has.
 */
#ifndef ES_REDUCER_H
#define ES_REDUCER_H

#include "ground/catalog.h"
#include "replay/rules.h"

typedef struct Reducer
{
	Oid function;	 /* InvalidOid = rules, or the built-in merge */
	Rules *rules;	 /* NULL = none */
	bool saga;		 /* the state of a saga: saga_state.c */
	char *name;		 /* for messages */
	int version;	 /* 0 where nothing was ever registered */
	Oid user;		 /* who the function runs as ... */
	int security;	 /* ... and in which security context */
	bool registered; /* else given in the call */
} Reducer;

/*
 * All are called between es_begin and es_end; what the result points to lives
 * in "context".  The second is for events that do not come from the store but
 * from the caller.  The third is a function that the caller gives for one call.
 */
extern Reducer es_registered_reducer(text *aggregate_type, const OwnerScope *scope,
									 MemoryContext context);
extern Reducer es_reducer_of_given_events(text *aggregate_type,
										  const OwnerScope *scope,
										  MemoryContext context);
extern Reducer es_given_reducer(Oid function, const OwnerScope *scope,
								MemoryContext context);

/* That of the types "saga:...", which needs no look-up. */
extern Reducer es_saga_reducer(void);

#endif /* ES_REDUCER_H */
