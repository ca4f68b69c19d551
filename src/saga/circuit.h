/*
 * circuit.h
 *		Circuits: steps that are left alone while they fail.
 */
#ifndef ES_CIRCUIT_H
#define ES_CIRCUIT_H

#include "datatype/timestamp.h"

#include "saga/definition.h"

typedef enum CircuitPhase
{
	CIRCUIT_CLOSED,
	CIRCUIT_OPEN,
	CIRCUIT_HALF_OPEN
} CircuitPhase;

/* A circuit as it stands. */
typedef struct CircuitState
{
	CircuitPhase phase;
	int failures; /* in a row */
	TimestampTz opened_at;
	TimestampTz next_trial_at;
} CircuitState;

extern void es_share_circuits(void);

/* What a saga's name and a step are known by. */
extern uint64 es_circuit_key(Datum saga_name, const char *step);
extern CircuitState es_circuit_state(uint64 key);
/*
 * Whether a step of a saga may be claimed now.  Where the circuit is open that is its trial,
 * which ends by what is noted of that saga, at that time, or with the failure of this transaction.
 */
extern bool es_circuit_admits(uint64 key, uint64 saga, TimestampTz trial_until);
/*
 * The same without taking the trial: from when on one may be claimed, unless executors are
 * woken before; 0 = now.
 */
extern TimestampTz es_circuit_opens_at(uint64 key);
/* How an attempt of a saga's step has ended; holds from the commit on. */
extern void es_note_circuit(uint64 key, uint64 saga,
							const CircuitDefinition *definition, bool failed);

#endif /* ES_CIRCUIT_H */
