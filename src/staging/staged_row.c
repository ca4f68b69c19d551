/*
 * staged_row.c
 *		The shape of a row in staging, and how events are packed into it.
 *
 * A staged row is one view write, or a run: events that one call appended to
 * one aggregate, one behind the other.  Index entries are most of what staging
 * costs, and a run has three, however many events it holds.
 *
 * A call is staged in windows of at most ES_WINDOW_EVENTS events.  All rows of
 * a window have the same sid, and every event its place in the window: so the
 * drain gives global positions in the order of the call, although the runs of
 * several aggregates overlap.
 *
 * The event_ids of a run grow within one millisecond, as ids made here do; an
 * id that does not fit starts another run.  So an event is found through the
 * index on the first ids of runs: it is in one that starts between the first
 * possible id of its millisecond and its own.
 *
 * Packed events are MinimalTuples, one behind the other, each aligned.  Values
 * stored out of line are fetched before: a pointer within packed bytes would
 * not keep them alive.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "ground/compat.h"
#include "ground/event.h"
#include "log/view_table.h"
#include "staging/staged_row.h"

/*
 * A run takes events up to this many bytes: what fits into a heap row without
 * being compressed or stored out of line.
 */
#define RUN_BYTES 1800

/* The first bytes of a UUIDv7 are the milliseconds since 1970. */
#define ID_TIME_BYTES 6

/*
 * A packed event is a tuple of its place and of the columns that are packed, in
 * their order.
 */
#define PACKED_ROOM (1 + EV_COLUMNS)

static TupleDesc
packed_desc(void)
{
	static TupleDesc kept = NULL;

	if (kept == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
		int columns = 1;
		TupleDesc desc;

		for (int i = 0; i < EV_COLUMNS; i++)
			columns += es_event_columns[i].packed;
		desc = CreateTemplateTupleDesc(columns);
		TupleDescInitEntry(desc, 1, "place", INT4OID, -1, 0);
		columns = 1;
		for (int i = 0; i < EV_COLUMNS; i++)
		{
			if (es_event_columns[i].packed)
				TupleDescInitEntry(desc, ++columns, es_event_columns[i].name,
								   es_event_columns[i].type, -1, 0);
		}
		TupleDescFinalize(desc);
		MemoryContextSwitchTo(caller);
		kept = desc;
	}
	return kept;
}

/* ---------- forming ---------- */

/* A run while it is put together; events are numbered as in their window. */
typedef struct Run
{
	int first;
	int last;
	int count;
	Size bytes;
} Run;

static MinimalTuple
pack(const EventRow *event, int place)
{
	Datum values[PACKED_ROOM];
	bool nulls[PACKED_ROOM];
	int n = 0;

	values[n] = Int32GetDatum(place);
	nulls[n++] = false;
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		Datum value = event->values[i];

		if (!es_event_columns[i].packed)
			continue;
		if (!event->nulls[i] && es_is_varlena(es_event_columns[i].type) &&
			VARATT_IS_EXTERNAL(DatumGetPointer(value)))
			value =
				PointerGetDatum(detoast_external_attr((struct varlena *)
														  DatumGetPointer(value)));
		values[n] = value;
		nulls[n++] = event->nulls[i];
	}
	return heap_form_minimal_tuple(packed_desc(), values, nulls, 0);
}

/* Only ids of version 7 have a time in front. */
static bool
is_version_7(const pg_uuid_t *id)
{
	return id->data[ID_TIME_BYTES] >> 4 == 7;
}

static bool
fits(const Run *run, const EventRow *last, const EventRow *event, Size bytes)
{
	const pg_uuid_t *a = DatumGetUUIDP(last->values[EV_EVENT_ID]);
	const pg_uuid_t *b = DatumGetUUIDP(event->values[EV_EVENT_ID]);

	return run->bytes + bytes <= RUN_BYTES && is_version_7(a) &&
		   is_version_7(b) && memcmp(a->data, b->data, ID_TIME_BYTES) == 0 &&
		   memcmp(a->data, b->data, UUID_LEN) < 0;
}

