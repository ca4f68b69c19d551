/*
 * opening.h
 *		Staging is opened and closed.
 */
#ifndef ES_OPENING_H
#define ES_OPENING_H

#include "ground/shmem.h"

/* Puts the row of store_state there that a store must have. */
extern void es_make_store_state(void);
/*
 * Finds out what is staged, and opens staging if somebody wants that or it may not
 * be empty: tells a clean restart from a loss (a new epoch), marks store_state
 * dirty.  Needs a transaction of its own, and staging is open, or known to be
 * closed, once that committed.  Only the worker calls it.
 */
extern void es_open_staging(SharedDatabase *db);
/*
 * Marks staging closed and store_state clean if it is empty and nobody is
 * writing; returns whether it did.  Needs a transaction of its own.
 */
extern bool es_close_staging(void);

#endif /* ES_OPENING_H */
