/*
 * wait.h
 *		Waiting on a condition variable, or for a time.
 */
#ifndef ES_WAIT_H
#define ES_WAIT_H

#include "storage/condition_variable.h"

#include "ground/compat.h"

/* The number of a wait event of ours, registered when first needed. */
static inline uint32
es_wait_event(uint32 *cached, const char *name)
{
	if (*cached == 0)
		*cached = WaitEventExtensionNew(name);
	return *cached;
}

/*
 * Every wait of a call stands between these; begin before the first look at what
 * is waited for, and look again after each wait, which may end early.  "variable"
 * is NULL where only time is waited for.  A wait ends the process when its
 * client has closed the connection.  The timeout is in milliseconds.
 */
extern void es_begin_wait_on(ConditionVariable *variable);
extern void es_wait_on(ConditionVariable *variable, long timeout,
					   uint32 wait_event);
extern void es_end_wait(void);

/*
 * Around waiting for a lock: has the server itself look after the client.  Give
 * the end what the beginning returned, also after an error.
 */
extern int es_begin_lock_wait(void);
extern void es_end_lock_wait(int interval);

#endif /* ES_WAIT_H */
