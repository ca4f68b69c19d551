/*
 * database_process.c
 *		What all processes of a database are registered with, and what their places in
 *		shared memory have in common.
 *
 * They start where there is no recovery, and PostgreSQL does not start them again: whoever
 * wants one looks whether it is there.
 */
#include "postgres.h"

#include <signal.h>

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "ground/common.h"
#include "ground/database_process.h"
#include "ground/shmem.h"

void
es_describe_process(BackgroundWorker *worker, const SharedDatabase *db,
					Oid database, const char *kind)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, ES_SCHEMA, sizeof(worker->bgw_library_name));
	snprintf(worker->bgw_function_name, sizeof(worker->bgw_function_name),
			 "es_%s_main", kind);
	snprintf(worker->bgw_name, BGW_MAXLEN, "event_store %s of database %u",
			 kind, database);
	snprintf(worker->bgw_type, BGW_MAXLEN, "event_store %s", kind);
	worker->bgw_main_arg = Int32GetDatum(es_number_of_database(db));
	memcpy(worker->bgw_extra, &database, sizeof(database));
}

bool
es_start_process(const SharedDatabase *db, const char *kind)
{
	BackgroundWorker worker;

	es_describe_process(&worker, db, db->database, kind);
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

bool
es_may_arrive(TimestampTz asked_at, TimestampTz now, int arrival_ms)
{
	return !TimestampDifferenceExceeds(asked_at, now, arrival_ms) &&
		   !TimestampDifferenceExceeds(now, asked_at, arrival_ms);
}

TimestampTz
es_end_of_pause(TimestampTz until, TimestampTz now, int longest_ms)
{
	return TimestampDifferenceExceeds(now, until, longest_ms + 1) ? 0 : until;
}

bool
es_dismiss_process(const SharedDatabase *db, Oid database, LWLock *lock,
				   const pid_t *pid)
{
	bool gone;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	gone = db->database != database || *pid == 0;
	/* its exit callback needs the lock, so the process is still there */
	if (!gone)
		kill(*pid, SIGTERM);
	LWLockRelease(lock);
	return gone;
}
