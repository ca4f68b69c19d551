/*
 * step_claim.c
 *		claim_steps: steps of sagas in the hands of executors.
 *
 * Table saga_steps tells what can be claimed, the oldest request first.  A saga that
 * somebody else is at is passed over, so executors do not wait for each other; its state,
 * looked at with its lock held, says whether the step can still be had.  All that is
 * claimed is appended in one go.
 *
 * An executor acts on what it is given, so a claim is on disk before it knows.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "consume/consume.h"
#include "consume/lease.h"
#include "consume/serve.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/fencing.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "ground/wait.h"
#include "read/feed.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "saga/circuit.h"
#include "saga/define.h"
#include "saga/definition.h"
#include "saga/machine.h"
#include "saga/saga.h"
#include "saga/saga_work.h"

PG_FUNCTION_INFO_V1(es_claim_steps);

/* So many more are looked at than are wanted, since others look at them, too. */
#define SPARE_CANDIDATES 16
/* Where most of them wait for a circuit, so many times more are looked at. */
#define MORE_CANDIDATES 8
#define MAX_TIMEOUT_MS 5000
#define MAX_CLAIMS 1000
/* One that somebody is at is tried again after this. */
#define HELD_PAUSE_MS 10

typedef struct Candidate
{
	Datum id;
	char *step;
	StepKind kind;
} Candidate;

typedef struct Claim
{
	Datum name;
	char *executor;
	Datum steps; /* those wanted; 0 = all */
	int max_count;
	int64 lease_time;
	ReturnSetInfo *result;
	Saga **sagas; /* claimed or looked at, one each */
	int nsagas;
	int count; /* of the steps claimed */
} Claim;

/* ---------- candidates ---------- */

static int
find_candidates(const Claim *claim, int64 limit, Candidate **candidates)
{
	static KeptPlan plan = {"SELECT s.saga_id, s.step, s.kind FROM event_store.saga_steps s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.claimable_at OPERATOR(pg_catalog.<=) $2"
							" AND ($3 IS NULL OR s.step OPERATOR(pg_catalog.=) ANY ($3))"
							" ORDER BY s.saga_name, s.claimable_at LIMIT $4",
							4,
							{TEXTOID, TIMESTAMPTZOID, TEXTARRAYOID, INT8OID}};
	Datum values[4] = {claim->name, TimestampTzGetDatum(GetCurrentTimestamp()),
					   claim->steps, Int64GetDatum(limit)};
	char nulls[4] = {' ', ' ', claim->steps == (Datum) 0 ? 'n' : ' ', ' '};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext inside;
	OwnerScope scope;
	int count;

	es_begin(&scope);
	count = (int) es_execute_latest(&plan, values, nulls);
	inside = MemoryContextSwitchTo(caller);
	*candidates = palloc0(Max(count, 1) * sizeof(Candidate));
	for (int i = 0; i < count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		(*candidates)[i].id =
			PointerGetDatum(DatumGetTextPCopy(SPI_getbinval(row, desc, 1,
															&isnull)));
		(*candidates)[i].step =
			TextDatumGetCString(SPI_getbinval(row, desc, 2, &isnull));
		(*candidates)[i].kind =
			strcmp(TextDatumGetCString(SPI_getbinval(row, desc, 3, &isnull)),
				   es_step_kinds[KIND_COMPENSATION]) == 0
				? KIND_COMPENSATION
				: KIND_STEP;
	}
	MemoryContextSwitchTo(inside);
	es_end(&scope);
	return count;
}

/* When something can be claimed that cannot yet; DT_NOEND = nothing is there. */
static TimestampTz
next_request(const Claim *claim)
{
	static KeptPlan plan = {"SELECT s.claimable_at FROM event_store.saga_steps s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.claimable_at IS NOT NULL"
							" AND ($2 IS NULL OR s.step OPERATOR(pg_catalog.=) ANY ($2))"
							" ORDER BY s.saga_name, s.claimable_at LIMIT 1",
							2,
							{TEXTOID, TEXTARRAYOID}};
	Datum values[2] = {claim->name, claim->steps};
	char nulls[2] = {' ', claim->steps == (Datum) 0 ? 'n' : ' '};
	TimestampTz next = DT_NOEND;
	OwnerScope scope;
	bool isnull;

	es_begin(&scope);
	if (es_execute_latest(&plan, values, nulls) > 0)
		next =
			DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	return next;
}

/* ---------- claiming ---------- */

/* The saga of a candidate; NULL = somebody else is at it. */
static Saga *
take_saga(Claim *claim, const Candidate *candidate)
{
	Saga *saga;

	for (int i = 0; i < claim->nsagas; i++)
	{
		if (strcmp(TextDatumGetCString(claim->sagas[i]->id),
				   TextDatumGetCString(candidate->id)) == 0)
			return claim->sagas[i];
	}
	saga = palloc(sizeof(Saga));
	es_name_saga(saga, claim->name, candidate->id);
	if (!es_try_saga(saga, "claim_steps()"))
		return NULL;
	saga->lease_time = claim->lease_time;
	claim->sagas[claim->nsagas++] = saga;
	return saga;
}

static void
put_claim(const Claim *claim, const Saga *saga, const SagaStep *step, StepKind kind)
{
	const char *correlation_id = saga->machine.state->correlation_id;
	Interval *left = palloc0(sizeof(Interval));
	Datum values[9];
	bool nulls[9] = {false};

	left->time = step->deadline - saga->machine.now;
	values[0] = saga->id;
	values[1] = CStringGetTextDatum(step->step);
	values[2] = CStringGetTextDatum(es_step_kinds[kind]);
	values[3] = Int32GetDatum(kind == KIND_STEP ? step->attempt
												: step->compensation_attempt);
	values[4] = Int64GetDatum(step->lease);
	values[5] = JsonbPGetDatum(step->input);
	values[6] = TimestampTzGetDatum(step->deadline);
	values[7] = IntervalPGetDatum(left);
	nulls[8] = correlation_id == NULL;
	values[8] = nulls[8] ? (Datum) 0 : CStringGetTextDatum(correlation_id);
	tuplestore_putvalues(claim->result->setResult, claim->result->setDesc,
						 values, nulls);
}

