/*
 * machine.c
 *		What follows in a saga from what happens: from its definition, its state and the
 *		time, and from nothing else.
 *
 * Nothing is read or written here.  What is decided becomes an event, and each event is
 * taken into the state at once by the reducer (saga_state.c), which alone changes it: so
 * a state is never anything but the fold of its events.
 *
 *	running ---------> completed
 *	   |  a step failed, the saga timed out or was cancelled
 *	   v
 *	compensating <---> stuck, until somebody decides
 *	   |
 *	   v
 *	compensated, or failed where there was nothing to compensate
 *
 * Compensation waits until no forward attempt is live, and then takes the steps that were
 * done, or may have been, one at a time, the one that ended last first.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "ground/common.h"
#include "replay/condition.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "replay/state.h"
#include "saga/definition.h"
#include "saga/machine.h"

/* ---------- events ---------- */

static void
emit(Machine *machine, SagaEvent event)
{
	SagaEvent *kept = palloc(sizeof(SagaEvent));

	*kept = event;
	machine->events = lappend(machine->events, kept);
	es_saga_apply(machine->state, kept, machine->now, NULL);
}

static char *
kind_word(StepKind kind)
{
	return unconstify(char *, es_step_kinds[kind]);
}

static const StepDefinition *
definition_of(const Machine *machine, const char *step)
{
	int number = es_find_step(machine->definition, step);

	if (number < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("saga %s has no step \"%s\"", machine->saga, step)));
	return &machine->definition->steps[number];
}

static StepPhase
phase_of(const Machine *machine, const StepDefinition *definition)
{
	const SagaStep *step = es_saga_step(machine->state, definition->name);

	return step == NULL ? STEP_NONE : (StepPhase) step->phase;
}

/* ---------- forwards ---------- */

/* Whether the steps behind it may begin. */
static bool
is_done(const Machine *machine, const StepDefinition *definition)
{
	switch (phase_of(machine, definition))
	{
		case STEP_DONE:
		case STEP_LEFT_OUT:
			return true;
		case STEP_EXPIRED:
			return definition->optional || definition->wait_continues;
		case STEP_HAS_FAILED:
		case STEP_EXHAUSTED:
			return definition->optional;
		default:
			return false;
	}
}

static bool
same_group(const StepDefinition *a, const StepDefinition *b)
{
	return a->group != NULL && b->group != NULL && strcmp(a->group, b->group) == 0;
}

/*
 * The steps that run now: the first that is not done, with its group.  False if
 * there are none.
 */
static bool
find_stage(const Machine *machine, int *first, int *last)
{
	const SagaDefinition *definition = machine->definition;

	for (*first = 0; *first < definition->count; *first = *last + 1)
	{
		bool done = true;

		*last = *first;
		while (*last + 1 < definition->count &&
			   same_group(&definition->steps[*first],
						  &definition->steps[*last + 1]))
			(*last)++;
		for (int i = *first; i <= *last && done; i++)
			done = is_done(machine, &definition->steps[i]);
		if (!done)
			return true;
	}
	return false;
}

/* Whether the conditions of a step hold for a context. */
static bool
is_wanted(const StepDefinition *step, Jsonb *context)
{
	JsonbValue document;

	es_whole_value(context, &document);
	for (int i = 0; i < step->conditions; i++)
	{
		if (!es_document_condition_holds(&step->when[i], &document))
			return false;
	}
	return true;
}

static TimestampTz
end_of(TimestampTz from, int64 time)
{
	return time == 0 ? 0 : from + time;
}

/* Asks executors for an attempt; "not_before" is 0 for at once. */
static void
request(Machine *machine, const StepDefinition *definition, StepKind kind,
		int attempt, Jsonb *input, TimestampTz not_before)
{
	const StepPace *pace = &definition->paces[kind];
	TimestampTz from = Max(not_before, machine->now);

	emit(machine,
		 (SagaEvent){.type = kind == KIND_STEP ? STEP_REQUESTED
											   : COMPENSATION_REQUESTED,
					 .step = definition->name,
					 .kind = kind_word(kind),
					 .attempt = attempt,
					 .input = input,
					 .not_before = not_before > machine->now ? not_before : 0,
					 .queue_deadline = end_of(from, pace->queue_timeout)});
}

