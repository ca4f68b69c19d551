/*
 * path.h
 *		JSON paths.
 */
#ifndef ES_PATH_H
#define ES_PATH_H

#include "utils/jsonb.h"

#include "replay/state.h"

/* One step of a path: a member of an object or an element of an array. */
typedef struct RuleStep
{
	bool is_index;
	int index; /* negative: from the end */
	MemberName name;
	int start; /* where in the path's text it begins */
} RuleStep;

typedef struct RulePath
{
	const char *text;
	int size;
	int count;
	RuleStep *steps;
} RulePath;

/* Reads a path, which refers to the string; returns what is wrong, or NULL. */
extern const char *es_path_read(const JsonbValue *string, RulePath *path);
/* The place of an element in an array of so many; -1 if it has none. */
extern int es_step_place(const RuleStep *step, int64 count);
/* Follows a path from a step on; false if it leads nowhere. */
extern bool es_path_follow(const RulePath *path, int first, JsonbValue *value);

#endif /* ES_PATH_H */
