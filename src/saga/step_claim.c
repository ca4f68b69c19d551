/*
 * step_claim.c
 *		claim_steps: steps of sagas in the hands of executors.
 *
 * Table saga_steps tells what can be claimed, the oldest request first.  A saga that
 * somebody else is at is passed over, so executors do not wait for each other; its state,
 * looked at with its lock held, says whether the step can still be had.  All that is
 * claimed is appended in one go.
 *
 * Who waits sleeps until something is requested, until a time that the last look has met (a
 * pause, a circuit that opens again), or for a moment where a saga was in somebody's hands.
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
#include "ground/shmem.h"
#include "ground/wait.h"
#include "read/feed.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "saga/circuit.h"
#include "saga/define.h"
#include "saga/machine.h"
#include "saga/saga.h"
#include "saga/saga_clock.h"
#include "saga/saga_work.h"

PG_FUNCTION_INFO_V1(es_claim_steps);

/* So many more are looked at than are wanted, since others look at them, too. */
#define SPARE_CANDIDATES 16
#define MAX_TIMEOUT_MS 5000
#define MAX_CLAIMS 1000
/* Where somebody is at one, or just was, it is looked again after this. */
#define HELD_PAUSE (10 * 1000)

typedef struct Candidate
{
	Datum id;
	char *step;
	StepKind kind;
} Candidate;

/* Steps that are looked for, each of one kind: two lists of one length. */
typedef struct Wanted
{
	ArrayBuildState *steps;
	ArrayBuildState *kinds;
} Wanted;

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

	/* the last look */
	TimestampTz looked_at;
	TimestampTz again_at; /* when what it was kept from may be had; DT_NOEND = by a call */
} Claim;

/* ---------- candidates ---------- */

/* Reads what a statement has found, in the caller's memory. */
static Candidate *
read_candidates(int count, MemoryContext caller)
{
	MemoryContext inside = MemoryContextSwitchTo(caller);
	Candidate *candidates = palloc0(Max(count, 1) * sizeof(Candidate));

	for (int i = 0; i < count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		candidates[i].id =
			PointerGetDatum(DatumGetTextPCopy(SPI_getbinval(row, desc, 1,
															&isnull)));
		candidates[i].step =
			TextDatumGetCString(SPI_getbinval(row, desc, 2, &isnull));
		candidates[i].kind =
			strcmp(TextDatumGetCString(SPI_getbinval(row, desc, 3, &isnull)),
				   es_step_kinds[KIND_COMPENSATION]) == 0
				? KIND_COMPENSATION
				: KIND_STEP;
	}
	MemoryContextSwitchTo(inside);
	return candidates;
}

/* The oldest requests of a saga's name. */
static int
find_candidates(const Claim *claim, int64 limit, Candidate **candidates)
{
	static KeptPlan plan = {"SELECT s.saga_id, s.step, s.kind FROM event_store.saga_steps s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.claimable_at OPERATOR(pg_catalog.<=) $2"
							" ORDER BY s.saga_name, s.claimable_at LIMIT $3",
							3,
							{TEXTOID, TIMESTAMPTZOID, INT8OID}};
	Datum values[3] = {claim->name, TimestampTzGetDatum(claim->looked_at),
					   Int64GetDatum(limit)};
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	int count;

	es_begin(&scope);
	count = (int) es_execute_latest(&plan, values, NULL);
	*candidates = read_candidates(count, caller);
	es_end(&scope);
	return count;
}

