/*
 * staging.c
 *		The unlogged staging table: admitting and writing rows.
 *
 * Staging is one logical table in ES_SEGMENTS unlogged tables of equal shape.
 * New rows go to the active segment.  Draining deletes rows, and space comes
 * back by truncating a segment as a whole (segment.c); nothing depends on
 * vacuum.  The segments are ours alone, so they are written directly, not
 * through SPI.
 *
 * Each row has a sid, its place in staging order, and the first sid of its
 * transaction.  Rows of events and of view writes share that order.
 *
 * Opening: only the database worker opens staging, after it marked store_state
 * dirty durably; that mark tells after a crash that something may be lost.  A
 * writer announces its rows, then checks that staging is open; the worker
 * closes it, then checks that nobody announced one.  So no row slips into
 * closed staging.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lockdefs.h"
#include "storage/predicate.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"
#include "log/view_table.h"
#include "staging/archived_ids.h"
#include "staging/drain_state.h"
#include "staging/own_rows.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staging.h"
#include "staging/staging_state.h"

/* Waiters look again at least this often, in milliseconds. */
#define WAIT_SLICE_MS 1000

/* A staged write is written through if staging did not open for so long. */
#define OPEN_TIMEOUT_MS 10000

/* View rows are inserted so many at a time. */
#define VIEWS_AT_ONCE 64

static uint32 wait_open;
static uint32 wait_space;

/* ---------- admitting ---------- */

/*
 * Waits until the worker has opened staging.  False when no worker can run, or
 * when the worker found nothing to open: this very transaction may have
 * created the store.  The worker itself does not wait.
 */
static bool
wait_until_open(SharedDatabase *db)
{
	TimestampTz end =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OPEN_TIMEOUT_MS);
	bool open;

	if (es_is_worker(db))
		return es_staging_open(db);
	es_begin_wait(db);
	for (;;)
	{
		open = es_staging_open(db);
		if (open || !es_worker_possible(db) || GetCurrentTimestamp() >= end)
			break;
		pg_atomic_write_u32(&es_staging(db)->wanted, 1);
		es_wake_worker(db);
		es_wait(db, WAIT_SLICE_MS, es_wait_event(&wait_open, "EventStoreOpen"));
	}
	es_end_wait();
	return open;
}

/* Waits for space.  The worker, who makes it, does not. */
static void
wait_for_space(SharedDatabase *db)
{
	if (es_is_worker(db))
		return;
	es_begin_blocked();
	es_begin_wait(db);
	while (es_staged_rows(db) >= (uint64) es_staging_limit &&
		   es_staging_limit > 0 && es_worker_possible(db))
	{
		es_request_drain(db);
		es_wait(db, WAIT_SLICE_MS, es_wait_event(&wait_space, "EventStoreSpace"));
	}
	es_end_wait();
	es_end_blocked();
}

/* What is to be staged is written durably, for want of a worker. */
static void
note_unattended(SharedDatabase *db)
{
	if (!es_worker_unavailable(db))
		return;
	es_count(ES_COUNT_UNATTENDED);
	es_complain_of_no_worker(db);
}

Durability
es_admit(Durability wanted, int64 rows)
{
	SharedDatabase *db;

	db = es_my_database();
	if (es_draining() && db != NULL && es_staging_is(db, ES_STAGING_OPEN))
		return ES_STAGED;
	if (wanted != ES_STAGED)
		return ES_DURABLE;
	if (db == NULL)
		es_refuse_without_place("Staging needs");
	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("staging needs the library event_store to be preloaded"),
				 errhint("Set shared_preload_libraries = 'event_store' and restart the server, or use durability 'durable'.")));
	if (es_write_delay == 0 || es_staging_limit == 0)
		return ES_DURABLE;
	/* a crash must not take the later half of a transaction alone */
	if (es_wrote_durably())
		return ES_DURABLE;
	/* what nobody drains would be lost however old it is */
	if (!es_worker_possible(db) || !wait_until_open(db))
	{
		note_unattended(db);
		return ES_DURABLE;
	}
	if (es_staged_rows(db) < (uint64) es_staging_limit || es_holds_locks())
		return ES_STAGED;
	switch (es_on_staging_full)
	{
		case ES_FULL_ERROR:
			es_count(ES_COUNT_REFUSED);
			ereport(ERROR,
					(errcode(ES_ERRCODE_STAGING_FULL),
					 errmsg("staging is full: " INT64_FORMAT
							" rows could not be added",
							rows),
					 errdetail("event_store.staging_limit is %d rows.",
							   es_staging_limit),
					 errhint("Try again later, or set event_store.on_staging_full to 'durable' or 'block'.")));
			break;
		case ES_FULL_BLOCK:
			wait_for_space(db);
			return es_staged_rows(db) < (uint64) es_staging_limit ? ES_STAGED
																  : ES_DURABLE;
		default:
			es_count(ES_COUNT_BYPASSED);
			break;
	}
	return ES_DURABLE;
}

