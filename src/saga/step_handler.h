/*
 * step_handler.h
 *		Functions of users that do steps of sagas.
 */
#ifndef ES_STEP_HANDLER_H
#define ES_STEP_HANDLER_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "replay/saga_event.h"
#include "saga/definition.h"

/* A claim of a step that a handler does. */
typedef struct StepWork
{
	Datum name; /* of the saga, as text, and its id */
	Datum id;
	char *step;
	StepKind kind;
	int attempt;
	int64 lease;
	Jsonb *input;
	char *correlation_id; /* NULL = none */
	TimestampTz claimed_at;
	TimestampTz deadline;
	char *handler;
	char *owner;	 /* the role that it has to belong to, by name */
	bool foreground; /* who holds its saga is waited for */

	/* what a call that raises sets: its time was over; it could not be made at all */
	bool overdue;
	bool broken;
	char *error; /* of the moment, for which it runs again; NULL = none */
} StepWork;

/*
 * The role whose functions the handlers of a definition are, by name; NULL = there are no
 * handlers.  Each has to be there, to be the caller's own, and of the form of a handler:
 * 22023 and 42501 with the step's name; 55000 where no process can connect as that role.
 */
extern char *es_check_step_handlers(const SagaDefinition *definition);
/* Calls it in the time that the claim has left; returns its result, or NULL. */
extern Jsonb *es_call_step_handler(StepWork *work);

#endif /* ES_STEP_HANDLER_H */
