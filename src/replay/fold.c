/*
 * fold.c
 *		Folding events into a state, one by one and in order.
 *
 * A Fold belongs to one reducer and one aggregate at a time: it is told the
 * reducer once, starts each aggregate at a state, takes its events and gives
 * the state after the last.  For the built-in merge and for rules the state is
 * kept taken apart (state.c), for a function it is the jsonb that the last call
 * returned.  Nothing else is kept of an event: 100,000 need the memory of one.
 *
 * Around every call of a function the user is switched to the one it runs as
 * (reducer.c).  What a reducer raises gets the event as its context, and since
 * those contexts form a chain, they also tell how deep reducers that replay are
 * nested.
 *
 * A Series folds the aggregates of a type one after the other, from one stream
 * of their events in the order of aggregate and sequence.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/log_plan.h"
#include "ground/pair_table.h"
#include "ground/planning.h"
#include "log/archived.h"
#include "replay/fold.h"
#include "replay/merge.h"
#include "replay/named_function.h"
#include "replay/reducer.h"
#include "replay/rules.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "replay/state.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"

/* A reducer that replays may call itself so many times before we doubt it. */
#define MAX_NESTED_FOLDS 32

/* What must be there in any event. */
static const EventColumn required_columns[] = {EV_AGGREGATE_TYPE, EV_AGGREGATE_ID,
											   EV_SEQUENCE, EV_EVENT_TYPE};

static KeptPlan events_after = {.sql = ES_EVENT_SELECT
								" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
								" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
								" AND e.sequence OPERATOR(pg_catalog.>) $3"
								" AND e.sequence OPERATOR(pg_catalog.<=) $4"
								" ORDER BY e.sequence",
								.nargs = 4,
								.argtypes = {TEXTOID, TEXTOID, INT8OID, INT8OID}};

static void
describe_event(void *arg)
{
	const Fold *fold = arg;

	errcontext("reducer %s at event %lld (%s) of %s/%s", fold->reducer.name,
			   (long long) DatumGetInt64(fold->event[EV_SEQUENCE]),
			   TextDatumGetCString(fold->event[EV_EVENT_TYPE]),
			   TextDatumGetCString(fold->event[EV_AGGREGATE_TYPE]),
			   TextDatumGetCString(fold->event[EV_AGGREGATE_ID]));
}

/* Refuses a fold inside the reducer of a fold, and so on. */
static void
check_nesting(void)
{
	int depth = 0;

	for (ErrorContextCallback *c = error_context_stack; c != NULL; c = c->previous)
	{
		if (c->callback == describe_event)
			depth++;
	}
	if (depth >= MAX_NESTED_FOLDS)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("reducers replay within each other more than %d deep",
						MAX_NESTED_FOLDS),
				 errhint("A reducer must not replay the aggregate that it is called for.")));
}

Fold *
es_fold_create(MemoryContext scratch)
{
	Fold *fold;

	check_nesting();
	fold = palloc0(sizeof(Fold));
	/* a query may have one for each of its groups */
	fold->context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store fold",
							  ALLOCSET_SMALL_SIZES);
	fold->per_event = scratch;
	if (scratch == NULL)
		fold->per_event =
			AllocSetContextCreate(fold->context, "event_store event",
								  ALLOCSET_DEFAULT_SIZES);
	fold->up_to = PG_INT64_MAX;
	fold->until = DT_NOEND;
	fold->up_to_position = PG_INT64_MAX;
	fold->stop_at = DT_NOEND;
	fold->enclosing = error_context_stack;
	return fold;
}

void
es_fold_use(Fold *fold, const Reducer *reducer)
{
	MemoryContext caller = MemoryContextSwitchTo(fold->context);

	fold->reducer = *reducer;
	fold->upcasts = !reducer->saga && es_upcasts();
	if (OidIsValid(reducer->function))
	{
		fold->state_context =
			AllocSetContextCreate(fold->context, "event_store state",
								  ALLOCSET_SMALL_SIZES);
		fold->next_context =
			AllocSetContextCreate(fold->context, "event_store next state",
								  ALLOCSET_SMALL_SIZES);
		fmgr_info_cxt(reducer->function, &fold->call, fold->context);
		fold->event_desc = es_event_desc();
	}
	MemoryContextSwitchTo(caller);
}

