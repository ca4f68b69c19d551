/*
 * database_process.h
 *		What all processes of a database are registered with, and what their places have
 *		in common.
 */
#ifndef ES_DATABASE_PROCESS_H
#define ES_DATABASE_PROCESS_H

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"
#include "storage/lwlock.h"

#include "ground/shmem.h"

/*
 * Fills in all but whom it notifies: its function is es_<kind>_main, its argument the
 * database's number, and bgw_extra begins with the database.
 */
extern void es_describe_process(BackgroundWorker *worker, const SharedDatabase *db,
								Oid database, const char *kind);

/* The same, with nobody notified, and started; false where no process is to be had. */
extern bool es_start_process(const SharedDatabase *db, const char *kind);
/*
 * Whether a process that was asked for at a time may still arrive, for so long.  A time
 * that is to come is one from before the clock was set back.
 */
extern bool es_may_arrive(TimestampTz asked_at, TimestampTz now, int arrival_ms);
/*
 * When a pause ends that is never longer than this; at once, if it began before the clock
 * was set back.
 */
extern TimestampTz es_end_of_pause(TimestampTz until, TimestampTz now,
								   int longest_ms);
/*
 * Tells the process of a place to go, as long as the place is a database's; whether it
 * is gone.  Its exit callback takes the lock of the place, and with it the pid out of it.
 */
extern bool es_dismiss_process(const SharedDatabase *db, Oid database,
							   LWLock *lock, const pid_t *pid);

#endif /* ES_DATABASE_PROCESS_H */
