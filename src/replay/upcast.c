/*
 * upcast.c
 *		Events as their last version has them.
 *
 * What readers, replays and projections get is upcast where they read it; the log keeps
 * what was written.
 *
 * A function runs as its owner, as a reducer does, and is refused for events that a
 * caller makes up unless he has the rights of its owner anyway (reducer.c says why).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/pair_table.h"
#include "replay/named_function.h"
#include "replay/patch.h"
#include "replay/rules.h"
#include "replay/state.h"
#include "replay/upcast.h"
#include "replay/upcast_failure.h"
#include "replay/upcaster.h"

PG_FUNCTION_INFO_V1(es_upcast_event);

/* What an upcaster may change of an event, besides its version. */
static const EventColumn changed_columns[] = {EV_EVENT_TYPE, EV_PAYLOAD,
											  EV_PAYLOAD_BYTES, EV_METADATA};

/* ---------- by a function ---------- */

/* Refuses to run somebody's function on what another has made up. */
static void
check_given(const Upcaster *upcaster)
{
	if (has_privs_of_role(GetUserId(), upcaster->user))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to upcast given events with %s",
					TextDatumGetCString(upcaster->name)),
			 errdetail("It would run with the rights of its owner on events that you made up."),
			 errhint("Use event_store.load_events() and its like, or be a member of the role that owns the function.")));
}

/* What a function has made is an event that could have been appended. */
static void
check_made(const Upcaster *upcaster, const Datum *values, const bool *nulls)
{
	char *where =
		psprintf(" that upcaster %s gives", TextDatumGetCString(upcaster->name));

	es_check_name(values[EV_EVENT_TYPE], nulls[EV_EVENT_TYPE], "event_type",
				  where, true);
	if (nulls[EV_PAYLOAD] == nulls[EV_PAYLOAD_BYTES])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("upcaster %s must give exactly one of payload and payload_bytes",
						TextDatumGetCString(upcaster->name))));
	if (!nulls[EV_METADATA] &&
		!JB_ROOT_IS_OBJECT(DatumGetJsonbP(values[EV_METADATA])))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata that upcaster %s gives must be a JSON object",
						TextDatumGetCString(upcaster->name))));
}

static void
upcast_by_function(Upcaster *upcaster, Datum *values, bool *nulls, bool given)
{
	LOCAL_FCINFO(call, 1);
	TupleDesc desc = es_event_desc();
	HeapTuple tuple = heap_form_tuple(desc, values, nulls);
	HeapTupleData made = {0};
	Datum result;
	Datum new_values[EV_COLUMNS];
	bool new_nulls[EV_COLUMNS];
	Oid user;
	int security;

	es_find_upcaster_function(upcaster);
	if (given)
		check_given(upcaster);
	GetUserIdAndSecContext(&user, &security);
	InitFunctionCallInfoData(*call, &upcaster->call, 1, InvalidOid, NULL, NULL);
	call->args[0] = (NullableDatum){.value = HeapTupleGetDatum(tuple)};
	result = es_call_as(call, upcaster->user,
						security | SECURITY_LOCAL_USERID_CHANGE |
							SECURITY_RESTRICTED_OPERATION,
						true);
	if (call->isnull)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("upcaster %s gives no event",
							   TextDatumGetCString(upcaster->name))));
	made.t_data = DatumGetHeapTupleHeader(result);
	made.t_len = HeapTupleHeaderGetDatumLength(made.t_data);
	ItemPointerSetInvalid(&made.t_self);
	heap_deform_tuple(&made, desc, new_values, new_nulls);
	check_made(upcaster, new_values, new_nulls);
	for (int i = 0; i < (int) lengthof(changed_columns); i++)
	{
		values[changed_columns[i]] = new_values[changed_columns[i]];
		nulls[changed_columns[i]] = new_nulls[changed_columns[i]];
	}
}

/* ---------- by rules ---------- */

/* What the payload has become, where it is taken apart. */
static void
put_together(Patch *patch, Datum *values)
{
	if (patch->members == NULL)
		return;
	values[EV_PAYLOAD] = JsonbPGetDatum(es_patch_result(patch));
	patch->members = NULL;
}

/* Whether the payload is an object, which is taken apart then. */
static bool
take_apart(Patch *patch, Datum *values, const bool *nulls)
{
	Jsonb *payload;

	if (patch->members != NULL)
		return true;
	if (nulls[EV_PAYLOAD])
		return false;
	payload = DatumGetJsonbP(values[EV_PAYLOAD]);
	values[EV_PAYLOAD] = JsonbPGetDatum(payload);
	if (!JB_ROOT_IS_OBJECT(payload))
		return false;
	es_patch_begin(patch, payload);
	return true;
}

