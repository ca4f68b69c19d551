/*
 * replay.c
 *		The state of an aggregate, or of many, at any point in time.
 *
 * A replay seeds a Fold from the server's snapshot where there is a usable
 * one, streams the durable events after it into the Fold straight from the
 * executor, and then the staged ones.  All is read under one snapshot, so an
 * event that is being drained is seen exactly once.
 *
 * Many aggregates are folded in one scan in the order of aggregate and
 * sequence, into which the staged events are merged.  A snapshot comes along
 * with the event it stands at, and so does every aggregate that has had none
 * since.
 *
 * fold_events(event) is an aggregate over whatever events a query has; its
 * state is a Fold, which a window keeps between its rows.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/log_plan.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "replay/fold.h"
#include "replay/reducer.h"
#include "replay/snapshot.h"
#include "replay/state.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"

PG_FUNCTION_INFO_V1(es_replay_aggregate);
PG_FUNCTION_INFO_V1(es_replay_aggregates);
PG_FUNCTION_INFO_V1(es_fold_events_add);
PG_FUNCTION_INFO_V1(es_fold_events_result);

/* Sets the bounds of a fold by the arguments of this name. */
static void
bound_fold(FunctionCallInfo fcinfo, Fold *fold, int as_of_sequence,
		   int as_of_time, int as_of_position)
{
	fold->up_to = es_number_argument(fcinfo, as_of_sequence, "as_of_sequence",
									 fold->up_to);
	if (!PG_ARGISNULL(as_of_time))
		fold->until = PG_GETARG_TIMESTAMPTZ(as_of_time);
	fold->up_to_position =
		es_number_argument(fcinfo, as_of_position, "as_of_position",
						   fold->up_to_position);
}

Datum
es_replay_aggregate(PG_FUNCTION_ARGS)
{
	text *aggregate_type;
	text *aggregate_id;
	Fold *fold;
	OwnerScope scope;
	StagedRead read;
	Reducer reducer;
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};

	es_check_version();
	es_begin_call(ES_CALL_REPLAY_AGGREGATE);
	aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");
	aggregate_id = es_required_text(fcinfo, 1, "aggregate_id");
	fold = es_fold_create(NULL);
	bound_fold(fcinfo, fold, 2, 3, 5);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	es_begin_staged_read(&read, GetActiveSnapshot());
	es_begin_read(&scope);
	reducer = PG_ARGISNULL(4)
				  ? es_registered_reducer(aggregate_type, &scope, fold->context)
				  : es_given_reducer(PG_GETARG_OID(4), &scope, fold->context);
	es_fold_use(fold, &reducer);
	es_start_from_snapshot(fold, aggregate_type, aggregate_id);
	es_fold_durable(fold, aggregate_type, aggregate_id);
	if (!fold->finished && fold->sequence < fold->up_to)
		es_fold_staged(fold, aggregate_type, aggregate_id);
	es_end(&scope);
	es_end_staged_read(&read);

	values[0] = es_fold_result(fold);
	nulls[0] = values[0] == (Datum) 0;
	values[1] = Int64GetDatum(fold->sequence);
	es_end_call(ES_CALL_REPLAY_AGGREGATE, fold->sequence);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/* ---------- many aggregates ---------- */

#define EVENT_AND_SNAPSHOT "SELECT {event e}, s.sequence, s.state"

/* The order is that of an index, and lets the two be merged. */
static KeptPlan all_events =
	{.sql = EVENT_AND_SNAPSHOT
	 " FROM event_store.domain_events e"
	 " LEFT JOIN (SELECT o.aggregate_id, o.sequence, o.state"
	 " FROM event_store.snapshots o"
	 " WHERE o.aggregate_type OPERATOR(pg_catalog.=) $1"
	 " AND o.source OPERATOR(pg_catalog.=) 'server'"
	 " AND o.reducer_version OPERATOR(pg_catalog.=) $2"
	 " ORDER BY o.aggregate_id) s"
	 " ON s.aggregate_id OPERATOR(pg_catalog.=) e.aggregate_id"
	 " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
	 " AND e.sequence OPERATOR(pg_catalog.>=) COALESCE(s.sequence, 0)"
	 " ORDER BY e.aggregate_id, e.sequence",
	 .nargs = 2,
	 .argtypes = {TEXTOID, INT4OID},
	 .kind = ES_PLAN_OF_LOG};

