/*
 * fold_reducer.c
 *		The order logic of fold_setup.sql as a reducer in C.
 *
 * A reducer gets jsonb and returns jsonb.  This one takes the state apart,
 * changes it in place and writes it once, which is as fast as a reducer that
 * keeps nothing between events becomes.
 *
 * Built by bench/folds.py and loaded by CREATE FUNCTION bench.order_c.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#define INITIAL                                                                 \
	"{\"orders\": 0, \"ordered\": \"0.00\", \"balance\": \"0.00\", \"worth\": " \
	"\"0.00\", \"reserved\": {}, \"wanted\": [], \"customer\": {}}"

/* The places of the columns in event_store.event. */
#define EVENT_TYPE 6
#define PAYLOAD 8

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(order_c);

Datum order_c(PG_FUNCTION_ARGS);

/* ---------- trees: objects and arrays with room for one more ---------- */

static JsonbValue
string_value(const char *string)
{
	JsonbValue value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	return value;
}

/* Reads what an iterator has begun, an object or an array, to its end. */
static void
read_container(JsonbIterator **iterator, JsonbIteratorToken begin, JsonbValue *into)
{
	int count = begin == WJB_BEGIN_OBJECT ? into->val.object.nPairs
										  : into->val.array.nElems;
	JsonbIteratorToken token;
	JsonbValue value;
	int n = 0;

	if (begin == WJB_BEGIN_OBJECT)
		into->val.object.pairs = palloc((count + 1) * sizeof(JsonbPair));
	else
		into->val.array.elems = palloc((count + 1) * sizeof(JsonbValue));
	while ((token = JsonbIteratorNext(iterator, &value, false)) !=
		   (begin == WJB_BEGIN_OBJECT ? WJB_END_OBJECT : WJB_END_ARRAY))
	{
		if (token == WJB_KEY)
		{
			into->val.object.pairs[n].key = value;
			continue;
		}
		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
			read_container(iterator, token, &value);
		if (begin == WJB_BEGIN_OBJECT)
			into->val.object.pairs[n++].value = value;
		else
			into->val.array.elems[n++] = value;
	}
}

static JsonbValue *
read_tree(Datum jsonb)
{
	JsonbIterator *iterator = JsonbIteratorInit(&DatumGetJsonbP(jsonb)->root);
	JsonbValue *tree = palloc(sizeof(JsonbValue));
	JsonbIteratorToken token = JsonbIteratorNext(&iterator, tree, false);

	read_container(&iterator, token, tree);
	return tree;
}

/* The order in which jsonb keeps names: the shorter first, then by bytes. */
static int
compare_names(const JsonbValue *a, const JsonbValue *b)
{
	if (a->val.string.len != b->val.string.len)
		return a->val.string.len - b->val.string.len;
	return memcmp(a->val.string.val, b->val.string.val, a->val.string.len);
}

/* Whether there is a member, and its place or the one where it belongs. */
static bool
find_pair(const JsonbValue *object, const JsonbValue *name, int *place)
{
	for (*place = 0; *place < object->val.object.nPairs; (*place)++)
	{
		int order = compare_names(&object->val.object.pairs[*place].key, name);

		if (order >= 0)
			return order == 0;
	}
	return false;
}

static JsonbValue *
find(JsonbValue *object, const char *name)
{
	JsonbValue key = string_value(name);
	int place;

	return find_pair(object, &key, &place)
			   ? &object->val.object.pairs[place].value
			   : NULL;
}

static JsonbValue *
member(JsonbValue *object, const char *name)
{
	JsonbValue *value = find(object, name);

	if (value == NULL)
		elog(ERROR, "there is no %s", name);
	return value;
}

static void
put(JsonbValue *object, JsonbValue name, JsonbValue value)
{
	int count = object->val.object.nPairs;
	JsonbPair *pairs = object->val.object.pairs;
	int place;

	if (!find_pair(object, &name, &place))
	{
		pairs = palloc((count + 2) * sizeof(JsonbPair));
		memcpy(pairs, object->val.object.pairs, place * sizeof(JsonbPair));
		memcpy(pairs + place + 1, object->val.object.pairs + place,
			   (count - place) * sizeof(JsonbPair));
		pairs[place].key = name;
		object->val.object.pairs = pairs;
		object->val.object.nPairs++;
	}
	pairs[place].value = value;
}

static void
set(JsonbValue *object, const char *name, JsonbValue value)
{
	put(object, string_value(name), value);
}

static void
take_out(JsonbValue *object, const JsonbValue *name)
{
	JsonbPair *pairs = object->val.object.pairs;
	int place;

	if (!find_pair(object, name, &place))
		return;
	object->val.object.nPairs--;
	memmove(pairs + place, pairs + place + 1,
			(object->val.object.nPairs - place) * sizeof(JsonbPair));
}

static void
append(JsonbValue *array, JsonbValue value)
{
	int count = array->val.array.nElems;
	JsonbValue *elements = palloc((count + 1) * sizeof(JsonbValue));

	memcpy(elements, array->val.array.elems, count * sizeof(JsonbValue));
	elements[count] = value;
	array->val.array.elems = elements;
	array->val.array.nElems++;
}

/* ---------- the order logic ---------- */

