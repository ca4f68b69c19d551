/*
 * database_process.c
 *		What all processes of a database are registered with.
 *
 * They start where there is no recovery, and PostgreSQL does not start them again: whoever
 * wants one looks whether it is there.
 */
#include "postgres.h"

#include "postmaster/bgworker.h"

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
