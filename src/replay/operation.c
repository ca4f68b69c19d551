/*
 * operation.c
 *		One operation of a rule, carried out on a decoded state.
 *
 * First its conditions are looked at, and everything is found that it takes from
 * the event: value, key and factor.  Only when all is there, the state is touched,
 * so an operation that is left out leaves no trace, not even an empty object on
 * its way.  Then the path is followed from the root, each array or object on it
 * is opened by state.c, and the target is changed.
 *
 * An operation that fails raises 22023 and says which rule it is and which
 * part of the path is at fault.  The state is of no use after that: whoever
 * folds raises the error further.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "replay/condition.h"
#include "replay/event_path.h"
#include "replay/json_value.h"
#include "replay/merge.h"
#include "replay/operation.h"
#include "replay/patch.h"
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

/* ---------- what is wrong ---------- */

/*
 * Begins the message: which rule, and the path up to a step, or to the target
 * where step is NULL.
 */
static char *
place_of(Change *change, const RuleStep *step)
{
	const RuleOperation *operation = change->operation;
	const RulePath *path = &operation->path;
	char *key = "";
	int size = step == NULL ? path->size : step->start;

	if (step == NULL && change->has_key)
		key = psprintf(".\"%s\"",
					   pnstrdup(change->key.name.data, change->key.name.size));
	/* the message says it, so the context need not */
	change->event->operation = NULL;
	return psprintf("rule %d of event type \"%s\": %.*s%s", operation->number,
					operation->event_type, size, path->text, key);
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

static bool
source_value(RuleEvent *event, const RuleSource *source, JsonbValue *value)
{
	if (source->kind == SOURCE_LITERAL)
	{
		*value = source->literal;
		return true;
	}
	return es_event_path_follow(&source->path, &event->event, value);
}

/* Makes the value of the key one more step. */
static void
take_key(Change *change, JsonbValue *name)
{
	if (name->type != jbvString && !es_make_string(name))
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
	factor = es_number_of(value);
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
	if ((operation->kind == OP_MIN || operation->kind == OP_MAX) &&
		!es_has_order(&change->value))
		refuse_value(change, "value", "a number or a string");
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

/* A number or string as it is in an event; false for what else a node is. */
static bool
node_value(const StateNode *node, JsonbValue *value)
{
	if (node->kind == NODE_NUMERIC)
	{
		value->type = jbvNumeric;
		value->val.numeric = (Numeric) node->u.bytes;
		return true;
	}
	if (node->kind != NODE_STRING)
		return false;
	value->type = jbvString;
	value->val.string.val = node->u.bytes;
	value->val.string.len = node->size;
	return true;
}

/* Adds exactly; money as strings stays strings. */
static void
increment(Change *change, StateNode *node)
{
	JsonbValue *value = &change->value;
	bool as_string = value->type == jbvString || node->kind == NODE_STRING;
	Numeric sum = es_number_of(value);
	JsonbValue present;

	if (change->factor != NULL)
		sum =
			DatumGetNumeric(DirectFunctionCall2(numeric_mul, NumericGetDatum(sum),
												NumericGetDatum(change->factor)));
	if (node->kind != NODE_NONE)
	{
		if (!node_value(node, &present) || !es_is_number(&present))
			refuse_kind(change, NULL, node, "a number or decimal string");
		sum =
			DatumGetNumeric(DirectFunctionCall2(numeric_add,
												NumericGetDatum(es_number_of(&present)),
												NumericGetDatum(sum)));
	}
	value->type = jbvNumeric;
	value->val.numeric = sum;
	if (as_string)
		es_set_string(value,
					  DatumGetCString(DirectFunctionCall1(numeric_out,
														  NumericGetDatum(sum))));
	es_node_set(change->state, node, value);
}

/* Keeps the first or the last of two in their order; of equal ones, that there. */
static void
keep_outermost(Change *change, StateNode *node)
{
	int order = 0;
	JsonbValue present;

	if (node->kind != NODE_NONE)
	{
		if (!node_value(node, &present))
			refuse_kind(change, NULL, node, "a number or a string");
		order = es_compare_values(&change->value, &present);
	}
	if (node->kind == NODE_NONE ||
		(change->operation->kind == OP_MIN ? order < 0 : order > 0))
		es_node_set(change->state, node, &change->value);
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

static void
change_target(Change *change, StateNode *node)
{
	switch (change->operation->kind)
	{
		case OP_SET:
		case OP_PUT_INTO:
			es_node_set(change->state, node, &change->value);
			break;
		case OP_SET_ONCE:
			if (node->kind == NODE_NONE)
				es_node_set(change->state, node, &change->value);
			break;
		case OP_MERGE:
			es_merge_into(change->state, node, &change->value);
			break;
		case OP_INCREMENT:
			increment(change, node);
			break;
		case OP_MIN:
		case OP_MAX:
			keep_outermost(change, node);
			break;
		case OP_APPEND:
			append(change, node);
			break;
		case OP_REMOVE:
			remove_equal(change, node);
			break;
		case OP_UNSET:
			break;
	}
}

/* Whether its conditions hold; all that it takes from the event is found then. */
static bool
is_carried_out(Change *change)
{
	const RuleOperation *operation = change->operation;

	change->event->operation = operation;
	for (int i = 0; i < operation->conditions; i++)
		if (!es_condition_holds(&operation->when[i], &change->event->event))
			return false;
	return find_sources(change);
}

/* Carries out one operation; the event's columns are in EventColumn order. */
bool
es_operation_apply(const RuleOperation *operation, State *state, RuleEvent *event)
{
	Change change = {.operation = operation, .event = event, .state = state};
	bool make = operation->kind != OP_UNSET && operation->kind != OP_REMOVE;
	StateNode *node;
	int steps;

	if (!is_carried_out(&change))
		return false;
	es_rule_state(state, event);
	steps = operation->path.count + (change.has_key ? 1 : 0);
	if (operation->kind == OP_UNSET)
	{
		unset(&change, steps);
		return true;
	}
	node = go_down(&change, steps, make);
	if (node != NULL)
		change_target(&change, node);
	return true;
}

/* ---------- on the members of an object ---------- */

bool
es_operation_is_flat(const RuleOperation *operation)
{
	return (operation->kind == OP_SET || operation->kind == OP_SET_ONCE ||
			operation->kind == OP_UNSET) &&
		   operation->key.kind == SOURCE_NONE && operation->path.count == 1 &&
		   !operation->path.steps[0].is_index;
}

void
es_operation_patch(const RuleOperation *operation, Patch *patch, RuleEvent *event)
{
	Change change = {.operation = operation, .event = event};
	MemberName name = operation->path.steps[0].name;

	if (!is_carried_out(&change))
		return;
	if (operation->kind == OP_UNSET)
		es_patch_remove(patch, name);
	else if (operation->kind == OP_SET || es_patch_find(patch, name) == NULL)
		es_patch_set(patch, name, &change.value);
}
