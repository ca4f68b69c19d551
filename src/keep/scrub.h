/*
 * scrub.h
 *		What was erased is made unreadable on disk.
 */
#ifndef ES_SCRUB_H
#define ES_SCRUB_H

#include "nodes/pg_list.h"

/* What one pass is to do; in the memory that it was found in. */
typedef struct Scrub
{
	int count; /* of erasures that nobody can see the content of any more */
	Datum ids; /* their ids, uuid[] */
	TransactionId limit; /* none of them is of this transaction or a later one */
	bool left;			 /* others have to wait */
	List *commands; /* to be run one by one, each outside of a transaction: char * */
	List *relations; /* whose pages are to be walked over: their OIDs */
} Scrub;

/* Whether any erasure is not scrubbed yet; in an owner's scope or as a superuser. */
extern bool es_has_unscrubbed(void);
/* Steps of a pass, each in a transaction of its own, of a superuser: what is to be done; */
extern void es_plan_scrub(Scrub *scrub);
/* a relation, whose free space is cleared: false if there is something left in it; */
extern bool es_scrub_relation(Oid relation, TransactionId limit);
/* and its end: all is gone, or something was found. */
extern void es_note_scrubbed(const Scrub *scrub);
extern void es_note_unscrubbed(void);

#endif /* ES_SCRUB_H */
