/*
 * outside_write.h
 *		Rows that come into the log around the API.
 */
#ifndef ES_OUTSIDE_WRITE_H
#define ES_OUTSIDE_WRITE_H

#include "ground/catalog.h"

/* Set for the next statement that writes to a watched table: it is one of ours. */
extern bool es_inserts;

/* es_execute_latest() of such a statement. */
extern uint64 es_write_ours(KeptPlan *plan, Datum *values, const char *nulls);

/* Installs the hooks; called while the library is preloaded. */
extern void es_watch_log(void);

#endif /* ES_OUTSIDE_WRITE_H */
