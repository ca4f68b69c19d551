/*
 * deadline_gauges.c
 *		What stands of scheduled events, for metrics: how many are due that were not appended
 *		yet, and for how long the first of them has been.
 *
 * Counting ends at a bound, so a look costs no more where a million are due.  What watches a
 * server must be answered while somebody has locked the table: then it is not known.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/deadline_gauges.h"
#include "ground/catalog.h"
#include "read/gauges.h"

/* So many are counted. */
#define MAX_COUNTED 10000

static void
read_due(DeadlineGauges *gauges)
{
	static KeptPlan plan =
		{"SELECT pg_catalog.count(*), pg_catalog.min(d.due_at) FROM"
		 " (SELECT s.due_at FROM event_store.scheduled_events s"
		 " WHERE s.state OPERATOR(pg_catalog.=) 'scheduled'"
		 " AND s.due_at OPERATOR(pg_catalog.<=) $1 ORDER BY s.due_at LIMIT $2) d",
		 2,
		 {TIMESTAMPTZOID, INT8OID}};
	TimestampTz now = GetCurrentTimestamp();
	Datum values[2] = {TimestampTzGetDatum(now), Int64GetDatum(MAX_COUNTED)};
	Datum first;
	bool isnull;

	(void) es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	gauges->due =
		(double) DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1, &isnull));
	first =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	gauges->age =
		isnull ? 0 : (double) (now - DatumGetTimestampTz(first)) / USECS_PER_SEC;
}

void
es_deadline_gauges(DeadlineGauges *gauges)
{
	const Store *store = es_store_if_any();
	Oid table = store == NULL
					? InvalidOid
					: get_relname_relid("scheduled_events", store->schema);
	OwnerScope scope;

	*gauges = (DeadlineGauges){NAN, NAN};
	/* with the lock in hand the store may be another one */
	if (!OidIsValid(table) || !es_try_lock_table(table) ||
		es_store_if_any() == NULL)
		return;
	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	read_due(gauges);
	PopActiveSnapshot();
	es_end(&scope);
}
