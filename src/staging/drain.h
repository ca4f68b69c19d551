/*
 * drain.h
 *		From staging into the durable tables.
 */
#ifndef ES_DRAIN_H
#define ES_DRAIN_H

typedef struct RoundResult
{
	int64 moved;
	int64 left; /* since others hold what triggers on them need */
	bool more;	/* there are, beyond max_rows */
} RoundResult;

/*
 * Moves one closed set of committed staged rows, about max_rows (0 = all),
 * within the current transaction, holding the drain lock until it ends.
 * Raises errors of the world; rows that fail for their own sake go to dead_letters.  "alone": the
 * transaction does nothing else, so its deferred triggers speak of these rows.
 */
extern void es_drain_round(int64 max_rows, bool alone, RoundResult *result);
/* Moves what this transaction itself has staged and not moved yet. */
extern void es_drain_own_rows(void);

#endif /* ES_DRAIN_H */
