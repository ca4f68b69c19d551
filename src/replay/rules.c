/*
 * rules.c
 *		The declarative reducer: operations on the state, a list per event type.
 *
 * Rules are one JSON object:
 *
 *	{"events": {"OrderCreated": [{"op": "set", "path": "$.status", "value": "new"},
 *								 {"op": "set", "path": "$.total", "from": "$.payload.total"}],
 *				"LineAdded":	[{"op": "put_into", "path": "$.lines",
 *								  "key": "$.payload.product_id", "from": "$.payload"}]},
 *	 "unknown": "ignore",
 *	 "initial": {"status": "none"}}
 *
 * events: for each event type the operations to carry out, in this order; []
 * does nothing.  Those of "*" are carried out for every event, before the type's
 * own; it is no type, so an event type of that name has no rules of its own.
 * unknown: what becomes of types that are not listed, "ignore"
 * (the default) or "error".  initial: the object that the first event with
 * operations finds ({} if not given); until then the state is NULL.
 *
 * An operation changes one place of the state, its target:
 *
 *	set			makes the value the target
 *	merge		applies the value to the target as a merge patch (RFC 7396)
 *	unset		takes the target away; "$" makes the state NULL
 *	increment	adds the value, multiplied by "times", to the target
 *	append		adds the value to the end of an array
 *	remove		takes all equal elements out of an array; with "member", all
 *				objects of which that member is equal
 *	put_into	makes the value a member of an object; needs "key"
 *	min, max	keep the first or last of value and target in their order
 *	set_once	makes the value the target if there is none
 *
 * path: the target in the state: $, then .name, ."any name" or [n], where
 * names without quotes are letters, digits, _ and -, in quotes \" and \\ stand
 * for " and \, and a negative n counts from the end.  Objects on the way that
 * are missing are made, arrays are not; what the way leads through must be an
 * object or array, and an element must exist.  unset and remove make nothing,
 * and pass over what is not there.
 *
 * key: one more step below the path: a member whose name is in the event
 * ("$.payload.id": a string, or the text of a number or boolean) or given
 * ({"value": "name"}).
 *
 * The value is either "value", any JSON, or "from", a path in the event.
 * The event is an object of its columns: $.payload, $.metadata,
 * $.event_type, $.sequence, $.event_id and so on, without payload_bytes.
 * Times are ISO 8601 strings in UTC.  Where the event has nothing at "from",
 * "default" is taken; without it, or where key or times have nothing, the
 * operation is left out.  A JSON null is something.
 *
 * increment takes numbers and decimal strings ("19.99") and adds exactly, as
 * numeric does.  The result is a string if the target or the value is one.  A
 * missing target counts as 0.  times is a number or a path in the event, or an
 * array of those, which are multiplied.  min and max take what has an order, which
 * json_value.c gives, and keep it as it came.
 *
 * when: a comparison of what the event has (condition.c), or an array of them, all
 * of which must hold; else the operation is left out.
 *
 * Everything of this that rules alone can violate is refused when they are
 * set; the rest, such as append to a string, fails at the event.
 *
 * This file reads rules and finds those of an event; operation.c carries them
 * out, event_path.c knows paths in an event and path.c paths in any JSON.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "ground/arguments.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "replay/condition.h"
#include "replay/event_path.h"
#include "replay/json_value.h"
#include "replay/operation.h"
#include "replay/patch.h"
#include "replay/path.h"
#include "replay/rules.h"
#include "replay/state.h"

#define MAX_RULES_OF_TYPE 1000

/* ---------- what rules are made of ---------- */

typedef struct EventRules
{
	MemberName name; /* the event type */
	int count;
	RuleOperation *operations;
	char status; /* of the hash table */
} EventRules;

#define NAME_TABLE event_rules
#define NAME_TABLE_ENTRY EventRules
#include "replay/name_table.h"

struct Rules
{
	struct event_rules_hash *events;
	EventRules *of_every_event; /* NULL = none */
	EventRules *only; /* the list of es_rules_of_type; NULL = others */
	bool has_item;	  /* paths may use $.item */
	bool refuse_unknown;
	bool has_initial;
	JsonbValue initial;
	int columns; /* see es_rules_columns */
};

