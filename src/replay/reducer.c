/*
 * reducer.c
 *		Which reducer an aggregate type has, and who it runs as.
 *
 * A reducer is the built-in merge, a set of rules or a function; the table
 * reducers says which, with a version that rises with every change, so that
 * snapshots made by another one are told apart.  A function is kept by name and
 * looked up at every use: it may be dropped and made again.
 *
 * The tables are read as the owner of the store, but a function is somebody
 * else's code and never runs as that owner: a registered one runs as its own
 * owner (as index functions run, so that whoever may replay gains nothing by
 * it), one given in a call as the caller.  Its owner is remembered by name and
 * must still be the same: whoever makes a function of that name later has not
 * been asked for.
 *
 * A caller who brings the events himself could make a reducer do in its owner's
 * name what no event of the store would; and ran it as the caller, whoever
 * registers one would have his code run by everybody who folds that type.  So it
 * is refused, unless he has the rights of its owner anyway: then it runs as the
 * owner here too, so that the owner gains nothing by it either.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/due_snapshot.h"
#include "ground/kept_error.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "replay/named_function.h"
#include "replay/reducer.h"
#include "replay/rules.h"
#include "replay/saga_event.h"

PG_FUNCTION_INFO_V1(es_set_reducer);
PG_FUNCTION_INFO_V1(es_set_reducer_rules);
PG_FUNCTION_INFO_V1(es_reducer_state);

/* Goes up when saga_state.c makes another state of the same events. */
#define SAGA_REDUCER_VERSION 1

static KeptPlan find_reducer =
	{.sql = "SELECT t.reducer, t.rules, t.reducer_version, t.reducer_owner"
			" FROM event_store.reducers t"
			" WHERE t.aggregate_type OPERATOR(pg_catalog.=) $1",
	 .nargs = 1,
	 .argtypes = {TEXTOID}};

static KeptPlan lock_reducers = {
	.sql = "LOCK TABLE event_store.reducers IN SHARE ROW EXCLUSIVE MODE"};

static KeptPlan store_reducer =
	{.sql = "INSERT INTO event_store.reducers AS r"
			" (aggregate_type, reducer, rules, reducer_version, reducer_owner)"
			" VALUES ($1, $2, $3, $4, $5)"
			" ON CONFLICT (aggregate_type) DO UPDATE"
			" SET reducer = EXCLUDED.reducer, rules = EXCLUDED.rules,"
			" reducer_version = EXCLUDED.reducer_version,"
			" reducer_owner = EXCLUDED.reducer_owner,"
			" updated_at = pg_catalog.clock_timestamp()",
	 .nargs = 5,
	 .argtypes = {TEXTOID, TEXTOID, JSONBOID, INT4OID, TEXTOID}};

/* ---------- finding one ---------- */

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
function_named(Datum name, text *aggregate_type)
{
	Oid arguments[2] = {JSONBOID, es_store()->event_type};
	Oid function = es_function_named(name, arguments, 2);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("reducer %s of aggregate type \"%s\" does not exist",
						TextDatumGetCString(name), text_to_cstring(aggregate_type)),
				 errhint("Create the function %s(jsonb, event_store.event) again, or register another one with event_store.set_reducer().",
						 TextDatumGetCString(name))));
	return function;
}

/* What stands in the table for an aggregate type. */
typedef struct Registration
{
	Datum name;	 /* of a function, or (Datum) 0 */
	Datum rules; /* or (Datum) 0 */
	Datum owner; /* of the function, by name; (Datum) 0 = not known */
	int version; /* 0 where nothing was ever registered */
} Registration;

/* Reads it, into the memory of the SPI connection. */
static Registration
find_registration(text *aggregate_type, bool read_only)
{
	Datum values[1] = {PointerGetDatum(aggregate_type)};
	Registration found = {0};
	HeapTuple row;
	TupleDesc desc;
	bool isnull;

	if (es_execute(&find_reducer, values, NULL, read_only, SPI_OK_SELECT) == 0)
		return found;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	found.name = SPI_getbinval(row, desc, 1, &isnull);
	if (isnull)
		found.name = (Datum) 0;
	found.rules = SPI_getbinval(row, desc, 2, &isnull);
	if (isnull)
		found.rules = (Datum) 0;
	found.version = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
	found.owner = SPI_getbinval(row, desc, 4, &isnull);
	if (isnull)
		found.owner = (Datum) 0;
	return found;
}

