/*
 * subscription_admin.c
 *		Subscriptions made and changed.
 *
 * Whoever is given events holds the subscription's lock in share mode to the end of
 * his transaction; what must not happen under him, a move and a drop, takes it
 * exclusively, and waits for open fetches while new ones are held off.  To pause, resume and
 * alter is to change the row: open fetches go on with what they have read.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "consume/consume.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/progress.h"
#include "consume/retry.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "read/feed.h"

#define MAX_MEMBERS 1000

PG_FUNCTION_INFO_V1(es_create_subscription);
PG_FUNCTION_INFO_V1(es_alter_subscription);
PG_FUNCTION_INFO_V1(es_drop_subscription);
PG_FUNCTION_INFO_V1(es_pause_subscription);
PG_FUNCTION_INFO_V1(es_resume_subscription);
PG_FUNCTION_INFO_V1(es_move_subscription);

/* ---------- arguments ---------- */

/* The first argument of all: which one. */
static Datum
name_argument(FunctionCallInfo fcinfo)
{
	return PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
}

/* Checks a list of types, which may be NULL or empty. */
static Datum
types_argument(FunctionCallInfo fcinfo, int argno, const char *name, char *null)
{
	Datum *types;
	int count = -1;

	*null = PG_ARGISNULL(argno) ? 'n' : ' ';
	if (PG_ARGISNULL(argno))
		return (Datum) 0;
	es_array_argument(fcinfo, argno, name, false, &count, &types, NULL);
	for (int i = 0; i < count; i++)
		es_check_name(types[i], false, psprintf("%s[%d]", name, i + 1), NULL,
					  true);
	return PG_GETARG_DATUM(argno);
}

static int
number_argument(FunctionCallInfo fcinfo, int argno, const char *name, int least,
				int most)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	if (PG_GETARG_INT32(argno) < least || PG_GETARG_INT32(argno) > most)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be from %d to %d", name, least, most)));
	return PG_GETARG_INT32(argno);
}

static Datum
on_failure_argument(FunctionCallInfo fcinfo, int argno)
{
	text *word = es_required_text(fcinfo, argno, "on_failure");

	(void) es_failure_action(word, "on_failure", false);
	return PointerGetDatum(word);
}

/* A position to go on behind, which was given here. */
static int64
position_argument(FunctionCallInfo fcinfo, int argno, const char *name)
{
	int64 position = PG_GETARG_INT64(argno);

	if (position < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative", name)));
	es_check_position(name, position, es_feed_position());
	return position;
}

/* ---------- making one ---------- */

/* What tells one subscription from another of its name, in this order. */
enum
{
	SUB_NAME,
	SUB_AGGREGATE_TYPES,
	SUB_EVENT_TYPES,
	SUB_MEMBERS,
	SUB_START_AFTER,
	SUB_ON_FAILURE,
	SUB_MAX_ATTEMPTS,
	SUB_PARTITION_BY,
	SUB_COLUMNS
};

#define SUB_TYPES                                                       \
	{                                                                   \
		TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT8OID, TEXTOID, \
			INT4OID, TEXTOID                                            \
	}
/* A list of types in one order, each once; NULL for an empty one. */
#define TYPE_SET(parameter)                                                 \
	"(SELECT pg_catalog.array_agg(DISTINCT t.t ORDER BY t.t) FROM"          \
	" (SELECT u COLLATE pg_catalog.\"C\" FROM pg_catalog.unnest(" parameter \
	") u) t (t))"

/* Inserts it; false if there is one of that name. */
static bool
insert_subscription(Datum *values, const char *nulls)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.subscriptions (subscription_name, aggregate_types,"
		 " event_types, members, start_after, on_failure, max_attempts, partition_by)"
		 " VALUES ($1, " TYPE_SET("$2") ", " TYPE_SET("$3") ", $4, $5, $6, $7, $8)"
															" ON CONFLICT (subscription_name) DO NOTHING",
		 SUB_COLUMNS, SUB_TYPES};

	return es_execute(&plan, values, nulls, false, SPI_OK_INSERT) == 1;
}

static bool
is_same(Datum *values, const char *nulls)
{
	static KeptPlan plan =
		{"SELECT FROM event_store.subscriptions s"
		 " WHERE s.subscription_name OPERATOR(pg_catalog.=) $1"
		 " AND s.aggregate_types IS NOT DISTINCT FROM " TYPE_SET("$2") " AND s.event_types IS NOT DISTINCT FROM " TYPE_SET(
			 "$3") " AND s.members OPERATOR(pg_catalog.=) $4"
				   " AND s.start_after IS NOT DISTINCT FROM $5"
				   " AND s.on_failure OPERATOR(pg_catalog.=) $6"
				   " AND s.max_attempts OPERATOR(pg_catalog.=) $7"
				   " AND s.partition_by OPERATOR(pg_catalog.=) $8",
		 SUB_COLUMNS, SUB_TYPES};

	return es_execute(&plan, values, nulls, false, SPI_OK_SELECT) == 1;
}

