/*
 * subscription.h
 *		What a subscription is.
 */
#ifndef ES_SUBSCRIPTION_H
#define ES_SUBSCRIPTION_H

#include "consume/partition.h"

/* What is done with an event that fails; the first one is no end of it. */
typedef enum FailureAction
{
	ES_FAIL_RETRY,
	ES_FAIL_PARK,
	ES_FAIL_PARK_EVENT,
	ES_FAIL_SKIP,
	ES_FAIL_STOP
} FailureAction;

#define ES_MAX_MEMBERS 1000

/*
 * How many places to look at for what the column "members" of a row has, into which its owner
 * can write what he likes: no more than there can be.  For lists, of which one such row is to
 * spoil nothing; who reads a subscription by itself reports it.
 */
static inline int
es_places_of(Datum members)
{
	return Min(DatumGetInt32(members), ES_MAX_MEMBERS);
}

typedef struct Subscription
{
	Datum name; /* a text */
	uint64 hash;
	Datum *aggregate_types;	  /* texts ... */
	int aggregate_type_count; /* ... -1 = all */
	Datum *event_types; /* of what is stored: more than is wanted, with upcasters */
	int event_type_count;
	Datum *last_types; /* that are wanted, as of the last version of an event */
	int last_type_count;
	int members;
	bool paused;
	FailureAction on_failure;
	int max_attempts;
	bool sets_aside; /* something may be set aside */
	bool projection; /* the server is its consumer */
	Partitioning partitioning;
	/* where the members stood before a resize; 0 of them: nobody asks any more */
	int old_members;
	int64 *old_positions;
	int64 old_highest;
	bool own; /* of this transaction, which may yet be rolled back */
} Subscription;

/* The action of a word; 22023 for another one. */
extern FailureAction es_failure_action(const text *word, const char *name,
									   bool may_retry);
/* What stands for a subscription in locks and in shared memory. */
extern uint64 es_subscription_hash(Datum name);
/*
 * Reads a subscription as it is now, into the current memory context; 42704 when
 * there is none.
 */
extern void es_read_subscription(Datum name, Subscription *subscription);
/* The same; false where there is none. */
extern bool es_find_subscription(Datum name, Subscription *subscription);
/*
 * Whether something is set aside, for a caller who has a member's lock: without it
 * somebody may be setting aside at this moment what comes before the member's events.
 */
extern void es_look_set_aside(Subscription *subscription);
/*
 * How far the events of a partition were given to anybody, where its member has passed
 * a position: so far, or as far as its member before a resize had come.
 */
extern int64 es_partition_served(const Subscription *subscription,
								 const text *partition, int64 passed);
/*
 * Whether stored events of these types may be for it, and whether one is that has this
 * type in its last version.
 */
extern bool es_subscribes(const Subscription *subscription,
						  Datum aggregate_type, Datum event_type);
extern bool es_wants_type(const Subscription *subscription, Datum event_type);

#endif /* ES_SUBSCRIPTION_H */
