/*
 * handled_step.h
 *		Steps of sagas that the server does, by handlers.
 */
#ifndef ES_HANDLED_STEP_H
#define ES_HANDLED_STEP_H

#include "utils/elog.h"

#include "consume/due_projection.h"
#include "saga/step_handler.h"

typedef enum StepTaken
{
	STEP_NOT_FOUND, /* there is none to be done now */
	STEP_HELD,		/* others are at those that there are */
	STEP_PUT_OFF,	/* it cannot be done now; there may be others */
	STEP_TAKEN
} StepTaken;

/* Locks the table of steps to the end of the transaction; false if somebody keeps it from that. */
extern bool es_try_lock_steps(void);
/* The roles whose handlers have steps to do, now or later. */
extern DueWork *es_list_due_steps(int *count);
/*
 * Claims the next step for the handlers of a role, in this transaction, which has to be
 * committed before it is run.  What is known of it is kept in a memory context.
 */
extern StepTaken es_take_handled_step(Datum role, MemoryContext context,
									  StepWork *work);
/*
 * Runs it and reports, in this transaction.  An error that is not the step's is dealt with by
 * another run in the time that the claim has left.
 */
extern void es_run_handled_step(StepWork *work);
/* That other run, where the transaction has failed, and why: told if the attempt's time ends first. */
extern void es_note_step_error(StepWork *work, const ErrorData *error);
extern void es_put_back_step(StepWork *work);

#endif /* ES_HANDLED_STEP_H */
