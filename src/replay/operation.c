/*
 * operation.c
 *		One operation of a rule, carried out on a decoded state.
 *
 * First everything is found that the operation takes from the event: value,
 * key and factor.  Only when all is there, the state is touched, so an
 * operation that is left out leaves no trace, not even an empty object on its
 * way.  Then the path is followed from the root, each array or object on it
 * is opened by state.c, and the target is changed.
 *
 * An operation that fails raises 22023 and says which rule it is and which
 * part of the path is at fault.  The state is of no use after that: whoever
 * folds raises the error further.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "ground/event.h"
#include "replay/merge.h"
#include "replay/operation.h"
#include "replay/path.h"
#include "replay/state.h"

/* What an operation takes from the event, and the state that it changes. */
typedef struct Change
{
	const RuleOperation *operation;
	RuleEvent *event;
	State *state;
	bool has_key;
	RuleStep key;
	JsonbValue value;
	Numeric factor; /* NULL = 1 */
} Change;

/* ---------- numbers ---------- */

static int
count_digits(const char *string, int size)
{
	int count = 0;

	while (count < size && string[count] >= '0' && string[count] <= '9')
		count++;
	return count;
}

/* A plain decimal number: no exponent, white space or words. */
static bool
is_decimal(const char *string, int size)
{
	int digits;

	if (size > 0 && (string[0] == '-' || string[0] == '+'))
	{
		string++;
		size--;
	}
	digits = count_digits(string, size);
	if (digits == 0 || digits == size)
		return digits > 0;
	string += digits;
	size -= digits;
	return size > 1 && string[0] == '.' &&
		   count_digits(string + 1, size - 1) == size - 1;
}

bool
es_is_number(const JsonbValue *value)
{
	return value->type == jbvNumeric ||
		   (value->type == jbvString &&
			is_decimal(value->val.string.val, value->val.string.len));
}

static Numeric
parse_decimal(const char *string, int size)
{
	return DatumGetNumeric(DirectFunctionCall3(numeric_in,
											   CStringGetDatum(pnstrdup(string,
																		size)),
											   ObjectIdGetDatum(InvalidOid),
											   Int32GetDatum(-1)));
}

/* The number that a value is, of which es_is_number said so. */
static Numeric
number_of(const JsonbValue *value)
{
	return value->type == jbvNumeric
			   ? value->val.numeric
			   : parse_decimal(value->val.string.val, value->val.string.len);
}

/* ---------- what is wrong ---------- */

/*
 * Begins the message: which rule, and the path up to a step, or to the target
 * where step is NULL.
 */
static char *
place_of(Change *change, const RuleStep *step)
{
	const RuleOperation *operation = change->operation;
	char *type = TextDatumGetCString(change->event->values[EV_EVENT_TYPE]);
	const RulePath *path = &operation->path;
	char *key = "";
	int size = step == NULL ? path->size : step->start;

	if (step == NULL && change->has_key)
		key = psprintf(".\"%s\"",
					   pnstrdup(change->key.name.data, change->key.name.size));
	/* the message says it, so the context need not */
	change->event->operation = NULL;
	return psprintf("rule %d of event type \"%s\": %.*s%s", operation->number,
					type, size, path->text, key);
}

static const char *
kind_of(const StateNode *node)
{
	switch (node->kind)
	{
		case NODE_NONE:
			return "missing";
		case NODE_NULL:
			return "null";
		case NODE_FALSE:
		case NODE_TRUE:
			return "a boolean";
		case NODE_NUMERIC:
			return "a number";
		case NODE_STRING:
			return "a string";
		case NODE_OBJECT:
			return "an object";
		case NODE_ENCODED:
			return JsonContainerIsObject((JsonbContainer *) node->u.bytes)
					   ? "an object"
					   : "an array";
		case NODE_ARRAY:
			break;
	}
	return "an array";
}

static void
refuse_kind(Change *change, const RuleStep *step, const StateNode *node,
			const char *wanted)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("%s is %s and not %s", place_of(change, step),
						   kind_of(node), wanted)));
}

static void
refuse_value(Change *change, const char *what, const char *wanted)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("%s: the %s from the event is not %s",
						   place_of(change, NULL), what, wanted)));
}

/* ---------- what the event has ---------- */

/* A document is detoasted once per event. */
static Jsonb *
document(RuleEvent *event, EventColumn column)
{
	Jsonb **jsonb = column == EV_PAYLOAD ? &event->payload : &event->metadata;

	if (*jsonb == NULL)
		*jsonb = DatumGetJsonbP(event->values[column]);
	return *jsonb;
}

static void
set_string(JsonbValue *value, char *string)
{
	value->type = jbvString;
	value->val.string.val = string;
	value->val.string.len = strlen(string);
}

static void
set_number(JsonbValue *value, int64 number)
{
	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(number);
}

