/*
 * operation.h
 *		What a rule does to the state.
 */
#ifndef ES_OPERATION_H
#define ES_OPERATION_H

#include "utils/jsonb.h"

#include "replay/condition.h"
#include "replay/event_path.h"
#include "replay/patch.h"
#include "replay/path.h"
#include "replay/state.h"

typedef enum RuleSourceKind
{
	SOURCE_NONE,
	SOURCE_LITERAL,
	SOURCE_EVENT
} RuleSourceKind;

/* Where an operation takes something from. */
typedef struct RuleSource
{
	RuleSourceKind kind;
	JsonbValue literal;
	EventPath path;
} RuleSource;

typedef enum RuleOperationKind
{
	OP_SET,
	OP_MERGE,
	OP_UNSET,
	OP_INCREMENT,
	OP_APPEND,
	OP_REMOVE,
	OP_PUT_INTO,
	OP_MIN,
	OP_MAX,
	OP_SET_ONCE
} RuleOperationKind;

/* An increment takes at most so many factors ... */
#define ES_MAX_FACTORS 8
/* ... and an operation so many conditions. */
#define ES_MAX_CONDITIONS 32

typedef struct RuleOperation
{
	RuleOperationKind kind;
	const char *event_type; /* of the list that it stands in ... */
	int number;				/* ... and its place there, from 1 */
	int conditions;
	Condition *when; /* as many; all must hold */
	RulePath path;
	RuleSource key;
	RuleSource value;
	int factors;
	RuleSource *times; /* as many */
	bool has_default;
	JsonbValue default_value;
	bool by_member; /* remove compares this member */
	MemberName member;
} RuleOperation;

/* An event that rules are applied to. */
typedef struct RuleEvent
{
	PathEvent event;
	const JsonbValue *initial;		/* NULL = an empty object */
	const RuleOperation *operation; /* at hand, for messages */
} RuleEvent;

extern void es_rule_state(State *state, const RuleEvent *event);
/* False if it is left out: a condition does not hold, or something is missing. */
extern bool es_operation_apply(const RuleOperation *operation, State *state,
							   RuleEvent *event);
/* Whether it does no more than set or take away a member of an object. */
extern bool es_operation_is_flat(const RuleOperation *operation);
/* Carries out one that is flat on the members of an object. */
extern void es_operation_patch(const RuleOperation *operation, Patch *patch,
							   RuleEvent *event);

#endif /* ES_OPERATION_H */
