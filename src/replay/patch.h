/*
 * patch.h
 *		An object whose members are changed.
 */
#ifndef ES_PATCH_H
#define ES_PATCH_H

#include "utils/jsonb.h"

#include "replay/state.h"

typedef struct PatchMember
{
	const char *name;
	int size;
	JsonbValue value; /* what has parts stays encoded */
} PatchMember;

/* The members of an object, in jsonb's order; nothing of them is copied. */
typedef struct Patch
{
	int count;
	int room;
	PatchMember *members;
} Patch;

/* An object's members, in the current memory context. */
extern void es_patch_begin(Patch *patch, Jsonb *object);
/* The same members once more, which keep what they are while the others change. */
extern Patch es_patch_copy(const Patch *patch);
/* NULL if it has no such member. */
extern const JsonbValue *es_patch_find(const Patch *patch, MemberName name);
extern void es_patch_set(Patch *patch, MemberName name, const JsonbValue *value);
extern void es_patch_remove(Patch *patch, MemberName name);
/* Encoded, in the current memory context. */
extern Jsonb *es_patch_result(const Patch *patch);

#endif /* ES_PATCH_H */
