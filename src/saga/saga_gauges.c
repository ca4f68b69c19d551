/*
 * saga_gauges.c
 *		How many sagas are under way, and how many wait for somebody, for metrics.
 *
 * An index has those that have not ended, so what is counted is no more than they are, and of
 * each state as many as anybody wants to know.  What watches a server is answered
 * while somebody has locked the table, too: then they are not known.
 */
#include "postgres.h"

#include <math.h>

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "read/gauges.h"
#include "saga/saga_gauges.h"

/* A state is counted up to this; docs/metrics.md says so. */
#define COUNTED "100000"

#define COUNT_OF(state)                                                 \
	"(SELECT pg_catalog.count(*) FROM (SELECT FROM event_store.sagas s" \
	" WHERE s.state OPERATOR(pg_catalog.=) '" state "' LIMIT " COUNTED ") x)"

/* Locks the table to the end of the transaction; false if it is locked, or missing. */
static bool
lock_table(void)
{
	const Store *store = es_store_if_any();
	Oid table;

	if (store == NULL)
		return false;
	table = get_relname_relid("sagas", store->schema);
	/* with the lock in hand it may have another shape */
	return OidIsValid(table) && es_try_lock_table(table) &&
		   es_store_if_any() != NULL;
}

void
es_saga_gauges(SagaGauges *gauges)
{
	static KeptPlan plan = {
		"SELECT " COUNT_OF("running") ", " COUNT_OF("compensating") ", " COUNT_OF("stuck")};
	double *values[] = {&gauges->running, &gauges->compensating, &gauges->stuck};
	OwnerScope scope;

	for (int i = 0; i < (int) lengthof(values); i++)
		*values[i] = NAN;
	if (!lock_table())
		return;
	PreventCommandIfParallelMode("metrics_state()");
	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	(void) es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	for (int i = 0; i < (int) lengthof(values); i++)
	{
		bool isnull;

		*values[i] = (double) DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
														  SPI_tuptable->tupdesc,
														  i + 1, &isnull));
	}
	PopActiveSnapshot();
	es_end(&scope);
}
