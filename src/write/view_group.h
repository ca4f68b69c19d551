/*
 * view_group.h
 *		Puts and deletes of several callers in one transaction.
 */
#ifndef ES_VIEW_GROUP_H
#define ES_VIEW_GROUP_H

#include "log/view_table.h"
#include "write/append.h"
#include "write/view_write.h"

/* A call of put_view, put_views or delete_view. */
typedef struct PutCall
{
	const ViewWrite *writes;		 /* in key order, all of one view */
	const ViewExpectation *expected; /* NULL = none */
	int count;

	Verdict verdict;
	int64 changed;
	int refused; /* the write, and what is known of its key */
	KnownView actual;
} PutCall;

/*
 * Decides the calls, whose keys are locked, one after the other, and writes of each key
 * what is left of them.
 */
extern void es_put_group(PutCall **calls, int count);

#endif /* ES_VIEW_GROUP_H */
