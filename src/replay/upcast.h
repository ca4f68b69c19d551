/*
 * upcast.h
 *		Events as their last version has them.
 */
#ifndef ES_UPCAST_H
#define ES_UPCAST_H

#include "executor/tuptable.h"

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
/* The same for an event that the caller has made up; 42501 where that is a danger. */
extern bool es_upcast_given(Datum *values, bool *nulls);
/*
 * Whether an event of the log is of one of these types in its last version.  Where an upcaster
 * fails nobody can tell: "why" is set then, else NULL.  All of it lives in the current
 * memory context.
 */
extern bool es_has_last_type(TupleTableSlot *slot, const Datum *types,
							 int count, ErrorData **why);

#endif /* ES_UPCAST_H */
