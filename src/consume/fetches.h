/*
 * fetches.h
 *		What this transaction has been given.
 */
#ifndef ES_FETCHES_H
#define ES_FETCHES_H

#include "consume/member.h"

/* A batch, kept until its subtransaction or transaction ends. */
typedef struct Fetch
{
	uint64 subscription;
	int member;
	int64 events;
	int64 lost;		  /* events of calls behind it that were rolled back */
	int64 *positions; /* of its events; those that failed are taken out */
	MemberState before;
	bool retried;	 /* of one partition that was set aside */
	Datum partition; /* that one */
	bool alone;		 /* it is an event that was parked alone */
	int attempts;	 /* that it had before */
	bool projected; /* given to the server itself: its rollback tells nothing */
	SubTransactionId subtransaction;
	struct Fetch *next; /* an older one */
} Fetch;

/* The newest one of a subscription in this transaction, or NULL. */
extern Fetch *es_open_fetch(uint64 subscription);
/* The events of a member that this transaction was given. */
extern int64 es_events_fetched(uint64 subscription, int member);
/* Remembers one; what it points to is copied. */
extern void es_note_fetch(const Fetch *fetch);

#endif /* ES_FETCHES_H */
