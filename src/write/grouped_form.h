/*
 * grouped_form.h
 *		Calls and answers as they are handed over.
 */
#ifndef ES_GROUPED_FORM_H
#define ES_GROUPED_FORM_H

#include "write/append.h"

/* A palloc'd call, and its size; NULL if that would be more than "most". */
extern char *es_form_append(const AppendCall *append, bool single, Size most,
							Size *size);
/* The same taken apart: values point into it.  Its aggregates are found. */
extern void es_read_append(char *content, AppendCall *append);

/* The answer to it, when it was decided and written. */
extern char *es_form_append_answer(const AppendCall *append, Size *size);
/* Completes the call as the answer says, or raises its error. */
extern void es_read_append_answer(char *answer, AppendCall *append);

/* The answer that is an error. */
extern char *es_form_error(const ErrorData *error, Size *size);

#endif /* ES_GROUPED_FORM_H */
