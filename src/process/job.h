/*
 * job.h
 *		The jobs of a worker.
 */
#ifndef ES_JOB_H
#define ES_JOB_H

#include "datatype/timestamp.h"
#include "utils/timestamp.h"

#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "process/step.h"
#include "staging/drain.h"

/* A worker with nothing to do leaves after this long. */
#define ES_IDLE_EXIT_MS 60000
/* Under sustained load jobs that give way get a turn after so many rounds. */
#define ES_ROUNDS_PER_TURN 16

/* When a job may run again. */
typedef struct JobTurn
{
	TimestampTz not_before; /* it rests, or pauses after a failure ... */
	long rest;				/* ... no longer than this, in ms */
	TimestampTz failed_at;
} JobTurn;

/* What a worker knows between its turns. */
struct Work
{
	SharedDatabase *db;
	char database[NAMEDATALEN];
	bool store_gone; /* as far as we know */
	bool called;	 /* staging shall be open, and open for this very store */
	bool needed;	 /* by anybody since it came up, so that it stays a while */

	/* what the last step told */
	RoundResult round;			/* the last */
	bool rotated;				/* writers go to another segment now */
	bool closed;				/* staging is */
	int64 pruned;				/* rows of the history */
	char error[ES_ERROR_CHARS]; /* "" = none */

	/* the pace */
	TimestampTz last_work_at;  /* end of the last job to stay for */
	TimestampTz last_round_at; /* end of the last round */
	int empty_rounds;		   /* due, yet without effect, in a row */
	int rounds;				   /* since others had a turn */
	TimestampTz projectors_at; /* when projectors are looked after, without a call */
	TimestampTz prune_at; /* the history of dead letters, at the earliest */
	bool space_drained;	  /* since it was looked after */
	int last_job;
	JobTurn turns[ES_MAX_JOBS];
};

typedef struct Job
{
	const char *name;
	/* in milliseconds: 0 = now, -1 = there is nothing to do */
	long (*time_until_due)(const Work *work);
	/* does a bounded piece; may set when it is to run again at the earliest */
	bool (*run)(Work *work, JobTurn *turn);
	bool keeps_worker; /* who has this to do stays, and for a minute longer */
	bool gives_way;	   /* to rounds of draining under sustained load */
	int first_pause;   /* after a failure, in ms; 0 = retry_initial */
	/* whether somebody waits: then it pauses for a part of the time */
	bool (*hurried)(SharedDatabase *db);
	void (*failed)(Work *work);
} Job;

/* Those that the others depend on. */
enum
{
	ES_JOB_OPEN,
	ES_JOB_DRAIN
};

/* At most ES_MAX_JOBS. */
extern const Job es_jobs[];
extern const int es_job_count;

/* For the last rounds before a stop, too. */
extern const Step es_drain_step;
extern const Step es_close_step;

/*
 * Exits, unless somebody called or nudged us since we last looked.  What was
 * known of a store that is no more is forgotten; what comes meanwhile speaks of
 * the next one, which is looked at from the start.
 */
extern void es_leave_unless_called(Work *work);

static inline long
es_milliseconds_until(TimestampTz at)
{
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), at);
}

/* The same of a time that is never farther ahead than this: else the clock was set back. */
static inline long
es_milliseconds_of(TimestampTz at, long most)
{
	long left = es_milliseconds_until(at);

	return left > most ? 0 : left;
}

/* What is left of a pause that began at a time. */
static inline long
es_milliseconds_left(TimestampTz since, long pause)
{
	return es_milliseconds_of(TimestampTzPlusMilliseconds(since, pause), pause);
}

#endif /* ES_JOB_H */
