/*
 * saga_timer.c
 *		What happens to sagas when a time is over: leases, deadlines of attempts, requests
 *		that nobody claims, signals that do not come, whole sagas.
 *
 * The rows of saga_steps and sagas say what is due; the state, looked at with the saga's
 * lock held, says whether it still is: a report that comes at the same moment is before
 * the timer or behind it, and who comes second finds the attempt ended.  A saga that
 * somebody is at is passed over and looked at again soon; one that fails holds up no
 * other.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/transaction.h"
#include "log/outside_write.h"
#include "replay/saga_state.h"
#include "saga/circuit.h"
#include "saga/definition.h"
#include "saga/machine.h"
#include "saga/saga.h"
#include "saga/saga_clock.h"
#include "saga/saga_timer.h"

PG_FUNCTION_INFO_V1(es_fire_saga_timers);

/* So many are done in a transaction. */
#define TIMERS_PER_STEP 100
/* Where none of so many could be fired, more are looked at, up to that. */
#define MORE_TIMERS 8
#define MAX_TIMERS 100000
/* One that somebody holds is tried again after this, ... */
#define HELD_PAUSE_MS 100
/* ... one whose row of a view somebody holds after this, one that failed after that. */
#define BLOCKED_PAUSE_MS 1000
#define FAILED_PAUSE_MS 10000

/* One that is due; of a whole saga where step is NULL. */
typedef struct Timer
{
	Datum name;
	Datum id;
	char *step;
	bool leased;
	TimestampTz due_at;
	bool fired;
	int pause; /* after a failure, in milliseconds */
} Timer;

/* ---------- finding what is due ---------- */

static Timer *
find_due(int max_count, int *count)
{
	static KeptPlan plan =
		{"(SELECT s.saga_name, s.saga_id, s.step, s.lease IS NOT NULL, s.due_at"
		 " FROM event_store.saga_steps s"
		 " WHERE s.due_at OPERATOR(pg_catalog.<=) $1 ORDER BY s.due_at LIMIT $2)"
		 " UNION ALL"
		 " (SELECT s.saga_name, s.saga_id, NULL, false, s.deadline"
		 " FROM event_store.sagas s"
		 " WHERE s.deadline OPERATOR(pg_catalog.<=) $1 ORDER BY s.deadline LIMIT $2)",
		 2,
		 {TIMESTAMPTZOID, INT8OID}};
	Datum values[2] = {TimestampTzGetDatum(GetCurrentTimestamp()),
					   Int64GetDatum(max_count)};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext inside;
	OwnerScope scope;
	Timer *timers;

	es_begin(&scope);
	*count = (int) es_execute_latest(&plan, values, NULL);
	inside = MemoryContextSwitchTo(caller);
	timers = palloc0(Max(*count, 1) * sizeof(Timer));
	for (int i = 0; i < *count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		Datum step;

		timers[i].name =
			PointerGetDatum(DatumGetTextPCopy(SPI_getbinval(row, desc, 1,
															&isnull)));
		timers[i].id =
			PointerGetDatum(DatumGetTextPCopy(SPI_getbinval(row, desc, 2,
															&isnull)));
		step = SPI_getbinval(row, desc, 3, &isnull);
		timers[i].step = isnull ? NULL : TextDatumGetCString(step);
		timers[i].leased = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
		timers[i].due_at =
			DatumGetTimestampTz(SPI_getbinval(row, desc, 5, &isnull));
	}
	MemoryContextSwitchTo(inside);
	es_end(&scope);
	return timers;
}

TimestampTz
es_find_saga_timer(void)
{
	static KeptPlan plan = {
		"SELECT LEAST((SELECT s.due_at FROM event_store.saga_steps s"
		" WHERE s.due_at IS NOT NULL ORDER BY s.due_at LIMIT 1),"
		" (SELECT s.deadline FROM event_store.sagas s"
		" WHERE s.deadline IS NOT NULL ORDER BY s.deadline LIMIT 1))"};
	OwnerScope scope;
	bool isnull = true;
	Datum at = (Datum) 0;

	es_begin(&scope);
	if (es_execute_latest(&plan, NULL, NULL) > 0)
		at = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						   &isnull);
	es_end(&scope);
	if (isnull)
		return DT_NOEND;
	return es_is_saga_clock_behind() ? GetCurrentTimestamp()
									 : DatumGetTimestampTz(at);
}

