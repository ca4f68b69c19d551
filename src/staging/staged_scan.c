/*
 * staged_scan.c
 *		Reading staged rows: under a snapshot that misses none of them, and in
 *		index order over all segments.
 *
 * Plain MVCC makes every reader see each row once: the drain deletes staged
 * rows and inserts durable ones in one transaction, so a snapshot sees the one
 * or the other.  Within an aggregate the durable events come first.
 *
 * Space is given back by truncating drained segments, also while somebody holds
 * a snapshot older than the drain.  Such a snapshot misses those rows: so a
 * read first locks the segments in use, which keeps them from being truncated,
 * and then asks whether rows that its snapshot shows are gone already
 * (segment.c notes them as a Lost range).  READ COMMITTED then goes on with a
 * newer snapshot; at the higher levels the transaction ends with 40001.
 *
 * A segment is marked as used before the first row is written to it, and not
 * any more after it was truncated.  Segments not marked when the snapshot was
 * there already have no row for it.
 *
 * On a standby unlogged tables cannot be touched: readers skip staging.
 *
 * Staged events of an aggregate that has dead letters are dead letters with the
 * next round: their transactions were open when an earlier event was buried.
 * Readers of aggregates are spared them, since nobody wants the events before a
 * hole and those behind it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/predicate.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "staging/dead_letter.h"
#include "staging/own_rows.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staging_state.h"

/* Columns of view staging: those of an event that are packed, and eight more. */
#define SHOWN_ROOM (8 + EV_COLUMNS)

PG_FUNCTION_INFO_V1(es_show_staged);

/* ---------- a snapshot that misses nothing ---------- */

/*
 * Whether this transaction has made the store: nobody else has seen it.  Looks at what
 * the relation cache says, and waits for nobody who has locked the table.
 */
static bool
is_store_new(void)
{
	Relation log = RelationIdGetRelation(es_store()->events);
	bool made = log != NULL && log->rd_createSubid != InvalidSubTransactionId;

	if (log != NULL)
		RelationClose(log);
	return made;
}

/*
 * Counters are read in the order that own_rows.c describes.  While nothing
 * is known about staging since the server started, its tables are looked at.
 */
bool
es_may_have_staged(void)
{
	SharedDatabase *db;

	if (RecoveryInProgress())
		return false;
	db = es_my_database();
	if (!es_staging_known(db))
		return !is_store_new();
	if (pg_atomic_read_u64(&es_staging(db)->uncommitted) > 0)
		return true;
	pg_memory_barrier();
	return es_staged_rows(db) > 0;
}

/* The segments that may hold rows, a bit each. */
static uint32
segments_in_use(void)
{
	SharedDatabase *db = es_my_database();
	uint32 used = 0;

	if (RecoveryInProgress())
		return 0;
	if (!es_staging_known(db))
		return (1 << ES_SEGMENTS) - 1;
	pg_memory_barrier();
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if (es_staging(db)->segments[i].used)
			used |= 1 << i;
	}
	pg_memory_barrier();
	return used;
}

/* Whether what a committed transaction did is visible in a snapshot. */
static bool
is_visible(FullTransactionId xid, Snapshot snapshot)
{
	uint64 next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (!FullTransactionIdIsValid(xid) ||
		U64FromFullTransactionId(xid) + PG_INT32_MAX < next)
		return true;
	return !XidInMVCCSnapshot(XidFromFullTransactionId(xid), snapshot);
}

/* Whether rows that a snapshot shows were given up. */
static bool
misses_rows(Snapshot snapshot)
{
	SharedDatabase *db = es_my_database();
	LostRange lost[ES_LOST_RANGES];
	int count;

	if (db == NULL || es_staging(db)->lost_count == 0)
		return false;
	LWLockAcquire(db->lock, LW_SHARED);
	count = es_staging(db)->lost_count;
	memcpy(lost, es_staging(db)->lost, count * sizeof(LostRange));
	LWLockRelease(db->lock);
	for (int i = 0; i < count; i++)
	{
		if (is_visible(lost[i].opened, snapshot) &&
			!is_visible(lost[i].emptied, snapshot))
			return true;
	}
	return false;
}

static void
lock_segments(StagedRead *read, uint32 segments)
{
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if ((segments & ~read->locked) & (1 << i))
		{
			LockRelationOid(es_store()->segments[i].table, AccessShareLock);
			read->locked |= 1 << i;
		}
	}
}

