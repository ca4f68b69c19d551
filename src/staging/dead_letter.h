/*
 * dead_letter.h
 *		Staged rows that could not be drained.
 */
#ifndef ES_DEAD_LETTER_H
#define ES_DEAD_LETTER_H

#include "utils/snapshot.h"

#include "staging/staged_row.h"

/* False if no aggregate can have any. */
extern bool es_dead_letters_possible(void);
/* Whether appends to the aggregate must be refused (VS006). */
extern bool es_has_dead_letters(Datum aggregate_type, Datum aggregate_id,
								Snapshot snapshot);
/* Writes one dead letter.  For a view, the aggregate that took it along. */
extern void es_bury(const StagedRow *row, Datum aggregate_type, Datum aggregate_id,
					int sqlstate, const char *message, int attempts);

#endif /* ES_DEAD_LETTER_H */
