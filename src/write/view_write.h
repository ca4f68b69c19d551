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
/* Removes all rows of a view, staged ones too; returns how many there were. */
extern int64 es_clear_view_writes(Datum view_name);

#endif /* ES_VIEW_WRITE_H */
