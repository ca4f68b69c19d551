/*
 * partition.h
 *		What keeps events in order with each other.
 */
#ifndef ES_PARTITION_H
#define ES_PARTITION_H

#include "replay/path.h"

typedef enum PartitionBy
{
	ES_BY_AGGREGATE,
	ES_BY_CORRELATION_ID,
	ES_BY_SAGA_ID,
	ES_BY_PATH
} PartitionBy;

typedef struct Partitioning
{
	PartitionBy by;
	int column; /* of the event, which the path begins in */
	RulePath path;
} Partitioning;

/* Reads what partition_by says; 22023 if that is nothing. */
extern void es_read_partitioning(const text *word, Partitioning *partitioning);
/* The partition of an event, whose columns are given. */
extern text *es_partition_of(const Partitioning *partitioning,
							 const Datum *values, const bool *nulls);
/* Which of so many members a partition belongs to; never changes. */
extern int es_partition_member(const text *partition, int members);

#endif /* ES_PARTITION_H */
