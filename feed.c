/*
 * feed.c
 *		Global positions: the order over all events, and reading in it.
 *
 * A position must never be given twice, not even after a crash that lost the
 * transaction it was given to, since a client may have seen it.  Positions
 * therefore come from blocks: a durable sequence holds the end of the last
 * block reserved, its WAL is flushed before the first position of a block is
 * used, and within a block taking positions is a spinlock and an addition in
 * shared memory.  What is left of a block is skipped after a restart.
 *
 * Without preload there is no shared memory: every call moves the sequence
 * itself, under a lock that is released at once.
 *
 * In both ways an appender takes its positions while it holds the lock of the
 * aggregate, so within an aggregate they rise with the sequence.
 *
 * Positions become visible in another order than they are taken.  A reader
 * must not pass one that may still appear.  So every backend publishes the
 * lowest position it has taken in its transaction, in the same critical section
 * as it takes it, and clears it when the transaction has ended and what it
 * wrote is visible or never will be.  Whoever reads the next position first
 * and the published ones after it knows the safe position: everything below
 * it is decided.  No lock is held to commit, no clock and no transaction id
 * plays a part, and a transaction that takes no position is never waited for.
 * A snapshot taken afterwards sees every event up to the safe position.
 *
 * A standby has none of this in its memory.  It reads up to the position that
 * the primary's worker stores in store_state, at most once a second and only
 * after positions were taken: the first transaction to end since the worker
 * last looked raises a flag and nudges it.
 *
 * Called by event_store.c, drain.c and worker.c, and from SQL.
 */
#include "event_store.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* On a standby a waiter looks again this often, in milliseconds. */
#define STANDBY_SLICE_MS 100
/* A session's waits end at least this far apart, in milliseconds. */
#define REST_MS 10

PG_FUNCTION_INFO_V1(es_safe_position);
PG_FUNCTION_INFO_V1(es_wait_for_events);
PG_FUNCTION_INFO_V1(es_feed_state);
PG_FUNCTION_INFO_V1(es_read_events);
PG_FUNCTION_INFO_V1(es_aggregate_member);

/* Positions reserved at once; each block costs one flush of the WAL. */
#define POSITION_BLOCK 8192

/* The highest position in the log, for a sequence that lags behind it. */
static int64
last_logged_position(void)
{
	static KeptPlan plan = {"SELECT coalesce(pg_catalog.max(e.global_position), 0)"
							" FROM event_store.domain_events e"};
	bool isnull;

	es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/* Makes the sequence stand at "last" and the WAL of that durable. */
static void
advance_sequence(Oid sequence, int64 last)
{
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence),
						Int64GetDatum(last));
	XLogFlush(XactLastRecEnd);
}

/*
 * Reserves a block that has room for "count"; the positions lock is held.  It
 * goes on where the last one ended, unless the sequence was moved by somebody
 * else, and beyond what is in the log, as after a restart or when events were
 * restored.
 */
static void
reserve_block(SharedDatabase *db, Oid sequence, int64 count)
{
	int64 reserved = nextval_internal(sequence, false) - 1;
	int64 logged = last_logged_position();
	bool goes_on =
		db->position_sequence == sequence && db->position_limit >= reserved;
	int64 last = Max(goes_on ? db->position_limit : reserved, logged);

	advance_sequence(sequence, last + count + POSITION_BLOCK);

	SpinLockAcquire(&db->position_mutex);
	if (!goes_on)
		db->next_position = last + 1;
	else
		db->next_position = Max(db->next_position, logged + 1);
	db->position_sequence = sequence;
	db->position_limit = last + count + POSITION_BLOCK;
	db->position_recheck = false;
	SpinLockRelease(&db->position_mutex);
}

/* Has the log looked at before positions are taken again. */
void
es_recheck_positions(void)
{
	SharedDatabase *db = es_my_database();

	if (db == NULL)
		return;
	SpinLockAcquire(&db->position_mutex);
	db->position_recheck = true;
	SpinLockRelease(&db->position_mutex);
}

/*
 * Takes positions from the block in shared memory and publishes them as in
 * flight; 0 = not enough left.
 */
static int64
take_from_block(SharedDatabase *db, Oid sequence, int64 count)
{
	InFlight *mine = &es_in_flight[MyProcNumber];
	int64 first = 0;

	/* from here on the end of the transaction clears what is published */
	es_note_positions();
	if (pg_atomic_read_u64(&mine->position) == 0)
	{
		mine->database = MyDatabaseId;
		mine->pid = MyProcPid;
		mine->since = GetCurrentStatementStartTimestamp();
	}
	SpinLockAcquire(&db->position_mutex);
	if (db->position_sequence == sequence && !db->position_recheck &&
		db->position_limit - db->next_position + 1 >= count)
	{
		first = db->next_position;
		db->next_position += count;
		/* later ones of the transaction are higher */
		if (pg_atomic_read_u64(&mine->position) == 0)
		{
			pg_write_barrier();
			pg_atomic_write_u64(&mine->position, first);
		}
	}
	SpinLockRelease(&db->position_mutex);
	return first;
}

