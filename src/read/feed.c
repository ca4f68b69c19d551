/*
 * feed.c
 *		Reading all events in their order, and waiting for more.
 *
 * A reader asks how far it is safe to read (position.c), takes its snapshot
 * after that, and reads up to there: so no event can appear below what it has
 * read, at every isolation level.
 *
 * Whoever waits sleeps until the waiter that looks for all finds that there is more
 * (waker.c).  A standby reads up to the position that the primary's worker stores.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/log_plan.h"
#include "ground/metrics.h"
#include "ground/planning.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/wait.h"
#include "ground/worker_slot.h"
#include "read/feed.h"
#include "read/feed_plan.h"
#include "read/waker.h"

/* A session's waits end at least this far apart, in milliseconds. */
#define REST_MS 10

PG_FUNCTION_INFO_V1(es_safe_position);
PG_FUNCTION_INFO_V1(es_position_at);
PG_FUNCTION_INFO_V1(es_wait_for_events);
PG_FUNCTION_INFO_V1(es_feed_state);
PG_FUNCTION_INFO_V1(es_read_events);
PG_FUNCTION_INFO_V1(es_aggregate_member);

SharedDatabase *
es_feed_database(void)
{
	SharedDatabase *db;

	(void) es_own_store();
	db = es_my_database();
	es_refuse_without_place("The feed needs");
	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the feed needs the library event_store to be preloaded"),
				 errhint("Set shared_preload_libraries = 'event_store' and restart the server.")));
	return db;
}

/* Tells also whether that may be behind, for want of a look at the log. */
static int64
feed_position(bool *behind)
{
	SharedDatabase *db = es_feed_database();
	FeedState state = {0};

	if (RecoveryInProgress())
		state.safe = es_stored_safe_position();
	else
		es_read_feed_state(db, &state);
	*behind = state.behind;
	return state.safe;
}

int64
es_feed_position(void)
{
	bool behind;

	return feed_position(&behind);
}

Datum
es_safe_position(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(es_feed_position());
}

/* The row of feed_status. */
Datum
es_feed_state(PG_FUNCTION_ARGS)
{
	SharedDatabase *db = es_feed_database();
	FeedState state = {0};
	TupleDesc desc;
	Datum values[5];
	bool nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (RecoveryInProgress())
		state.safe = state.last = es_stored_safe_position();
	else
		es_read_feed_state(db, &state);
	values[0] = Int64GetDatum(state.safe);
	values[1] = Int64GetDatum(state.last);
	values[2] = Int32GetDatum(state.in_flight);
	values[3] = Int32GetDatum(state.blocker_pid);
	values[4] = TimestampTzGetDatum(state.blocked_since);
	nulls[3] = nulls[4] = state.blocker_pid == 0;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* ---------- the position of a time ---------- */

/* The answer of a statement under the active snapshot; 0 = none. */
static int64
find_position(KeptPlan *plan, Datum *values)
{
	int64 found = 0;

	if (es_execute(plan, values, NULL, true, SPI_OK_SELECT) > 0)
	{
		bool isnull;
		Datum value = SPI_getbinval(SPI_tuptable->vals[0],
									SPI_tuptable->tupdesc, 1, &isnull);

		if (!isnull)
			found = DatumGetInt64(value);
	}
	return found;
}

/*
 * The lowest position of an event recorded after a time; 0 = none up to the safe
 * one.
 *
 * Times hardly go back along the positions, so what was recorded after the time is
 * nearly all behind what was not; but only nearly, so all on one side has to be
 * read.  That is the smaller one: an event in the middle of the log, which need not
 * begin at 1, tells which.  From the front the events are read in their order, up to
 * the first; from the back those after the time, which the index of recorded_at finds.
 */
static int64
first_recorded_after(TimestampTz at, int64 safe)
{
	static KeptPlan middle =
		{"SELECT e.global_position FROM event_store.domain_events e"
		 " WHERE e.global_position OPERATOR(pg_catalog.=) (SELECT c.global_position"
		 " FROM event_store.domain_events c"
		 " WHERE c.global_position OPERATOR(pg_catalog.>=)"
		 " (($2 OPERATOR(pg_catalog.+) (SELECT f.global_position"
		 " FROM event_store.domain_events f"
		 " WHERE f.global_position OPERATOR(pg_catalog.>) 0"
		 " ORDER BY f.global_position LIMIT 1)) OPERATOR(pg_catalog./) 2)"
		 " ORDER BY c.global_position LIMIT 1)"
		 " AND e.recorded_at OPERATOR(pg_catalog.<=) $1",
		 2,
		 {TIMESTAMPTZOID, INT8OID}};
	static KeptPlan from_front = {"SELECT e.global_position FROM event_store.domain_events e"
								  " WHERE e.global_position OPERATOR(pg_catalog.>) 0"
								  " AND e.recorded_at OPERATOR(pg_catalog.>) $1"
								  " ORDER BY e.global_position LIMIT 1",
								  1,
								  {TIMESTAMPTZOID}};
	static KeptPlan from_back =
		{"SELECT pg_catalog.min(CASE WHEN e.global_position OPERATOR(pg_catalog.>) 0"
		 " THEN e.global_position END) FROM event_store.domain_events e"
		 " WHERE e.recorded_at OPERATOR(pg_catalog.>) $1",
		 1,
		 {TIMESTAMPTZOID},
		 .kind = ES_PLAN_FOR_VALUES};
	Datum values[2] = {TimestampTzGetDatum(at), Int64GetDatum(safe)};
	int64 found;

	if (find_position(es_log_plan(&middle), values) == 0)
		found = find_position(es_log_plan(&from_front), values);
	else
	{
		int settings = NewGUCNestLevel();

		es_set_for_planning("enable_seqscan", "off");
		found = find_position(es_log_plan(&from_back), values);
		AtEOXact_GUC(false, settings);
	}
	return found <= safe ? found : 0;
}

/*
 * position_at(at): a consumer that goes on after it misses nothing that was recorded
 * after the time.
 */
Datum
es_position_at(PG_FUNCTION_ARGS)
{
	static KeptPlan last_before = {"SELECT e.global_position FROM event_store.domain_events e"
								   " WHERE e.global_position OPERATOR(pg_catalog.<) $1"
								   " ORDER BY e.global_position DESC LIMIT 1",
								   1,
								   {INT8OID}};
	OwnerScope scope;
	Datum end;
	int64 safe;
	int64 first;
	int64 position;

	es_begin_call(ES_CALL_POSITION_AT);
	PreventCommandIfParallelMode("position_at()");
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("at must not be null")));
	safe = es_feed_position();
	PushActiveSnapshot(GetLatestSnapshot());
	es_begin_read(&scope);
	first = first_recorded_after(PG_GETARG_TIMESTAMPTZ(0), safe);
	end = Int64GetDatum(first != 0 ? first : safe + 1);
	position = find_position(es_log_plan(&last_before), &end);
	es_end(&scope);
	PopActiveSnapshot();
	es_end_call(ES_CALL_POSITION_AT, position);
	PG_RETURN_INT64(Max(position, 0));
}

