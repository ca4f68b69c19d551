/*
 * view_projection.h
 *		Projections that keep a view.
 */
#ifndef ES_VIEW_PROJECTION_H
#define ES_VIEW_PROJECTION_H

#include "consume/projection.h"
#include "replay/view_fold.h"

/*
 * How the view of a projection is made, of the events of these types, in the current
 * memory context.  Reports what is wrong as 22023.  Outside of an owner's scope.
 */
extern void es_define_view(const Projection *projection,
						   const Datum *aggregate_types, int type_count,
						   ViewDefinition *definition);
/* Takes in a batch: the kind "view". */
extern void es_apply_view(ProjectionBatch *batch);

#endif /* ES_VIEW_PROJECTION_H */