/* Reports a function that belongs to somebody else than when registered. */
static void
check_owner(const Registration *found, Oid owner, text *aggregate_type)
{
	if (es_is_role_named(owner, found->owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("reducer %s of aggregate type \"%s\" does not belong to role \"%s\"",
					TextDatumGetCString(found->name),
					text_to_cstring(aggregate_type),
					TextDatumGetCString(found->owner)),
			 errdetail("That role owned the function when it was registered."),
			 errhint("If the function is to be used, register it again with event_store.set_reducer().")));
}

Reducer
es_saga_reducer(void)
{
	return (Reducer){.name = "saga",
					 .saga = true,
					 .version = SAGA_REDUCER_VERSION,
					 .registered = true};
}

Reducer
es_registered_reducer(text *aggregate_type, const OwnerScope *scope,
					  MemoryContext context)
{
	Registration found;
	Reducer reducer = {.name = "merge", .registered = true};
	MemoryContext caller;

	if (es_is_saga_type(PointerGetDatum(aggregate_type)))
		return es_saga_reducer();
	found = find_registration(aggregate_type, true);
	reducer.version = found.version;
	if (found.name != (Datum) 0)
	{
		reducer.function = function_named(found.name, aggregate_type);
		check_signature(reducer.function);
		reducer.user = es_function_owner(reducer.function);
		check_owner(&found, reducer.user, aggregate_type);
		reducer.security = scope->security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION;
	}
	caller = MemoryContextSwitchTo(context);
	if (found.name != (Datum) 0)
		reducer.name = TextDatumGetCString(found.name);
	else if (found.rules != (Datum) 0)
	{
		reducer.rules = es_rules_parse(DatumGetJsonbPCopy(found.rules), false);
		reducer.name = "rules";
	}
	MemoryContextSwitchTo(caller);
	return reducer;
}

static void
check_execute(Oid function, const OwnerScope *scope, const char *name)
{
	AclResult allowed =
		object_aclcheck(ProcedureRelationId, function, scope->user, ACL_EXECUTE);

	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_FUNCTION, name);
}

Reducer
es_reducer_of_given_events(text *aggregate_type, const OwnerScope *scope,
						   MemoryContext context)
{
	Reducer reducer = es_registered_reducer(aggregate_type, scope, context);

	if (OidIsValid(reducer.function) &&
		!has_privs_of_role(scope->user, reducer.user))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to fold given events with reducer %s",
						reducer.name),
				 errdetail("It would run with your rights, or with those of its owner on events that you made up."),
				 errhint("Use event_store.replay_aggregate(), or be a member of the role that owns the function.")));
	return reducer;
}

Reducer
es_given_reducer(Oid function, const OwnerScope *scope, MemoryContext context)
{
	Reducer reducer = {.function = function};

	reducer.name = MemoryContextStrdup(context, es_qualified_name(function));
	check_signature(function);
	check_execute(function, scope, reducer.name);
	reducer.user = scope->user;
	reducer.security = scope->security | SECURITY_LOCAL_USERID_CHANGE;
	return reducer;
}

/* ---------- registering one ---------- */

/* Whether two rules are alike to the last digit of their numbers. */
static bool
same_rules(Datum a, Datum b)
{
	Jsonb *x = DatumGetJsonbP(a);
	Jsonb *y = DatumGetJsonbP(b);

	return VARSIZE(x) == VARSIZE(y) && memcmp(x, y, VARSIZE(x)) == 0;
}

static bool
same_registration(const Registration *a, const Registration *b)
{
	if ((a->name == (Datum) 0) != (b->name == (Datum) 0) ||
		(a->rules == (Datum) 0) != (b->rules == (Datum) 0))
		return false;
	if (a->owner != (Datum) 0 && b->owner != (Datum) 0 &&
		!es_same_text(a->owner, b->owner))
		return false;
	return (a->name == (Datum) 0 || es_same_text(a->name, b->name)) &&
		   (a->rules == (Datum) 0 || same_rules(a->rules, b->rules));
}

/*
 * Registers a reducer; its version is what argument 2 says.  NULL there is the
 * next one, or the same when nothing changes.
 */
