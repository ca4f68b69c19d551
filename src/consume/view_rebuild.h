/*
 * view_rebuild.h
 *		Projected views made anew, or of another definition.
 */
#ifndef ES_VIEW_REBUILD_H
#define ES_VIEW_REBUILD_H

#include "consume/projection.h"

/*
 * Makes the view of a projection anew, as it is defined, in this transaction; returns
 * how many rows it has changed.
 */
extern int64 es_rebuild_kept_view(const Projection *projection);
/* To be taken before a projection's subscription by who rebuilds or drops it. */
extern void es_lock_rebuild(Datum name);

#endif /* ES_VIEW_REBUILD_H */
