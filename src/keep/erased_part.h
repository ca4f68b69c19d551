/*
 * erased_part.h
 *		What is taken out of an event that is erased.
 */
#ifndef ES_ERASED_PART_H
#define ES_ERASED_PART_H

#include "utils/array.h"
#include "utils/jsonb.h"


typedef struct ErasedParts ErasedParts;

/*
 * Reads paths into an event, a text[], in the current memory context; NULL where that is NULL:
 * all of the content.  22023 says what is wrong.  The replacement may be NULL.
 */
extern ErasedParts *es_read_erased_parts(ArrayType *paths, Jsonb *replacement);
/* What may say something of anybody in the events of a saga. */
extern ErasedParts *es_saga_parts(void);
/*
 * Takes them out of an event, in place, and marks it with the erasure's id; false, and
 * nothing is changed, where it has none of them.
 */
extern bool es_take_parts(const ErasedParts *parts, Datum erasure,
						  Datum *values, bool *nulls);

#endif /* ES_ERASED_PART_H */
