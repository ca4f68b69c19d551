/*
 * archived.h
 *		What of an aggregate is in the archive.
 */
#ifndef ES_ARCHIVED_H
#define ES_ARCHIVED_H

#include "ground/catalog.h"

/*
 * The last sequence of an aggregate that is in the archive, as the active snapshot shows
 * it, 0 = none: all up to it are there, unless an owner has left a hole in the log, and none behind it.
 */
extern int64 es_last_archived(Datum aggregate_type, Datum aggregate_id);
/* A statement on the events of one aggregate, on as much as there is of it. */
extern KeptPlan *es_aggregate_plan(KeptPlan *plan, Datum aggregate_type,
								   Datum aggregate_id);

#endif /* ES_ARCHIVED_H */
