/*
 * planning.h
 *		How kept statements are planned.
 */
#ifndef ES_PLANNING_H
#define ES_PLANNING_H

#include "executor/spi.h"

/*
 * Plans a statement unless it has a valid plan of the generation given, which it
 * raises: a plan that somebody else made is not ours.
 */
extern void es_plan_for_any_size(SPIPlanPtr plan, int *generation);
/* Sees to it that a statement is planned anew at its next use. */
extern void es_forget_plan(SPIPlanPtr plan);
/* Plans a statement, as what is set now says. */
extern void es_make_plan(SPIPlanPtr plan);
/* A setting that the caller's nest level of settings ends. */
extern void es_set_for_planning(const char *name, const char *value);

#endif /* ES_PLANNING_H */
