/*
 * handler.c
 *		Functions of users that handle events: which one it is, and how it is called.
 *
 * A handler is somebody else's code (handler_call.c).  What a call appends is caused by the
 * event that it was called with.  One that outlives its cancellation ends its process, and
 * the next process learns from shared memory which call it was.
 *
 * A handler is kept by its signature, and looked up at each use: it may be dropped and made
 * again.  Its owner must still be the same.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/uuid.h"
#include "utils/varlena.h"

#include "consume/handler.h"
#include "consume/handler_call.h"
#include "consume/pace.h"
#include "consume/projection.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "write/cause.h"

typedef enum Form
{
	NO_HANDLER,
	OF_EVENT,  /* (event) */
	OF_EVENTS, /* (event[]) */
	OF_NOTHING /* a reset */
} Form;

/* A function, as it stands in the catalog now. */
typedef struct Handler
{
	Oid function;
	Oid owner;
	Form form;
} Handler;

/* ---------- which one ---------- */

static Form
form_of(Form_pg_proc proc)
{
	Oid event = es_store()->event_type;

	if (proc->prokind != PROKIND_FUNCTION || proc->proretset ||
		proc->prorettype != VOIDOID || proc->pronargs > 1)
		return NO_HANDLER;
	if (proc->pronargs == 0)
		return OF_NOTHING;
	if (proc->proargtypes.values[0] == event)
		return OF_EVENT;
	return proc->proargtypes.values[0] == get_array_type(event) ? OF_EVENTS
																: NO_HANDLER;
}

static Handler
look_at(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Handler handler = {.function = function};
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function with OID %u does not exist", function)));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	handler.owner = proc->proowner;
	handler.form = form_of(proc);
	ReleaseSysCache(tuple);
	return handler;
}

Datum
es_handler_signature(Oid function, bool reset, Oid *owner)
{
	Handler handler = look_at(function);
	char *name = format_procedure_qualified(function);

	if (handler.form == NO_HANDLER || (handler.form == OF_NOTHING) != reset)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("function %s cannot %s", name,
						reset ? "reset a projection" : "be a handler"),
				 reset
					 ? errdetail("To reset is a function () RETURNS void.")
					 : errdetail("A handler is a function (events event_store.event[]) RETURNS void, or (event event_store.event) RETURNS void.")));
	if (isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("function %s is temporary and cannot be registered",
							   name)));
	if (!object_ownercheck(ProcedureRelationId, function, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FUNCTION, name);
	*owner = handler.owner;
	return CStringGetTextDatum(name);
}

/*
 * The function that a signature stands for now; InvalidOid if there is none.  It stands in
 * a table of the owner's, who may have put anything there.
 */
static Oid
function_of(Datum signature)
{
	char *name = TextDatumGetCString(signature);
	char *arguments = strrchr(name, '(');
	Oid event = es_store()->event_type;
	Oid argument;
	bool reset;
	List *parts;
	Oid schema;

	if (arguments == NULL)
		return InvalidOid;
	argument = strstr(arguments, "[]") != NULL ? get_array_type(event) : event;
	reset = strcmp(arguments, "()") == 0;
	*arguments = '\0';
	parts = textToQualifiedNameList(cstring_to_text(name));
	if (list_length(parts) != 2)
		return InvalidOid;
	schema = get_namespace_oid(strVal(linitial(parts)), true);
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(strVal(lsecond(parts))),
						   PointerGetDatum(buildoidvector(&argument,
														  reset ? 0 : 1)),
						   ObjectIdGetDatum(schema));
}

/* The function of a signature, which must be what it was when it was registered. */
static Handler
find_handler(const Projection *projection, Datum signature, bool reset)
{
	bool is_known =
		signature != (Datum) 0 && projection->handler_owner != (Datum) 0;
	Oid function = is_known ? function_of(signature) : InvalidOid;
	char *name = is_known ? TextDatumGetCString(signature) : "(none)";
	char *owner;
	Handler handler;

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s of projection \"%s\" does not exist", name,
						TextDatumGetCString(projection->name)),
				 errhint("Create the function again, then call resume_subscription().")));
	owner = TextDatumGetCString(projection->handler_owner);
	handler = look_at(function);
	if (handler.owner != get_role_oid(owner, true))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("handler %s of projection \"%s\" does not belong to role \"%s\"",
						name, TextDatumGetCString(projection->name), owner),
				 errhint("If it is to be used, drop the projection and register it again.")));
	if (handler.form == NO_HANDLER || (handler.form == OF_NOTHING) != reset)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function %s cannot %s any more", name,
							   reset ? "reset a projection" : "be a handler")));
	return handler;
}

static bool
may_connect(Oid role)
{
	return object_aclcheck(DatabaseRelationId, MyDatabaseId, role,
						   ACL_CONNECT) == ACLCHECK_OK;
}

static bool
may_log_in(Oid role)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool may = HeapTupleIsValid(tuple) &&
			   ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return may;
}

bool
es_may_run_projector(Oid role)
{
	return may_log_in(role) && may_connect(role) && !es_is_above_store(role);
}

