/*
 * failure.h
 *		What becomes of an event that failed.
 */
#ifndef ES_FAILURE_H
#define ES_FAILURE_H

#include "consume/member.h"
#include "consume/parked.h"
#include "consume/subscription.h"

typedef struct Failure
{
	Subscription subscription;
	int64 position;
	FailureCause cause;
	FailureAction action; /* what is done; "retry" may end in another one */
	Datum partition;
	int member;
	MemberState state; /* as it will be: who calls these stores it */
	int64 passed;	   /* how far the member has come */
	int64 served;	   /* how far the partition was given to anybody */
	bool held;		   /* the member goes on with this very event */
} Failure;

/*
 * Finds the event, and so its partition, its member and how far it was served; 22023
 * when there is none for the subscription.
 */
extern void es_find_failed(Failure *failure);
/* The same; false where there is none. */
extern bool es_find_event(Failure *failure);
/* Whether so many attempts are the last; then the action is what on_failure says. */
extern bool es_failure_ends(Failure *failure, int attempts);
/* The member waits, or stops, as a whole. */
extern const char *es_hold_member(Failure *failure, int attempts);
/* Sets the partition aside from an event on. */
extern const char *es_fail_partition(Failure *failure, int64 first, int attempts);

/*
 * An event of a new batch; of a partition that was set aside, whose row begins here
 * or before; that had been parked alone.  "attempts" counts this one, too.
 * They return the word for what is done.
 */
extern const char *es_fail_new(Failure *failure, int attempts);
extern const char *es_fail_retried(Failure *failure, int attempts);
extern const char *es_fail_alone(Failure *failure);
/*
 * So many consumers had this event alone in hand and did not come back.  Nothing is
 * done about it before the last attempt, but of one that was set aside.
 */
extern void es_count_attempts(Failure *failure, int attempts);

#endif /* ES_FAILURE_H */
