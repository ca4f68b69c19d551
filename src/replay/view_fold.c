/*
 * view_fold.c
 *		Folding events into the rows of a view that they belong to.
 *
 * A batch of events is folded in two passes.  The first asks the view's key for the
 * rows of each event, so that whoever keeps the view can read all of them at
 * once.  The second folds the events in their order, each into its rows.  A row is
 * decoded when the first event comes to it, and encoded once at the end.
 *
 * Where an event moves a row, the row of the old key ends, and the one of the new
 * key goes on with its state.
 *
 * This file reads and writes nothing: a projection, a rebuild beside it and an append
 * fold alike.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "ground/event.h"
#include "ground/pair_table.h"
#include "replay/event_rows.h"
#include "replay/fold.h"
#include "replay/rules.h"
#include "replay/state.h"
#include "replay/view_fold.h"

/* An event that belongs to a row. */
typedef struct Touch
{
	int event;
	ViewRow *row;
	ViewRow *from; /* the row that becomes this one; NULL = none */
	const JsonbValue *item;
} Touch;

struct ViewFold
{
	const ViewDefinition *definition;
	EventRow *events;
	int count;
	MemoryContext context;
	MemoryContext scratch; /* of an event that is folded */
	MemoryContext states;  /* of all rows */
	PairTable *numbers;	   /* of rows, by the view's name and their keys */
	ViewRow **rows;
	int row_count;
	int row_room;
	Touch *touches;
	int touch_count;
	int touch_room;
	const EventRow *event; /* at hand, for messages */
};

static void
describe_event(void *arg)
{
	const ViewFold *fold = arg;
	const Datum *values;

	if (fold->event == NULL)
		return;
	values = fold->event->values;
	errcontext("projection \"%s\" at event %lld (%s) of %s/%s",
			   TextDatumGetCString(fold->definition->name),
			   (long long) DatumGetInt64(values[EV_SEQUENCE]),
			   TextDatumGetCString(values[EV_EVENT_TYPE]),
			   TextDatumGetCString(values[EV_AGGREGATE_TYPE]),
			   TextDatumGetCString(values[EV_AGGREGATE_ID]));
}

ViewFold *
es_view_fold_begin(const ViewDefinition *definition, EventRow *events, int count)
{
	ViewFold *fold = palloc0(sizeof(ViewFold));

	fold->definition = definition;
	fold->events = events;
	fold->count = count;
	fold->context = CurrentMemoryContext;
	fold->scratch =
		AllocSetContextCreate(CurrentMemoryContext, "event_store folded event",
							  ALLOCSET_DEFAULT_SIZES);
	fold->states =
		AllocSetContextCreate(CurrentMemoryContext, "event_store folded rows",
							  ALLOCSET_DEFAULT_SIZES);
	fold->numbers = es_pair_table(count);
	return fold;
}

/* ---------- which rows ---------- */

static ViewRow *
row_of(ViewFold *fold, text *key)
{
	bool found;
	int64 *number = es_pair_enter(fold->numbers, fold->definition->name,
								  PointerGetDatum(key), &found);

	if (found)
		return fold->rows[*number];
	if (fold->row_count == fold->row_room)
	{
		fold->row_room = Max(fold->row_room * 2, 64);
		fold->rows =
			fold->rows == NULL
				? palloc(fold->row_room * sizeof(ViewRow *))
				: repalloc(fold->rows, fold->row_room * sizeof(ViewRow *));
	}
	*number = fold->row_count;
	fold->rows[fold->row_count] = palloc0(sizeof(ViewRow));
	fold->rows[fold->row_count]->key = key;
	return fold->rows[fold->row_count++];
}

static void
add_touch(ViewFold *fold, int event, const EventRowKey *key)
{
	Touch touch = {.event = event, .item = key->item};

	touch.row = row_of(fold, key->key);
	/* a row that others have a part in stays with them */
	if (key->moved_from != NULL && key->own)
		touch.from = row_of(fold, key->moved_from);
	if (fold->touch_count == fold->touch_room)
	{
		fold->touch_room = Max(fold->touch_room * 2, 64);
		fold->touches =
			fold->touches == NULL
				? palloc(fold->touch_room * sizeof(Touch))
				: repalloc(fold->touches, fold->touch_room * sizeof(Touch));
	}
	fold->touches[fold->touch_count++] = touch;
}

/* What paths look into is taken out of its tuple once, for all rows of the event. */
static void
unpack(EventRow *event)
{
	static const int columns[] = {EV_PAYLOAD, EV_METADATA};

	for (int i = 0; i < (int) lengthof(columns); i++)
	{
		if (!event->nulls[columns[i]])
			event->values[columns[i]] =
				PointerGetDatum(PG_DETOAST_DATUM(event->values[columns[i]]));
	}
}

