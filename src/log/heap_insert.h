/*
 * heap_insert.h
 *		Rows put into domain_events without a statement.
 */
#ifndef ES_HEAP_INSERT_H
#define ES_HEAP_INSERT_H

#include "ground/event.h"

typedef struct HeapInsert HeapInsert;

/*
 * Opens the log for rows as its owner, or returns NULL where they need a statement.
 * What is inserted is seen by whoever comes after es_end_heap_insert; an error in
 * between is cleaned up by the (sub)transaction's abort.
 */
extern HeapInsert *es_begin_heap_insert(void);
extern void es_heap_insert(HeapInsert *insert, EventRow **rows, int count);
extern void es_end_heap_insert(HeapInsert *insert);

#endif /* ES_HEAP_INSERT_H */
