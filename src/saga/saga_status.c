/*
 * saga_status.c
 *		Where sagas stand.
 *
 * Table sagas has a row each, with the state; all else is folded from the events of a
 * saga when it is asked for, so that counting states costs nothing of it.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/kept_error.h"
#include "replay/saga_state.h"
#include "saga/circuit.h"
#include "saga/saga.h"

PG_FUNCTION_INFO_V1(es_saga_states);
PG_FUNCTION_INFO_V1(es_saga_detail);

PG_FUNCTION_INFO_V1(es_saga_circuits);

static const char *const circuit_phases[] = {"closed", "open", "half_open"};

StaticAssertDecl(lengthof(circuit_phases) == CIRCUIT_HALF_OPEN + 1,
				 "every phase of a circuit has a word");

/* What saga_detail() returns. */
enum
{
	SD_STEP,
	SD_ATTEMPT,
	SD_DEADLINE,
	SD_UPDATED_AT,
	SD_LAST_ERROR,
	SD_CONTEXT,
	SD_COLUMNS
};

Datum
es_saga_states(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"SELECT s.saga_name, s.saga_id, s.version, s.state,"
							" s.deadline, s.started_at FROM event_store.sagas s"};

	return es_return_rows(fcinfo, &plan);
}

static bool
is_open(int phase)
{
	return phase == STEP_QUEUED || phase == STEP_LEASED ||
		   phase == STEP_WAITING || phase == STEP_STUCK;
}

/* The step that the saga is at; of several the first. */
static const SagaStep *
current_step(const SagaState *saga)
{
	ListCell *cell;

	foreach (cell, saga->steps)
	{
		const SagaStep *step = lfirst(cell);

		if (is_open(step->phase) || is_open(step->compensation))
			return step;
	}
	return NULL;
}

static void
describe_step(const SagaStep *step, Datum *values, bool *nulls)
{
	TimestampTz deadline =
		step->deadline != 0 ? step->deadline : step->queue_deadline;

	values[SD_STEP] = CStringGetTextDatum(step->step);
	nulls[SD_STEP] = false;
	values[SD_ATTEMPT] =
		Int32GetDatum(is_open(step->phase) ? step->attempt
										   : step->compensation_attempt);
	nulls[SD_ATTEMPT] = false;
	if (deadline == 0)
		return;
	values[SD_DEADLINE] = TimestampTzGetDatum(deadline);
	nulls[SD_DEADLINE] = false;
}

Datum
es_saga_detail(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	SagaState *saga;
	const SagaStep *step;
	Datum values[SD_COLUMNS] = {0};
	bool nulls[SD_COLUMNS];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	(void) es_store();
	saga =
		es_look_at_saga(PointerGetDatum(es_required_text(fcinfo, 0, "saga_name")),
						PointerGetDatum(es_required_text(fcinfo, 1, "saga_id")));
	if (saga == NULL)
		PG_RETURN_NULL();
	memset(nulls, true, sizeof(nulls));
	step = current_step(saga);
	if (step != NULL)
		describe_step(step, values, nulls);
	values[SD_UPDATED_AT] = TimestampTzGetDatum(saga->updated_at);
	nulls[SD_UPDATED_AT] = false;
	nulls[SD_LAST_ERROR] = saga->last_error == NULL;
	if (!nulls[SD_LAST_ERROR])
		values[SD_LAST_ERROR] =
			es_shown_error(CStringGetTextDatum(saga->last_error), GetUserId());
	/* what the events of a saga hold is for those who may read them */
	nulls[SD_CONTEXT] = saga->context == NULL || !es_may_read_events(GetUserId());
	if (!nulls[SD_CONTEXT])
		values[SD_CONTEXT] = JsonbPGetDatum(saga->context);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

static void
put_circuit(ReturnSetInfo *result, HeapTuple row, TupleDesc desc)
{
	CircuitState state;
	Datum values[6];
	bool nulls[6] = {false};
	bool isnull;

	values[0] = SPI_getbinval(row, desc, 1, &isnull);
	values[1] = SPI_getbinval(row, desc, 2, &isnull);
	state = es_circuit_state(es_circuit_key(values[0],
											TextDatumGetCString(values[1])));
	values[2] = CStringGetTextDatum(circuit_phases[state.phase]);
	values[3] = Int32GetDatum(state.failures);
	nulls[4] = nulls[5] = state.phase == CIRCUIT_CLOSED;
	values[4] = TimestampTzGetDatum(state.opened_at);
	values[5] = TimestampTzGetDatum(state.next_trial_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Those of the newest definitions. */
Datum
es_saga_circuits(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {
		"SELECT d.saga_name, s.step OPERATOR(pg_catalog.->>) 'name'"
		" FROM event_store.saga_definitions d,"
		" pg_catalog.jsonb_array_elements(d.definition OPERATOR(pg_catalog.->) 'steps') s (step)"
		" WHERE s.step OPERATOR(pg_catalog.?) 'circuit'"
		" AND NOT EXISTS (SELECT FROM event_store.saga_definitions n"
		" WHERE n.saga_name OPERATOR(pg_catalog.=) d.saga_name"
		" AND n.version OPERATOR(pg_catalog.>) d.version)"
		" ORDER BY 1, 2"};
	OwnerScope scope;
	uint64 count;

	(void) es_store();
	es_begin_result(fcinfo);
	es_begin_read(&scope);
	count = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	for (uint64 i = 0; i < count; i++)
		put_circuit((ReturnSetInfo *) fcinfo->resultinfo, SPI_tuptable->vals[i],
					SPI_tuptable->tupdesc);
	es_end(&scope);
	return (Datum) 0;
}
