/*
 * replay.c
 *		The state of an aggregate: reducers, the fold over its events, snapshots.
 *
 * A Fold takes events one by one, in order, and holds the state after the
 * last: decoded in merge.c for the built-in reducer, as the jsonb that the
 * last call returned for a function.  A replay seeds a Fold from the server's
 * snapshot where there is a usable one, streams the durable events after it
 * into the Fold straight from the executor, and then the staged ones.  All is
 * read under one snapshot, so an event that is being drained is seen exactly
 * once, and nothing is collected: 100,000 events need the memory of one.
 *
 * The tables are read as the owner of the store, but a reducer is somebody
 * else's code and never runs as that owner.  Around every call the user is
 * switched: to the function's owner for a registered reducer (as index
 * functions run, so that whoever may replay gains nothing by it), to the
 * caller for a reducer given in the call.
 *
 * The functions at the end are called from SQL; es_snapshot_aggregate is also
 * for the worker.
 */
#include "event_store.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(es_set_reducer);
PG_FUNCTION_INFO_V1(es_replay_aggregate);
PG_FUNCTION_INFO_V1(es_save_snapshot);
PG_FUNCTION_INFO_V1(es_load_snapshot);
PG_FUNCTION_INFO_V1(es_take_snapshot);

/* What a registered reducer finds unless it sets a search_path itself. */
#define REDUCER_SEARCH_PATH "pg_catalog, pg_temp"

static KeptPlan find_reducer =
	{.sql = "SELECT reducer, reducer_version FROM event_store.reducers"
			" WHERE aggregate_type OPERATOR(pg_catalog.=) $1",
	 .nargs = 1,
	 .argtypes = {TEXTOID}};

static KeptPlan lock_reducers = {
	.sql = "LOCK TABLE event_store.reducers IN SHARE ROW EXCLUSIVE MODE"};

static KeptPlan store_reducer =
	{.sql = "INSERT INTO event_store.reducers AS r"
			" (aggregate_type, reducer, reducer_version) VALUES ($1, $2, $3)"
			" ON CONFLICT (aggregate_type) DO UPDATE"
			" SET reducer = EXCLUDED.reducer, rules = NULL,"
			" reducer_version = EXCLUDED.reducer_version,"
			" updated_at = pg_catalog.clock_timestamp()",
	 .nargs = 3,
	 .argtypes = {TEXTOID, TEXTOID, INT4OID}};

static KeptPlan events_after = {.sql = ES_EVENT_SELECT
								" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
								" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
								" AND e.sequence OPERATOR(pg_catalog.>) $3"
								" AND e.sequence OPERATOR(pg_catalog.<=) $4"
								" ORDER BY e.sequence",
								.nargs = 4,
								.argtypes = {TEXTOID, TEXTOID, INT8OID, INT8OID}};

/*
 * The snapshot lies at or before the time only if its last event does: the
 * recorded times of an aggregate never decrease.
 */
static KeptPlan usable_snapshot =
	{.sql = "SELECT s.sequence, s.state FROM event_store.snapshots s"
			" WHERE s.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND s.aggregate_id OPERATOR(pg_catalog.=) $2"
			" AND s.source OPERATOR(pg_catalog.=) 'server'"
			" AND s.reducer_version OPERATOR(pg_catalog.=) $3"
			" AND s.sequence OPERATOR(pg_catalog.<=) $4"
			" AND ($5 IS NULL OR EXISTS (SELECT FROM event_store.domain_events e"
			" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
			" AND e.sequence OPERATOR(pg_catalog.=) s.sequence"
			" AND e.recorded_at OPERATOR(pg_catalog.<=) $5))",
	 .nargs = 5,
	 .argtypes = {TEXTOID, TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID}};

static KeptPlan store_snapshot =
	{.sql = "INSERT INTO event_store.snapshots AS s"
			" (aggregate_type, aggregate_id, source, sequence, state, state_bytes,"
			" reducer_version) VALUES ($1, $2, $3, $4, $5, $6, $7)"
			" ON CONFLICT (aggregate_type, aggregate_id, source) DO UPDATE"
			" SET sequence = EXCLUDED.sequence, state = EXCLUDED.state,"
			" state_bytes = EXCLUDED.state_bytes,"
			" reducer_version = EXCLUDED.reducer_version,"
			" created_at = pg_catalog.clock_timestamp()"
			" WHERE s.sequence OPERATOR(pg_catalog.<=) EXCLUDED.sequence",
	 .nargs = 7,
	 .argtypes = {TEXTOID, TEXTOID, TEXTOID, INT8OID, JSONBOID, BYTEAOID,
				  INT4OID}};

