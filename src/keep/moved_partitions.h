/*
 * moved_partitions.h
 *		Events that stand in another partition once they are erased.
 */
#ifndef ES_MOVED_PARTITIONS_H
#define ES_MOVED_PARTITIONS_H

typedef struct PartitionMoves PartitionMoves;

/*
 * Has all members stand still, to the end of the transaction, of subscriptions to these
 * aggregate types, a text[], whose partitions depend on what events have; "renamed": on the
 * ids of aggregates, too.  Before the aggregates are locked.
 */
extern void es_hold_divided(Datum aggregate_types, bool renamed);
/* These subscriptions, in the current memory context. */
extern PartitionMoves *es_begin_partition_moves(Datum aggregate_types,
												bool renamed);
/* Notes an event as it was and as it is, and is going to be written. */
extern void es_note_partition_move(PartitionMoves *moves, const Datum *before,
								   const bool *before_nulls, const Datum *after,
								   const bool *after_nulls);
/*
 * What was noted, and is written, is given once, and comes once.  A second time it does
 * nothing.
 */
extern void es_carry_out_partition_moves(PartitionMoves *moves);

#endif /* ES_MOVED_PARTITIONS_H */
