/*
 * upcaster.h
 *		What makes events of one version those of the next: which upcasters there are.
 */
#ifndef ES_UPCASTER_H
#define ES_UPCASTER_H

#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/jsonb.h"

#include "replay/rules.h"

typedef struct Upcaster
{
	int from_version;
	Datum aggregate_type; /* an empty text = all */
	Datum name;			  /* of a function, or (Datum) 0 */
	Datum owner;
	Rules *rules;  /* NULL = a function, or nothing but another type */
	bool flat;	   /* rules that need no state */
	Datum type;	   /* that rules give the event; (Datum) 0 = its own */
	FmgrInfo call; /* looked up at the first use */
	Oid user;
} Upcaster;

/*
 * Whether the store has upcasters; a test of two variables, once it is known.  A call
 * asks once and keeps to the answer.
 */
extern bool es_upcasts(void);
/* Whether there are any for events of an aggregate type; of all others none is old. */
extern bool es_upcasts_type(Datum aggregate_type);
/* Whether an event has a later version; it is looked at up to its schema_version. */
extern bool es_is_old_version(const Datum *values);
/* The same of a row, which is taken apart only so far, and if that may be. */
extern bool es_is_old_row(TupleTableSlot *slot);
/* The upcaster of an event's version; NULL if that is the last one. */
extern Upcaster *es_find_upcaster(const Datum *values);
/* Looks up the function that its name stands for now, and its owner, ready to be called. */
extern void es_find_upcaster_function(Upcaster *upcaster);
/*
 * Types of stored events of which upcasters may make events of the given types, an
 * array of text: these types and more.
 */
extern Datum es_stored_types(Datum event_types);

/* Checks what is to be an upcaster. */
extern void es_check_upcaster(Oid function);
/*
 * Reads rules: an array of operations, or an object of them and of the type that the
 * event gets, (Datum) 0 = its own.  NULL where no operations are given.  What is
 * returned refers to what was given.
 */
extern Rules *es_read_upcaster_rules(Jsonb *given, Datum type, Datum *event_type);
/*
 * Until the transaction ends nobody sets an upcaster: what is folded and stored now is
 * told to be older than what comes.
 */
extern void es_hold_upcasters(void);
/* All backends look again, once the transaction has committed. */
extern void es_note_upcasters(void);

#endif /* ES_UPCASTER_H */