/* 'client' sorts before 'server': it wins where both stand at one sequence. */
static KeptPlan newest_snapshot =
	{.sql = "SELECT s.aggregate_type, s.aggregate_id, s.source, s.sequence,"
			" s.state, s.state_bytes, s.reducer_version, s.created_at"
			" FROM event_store.snapshots s"
			" WHERE s.aggregate_type OPERATOR(pg_catalog.=) $1"
			" AND s.aggregate_id OPERATOR(pg_catalog.=) $2"
			" AND (s.source OPERATOR(pg_catalog.=) 'client'"
			" OR s.reducer_version OPERATOR(pg_catalog.=) COALESCE("
			"(SELECT r.reducer_version FROM event_store.reducers r"
			" WHERE r.aggregate_type OPERATOR(pg_catalog.=) $1), 0))"
			" ORDER BY s.sequence DESC, s.source LIMIT 1",
	 .nargs = 2,
	 .argtypes = {TEXTOID, TEXTOID}};

/* ---------- reducers ---------- */

typedef struct Reducer
{
	Oid function;	 /* InvalidOid = the built-in merge */
	char *name;		 /* for messages */
	int version;	 /* 0 where nothing was ever registered */
	Oid user;		 /* who the function runs as ... */
	int security;	 /* ... and in which security context */
	bool registered; /* by set_reducer; else given in the call */
} Reducer;

static char *
qualified_name(Oid function)
{
	char *schema = get_namespace_name(get_func_namespace(function));
	char *name = get_func_name(function);

	if (schema == NULL || name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function with OID %u does not exist", function)));
	return quote_qualified_identifier(schema, name);
}

/*
 * Reports a function that cannot be a reducer.  STRICT ones cannot: before
 * the first event the state is NULL, and so it would stay.
 */
static void
check_signature(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool good;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function with OID %u does not exist", function)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	good = form->prokind == PROKIND_FUNCTION && !form->proretset &&
		   !form->proisstrict && form->prorettype == JSONBOID &&
		   form->pronargs == 2 && form->proargtypes.values[0] == JSONBOID &&
		   form->proargtypes.values[1] == es_store()->event_type;
	ReleaseSysCache(tuple);
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("function %s cannot be a reducer",
						format_procedure(function)),
				 errdetail("A reducer is a function (state jsonb, event event_store.event) RETURNS jsonb, neither STRICT nor set-returning.")));
}

/* The function a registered name stands for now. */
static Oid
function_named(text *name, text *aggregate_type)
{
	List *parts = textToQualifiedNameList(name);
	Oid arguments[2] = {JSONBOID, es_store()->event_type};
	Oid schema = InvalidOid;
	Oid function = InvalidOid;

	if (list_length(parts) == 2)
		schema = get_namespace_oid(strVal(linitial(parts)), true);
	if (OidIsValid(schema))
		function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
								   CStringGetDatum(strVal(lsecond(parts))),
								   PointerGetDatum(buildoidvector(arguments, 2)),
								   ObjectIdGetDatum(schema));
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("reducer %s of aggregate type \"%s\" does not exist",
						text_to_cstring(name), text_to_cstring(aggregate_type)),
				 errhint("Create the function %s(jsonb, event_store.event) again, or register another one with event_store.set_reducer().",
						 text_to_cstring(name))));
	return function;
}

static Oid
function_owner(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* The reducer of an aggregate type; call it between es_begin and es_end. */
static Reducer
registered_reducer(text *aggregate_type, const OwnerScope *scope)
{
	Datum values[1] = {PointerGetDatum(aggregate_type)};
	Reducer reducer = {.name = "merge", .registered = true};

	if (es_execute(&find_reducer, values, NULL, true, SPI_OK_SELECT) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		Datum name = SPI_getbinval(row, desc, 1, &isnull);

		if (!isnull)
		{
			reducer.function =
				function_named(DatumGetTextPP(name), aggregate_type);
			reducer.name = TextDatumGetCString(name);
		}
		reducer.version = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
	}
	if (OidIsValid(reducer.function))
	{
		check_signature(reducer.function);
		reducer.user = function_owner(reducer.function);
		reducer.security = scope->security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION;
	}
	return reducer;
}

/* A reducer that the caller gives for one call. */
static Reducer
given_reducer(Oid function, const OwnerScope *scope)
{
	Reducer reducer = {.function = function};
	AclResult allowed;

	reducer.name = qualified_name(function);
	check_signature(function);
	allowed =
		object_aclcheck(ProcedureRelationId, function, scope->user, ACL_EXECUTE);
	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_FUNCTION, reducer.name);
	reducer.user = scope->user;
	reducer.security = scope->security | SECURITY_LOCAL_USERID_CHANGE;
	return reducer;
}

