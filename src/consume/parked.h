/*
 * parked.h
 *		Setting aside: partitions, single events, marks.
 */
#ifndef ES_PARKED_H
#define ES_PARKED_H

#include "datatype/timestamp.h"

#include "consume/aside.h"
#include "consume/subscription.h"

/* Why something is set aside; a code or text of 0 is not known. */
typedef struct FailureCause
{
	Datum code;
	Datum message;
} FailureCause;

/*
 * Sets a partition aside from an event on, or changes that; a retry is due after
 * its pause.  Without a cause, NULL or one of which nothing is known, that is as it was.
 */
extern void es_set_aside(const Subscription *subscription, Datum partition,
						 const ParkedRow *row, const FailureCause *cause);
extern void es_release_partition(Datum name, Datum partition);
/* Parks an event alone; passes over one that is still ahead. */
extern void es_park_event(const Subscription *subscription, Datum partition,
						  int64 position, const FailureCause *cause);
/*
 * An event that was parked alone is settled.  It is marked where it may yet be met:
 * by its partition, set aside from an event before it on, or by its member.
 */
extern void es_settle_alone(Datum name, Datum partition, int64 position,
							int64 served);
extern void es_mark_event(Datum name, int64 position);
/* Retried batches of a partition have no more events than that. */
extern void es_limit_partition(Datum name, Datum partition, int limit);
/* The pause after so many attempts. */
extern TimestampTz es_retry_at(int attempts);

/* Rows have the member that their partition has among so many. */
extern void es_divide_parked(const Subscription *subscription);
/*
 * Events were deleted, bigint[].  What waits for one of them does so no more: its partition goes
 * on behind it, if there is anything left of it.  Outside of an owner's scope.
 */
extern void es_forget_parked(Datum positions);
/* All that is set aside of a subscription is forgotten. */
extern void es_drop_parked(Datum name);

#endif /* ES_PARKED_H */
