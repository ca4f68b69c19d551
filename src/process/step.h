/*
 * step.h
 *		A step of a worker's job.
 */
#ifndef ES_STEP_H
#define ES_STEP_H

#include "ground/shmem.h"

/* What steps work on, and leave their findings in: job.h. */
typedef struct Work Work;

typedef struct Step
{
	const char *activity; /* in pg_stat_activity and the log */
	void (*run)(Work *work);
	bool worth_finishing; /* a stop of the server does not cancel it */
	bool waits;			  /* as long as it takes, for what others have locked */
	/* nobody waits for it, and a later run makes up for it if a crash loses it */
	bool unflushed;
} Step;

/* Runs one in its own transaction; of an error the message is left, too. */
extern bool es_run_step(SharedDatabase *db, const Step *step, Work *work,
						char *message);

/* Once for the process. */
extern void es_prepare_limits(void);
/* The step has so many milliseconds, and as many again to end when canceled. */
extern void es_limit_step(int ms);
extern void es_lift_limit(void);

/* Whose steps run from here on; -1 = no job's. */
extern void es_set_running_job(int job);
/* The job one of whose steps did not end, at the end of the process; else -1. */
extern int es_overdue_job(void);

#endif /* ES_STEP_H */
