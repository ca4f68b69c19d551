/*
 * path.c
 *		JSON paths as rules know them: $, .name, ."any name" and [n].
 *
 * A path is read once and kept as steps, the names with their hashes.  It is
 * followed in two kinds of JSON: here in an encoded value, of which nothing is
 * copied, and in a decoded state by operation.c, which also makes what is
 * missing.
 */
#include "postgres.h"

#include "utils/jsonb.h"

#include "replay/path.h"
#include "replay/state.h"

#define MAX_STEPS 32

/* The text of a path and how far it is read. */
typedef struct PathText
{
	const char *text;
	int size;
	int at;
} PathText;

/* The next character; 0 at the end. */
static char
peek(const PathText *in)
{
	return in->at < in->size ? in->text[in->at] : '\0';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_name_char(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		   c == '_' || c == '-' || IS_HIGHBIT_SET(c);
}

/* Reads "name", from the quote on; returns what is wrong, or NULL. */
static const char *
read_quoted_name(PathText *in, MemberName *name)
{
	char *data = palloc(in->size);
	int size = 0;

	for (in->at++; peek(in) != '"'; in->at++)
	{
		if (peek(in) == '\\')
		{
			in->at++;
			if (peek(in) != '"' && peek(in) != '\\')
				return "a backslash in a name comes only before a quote or a backslash";
		}
		if (in->at == in->size)
			return "a quoted name has no end";
		data[size++] = in->text[in->at];
	}
	in->at++;
	*name = es_member_name(data, size);
	return NULL;
}

/* Reads what comes after a dot. */
static const char *
read_name(PathText *in, MemberName *name)
{
	int start = in->at;

	if (peek(in) == '"')
		return read_quoted_name(in, name);
	while (is_name_char(peek(in)))
		in->at++;
	if (in->at == start)
		return "after a dot comes a name";
	*name = es_member_name(in->text + start, in->at - start);
	return NULL;
}

/* Reads what comes after a bracket. */
static const char *
read_index(PathText *in, int *index)
{
	bool negative = peek(in) == '-';
	int64 value = 0;
	int start;

	if (negative)
		in->at++;
	for (start = in->at; is_digit(peek(in)); in->at++)
	{
		value = value * 10 + (peek(in) - '0');
		if (value > PG_INT32_MAX)
			return "an index is too large";
	}
	if (in->at == start || peek(in) != ']')
		return "in brackets stands a whole number";
	if (negative && value == 0)
		return "an index is -0";
	in->at++;
	*index = negative ? -value : value;
	return NULL;
}

const char *
es_path_read(const JsonbValue *string, RulePath *path)
{
	PathText in = {.text = string->val.string.val, .size = string->val.string.len};
	RuleStep steps[MAX_STEPS];

	path->text = in.text;
	path->size = in.size;
	path->count = 0;
	if (peek(&in) != '$')
		return "it does not begin with $";
	in.at++;
	while (in.at < in.size)
	{
		const char *problem;
		RuleStep *step = &steps[path->count];

		if (path->count == MAX_STEPS)
			return "it has more than 32 steps";
		path->count++;
		step->start = in.at;
		step->is_index = peek(&in) == '[';
		if (!step->is_index && peek(&in) != '.')
			return "a step begins with a dot or a bracket";
		in.at++;
		problem = step->is_index ? read_index(&in, &step->index)
								 : read_name(&in, &step->name);
		if (problem != NULL)
			return problem;
	}
	path->steps = palloc(sizeof(RuleStep) * Max(path->count, 1));
	if (path->count > 0)
		memcpy(path->steps, steps, sizeof(RuleStep) * path->count);
	return NULL;
}

/* The place of an element in an array of so many; -1 if it has none. */
int
es_step_place(const RuleStep *step, int64 count)
{
	int64 place = step->index < 0 ? count + step->index : step->index;

	return place >= 0 && place < count ? (int) place : -1;
}

bool
es_path_follow(const RulePath *path, int first, JsonbValue *value)
{
	for (int i = first; i < path->count; i++)
	{
		const RuleStep *step = &path->steps[i];
		JsonbContainer *container;

		if (value->type != jbvBinary)
			return false;
		container = value->val.binary.data;
		if (!step->is_index)
		{
			if (!JsonContainerIsObject(container) ||
				getKeyJsonValueFromContainer(container, step->name.data,
											 step->name.size, value) == NULL)
				return false;
		}
		else
		{
			int place;

			if (!JsonContainerIsArray(container))
				return false;
			place = es_step_place(step, JsonContainerSize(container));
			if (place < 0)
				return false;
			*value = *getIthJsonbValueFromContainer(container, place);
		}
	}
	return true;
}