void
es_fold_start(Fold *fold, Datum state, int64 sequence)
{
	MemoryContext caller;
	Jsonb *jsonb = NULL;

	if (OidIsValid(fold->reducer.function))
	{
		MemoryContextReset(fold->state_context);
		fold->function_state = (Datum) 0;
		caller = MemoryContextSwitchTo(fold->state_context);
		if (state != (Datum) 0)
			fold->function_state = PointerGetDatum(PG_DETOAST_DATUM_COPY(state));
	}
	else
	{
		if (fold->state != NULL)
			es_state_end(fold->state);
		if (fold->saga != NULL)
			es_saga_state_end(fold->saga);
		fold->state = NULL;
		fold->saga = NULL;
		if (state != (Datum) 0)
		{
			/* a series begins with one for each of its aggregates */
			MemoryContextReset(fold->per_event);
			caller = MemoryContextSwitchTo(fold->per_event);
			jsonb = DatumGetJsonbP(state);
			MemoryContextSwitchTo(caller);
		}
		caller = MemoryContextSwitchTo(fold->context);
		if (fold->reducer.saga)
			fold->saga = es_saga_state_begin(jsonb);
		else
			fold->state = es_state_begin(jsonb);
	}
	MemoryContextSwitchTo(caller);
	fold->sequence = sequence;
	fold->finished = false;
}

/* Calls the reducer as the user it runs as; the result is not copied yet. */
static Datum
call_reducer(Fold *fold, Datum event, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum result;

	InitFunctionCallInfoData(*fcinfo, &fold->call, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = fold->function_state;
	fcinfo->args[0].isnull = fold->function_state == (Datum) 0;
	fcinfo->args[1].value = event;
	fcinfo->args[1].isnull = false;
	result = es_call_as(fcinfo, fold->reducer.user, fold->reducer.security,
						fold->reducer.registered);
	*isnull = fcinfo->isnull;
	return result;
}

/* Replaces the state by what the reducer makes of it and an event. */
static void
fold_by_function(Fold *fold, Datum *values, bool *nulls)
{
	HeapTuple tuple = heap_form_tuple(fold->event_desc, values, nulls);
	MemoryContext old_context = fold->state_context;
	bool isnull;
	Datum result = call_reducer(fold, HeapTupleGetDatum(tuple), &isnull);

	if (!isnull && result == fold->function_state)
		return;
	MemoryContextSwitchTo(fold->next_context);
	fold->function_state =
		isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
	MemoryContextSwitchTo(fold->per_event);
	fold->state_context = fold->next_context;
	fold->next_context = old_context;
	MemoryContextReset(old_context);
}

bool
es_fold_is_bounded(const Fold *fold)
{
	return fold->up_to != PG_INT64_MAX || fold->until != DT_NOEND ||
		   fold->up_to_position != PG_INT64_MAX;
}

/*
 * Whether an event lies after the bounds.  A staged one has no position yet, and will
 * have one beyond all that are safe.
 */
static bool
is_beyond(const Fold *fold, const Datum *values, const bool *nulls)
{
	if (DatumGetInt64(values[EV_SEQUENCE]) > fold->up_to)
		return true;
	if (fold->until != DT_NOEND &&
		DatumGetTimestampTz(values[EV_RECORDED_AT]) > fold->until)
		return true;
	return fold->up_to_position != PG_INT64_MAX &&
		   (nulls[EV_GLOBAL_POSITION] ||
			DatumGetInt64(values[EV_GLOBAL_POSITION]) > fold->up_to_position);
}

/* One that no saga has (somebody wrote around the API) says nothing. */
static void
fold_into_saga(Fold *fold, const Datum *values, const bool *nulls)
{
	text *type = DatumGetTextPP(values[EV_EVENT_TYPE]);
	SagaEvent event;

	if (nulls[EV_PAYLOAD] ||
		!es_saga_event_read(VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type),
							DatumGetJsonbP(values[EV_PAYLOAD]), &event))
		return;
	es_saga_apply(fold->saga, &event,
				  nulls[EV_RECORDED_AT]
					  ? 0
					  : DatumGetTimestampTz(values[EV_RECORDED_AT]),
				  nulls[EV_CORRELATION_ID]
					  ? NULL
					  : TextDatumGetCString(values[EV_CORRELATION_ID]));
}

