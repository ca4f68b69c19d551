/*
 * saga.c
 *		A saga in the hands of a call: locked, taken from the log, gone on with.
 *
 * The log is what a saga is.  A call locks it as any aggregate is locked, folds its
 * events, has the machine decide, and appends what follows.  Two tables stand beside
 * the log and say nothing that the log does not: sagas, a row each with its state, and
 * saga_steps, a row for each step that can be claimed, is leased or waits, by which
 * executors and timers find them.  The end of a lease and what goes on in its time are nowhere
 * else, since extending it is no event; and times of saga_steps go back with a clock that is set
 * back (saga_clock.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "log/outside_write.h"
#include "replay/fold.h"
#include "replay/reducer.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "replay/snapshot.h"
#include "saga/circuit.h"
#include "saga/define.h"
#include "saga/definition.h"
#include "saga/machine.h"
#include "saga/saga.h"
#include "saga/saga_work.h"
#include "staging/staged_scan.h"
#include "write/append.h"
#include "write/event_input.h"

/* A state is made from all the events of a saga up to so many. */
#define FEW_EVENTS 100

/* ---------- opening ---------- */

static Datum
type_of(Datum name)
{
	return PointerGetDatum(cstring_to_text(psprintf(ES_SAGA_PREFIX "%s",
													TextDatumGetCString(name))));
}

void
es_name_saga(Saga *saga, Datum name, Datum id)
{
	memset(saga, 0, sizeof(Saga));
	saga->name = name;
	saga->id = id;
	saga->type = type_of(name);
	saga->machine.saga =
		psprintf("%s/%s", TextDatumGetCString(name), TextDatumGetCString(id));
	saga->machine.now = GetCurrentTimestamp();
}

/* Folds what the active snapshot shows. */
static SagaState *
fold_saga(const Saga *saga, bool from_snapshot)
{
	Fold *fold = es_fold_create(NULL);
	Reducer reducer = es_saga_reducer();
	OwnerScope scope;

	es_begin_read(&scope);
	es_fold_use(fold, &reducer);
	if (from_snapshot)
		es_start_from_snapshot(fold, DatumGetTextPP(saga->type),
							   DatumGetTextPP(saga->id));
	else
		es_fold_start(fold, (Datum) 0, 0);
	es_fold_durable(fold, DatumGetTextPP(saga->type), DatumGetTextPP(saga->id));
	es_end(&scope);
	return fold->saga;
}

/* Takes its state from the log, under the latest snapshot; it is locked. */
static void
load_saga(Saga *saga)
{
	StagedRead read;
	ListCell *cell;

	if (saga->sequence == 0)
	{
		saga->machine.state = es_saga_state_begin(NULL);
		return;
	}
	(void) es_begin_latest_read(&read, es_store()->events);
	saga->machine.state = fold_saga(saga, saga->sequence > FEW_EVENTS);
	es_end_staged_read(&read);
	foreach (cell, saga->machine.state->steps)
		((SagaStep *) lfirst(cell))->touched = false;
	saga->stored = saga->machine.state->phase;
	saga->machine.definition =
		es_stored_definition(saga->name, saga->machine.state->version);
	saga->machine.now = GetCurrentTimestamp();
}

SagaState *
es_look_at_saga(Datum name, Datum id)
{
	Saga saga;
	SagaState *state;
	StagedRead read;

	es_name_saga(&saga, name, id);
	es_begin_staged_read(&read, GetActiveSnapshot());
	state = fold_saga(&saga, true);
	es_end_staged_read(&read);
	return state->phase == SAGA_NONE ? NULL : state;
}

void
es_open_saga(FunctionCallInfo fcinfo, Saga *saga, const char *function)
{
	Datum name = es_saga_name_argument(fcinfo);
	Datum id = PointerGetDatum(es_required_text(fcinfo, 1, "saga_id"));

	es_begin_consuming(function);
	es_name_saga(saga, name, id);
	es_open_named_saga(saga, function);
}

void
es_open_named_saga(Saga *saga, const char *function)
{
	es_consume_durably();
	saga->sequence = es_hold_aggregate(function, saga->type, saga->id, false, 0);
	load_saga(saga);
}

void
es_open_known_saga(FunctionCallInfo fcinfo, Saga *saga, const char *function)
{
	es_open_saga(fcinfo, saga, function);
	if (saga->machine.state->phase == SAGA_NONE)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("there is no saga %s", saga->machine.saga)));
}

bool
es_try_lock_saga(const Saga *saga)
{
	return es_try_lock_pair(ES_LOCK_AGGREGATE, es_pair_hash(saga->type, saga->id));
}

