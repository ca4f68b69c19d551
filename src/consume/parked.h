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

extern bool es_find_parked(Datum name, Datum partition, ParkedRow *row);
/*
 * Sets a partition aside from an event on, or changes that; a retry is due after
 * its pause.  "error" may be (Datum) 0: as it was.
 */
extern void es_set_aside(Datum name, Datum partition, const ParkedRow *row,
						 Datum error);
extern void es_release_partition(Datum name, Datum partition);
/* Parks an event alone; passes over one that is still ahead. */
extern void es_park_event(Datum name, Datum partition, int64 position,
						  Datum error);
/*
 * An event that was parked alone is settled.  It is marked where it may yet be met:
 * by its partition, set aside from an event before it on, or by its member.
 */
extern void es_settle_alone(Datum name, Datum partition, int64 position,
							int64 served);
extern void es_mark_event(Datum name, int64 position);
/* The pause after so many attempts. */
extern TimestampTz es_retry_at(int attempts);

/* Partitions of a member, and events parked alone, whose retry is due. */
typedef struct DueRetry
{
	Datum partition;
	int64 position;
	bool alone; /* an event */
	int attempts;
} DueRetry;

/*
 * The first one that is due for a member which has come so far; false if there is
 * none.
 */
extern bool es_find_due(const Subscription *subscription, int member,
						int64 served, DueRetry *due);
/* All that is set aside of a subscription is forgotten. */
extern void es_drop_parked(Datum name);

#endif /* ES_PARKED_H */