static void
take_signal(Machine *machine, const StepDefinition *definition)
{
	SagaSignal *signal = es_saga_signal(machine->state, definition->signal);

	if (signal != NULL)
		emit(machine, (SagaEvent){.type = STEP_SUCCEEDED,
								  .step = definition->name,
								  .result = signal->payload});
}

static void
begin_step(Machine *machine, const StepDefinition *definition, Jsonb *context)
{
	if (!is_wanted(definition, context))
		emit(machine, (SagaEvent){.type = STEP_SKIPPED,
								  .step = definition->name,
								  .kind = kind_word(KIND_STEP),
								  .reason = "when"});
	else if (definition->signal != NULL)
	{
		emit(machine,
			 (SagaEvent){.type = STEP_REQUESTED,
						 .step = definition->name,
						 .kind = kind_word(KIND_STEP),
						 .signal = definition->signal,
						 .queue_deadline =
							 end_of(machine->now, definition->wait_timeout)});
		take_signal(machine, definition);
	}
	else
		request(machine, definition, KIND_STEP, 1, context,
				end_of(machine->now, definition->delay));
}

/* Goes on as far as nobody has to do anything. */
static void
advance(Machine *machine)
{
	int first;
	int last;

	while (find_stage(machine, &first, &last))
	{
		/* all of a group begin with what there is now */
		Jsonb *context = machine->state->context;
		bool begun = false;

		for (int i = first; i <= last; i++)
		{
			const StepDefinition *definition = &machine->definition->steps[i];

			if (phase_of(machine, definition) != STEP_NONE)
				continue;
			begin_step(machine, definition, context);
			begun = true;
		}
		if (!begun)
			return;
	}
	emit(machine, (SagaEvent){.type = SAGA_COMPLETED});
}

void
es_start_machine(Machine *machine, Jsonb *context, const char *correlation_id)
{
	SagaEvent event = {.type = SAGA_STARTED,
					   .version = machine->definition->version,
					   .deadline =
						   end_of(machine->now, machine->definition->timeout),
					   .context = context};
	SagaEvent *kept = palloc(sizeof(SagaEvent));

	*kept = event;
	machine->events = list_make1(kept);
	es_saga_apply(machine->state, kept, machine->now, correlation_id);
	advance(machine);
}

/* ---------- backwards ---------- */

static bool
is_compensating(const SagaStep *step)
{
	return step->compensation == STEP_QUEUED ||
		   step->compensation == STEP_LEASED ||
		   step->compensation == STEP_BACKING_OFF ||
		   step->compensation == STEP_STUCK;
}

/* Whether it is to be compensated: it was done, or may have been. */
static bool
has_to_be_undone(const Machine *machine, const SagaStep *step)
{
	const StepDefinition *definition = definition_of(machine, step->step);

	if (!definition->compensate || step->compensation != STEP_NONE)
		return false;
	return step->phase == STEP_DONE ||
		   ((step->phase == STEP_EXHAUSTED || step->phase == STEP_HAS_FAILED) &&
			es_step_may_be_done(step));
}

/* The end of a saga that has nothing left to compensate. */
static void
end_compensating(Machine *machine)
{
	ListCell *cell;

	foreach (cell, machine->state->steps)
	{
		const SagaStep *step = lfirst(cell);

		if (step->compensation == STEP_DONE || step->compensation == STEP_LEFT_OUT)
		{
			emit(machine, (SagaEvent){.type = SAGA_COMPENSATED});
			return;
		}
	}
	emit(machine,
		 (SagaEvent){.type = SAGA_FAILED, .error = machine->state->last_error});
}

