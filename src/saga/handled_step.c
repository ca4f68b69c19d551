/*
 * handled_step.c
 *		Steps of sagas that the server does: claimed, run by their handler, reported.
 *
 * The projector of the role that the handlers belong to does them one at a time, the one
 * requested first.  The claim is a transaction of its own, so that it is an attempt whatever
 * the handler does to its process.  The handler's writes and the report are another: a
 * lease that was lost meanwhile undoes both.
 *
 * What a handler raises is its report: VS011 says that the step has failed, and what would be
 * an event's failure of a projection that it is to be tried again, as another attempt.  All
 * else is of the moment, as a deadlock: the same attempt runs again after a pause,
 * as long as it has time.  The row of saga_steps says when (run_at, with the lease), so any
 * process can do that; it is taken off before the handler runs.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/due_projection.h"
#include "consume/handler_call.h"
#include "consume/pace.h"
#include "consume/project.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/fencing.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/transaction.h"
#include "log/outside_write.h"
#include "read/feed.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "saga/circuit.h"
#include "saga/definition.h"
#include "saga/handled_step.h"
#include "saga/machine.h"
#include "saga/saga.h"
#include "saga/saga_clock.h"
#include "saga/step_handler.h"
#include "saga/step_report.h"

PG_FUNCTION_INFO_V1(es_run_saga_handlers);

#define FUNCTION "run_saga_handlers()"
/* So many are looked at; where others are at all of these so many times more, up to that. */
#define CANDIDATES 8
#define MORE_CANDIDATES 8
#define MAX_CANDIDATES 4096
/* One whose claim failed is looked at again after this; if it met a lock, after that ... */
#define FAILED_PAUSE_MS 10000
#define BLOCKED_PAUSE_MS 1000
/* ... and this, if its circuit lets another one be tried. */
#define TRIAL_PAUSE_MS 1000
/* The first pause before an attempt runs again, and the longest. */
#define FIRST_PAUSE_MS 100
#define LONGEST_PAUSE_MS 10000
#define MAX_RUNS 1000

/* ---------- which roles ---------- */

bool
es_try_lock_steps(void)
{
	return es_try_lock_table(get_relname_relid("saga_steps", es_store()->schema));
}

/* A step along the index for each role, however many steps it has. */
DueWork *
es_list_due_steps(int *count)
{
	static KeptPlan plan = {
		"WITH RECURSIVE roles (run_as, run_at) AS ("
		"(SELECT s.run_as, s.run_at FROM event_store.saga_steps s"
		" WHERE s.run_at IS NOT NULL ORDER BY s.run_as, s.run_at LIMIT 1)"
		" UNION ALL SELECT n.run_as, n.run_at FROM roles r CROSS JOIN LATERAL"
		" (SELECT s.run_as, s.run_at FROM event_store.saga_steps s"
		" WHERE s.run_at IS NOT NULL AND s.run_as OPERATOR(pg_catalog.>) r.run_as"
		" ORDER BY s.run_as, s.run_at LIMIT 1) n)"
		" SELECT r.run_as, r.run_at FROM roles r"};
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	DueWork *list;

	es_begin(&scope);
	*count = (int) es_execute_latest(&plan, NULL, NULL);
	list = MemoryContextAllocZero(caller, Max(*count, 1) * sizeof(DueWork));
	for (int i = 0; i < *count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		Datum role = SPI_getbinval(row, desc, 1, &isnull);
		MemoryContext inside = MemoryContextSwitchTo(caller);
		Pace pace;

		list[i].name = PointerGetDatum(PG_DETOAST_DATUM_COPY(role));
		MemoryContextSwitchTo(inside);
		list[i].steps = true;
		list[i].hash = es_pair_hash(CStringGetTextDatum("$steps"), list[i].name);
		list[i].role = get_role_oid(TextDatumGetCString(role), true);
		list[i].role_is_gone = !OidIsValid(list[i].role);
		pace = es_read_pace(list[i].hash);
		list[i].turn_at = pace.turn_at;
		list[i].due =
			Max(DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &isnull)),
				pace.retry_at);
	}
	es_end(&scope);
	return list;
}

/* ---------- claiming one ---------- */

