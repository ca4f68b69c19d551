/*
 * row_key.c
 *		The key of a view: which rows of it an event belongs to.
 *
 * A key is JSON, and one of these:
 *
 *	"$.payload.customerId"					what the event has there
 *	{"sticky": path}						the same, or what the aggregate had there
 *											last
 *	{"day": path, "zone": "UTC"}			of a time there; "hour", "month"
 *	{"concat": [key, {"value": "/"}, ...]}	one after the other
 *	{"lookup": {"view": name, "key": key, "path": path}}
 *											what a row of another view has there
 *	{"by_type": {type: key, ...}}			for each event type one; null: none; "*":
 *											for all other types
 *	{"each": path, "key": key}				a row for each element of an array there;
 *											$.item is the element, and "key" if none is
 *											given
 *	[key, ...]								several rows
 *
 * SQL NULL, and "$.aggregate_id" as well, is the aggregate's id.
 *
 * The last three may give several rows, and so cannot stand in concat, lookup and the
 * key of an each.  Paths are those of rules (event_path.c); the path of a lookup is one
 * in the data of a row.
 *
 * Each sticky has a place, under which values are kept for each aggregate.  Keys of
 * different event types are alternatives, so the first sticky of each type shares a
 * place with the first of the others: what an event of one type brought holds for those
 * of another.  The order of places is that of jsonb, the same wherever a key is read.
 *
 * This file reads keys; event_rows.c finds the rows of an event.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "ground/arguments.h"
#include "ground/common.h"
#include "ground/event.h"
#include "replay/event_path.h"
#include "replay/json_value.h"
#include "replay/path.h"
#include "replay/row_key.h"
#include "replay/state.h"

#define DEFAULT_ZONE "UTC"

/* The objects by their names, in the order of KeyKind. */
static const char *const kinds[] = {
	[KEY_PATH] = NULL,		 [KEY_STICKY] = "sticky", [KEY_DAY] = "day",
	[KEY_HOUR] = "hour",	 [KEY_MONTH] = "month",	  [KEY_CONCAT] = "concat",
	[KEY_LOOKUP] = "lookup", [KEY_VALUE] = "value",	  [KEY_BY_TYPE] = "by_type",
	[KEY_EACH] = "each",	 [KEY_LIST] = NULL};

#define KEY_HINT \
	"A key is a path such as \"$.payload.id\", an array of keys, or an object with one of by_type, sticky, each, concat, day, hour, month, lookup."

/* Where a key stands, and so what it may be. */
typedef struct KeyInput
{
	RowKey *key;
	const char *place; /* in the whole, for messages */
	bool single;	   /* at most one row */
	bool in_concat;	   /* may be a value */
	bool has_item;	   /* paths may use $.item */
} KeyInput;

/* What an object says. */
typedef struct KeyObject
{
	int kind; /* -1 = nothing */
	JsonbValue argument;
	bool has_zone;
	JsonbValue zone;
	bool has_key;
	JsonbValue key;
} KeyObject;

static KeyPart *read_part(KeyInput in, const JsonbValue *value);

static void
refuse(const KeyInput *in, const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("key at %s %s", in->place, problem), errhint("%s", hint)));
}

/* The input of a key below. */
static KeyInput
below(const KeyInput *in, const char *step)
{
	KeyInput deeper = *in;

	deeper.in_concat = false;
	deeper.place = psprintf("%s%s", in->place, step);
	return deeper;
}

/* ---------- parts of an object ---------- */

static void
read_path(const KeyInput *in, const JsonbValue *value, EventPath *path)
{
	const char *hint = KEY_HINT;
	const char *problem;

	if (value->type != jbvString)
		refuse(in, "is not a path", hint);
	problem = es_event_path_read(value, in->has_item, path, &hint);
	if (problem != NULL)
		refuse(in,
			   psprintf("is a bad path %.*s: %s", value->val.string.len,
						value->val.string.val, problem),
			   hint);
	in->key->columns = Max(in->key->columns, es_event_path_columns(path));
}

/* The path that an object has under the name of its kind. */
static void
read_path_of(const KeyInput *in, const KeyObject *object, EventPath *path)
{
	KeyInput deeper = below(in, psprintf(".%s", kinds[object->kind]));

	read_path(&deeper, &object->argument, path);
}

