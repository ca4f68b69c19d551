/*
 * log_change.h
 *		The few statements of ours that change rows of the log.
 */
#ifndef ES_LOG_CHANGE_H
#define ES_LOG_CHANGE_H

#include "ground/catalog.h"

/* What a statement may do to rows of the log; never both. */
typedef enum LogChange
{
	ES_CHANGE_UPDATE,
	ES_CHANGE_DELETE
} LogChange;

/*
 * es_execute_latest() of a statement that updates or deletes rows of a table that the
 * guard watches; in a scope of es_begin(), since the guard itself is the owner's.  55000
 * where the table has rules, or triggers that an update or a delete would have to pass.
 */
extern uint64 es_change_log(KeptPlan *plan, Datum *values, const char *nulls,
							Oid table, LogChange change);

/*
 * Whether rows come into such a table as a statement gives them: no trigger could put others
 * in their place.  55000 where it has rules.
 */
extern bool es_inserts_as_given(Oid table);

#endif /* ES_LOG_CHANGE_H */
