/*
 * closed_aggregate.h
 *		Aggregates that take no more events.
 */
#ifndef ES_CLOSED_AGGREGATE_H
#define ES_CLOSED_AGGREGATE_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

typedef enum AggregateState
{
	ES_AGGREGATE_OPEN,
	ES_AGGREGATE_ARCHIVED, /* all its events are in the archive */
	ES_AGGREGATE_DELETED   /* there are none any more */
} AggregateState;

/*
 * Whether an aggregate without an event in domain_events is closed, and if it is
 * archived its last event: the sequence, and when it was recorded.
 */
extern AggregateState es_read_closed(Datum aggregate_type, Datum aggregate_id,
									 Snapshot snapshot, int64 *sequence,
									 TimestampTz *recorded_at);

#endif /* ES_CLOSED_AGGREGATE_H */
