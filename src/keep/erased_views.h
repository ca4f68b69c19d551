/*
 * erased_views.h
 *		Views that know of events that are erased.
 */
#ifndef ES_ERASED_VIEWS_H
#define ES_ERASED_VIEWS_H

#include "keep/erased_events.h"

/*
 * Until the transaction ends no projection takes in events of these aggregates, whose locks
 * come after this.
 */
extern void es_hold_views(const ErasedEvents *events);
/*
 * Rows whose key is that of an aggregate are folded anew or, where no projection keeps
 * them, removed; a NOTICE names the views that have to be made anew.  The aggregates are
 * locked, and their events changed.
 */
extern void es_erase_views(const ErasedEvents *events);

#endif /* ES_ERASED_VIEWS_H */
