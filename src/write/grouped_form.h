/*
 * grouped_form.h
 *		Calls and answers as they are handed over.
 */
#ifndef ES_GROUPED_FORM_H
#define ES_GROUPED_FORM_H

#include "write/append.h"
#include "write/view_group.h"

/* A call taken apart. */
typedef struct GroupedRequest
{
	bool puts; /* views, else it appends */
	AppendCall append;
	PutCall put;
} GroupedRequest;

/* A palloc'd call, and its size; NULL if that would be more than "most". */
extern char *es_form_append(const AppendCall *append, bool single, Size most,
							Size *size);
extern char *es_form_put(const PutCall *put, Size most, Size *size);
/* The same taken apart: values point into it.  The aggregates of an append are found. */
extern void es_read_request(char *content, GroupedRequest *request);

/* The answer to it, when it was decided and written. */
extern char *es_form_append_answer(const AppendCall *append, Size *size);
/* Completes the call as the answer says, or raises its error. */
extern void es_read_append_answer(char *answer, AppendCall *append);

extern char *es_form_put_answer(const PutCall *put, Size *size);
/* How many rows were accepted. */
extern int64 es_read_put_answer(char *answer, const PutCall *put);

/* The answer that is an error. */
extern char *es_form_error(const ErrorData *error, Size *size);

#endif /* ES_GROUPED_FORM_H */