/* Makes the row of a run, whose events are chained by next[]. */
static HeapTuple
form_run(TupleDesc desc, int64 sid, int64 txn, const Run *run, EventRow **rows,
		 MinimalTuple *tuples, const int *next)
{
	const EventRow *first = rows[run->first];
	Datum values[ST_COLUMNS] = {0};
	bool nulls[ST_COLUMNS] = {false};
	bytea *events = palloc_extended(VARHDRSZ + run->bytes, MCXT_ALLOC_HUGE);
	char *to = VARDATA(events);
	HeapTuple tuple;

	SET_VARSIZE(events, VARHDRSZ + run->bytes);
	for (int i = run->first; i >= 0; i = next[i])
	{
		Size aligned = MAXALIGN(tuples[i]->t_len);

		memcpy(to, tuples[i], tuples[i]->t_len);
		memset(to + tuples[i]->t_len, 0, aligned - tuples[i]->t_len);
		to += aligned;
	}
	values[ST_SID - 1] = Int64GetDatum(sid);
	values[ST_TXN - 1] = Int64GetDatum(txn);
	values[ST_KIND - 1] = Int16GetDatum(ES_KIND_EVENT);
	values[ST_NAME - 1] = first->values[EV_AGGREGATE_TYPE];
	values[ST_KEY - 1] = first->values[EV_AGGREGATE_ID];
	values[ST_ORDINAL - 1] = first->values[EV_SEQUENCE];
	values[ST_COUNT - 1] = Int32GetDatum(run->count);
	values[ST_EVENT_ID - 1] = first->values[EV_EVENT_ID];
	values[ST_EVENTS - 1] = PointerGetDatum(events);
	values[ST_RECORDED_AT - 1] = first->values[EV_RECORDED_AT];
	nulls[ST_VIEW_DATA - 1] = nulls[ST_VERSION - 1] = true;
	tuple = heap_form_tuple(desc, values, nulls);
	pfree(events);
	return tuple;
}

int
es_form_runs(TupleDesc desc, int64 sid, int64 txn, EventRow **rows,
			 const int *groups, int count, int *open_runs, HeapTuple *result)
{
	MinimalTuple *tuples = palloc_array(MinimalTuple, count);
	int *next = palloc_array(int, count);
	Run *runs = palloc_array(Run, count);
	int nruns = 0;

	for (int i = 0; i < count; i++)
	{
		int *open = &open_runs[groups == NULL ? 0 : groups[i]];
		Size bytes;

		tuples[i] = pack(rows[i], i);
		bytes = MAXALIGN(tuples[i]->t_len);
		next[i] = -1;
		if (*open >= 0 &&
			fits(&runs[*open], rows[runs[*open].last], rows[i], bytes))
			next[runs[*open].last] = i;
		else
		{
			*open = nruns++;
			runs[*open] = (Run){.first = i};
		}
		runs[*open].last = i;
		runs[*open].count++;
		runs[*open].bytes += bytes;
	}
	for (int r = 0; r < nruns; r++)
		result[r] = form_run(desc, sid, txn, &runs[r], rows, tuples, next);
	for (int i = 0; i < count; i++)
	{
		open_runs[groups == NULL ? 0 : groups[i]] = -1;
		pfree(tuples[i]);
	}
	pfree(tuples);
	pfree(next);
	pfree(runs);
	return nruns;
}

