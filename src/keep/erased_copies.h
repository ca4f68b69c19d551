/*
 * erased_copies.h
 *		What else knows of events that are erased.
 */
#ifndef ES_ERASED_COPIES_H
#define ES_ERASED_COPIES_H

#include "keep/erased_events.h"

/*
 * Keeps out who makes copies of these aggregates' events, or is given them in partitions that may
 * change, to the end of the transaction: before the aggregates are locked.
 */
extern void es_hold_copies(const ErasedEvents *events, bool renamed);
/* 55000 where one of them is a saga that has not ended; they are locked. */
extern void es_refuse_running_sagas(const ErasedEvents *events);
/*
 * Takes away what else has something of the events that were changed, and of these
 * aggregates; a NOTICE names the views that are to be made anew.
 */
extern void es_erase_copies(const ErasedEvents *events);
/* An aggregate has another id wherever it stands but in events. */
extern void es_rename_copies(Datum type, Datum id, Datum pseudonym);

#endif /* ES_ERASED_COPIES_H */