/* ---------- the fold ---------- */

typedef struct Fold
{
	Reducer reducer;
	MemoryContext context; /* outlives es_end */
	MemoryContext per_event;
	text *aggregate_type;
	text *aggregate_id;
	int64 sequence;	   /* of the last event folded in */
	int64 up_to;	   /* fold nothing after this sequence ... */
	TimestampTz until; /* ... nor after this recorded time */
	bool finished;	   /* met an event after "until" */

	/* the built-in reducer */
	Merge *merge;

	/* a function: the state and where it lives, the other for the next one */
	FmgrInfo call;
	TupleDesc event_desc;
	Datum state; /* (Datum) 0 = NULL */
	MemoryContext state_context;
	MemoryContext next_context;

	/* for messages: the event at hand, and what encloses the fold */
	const Datum *event;
	ErrorContextCallback *enclosing;
} Fold;

/*
 * Makes a fold without events in the current memory context.  Call it before
 * es_begin, so that its result survives es_end, then start_fold within.
 */
static Fold *
create_fold(text *aggregate_type, text *aggregate_id)
{
	Fold *fold = palloc0(sizeof(Fold));

	fold->context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store fold",
							  ALLOCSET_DEFAULT_SIZES);
	fold->per_event = AllocSetContextCreate(fold->context, "event_store event",
											ALLOCSET_DEFAULT_SIZES);
	fold->aggregate_type = aggregate_type;
	fold->aggregate_id = aggregate_id;
	fold->up_to = PG_INT64_MAX;
	fold->until = DT_NOEND;
	fold->enclosing = error_context_stack;
	return fold;
}

/* Begins with a state; (Datum) 0 = NULL. */
static void
start_fold(Fold *fold, Reducer reducer, Datum state, int64 sequence)
{
	bool merge = !OidIsValid(reducer.function);
	Jsonb *jsonb = NULL;
	MemoryContext caller;

	if (merge && state != (Datum) 0)
		jsonb = DatumGetJsonbP(state);
	caller = MemoryContextSwitchTo(fold->context);
	fold->reducer = reducer;
	fold->reducer.name = pstrdup(reducer.name);
	fold->sequence = sequence;
	if (merge)
		fold->merge = es_merge_begin(jsonb);
	else
	{
		fold->state_context =
			AllocSetContextCreate(fold->context, "event_store state",
								  ALLOCSET_DEFAULT_SIZES);
		fold->next_context =
			AllocSetContextCreate(fold->context, "event_store next state",
								  ALLOCSET_DEFAULT_SIZES);
		fmgr_info_cxt(reducer.function, &fold->call, fold->context);
		fold->event_desc =
			lookup_rowtype_tupdesc_copy(es_store()->event_type, -1);
		MemoryContextSwitchTo(fold->state_context);
		if (state != (Datum) 0)
			fold->state = PointerGetDatum(PG_DETOAST_DATUM_COPY(state));
	}
	MemoryContextSwitchTo(caller);
}

