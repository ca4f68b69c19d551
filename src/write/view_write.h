/*
 * view_write.h
 *		Writing views.
 */
#ifndef ES_VIEW_WRITE_H
#define ES_VIEW_WRITE_H

#include "ground/settings.h"
#include "log/view_table.h"

/* The version that a row must have before it is written; 0 = no row. */
typedef struct ViewExpectation
{
	bool given;
	int64 version;
} ViewExpectation;

/*
 * Puts and deletes distinct keys of one view, in key order.  Returns how many changed.
 *
 * With expectations, one for each write, a key may come several times: each write is
 * judged by the row as those before it leave it, and the last that is accepted stays.
 * VS001, and nothing is written, where one is not met.
 */
extern int64 es_put_view_writes(const ViewWrite *writes,
								const ViewExpectation *expected, int count,
								Durability wanted);
/* The version rule: whether a write changes what is known of its key. */
extern bool es_is_accepted(const ViewWrite *write, const KnownView *known);
extern bool es_is_as_expected(const ViewExpectation *expected,
							  const KnownView *known);
/* Raises VS001. */
extern void es_refuse_version(const ViewWrite *write, int64 expected,
							  const KnownView *known);
/*
 * What the table has of locked keys of one view, and whether there are staged rows of
 * them.
 */
extern KnownView *es_look_in_table(const ViewWrite *writes, int count,
								   bool *staged);
/*
 * Locks a key to the end of the transaction, and settles nothing.  40001 where the
 * transaction's own snapshot does not show what is known of the key now.
 */
extern void es_lock_view_key(Datum view_name, Datum view_key);
/* Waits until what others have staged of a view is durable. */
extern void es_settle_view(Datum view_name);
/* Removes all rows of a view, staged ones too; returns how many there were. */
extern int64 es_clear_view_writes(Datum view_name);

#endif /* ES_VIEW_WRITE_H */
