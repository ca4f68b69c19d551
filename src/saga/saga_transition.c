/*
 * saga_transition.c
 *		A step of the machine without a saga: a definition, a state and an input in, what
 *		follows out.
 *
 * It is how the tests hold machine and reducer against their model in lock-step, by
 * millions of transitions.  The input says what happens, and when.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "ground/arguments.h"
#include "replay/json_record.h"
#include "replay/json_value.h"
#include "replay/saga_event.h"
#include "replay/saga_state.h"
#include "replay/state.h"
#include "saga/definition.h"
#include "saga/machine.h"

PG_FUNCTION_INFO_V1(es_saga_transition);

typedef struct Input
{
	char *action;
	TimestampTz now;
	char *step;
	int kind;
	int64 lease;
	int outcome;
	Jsonb *result;
	Jsonb *context;
	char *signal;
	char *resolution;
	bool by_deadline;
} Input;

#define INPUT_FIELD(name, kind)            \
	{                                      \
#name, kind, offsetof(Input, name) \
	}

static const Field fields[] = {{"do", FIELD_TEXT, offsetof(Input, action)},
							   INPUT_FIELD(now, FIELD_TIME),
							   INPUT_FIELD(step, FIELD_TEXT),
							   {"kind", FIELD_WORD, offsetof(Input, kind),
								es_step_kinds},
							   INPUT_FIELD(lease, FIELD_LONG),
							   {"outcome", FIELD_WORD, offsetof(Input, outcome),
								es_attempt_outcomes},
							   INPUT_FIELD(result, FIELD_JSON),
							   INPUT_FIELD(context, FIELD_JSON),
							   INPUT_FIELD(signal, FIELD_TEXT),
							   INPUT_FIELD(resolution, FIELD_TEXT),
							   INPUT_FIELD(by_deadline, FIELD_BOOL)};

static void
report(Machine *machine, const Input *input)
{
	StepReport said = {.step = input->step,
					   .outcome = (AttemptOutcome) input->outcome,
					   .lease = input->lease,
					   .result = input->result,
					   .retry_in = -1};

	es_report_step(machine, &said);
}

static void
resolve(Machine *machine, const Input *input)
{
	StepResolution said = {.step = input->step,
						   .action = input->resolution,
						   .reason = "test",
						   .by = "test"};

	es_resolve_stuck(machine, &said);
}

static void
claim(Machine *machine, const Input *input)
{
	if (!es_can_be_claimed(machine, input->step, (StepKind) input->kind))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("step \"%s\" cannot be claimed", input->step)));
	(void) es_claim_step(machine, input->step, (StepKind) input->kind,
						 input->lease, "test");
}

static void
run(Machine *machine, const Input *input)
{
	const char *action = input->action == NULL ? "" : input->action;

	if (strcmp(action, "start") == 0)
		es_start_machine(machine, input->context, NULL);
	else if (strcmp(action, "claim") == 0)
		claim(machine, input);
	else if (strcmp(action, "report") == 0)
		report(machine, input);
	else if (strcmp(action, "lease_over") == 0)
		es_time_out_lease(machine, input->step, input->by_deadline, NULL);
	else if (strcmp(action, "queue_over") == 0)
		es_time_out_queue(machine, input->step);
	else if (strcmp(action, "time_over") == 0)
		es_time_out_saga(machine);
	else if (strcmp(action, "cancel") == 0)
		es_cancel_machine(machine, "test");
	else if (strcmp(action, "signal") == 0)
		es_signal_machine(machine, input->signal, NULL, input->context);
	else if (strcmp(action, "resolve") == 0)
		resolve(machine, input);
	else
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("unknown input \"%s\"", action)));
}

static Jsonb *
result_of(const Machine *machine)
{
	State *state = es_state_begin(NULL);
	StateNode *root = es_state_root(state);
	StateNode *list;
	JsonbValue value;
	ListCell *cell;
	Jsonb *result;

	es_node_set_empty(state, root, NODE_OBJECT);
	es_whole_value(es_saga_state_result(machine->state), &value);
	es_node_set(state, es_add_named(state, root, "state"), &value);
	list = es_add_named(state, root, "events");
	es_node_set_empty(state, list, NODE_ARRAY);
	foreach (cell, machine->events)
	{
		const SagaEvent *event = lfirst(cell);
		StateNode *node = es_node_add_element(state, list);
		JsonbValue payload;

		es_node_set_empty(state, node, NODE_OBJECT);
		es_set_string(&value,
					  unconstify(char *, es_saga_event_names[event->type]));
		es_node_set(state, es_add_named(state, node, "type"), &value);
		es_whole_value(es_saga_event_payload(event), &payload);
		es_node_set(state, es_add_named(state, node, "payload"), &payload);
	}
	result = es_state_result(state);
	es_state_end(state);
	return result;
}

Datum
es_saga_transition(PG_FUNCTION_ARGS)
{
	Machine machine = {.saga = "test"};
	Input input = {0};
	JsonbValue given;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("definition and input must not be null")));
	es_whole_value(PG_GETARG_JSONB_P(2), &given);
	if (!es_is_object(&given))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("input must be a JSON object"),
						es_hint_encoded_twice(given.type == jbvString)));
	es_read_fields(&given, fields, lengthof(fields), &input);
	machine.definition = es_saga_definition(PG_GETARG_JSONB_P(0), 1);
	machine.state =
		es_saga_state_begin(PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1));
	machine.now = input.now;
	run(&machine, &input);
	PG_RETURN_JSONB_P(result_of(&machine));
}
