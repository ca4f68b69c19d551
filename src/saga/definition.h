/*
 * definition.h
 *		What a saga's steps are.
 */
#ifndef ES_DEFINITION_H
#define ES_DEFINITION_H

#include "utils/jsonb.h"

#include "replay/condition.h"

/* How one kind of attempts is made; times in microseconds, 0 = none. */
typedef struct StepPace
{
	int64 timeout;
	int64 queue_timeout;
	int max_attempts;
	int64 retry_initial;
	int64 retry_max;
	char *handler; /* "schema.function" that does it; NULL = executors */
} StepPace;

/* When a step is left alone: after so many failures in a row, for so long. */
typedef struct CircuitDefinition
{
	int failures; /* 0 = never */
	int64 pause;
} CircuitDefinition;

typedef struct StepDefinition
{
	char *name;
	StepPace paces[2]; /* by StepKind: saga_event.h */
	bool compensate;
	bool optional;
	char *group; /* NULL = it runs alone */
	int64 delay;
	char *signal; /* that it waits for; NULL = executors do it */
	int64 wait_timeout;
	bool wait_continues; /* when the signal did not come */
	CircuitDefinition circuit;
	int conditions; /* all must hold */
	Condition *when;
} StepDefinition;

typedef struct SagaDefinition
{
	int version;
	int64 timeout;
	int count;
	StepDefinition *steps;
	char *handler_owner; /* the role that handlers run as, by name; NULL = none */
} SagaDefinition;

/*
 * Reads a definition, which it refers to; 22023 with the step's name where it is
 * wrong.
 */
extern SagaDefinition *es_saga_definition(Jsonb *json, int version);
/* -1 = it has no such step. */
extern int es_find_step(const SagaDefinition *definition, const char *name);

#endif /* ES_DEFINITION_H */