/* What the object of an operation may contain. */
typedef enum RuleKey
{
	KEY_OP,
	KEY_PATH,
	KEY_KEY,
	KEY_VALUE,
	KEY_FROM,
	KEY_DEFAULT,
	KEY_TIMES,
	KEY_MEMBER,
	KEY_WHEN,
	RULE_KEYS
} RuleKey;

static const char *const rule_keys[RULE_KEYS] = {"op",	  "path",	"key",
												 "value", "from",	"default",
												 "times", "member", "when"};

#define HAS(key) (1 << (key))
#define TARGET_KEYS (HAS(KEY_OP) | HAS(KEY_PATH) | HAS(KEY_KEY) | HAS(KEY_WHEN))
#define VALUE_KEYS \
	(TARGET_KEYS | HAS(KEY_VALUE) | HAS(KEY_FROM) | HAS(KEY_DEFAULT))

/* The operations in the order of RuleOperationKind. */
static const struct
{
	const char *name;
	int keys;
} operations[] =
	{{"set", VALUE_KEYS},	   {"merge", VALUE_KEYS},
	 {"unset", TARGET_KEYS},   {"increment", VALUE_KEYS | HAS(KEY_TIMES)},
	 {"append", VALUE_KEYS},   {"remove", VALUE_KEYS | HAS(KEY_MEMBER)},
	 {"put_into", VALUE_KEYS}, {"min", VALUE_KEYS},
	 {"max", VALUE_KEYS},	   {"set_once", VALUE_KEYS}};

StaticAssertDecl(lengthof(operations) == OP_SET_ONCE + 1,
				 "every operation is described");

/* ---------- reading rules ---------- */

/* The rule that is read, for messages, and what it says. */
typedef struct RuleInput
{
	Rules *rules;
	const char *event_type;
	int number;
	RuleOperation *operation;
	bool given[RULE_KEYS];
	JsonbValue values[RULE_KEYS];
} RuleInput;

/* Reports what is wrong with the rule. */
static void
refuse(const RuleInput *in, const char *hint, const char *problem)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("rule %d of event type \"%s\" %s", in->number,
						   in->event_type, problem),
					hint == NULL ? 0 : errhint("%s", hint)));
}

/* Joins names for a hint: those of which the bit is set. */
static char *
listed(const char *before, const char *const *names, int count, int which)
{
	StringInfoData list;
	const char *separator = before;

	initStringInfo(&list);
	for (int i = 0; i < count; i++)
	{
		if ((which & (1 << i)) == 0 || names[i] == NULL)
			continue;
		appendStringInfo(&list, "%s%s", separator, names[i]);
		separator = ", ";
	}
	appendStringInfoChar(&list, '.');
	return list.data;
}

/* Says what the rule at hand may contain. */
static char *
keys_hint(const RuleInput *in)
{
	RuleOperationKind kind = in->operation->kind;

	return listed(psprintf("The keys of %s are ", operations[kind].name),
				  rule_keys, RULE_KEYS, operations[kind].keys);
}

#define PATH_HINT \
	"A path is $ and then .name, .\"any name\" or [n], such as $.lines[0].\"product id\"."

/* Refuses what is no string, which any path is. */
static void
check_is_string(RuleInput *in, RuleKey key)
{
	if (in->values[key].type != jbvString)
		refuse(in, "A path is a string such as $.lines[0].\"product id\".",
			   psprintf("has a \"%s\" that is not a path", rule_keys[key]));
}

static void
refuse_path(RuleInput *in, RuleKey key, const JsonbValue *path,
			const char *problem, const char *hint)
{
	refuse(in, hint,
		   psprintf("has a bad \"%s\" %.*s: %s", rule_keys[key],
					path->val.string.len, path->val.string.val, problem));
}

static void
note_columns(RuleInput *in, const EventPath *path)
{
	in->rules->columns = Max(in->rules->columns, es_event_path_columns(path));
}

/* A path in the event: a column, and what may be below it. */
static void
read_event_path(RuleInput *in, RuleKey key, const JsonbValue *value,
				RuleSource *source)
{
	const char *hint = PATH_HINT;
	const char *problem =
		es_event_path_read(value, in->rules->has_item, &source->path, &hint);

	if (problem != NULL)
		refuse_path(in, key, value, problem, hint);
	source->kind = SOURCE_EVENT;
	note_columns(in, &source->path);
}

