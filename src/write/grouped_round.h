/*
 * grouped_round.h
 *		Calls of several callers in one transaction.
 */
#ifndef ES_GROUPED_ROUND_H
#define ES_GROUPED_ROUND_H

#include "write/append.h"
#include "write/grouped_form.h"

/* A call of a round. */
typedef struct RoundCall
{
	char *content;
	GroupedRequest request; /* read from it */
	Verdict verdict;
	uint64 refused_lock; /* what it would wait for */
	char *answer;		 /* NULL = it has none yet */
	Size size;
} RoundCall;

/*
 * Does all of them as far as it can be done without waiting, in the transaction that has
 * begun, and gives those an answer, which holds once that has committed.  An error is
 * one of them all: who is to blame has to be found out.
 */
extern void es_run_grouped(RoundCall **calls, int count);

#endif /* ES_GROUPED_ROUND_H */
