/*
 * log_identity.h
 *		Which log positions were last reserved for.
 */
#ifndef ES_LOG_IDENTITY_H
#define ES_LOG_IDENTITY_H

/*
 * Whether positions were last reserved for another log than this one is; false
 * when none was reserved for any.  Call both in a scope of es_begin.
 */
extern bool es_log_is_another(void);
/* Stores durably which log this one is. */
extern void es_note_log(void);
/* The same for create_store(), where nothing is known yet. */
extern void es_note_new_log(void);

#endif /* ES_LOG_IDENTITY_H */
