/*
 * waker.c
 *		Waiting for the feed, and looking at it for all who wait.
 *
 * The waiter that leads (ground/waiter.c) works out how far it is safe to read, reads
 * what has come since the others looked, each stretch once for all of them, and
 * wakes those for whom something was found.  Under load it takes a short rest after each
 * round: what commits meanwhile costs nobody anything, and is looked at together.
 *
 * It does so in the transaction of its own call, so it must leave nothing behind
 * there.  The log is read without SPI, its lock is released at once, and where somebody
 * has locked it the leader does not wait: those who have something to look at
 * are woken, and wait or not as they would alone.  At SERIALIZABLE what it read
 * would be counted as read by its own transaction, so there it reads nothing
 * either.
 *
 * A standby reads up to the position that the primary's worker stores; it comes in with
 * replay, which wakes nobody: there the leader looks again and again, and who waits for
 * more than events does so, too.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/wait.h"
#include "ground/waiter.h"
#include "read/waker.h"

/* On a standby the leader looks again this often, in milliseconds. */
#define STANDBY_SLICE_MS 100
/* Rounds begin at least this far apart, in milliseconds. */
#define ROUND_REST_MS 5
/* So many events are read between two looks at who waits. */
#define ROUND_EVENTS 10000

/* ---------- a round ---------- */

/* The log, locked; without waiting. */
typedef struct OpenLog
{
	Relation table;
	Relation index;
} OpenLog;

static bool
open_log(OpenLog *log)
{
	Oid table = es_store()->events;
	Oid index;

	if (!ConditionalLockRelationOid(table, AccessShareLock))
		return false;
	index = es_store()->events_by_position;
	if (!ConditionalLockRelationOid(index, AccessShareLock))
	{
		UnlockRelationOid(table, AccessShareLock);
		return false;
	}
	log->table = table_open(table, NoLock);
	log->index = index_open(index, NoLock);
	return true;
}

static void
close_log(OpenLog *log)
{
	index_close(log->index, AccessShareLock);
	table_close(log->table, AccessShareLock);
}

/* Whether a type is one of those. */
static bool
is_among(uint32 type, const uint32 *types, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (types[i] == type)
			return true;
	}
	return count < 0;
}

static bool
matches(const WaitFilter *filter, uint32 aggregate_type, uint32 event_type)
{
	int first = Max(filter->aggregate_types, 0);

	return is_among(aggregate_type, filter->types, filter->aggregate_types) &&
		   is_among(event_type, filter->types + first, filter->event_types);
}

#define COMPARED_PAIRS 256

/* Pairs of types that all filters were compared with in a stretch, by their hash. */
typedef struct Compared
{
	int64 after; /* of the filter that begins last */
	uint64 pairs[COMPARED_PAIRS];
} Compared;

/* Whether events of these types have found all that they find; they have from here on. */
static bool
was_compared(Compared *compared, uint32 aggregate_type, uint32 event_type,
			 int64 position)
{
	uint64 pair = (uint64) aggregate_type << 32 | event_type;
	uint64 *place =
		&compared->pairs[(aggregate_type ^ event_type) % COMPARED_PAIRS];

	if (position <= compared->after || pair == 0)
		return false;
	if (*place == pair)
		return true;
	*place = pair;
	return false;
}

/* Compares an event with the filters that nothing was found for yet. */
static void
compare_event(HeapTuple event, TupleDesc desc, int64 position,
			  Compared *compared, OpenFilter *open, int count)
{
	bool isnull;
	uint32 aggregate_type =
		es_type_hash(heap_getattr(event, EV_AGGREGATE_TYPE + 1, desc, &isnull));
	uint32 event_type =
		es_type_hash(heap_getattr(event, EV_EVENT_TYPE + 1, desc, &isnull));

	if (was_compared(compared, aggregate_type, event_type, position))
		return;
	for (int i = 0; i < count; i++)
	{
		if (open[i].found == 0 && open[i].filter.after < position &&
			matches(&open[i].filter, aggregate_type, event_type))
			open[i].found = position;
	}
}

/* Reads a stretch of the log; returns how far it came. */
static int64
read_stretch(OpenLog *log, int64 after, int64 safe, OpenFilter *open, int count)
{
	TupleDesc desc = RelationGetDescr(log->table);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple event;
	Compared compared = {.after = after};
	int64 position = after;
	int read = 0;

	for (int i = 0; i < count; i++)
		compared.after = Max(compared.after, open[i].filter.after);
	ScanKeyInit(&keys[0], EV_GLOBAL_POSITION + 1, BTGreaterStrategyNumber,
				F_INT8GT, Int64GetDatum(after));
	ScanKeyInit(&keys[1], EV_GLOBAL_POSITION + 1, BTLessEqualStrategyNumber,
				F_INT8LE, Int64GetDatum(safe));
	PushActiveSnapshot(GetLatestSnapshot());
	scan = systable_beginscan_ordered(log->table, log->index,
									  GetActiveSnapshot(), 2, keys);
	while (read < ROUND_EVENTS &&
		   (event = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		bool isnull;

		position = DatumGetInt64(heap_getattr(event, EV_GLOBAL_POSITION + 1,
											  desc, &isnull));
		compare_event(event, desc, position, &compared, open, count);
		read++;
	}
	systable_endscan_ordered(scan);
	PopActiveSnapshot();
	return read == ROUND_EVENTS ? position : safe;
}

/* All who have not looked behind a position are to look for themselves. */
static void
find_all_before(int64 position, OpenFilter *open, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (open[i].filter.after < position)
			open[i].found = open[i].filter.after + 1;
	}
}