/* Who writes them through the API holds the saga's lock, so this is somebody around it. */
bool
es_try_saga_rows(const Saga *saga)
{
	static KeptPlan plan =
		{"WITH steps AS MATERIALIZED (SELECT FROM event_store.saga_steps s"
		 " WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
		 " AND s.saga_id OPERATOR(pg_catalog.=) $2"
		 " FOR UPDATE SKIP LOCKED),"
		 " whole AS MATERIALIZED (SELECT FROM event_store.sagas g"
		 " WHERE g.saga_name OPERATOR(pg_catalog.=) $1"
		 " AND g.saga_id OPERATOR(pg_catalog.=) $2"
		 " FOR UPDATE SKIP LOCKED)"
		 " SELECT (SELECT pg_catalog.count(*) FROM steps)"
		 " OPERATOR(pg_catalog.=)"
		 " (SELECT pg_catalog.count(*) FROM event_store.saga_steps s"
		 " WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
		 " AND s.saga_id OPERATOR(pg_catalog.=) $2)"
		 " AND (SELECT pg_catalog.count(*) FROM whole)"
		 " OPERATOR(pg_catalog.=)"
		 " (SELECT pg_catalog.count(*) FROM event_store.sagas g"
		 " WHERE g.saga_name OPERATOR(pg_catalog.=) $1"
		 " AND g.saga_id OPERATOR(pg_catalog.=) $2)",
		 2,
		 {TEXTOID, TEXTOID}};
	Datum values[2] = {saga->name, saga->id};
	OwnerScope scope;
	bool isnull;
	bool had;

	es_begin(&scope);
	(void) es_execute_latest(&plan, values, NULL);
	had = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									 SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	return had;
}

bool
es_try_saga(Saga *saga, const char *function)
{
	if (!es_try_lock_saga(saga))
		return false;
	saga->sequence = es_hold_aggregate(function, saga->type, saga->id, false, 0);
	load_saga(saga);
	return saga->machine.state->phase != SAGA_NONE;
}

void
es_leave_saga(const Saga *saga)
{
	uint64 hash = es_pair_hash(saga->type, saga->id);

	/* it was tried, and held by es_hold_aggregate() */
	es_unlock_pair(ES_LOCK_AGGREGATE, hash);
	es_unlock_pair(ES_LOCK_AGGREGATE, hash);
}

/* ---------- what can be claimed, and what is due ---------- */

/* A row of saga_steps, as the state has it; false = there is to be none. */
typedef struct StepRow
{
	StepKind kind;
	TimestampTz claimable_at; /* by executors; 0 = not */
	TimestampTz run_at;		  /* by its handler; 0 = not */
	TimestampTz due_at;		  /* 0 = never */
	int64 lease;			  /* 0 = nobody has it */
	const char *run_as;		  /* whose handler does it; NULL = executors do */
} StepRow;

/* The role whose handler does a step, or undoes it; NULL = executors do. */
static const char *
role_of(const Saga *saga, const SagaStep *step, StepKind kind)
{
	const SagaDefinition *definition = saga->machine.definition;
	int number = es_find_step(definition, step->step);

	return number < 0 || definition->steps[number].paces[kind].handler == NULL
			   ? NULL
			   : definition->handler_owner;
}

static bool
step_row(const Saga *saga, const SagaStep *step, StepRow *row)
{
	bool forward = step->phase == STEP_QUEUED || step->phase == STEP_LEASED ||
				   step->phase == STEP_WAITING;
	int phase = forward ? step->phase : step->compensation;
	TimestampTz from =
		step->not_before == 0 ? saga->machine.now : step->not_before;

	*row = (StepRow){.kind = forward ? KIND_STEP : KIND_COMPENSATION,
					 .due_at = step->queue_deadline};
	row->run_as = role_of(saga, step, row->kind);
	if (phase == STEP_QUEUED && row->run_as != NULL)
		row->run_at = from;
	else if (phase == STEP_QUEUED)
		row->claimable_at = from;
	else if (phase == STEP_LEASED)
	{
		row->lease = step->lease;
		row->due_at = Min(saga->machine.now + saga->lease_time, step->deadline);
	}
	else if (phase != STEP_WAITING)
		return false;
	return true;
}