int64
es_staging_epoch(void)
{
	SharedDatabase *db = es_my_database();

	return db == NULL ? 0 : es_staging(db)->epoch;
}

/* ---------- writing ---------- */

/* The active segment, open for writing. */
typedef struct Writer
{
	SharedDatabase *db;
	int segment;
	Relation table;
	Relation by_key;
	Relation by_event_id;
	Relation by_txn;
} Writer;

/* Announces rows, and sees that staging is open from then on. */
static void
announce_rows(SharedDatabase *db, int64 rows)
{
	for (;;)
	{
		es_note_staging(db, rows);
		pg_memory_barrier();
		if (es_staging_open(db))
			return;
		es_unnote_staging(db, rows);
		if (!wait_until_open(db))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("staging was closed and no worker opens it again"),
					 errhint("Look for the reason in the server log, or use durability 'durable'.")));
	}
}

/* Who has read anything staged in a SERIALIZABLE transaction is in conflict. */
static void
note_serializable_write(void)
{
	Relation table = table_open(es_store()->segments[0].table, AccessShareLock);

	CheckForSerializableConflictIn(table, NULL, InvalidBlockNumber);
	table_close(table, AccessShareLock);
}

/* Opens the active segment so that it stays the active one while we write. */
static void
begin_writing(Writer *writer, int64 rows)
{
	StagingSegment segment;

	writer->db = es_my_database();
	announce_rows(writer->db, rows);
	for (;;)
	{
		writer->segment = es_staging(writer->db)->active_segment;
		segment = es_store()->segments[writer->segment];
		writer->table = table_open(segment.table, RowExclusiveLock);
		if (es_staging(writer->db)->active_segment == writer->segment)
			break;
		/* the lock stays until commit, which does no harm */
		table_close(writer->table, NoLock);
	}
	(void) es_store();
	es_refresh_segment(writer->segment);
	if (IsolationIsSerializable())
		note_serializable_write();
	writer->by_key = index_open(segment.by_key, RowExclusiveLock);
	writer->by_event_id = index_open(segment.by_event_id, RowExclusiveLock);
	writer->by_txn = index_open(segment.by_txn, RowExclusiveLock);
}

static void
end_writing(Writer *writer)
{
	index_close(writer->by_txn, NoLock);
	index_close(writer->by_event_id, NoLock);
	index_close(writer->by_key, NoLock);
	table_close(writer->table, NoLock);
}

/*
 * Adds the entries of a row to one index.  The indexes are ours: plain btrees,
 * none unique, which need no more than the values.
 */
static void
index_row(Writer *writer, Relation index, HeapTuple tuple, const Datum *row,
		  const AttrNumber *columns, int ncolumns)
{
	Datum values[ST_KEY_COLUMNS];
	bool nulls[ST_KEY_COLUMNS] = {false};

	for (int i = 0; i < ncolumns; i++)
		values[i] = row[columns[i] - 1];
	(void) index_insert(index, values, nulls, &tuple->t_self, writer->table,
						UNIQUE_CHECK_NO, false, NULL);
}

