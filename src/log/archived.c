/*
 * archived.c
 *		What of an aggregate is in the archive.
 *
 * An aggregate is archived from its first event on, and its sequences have no holes: so
 * what domain_events has of it tells by its first sequence how much is in the archive,
 * and nobody looks there for an aggregate of which nothing is.  One that has no event
 * left there is closed.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/snapmgr.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/log_plan.h"
#include "log/archived.h"
#include "log/closed_aggregate.h"
#include "log/log.h"

int64
es_last_archived(Datum aggregate_type, Datum aggregate_id)
{
	int64 sequence;
	TimestampTz recorded_at;

	if (!es_anything_moved())
		return 0;
	sequence =
		es_durable_first(aggregate_type, aggregate_id, GetActiveSnapshot());
	if (sequence > 0)
		return sequence - 1;
	return es_read_closed(aggregate_type, aggregate_id, GetActiveSnapshot(),
						  &sequence, &recorded_at) == ES_AGGREGATE_ARCHIVED
			   ? sequence
			   : 0;
}

KeptPlan *
es_aggregate_plan(KeptPlan *plan, Datum aggregate_type, Datum aggregate_id)
{
	return es_last_archived(aggregate_type, aggregate_id) > 0
			   ? es_plan_on(plan, ES_BOTH_TABLES)
			   : plan;
}