/* Snapshots first: a join of the two in another order reads all of the events. */
static KeptPlan events_of_ids =
	{.sql = EVENT_AND_SNAPSHOT
	 " FROM ROWS FROM (pg_catalog.unnest($3)) WITH ORDINALITY"
	 " AS k (aggregate_id, ordinal)"
	 " LEFT JOIN event_store.snapshots s"
	 " ON s.aggregate_type OPERATOR(pg_catalog.=) $1"
	 " AND s.aggregate_id OPERATOR(pg_catalog.=) k.aggregate_id"
	 " AND s.source OPERATOR(pg_catalog.=) 'server'"
	 " AND s.reducer_version OPERATOR(pg_catalog.=) $2"
	 " CROSS JOIN LATERAL (" ES_EVENT_SELECT
	 " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
	 " AND e.aggregate_id OPERATOR(pg_catalog.=) k.aggregate_id"
	 " AND e.sequence OPERATOR(pg_catalog.>=) COALESCE(s.sequence, 0)"
	 " ORDER BY e.sequence) e"
	 " ORDER BY k.ordinal, e.sequence",
	 .nargs = 3,
	 .argtypes = {TEXTOID, INT4OID, TEXTARRAYOID}};

/* The same up to a sequence $4, a time $5 and a position $6, for $3 ids or all. */
#define BOUNDED_SNAPSHOT                                        \
	" AND o.source OPERATOR(pg_catalog.=) 'server'"             \
	" AND o.reducer_version OPERATOR(pg_catalog.=) $2"          \
	" AND o.sequence OPERATOR(pg_catalog.<=) $4"                \
	" AND EXISTS (SELECT FROM event_store.domain_events x"      \
	" WHERE x.aggregate_type OPERATOR(pg_catalog.=) $1"         \
	" AND x.aggregate_id OPERATOR(pg_catalog.=) o.aggregate_id" \
	" AND x.sequence OPERATOR(pg_catalog.=) o.sequence"         \
	" AND x.recorded_at OPERATOR(pg_catalog.<=) $5"             \
	" AND x.global_position OPERATOR(pg_catalog.<=) $6)"
#define BOUNDED_EVENTS                                                \
	" AND e.sequence OPERATOR(pg_catalog.>=) COALESCE(s.sequence, 0)" \
	" AND e.sequence OPERATOR(pg_catalog.<=) $4"                      \
	" AND e.recorded_at OPERATOR(pg_catalog.<=) $5"                   \
	" AND e.global_position OPERATOR(pg_catalog.<=) $6"
#define BOUNDED_ARGUMENTS                                                \
	{                                                                    \
		TEXTOID, INT4OID, TEXTARRAYOID, INT8OID, TIMESTAMPTZOID, INT8OID \
	}

static KeptPlan all_bounded =
	{.sql = EVENT_AND_SNAPSHOT
	 " FROM event_store.domain_events e"
	 " LEFT JOIN (SELECT o.aggregate_id, o.sequence, o.state"
	 " FROM event_store.snapshots o"
	 " WHERE o.aggregate_type OPERATOR(pg_catalog.=) $1" BOUNDED_SNAPSHOT
	 " ORDER BY o.aggregate_id) s"
	 " ON s.aggregate_id OPERATOR(pg_catalog.=) e.aggregate_id"
	 " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
	 " AND $3 IS NULL" BOUNDED_EVENTS " ORDER BY e.aggregate_id, e.sequence",
	 .nargs = 6,
	 .argtypes = BOUNDED_ARGUMENTS,
	 .kind = ES_PLAN_OF_LOG};

static KeptPlan bounded_of_ids =
	{.sql = EVENT_AND_SNAPSHOT
	 " FROM ROWS FROM (pg_catalog.unnest($3)) WITH ORDINALITY"
	 " AS k (aggregate_id, ordinal)"
	 " LEFT JOIN LATERAL (SELECT o.sequence, o.state FROM event_store.snapshots o"
	 " WHERE o.aggregate_type OPERATOR(pg_catalog.=) $1"
	 " AND o.aggregate_id OPERATOR(pg_catalog.=) k.aggregate_id" BOUNDED_SNAPSHOT
	 ") s ON true"
	 " CROSS JOIN LATERAL (" ES_EVENT_SELECT
	 " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
	 " AND e.aggregate_id OPERATOR(pg_catalog.=) k.aggregate_id" BOUNDED_EVENTS
	 " ORDER BY e.sequence) e"
	 " ORDER BY k.ordinal, e.sequence",
	 .nargs = 6,
	 .argtypes = BOUNDED_ARGUMENTS};