/* Inserts rows into the segment; sets where they are. */
static void
insert_rows(Writer *writer, HeapTuple *tuples, int count)
{
	CommandId command = GetCurrentCommandId(true);
	TupleTableSlot **slots;

	if (count == 1)
	{
		heap_insert(writer->table, tuples[0], command, 0, NULL);
		return;
	}
	slots = palloc_array(TupleTableSlot *, count);
	for (int i = 0; i < count; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(writer->table),
											&TTSOpsHeapTuple);
		ExecStoreHeapTuple(tuples[i], slots[i], false);
	}
	heap_multi_insert(writer->table, slots, count, command, 0, NULL);
	for (int i = 0; i < count; i++)
	{
		tuples[i]->t_self = slots[i]->tts_tid;
		ExecDropSingleTupleTableSlot(slots[i]);
	}
	pfree(slots);
}

/* Writes rows and remembers them for the end of the transaction. */
static void
write_rows(Writer *writer, HeapTuple *tuples, int count)
{
	static const AttrNumber key[] = {ST_KIND, ST_NAME, ST_KEY, ST_ORDINAL};
	static const AttrNumber event_id[] = {ST_EVENT_ID};
	static const AttrNumber txn[] = {ST_TXN, ST_SID};
	TupleDesc desc = RelationGetDescr(writer->table);

	insert_rows(writer, tuples, count);
	for (int i = 0; i < count; i++)
	{
		Datum row[ST_COLUMNS];
		bool nulls[ST_COLUMNS];
		OwnRow own = {.segment = writer->segment, .tid = tuples[i]->t_self};

		heap_deform_tuple(tuples[i], desc, row, nulls);
		own.sid = DatumGetInt64(row[ST_SID - 1]);
		own.count = DatumGetInt32(row[ST_COUNT - 1]);
		own.is_event = DatumGetInt16(row[ST_KIND - 1]) == ES_KIND_EVENT;
		index_row(writer, writer->by_key, tuples[i], row, key, lengthof(key));
		if (own.is_event)
			index_row(writer, writer->by_event_id, tuples[i], row, event_id,
					  lengthof(event_id));
		index_row(writer, writer->by_txn, tuples[i], row, txn, lengthof(txn));
		es_note_staged(&own);
		heap_freetuple(tuples[i]);
	}
}

/* Takes the next sids; returns the first. */
static int64
take_sids(SharedDatabase *db, int64 count)
{
	return (int64) pg_atomic_fetch_add_u64(&es_staging(db)->next_sid, count);
}

void
es_stage_events(EventRow **rows, const int *groups, int ngroups, int count)
{
	Writer writer;
	int window = Min(count, ES_WINDOW_EVENTS);
	HeapTuple *tuples = palloc_array(HeapTuple, window);
	int *open_runs = palloc_extended(ngroups * sizeof(int), MCXT_ALLOC_HUGE);

	Assert(es_holds_locks());
	for (int i = 0; i < ngroups; i++)
		open_runs[i] = -1;
	begin_writing(&writer, count);
	es_note_unmoved(writer.db);
	for (int start = 0, size; start < count; start += size)
	{
		Size bytes = 0;
		int64 sid;

		CHECK_FOR_INTERRUPTS();
		for (size = 0;
			 size < window && start + size < count && bytes < ES_CHUNK_BYTES;
			 size++)
			bytes += es_event_size(rows[start + size]);
		sid = take_sids(writer.db, size);
		write_rows(&writer, tuples,
				   es_form_runs(RelationGetDescr(writer.table), sid,
								es_own_txn(sid), rows + start,
								groups == NULL ? NULL : groups + start, size,
								open_runs, tuples));
	}
	end_writing(&writer);
	pfree(open_runs);
	pfree(tuples);
}

void
es_stage_views(const ViewWrite *writes, int count)
{
	Writer writer;
	HeapTuple tuples[VIEWS_AT_ONCE];

	Assert(es_holds_locks());
	begin_writing(&writer, count);
	for (int start = 0, size; start < count; start += size)
	{
		int64 sid;

		CHECK_FOR_INTERRUPTS();
		size = Min(count - start, VIEWS_AT_ONCE);
		sid = take_sids(writer.db, size);
		for (int i = 0; i < size; i++)
			tuples[i] = es_form_view(RelationGetDescr(writer.table), sid + i,
									 es_own_txn(sid), &writes[start + i]);
		write_rows(&writer, tuples, size);
	}
	end_writing(&writer);
}
