/*
 * lease.h
 *		Leases: a member's batch in the hands of a consumer.
 */
#ifndef ES_LEASE_H
#define ES_LEASE_H

#include "fmgr.h"

#include "consume/member.h"
#include "consume/subscription.h"
#include "ground/catalog.h"

/* Whether the state has a lease that keeps others off. */
extern bool es_lease_is_open(const MemberState *state);
/*
 * Takes off a lease that is not open any more: the next batch is smaller, and of a
 * single event an attempt is counted.  The caller stores the state.
 */
extern void es_expire_lease(const Subscription *subscription, int member,
							MemberState *state);

/* What a call does with a lease. */
typedef struct LeaseCall
{
	Subscription subscription;
	int member;
	MemberState state;
} LeaseCall;

/*
 * Takes the member's lock and reads its state; VS007 when the lease is not the newest one of
 * that member.  In an owner's scope.
 */
extern void es_begin_lease_call(LeaseCall *call, Datum name, int member,
								int64 lease);
/*
 * The same for a function whose arguments begin with subscription_name, member and
 * lease; it opens the scope.
 */
extern void es_open_lease_call(FunctionCallInfo fcinfo, LeaseCall *call,
							   const char *function, OwnerScope *scope);
/* How long a lease is to be, in microseconds; 22023 when that is no time at all. */
extern int64 es_lease_time(FunctionCallInfo fcinfo, int argno);

#endif /* ES_LEASE_H */