/* Calls the reducer as the user it runs as; the result is not copied yet. */
static Datum
call_reducer(Fold *fold, Datum event, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	Oid user;
	int security;
	int settings = 0;
	Datum result;

	InitFunctionCallInfoData(*fcinfo, &fold->call, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = fold->state;
	fcinfo->args[0].isnull = fold->state == (Datum) 0;
	fcinfo->args[1].value = event;
	fcinfo->args[1].isnull = false;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(fold->reducer.user, fold->reducer.security);
	if (fold->reducer.registered)
	{
		/* the state must not depend on who replays, nor the reducer run his code */
		settings = NewGUCNestLevel();
		(void) set_config_option("search_path", REDUCER_SEARCH_PATH, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
	result = FunctionCallInvoke(fcinfo);
	if (fold->reducer.registered)
		AtEOXact_GUC(false, settings);
	SetUserIdAndSecContext(user, security);
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

	if (!isnull && result == fold->state)
		return;
	MemoryContextSwitchTo(fold->next_context);
	fold->state =
		isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
	MemoryContextSwitchTo(fold->per_event);
	fold->state_context = fold->next_context;
	fold->next_context = old_context;
	MemoryContextReset(old_context);
}

static void
describe_event(void *arg)
{
	const Fold *fold = arg;

	errcontext("reducer %s at event %lld (%s) of %s/%s", fold->reducer.name,
			   (long long) DatumGetInt64(fold->event[EV_SEQUENCE]),
			   TextDatumGetCString(fold->event[EV_EVENT_TYPE]),
			   text_to_cstring(fold->aggregate_type),
			   text_to_cstring(fold->aggregate_id));
}

/*
 * Folds one event in; returns false if it lies after the bounds.  The event
 * need only live during the call; the per-event memory is the caller's to
 * reset before he makes the event.
 */
static bool
fold_event(Fold *fold, Datum *values, bool *nulls)
{
	int64 sequence = DatumGetInt64(values[EV_SEQUENCE]);
	MemoryContext caller;
	ErrorContextCallback *surrounding = error_context_stack;
	ErrorContextCallback callback;

	CHECK_FOR_INTERRUPTS();
	if (sequence > fold->up_to ||
		(fold->until != DT_NOEND &&
		 DatumGetTimestampTz(values[EV_RECORDED_AT]) > fold->until))
	{
		fold->finished = true;
		return false;
	}

	/* the statement that brings the events is none of the user's */
	fold->event = values;
	callback.previous = fold->enclosing;
	callback.callback = describe_event;
	callback.arg = fold;
	error_context_stack = &callback;
	caller = MemoryContextSwitchTo(fold->per_event);

	if (fold->merge == NULL)
		fold_by_function(fold, values, nulls);
	else if (!nulls[EV_PAYLOAD])
		es_merge_apply(fold->merge, DatumGetJsonbP(values[EV_PAYLOAD]));
	fold->sequence = sequence;

	MemoryContextSwitchTo(caller);
	error_context_stack = surrounding;
	return true;
}

/* The state after the last event, in the current memory context; 0 = NULL. */
static Datum
fold_result(Fold *fold)
{
	if (fold->merge == NULL)
		return fold->state;
	return PointerGetDatum(es_merge_result(fold->merge));
}

/* ---------- reading the events of an aggregate ---------- */

typedef struct FoldReceiver
{
	DestReceiver pub;
	Fold *fold;
	int columns; /* as many of a row are looked at */
} FoldReceiver;

static bool
receive_event(TupleTableSlot *slot, DestReceiver *self)
{
	FoldReceiver *receiver = (FoldReceiver *) self;

	MemoryContextReset(receiver->fold->per_event);
	slot_getsomeattrs(slot, receiver->columns);
	return fold_event(receiver->fold, slot->tts_values, slot->tts_isnull);
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

/* Folds the durable events after the fold's sequence. */
static void
fold_durable(Fold *fold)
{
	Datum values[4] = {PointerGetDatum(fold->aggregate_type),
					   PointerGetDatum(fold->aggregate_id),
					   Int64GetDatum(fold->sequence), Int64GetDatum(fold->up_to)};
	FoldReceiver receiver = {.pub =
								 {
									 .receiveSlot = receive_event,
									 .rStartup = start_receiving,
									 .rShutdown = stop_receiving,
									 .rDestroy = stop_receiving,
									 .mydest = DestTuplestore /* any that SPI does not treat itself */
								 },
							 .fold = fold,
							 .columns = EV_COLUMNS};

	/* the built-in reducer needs not have the whole row taken apart */
	if (fold->merge != NULL && fold->until == DT_NOEND)
		receiver.columns = EV_PAYLOAD + 1;
	es_execute_to(&events_after, values, NULL, &receiver.pub);
}

/* Folds the staged events, which all come after the durable ones. */
static void
fold_staged(Fold *fold)
{
	StagedScan *scan =
		es_staged_begin(ES_KIND_EVENT, PointerGetDatum(fold->aggregate_type),
						PointerGetDatum(fold->aggregate_id),
						GetActiveSnapshot(), false);
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
			more = fold_event(fold, row.event.values, row.event.nulls);
	}
	es_staged_end(scan);
}

/* Starts the fold at the server's snapshot within its bounds, or before all. */
static void
start_from_snapshot(Fold *fold, Reducer reducer)
{
	Datum values[5] = {PointerGetDatum(fold->aggregate_type),
					   PointerGetDatum(fold->aggregate_id),
					   Int32GetDatum(reducer.version), Int64GetDatum(fold->up_to),
					   TimestampTzGetDatum(fold->until)};
	const char *nulls = fold->until == DT_NOEND ? "    n" : NULL;
	Datum state = (Datum) 0;
	int64 sequence = 0;

	if (reducer.registered &&
		es_execute(&usable_snapshot, values, nulls, true, SPI_OK_SELECT) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		sequence = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		state = SPI_getbinval(row, desc, 2, &isnull);
		if (isnull)
			state = (Datum) 0;
	}
	start_fold(fold, reducer, state, sequence);
}

/* ---------- snapshots ---------- */

/*
 * Stores a snapshot unless a newer one of its source stands there; returns
 * whether it did.  state and state_bytes may be (Datum) 0.
 */
static bool
write_snapshot(text *aggregate_type, text *aggregate_id, const char *source,
			   int64 sequence, Datum state, Datum state_bytes,
			   const int *reducer_version)
{
	Datum values[7] = {PointerGetDatum(aggregate_type),
					   PointerGetDatum(aggregate_id),
					   CStringGetTextDatum(source),
					   Int64GetDatum(sequence),
					   state,
					   state_bytes,
					   Int32GetDatum(reducer_version == NULL ? 0
															 : *reducer_version)};
	char nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};
	bool stored;

	if (state == (Datum) 0)
		nulls[4] = 'n';
	if (state_bytes == (Datum) 0)
		nulls[5] = 'n';
	if (reducer_version == NULL)
		nulls[6] = 'n';
	stored = es_execute(&store_snapshot, values, nulls, false, SPI_OK_INSERT) > 0;
	if (stored)
		es_note_write();
	return stored;
}

/*
 * Folds the durable events of an aggregate and stores the state as the
 * server's snapshot.  False if there is nothing newer than what is stored.
 */
bool
es_snapshot_aggregate(text *aggregate_type, text *aggregate_id)
{
	Fold *fold = create_fold(aggregate_type, aggregate_id);
	OwnerScope scope;
	Reducer reducer;
	int64 start;
	bool stored = false;

	es_begin(&scope);
	PushActiveSnapshot(GetTransactionSnapshot());
	reducer = registered_reducer(aggregate_type, &scope);
	start_from_snapshot(fold, reducer);
	start = fold->sequence;
	fold_durable(fold);
	PopActiveSnapshot();
	if (fold->sequence > start)
		stored = write_snapshot(aggregate_type, aggregate_id, "server",
								fold->sequence, fold_result(fold), (Datum) 0,
								&reducer.version);
	es_end(&scope);
	MemoryContextDelete(fold->context);
	return stored;
}

/* ---------- SQL functions ---------- */

/* The version a call of set_reducer leads to; *changed tells if it writes. */
static int
next_version(FunctionCallInfo fcinfo, text *aggregate_type, Datum name,
			 bool *changed)
{
	Datum values[1] = {PointerGetDatum(aggregate_type)};
	int current = 0;
	int version;
	bool same = name == (Datum) 0;

	if (es_execute(&find_reducer, values, NULL, false, SPI_OK_SELECT) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		Datum stored = SPI_getbinval(row, desc, 1, &isnull);

		if (isnull)
			same = name == (Datum) 0;
		else
			same = name != (Datum) 0 && strcmp(TextDatumGetCString(stored),
											   TextDatumGetCString(name)) == 0;
		current = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
	}

	if (!PG_ARGISNULL(2))
		version = PG_GETARG_INT32(2);
	else if (same)
		version = current;
	else if (pg_add_s32_overflow(current, 1, &version))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("reducer_version is out of range")));
	*changed = !same || version != current;
	if (version < current || (version == current && !same))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reducer_version %d of aggregate type \"%s\" must be greater than the current one, which is %d",
						version, text_to_cstring(aggregate_type), current),
				 errhint("Snapshots of that version were made by another reducer. Leave reducer_version out to take the next one.")));
	return version;
}

