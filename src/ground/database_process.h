/*
 * database_process.h
 *		What all processes of a database are registered with.
 */
#ifndef ES_DATABASE_PROCESS_H
#define ES_DATABASE_PROCESS_H

#include "postmaster/bgworker.h"

#include "ground/shmem.h"

/*
 * Fills in all but whom it notifies: its function is es_<kind>_main, its argument the
 * database's number, and bgw_extra begins with the database.
 */
extern void es_describe_process(BackgroundWorker *worker, const SharedDatabase *db,
								Oid database, const char *kind);

#endif /* ES_DATABASE_PROCESS_H */