/* The next compensation, once no forward attempt is live and no other is open. */
static void
compensate_next(Machine *machine)
{
	const SagaStep *next = NULL;
	ListCell *cell;

	if (machine->state->phase != SAGA_COMPENSATING)
		return;
	foreach (cell, machine->state->steps)
	{
		const SagaStep *step = lfirst(cell);

		if (step->phase == STEP_LEASED || is_compensating(step))
			return;
		if (has_to_be_undone(machine, step) &&
			(next == NULL || step->end > next->end))
			next = step;
	}
	if (next == NULL)
		end_compensating(machine);
	else
		request(machine, definition_of(machine, next->step), KIND_COMPENSATION,
				1, machine->state->context, 0);
}

static void
turn_back(Machine *machine, const char *cause, const char *step, const char *reason)
{
	emit(machine, (SagaEvent){.type = COMPENSATION_STARTED,
							  .cause = unconstify(char *, cause),
							  .step = unconstify(char *, step),
							  .reason = unconstify(char *, reason)});
	compensate_next(machine);
}

/* A step has come to its end without success. */
static void
go_on_or_back(Machine *machine, const StepDefinition *definition)
{
	if (machine->state->phase != SAGA_RUNNING)
		compensate_next(machine);
	else if (is_done(machine, definition))
		advance(machine);
	else
		turn_back(machine, "step", definition->name, NULL);
}

/* ---------- attempts ---------- */

/* The pause after so many attempts, doubled each time. */
static int64
back_off(const StepPace *pace, int attempts)
{
	int64 pause = pace->retry_initial;

	for (int i = 1; i < attempts && pause < pace->retry_max; i++)
		pause *= 2;
	return Min(pause, pace->retry_max);
}

/* How an attempt ended, but for success and business failure. */
typedef struct AttemptEnd
{
	const char *reason; /* 'timeout', 'lease', 'retry', 'queue'; of compensations 'failed', too */
	int64 lease;
	char *error;
	Jsonb *result;
	int64 pause; /* before the next; -1 = as the definition says */
} AttemptEnd;

static int64
pause_after(const AttemptEnd *end, const StepPace *pace, int attempts)
{
	if (strcmp(end->reason, "lease") == 0)
		return 0;
	return end->pause >= 0 ? end->pause : back_off(pace, attempts);
}

static void
end_forward_attempt(Machine *machine, const StepDefinition *definition,
					const SagaStep *step, const AttemptEnd *end)
{
	const StepPace *pace = &definition->paces[KIND_STEP];
	bool retry = strcmp(end->reason, "retry") == 0;
	bool again = machine->state->phase == SAGA_RUNNING &&
				 step->attempt < pace->max_attempts;
	TimestampTz retry_at =
		again ? machine->now + pause_after(end, pace, step->attempt) : 0;
	SagaEvent event = {.type = retry ? STEP_FAILED : STEP_TIMED_OUT,
					   .step = definition->name,
					   .attempt = step->attempt,
					   .lease = end->lease,
					   .retry = retry,
					   .retry_at = retry_at,
					   .result = end->result,
					   .error = end->error,
					   .reason = retry ? NULL : unconstify(char *, end->reason)};

	emit(machine, event);
	if (again)
		request(machine, definition, KIND_STEP, step->attempt + 1, step->input,
				retry_at);
	else
		go_on_or_back(machine, definition);
}

static void
end_compensation_attempt(Machine *machine, const StepDefinition *definition,
						 const SagaStep *step, const AttemptEnd *end)
{
	const StepPace *pace = &definition->paces[KIND_COMPENSATION];
	bool again = step->compensation_attempt < pace->max_attempts &&
				 strcmp(end->reason, "failed") != 0 &&
				 strcmp(end->reason, "queue") != 0;
	TimestampTz retry_at =
		again ? machine->now + pause_after(end, pace, step->compensation_attempt)
			  : 0;
	Jsonb *input = step->input;

	emit(machine, (SagaEvent){.type = COMPENSATION_FAILED,
							  .step = definition->name,
							  .attempt = step->compensation_attempt,
							  .lease = end->lease,
							  .retry_at = retry_at,
							  .result = end->result,
							  .error = end->error,
							  .reason = unconstify(char *, end->reason)});
	if (again)
		request(machine, definition, KIND_COMPENSATION,
				step->compensation_attempt + 1, input, retry_at);
	else
		emit(machine, (SagaEvent){.type = SAGA_STUCK, .step = definition->name});
}

