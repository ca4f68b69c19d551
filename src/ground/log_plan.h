/*
 * log_plan.h
 *		Statements that read the log, of which a part may be in the archive.
 */
#ifndef ES_LOG_PLAN_H
#define ES_LOG_PLAN_H

#include "utils/snapshot.h"

#include "ground/catalog.h"
#include "ground/event.h"

/* A SELECT on domain_events, on those tables instead. */
extern KeptPlan *es_plan_on(KeptPlan *plan, LogTables tables);
/*
 * The statement on as much as there is of the log, or of what lies behind a position:
 * itself unless something of that may be in the archive.  Call it with the snapshot in
 * hand that it will run under.
 */
extern KeptPlan *es_log_plan(KeptPlan *plan);
extern KeptPlan *es_log_plan_after(KeptPlan *plan, int64 after);
/*
 * Executes a statement that writes and looks into the log behind a position, under a
 * snapshot; returns SPI_processed.
 */
extern uint64 es_execute_on_log(KeptPlan *plan, int64 after, Datum *values,
								const char *nulls, Snapshot snapshot);

#endif /* ES_LOG_PLAN_H */
