/*
 * state.c
 *		A state taken apart: the tree of nodes that reducers in C work on.
 *
 * A replay makes many small changes to one state.  As jsonb, the state would
 * be written anew by every one, so an event would cost as much as the state
 * is large.  Here it is taken apart, stays so between events and is encoded
 * once at the end: an event costs what it changes itself.
 *
 * A node is taken apart only when somebody looks into it.  Until then an
 * array or object is a copy of its encoded bytes, so a large state of which
 * the events touch little, say one from a snapshot, costs little more than
 * to copy it.  An opened object is a hash table of its members, because
 * reducers name members and order matters only in the encoded form; an opened
 * array is a vector with room to grow.
 *
 * All of it lives in one memory context, the State's own or that of many small ones, and every
 * value that is replaced or removed is freed at once: memory follows the size
 * of the state and not the number of events.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "ground/common.h"
#include "ground/compat.h"
#include "replay/state.h"

typedef struct Member
{
	MemberName name;
	StateNode node;
	char status; /* of the hash table */
} Member;

#define NAME_TABLE members
#define NAME_TABLE_ENTRY Member
#include "replay/name_table.h"

/* Room for so many at first; most objects and arrays are small. */
#define FIRST_MEMBERS 4
#define FIRST_ELEMENTS 4

struct State
{
	MemoryContext context; /* of everything below root */
	StateNode root;
	int64 size; /* at least this long when encoded */
};

/* The encoder takes an object as one array of pairs, an array likewise. */
#define MAX_MEMBERS ((int64) (MaxAllocSize / sizeof(JsonbPair)))
#define MAX_ELEMENTS ((int64) (MaxAllocSize / sizeof(JsonbValue)))

/* What a member's or value's header takes in jsonb. */
#define ENTRY_SIZE ((int64) sizeof(JEntry))

/*
 * The names of members come from whoever writes events, so nobody must be able
 * to choose many with one hash: every backend draws its own seed.
 */
