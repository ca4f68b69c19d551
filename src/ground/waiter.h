/*
 * waiter.h
 *		Who waits for the feed, and which one of them looks at it for all.
 */
#ifndef ES_WAITER_H
#define ES_WAITER_H

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "ground/shmem.h"

/* Beyond these a waiter is woken by whatever comes. */
#define ES_WAIT_FILTERS 8
#define ES_FILTER_TYPES 8

/* What somebody waits for in the feed: events of these types, by their hashes. */
typedef struct WaitFilter
{
	uint64 subscription;   /* whose changes he is told, too; 0 = none */
	int64 after;		   /* there is nothing for it up to there */
	int16 aggregate_types; /* so many; -1 = all */
	int16 event_types;
	uint32 types[ES_FILTER_TYPES]; /* those of aggregates first */
} WaitFilter;

/* Of what becomes of members he is told, beyond changes of his subscriptions. */
typedef enum Hearing
{
	ES_HEARS_CHANGES,
	ES_HEARS_PROGRESS, /* also when somebody who had one has ended */
	ES_HEARS_FREED	   /* also when somebody has but looked at one */
} Hearing;

/* The entry of a backend.  WaiterShare.lock of its database protects it. */
typedef struct Waiter
{
	Oid database; /* InvalidOid = it does not wait */
	bool asleep;
	bool woken;
	Hearing hears;
	uint32 looks; /* goes up with each look of its own */
	int64 position; /* beyond which it is to be safe; PG_INT64_MAX = it is not asked */
	Latch *latch;
	int count;
	WaitFilter filters[ES_WAIT_FILTERS];
} Waiter;

/* Whose members were freed is counted by parts of the subscriptions. */
#define ES_FREED_COUNTERS 64

typedef struct WaiterShare
{
	LWLock lock;
	pg_atomic_uint32 leader;	/* 1 + number of its entry; 0 = none */
	pg_atomic_uint32 signalled; /* nobody has to tell the leader */
	int64 looked;				/* as far as the last leader has; by the lock */
	pg_atomic_uint64 last_round; /* when it began */
	pg_atomic_uint32 waiters;
	pg_atomic_uint32 listeners; /* of them, not to changes alone */
	pg_atomic_uint32 freed[ES_FREED_COUNTERS];
} WaiterShare;

extern void es_share_waiters(void);

extern DatabasePart es_waiter_part;

static inline WaiterShare *
es_waiters(const SharedDatabase *db)
{
	return es_part(db, &es_waiter_part);
}

/* The number that stands for a type in filters; "type" is a text. */
extern uint32 es_type_hash(Datum type);

/*
 * A process waits between entering and leaving, in turns: it looks by itself, with
 * the entry open for all that comes meanwhile, and sleeps.
 */
extern void es_enter_waiters(SharedDatabase *db);
extern void es_leave_waiters(SharedDatabase *db);
/* Before a look; copies how far its filters were looked at by others. */
extern void es_begin_look(SharedDatabase *db, WaitFilter *filters, int count);
/* The subscriptions that are looked at; before the first look. */
extern void es_wait_for_changes(SharedDatabase *db, const uint64 *subscriptions,
								int count);
/*
 * After one that found nothing: what it waits for.  "count" -1 = whatever comes
 * behind "after" of the first.
 */
extern void es_end_look(SharedDatabase *db, int64 position,
						const WaitFilter *filters, int count, Hearing hears);
/* How often members of a subscription were freed; before a look at them. */
extern uint32 es_times_freed(const SharedDatabase *db, uint64 subscription);
extern bool es_woken(void);

/* Whether this process looks for all. */
extern bool es_leads(const SharedDatabase *db);

/* Tells the leader, if it has not been told yet; what it is to see can be seen. */
extern void es_tell_leader(SharedDatabase *db);

/* For the leader: whether it was told; before it looks; how long it rests, in ms. */
extern bool es_leader_told(const SharedDatabase *db);
extern void es_begin_round(SharedDatabase *db);
extern long es_rest_of_leader(const SharedDatabase *db, long rest_ms);
extern int es_count_waiters(const SharedDatabase *db);

/* A filter that has to be looked at. */
typedef struct OpenFilter
{
	int waiter;
	int number;
	uint32 looks;
	int64 found; /* the first event for it; 0 = none */
	WaitFilter filter;
} OpenFilter;

/*
 * Wakes those who wait for a position below "safe", and copies the filters that end
 * below it, at most so many; returns how many.
 */
extern int es_open_filters(SharedDatabase *db, int64 safe, OpenFilter *open,
						   int most);
/* Wakes those for whom something was found; nothing is for the others up to there. */
extern void es_close_filters(SharedDatabase *db, const OpenFilter *open,
							 int count, int64 reached);

/*
 * When this (sub)transaction has let go of its locks: those are told who wait for this
 * subscription, "changed" all of them, else those who want to hear that.
 */
extern void es_note_freed(uint64 subscription, bool changed);
/* A member that was looked at, and did not change, is free again. */
extern void es_tell_freed(SharedDatabase *db, uint64 subscription);

#endif /* ES_WAITER_H */
