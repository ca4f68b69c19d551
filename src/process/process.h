/*
 * process.h
 *		What launcher and worker have in common.
 */
#ifndef ES_PROCESS_H
#define ES_PROCESS_H

#include "datatype/timestamp.h"

/*
 * Handles signals from here on.  "grace" is the time, in ms, that a process has
 * for what is under way when the server stops; NULL = none.
 */
extern void es_enter_process(const int *grace);
/*
 * Around everything that takes time: SIGTERM ends it, with a FATAL, unless the
 * server stops and there is a grace.  It is canceled then, too, unless it is
 * worth finishing.
 */
extern void es_begin_busy(bool worth_finishing);
extern void es_end_busy(void);
/* Whether SIGTERM asks to leave, to be looked at between what takes time. */
extern bool es_asked_to_leave(void);
/* Whether the server is stopping, and when its grace is over. */
extern bool es_server_stops(void);
extern TimestampTz es_grace_end(void);
/* Whether the settings were read again. */
extern bool es_heed_signals(void);
/* A negative timeout (ms) means until the latch is set. */
extern void es_sleep_on_latch(long timeout, uint32 wait_event);

/*
 * A database's or role's settings must not change how a process works that runs nobody
 * else's statements; it waits for a lock so many ms, 0 = for ever.
 */
extern void es_pin_settings(int lock_timeout);

#endif /* ES_PROCESS_H */
