/*
 * dead_letter.h
 *		Staged rows that could not be drained.
 */
#ifndef ES_DEAD_LETTER_H
#define ES_DEAD_LETTER_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#include "staging/staged_row.h"

/* Whether an error is a row's own: another attempt by itself would not help. */
extern bool es_blames_row(int sqlstate);
/* A SQLSTATE as it is shown; palloc'd. */
extern char *es_sqlstate_text(int sqlstate);
/* False if no aggregate can have any. */
extern bool es_dead_letters_possible(void);
/* When the oldest one failed for the last time; 0 = there is none, or nobody can tell. */
extern TimestampTz es_oldest_dead_letter(void);
/* Whether appends to the aggregate must be refused (VS006). */
extern bool es_has_dead_letters(Datum aggregate_type, Datum aggregate_id,
								Snapshot snapshot);
/* Writes one dead letter, which is logged at commit.  For a view, the aggregate that took it along. */
extern void es_bury(const StagedRow *row, Datum aggregate_type, Datum aggregate_id,
					int sqlstate, const char *message, int attempts);

#endif /* ES_DEAD_LETTER_H */
