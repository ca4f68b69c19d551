/*
 * work.h
 *		Waiting until a subscription has something.
 */
#ifndef ES_WORK_H
#define ES_WORK_H

#include "datatype/timestamp.h"

#include "consume/member.h"
#include "consume/subscription.h"
#include "ground/waiter.h"

/* A subscription that is waited for: what the last look at it has found out. */
typedef struct Work
{
	uint64 subscription;
	bool busy;			/* it met a lock of somebody else's */
	bool leased;		/* or a lease */
	bool again;			/* there is more to look at, at once */
	TimestampTz due_at; /* something can be had from then on; 0 = nothing */
	int64 safe;			/* it looked so far */
	int members;
	int64 *numbers; /* of states behind which there was nothing; 0 = not known */
	WaitFilter filter;
	uint32 freed; /* how often members were, before it looked */
} Work;

/* What a look says: each of them takes a NULL for nobody who waits. */
extern void es_note_due(Work *work, TimestampTz at);
/* Nothing is behind that state, which is committed. */
extern void es_note_nothing(Work *work, int member, const MemberState *state);
/* At its end, as far as it is safe to read; while the subscription can be read. */
extern void es_end_work(Work *work, const Subscription *subscription, int64 safe);

/*
 * Looks until there is something, or for so many ms, and returns whether there is.
 * "look" looks at all of them; "give_back", which may be NULL, is called before each
 * sleep.
 */
extern bool es_wait_for_work(Work *works, int count, int64 timeout,
							 bool (*look)(void *arg),
							 void (*give_back)(void *arg), void *arg);

#endif /* ES_WORK_H */
