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
#include "ground/catalog.h"
#include "ground/lock.h"

/* Spreads small numbers over all bits. */
#define MIX UINT64CONST(0x9E3779B97F4A7C15)

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
	SP_LAST_ERROR
};

static void
read_state(HeapTuple tuple, TupleDesc desc, MemberState *state)
{
	bool isnull;
	Datum value;

	memset(state, 0, sizeof(*state));
	state->number = DatumGetInt64(heap_getattr(tuple, SP_NUMBER, desc, &isnull));
	state->position =
		DatumGetInt64(heap_getattr(tuple, SP_POSITION, desc, &isnull));
	state->stopped = DatumGetBool(heap_getattr(tuple, SP_STOPPED, desc, &isnull));
	state->attempts =
		DatumGetInt32(heap_getattr(tuple, SP_ATTEMPTS, desc, &isnull));
	state->attempt_position =
		DatumGetInt64(heap_getattr(tuple, SP_ATTEMPT_POSITION, desc, &isnull));
	value = heap_getattr(tuple, SP_RETRY_AT, desc, &isnull);
	if (!isnull)
		state->retry_at = DatumGetTimestampTz(value);
	value = heap_getattr(tuple, SP_LAST_ERROR, desc, &isnull);
	if (!isnull)
		state->last_error = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

bool
es_read_member(Datum name, int member, Snapshot snapshot, MemberState *state)
{
	const Store *store = es_store();
	Relation table = table_open(store->positions_of_members, AccessShareLock);
	Relation index = index_open(es_store()->positions_by_member, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	bool found;

	ScanKeyInit(&keys[0], SP_SUBSCRIPTION_NAME, BTEqualStrategyNumber, F_TEXTEQ,
				name);
	ScanKeyInit(&keys[1], SP_MEMBER, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(member));
	scan = systable_beginscan_ordered(table, index, snapshot, 2, keys);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	found = HeapTupleIsValid(tuple);
	if (found)
		read_state(tuple, RelationGetDescr(table), state);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return found;
}

MemberState
es_newest_member(Datum name, int member)
{
	MemberState state;
	bool found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = es_read_member(name, member, GetActiveSnapshot(), &state);
	PopActiveSnapshot();
	if (!found)
		elog(ERROR, "member %d of subscription %s has no position", member,
			 TextDatumGetCString(name));
	return state;
}

void
es_store_member(Datum name, int member, MemberState *state)
{
	static KeptPlan plan = {"INSERT INTO event_store.subscription_positions"
							" (subscription_name, member, number, position, stopped, attempts,"
							" attempt_position, retry_at, last_error)"
							" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
							9,
							{TEXTOID, INT4OID, INT8OID, INT8OID, BOOLOID,
							 INT4OID, INT8OID, TIMESTAMPTZOID, TEXTOID}};
	Datum values[9] = {name,
					   Int32GetDatum(member),
					   Int64GetDatum(++state->number),
					   Int64GetDatum(state->position),
					   BoolGetDatum(state->stopped),
					   Int32GetDatum(state->attempts),
					   Int64GetDatum(state->attempt_position),
					   TimestampTzGetDatum(state->retry_at),
					   state->last_error};
	char nulls[9] = {' ',
					 ' ',
					 ' ',
					 ' ',
					 ' ',
					 ' ',
					 ' ',
					 state->retry_at == 0 ? 'n' : ' ',
					 state->last_error == 0 ? 'n' : ' '};

	es_execute(&plan, values, nulls, false, SPI_OK_INSERT);
}

static uint64
lock_of(uint64 subscription, int member)
{
	return hash_combine64(subscription, ((uint64) member + 1) * MIX);
}

void
es_lock_member(uint64 subscription, int member)
{
	es_lock_hash(ES_LOCK_MEMBER, lock_of(subscription, member), ExclusiveLock);
}

bool
es_try_lock_member(uint64 subscription, int member)
{
	return es_try_lock_hash(ES_LOCK_MEMBER, lock_of(subscription, member),
							ExclusiveLock);
}

void
es_unlock_member(uint64 subscription, int member)
{
	es_unlock_hash(ES_LOCK_MEMBER, lock_of(subscription, member), ExclusiveLock);
}
