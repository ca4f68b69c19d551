/*
 * staged_row.h
 *		The shape of a staged row.
 */
#ifndef ES_STAGED_ROW_H
#define ES_STAGED_ROW_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "storage/itemptr.h"
#include "utils/uuid.h"

#include "ground/event.h"
#include "log/view_table.h"

typedef enum StagedKind
{
	ES_KIND_EVENT = 1, /* a run of events */
	ES_KIND_VIEW = 2   /* a put, or a delete where view_data is NULL */
} StagedKind;

/* Columns of a segment, numbered from 1. */
typedef enum StagedColumn
{
	ST_SID = 1,
	ST_TXN,
	ST_KIND,
	ST_NAME,	 /* aggregate_type or view_name */
	ST_KEY,		 /* aggregate_id or view_key */
	ST_ORDINAL,	 /* sequence of the first event, or for views the sid */
	ST_COUNT,	 /* events */
	ST_EVENT_ID, /* of the first event */
	ST_EVENTS,
	ST_RECORDED_AT, /* when it was staged */
	ST_VIEW_DATA,	/* NULL = deleted */
	ST_VERSION,
	ST_COLUMNS = ST_VERSION
} StagedColumn;

/* The most columns of an index on them. */
#define ST_KEY_COLUMNS 4

/* Rows of one call with one sid hold at most so many events. */
#define ES_WINDOW_EVENTS 1000

/* A row as it stands in a segment, or one event of it. */
typedef struct StagedRow
{
	int64 sid;
	int64 txn;
	StagedKind kind;
	Datum name;
	Datum key;
	int64 ordinal;
	int count;
	Datum events;	 /* packed; of a whole row of kind event */
	int place;		 /* within the window, and ... */
	EventRow event;	 /* ... the event; of one event of a row */
	Datum view_data; /* (Datum) 0 = deleted */
	bool has_version;
	int64 version;
	TimestampTz staged_at;
	bool own; /* written by this transaction */
	int segment;
	ItemPointerData tid;
	void *memory; /* what the Datums point into; see es_staged_free */
} StagedRow;

/*
 * Packs the events of a window into rows, result[0 ..], and returns how many.
 * groups[i] numbers the aggregate of event i (NULL: all of one); open_runs has
 * -1 for each of them, before and after.
 */
extern int es_form_runs(TupleDesc desc, int64 sid, int64 txn, EventRow **rows,
						const int *groups, int count, int *open_runs,
						HeapTuple *result);
extern HeapTuple es_form_view(TupleDesc desc, int64 sid, int64 txn,
							  const ViewWrite *write);
/* Takes a row apart, which points into the tuple. */
extern void es_deform_staged(HeapTuple tuple, TupleDesc desc, int segment,
							 StagedRow *row);

/* The events of a row, unpacked in the current memory context. */
typedef struct UnpackedRun
{
	StagedRow run;
	MinimalTuple *tuples; /* one an event */
	char *memory;
} UnpackedRun;

extern void es_unpack_begin(UnpackedRun *unpacked, const StagedRow *run);
extern void es_unpack_end(UnpackedRun *unpacked);
/* One of them: pointing into the run, or copied. */
extern void es_event_of_run(const UnpackedRun *unpacked, int i, StagedRow *row);
extern void es_copy_event_of_run(const UnpackedRun *unpacked, int i,
								 StagedRow *row);
/* The run with an event_id starts with an id between this and that one. */
extern pg_uuid_t es_event_id_floor(const pg_uuid_t *event_id);

#endif /* ES_STAGED_ROW_H */
