/*
 * saga_event.c
 *		The events of a saga, and what stands in their payloads.
 *
 * One record serves all types; a payload has the members that are set.
 */
#include "postgres.h"

#include "utils/jsonb.h"

#include "ground/compat.h"
#include "replay/json_record.h"
#include "replay/saga_event.h"
#include "replay/state.h"

const char *const es_saga_event_names[] = {"SagaStarted",
										   "StepRequested",
										   "StepClaimed",
										   "StepSucceeded",
										   "StepFailed",
										   "StepTimedOut",
										   "StepSkipped",
										   "SignalReceived",
										   "CompensationStarted",
										   "CompensationRequested",
										   "CompensationSucceeded",
										   "CompensationFailed",
										   "StepResolved",
										   "SagaCompleted",
										   "SagaCompensated",
										   "SagaFailed",
										   "SagaStuck"};

StaticAssertDecl(lengthof(es_saga_event_names) == SAGA_EVENT_TYPES,
				 "every event of a saga is named");

const char *const es_step_kinds[] = {"step", "compensation", NULL};

#define FIELD(name, kind)                      \
	{                                          \
#name, kind, offsetof(SagaEvent, name) \
	}

static const Field fields[] =
	{FIELD(version, FIELD_INT),			FIELD(step, FIELD_TEXT),
	 FIELD(kind, FIELD_TEXT),			FIELD(attempt, FIELD_INT),
	 FIELD(lease, FIELD_LONG),			FIELD(executor, FIELD_TEXT),
	 FIELD(deadline, FIELD_TIME),		FIELD(context, FIELD_JSON),
	 FIELD(input, FIELD_JSON),			FIELD(not_before, FIELD_TIME),
	 FIELD(queue_deadline, FIELD_TIME), FIELD(result, FIELD_JSON),
	 FIELD(error, FIELD_TEXT),			FIELD(retry, FIELD_BOOL),
	 FIELD(retry_at, FIELD_TIME),		FIELD(reason, FIELD_TEXT),
	 FIELD(signal, FIELD_TEXT),			FIELD(signal_id, FIELD_TEXT),
	 FIELD(payload, FIELD_JSON),		FIELD(cause, FIELD_TEXT),
	 FIELD(action, FIELD_TEXT),			FIELD(by, FIELD_TEXT),
	 FIELD(uncompensated, FIELD_JSON)};

Jsonb *
es_saga_event_payload(const SagaEvent *event)
{
	State *state = es_state_begin(NULL);
	StateNode *root = es_state_root(state);
	Jsonb *payload;

	es_node_set_empty(state, root, NODE_OBJECT);
	es_write_fields(state, root, fields, lengthof(fields), event);
	payload = es_state_result(state);
	es_state_end(state);
	return payload;
}

bool
es_saga_event_read(const char *name, int length, Jsonb *payload, SagaEvent *event)
{
	JsonbValue object;

	memset(event, 0, sizeof(SagaEvent));
	while (event->type < SAGA_EVENT_TYPES &&
		   ((int) strlen(es_saga_event_names[event->type]) != length ||
			memcmp(es_saga_event_names[event->type], name, length) != 0))
		event->type++;
	if (event->type == SAGA_EVENT_TYPES)
		return false;
	es_whole_value(payload, &object);
	es_read_fields(&object, fields, lengthof(fields), event);
	return true;
}

bool
es_is_saga_type(Datum aggregate_type)
{
	const text *type = (const text *) DatumGetPointer(aggregate_type);
	const int prefix = (int) strlen(ES_SAGA_PREFIX);

	return VARSIZE_ANY_EXHDR(type) >= prefix &&
		   memcmp(VARDATA_ANY(type), ES_SAGA_PREFIX, prefix) == 0;
}
