/*
 * grouped_call.h
 *		Calls that are handed over to the committer.
 */
#ifndef ES_GROUPED_CALL_H
#define ES_GROUPED_CALL_H

#include "utils/dsa.h"

#include "ground/shmem.h"

/* What became of a call, as its caller sees it. */
typedef enum GroupedState
{
	ES_GROUPED_NONE,
	ES_GROUPED_WAITING, /* in the queue */
	ES_GROUPED_TAKEN,	/* in the committer's hands: it may be committed */
	ES_GROUPED_ASIDE, /* it is not: it waits for who waits for what others hold */
	ES_GROUPED_DONE, /* there is an answer */
	ES_GROUPED_ALONE, /* the caller does it himself; until his transaction ends */
	ES_GROUPED_LOST	  /* the committer has ended without having done it */
} GroupedState;

extern void es_share_grouped_calls(void);

/* ---------- for callers ---------- */

/*
 * Hands a call over; "level" is the synchronous_commit that it needs.  Waits for room,
 * and raises 55P03 after lock_timeout.  False if it is larger than the queue, or if
 * there is no committer and none can be had.
 */
extern bool es_hand_over(SharedDatabase *db, const char *content, Size size,
						 int level);
/* Waits until there is an answer, or none will come: the last three states. */
extern GroupedState es_await_answer(SharedDatabase *db);
/* The answer, copied; the call is over then. */
extern char *es_fetch_answer(SharedDatabase *db);
/* Takes a call back, wherever it is: what is to come of it nobody hears. */
extern void es_withdraw_call(SharedDatabase *db);

/* ---------- for the committer ---------- */

/* A call in its hands. */
typedef struct TakenCall
{
	int number; /* whose */
	uint32 serial;
	int level;
	Size size;
	char *content; /* a copy */
} TakenCall;

/*
 * Takes calls from the queue, with about so many bytes; they and what is in them are
 * allocated in the current context.  Where there is none, and "sleeps", the next one
 * that comes sets the latch.
 */
extern int es_take_calls(SharedDatabase *db, TakenCall **calls, int most,
						 Size bytes, bool sleeps);
/* An answer that is to be given. */
typedef struct GroupedAnswer
{
	const TakenCall *call;
	const char *bytes;
	Size size;
	dsa_pointer large; /* room for it where it does not fit in */
	bool given;
	int caller; /* of the list of those that are given, in the same order */
} GroupedAnswer;

/* Finds room for an answer; false if there is none. */
extern bool es_place_answer(GroupedAnswer *answer);
/*
 * Gives calls their answers, and wakes one of the callers, who wakes the others: that takes
 * longer than all else that the committer does for them but the flush.
 */
extern void es_give_answers(SharedDatabase *db, GroupedAnswer *answers, int count);
/* Sets a call aside, or has its caller do it; false if it was withdrawn. */
extern bool es_set_call_aside(SharedDatabase *db, const TakenCall *call);
extern bool es_leave_to_caller(SharedDatabase *db, const TakenCall *call);
/* Takes one that was set aside; false if it was withdrawn. */
extern bool es_retake_call(SharedDatabase *db, const TakenCall *call);
/* Whether the caller is still at what was left to him. */
extern bool es_is_left_to_caller(SharedDatabase *db, int number, uint32 serial);
/* The committer has ended, and what it has in hand is not committed. */
extern void es_lose_calls(SharedDatabase *db);

#endif /* ES_GROUPED_CALL_H */