/* ---------- claims ---------- */

bool
es_is_requested(const Machine *machine, const char *name, StepKind kind)
{
	const SagaStep *step = es_saga_step(machine->state, name);

	if (step == NULL)
		return false;
	if (kind == KIND_STEP)
		return machine->state->phase == SAGA_RUNNING && step->phase == STEP_QUEUED;
	return machine->state->phase == SAGA_COMPENSATING &&
		   step->compensation == STEP_QUEUED;
}

bool
es_can_be_claimed(const Machine *machine, const char *name, StepKind kind)
{
	return es_is_requested(machine, name, kind) &&
		   es_saga_step(machine->state, name)->not_before <= machine->now;
}

const SagaStep *
es_claim_step(Machine *machine, const char *name, StepKind kind, int64 lease,
			  const char *executor)
{
	const StepDefinition *definition = definition_of(machine, name);
	const SagaStep *step = es_saga_step(machine->state, name);
	int before = kind == KIND_STEP ? step->attempt : step->compensation_attempt;

	emit(machine,
		 (SagaEvent){.type = STEP_CLAIMED,
					 .step = definition->name,
					 .kind = kind_word(kind),
					 .attempt = before + 1,
					 .lease = lease,
					 .executor = unconstify(char *, executor),
					 .deadline = machine->now + definition->paces[kind].timeout});
	return step;
}

/* ---------- reports ---------- */

static void
refuse_lost(const Machine *machine, const char *step, int64 lease)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_LEASE_LOST),
			 errmsg("lease " INT64_FORMAT " of step \"%s\" of saga %s is lost",
					lease, step, machine->saga)));
}

/* A step that nobody has claimed has no lease, which 0 says; a caller's 0 is none either. */
SagaStep *
es_check_lease(const Machine *machine, const char *name, int64 lease)
{
	SagaStep *step;

	(void) definition_of(machine, name);
	step = es_saga_step(machine->state, name);
	if (step == NULL || lease == 0 || step->lease != lease)
		refuse_lost(machine, name, lease);
	return step;
}

StepKind
es_lease_kind(const SagaStep *step)
{
	const StepAttempt *attempt = es_step_attempt(step, step->lease);

	return attempt == NULL ? KIND_STEP : (StepKind) attempt->kind;
}

/* Whether the same was reported before; VS002 for anything else. */
static bool
is_repeated(const Machine *machine, const SagaStep *step, const StepReport *report)
{
	const StepAttempt *attempt =
		step == NULL ? NULL : es_step_attempt(step, report->lease);

	if (attempt == NULL || attempt->outcome == OUTCOME_NONE)
		return false;
	if (attempt->outcome != (int) report->outcome ||
		attempt->result != es_saga_result_hash(report->result))
		ereport(ERROR,
				(errcode(ES_ERRCODE_EVENT_ID_REUSED),
				 errmsg("lease " INT64_FORMAT
						" of step \"%s\" of saga %s was reported as %s, with another outcome or result",
						report->lease, report->step, machine->saga,
						es_attempt_outcomes[attempt->outcome])));
	return true;
}

static void
report_success(Machine *machine, const SagaStep *step, const StepReport *report)
{
	emit(machine, (SagaEvent){.type = STEP_SUCCEEDED,
							  .step = report->step,
							  .attempt = step->attempt,
							  .lease = report->lease,
							  .result = report->result});
	if (machine->state->phase == SAGA_RUNNING)
		advance(machine);
	else
		compensate_next(machine);
}

/* One that is found not to have been done needs no compensation, and nobody to decide. */
static void
report_failure(Machine *machine, const SagaStep *step, const StepReport *report)
{
	emit(machine, (SagaEvent){.type = STEP_FAILED,
							  .step = report->step,
							  .attempt = step->attempt,
							  .lease = report->lease,
							  .result = report->result,
							  .error = report->error});
	if (is_compensating(step) && step->compensation_attempt == 0 &&
		!es_step_may_be_done(step))
		emit(machine, (SagaEvent){.type = STEP_SKIPPED,
								  .step = report->step,
								  .kind = kind_word(KIND_COMPENSATION),
								  .reason = "failed"});
	go_on_or_back(machine, definition_of(machine, report->step));
}