/*
 * Whether it is still due: it may have been put off, or done, until the lock was had.  With what
 * went wrong last in the hands of a handler.
 */
static bool
is_still_due(const Timer *timer, char **error)
{
	static KeptPlan plan = {"SELECT CASE WHEN s.run_as IS NOT NULL"
							" THEN s.progress OPERATOR(pg_catalog.->>) 'error' END"
							" FROM event_store.saga_steps s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.saga_id OPERATOR(pg_catalog.=) $2"
							" AND s.step OPERATOR(pg_catalog.=) $3"
							" AND s.due_at OPERATOR(pg_catalog.<=) $4"
							" AND (s.lease IS NOT NULL) OPERATOR(pg_catalog.=) $5",
							5,
							{TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, BOOLOID}};
	Datum values[5] = {timer->name, timer->id, CStringGetTextDatum(timer->step),
					   TimestampTzGetDatum(GetCurrentTimestamp()),
					   BoolGetDatum(timer->leased)};
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	bool due;

	*error = NULL;
	es_begin(&scope);
	due = es_execute_latest(&plan, values, NULL) > 0;
	if (due)
	{
		bool isnull;
		Datum met = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								  1, &isnull);

		if (!isnull)
			*error = MemoryContextStrdup(caller, TextDatumGetCString(met));
	}
	es_end(&scope);
	return due;
}

/* ---------- doing it ---------- */

