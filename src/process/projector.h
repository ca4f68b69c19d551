/*
 * projector.h
 *		The process that takes events into projections.
 */
#ifndef ES_PROJECTOR_H
#define ES_PROJECTOR_H

#include "datatype/timestamp.h"

#include "ground/shmem.h"

/*
 * Starts a projector for each role that has a projection with something to do, as far as
 * there are places, and sees to it that the next transaction with events says so.  In a
 * transaction of the worker.  Returns when to look again; DT_NOEND = when somebody
 * says so.
 */
extern TimestampTz es_start_projectors(SharedDatabase *db);

#endif /* ES_PROJECTOR_H */