static uint64
hash_seed(void)
{
	static uint64 seed;
	static bool drawn = false;

	if (!drawn && !pg_strong_random(&seed, sizeof(seed)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not generate random values")));
	drawn = true;
	return seed;
}

MemberName
es_member_name(const char *data, int size)
{
	MemberName name = {.data = data, .size = size};

	name.hash = (uint32) hash_bytes_extended((const unsigned char *) data, size,
											 hash_seed());
	return name;
}

void
es_whole_value(Jsonb *jsonb, JsonbValue *value)
{
	if (JsonbExtractScalar(&jsonb->root, value))
		return;
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

/* ---------- changing nodes ---------- */

static bool
has_bytes(const StateNode *node)
{
	return node->kind == NODE_NUMERIC || node->kind == NODE_STRING ||
		   node->kind == NODE_ENCODED;
}

/* The state may become as long as any jsonb value, and no longer. */
static void
grow_state(State *state, int64 size)
{
	state->size += size;
	if (state->size > ES_MAX_PAYLOAD_BYTES)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("state becomes longer than %d bytes",
							   ES_MAX_PAYLOAD_BYTES)));
}

static void
clear_members(State *state, struct members_hash *members)
{
	members_iterator iterator;
	Member *member;

	members_start_iterate(members, &iterator);
	while ((member = members_iterate(members, &iterator)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		state->size -= ENTRY_SIZE + member->name.size;
		es_node_clear(state, &member->node);
		pfree(unconstify(char *, member->name.data));
	}
	members_destroy(members);
}

static void
clear_elements(State *state, StateElements *array)
{
	for (int i = 0; i < array->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		es_node_clear(state, &array->nodes[i]);
	}
	if (array->nodes != NULL)
		pfree(array->nodes);
	pfree(array);
}

/* Frees what a node holds, and leaves it without a value. */
void
es_node_clear(State *state, StateNode *node)
{
	if (node->kind == NODE_NONE)
		return;
	state->size -= ENTRY_SIZE;
	if (has_bytes(node))
	{
		state->size -= node->size;
		pfree(node->u.bytes);
	}
	else if (node->kind == NODE_OBJECT)
	{
		check_stack_depth();
		clear_members(state, node->u.members);
	}
	else if (node->kind == NODE_ARRAY)
	{
		check_stack_depth();
		clear_elements(state, node->u.array);
	}
	node->kind = NODE_NONE;
}

static void
set_bytes(State *state, StateNode *node, NodeKind kind, const void *bytes, int size)
{
	/* a counter mostly stays as long as it was */
	if (node->kind == kind && node->size == size)
	{
		memcpy(node->u.bytes, bytes, size);
		return;
	}
	es_node_clear(state, node);
	grow_state(state, ENTRY_SIZE + size);
	node->u.bytes = MemoryContextAlloc(state->context, Max(size, 1));
	memcpy(node->u.bytes, bytes, size);
	node->kind = kind;
	node->size = size;
}

static void
set_plain(State *state, StateNode *node, NodeKind kind)
{
	es_node_clear(state, node);
	grow_state(state, ENTRY_SIZE);
	node->kind = kind;
	node->size = 0;
}

void
es_node_set_empty(State *state, StateNode *node, NodeKind kind)
{
	es_node_clear(state, node);
	if (kind == NODE_OBJECT)
		node->u.members = members_create(state->context, FIRST_MEMBERS, NULL);
	else
		node->u.array =
			MemoryContextAllocZero(state->context, sizeof(StateElements));
	set_plain(state, node, kind);
}

/* Makes a node the copy of a value; arrays and objects stay encoded. */
void
es_node_set(State *state, StateNode *node, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			set_plain(state, node, NODE_NULL);
			break;
		case jbvBool:
			set_plain(state, node, value->val.boolean ? NODE_TRUE : NODE_FALSE);
			break;
		case jbvNumeric:
			set_bytes(state, node, NODE_NUMERIC, value->val.numeric,
					  VARSIZE_ANY(value->val.numeric));
			break;
		case jbvString:
			set_bytes(state, node, NODE_STRING, value->val.string.val,
					  value->val.string.len);
			break;
		case jbvBinary:
			set_bytes(state, node, NODE_ENCODED, value->val.binary.data,
					  value->val.binary.len);
			break;
		default:
			elog(ERROR, "unexpected jsonb value of type %d", (int) value->type);
	}
}

StateNode *
es_node_member(const StateNode *node, MemberName name)
{
	Member *member = members_lookup(node->u.members, name);

	return member == NULL ? NULL : &member->node;
}

StateNode *
es_node_add_member(State *state, StateNode *node, MemberName name)
{
	bool found;
	Member *member = members_insert(node->u.members, name, &found);

	if (!found)
	{
		char *copy = MemoryContextAlloc(state->context, Max(name.size, 1));

		memcpy(copy, name.data, name.size);
		member->name.data = copy;
		member->node.kind = NODE_NONE;
		grow_state(state, ENTRY_SIZE + name.size);
	}
	return &member->node;
}

void
es_node_remove_member(State *state, StateNode *node, MemberName name)
{
	Member *member = members_lookup(node->u.members, name);
	char *copy;

	if (member == NULL)
		return;
	copy = unconstify(char *, member->name.data);
	state->size -= ENTRY_SIZE + name.size;
	es_node_clear(state, &member->node);
	members_delete_item(node->u.members, member);
	pfree(copy);
}

static void
check_elements(int64 count)
{
	if (count > MAX_ELEMENTS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("state has an array of more than %lld elements",
							   (long long) MAX_ELEMENTS)));
}

static void
make_room(State *state, StateElements *array, int64 room)
{
	check_elements(room);
	if (array->nodes == NULL)
		array->nodes =
			MemoryContextAllocHuge(state->context, sizeof(StateNode) * room);
	else
		array->nodes = repalloc_huge(array->nodes, sizeof(StateNode) * room);
	array->room = room;
}

StateNode *
es_node_add_element(State *state, StateNode *node)
{
	StateElements *array = node->u.array;
	StateNode *element;

	if (array->count == array->room)
	{
		check_elements((int64) array->count + 1);
		make_room(state, array,
				  Min(Max((int64) array->room * 2, FIRST_ELEMENTS), MAX_ELEMENTS));
	}
	element = &array->nodes[array->count++];
	element->kind = NODE_NONE;
	return element;
}

void
es_node_close_gaps(StateNode *node)
{
	StateElements *array = node->u.array;
	int kept = 0;

	for (int i = 0; i < array->count; i++)
	{
		if (array->nodes[i].kind == NODE_NONE)
			continue;
		if (kept != i)
			array->nodes[kept] = array->nodes[i];
		kept++;
	}
	array->count = kept;
}