/* The time of a request does not count while a circuit is open. */
static bool
put_off_for_circuit(const Saga *saga, const Timer *timer)
{
	static KeptPlan plan = {"UPDATE event_store.saga_steps s SET due_at = $4,"
							" written_at = pg_catalog.clock_timestamp()"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.saga_id OPERATOR(pg_catalog.=) $2"
							" AND s.step OPERATOR(pg_catalog.=) $3"
							" AND s.kind OPERATOR(pg_catalog.=) 'step'",
							4,
							{TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	const SagaDefinition *definition = saga->machine.definition;
	int number = es_find_step(definition, timer->step);
	const StepDefinition *step = number < 0 ? NULL : &definition->steps[number];
	Datum values[4] = {timer->name, timer->id, CStringGetTextDatum(timer->step)};
	OwnerScope scope;
	bool put_off;

	if (step == NULL || step->circuit.failures == 0 ||
		es_circuit_state(es_circuit_key(timer->name, timer->step)).phase ==
			CIRCUIT_CLOSED)
		return false;
	values[3] = TimestampTzGetDatum(GetCurrentTimestamp() +
									step->paces[KIND_STEP].queue_timeout);
	es_begin(&scope);
	put_off = es_write_ours(&plan, values, NULL) > 0;
	es_end(&scope);
	return put_off;
}

static void
fire(Saga *saga, const Timer *timer)
{
	const SagaStep *step;
	char *error;

	if (timer->step == NULL)
	{
		if (saga->machine.state->deadline <= saga->machine.now)
			es_time_out_saga(&saga->machine);
		return;
	}
	if (!is_still_due(timer, &error))
		return;
	step = es_saga_step(saga->machine.state, timer->step);
	if (timer->leased)
		es_time_out_lease(&saga->machine, timer->step,
						  step != NULL && step->deadline <= saga->machine.now,
						  error);
	else if (!put_off_for_circuit(saga, timer))
		es_time_out_queue(&saga->machine, timer->step);
}

static bool
fire_in_subtransaction(void *arg)
{
	Timer *timer = arg;
	Saga saga;

	es_name_saga(&saga, timer->name, timer->id);
	if (!es_try_saga(&saga, "fire_saga_timers()") || !es_try_saga_rows(&saga))
		return false;
	fire(&saga, timer);
	timer->fired = saga.machine.events != NIL;
	/* a row of a view that somebody holds must not keep others waiting */
	es_bound_lock_waits(true);
	es_save_saga(&saga, "fire_saga_timers()");
	es_bound_lock_waits(false);
	return true;
}

/* Puts a timer off that has failed: those behind it have their turn. */
static bool
put_off(void *arg)
{
	static KeptPlan of_step = {"UPDATE event_store.saga_steps s SET due_at = $4,"
							   " written_at = pg_catalog.clock_timestamp()"
							   " WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							   " AND s.saga_id OPERATOR(pg_catalog.=) $2"
							   " AND s.step OPERATOR(pg_catalog.=) $3",
							   4,
							   {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	static KeptPlan of_saga = {"UPDATE event_store.sagas s SET deadline = $4"
							   " WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							   " AND s.saga_id OPERATOR(pg_catalog.=) $2"
							   " AND $3 IS NULL",
							   4,
							   {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	const Timer *timer = arg;
	bool of_whole = timer->step == NULL;
	Datum values[4] =
		{timer->name, timer->id,
		 of_whole ? (Datum) 0 : CStringGetTextDatum(timer->step),
		 TimestampTzGetDatum(TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 timer->pause))};
	char nulls[4] = {' ', ' ', of_whole ? 'n' : ' ', ' '};
	OwnerScope scope;
	Saga saga;

	es_name_saga(&saga, timer->name, timer->id);
	if (!es_try_lock_saga(&saga) || !es_try_saga_rows(&saga))
		return false;
	es_begin(&scope);
	(void) es_write_ours(of_whole ? &of_saga : &of_step, values, nulls);
	es_end(&scope);
	return true;
}

/* Fires one; an error is its own, and none of the others has to wait for it. */
static void
fire_timer(Timer *timer)
{
	ErrorData *error = es_in_subtransaction(fire_in_subtransaction, timer);

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	timer->fired = false;
	timer->pause = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE
					   ? BLOCKED_PAUSE_MS
					   : FAILED_PAUSE_MS;
	ereport(LOG, errmsg("a timer of saga %s/%s failed: %s",
						TextDatumGetCString(timer->name),
						TextDatumGetCString(timer->id), error->message));
	(void) es_in_subtransaction(put_off, timer);
}

/* Looks at so many that are due; returns how many were fired, and how many there were. */
static int64
fire_page(int max_count, int *count)
{
	Timer *timers = find_due(max_count, count);
	int64 fired = 0;

	for (int i = 0; i < *count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		fire_timer(&timers[i]);
		fired += timers[i].fired ? 1 : 0;
	}
	return fired;
}

/*
 * Fires what is due; returns how many, and when to look again at what is still due.
 * Where none could be fired, since all are in somebody's hands, there may be others
 * behind them.
 */
static int64
fire_due(int max_count, TimestampTz *again)
{
	int64 fired;
	int count;
	bool full;

	do
	{
		fired = fire_page(max_count, &count);
		full = count >= max_count;
		max_count *= MORE_TIMERS;
	} while (fired == 0 && full && max_count <= MAX_TIMERS);
	*again = GetCurrentTimestamp();
	if (fired < count && !(full && fired > 0))
		*again = TimestampTzPlusMilliseconds(*again, HELD_PAUSE_MS);
	return fired;
}

TimestampTz
es_run_saga_timers(TimestampTz noted)
{
	TimestampTz again;
	TimestampTz first;
	bool behind = es_is_saga_clock_behind();

	(void) es_heed_saga_clock();
	(void) fire_due(TIMERS_PER_STEP, &again);
	first = es_find_saga_timer();
	/* rows that somebody is writing are moved the next time */
	if (behind)
		again = Max(again, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   HELD_PAUSE_MS));
	/* what is due and was not done waits for its pause */
	return first == DT_NOEND ? DT_NOEND : Max(first, again);
}

Datum
es_fire_saga_timers(PG_FUNCTION_ARGS)
{
	int64 max_count;
	int64 fired;
	TimestampTz again;

	es_begin_call(ES_CALL_FIRE_SAGA_TIMERS);
	max_count = es_bounded_argument(fcinfo, 0, "max_count", 1, 1000);
	es_begin_consuming("fire_saga_timers()");
	es_consume_durably();
	(void) es_heed_saga_clock();
	fired = fire_due((int) max_count, &again);
	es_end_call(ES_CALL_FIRE_SAGA_TIMERS, fired);
	PG_RETURN_INT64(fired);
}
