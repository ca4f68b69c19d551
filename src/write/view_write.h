/*
 * view_write.h
 *		Writing views.
 */
#ifndef ES_VIEW_WRITE_H
#define ES_VIEW_WRITE_H

#include "ground/settings.h"
#include "log/view_table.h"

/* Puts and deletes distinct keys, in key order.  Returns how many changed. */
extern int64 es_put_view_writes(const ViewWrite *writes, int count,
								Durability wanted);
/*
 * Locks a key to the end of the transaction, and settles nothing.  40001 where the
 * transaction's own snapshot does not show what is known of the key now.
 */
extern void es_lock_view_key(Datum view_name, Datum view_key);
/* Removes all rows of a view, staged ones too; returns how many there were. */
extern int64 es_clear_view_writes(Datum view_name);

#endif /* ES_VIEW_WRITE_H */