/* Decodes one level; what lies below is copied, encoded as it is. */
void
es_node_open(State *state, StateNode *node)
{
	StateNode opened = {.kind = NODE_NONE};
	StateNode *place = NULL;
	JsonbContainer *container;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;

	if (node->kind != NODE_ENCODED)
		return;
	container = (JsonbContainer *) node->u.bytes;
	/* the parts are not longer than the whole, so count it no more */
	state->size -= ENTRY_SIZE + node->size;
	if (JsonContainerIsObject(container))
		es_node_set_empty(state, &opened, NODE_OBJECT);
	else
	{
		es_node_set_empty(state, &opened, NODE_ARRAY);
		if (JsonContainerSize(container) > 0)
			make_room(state, opened.u.array, JsonContainerSize(container));
	}
	iterator = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY)
		{
			place = es_node_add_member(state, &opened,
									   es_member_name(value.val.string.val,
													  value.val.string.len));
			continue;
		}
		if (token == WJB_ELEM)
			place = es_node_add_element(state, &opened);
		else if (token != WJB_VALUE)
			continue;
		es_node_set(state, place, &value);
	}
	pfree(node->u.bytes);
	*node = opened;
}

/* ---------- comparing ---------- */

static bool
members_equal(const StateNode *node, JsonbContainer *container)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	StateNode *member = NULL;

	if (!JsonContainerIsObject(container) ||
		JsonContainerSize(container) != node->u.members->members)
		return false;
	iterator = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY)
		{
			member = es_node_member(node, es_member_name(value.val.string.val,
														 value.val.string.len));
			if (member == NULL)
				return false;
		}
		else if (token == WJB_VALUE && !es_node_equals(member, &value))
			return false;
	}
	return true;
}

static bool
elements_equal(const StateNode *node, JsonbContainer *container)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	int i = 0;

	if (!JsonContainerIsArray(container) ||
		(int) JsonContainerSize(container) != node->u.array->count)
		return false;
	iterator = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_ELEM &&
			!es_node_equals(&node->u.array->nodes[i++], &value))
			return false;
	}
	return true;
}

/* As jsonb compares: numbers by value, objects without regard to order. */
bool
es_node_equals(const StateNode *node, const JsonbValue *value)
{
	bool binary = value->type == jbvBinary;
	JsonbContainer *container = binary ? value->val.binary.data : NULL;

	check_stack_depth();

	switch (node->kind)
	{
		case NODE_NONE:
			break;
		case NODE_NULL:
			return value->type == jbvNull;
		case NODE_FALSE:
		case NODE_TRUE:
			return value->type == jbvBool &&
				   value->val.boolean == (node->kind == NODE_TRUE);
		case NODE_NUMERIC:
			return value->type == jbvNumeric &&
				   DatumGetBool(DirectFunctionCall2(numeric_eq,
													PointerGetDatum(node->u.bytes),
													NumericGetDatum(value->val.numeric)));
		case NODE_STRING:
			return value->type == jbvString &&
				   value->val.string.len == node->size &&
				   memcmp(value->val.string.val, node->u.bytes, node->size) == 0;
		case NODE_ENCODED:
			return binary &&
				   compareJsonbContainers((JsonbContainer *) node->u.bytes,
										  container) == 0;
		case NODE_ARRAY:
			return binary && elements_equal(node, container);
		case NODE_OBJECT:
			return binary && members_equal(node, container);
	}
	return false;
}

/* ---------- the whole state ---------- */

State *
es_state_begin_in(MemoryContext context, Jsonb *jsonb)
{
	State *state = palloc0(sizeof(State));

	state->context = context;
	if (jsonb != NULL)
	{
		JsonbValue value;

		es_whole_value(jsonb, &value);
		es_node_set(state, &state->root, &value);
	}
	return state;
}

State *
es_state_begin(Jsonb *jsonb)
{
	return es_state_begin_in(AllocSetContextCreate(CurrentMemoryContext,
												   "event_store state",
												   ALLOCSET_DEFAULT_SIZES),
							 jsonb);
}

StateNode *
es_state_root(State *state)
{
	return &state->root;
}

void
es_state_end(State *state)
{
	MemoryContextDelete(state->context);
	pfree(state);
}

static int
compare_pairs(const void *a, const void *b)
{
	const JsonbValue *x = &((const JsonbPair *) a)->key;
	const JsonbValue *y = &((const JsonbPair *) b)->key;

	CHECK_FOR_INTERRUPTS();
	if (x->val.string.len != y->val.string.len)
		return x->val.string.len < y->val.string.len ? -1 : 1;
	return memcmp(x->val.string.val, y->val.string.val, x->val.string.len);
}

