/*
 * saga_state.h
 *		The state of a saga.
 */
#ifndef ES_SAGA_STATE_H
#define ES_SAGA_STATE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "replay/saga_event.h"

typedef enum SagaPhase
{
	SAGA_NONE, /* before its first event */
	SAGA_RUNNING,
	SAGA_COMPENSATING,
	SAGA_IS_STUCK,
	SAGA_HAS_COMPLETED,
	SAGA_IS_COMPENSATED,
	SAGA_HAS_FAILED
} SagaPhase;

/* How far a step is, and its compensation. */
typedef enum StepPhase
{
	STEP_NONE,
	STEP_WAITING,	  /* for a signal */
	STEP_QUEUED,	  /* can be claimed, from not_before on */
	STEP_LEASED,	  /* an executor has it */
	STEP_BACKING_OFF, /* is requested again by the next event */
	STEP_DONE,
	STEP_HAS_FAILED, /* its executor says that this attempt had no effect */
	STEP_EXHAUSTED,	 /* no attempt is left, and what they did is not known */
	STEP_EXPIRED,	 /* was never claimed, or the signal did not come */
	STEP_LEFT_OUT,	 /* skipped */
	STEP_WITHDRAWN,	 /* compensation began before it was claimed */
	STEP_STUCK
} StepPhase;

typedef enum AttemptOutcome
{
	OUTCOME_NONE, /* not reported */
	OUTCOME_SUCCEEDED,
	OUTCOME_FAILED,
	OUTCOME_RETRY,
	OUTCOME_COMPENSATED
} AttemptOutcome;

/* A claim, and what was reported for it. */
typedef struct StepAttempt
{
	int64 lease;
	int kind; /* StepKind */
	int attempt;
	int outcome;  /* AttemptOutcome */
	int64 result; /* a hash of the result reported; 0 = none */
} StepAttempt;

typedef struct SagaStep
{
	char *step;
	int phase; /* StepPhase */
	int attempt;
	int end;		  /* the place among those that ended; 0 = it has not */
	int compensation; /* StepPhase */
	int compensation_attempt;
	int64 lease; /* the newest */
	TimestampTz deadline;
	TimestampTz not_before;
	TimestampTz queue_deadline;
	Jsonb *input;	/* while it is open */
	char *signal;	/* that it waits for */
	List *attempts; /* StepAttempt, the oldest first */
	bool touched;	/* by an event since the state was read */
} SagaStep;

/* A signal that came. */
typedef struct SagaSignal
{
	char *signal;
	char *signal_id;
	Jsonb *payload; /* until a step has taken it */
	bool taken;
} SagaSignal;

typedef struct SagaState
{
	int phase; /* SagaPhase */
	int version;
	TimestampTz started_at;
	TimestampTz updated_at;
	TimestampTz deadline;
	char *correlation_id;
	char *last_error;
	int ends; /* how many steps have ended */
	Jsonb *context;
	List *steps;		  /* SagaStep, in the order of their first request */
	List *signals;		  /* SagaSignal */
	MemoryContext memory; /* of all this */
} SagaState;

extern const char *const es_saga_phases[];
extern const char *const es_attempt_outcomes[];

/* Reads a state; NULL is the one before the first event.  It lives in a context of its own. */
extern SagaState *es_saga_state_begin(Jsonb *json);
extern Jsonb *es_saga_state_result(const SagaState *saga);
extern void es_saga_state_end(SagaState *saga);
/* Takes an event in.  "correlation_id" is the first event's. */
extern void es_saga_apply(SagaState *saga, const SagaEvent *event,
						  TimestampTz recorded_at, const char *correlation_id);

extern bool es_saga_is_final(const SagaState *saga);
/* NULL = no event has named it. */
extern SagaStep *es_saga_step(const SagaState *saga, const char *name);
extern StepAttempt *es_step_attempt(const SagaStep *step, int64 lease);
/* Whether it may have been done: not every attempt was reported as failed. */
extern bool es_step_may_be_done(const SagaStep *step);
/* The oldest of that name that no step has taken, or NULL. */
extern SagaSignal *es_saga_signal(const SagaState *saga, const char *signal);
/* What a result is compared by. */
extern int64 es_saga_result_hash(Jsonb *result);

#endif /* ES_SAGA_STATE_H */
