/*
 * erasure.h
 *		The register of what was erased or deleted, and its announcement.
 */
#ifndef ES_ERASURE_H
#define ES_ERASURE_H

#include "utils/array.h"

/* What was done to events; the event that announces it is named so. */
#define ES_ERASED_EVENT "Erased"
#define ES_DELETED_EVENT "Deleted"

typedef struct Erasure
{
	Datum id;		  /* of es_new_erasure() */
	const char *kind; /* one of the above */
	Datum reason;	  /* text */
	Datum paths; /* text[]: only these members; (Datum) 0 = all of the content */
	Datum positions; /* bigint[], of events in the log or its archive ... */
	Datum event_ids; /* ... and their ids, uuid[], in the same order */
	bool renamed;	 /* an aggregate has got another id */
} Erasure;

/* An erasure's id, a uuid: known before it is done, as the mark in events has it. */
extern Datum es_new_erasure(void);
/*
 * Writes an erasure into the register and announces it, in this transaction.  Outside of an
 * owner's scope; the aggregates concerned are locked.
 */
extern void es_announce_erasure(const Erasure *erasure, const char *function);

#endif /* ES_ERASURE_H */
