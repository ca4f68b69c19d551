/*
 * merge.c
 *		The built-in reducer: JSON merge patch (RFC 7396) on a decoded state.
 *
 * A replay applies many small patches to one state.  As jsonb, the state
 * would be written anew by every patch, so an event would cost as much as the
 * state is large.  Here the state is taken apart once, stays so between
 * events and is encoded once at the end: an event costs what its own patch is
 * large.
 *
 * A decoded object is a hash table of its members, because patches name
 * members and order matters only in the encoded form.  What a merge patch
 * never looks into, scalars and whole arrays, is kept as bytes copied from
 * the patch.  All of it lives in one memory context that belongs to the
 * Merge, and every value that is replaced or removed is freed at once: memory
 * follows the size of the state and not the number of events.
 *
 * Used by replay.c.  A reducer made of rules can work on the same nodes.
 */
#include "event_store.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

typedef enum NodeKind
{
	NODE_NULL,
	NODE_FALSE,
	NODE_TRUE,
	NODE_NUMERIC,
	NODE_STRING,
	NODE_ARRAY, /* an encoded container */
	NODE_OBJECT
} NodeKind;

typedef struct StateNode
{
	NodeKind kind;
	int size; /* of the bytes below */
	union
	{
		char *bytes;				  /* number, string, array */
		struct members_hash *members; /* object */
	} u;
} StateNode;

typedef struct Key
{
	const char *data;
	int size;
} Key;

typedef struct Member
{
	Key key;
	StateNode node;
	uint32 hash;
	char status; /* of the hash table */
} Member;

/* Hashes the name of a member. */
static inline uint32
key_hash(Key key)
{
	return hash_bytes((const unsigned char *) key.data, key.size);
}

static inline bool
key_equal(Key a, Key b)
{
	return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

#define SH_PREFIX members
#define SH_ELEMENT_TYPE Member
#define SH_KEY_TYPE Key
#define SH_KEY key
#define SH_HASH_KEY(table, k) key_hash(k)
#define SH_EQUAL(table, a, b) key_equal(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(table, member) (member)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Room for this many members at first; most objects are small. */
#define FIRST_MEMBERS 4

struct Merge
{
	MemoryContext context; /* of everything below root */
	StateNode root;
	bool isnull; /* no state at all; root is unused */
	int64 size;	 /* at least this long when encoded */
};

/* The encoder takes an object as one array of pairs. */
#define MAX_MEMBERS ((int64) (MaxAllocSize / sizeof(JsonbPair)))

/* What a member's or value's header takes in jsonb. */
#define ENTRY_SIZE ((int64) sizeof(JEntry))

static void put_container(Merge *merge, StateNode *node,
						  JsonbContainer *container, bool patch);

static bool
has_bytes(const StateNode *node)
{
	return node->kind == NODE_NUMERIC || node->kind == NODE_STRING ||
		   node->kind == NODE_ARRAY;
}

/* Frees what a node holds; the node itself is to be overwritten. */
static void
clear_node(Merge *merge, StateNode *node)
{
	merge->size -= ENTRY_SIZE;
	if (has_bytes(node))
	{
		merge->size -= node->size;
		pfree(node->u.bytes);
	}
	else if (node->kind == NODE_OBJECT)
	{
		members_iterator iterator;
		Member *member;

		check_stack_depth();
		members_start_iterate(node->u.members, &iterator);
		while ((member = members_iterate(node->u.members, &iterator)) != NULL)
		{
			merge->size -= ENTRY_SIZE + member->key.size;
			clear_node(merge, &member->node);
			pfree(unconstify(char *, member->key.data));
		}
		members_destroy(node->u.members);
	}
}

/* The state may become as long as any jsonb value, and no longer. */
static void
grow_state(Merge *merge, int64 size)
{
	merge->size += size;
	if (merge->size > ES_MAX_PAYLOAD_BYTES)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("state becomes longer than %d bytes",
							   ES_MAX_PAYLOAD_BYTES)));
}

static void
set_bytes(Merge *merge, StateNode *node, NodeKind kind, const void *bytes, int size)
{
	grow_state(merge, ENTRY_SIZE + size);
	node->kind = kind;
	node->size = size;
	node->u.bytes = MemoryContextAlloc(merge->context, Max(size, 1));
	memcpy(node->u.bytes, bytes, size);
}

static void
set_plain(Merge *merge, StateNode *node, NodeKind kind)
{
	grow_state(merge, ENTRY_SIZE);
	node->kind = kind;
	node->size = 0;
}

static void
set_object(Merge *merge, StateNode *node)
{
	set_plain(merge, node, NODE_OBJECT);
	node->u.members = members_create(merge->context, FIRST_MEMBERS, NULL);
}

/* Makes an unset node the copy of a value that is not an object. */
static void
set_value(Merge *merge, StateNode *node, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			set_plain(merge, node, NODE_NULL);
			break;
		case jbvBool:
			set_plain(merge, node, value->val.boolean ? NODE_TRUE : NODE_FALSE);
			break;
		case jbvNumeric:
			set_bytes(merge, node, NODE_NUMERIC, value->val.numeric,
					  VARSIZE_ANY(value->val.numeric));
			break;
		case jbvString:
			set_bytes(merge, node, NODE_STRING, value->val.string.val,
					  value->val.string.len);
			break;
		case jbvBinary:
			set_bytes(merge, node, NODE_ARRAY, value->val.binary.data,
					  value->val.binary.len);
			break;
		default:
			elog(ERROR, "unexpected jsonb value of type %d", (int) value->type);
	}
}

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		   JsonContainerIsObject(value->val.binary.data);
}

