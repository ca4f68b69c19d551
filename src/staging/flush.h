/*
 * flush.h
 *		Waiting for the drain.
 */
#ifndef ES_FLUSH_H
#define ES_FLUSH_H

/*
 * Returns when all rows staged by transactions that had committed before the
 * call are durable (or dead letters).  For durable writes that meet staged
 * rows.  May be called with locks of aggregates held.
 */
extern void es_settle(void);
/*
 * Moves this transaction's own staged rows into the durable tables, in their
 * order.  Every durable write calls it before writing; nearly always a no-op.
 */
extern void es_move_own_rows(void);

#endif /* ES_FLUSH_H */
