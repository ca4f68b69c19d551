/*
 * project.h
 *		Projections going on: one batch.
 */
#ifndef ES_PROJECT_H
#define ES_PROJECT_H

#include "consume/projection.h"

/* What a batch came to. */
typedef enum Projected
{
	ES_PROJECTED_NOTHING, /* there was nothing to do */
	ES_PROJECTED_BUSY,	  /* somebody else is at it, or needs it for himself */
	ES_PROJECTED_PASSED,  /* nothing for it; there is more to look at */
	ES_PROJECTED_EVENTS,  /* something was taken in, or is settled otherwise */
	ES_PROJECTED_PAUSES	  /* something else than an event is at fault */
} Projected;

/*
 * Takes in the next events of a projection, in this transaction, so many at most, and
 * counts them.  An event that cannot be taken in is dealt with as its subscription says.
 * What is none of the events' fault is raised; in the background events that were taken
 * in before it are kept, and it is noted as a pause.  In the foreground whoever
 * is at it is waited for, and a projection that is paused goes on, too.
 */
extern Projected es_project(const Projection *projection, int max_events,
							bool foreground, int64 *events);
/* Whether an error is that of an event, rather than of the moment. */
extern bool es_is_failure(int sqlerrcode);

#endif /* ES_PROJECT_H */
