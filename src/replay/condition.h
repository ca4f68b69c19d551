/*
 * condition.h
 *		When a rule is carried out.
 */
#ifndef ES_CONDITION_H
#define ES_CONDITION_H

#include "utils/jsonb.h"

#include "replay/event_path.h"

typedef enum ConditionKind
{
	WHEN_IS,
	WHEN_IS_NOT,
	WHEN_IN,
	WHEN_EXISTS,
	WHEN_LESS,
	WHEN_GREATER
} ConditionKind;

/* A comparison of what an event has at a path. */
typedef struct Condition
{
	EventPath path;
	ConditionKind kind;
	bool exists;		/* exists: what is asked for */
	int count;			/* of the values: one but for "in" */
	JsonbValue *values; /* as many; what it is compared with */
} Condition;

/*
 * Reads a comparison, which refers to what is given; returns what is wrong, or
 * NULL.  "has_item" allows $.item.
 */
extern const char *es_condition_read(const JsonbValue *given, bool has_item,
									 Condition *condition, const char **hint);
/* The same of what any document has: its path begins at that. */
extern const char *es_document_condition_read(const JsonbValue *given,
											  Condition *condition,
											  const char **hint);
extern bool es_condition_holds(const Condition *condition, PathEvent *event);
extern bool es_document_condition_holds(const Condition *condition,
										const JsonbValue *document);

#endif /* ES_CONDITION_H */
