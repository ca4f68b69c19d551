/*
 * json_record.c
 *		Records of C as JSON objects, by a table of their fields.
 *
 * What is zero, NULL or false is left out, so an object says only what is so, and a
 * record that is read begins zeroed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "ground/compat.h"
#include "ground/iso_time.h"
#include "replay/json_record.h"
#include "replay/json_value.h"
#include "replay/state.h"

#define AT(record, field, type) \
	(*(type *) ((char *) (record) + (field)->offset))
#define READ(record, field, type) \
	(*(type const *) ((const char *) (record) + (field)->offset))

/* Whether a field has anything to say. */
static bool
is_set(const Field *field, const void *record)
{
	switch (field->kind)
	{
		case FIELD_TEXT:
			return READ(record, field, char *) != NULL;
		case FIELD_INT:
		case FIELD_WORD:
			return READ(record, field, int) != 0;
		case FIELD_LONG:
		case FIELD_TIME:
			return READ(record, field, int64) != 0;
		case FIELD_BOOL:
			return READ(record, field, bool);
		case FIELD_JSON:
			return READ(record, field, Jsonb *) != NULL;
	}
	return false;
}

static void
set_number(JsonbValue *value, int64 number)
{
	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(number);
}

/* Whoever reads it has another time zone, perhaps. */
static void
set_time(JsonbValue *value, TimestampTz time)
{
	int utc = 0;

	es_set_string(value, JsonEncodeDateTime(palloc(MAXDATELEN + 1),
											TimestampTzGetDatum(time),
											TIMESTAMPTZOID, &utc));
}

static void
field_value(const Field *field, const void *record, JsonbValue *value)
{
	switch (field->kind)
	{
		case FIELD_TEXT:
			es_set_string(value,
						  unconstify(char *, READ(record, field, const char *)));
			break;
		case FIELD_INT:
			set_number(value, READ(record, field, int));
			break;
		case FIELD_LONG:
			set_number(value, READ(record, field, int64));
			break;
		case FIELD_BOOL:
			value->type = jbvBool;
			value->val.boolean = true;
			break;
		case FIELD_TIME:
			set_time(value, READ(record, field, TimestampTz));
			break;
		case FIELD_JSON:
			es_whole_value(unconstify(Jsonb *, READ(record, field, const Jsonb *)),
						   value);
			break;
		case FIELD_WORD:
			es_set_string(value,
						  unconstify(char *,
									 field->words[READ(record, field, int)]));
			break;
	}
}

StateNode *
es_add_named(State *state, StateNode *object, const char *name)
{
	return es_node_add_member(state, object,
							  es_member_name(name, (int) strlen(name)));
}

void
es_write_fields(State *state, StateNode *object, const Field *fields, int count,
				const void *record)
{
	for (int i = 0; i < count; i++)
	{
		JsonbValue value;

		if (!is_set(&fields[i], record))
			continue;
		field_value(&fields[i], record, &value);
		es_node_set(state, es_add_named(state, object, fields[i].name), &value);
	}
}

Jsonb *
es_document_of(const JsonbValue *value)
{
	JsonbValue copy = *value;

	return JsonbValueToJsonb(&copy);
}

static int64
number_of(const JsonbValue *value)
{
	return DatumGetInt64(DirectFunctionCall1(numeric_int8,
											 NumericGetDatum(value->val.numeric)));
}

static int
word_of(const Field *field, const JsonbValue *value)
{
	for (int i = 0; field->words[i] != NULL; i++)
	{
		if (es_is_string(value, field->words[i]))
			return i;
	}
	return 0;
}

static void
read_field(const Field *field, const JsonbValue *value, void *record)
{
	bool is_string = value->type == jbvString;

	if (field->kind == FIELD_JSON)
		AT(record, field, Jsonb *) = es_document_of(value);
	else if (field->kind == FIELD_WORD && is_string)
		AT(record, field, int) = word_of(field, value);
	else if (field->kind == FIELD_TEXT && is_string)
		AT(record, field, char *) =
			pnstrdup(value->val.string.val, value->val.string.len);
	else if (field->kind == FIELD_TIME && is_string)
		(void) es_read_iso_time(value->val.string.val, value->val.string.len,
								&AT(record, field, TimestampTz));
	else if (field->kind == FIELD_BOOL && value->type == jbvBool)
		AT(record, field, bool) = value->val.boolean;
	else if (field->kind == FIELD_INT && value->type == jbvNumeric)
		AT(record, field, int) = (int) number_of(value);
	else if (field->kind == FIELD_LONG && value->type == jbvNumeric)
		AT(record, field, int64) = number_of(value);
}

void
es_read_fields(const JsonbValue *object, const Field *fields, int count,
			   void *record)
{
	for (int i = 0; i < count; i++)
	{
		JsonbValue value;

		if (es_find_member(object, fields[i].name, &value))
			read_field(&fields[i], &value, record);
	}
}

void
es_copy_fields(const Field *fields, int count, void *record)
{
	for (int i = 0; i < count; i++)
	{
		const Field *field = &fields[i];

		if (!is_set(field, record))
			continue;
		if (field->kind == FIELD_TEXT)
			AT(record, field, char *) = pstrdup(AT(record, field, char *));
		else if (field->kind == FIELD_JSON)
		{
			Jsonb *document = AT(record, field, Jsonb *);
			Jsonb *copy = palloc(VARSIZE(document));

			memcpy(copy, document, VARSIZE(document));
			AT(record, field, Jsonb *) = copy;
		}
	}
}
