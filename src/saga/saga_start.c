/*
 * saga_start.c
 *		start_saga, and what users and operators say to a saga: signals, decisions,
 *		cancellation.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/log_plan.h"
#include "ground/metrics.h"
#include "replay/json_value.h"
#include "replay/saga_state.h"
#include "replay/state.h"
#include "saga/define.h"
#include "saga/machine.h"
#include "saga/saga.h"

PG_FUNCTION_INFO_V1(es_start_saga);
PG_FUNCTION_INFO_V1(es_signal_saga);
PG_FUNCTION_INFO_V1(es_resolve_step);
PG_FUNCTION_INFO_V1(es_cancel_saga);

/* A saga begins with its first event. */
#define FIRST_SEQUENCE 1

static Jsonb *
object_argument(FunctionCallInfo fcinfo, int argno, const char *name)
{
	Jsonb *json;
	JsonbValue value;

	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	json = PG_GETARG_JSONB_P(argno);
	es_whole_value(json, &value);
	if (!es_is_object(&value))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be a JSON object", name),
						es_hint_encoded_twice(value.type == jbvString)));
	return json;
}

static char *
text_argument(FunctionCallInfo fcinfo, int argno, const char *name)
{
	return text_to_cstring(es_required_text(fcinfo, argno, name));
}

static char *
optional_text(FunctionCallInfo fcinfo, int argno, const char *name)
{
	return PG_ARGISNULL(argno) ? NULL : text_argument(fcinfo, argno, name);
}

/* VS002 where the saga was started with another context. */
static void
compare_context(const Saga *saga, Jsonb *context)
{
	static KeptPlan plan = {"SELECT e.payload OPERATOR(pg_catalog.->) 'context'"
							" FROM event_store.domain_events e"
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
							" AND e.sequence OPERATOR(pg_catalog.=) 1",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {saga->type, saga->id};
	OwnerScope scope;
	bool isnull = true;
	bool same = false;
	Datum known = (Datum) 0;

	es_begin(&scope);
	/* one that is over may be in the archive */
	if (es_execute_latest(&plan, values, NULL) > 0 ||
		es_execute_on_log(&plan, 0, values, NULL, GetLatestSnapshot()) > 0)
		known = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
							  &isnull);
	if (!isnull)
		same = compareJsonbContainers(&DatumGetJsonbP(known)->root,
									  &context->root) == 0;
	es_end(&scope);
	if (!same)
		ereport(ERROR, (errcode(ES_ERRCODE_EVENT_ID_REUSED),
						errmsg("saga %s was started with another context",
							   saga->machine.saga)));
}

Datum
es_start_saga(PG_FUNCTION_ARGS)
{
	Saga saga;
	Jsonb *context;
	char *correlation_id;

	es_begin_call(ES_CALL_START_SAGA);
	context = object_argument(fcinfo, 2, "context");
	correlation_id = optional_text(fcinfo, 3, "correlation_id");
	es_open_saga(fcinfo, &saga, "start_saga()");
	if (saga.machine.state->phase != SAGA_NONE)
		compare_context(&saga, context);
	else
	{
		saga.machine.definition = es_newest_definition(saga.name);
		es_start_machine(&saga.machine, context, correlation_id);
		es_save_saga(&saga, "start_saga()");
	}
	es_end_call(ES_CALL_START_SAGA, 0);
	PG_RETURN_INT64(FIRST_SEQUENCE);
}

Datum
es_signal_saga(PG_FUNCTION_ARGS)
{
	Saga saga;
	char *signal;
	char *signal_id;
	Jsonb *payload;

	es_begin_call(ES_CALL_SIGNAL_SAGA);
	signal = text_argument(fcinfo, 2, "signal");
	if (PG_ARGISNULL(3))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("payload must not be null")));
	payload = PG_GETARG_JSONB_P(3);
	signal_id = optional_text(fcinfo, 4, "signal_id");
	es_open_known_saga(fcinfo, &saga, "signal_saga()");
	es_signal_machine(&saga.machine, signal, signal_id, payload);
	es_save_saga(&saga, "signal_saga()");
	es_end_call(ES_CALL_SIGNAL_SAGA, 0);
	PG_RETURN_DATUM(es_saga_phase_text(&saga));
}

static void
check_action(const char *action)
{
	static const char *const actions[] = {"retry", "skip", "succeeded", "give_up"};

	for (int i = 0; i < (int) lengthof(actions); i++)
	{
		if (strcmp(actions[i], action) == 0)
			return;
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("action is not a known word: \"%s\"", action),
					errhint("Use 'retry', 'skip', 'succeeded' or 'give_up'.")));
}

Datum
es_resolve_step(PG_FUNCTION_ARGS)
{
	Saga saga;
	StepResolution resolution = {0};

	es_begin_call(ES_CALL_RESOLVE_STEP);
	resolution.step = text_argument(fcinfo, 2, "step");
	resolution.action = text_argument(fcinfo, 3, "action");
	check_action(resolution.action);
	resolution.reason = text_argument(fcinfo, 4, "reason");
	resolution.result = PG_ARGISNULL(5) ? NULL : PG_GETARG_JSONB_P(5);
	resolution.by = GetUserNameFromId(GetSessionUserId(), false);
	es_open_known_saga(fcinfo, &saga, "resolve_step()");
	es_resolve_stuck(&saga.machine, &resolution);
	es_save_saga(&saga, "resolve_step()");
	es_end_call(ES_CALL_RESOLVE_STEP, 0);
	PG_RETURN_DATUM(es_saga_phase_text(&saga));
}

Datum
es_cancel_saga(PG_FUNCTION_ARGS)
{
	Saga saga;
	char *reason;

	es_begin_call(ES_CALL_CANCEL_SAGA);
	reason = text_argument(fcinfo, 2, "reason");
	es_open_known_saga(fcinfo, &saga, "cancel_saga()");
	es_cancel_machine(&saga.machine, reason);
	es_save_saga(&saga, "cancel_saga()");
	es_end_call(ES_CALL_CANCEL_SAGA, 0);
	PG_RETURN_DATUM(es_saga_phase_text(&saga));
}
