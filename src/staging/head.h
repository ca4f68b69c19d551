/*
 * head.h
 *		The last event of an aggregate.
 */
#ifndef ES_HEAD_H
#define ES_HEAD_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#include "log/closed_aggregate.h"

/* The last event of an aggregate, as of a snapshot. */
typedef struct Head
{
	int64 sequence;			 /* staged and durable together; 0 = none */
	TimestampTz recorded_at; /* -infinity when there is none */
	bool staged;			 /* staged rows are visible */
	AggregateState state;	 /* a deleted one has sequence 0 */
} Head;

extern void es_read_head(Datum aggregate_type, Datum aggregate_id,
						 Snapshot snapshot, bool look_in_staging, Head *head);

#endif /* ES_HEAD_H */