/* Whether a snapshot shows all there is to read, and the segments are locked. */
static bool
is_complete(const StagedRead *read, Snapshot snapshot)
{
	return (segments_in_use() & ~read->locked) == 0 && !misses_rows(snapshot);
}

/*
 * Segments come and go, and the drain moves rows: so to SERIALIZABLE staging is
 * one thing, for which the first segment stands.  See begin_writing.
 */
static void
note_serializable_read(void)
{
	Relation table;

	if (!IsolationIsSerializable() || RecoveryInProgress())
		return;
	table = table_open(es_store()->segments[0].table, AccessShareLock);
	PredicateLockRelation(table, GetActiveSnapshot());
	table_close(table, AccessShareLock);
}

void
es_begin_staged_read(StagedRead *read, Snapshot wanted)
{
	Snapshot snapshot;

	read->locked = 0;
	read->table = InvalidOid;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		lock_segments(read, segments_in_use());
		snapshot = wanted != NULL ? wanted : GetLatestSnapshot();
		if (is_complete(read, snapshot))
			break;
		if (wanted == NULL || !misses_rows(wanted))
			continue;
		/* nor can a parallel worker take a snapshot of its own */
		if (IsolationUsesXactSnapshot() || IsInParallelMode())
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to staged rows that were drained"),
					 errdetail("Their space was given back, and the snapshot of this transaction is older."),
					 errhint("The transaction might succeed if retried.")));
		wanted = NULL;
	}
	PushActiveSnapshot(snapshot);
	note_serializable_read();
}

bool
es_begin_latest_read(StagedRead *read, Oid table)
{
	bool staged;

	/* to a snapshot older than the wait it would be empty */
	LockRelationOid(table, AccessShareLock);
	staged = es_may_have_staged();
	if (staged)
		es_begin_staged_read(read, NULL);
	else
	{
		read->locked = 0;
		PushActiveSnapshot(GetLatestSnapshot());
	}
	read->table = table;
	return staged;
}

void
es_end_staged_read(StagedRead *read)
{
	PopActiveSnapshot();
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		if (read->locked & (1 << i))
			UnlockRelationOid(es_store()->segments[i].table, AccessShareLock);
	}
	if (OidIsValid(read->table))
		UnlockRelationOid(read->table, AccessShareLock);
}

/*
 * The snapshot of a REPEATABLE READ transaction shows what the transaction itself
 * has appended, and may not show what others had appended before that.  A state
 * without it is wrong, and a snapshot or view made of it wrong for good.
 */
void
es_check_follows(int64 previous, int64 sequence)
{
	int own;

	if (sequence == previous + 1 || !IsolationUsesXactSnapshot())
		return;
	/* a hole that an owner has left in the log stops nobody */
	(void) es_own_rows(&own);
	if (own == 0 && !es_wrote_durably())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent append"),
			 errdetail("This transaction has appended behind event " INT64_FORMAT
					   " of an aggregate, which its snapshot does not show.",
					   previous + 1),
			 errhint("The transaction might succeed if retried.")));
}

/* ---------- scans ---------- */

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
	StagedRow run; /* whose events are being returned */
	UnpackedRun unpacked;
	int left; /* events of it not returned yet */

	/* of who reads aggregates: */
	bool spares_dead;
	Snapshot snapshot;
	Datum judged;	  /* id of the aggregate that was looked at last */
	bool judged_dead; /* it has dead letters */
};

/*
 * The invalidations of a truncation are lost if its transaction aborts; then the
 * root of a btree, say, would be looked for where it was.
 */
void
es_refresh_segment(int segment)
{
	static uint32 seen[ES_SEGMENTS];
	static Oid table = InvalidOid;
	SharedDatabase *db = es_my_database();
	StagingSegment s = es_store()->segments[segment];
	uint32 generation;

	if (db == NULL)
		return;
	if (table != es_store()->segments[0].table)
	{
		memset(seen, 0, sizeof(seen));
		table = es_store()->segments[0].table;
	}
	generation = pg_atomic_read_u32(&es_staging(db)->generations[segment]);
	if (seen[segment] == generation)
		return;
	RelationCacheInvalidateEntry(s.by_key);
	RelationCacheInvalidateEntry(s.by_event_id);
	RelationCacheInvalidateEntry(s.by_txn);
	seen[segment] = generation;
}

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
	/* the index keeps what it allocates now to the end of the scan */
	MemoryContext caller = MemoryContextSwitchTo(scan->context);
	HeapTuple tuple =
		systable_getnext_ordered(scan->scans[segment], scan->direction);

	if (!HeapTupleIsValid(tuple))
		scan->next[segment] = NULL;
	else if (HeapTupleHasExternal(tuple))
		scan->next[segment] =
			toast_flatten_tuple(tuple, RelationGetDescr(scan->tables[segment]));
	else
		scan->next[segment] = heap_copytuple(tuple);
	MemoryContextSwitchTo(caller);
}

