/*
 * machine.h
 *		What follows in a saga from what happens.
 */
#ifndef ES_MACHINE_H
#define ES_MACHINE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "saga/definition.h"

/*
 * A saga while something happens to it: every function takes what follows into the
 * state and adds it to the events.
 */
typedef struct Machine
{
	const char *saga; /* its name and id, for messages */
	const SagaDefinition *definition;
	SagaState *state;
	TimestampTz now;
	List *events; /* SagaEvent, in their order */
} Machine;

/* What an executor says of a claim. */
typedef struct StepReport
{
	char *step;
	AttemptOutcome outcome;
	int64 lease;
	Jsonb *result;
	char *error;
	int64 retry_in; /* microseconds; -1 = as the definition says */
} StepReport;

/* What an operator decides of a stuck step. */
typedef struct StepResolution
{
	char *step;
	char *action;
	char *reason;
	char *by;
	Jsonb *result;
} StepResolution;

extern void es_start_machine(Machine *machine, Jsonb *context,
							 const char *correlation_id);
/* Whether a step, or its compensation, is requested; and whether it can be claimed now. */
extern bool es_is_requested(const Machine *machine, const char *step,
							StepKind kind);
extern bool es_can_be_claimed(const Machine *machine, const char *step,
							  StepKind kind);
/* Claims it, and returns the step as it is then. */
extern const SagaStep *es_claim_step(Machine *machine, const char *step,
									 StepKind kind, int64 lease,
									 const char *executor);
/* VS007 for a lost lease, VS002 for one that something else was reported for. */
extern void es_report_step(Machine *machine, const StepReport *report);
/* 55000 for a saga that has ended. */
extern void es_signal_machine(Machine *machine, const char *signal,
							  const char *signal_id, Jsonb *payload);
extern void es_resolve_stuck(Machine *machine, const StepResolution *resolution);
/* Both act on a running saga only. */
extern void es_cancel_machine(Machine *machine, const char *reason);
extern void es_time_out_saga(Machine *machine);
/*
 * The lease of a step is over, by its own time or that of the step; what went wrong last, if that
 * is known.
 */
extern void es_time_out_lease(Machine *machine, const char *step,
							  bool by_deadline, char *error);
/* Nobody claimed it, or no signal came, until then. */
extern void es_time_out_queue(Machine *machine, const char *step);
/* The newest lease, which is not over; VS007 for another. */
extern SagaStep *es_check_lease(const Machine *machine, const char *step,
								int64 lease);
extern StepKind es_lease_kind(const SagaStep *step);

#endif /* ES_MACHINE_H */