/* A forward attempt: where it is counted already, 'retry' says nothing new. */
static void
report_forward(Machine *machine, const SagaStep *step, const StepReport *report)
{
	AttemptEnd end = {"retry", report->lease, report->error, report->result,
					  report->retry_in};

	if (report->outcome == OUTCOME_SUCCEEDED)
		report_success(machine, step, report);
	else if (report->outcome == OUTCOME_FAILED)
		report_failure(machine, step, report);
	else if (step->phase == STEP_LEASED)
		end_forward_attempt(machine, definition_of(machine, report->step), step,
							&end);
}

static void
report_compensation(Machine *machine, const SagaStep *step,
					const StepReport *report)
{
	AttemptEnd end = {report->outcome == OUTCOME_FAILED ? "failed" : "retry",
					  report->lease, report->error, report->result,
					  report->retry_in};

	/* somebody has settled it by hand, and it is not undone a second time */
	if (!is_compensating(step))
		refuse_lost(machine, report->step, report->lease);
	if (report->outcome == OUTCOME_COMPENSATED)
	{
		emit(machine, (SagaEvent){.type = COMPENSATION_SUCCEEDED,
								  .step = report->step,
								  .attempt = step->compensation_attempt,
								  .lease = report->lease,
								  .result = report->result});
		compensate_next(machine);
	}
	else if (step->compensation == STEP_LEASED)
		end_compensation_attempt(machine, definition_of(machine, report->step),
								 step, &end);
}

static void
check_outcome(const Machine *machine, StepKind kind, AttemptOutcome outcome)
{
	if ((kind == KIND_STEP && outcome == OUTCOME_COMPENSATED) ||
		(kind == KIND_COMPENSATION && outcome == OUTCOME_SUCCEEDED))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a %s cannot be reported as '%s'", es_step_kinds[kind],
						es_attempt_outcomes[outcome])));
}

void
es_report_step(Machine *machine, const StepReport *report)
{
	const SagaStep *step;

	(void) definition_of(machine, report->step);
	step = es_saga_step(machine->state, report->step);
	if (is_repeated(machine, step, report))
		return;
	if (es_saga_is_final(machine->state))
		refuse_lost(machine, report->step, report->lease);
	step = es_check_lease(machine, report->step, report->lease);
	check_outcome(machine, es_lease_kind(step), report->outcome);
	if (es_lease_kind(step) == KIND_STEP)
		report_forward(machine, step, report);
	else
		report_compensation(machine, step, report);
}

/* ---------- signals and hands ---------- */

/* The step that has waited longest for it; NULL = none. */
static const StepDefinition *
waiting_for(const Machine *machine, const char *signal)
{
	ListCell *cell;

	foreach (cell, machine->state->steps)
	{
		const SagaStep *step = lfirst(cell);

		if (step->phase == STEP_WAITING && strcmp(step->signal, signal) == 0)
			return definition_of(machine, step->step);
	}
	return NULL;
}

static bool
has_signal_id(const SagaState *saga, const char *signal_id)
{
	ListCell *cell;

	foreach (cell, saga->signals)
	{
		const SagaSignal *signal = lfirst(cell);

		if (signal->signal_id != NULL && strcmp(signal->signal_id, signal_id) == 0)
			return true;
	}
	return false;
}

void
es_signal_machine(Machine *machine, const char *signal, const char *signal_id,
				  Jsonb *payload)
{
	const StepDefinition *waiting = NULL;

	if (signal_id != NULL && has_signal_id(machine->state, signal_id))
		return;
	if (es_saga_is_final(machine->state))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("saga %s is %s, and takes no signal", machine->saga,
							   es_saga_phases[machine->state->phase])));
	if (machine->state->phase == SAGA_RUNNING)
		waiting = waiting_for(machine, signal);
	emit(machine, (SagaEvent){.type = SIGNAL_RECEIVED,
							  .signal = unconstify(char *, signal),
							  .signal_id = unconstify(char *, signal_id),
							  .payload = payload,
							  .step = waiting == NULL ? NULL : waiting->name});
	if (waiting == NULL)
		return;
	take_signal(machine, waiting);
	advance(machine);
}

