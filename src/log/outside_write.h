/*
 * outside_write.h
 *		Rows that come into the log around the API.
 */
#ifndef ES_OUTSIDE_WRITE_H
#define ES_OUTSIDE_WRITE_H

/* Set for the next statement that writes to the log, or the schedule: it is one of ours. */
extern bool es_inserts;

/* Installs the hooks; called while the library is preloaded. */
extern void es_watch_log(void);

#endif /* ES_OUTSIDE_WRITE_H */
