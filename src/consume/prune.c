/*
 * prune.c
 *		Old positions of members, deleted from the far end.
 *
 * Positions are inserted and never updated (member.c).  After so many of them the worker
 * deletes those behind the newest, beginning where it ended the last time: dead
 * rows that an old snapshot keeps are then not looked at again and again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "port/atomics.h"
#include "storage/lockdefs.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "consume/member.h"
#include "consume/progress.h"
#include "consume/prune.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"

/* Positions that may have been stored before the worker deletes old ones. */
#define PRUNE_AFTER 1000

typedef struct PruneShare
{
	pg_atomic_uint32 stored;
} PruneShare;

static void
initialise_pruning(void *memory)
{
	pg_atomic_init_u32(&((PruneShare *) memory)->stored, 0);
}

static void clear_pruning(SharedDatabase *db);

static DatabasePart part = {sizeof(PruneShare), initialise_pruning, clear_pruning};

static PruneShare *
share_of(const SharedDatabase *db)
{
	return es_part(db, &part);
}

static void
clear_pruning(SharedDatabase *db)
{
	pg_atomic_write_u32(&share_of(db)->stored, 0);
}

void
es_share_pruning(void)
{
	es_share_by_database(&part);
}

void
es_note_stored(SharedDatabase *db)
{
	if (pg_atomic_add_fetch_u32(&share_of(db)->stored, 1) == PRUNE_AFTER)
		es_nudge_worker(db);
}

bool
es_pruning_due(const SharedDatabase *db)
{
	return pg_atomic_read_u32(&share_of(db)->stored) >= PRUNE_AFTER;
}

/*
 * Deletes the marks of a subscription that all members have passed, where nothing is
 * set aside, which might yet meet them.
 */
static void
prune_marks(Datum name, int64 passed)
{
	static KeptPlan plan = {"DELETE FROM event_store.subscription_marks m"
							" WHERE m.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND m.global_position OPERATOR(pg_catalog.<=) $2"
							" AND NOT EXISTS (SELECT FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1)",
							2,
							{TEXTOID, INT8OID}};
	Datum values[2] = {name, Int64GetDatum(passed)};

	es_execute(&plan, values, NULL, false, SPI_OK_DELETE);
}

/* What a transaction has deleted, of one member. */
typedef struct Pruned
{
	uint64 key;
	int64 number;
	struct Pruned *next;
} Pruned;

static Pruned *pruned = NULL;
/* How many had been stored when it began. */
static uint32 looked_at = 0;

/* Where the next time begins, and when that is; if it was rolled back, as before. */
static void
end_pruning(SharedDatabase *db, bool committed)
{
	for (; pruned != NULL && committed; pruned = pruned->next)
		es_note_pruned(pruned->key, pruned->number);
	if (committed && db != NULL)
		pg_atomic_fetch_sub_u32(&share_of(db)->stored, looked_at);
	pruned = NULL;
	looked_at = 0;
}

static void
remember(uint64 key, int64 number)
{
	Pruned *one = MemoryContextAlloc(TopTransactionContext, sizeof(Pruned));

	*one = (Pruned){key, number, pruned};
	pruned = one;
}

/* Deletes what lies behind the newest position of a member; returns that. */
static int64
prune_member(Datum name, int member)
{
	static KeptPlan plan = {"DELETE FROM event_store.subscription_positions p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND p.member OPERATOR(pg_catalog.=) $2"
							" AND p.number OPERATOR(pg_catalog.>=) $3"
							" AND p.number OPERATOR(pg_catalog.<) $4",
							4,
							{TEXTOID, INT4OID, INT8OID, INT8OID}};
	uint64 key = es_progress_key(es_subscription_hash(name), member);
	MemberState newest;
	Datum values[4] = {name, Int32GetDatum(member)};

	if (!es_read_member(name, member, GetActiveSnapshot(), &newest))
		return 0;
	values[2] = Int64GetDatum(es_read_progress(key).pruned);
	values[3] = Int64GetDatum(newest.number);
	es_execute(&plan, values, NULL, false, SPI_OK_DELETE);
	remember(key, newest.number);
	return newest.position;
}

void
es_prune_positions(SharedDatabase *db)
{
	static KeptPlan all = {"SELECT s.subscription_name, s.members,"
						   " pg_catalog.cardinality(s.old_positions)"
						   " FROM event_store.subscriptions s"};
	OwnerScope scope;
	SPITupleTable *table;
	uint64 count;

	es_at_end(ES_END_PRUNING, end_pruning, NULL);
	looked_at = pg_atomic_read_u32(&share_of(db)->stored);
	PushActiveSnapshot(GetLatestSnapshot());
	es_begin(&scope);
	count = es_execute(&all, NULL, NULL, true, SPI_OK_SELECT);
	table = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum name = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);
		int members = DatumGetInt32(SPI_getbinval(table->vals[i],
												  table->tupdesc, 2, &isnull));
		/* NULL is 0 */
		int old_members =
			DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 3,
										&isnull));
		int64 passed = PG_INT64_MAX;

		/* one that is just being dropped, say: its rows are not waited for */
		if (!es_try_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name),
							  ShareLock))
			continue;
		for (int m = 0; m < members; m++)
			passed = Min(passed, prune_member(name, m));
		/* of those that a resize has dropped, the newest is kept for its number */
		for (int m = members; m < old_members; m++)
			(void) prune_member(name, m);
		prune_marks(name, passed);
	}
	es_end(&scope);
	PopActiveSnapshot();
}
