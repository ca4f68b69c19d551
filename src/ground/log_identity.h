/*
 * log_identity.h
 *		Which log positions were last reserved for.
 */
#ifndef ES_LOG_IDENTITY_H
#define ES_LOG_IDENTITY_H

#include "c.h"

/*
 * Whether what a sequence notes is another log than this one; false when nothing
 * is noted.  Call both in a scope of es_begin.
 */
extern bool es_log_is_another(Oid noted);
/* Stores durably which log this one is. */
extern void es_note_log(Oid noted);
/*
 * A number beyond all that another log, which has "last" in common with this one,
 * may have given.
 */
extern int64 es_far_beyond(int64 last);
/* The same for create_store(), where nothing is known yet. */
extern void es_note_new_log(void);

#endif /* ES_LOG_IDENTITY_H */
