/*
 * unwanted.h
 *		Whether a scheduled event is unwanted by now.
 */
#ifndef ES_UNWANTED_H
#define ES_UNWANTED_H

#include "consume/scheduled_event.h"

/*
 * Whether its aggregate, which is locked, got one of the events that it was not to
 * follow.  Where an upcaster fails nobody can tell: "why" is set then.
 */
extern bool es_is_unwanted(const ScheduledEvent *scheduled, ErrorData **why);

#endif /* ES_UNWANTED_H */
