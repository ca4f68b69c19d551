/*
 * step_report.c
 *		report_step and extend_step: what executors say of the steps they have.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "consume/lease.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/metrics.h"
#include "log/outside_write.h"
#include "replay/saga_state.h"
#include "saga/definition.h"
#include "saga/machine.h"
#include "saga/saga.h"
#include "saga/saga_work.h"
#include "saga/step_report.h"

PG_FUNCTION_INFO_V1(es_report_step_sql);
PG_FUNCTION_INFO_V1(es_extend_step);

/* An error is kept up to so many bytes. */
#define MAX_ERROR_BYTES 2000

static int64
lease_argument(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("lease must not be null")));
	return PG_GETARG_INT64(argno);
}

static AttemptOutcome
outcome_argument(FunctionCallInfo fcinfo, int argno)
{
	char *word = text_to_cstring(es_required_text(fcinfo, argno, "outcome"));

	for (int i = OUTCOME_SUCCEEDED; es_attempt_outcomes[i] != NULL; i++)
	{
		if (strcmp(es_attempt_outcomes[i], word) == 0)
			return (AttemptOutcome) i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("outcome is not a known word: \"%s\"", word),
			 errhint("Use 'succeeded', 'failed', 'retry' or 'compensated'.")));
	return OUTCOME_NONE;
}

static int64
retry_argument(FunctionCallInfo fcinfo, int argno, AttemptOutcome outcome)
{
	const Interval *time;
	double microseconds;

	if (PG_ARGISNULL(argno))
		return -1;
	if (outcome != OUTCOME_RETRY)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("retry_in is for outcome 'retry'")));
	time = PG_GETARG_INTERVAL_P(argno);
	/* a double is exact far beyond a day */
	microseconds =
		(double) time->time +
		((double) time->month * DAYS_PER_MONTH + time->day) * USECS_PER_DAY;
	if (microseconds < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("retry_in must not be negative")));
	if (microseconds > (double) USECS_PER_DAY)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("retry_in must not be longer than a day")));
	return (int64) microseconds;
}

/* When the claim of a live lease was made; 0 = it is not live. */
static TimestampTz
claimed_at(const Saga *saga, const StepReport *report)
{
	const SagaDefinition *definition = saga->machine.definition;
	const SagaStep *step = es_saga_step(saga->machine.state, report->step);

	if (step == NULL || step->lease != report->lease || step->deadline == 0)
		return 0;
	return step->deadline -
		   definition->steps[es_find_step(definition, report->step)]
			   .paces[es_lease_kind(step)]
			   .timeout;
}

/* Any text will do; what is too long for an event to be worth it is cut. */
void
es_clip_error(char *error)
{
	error[pg_mbcliplen(error, (int) strlen(error), MAX_ERROR_BYTES)] = '\0';
}

void
es_take_report(Saga *saga, StepReport *report, const char *function)
{
	TimestampTz claimed = claimed_at(saga, report);

	if (report->error != NULL)
		es_clip_error(report->error);
	es_report_step(&saga->machine, report);
	es_save_saga(saga, function);
	if (claimed != 0)
		es_observe(ES_HISTOGRAM_STEPS,
				   (uint64) Max((saga->machine.now - claimed + 999) / 1000, 1));
}

Datum
es_report_step_sql(PG_FUNCTION_ARGS)
{
	Saga saga;
	StepReport report = {0};

	es_begin_call(ES_CALL_REPORT_STEP);
	report.step = text_to_cstring(es_required_text(fcinfo, 2, "step"));
	report.outcome = outcome_argument(fcinfo, 3);
	report.lease = lease_argument(fcinfo, 4);
	report.result = PG_ARGISNULL(5) ? NULL : PG_GETARG_JSONB_P(5);
	report.error = PG_ARGISNULL(6) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(6));
	report.retry_in = retry_argument(fcinfo, 7, report.outcome);
	es_open_known_saga(fcinfo, &saga, "report_step()");
	es_take_report(&saga, &report, "report_step()");
	es_end_call(ES_CALL_REPORT_STEP, 0);
	PG_RETURN_DATUM(es_saga_phase_text(&saga));
}

/* ---------- extension ---------- */

static bool
extend_row(const Saga *saga, const SagaStep *step, TimestampTz until,
		   Jsonb *progress)
{
	static KeptPlan plan = {"UPDATE event_store.saga_steps s SET due_at = $5,"
							" written_at = pg_catalog.clock_timestamp(),"
							" progress = COALESCE($6, s.progress)"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.saga_id OPERATOR(pg_catalog.=) $2"
							" AND s.step OPERATOR(pg_catalog.=) $3"
							" AND s.lease OPERATOR(pg_catalog.=) $4",
							6,
							{TEXTOID, TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID,
							 JSONBOID}};
	Datum values[6] = {saga->name,
					   saga->id,
					   CStringGetTextDatum(step->step),
					   Int64GetDatum(step->lease),
					   TimestampTzGetDatum(until),
					   progress == NULL ? (Datum) 0 : JsonbPGetDatum(progress)};
	char nulls[6] = {' ', ' ', ' ', ' ', ' ', progress == NULL ? 'n' : ' '};
	OwnerScope scope;
	bool found;

	es_begin(&scope);
	found = es_write_ours(&plan, values, nulls) > 0;
	es_end(&scope);
	es_note_saga_work(false, until);
	return found;
}

/* An attempt that has ended cannot be made longer. */
static bool
is_live(const SagaStep *step)
{
	return step->phase == STEP_LEASED || step->compensation == STEP_LEASED;
}

Datum
es_extend_step(PG_FUNCTION_ARGS)
{
	Saga saga;
	const SagaStep *step;
	char *name;
	int64 lease;
	int64 time;
	TimestampTz until;

	es_begin_call(ES_CALL_EXTEND_STEP);
	name = text_to_cstring(es_required_text(fcinfo, 2, "step"));
	lease = lease_argument(fcinfo, 3);
	time = es_lease_time(fcinfo, 4);
	es_open_known_saga(fcinfo, &saga, "extend_step()");
	step = es_check_lease(&saga.machine, name, lease);
	until = Min(saga.machine.now + time, step->deadline);
	if (!is_live(step) ||
		!extend_row(&saga, step, until,
					PG_ARGISNULL(5) ? NULL : PG_GETARG_JSONB_P(5)))
		ereport(ERROR, (errcode(ES_ERRCODE_LEASE_LOST),
						errmsg("lease " INT64_FORMAT
							   " of step \"%s\" of saga %s is over",
							   lease, name, saga.machine.saga)));
	es_end_call(ES_CALL_EXTEND_STEP, 0);
	/* what goes forward is not wanted any more */
	if (step->phase == STEP_LEASED && saga.machine.state->phase != SAGA_RUNNING)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(until);
}
