/*
 * json_value.h
 *		Encoded JSON values: what they are, and how they compare.
 */
#ifndef ES_JSON_VALUE_H
#define ES_JSON_VALUE_H

#include "utils/jsonb.h"
#include "utils/numeric.h"

extern bool es_is_object(const JsonbValue *value);
extern bool es_is_array(const JsonbValue *value);
extern bool es_is_string(const JsonbValue *value, const char *string);
/* Finds a member of an object. */
extern bool es_find_member(const JsonbValue *object, const char *name,
						   JsonbValue *value);

extern void es_set_string(JsonbValue *value, char *string);
/*
 * Makes a string, number or boolean the string that ->> gives; false for null,
 * arrays and objects.
 */
extern bool es_make_string(JsonbValue *value);

/* A plain decimal number: no exponent, white space or words. */
extern bool es_is_decimal(const char *string, int size);

/* Whether it is a JSON number or a decimal string. */
static inline bool
es_is_number(const JsonbValue *value)
{
	return value->type == jbvNumeric ||
		   (value->type == jbvString &&
			es_is_decimal(value->val.string.val, value->val.string.len));
}

/* The number that such a value is. */
extern Numeric es_number_of(const JsonbValue *value);

/* As jsonb compares: numbers by value, objects without regard to order. */
extern bool es_same_value(const JsonbValue *a, const JsonbValue *b);
/* Whether it has a place in the order of values: numbers and strings have. */
extern bool es_has_order(const JsonbValue *value);
/*
 * Below, at or above 0, as a comes before b, is the same or comes after it.
 * Numbers and decimal strings go by value, and come before all other strings,
 * which go by their bytes.
 */
extern int es_compare_values(const JsonbValue *a, const JsonbValue *b);
/* The same of two strings, both by their bytes. */
extern int es_compare_strings(const JsonbValue *a, const JsonbValue *b);

#endif /* ES_JSON_VALUE_H */
