/*
 * worker_slot.h
 *		A database's worker, and the launcher.
 */
#ifndef ES_WORKER_SLOT_H
#define ES_WORKER_SLOT_H

#include "datatype/timestamp.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"

#include "ground/shmem.h"

/* Of the message of an error so much is shown. */
#define ES_ERROR_CHARS 256
/* A worker has at most so many kinds of work; job.c has their table. */
#define ES_MAX_JOBS 16

typedef enum WorkerState
{
	ES_WORKER_NONE,
	ES_WORKER_WANTED, /* the launcher shall start one */
	ES_WORKER_STARTING,
	ES_WORKER_RUNNING,
	ES_WORKER_UNAVAILABLE /* could not be started; tried again later */
} WorkerState;

/* How a job of the worker goes; it outlives the worker. */
typedef struct JobStatus
{
	bool running;
	int failures; /* in a row */
	TimestampTz last_run_at;
	char last_error[ES_ERROR_CHARS]; /* "" = none since the last success */
	TimestampTz last_error_at;
} JobStatus;

/*
 * The place of a database's worker.  SharedDatabase.lock protects all of it but
 * the condition variable.  "state" changes in worker_slot.c alone, and is read
 * without the lock where a stale answer does no harm.
 */
typedef struct WorkerSlot
{
	WorkerState state;
	pid_t pid;	  /* 0 = none */
	Latch *latch; /* NULL = none */
	TimestampTz started_at;
	TimestampTz wanted_at;	   /* since, or from, when one is; 0 = not */
	TimestampTz resting_at;	   /* since when nothing is due; 0 = it is busy */
	bool asked_to_go;		   /* others wait for the process */
	TimestampTz complained_at; /* that there is none, to a caller */
	bool ran;				   /* the last one got as far as running */
	bool called;			   /* es_wake_worker() since it last looked */
	bool nudged;			   /* es_nudge_worker(), or it was dismissed */
	int bars; /* commands that need the database to themselves; no
				  * worker starts meanwhile */
	JobStatus jobs[ES_MAX_JOBS]; /* in the order of job.c's table */
	/* after every change of state, every round and every opening of staging */
	ConditionVariable progress;
} WorkerSlot;

/* The place of the cluster's launcher.  SharedState.lock protects it. */
typedef struct LauncherSlot
{
	pid_t pid; /* 0 = none */
	Latch *latch;
	TimestampTz gone_at; /* since when there is none */
} LauncherSlot;

extern void es_share_worker_slots(void);

extern DatabasePart es_worker_part;

static inline WorkerSlot *
es_worker_slot(const SharedDatabase *db)
{
	return es_part(db, &es_worker_part);
}

/* Gives the slot of a database back that is no more ... */
extern void es_free_database(Oid database);
/* ... or in which no process of its database has shown interest. */
extern void es_release_database(Oid database);

extern const char *es_worker_state_name(WorkerState state);
/* Whether none could be had for this database when it was last tried. */
extern bool es_worker_unavailable(const SharedDatabase *db);
/* Says so to the caller and in the log, once in a while. */
extern void es_complain_of_no_worker(SharedDatabase *db);
/* Whether there is a worker, or can be one: not while it is barred. */
extern bool es_worker_possible(const SharedDatabase *db);
/*
 * Wakes the worker of a slot, or asks the launcher for one.  It makes sure that
 * staging is open and drains what is due.  Never raises.
 */
extern void es_wake_worker(SharedDatabase *db);
/* The same for other work, which is no reason to open staging. */
extern void es_nudge_worker(SharedDatabase *db);
/* Wakes (or starts) this database's worker once the transaction committed. */
extern void es_note_wake(void);
/* Lets those look again who wait for something that the worker does. */
extern void es_tell_progress(SharedDatabase *db);
/*
 * For waiting for that: see wait.h, whose es_end_wait ends it.  In the worker
 * itself, which would wait for ever, beginning raises an error.
 */