/* Those of some steps, by a look for each, however many requests of others there are. */
static int
find_of_steps(const Claim *claim, const Wanted *wanted, int64 limit,
			  Candidate **candidates)
{
	static KeptPlan plan =
		{"SELECT c.saga_id, c.step, c.kind"
		 " FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4)) w (step, kind),"
		 " LATERAL (SELECT s.saga_id, s.step, s.kind, s.claimable_at"
		 " FROM event_store.saga_steps s"
		 " WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
		 " AND s.step OPERATOR(pg_catalog.=) w.step"
		 " AND s.kind OPERATOR(pg_catalog.=) w.kind"
		 " AND s.claimable_at OPERATOR(pg_catalog.<=) $2"
		 " ORDER BY s.claimable_at LIMIT $5) c"
		 " ORDER BY c.claimable_at LIMIT $5",
		 5,
		 {TEXTOID, TIMESTAMPTZOID, TEXTARRAYOID, TEXTARRAYOID, INT8OID}};
	MemoryContext caller = CurrentMemoryContext;
	Datum values[5] = {claim->name, TimestampTzGetDatum(claim->looked_at),
					   makeArrayResult(wanted->steps, caller),
					   makeArrayResult(wanted->kinds, caller),
					   Int64GetDatum(limit)};
	OwnerScope scope;
	int count;

	es_begin(&scope);
	count = (int) es_execute_latest(&plan, values, NULL);
	*candidates = read_candidates(count, caller);
	es_end(&scope);
	return count;
}

/* The names of all steps of which something is requested. */
static Datum
requested_steps(const Claim *claim)
{
	static KeptPlan plan =
		{"WITH RECURSIVE t (step) AS ("
		 " (SELECT s.step FROM event_store.saga_steps s"
		 " WHERE s.saga_name OPERATOR(pg_catalog.=) $1 AND s.claimable_at IS NOT NULL"
		 " ORDER BY s.step LIMIT 1)"
		 " UNION ALL"
		 " SELECT n.step FROM t, LATERAL (SELECT s.step FROM event_store.saga_steps s"
		 " WHERE s.saga_name OPERATOR(pg_catalog.=) $1 AND s.claimable_at IS NOT NULL"
		 " AND s.step OPERATOR(pg_catalog.>) t.step ORDER BY s.step LIMIT 1) n)"
		 " SELECT ARRAY(SELECT t.step FROM t)",
		 1,
		 {TEXTOID}};
	Datum values[1] = {claim->name};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext inside;
	OwnerScope scope;
	Datum steps;
	bool isnull;

	es_begin(&scope);
	if (es_execute_latest(&plan, values, NULL) != 1)
		elog(ERROR, "steps that are requested were not listed");
	steps =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	inside = MemoryContextSwitchTo(caller);
	steps = PointerGetDatum(DatumGetArrayTypePCopy(steps));
	MemoryContextSwitchTo(inside);
	es_end(&scope);
	return steps;
}

static void
want(Wanted *wanted, Datum step, StepKind kind)
{
	MemoryContext context = CurrentMemoryContext;

	wanted->steps =
		accumArrayResult(wanted->steps, step, false, TEXTOID, context);
	wanted->kinds = accumArrayResult(wanted->kinds,
									 CStringGetTextDatum(es_step_kinds[kind]),
									 false, TEXTOID, context);
}

/* What can be claimed at a time that is not later than another. */
static void
note_again(Claim *claim, TimestampTz at)
{
	claim->again_at = Min(claim->again_at, at);
}

/* Of these steps what no circuit holds off; compensations pass.  False if that is nothing. */
static bool
choose_wanted(Claim *claim, Datum steps, Wanted *wanted)
{
	Datum *elements;
	bool *nulls;
	int count;

	deconstruct_array(DatumGetArrayTypeP(steps), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &count);
	*wanted = (Wanted){NULL, NULL};
	for (int i = 0; i < count; i++)
	{
		TimestampTz opens_at;

		if (nulls[i])
			continue;
		opens_at =
			es_circuit_opens_at(es_circuit_key(claim->name,
											   TextDatumGetCString(elements[i])));
		if (opens_at == 0)
			want(wanted, elements[i], KIND_STEP);
		else
			note_again(claim, opens_at);
		want(wanted, elements[i], KIND_COMPENSATION);
	}
	return wanted->steps != NULL;
}

