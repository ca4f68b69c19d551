/*
 * step_handler.c
 *		Functions of users that do steps of sagas: which one it is, and how it is called.
 *
 * A handler is code of the role that defined the saga, called as handlers of projections are
 * (handler_call.c): as its owner, restricted, in what is left of the attempt's time.  It is
 * kept by its name and looked up at each call, so it may be dropped and made again; its
 * owner must still be the same.
 *
 * What it appends is caused by the claim: it takes the saga's saga_id and correlation_id.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "consume/handler.h"
#include "consume/handler_call.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "read/feed.h"
#include "replay/named_function.h"
#include "replay/saga_event.h"
#include "saga/definition.h"
#include "saga/step_handler.h"

#define ARGUMENTS 4
/* A call has no longer time than timers can count twice. */
#define LONGEST_MS (PG_INT32_MAX / 2)

static const Oid argument_types[ARGUMENTS] = {TEXTOID, TEXTOID, INT4OID, JSONBOID};

/* ---------- which one ---------- */

/* The function of a name that has the form of a handler; InvalidOid if there is none. */
static Oid
function_of(const char *name)
{
	Oid function =
		es_function_named(CStringGetTextDatum(name), argument_types, ARGUMENTS);
	HeapTuple tuple;
	Form_pg_proc proc;

	if (!OidIsValid(function))
		return InvalidOid;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prokind != PROKIND_FUNCTION || proc->proretset ||
		proc->prorettype != JSONBOID)
		function = InvalidOid;
	ReleaseSysCache(tuple);
	return function;
}

/* Checks the handler of a step, or of its compensation; returns its owner. */
static Oid
check_handler(const StepDefinition *step, StepKind kind)
{
	const char *name = step->paces[kind].handler;
	const char *place =
		psprintf("%sstep \"%s\"", kind == KIND_STEP ? "" : "compensation of ",
				 step->name);
	Oid function = function_of(name);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("bad saga definition: %s has a \"handler\" %s that cannot be one",
						place, name),
				 errdetail("There is no function %s(saga_id text, step text, attempt int, context jsonb) RETURNS jsonb.",
						   name)));
	if (isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("bad saga definition: %s has a \"handler\" %s that is temporary",
						place, name)));
	if (!object_ownercheck(ProcedureRelationId, function, GetUserId()) ||
		object_aclcheck(ProcedureRelationId, function, GetUserId(),
						ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("bad saga definition: %s has a \"handler\" %s that is not yours",
						place, name),
				 errdetail("Only who owns a function, and may execute it, can have it called.")));
	return es_function_owner(function);
}

char *
es_check_step_handlers(const SagaDefinition *definition)
{
	Oid owner = InvalidOid;

	for (int i = 0; i < 2 * definition->count; i++)
	{
		const StepDefinition *step = &definition->steps[i / 2];
		StepKind kind = i % 2 == 0 ? KIND_STEP : KIND_COMPENSATION;
		Oid its_owner;

		if (step->paces[kind].handler == NULL)
			continue;
		its_owner = check_handler(step, kind);
		if (OidIsValid(owner) && owner != its_owner)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("bad saga definition: the handler of step \"%s\" belongs to another role than those before it",
							step->name),
					 errdetail("All handlers of a saga run as one role.")));
		owner = its_owner;
	}
	if (!OidIsValid(owner))
		return NULL;
	(void) es_feed_database();
	es_check_projector_role(owner);
	return GetUserNameFromId(owner, false);
}

/* The function, as it is now. */
static Oid
find_handler(const StepWork *work)
{
	Oid function = function_of(work->handler);

	if (!OidIsValid(function))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("handler %s of step \"%s\" does not exist",
							   work->handler, work->step),
						errhint("Create the function again.")));
	if (es_function_owner(function) != get_role_oid(work->owner, true))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("handler %s of step \"%s\" does not belong to role \"%s\"",
						work->handler, work->step, work->owner),
				 errhint("If it is to be used, define the saga again.")));
	return function;
}

/* ---------- calling ---------- */

/* The event of the claim, as far as a cause needs it. */
static EventRow
cause_of(const StepWork *work)
{
	static KeptPlan plan = {"SELECT e.event_id FROM event_store.domain_events e"
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
							" AND e.event_type OPERATOR(pg_catalog.=) 'StepClaimed'"
							" AND (e.payload OPERATOR(pg_catalog.->>) 'lease')::pg_catalog.int8 OPERATOR(pg_catalog.=) $3"
							" ORDER BY e.sequence DESC LIMIT 1",
							3,
							{TEXTOID, TEXTOID, INT8OID}};
	char *type = psprintf(ES_SAGA_PREFIX "%s", TextDatumGetCString(work->name));
	Datum values[3] = {CStringGetTextDatum(type), work->id,
					   Int64GetDatum(work->lease)};
	MemoryContext caller = CurrentMemoryContext;
	EventRow cause;
	OwnerScope scope;

	memset(cause.nulls, true, sizeof(cause.nulls));
	cause.values[EV_SAGA_ID] = work->id;
	cause.nulls[EV_SAGA_ID] = false;
	cause.nulls[EV_CORRELATION_ID] = work->correlation_id == NULL;
	if (work->correlation_id != NULL)
		cause.values[EV_CORRELATION_ID] =
			CStringGetTextDatum(work->correlation_id);
	es_begin(&scope);
	if (es_execute_latest(&plan, values, NULL) == 0)
		elog(ERROR, "the claim of step \"%s\" is not in the log", work->step);
	MemoryContextSwitchTo(caller);
	cause.values[EV_EVENT_ID] =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
					  &cause.nulls[EV_EVENT_ID]);
	cause.values[EV_EVENT_ID] =
		datumCopy(cause.values[EV_EVENT_ID], false, UUID_LEN);
	es_end(&scope);
	return cause;
}

/* The handler has not ended when it was cancelled, and this process ends with it. */
static void
note_given_up(const void *what)
{
	const StepWork *work = what;

	ereport(LOG,
			errmsg_internal("event_store projector ends itself: handler %s of step \"%s\" of saga %s/%s did not end when it was cancelled",
							work->handler, work->step,
							TextDatumGetCString(work->name),
							TextDatumGetCString(work->id)));
}

static void
describe_call(void *arg)
{
	const StepWork *work = arg;

	errcontext("handler %s of step \"%s\" of saga %s/%s, attempt %d",
			   work->handler, work->step, TextDatumGetCString(work->name),
			   TextDatumGetCString(work->id), work->attempt);
}

Jsonb *
es_call_step_handler(StepWork *work)
{
	ErrorContextCallback callback;
	/* a clock that was set back since the claim gives no more time */
	TimestampTz from = Max(GetCurrentTimestamp(), work->claimed_at);
	long left = TimestampDifferenceMilliseconds(from, work->deadline);
	HandlerCall call = {.timeout = Min(Max(left, 1), LONGEST_MS),
						.count = ARGUMENTS,
						.arguments = {work->id, CStringGetTextDatum(work->step),
									  Int32GetDatum(work->attempt),
									  JsonbPGetDatum(work->input)},
						.given_up = note_given_up,
						.what = work,
						.overdue = &work->overdue};
	EventRow cause = cause_of(work);
	Datum result;

	work->broken = true;
	call.function = find_handler(work);
	call.owner = es_function_owner(call.function);
	work->broken = false;
	call.cause = &cause;
	es_make_constraints_immediate();
	callback.callback = describe_call;
	callback.arg = work;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	result = es_call_in_time(&call);
	error_context_stack = callback.previous;
	return call.isnull ? NULL : DatumGetJsonbP(result);
}
