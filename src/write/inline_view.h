/*
 * inline_view.h
 *		Views that are folded in the append itself.
 */
#ifndef ES_INLINE_VIEW_H
#define ES_INLINE_VIEW_H

#include "ground/event.h"

/*
 * Whether events of an aggregate type are folded into views by their append.  It is
 * asked with an aggregate's lock held, and stays so to the end of the transaction.
 */
extern bool es_is_inline_type(Datum aggregate_type);

typedef struct InlineFolds InlineFolds;

/*
 * Finds the rows that events touch, of all inline views, and locks them to the end of
 * the transaction.  The events have no positions yet.
 */
extern InlineFolds *es_begin_inline_folds(EventRow **rows, int count);
/* Folds, once the events have their positions. */
extern void es_end_inline_folds(InlineFolds *folds);

#endif /* ES_INLINE_VIEW_H */
