/*
 * deaths.h
 *		Sessions that ended with one event in hand.
 */
#ifndef ES_DEATHS_H
#define ES_DEATHS_H

#include "consume/member.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "ground/shmem.h"

extern void es_share_deaths(void);

/*
 * This session ends with a fetch of this event alone; the number is that of the
 * state before it.
 */
extern void es_note_death(uint64 key, int64 number, int64 position);
/*
 * Counts what is noted of a member in its state, which the caller stores; returns
 * whether there was something.
 */
extern bool es_count_deaths(const Subscription *subscription, int member,
							MemberState *state, const Progress *progress);
/* Whether the worker has some to store, and that it stores them. */
extern bool es_deaths_due(const SharedDatabase *db);
extern void es_store_deaths(SharedDatabase *db);

#endif /* ES_DEATHS_H */
