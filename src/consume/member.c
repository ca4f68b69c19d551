/*
 * member.c
 *		Members of subscriptions: where each stands in the log.
 *
 * A member's state is never updated.  Each change inserts a row with the next number,
 * and the newest row holds: found by one step back from the end of the member's range
 * in the index, however many older ones stand before it, dead or alive, under
 * whatever old snapshot.  Older rows are deleted by the worker from the far end.
 *
 * Whoever changes a state holds the member's lock to the end of his transaction,
 * and reads the newest row with the latest snapshot after he got it, at every
 * isolation level.  So what he finds is committed, or his own, and nobody else
 * makes a newer one.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/member.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/waiter.h"
/* Spreads small numbers over all bits. */
#define MIX UINT64CONST(0x9E3779B97F4A7C15)

/* Members whose numbers a session remembers. */
#define SEEN 16

/* Columns of subscription_positions. */
enum
{
	SP_SUBSCRIPTION_NAME = 1,
	SP_MEMBER,
	SP_NUMBER,
	SP_POSITION,
	SP_STOPPED,
	SP_ATTEMPTS,
	SP_ATTEMPT_POSITION,
	SP_RETRY_AT,
	SP_LAST_ERROR,
	SP_LEASE,
	SP_CONSUMER,
	SP_LEASE_FIRST,
	SP_LEASE_LAST,
	SP_LEASE_EVENTS,
	SP_LEASE_PARTITION,
	SP_LEASE_ALONE,
	SP_LEASE_SINCE,
	SP_LEASE_UNTIL,
	SP_BATCH_LIMIT,
	SP_LIMIT_UNTIL
};

#define SP_COLUMNS SP_LIMIT_UNTIL

/* A column, 0 for NULL; a text is copied. */
static Datum
column(HeapTuple tuple, TupleDesc desc, int number)
{
	bool isnull;
	Datum value = heap_getattr(tuple, number, desc, &isnull);

	if (isnull)
		return (Datum) 0;
	return TupleDescAttr(desc, number - 1)->atttypid == TEXTOID
			   ? PointerGetDatum(PG_DETOAST_DATUM_COPY(value))
			   : value;
}

/* One that nobody has, as the owner of the table may leave it, is none. */
static void
read_lease(HeapTuple tuple, TupleDesc desc, Lease *lease)
{
	lease->consumer = column(tuple, desc, SP_CONSUMER);
	if (lease->consumer != (Datum) 0)
		lease->number = DatumGetInt64(column(tuple, desc, SP_LEASE));
	if (lease->number == 0)
		return;
	lease->first = DatumGetInt64(column(tuple, desc, SP_LEASE_FIRST));
	lease->last = DatumGetInt64(column(tuple, desc, SP_LEASE_LAST));
	lease->events = DatumGetInt32(column(tuple, desc, SP_LEASE_EVENTS));
	lease->partition = column(tuple, desc, SP_LEASE_PARTITION);
	lease->alone = DatumGetBool(column(tuple, desc, SP_LEASE_ALONE));
	lease->since = DatumGetTimestampTz(column(tuple, desc, SP_LEASE_SINCE));
	lease->until = DatumGetTimestampTz(column(tuple, desc, SP_LEASE_UNTIL));
}

static uint64
lock_of(uint64 subscription, int member)
{
	return hash_combine64(subscription, ((uint64) member + 1) * MIX);
}

static bool
is_own(HeapTuple tuple)
{
	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
}

static void
read_state(HeapTuple tuple, TupleDesc desc, MemberState *state)
{
	memset(state, 0, sizeof(*state));
	state->number = DatumGetInt64(column(tuple, desc, SP_NUMBER));
	state->position = DatumGetInt64(column(tuple, desc, SP_POSITION));
	state->stopped = DatumGetBool(column(tuple, desc, SP_STOPPED));
	state->attempts = DatumGetInt32(column(tuple, desc, SP_ATTEMPTS));
	state->attempt_position =
		DatumGetInt64(column(tuple, desc, SP_ATTEMPT_POSITION));
	state->retry_at = DatumGetTimestampTz(column(tuple, desc, SP_RETRY_AT));
	state->last_error = column(tuple, desc, SP_LAST_ERROR);
	read_lease(tuple, desc, &state->lease);
	state->batch_limit = DatumGetInt32(column(tuple, desc, SP_BATCH_LIMIT));
	state->limit_until = DatumGetInt64(column(tuple, desc, SP_LIMIT_UNTIL));
	state->own = is_own(tuple);
}

/* The newest state from a number on that a snapshot shows, or of these that others made. */
static bool
read_from(Datum name, int member, int64 number, Snapshot snapshot,
		  bool of_others, MemberState *state)
{
	const Store *store = es_store();
	Relation table = table_open(store->positions_of_members, AccessShareLock);
	Relation index = index_open(es_store()->positions_by_member, AccessShareLock);
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple tuple;
	bool found;

	ScanKeyInit(&keys[0], SP_SUBSCRIPTION_NAME, BTEqualStrategyNumber, F_TEXTEQ,
				name);
	ScanKeyInit(&keys[1], SP_MEMBER, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(member));
	ScanKeyInit(&keys[2], SP_NUMBER, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(number));
	scan = systable_beginscan_ordered(table, index, snapshot, 3, keys);
	do
		tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	while (of_others && HeapTupleIsValid(tuple) && is_own(tuple));
	found = HeapTupleIsValid(tuple);
	if (found)
		read_state(tuple, RelationGetDescr(table), state);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return found;
}

