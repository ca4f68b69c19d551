/*
 * staging.c
 *		The unlogged staging table: admitting, writing and reading staged rows.
 *
 * Staging is one logical table in ES_SEGMENTS unlogged tables of equal shape.
 * New rows go to the active segment.  Draining deletes rows, and space comes
 * back by truncating a segment as a whole once nobody can need its rows
 * (drain.c); nothing depends on vacuum.  The segments are ours alone, so they
 * are read and written directly, not through SPI.
 *
 * Each row has a sid, its place in staging order, and the first sid of its
 * transaction.  Rows of events and of view writes share that order.
 *
 * Plain MVCC makes every reader see each row once: the drain deletes staged
 * rows and inserts durable ones in one transaction, so a snapshot sees the one
 * or the other.  Within an aggregate the durable events come first.
 *
 * Opening: only the database worker opens staging (drain.c), after it marked
 * store_state dirty durably; that mark tells after a crash that something may
 * be lost.  A writer announces its row, then checks that staging is open; the
 * worker closes it, then checks that nobody announced one.  So no row slips
 * into closed staging.
 *
 * On a standby unlogged tables cannot be touched: readers skip staging.
 *
 * Called by event_store.c, view_store.c, log.c, replay.c, drain.c.
 */
#include "event_store.h"

#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Waiters look again at least this often, in milliseconds. */
#define WAIT_SLICE_MS 1000

/* A staged write is written through if staging did not open for so long. */
#define OPEN_TIMEOUT_MS 10000

static uint32 wait_open;
static uint32 wait_space;

/* Columns of a segment, numbered from 1. */
enum
{
	ST_SID = 1,
	ST_TXN,
	ST_KIND,
	ST_NAME,	/* aggregate_type or view_name */
	ST_KEY,		/* aggregate_id or view_key */
	ST_ORDINAL, /* sequence, or for views the sid */
	ST_EVENT_ID,
	ST_EVENT_TYPE,
	ST_SCHEMA_VERSION,
	ST_PAYLOAD, /* or view_data; NULL = deleted */
	ST_PAYLOAD_BYTES,
	ST_METADATA,
	ST_CORRELATION_ID,
	ST_CAUSATION_ID,
	ST_SAGA_ID,
	ST_OCCURRED_AT,
	ST_RECORDED_AT, /* when it was staged */
	ST_VERSION,
	ST_COLUMNS = ST_VERSION
};

/* Where each column of an event stands in a segment. */
static const int event_column[EV_COLUMNS] = {0,
											 ST_NAME,
											 ST_KEY,
											 ST_ORDINAL,
											 ST_EVENT_ID,
											 ST_EVENT_TYPE,
											 ST_SCHEMA_VERSION,
											 ST_PAYLOAD,
											 ST_PAYLOAD_BYTES,
											 ST_METADATA,
											 ST_CORRELATION_ID,
											 ST_CAUSATION_ID,
											 ST_SAGA_ID,
											 ST_OCCURRED_AT,
											 ST_RECORDED_AT};

/* ---------- admitting ---------- */

static bool
worker_impossible(SharedDatabase *db)
{
	return db->worker_state == ES_WORKER_UNAVAILABLE;
}

/*
 * Waits until the worker has opened staging.  False when no worker can run, or
 * when the worker found nothing to open: this very transaction may have
 * created the store.
 */
static bool
wait_until_open(SharedDatabase *db)
{
	TimestampTz end =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OPEN_TIMEOUT_MS);
	bool open;

	ConditionVariablePrepareToSleep(&db->drained);
	for (;;)
	{
		open = db->staging_state == ES_STAGING_OPEN &&
			   db->staging_table == es_store()->segments[0].table;
		if (open || worker_impossible(db) || GetCurrentTimestamp() >= end)
			break;
		es_wake_worker(db);
		ConditionVariableTimedSleep(&db->drained, WAIT_SLICE_MS,
									es_wait_event(&wait_open, "EventStoreOpen"));
	}
	ConditionVariableCancelSleep();
	return open;
}

uint64
es_request_drain(SharedDatabase *db)
{
	uint64 request = pg_atomic_add_fetch_u64(&db->drains_requested, 1);

	es_wake_worker(db);
	return request;
}

