/*
 * grouped.h
 *		Calls that are committed together with those of others.
 */
#ifndef ES_GROUPED_H
#define ES_GROUPED_H

#include "ground/settings.h"
#include "write/append.h"
#include "write/view_group.h"

/*
 * Runs an append as it is asked for, by the argument or by the setting: grouped where that
 * is possible.  25001 where it was asked for by the argument and stands in a transaction.
 */
extern void es_run_append(AppendCall *append, Durability wanted,
						  bool by_argument, bool single);
/* The same with puts and deletes of views; returns how many rows were accepted. */
extern int64 es_run_put(const char *function, const PutCall *put,
						Durability wanted, bool by_argument);
/* In this process nothing is handed over: it is the store's own. */
extern void es_hand_nothing_over(void);

#endif /* ES_GROUPED_H */