static void
begin_describing(ViewFold *fold, ErrorContextCallback *callback)
{
	callback->callback = describe_event;
	callback->arg = fold;
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

static void
end_describing(ViewFold *fold, const ErrorContextCallback *callback)
{
	error_context_stack = callback->previous;
	fold->event = NULL;
}

void
es_view_fold_place(ViewFold *fold, const RowKeyAccess *access, int *done)
{
	ErrorContextCallback callback;

	begin_describing(fold, &callback);
	for (int i = 0; i < fold->count; i++)
	{
		EventRowKey *keys;
		int count;

		*done = i;
		fold->event = &fold->events[i];
		unpack(&fold->events[i]);
		keys = es_event_rows(fold->definition->key, access, fold->event->values,
							 fold->event->nulls, &count);
		for (int k = 0; k < count; k++)
			add_touch(fold, i, &keys[k]);
	}
	end_describing(fold, &callback);
}

static int
compare_rows(const void *a, const void *b)
{
	const ViewRow *x = *(ViewRow *const *) a;
	const ViewRow *y = *(ViewRow *const *) b;

	return es_compare_keys(PointerGetDatum(x->key), PointerGetDatum(y->key));
}

ViewRow **
es_view_fold_rows(ViewFold *fold, int *count)
{
	ViewRow **rows = palloc(Max(fold->row_count, 1) * sizeof(ViewRow *));

	*count = fold->row_count;
	if (fold->row_count > 0)
		memcpy(rows, fold->rows, fold->row_count * sizeof(ViewRow *));
	qsort(rows, fold->row_count, sizeof(ViewRow *), compare_rows);
	return rows;
}

/* ---------- folding ---------- */

/* Decodes a row that no event has come to yet. */
static void
open_row(ViewFold *fold, ViewRow *row)
{
	const ViewDefinition *definition = fold->definition;
	MemoryContext caller;

	if (row->state != NULL || row->fold != NULL)
		return;
	caller = MemoryContextSwitchTo(fold->context);
	if (definition->rules != NULL)
		row->state =
			es_state_begin_in(fold->states, row->data == (Datum) 0
												? NULL
												: DatumGetJsonbP(row->data));
	else
	{
		row->fold = es_fold_create(fold->scratch);
		es_fold_use(row->fold, &definition->reducer);
		es_fold_start(row->fold, row->data, row->version);
	}
	MemoryContextSwitchTo(caller);
}

/* The row of the old key ends, and what it had is that of the new key. */
static bool
move_row(ViewFold *fold, ViewRow *from, ViewRow *to)
{
	State *state;

	open_row(fold, from);
	if (es_state_root(from->state)->kind == NODE_NONE)
		return false;
	state = to->state;
	to->state = from->state;
	from->state = state;
	if (es_state_root(state)->kind != NODE_NONE)
		es_node_clear(state, es_state_root(state));
	from->changed = true;
	return true;
}

static void
fold_into_row(ViewFold *fold, const Touch *touch)
{
	const ViewDefinition *definition = fold->definition;
	EventRow *event = &fold->events[touch->event];
	ViewRow *row = touch->row;
	bool moved = false;
	bool applied;

	open_row(fold, row);
	if (definition->rules == NULL)
		applied = es_fold_event(row->fold, event->values, event->nulls);
	else
	{
		if (touch->from != NULL)
			moved = move_row(fold, touch->from, row);
		applied = es_rules_apply_to_row(definition->rules, row->state,
										event->values, event->nulls, touch->item);
	}
	/* what comes to a row and does nothing there leaves no trace */
	if (!applied && !moved)
		return;
	row->changed = true;
	row->version =
		DatumGetInt64(event->values[definition->by_sequence ? EV_SEQUENCE
															: EV_GLOBAL_POSITION]);
}

void
es_view_fold_apply(ViewFold *fold, int *done)
{
	MemoryContext caller = MemoryContextSwitchTo(fold->scratch);
	ErrorContextCallback callback;

	begin_describing(fold, &callback);
	for (int i = 0; i < fold->touch_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		*done = fold->touches[i].event;
		fold->event = &fold->events[*done];
		fold_into_row(fold, &fold->touches[i]);
		MemoryContextReset(fold->scratch);
	}
	end_describing(fold, &callback);
	MemoryContextSwitchTo(caller);
}

Datum
es_view_row_result(const ViewRow *row)
{
	if (row->fold != NULL)
		return es_fold_result(row->fold);
	return PointerGetDatum(es_state_result(row->state));
}