static void
wait_for_space(SharedDatabase *db)
{
	ConditionVariablePrepareToSleep(&db->drained);
	while (es_staged_rows(db) >= (uint64) es_staging_limit &&
		   es_staging_limit > 0 && !worker_impossible(db))
	{
		es_request_drain(db);
		ConditionVariableTimedSleep(&db->drained, WAIT_SLICE_MS,
									es_wait_event(&wait_space, "EventStoreSpace"));
	}
	ConditionVariableCancelSleep();
}

Durability
es_admit(Durability wanted, int64 rows)
{
	SharedDatabase *db;

	db = es_my_database();
	if (es_draining() && db != NULL && db->staging_state == ES_STAGING_OPEN)
		return ES_STAGED;
	if (wanted == ES_DURABLE)
		return ES_DURABLE;
	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("staging needs the library event_store to be preloaded"),
				 errhint("Set shared_preload_libraries = 'event_store' and restart the server, or use durability 'durable'.")));
	if (es_write_delay == 0 || es_staging_limit == 0)
		return ES_DURABLE;
	if (!wait_until_open(db))
		return ES_DURABLE;
	if (es_staged_rows(db) < (uint64) es_staging_limit || es_holds_locks())
		return ES_STAGED;
	switch (es_on_staging_full)
	{
		case ES_FULL_ERROR:
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
			break;
	}
	return ES_DURABLE;
}

/*
 * Counters are read in the order that transaction.c describes.  While nothing
 * is known about staging since the server started, its tables are looked at.
 */
bool
es_may_have_staged(void)
{
	SharedDatabase *db;

	if (RecoveryInProgress())
		return false;
	db = es_my_database();
	if (db == NULL || db->staging_state == ES_STAGING_UNKNOWN ||
		db->staging_table != es_store()->segments[0].table)
		return true;
	if (pg_atomic_read_u64(&db->uncommitted) > 0)
		return true;
	pg_memory_barrier();
	return es_staged_rows(db) > 0;
}

int64
es_staging_epoch(void)
{
	SharedDatabase *db = es_my_database();

	return db == NULL ? 0 : db->staging_epoch;
}

/* ---------- writing ---------- */

/* Opens the active segment so that it stays the active one while we write. */
static Relation
open_active_segment(SharedDatabase *db, int *segment)
{
	for (;;)
	{
		Relation rel;

		*segment = db->active_segment;
		rel = table_open(es_store()->segments[*segment].table, RowExclusiveLock);
		if (db->active_segment == *segment)
			return rel;
		/* the lock stays until commit, which does no harm */
		table_close(rel, NoLock);
	}
}

/* Writes one row; sid, txn and, for views, the ordinal are filled in here. */
static void
stage(Datum *values, bool *nulls, bool is_event)
{
	SharedDatabase *db = es_my_database();
	Relation rel;
	HeapTuple tuple;
	int segment;
	int64 sid;

	for (;;)
	{
		es_note_staging(db);
		pg_memory_barrier();
		if (db->staging_state == ES_STAGING_OPEN &&
			db->staging_table == es_store()->segments[0].table)
			break;
		es_unnote_staging(db);
		if (!wait_until_open(db))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("staging was closed and no worker opens it again"),
					 errhint("Look for the reason in the server log, or use durability 'durable'.")));
	}
	rel = open_active_segment(db, &segment);
	sid = (int64) pg_atomic_fetch_add_u64(&db->next_sid, 1);
	values[ST_SID - 1] = Int64GetDatum(sid);
	values[ST_TXN - 1] = Int64GetDatum(es_own_txn(sid));
	if (!is_event)
		values[ST_ORDINAL - 1] = Int64GetDatum(sid);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple);
	es_note_staged(segment, &tuple->t_self, is_event);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
}

void
es_stage_event(const EventRow *event)
{
	Datum values[ST_COLUMNS];
	bool nulls[ST_COLUMNS];

	memset(values, 0, sizeof(values));
	memset(nulls, false, sizeof(nulls));
	values[ST_KIND - 1] = Int16GetDatum(ES_KIND_EVENT);
	for (int i = EV_AGGREGATE_TYPE; i < EV_COLUMNS; i++)
	{
		values[event_column[i] - 1] = event->values[i];
		nulls[event_column[i] - 1] = event->nulls[i];
	}
	nulls[ST_VERSION - 1] = true;
	stage(values, nulls, true);
}

