/*
 * kept_error.h
 *		Errors that are kept to be looked at later, and who sees how much of them.
 */
#ifndef ES_KEPT_ERROR_H
#define ES_KEPT_ERROR_H

/* An error as shared memory keeps it; "" there = none. */
extern char *es_kept_error(int sqlstate, const char *message);
/* Its message; "" = none. */
extern const char *es_kept_message(const char *kept);
/* Whether what events hold may be shown to a role. */
extern bool es_may_read_events(Oid role);
/*
 * As a text, what a role is shown of it, and of one that a table or another part of
 * shared memory has, which begins with its SQLSTATE and a colon where that is known.  Of
 * none 0.
 */
extern Datum es_shown_kept_error(const char *kept, Oid role);
extern Datum es_shown_error(Datum error, Oid role);

#endif /* ES_KEPT_ERROR_H */
