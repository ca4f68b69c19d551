/*
 * upcaster.h
 *		Events as their last version has them.
 */
#ifndef ES_UPCASTER_H
#define ES_UPCASTER_H

#include "executor/tuptable.h"
#include "utils/jsonb.h"

#include "replay/rules.h"

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
/*
 * Brings an event to its last version, in place; what is new of it lives in the current
 * memory context.  False where it is the last one already.  Whatever an upcaster
 * raises gets the event as its DETAIL.
 */
extern bool es_upcast(Datum *values, bool *nulls);
/*
 * The same in a subtransaction: what was raised, where that is the event's fault, and
 * the event is as it was; NULL otherwise.  "faults" = the same where it is the fault of
 * an upcaster, that it is gone, say.
 */
extern ErrorData *es_try_upcast(Datum *values, bool *nulls, bool faults);
/* Whether what was raised is the fault of an upcaster; of one, or of the event. */
extern bool es_is_fault_of_upcaster(int sqlerrcode);
extern bool es_is_upcast_failure(int sqlerrcode);
/* The same for an event that the caller has made up; 42501 where that is a danger. */
extern bool es_upcast_given(Datum *values, bool *nulls);
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
