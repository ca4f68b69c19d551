/*
 * view_fold.h
 *		Events into rows of a view.
 */
#ifndef ES_VIEW_FOLD_H
#define ES_VIEW_FOLD_H

#include "storage/itemptr.h"

#include "ground/event.h"
#include "replay/event_rows.h"
#include "replay/fold.h"
#include "replay/reducer.h"
#include "replay/row_key.h"
#include "replay/rules.h"
#include "replay/state.h"

/* How a view is made of events. */
typedef struct ViewDefinition
{
	Datum name; /* of the view and of its projection, a text */
	RowKey *key;
	Rules *rules;	  /* NULL: by the reducer */
	Reducer reducer;  /* of the one type whose aggregates the rows are */
	bool by_sequence; /* a row's version is a sequence, else a position */
} ViewDefinition;

/*
 * A row that events touch.  Whoever keeps the view fills in what it has, and writes
 * what has changed.
 */
typedef struct ViewRow
{
	text *key;
	bool kept;	   /* there is such a row ... */
	Datum data;	   /* ... with this jsonb ... */
	int64 version; /* ... of this version; afterwards of the last event in it */
	ItemPointerData at;	 /* ... at this place of its table */
	bool changed;		 /* it is to be written */
	struct State *state; /* once an event has been folded in, by rules ... */
	Fold *fold;			 /* ... or by the reducer */
} ViewRow;

typedef struct ViewFold ViewFold;

/*
 * Begins with events in their order, in the current memory context, in which all
 * of it lives.
 */
extern ViewFold *es_view_fold_begin(const ViewDefinition *definition,
									EventRow *events, int count);
/*
 * Finds the rows of all events.  Where it raises, "*done" events before the one at
 * fault are in order, here and in the next.
 */
extern void es_view_fold_place(ViewFold *fold, const RowKeyAccess *access,
							   int *done);
/* The rows that are touched, in the order of their keys. */
extern ViewRow **es_view_fold_rows(ViewFold *fold, int *count);
/* Folds, once the rows are filled in. */
extern void es_view_fold_apply(ViewFold *fold, int *done);
/* What is to be kept of a row, in the current memory context; 0 = nothing. */
extern Datum es_view_row_result(const ViewRow *row);

#endif /* ES_VIEW_FOLD_H */