/* Whether what is written here can reach a standby. */
static bool
standby_possible(void)
{
	return XLogIsNeeded() && (max_wal_senders > 0 || XLogArchivingActive());
}

void
es_end_positions(SharedDatabase *db)
{
	pg_atomic_write_u64(&es_in_flight[MyProcNumber].position, 0);
	pg_memory_barrier();
	ConditionVariableBroadcast(&db->position_ended);

	/* the first one since the worker looked tells it that it may look again */
	if (standby_possible() && pg_atomic_read_u32(&db->position_unstored) == 0 &&
		pg_atomic_exchange_u32(&db->position_unstored, 1) == 0)
		es_nudge_worker(db);
}

/* Takes positions from the sequence itself; the positions lock is held. */
static int64
take_from_sequence(Oid sequence, int64 count)
{
	static Oid checked = InvalidOid;
	XLogRecPtr logged = XactLastRecEnd;
	int64 first = nextval_internal(sequence, false);

	if (checked != sequence)
	{
		first = Max(first, last_logged_position() + 1);
		checked = sequence;
		count = Max(count, 1);
		advance_sequence(sequence, first + count - 1);
	}
	else if (count > 1)
		advance_sequence(sequence, first + count - 1);
	else if (XactLastRecEnd != logged)
		XLogFlush(XactLastRecEnd);
	return first;
}

int64
es_take_positions(int64 count)
{
	Oid sequence = es_store()->positions;
	SharedDatabase *db = es_my_database();
	OwnerScope scope;
	int64 first = 0;

	if (db != NULL)
		first = take_from_block(db, sequence, count);
	if (first != 0)
		return first;

	es_begin(&scope);
	es_lock_acquire(ES_LOCK_POSITIONS, ExclusiveLock);
	if (db == NULL)
		first = take_from_sequence(sequence, count);
	else
	{
		while ((first = take_from_block(db, sequence, count)) == 0)
			reserve_block(db, sequence, count);
	}
	es_lock_release(ES_LOCK_POSITIONS, ExclusiveLock);
	es_end(&scope);
	return first;
}

/* ---------- the safe position ---------- */

/* The positions that are taken, and the lowest that is in flight. */
typedef struct FeedState
{
	int64 last; /* the last position taken */
	int64 safe;
	int in_flight;	 /* transactions */
	int blocker_pid; /* of the lowest; 0 = none */
	TimestampTz blocked_since;
} FeedState;

/* The last position taken; -1 when none was since the server started. */
static int64
last_taken_position(SharedDatabase *db, Oid sequence)
{
	int64 last = -1;

	SpinLockAcquire(&db->position_mutex);
	if (db->position_sequence == sequence)
		last = db->next_position - 1;
	SpinLockRelease(&db->position_mutex);
	return last;
}

/*
 * As long as no position was taken since the server started, nothing is in
 * flight, and the log itself says how far it goes.
 */
static int64
last_position_at_rest(void)
{
	OwnerScope scope;
	int64 last;

	es_begin_read(&scope);
	last = last_logged_position();
	es_end(&scope);
	return last;
}

static void
read_feed_state(SharedDatabase *db, FeedState *state)
{
	Oid sequence = es_store()->positions;

	memset(state, 0, sizeof(*state));
	state->last = last_taken_position(db, sequence);
	if (state->last < 0)
	{
		int64 at_rest = last_position_at_rest();

		/* what was taken meanwhile may have been seen out of its order */
		state->last = last_taken_position(db, sequence);
		if (state->last < 0)
		{
			state->safe = state->last = at_rest;
			return;
		}
	}
	state->safe = state->last;
	for (int i = 0; i < MaxBackends; i++)
	{
		InFlight *other = &es_in_flight[i];
		int64 position = (int64) pg_atomic_read_u64(&other->position);

		if (position == 0)
			continue;
		pg_read_barrier();
		if (other->database != MyDatabaseId)
			continue;
		state->in_flight++;
		if (position > state->safe)
			continue;
		state->safe = position - 1;
		state->blocker_pid = other->pid;
		state->blocked_since = other->since;
	}
}

/*
 * What was safe when this looked stays safe.  The record of this commit follows
 * those of all transactions that ended before, so a standby which sees the
 * position sees their events.  Positions may also fall, to the end of the log,
 * when a restart has forgotten that the last ones were taken.
 */
