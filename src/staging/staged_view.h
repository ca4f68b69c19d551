/*
 * staged_view.h
 *		The staged writes of a view key.
 */
#ifndef ES_STAGED_VIEW_H
#define ES_STAGED_VIEW_H

#include "staging/staged_row.h"

/*
 * The newest, or the oldest, staged row of a key under the active snapshot, in
 * the current memory context.
 */
extern bool es_find_staged_view(Datum view_name, Datum view_key, bool newest,
								StagedRow *row);

#endif /* ES_STAGED_VIEW_H */
