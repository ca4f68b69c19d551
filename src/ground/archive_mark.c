/*
 * archive_mark.c
 *		Whether anything was ever moved out of domain_events, and up to which position.
 *
 * Most stores have nothing in their archive, and in the others most calls are about
 * events that are not there.  So calls ask this mark first.  It must be right for
 * whoever misses a row in domain_events under his snapshot, on a standby and right
 * after a restart or a promotion, too.
 *
 * Therefore it is the value of a sequence, as the end of the positions reserved is:
 * what moves rows raises it after its statement and before its commit, whatever
 * becomes of the transaction.  So who sees that a row has gone, and asks after he has taken
 * his snapshot, is told; on a standby the record of the sequence comes before that of the
 * commit.  No row stays locked until the move ends, and nobody needs the archive itself,
 * which somebody may have locked.
 *
 * Shared memory has a copy.  Rows may come into the archive around all this, as when a
 * dump is restored or a publication is applied; so each backend looks itself once,
 * and again after a change of one of the store's relations.  On a standby, and
 * without preload, the sequence is read each time: it is raised as well after a statement that
 * writes such rows (src/log/outside_write.c), and by announce_store().
 *
 * Beside it stands a number that is raised with each statement that moves rows.  An
 * event's id is unique over both tables, but each has an index of its own: who inserts an
 * event has looked for its id under a snapshot; what came into domain_events
 * after that and is in the archive by now, neither this look nor the unique index
 * has met.  A statement that could see such a row raises the number afterwards, before the
 * row can have gone for anybody else.  So who finds the number as it was before his
 * snapshot has missed nothing.
 *
 * But for one thing: a statement sees what its own transaction has appended before
 * others do.  So who moves is counted while his transaction runs, and raises the number
 * once more when others see what it did, before he is no longer counted.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/sdir.h"
#include "access/table.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/transaction.h"

typedef struct ArchiveShare
{
	pg_atomic_uint64 position; /* never falls */
	pg_atomic_uint64 moves;
	pg_atomic_uint32 movers; /* transactions that have moved rows, and run */
} ArchiveShare;

/* Whether this transaction is one of these. */
static bool moves_rows = false;

static void
initialise_share(void *memory)
{
	ArchiveShare *share = memory;

	pg_atomic_init_u64(&share->position, 0);
	pg_atomic_init_u64(&share->moves, 0);
	pg_atomic_init_u32(&share->movers, 0);
}

static void clear_share(SharedDatabase *db);

static DatabasePart share_part = {sizeof(ArchiveShare), initialise_share,
								  clear_share};

static ArchiveShare *
archive_of(SharedDatabase *db)
{
	return es_part(db, &share_part);
}

static void
clear_share(SharedDatabase *db)
{
	pg_atomic_write_u64(&archive_of(db)->position, 0);
}

void
es_share_archive_mark(void)
{
	es_share_by_database(&share_part);
}

/* The value of the sequence, which a reader of rows would need a statement for. */
static int64
noted_position(Oid sequence)
{
	Relation relation = relation_open(sequence, AccessShareLock);
	Buffer buffer = ReadBuffer(relation, 0);
	Form_pg_sequence_data data;
	HeapTupleHeader row;
	int64 position = 0;
	Page page;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	row = (HeapTupleHeader) PageGetItem(page,
										PageGetItemId(page, FirstOffsetNumber));
	data = (Form_pg_sequence_data) ((char *) row + row->t_hoff);
	if (data->is_called)
		position = data->last_value;
	UnlockReleaseBuffer(buffer);
	relation_close(relation, AccessShareLock);
	return position;
}

/* The last position in the archive; at least 1 if there is a row. */
static int64
last_in_archive(const Store *store)
{
	Relation table = table_open(store->archive, AccessShareLock);
	Relation index = index_open(es_store()->archive_by_position, AccessShareLock);
	SnapshotData dirty;
	SysScanDesc scan;
	HeapTuple tuple;
	int64 position = 0;

	/* a parallel worker can take no snapshot of its own */
	InitDirtySnapshot(dirty);
	scan = systable_beginscan_ordered(table, index, &dirty, 0, NULL);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;

		position = DatumGetInt64(heap_getattr(tuple, EV_GLOBAL_POSITION + 1,
											  RelationGetDescr(table), &isnull));
		position = Max(position, 1);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return position;
}

