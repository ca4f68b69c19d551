/*
 * view_table.h
 *		The table domain_views.
 */
#ifndef ES_VIEW_TABLE_H
#define ES_VIEW_TABLE_H

#include "datatype/timestamp.h"
#include "storage/itemptr.h"

/* A write of one view key. */
typedef struct ViewWrite
{
	Datum view_name;
	Datum view_key;
	Datum view_data; /* (Datum) 0 = delete */
	bool has_version;
	int64 version;
	TimestampTz updated_at; /* when it was staged; 0 = now */
	Datum at; /* a tid: there is such a row, and nobody else writes it; 0 = not known */
} ViewWrite;

/*
 * Writes one value per (view_name, view_key) by the version rule; rows with
 * data (Datum) 0 are deletes.  Keys are distinct and in key order.  Returns
 * rows changed.
 *
 * "accepted" says that the rule was applied before, when the row was staged
 * under its key's lock: the last of several staged writes of a key replaces the
 * durable row even where a delete between them let the version start again.
 */
extern int64 es_write_views(const ViewWrite *writes, int count, bool accepted);

/*
 * Reads the rows of distinct keys of one view, under the active snapshot, in any
 * order: view_key, view_data, version, ctid stand in SPI's table between
 * es_begin and es_end.  Returns how many there are.
 */
extern uint64 es_read_views(Datum view_name, Datum *keys, int count);

/* What is known of a key before it is written. */
typedef struct KnownView
{
	bool found;
	bool has_version;
	int64 version;
	TimestampTz updated_at;
	ItemPointerData at; /* of the durable row; invalid where it is not in the table */
} KnownView;

/*
 * Reads the durable rows of up to ES_CHUNK_ROWS keys of one view under the active
 * snapshot.
 */
extern void es_find_durable_views(const ViewWrite *writes, int count,
								  KnownView *known);
/* Deletes all rows of a view; returns how many there were. */
extern int64 es_clear_durable_view(Datum view_name);
/* 40001: what is to be written has changed after the transaction's snapshot. */
extern void es_refuse_unseen_view(void);

#endif /* ES_VIEW_TABLE_H */
