/*
 * saga.h
 *		A saga in the hands of a call.
 */
#ifndef ES_SAGA_H
#define ES_SAGA_H

#include "fmgr.h"

#include "saga/machine.h"

/* A saga that is locked, and what a call makes of it. */
typedef struct Saga
{
	Datum name;
	Datum id;
	Datum type;		/* "saga:" and the name */
	int64 sequence; /* of its last event; 0 = there is no such saga */
	Machine machine;
	SagaPhase stored; /* as its row in table sagas has it */
	int64 lease_time; /* of a claim, in microseconds */
} Saga;

/* Names it; the arguments saga_name and saga_id are the first two of a call. */
extern void es_name_saga(Saga *saga, Datum name, Datum id);
/*
 * Begins a call on the saga that its first two arguments name: locks it to the end of
 * the transaction and takes its state.  The second raises 42704 where there is none.
 */
extern void es_open_saga(FunctionCallInfo fcinfo, Saga *saga,
						 const char *function);
extern void es_open_known_saga(FunctionCallInfo fcinfo, Saga *saga,
							   const char *function);
/* The same of a saga that is named. */
extern void es_open_named_saga(Saga *saga, const char *function);
/* The same without waiting: false if somebody has it. */
extern bool es_try_saga(Saga *saga, const char *function);
/* The lock alone, to the end of the transaction: also of one whose state cannot be had. */
extern bool es_try_lock_saga(const Saga *saga);
/*
 * Its rows beside the log as well, to the end of the transaction: false if somebody else has
 * locked one, who is not waited for.  The saga's own lock is held.
 */
extern bool es_try_saga_rows(const Saga *saga);
/* Lets go of one that was tried, where nothing has happened to it. */
extern void es_leave_saga(const Saga *saga);
/* A state as the active snapshot has it, without a lock; NULL = there is none. */
extern SagaState *es_look_at_saga(Datum name, Datum id);
/* Appends what has happened to sagas, in one go, and what can be claimed of them. */
extern void es_save_sagas(Saga **sagas, int count, const char *function);
extern void es_save_saga(Saga *saga, const char *function);
/*
 * Whether a circuit lets a step be claimed.  Where it is open that is its trial, which ends with
 * the failure of this transaction.
 */
extern bool es_circuit_admits_step(const Saga *saga, const char *step,
								   StepKind kind);
/* Whether a step, or its compensation, can be claimed now, as its state or its row has it. */
extern bool es_is_claimable(const Saga *saga, const char *step, StepKind kind);
/* The word of its phase, as text. */
extern Datum es_saga_phase_text(const Saga *saga);

#endif /* ES_SAGA_H */
