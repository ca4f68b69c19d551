/*
 * view_batch.h
 *		A batch of events folded into the rows of a view.
 */
#ifndef ES_VIEW_BATCH_H
#define ES_VIEW_BATCH_H

#include "ground/event.h"
#include "replay/view_fold.h"

/* How far a batch has come. */
typedef struct ViewBatch
{
	EventRow *events; /* in their order */
	int count;
	bool building; /* into what a rebuild keeps, rather than into the view */
	int done;	   /* where it raises: so many events are in order, ... */
	bool exact;	   /* ... and the next one is at fault, rather than any */
} ViewBatch;

/*
 * Folds, in this transaction; the caller sees to it that nobody else writes the rows.
 * Outside of an owner's scope.
 */
extern void es_fold_into_view(const ViewDefinition *definition, ViewBatch *batch);
/*
 * The same in two halves.  The first finds the rows, which may be locked then by the hashes of
 * their keys: returns how many, NULL asks only that.
 */
typedef struct ViewRun ViewRun;

extern ViewRun *es_place_view_batch(const ViewDefinition *definition,
									ViewBatch *batch);
extern int es_view_run_hashes(const ViewRun *run, uint64 *hashes);
extern void es_fold_view_batch(ViewRun *run);
/* Takes away what a rebuild of a view has kept.  In an owner's scope. */
extern void es_forget_built(Datum view_name);

#endif /* ES_VIEW_BATCH_H */
