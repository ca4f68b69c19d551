/*
 * consume.h
 *		What every call of a consumer begins with.
 */
#ifndef ES_CONSUME_H
#define ES_CONSUME_H

/*
 * Refuses a standby, a read-only transaction, a parallel worker, a database
 * without a store.
 */
extern void es_begin_consuming(const char *function);
/*
 * Before the first write of a call: what the transaction has staged becomes
 * durable with it, since a consumer's progress must not outlive it.
 */
extern void es_consume_durably(void);

#endif /* ES_CONSUME_H */