/* "path": the target in the state. */
static void
read_target(RuleInput *in)
{
	const JsonbValue *value = &in->values[KEY_PATH];
	const char *problem;

	if (!in->given[KEY_PATH])
		refuse(in, keys_hint(in), "has no \"path\"");
	check_is_string(in, KEY_PATH);
	problem = es_path_read(value, &in->operation->path);
	if (problem != NULL)
		refuse_path(in, KEY_PATH, value, problem, PATH_HINT);
}

/* "key": a path in the event or {"value": "name"}. */
static void
read_key(RuleInput *in)
{
	const JsonbValue *value = &in->values[KEY_KEY];
	RuleSource *key = &in->operation->key;

	if (value->type == jbvString)
	{
		read_event_path(in, KEY_KEY, value, key);
		return;
	}
	if (!es_is_object(value) || JsonContainerSize(value->val.binary.data) != 1 ||
		!es_find_member(value, "value", &key->literal) ||
		key->literal.type != jbvString)
		refuse(in,
			   "A key is a path in the event, such as \"$.payload.id\", or a name, {\"value\": \"name\"}.",
			   "has a bad \"key\"");
	key->kind = SOURCE_LITERAL;
}

/* A literal operand is checked before there is an event. */
static void
check_operand(RuleInput *in, RuleKey key)
{
	const JsonbValue *value = &in->values[key];
	RuleOperationKind kind = in->operation->kind;

	if (!in->given[key])
		return;
	if (kind == OP_INCREMENT && !es_is_number(value))
		refuse(in, "A number is written as 1.5 or as a decimal string, \"1.50\".",
			   psprintf("has a \"%s\" that is not a number", rule_keys[key]));
	if ((kind == OP_MIN || kind == OP_MAX) && !es_has_order(value))
		refuse(in, "Only numbers and strings have an order.",
			   psprintf("has a \"%s\" that is not a number or a string",
						rule_keys[key]));
}

static void
read_factor(RuleInput *in, const JsonbValue *value, RuleSource *source)
{
	source->kind = SOURCE_LITERAL;
	source->literal = *value;
	if (value->type == jbvString)
		read_event_path(in, KEY_TIMES, value, source);
	else if (value->type != jbvNumeric)
		refuse(in,
			   "A factor is a number or a path in the event; times is one factor or an array of them.",
			   "has a bad \"times\"");
}

/* "times": one factor, or an array of them. */
static void
read_times(RuleInput *in)
{
	const JsonbValue *value = &in->values[KEY_TIMES];
	RuleOperation *operation = in->operation;
	bool many = es_is_array(value);
	uint32 count = many ? JsonContainerSize(value->val.binary.data) : 1;

	if (count > ES_MAX_FACTORS)
		refuse(in, NULL,
			   psprintf("has more than %d factors in \"times\"", ES_MAX_FACTORS));
	operation->factors = count;
	operation->times = palloc0(sizeof(RuleSource) * Max(count, 1));
	if (!many)
		read_factor(in, value, &operation->times[0]);
	else
		for (uint32 i = 0; i < count; i++)
			read_factor(in,
						getIthJsonbValueFromContainer(value->val.binary.data, i),
						&operation->times[i]);
}

static void
read_value(RuleInput *in)
{
	RuleOperation *operation = in->operation;

	if (in->given[KEY_VALUE] == in->given[KEY_FROM])
		refuse(in, keys_hint(in), "needs exactly one of \"value\" and \"from\"");
	if (in->given[KEY_DEFAULT] && in->given[KEY_VALUE])
		refuse(in, "The default stands for what the event does not have.",
			   "has a \"default\" without \"from\"");
	check_operand(in, KEY_VALUE);
	check_operand(in, KEY_DEFAULT);
	if (in->given[KEY_FROM])
	{
		check_is_string(in, KEY_FROM);
		read_event_path(in, KEY_FROM, &in->values[KEY_FROM], &operation->value);
	}
	else
	{
		operation->value.kind = SOURCE_LITERAL;
		operation->value.literal = in->values[KEY_VALUE];
	}
	operation->has_default = in->given[KEY_DEFAULT];
	operation->default_value = in->values[KEY_DEFAULT];
}

