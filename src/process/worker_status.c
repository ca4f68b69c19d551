/*
 * worker_status.c
 *		What the worker of this database does, for the views worker_status and
 *		worker_jobs.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/kept_error.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "process/job.h"
#include "staging/drain_state.h"

PG_FUNCTION_INFO_V1(es_worker_state);
PG_FUNCTION_INFO_V1(es_worker_jobs_state);

#define WORKER_STATE_COLUMNS 9

/* worker_state(): the row of worker_status. */
Datum
es_worker_state(PG_FUNCTION_ARGS)
{
	SharedDatabase *db =
		es_shared != NULL ? es_find_database(MyDatabaseId) : NULL;
	Datum values[WORKER_STATE_COLUMNS] = {0};
	bool nulls[WORKER_STATE_COLUMNS];
	TupleDesc tupdesc;

	/* through the SQL of an earlier version it has fewer columns */
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));
	nulls[1] = false;
	values[1] = CStringGetTextDatum(es_shared == NULL	? "not preloaded"
									: es_has_no_place() ? "no place"
														: "none");
	if (es_shared != NULL)
	{
		values[3] = Int32GetDatum((int32) es_launcher_pid());
		nulls[3] = DatumGetInt32(values[3]) == 0;
	}
	if (db != NULL)
	{
		WorkerState state;
		DrainProgress drain;

		LWLockAcquire(db->lock, LW_SHARED);
		values[0] = Int32GetDatum((int32) es_worker_slot(db)->pid);
		values[2] = TimestampTzGetDatum(es_worker_slot(db)->started_at);
		state = es_worker_slot(db)->state;
		drain = *es_drain_progress(db);
		LWLockRelease(db->lock);
		nulls[0] = DatumGetInt32(values[0]) == 0;
		values[1] = CStringGetTextDatum(es_worker_state_name(state));
		nulls[2] = nulls[0];
		values[4] = CStringGetTextDatum(es_drain_state_name(drain.state));
		nulls[4] = false;
		values[5] = es_shown_kept_error(drain.last_error, GetUserId());
		nulls[5] = drain.last_error[0] == '\0';
		values[6] = Int32GetDatum(drain.failures);
		nulls[6] = false;
		values[7] = TimestampTzGetDatum(drain.last_drain_at);
		nulls[7] = drain.last_drain_at == 0;
		values[8] = TimestampTzGetDatum(drain.last_error_at);
		nulls[8] = drain.last_error_at == 0;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}

#define JOB_COLUMNS 6

/* worker_jobs_state(): the rows of worker_jobs. */
Datum
es_worker_jobs_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SharedDatabase *db =
		es_shared != NULL ? es_find_database(MyDatabaseId) : NULL;
	JobStatus status[ES_MAX_JOBS] = {0};
	bool is_there = false;

	InitMaterializedSRF(fcinfo, 0);
	if (es_shared == NULL)
		return (Datum) 0;
	if (db != NULL)
	{
		LWLockAcquire(db->lock, LW_SHARED);
		memcpy(status, es_worker_slot(db)->jobs, sizeof(status));
		is_there = es_worker_slot(db)->pid != 0;
		LWLockRelease(db->lock);
	}
	for (int i = 0; i < es_job_count; i++)
	{
		const char *state = "idle";
		Datum values[JOB_COLUMNS];
		bool nulls[JOB_COLUMNS] = {false};

		if (status[i].running)
			state = "running";
		else if (is_there && status[i].failures > 0)
			state = "backing_off";
		values[0] = CStringGetTextDatum(es_jobs[i].name);
		values[1] = CStringGetTextDatum(state);
		values[2] = Int32GetDatum(status[i].failures);
		values[3] = es_shown_kept_error(status[i].last_error, GetUserId());
		nulls[3] = status[i].last_error[0] == '\0';
		values[4] = TimestampTzGetDatum(status[i].last_run_at);
		nulls[4] = status[i].last_run_at == 0;
		values[5] = TimestampTzGetDatum(status[i].last_error_at);
		nulls[5] = status[i].last_error_at == 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
