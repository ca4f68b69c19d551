/*
 * view_projection.h
 *		Projections that keep a view.
 */
#ifndef ES_VIEW_PROJECTION_H
#define ES_VIEW_PROJECTION_H

#include "fmgr.h"

#include "consume/projection.h"
#include "replay/view_fold.h"

/* What keeps its events in order: a word for partition_by. */
extern const char *es_view_partitioning(const ViewDefinition *definition);
/* Refuses, with 22023, more members than one for a key that cannot be divided. */
extern void es_check_view_members(int members, const ViewDefinition *definition);
/* The second argument of a call: the types that events come from, at least one. */
extern int es_view_types_argument(FunctionCallInfo fcinfo, Datum **types);
/* Takes in a batch: the kind "view". */
extern void es_apply_view(ProjectionBatch *batch);

#endif /* ES_VIEW_PROJECTION_H */