bool
es_read_member(Datum name, int member, Snapshot snapshot, MemberState *state)
{
	return read_from(name, member, 0, snapshot, false, state);
}

/* What this transaction has stored itself stands on what it found. */
bool
es_snapshot_shows_member(Datum name, int member)
{
	MemberState newest = {0};
	MemberState shown = {0};

	PushActiveSnapshot(GetLatestSnapshot());
	(void) read_from(name, member, 0, GetActiveSnapshot(), true, &newest);
	PopActiveSnapshot();
	(void) read_from(name, member, 0, GetTransactionSnapshot(), true, &shown);
	return shown.number == newest.number;
}

/*
 * A step back in an index reads all that the page has of the range, so it begins at the
 * number that this session has seen last: all others are below the newest.  A
 * subscription that was made anew has none so high, and is read from the beginning.
 */
MemberState
es_newest_member(Datum name, int member)
{
	static struct
	{
		uint64 key;
		int64 number;
	} seen[SEEN];
	uint64 key = lock_of(es_subscription_hash(name), member);
	MemberState state;
	bool found = false;
	int i = (int) (key % SEEN);

	PushActiveSnapshot(GetLatestSnapshot());
	if (seen[i].key == key)
		found = read_from(name, member, seen[i].number, GetActiveSnapshot(),
						  false, &state);
	if (!found)
		found = es_read_member(name, member, GetActiveSnapshot(), &state);
	PopActiveSnapshot();
	if (!found)
		elog(ERROR, "member %d of subscription %s has no position", member,
			 TextDatumGetCString(name));
	seen[i].key = key;
	seen[i].number = state.number;
	return state;
}

int64
es_member_passed(uint64 subscription, int member, const MemberState *state)
{
	Progress progress = es_read_progress(es_progress_key(subscription, member));

	return progress.number == state->number
			   ? Max(state->position, progress.position)
			   : state->position;
}

void
es_move_member(MemberState *state, int64 position)
{
	state->position = position;
	if (state->attempt_position <= position)
	{
		state->attempts = 0;
		state->attempt_position = 0;
		state->retry_at = 0;
		state->last_error = (Datum) 0;
	}
	if (state->limit_until <= position)
	{
		state->batch_limit = 0;
		state->limit_until = 0;
	}
}

void
es_store_member(Datum name, int member, MemberState *state)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.subscription_positions"
		 " (subscription_name, member, number, position, stopped, attempts,"
		 " attempt_position, retry_at, last_error, lease, consumer, lease_first,"
		 " lease_last, lease_events, lease_partition, lease_alone, lease_since,"
		 " lease_until, batch_limit, limit_until)"
		 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
		 " $16, $17, $18, $19, $20)",
		 SP_COLUMNS,
		 {TEXTOID, INT4OID,		   INT8OID,		   INT8OID, BOOLOID,
		  INT4OID, INT8OID,		   TIMESTAMPTZOID, TEXTOID, INT8OID,
		  TEXTOID, INT8OID,		   INT8OID,		   INT4OID, TEXTOID,
		  BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT8OID}};
	const Lease *lease = &state->lease;
	Datum values[SP_COLUMNS] = {name,
								Int32GetDatum(member),
								Int64GetDatum(++state->number),
								Int64GetDatum(state->position),
								BoolGetDatum(state->stopped),
								Int32GetDatum(state->attempts),
								Int64GetDatum(state->attempt_position),
								TimestampTzGetDatum(state->retry_at),
								state->last_error,
								Int64GetDatum(lease->number),
								lease->consumer,
								Int64GetDatum(lease->first),
								Int64GetDatum(lease->last),
								Int32GetDatum(lease->events),
								lease->partition,
								BoolGetDatum(lease->alone),
								TimestampTzGetDatum(lease->since),
								TimestampTzGetDatum(lease->until),
								Int32GetDatum(state->batch_limit),
								Int64GetDatum(state->limit_until)};
	char nulls[SP_COLUMNS];

	memset(nulls, ' ', sizeof(nulls));
	if (state->retry_at == 0)
		nulls[SP_RETRY_AT - 1] = 'n';
	if (state->last_error == 0)
		nulls[SP_LAST_ERROR - 1] = 'n';
	if (lease->number == 0)
		memset(&nulls[SP_LEASE - 1], 'n', SP_LEASE_UNTIL - SP_LEASE + 1);
	if (lease->partition == 0)
		nulls[SP_LEASE_PARTITION - 1] = 'n';
	if (state->batch_limit == 0)
		memset(&nulls[SP_BATCH_LIMIT - 1], 'n', 2);
	es_execute(&plan, values, nulls, false, SPI_OK_INSERT);
	state->own = true;
}

void
es_lock_member(uint64 subscription, int member)
{
	es_note_freed(subscription, false);
	es_lock_hash(ES_LOCK_MEMBER, lock_of(subscription, member), ExclusiveLock);
}

bool
es_try_lock_member(uint64 subscription, int member)
{
	if (!es_try_lock_hash(ES_LOCK_MEMBER, lock_of(subscription, member),
						  ExclusiveLock))
		return false;
	es_note_freed(subscription, false);
	return true;
}

void
es_unlock_member(uint64 subscription, int member)
{
	es_unlock_hash(ES_LOCK_MEMBER, lock_of(subscription, member), ExclusiveLock);
	es_tell_freed(es_my_database(), subscription);
}