HeapTuple
es_form_view(TupleDesc desc, int64 sid, int64 txn, const ViewWrite *write)
{
	Datum values[ST_COLUMNS] = {0};
	bool nulls[ST_COLUMNS] = {false};

	values[ST_SID - 1] = Int64GetDatum(sid);
	values[ST_TXN - 1] = Int64GetDatum(txn);
	values[ST_KIND - 1] = Int16GetDatum(ES_KIND_VIEW);
	values[ST_NAME - 1] = write->view_name;
	values[ST_KEY - 1] = write->view_key;
	values[ST_ORDINAL - 1] = Int64GetDatum(sid);
	values[ST_COUNT - 1] = Int32GetDatum(1);
	nulls[ST_EVENT_ID - 1] = nulls[ST_EVENTS - 1] = true;
	values[ST_RECORDED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[ST_VIEW_DATA - 1] = write->view_data;
	nulls[ST_VIEW_DATA - 1] = write->view_data == (Datum) 0;
	values[ST_VERSION - 1] = Int64GetDatum(write->version);
	nulls[ST_VERSION - 1] = !write->has_version;
	return heap_form_tuple(desc, values, nulls);
}

/* ---------- taking apart ---------- */

void
es_deform_staged(HeapTuple tuple, TupleDesc desc, int segment, StagedRow *row)
{
	Datum values[ST_COLUMNS];
	bool nulls[ST_COLUMNS];

	heap_deform_tuple(tuple, desc, values, nulls);
	memset(row, 0, sizeof(*row));
	row->sid = DatumGetInt64(values[ST_SID - 1]);
	row->txn = DatumGetInt64(values[ST_TXN - 1]);
	row->kind = (StagedKind) DatumGetInt16(values[ST_KIND - 1]);
	row->name = values[ST_NAME - 1];
	row->key = values[ST_KEY - 1];
	row->ordinal = DatumGetInt64(values[ST_ORDINAL - 1]);
	row->count = DatumGetInt32(values[ST_COUNT - 1]);
	row->events = values[ST_EVENTS - 1];
	row->staged_at = DatumGetTimestampTz(values[ST_RECORDED_AT - 1]);
	row->view_data =
		nulls[ST_VIEW_DATA - 1] ? (Datum) 0 : values[ST_VIEW_DATA - 1];
	row->has_version = !nulls[ST_VERSION - 1];
	row->version = row->has_version ? DatumGetInt64(values[ST_VERSION - 1]) : 0;
	row->own =
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	row->segment = segment;
	row->tid = tuple->t_self;
	row->memory = tuple;
}

static void
set_value(EventRow *event, EventColumn column, Datum value)
{
	event->values[column] = value;
	event->nulls[column] = false;
}

/* Sets the event of a row, which points into the packed one. */
static void
set_event(StagedRow *row, MinimalTuple tuple, int64 sequence)
{
	EventRow *event = &row->event;
	HeapTupleData whole;
	Datum values[PACKED_ROOM];
	bool nulls[PACKED_ROOM];
	int n = 1;

	whole.t_len = tuple->t_len + MINIMAL_TUPLE_OFFSET;
	whole.t_data = (HeapTupleHeader) ((char *) tuple - MINIMAL_TUPLE_OFFSET);
	heap_deform_tuple(&whole, packed_desc(), values, nulls);
	memset(event->values, 0, sizeof(event->values));
	memset(event->nulls, true, sizeof(event->nulls));
	set_value(event, EV_AGGREGATE_TYPE, row->name);
	set_value(event, EV_AGGREGATE_ID, row->key);
	set_value(event, EV_SEQUENCE, Int64GetDatum(sequence));
	set_value(event, EV_RECORDED_AT, TimestampTzGetDatum(row->staged_at));
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		if (!es_event_columns[i].packed)
			continue;
		event->values[i] = values[n];
		event->nulls[i] = nulls[n++];
	}
	row->place = DatumGetInt32(values[0]);
	row->ordinal = sequence;
	row->count = 1;
}

void
es_unpack_begin(UnpackedRun *unpacked, const StagedRow *run)
{
	bytea *bytes = DatumGetByteaPP(run->events);
	char *from;

	unpacked->run = *run;
	unpacked->memory = palloc_extended(VARSIZE_ANY_EXHDR(bytes), MCXT_ALLOC_HUGE);
	unpacked->tuples = palloc_array(MinimalTuple, run->count);
	memcpy(unpacked->memory, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	if ((Pointer) bytes != DatumGetPointer(run->events))
		pfree(bytes);
	from = unpacked->memory;
	for (int i = 0; i < run->count; i++)
	{
		unpacked->tuples[i] = (MinimalTuple) from;
		from += MAXALIGN(unpacked->tuples[i]->t_len);
	}
}

void
es_unpack_end(UnpackedRun *unpacked)
{
	pfree(unpacked->tuples);
	pfree(unpacked->memory);
	unpacked->tuples = NULL;
}

void
es_event_of_run(const UnpackedRun *unpacked, int i, StagedRow *row)
{
	*row = unpacked->run;
	row->memory = NULL;
	set_event(row, unpacked->tuples[i], unpacked->run.ordinal + i);
}

void
es_copy_event_of_run(const UnpackedRun *unpacked, int i, StagedRow *row)
{
	MinimalTuple tuple = unpacked->tuples[i];
	Size name = VARSIZE_ANY(DatumGetPointer(unpacked->run.name));
	Size key = VARSIZE_ANY(DatumGetPointer(unpacked->run.key));
	Size aligned = MAXALIGN(tuple->t_len);
	char *copy = palloc_extended(aligned + MAXALIGN(name) + key, MCXT_ALLOC_HUGE);

	*row = unpacked->run;
	row->memory = memcpy(copy, tuple, tuple->t_len);
	row->name =
		PointerGetDatum(memcpy(copy + aligned,
							   DatumGetPointer(unpacked->run.name), name));
	row->key = PointerGetDatum(memcpy(copy + aligned + MAXALIGN(name),
									  DatumGetPointer(unpacked->run.key), key));
	set_event(row, (MinimalTuple) copy, unpacked->run.ordinal + i);
}

/* The first id of the millisecond of an event_id. */
pg_uuid_t
es_event_id_floor(const pg_uuid_t *event_id)
{
	pg_uuid_t floor;

	if (!is_version_7(event_id))
		return *event_id;
	memset(&floor, 0, sizeof(floor));
	memcpy(floor.data, event_id->data, ID_TIME_BYTES);
	return floor;
}