/* The segments with rows that are not drained, a bit each. */
static uint32
live_segments(void)
{
	SharedDatabase *db = es_my_database();
	uint32 live = segments_in_use();

	for (int i = 0; i < ES_SEGMENTS && es_staging_known(db); i++)
	{
		if (pg_atomic_read_u64(&es_staging(db)->segment_rows[i]) == 0)
			live &= ~(1 << i);
	}
	return live;
}

static StagedScan *
scan_segments(StagedOrder order, ScanDirection direction, Snapshot snapshot,
			  int nkeys, const ScanKeyData *keys, LOCKMODE lockmode, uint32 used)
{
	StagedScan *scan = palloc0(sizeof(StagedScan));

	scan->order = order;
	scan->direction = direction;
	scan->lockmode = lockmode;
	scan->context = CurrentMemoryContext;
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		StagingSegment segment = es_store()->segments[i];
		ScanKeyData own_keys[ST_KEY_COLUMNS];
		Relation table;

		if (!(used & (1 << i)))
			continue;
		table = table_open(segment.table, lockmode);
		(void) es_store();
		if (RelationGetNumberOfBlocks(table) == 0)
		{
			table_close(table, lockmode);
			continue;
		}
		scan->tables[i] = table;
		es_refresh_segment(i);
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

StagedScan *
es_staged_scan(StagedOrder order, ScanDirection direction, Snapshot snapshot,
			   int nkeys, const ScanKeyData *keys)
{
	return scan_segments(order, direction, snapshot, nkeys, keys,
						 AccessShareLock, segments_in_use());
}

StagedScan *
es_staged_scan_live(Snapshot snapshot, LOCKMODE lockmode)
{
	return scan_segments(ES_BY_TXN, ForwardScanDirection, snapshot, 0, NULL,
						 lockmode, live_segments());
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

/* The next row, whatever it is. */
static bool
next_row(StagedScan *scan, StagedRow *row)
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
	es_deform_staged(tuple, RelationGetDescr(scan->tables[best]), best, row);
	advance(scan, best);
	return true;
}

/* Whether the events of a row will be dead letters, as those before them are. */
static bool
is_dead(StagedScan *scan, const StagedRow *row)
{
	MemoryContext caller;

	if (!scan->spares_dead || !es_dead_letters_possible())
		return false;
	if (scan->judged == (Datum) 0 || es_compare_keys(scan->judged, row->key) != 0)
	{
		if (scan->judged != (Datum) 0)
			pfree(DatumGetPointer(scan->judged));
		caller = MemoryContextSwitchTo(scan->context);
		scan->judged = PointerGetDatum(PG_DETOAST_DATUM_COPY(row->key));
		MemoryContextSwitchTo(caller);
		scan->judged_dead =
			es_has_dead_letters(row->name, row->key, scan->snapshot);
	}
	return scan->judged_dead;
}

bool
es_staged_next_row(StagedScan *scan, StagedRow *row)
{
	while (next_row(scan, row))
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_dead(scan, row))
			return true;
		es_staged_free(row);
	}
	return false;
}

/* Frees what is left of the run at hand. */
static void
drop_run(StagedScan *scan)
{
	if (scan->run.memory == NULL)
		return;
	es_unpack_end(&scan->unpacked);
	es_staged_free(&scan->run);
}