static pg_tz *
read_zone(const KeyInput *in, const KeyObject *object)
{
	char *name = DEFAULT_ZONE;
	pg_tz *zone;

	if (object->has_zone && object->zone.type != jbvString)
		refuse(in, "has a \"zone\" that is not a string",
			   "A zone is a name such as \"UTC\" or \"Europe/Berlin\".");
	if (object->has_zone)
		name = pnstrdup(object->zone.val.string.val, object->zone.val.string.len);
	zone = pg_tzset(name);
	if (zone == NULL || !pg_tz_acceptable(zone))
		refuse(in, psprintf("has an unknown \"zone\" \"%s\"", name),
			   "A zone is a name such as \"UTC\" or \"Europe/Berlin\".");
	return zone;
}

/* A sticky is one for each aggregate, whatever item is at hand. */
static void
read_sticky(const KeyInput *in, const KeyObject *object, KeyPart *part)
{
	KeyInput itemless = *in;

	itemless.has_item = false;
	read_path_of(&itemless, object, &part->path);
	part->place = in->key->stickies++;
}

static void
read_each(const KeyInput *in, const KeyObject *object, KeyPart *part)
{
	KeyInput deeper = below(in, ".key");
	JsonbValue item;

	if (in->single)
		refuse(in, "may give several rows where there can be one",
			   "each, by_type and arrays stand on the outside.");
	read_path_of(in, object, &part->path);
	deeper.single = true;
	deeper.has_item = true;
	in->key->has_item = true;
	es_set_string(&item, pstrdup("$.item"));
	part->count = 1;
	part->parts = palloc(sizeof(KeyPart *));
	part->parts[0] = read_part(deeper, object->has_key ? &object->key : &item);
}

static void
read_concat(const KeyInput *in, const KeyObject *object, KeyPart *part)
{
	JsonbContainer *list = object->argument.val.binary.data;

	if (!es_is_array(&object->argument) || JsonContainerSize(list) == 0)
		refuse(in, "has a \"concat\" that is not an array of keys and values",
			   "Example: {\"concat\": [\"$.payload.shop\", {\"value\": \"/\"}, \"$.payload.id\"]}.");
	part->count = JsonContainerSize(list);
	part->parts = palloc(sizeof(KeyPart *) * part->count);
	for (int i = 0; i < part->count; i++)
	{
		KeyInput deeper = below(in, psprintf(".concat[%d]", i));

		deeper.single = true;
		deeper.in_concat = true;
		part->parts[i] =
			read_part(deeper, getIthJsonbValueFromContainer(list, i));
	}
}

static void
read_literal(const KeyInput *in, const KeyObject *object, KeyPart *part)
{
	JsonbValue value = object->argument;

	if (!in->in_concat || !es_make_string(&value))
		refuse(in,
			   in->in_concat
				   ? "has a \"value\" that is not a string, number or boolean"
				   : "has a \"value\" outside a \"concat\"",
			   KEY_HINT);
	part->text = value.val.string.val;
	part->size = value.val.string.len;
}

/* The view of a lookup, whose names are those of any view. */
static text *
read_view(const KeyInput *in, const JsonbValue *name)
{
	if (name->type != jbvString || name->val.string.len == 0 ||
		pg_mbstrlen_with_len(name->val.string.val, name->val.string.len) >
			ES_MAX_NAME_CHARS)
		refuse(in, "has a \"view\" that is not the name of one",
			   psprintf("A name has 1 to %d characters.", ES_MAX_NAME_CHARS));
	return cstring_to_text_with_len(name->val.string.val, name->val.string.len);
}

static void
read_lookup(const KeyInput *in, const KeyObject *object, KeyPart *part)
{
	const JsonbValue *argument = &object->argument;
	KeyInput here = below(in, ".lookup");
	KeyInput deeper = below(&here, ".key");
	JsonbValue view;
	JsonbValue key;
	JsonbValue path;
	const char *problem;

	if (!es_is_object(argument) ||
		JsonContainerSize(argument->val.binary.data) != 3 ||
		!es_find_member(argument, "view", &view) ||
		!es_find_member(argument, "key", &key) ||
		!es_find_member(argument, "path", &path) || path.type != jbvString)
		refuse(&here, "is not a view, a key and a path",
			   "Example: {\"lookup\": {\"view\": \"orders\", \"key\": \"$.payload.orderId\", \"path\": \"$.customer\"}}.");
	part->view = read_view(&here, &view);
	in->key->views = lappend(in->key->views, part->view);
	problem = es_path_read(&path, &part->view_path);
	if (problem != NULL)
		refuse(&here,
			   psprintf("has a bad \"path\" %.*s: %s", path.val.string.len,
						path.val.string.val, problem),
			   "The path of a lookup is one in the data of a row, such as \"$.customer\".");
	deeper.single = true;
	part->count = 1;
	part->parts = palloc(sizeof(KeyPart *));
	part->parts[0] = read_part(deeper, &key);
}

