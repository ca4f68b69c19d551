/*
 * saga_state.c
 *		The state of a saga: a fold of its events, and of nothing else.
 *
 * This is the reducer of the types "saga:...".  It knows no definition: the events say
 * what follows from one (machine.c), so that a saga of long ago is shown as it was.  No
 * event is refused here; whoever decides has refused before.
 *
 * Of each attempt its outcome is kept, since that is what tells whether a step may
 * have been done: it may, unless each of its attempts was reported as failed.
 */
#include "postgres.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "ground/compat.h"
#include "replay/json_record.h"
#include "replay/json_value.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "replay/state.h"

const char *const es_saga_phases[] = {"none",	"running",	 "compensating",
									  "stuck",	"completed", "compensated",
									  "failed", NULL};

StaticAssertDecl(lengthof(es_saga_phases) == SAGA_HAS_FAILED + 2,
				 "every phase of a saga has a word");

static const char *const step_phases[] = {"none",	 "waiting",		"queued",
										  "leased",	 "backing_off", "done",
										  "failed",	 "exhausted",	"expired",
										  "skipped", "withdrawn",	"stuck",
										  NULL};

StaticAssertDecl(lengthof(step_phases) == STEP_STUCK + 2,
				 "every phase of a step has a word");

const char *const es_attempt_outcomes[] = {"none",	"succeeded",   "failed",
										   "retry", "compensated", NULL};

StaticAssertDecl(lengthof(es_attempt_outcomes) == OUTCOME_COMPENSATED + 2,
				 "every outcome has a word");

#define SAGA_FIELD(name, kind)                 \
	{                                          \
#name, kind, offsetof(SagaState, name) \
	}
#define STEP_FIELD(name, kind)                \
	{                                         \
#name, kind, offsetof(SagaStep, name) \
	}
#define ATTEMPT_FIELD(name, kind)                \
	{                                            \
#name, kind, offsetof(StepAttempt, name) \
	}
#define SIGNAL_FIELD(name, kind)                \
	{                                           \
#name, kind, offsetof(SagaSignal, name) \
	}

static const Field saga_fields[] = {{"state", FIELD_WORD,
									 offsetof(SagaState, phase), es_saga_phases},
									SAGA_FIELD(version, FIELD_INT),
									SAGA_FIELD(started_at, FIELD_TIME),
									SAGA_FIELD(updated_at, FIELD_TIME),
									SAGA_FIELD(deadline, FIELD_TIME),
									SAGA_FIELD(correlation_id, FIELD_TEXT),
									SAGA_FIELD(last_error, FIELD_TEXT),
									SAGA_FIELD(ends, FIELD_INT),
									SAGA_FIELD(context, FIELD_JSON)};

static const Field step_fields[] =
	{STEP_FIELD(step, FIELD_TEXT),
	 {"state", FIELD_WORD, offsetof(SagaStep, phase), step_phases},
	 STEP_FIELD(attempt, FIELD_INT),
	 STEP_FIELD(end, FIELD_INT),
	 {"compensation", FIELD_WORD, offsetof(SagaStep, compensation), step_phases},
	 STEP_FIELD(compensation_attempt, FIELD_INT),
	 STEP_FIELD(lease, FIELD_LONG),
	 STEP_FIELD(deadline, FIELD_TIME),
	 STEP_FIELD(not_before, FIELD_TIME),
	 STEP_FIELD(queue_deadline, FIELD_TIME),
	 STEP_FIELD(input, FIELD_JSON),
	 STEP_FIELD(signal, FIELD_TEXT)};

static const Field attempt_fields[] =
	{ATTEMPT_FIELD(lease, FIELD_LONG),
	 {"kind", FIELD_WORD, offsetof(StepAttempt, kind), es_step_kinds},
	 ATTEMPT_FIELD(attempt, FIELD_INT),
	 {"outcome", FIELD_WORD, offsetof(StepAttempt, outcome), es_attempt_outcomes},
	 ATTEMPT_FIELD(result, FIELD_LONG)};