/* Takes the arguments apart; returns where the members begin. */
static int64
create_arguments(FunctionCallInfo fcinfo, Datum *values, char *nulls)
{
	Partitioning partitioning;
	text *partition_by;

	memset(nulls, ' ', SUB_COLUMNS);
	values[SUB_NAME] = name_argument(fcinfo);
	values[SUB_AGGREGATE_TYPES] = types_argument(fcinfo, 1, "aggregate_types",
												 &nulls[SUB_AGGREGATE_TYPES]);
	values[SUB_EVENT_TYPES] =
		types_argument(fcinfo, 2, "event_types", &nulls[SUB_EVENT_TYPES]);
	values[SUB_MEMBERS] =
		Int32GetDatum(number_argument(fcinfo, 3, "members", 1, MAX_MEMBERS));
	values[SUB_START_AFTER] = PG_ARGISNULL(4) ? 0 : PG_GETARG_DATUM(4);
	nulls[SUB_START_AFTER] = PG_ARGISNULL(4) ? 'n' : ' ';
	values[SUB_ON_FAILURE] = on_failure_argument(fcinfo, 5);
	values[SUB_MAX_ATTEMPTS] =
		Int32GetDatum(number_argument(fcinfo, 6, "max_attempts", 0, PG_INT32_MAX));
	partition_by = es_required_text(fcinfo, 7, "partition_by");
	es_read_partitioning(partition_by, &partitioning);
	values[SUB_PARTITION_BY] = PointerGetDatum(partition_by);
	es_begin_consuming("create_subscription()");
	(void) es_feed_database();
	return PG_ARGISNULL(4) ? es_feed_position()
						   : position_argument(fcinfo, 4, "start_after");
}

Datum
es_create_subscription(PG_FUNCTION_ARGS)
{
	Datum values[SUB_COLUMNS] = {0};
	char nulls[SUB_COLUMNS];
	int64 start;
	OwnerScope scope;
	bool made;

	start = create_arguments(fcinfo, values, nulls);
	es_consume_durably();
	/* one that is just being dropped is waited for */
	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(values[SUB_NAME]),
				 ShareLock);
	es_begin(&scope);
	made = insert_subscription(values, nulls);
	for (int m = 0; made && m < DatumGetInt32(values[SUB_MEMBERS]); m++)
	{
		MemberState state = {.position = start};

		es_forget_progress(es_progress_key(es_subscription_hash(values[SUB_NAME]),
										   m));
		es_store_member(values[SUB_NAME], m, &state);
	}
	if (!made && !is_same(values, nulls))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("another subscription \"%s\" exists",
						TextDatumGetCString(values[SUB_NAME])),
				 errhint("Change it with alter_subscription(), or drop it.")));
	es_end(&scope);
	PG_RETURN_BOOL(made);
}

/* ---------- changing one ---------- */

/*
 * Stores how far members have come over what is not for them, since with other
 * types that may be for them.  A member that is just fetching stores its own.
 */
static void
store_progress(Datum name)
{
	Subscription subscription;

	es_read_subscription(name, &subscription);
	for (int m = 0; m < subscription.members; m++)
	{
		Progress progress =
			es_read_progress(es_progress_key(subscription.hash, m));
		MemberState state;

		if (!es_try_lock_member(subscription.hash, m))
			continue;
		state = es_newest_member(name, m);
		if (progress.number != state.number || progress.position <= state.position)
			continue;
		state.position = progress.position;
		es_store_member(name, m, &state);
	}
}

