/*
 * log.h
 *		The table domain_events.
 */
#ifndef ES_LOG_H
#define ES_LOG_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

#include "ground/compat.h"
#include "ground/event.h"

/*
 * Inserts rows whose other columns are all set, in statements of bounded size;
 * takes their positions, one after the other.
 */
extern void es_insert_events(EventRow **rows, int count);
/* The same in two steps, for who needs the positions before. */
extern void es_number_events(EventRow **rows, int count);
extern void es_insert_numbered_events(EventRow **rows, int count);
/*
 * The unique keys of the log.  What violates one of an owner's own is his error
 * and nothing that we know of.
 */
typedef enum EventKey
{
	ES_KEY_NONE,
	ES_KEY_POSITION,
	ES_KEY_AGGREGATE, /* with the sequence */
	ES_KEY_EVENT_ID
} EventKey;

/* The key that an insert has violated, if that is its error. */
extern EventKey es_violated_key(const ErrorData *error);
/*
 * In PG_CATCH around an insert: the violated key, with a memory context made the
 * current one.  Passes other errors on.
 */
extern EventKey es_catch_key_violation(MemoryContext context);
/*
 * Raises 40001: a row came into the log around the API at this very moment; who
 * tries again finds it there.
 */
pg_noreturn extern void es_raise_race(void);

/*
 * The sequence of the last durable event of an aggregate, 0 = none; recorded_at
 * may be NULL, is set if there is one.
 */
extern int64 es_durable_head(Datum aggregate_type, Datum aggregate_id,
							 Snapshot snapshot, TimestampTz *recorded_at);
/* The same of the first one that is in domain_events. */
extern int64 es_durable_first(Datum aggregate_type, Datum aggregate_id,
							  Snapshot snapshot);
/* An event, also one that is in the archive. */
extern bool es_durable_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot,
								   EventRow *row);
/*
 * Raises a violation of the key of event ids if rows that were inserted have one that is
 * in the archive.  Call it after the insert: what was moved before that is visible, and what
 * is moved later the index has met.
 */
extern void es_refuse_archived_ids(EventRow **rows, int count);
/*
 * The DETAIL of VS002, a JSON object: an event id, (Datum) 0 = one of many, and the
 * event that stands under it, NULL = not known.
 */
extern char *es_event_id_detail(Datum event_id, const EventRow *standing);

/* What the log has under the id of an event; "standing" is set if there is one. */
typedef enum Logged
{
	ES_NOT_LOGGED,
	ES_LOGGED,			/* the same event */
	ES_LOGGED_OTHERWISE /* one of other content */
} Logged;

extern Logged es_look_in_log(const EventRow *event, Snapshot snapshot,
							 EventRow *standing);

#endif /* ES_LOG_H */