/* A number or a decimal string. */
static Datum
number(JsonbValue *object, const char *name)
{
	JsonbValue *value = member(object, name);

	if (value->type == jbvNumeric)
		return NumericGetDatum(value->val.numeric);
	return DirectFunctionCall3(numeric_in,
							   CStringGetDatum(pnstrdup(value->val.string.val,
														value->val.string.len)),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* Adds to, or takes from, a decimal string of the state. */
static void
add(JsonbValue *state, const char *name, PGFunction operation, Datum amount)
{
	Datum sum = DirectFunctionCall2(operation, number(state, name), amount);

	set(state, name,
		string_value(DatumGetCString(DirectFunctionCall1(numeric_out, sum))));
}

static Datum
worth(JsonbValue *payload)
{
	return DirectFunctionCall2(numeric_mul, number(payload, "price"),
							   number(payload, "quantity"));
}

static void
order_created(JsonbValue *state, JsonbValue *p)
{
	JsonbValue reason = string_value("reason");
	Datum one = DirectFunctionCall1(int4_numeric, Int32GetDatum(1));
	JsonbValue *history;

	take_out(state, &reason);
	set(state, "order", *p);
	set(state, "status", string_value("created"));
	member(state, "orders")->val.numeric =
		DatumGetNumeric(DirectFunctionCall2(numeric_add,
											number(state, "orders"), one));
	add(state, "ordered", numeric_add, number(p, "total"));
	history = read_tree(DirectFunctionCall1(jsonb_in, CStringGetDatum("[]")));
	append(history, string_value("OrderCreated"));
	set(state, "history", *history);
}

/* A merge patch of an object without objects. */
static void
merge(JsonbValue *object, JsonbValue *patch)
{
	for (int i = 0; i < patch->val.object.nPairs; i++)
	{
		JsonbPair *pair = &patch->val.object.pairs[i];

		if (pair->value.type == jbvNull)
			take_out(object, &pair->key);
		else
			put(object, pair->key, pair->value);
	}
}

static void
no_longer_wanted(JsonbValue *wanted, JsonbValue *product)
{
	int left = 0;

	for (int i = 0; i < wanted->val.array.nElems; i++)
	{
		JsonbValue *line = &wanted->val.array.elems[i];

		if (compare_names(member(line, "product_id"), product) != 0)
			wanted->val.array.elems[left++] = *line;
	}
	wanted->val.array.nElems = left;
}

/* What events change that are not noted in the history. */
static void
change_without_note(JsonbValue *state, const char *type, JsonbValue *p)
{
	if (strcmp(type, "OrderCreated") == 0)
		order_created(state, p);
	else if (strcmp(type, "CustomerUpdated") == 0)
		merge(member(state, "customer"), p);
	else if (strcmp(type, "StockReplenished") == 0)
		no_longer_wanted(member(state, "wanted"), member(p, "product_id"));
	else
		elog(ERROR, "no event of an order: %s", type);
}

static void
change(JsonbValue *state, const char *type, JsonbValue *p)
{
	if (strcmp(type, "StockReserved") == 0)
	{
		put(member(state, "reserved"), *member(p, "product_id"),
			*member(p, "quantity"));
		add(state, "worth", numeric_add, worth(p));
	}
	else if (strcmp(type, "StockReleased") == 0)
	{
		take_out(member(state, "reserved"), member(p, "product_id"));
		add(state, "worth", numeric_sub, worth(p));
	}
	else if (strcmp(type, "PaymentProcessed") == 0)
	{
		set(state, "payment_id", *member(p, "payment_id"));
		add(state, "balance", numeric_add, number(p, "amount"));
	}
	else if (strcmp(type, "OrderCancelled") == 0)
	{
		set(state, "status", string_value("cancelled"));
		set(state, "reason",
			find(p, "reason") == NULL ? string_value("not given")
									  : *member(p, "reason"));
	}
	else if (strcmp(type, "OrderConfirmed") == 0)
	{
		set(state, "status", string_value("confirmed"));
		member(state, "reserved")->val.object.nPairs = 0;
		set(state, "worth", string_value("0.00"));
	}
	else if (strcmp(type, "PaymentRefunded") == 0)
	{
		set(state, "status", string_value("refunded"));
		add(state, "balance", numeric_sub, number(p, "amount"));
	}
	else if (strcmp(type, "PaymentFailed") == 0)
		set(state, "reason", *member(p, "reason"));
	else if (strcmp(type, "StockReservationFailed") == 0)
		append(member(state, "wanted"), *p);
	else
	{
		change_without_note(state, type, p);
		return;
	}
	append(member(state, "history"), string_value(type));
}

Datum
order_c(PG_FUNCTION_ARGS)
{
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(1);
	bool isnull;
	char *type =
		TextDatumGetCString(GetAttributeByNum(event, EVENT_TYPE, &isnull));
	JsonbValue *payload = read_tree(GetAttributeByNum(event, PAYLOAD, &isnull));
	JsonbValue *state =
		read_tree(PG_ARGISNULL(0)
					  ? DirectFunctionCall1(jsonb_in, CStringGetDatum(INITIAL))
					  : PG_GETARG_DATUM(0));

	change(state, type, payload);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(state));
}