/* One event type of by_type; the places of stickies begin at a number. */
static void
read_type(const KeyInput *in, KeyPart *part, int i, const JsonbValue *name,
		  const JsonbValue *value)
{
	int size = name->val.string.len;
	char *type = pnstrdup(name->val.string.val, size);
	KeyInput deeper = below(in, psprintf(".by_type.\"%s\"", type));

	if (size == 0 || pg_mbstrlen_with_len(type, size) > ES_MAX_NAME_CHARS)
		refuse(&deeper, "is of no event type",
			   psprintf("An event type has 1 to %d characters.",
						ES_MAX_NAME_CHARS));
	part->types[i] = es_member_name(type, size);
	part->parts[i] = value->type == jbvNull ? NULL : read_part(deeper, value);
}

static void
read_by_type(const KeyInput *in, const KeyObject *object, KeyPart *part)
{
	int first_sticky = in->key->stickies;
	int stickies = first_sticky;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue value;
	int i = 0;

	if (in->single)
		refuse(in, "may give several rows where there can be one",
			   "each, by_type and arrays stand on the outside.");
	if (!es_is_object(&object->argument))
		refuse(in, "has a \"by_type\" that is not an object",
			   "Example: {\"by_type\": {\"OrderPlaced\": \"$.payload.customerId\", \"OrderShipped\": null}}.");
	part->count = JsonContainerSize(object->argument.val.binary.data);
	part->types = palloc(sizeof(MemberName) * Max(part->count, 1));
	part->parts = palloc(sizeof(KeyPart *) * Max(part->count, 1));
	iterator = JsonbIteratorInit(object->argument.val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		in->key->stickies = first_sticky;
		read_type(in, part, i++, &name, &value);
		stickies = Max(stickies, in->key->stickies);
	}
	in->key->stickies = stickies;
}

/* ---------- the whole ---------- */

static int
kind_named(const JsonbValue *name)
{
	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		if (kinds[i] != NULL && es_is_string(name, kinds[i]))
			return i;
	}
	return -1;
}

/* Takes a member of an object; false if it has no business there. */
static bool
take_member(const KeyInput *in, KeyObject *object, const JsonbValue *name,
			const JsonbValue *value)
{
	int kind = kind_named(name);

	if (kind >= 0 && object->kind >= 0)
		refuse(in,
			   psprintf("has both \"%s\" and \"%s\"",
						kinds[Min(kind, object->kind)],
						kinds[Max(kind, object->kind)]),
			   KEY_HINT);
	if (kind >= 0)
	{
		object->kind = kind;
		object->argument = *value;
	}
	else if (es_is_string(name, "zone"))
	{
		object->has_zone = true;
		object->zone = *value;
	}
	else if (es_is_string(name, "key"))
	{
		object->has_key = true;
		object->key = *value;
	}
	else
		return false;
	return true;
}

static KeyObject
take_apart(const KeyInput *in, const JsonbValue *value)
{
	KeyObject object = {.kind = -1};
	JsonbIterator *iterator = JsonbIteratorInit(value->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue member;
	bool timed;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &member, true);
		if (!take_member(in, &object, &name, &member))
			refuse(in,
				   psprintf("has an unknown \"%.*s\"", name.val.string.len,
							name.val.string.val),
				   KEY_HINT);
	}
	if (object.kind < 0)
		refuse(in, "says nothing", KEY_HINT);
	timed = object.kind == KEY_DAY || object.kind == KEY_HOUR ||
			object.kind == KEY_MONTH;
	if ((object.has_zone && !timed) || (object.has_key && object.kind != KEY_EACH))
		refuse(in,
			   psprintf("has a \"%s\" beside \"%s\"",
						object.has_zone && !timed ? "zone" : "key",
						kinds[object.kind]),
			   "day, hour and month take a \"zone\", and each a \"key\".");
	return object;
}

