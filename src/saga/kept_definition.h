/*
 * kept_definition.h
 *		The definitions of sagas that a session has read.
 */
#ifndef ES_KEPT_DEFINITION_H
#define ES_KEPT_DEFINITION_H

#include "utils/jsonb.h"

#include "saga/definition.h"

/* What a definition is made of: a row of table saga_definitions. */
typedef struct StoredDefinition
{
	int version; /* 0 = there is none */
	Jsonb *definition;
	char *handler_owner; /* NULL = no handlers */
	bool of_others;		 /* it was there before this transaction */
} StoredDefinition;

/* One that is kept, to the end of the transaction at least; NULL = it is not. */
extern const SagaDefinition *es_find_kept_definition(Datum name, int version);
/* Reads one, and keeps it where it may be. */
extern const SagaDefinition *es_keep_definition(Datum name,
												const StoredDefinition *stored);

#endif /* ES_KEPT_DEFINITION_H */