Datum
es_set_reducer(PG_FUNCTION_ARGS)
{
	text *aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");
	Datum values[3] = {PointerGetDatum(aggregate_type)};
	char nulls[3] = {' ', 'n', ' '};
	OwnerScope scope;
	bool changed;

	PreventCommandIfReadOnly("event_store.set_reducer()");
	(void) es_store();
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("reducer_version must be positive")));
	if (!PG_ARGISNULL(1))
	{
		Oid function = PG_GETARG_OID(1);
		char *name = qualified_name(function);

		check_signature(function);
		if (isAnyTempNamespace(get_func_namespace(function)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("function %s is temporary and cannot be registered as a reducer",
							name)));
		if (!object_ownercheck(ProcedureRelationId, function, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FUNCTION, name);
		values[1] = CStringGetTextDatum(name);
		nulls[1] = ' ';
	}

	es_begin(&scope);
	es_execute(&lock_reducers, NULL, NULL, false, SPI_OK_UTILITY);
	values[2] =
		Int32GetDatum(next_version(fcinfo, aggregate_type, values[1], &changed));
	if (changed)
		es_execute(&store_reducer, values, nulls, false, SPI_OK_INSERT);
	es_end(&scope);
	PG_RETURN_VOID();
}

Datum
es_replay_aggregate(PG_FUNCTION_ARGS)
{
	Fold *fold = create_fold(es_required_text(fcinfo, 0, "aggregate_type"),
							 es_required_text(fcinfo, 1, "aggregate_id"));
	OwnerScope scope;
	Reducer reducer;
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};

	if (!PG_ARGISNULL(2))
	{
		fold->up_to = PG_GETARG_INT64(2);
		if (fold->up_to < 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("as_of_sequence must not be negative")));
	}
	if (!PG_ARGISNULL(3))
		fold->until = PG_GETARG_TIMESTAMPTZ(3);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	es_begin_read(&scope);
	reducer = PG_ARGISNULL(4) ? registered_reducer(fold->aggregate_type, &scope)
							  : given_reducer(PG_GETARG_OID(4), &scope);
	start_from_snapshot(fold, reducer);
	fold_durable(fold);
	if (!fold->finished && fold->sequence < fold->up_to)
		fold_staged(fold);
	es_end(&scope);

	values[0] = fold_result(fold);
	nulls[0] = values[0] == (Datum) 0;
	values[1] = Int64GetDatum(fold->sequence);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/* Reports a snapshot that stands after the last durable event. */