static bool
column_value(RuleEvent *event, EventColumn column, JsonbValue *value)
{
	Datum datum = event->values[column];
	/* the session's time zone must not decide */
	const int utc = 0;

	if (event->nulls[column])
		return false;
	switch (es_event_columns[column].type)
	{
		case JSONBOID:
			es_whole_value(document(event, column), value);
			break;
		case INT8OID:
			set_number(value, DatumGetInt64(datum));
			break;
		case INT4OID:
			set_number(value, DatumGetInt32(datum));
			break;
		case UUIDOID:
			set_string(value,
					   DatumGetCString(DirectFunctionCall1(uuid_out, datum)));
			break;
		case TIMESTAMPTZOID:
			set_string(value, JsonEncodeDateTime(palloc(MAXDATELEN + 1), datum,
												 TIMESTAMPTZOID, &utc));
			break;
		default:
			set_string(value, TextDatumGetCString(datum));
			break;
	}
	return true;
}

static bool
source_value(RuleEvent *event, const RuleSource *source, JsonbValue *value)
{
	if (source->kind == SOURCE_LITERAL)
	{
		*value = source->literal;
		return true;
	}
	return column_value(event, source->column, value) &&
		   es_path_follow(&source->path, 1, value);
}

/* Makes the value of the key one more step. */
static void
take_key(Change *change, JsonbValue *name)
{
	if (name->type == jbvNumeric)
		set_string(name, DatumGetCString(DirectFunctionCall1(
							 numeric_out, NumericGetDatum(name->val.numeric))));
	else if (name->type == jbvBool)
		set_string(name, name->val.boolean ? "true" : "false");
	else if (name->type != jbvString)
		refuse_value(change, "key", "a string, number or boolean");
	change->has_key = true;
	change->key.is_index = false;
	change->key.start = change->operation->path.size;
	change->key.name = es_member_name(name->val.string.val, name->val.string.len);
}

/* Multiplies the factor by a value. */
static void
take_factor(Change *change, const JsonbValue *value)
{
	Numeric factor;

	if (!es_is_number(value))
		refuse_value(change, "factor", "a number or decimal string");
	factor = number_of(value);
	if (change->factor != NULL)
		factor =
			DatumGetNumeric(DirectFunctionCall2(numeric_mul,
												NumericGetDatum(change->factor),
												NumericGetDatum(factor)));
	change->factor = factor;
}

/*
 * Finds all that the operation needs; false if something is not there, which
 * is known before anything that is there can be refused.
 */
static bool
find_sources(Change *change)
{
	const RuleOperation *operation = change->operation;
	RuleEvent *event = change->event;
	JsonbValue key;
	JsonbValue factors[ES_MAX_FACTORS];

	if (operation->kind != OP_UNSET &&
		!source_value(event, &operation->value, &change->value))
	{
		if (!operation->has_default)
			return false;
		change->value = operation->default_value;
	}
	if (operation->key.kind != SOURCE_NONE &&
		!source_value(event, &operation->key, &key))
		return false;
	for (int i = 0; i < operation->factors; i++)
		if (!source_value(event, &operation->times[i], &factors[i]))
			return false;

	if (operation->key.kind != SOURCE_NONE)
		take_key(change, &key);
	if (operation->kind == OP_INCREMENT && !es_is_number(&change->value))
		refuse_value(change, "value", "a number or decimal string");
	for (int i = 0; i < operation->factors; i++)
		take_factor(change, &factors[i]);
	return true;
}

/* ---------- the way to the target ---------- */

/* The element of an array that a step names; NULL if there is none. */
static StateNode *
element_at(Change *change, StateNode *node, const RuleStep *step)
{
	int place;

	if (node->kind == NODE_NONE)
		return NULL;
	if (node->kind != NODE_ARRAY)
		refuse_kind(change, step, node, "an array");
	place = es_step_place(step, node->u.array->count);
	return place < 0 ? NULL : &node->u.array->nodes[place];
}

/* Makes a node an object that has no value yet. */
static void
need_object(Change *change, StateNode *node, const RuleStep *step)
{
	es_node_open(change->state, node);
	if (node->kind == NODE_NONE)
		es_node_set_empty(change->state, node, NODE_OBJECT);
	else if (node->kind != NODE_OBJECT)
		refuse_kind(change, step, node, "an object");
}

/* One step down, made if it is missing; NULL only if not to be made. */
static StateNode *
step_into(Change *change, StateNode *node, const RuleStep *step, bool make)
{
	StateNode *below;

	if (!step->is_index)
	{
		need_object(change, node, step);
		return make ? es_node_add_member(change->state, node, step->name)
					: es_node_member(node, step->name);
	}
	es_node_open(change->state, node);
	below = element_at(change, node, step);
	if (below == NULL && make)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s has no element %d", place_of(change, step),
							   step->index),
						errhint("The operation \"append\" adds elements.")));
	return below;
}

/* Follows so many steps, the key being one after those of the path. */
static StateNode *
go_down(Change *change, int steps, bool make)
{
	const RulePath *path = &change->operation->path;
	StateNode *node = es_state_root(change->state);

	for (int i = 0; node != NULL && i < steps; i++)
		node = step_into(change, node,
						 i < path->count ? &path->steps[i] : &change->key, make);
	return node;
}