/* Whether the row of a step says that its time has come. */
static bool
is_row_due(const Saga *saga, const char *step)
{
	static KeptPlan plan = {"SELECT 1 FROM event_store.saga_steps s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.saga_id OPERATOR(pg_catalog.=) $2"
							" AND s.step OPERATOR(pg_catalog.=) $3"
							" AND COALESCE(s.claimable_at, s.run_at)"
							" OPERATOR(pg_catalog.<=) $4",
							4,
							{TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	Datum values[4] = {saga->name, saga->id, CStringGetTextDatum(step),
					   TimestampTzGetDatum(GetCurrentTimestamp())};
	OwnerScope scope;
	bool due;

	es_begin(&scope);
	due = es_execute_latest(&plan, values, NULL) > 0;
	es_end(&scope);
	return due;
}

/*
 * The row is never later than the state has it, so it is asked only where the state names
 * a time to come: since the clock was set back, or since somebody else claimed the
 * step meanwhile, and it is to be tried again.
 */
bool
es_is_claimable(const Saga *saga, const char *step, StepKind kind)
{
	return es_can_be_claimed(&saga->machine, step, kind) ||
		   (es_is_requested(&saga->machine, step, kind) && is_row_due(saga, step));
}

static void
delete_row(const Saga *saga, const SagaStep *step)
{
	static KeptPlan plan = {"DELETE FROM event_store.saga_steps s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.saga_id OPERATOR(pg_catalog.=) $2"
							" AND s.step OPERATOR(pg_catalog.=) $3",
							3,
							{TEXTOID, TEXTOID, TEXTOID}};
	Datum values[3] = {saga->name, saga->id, CStringGetTextDatum(step->step)};

	(void) es_execute_latest(&plan, values, NULL);
}

static void
store_row(const Saga *saga, const SagaStep *step, const StepRow *row)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.saga_steps"
		 " (saga_name, saga_id, step, kind, claimable_at, due_at, lease, written_at,"
		 " run_at, run_as) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
		 " ON CONFLICT (saga_name, saga_id, step) DO UPDATE"
		 " SET kind = EXCLUDED.kind, claimable_at = EXCLUDED.claimable_at,"
		 " due_at = EXCLUDED.due_at, lease = EXCLUDED.lease, progress = NULL,"
		 " written_at = EXCLUDED.written_at, run_at = EXCLUDED.run_at,"
		 " run_as = EXCLUDED.run_as",
		 10,
		 {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		  INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID}};
	Datum values[10] = {saga->name,
						saga->id,
						CStringGetTextDatum(step->step),
						CStringGetTextDatum(es_step_kinds[row->kind]),
						TimestampTzGetDatum(row->claimable_at),
						TimestampTzGetDatum(row->due_at),
						Int64GetDatum(row->lease),
						TimestampTzGetDatum(saga->machine.now),
						TimestampTzGetDatum(row->run_at),
						row->run_as == NULL ? (Datum) 0
											: CStringGetTextDatum(row->run_as)};
	char nulls[10] = {' ',
					  ' ',
					  ' ',
					  ' ',
					  row->claimable_at == 0 ? 'n' : ' ',
					  row->due_at == 0 ? 'n' : ' ',
					  row->lease == 0 ? 'n' : ' ',
					  ' ',
					  row->run_at == 0 ? 'n' : ' ',
					  row->run_as == NULL ? 'n' : ' '};

	(void) es_write_ours(&plan, values, nulls);
	es_note_saga_work(row->claimable_at != 0, row->due_at);
	if (row->run_at != 0)
		es_note_handled_step(row->run_as);
}

static void
store_steps(const Saga *saga)
{
	ListCell *cell;

	foreach (cell, saga->machine.state->steps)
	{
		SagaStep *step = lfirst(cell);
		StepRow row;

		if (!step->touched)
			continue;
		if (step_row(saga, step, &row))
			store_row(saga, step, &row);
		else
			delete_row(saga, step);
		step->touched = false;
	}
}

/* The time of the whole saga counts while it is running. */
static void
store_saga(const Saga *saga)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.sagas"
		 " (saga_name, saga_id, version, state, deadline, started_at)"
		 " VALUES ($1, $2, $3, $4, $5, $6)"
		 " ON CONFLICT (saga_name, saga_id) DO UPDATE"
		 " SET state = EXCLUDED.state, deadline = EXCLUDED.deadline",
		 6,
		 {TEXTOID, TEXTOID, INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	const SagaState *state = saga->machine.state;
	TimestampTz deadline = state->phase == SAGA_RUNNING ? state->deadline : 0;
	Datum values[6] = {saga->name,
					   saga->id,
					   Int32GetDatum(state->version),
					   CStringGetTextDatum(es_saga_phases[state->phase]),
					   TimestampTzGetDatum(deadline),
					   TimestampTzGetDatum(state->started_at)};
	char nulls[6] = {' ', ' ', ' ', ' ', deadline == 0 ? 'n' : ' ', ' '};

	(void) es_write_ours(&plan, values, nulls);
	if (deadline != 0)
		es_note_saga_work(false, deadline);
}

static void
store_rows(Saga *saga)
{
	if (saga->stored != (SagaPhase) saga->machine.state->phase)
		store_saga(saga);
	store_steps(saga);
	saga->stored = saga->machine.state->phase;
}

/* ---------- what has happened ---------- */

