/*
 * waker.h
 *		Waiting for the feed.
 */
#ifndef ES_WAKER_H
#define ES_WAKER_H

#include "datatype/timestamp.h"

#include "ground/waiter.h"

typedef struct FeedWait FeedWait;

/*
 * Looks for what is waited for; true = it is there.  Else it says what to wait for: the
 * fields from "position" on, which are as it left them, but for how far the filters were
 * looked at meanwhile.
 */
typedef bool (*FeedLook)(FeedWait *wait);

struct FeedWait
{
	FeedLook look; /* before it sleeps: gives back what a look has taken; may be NULL */
	void (*give_back)(FeedWait *wait);
	FeedLook missed; /* whether to look again, once it can be woken; may be NULL */
	void *own;		 /* of the look */
	/* whose changes are waited for from the first look on */
	const uint64 *subscriptions;
	int subscription_count;

	int64 position; /* beyond which it is to be safe; PG_INT64_MAX = it is not asked */
	int count; /* -1 = whatever comes behind "after" of the first */
	WaitFilter filters[ES_WAIT_FILTERS];
	Hearing hears;
	TimestampTz due_at; /* looks again then; 0 = never */
	bool again;			/* looks again at once */
};

/* Looks until it is there, or for so many ms; returns whether it is. */
extern bool es_wait_for_feed(FeedWait *wait, int64 timeout);

#endif /* ES_WAKER_H */