/* ---------- waiting ---------- */

/*
 * A consumer whose position was never given here would silently miss all that
 * follows until positions get there.  A standby may only be behind.
 */
void
es_check_position(const char *name, int64 after, int64 safe)
{
	int64 last;

	if (after <= safe || RecoveryInProgress())
		return;
	last = es_last_given_position(es_my_database());
	if (after > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s %lld is beyond the last position given", name,
						(long long) after),
				 errdetail("No position above %lld was given.", (long long) last),
				 errhint("The log is another one, or an older state of it: restored, or a standby that was behind when it was promoted.")));
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

		/* a clock that was set back must not make it longer */
		if (left <= 0 || now < since)
			return;
		es_wait_on(NULL, left, es_wait_event(&wait_event, "EventStoreRest"));
	}
}

/* What wait_for_events waits for. */
typedef struct EventsWait
{
	int64 after;
	int64 position; /* that it has found */
} EventsWait;

static bool
look_for_events(FeedWait *wait)
{
	EventsWait *events = wait->own;
	bool behind;

	events->position = feed_position(&behind);
	es_check_position("after_position", events->after, events->position);
	/* nobody shall go back and read again what he has */
	if (behind)
		events->position = Max(events->position, events->after);
	wait->position = events->after;
	return events->position > events->after;
}

Datum
es_wait_for_events(PG_FUNCTION_ARGS)
{
	static TimestampTz last_return = 0;
	EventsWait events = {0};
	FeedWait wait = {.look = look_for_events, .own = &events};
	TimestampTz start = GetCurrentTimestamp();
	int64 timeout = 5000;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("after_position must not be null")));
	events.after = es_number_argument(fcinfo, 0, "after_position", 0);
	if (!PG_ARGISNULL(1))
		es_check_timeout(PG_GETARG_INTERVAL_P(1), "timeout", &timeout);
	es_refuse_in_worker(es_feed_database());

	rest(last_return, TimestampTzPlusMilliseconds(start, timeout));
	timeout -= TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
	(void) es_wait_for_feed(&wait, Max(timeout, 0));
	last_return = GetCurrentTimestamp();
	PG_RETURN_INT64(events.position);
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
	FeedRange range = {0};
	uint64 count;
	int64 safe;

	es_check_version();
	es_begin_call(ES_CALL_READ_EVENTS);
	/* a parallel worker cannot take the snapshot */
	PreventCommandIfParallelMode("read_events()");
	range.after = es_number_argument(fcinfo, 0, "after_position", 0);
	range.up_to = es_number_argument(fcinfo, 6, "up_to_position", PG_INT64_MAX);
	range.max_count = es_limit_argument(fcinfo, 1, "max_count");
	check_members(fcinfo);
	range.aggregate_types = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	range.event_types = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	if (!PG_ARGISNULL(4))
	{
		range.member = PG_GETARG_INT32(4);
		range.members = PG_GETARG_INT32(5);
	}
	range.backward = !PG_ARGISNULL(7) && PG_GETARG_BOOL(7);
	range.upcast = PG_ARGISNULL(8) || PG_GETARG_BOOL(8);

	safe = es_feed_position();
	es_check_position("after_position", range.after, safe);
	range.up_to = Min(range.up_to, safe);
	es_begin_result(fcinfo);
	PushActiveSnapshot(GetLatestSnapshot());
	count = es_read_feed(&range, rsinfo->setResult);
	PopActiveSnapshot();
	es_end_call(ES_CALL_READ_EVENTS, (int64) count);
	return (Datum) 0;
}