/* When something of these steps can be claimed that cannot yet; DT_NOEND = nothing is there. */
static TimestampTz
next_request(const Claim *claim)
{
	static KeptPlan plan = {"SELECT s.claimable_at FROM event_store.saga_steps s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.claimable_at OPERATOR(pg_catalog.>) $2"
							" AND ($3 IS NULL OR s.step OPERATOR(pg_catalog.=) ANY ($3))"
							" ORDER BY s.saga_name, s.claimable_at LIMIT 1",
							3,
							{TEXTOID, TIMESTAMPTZOID, TEXTARRAYOID}};
	Datum values[3] = {claim->name, TimestampTzGetDatum(claim->looked_at),
					   claim->steps};
	char nulls[3] = {' ', ' ', claim->steps == (Datum) 0 ? 'n' : ' '};
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
circuit_admits(Claim *claim, const Saga *saga, const Candidate *candidate)
{
	if (es_circuit_admits_step(saga, candidate->step, candidate->kind))
		return true;
	note_again(claim,
			   es_circuit_opens_at(es_circuit_key(saga->name, candidate->step)));
	return false;
}

static void
claim_candidate(Claim *claim, const Candidate *candidate)
{
	Saga *saga = take_saga(claim, candidate);
	const SagaStep *step;

	if (saga == NULL)
	{
		note_again(claim, claim->looked_at + HELD_PAUSE);
		return;
	}
	if (!es_is_claimable(saga, candidate->step, candidate->kind))
	{
		note_again(claim, claim->looked_at + HELD_PAUSE);
		return;
	}
	if (!circuit_admits(claim, saga, candidate))
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

/* Claims what can be had of some; true if a circuit holds some of them off. */
static bool
claim_candidates(Claim *claim, const Candidate *candidates, int count)
{
	bool held_off = false;

	claim->sagas = palloc(Max(count, 1) * sizeof(Saga *));
	claim->nsagas = 0;
	for (int i = 0; i < count && claim->count < claim->max_count; i++)
	{
		TimestampTz opens_at = 0;

		CHECK_FOR_INTERRUPTS();
		if (candidates[i].kind == KIND_STEP)
			opens_at = es_circuit_opens_at(es_circuit_key(claim->name,
														  candidates[i].step));
		held_off = held_off || opens_at != 0;
		if (opens_at == 0)
			claim_candidate(claim, &candidates[i]);
		else
			note_again(claim, opens_at);
	}
	return held_off;
}

/*
 * Claims what can be had.  Where circuits hold off the oldest requests there may be others
 * behind any number of them, which are looked for step by step.
 */
static void
claim_oldest(Claim *claim)
{
	int64 limit = claim->max_count + SPARE_CANDIDATES;
	Candidate *candidates;
	Wanted wanted;
	int count;

	if (claim->steps == (Datum) 0)
	{
		count = find_candidates(claim, limit, &candidates);
		if (!claim_candidates(claim, candidates, count) || claim->count > 0 ||
			count < limit)
			return;
		leave_sagas(claim);
		claim->nsagas = 0;
	}
	if (!choose_wanted(claim,
					   claim->steps == (Datum) 0 ? requested_steps(claim)
												 : claim->steps,
					   &wanted))
		return;
	count = find_of_steps(claim, &wanted, limit, &candidates);
	(void) claim_candidates(claim, candidates, count);
}

static void
claim_now(Claim *claim)
{
	claim->looked_at = GetCurrentTimestamp();
	claim->again_at = DT_NOEND;
	claim->nsagas = 0;
	claim_oldest(claim);
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
		TimestampTz now;

		claim_now(claim);
		now = GetCurrentTimestamp();
		if (claim->count > 0 || now >= until)
			break;
		note_again(claim, until);
		note_again(claim, next_request(claim));
		es_wait_on(es_saga_requests(db),
				   TimestampDifferenceMilliseconds(now, claim->again_at),
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
	/* the rows of others must not be locked for the time of a wait */
	if (es_heed_saga_clock())
		timeout = 0;
	if (timeout == 0)
		claim_now(&claim);
	else
		claim_within(&claim, db, timeout);
	if (claim.count == 0)
		(void) es_newest_definition(claim.name);
	es_end_call(ES_CALL_CLAIM_STEPS, claim.count);
	return (Datum) 0;
}
