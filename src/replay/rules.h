/*
 * rules.h
 *		A reducer made of declarative rules.
 */
#ifndef ES_RULES_H
#define ES_RULES_H

#include "utils/jsonb.h"

#include "replay/state.h"

typedef struct Rules Rules;

/*
 * Checks rules and prepares them, in the current memory context.  Reports
 * what is wrong as 22023, naming the rule.
 */
extern Rules *es_rules_parse(Jsonb *rules);
/* So many columns of an event, from the first, are looked at. */
extern int es_rules_columns(const Rules *rules);
/*
 * Changes the state as the rules for the event's type say.  Garbage goes to
 * the current memory context.
 */
extern void es_rules_apply(const Rules *rules, State *state, Datum *values,
						   bool *nulls);

#endif /* ES_RULES_H */
