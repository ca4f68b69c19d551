/*
 * drain.h
 *		From staging into the durable tables.
 */
#ifndef ES_DRAIN_H
#define ES_DRAIN_H

/*
 * Moves one closed set of committed staged rows, about max_rows (0 = all),
 * within the current transaction, holding the drain lock until it ends.
 * Returns the rows moved and whether more are left.  Raises errors of the
 * world; rows that fail for their own sake go to dead_letters.  "alone": the
 * transaction does nothing else, so its deferred triggers speak of these rows.
 */
extern int64 es_drain_round(int64 max_rows, bool alone, bool *more);
/* Moves what this transaction itself has staged and not moved yet. */
extern void es_drain_own_rows(void);

#endif /* ES_DRAIN_H */