static void
register_reducer(FunctionCallInfo fcinfo, text *aggregate_type,
				 Registration *wanted)
{
	OwnerScope scope;
	Registration current;
	bool same;

	es_begin(&scope);
	es_execute(&lock_reducers, NULL, NULL, false, SPI_OK_UTILITY);
	current = find_registration(aggregate_type, false);
	same = same_registration(&current, wanted);
	if (!PG_ARGISNULL(2))
		wanted->version = PG_GETARG_INT32(2);
	else if (same)
		wanted->version = current.version;
	else if (pg_add_s32_overflow(current.version, 1, &wanted->version))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("reducer_version is out of range")));
	if (wanted->version < current.version ||
		(wanted->version == current.version && !same))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reducer_version %d of aggregate type \"%s\" must be greater than the current one, which is %d",
						wanted->version, text_to_cstring(aggregate_type),
						current.version),
				 errhint("Snapshots of that version were made by another reducer. Leave reducer_version out to take the next one.")));
	/* a store of before learns whose function it is */
	if (!same || wanted->version != current.version ||
		(current.owner == (Datum) 0) != (wanted->owner == (Datum) 0))
	{
		Datum values[5] = {PointerGetDatum(aggregate_type), wanted->name,
						   wanted->rules, Int32GetDatum(wanted->version),
						   wanted->owner};
		char nulls[5] = {' ', wanted->name == (Datum) 0 ? 'n' : ' ',
						 wanted->rules == (Datum) 0 ? 'n' : ' ', ' ',
						 wanted->owner == (Datum) 0 ? 'n' : ' '};

		es_execute(&store_reducer, values, nulls, false, SPI_OK_INSERT);
	}
	es_end(&scope);
}

/* What both functions check of their arguments; returns the aggregate type. */
static text *
check_registration(FunctionCallInfo fcinfo)
{
	text *aggregate_type = es_required_text(fcinfo, 0, "aggregate_type");

	(void) es_store();
	if (es_is_saga_type(PointerGetDatum(aggregate_type)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("aggregate type \"%s\" is a saga's, whose reducer is the store's",
						text_to_cstring(aggregate_type))));
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("reducer_version must be positive")));
	return aggregate_type;
}

Datum
es_set_reducer(PG_FUNCTION_ARGS)
{
	text *aggregate_type;
	Registration wanted = {0};

	PreventCommandIfReadOnly("event_store.set_reducer()");
	PreventCommandIfParallelMode("event_store.set_reducer()");
	aggregate_type = check_registration(fcinfo);
	if (!PG_ARGISNULL(1))
	{
		Oid function = PG_GETARG_OID(1);

		check_signature(function);
		wanted.name = es_register_function(function, "a reducer");
		wanted.owner =
			CStringGetTextDatum(GetUserNameFromId(es_function_owner(function),
												  false));
	}
	register_reducer(fcinfo, aggregate_type, &wanted);
	PG_RETURN_VOID();
}

Datum
es_set_reducer_rules(PG_FUNCTION_ARGS)
{
	text *aggregate_type;
	Registration wanted = {0};

	PreventCommandIfReadOnly("event_store.set_reducer_rules()");
	PreventCommandIfParallelMode("event_store.set_reducer_rules()");
	aggregate_type = check_registration(fcinfo);
	if (!PG_ARGISNULL(1))
	{
		wanted.rules = JsonbPGetDatum(PG_GETARG_JSONB_P(1));
		(void) es_rules_parse(DatumGetJsonbP(wanted.rules), false);
	}
	register_reducer(fcinfo, aggregate_type, &wanted);
	PG_RETURN_VOID();
}

/* ---------- how they do ---------- */

#define REDUCER_STATE_COLUMNS 6

/* reducer_state(): the rows of reducer_status. */
Datum
es_reducer_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SharedDatabase *db =
		es_shared != NULL ? es_find_database(MyDatabaseId) : NULL;
	FailingType *types = palloc(ES_FAILING_TYPES * sizeof(FailingType));
	int count = db == NULL ? 0 : es_failing_types(db, types);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < count; i++)
	{
		const FailingType *type = &types[i];
		bool well = type->failures == 0;
		Datum values[REDUCER_STATE_COLUMNS] = {CStringGetTextDatum(type->name),
											   Int64GetDatum(type->total),
											   Int32GetDatum(type->failures),
											   es_shown_kept_error(type->error,
																   GetUserId()),
											   TimestampTzGetDatum(type->failed_at),
											   TimestampTzGetDatum(type->until)};
		bool nulls[REDUCER_STATE_COLUMNS] = {false, false, false,
											 well,	well,  well};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	pfree(types);
	return (Datum) 0;
}
