/*
 * state.h
 *		A state taken apart.
 */
#ifndef ES_STATE_H
#define ES_STATE_H

#include "utils/jsonb.h"

/*
 * A JSON value on which reducers work at a cost that does not grow with it.
 * It lives in a context of its own below the one that es_state_begin was
 * called in.  NULL is the state before any event.
 */
typedef struct State State;

extern State *es_state_begin(Jsonb *state);
/* One of many small ones, which end with a context that they share, and not by es_state_end. */
extern State *es_state_begin_in(MemoryContext context, Jsonb *state);
/* Encoded anew by every call, in the current memory context; NULL if none. */
extern Jsonb *es_state_result(State *state);
extern void es_state_end(State *state);

typedef enum NodeKind
{
	NODE_NONE, /* no value: of a state, a new member or a removed element */
	NODE_NULL,
	NODE_FALSE,
	NODE_TRUE,
	NODE_NUMERIC,
	NODE_STRING,
	NODE_ENCODED, /* an array or object in which nobody has looked yet */
	NODE_ARRAY,
	NODE_OBJECT
} NodeKind;

/* One value of a state. */
typedef struct StateNode
{
	NodeKind kind;
	int size; /* of the bytes */
	union
	{
		char *bytes;				  /* number, string, encoded */
		struct StateElements *array;  /* array */
		struct members_hash *members; /* object */
	} u;
} StateNode;

typedef struct StateElements
{
	int count;
	int room;
	StateNode *nodes;
} StateElements;

/* The name of a member, and its hash. */
typedef struct MemberName
{
	const char *data;
	int size;
	uint32 hash;
} MemberName;

extern MemberName es_member_name(const char *data, int size);

static inline bool
es_same_name(MemberName a, MemberName b)
{
	return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* A whole document as a value: a scalar or an encoded container. */
extern void es_whole_value(Jsonb *jsonb, JsonbValue *value);

/* A pointer to a node holds until its array or object gets or loses one. */
extern StateNode *es_state_root(State *state);
/* Decodes one level of an encoded array or object; leaves others alone. */
extern void es_node_open(State *state, StateNode *node);
extern void es_node_clear(State *state, StateNode *node);
extern void es_node_set(State *state, StateNode *node, const JsonbValue *value);
/* Makes it an empty array or object. */
extern void es_node_set_empty(State *state, StateNode *node, NodeKind kind);
extern bool es_node_equals(const StateNode *node, const JsonbValue *value);
/* Of an opened object: NULL if it has no such member. */
extern StateNode *es_node_member(const StateNode *node, MemberName name);
/* Of an opened object: a new member has no value and must get one. */
extern StateNode *es_node_add_member(State *state, StateNode *node,
									 MemberName name);
extern void es_node_remove_member(State *state, StateNode *node, MemberName name);
/* To an opened array: it has no value and must get one. */
extern StateNode *es_node_add_element(State *state, StateNode *node);
/* Closes the gaps that elements left which were cleared. */
extern void es_node_close_gaps(StateNode *node);

#endif /* ES_STATE_H */
