/*
 * trace.h
 *		What events get from the settings, where the call does not say.
 */
#ifndef ES_TRACE_H
#define ES_TRACE_H

#include "write/event_input.h"

/* Fills in what neither the call nor the event's cause gave. */
extern void es_trace(NewEvents *list);

#endif /* ES_TRACE_H */