bool
es_staged_next(StagedScan *scan, StagedRow *row)
{
	int i;

	if (scan->left == 0)
	{
		MemoryContext caller;
		bool found;

		drop_run(scan);
		caller = MemoryContextSwitchTo(scan->context);
		found = es_staged_next_row(scan, &scan->run);
		if (found && scan->run.kind == ES_KIND_EVENT)
		{
			es_unpack_begin(&scan->unpacked, &scan->run);
			scan->left = scan->run.count;
		}
		MemoryContextSwitchTo(caller);
		if (!found)
			return false;
		if (scan->run.kind == ES_KIND_VIEW)
		{
			HeapTuple tuple = heap_copytuple(scan->run.memory);
			int segment = scan->run.segment;

			es_staged_free(&scan->run);
			es_deform_staged(tuple, RelationGetDescr(scan->tables[segment]),
							 segment, row);
			return true;
		}
	}
	i = ScanDirectionIsBackward(scan->direction) ? scan->left - 1
												 : scan->run.count - scan->left;
	es_copy_event_of_run(&scan->unpacked, i, row);
	scan->left--;
	return true;
}

void
es_staged_free(StagedRow *row)
{
	pfree(row->memory);
	row->memory = NULL;
}

void
es_staged_end(StagedScan *scan)
{
	drop_run(scan);
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
	StagedScan *scan;

	ScanKeyInit(&keys[0], ST_KIND, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(kind));
	ScanKeyInit(&keys[1], ST_NAME, BTEqualStrategyNumber, F_TEXTEQ, name);
	if (key != (Datum) 0)
		ScanKeyInit(&keys[2], ST_KEY, BTEqualStrategyNumber, F_TEXTEQ, key);
	scan = es_staged_scan(ES_BY_KEY,
						  backward ? BackwardScanDirection : ForwardScanDirection,
						  snapshot, key != (Datum) 0 ? 3 : 2, keys);
	scan->spares_dead = kind == ES_KIND_EVENT;
	scan->snapshot = snapshot;
	return scan;
}

bool
es_staged_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot, StagedRow *row)
{
	pg_uuid_t floor = es_event_id_floor(event_id);
	ScanKeyData keys[2];
	StagedScan *scan;
	bool found = false;

	ScanKeyInit(&keys[0], ST_EVENT_ID, BTGreaterEqualStrategyNumber, F_UUID_GE,
				UUIDPGetDatum(&floor));
	ScanKeyInit(&keys[1], ST_EVENT_ID, BTLessEqualStrategyNumber, F_UUID_LE,
				UUIDPGetDatum(event_id));
	scan =
		es_staged_scan(ES_BY_EVENT_ID, BackwardScanDirection, snapshot, 2, keys);
	while (!found && es_staged_next(scan, row))
	{
		CHECK_FOR_INTERRUPTS();
		found = memcmp(DatumGetUUIDP(row->event.values[EV_EVENT_ID])->data,
					   event_id->data, UUID_LEN) == 0;
		if (!found)
			es_staged_free(row);
	}
	es_staged_end(scan);
	return found;
}

/* ---------- SQL ---------- */

/* A staged row as view staging shows it. */
static void
show_row(ReturnSetInfo *result, const StagedRow *row)
{
	Datum values[SHOWN_ROOM] = {0};
	bool nulls[SHOWN_ROOM] = {false};
	bool is_event = row->kind == ES_KIND_EVENT;
	int n = 0;

	values[n++] = Int64GetDatum(row->sid + row->place);
	values[n++] = Int64GetDatum(row->txn);
	values[n++] = Int16GetDatum(row->kind);
	values[n++] = row->name;
	values[n++] = row->key;
	values[n++] = Int64GetDatum(row->ordinal);
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		bool is_data = !is_event && i == EV_PAYLOAD;

		if (!es_event_columns[i].packed)
			continue;
		values[n] = is_data ? row->view_data : row->event.values[i];
		nulls[n++] = is_data ? row->view_data == (Datum) 0
							 : !is_event || row->event.nulls[i];
	}
	values[n++] = TimestampTzGetDatum(row->staged_at);
	values[n] = Int64GetDatum(row->version);
	nulls[n] = !row->has_version;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The rows of view staging. */
Datum
es_show_staged(PG_FUNCTION_ARGS)
{
	StagedRead read;
	StagedScan *scan;
	StagedRow row;

	(void) es_store();
	InitMaterializedSRF(fcinfo, 0);
	es_begin_staged_read(&read, GetActiveSnapshot());
	scan = es_staged_scan(ES_BY_TXN, ForwardScanDirection, GetActiveSnapshot(),
						  0, NULL);
	while (es_staged_next(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		show_row((ReturnSetInfo *) fcinfo->resultinfo, &row);
		es_staged_free(&row);
	}
	es_staged_end(scan);
	es_end_staged_read(&read);
	return (Datum) 0;
}