void
es_store_safe_position(void)
{
	static KeptPlan plan = {"UPDATE event_store.store_state SET safe_position = $1"
							" WHERE safe_position OPERATOR(pg_catalog.<>) $1",
							1,
							{INT8OID}};
	OwnerScope scope;
	FeedState state;
	Datum position;

	read_feed_state(es_my_database(), &state);
	position = Int64GetDatum(state.safe);
	es_begin(&scope);
	es_execute(&plan, &position, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

/*
 * What a standby can read up to: the primary's worker stores it.  It is read
 * under the latest snapshot at every isolation level, as the events are.
 */
static int64
stored_safe_position(void)
{
	static KeptPlan plan = {
		"SELECT s.safe_position FROM event_store.store_state s"};
	OwnerScope scope;
	int64 position = 0;
	bool isnull;

	PushActiveSnapshot(GetLatestSnapshot());
	es_begin_read(&scope);
	if (es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT) > 0)
		position =
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	PopActiveSnapshot();
	return position;
}

static SharedDatabase *
feed_database(void)
{
	SharedDatabase *db;

	(void) es_store();
	db = es_my_database();
	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the feed needs the library event_store to be preloaded"),
				 errhint("Set shared_preload_libraries = 'event_store' and restart the server.")));
	return db;
}

static int64
safe_position(void)
{
	SharedDatabase *db = feed_database();
	FeedState state;

	if (RecoveryInProgress())
		return stored_safe_position();
	read_feed_state(db, &state);
	return state.safe;
}

Datum
es_safe_position(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(safe_position());
}

/* The row of feed_status. */
Datum
es_feed_state(PG_FUNCTION_ARGS)
{
	SharedDatabase *db = feed_database();
	FeedState state = {0};
	TupleDesc desc;
	Datum values[5];
	bool nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (RecoveryInProgress())
		state.safe = state.last = stored_safe_position();
	else
		read_feed_state(db, &state);
	values[0] = Int64GetDatum(state.safe);
	values[1] = Int64GetDatum(state.last);
	values[2] = Int32GetDatum(state.in_flight);
	values[3] = Int32GetDatum(state.blocker_pid);
	values[4] = TimestampTzGetDatum(state.blocked_since);
	nulls[3] = nulls[4] = state.blocker_pid == 0;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

static int64
after_position_argument(FunctionCallInfo fcinfo, int argno, int64 otherwise)
{
	if (PG_ARGISNULL(argno))
		return otherwise;
	if (PG_GETARG_INT64(argno) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("after_position must not be negative")));
	return PG_GETARG_INT64(argno);
}

/*
 * Sleeps until a session that waits again and again has rested for a moment.
 * Under load a new event is always there; without this rest a consumer would
 * ask for it at once, and read a few events at a time at the writers' cost.
 */
static void
rest(TimestampTz since, TimestampTz end)
{
	static uint32 wait_event;
	TimestampTz until = Min(end, TimestampTzPlusMilliseconds(since, REST_MS));

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		long left = TimestampDifferenceMilliseconds(now, until);

		CHECK_FOR_INTERRUPTS();
		/* a clock that was set back must not make it longer */
		if (left <= 0 || now < since)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, es_wait_event(&wait_event, "EventStoreRest"));
		ResetLatch(MyLatch);
	}
}

/*
 * Waits on a condition variable that every transaction with positions
 * broadcasts at its end.  On a standby the worker's mark comes in with
 * replay, which wakes nobody: there the wait is in slices.
 */
Datum
es_wait_for_events(PG_FUNCTION_ARGS)
{
	static uint32 wait_event;
	static TimestampTz last_return = 0;
	SharedDatabase *db;
	int64 after;
	int64 timeout = 5000;
	int64 position;
	TimestampTz end;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("after_position must not be null")));
	after = after_position_argument(fcinfo, 0, 0);
	if (!PG_ARGISNULL(1))
		es_check_timeout(PG_GETARG_INTERVAL_P(1), "timeout", &timeout);
	db = feed_database();
	es_refuse_in_worker(db);
	end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);

	rest(last_return, end);
	ConditionVariablePrepareToSleep(&db->position_ended);
	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		position = safe_position();
		if (position > after || left <= 0)
			break;
		ConditionVariableTimedSleep(&db->position_ended,
									RecoveryInProgress()
										? Min(left, STANDBY_SLICE_MS)
										: left,
									es_wait_event(&wait_event, "EventStoreFeed"));
	}
	ConditionVariableCancelSleep();
	last_return = GetCurrentTimestamp();
	PG_RETURN_INT64(position);
}

/* ---------- ordered reads ---------- */

/*
 * Which of "members" consumers an aggregate belongs to.  Consumers keep their
 * place by it, so it must never change: FNV-1a over type, a zero byte and id,
 * then the last step of MurmurHash3.  Without that step the last characters
 * hardly reach the bits that decide, and ids that count up share a member.
 */