extern void es_begin_wait(SharedDatabase *db);
extern void es_wait(SharedDatabase *db, long timeout, uint32 wait_event);
/* Whether this process is that worker, and the error that says so. */
extern bool es_is_worker(const SharedDatabase *db);
extern void es_refuse_in_worker(const SharedDatabase *db);

/* While preloading: whether there will be a launcher. */
extern void es_expect_launcher(bool expected);
/* The launcher takes its place, until it exits. */
extern void es_enter_launcher_slot(void);
extern pid_t es_launcher_pid(void); /* 0 = none */
extern void es_wake_launcher(void);

/*
 * What the launcher does: is a worker to be started in this slot, and since, or
 * from, when is it wanted?
 */
extern bool es_worker_wanted(SharedDatabase *db, Oid database,
							 TimestampTz *wanted_at);
/* Is there one, or one on its way? */
extern bool es_worker_present(SharedDatabase *db);
/*
 * Whether a worker may be asked to leave its process to another: one that has
 * nothing due, since when, or that came up before "tenure".  Then it is asked.
 */
extern bool es_worker_may_go(SharedDatabase *db, TimestampTz tenure,
							 TimestampTz *resting_at, TimestampTz *started_at);
extern bool es_worker_asked_to_go(const SharedDatabase *db);
extern void es_ask_to_go(SharedDatabase *db);
extern bool es_worker_starting(SharedDatabase *db);
/* Wants a worker where there is none. */
extern void es_want_worker(SharedDatabase *db, Oid database);
/* Wants another one instead of one on its way that nobody knows of. */
extern void es_want_lost_worker(SharedDatabase *db);
/* Before a process is asked for, and when it was granted. */
extern void es_begin_start(SharedDatabase *db);
extern void es_mark_starting(SharedDatabase *db, Oid database);
/*
 * After the end of a worker that was started: whether there should be another,
 * and whether this one got as far as running.
 */
extern bool es_worker_missed(SharedDatabase *db, Oid database, bool *ran);
/* What becomes of a wish: it stays one, or nobody shall count on it. */
extern void es_settle_start(SharedDatabase *db, Oid database, bool possible);

/*
 * The worker takes its place, until it exits, and says that it is connected.
 * False where it is not wanted (any more): then it exits.
 */
extern bool es_enter_worker_slot(SharedDatabase *db, Oid database);
extern bool es_report_for_duty(SharedDatabase *db);
/*
 * Whether it was called since the last time that this was asked; sets "needed"
 * if it was that or nudged.
 */
extern bool es_take_call(SharedDatabase *db, bool *needed);
/* Lets it go, unless it was called or nudged since then. */
extern bool es_retire_worker(SharedDatabase *db);
/* From now on it has nothing due, or again. */
extern void es_note_rest(SharedDatabase *db, bool rests);
/*
 * It goes because others wait.  Its database wants another one in so many ms;
 * -1 = only when somebody calls.  A call that it took, and did not answer, is the
 * next one's.
 */
extern void es_yield_worker(SharedDatabase *db, long due, bool called);
/*
 * Around a run of one of its jobs.  An error, or NULL, is shown also where the
 * job as a whole did not fail.  Returns its failures in a row.
 */
extern void es_begin_job(SharedDatabase *db, int job);
extern void es_forget_job_failures(SharedDatabase *db, int job);
extern int es_end_job(SharedDatabase *db, int job, bool succeeded,
					  const char *error);
/* Copies as much of a message as is shown. */
extern void es_copy_error(char *error, const char *message);

/*
 * Keeps workers out of a database that a command needs for itself; NULL when
 * the cluster has no slot left for this.  Sets whether it has a store.
 */
extern SharedDatabase *es_bar_worker(Oid database, bool *has_store);
extern void es_unbar_worker(Oid database);
/* Tells the worker to go; its end is then no outage.  Returns whether it went. */
extern bool es_dismiss_worker(SharedDatabase *db, Oid database);

#endif /* ES_WORKER_SLOT_H */
