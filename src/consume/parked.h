/*
 * parked.h
 *		What is set aside: partitions, single events, marks.
 */
#ifndef ES_PARKED_H
#define ES_PARKED_H

#include "datatype/timestamp.h"

#include "consume/subscription.h"

typedef enum Aside
{
	ES_NOT_ASIDE,
	ES_ASIDE_MARKED, /* passed over alone */
	ES_ASIDE_EVENT,	 /* parked alone */
	ES_ASIDE_BEHIND	 /* its partition is set aside, from there or before */
} Aside;

/* Whether an event is set aside; "behind" says whether its partition counts. */
extern Aside es_find_aside(Datum name, Datum partition, int64 position,
						   bool behind);

/* A partition that is set aside. */
typedef struct ParkedRow
{
	int64 position; /* of its first event */
	int attempts;
	bool retrying;
} ParkedRow;

/* Why something is set aside; a code or text of 0 is not known. */
typedef struct FailureCause
{
	Datum code;
	Datum message;
} FailureCause;

extern bool es_find_parked(Datum name, Datum partition, ParkedRow *row);
/*
 * Sets a partition aside from an event on, or changes that; a retry is due after
 * its pause.  Without a cause, NULL or one of which nothing is known, that is as it was.
 */
extern void es_set_aside(Datum name, Datum partition, const ParkedRow *row,
						 const FailureCause *cause);
extern void es_release_partition(Datum name, Datum partition);
/* Parks an event alone; passes over one that is still ahead. */
extern void es_park_event(Datum name, Datum partition, int64 position,
						  const FailureCause *cause);
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

/* Partitions of a member, and events parked alone, whose retry is due. */
typedef struct DueRetry
{
	Datum partition;
	int64 position;
	bool alone; /* an event */
	int attempts;
	int limit; /* of a batch; 0 = none */
} DueRetry;

/*
 * The first one that is due for a member which has come so far; false if there is
 * none.
 */
extern bool es_find_due(const Subscription *subscription, int member,
						int64 passed, DueRetry *due);
/* When the next one is due that is not yet; 0 = none. */
extern TimestampTz es_next_due(const Subscription *subscription);
/* All that is set aside of a subscription is forgotten. */
extern void es_drop_parked(Datum name);

#endif /* ES_PARKED_H */
