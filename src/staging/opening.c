/*
 * opening.c
 *		Staging is opened and closed; the row of store_state and the marker.
 *
 * Staging is open only while store_state says "dirty", durably, and it is opened
 * only for who stages: a first look at a store that is clean leaves it closed.  So a
 * store that does not stage has nothing to lose.  The unlogged table staging_marker
 * carries the epoch: it is emptied by whatever empties the segments (crash, failover,
 * a restored dump).  So at opening
 *
 *	 marker there				a clean restart: nothing was lost
 *	 marker gone, not dirty		nothing was staged: nothing was lost
 *	 marker gone, dirty			what was staged is lost: a new epoch
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "staging/opening.h"
#include "staging/own_rows.h"
#include "staging/segment.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staging_state.h"

/* A value of the first row of the last SELECT. */
static int64
result_int64(int column, bool *isnull)
{
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								column, isnull);

	return *isnull ? 0 : DatumGetInt64(value);
}

/* The epoch that the marker carries; 0 = there is none. */
static int64
marker_epoch(void)
{
	Oid marker = get_relname_relid("staging_marker", es_store()->schema);
	Relation table = table_open(marker, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan =
		systable_beginscan(table, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple tuple;
	int64 epoch = 0;

	(void) es_store();
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;

		epoch = DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(table),
										   &isnull));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(table, AccessShareLock);
	return epoch;
}

/* Makes the marker carry an epoch, and no other. */
static void
set_marker(int64 epoch)
{
	Oid marker = get_relname_relid("staging_marker", es_store()->schema);
	Relation table = table_open(marker, RowExclusiveLock);
	TupleDesc desc = RelationGetDescr(table);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan =
		systable_beginscan(table, InvalidOid, false, snapshot, 0, NULL);
	Datum value = Int64GetDatum(epoch);
	bool isnull = false;
	HeapTuple tuple;

	(void) es_store();
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		simple_heap_delete(table, &tuple->t_self);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	simple_heap_insert(table, heap_form_tuple(desc, &value, &isnull));
	table_close(table, NoLock);
}

/*
 * Who makes or repairs the store may be another than the owner of its tables, and
 * what that one attached to them does not run as him.  A row that was lost while
 * something was staged comes back with what the marker tells, so that a crash after
 * that loses nothing unnoticed.
 */
void
es_make_store_state(void)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.store_state (staging_epoch, staging_dirty)"
		 " SELECT GREATEST($1, 1), $1 OPERATOR(pg_catalog.>) 0"
		 " WHERE NOT EXISTS (SELECT FROM event_store.store_state)",
		 1,
		 {INT8OID}};
	OwnerScope scope;
	Datum epoch = Int64GetDatum(marker_epoch());

	es_begin(&scope);
	es_execute(&plan, &epoch, NULL, false, SPI_OK_INSERT);
	es_end(&scope);
}

/* Reads what store_state says; returns whether it is dirty. */
static bool
read_store_state(StagingOpening *opening)
{
	static KeptPlan plan = {
		"SELECT s.staging_epoch, s.staging_dirty::int::bigint, s.last_drain_at"
		" FROM event_store.store_state s FOR UPDATE"};
	bool isnull;

	if (es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT) != 1)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table event_store.store_state has no row"),
						errhint("Run SELECT event_store.create_store();")));
	opening->epoch = result_int64(1, &isnull);
	opening->last_drain_at = result_int64(3, &isnull);
	return result_int64(2, &isnull) != 0;
}

/* Tells whether staging was lost, and which epoch it is in from now on. */
static void
settle_epoch(StagingOpening *opening, bool was_dirty)
{
	static KeptPlan dirty =
		{"UPDATE event_store.store_state SET staging_epoch = $1, staging_dirty = true",
		 1,
		 {INT8OID}};
	Datum epoch;

	if (was_dirty && marker_epoch() != opening->epoch)
	{
		opening->epoch++;
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("staging is empty after an unclean stop: what was staged and not drained is lost"),
				 errdetail("The last drain was at %s; staging goes on with epoch " INT64_FORMAT
						   ". The database is \"%s\".",
						   opening->last_drain_at == 0
							   ? "never"
							   : timestamptz_to_str(opening->last_drain_at),
						   opening->epoch, get_database_name(MyDatabaseId))));
	}
	if (marker_epoch() != opening->epoch)
		set_marker(opening->epoch);
	epoch = Int64GetDatum(opening->epoch);
	es_execute(&dirty, &epoch, NULL, false, SPI_OK_UPDATE);
}

/* Counts what is left from before, and sees where new rows go. */
static void
count_leftovers(StagingOpening *opening)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	StagedScan *scan =
		es_staged_scan(ES_BY_TXN, ForwardScanDirection, snapshot, 0, NULL);
	StagedRow row;

	/* above all that were given before a crash or a restart */
	opening->next_sid = Max(GetCurrentTimestamp(), 1);
	while (es_staged_next_row(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		opening->next_sid = Max(opening->next_sid, row.sid + ES_WINDOW_EVENTS);
		opening->rows[row.segment] += row.count;
		if (row.kind == ES_KIND_EVENT)
			opening->events += row.count;
		else
			opening->views++;
		es_staged_free(&row);
	}
	es_staged_end(scan);
	UnregisterSnapshot(snapshot);

	opening->active_segment = 0;
	for (int i = ES_SEGMENTS - 1; i >= 0; i--)
	{
		StagingSegment segment = es_store()->segments[i];

		if (es_is_pristine(&segment))
			opening->active_segment = i;
		else
			opening->used |= 1 << i;
	}
}

void
es_open_staging(SharedDatabase *db)
{
	static KeptPlan letters = {
		"SELECT pg_catalog.count(*) FROM event_store.dead_letters"};
	StagingOpening opening = {0};
	OwnerScope scope;
	bool was_dirty;
	bool isnull;

	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	es_begin(&scope);
	was_dirty = read_store_state(&opening);
	count_leftovers(&opening);
	opening.closed = !was_dirty && opening.events + opening.views == 0 &&
					 pg_atomic_read_u32(&es_staging(db)->wanted) == 0;
	if (!opening.closed)
	{
		ForceSyncCommit();
		settle_epoch(&opening, was_dirty);
	}
	es_execute(&letters, NULL, NULL, false, SPI_OK_SELECT);
	opening.dead_letters = result_int64(1, &isnull);
	es_end(&scope);
	opening.table = es_store()->segments[0].table;
	es_note_opening(&opening);
}

static void
set_staging_state(SharedDatabase *db, StagingState state)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_set_staging_state(db, state);
	LWLockRelease(db->lock);
}

bool
es_close_staging(void)
{
	static KeptPlan clean = {
		"UPDATE event_store.store_state SET staging_dirty = false"};
	SharedDatabase *db = es_my_database();
	OwnerScope scope;
	bool empty;

	es_lock_acquire(ES_LOCK_DRAIN, ExclusiveLock);
	pg_atomic_write_u32(&es_staging(db)->wanted, 0);
	set_staging_state(db, ES_STAGING_CLOSED);
	pg_memory_barrier();
	empty = pg_atomic_read_u64(&es_staging(db)->uncommitted) == 0 &&
			pg_atomic_read_u64(&es_staging(db)->staged_events) == 0 &&
			pg_atomic_read_u64(&es_staging(db)->staged_views) == 0;
	if (!empty)
	{
		set_staging_state(db, ES_STAGING_OPEN);
		es_tell_progress(db);
		return false;
	}
	es_truncate_drained(db, true);
	es_begin(&scope);
	es_execute(&clean, NULL, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
	return true;
}