/* One of so many comparisons in "when", from 0; it may stand alone. */
static void
read_condition(RuleInput *in, const JsonbValue *given, int place, bool alone)
{
	Condition *condition = &in->operation->when[place];
	const char *hint;
	const char *problem =
		es_condition_read(given, in->rules->has_item, condition, &hint);

	if (problem != NULL)
		refuse(in, hint,
			   alone ? psprintf("has a bad \"when\": %s", problem)
					 : psprintf("has a bad comparison %d in \"when\": %s",
								place + 1, problem));
	note_columns(in, &condition->path);
}

/* "when": a comparison, or an array of them. */
static void
read_when(RuleInput *in)
{
	const JsonbValue *value = &in->values[KEY_WHEN];
	RuleOperation *operation = in->operation;
	bool many = es_is_array(value);
	uint32 count = many ? JsonContainerSize(value->val.binary.data) : 1;

	if (count > ES_MAX_CONDITIONS)
		refuse(in, NULL,
			   psprintf("has more than %d comparisons in \"when\"",
						ES_MAX_CONDITIONS));
	operation->conditions = count;
	operation->when = palloc0(sizeof(Condition) * Max(count, 1));
	if (!many)
		read_condition(in, value, 0, true);
	else
		for (uint32 i = 0; i < count; i++)
			read_condition(in,
						   getIthJsonbValueFromContainer(value->val.binary.data, i),
						   i, false);
}

static char *
operations_hint(void)
{
	const char *names[lengthof(operations)];

	for (size_t i = 0; i < lengthof(operations); i++)
		names[i] = operations[i].name;
	return listed("The operations are ", names, lengthof(operations), -1);
}

/* The operation's name; its keys are looked at afterwards. */
static void
read_operation_kind(RuleInput *in, const JsonbValue *rule)
{
	JsonbValue op;

	if (!es_is_object(rule))
		refuse(in,
			   "A rule is an object such as {\"op\": \"set\", \"path\": \"$.status\", \"value\": \"new\"}.",
			   "is not an object");
	if (!es_find_member(rule, "op", &op) || op.type != jbvString)
		refuse(in, operations_hint(), "has no \"op\"");
	for (size_t i = 0; i < lengthof(operations); i++)
		if (es_is_string(&op, operations[i].name))
		{
			in->operation->kind = i;
			return;
		}
	refuse(in, operations_hint(),
		   psprintf("has an unknown \"op\" \"%.*s\"", op.val.string.len,
					op.val.string.val));
}

/* Collects what the rule says; its operation does not take everything. */
static void
read_rule_keys(RuleInput *in, const JsonbValue *rule)
{
	JsonbIterator *iterator = JsonbIteratorInit(rule->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue name;
	RuleOperationKind kind = in->operation->kind;
	int allowed = operations[kind].keys;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		int key = 0;

		if (token != WJB_KEY)
			continue;
		while (key < RULE_KEYS && !es_is_string(&name, rule_keys[key]))
			key++;
		if (key < RULE_KEYS && (allowed & HAS(key)) != 0)
		{
			in->given[key] = true;
			(void) JsonbIteratorNext(&iterator, &in->values[key], true);
		}
		else
			refuse(in, keys_hint(in),
				   psprintf("has a key \"%.*s\" that \"%s\" does not take",
							name.val.string.len, name.val.string.val,
							operations[kind].name));
	}
}

static void
read_rule(RuleInput *in, const JsonbValue *rule)
{
	RuleOperation *operation = in->operation;
	const JsonbValue *member = &in->values[KEY_MEMBER];

	memset(operation, 0, sizeof(RuleOperation));
	memset(in->given, 0, sizeof(in->given));
	operation->event_type = in->event_type;
	operation->number = in->number;
	read_operation_kind(in, rule);
	read_rule_keys(in, rule);
	read_target(in);
	if (in->given[KEY_KEY])
		read_key(in);
	else if (operation->kind == OP_PUT_INTO)
		refuse(in,
			   "The key names the member: \"$.payload.id\" or {\"value\": \"name\"}.",
			   "has no \"key\"");
	if (operation->kind != OP_UNSET)
		read_value(in);
	if (in->given[KEY_TIMES])
		read_times(in);
	if (in->given[KEY_WHEN])
		read_when(in);
	if (in->given[KEY_MEMBER])
	{
		if (member->type != jbvString)
			refuse(in,
				   "The member is the name of what is compared, such as \"id\".",
				   "has a \"member\" that is not a string");
		operation->by_member = true;
		operation->member =
			es_member_name(member->val.string.val, member->val.string.len);
	}
}

