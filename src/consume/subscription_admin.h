/*
 * subscription_admin.h
 *		Subscriptions made and changed.
 */
#ifndef ES_SUBSCRIPTION_ADMIN_H
#define ES_SUBSCRIPTION_ADMIN_H

#include "fmgr.h"

#include "consume/subscription.h"

/* The functions of SQL, which projections call for the subscription that they are. */
extern PGDLLEXPORT Datum es_create_subscription(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum es_drop_subscription(PG_FUNCTION_ARGS);
/*
 * Lets all members go on behind a position.  The subscription is locked
 * exclusively.  In an owner's scope.
 */
extern void es_move_members(Subscription *subscription, int64 position);

#endif /* ES_SUBSCRIPTION_ADMIN_H */