static void
raise_shared(SharedDatabase *db, int64 position)
{
	pg_atomic_uint64 *shared = &archive_of(db)->position;
	uint64 known = pg_atomic_read_u64(shared);

	while (known < (uint64) position &&
		   !pg_atomic_compare_exchange_u64(shared, &known, position))
		;
}

/*
 * Returns whether the archive itself could be looked at.  No lock is kept: who waits asks
 * here, too.
 */
static bool
look(SharedDatabase *db)
{
	Oid table = es_store()->archive;
	Oid index = es_store()->archive_by_position;
	bool is_free;
	bool looks;

	raise_shared(db, noted_position(es_store()->archived_position));
	if (!ConditionalLockRelationOid(table, AccessShareLock))
		return false;
	is_free = ConditionalLockRelationOid(index, AccessShareLock);
	/* with the locks in hand they may be others */
	looks = is_free && es_store()->archive == table &&
			es_store()->archive_by_position == index;
	if (looks)
		raise_shared(db, last_in_archive(es_store()));
	if (is_free)
		UnlockRelationOid(index, AccessShareLock);
	UnlockRelationOid(table, AccessShareLock);
	return looks;
}

int64
es_highest_archived_position(void)
{
	static uint64 looked_at = 0; /* the number of the store */
	const Store *store = es_store();
	SharedDatabase *db;

	if (!OidIsValid(store->archive))
		return 0;
	/* its rows come without anybody saying so */
	if (store->subscribed)
		return PG_INT64_MAX;
	db = es_my_database();
	if (db == NULL || RecoveryInProgress())
		return noted_position(store->archived_position);
	if (looked_at != store->number)
	{
		uint64 number = store->number;

		if (look(db))
			looked_at = number;
	}
	return (int64) pg_atomic_read_u64(&archive_of(db)->position);
}

/* What it has moved can be seen by now. */
static void
end_moves(SharedDatabase *db, bool committed)
{
	if (!moves_rows)
		return;
	moves_rows = false;
	pg_atomic_fetch_add_u64(&archive_of(db)->moves, 1);
	pg_atomic_fetch_sub_u32(&archive_of(db)->movers, 1);
}

static void
count_mover(SharedDatabase *db)
{
	if (moves_rows)
		return;
	es_at_end(ES_END_MOVES, end_moves, NULL);
	moves_rows = true;
	pg_atomic_fetch_add_u32(&archive_of(db)->movers, 1);
}

void
es_note_move(int64 position)
{
	SharedDatabase *db = es_my_database();
	Oid sequence = es_store()->archived_position;

	position = Max(position, 1);
	es_lock_acquire(ES_LOCK_LIFE, ExclusiveLock);
	if (noted_position(sequence) < position)
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence),
							Int64GetDatum(position));
	es_lock_release(ES_LOCK_LIFE, ExclusiveLock);
	if (db == NULL)
		return;
	raise_shared(db, position);
	count_mover(db);
	pg_atomic_fetch_add_u64(&archive_of(db)->moves, 1);
}

void
es_note_archived_rows(void)
{
	int64 position = last_in_archive(es_store());

	if (position > 0)
		es_note_move(position);
}

/* A standby knows of such rows by this mark alone. */
void
es_repair_archive_mark(void)
{
	OwnerScope scope;

	if (!OidIsValid(es_store()->archive))
		return;
	es_begin(&scope);
	if (last_in_archive(es_store()) >
		noted_position(es_store()->archived_position))
		es_note_archived_rows();
	es_end(&scope);
}

uint64
es_moves(void)
{
	SharedDatabase *db = es_my_database();

	return db == NULL ? 0 : pg_atomic_fetch_add_u64(&archive_of(db)->moves, 0);
}

bool
es_moved_since(uint64 moves)
{
	SharedDatabase *db = es_my_database();

	if (!es_anything_moved())
		return false;
	/* in this order: who is no longer counted has raised the number */
	return db == NULL || pg_atomic_fetch_add_u32(&archive_of(db)->movers, 0) > 0 ||
		   es_moves() != moves;
}