static void
read_object(const KeyInput *in, const JsonbValue *value, KeyPart *part)
{
	KeyObject object = take_apart(in, value);

	part->kind = object.kind;
	switch (part->kind)
	{
		case KEY_STICKY:
			read_sticky(in, &object, part);
			break;
		case KEY_DAY:
		case KEY_HOUR:
		case KEY_MONTH:
			read_path_of(in, &object, &part->path);
			part->zone = read_zone(in, &object);
			break;
		case KEY_CONCAT:
			read_concat(in, &object, part);
			break;
		case KEY_LOOKUP:
			read_lookup(in, &object, part);
			break;
		case KEY_VALUE:
			read_literal(in, &object, part);
			break;
		case KEY_BY_TYPE:
			read_by_type(in, &object, part);
			break;
		case KEY_EACH:
			read_each(in, &object, part);
			break;
		case KEY_PATH:
		case KEY_LIST:
			break;
	}
}

static void
read_list(const KeyInput *in, const JsonbValue *value, KeyPart *part)
{
	JsonbContainer *list = value->val.binary.data;

	if (in->single)
		refuse(in, "may give several rows where there can be one",
			   "each, by_type and arrays stand on the outside.");
	part->kind = KEY_LIST;
	part->count = JsonContainerSize(list);
	if (part->count == 0)
		refuse(in, "is empty", KEY_HINT);
	part->parts = palloc(sizeof(KeyPart *) * part->count);
	for (int i = 0; i < part->count; i++)
		part->parts[i] = read_part(below(in, psprintf("[%d]", i)),
								   getIthJsonbValueFromContainer(list, i));
}

static KeyPart *
read_part(KeyInput in, const JsonbValue *value)
{
	KeyPart *part = palloc0(sizeof(KeyPart));

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (es_is_object(value))
		read_object(&in, value, part);
	else if (es_is_array(value))
		read_list(&in, value, part);
	else if (value->type == jbvString)
	{
		part->kind = KEY_PATH;
		read_path(&in, value, &part->path);
	}
	else
		refuse(&in, "is not a key", KEY_HINT);
	return part;
}

/* Refuses a document that an encoder has made a string. */
static void
check_encoding(const JsonbValue *value)
{
	char first = value->type == jbvString && value->val.string.len > 0
					 ? value->val.string.val[0]
					 : '\0';

	if (first == '{' || first == '[' || first == '"')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("key is JSON within a JSON string"),
						es_hint_encoded_twice(true)));
}

RowKey *
es_row_key_parse(Jsonb *jsonb)
{
	RowKey *key = palloc0(sizeof(RowKey));
	KeyInput in = {.key = key, .place = "$"};
	JsonbValue value;

	key->columns = EV_EVENT_TYPE + 1;
	if (jsonb == NULL)
		es_set_string(&value, pstrdup("$.aggregate_id"));
	else
	{
		/* names and texts stay in a copy of the key */
		jsonb = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(jsonb));
		es_whole_value(jsonb, &value);
		check_encoding(&value);
	}
	key->whole = read_part(in, &value);
	return key;
}

/* ---------- what a key is ---------- */

bool
es_row_key_is_aggregate(const RowKey *key)
{
	return key->whole->kind == KEY_PATH &&
		   key->whole->path.column == EV_AGGREGATE_ID;
}

static bool
divides(const KeyPart *part)
{
	switch (part->kind)
	{
		case KEY_PATH:
		case KEY_DAY:
		case KEY_HOUR:
		case KEY_MONTH:
		case KEY_VALUE:
			return true;
		case KEY_CONCAT:
		case KEY_BY_TYPE:
			for (int i = 0; i < part->count; i++)
			{
				if (part->parts[i] != NULL && !divides(part->parts[i]))
					return false;
			}
			return true;
		case KEY_STICKY:
		case KEY_LOOKUP:
		case KEY_EACH:
		case KEY_LIST:
			break;
	}
	return false;
}

bool
es_row_key_divides(const RowKey *key)
{
	return divides(key->whole);
}
