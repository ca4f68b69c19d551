/*
 * log.h
 *		The table domain_events.
 */
#ifndef ES_LOG_H
#define ES_LOG_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

#include "ground/event.h"

/*
 * Inserts rows whose other columns are all set, in statements of bounded size;
 * takes their positions, one after the other.
 */
extern void es_insert_events(EventRow **rows, int count);
/*
 * In PG_CATCH around that: the error if a unique key of the store was violated,
 * in a memory context that is made the current one; passes other errors on.
 */
extern ErrorData *es_catch_unique_violation(MemoryContext context);

/*
 * The sequence of the last durable event of an aggregate, 0 = none; recorded_at
 * may be NULL, is set if there is one.
 */
extern int64 es_durable_head(Datum aggregate_type, Datum aggregate_id,
							 Snapshot snapshot, TimestampTz *recorded_at);
extern bool es_durable_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot,
								   EventRow *row);
/*
 * The DETAIL of VS002, a JSON object: an event id, (Datum) 0 = one of many, and the
 * event that stands under it, NULL = not known.
 */
extern char *es_event_id_detail(Datum event_id, const EventRow *standing);

#endif /* ES_LOG_H */
