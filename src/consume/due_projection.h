/*
 * due_projection.h
 *		Which projections have something to do.
 */
#ifndef ES_DUE_PROJECTION_H
#define ES_DUE_PROJECTION_H

#include "datatype/timestamp.h"

/* What a projector has to do: a projection, or the steps of sagas whose handlers a role has. */
typedef struct DueWork
{
	Datum name; /* a text; of steps that of the role */
	bool steps;
	uint64 hash;
	Oid role;		   /* that it runs as; InvalidOid = the store's owner */
	bool role_is_gone; /* there is no role of that name any more */
	TimestampTz due;   /* DT_NOEND = nothing to do */
	bool waits;		   /* for events: neither paused nor stopped */
	bool by_log;	   /* there are events it has not looked at */
	TimestampTz turn_at;
} DueWork;

/*
 * All that are taken in by processes, in the current memory context, and how many.
 * Outside of an owner's scope.
 */
extern DueWork *es_list_due_projections(int *count);

#endif /* ES_DUE_PROJECTION_H */