void
es_check_projector_role(Oid role)
{
	es_refuse_above_store(role);
	if (es_may_run_projector(role))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("role \"%s\", which the handler runs as, lacks %s",
					GetUserNameFromId(role, false),
					may_connect(role)  ? "LOGIN"
					: may_log_in(role) ? "CONNECT on this database"
									   : "LOGIN, and CONNECT on this database"),
			 errdetail("A process connects as that role to run the handler."),
			 errhint("Grant what is missing, or give the function to another role.")));
}

/* ---------- calling ---------- */

static void
describe_call(void *arg)
{
	const ProjectionBatch *batch = arg;
	const EventRow *event = &batch->events[batch->done];

	errcontext("handler %s of projection \"%s\" at event %lld",
			   TextDatumGetCString(batch->projection->handler),
			   TextDatumGetCString(batch->projection->name),
			   (long long) DatumGetInt64(event->values[EV_GLOBAL_POSITION]));
}

/* The handler has not ended when it was cancelled, and this process ends with it. */
static void
note_given_up(const void *what)
{
	const ProjectionBatch *batch = what;

	es_note_overdue(batch->projection->hash,
					DatumGetInt64(batch->events[batch->done]
									  .values[EV_GLOBAL_POSITION]),
					batch->exact ? 1 : batch->count);
	ereport(LOG,
			errmsg_internal("event_store projector ends itself: handler %s of projection \"%s\" did not end when it was cancelled",
							TextDatumGetCString(batch->projection->handler),
							TextDatumGetCString(batch->projection->name)));
}

/* A call with its time, and with the event that causes what is appended. */
static void
call_in_time(const Handler *handler, ProjectionBatch *batch, Datum argument,
			 const EventRow *cause, bool several)
{
	HandlerCall call = {.function = handler->function,
						.owner = handler->owner,
						.timeout = batch->projection->timeout,
						.count = 1,
						.arguments = {argument},
						.cause = cause,
						.several = several,
						.given_up = note_given_up,
						.what = batch,
						.overdue = &batch->overdue};

	(void) es_call_in_time(&call);
}

static Datum
event_datum(TupleDesc desc, EventRow *event)
{
	return HeapTupleGetDatum(heap_form_tuple(desc, event->values, event->nulls));
}

/* Event by event, until one has been reacted to. */
static void
call_with_each(const Handler *handler, ProjectionBatch *batch)
{
	TupleDesc desc = es_event_desc();
	MemoryContext per_event =
		AllocSetContextCreate(CurrentMemoryContext, "event_store handled event",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(per_event);

	while (batch->done < batch->count && !batch->ends)
	{
		EventRow *event = &batch->events[batch->done];

		CHECK_FOR_INTERRUPTS();
		call_in_time(handler, batch, event_datum(desc, event), event, false);
		batch->done++;
		batch->ends = es_has_caused();
		MemoryContextReset(per_event);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(per_event);
}

/* All in one call. */
static void
call_with_all(const Handler *handler, ProjectionBatch *batch)
{
	TupleDesc desc = es_event_desc();
	Datum *events = palloc_array(Datum, batch->count);
	ArrayType *array;

	for (int i = 0; i < batch->count; i++)
		events[i] = event_datum(desc, &batch->events[i]);
	array = construct_array(events, batch->count, es_store()->event_type, -1,
							false, TYPALIGN_DOUBLE);
	call_in_time(handler, batch, PointerGetDatum(array), &batch->events[0],
				 batch->count > 1);
	/* it may have caught the refusal of its append */
	if (es_has_caused() && batch->count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the handler has appended to a batch of several events")));
	batch->done = batch->count;
	batch->ends = es_has_caused();
}

void
es_apply_handler(ProjectionBatch *batch)
{
	ErrorContextCallback callback;
	Handler handler;

	batch->broken = true;
	handler = find_handler(batch->projection, batch->projection->handler, false);
	batch->broken = false;
	batch->exact = handler.form == OF_EVENT;
	es_make_constraints_immediate();
	callback.previous = error_context_stack;
	callback.callback = describe_call;
	callback.arg = batch;
	error_context_stack = &callback;
	if (handler.form == OF_EVENTS)
		call_with_all(&handler, batch);
	else
		call_with_each(&handler, batch);
	error_context_stack = callback.previous;
}

void
es_call_reset(const Projection *projection)
{
	Handler handler = find_handler(projection, projection->reset, true);
	HandlerCall call = {.function = handler.function,
						.owner = handler.owner,
						.timeout = projection->timeout};
	Oid of_store = es_store()->owner;

	/* it has no arguments, so many a function that was made for something else could be one */
	if (object_aclcheck(ProcedureRelationId, handler.function, of_store,
						ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of the store may not execute the reset function of projection \"%s\"",
						TextDatumGetCString(projection->name)),
				 errhint("GRANT EXECUTE ON FUNCTION %s TO %s",
						 TextDatumGetCString(projection->reset),
						 quote_identifier(GetUserNameFromId(of_store, false)))));
	es_make_constraints_immediate();
	(void) es_call_as_owner(&call);
}