/* Folds an event of an old version in, as its last version has it. */
static bool
fold_old_event(Fold *fold, const Datum *values, const bool *nulls)
{
	Datum last_values[EV_COLUMNS];
	bool last_nulls[EV_COLUMNS];
	MemoryContext caller = MemoryContextSwitchTo(fold->per_event);

	memcpy(last_values, values, sizeof(last_values));
	memcpy(last_nulls, nulls, sizeof(last_nulls));
	(void) es_upcast(last_values, last_nulls);
	MemoryContextSwitchTo(caller);
	return es_fold_event(fold, last_values, last_nulls);
}

bool
es_fold_event(Fold *fold, Datum *values, bool *nulls)
{
	int64 sequence = DatumGetInt64(values[EV_SEQUENCE]);
	MemoryContext caller;
	ErrorContextCallback *surrounding = error_context_stack;
	ErrorContextCallback callback;

	CHECK_FOR_INTERRUPTS();
	if (es_fold_is_bounded(fold) && is_beyond(fold, values, nulls))
	{
		fold->finished = true;
		return false;
	}
	if (fold->upcasts && es_is_old_version(values))
		return fold_old_event(fold, values, nulls);

	/* the statement that brings the events is none of the user's */
	fold->event = values;
	callback.previous = fold->enclosing;
	callback.callback = describe_event;
	callback.arg = fold;
	error_context_stack = &callback;
	caller = MemoryContextSwitchTo(fold->per_event);

	fold->applied = true;
	if (OidIsValid(fold->reducer.function))
		fold_by_function(fold, values, nulls);
	else if (fold->reducer.saga)
		fold_into_saga(fold, values, nulls);
	else if (es_is_erased(values, nulls))
		fold->applied = false;
	else if (fold->reducer.rules != NULL)
		fold->applied =
			es_rules_apply(fold->reducer.rules, fold->state, values, nulls);
	else if (!nulls[EV_PAYLOAD])
		es_merge_apply(fold->state, DatumGetJsonbP(values[EV_PAYLOAD]));
	fold->sequence = sequence;

	MemoryContextSwitchTo(caller);
	error_context_stack = surrounding;
	return true;
}

Datum
es_fold_result(Fold *fold)
{
	if (fold->reducer.saga)
		return PointerGetDatum(es_saga_state_result(fold->saga));
	if (!OidIsValid(fold->reducer.function))
		return PointerGetDatum(es_state_result(fold->state));
	if (fold->function_state == (Datum) 0)
		return (Datum) 0;
	return PointerGetDatum(PG_DETOAST_DATUM_COPY(fold->function_state));
}

int
es_fold_columns(const Fold *fold)
{
	/* what says that an event was erased */
	int columns = EV_METADATA + 1;

	if (OidIsValid(fold->reducer.function) || fold->until != DT_NOEND ||
		fold->reducer.saga || fold->upcasts)
		return EV_COLUMNS;
	if (fold->reducer.rules != NULL)
		columns = Max(columns, es_rules_columns(fold->reducer.rules));
	return columns;
}

void
es_take_event(HeapTupleHeader header, TupleDesc desc, Datum *values, bool *nulls)
{
	HeapTupleData tuple;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);
	for (int i = 0; i < (int) lengthof(required_columns); i++)
	{
		EventColumn column = required_columns[i];

		if (nulls[column])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("%s of an event must not be null",
								   es_event_columns[column].name)));
	}
}