/* A new list: of every event, or of one type. */
static EventRules *
add_list(Rules *rules, MemberName name)
{
	bool found;

	if (name.size != 1 || name.data[0] != '*')
		return event_rules_insert(rules->events, name, &found);
	rules->of_every_event = palloc0(sizeof(EventRules));
	return rules->of_every_event;
}

/* The rules for one event type, or for every event. */
static EventRules *
read_event_rules(Rules *rules, const JsonbValue *type, const JsonbValue *list)
{
	MemberName name = es_member_name(type->val.string.val, type->val.string.len);
	RuleInput in = {.rules = rules};
	EventRules *entry;

	in.event_type = pnstrdup(name.data, name.size);
	if (name.size == 0 ||
		pg_mbstrlen_with_len(name.data, name.size) > ES_MAX_NAME_CHARS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type \"%s\" in rules must have 1 to %d characters",
						in.event_type, ES_MAX_NAME_CHARS)));
	if (!es_is_array(list))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("rules of event type \"%s\" are not an array",
							   in.event_type)));
	if (JsonContainerSize(list->val.binary.data) > MAX_RULES_OF_TYPE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("event type \"%s\" has more than %d rules",
							   in.event_type, MAX_RULES_OF_TYPE)));
	entry = add_list(rules, name);
	entry->count = JsonContainerSize(list->val.binary.data);
	entry->operations = palloc(sizeof(RuleOperation) * Max(entry->count, 1));
	for (int i = 0; i < entry->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		in.number = i + 1;
		in.operation = &entry->operations[i];
		read_rule(&in, getIthJsonbValueFromContainer(list->val.binary.data, i));
	}
	return entry;
}

/* One of the keys of the whole. */
static void
read_top_key(Rules *rules, const JsonbValue *name, const JsonbValue *value)
{
	if (es_is_string(name, "events"))
	{
		JsonbIterator *iterator;
		JsonbIteratorToken token;
		JsonbValue type;
		JsonbValue list;

		if (!es_is_object(value))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("\"events\" of rules must be an object")));
		rules->events =
			event_rules_create(CurrentMemoryContext,
							   JsonContainerSize(value->val.binary.data), NULL);
		iterator = JsonbIteratorInit(value->val.binary.data);
		while ((token = JsonbIteratorNext(&iterator, &type, true)) != WJB_DONE)
		{
			if (token != WJB_KEY)
				continue;
			(void) JsonbIteratorNext(&iterator, &list, true);
			(void) read_event_rules(rules, &type, &list);
		}
	}
	else if (es_is_string(name, "unknown"))
	{
		rules->refuse_unknown = es_is_string(value, "error");
		if (!rules->refuse_unknown && !es_is_string(value, "ignore"))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"unknown\" of rules must be \"ignore\" or \"error\"")));
	}
	else if (es_is_string(name, "initial"))
	{
		rules->has_initial = true;
		rules->initial = *value;
		if (!es_is_object(value))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("\"initial\" of rules must be an object")));
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rules have an unknown key \"%.*s\"",
						name->val.string.len, name->val.string.val),
				 errhint("The keys of rules are events, unknown, initial.")));
}

/* Refuses rules that are no object. */
static void
refuse_whole(Jsonb *jsonb)
{
	JsonbValue value;
	bool is_string = JB_ROOT_IS_SCALAR(jsonb) &&
					 JsonbExtractScalar(&jsonb->root, &value) &&
					 value.type == jbvString;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("rules must be a JSON object"),
			 is_string
				 ? es_hint_encoded_twice(true)
				 : errhint("Example: {\"events\": {\"Renamed\": [{\"op\": \"set\", \"path\": \"$.name\", \"from\": \"$.payload.name\"}]}}.")));
}

Rules *
es_rules_parse(Jsonb *jsonb, bool has_item)
{
	Rules *rules = palloc0(sizeof(Rules));
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		refuse_whole(jsonb);
	/* names and literals stay in a copy of the rules */
	jsonb = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(jsonb));
	rules->has_item = has_item;
	rules->columns = EV_EVENT_TYPE + 1;
	iterator = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		read_top_key(rules, &name, &value);
	}
	if (rules->events == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("rules have no \"events\"")));
	return rules;
}

