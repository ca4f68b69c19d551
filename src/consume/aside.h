/*
 * aside.h
 *		Finding what is set aside: of an event, of a partition, of a member.
 */
#ifndef ES_ASIDE_H
#define ES_ASIDE_H

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
 * none.  One that somebody else is changing is passed over, which *held tells.
 */
extern bool es_find_due(const Subscription *subscription, int member,
						int64 passed, DueRetry *due, bool *held);
/* When the next one is due that is not yet; 0 = none. */
extern TimestampTz es_next_due(const Subscription *subscription);
/*
 * Locks the rows that tell whether an event is set aside, to the end of the transaction,
 * without waiting; false if somebody else has them.
 */
extern bool es_hold_aside(Datum name, Datum partition, int64 position);

/* All that is set aside of the partitions of a member. */
typedef struct AsideSum
{
	int64 rows;
	int64 retrying; /* of these */
	int64 oldest;	/* position of its first event; 0 = there is none */
	TimestampTz parked_since; /* the first one that nobody retries; 0 = there is none */
	TimestampTz since; /* the last one that was set aside, and why; 0 = not known */
	Datum error;
} AsideSum;

/* One for each member, as the active snapshot has it. */
extern AsideSum *es_sum_aside(const Subscription *subscription);

#endif /* ES_ASIDE_H */
