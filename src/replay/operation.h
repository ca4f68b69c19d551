/*
 * operation.h
 *		What a rule does to the state.
 */
#ifndef ES_OPERATION_H
#define ES_OPERATION_H

#include "utils/jsonb.h"

#include "ground/event.h"
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
	EventColumn column;
	RulePath path; /* in the event; its first step is the column */
} RuleSource;

typedef enum RuleOperationKind
{
	OP_SET,
	OP_MERGE,
	OP_UNSET,
	OP_INCREMENT,
	OP_APPEND,
	OP_REMOVE,
	OP_PUT_INTO
} RuleOperationKind;

/* An increment takes at most so many factors. */
#define ES_MAX_FACTORS 8

typedef struct RuleOperation
{
	RuleOperationKind kind;
	int number; /* in the list of its event type, from 1 */
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
	const Datum *values; /* in the order of EventColumn */
	const bool *nulls;
	const JsonbValue *initial;		/* NULL = an empty object */
	const RuleOperation *operation; /* at hand, for messages */
	Jsonb *payload;					/* detoasted when first needed */
	Jsonb *metadata;
} RuleEvent;

/* Whether it is a JSON number or a decimal string. */
extern bool es_is_number(const JsonbValue *value);
extern void es_rule_state(State *state, const RuleEvent *event);
extern void es_operation_apply(const RuleOperation *operation, State *state,
							   RuleEvent *event);

#endif /* ES_OPERATION_H */
