/*
 * drain_left.h
 *		What a round leaves for a later one.
 */
#ifndef ES_DRAIN_LEFT_H
#define ES_DRAIN_LEFT_H

#include "staging/drain_round.h"

/* Leaves a transaction for a later round. */
extern void es_leave(Round *round, int rank);
/*
 * Leaves those of the transactions low to high that come after one that is left,
 * on any of its aggregates or view keys.  A transaction has a higher rank than
 * those it comes after, so the ones below are settled.
 */
extern void es_leave_dependents(Round *round, int low, int high);
/*
 * Leaves, before anything is tried, the transactions with an event whose id may be in the
 * archive, and those that come after them: somebody has locked it.
 */
extern void es_leave_archived(Round *round);
/* Leaves all from a transaction on. */
extern void es_leave_rest(Round *round, int low);
/* Takes what was left out of the numbers of the round; returns how much it was. */
extern int64 es_subtract_left(Round *round);

#endif /* ES_DRAIN_LEFT_H */
