/*
 * transaction.h
 *		The end of transactions.
 */
#ifndef ES_TRANSACTION_H
#define ES_TRANSACTION_H

#include "ground/shmem.h"

/* What is done at the end, in this order. */
typedef enum EndPhase
{
	ES_END_HEADS,
	ES_END_POSITIONS, /* before rows count as drained: a flush that has waited
					   * for them finds them in the feed */
	ES_END_MOVES,
	ES_END_STAGING,
	ES_END_DUE,
	ES_END_FETCHES,
	ES_END_PRUNING,
	ES_END_DEATHS,
	ES_END_PROJECTORS,
	ES_END_TIMERS,
	ES_END_CIRCUITS,
	ES_END_SAGAS,
	ES_END_SCRUB,
	ES_END_WAKE, /* after all that makes work for the worker */
	ES_END_LOCKS,
	ES_END_LETTERS,
	ES_END_GROUPED,
	ES_END_PHASES
} EndPhase;

/* db is NULL without preload. */
typedef void (*EndFunction)(SharedDatabase *db, bool committed);
/* For aborted subtransactions. */
typedef void (*AbortFunction)(SubTransactionId subtransaction);

/*
 * Has both called at the end of this transaction and all later ones of this
 * backend; "subabort" may be NULL.  Call it as often as you like.
 */
extern void es_at_end(EndPhase phase, EndFunction end, AbortFunction subabort);
/*
 * Has it called before this transaction commits and all later ones of this backend,
 * after the deferred triggers.  It may write, and raise.
 */
typedef void (*BeforeFunction)(void);
extern void es_before_commit(BeforeFunction before);
/* Remembers that the transaction wrote: PREPARE TRANSACTION will be refused. */
extern void es_note_write(void);
/* Whether it has written, staged or locked anything of the store. */
extern bool es_has_written(void);

/*
 * Runs work in a subtransaction, which is rolled back on an error, that is
 * returned, and when the work says so by returning false.
 */
extern ErrorData *es_in_subtransaction(bool (*work)(void *arg), void *arg);

#endif /* ES_TRANSACTION_H */