void
es_stage_view(Datum view_name, Datum view_key, Datum view_data, bool deleted,
			  bool has_version, int64 version)
{
	Datum values[ST_COLUMNS];
	bool nulls[ST_COLUMNS];

	memset(values, 0, sizeof(values));
	memset(nulls, true, sizeof(nulls));
	for (int i = ST_SID; i <= ST_ORDINAL; i++)
		nulls[i - 1] = false;
	values[ST_KIND - 1] = Int16GetDatum(ES_KIND_VIEW);
	values[ST_NAME - 1] = view_name;
	values[ST_KEY - 1] = view_key;
	values[ST_PAYLOAD - 1] = view_data;
	nulls[ST_PAYLOAD - 1] = deleted;
	values[ST_RECORDED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[ST_RECORDED_AT - 1] = false;
	values[ST_VERSION - 1] = Int64GetDatum(version);
	nulls[ST_VERSION - 1] = !has_version;
	stage(values, nulls, false);
}

/* ---------- reading ---------- */

void
es_staged_deform(HeapTuple tuple, TupleDesc desc, int segment, StagedRow *row)
{
	Datum values[ST_COLUMNS];
	bool nulls[ST_COLUMNS];

	heap_deform_tuple(tuple, desc, values, nulls);
	row->sid = DatumGetInt64(values[ST_SID - 1]);
	row->txn = DatumGetInt64(values[ST_TXN - 1]);
	row->kind = (StagedKind) DatumGetInt16(values[ST_KIND - 1]);
	row->staged_at = DatumGetTimestampTz(values[ST_RECORDED_AT - 1]);
	row->own =
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	row->segment = segment;
	row->tid = tuple->t_self;
	row->tuple = tuple;
	row->event.nulls[EV_GLOBAL_POSITION] = true;
	row->event.values[EV_GLOBAL_POSITION] = (Datum) 0;
	for (int i = EV_AGGREGATE_TYPE; i < EV_COLUMNS; i++)
	{
		row->event.values[i] = values[event_column[i] - 1];
		row->event.nulls[i] = nulls[event_column[i] - 1];
	}
	row->view_name = values[ST_NAME - 1];
	row->view_key = values[ST_KEY - 1];
	row->view_data = nulls[ST_PAYLOAD - 1] ? (Datum) 0 : values[ST_PAYLOAD - 1];
	row->has_version = !nulls[ST_VERSION - 1];
	row->version = row->has_version ? DatumGetInt64(values[ST_VERSION - 1]) : 0;
}

/*
 * A scan over one index of all segments at once, in index order.  Each
 * segment's scan is a step ahead: next[] holds the row it comes to.
 */
struct StagedScan
{
	LOCKMODE lockmode;
	StagedOrder order;
	ScanDirection direction;
	MemoryContext context; /* of this and of next[] */
	Relation tables[ES_SEGMENTS];
	Relation indexes[ES_SEGMENTS];
	SysScanDesc scans[ES_SEGMENTS]; /* NULL = nothing there */
	HeapTuple next[ES_SEGMENTS];
};

static Oid
segment_index(const StagingSegment *segment, StagedOrder order)
{
	switch (order)
	{
		case ES_BY_KEY:
			return segment->by_key;
		case ES_BY_EVENT_ID:
			return segment->by_event_id;
		default:
			return segment->by_txn;
	}
}

static void
advance(StagedScan *scan, int segment)
{
	HeapTuple tuple =
		systable_getnext_ordered(scan->scans[segment], scan->direction);
	MemoryContext caller = MemoryContextSwitchTo(scan->context);

	if (!HeapTupleIsValid(tuple))
		scan->next[segment] = NULL;
	else if (HeapTupleHasExternal(tuple))
		scan->next[segment] =
			toast_flatten_tuple(tuple, RelationGetDescr(scan->tables[segment]));
	else
		scan->next[segment] = heap_copytuple(tuple);
	MemoryContextSwitchTo(caller);
}

/*
 * Starts a scan of all segments that have pages at all.  What it returns
 * is whole: the rows stay good after the segments are closed.
 */
StagedScan *
es_staged_scan(StagedOrder order, ScanDirection direction, Snapshot snapshot,
			   int nkeys, const ScanKeyData *keys, LOCKMODE lockmode)
{
	StagedScan *scan = palloc0(sizeof(StagedScan));

	scan->order = order;
	scan->direction = direction;
	scan->lockmode = lockmode;
	scan->context = CurrentMemoryContext;
	if (RecoveryInProgress())
		return scan;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		StagingSegment segment = es_store()->segments[i];
		Relation table = table_open(segment.table, lockmode);
		ScanKeyData own_keys[3];

		if (RelationGetNumberOfBlocks(table) == 0)
		{
			table_close(table, lockmode);
			continue;
		}
		scan->tables[i] = table;
		scan->indexes[i] =
			index_open(segment_index(&segment, order), AccessShareLock);
		/* the scan renumbers the keys it is given */
		if (nkeys > 0)
			memcpy(own_keys, keys, nkeys * sizeof(ScanKeyData));
		scan->scans[i] = systable_beginscan_ordered(table, scan->indexes[i],
													snapshot, nkeys, own_keys);
		advance(scan, i);
	}
	return scan;
}

