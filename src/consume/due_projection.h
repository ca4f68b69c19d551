/*
 * due_projection.h
 *		Which projections have something to do.
 */
#ifndef ES_DUE_PROJECTION_H
#define ES_DUE_PROJECTION_H

#include "datatype/timestamp.h"

typedef struct DueProjection
{
	Datum name; /* a text */
	uint64 hash;
	Oid role;		   /* that it runs as; InvalidOid = the store's owner */
	bool role_is_gone; /* there is no role of that name any more */
	TimestampTz due;   /* DT_NOEND = nothing to do */
	bool waits;		   /* for events: neither paused nor stopped */
	bool by_log;	   /* there are events it has not looked at */
	TimestampTz turn_at;
} DueProjection;

/*
 * All that are taken in by processes, in the current memory context, and how many.
 * Outside of an owner's scope.
 */
extern DueProjection *es_list_due_projections(int *count);

#endif /* ES_DUE_PROJECTION_H */