/* The staged events of a type, or of some aggregates of it, in key order. */
typedef struct StagedEvents
{
	Datum type;
	Datum *ids; /* sorted; NULL = all */
	int count;	/* of ids that are left */
	StagedScan *scan;
	MemoryContext home;	   /* of the scan, which outlives a call */
	MemoryContext context; /* of the row */
	bool found;
	StagedRow row; /* the next one, if found */
} StagedEvents;

static void
next_staged(StagedEvents *staged)
{
	MemoryContext caller;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (staged->scan == NULL)
		{
			staged->found = false;
			if (staged->ids == NULL || staged->count == 0)
				return;
			caller = MemoryContextSwitchTo(staged->home);
			staged->scan =
				es_staged_begin(ES_KIND_EVENT, staged->type, *staged->ids,
								GetActiveSnapshot(), false);
			MemoryContextSwitchTo(caller);
			staged->ids++;
			staged->count--;
		}
		MemoryContextReset(staged->context);
		caller = MemoryContextSwitchTo(staged->context);
		staged->found = es_staged_next(staged->scan, &staged->row);
		MemoryContextSwitchTo(caller);
		if (staged->found)
			return;
		es_staged_end(staged->scan);
		staged->scan = NULL;
	}
}

/* Most often nothing is staged, and then no aggregate is looked for. */
static void
begin_staged(StagedEvents *staged)
{
	staged->home = CurrentMemoryContext;
	staged->context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store staged event",
							  ALLOCSET_DEFAULT_SIZES);
	staged->scan = es_staged_begin(ES_KIND_EVENT, staged->type, (Datum) 0,
								   GetActiveSnapshot(), false);
	next_staged(staged);
	if (!staged->found || staged->ids == NULL)
		return;
	es_staged_end(staged->scan);
	staged->scan = NULL;
	next_staged(staged);
}

typedef struct Replay
{
	Series series;
	StagedEvents staged;
	ReturnSetInfo *result;
	MemoryContext row_context; /* of a row of the result */
} Replay;

/* Folds the staged events of the aggregates before one; (Datum) 0 = all. */
static void
fold_staged_before(Replay *replay, Datum aggregate_id)
{
	StagedEvents *staged = &replay->staged;

	while (staged->found &&
		   (aggregate_id == (Datum) 0 ||
			es_compare_keys(staged->row.event.values[EV_AGGREGATE_ID],
							aggregate_id) < 0))
	{
		es_series_event(&replay->series, staged->row.event.values,
						staged->row.event.nulls, (Datum) 0, 0);
		next_staged(staged);
	}
}

static bool
fold_durable_row(TupleTableSlot *slot, void *arg)
{
	Replay *replay = arg;
	bool isnull;

	if (replay->staged.found)
		fold_staged_before(replay,
						   slot_getattr(slot, EV_AGGREGATE_ID + 1, &isnull));
	return es_series_row(slot, &replay->series);
}

static void
give_state(Fold *fold, Datum aggregate_id, void *arg)
{
	Replay *replay = arg;
	MemoryContext caller;
	Datum values[3] = {aggregate_id, (Datum) 0, Int64GetDatum(fold->sequence)};
	bool nulls[3] = {false};

	/* nothing of it lies within the bounds */
	if (fold->sequence == 0)
		return;
	caller = MemoryContextSwitchTo(replay->row_context);
	values[1] = es_fold_result(fold);
	nulls[1] = values[1] == (Datum) 0;
	tuplestore_putvalues(replay->result->setResult, replay->result->setDesc,
						 values, nulls);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(replay->row_context);
}

static int
compare_ids(const void *a, const void *b)
{
	return es_compare_keys(*(const Datum *) a, *(const Datum *) b);
}