typedef struct Candidate
{
	Datum name;
	Datum id;
	char *step;
	StepKind kind;
	int64 lease; /* of an attempt that runs again; 0 = it is to be claimed */

	MemoryContext context;
	StepWork *work;
	bool taken;
	bool settled; /* it is not due any more */
	int pause;	  /* after a failure, in ms */
} Candidate;

static Candidate *
find_candidates(Datum role, int limit, int *count)
{
	static KeptPlan plan = {"SELECT s.saga_name, s.saga_id, s.step, s.kind, s.lease"
							" FROM event_store.saga_steps s"
							" WHERE s.run_as OPERATOR(pg_catalog.=) $1"
							" AND s.run_at OPERATOR(pg_catalog.<=) $2"
							" ORDER BY s.run_as, s.run_at LIMIT $3",
							3,
							{TEXTOID, TIMESTAMPTZOID, INT8OID}};
	Datum values[3] = {role, TimestampTzGetDatum(GetCurrentTimestamp()),
					   Int64GetDatum(limit)};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext inside;
	OwnerScope scope;
	Candidate *list;

	es_begin(&scope);
	*count = (int) es_execute_latest(&plan, values, NULL);
	inside = MemoryContextSwitchTo(caller);
	list = palloc0(Max(*count, 1) * sizeof(Candidate));
	for (int i = 0; i < *count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		Datum values_of[5];
		bool isnull;

		for (int c = 0; c < 5; c++)
			values_of[c] = SPI_getbinval(row, desc, c + 1, &isnull);
		list[i].name = PointerGetDatum(DatumGetTextPCopy(values_of[0]));
		list[i].id = PointerGetDatum(DatumGetTextPCopy(values_of[1]));
		list[i].step = TextDatumGetCString(values_of[2]);
		list[i].kind = strcmp(TextDatumGetCString(values_of[3]),
							  es_step_kinds[KIND_COMPENSATION]) == 0
						   ? KIND_COMPENSATION
						   : KIND_STEP;
		list[i].lease = isnull ? 0 : DatumGetInt64(values_of[4]);
	}
	MemoryContextSwitchTo(inside);
	es_end(&scope);
	return list;
}

