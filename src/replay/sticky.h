/*
 * sticky.h
 *		What aggregates gave last where a key says "sticky".
 */
#ifndef ES_STICKY_H
#define ES_STICKY_H

#include "ground/event.h"
#include "replay/event_rows.h"
#include "replay/row_key.h"

typedef struct Stickies Stickies;

/*
 * Reads what is kept for the aggregates of events, and gives the key access to that and
 * to other views.  "building" is for a rebuild, which keeps its own beside.  In the
 * current memory context, and outside of an owner's scope; the access lives as long.
 */
extern Stickies *es_begin_stickies(Datum projection, const RowKey *key,
								   bool building, const EventRow *events,
								   int count, RowKeyAccess *access);
/* Writes what has changed. */
extern void es_write_stickies(Stickies *stickies);
/* Forgets all of a projection, or those of its rebuild.  In an owner's scope. */
extern void es_forget_stickies(Datum projection, bool building);
/* Those of the rebuild are the projection's from now on.  In an owner's scope. */
extern void es_exchange_stickies(Datum projection);

#endif /* ES_STICKY_H */
