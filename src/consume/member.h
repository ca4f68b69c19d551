/*
 * member.h
 *		Members of subscriptions: where each stands.
 */
#ifndef ES_MEMBER_H
#define ES_MEMBER_H

#include "datatype/timestamp.h"
#include "storage/lockdefs.h"
#include "utils/snapshot.h"

/* A batch in the hands of a consumer: see lease.c. */
typedef struct Lease
{
	int64 number;	/* 0 = none */
	Datum consumer; /* a text */
	int64 first;	/* position of its first event */
	int64 last; /* where the batch ended: all of it is handled up to there */
	int events; /* that are left of it */
	Datum partition; /* one that was set aside, a text; 0 = the batch is new */
	bool alone;		 /* an event that was parked alone */
	TimestampTz since;
	TimestampTz until;
} Lease;

/* The newest row of a member in subscription_positions. */
typedef struct MemberState
{
	int64 number; /* of the row; they go up by one */
	int64 position;
	bool stopped; /* until resume_subscription() */
	/* attempts at one event, under on_failure = 'stop', and the pause after them */
	int attempts;
	int64 attempt_position;
	TimestampTz retry_at; /* 0 = at once */
	Datum last_error;	  /* a text; 0 = none */
	Lease lease;
	/* new batches are no larger until the member has come so far; 0 = they may be */
	int batch_limit;
	int64 limit_until;
	bool own; /* of this transaction, which may yet be rolled back */
} MemberState;

/*
 * Reads the state that a snapshot shows (of those visible to it the newest);
 * false when there is none.
 */
extern bool es_read_member(Datum name, int member, Snapshot snapshot,
						   MemberState *state);
/*
 * Whether the transaction's own snapshot shows the newest state that others have stored, whose
 * effects it then shows as well; the lock is held.
 */
extern bool es_snapshot_shows_member(Datum name, int member);
/* The newest state of all; the lock is held.  In the current memory context. */
extern MemberState es_newest_member(Datum name, int member);
/* How far it has come: its position, and beyond it over what is not for it. */
extern int64 es_member_passed(uint64 subscription, int member,
							  const MemberState *state);
/* A member has come so far: what was known of events up to there is over. */
extern void es_move_member(MemberState *state, int64 position);
/*
 * Stores a state as the newest one, with the number that follows.  The member's lock
 * is held.  In an owner's scope.
 */
extern void es_store_member(Datum name, int member, MemberState *state);

/* Locks a member, to the end of the transaction; trying waits for nobody. */
extern void es_lock_member(uint64 subscription, int member);
extern bool es_try_lock_member(uint64 subscription, int member);
extern void es_unlock_member(uint64 subscription, int member);

#endif /* ES_MEMBER_H */