/* Brings ids into the order of keys, each once; returns them as an array. */
static Datum
sort_ids(Datum *ids, int *count)
{
	int n = 0;

	qsort(ids, *count, sizeof(Datum), compare_ids);
	for (int i = 0; i < *count; i++)
	{
		if (i == 0 || es_compare_keys(ids[i], ids[n - 1]) != 0)
			ids[n++] = ids[i];
	}
	*count = n;
	return PointerGetDatum(construct_array(ids, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

static KeptPlan *
plan_for(const Fold *fold, bool all)
{
	if (es_fold_is_bounded(fold))
		return all ? &all_bounded : &bounded_of_ids;
	return all ? &all_events : &events_of_ids;
}

Datum
es_replay_aggregates(PG_FUNCTION_ARGS)
{
	text *aggregate_type;
	Replay replay = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	Fold *fold;
	KeptPlan *plan;
	Datum arguments[6] = {0};
	const char *nulls = NULL;
	OwnerScope scope;
	StagedRead read;
	Reducer reducer;

	es_check_version();
	es_begin_call(ES_CALL_REPLAY_AGGREGATES);
	aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");
	fold = es_fold_create(NULL);
	bound_fold(fcinfo, fold, 2, 3, 4);
	plan = plan_for(fold, PG_ARGISNULL(1));
	arguments[0] = PointerGetDatum(aggregate_type);
	replay.staged.type = PointerGetDatum(aggregate_type);
	if (!PG_ARGISNULL(1))
	{
		int count = -1;

		es_array_argument(fcinfo, 1, "aggregate_ids", false, &count,
						  &replay.staged.ids, NULL);
		arguments[2] = sort_ids(replay.staged.ids, &count);
		replay.staged.count = count;
	}
	(void) es_store();
	es_begin_result(fcinfo);
	replay.series.fold = fold;
	replay.series.done = give_state;
	replay.series.arg = &replay;
	replay.row_context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store row",
							  ALLOCSET_DEFAULT_SIZES);

	es_begin_staged_read(&read, GetActiveSnapshot());
	es_begin_read(&scope);
	reducer = es_registered_reducer(aggregate_type, &scope, fold->context);
	es_fold_use(fold, &reducer);
	begin_staged(&replay.staged);
	arguments[1] = Int32GetDatum(reducer.version);
	arguments[3] = Int64GetDatum(fold->up_to);
	arguments[4] = TimestampTzGetDatum(fold->until);
	arguments[5] = Int64GetDatum(fold->up_to_position);
	if (plan == &all_bounded)
		nulls = "  n   ";
	plan = es_log_plan(plan);
	if (plan->kind == ES_PLAN_OF_LOG)
		es_plan_events(plan);
	es_for_each_row(plan, arguments, nulls, fold_durable_row, &replay);
	fold_staged_before(&replay, (Datum) 0);
	es_series_end(&replay.series);
	es_end(&scope);
	es_end_staged_read(&read);
	es_end_call(ES_CALL_REPLAY_AGGREGATES,
				tuplestore_tuple_count(replay.result->setResult));
	return (Datum) 0;
}

/* ---------- the aggregate fold_events ---------- */

/* The reducer of an aggregate type. */
typedef struct TypeReducer
{
	MemberName name; /* the aggregate type */
	Reducer reducer;
	char status; /* of the hash table */
} TypeReducer;

#define NAME_TABLE reducers
#define NAME_TABLE_ENTRY TypeReducer
#include "replay/name_table.h"

/*
 * What all groups of a query share, for as long as it runs.  They may come
 * interleaved, so the reducers of all types are kept that were met.
 */
typedef struct FoldCall
{
	TupleDesc event_desc;
	MemoryContext context;
	MemoryContext scratch;
	struct reducers_hash *reducers;
} FoldCall;

/* One group. */
typedef struct EventFold
{
	Fold *fold;
	text *aggregate_type; /* of the last event */
} EventFold;

static FoldCall *
fold_call(FmgrInfo *flinfo)
{
	FoldCall *call = flinfo->fn_extra;
	MemoryContext caller;

	if (call != NULL)
		return call;
	caller = MemoryContextSwitchTo(flinfo->fn_mcxt);
	call = palloc0(sizeof(FoldCall));
	call->context = flinfo->fn_mcxt;
	call->scratch = AllocSetContextCreate(call->context, "event_store event",
										  ALLOCSET_DEFAULT_SIZES);
	call->event_desc = es_event_desc();
	call->reducers = reducers_create(call->context, 4, NULL);
	MemoryContextSwitchTo(caller);
	flinfo->fn_extra = call;
	return call;
}

/* The reducer of an event's type; valid until the next is asked for. */
static const Reducer *
reducer_of_type(FoldCall *call, text *aggregate_type)
{
	MemberName type = es_member_name(VARDATA_ANY(aggregate_type),
									 VARSIZE_ANY_EXHDR(aggregate_type));
	TypeReducer *entry = reducers_lookup(call->reducers, type);
	OwnerScope scope;
	Reducer reducer;
	MemoryContext context;
	char *name;
	bool found;

	if (entry != NULL)
		return &entry->reducer;
	/* an error takes along what belongs to the event at hand */
	context = AllocSetContextCreate(call->scratch, "event_store reducer",
									ALLOCSET_SMALL_SIZES);
	es_begin_read(&scope);
	reducer = es_reducer_of_given_events(aggregate_type, &scope, context);
	es_end(&scope);
	name = MemoryContextAlloc(context, Max(type.size, 1));
	memcpy(name, type.data, type.size);
	type.data = name;
	entry = reducers_insert(call->reducers, type, &found);
	entry->reducer = reducer;
	MemoryContextSetParent(context, call->context);
	return &entry->reducer;
}

static bool
is_merge(const Reducer *reducer)
{
	return !OidIsValid(reducer->function) && reducer->rules == NULL &&
		   !reducer->saga;
}

static EventFold *
begin_event_fold(FoldCall *call, text *aggregate_type)
{
	EventFold *state = palloc(sizeof(EventFold));

	state->fold = es_fold_create(call->scratch);
	es_fold_use(state->fold, reducer_of_type(call, aggregate_type));
	/* the caller brings the events: they are upcast before */
	state->fold->upcasts = false;
	es_fold_start(state->fold, (Datum) 0, 0);
	state->aggregate_type = DatumGetTextPCopy(PointerGetDatum(aggregate_type));
	return state;
}

/* Events of several types have one state only where all are merged. */
static void
change_type(FoldCall *call, EventFold *state, text *aggregate_type)
{
	if (!is_merge(&state->fold->reducer) ||
		!is_merge(reducer_of_type(call, aggregate_type)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot fold events of aggregate types \"%s\" and \"%s\" together",
						text_to_cstring(state->aggregate_type),
						text_to_cstring(aggregate_type)),
				 errdetail("At least one of them has a reducer of its own."),
				 errhint("Use GROUP BY aggregate_type, aggregate_id.")));
	pfree(state->aggregate_type);
	state->aggregate_type = DatumGetTextPCopy(PointerGetDatum(aggregate_type));
}

Datum
es_fold_events_add(PG_FUNCTION_ARGS)
{
	EventFold *state =
		PG_ARGISNULL(0) ? NULL : (EventFold *) PG_GETARG_POINTER(0);
	FoldCall *call;
	MemoryContext context;
	MemoryContext caller;
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
	text *aggregate_type;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "fold_events called outside an aggregate");
	if (PG_ARGISNULL(1))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	call = fold_call(fcinfo->flinfo);
	/* the event may be of a type that was changed since */
	(void) es_store();
	es_take_event(PG_GETARG_HEAPTUPLEHEADER(1), call->event_desc, values, nulls);

	aggregate_type = DatumGetTextPP(values[EV_AGGREGATE_TYPE]);
	caller = MemoryContextSwitchTo(context);
	if (state == NULL)
		state = begin_event_fold(call, aggregate_type);
	else if (!es_same_text(PointerGetDatum(aggregate_type),
						   PointerGetDatum(state->aggregate_type)))
		change_type(call, state, aggregate_type);
	MemoryContextSwitchTo(caller);

	state->fold->enclosing = error_context_stack;
	MemoryContextReset(call->scratch);
	if (es_upcasts() && !nulls[EV_SCHEMA_VERSION])
	{
		caller = MemoryContextSwitchTo(call->scratch);
		(void) es_upcast_given(values, nulls);
		MemoryContextSwitchTo(caller);
	}
	(void) es_fold_event(state->fold, values, nulls);
	PG_RETURN_POINTER(state);
}

Datum
es_fold_events_result(PG_FUNCTION_ARGS)
{
	EventFold *state =
		PG_ARGISNULL(0) ? NULL : (EventFold *) PG_GETARG_POINTER(0);
	Datum result = state == NULL ? (Datum) 0 : es_fold_result(state->fold);

	if (result == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}