/* ---------- reading the events of one aggregate ---------- */

typedef struct RowReceiver
{
	DestReceiver pub;
	RowFunction function;
	void *arg;
} RowReceiver;

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;

	return receiver->function(slot, receiver->arg);
}

static void
start_receiving(DestReceiver *self, int operation, TupleDesc desc)
{
	(void) self;
	(void) operation;
	(void) desc;
}

static void
stop_receiving(DestReceiver *self)
{
	(void) self;
}

void
es_for_each_row(KeptPlan *plan, Datum *values, const char *nulls,
				RowFunction function, void *arg)
{
	RowReceiver receiver = {.pub =
								{
									.receiveSlot = receive_row,
									.rStartup = start_receiving,
									.rShutdown = stop_receiving,
									.rDestroy = stop_receiving,
									.mydest = DestTuplestore /* any that SPI does not treat itself */
								},
							.function = function,
							.arg = arg};

	es_execute_to(plan, values, nulls, &receiver.pub);
}

/*
 * Left alone, the planner sorts the log rather than read it in the order of its
 * index, which it takes to be on disk.  Where the log fits into the caches that is a
 * few times slower.
 *
 * The plan is made here, since the settings must not reach what runs meanwhile.
 */
void
es_plan_events(KeptPlan *plan)
{
	SPIPlanPtr prepared = es_plan(plan);
	int settings = NewGUCNestLevel();
	Relation events = table_open(es_store()->events, AccessShareLock);
	double size;

	es_set_for_planning("jit", "off");
	es_set_for_planning("enable_nestloop", "off");
	size = RelationGetNumberOfBlocks(events);
	table_close(events, AccessShareLock);
	if (es_anything_moved())
	{
		Relation archive = table_open(es_store()->archive, AccessShareLock);

		size += RelationGetNumberOfBlocks(archive);
		table_close(archive, AccessShareLock);
	}
	if (size <= effective_cache_size)
		es_set_for_planning("enable_sort", "off");
	es_forget_plan(prepared);
	es_make_plan(prepared);
	AtEOXact_GUC(false, settings);
}

/* Folds an event that was read from the store, where each follows the one before. */
static bool
fold_next(Fold *fold, Datum *values, bool *nulls)
{
	if (!es_fold_is_bounded(fold) || !is_beyond(fold, values, nulls))
		es_check_follows(fold->sequence, DatumGetInt64(values[EV_SEQUENCE]));
	return es_fold_event(fold, values, nulls);
}

static bool
fold_row(TupleTableSlot *slot, void *arg)
{
	Fold *fold = arg;

	MemoryContextReset(fold->per_event);
	slot_getsomeattrs(slot, es_fold_columns(fold));
	return fold_next(fold, slot->tts_values, slot->tts_isnull) &&
		   (fold->stop_at == DT_NOEND || GetCurrentTimestamp() < fold->stop_at);
}

/* The durable events of an aggregate, of which the first may be in the archive. */
typedef struct DurableEvents
{
	Fold *fold;
	Datum type;
	Datum id;
	bool has_met; /* a row of domain_events */
	bool more;
} DurableEvents;

static bool
fold_counted_row(TupleTableSlot *slot, void *arg)
{
	DurableEvents *events = arg;

	events->more = fold_row(slot, events->fold);
	return events->more;
}

/* Folds what the archive has behind the fold's sequence, up to another one. */
static void
fold_archived(DurableEvents *events, int64 up_to)
{
	Datum values[4] = {events->type, events->id,
					   Int64GetDatum(events->fold->sequence),
					   Int64GetDatum(up_to)};
	OwnerScope scope;

	if (events->fold->sequence >= up_to)
		return;
	es_begin_read(&scope);
	es_for_each_row(es_plan_on(&events_after, ES_ARCHIVE_ALONE), values, NULL,
					fold_counted_row, events);
	es_end(&scope);
}