static void
set_text(EventRow *row, EventColumn column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

static void
make_event(const Saga *saga, const SagaEvent *event, NewEvent *new_event)
{
	EventRow *row = &new_event->row;

	memset(new_event, 0, sizeof(NewEvent));
	memset(row->nulls, true, sizeof(row->nulls));
	set_text(row, EV_AGGREGATE_TYPE, saga->type);
	set_text(row, EV_AGGREGATE_ID, saga->id);
	set_text(row, EV_EVENT_TYPE,
			 CStringGetTextDatum(es_saga_event_names[event->type]));
	set_text(row, EV_PAYLOAD, JsonbPGetDatum(es_saga_event_payload(event)));
	set_text(row, EV_SAGA_ID, saga->id);
	if (saga->machine.state->correlation_id != NULL)
		set_text(row, EV_CORRELATION_ID,
				 CStringGetTextDatum(saga->machine.state->correlation_id));
	es_complete_event(new_event, NULL);
}

bool
es_circuit_admits_step(const Saga *saga, const char *name, StepKind kind)
{
	const SagaDefinition *definition = saga->machine.definition;
	int number = es_find_step(definition, name);
	const StepDefinition *step = number < 0 ? NULL : &definition->steps[number];

	if (step == NULL || kind != KIND_STEP || step->circuit.failures == 0)
		return true;
	return es_circuit_admits(es_circuit_key(saga->name, name),
							 es_pair_hash(saga->type, saga->id),
							 saga->machine.now + step->paces[KIND_STEP].timeout);
}

/* How the attempts of steps with circuits have ended. */
static void
note_circuits(const Saga *saga)
{
	ListCell *cell;

	foreach (cell, saga->machine.events)
	{
		const SagaEvent *event = lfirst(cell);
		const StepDefinition *step;

		if (event->lease == 0 ||
			(event->type != STEP_SUCCEEDED && event->type != STEP_FAILED &&
			 event->type != STEP_TIMED_OUT))
			continue;
		step = &saga->machine.definition
					->steps[es_find_step(saga->machine.definition, event->step)];
		if (step->circuit.failures > 0)
			es_note_circuit(es_circuit_key(saga->name, event->step),
							es_pair_hash(saga->type, saga->id), &step->circuit,
							event->type == STEP_TIMED_OUT || event->retry);
	}
}

/* For metrics. */
static void
count_event(const SagaEvent *event)
{
	switch (event->type)
	{
		case SAGA_STARTED:
			es_count(ES_COUNT_SAGAS_STARTED);
			break;
		case SAGA_COMPLETED:
			es_count(ES_COUNT_SAGAS_COMPLETED);
			break;
		case SAGA_COMPENSATED:
			es_count(ES_COUNT_SAGAS_COMPENSATED);
			break;
		case SAGA_FAILED:
			es_count(ES_COUNT_SAGAS_FAILED);
			break;
		case SAGA_STUCK:
			es_count(ES_COUNT_SAGAS_STUCK);
			break;
		case COMPENSATION_SUCCEEDED:
			es_count(ES_COUNT_COMPENSATIONS);
			break;
		case STEP_TIMED_OUT:
			es_count(ES_COUNT_STEP_TIMEOUTS);
			break;
		case STEP_REQUESTED:
		case COMPENSATION_REQUESTED:
			if (event->attempt > 1)
				es_count(ES_COUNT_STEP_RETRIES);
			break;
		case COMPENSATION_FAILED:
			if (strcmp(event->reason, "failed") != 0 &&
				strcmp(event->reason, "retry") != 0)
				es_count(ES_COUNT_STEP_TIMEOUTS);
			break;
		default:
			break;
	}
}

static void
count_events(const Saga *saga)
{
	ListCell *cell;

	foreach (cell, saga->machine.events)
		count_event(lfirst(cell));
}

void
es_save_sagas(Saga **sagas, int count, const char *function)
{
	AppendCall append = {function};
	OwnerScope scope;
	int events = 0;

	for (int i = 0; i < count; i++)
		events += list_length(sagas[i]->machine.events);
	if (events == 0)
		return;
	append.by_store = true;
	append.list.events = palloc(events * sizeof(NewEvent));
	for (int i = 0; i < count; i++)
	{
		ListCell *cell;

		foreach (cell, sagas[i]->machine.events)
			make_event(sagas[i], lfirst(cell),
					   &append.list.events[append.list.count++]);
	}
	es_append(&append, ES_DURABLE, count == 1);
	es_begin(&scope);
	for (int i = 0; i < count; i++)
		store_rows(sagas[i]);
	es_end(&scope);
	for (int i = 0; i < count; i++)
	{
		note_circuits(sagas[i]);
		count_events(sagas[i]);
		sagas[i]->machine.events = NIL;
	}
}

void
es_save_saga(Saga *saga, const char *function)
{
	es_save_sagas(&saga, 1, function);
}

Datum
es_saga_phase_text(const Saga *saga)
{
	return CStringGetTextDatum(es_saga_phases[saga->machine.state->phase]);
}