/* When it is to be looked at again; 0 = it is being run.  Its saga is locked. */
static void
set_run_at(const Candidate *candidate, TimestampTz run_at)
{
	static KeptPlan plan = {"UPDATE event_store.saga_steps s SET run_at = $4,"
							" written_at = pg_catalog.clock_timestamp()"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.saga_id OPERATOR(pg_catalog.=) $2"
							" AND s.step OPERATOR(pg_catalog.=) $3"
							" AND s.run_at IS NOT NULL",
							4,
							{TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	Datum values[4] = {candidate->name, candidate->id,
					   CStringGetTextDatum(candidate->step),
					   TimestampTzGetDatum(run_at)};
	char nulls[4] = {' ', ' ', ' ', run_at == 0 ? 'n' : ' '};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_write_ours(&plan, values, nulls);
	es_end(&scope);
}

/* Keeps what is known of a claim beyond this transaction. */
static void
keep_work(const Candidate *candidate, const Saga *saga, const SagaStep *step)
{
	const SagaDefinition *definition = saga->machine.definition;
	const StepPace *pace =
		&definition->steps[es_find_step(definition, candidate->step)]
			 .paces[candidate->kind];
	const char *correlation_id = saga->machine.state->correlation_id;
	MemoryContext caller = MemoryContextSwitchTo(candidate->context);
	StepWork *work = candidate->work;

	*work = (StepWork){.kind = candidate->kind,
					   .lease = step->lease,
					   .deadline = step->deadline,
					   .claimed_at = step->deadline - pace->timeout};
	work->name = PointerGetDatum(DatumGetTextPCopy(candidate->name));
	work->id = PointerGetDatum(DatumGetTextPCopy(candidate->id));
	work->step = pstrdup(candidate->step);
	work->attempt = candidate->kind == KIND_STEP ? step->attempt
												 : step->compensation_attempt;
	work->input = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(step->input));
	if (correlation_id != NULL)
		work->correlation_id = pstrdup(correlation_id);
	work->handler = pstrdup(pace->handler);
	work->owner = pstrdup(definition->handler_owner);
	MemoryContextSwitchTo(caller);
}

/* An attempt that runs again: as long as it is the newest, and has time. */
static bool
take_again(Candidate *candidate, const Saga *saga)
{
	const SagaStep *step = es_saga_step(saga->machine.state, candidate->step);
	int phase = step == NULL				   ? STEP_NONE
				: candidate->kind == KIND_STEP ? step->phase
											   : step->compensation;

	set_run_at(candidate, 0);
	if (phase != STEP_LEASED || step->lease != candidate->lease ||
		step->deadline <= saga->machine.now)
		return false;
	keep_work(candidate, saga, step);
	return true;
}

/* Requests wait for an open circuit, which is not asked before it can say something else. */
static void
wait_for_circuit(const Candidate *candidate, TimestampTz now)
{
	uint64 key = es_circuit_key(candidate->name, candidate->step);
	TimestampTz opens_at = es_circuit_opens_at(key);

	/* a trial may end long before its time */
	if (opens_at <= now || es_circuit_state(key).phase == CIRCUIT_HALF_OPEN)
		opens_at = TimestampTzPlusMilliseconds(now, TRIAL_PAUSE_MS);
	set_run_at(candidate, opens_at);
}

static bool
take_anew(Candidate *candidate, Saga *saga)
{
	const SagaDefinition *definition = saga->machine.definition;
	const StepPace *pace;
	const SagaStep *step;

	if (!es_is_claimable(saga, candidate->step, candidate->kind))
		return false;
	if (!es_circuit_admits_step(saga, candidate->step, candidate->kind))
	{
		wait_for_circuit(candidate, saga->machine.now);
		candidate->settled = true;
		return false;
	}
	pace = &definition->steps[es_find_step(definition, candidate->step)]
				.paces[candidate->kind];
	/* nobody extends it: it ends with the attempt's time */
	saga->lease_time = pace->timeout;
	step = es_claim_step(&saga->machine, candidate->step, candidate->kind,
						 es_take_fencing_number(),
						 psprintf("handler %s", pace->handler));
	keep_work(candidate, saga, step);
	/* a row of a view that somebody holds must not keep others waiting */
	es_bound_lock_waits(true);
	es_save_saga(saga, FUNCTION);
	es_bound_lock_waits(false);
	return true;
}

static bool
take(void *arg)
{
	Candidate *candidate = arg;
	Saga saga;

	es_name_saga(&saga, candidate->name, candidate->id);
	if (!es_try_saga(&saga, FUNCTION) || !es_try_saga_rows(&saga))
		return false;
	if (candidate->lease == 0)
		candidate->taken = take_anew(candidate, &saga);
	else
	{
		candidate->taken = take_again(candidate, &saga);
		candidate->settled = true;
	}
	return candidate->taken || candidate->settled;
}

static bool
put_off(void *arg)
{
	Candidate *candidate = arg;
	Saga saga;

	es_name_saga(&saga, candidate->name, candidate->id);
	if (!es_try_lock_saga(&saga) || !es_try_saga_rows(&saga))
		return false;
	set_run_at(candidate, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  candidate->pause));
	candidate->settled = true;
	return true;
}

/* Takes one, if nobody is at it; one that fails is none of the others' failure. */
static void
try_candidate(Candidate *candidate)
{
	ErrorData *error = es_in_subtransaction(take, candidate);

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	candidate->taken = candidate->settled = false;
	candidate->pause = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE
						   ? BLOCKED_PAUSE_MS
						   : FAILED_PAUSE_MS;
	ereport(LOG, errmsg("a step of saga %s/%s could not be claimed: %s",
						TextDatumGetCString(candidate->name),
						TextDatumGetCString(candidate->id), error->message));
	(void) es_in_subtransaction(put_off, candidate);
}

StepTaken
es_take_handled_step(Datum role, MemoryContext context, StepWork *work)
{
	bool settled = false;
	int count = 0;

	es_consume_durably();
	(void) es_heed_saga_clock();
	for (int limit = CANDIDATES; limit <= MAX_CANDIDATES; limit *= MORE_CANDIDATES)
	{
		Candidate *list = find_candidates(role, limit, &count);

		for (int i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			list[i].context = context;
			list[i].work = work;
			try_candidate(&list[i]);
			settled = settled || list[i].settled;
			if (!list[i].taken)
				continue;
			/* it is an attempt once it runs, whatever the session has set */
			ForceSyncCommit();
			return STEP_TAKEN;
		}
		if (settled)
			return STEP_PUT_OFF;
		if (count < limit)
			break;
	}
	return count > 0 ? STEP_HELD : STEP_NOT_FOUND;
}

