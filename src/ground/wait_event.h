/*
 * wait_event.h
 *		Wait events of ours.
 */
#ifndef ES_WAIT_EVENT_H
#define ES_WAIT_EVENT_H

#include "ground/compat.h"

/* The number of a wait event of ours, registered when first needed. */
static inline uint32
es_wait_event(uint32 *cached, const char *name)
{
	if (*cached == 0)
		*cached = WaitEventExtensionNew(name);
	return *cached;
}

#endif /* ES_WAIT_EVENT_H */