Datum
es_alter_subscription(PG_FUNCTION_ARGS)
{
	static KeptPlan plan =
		{"UPDATE event_store.subscriptions SET aggregate_types ="
		 " CASE WHEN $2 IS NULL THEN aggregate_types ELSE " TYPE_SET(
			 "$2") " END,"
				   " event_types = CASE WHEN $3 IS NULL THEN event_types ELSE " TYPE_SET(
					   "$3") " END,"
							 " on_failure = COALESCE($4, on_failure),"
							 " max_attempts = COALESCE($5, max_attempts)"
							 " WHERE subscription_name OPERATOR(pg_catalog.=) $1",
		 5,
		 {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, INT4OID}};
	Datum values[5] = {name_argument(fcinfo)};
	char nulls[5] = {' ', 'n', 'n', 'n', 'n'};
	OwnerScope scope;

	values[1] = types_argument(fcinfo, 1, "aggregate_types", &nulls[1]);
	values[2] = types_argument(fcinfo, 2, "event_types", &nulls[2]);
	if (!PG_ARGISNULL(3))
	{
		values[3] = on_failure_argument(fcinfo, 3);
		nulls[3] = ' ';
	}
	if (!PG_ARGISNULL(4))
	{
		values[4] = Int32GetDatum(number_argument(fcinfo, 4, "max_attempts", 0,
												  PG_INT32_MAX));
		nulls[4] = ' ';
	}
	es_begin_consuming("alter_subscription()");
	(void) es_feed_database();
	es_consume_durably();
	es_begin(&scope);
	store_progress(values[0]);
	es_execute(&plan, values, nulls, false, SPI_OK_UPDATE);
	es_end(&scope);
	PG_RETURN_VOID();
}

static void
set_paused(FunctionCallInfo fcinfo, const char *function, bool paused)
{
	static KeptPlan plan = {"UPDATE event_store.subscriptions SET paused = $2"
							" WHERE subscription_name OPERATOR(pg_catalog.=) $1",
							2,
							{TEXTOID, BOOLOID}};
	Datum values[2] = {name_argument(fcinfo), BoolGetDatum(paused)};
	Subscription subscription;
	OwnerScope scope;

	es_begin_consuming(function);
	es_consume_durably();
	es_begin(&scope);
	es_read_subscription(values[0], &subscription);
	es_execute(&plan, values, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

Datum
es_pause_subscription(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, "pause_subscription()", true);
	PG_RETURN_VOID();
}

/* Members that have stopped, or wait to try an event again, go on at once. */
static void
restart_members(Datum name)
{
	Subscription subscription;
	OwnerScope scope;

	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name), ShareLock);
	es_begin(&scope);
	es_read_subscription(name, &subscription);
	for (int m = 0; m < subscription.members; m++)
	{
		MemberState state;

		/* one that is fetching has not stopped */
		if (!es_try_lock_member(subscription.hash, m))
			continue;
		state = es_newest_member(name, m);
		if (!state.stopped && state.retry_at == 0)
		{
			es_unlock_member(subscription.hash, m);
			continue;
		}
		state = (MemberState){.number = state.number, .position = state.position};
		es_store_member(name, m, &state);
	}
	es_end(&scope);
}

Datum
es_resume_subscription(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, "resume_subscription()", false);
	restart_members(name_argument(fcinfo));
	PG_RETURN_VOID();
}

Datum
es_move_subscription(PG_FUNCTION_ARGS)
{
	Datum name = name_argument(fcinfo);
	Subscription subscription;
	int64 position;
	OwnerScope scope;

	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("after_position must not be null")));
	es_begin_consuming("move_subscription()");
	(void) es_feed_database();
	position = position_argument(fcinfo, 1, "after_position");
	es_consume_durably();
	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name), ExclusiveLock);
	es_begin(&scope);
	es_read_subscription(name, &subscription);
	if (!subscription.paused)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("subscription \"%s\" is not paused",
							   TextDatumGetCString(name)),
						errhint("Call pause_subscription() first.")));
	for (int m = 0; m < subscription.members; m++)
	{
		MemberState state;

		es_lock_member(subscription.hash, m);
		state = es_newest_member(name, m);
		state.position = position;
		es_store_member(name, m, &state);
	}
	/* events that were settled on are to come again */
	subscription.sets_aside = true;
	es_move_parked(&subscription, position);
	es_end(&scope);
	PG_RETURN_VOID();
}

Datum
es_drop_subscription(PG_FUNCTION_ARGS)
{
	static KeptPlan definition = {"DELETE FROM event_store.subscriptions s"
								  " WHERE s.subscription_name OPERATOR(pg_catalog.=) $1",
								  1,
								  {TEXTOID}};
	static KeptPlan positions = {"DELETE FROM event_store.subscription_positions p"
								 " WHERE p.subscription_name OPERATOR(pg_catalog.=) $1",
								 1,
								 {TEXTOID}};
	Datum name = name_argument(fcinfo);
	OwnerScope scope;
	bool dropped;

	es_begin_consuming("drop_subscription()");
	es_consume_durably();
	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name), ExclusiveLock);
	es_begin(&scope);
	dropped = es_execute(&definition, &name, NULL, false, SPI_OK_DELETE) > 0;
	es_execute(&positions, &name, NULL, false, SPI_OK_DELETE);
	es_drop_parked(name);
	es_end(&scope);
	PG_RETURN_BOOL(dropped);
}