static void
begin_pairs(JsonbValue *value, int64 count)
{
	if (count > MAX_MEMBERS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("state has an object of more than %lld members",
							   (long long) MAX_MEMBERS)));
	value->type = jbvObject;
	value->val.object.nPairs = 0;
	value->val.object.pairs = palloc(sizeof(JsonbPair) * Max(count, 1));
}

static void
begin_elements(JsonbValue *value, int64 count)
{
	check_elements(count);
	value->type = jbvArray;
	value->val.array.nElems = 0;
	value->val.array.rawScalar = false;
	value->val.array.elems = palloc(sizeof(JsonbValue) * Max(count, 1));
}

/* Adds a member and returns where its value goes. */
static JsonbValue *
add_pair(JsonbValue *object, const char *name, int size)
{
	JsonbPair *pair = &object->val.object.pairs[object->val.object.nPairs];

	pair->key.type = jbvString;
	pair->key.val.string.val = unconstify(char *, name);
	pair->key.val.string.len = size;
	pair->order = object->val.object.nPairs++;
	return &pair->value;
}

/* Takes an encoded container apart, as jsonb's encoder wants it. */
static void
expand_container(JsonbContainer *container, JsonbValue *out)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	JsonbValue *place = NULL;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	if (JsonContainerIsObject(container))
		begin_pairs(out, JsonContainerSize(container));
	else
		begin_elements(out, JsonContainerSize(container));
	iterator = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY)
		{
			place = add_pair(out, value.val.string.val, value.val.string.len);
			continue;
		}
		if (token == WJB_ELEM)
			place = &out->val.array.elems[out->val.array.nElems++];
		else if (token != WJB_VALUE)
			continue;

		if (value.type == jbvBinary)
			expand_container(value.val.binary.data, place);
		else
			*place = value;
	}
}

static void expand_node(const StateNode *node, JsonbValue *out);

static void
expand_members(struct members_hash *members, JsonbValue *out)
{
	members_iterator iterator;
	Member *member;

	begin_pairs(out, members->members);
	members_start_iterate(members, &iterator);
	while ((member = members_iterate(members, &iterator)) != NULL)
		expand_node(&member->node,
					add_pair(out, member->name.data, member->name.size));
	qsort(out->val.object.pairs, out->val.object.nPairs, sizeof(JsonbPair),
		  compare_pairs);
}

/* The tree from which jsonb's encoder makes the final value. */
static void
expand_node(const StateNode *node, JsonbValue *out)
{
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	switch (node->kind)
	{
		case NODE_NONE:
			elog(ERROR, "a node of the state has no value");
			break;
		case NODE_NULL:
			out->type = jbvNull;
			break;
		case NODE_FALSE:
		case NODE_TRUE:
			out->type = jbvBool;
			out->val.boolean = node->kind == NODE_TRUE;
			break;
		case NODE_NUMERIC:
			out->type = jbvNumeric;
			out->val.numeric = (Numeric) node->u.bytes;
			break;
		case NODE_STRING:
			out->type = jbvString;
			out->val.string.val = node->u.bytes;
			out->val.string.len = node->size;
			break;
		case NODE_ENCODED:
			expand_container((JsonbContainer *) node->u.bytes, out);
			break;
		case NODE_ARRAY:
			begin_elements(out, node->u.array->count);
			out->val.array.nElems = node->u.array->count;
			for (int i = 0; i < node->u.array->count; i++)
				expand_node(&node->u.array->nodes[i], &out->val.array.elems[i]);
			break;
		case NODE_OBJECT:
			expand_members(node->u.members, out);
			break;
	}
}

Jsonb *
es_state_result(State *state)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext tree;
	JsonbValue value;
	Jsonb *result;

	if (state->root.kind == NODE_NONE)
		return NULL;
	/* what was never looked into is as it came */
	if (state->root.kind == NODE_ENCODED)
	{
		result = palloc(VARHDRSZ + state->root.size);
		SET_VARSIZE(result, VARHDRSZ + state->root.size);
		memcpy(&result->root, state->root.u.bytes, state->root.size);
		return result;
	}
	tree = AllocSetContextCreate(caller, "event_store encoding",
								 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(tree);
	expand_node(&state->root, &value);
	MemoryContextSwitchTo(caller);
	result = JsonbValueToJsonb(&value);
	MemoryContextDelete(tree);
	return result;
}