static void
upcast_by_state(const Rules *rules, Datum *values, const bool *nulls)
{
	State *state;
	Jsonb *payload;

	if (nulls[EV_PAYLOAD])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rules cannot upcast an event with payload_bytes"),
				 errhint("Register a function with event_store.set_upcaster().")));
	state = es_state_begin(DatumGetJsonbP(values[EV_PAYLOAD]));
	(void) es_rules_apply(rules, state, values, nulls);
	payload = es_state_result(state);
	es_state_end(state);
	if (payload == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("rules leave nothing of the payload")));
	values[EV_PAYLOAD] = JsonbPGetDatum(payload);
}

static void
apply_rules(const Upcaster *upcaster, Patch *patch, Datum *values,
			const bool *nulls)
{
	if (upcaster->flat && take_apart(patch, values, nulls))
		es_rules_patch(upcaster->rules, patch, values, nulls);
	else
	{
		put_together(patch, values);
		upcast_by_state(upcaster->rules, values, nulls);
	}
}

static void
upcast_by_rules(const Upcaster *upcaster, Patch *patch, Datum *values,
				const bool *nulls)
{
	/* of an event that was erased there is nothing to change but its type */
	if (upcaster->rules != NULL &&
		(patch->members != NULL || !es_is_erased(values, nulls)))
		apply_rules(upcaster, patch, values, nulls);
	if (upcaster->type != (Datum) 0)
		values[EV_EVENT_TYPE] =
			PointerGetDatum(DatumGetTextPCopy(upcaster->type));
}

/* ---------- from version to version ---------- */

static bool
upcast(Datum *values, bool *nulls, bool given)
{
	Datum written_values[EV_COLUMNS];
	bool written_nulls[EV_COLUMNS];
	UpcastEvent event = {written_values, written_nulls};
	Upcaster *upcaster = es_find_upcaster(values);
	Patch patch = {.members = NULL};

	if (upcaster == NULL)
		return false;
	memcpy(written_values, values, sizeof(written_values));
	memcpy(written_nulls, nulls, sizeof(written_nulls));
	es_begin_upcasting(&event);
	for (; upcaster != NULL; upcaster = es_find_upcaster(values))
	{
		int version = upcaster->from_version + 1;

		CHECK_FOR_INTERRUPTS();
		if (upcaster->name != (Datum) 0)
		{
			put_together(&patch, values);
			upcast_by_function(upcaster, values, nulls, given);
		}
		else
			upcast_by_rules(upcaster, &patch, values, nulls);
		values[EV_SCHEMA_VERSION] = Int32GetDatum(version);
	}
	put_together(&patch, values);
	es_end_upcasting(&event);
	return true;
}

bool
es_upcast(Datum *values, bool *nulls)
{
	return upcast(values, nulls, false);
}

bool
es_upcast_given(Datum *values, bool *nulls)
{
	return upcast(values, nulls, true);
}

ErrorData *
es_try_upcast(Datum *values, bool *nulls, bool faults)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Datum last_values[EV_COLUMNS];
	bool last_nulls[EV_COLUMNS];
	ErrorData *volatile error = NULL;

	memcpy(last_values, values, sizeof(last_values));
	memcpy(last_nulls, nulls, sizeof(last_nulls));
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		(void) es_upcast(last_values, last_nulls);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!es_is_fault_of_event(error->sqlerrcode) &&
			!(faults && es_is_fault_of_upcaster(error->sqlerrcode)))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL)
		return error;
	memcpy(values, last_values, sizeof(last_values));
	memcpy(nulls, last_nulls, sizeof(last_nulls));
	return NULL;
}

bool
es_has_last_type(TupleTableSlot *slot, const Datum *types, int count,
				 ErrorData **why)
{
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];

	*why = NULL;
	slot_getallattrs(slot);
	memcpy(values, slot->tts_values, sizeof(values));
	memcpy(nulls, slot->tts_isnull, sizeof(nulls));
	if (es_is_old_version(values))
		*why = es_try_upcast(values, nulls, true);
	for (int i = 0; i < count && *why == NULL; i++)
	{
		if (es_same_text(values[EV_EVENT_TYPE], types[i]))
			return true;
	}
	return false;
}

/* ---------- SQL ---------- */

/* upcast(event): an event as its last version has it. */
Datum
es_upcast_event(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	HeapTupleHeader header = PG_GETARG_HEAPTUPLEHEADER(0);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header),
						   .t_data = header};
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];

	(void) es_store();
	desc = es_event_desc();
	ItemPointerSetInvalid(&tuple.t_self);
	heap_deform_tuple(&tuple, desc, values, nulls);
	if (!es_upcasts() || nulls[EV_AGGREGATE_TYPE] || nulls[EV_EVENT_TYPE] ||
		nulls[EV_SCHEMA_VERSION] || !es_upcast_given(values, nulls))
		PG_RETURN_DATUM(HeapTupleHeaderGetDatum(header));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
