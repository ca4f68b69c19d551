/*
 * flush.h
 *		Waiting for the drain.
 */
#ifndef ES_FLUSH_H
#define ES_FLUSH_H

/*
 * For durable writes that meet staged rows.  May be called with locks of
 * aggregates held.  Returns when nothing that others have staged is in the way
 * any more; NULL = when all rows staged by transactions that had committed
 * before the call are durable (or dead letters).  Raises 55000 after
 * settle_timeout, and 55P03 after lock_timeout.
 */
extern void es_settle(bool (*in_the_way)(void *arg), void *arg);
/*
 * Moves this transaction's own staged rows into the durable tables, in their
 * order.  Every durable write calls it before writing; nearly always a no-op.
 */
extern void es_move_own_rows(void);

#endif /* ES_FLUSH_H */
