/*
 * handler.h
 *		Functions of users that handle events.
 */
#ifndef ES_HANDLER_H
#define ES_HANDLER_H

#include "consume/projection.h"

/*
 * The qualified signature of a function that the caller owns and that can be a handler,
 * or a reset: one without arguments.  42501 and 22023 otherwise.  Sets its owner.
 */
extern Datum es_handler_signature(Oid function, bool reset, Oid *owner);
/* Whether a projector could connect as a role; 55000 where not. */
extern bool es_may_run_projector(Oid role);
extern void es_check_projector_role(Oid role);
/* Calls the handler of a projection: the kind "handler". */
extern void es_apply_handler(ProjectionBatch *batch);
/* Calls the reset function of a projection. */
extern void es_call_reset(const Projection *projection);

#endif /* ES_HANDLER_H */
