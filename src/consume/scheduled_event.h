/*
 * scheduled_event.h
 *		The table scheduled_events.
 */
#ifndef ES_SCHEDULED_EVENT_H
#define ES_SCHEDULED_EVENT_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "write/event_input.h"

/* An event that is to be appended; its event_id is that of the schedule. */
typedef struct ScheduledEvent
{
	NewEvent event; /* occurred_at = when it is due */
	TimestampTz first_due_at;
	bool unless;		/* it is left out ... */
	Datum unless_types; /* ... if the aggregate got one of these ... */
	int64 unless_after; /* ... after this sequence */
} ScheduledEvent;

/* Its columns, from scheduled_events as s, for es_read_scheduled. */
#define ES_SCHEDULED_COLUMNS                                        \
	"s.schedule_id, s.due_at, s.aggregate_type, s.aggregate_id,"    \
	" s.event_type, s.schema_version, s.payload, s.metadata,"       \
	" s.correlation_id, s.causation_id, s.saga_id, s.first_due_at," \
	" s.unless_event_types, s.unless_after"

/* Takes a row apart, in the current memory context. */
extern void es_read_scheduled(HeapTuple row, TupleDesc desc,
							  ScheduledEvent *scheduled);
static inline TimestampTz
es_due_at(const ScheduledEvent *scheduled)
{
	return DatumGetTimestampTz(scheduled->event.row.values[EV_OCCURRED_AT]);
}
/*
 * Inserts one in the scope of an owner; false if there is one of its id.  Reads
 * that, as it is now; false if there is none.
 */
extern bool es_insert_scheduled(const ScheduledEvent *scheduled);
extern bool es_find_scheduled(Datum schedule_id, ScheduledEvent *scheduled);

#endif /* ES_SCHEDULED_EVENT_H */
