/*
 * pair_table.h
 *		A hash table from pairs of texts to numbers.
 */
#ifndef ES_PAIR_TABLE_H
#define ES_PAIR_TABLE_H

typedef struct PairTable PairTable;

/* The 64-bit hash that stands for a pair of texts in a lock. */
extern uint64 es_pair_hash(Datum first, Datum second);
extern bool es_same_text(Datum a, Datum b);
/* Orders keys as the C collation of the tables does. */
extern int es_compare_keys(Datum a, Datum b);
extern PairTable *es_pair_table(int64 expected_size);
/* The number of a pair, entered if missing (then undefined until set). */
extern int64 *es_pair_enter(PairTable *table, Datum first, Datum second,
							bool *found);
/* Whether a pair was entered. */
extern bool es_pair_find(PairTable *table, Datum first, Datum second);
extern void es_pair_table_drop(PairTable *table);

#endif /* ES_PAIR_TABLE_H */
