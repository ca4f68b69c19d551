/*
 * saga_event.h
 *		The events of a saga.
 */
#ifndef ES_SAGA_EVENT_H
#define ES_SAGA_EVENT_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

typedef enum SagaEventType
{
	SAGA_STARTED,
	STEP_REQUESTED,
	STEP_CLAIMED,
	STEP_SUCCEEDED,
	STEP_FAILED,
	STEP_TIMED_OUT,
	STEP_SKIPPED,
	SIGNAL_RECEIVED,
	COMPENSATION_STARTED,
	COMPENSATION_REQUESTED,
	COMPENSATION_SUCCEEDED,
	COMPENSATION_FAILED,
	STEP_RESOLVED,
	SAGA_COMPLETED,
	SAGA_COMPENSATED,
	SAGA_FAILED,
	SAGA_STUCK,
	SAGA_EVENT_TYPES
} SagaEventType;

/* What an executor is asked to do, or has done. */
typedef enum StepKind
{
	KIND_STEP,
	KIND_COMPENSATION
} StepKind;

/* An event; what is not of its type is zero. */
typedef struct SagaEvent
{
	SagaEventType type;
	int version; /* of the definition */
	char *step;
	char *kind; /* of a request, a claim, a skip: es_step_kinds */
	int attempt;
	int64 lease;
	char *executor;
	TimestampTz deadline; /* of the saga, or of the attempt */
	Jsonb *context;		  /* that the saga starts with */
	Jsonb *input;
	TimestampTz not_before;
	TimestampTz queue_deadline; /* also until when a signal is waited for */
	Jsonb *result;
	char *error;
	bool retry;
	TimestampTz retry_at; /* none = this was the last attempt */
	char *reason;
	char *signal;
	char *signal_id;
	Jsonb *payload;
	char *cause;
	char *action;
	char *by;
	Jsonb *uncompensated;
} SagaEvent;

extern const char *const es_saga_event_names[];
extern const char *const es_step_kinds[];

/* An event's payload, in the current memory context. */
extern Jsonb *es_saga_event_payload(const SagaEvent *event);
/* Reads one; false if no saga has such an event. */
extern bool es_saga_event_read(const char *name, int length, Jsonb *payload,
							   SagaEvent *event);
/* Whether aggregates of a type are sagas, which nobody else appends to. */
extern bool es_is_saga_type(Datum aggregate_type);
/* The name behind "saga:" of such a type. */
#define ES_SAGA_PREFIX "saga:"

#endif /* ES_SAGA_EVENT_H */
