/*
 * head.c
 *		The last event of an aggregate, staged or durable.
 *
 * What is staged of an aggregate always follows what is durable of it, so the
 * newest staged row, if there is one, is the head.  Where there is none in
 * domain_events either, the aggregate may be closed.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "log/closed_aggregate.h"
#include "log/log.h"
#include "staging/head.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"

void
es_read_head(Datum aggregate_type, Datum aggregate_id, Snapshot snapshot,
			 bool look_in_staging, Head *head)
{
	StagedScan *scan;
	StagedRow row;

	memset(head, 0, sizeof(*head));
	head->recorded_at = DT_NOBEGIN;
	head->sequence = es_durable_head(aggregate_type, aggregate_id, snapshot,
									 &head->recorded_at);
	if (head->sequence == 0)
		head->state = es_read_closed(aggregate_type, aggregate_id, snapshot,
									 &head->sequence, &head->recorded_at);
	if (!look_in_staging)
		return;
	scan = es_staged_begin(ES_KIND_EVENT, aggregate_type, aggregate_id,
						   snapshot, true);
	if (es_staged_next_row(scan, &row))
	{
		head->sequence = row.ordinal + row.count - 1;
		head->recorded_at = row.staged_at;
		head->staged = true;
	}
	es_staged_end(scan);
}
