/*
 * json_value.c
 *		Encoded JSON values: what they are, and how they compare.
 *
 * Money is often a decimal string in JSON, since many programs read JSON numbers
 * as floating point.  So a string of digits is a number wherever rules calculate
 * or compare sizes: "9.50" comes before "10.00".  For an order that holds among
 * any strings, those that are no numbers come after all that are, by their bytes,
 * which is COLLATE "C".  Null, booleans, arrays and objects have no order.
 *
 * Equality is another matter: there 1 and "1" are two values, as in jsonb.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "replay/json_value.h"

bool
es_is_object(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		   JsonContainerIsObject(value->val.binary.data);
}

bool
es_is_array(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		   JsonContainerIsArray(value->val.binary.data);
}

bool
es_is_string(const JsonbValue *value, const char *string)
{
	return value->type == jbvString &&
		   value->val.string.len == (int) strlen(string) &&
		   memcmp(value->val.string.val, string, value->val.string.len) == 0;
}

bool
es_find_member(const JsonbValue *object, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(object->val.binary.data, name,
										strlen(name), value) != NULL;
}

void
es_set_string(JsonbValue *value, char *string)
{
	value->type = jbvString;
	value->val.string.val = string;
	value->val.string.len = strlen(string);
}

bool
es_make_string(JsonbValue *value)
{
	if (value->type == jbvNumeric)
		es_set_string(value,
					  DatumGetCString(DirectFunctionCall1(
						  numeric_out, NumericGetDatum(value->val.numeric))));
	else if (value->type == jbvBool)
		es_set_string(value, value->val.boolean ? "true" : "false");
	return value->type == jbvString;
}

/* ---------- numbers ---------- */

static int
count_digits(const char *string, int size)
{
	int count = 0;

	while (count < size && string[count] >= '0' && string[count] <= '9')
		count++;
	return count;
}

bool
es_is_decimal(const char *string, int size)
{
	int digits;

	if (size > 0 && (string[0] == '-' || string[0] == '+'))
	{
		string++;
		size--;
	}
	digits = count_digits(string, size);
	if (digits == 0 || digits == size)
		return digits > 0;
	string += digits;
	size -= digits;
	return size > 1 && string[0] == '.' &&
		   count_digits(string + 1, size - 1) == size - 1;
}

Numeric
es_number_of(const JsonbValue *value)
{
	char *decimal;

	if (value->type == jbvNumeric)
		return value->val.numeric;
	decimal = pnstrdup(value->val.string.val, value->val.string.len);
	return DatumGetNumeric(DirectFunctionCall3(numeric_in,
											   CStringGetDatum(decimal),
											   ObjectIdGetDatum(InvalidOid),
											   Int32GetDatum(-1)));
}

/* ---------- comparing ---------- */

bool
es_same_value(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq,
													NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				   memcmp(a->val.string.val, b->val.string.val,
						  a->val.string.len) == 0;
		case jbvBinary:
			return compareJsonbContainers(a->val.binary.data,
										  b->val.binary.data) == 0;
		default:
			elog(ERROR, "unexpected jsonb value of type %d", (int) a->type);
	}
	return false;
}

bool
es_has_order(const JsonbValue *value)
{
	return value->type == jbvNumeric || value->type == jbvString;
}

int
es_compare_strings(const JsonbValue *a, const JsonbValue *b)
{
	int x = a->val.string.len;
	int y = b->val.string.len;
	int order = memcmp(a->val.string.val, b->val.string.val, Min(x, y));

	return order != 0 ? order : x - y;
}

int
es_compare_values(const JsonbValue *a, const JsonbValue *b)
{
	bool number_a = es_is_number(a);
	bool number_b = es_is_number(b);

	if (number_a != number_b)
		return number_a ? -1 : 1;
	if (!number_a)
		return es_compare_strings(a, b);
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp,
											 NumericGetDatum(es_number_of(a)),
											 NumericGetDatum(es_number_of(b))));
}