/* ---------- operations ---------- */

static void
unset(Change *change, int steps)
{
	const RulePath *path = &change->operation->path;
	const RuleStep *last =
		change->has_key ? &change->key : &path->steps[steps - 1];
	StateNode *node;

	if (steps == 0)
	{
		es_node_clear(change->state, es_state_root(change->state));
		return;
	}
	node = go_down(change, steps - 1, false);
	if (node == NULL)
		return;
	if (!last->is_index)
	{
		need_object(change, node, last);
		es_node_remove_member(change->state, node, last->name);
	}
	else
	{
		StateNode *element;

		es_node_open(change->state, node);
		element = element_at(change, node, last);
		if (element == NULL)
			return;
		es_node_clear(change->state, element);
		es_node_close_gaps(node);
	}
}

/* Adds exactly; money as strings stays strings. */
static void
increment(Change *change, StateNode *node)
{
	JsonbValue *value = &change->value;
	bool as_string = value->type == jbvString || node->kind == NODE_STRING;
	Numeric sum =
		value->type == jbvNumeric
			? value->val.numeric
			: parse_decimal(value->val.string.val, value->val.string.len);
	Numeric present = NULL;

	if (node->kind == NODE_NUMERIC)
		present = (Numeric) node->u.bytes;
	else if (node->kind == NODE_STRING && is_decimal(node->u.bytes, node->size))
		present = parse_decimal(node->u.bytes, node->size);
	else if (node->kind != NODE_NONE)
		refuse_kind(change, NULL, node, "a number or decimal string");

	if (change->factor != NULL)
		sum =
			DatumGetNumeric(DirectFunctionCall2(numeric_mul, NumericGetDatum(sum),
												NumericGetDatum(change->factor)));
	if (present != NULL)
		sum = DatumGetNumeric(DirectFunctionCall2(numeric_add,
												  NumericGetDatum(present),
												  NumericGetDatum(sum)));
	value->type = jbvNumeric;
	value->val.numeric = sum;
	if (as_string)
		set_string(value,
				   DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(sum))));
	es_node_set(change->state, node, value);
}

static void
append(Change *change, StateNode *node)
{
	es_node_open(change->state, node);
	if (node->kind == NODE_NONE)
		es_node_set_empty(change->state, node, NODE_ARRAY);
	else if (node->kind != NODE_ARRAY)
		refuse_kind(change, NULL, node, "an array");
	es_node_set(change->state, es_node_add_element(change->state, node),
				&change->value);
}

static void
remove_equal(Change *change, StateNode *node)
{
	const RuleOperation *operation = change->operation;
	StateElements *array;
	int before;

	es_node_open(change->state, node);
	if (node->kind != NODE_ARRAY)
		refuse_kind(change, NULL, node, "an array");
	array = node->u.array;
	before = array->count;
	for (int i = 0; i < before; i++)
	{
		StateNode *element = &array->nodes[i];
		const StateNode *compared = element;

		CHECK_FOR_INTERRUPTS();
		if (operation->by_member)
		{
			es_node_open(change->state, element);
			compared = element->kind == NODE_OBJECT
						   ? es_node_member(element, operation->member)
						   : NULL;
		}
		if (compared != NULL && es_node_equals(compared, &change->value))
			es_node_clear(change->state, element);
	}
	es_node_close_gaps(node);
}

/* Begins the state if there is none, or none any more. */
void
es_rule_state(State *state, const RuleEvent *event)
{
	StateNode *root = es_state_root(state);

	if (root->kind != NODE_NONE)
		return;
	if (event->initial != NULL)
		es_node_set(state, root, event->initial);
	else
		es_node_set_empty(state, root, NODE_OBJECT);
}

/* Carries out one operation; the event's columns are in EventColumn order. */
void
es_operation_apply(const RuleOperation *operation, State *state, RuleEvent *event)
{
	Change change = {.operation = operation, .event = event, .state = state};
	bool make = operation->kind != OP_UNSET && operation->kind != OP_REMOVE;
	StateNode *node;
	int steps;

	event->operation = operation;
	if (!find_sources(&change))
		return;
	es_rule_state(state, event);
	steps = operation->path.count + (change.has_key ? 1 : 0);
	if (operation->kind == OP_UNSET)
	{
		unset(&change, steps);
		return;
	}
	node = go_down(&change, steps, make);
	if (node == NULL)
		return;
	switch (operation->kind)
	{
		case OP_SET:
		case OP_PUT_INTO:
			es_node_set(state, node, &change.value);
			break;
		case OP_MERGE:
			es_merge_into(state, node, &change.value);
			break;
		case OP_INCREMENT:
			increment(&change, node);
			break;
		case OP_APPEND:
			append(&change, node);
			break;
		case OP_REMOVE:
			remove_equal(&change, node);
			break;
		case OP_UNSET:
			break;
	}
}