/* One stretch for all, and who is woken by it; returns how far it came. */
static int64
look_at_stretch(SharedDatabase *db, int64 safe, OpenFilter *open, int count)
{
	int64 after = safe;
	int64 reached = safe;
	OpenLog log;

	for (int i = 0; i < count; i++)
		after = Min(after, open[i].filter.after);
	if (IsolationIsSerializable() || !open_log(&log))
		find_all_before(PG_INT64_MAX, open, count);
	else
	{
		reached = read_stretch(&log, after, safe, open, count);
		close_log(&log);
		/* an event may have gone to the archive before anybody looked */
		find_all_before(es_highest_archived_position(), open, count);
	}
	es_close_filters(db, open, count, reached);
	return reached;
}

static int64
safe_position(SharedDatabase *db)
{
	FeedState state = {0};

	(void) es_own_store();
	if (RecoveryInProgress())
		return es_stored_safe_position();
	es_read_feed_state(db, &state);
	return state.safe;
}

/* Looks for all who wait. */
static void
look_for_all(SharedDatabase *db)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store waiters",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	int64 reached = 0;
	int64 safe;

	es_begin_round(db);
	safe = safe_position(db);
	while (reached < safe)
	{
		int most = es_count_waiters(db) * ES_WAIT_FILTERS;
		OpenFilter *open = palloc0(Max(most, 1) * sizeof(OpenFilter));
		int count = es_open_filters(db, safe, open, most);

		CHECK_FOR_INTERRUPTS();
		reached = count == 0 ? safe : look_at_stretch(db, safe, open, count);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* Leads: a round, if it is time for one.  Returns in how many ms to look again. */
static long
lead(SharedDatabase *db, long left)
{
	long rest;

	if (RecoveryInProgress())
	{
		look_for_all(db);
		return Min(left, STANDBY_SLICE_MS);
	}
	if (!es_leader_told(db))
		return left;
	rest = es_rest_of_leader(db, ROUND_REST_MS);
	if (rest > 0)
		return Min(left, rest);
	look_for_all(db);
	return left;
}

/* ---------- a wait ---------- */

/* Sleeps until it is woken or the time has come, leading if it is its turn. */
static void
sleep_until(SharedDatabase *db, FeedWait *wait, TimestampTz until)
{
	static uint32 wait_event;

	while (!es_woken())
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left > 0 && es_leads(db))
			left = lead(db, left);
		if (left <= 0 || es_woken())
			return;
		if (wait->give_back != NULL)
			wait->give_back(wait);
		InvalidateCatalogSnapshotConditionally();
		es_wait_on(NULL, left, es_wait_event(&wait_event, "EventStoreFeed"));
	}
}

static bool
wait_in_turns(SharedDatabase *db, FeedWait *wait, TimestampTz end)
{
	for (;;)
	{
		bool over = GetCurrentTimestamp() >= end;
		TimestampTz until = end;

		CHECK_FOR_INTERRUPTS();
		es_begin_look(db, wait->filters, wait->count);
		if (wait->look(wait))
			return true;
		if (over)
			return false;
		if (wait->again)
			continue;
		if (wait->due_at != 0)
			until = Min(until, wait->due_at);
		/* what becomes of subscriptions comes in with replay as well */
		if (wait->count != 0 && RecoveryInProgress())
			until = Min(until, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														   STANDBY_SLICE_MS));
		es_end_look(db, wait->position, wait->filters, wait->count, wait->hears);
		if (wait->missed != NULL && wait->missed(wait))
			continue;
		sleep_until(db, wait, until);
	}
}

static void
leave(int code, Datum db)
{
	es_leave_waiters((SharedDatabase *) DatumGetPointer(db));
}

bool
es_wait_for_feed(FeedWait *wait, int64 timeout)
{
	SharedDatabase *db = es_my_database();
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	bool found;

	es_enter_waiters(db);
	PG_ENSURE_ERROR_CLEANUP(leave, PointerGetDatum(db));
	{
		es_wait_for_changes(db, wait->subscriptions, wait->subscription_count);
		found = wait_in_turns(db, wait, end);
	}
	PG_END_ENSURE_ERROR_CLEANUP(leave, PointerGetDatum(db));
	es_leave_waiters(db);
	return found;
}
