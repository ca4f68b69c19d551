/*
 * subscription_admin.c
 *		Subscriptions made and changed.
 *
 * Whoever is given events holds the subscription's lock in share mode to the end of
 * his transaction; what must not happen under him, a move and a drop (and a resize:
 * resize.c), takes it exclusively, and waits for open fetches while new ones are held off.  To pause, resume and
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
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/inline_switch.h"
#include "consume/member.h"
#include "consume/pace.h"
#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/progress.h"
#include "consume/retry.h"
#include "consume/subscription.h"
#include "consume/subscription_admin.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/projector_slot.h"
#include "ground/waiter.h"
#include "read/feed.h"
#include "replay/row_key.h"

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

	return es_execute_latest(&plan, values, nulls) == 1;
}

/* An argument that is not as the subscription of that name has it. */
#define IF_OTHER(column, given) \
	", CASE WHEN s." column " IS DISTINCT FROM " given " THEN '" column "' END"

/* Which arguments are others than those of the subscription that is there; "" if none. */
static char *
differences(Datum *values, const char *nulls)
{
	static KeptPlan plan =
		{"SELECT pg_catalog.concat_ws(', '" IF_OTHER("aggregate_types",
													 TYPE_SET("$2"))
			 IF_OTHER("event_types", TYPE_SET("$3")) IF_OTHER("members", "$4")
				 IF_OTHER("start_after", "$5") IF_OTHER("on_failure", "$6")
					 IF_OTHER("max_attempts", "$7")
						 IF_OTHER("partition_by",
								  "$8") ") FROM event_store.subscriptions s"
										" WHERE s.subscription_name OPERATOR(pg_catalog.=) $1",
		 SUB_COLUMNS, SUB_TYPES};
	bool isnull;

	/* its owner has taken the row out by hand */
	if (es_execute_latest(&plan, values, nulls) == 0)
		return "subscription_name";
	return TextDatumGetCString(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1, &isnull));
}

static void
refuse_other(Datum *values, const char *nulls)
{
	char *others = differences(values, nulls);

	if (others[0] == '\0')
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("another subscription \"%s\" exists",
					TextDatumGetCString(values[SUB_NAME])),
			 errdetail("It has other values of %s.", others),
			 errhint("Change it with alter_subscription() or resize_subscription(), or drop it.")));
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
	values[SUB_MEMBERS] = Int32GetDatum(es_bounded_argument(fcinfo, 3, "members",
															1, ES_MAX_MEMBERS));
	values[SUB_START_AFTER] = PG_ARGISNULL(4) ? 0 : PG_GETARG_DATUM(4);
	nulls[SUB_START_AFTER] = PG_ARGISNULL(4) ? 'n' : ' ';
	values[SUB_ON_FAILURE] = on_failure_argument(fcinfo, 5);
	values[SUB_MAX_ATTEMPTS] =
		Int32GetDatum(es_bounded_argument(fcinfo, 6, "max_attempts", 0,
										  PG_INT32_MAX));
	partition_by = es_required_text(fcinfo, 7, "partition_by");
	/* a projection may have the rows of its view as partitions */
	es_read_partitioning(partition_by,
						 fcinfo->flinfo == NULL ? es_row_key_parse(NULL) : NULL,
						 &partitioning);
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
	if (!made)
		refuse_other(values, nulls);
	es_end(&scope);
	PG_RETURN_BOOL(made);
}

/* ---------- changing one ---------- */

/*
 * Stores how far a member has come over what is not for it, since with other types
 * that may be for it.  One that is being fetched is waited for if it has come further
 * than what it would go back to.
 */
static void
store_progress(Datum name, uint64 hash, int member)
{
	MemberState state = es_newest_member(name, member);
	int64 passed;

	if (es_member_passed(hash, member, &state) > state.position)
		es_lock_member(hash, member);
	else if (!es_try_lock_member(hash, member))
		return;
	state = es_newest_member(name, member);
	passed = es_member_passed(hash, member, &state);
	if (passed == state.position)
	{
		es_unlock_member(hash, member);
		return;
	}
	state.position = passed;
	es_store_member(name, member, &state);
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
							 " WHERE subscription_name OPERATOR(pg_catalog.=) $1"
							 " AND (($2 IS NULL AND $3 IS NULL)"
							 " OR NOT EXISTS (SELECT FROM event_store.projections p"
							 " WHERE p.projection_name OPERATOR(pg_catalog.=) $1"
							 " AND p.kind OPERATOR(pg_catalog.=) 'view'))",
		 5,
		 {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, INT4OID}};
	Datum values[5] = {name_argument(fcinfo)};
	char nulls[5] = {' ', 'n', 'n', 'n', 'n'};
	Subscription subscription;
	OwnerScope scope;
	bool retyped;

	values[1] = types_argument(fcinfo, 1, "aggregate_types", &nulls[1]);
	values[2] = types_argument(fcinfo, 2, "event_types", &nulls[2]);
	if (!PG_ARGISNULL(3))
	{
		values[3] = on_failure_argument(fcinfo, 3);
		nulls[3] = ' ';
	}
	if (!PG_ARGISNULL(4))
	{
		values[4] = Int32GetDatum(es_bounded_argument(fcinfo, 4, "max_attempts",
													  0, PG_INT32_MAX));
		nulls[4] = ' ';
	}
	es_begin_consuming("alter_subscription()");
	(void) es_feed_database();
	es_consume_durably();
	es_note_freed(es_subscription_hash(values[0]), true);
	retyped = nulls[1] == ' ' || nulls[2] == ' ';
	if (retyped)
		es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(values[0]),
					 ShareLock);
	es_begin(&scope);
	es_read_subscription(values[0], &subscription);
	/* other types hold from where the members are */
	for (int m = 0; retyped && m < subscription.members; m++)
		store_progress(values[0], subscription.hash, m);
	if (es_execute_latest(&plan, values, nulls) == 0)
	{
		/* one that was dropped meanwhile is told as such, and nothing stays behind */
		es_read_subscription(values[0], &subscription);
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the types of events that view \"%s\" is made of cannot be altered",
						TextDatumGetCString(values[0])),
				 errhint("Make it anew from others with replace_projection().")));
	}
	es_end(&scope);
	es_note_projectors_wanted();
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
	/* before the row, as whoever moves, resizes and drops it has them */
	if (!paused)
		es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(values[0]),
					 ShareLock);
	es_note_freed(es_subscription_hash(values[0]), true);
	es_begin(&scope);
	es_read_subscription(values[0], &subscription);
	es_end(&scope);
	/* a view that appends fold is left to projectors until it is resumed */
	if (paused && subscription.projection && es_hold_inline(values[0]))
		es_end_inline(values[0]);
	es_begin(&scope);
	if (es_execute_latest(&plan, values, NULL) == 0)
		/* it was dropped while we waited */
		es_read_subscription(values[0], &subscription);
	es_end(&scope);
}