static void
check_snapshot_sequence(text *aggregate_type, text *aggregate_id, int64 sequence)
{
	int64 head;

	PushActiveSnapshot(GetTransactionSnapshot());
	head = es_durable_head(PointerGetDatum(aggregate_type),
						   PointerGetDatum(aggregate_id), GetActiveSnapshot(),
						   NULL);
	PopActiveSnapshot();
	if (sequence > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot at sequence %lld is beyond the last durable event of %s/%s, which is %lld",
						(long long) sequence, text_to_cstring(aggregate_type),
						text_to_cstring(aggregate_id), (long long) head),
				 errhint("Staged events are durable after event_store.flush().")));
}

Datum
es_save_snapshot(PG_FUNCTION_ARGS)
{
	text *aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");
	text *aggregate_id = es_required_text(fcinfo, 1, "aggregate_id");
	Datum state = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	Datum state_bytes = PG_ARGISNULL(4) ? (Datum) 0 : PG_GETARG_DATUM(4);
	int64 sequence;
	OwnerScope scope;
	bool stored;

	PreventCommandIfReadOnly("event_store.save_snapshot()");
	if (PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("sequence must not be null")));
	sequence = PG_GETARG_INT64(2);
	if (sequence < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("sequence must be positive")));
	if ((state == (Datum) 0) == (state_bytes == (Datum) 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a snapshot needs exactly one of state and state_bytes")));
	es_begin(&scope);
	check_snapshot_sequence(aggregate_type, aggregate_id, sequence);
	stored = write_snapshot(aggregate_type, aggregate_id, "client", sequence,
							state, state_bytes, NULL);
	es_end(&scope);
	PG_RETURN_BOOL(stored);
}

Datum
es_load_snapshot(PG_FUNCTION_ARGS)
{
	Datum values[2] = {PointerGetDatum(es_required_text(fcinfo, 0,
														"aggregate_type")),
					   PointerGetDatum(es_required_text(fcinfo, 1,
														"aggregate_id"))};
	OwnerScope scope;

	InitMaterializedSRF(fcinfo, 0);
	es_begin_read(&scope);
	es_execute_into(&newest_snapshot, values, NULL,
					((ReturnSetInfo *) fcinfo->resultinfo)->setResult);
	es_end(&scope);
	return (Datum) 0;
}

Datum
es_take_snapshot(PG_FUNCTION_ARGS)
{
	text *aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");
	text *aggregate_id = es_required_text(fcinfo, 1, "aggregate_id");

	PreventCommandIfReadOnly("event_store.take_snapshot()");
	PG_RETURN_BOOL(es_snapshot_aggregate(aggregate_type, aggregate_id));
}