/* What stays as it is when nobody compensates any more. */
static Jsonb *
uncompensated(const Machine *machine, const char *stuck)
{
	State *state = es_state_begin(NULL);
	StateNode *root = es_state_root(state);
	ListCell *cell;
	Jsonb *list;

	es_node_set_empty(state, root, NODE_ARRAY);
	foreach (cell, machine->state->steps)
	{
		const SagaStep *step = lfirst(cell);
		JsonbValue name;

		if (strcmp(step->step, stuck) != 0 && !has_to_be_undone(machine, step))
			continue;
		name.type = jbvString;
		name.val.string.val = step->step;
		name.val.string.len = (int) strlen(step->step);
		es_node_set(state, es_node_add_element(state, root), &name);
	}
	list = es_state_result(state);
	es_state_end(state);
	return list;
}

void
es_resolve_stuck(Machine *machine, const StepResolution *resolution)
{
	const StepDefinition *definition = definition_of(machine, resolution->step);
	const SagaStep *step = es_saga_step(machine->state, resolution->step);

	if (step == NULL || step->compensation != STEP_STUCK ||
		machine->state->phase != SAGA_IS_STUCK)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("step \"%s\" of saga %s is not stuck",
							   resolution->step, machine->saga)));
	emit(machine, (SagaEvent){.type = STEP_RESOLVED,
							  .step = definition->name,
							  .action = resolution->action,
							  .reason = resolution->reason,
							  .by = resolution->by,
							  .result = resolution->result});
	if (strcmp(resolution->action, "retry") == 0)
		request(machine, definition, KIND_COMPENSATION, 1,
				machine->state->context, 0);
	else if (strcmp(resolution->action, "give_up") == 0)
		emit(machine, (SagaEvent){.type = SAGA_FAILED,
								  .error = machine->state->last_error,
								  .reason = "give_up",
								  .uncompensated =
									  uncompensated(machine, definition->name)});
	else
		compensate_next(machine);
}

void
es_cancel_machine(Machine *machine, const char *reason)
{
	if (machine->state->phase == SAGA_RUNNING)
		turn_back(machine, "cancel", NULL, reason);
}

/* ---------- timers ---------- */

void
es_time_out_saga(Machine *machine)
{
	if (machine->state->phase == SAGA_RUNNING)
		turn_back(machine, "timeout", NULL, NULL);
}

void
es_time_out_lease(Machine *machine, const char *name, bool by_deadline, char *error)
{
	const StepDefinition *definition = definition_of(machine, name);
	const SagaStep *step = es_saga_step(machine->state, name);
	AttemptEnd end = {.reason = by_deadline ? "timeout" : "lease",
					  .error = error,
					  .pause = -1};

	if (step == NULL || es_saga_is_final(machine->state))
		return;
	end.lease = step->lease;
	if (step->phase == STEP_LEASED)
		end_forward_attempt(machine, definition, step, &end);
	else if (step->compensation == STEP_LEASED)
		end_compensation_attempt(machine, definition, step, &end);
}

void
es_time_out_queue(Machine *machine, const char *name)
{
	const StepDefinition *definition = definition_of(machine, name);
	const SagaStep *step = es_saga_step(machine->state, name);
	AttemptEnd end = {.reason = "queue", .pause = -1};

	if (step == NULL || es_saga_is_final(machine->state))
		return;
	if (step->compensation == STEP_QUEUED)
		end_compensation_attempt(machine, definition, step, &end);
	else if (step->phase == STEP_QUEUED || step->phase == STEP_WAITING)
	{
		emit(machine,
			 (SagaEvent){.type = STEP_TIMED_OUT,
						 .step = definition->name,
						 .attempt = step->attempt,
						 .reason =
							 step->phase == STEP_WAITING ? "wait" : "queue"});
		go_on_or_back(machine, definition);
	}
}
