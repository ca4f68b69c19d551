/*
 * staging_status.c
 *		How staging stands, for the view staging_status.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xlog.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/kept_error.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "staging/drain_state.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staging_state.h"
#include "staging/staging_status.h"

PG_FUNCTION_INFO_V1(es_staging_state);

/* When the oldest staged row was staged; false when there is none. */
static bool
oldest_staged(TimestampTz *at)
{
	StagedScan *scan = es_staged_scan_live(GetActiveSnapshot(), AccessShareLock);
	StagedRow row;
	bool found = es_staged_next_row(scan, &row);

	if (found)
		*at = row.staged_at;
	es_staged_end(scan);
	return found;
}

static int64
segments_size(const Store *store)
{
	int64 size = 0;

	for (int i = 0; i < ES_SEGMENTS && !RecoveryInProgress(); i++)
		size +=
			DatumGetInt64(DirectFunctionCall1(pg_total_relation_size,
											  ObjectIdGetDatum(store->segments[i]
																   .table)));
	return size;
}

int64
es_staging_size(void)
{
	const Store *store = es_store_if_any();

	for (int i = 0; store != NULL && i < ES_SEGMENTS; i++)
	{
		if (!es_try_lock_table(store->segments[i].table))
			return -1;
	}
	store = es_store_if_any();
	return store == NULL ? -1 : segments_size(store);
}

/* The row of staging_status. */
Datum
es_staging_state(PG_FUNCTION_ARGS)
{
	SharedDatabase *db;
	TupleDesc desc;
	Datum values[10];
	bool nulls[10] = {false};
	DrainState state = ES_DRAIN_STOPPED;
	TimestampTz oldest;

	es_check_version();
	(void) es_store();
	db = es_my_database();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[5] = Int64GetDatum(0);
	values[2] = Int64GetDatum(segments_size(es_store()));
	nulls[3] = !oldest_staged(&oldest);
	values[3] = nulls[3] ? (Datum) 0 : TimestampTzGetDatum(oldest);
	nulls[0] = nulls[1] = !es_staging_known(db);
	nulls[6] = nulls[7] = nulls[8] = nulls[9] = true;
	if (db != NULL)
	{
		char error[ES_ERROR_CHARS];

		LWLockAcquire(db->lock, LW_SHARED);
		/* a row may be drained, and taken off, before it was counted */
		values[0] =
			Int64GetDatum(Max((int64) pg_atomic_read_u64(&es_staging(db)->staged_events),
							  0));
		values[1] =
			Int64GetDatum(Max((int64) pg_atomic_read_u64(&es_staging(db)->staged_views),
							  0));
		if (es_worker_slot(db)->pid != 0)
			state = es_drain_progress(db)->state;
		values[5] = Int64GetDatum(es_drain_progress(db)->failures);
		strlcpy(error, es_drain_progress(db)->last_error, sizeof(error));
		values[7] = TimestampTzGetDatum(es_drain_progress(db)->last_drain_at);
		nulls[7] = es_drain_progress(db)->last_drain_at == 0;
		values[8] = Int64GetDatum(es_staging(db)->epoch);
		nulls[8] = es_staging_is(db, ES_STAGING_UNKNOWN);
		values[9] = TimestampTzGetDatum(es_drain_progress(db)->last_error_at);
		nulls[9] = es_drain_progress(db)->last_error_at == 0;
		LWLockRelease(db->lock);
		nulls[6] = error[0] == '\0';
		values[6] = es_shown_kept_error(error, GetUserId());
	}
	values[4] = CStringGetTextDatum(es_drain_state_name(state));
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