/* ---------- running one ---------- */

/*
 * Opens the saga of a claim.  A transaction that holds it, and does nothing, must not keep the
 * role's other steps waiting: then the attempt runs again.
 */
static void
open_saga(const StepWork *work, Saga *saga)
{
	if (!work->foreground)
		es_bound_lock_waits(true);
	es_name_saga(saga, work->name, work->id);
	es_open_named_saga(saga, FUNCTION);
}

static void
report(const StepWork *work, AttemptOutcome outcome, Jsonb *result, char *error)
{
	StepReport said = {.step = work->step,
					   .outcome = outcome,
					   .lease = work->lease,
					   .result = result,
					   .error = error,
					   .retry_in = -1};
	Saga saga;

	open_saga(work, &saga);
	es_take_report(&saga, &said, FUNCTION);
	es_bound_lock_waits(false);
}

static bool
run(void *arg)
{
	StepWork *work = arg;
	Jsonb *result;

	PushActiveSnapshot(GetTransactionSnapshot());
	result = es_call_step_handler(work);
	PopActiveSnapshot();
	report(work, work->kind == KIND_STEP ? OUTCOME_SUCCEEDED : OUTCOME_COMPENSATED,
		   result, NULL);
	return true;
}

/* The time of an attempt is over, as its timer may have found, too. */
static void
end_overdue(const StepWork *work)
{
	const SagaStep *step;
	Saga saga;

	open_saga(work, &saga);
	step = es_saga_step(saga.machine.state, work->step);
	if (step != NULL && step->lease == work->lease)
		es_time_out_lease(&saga.machine, work->step, true, NULL);
	es_save_saga(&saga, FUNCTION);
	es_bound_lock_waits(false);
}

/* An attempt that has not succeeded: how, and what was raised. */
typedef struct Failure
{
	StepWork *work;
	ErrorData *error;
} Failure;

static char *
describe(const ErrorData *error)
{
	char *text =
		psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);

	return error->hint == NULL ? text : psprintf("%s (%s)", text, error->hint);
}

static bool
report_failure(void *arg)
{
	const Failure *failure = arg;

	if (failure->work->overdue)
		end_overdue(failure->work);
	else if (failure->error->sqlerrcode == ES_ERRCODE_STEP_FAILED)
		report(failure->work, OUTCOME_FAILED, NULL, failure->error->message);
	else
		report(failure->work, OUTCOME_RETRY, NULL, describe(failure->error));
	return true;
}

/* Whether what was raised is the attempt's own failure. */
static bool
is_failure(const StepWork *work, const ErrorData *error)
{
	return work->overdue || work->broken || es_is_failure(error->sqlerrcode);
}

/* Keeps it where the rest of the work is. */
void
es_note_step_error(StepWork *work, const ErrorData *error)
{
	MemoryContext caller =
		MemoryContextSwitchTo(GetMemoryChunkContext(work->step));

	work->error = describe(error);
	es_clip_error(work->error);
	MemoryContextSwitchTo(caller);
}

