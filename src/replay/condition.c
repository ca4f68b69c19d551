/*
 * condition.c
 *		When a rule is carried out: comparisons of what the event has.
 *
 *	{"path": "$.payload.status", "is": "shipped"}	it is this value
 *	{"path": ..., "is_not": value}					the opposite of "is"
 *	{"path": ..., "in": [value, ...]}					it is one of these
 *	{"path": ..., "exists": true}						the event has something there
 *	{"path": ..., "less": 100}, "greater"				it comes before, after it
 *
 * Where the event has nothing, "is", "in", "less" and "greater" do not hold, and so
 * "is_not" does.  A JSON null is something: "is": null holds for it.  "is", "is_not"
 * and "in" compare as jsonb does.  For "less" and "greater" what is given decides: a
 * number or decimal string is compared with numbers and decimal strings, by value, any
 * other string with strings, by their bytes; for all else neither holds.
 */
#include "postgres.h"

#include "utils/jsonb.h"

#include "replay/condition.h"
#include "replay/event_path.h"
#include "replay/json_value.h"

/* The comparisons in the order of ConditionKind. */
static const char *const kinds[] = {"is",	  "is_not", "in",
									"exists", "less",	"greater"};

StaticAssertDecl(lengthof(kinds) == WHEN_GREATER + 1, "every comparison is named");

#define COMPARISON_HINT \
	"A comparison is an object with \"path\" and one of is, is_not, in, exists, less, greater."

static int
kind_named(const JsonbValue *name)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		if (es_is_string(name, kinds[i]))
			return i;
	}
	return -1;
}

/* Finds what the object has; returns what is wrong, or NULL. */
static const char *
find_parts(const JsonbValue *given, int *kind, JsonbValue *path, JsonbValue *value)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue name;
	bool has_path = false;

	*kind = -1;
	if (!es_is_object(given))
		return "it is not an object";
	iterator = JsonbIteratorInit(given->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		int found;

		if (token != WJB_KEY)
			continue;
		if (es_is_string(&name, "path"))
		{
			has_path = true;
			(void) JsonbIteratorNext(&iterator, path, true);
			continue;
		}
		found = kind_named(&name);
		if (found < 0)
			return psprintf("it has an unknown key \"%.*s\"",
							name.val.string.len, name.val.string.val);
		if (*kind >= 0)
			return psprintf("it has both \"%s\" and \"%s\"",
							kinds[Min(*kind, found)], kinds[Max(*kind, found)]);
		*kind = found;
		(void) JsonbIteratorNext(&iterator, value, true);
	}
	if (!has_path)
		return "it has no \"path\"";
	return *kind < 0 ? "it compares with nothing" : NULL;
}

static const char *
read_list(const JsonbValue *list, Condition *condition)
{
	if (!es_is_array(list))
		return "its \"in\" is not an array";
	condition->count = JsonContainerSize(list->val.binary.data);
	condition->values = palloc(sizeof(JsonbValue) * Max(condition->count, 1));
	for (int i = 0; i < condition->count; i++)
		condition->values[i] =
			*getIthJsonbValueFromContainer(list->val.binary.data, i);
	return NULL;
}

/* Reads what it is compared with; returns what is wrong, or NULL. */
static const char *
read_compared(const JsonbValue *value, Condition *condition)
{
	if (condition->kind == WHEN_IN)
		return read_list(value, condition);
	if (condition->kind == WHEN_EXISTS && value->type != jbvBool)
		return "its \"exists\" is not true or false";
	if ((condition->kind == WHEN_LESS || condition->kind == WHEN_GREATER) &&
		!es_has_order(value))
		return psprintf("its \"%s\" is not a number or a string",
						kinds[condition->kind]);
	condition->exists = value->type == jbvBool && value->val.boolean;
	condition->count = 1;
	condition->values = palloc(sizeof(JsonbValue));
	condition->values[0] = *value;
	return NULL;
}

/* Reads all but the path, which is left to be read; returns what is wrong, or NULL. */
static const char *
read_comparison(const JsonbValue *given, Condition *condition, JsonbValue *path,
				const char **hint)
{
	JsonbValue value;
	int kind;
	const char *problem;

	*hint = COMPARISON_HINT;
	problem = find_parts(given, &kind, path, &value);
	if (problem != NULL)
		return problem;
	condition->kind = kind;
	problem = read_compared(&value, condition);
	if (problem != NULL)
		return problem;
	return path->type == jbvString ? NULL : "its \"path\" is not a string";
}

static const char *
bad_path(const JsonbValue *path, const char *problem)
{
	return problem == NULL
			   ? NULL
			   : psprintf("bad \"path\" %.*s: %s", path->val.string.len,
						  path->val.string.val, problem);
}

const char *
es_condition_read(const JsonbValue *given, bool has_item, Condition *condition,
				  const char **hint)
{
	JsonbValue path;
	const char *problem = read_comparison(given, condition, &path, hint);

	if (problem != NULL)
		return problem;
	return bad_path(&path,
					es_event_path_read(&path, has_item, &condition->path, hint));
}

const char *
es_document_condition_read(const JsonbValue *given, Condition *condition,
						   const char **hint)
{
	JsonbValue path;
	const char *problem = read_comparison(given, condition, &path, hint);

	if (problem != NULL)
		return problem;
	return bad_path(&path, es_document_path_read(&path, &condition->path));
}

static bool
is_one_of(const Condition *condition, const JsonbValue *value)
{
	for (int i = 0; i < condition->count; i++)
	{
		if (es_same_value(value, &condition->values[i]))
			return true;
	}
	return false;
}

/* Below 0 where the value comes before what is given; 0 = they do not compare. */
static int
order_of(const Condition *condition, const JsonbValue *value)
{
	const JsonbValue *given = &condition->values[0];

	if (es_is_number(given))
		return es_is_number(value) ? es_compare_values(value, given) : 0;
	return value->type == jbvString ? es_compare_strings(value, given) : 0;
}

bool
es_condition_holds(const Condition *condition, PathEvent *event)
{
	JsonbValue value;
	bool found = es_event_path_follow(&condition->path, event, &value);

	switch (condition->kind)
	{
		case WHEN_IS:
		case WHEN_IN:
			return found && is_one_of(condition, &value);
		case WHEN_IS_NOT:
			return !found || !is_one_of(condition, &value);
		case WHEN_EXISTS:
			return found == condition->exists;
		case WHEN_LESS:
			return found && order_of(condition, &value) < 0;
		case WHEN_GREATER:
			return found && order_of(condition, &value) > 0;
	}
	return false;
}

bool
es_document_condition_holds(const Condition *condition, const JsonbValue *document)
{
	PathEvent event = {.item = document};

	return es_condition_holds(condition, &event);
}
