/*
 * progress.h
 *		What shared memory knows of members of subscriptions.
 */
#ifndef ES_PROGRESS_H
#define ES_PROGRESS_H

#include "datatype/timestamp.h"


extern void es_share_progress(void);

/* No limit to the size of a batch. */
#define ES_NO_LIMIT PG_INT64_MAX

/*
 * Of a member: how far beyond its stored position there is nothing for it, which
 * holds only while the state of that number is its newest; how many events the
 * next batch has at most; who is fetching.
 */
typedef struct Progress
{
	int64 number;
	int64 position;
	int64 limit;
	int64 pruned;		/* no older states than this one are left */
	bool retried;		/* the last batch was of a partition set aside */
	int aborted;		/* fetches in a row */
	int deaths;			/* sessions that ended with one event in hand ... */
	int64 death_number; /* ... while the newest state was of that number */
	int64 death_position;
	int pid; /* 0 = nobody */
	TimestampTz since;
} Progress;

/* The key of a member; -1 = that of the subscription itself. */
extern uint64 es_progress_key(uint64 subscription, int member);
/* Of one that is made anew under its name nothing is known. */
extern void es_forget_progress(uint64 key);
extern Progress es_read_progress(uint64 key);
/* Nothing for the member up to there, while its newest state is that one. */
extern void es_note_progress(uint64 key, int64 number, int64 position);
/* The same where nothing was known to be there up to another position before. */
extern void es_extend_progress(uint64 key, int64 number, int64 from, int64 to);
/* States older than this one are deleted. */
extern void es_note_pruned(uint64 key, int64 number);
/* This process fetches; its fetch of so many events has ended. */
extern void es_begin_progress(uint64 key, bool retried);
extern void es_end_progress(uint64 key, int64 events, bool committed);
/* A session ended with that event alone in hand: see deaths.c. */
extern void es_add_death(uint64 key, int64 number, int64 position);
/* Whether the last batch was of a partition that was set aside. */
extern void es_note_turn(uint64 key, bool retried);
/* The member that was served last, of a subscription. */
extern int es_last_served(uint64 subscription);
extern void es_note_served(uint64 subscription, int member);

#endif /* ES_PROGRESS_H */