Rules *
es_rules_of_type(Datum event_type, const JsonbValue *operations)
{
	text *name = DatumGetTextPP(event_type);
	Rules *rules = palloc0(sizeof(Rules));
	JsonbValue type;

	type.type = jbvString;
	type.val.string.val = VARDATA_ANY(name);
	type.val.string.len = VARSIZE_ANY_EXHDR(name);
	rules->columns = EV_EVENT_TYPE + 1;
	rules->events = event_rules_create(CurrentMemoryContext, 1, NULL);
	rules->only = read_event_rules(rules, &type, operations);
	return rules;
}

int
es_rules_columns(const Rules *rules)
{
	return rules->columns;
}

static void
describe_operation(void *arg)
{
	const RuleEvent *event = arg;

	/* messages of our own name the rule themselves */
	if (event->operation != NULL)
		errcontext("rule %d of event type \"%s\"", event->operation->number,
				   event->operation->event_type);
}

/* The rules for an event's type alone; NULL if there are none. */
static const EventRules *
rules_of_type(const Rules *rules, Datum event_type)
{
	text *type = DatumGetTextPP(event_type);
	const EventRules *found =
		event_rules_lookup(rules->events, es_member_name(VARDATA_ANY(type),
														 VARSIZE_ANY_EXHDR(type)));

	if (found == NULL && rules->refuse_unknown)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type \"%s\" has no rules", text_to_cstring(type)),
				 errhint("The rules say \"unknown\": \"error\". An event type with the rules [] does nothing.")));
	return found;
}

/*
 * Carries out a list, if there is one; returns whether an operation applied.  To
 * take something away from a state that is not there counts for nothing.
 */
static bool
apply_list(const EventRules *list, State *state, RuleEvent *event, bool absent)
{
	bool applied = false;

	if (list == NULL || list->count == 0)
		return false;
	es_rule_state(state, event);
	for (int i = 0; i < list->count; i++)
	{
		const RuleOperation *operation = &list->operations[i];

		if (es_operation_apply(operation, state, event) &&
			(!absent ||
			 (operation->kind != OP_UNSET && operation->kind != OP_REMOVE)))
			applied = true;
	}
	return applied;
}

static bool
apply(const Rules *rules, State *state, RuleEvent *event)
{
	const EventRules *own =
		rules_of_type(rules, event->event.values[EV_EVENT_TYPE]);
	bool absent = es_state_root(state)->kind == NODE_NONE;
	ErrorContextCallback callback;
	bool applied;

	event->initial = rules->has_initial ? &rules->initial : NULL;
	callback.previous = error_context_stack;
	callback.callback = describe_operation;
	callback.arg = event;
	error_context_stack = &callback;
	applied = apply_list(rules->of_every_event, state, event, absent);
	if (apply_list(own, state, event, absent))
		applied = true;
	error_context_stack = callback.previous;
	return applied;
}

bool
es_rules_apply(const Rules *rules, State *state, const Datum *values,
			   const bool *nulls)
{
	RuleEvent event = {.event = {.values = values, .nulls = nulls}};

	return apply(rules, state, &event);
}

bool
es_rules_apply_to_row(const Rules *rules, State *state, const Datum *values,
					  const bool *nulls, const JsonbValue *item)
{
	RuleEvent event = {.event = {.values = values, .nulls = nulls, .item = item}};
	bool absent = es_state_root(state)->kind == NODE_NONE;
	bool applied;

	if (es_is_erased(values, nulls))
		return false;
	applied = apply(rules, state, &event);
	if (absent && !applied)
		es_node_clear(state, es_state_root(state));
	return applied;
}

/* ---------- on the members of an object ---------- */

bool
es_rules_are_flat(const Rules *rules)
{
	for (int i = 0; i < rules->only->count; i++)
	{
		if (!es_operation_is_flat(&rules->only->operations[i]))
			return false;
	}
	return true;
}

void
es_rules_patch(const Rules *rules, Patch *patch, const Datum *values,
			   const bool *nulls)
{
	Patch before = es_patch_copy(patch);
	RuleEvent event = {
		.event = {.values = values, .nulls = nulls, .patch = &before}};
	ErrorContextCallback callback;

	callback.previous = error_context_stack;
	callback.callback = describe_operation;
	callback.arg = &event;
	error_context_stack = &callback;
	for (int i = 0; i < rules->only->count; i++)
		es_operation_patch(&rules->only->operations[i], patch, &event);
	error_context_stack = callback.previous;
}
