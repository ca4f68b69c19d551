/*
 * define.h
 *		The definitions of sagas that are stored.
 */
#ifndef ES_DEFINE_H
#define ES_DEFINE_H

#include "fmgr.h"

#include "saga/definition.h"

/* The first argument, whose aggregates have names as all others: 22004, 22001. */
extern Datum es_saga_name_argument(FunctionCallInfo fcinfo);
/* The definition of a version; it is there, since none is ever dropped. */
extern const SagaDefinition *es_stored_definition(Datum name, int version);
/* The newest; 42704 where there is none. */
extern const SagaDefinition *es_newest_definition(Datum name);

#endif /* ES_DEFINE_H */
