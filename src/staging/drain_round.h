/*
 * drain_round.h
 *		What a round of draining works with.
 */
#ifndef ES_DRAIN_ROUND_H
#define ES_DRAIN_ROUND_H

#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "ground/catalog.h"
#include "ground/pair_table.h"
#include "staging/drain_set.h"
#include "staging/staged_row.h"

typedef struct Round
{
	Snapshot snapshot;
	MemoryContext context; /* lives as long as the round */
	Relation tables[ES_SEGMENTS];
	TupleTableSlot *slots[ES_SEGMENTS];
	DrainSet set;
	bool alone; /* in its transaction */
	bool own;	/* rows of this transaction; nothing is buried */
	int attempts;
	int succeeded;		/* probes that succeeded */
	int failed;			/* transactions with a failing row */
	ErrorData *failure; /* the first of those errors */
	bool alike;			/* all had its SQLSTATE */

	bool *left;				/* by rank: not in this round after all */
	int nleft;				/* of them */
	int left_untried;		/* of these, before anything was tried */
	PairTable *left_events; /* the aggregates and view keys of those; NULL */
	PairTable *left_views;	/* while there are none */
	TimestampTz left_at;	/* when the oldest of their rows was staged */
} Round;

/*
 * Locks the log before the round takes its snapshot: an ALTER TABLE that writes
 * the table anew would leave it empty to a snapshot older than the wait.
 */
extern void es_lock_log(void);
/* The segments, around all that follows. */
extern void es_open_round(Round *round);
extern void es_close_round(Round *round);
/* A row of the round, in the current memory context; false = it is gone. */
extern bool es_fetch_drained(Round *round, DrainRow *row, StagedRow *result);
extern void es_fetch_or_raise(Round *round, DrainRow *row, StagedRow *staged);

/*
 * Runs work that can be repeated, in a subtransaction.  Returns NULL or the error.
 * A position that is taken already is nobody's fault: others are taken, and if that
 * does not help it is one of the world.
 */
extern ErrorData *es_attempt(Round *round, void (*work)(void *arg), void *arg);
/* The same, but passes errors on that no row is to blame for. */
extern ErrorData *es_probe(Round *round, void (*work)(void *arg), void *arg);
/* Remembers a failure, to tell whether all probes fail alike. */
extern void es_note_failure(Round *round, const ErrorData *error);

#endif /* ES_DRAIN_ROUND_H */
