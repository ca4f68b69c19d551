/*
 * settle.h
 *		Dead letters that were settled.
 */
#ifndef ES_SETTLE_H
#define ES_SETTLE_H

/*
 * Removes from dead_letter_history what is older than dead_letter_retention, at most
 * so many rows, 0 = all; returns how many.
 */
extern int64 es_prune_letter_history(int64 most);

#endif /* ES_SETTLE_H */
