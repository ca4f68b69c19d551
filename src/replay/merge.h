/*
 * merge.h
 *		The built-in reducer.
 */
#ifndef ES_MERGE_H
#define ES_MERGE_H

#include "utils/jsonb.h"

#include "replay/state.h"

/* Applies a JSON merge patch (RFC 7396) to the state, or to a part of it. */
extern void es_merge_apply(State *state, Jsonb *patch);
extern void es_merge_into(State *state, StateNode *node, const JsonbValue *patch);

#endif /* ES_MERGE_H */
