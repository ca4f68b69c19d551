/*
 * inline_view.c
 *		Views that are folded in the append itself, and so are never behind the log.
 *
 * An append has locked its aggregates.  It works out the rows that its events touch in all
 * inline views, locks the keys of these together, in the order of lock.c, takes its
 * positions, folds and inserts.  The keys stay locked to the end of the transaction: so on each row
 * events fold in the order of their positions.
 *
 * Each backend knows the inline views, compiled, until table projections is invalidated.  Whoever
 * makes a view inline, or ends that, closes the gate of aggregates to the end of his transaction.  An
 * append looks after it has passed that gate, so it has heard of all that was committed before.  Where
 * there are no inline views that is two comparisons.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/pair_table.h"
#include "log/view_owner.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"
#include "replay/view_batch.h"
#include "replay/view_definition.h"
#include "replay/view_fold.h"
#include "write/inline_view.h"

typedef struct InlineView
{
	ViewDefinition definition;
	Datum *types;
	int type_count;
} InlineView;

/* Those that are known, and since which change of projections. */
static MemoryContext views_context = NULL;
static InlineView *views = NULL;
static int view_count = 0;
static uint64 known_at = PG_UINT64_MAX;

/* ---------- which there are ---------- */

static Datum
copied(HeapTuple row, TupleDesc desc, int number)
{
	bool isnull;
	Datum value = SPI_getbinval(row, desc, number, &isnull);

	return isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

static void
define(InlineView *view, HeapTuple row, TupleDesc desc)
{
	es_stored_view_types(copied(row, desc, 4), &view->types, &view->type_count);
	/* a reducer that is gone is the matter of appends of its type alone */
	es_declare_view(copied(row, desc, 1), copied(row, desc, 2),
					copied(row, desc, 3), view->type_count, &view->definition);
}

static void
look_up_views(void)
{
	static KeptPlan plan = {
		"SELECT p.projection_name, p.key, p.rules, s.aggregate_types"
		" FROM event_store.projections p"
		" JOIN event_store.subscriptions s"
		" ON s.subscription_name OPERATOR(pg_catalog.=) p.projection_name"
		" WHERE p.mode OPERATOR(pg_catalog.=) 'inline'"
		" ORDER BY p.projection_name"};
	MemoryContext caller = CurrentMemoryContext;
	SPITupleTable *table;
	OwnerScope scope;
	uint64 heard = es_projection_changes;
	uint64 count;

	es_watch_projections();
	/* an append that has a trigger append may be at work with what was known */
	if (views_context != NULL)
		MemoryContextSetParent(views_context, TopTransactionContext);
	views_context =
		AllocSetContextCreate(TopMemoryContext, "event_store inline views",
							  ALLOCSET_DEFAULT_SIZES);
	known_at = PG_UINT64_MAX;
	view_count = 0;
	if (!es_has_projections())
	{
		known_at = heard;
		return;
	}
	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	count = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	table = SPI_tuptable;
	MemoryContextSwitchTo(views_context);
	views = palloc(Max(count, 1) * sizeof(InlineView));
	for (uint64 i = 0; i < count; i++)
		define(&views[i], table->vals[i], table->tupdesc);
	MemoryContextSwitchTo(caller);
	es_end(&scope);
	view_count = (int) count;
	known_at = heard;
}

static bool
is_of(const InlineView *view, Datum aggregate_type)
{
	for (int i = 0; i < view->type_count; i++)
	{
		if (es_same_text(view->types[i], aggregate_type))
			return true;
	}
	return false;
}

bool
es_is_inline_type(Datum aggregate_type)
{
	while (known_at != es_projection_changes)
		look_up_views();
	for (int i = 0; i < view_count; i++)
	{
		if (is_of(&views[i], aggregate_type))
			return true;
	}
	return false;
}

/* ---------- an append ---------- */

/* What an append does to one view. */
typedef struct InlineFold
{
	ViewDefinition definition;
	ViewBatch batch;
	EventRow **sources; /* of the events, which get their positions there */
	ViewRun *run;
} InlineFold;

struct InlineFolds
{
	InlineFold *folds;
	int count;
};

/* Finds the rows of a view; false if no event is for it. */
static bool
begin_fold(const InlineView *view, InlineFold *fold, EventRow **rows, int count)
{
	bool upcasts = es_upcasts();

	memset(fold, 0, sizeof(*fold));
	fold->definition = view->definition;
	fold->batch.events =
		palloc_extended(count * sizeof(EventRow), MCXT_ALLOC_HUGE);
	fold->sources = palloc_extended(count * sizeof(EventRow *), MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
	{
		if (!is_of(view, rows[i]->values[EV_AGGREGATE_TYPE]))
			continue;
		fold->sources[fold->batch.count] = rows[i];
		fold->batch.events[fold->batch.count] = *rows[i];
		/* as a rebuild from the log has it */
		if (upcasts)
			(void) es_upcast(fold->batch.events[fold->batch.count].values,
							 fold->batch.events[fold->batch.count].nulls);
		fold->batch.count++;
	}
	if (fold->batch.count == 0)
		return false;
	/* the reducer that is registered now */
	if (fold->definition.rules == NULL)
		es_renew_reducer(&fold->definition, view->types[0]);
	fold->run = es_place_view_batch(&fold->definition, &fold->batch);
	return true;
}

/* Locks the rows of all views together. */
static void
lock_rows(const InlineFolds *folds)
{
	uint64 *hashes;
	int count = 0;

	for (int i = 0; i < folds->count; i++)
		count += es_view_run_hashes(folds->folds[i].run, NULL);
	if (count == 0)
		return;
	hashes = palloc_extended(count * sizeof(uint64), MCXT_ALLOC_HUGE);
	count = 0;
	for (int i = 0; i < folds->count; i++)
		count += es_view_run_hashes(folds->folds[i].run, hashes + count);
	es_lock_pairs(ES_LOCK_VIEW_KEY, hashes, count);
	pfree(hashes);
}

InlineFolds *
es_begin_inline_folds(EventRow **rows, int count)
{
	InlineFolds *folds = palloc0(sizeof(InlineFolds));

	folds->folds = palloc(Max(view_count, 1) * sizeof(InlineFold));
	for (int i = 0; i < view_count; i++)
	{
		if (begin_fold(&views[i], &folds->folds[folds->count], rows, count))
			folds->count++;
	}
	lock_rows(folds);
	return folds;
}

void
es_end_inline_folds(InlineFolds *folds)
{
	for (int i = 0; i < folds->count; i++)
	{
		InlineFold *fold = &folds->folds[i];

		for (int e = 0; e < fold->batch.count; e++)
		{
			fold->batch.events[e].values[EV_GLOBAL_POSITION] =
				fold->sources[e]->values[EV_GLOBAL_POSITION];
			fold->batch.events[e].nulls[EV_GLOBAL_POSITION] = false;
		}
		es_fold_view_batch(fold->run);
	}
}