/* The last look at a circuit, which may make this its trial. */
static bool
circuit_admits(const Saga *saga, const Candidate *candidate)
{
	const SagaDefinition *definition = saga->machine.definition;
	int number = es_find_step(definition, candidate->step);
	const StepDefinition *step = number < 0 ? NULL : &definition->steps[number];

	if (step == NULL || candidate->kind != KIND_STEP ||
		step->circuit.failures == 0)
		return true;
	return es_circuit_admits(es_circuit_key(saga->name, candidate->step),
							 es_pair_hash(saga->type, saga->id),
							 saga->machine.now + step->paces[KIND_STEP].timeout);
}

static void
claim_candidate(Claim *claim, const Candidate *candidate)
{
	Saga *saga = take_saga(claim, candidate);
	const SagaStep *step;

	if (saga == NULL ||
		!es_can_be_claimed(&saga->machine, candidate->step, candidate->kind) ||
		!circuit_admits(saga, candidate))
		return;
	step = es_claim_step(&saga->machine, candidate->step, candidate->kind,
						 es_take_fencing_number(), claim->executor);
	put_claim(claim, saga, step, candidate->kind);
	claim->count++;
}

/* Lets go of those that were looked at in vain. */
static void
leave_sagas(const Claim *claim)
{
	for (int i = 0; i < claim->nsagas; i++)
	{
		if (claim->sagas[i]->machine.events == NIL)
			es_leave_saga(claim->sagas[i]);
	}
}

/*
 * Claims what can be had of so many candidates; true if there are more, and all of these
 * wait for a circuit.
 */
static bool
claim_page(Claim *claim, int64 limit)
{
	Candidate *candidates;
	int count = find_candidates(claim, limit, &candidates);
	int held_off = 0;

	claim->sagas = palloc(Max(count, 1) * sizeof(Saga *));
	claim->nsagas = 0;
	for (int i = 0; i < count && claim->count < claim->max_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (candidates[i].kind == KIND_STEP &&
			!es_circuit_lets_pass(es_circuit_key(claim->name, candidates[i].step)))
			held_off++;
		else
			claim_candidate(claim, &candidates[i]);
	}
	if (claim->count > 0 || count < limit || held_off <= count / 2)
		return false;
	leave_sagas(claim);
	return true;
}

static void
claim_now(Claim *claim)
{
	int64 limit = claim->max_count + SPARE_CANDIDATES;

	while (claim_page(claim, limit))
		limit *= MORE_CANDIDATES;
	leave_sagas(claim);
	if (claim->count == 0)
		return;
	es_save_sagas(claim->sagas, claim->nsagas, "claim_steps()");
	/* whatever the session has set */
	ForceSyncCommit();
}

static void
claim_within(Claim *claim, SharedDatabase *db, int64 timeout)
{
	static uint32 wait_step = 0;
	TimestampTz until =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);

	es_begin_wait_on(es_saga_requests(db));
	for (;;)
	{
		TimestampTz wake;
		long left;

		claim_now(claim);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (claim->count > 0 || left <= 0)
			break;
		wake = next_request(claim);
		if (wake < until)
			left = Min(left,
					   Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														   wake),
						   HELD_PAUSE_MS));
		es_wait_on(es_saga_requests(db), left,
				   es_wait_event(&wait_step, "EventStoreSteps"));
	}
	es_end_wait();
}

/* ---------- arguments ---------- */

static int64
timeout_argument(FunctionCallInfo fcinfo, int argno)
{
	int64 timeout = 0;

	if (!PG_ARGISNULL(argno))
		es_check_timeout(PG_GETARG_INTERVAL_P(argno), "timeout", &timeout);
	if (timeout > MAX_TIMEOUT_MS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("timeout must not be longer than %d seconds",
							   MAX_TIMEOUT_MS / 1000),
						errhint("What waits holds a snapshot; call again.")));
	if (timeout > 0 && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("claim_steps() does not wait at this isolation level"),
				 errhint("Leave timeout out.")));
	return timeout;
}

Datum
es_claim_steps(PG_FUNCTION_ARGS)
{
	Claim claim = {0};
	SharedDatabase *db;
	int64 timeout;

	es_begin_call(ES_CALL_CLAIM_STEPS);
	es_check_in_from(fcinfo, "claim_steps");
	claim.name = PointerGetDatum(es_required_text(fcinfo, 0, "saga_name"));
	claim.executor = text_to_cstring(es_required_text(fcinfo, 1, "executor"));
	claim.steps = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	claim.max_count = es_bounded_argument(fcinfo, 3, "max_count", 1, MAX_CLAIMS);
	claim.lease_time = es_lease_time(fcinfo, 4);
	timeout = timeout_argument(fcinfo, 5);
	es_begin_consuming("claim_steps()");
	db = es_feed_database();
	es_consume_durably();
	es_begin_result(fcinfo);
	claim.result = (ReturnSetInfo *) fcinfo->resultinfo;
	if (timeout == 0)
		claim_now(&claim);
	else
		claim_within(&claim, db, timeout);
	if (claim.count == 0)
		(void) es_newest_definition(claim.name);
	es_end_call(ES_CALL_CLAIM_STEPS, claim.count);
	return (Datum) 0;
}