static const Field signal_fields[] = {SIGNAL_FIELD(signal, FIELD_TEXT),
									  SIGNAL_FIELD(signal_id, FIELD_TEXT),
									  SIGNAL_FIELD(payload, FIELD_JSON),
									  SIGNAL_FIELD(taken, FIELD_BOOL)};

/* ---------- as JSON ---------- */

/* Reads the records of a list; the step's attempts are read by the caller. */
static List *
read_list(const JsonbValue *object, const char *name, const Field *fields,
		  int count, Size size, void (*then)(const JsonbValue *, void *))
{
	List *records = NIL;
	JsonbValue array;

	if (!es_find_member(object, name, &array) || !es_is_array(&array))
		return NIL;
	for (uint32 i = 0; i < JsonContainerSize(array.val.binary.data); i++)
	{
		JsonbValue *element =
			getIthJsonbValueFromContainer(array.val.binary.data, i);
		void *record = palloc0(size);

		if (!es_is_object(element))
			continue;
		es_read_fields(element, fields, count, record);
		if (then != NULL)
			then(element, record);
		records = lappend(records, record);
	}
	return records;
}

static void
read_attempts(const JsonbValue *object, void *record)
{
	((SagaStep *) record)->attempts =
		read_list(object, "attempts", attempt_fields, lengthof(attempt_fields),
				  sizeof(StepAttempt), NULL);
}