/* A row of domain_events: what comes before the first one is folded out of the archive. */
static bool
fold_later_row(TupleTableSlot *slot, void *arg)
{
	DurableEvents *events = arg;
	bool isnull;

	if (!events->has_met)
		fold_archived(events,
					  DatumGetInt64(slot_getattr(slot, EV_SEQUENCE + 1, &isnull)) -
						  1);
	events->has_met = true;
	return events->more && fold_counted_row(slot, events);
}

void
es_fold_durable(Fold *fold, text *aggregate_type, text *aggregate_id)
{
	Datum values[4] = {PointerGetDatum(aggregate_type),
					   PointerGetDatum(aggregate_id),
					   Int64GetDatum(fold->sequence), Int64GetDatum(fold->up_to)};
	DurableEvents events = {.fold = fold,
							.type = values[0],
							.id = values[1],
							.more = true};

	if (!es_anything_moved())
	{
		es_for_each_row(&events_after, values, NULL, fold_row, fold);
		return;
	}
	es_for_each_row(&events_after, values, NULL, fold_later_row, &events);
	if (!events.has_met && fold->sequence < fold->up_to)
		fold_archived(&events,
					  Min(fold->up_to, es_last_archived(values[0], values[1])));
}

void
es_fold_staged(Fold *fold, text *aggregate_type, text *aggregate_id)
{
	StagedScan *scan =
		es_staged_begin(ES_KIND_EVENT, PointerGetDatum(aggregate_type),
						PointerGetDatum(aggregate_id), GetActiveSnapshot(),
						false);
	bool more = true;

	while (more)
	{
		StagedRow row;
		MemoryContext caller;

		MemoryContextReset(fold->per_event);
		caller = MemoryContextSwitchTo(fold->per_event);
		more = es_staged_next(scan, &row);
		MemoryContextSwitchTo(caller);
		if (more)
			more = fold_next(fold, row.event.values, row.event.nulls);
	}
	es_staged_end(scan);
}

/* ---------- reading the events of many aggregates ---------- */

/* Gives out the state of the aggregate at hand. */
static void
finish_aggregate(Series *series)
{
	if (series->aggregate_id == NULL)
		return;
	series->done(series->fold, PointerGetDatum(series->aggregate_id), series->arg);
	pfree(series->aggregate_id);
	series->aggregate_id = NULL;
}

void
es_series_event(Series *series, Datum *values, bool *nulls, Datum seed,
				int64 seed_sequence)
{
	Fold *fold = series->fold;

	CHECK_FOR_INTERRUPTS();
	if (series->aggregate_id == NULL ||
		!es_same_text(values[EV_AGGREGATE_ID],
					  PointerGetDatum(series->aggregate_id)))
	{
		MemoryContext caller;

		finish_aggregate(series);
		es_fold_start(fold, seed, seed_sequence);
		caller = MemoryContextSwitchTo(fold->context);
		series->aggregate_id = DatumGetTextPCopy(values[EV_AGGREGATE_ID]);
		MemoryContextSwitchTo(caller);
	}
	if (!fold->finished && DatumGetInt64(values[EV_SEQUENCE]) > fold->sequence)
	{
		MemoryContextReset(fold->per_event);
		(void) fold_next(fold, values, nulls);
	}
}

bool
es_series_row(TupleTableSlot *slot, Series *series)
{
	Datum seed;
	Datum sequence;
	bool no_state;
	bool no_seed;

	slot_getallattrs(slot);
	sequence = slot_getattr(slot, EV_COLUMNS + 1, &no_seed);
	seed = slot_getattr(slot, EV_COLUMNS + 2, &no_state);
	es_series_event(series, slot->tts_values, slot->tts_isnull,
					no_state ? (Datum) 0 : seed,
					no_seed ? 0 : DatumGetInt64(sequence));
	return true;
}

void
es_series_end(Series *series)
{
	finish_aggregate(series);
}
