/*
 * closing.h
 *		Types of events that aggregates end with.
 */
#ifndef ES_CLOSING_H
#define ES_CLOSING_H

#include "utils/elog.h"

/*
 * The types that stored events may have whose last version is of one of the given types, an
 * array of text; these same where an aggregate type has no upcasters.
 */
extern Datum es_stored_closing_types(Datum aggregate_type, Datum types);
/*
 * Whether an event of one of those, given by its aggregate and sequence, has one of the given
 * types in its last version.  Where an upcaster fails nobody can tell: "why" is set then,
 * else NULL.
 */
extern bool es_is_closing(Datum aggregate_type, Datum aggregate_id,
						  int64 sequence, Datum types, ErrorData **why);

#endif /* ES_CLOSING_H */