Datum
es_pause_subscription(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, "pause_subscription()", true);
	PG_RETURN_VOID();
}

/*
 * Locks a member to let it go on.  Nobody has one for long that has stopped or waits, but
 * consumers who look at it; one that is fetching has not stopped, and is left to them.
 */
static bool
lock_to_restart(const Subscription *subscription, int member)
{
	MemberState state = es_newest_member(subscription->name, member);

	if (!state.stopped && es_pause_end(state.retry_at) <= GetCurrentTimestamp())
		return es_try_lock_member(subscription->hash, member);
	es_lock_member(subscription->hash, member);
	return true;
}

/* Members that have stopped, or wait to try an event again, go on at once. */
static void
restart_members(Datum name)
{
	Subscription subscription;
	OwnerScope scope;

	es_begin(&scope);
	es_read_subscription(name, &subscription);
	for (int m = 0; m < subscription.members; m++)
	{
		MemberState state;

		if (!lock_to_restart(&subscription, m))
			continue;
		state = es_newest_member(name, m);
		if (!state.stopped && state.retry_at == 0)
		{
			es_unlock_member(subscription.hash, m);
			continue;
		}
		state.stopped = false;
		state.attempts = 0;
		state.attempt_position = 0;
		state.retry_at = 0;
		state.last_error = (Datum) 0;
		es_store_member(name, m, &state);
	}
	es_end(&scope);
}

Datum
es_resume_subscription(PG_FUNCTION_ARGS)
{
	set_paused(fcinfo, "resume_subscription()", false);
	restart_members(name_argument(fcinfo));
	es_note_projectors_wanted();
	PG_RETURN_VOID();
}

void
es_move_members(Subscription *subscription, int64 position)
{
	static KeptPlan forget = {"UPDATE event_store.subscriptions SET old_positions = NULL"
							  " WHERE subscription_name OPERATOR(pg_catalog.=) $1"
							  " AND old_positions IS NOT NULL",
							  1,
							  {TEXTOID}};

	for (int m = 0; m < subscription->members; m++)
	{
		MemberState state;

		es_lock_member(subscription->hash, m);
		state = es_newest_member(subscription->name, m);
		state.position = position;
		state.lease = (Lease){0};
		state.batch_limit = 0;
		state.limit_until = 0;
		es_store_member(subscription->name, m, &state);
	}
	es_note_projectors_wanted();
	/* a resize had its members before it at other places */
	es_execute_latest(&forget, &subscription->name, NULL);
	subscription->old_members = 0;
	subscription->old_highest = 0;
	/* events that were settled on are to come again */
	subscription->sets_aside = true;
	es_move_parked(subscription, position);
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
	if (subscription.projection)
		es_refuse_inline(name, "moved");
	if (!subscription.paused)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("subscription \"%s\" is not paused",
							   TextDatumGetCString(name)),
						errhint("Call pause_subscription() first.")));
	es_move_members(&subscription, position);
	es_end(&scope);
	PG_RETURN_VOID();
}

/* A projection goes by its own function. */
static void
refuse_projection(Datum name)
{
	static KeptPlan plan = {"SELECT FROM event_store.subscriptions s"
							" WHERE s.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND s.projection",
							1,
							{TEXTOID}};

	if (es_execute_latest(&plan, &name, NULL) > 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("subscription \"%s\" is a projection",
							   TextDatumGetCString(name)),
						errhint("Drop it with drop_projection().")));
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
	refuse_projection(name);
	dropped = es_execute_latest(&definition, &name, NULL) > 0;
	es_execute_latest(&positions, &name, NULL);
	es_drop_parked(name);
	es_end(&scope);
	PG_RETURN_BOOL(dropped);
}
