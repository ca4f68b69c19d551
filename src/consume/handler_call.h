/*
 * handler_call.h
 *		A call of somebody else's function: as its owner, and in its time.
 */
#ifndef ES_HANDLER_CALL_H
#define ES_HANDLER_CALL_H

#include "ground/event.h"

#define ES_HANDLER_ARGUMENTS 4

typedef struct HandlerCall
{
	Oid function;
	Oid owner;
	int64 timeout; /* in ms */
	int count;
	Datum arguments[ES_HANDLER_ARGUMENTS];
	const EventRow *cause; /* of what it appends; NULL = none */
	bool several;		   /* it may as well be caused by others */
	/* Told when the call has outlived its cancellation, and this process ends. */
	void (*given_up)(const void *what);
	const void *what;
	bool *overdue; /* set to whether it has taken longer than its time */
	bool isnull;   /* of the result */
} HandlerCall;

/*
 * Whether a role is a superuser and the owner of the store is none: its functions
 * cannot be handlers there.  42501 where it is so.
 */
extern bool es_is_above_store(Oid role);
extern void es_refuse_above_store(Oid role);
/*
 * Calls it, without a time or with one: 57014 where that is over, also when the function
 * has caught its cancellation.
 */
extern Datum es_call_as_owner(HandlerCall *call);
extern Datum es_call_in_time(HandlerCall *call);
/* What is deferred is due now, and what comes is not deferred any more. */
extern void es_make_constraints_immediate(void);
/* From now on a call that outlives its cancellation ends this process. */
extern void es_let_handlers_end_process(void);
/* Whether a handler is being called. */
extern bool es_is_in_handler(void);

#endif /* ES_HANDLER_CALL_H */
