/*
 * subscription_status.h
 *		Where the members of subscriptions stand.
 */
#ifndef ES_SUBSCRIPTION_STATUS_H
#define ES_SUBSCRIPTION_STATUS_H

/*
 * Sets the age of the first event behind a position, an interval, if there is one up to
 * there.  In an owner's scope.
 */
extern void es_age_behind(int64 after, int64 safe, Datum *age, bool *isnull);

#endif /* ES_SUBSCRIPTION_STATUS_H */