static void
remove_member(Merge *merge, struct members_hash *members, Key key)
{
	Member *member = members_lookup(members, key);
	char *name;

	if (member == NULL)
		return;
	name = unconstify(char *, member->key.data);
	merge->size -= ENTRY_SIZE + key.size;
	clear_node(merge, &member->node);
	members_delete_item(members, member);
	pfree(name);
}

/* Gives one member of an object a value, or merges the value into it. */
static void
put_member(Merge *merge, struct members_hash *members, Key key,
		   const JsonbValue *value, bool patch)
{
	bool found;
	Member *member;

	if (patch && value->type == jbvNull)
	{
		remove_member(merge, members, key);
		return;
	}

	member = members_insert(members, key, &found);
	if (!found)
	{
		char *name = MemoryContextAlloc(merge->context, Max(key.size, 1));

		memcpy(name, key.data, key.size);
		member->key.data = name;
		grow_state(merge, ENTRY_SIZE + key.size);
	}
	if (!is_object(value))
	{
		if (found)
			clear_node(merge, &member->node);
		set_value(merge, &member->node, value);
		return;
	}
	if (!found || member->node.kind != NODE_OBJECT)
	{
		if (found)
			clear_node(merge, &member->node);
		set_object(merge, &member->node);
	}
	put_container(merge, &member->node, value->val.binary.data, patch);
}

/*
 * Puts the members of an encoded object into a node that is an object.  In a
 * patch, null removes the member it names; in a state it is a value.
 */
static void
put_container(Merge *merge, StateNode *node, JsonbContainer *container, bool patch)
{
	/* the table stays where it is when the node itself moves */
	struct members_hash *members = node->u.members;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue value;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	iterator = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		Key key;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		key.data = name.val.string.val;
		key.size = name.val.string.len;
		put_member(merge, members, key, &value, patch);
	}
}

/* Merges a whole jsonb value into the state, or makes it the state. */
static void
put_root(Merge *merge, Jsonb *jsonb, bool patch)
{
	JsonbContainer *container = &jsonb->root;
	JsonbValue value;

	if (JsonContainerIsObject(container))
	{
		if (merge->isnull || merge->root.kind != NODE_OBJECT)
		{
			if (!merge->isnull)
				clear_node(merge, &merge->root);
			set_object(merge, &merge->root);
		}
		merge->isnull = false;
		put_container(merge, &merge->root, container, patch);
		return;
	}
	if (!JsonbExtractScalar(container, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = container;
		value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	if (!merge->isnull)
		clear_node(merge, &merge->root);
	set_value(merge, &merge->root, &value);
	merge->isnull = false;
}

Merge *
es_merge_begin(Jsonb *state)
{
	Merge *merge = palloc0(sizeof(Merge));

	merge->context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store state",
							  ALLOCSET_DEFAULT_SIZES);
	merge->isnull = true;
	if (state != NULL)
		put_root(merge, state, false);
	return merge;
}

void
es_merge_apply(Merge *merge, Jsonb *patch)
{
	put_root(merge, patch, true);
}

void
es_merge_end(Merge *merge)
{
	MemoryContextDelete(merge->context);
	pfree(merge);
}

static int
compare_pairs(const void *a, const void *b)
{
	const JsonbValue *x = &((const JsonbPair *) a)->key;
	const JsonbValue *y = &((const JsonbPair *) b)->key;

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
	{
		out->type = jbvArray;
		out->val.array.nElems = 0;
		out->val.array.rawScalar = false;
		out->val.array.elems =
			palloc(sizeof(JsonbValue) * Max(JsonContainerSize(container), 1));
	}
	iterator = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
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

/* The tree from which jsonb's encoder makes the final value. */
static void
expand_node(const StateNode *node, JsonbValue *out)
{
	members_iterator iterator;
	Member *member;

	check_stack_depth();

	switch (node->kind)
	{
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
		case NODE_ARRAY:
			expand_container((JsonbContainer *) node->u.bytes, out);
			break;
		case NODE_OBJECT:
			begin_pairs(out, node->u.members->members);
			members_start_iterate(node->u.members, &iterator);
			while ((member = members_iterate(node->u.members, &iterator)) != NULL)
				expand_node(&member->node,
							add_pair(out, member->key.data, member->key.size));
			qsort(out->val.object.pairs, out->val.object.nPairs,
				  sizeof(JsonbPair), compare_pairs);
			break;
	}
}

/* The state as jsonb in the current memory context; NULL if there is none. */
Jsonb *
es_merge_result(Merge *merge)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext tree;
	JsonbValue value;
	Jsonb *result;

	if (merge->isnull)
		return NULL;
	tree = AllocSetContextCreate(caller, "event_store encoding",
								 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(tree);
	expand_node(&merge->root, &value);
	MemoryContextSwitchTo(caller);
	result = JsonbValueToJsonb(&value);
	MemoryContextDelete(tree);
	return result;
}