/* Where somebody is changing the row, the attempt is ended by him, or by its timer. */
void
es_put_back_step(StepWork *work)
{
	static KeptPlan plan =
		{"WITH mine AS MATERIALIZED (SELECT m.saga_name, m.saga_id, m.step"
		 " FROM event_store.saga_steps m"
		 " WHERE m.saga_name OPERATOR(pg_catalog.=) $1"
		 " AND m.saga_id OPERATOR(pg_catalog.=) $2"
		 " AND m.step OPERATOR(pg_catalog.=) $3"
		 " AND m.lease OPERATOR(pg_catalog.=) $4"
		 " FOR UPDATE SKIP LOCKED)"
		 " UPDATE event_store.saga_steps s SET run_at = $5,"
		 " written_at = pg_catalog.clock_timestamp(),"
		 " progress = CASE WHEN $6 IS NULL THEN s.progress"
		 " ELSE pg_catalog.jsonb_build_object('error', $6) END"
		 " FROM mine m"
		 " WHERE s.saga_name OPERATOR(pg_catalog.=) m.saga_name"
		 " AND s.saga_id OPERATOR(pg_catalog.=) m.saga_id"
		 " AND s.step OPERATOR(pg_catalog.=) m.step",
		 6,
		 {TEXTOID, TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID, TEXTOID}};
	TimestampTz now = GetCurrentTimestamp();
	/* each pause as long as all before it */
	int64 pause = Min(Max((now - work->claimed_at) / 1000, FIRST_PAUSE_MS),
					  LONGEST_PAUSE_MS);
	bool silent = work->error == NULL;
	Datum values[6] = {work->name,
					   work->id,
					   CStringGetTextDatum(work->step),
					   Int64GetDatum(work->lease),
					   TimestampTzGetDatum(TimestampTzPlusMilliseconds(now, pause)),
					   silent ? (Datum) 0 : CStringGetTextDatum(work->error)};
	char nulls[6] = {' ', ' ', ' ', ' ', ' ', silent ? 'n' : ' '};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_write_ours(&plan, values, nulls);
	es_end(&scope);
}

/* Returns what is none of the attempt's fault. */
static ErrorData *
run_once(StepWork *work)
{
	Failure failure = {.work = work};
	ErrorData *error;

	failure.error = es_in_subtransaction(run, work);
	if (failure.error == NULL || !is_failure(work, failure.error))
		return failure.error;
	error = es_in_subtransaction(report_failure, &failure);
	/* somebody else has it by now, and nothing of this attempt counts */
	return error != NULL && error->sqlerrcode == ES_ERRCODE_LEASE_LOST ? NULL
																	   : error;
}

void
es_run_handled_step(StepWork *work)
{
	ErrorData *error;

	es_consume_durably();
	error = run_once(work);
	if (error == NULL)
		return;
	es_note_step_error(work, error);
	ereport(LOG, errmsg("handler %s of step \"%s\" of saga %s/%s runs again: %s",
						work->handler, work->step, TextDatumGetCString(work->name),
						TextDatumGetCString(work->id), work->error));
	es_put_back_step(work);
}

/* ---------- in the foreground ---------- */

/* All steps of a role that are due, so many at most; returns how many. */
static int64
run_steps(Datum role, int64 max_count, MemoryContext per_step)
{
	int64 count = 0;

	StepTaken taken = STEP_PUT_OFF;

	while (count < max_count && (taken == STEP_TAKEN || taken == STEP_PUT_OFF))
	{
		MemoryContext caller = MemoryContextSwitchTo(per_step);
		StepWork work;
		ErrorData *error = NULL;

		CHECK_FOR_INTERRUPTS();
		taken = es_take_handled_step(role, per_step, &work);
		if (taken == STEP_TAKEN)
		{
			work.foreground = true;
			error = run_once(&work);
			count++;
		}
		if (error != NULL)
			ReThrowError(error);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(per_step);
	}
	return count;
}

/*
 * Its transaction is the caller's, so claims are no attempts before that has committed, and
 * what is none of an attempt's fault ends it.
 */
Datum
es_run_saga_handlers(PG_FUNCTION_ARGS)
{
	MemoryContext per_step =
		AllocSetContextCreate(CurrentMemoryContext, "event_store handled step",
							  ALLOCSET_DEFAULT_SIZES);
	int64 max_count;
	int64 done = 0;
	int count;
	DueWork *roles;

	es_begin_call(ES_CALL_RUN_SAGA_HANDLERS);
	max_count = es_bounded_argument(fcinfo, 0, "max_count", 1, MAX_RUNS);
	es_begin_consuming(FUNCTION);
	(void) es_feed_database();
	if (es_is_in_handler())
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("a handler cannot call " FUNCTION)));
	es_consume_durably();
	roles = es_list_due_steps(&count);
	for (int i = 0; i < count; i++)
		done += run_steps(roles[i].name, max_count - done, per_step);
	es_end_call(ES_CALL_RUN_SAGA_HANDLERS, done);
	PG_RETURN_INT64(done);
}