static int
compare_column(HeapTuple a, HeapTuple b, TupleDesc desc, int column)
{
	bool isnull;
	Datum x = heap_getattr(a, column, desc, &isnull);
	Datum y = heap_getattr(b, column, desc, &isnull);

	if (column == ST_KEY)
		return DatumGetInt32(DirectFunctionCall2Coll(bttextcmp, C_COLLATION_OID,
													 x, y));
	return DatumGetInt64(x) < DatumGetInt64(y)	 ? -1
		   : DatumGetInt64(x) > DatumGetInt64(y) ? 1
												 : 0;
}

/* Compares two rows in the order of the scan; its leading keys are equal. */
static int
compare_tuples(const StagedScan *scan, HeapTuple a, HeapTuple b, TupleDesc desc)
{
	int result;

	if (scan->order == ES_BY_EVENT_ID)
		return 0;
	result =
		compare_column(a, b, desc, scan->order == ES_BY_KEY ? ST_KEY : ST_TXN);
	if (result == 0)
		result = compare_column(a, b, desc,
								scan->order == ES_BY_KEY ? ST_ORDINAL : ST_SID);
	return ScanDirectionIsBackward(scan->direction) ? -result : result;
}

bool
es_staged_next(StagedScan *scan, StagedRow *row)
{
	int best = -1;
	HeapTuple tuple;

	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if (scan->next[i] != NULL &&
			(best < 0 || compare_tuples(scan, scan->next[i], scan->next[best],
										RelationGetDescr(scan->tables[i])) < 0))
			best = i;
	}
	if (best < 0)
		return false;
	tuple = scan->next[best];
	/* a caller may go from row to row in a context that it resets */
	if (scan->context != CurrentMemoryContext)
	{
		tuple = heap_copytuple(tuple);
		heap_freetuple(scan->next[best]);
	}
	es_staged_deform(tuple, RelationGetDescr(scan->tables[best]), best, row);
	advance(scan, best);
	return true;
}

void
es_staged_end(StagedScan *scan)
{
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if (scan->scans[i] == NULL)
			continue;
		systable_endscan_ordered(scan->scans[i]);
		index_close(scan->indexes[i], AccessShareLock);
		/* who writes keeps its lock until commit */
		table_close(scan->tables[i],
					scan->lockmode == AccessShareLock ? AccessShareLock : NoLock);
	}
	pfree(scan);
}

StagedScan *
es_staged_begin(StagedKind kind, Datum name, Datum key, Snapshot snapshot,
				bool backward)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], ST_KIND, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(kind));
	ScanKeyInit(&keys[1], ST_NAME, BTEqualStrategyNumber, F_TEXTEQ, name);
	if (key != (Datum) 0)
		ScanKeyInit(&keys[2], ST_KEY, BTEqualStrategyNumber, F_TEXTEQ, key);
	return es_staged_scan(ES_BY_KEY,
						  backward ? BackwardScanDirection : ForwardScanDirection,
						  snapshot, key != (Datum) 0 ? 3 : 2, keys,
						  AccessShareLock);
}

bool
es_staged_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot, StagedRow *row)
{
	ScanKeyData key;
	StagedScan *scan;
	bool found;

	ScanKeyInit(&key, ST_EVENT_ID, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(event_id));
	scan = es_staged_scan(ES_BY_EVENT_ID, ForwardScanDirection, snapshot, 1,
						  &key, AccessShareLock);
	found = es_staged_next(scan, row);
	es_staged_end(scan);
	return found;
}
