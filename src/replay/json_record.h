/*
 * json_record.h
 *		Records of C as JSON objects.
 */
#ifndef ES_JSON_RECORD_H
#define ES_JSON_RECORD_H

#include "utils/jsonb.h"

#include "replay/state.h"

typedef enum FieldKind
{
	FIELD_TEXT, /* char *; NULL is left out */
	FIELD_INT,	/* int, FIELD_LONG int64; 0 is left out */
	FIELD_LONG,
	FIELD_BOOL, /* false is left out */
	FIELD_TIME, /* TimestampTz, in UTC; 0 is left out */
	FIELD_JSON, /* Jsonb *; NULL is left out */
	FIELD_WORD	/* an enum, by its word; the first is left out */
} FieldKind;

/* A field of a record: the member that it is in JSON. */
typedef struct Field
{
	const char *name;
	FieldKind kind;
	Size offset;
	const char *const *words; /* of FIELD_WORD, ended by NULL */
} Field;

/* Adds the fields of a record to an object. */
extern void es_write_fields(State *state, StateNode *object,
							const Field *fields, int count, const void *record);
/*
 * Sets fields of a zeroed record by the members of an object, copied into the current
 * memory context; what is not there, or of another type, stays as it is.
 */
extern void es_read_fields(const JsonbValue *object, const Field *fields,
						   int count, void *record);
/* Copies what the fields of a record point to into the current memory context. */
extern void es_copy_fields(const Field *fields, int count, void *record);
/* A member of that name, which has no value and must get one. */
extern StateNode *es_add_named(State *state, StateNode *object, const char *name);
/* The value as a document of its own. */
extern Jsonb *es_document_of(const JsonbValue *value);

#endif /* ES_JSON_RECORD_H */
