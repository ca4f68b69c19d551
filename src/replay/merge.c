/*
 * merge.c
 *		The built-in reducer: JSON merge patch (RFC 7396) on a decoded state.
 *
 * Where the patch has an object, its members are put into the state one by
 * one, and null removes the member it names; anything else replaces what
 * stands there.  Only the objects that the patch names are taken apart, and
 * an event costs what its own patch is large (state.c says why).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/jsonb.h"

#include "replay/merge.h"
#include "replay/state.h"

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		   JsonContainerIsObject(value->val.binary.data);
}

/* A node without a value is what a patch finds where nothing stands yet. */
void
es_merge_into(State *state, StateNode *node, const JsonbValue *patch)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue value;

	if (!is_object(patch))
	{
		es_node_set(state, node, patch);
		return;
	}

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	es_node_open(state, node);
	if (node->kind != NODE_OBJECT)
		es_node_set_empty(state, node, NODE_OBJECT);
	iterator = JsonbIteratorInit(patch->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		MemberName name;

		CHECK_FOR_INTERRUPTS();
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		name = es_member_name(key.val.string.val, key.val.string.len);
		if (value.type == jbvNull)
			es_node_remove_member(state, node, name);
		else
			es_merge_into(state, es_node_add_member(state, node, name), &value);
	}
}

void
es_merge_apply(State *state, Jsonb *patch)
{
	JsonbValue value;

	es_whole_value(patch, &value);
	es_merge_into(state, es_state_root(state), &value);
}
