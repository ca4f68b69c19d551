/*
 * rules.h
 *		A reducer made of declarative rules.
 */
#ifndef ES_RULES_H
#define ES_RULES_H

#include "utils/jsonb.h"

#include "replay/patch.h"
#include "replay/state.h"

typedef struct Rules Rules;

/*
 * Checks rules and prepares them, in the current memory context.  Reports
 * what is wrong as 22023, naming the rule.  "has_item" allows $.item in paths,
 * which only rows of a view can have.
 */
extern Rules *es_rules_parse(Jsonb *rules, bool has_item);
/* The operations of one event type alone, an array to which the result refers. */
extern Rules *es_rules_of_type(Datum event_type, const JsonbValue *operations);
/*
 * Whether such operations only set and take away members of an object, which they do
 * without a state then: of one whose members are taken apart, and are the payload
 * that "from" and "when" find, as it is before the first operation.
 */
extern bool es_rules_are_flat(const Rules *rules);
extern void es_rules_patch(const Rules *rules, Patch *patch,
						   const Datum *values, const bool *nulls);
/* So many columns of an event, from the first, are looked at. */
extern int es_rules_columns(const Rules *rules);
/*
 * Changes the state as the rules for every event and for the event's type say.
 * Returns whether an operation applied: its conditions hold and the event has what
 * it needs.  Where there was no state, unset and remove do not count.  The first
 * event that has operations begins the state, even if none applies.  Garbage goes
 * to the current memory context.
 */
extern bool es_rules_apply(const Rules *rules, State *state,
						   const Datum *values, const bool *nulls);
/*
 * The same for a row of a view, whose state is NULL where there is no row: if no
 * operation applies, none is made.  "item" is what $.item is; NULL = nothing.
 * Whoever has several rows for an event gives its payload detoasted.
 */
extern bool es_rules_apply_to_row(const Rules *rules, State *state,
								  const Datum *values, const bool *nulls,
								  const JsonbValue *item);

#endif /* ES_RULES_H */
