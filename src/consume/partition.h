/*
 * partition.h
 *		What keeps events in order with each other.
 */
#ifndef ES_PARTITION_H
#define ES_PARTITION_H

#include "replay/path.h"
#include "replay/row_key.h"

typedef enum PartitionBy
{
	ES_BY_AGGREGATE,
	ES_BY_CORRELATION_ID,
	ES_BY_SAGA_ID,
	ES_BY_PATH,
	ES_BY_ROW /* of a view that a projection keeps */
} PartitionBy;

/* The word for the last one, which only projections have. */
#define ES_PARTITION_BY_ROW "row"

typedef struct Partitioning
{
	PartitionBy by;
	int column; /* of the event, which the path begins in */
	RulePath path;
	RowKey *key;
} Partitioning;

/*
 * Reads what partition_by says; 22023 if that is nothing.  The key of a view whose rows
 * are the partitions is NULL where there is none.
 */
extern void es_read_partitioning(const text *word, RowKey *key,
								 Partitioning *partitioning);
extern bool es_is_partitioned_by_row(const text *word);
/* The partition of an event, whose columns are given. */
extern text *es_partition_of(const Partitioning *partitioning,
							 const Datum *values, const bool *nulls);
/* Whether an event's partition is that of what was written, whatever upcasters make of it. */
extern bool es_partition_is_kept(const Partitioning *partitioning);
/* Which of so many members a partition belongs to; never changes. */
extern int es_partition_member(const text *partition, int members);

#endif /* ES_PARTITION_H */