Datum
es_aggregate_member(PG_FUNCTION_ARGS)
{
	text *parts[2] = {PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1)};
	int members = PG_GETARG_INT32(2);
	uint64 hash = UINT64CONST(14695981039346656037);

	if (members < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("members must be positive")));
	for (int p = 0; p < 2; p++)
	{
		const unsigned char *bytes =
			(const unsigned char *) VARDATA_ANY(parts[p]);
		int length = VARSIZE_ANY_EXHDR(parts[p]);

		for (int i = 0; i < length; i++)
			hash = (hash ^ bytes[i]) * UINT64CONST(1099511628211);
		if (p == 0)
			hash = (hash ^ 0) * UINT64CONST(1099511628211);
	}
	hash = (hash ^ (hash >> 33)) * UINT64CONST(0xff51afd7ed558ccd);
	hash = (hash ^ (hash >> 33)) * UINT64CONST(0xc4ceb9fe1a85ec53);
	hash ^= hash >> 33;
	PG_RETURN_INT32((int32) (hash % (uint64) members));
}

#define FEED_BASE                                                        \
	ES_EVENT_SELECT " WHERE e.global_position OPERATOR(pg_catalog.>) $1" \
					" AND e.global_position OPERATOR(pg_catalog.<=) $2"
#define FEED_AGGREGATE_TYPES \
	" AND e.aggregate_type OPERATOR(pg_catalog.=) ANY ($4)"
#define FEED_EVENT_TYPES " AND e.event_type OPERATOR(pg_catalog.=) ANY ($5)"
#define FEED_MEMBER                                                           \
	" AND event_store.aggregate_member(e.aggregate_type, e.aggregate_id, $7)" \
	" OPERATOR(pg_catalog.=) $6"
#define FEED_END " ORDER BY e.global_position LIMIT $3"
#define FEED_PARAMETERS                                                         \
	7,                                                                          \
	{                                                                           \
		INT8OID, INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID \
	}

/* One plan for each set of filters, so that each uses the index it can. */
static KeptPlan feed_plans[8] =
	{{FEED_BASE FEED_END, FEED_PARAMETERS},
	 {FEED_BASE FEED_AGGREGATE_TYPES FEED_END, FEED_PARAMETERS},
	 {FEED_BASE FEED_EVENT_TYPES FEED_END, FEED_PARAMETERS},
	 {FEED_BASE FEED_AGGREGATE_TYPES FEED_EVENT_TYPES FEED_END, FEED_PARAMETERS},
	 {FEED_BASE FEED_MEMBER FEED_END, FEED_PARAMETERS},
	 {FEED_BASE FEED_AGGREGATE_TYPES FEED_MEMBER FEED_END, FEED_PARAMETERS},
	 {FEED_BASE FEED_EVENT_TYPES FEED_MEMBER FEED_END, FEED_PARAMETERS},
	 {FEED_BASE FEED_AGGREGATE_TYPES FEED_EVENT_TYPES FEED_MEMBER FEED_END,
	  FEED_PARAMETERS}};

static void
check_members(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(4) != PG_ARGISNULL(5))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("member and members must be given together")));
	if (PG_ARGISNULL(4))
		return;
	if (PG_GETARG_INT32(5) < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("members must be positive")));
	if (PG_GETARG_INT32(4) < 0 || PG_GETARG_INT32(4) >= PG_GETARG_INT32(5))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("member must be from 0 to members - 1")));
}

/*
 * The safe position first, then the snapshot: at every isolation level, and
 * without regard to the transaction's own snapshot.
 */
Datum
es_read_events(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum values[7] = {0};
	char nulls[7] = {' ', ' ', ' ', 'n', 'n', 'n', 'n'};
	int plan = 0;
	OwnerScope scope;
	uint64 count;

	es_begin_call(ES_CALL_READ_EVENTS);
	values[0] = Int64GetDatum(after_position_argument(fcinfo, 0, 0));
	values[2] = Int64GetDatum(es_max_count_argument(fcinfo, 1));
	check_members(fcinfo);
	for (int i = 2; i < 6; i++)
	{
		if (PG_ARGISNULL(i))
			continue;
		values[i + 1] = PG_GETARG_DATUM(i);
		nulls[i + 1] = ' ';
	}
	plan = (PG_ARGISNULL(2) ? 0 : 1) + (PG_ARGISNULL(3) ? 0 : 2) +
		   (PG_ARGISNULL(4) ? 0 : 4);

	values[1] = Int64GetDatum(safe_position());
	es_begin_result(fcinfo);
	PushActiveSnapshot(GetLatestSnapshot());
	es_begin_read(&scope);
	count = es_execute_into(&feed_plans[plan], values, nulls, rsinfo->setResult);
	es_end(&scope);
	PopActiveSnapshot();
	es_end_call(ES_CALL_READ_EVENTS, (int64) count);
	return (Datum) 0;
}