SagaState *
es_saga_state_begin(Jsonb *json)
{
	MemoryContext memory =
		AllocSetContextCreate(CurrentMemoryContext, "event_store saga",
							  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	SagaState *saga = palloc0(sizeof(SagaState));
	JsonbValue root;

	saga->memory = memory;
	if (json != NULL)
	{
		es_whole_value(json, &root);
		if (es_is_object(&root))
		{
			es_read_fields(&root, saga_fields, lengthof(saga_fields), saga);
			saga->steps =
				read_list(&root, "steps", step_fields, lengthof(step_fields),
						  sizeof(SagaStep), read_attempts);
			saga->signals =
				read_list(&root, "signals", signal_fields,
						  lengthof(signal_fields), sizeof(SagaSignal), NULL);
		}
	}
	MemoryContextSwitchTo(caller);
	return saga;
}

static StateNode *
add_array(State *state, StateNode *object, const char *name)
{
	StateNode *array = es_add_named(state, object, name);

	es_node_set_empty(state, array, NODE_ARRAY);
	return array;
}

static StateNode *
add_record(State *state, StateNode *array, const Field *fields, int count,
		   const void *record)
{
	StateNode *object = es_node_add_element(state, array);

	es_node_set_empty(state, object, NODE_OBJECT);
	es_write_fields(state, object, fields, count, record);
	return object;
}

Jsonb *
es_saga_state_result(const SagaState *saga)
{
	State *state = es_state_begin(NULL);
	StateNode *root = es_state_root(state);
	StateNode *array;
	ListCell *cell;
	Jsonb *result;

	if (saga->phase == SAGA_NONE)
		return NULL;
	es_node_set_empty(state, root, NODE_OBJECT);
	es_write_fields(state, root, saga_fields, lengthof(saga_fields), saga);
	array = add_array(state, root, "steps");
	foreach (cell, saga->steps)
	{
		SagaStep *step = lfirst(cell);
		StateNode *object =
			add_record(state, array, step_fields, lengthof(step_fields), step);
		ListCell *inner;
		StateNode *attempts;

		if (step->attempts == NIL)
			continue;
		attempts = add_array(state, object, "attempts");
		foreach (inner, step->attempts)
			(void) add_record(state, attempts, attempt_fields,
							  lengthof(attempt_fields), lfirst(inner));
	}
	if (saga->signals != NIL)
	{
		array = add_array(state, root, "signals");
		foreach (cell, saga->signals)
			(void) add_record(state, array, signal_fields,
							  lengthof(signal_fields), lfirst(cell));
	}
	result = es_state_result(state);
	es_state_end(state);
	return result;
}

void
es_saga_state_end(SagaState *saga)
{
	MemoryContextDelete(saga->memory);
}

/* ---------- looking into it ---------- */

bool
es_saga_is_final(const SagaState *saga)
{
	return saga->phase >= SAGA_HAS_COMPLETED;
}

SagaStep *
es_saga_step(const SagaState *saga, const char *name)
{
	ListCell *cell;

	foreach (cell, saga->steps)
	{
		SagaStep *step = lfirst(cell);

		if (strcmp(step->step, name) == 0)
			return step;
	}
	return NULL;
}

StepAttempt *
es_step_attempt(const SagaStep *step, int64 lease)
{
	ListCell *cell;

	foreach (cell, step->attempts)
	{
		StepAttempt *attempt = lfirst(cell);

		if (attempt->lease == lease)
			return attempt;
	}
	return NULL;
}

bool
es_step_may_be_done(const SagaStep *step)
{
	ListCell *cell;

	foreach (cell, step->attempts)
	{
		StepAttempt *attempt = lfirst(cell);

		if (attempt->kind == KIND_STEP && attempt->outcome != OUTCOME_FAILED)
			return true;
	}
	return false;
}

SagaSignal *
es_saga_signal(const SagaState *saga, const char *signal)
{
	ListCell *cell;

	foreach (cell, saga->signals)
	{
		SagaSignal *candidate = lfirst(cell);

		if (!candidate->taken && strcmp(candidate->signal, signal) == 0)
			return candidate;
	}
	return NULL;
}

int64
es_saga_result_hash(Jsonb *result)
{
	int64 hash;

	if (result == NULL)
		return 0;
	hash = DatumGetInt64(DirectFunctionCall2(jsonb_hash_extended,
											 JsonbPGetDatum(result),
											 Int64GetDatum(0)));
	return hash == 0 ? 1 : hash;
}

/* ---------- events ---------- */

static SagaStep *
touch_step(SagaState *saga, const char *name)
{
	SagaStep *step = es_saga_step(saga, name);

	if (step == NULL)
	{
		step = palloc0(sizeof(SagaStep));
		step->step = pstrdup(name);
		saga->steps = lappend(saga->steps, step);
	}
	step->touched = true;
	return step;
}

static Jsonb *
copy_json(const Jsonb *json)
{
	Jsonb *copy;

	if (json == NULL)
		return NULL;
	copy = palloc(VARSIZE(json));
	memcpy(copy, json, VARSIZE(json));
	return copy;
}

static char *
copy_text(const char *string)
{
	return string == NULL ? NULL : pstrdup(string);
}

static bool
is_compensation(const SagaEvent *event)
{
	return event->kind != NULL &&
		   strcmp(event->kind, es_step_kinds[KIND_COMPENSATION]) == 0;
}

/* It has no further forward attempt; a later report does not move its place. */
static void
end_step(SagaState *saga, SagaStep *step, StepPhase phase)
{
	step->phase = phase;
	if (step->end == 0)
		step->end = ++saga->ends;
}

static void
close_step(SagaStep *step)
{
	step->deadline = step->not_before = step->queue_deadline = 0;
	step->input = NULL;
}

static void
note_request(SagaStep *step, const SagaEvent *event, bool compensation)
{
	if (compensation)
		step->compensation = STEP_QUEUED;
	else
		step->phase = event->signal == NULL ? STEP_QUEUED : STEP_WAITING;
	step->deadline = 0;
	step->not_before = event->not_before;
	step->queue_deadline = event->queue_deadline;
	step->input = copy_json(event->input);
	if (event->signal != NULL)
		step->signal = pstrdup(event->signal);
}

static void
note_claim(SagaStep *step, const SagaEvent *event)
{
	StepAttempt *attempt = palloc0(sizeof(StepAttempt));
	bool compensation = is_compensation(event);

	if (compensation)
	{
		step->compensation = STEP_LEASED;
		step->compensation_attempt = event->attempt;
	}
	else
	{
		step->phase = STEP_LEASED;
		step->attempt = event->attempt;
	}
	step->lease = event->lease;
	step->deadline = event->deadline;
	step->not_before = step->queue_deadline = 0;
	attempt->lease = event->lease;
	attempt->attempt = event->attempt;
	attempt->kind = compensation ? KIND_COMPENSATION : KIND_STEP;
	step->attempts = lappend(step->attempts, attempt);
}

/* What was reported for the attempt, if it was reported. */
static void
note_outcome(SagaStep *step, const SagaEvent *event, AttemptOutcome outcome)
{
	StepAttempt *attempt = es_step_attempt(step, event->lease);

	if (attempt == NULL)
		return;
	attempt->outcome = outcome;
	attempt->result = es_saga_result_hash(event->result);
}

/* Puts a step's result into the context, under its name. */
static void
add_result(SagaState *saga, const SagaEvent *event)
{
	State *state;
	StateNode *root;
	JsonbValue value;

	if (event->result == NULL)
		return;
	state = es_state_begin(saga->context);
	root = es_state_root(state);
	es_whole_value(event->result, &value);
	es_node_open(state, root);
	es_node_set(state, es_add_named(state, root, event->step), &value);
	saga->context = es_state_result(state);
	es_state_end(state);
}

static void
note_success(SagaState *saga, SagaStep *step, const SagaEvent *event)
{
	SagaSignal *signal;

	end_step(saga, step, STEP_DONE);
	if (step->compensation == STEP_NONE)
		close_step(step);
	note_outcome(step, event, OUTCOME_SUCCEEDED);
	add_result(saga, event);
	/* who undoes what was done after all has to know what it was */
	if (step->compensation == STEP_QUEUED)
		step->input = saga->context;
	if (step->signal == NULL)
		return;
	signal = es_saga_signal(saga, step->signal);
	if (signal != NULL)
	{
		signal->taken = true;
		signal->payload = NULL;
	}
}

static void
note_failure(SagaState *saga, SagaStep *step, const SagaEvent *event)
{
	saga->last_error = event->error != NULL
						   ? pstrdup(event->error)
						   : psprintf("step %s: %s", step->step,
									  event->retry ? "retry" : "failed");
	note_outcome(step, event, event->retry ? OUTCOME_RETRY : OUTCOME_FAILED);
	if (event->retry_at != 0)
		step->phase = STEP_BACKING_OFF;
	else
	{
		end_step(saga, step, event->retry ? STEP_EXHAUSTED : STEP_HAS_FAILED);
		if (step->compensation == STEP_NONE)
			close_step(step);
	}
}

static void
note_time_out(SagaState *saga, SagaStep *step, const SagaEvent *event)
{
	saga->last_error = psprintf("step %s: %s%s%s", step->step,
								event->reason == NULL ? "timeout" : event->reason,
								event->error == NULL ? "" : ": ",
								event->error == NULL ? "" : event->error);
	if (event->retry_at != 0)
	{
		step->phase = STEP_BACKING_OFF;
		return;
	}
	/* one that was never claimed was not done */
	if (step->attempt == 0)
		step->phase = STEP_EXPIRED;
	else
		end_step(saga, step, STEP_EXHAUSTED);
	close_step(step);
}

/* What nobody has claimed is withdrawn. */
static void
note_turn(SagaState *saga)
{
	ListCell *cell;

	saga->phase = SAGA_COMPENSATING;
	foreach (cell, saga->steps)
	{
		SagaStep *step = lfirst(cell);

		if (step->phase != STEP_QUEUED && step->phase != STEP_BACKING_OFF &&
			step->phase != STEP_WAITING)
			continue;
		step->touched = true;
		if (step->attempt == 0)
			step->phase = STEP_WITHDRAWN;
		else
			end_step(saga, step, STEP_EXHAUSTED);
		close_step(step);
	}
}

static void
note_compensation_failure(SagaState *saga, SagaStep *step, const SagaEvent *event)
{
	AttemptOutcome outcome = OUTCOME_NONE;

	if (event->reason != NULL && strcmp(event->reason, "failed") == 0)
		outcome = OUTCOME_FAILED;
	else if (event->reason != NULL && strcmp(event->reason, "retry") == 0)
		outcome = OUTCOME_RETRY;
	saga->last_error =
		event->error != NULL
			? pstrdup(event->error)
			: psprintf("compensation of step %s: %s", step->step,
					   event->reason == NULL ? "failed" : event->reason);
	if (outcome != OUTCOME_NONE)
		note_outcome(step, event, outcome);
	step->compensation = STEP_BACKING_OFF;
	step->deadline = 0;
}

static void
end_compensation(SagaState *saga, SagaStep *step, StepPhase phase)
{
	step->compensation = phase;
	close_step(step);
	saga->phase = SAGA_COMPENSATING;
}

static void
note_resolution(SagaState *saga, SagaStep *step, const SagaEvent *event)
{
	const char *action = event->action == NULL ? "" : event->action;

	if (strcmp(action, "retry") == 0)
	{
		step->compensation_attempt = 0;
		saga->phase = SAGA_COMPENSATING;
	}
	else if (strcmp(action, "skip") == 0)
		end_compensation(saga, step, STEP_LEFT_OUT);
	else if (strcmp(action, "succeeded") == 0)
		end_compensation(saga, step, STEP_DONE);
}

static void
note_signal(SagaState *saga, const SagaEvent *event)
{
	SagaSignal *signal = palloc0(sizeof(SagaSignal));

	signal->signal = copy_text(event->signal);
	signal->signal_id = copy_text(event->signal_id);
	signal->payload = copy_json(event->payload);
	if (signal->signal != NULL)
		saga->signals = lappend(saga->signals, signal);
}

static void
note_start(SagaState *saga, const SagaEvent *event, TimestampTz recorded_at,
		   const char *correlation_id)
{
	saga->phase = SAGA_RUNNING;
	saga->version = event->version;
	saga->started_at = recorded_at;
	saga->deadline = event->deadline;
	saga->context = copy_json(event->context);
	saga->correlation_id = copy_text(correlation_id);
}

/* Events of the whole saga; false if it is one of a step. */
static bool
apply_to_saga(SagaState *saga, const SagaEvent *event, TimestampTz recorded_at,
			  const char *correlation_id)
{
	switch (event->type)
	{
		case SAGA_STARTED:
			note_start(saga, event, recorded_at, correlation_id);
			return true;
		case SIGNAL_RECEIVED:
			note_signal(saga, event);
			return true;
		case COMPENSATION_STARTED:
			note_turn(saga);
			return true;
		case SAGA_COMPLETED:
			saga->phase = SAGA_HAS_COMPLETED;
			return true;
		case SAGA_COMPENSATED:
			saga->phase = SAGA_IS_COMPENSATED;
			return true;
		case SAGA_FAILED:
			saga->phase = SAGA_HAS_FAILED;
			return true;
		default:
			return false;
	}
}

static void
apply_to_step(SagaState *saga, SagaStep *step, const SagaEvent *event)
{
	switch (event->type)
	{
		case STEP_REQUESTED:
		case COMPENSATION_REQUESTED:
			note_request(step, event, event->type == COMPENSATION_REQUESTED);
			break;
		case STEP_CLAIMED:
			note_claim(step, event);
			break;
		case STEP_SUCCEEDED:
			note_success(saga, step, event);
			break;
		case STEP_FAILED:
			note_failure(saga, step, event);
			break;
		case STEP_TIMED_OUT:
			note_time_out(saga, step, event);
			break;
		case STEP_SKIPPED:
			if (is_compensation(event))
				end_compensation(saga, step, STEP_NONE);
			else
				step->phase = STEP_LEFT_OUT;
			break;
		case COMPENSATION_SUCCEEDED:
			note_outcome(step, event, OUTCOME_COMPENSATED);
			end_compensation(saga, step, STEP_DONE);
			break;
		case COMPENSATION_FAILED:
			note_compensation_failure(saga, step, event);
			break;
		case SAGA_STUCK:
			saga->phase = SAGA_IS_STUCK;
			step->compensation = STEP_STUCK;
			close_step(step);
			break;
		case STEP_RESOLVED:
			note_resolution(saga, step, event);
			break;
		default:
			break;
	}
}

void
es_saga_apply(SagaState *saga, const SagaEvent *event, TimestampTz recorded_at,
			  const char *correlation_id)
{
	MemoryContext caller = MemoryContextSwitchTo(saga->memory);

	saga->updated_at = recorded_at;
	if (!apply_to_saga(saga, event, recorded_at, correlation_id) &&
		event->step != NULL)
		apply_to_step(saga, touch_step(saga, event->step), event);
	MemoryContextSwitchTo(caller);
}
