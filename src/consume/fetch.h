/*
 * fetch.h
 *		The events that come next.
 */
#ifndef ES_FETCH_H
#define ES_FETCH_H

#include "utils/tuplestore.h"

#include "consume/serve.h"

/*
 * Gives the next events of a projection to the server itself, in one try.  What a
 * rollback gives back is not given in smaller batches.  In the foreground it waits
 * for whoever has a member, and gives those of a projection that is paused, too.  "busy" says
 * whether a member was passed over because somebody has it.
 */
extern Served es_serve_projection(Datum name, int64 max_count, bool foreground,
								  Tuplestorestate *into, bool *busy);

#endif /* ES_FETCH_H */
