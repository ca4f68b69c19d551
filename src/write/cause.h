/*
 * cause.h
 *		The event that an append reacts to.
 */
#ifndef ES_CAUSE_H
#define ES_CAUSE_H

#include "ground/event.h"
#include "write/event_input.h"

/*
 * From here on, until NULL is given, what this process appends is caused by an
 * event.  "several": it may as well be caused by another one of a list, which the
 * append cannot tell, and so is refused.
 */
extern void es_set_cause(const EventRow *event, bool several);
/* Whether something was appended since the cause was set. */
extern bool es_has_caused(void);
/* Gives the events of an append what they have of their cause, if there is one. */
extern void es_follow_cause(NewEvents *list);

#endif /* ES_CAUSE_H */
