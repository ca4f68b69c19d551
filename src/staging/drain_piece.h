/*
 * drain_piece.h
 *		The writing of a piece of a round.
 */
#ifndef ES_DRAIN_PIECE_H
#define ES_DRAIN_PIECE_H

#include "ground/event.h"
#include "ground/pair_table.h"
#include "staging/drain_round.h"
#include "staging/staged_row.h"

typedef struct ViewRow ViewRow;

/* The part of a round that is written in one go. */
typedef struct Piece
{
	Round *round;
	int low; /* ranks low <= rank < high */
	int high;
	bool careful;		   /* every row by itself */
	PairTable *aggregates; /* the sequence each goes on with */
	int64 naggregates;
	EventRow **chunk;
	StagedRow *chunk_rows;
	int nchunk;
	int64 chunk_sid; /* the lowest of theirs */
	Size chunk_bytes;
	MemoryContext chunk_context;
	ViewRow *views; /* view rows, in sid order */
	int nviews;
	PairTable *view_keys; /* the last of views[] of each key */
	Datum *culprits;	  /* per rank - low: type and id of the aggregate
								 * that died in it, or 0 */
} Piece;

/*
 * Writes a Piece: its events in sid order, then its views, then deletes.  The first
 * four members are given, the others zero.
 */
extern void es_write_piece(void *piece);

#endif /* ES_DRAIN_PIECE_H */
