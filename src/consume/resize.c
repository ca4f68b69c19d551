/*
 * resize.c
 *		The partitions of a subscription divided among another number of members.
 *
 * Members stand at different places of the log, and the new ones have partitions of
 * several old ones.  So they begin at the lowest old position, and what the old members had
 * passed, each of its own partitions, is kept with the subscription: a new event is
 * given only if it lies above the position of its old member (stretch.c).  That matters
 * until all have passed the highest old position; from then on the old ones say nothing, and
 * stay until the next resize overwrites them.
 *
 * What is set aside was given before: its rows do not move, and a partition is retried as far
 * as its old member had come (es_partition_served).
 *
 * Nobody may be given anything meanwhile, nor have anything in hand.  The subscription's
 * lock is taken in two steps.  The first one waits for transactions that have
 * events, holds off new fetches and claims, and lets leases be acknowledged, released and
 * extended until none is open.  The second one waits for who is doing that, and holds
 * it off, too; where a lease was extended meanwhile it is given back.  Then the
 * members' locks wait for whoever changes a state without events in hand.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/fetches.h"
#include "consume/inline_switch.h"
#include "consume/lease.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/progress.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/waiter.h"
#include "ground/worker_slot.h"
#include "read/feed.h"
#include "read/waker.h"
#include "replay/row_key.h"

PG_FUNCTION_INFO_V1(es_resize_subscription);

/* Without lock_timeout leases are waited for in pieces, of a day. */
#define MAX_SLEEP_MS (INT64CONST(24) * 60 * 60 * 1000)

typedef struct Resize
{
	Datum name; /* a text */
	uint64 hash;
	int members;			   /* that there are to be */
	Subscription subscription; /* as it is to be */
	int old_members;
	MemberState *old_states; /* their positions as far as they have come */
	int64 lowest;
	int64 highest;
	MemberState *states; /* the new ones */
	uint32 freed;		 /* before the look at leases */
} Resize;

static void
refuse_own_events(Datum name)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
					errmsg("this transaction has events of subscription \"%s\"",
						   TextDatumGetCString(name)),
					errhint("Resize it in a transaction of its own.")));
}

static void
refuse_under_way(const Resize *resize)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("the last resize of subscription \"%s\" is not over",
					TextDatumGetCString(resize->subscription.name)),
			 errdetail("Not all of its %d members have passed position %lld.",
					   resize->old_members,
					   (long long) resize->subscription.old_highest),
			 errhint("Let its consumers go on until position in subscription_status is there.")));
}

/* Where the old members stand. */
static void
read_old_states(Resize *resize)
{
	const Subscription *s = &resize->subscription;

	resize->old_states = palloc(resize->old_members * sizeof(MemberState));
	resize->lowest = PG_INT64_MAX;
	for (int m = 0; m < resize->old_members; m++)
	{
		MemberState *state = &resize->old_states[m];

		*state = es_newest_member(s->name, m);
		if (state->lease.number != 0)
			es_expire_lease(s, m, state);
		state->position = es_member_passed(s->hash, m, state);
		if (state->stopped)
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("member %d of subscription \"%s\" has stopped",
								   m, TextDatumGetCString(s->name)),
							errhint("Call resume_subscription() first.")));
		if (state->position < s->old_highest)
			refuse_under_way(resize);
		resize->lowest = Min(resize->lowest, state->position);
		resize->highest = Max(resize->highest, state->position);
	}
}

/*
 * The states of the new members.  Numbers go on, also from those of an earlier
 * size: an old snapshot must not take one state for another.
 */
static void
make_states(Resize *resize)
{
	const Subscription *s = &resize->subscription;

	resize->states = palloc0(s->members * sizeof(MemberState));
	PushActiveSnapshot(GetLatestSnapshot());
	for (int m = 0; m < s->members; m++)
	{
		MemberState before;

		if (es_read_member(s->name, m, GetActiveSnapshot(), &before))
			resize->states[m].number = before.number;
		resize->states[m].position = resize->lowest;
	}
	PopActiveSnapshot();
}

/* Whether a new member has the event at a position. */
static bool
has_event(const Resize *resize, int member, int64 position)
{
	Stretch one = {.subscription = &resize->subscription,
				   .member = member,
				   .max_count = 1};

	(void) es_read_stretch(&one, position - 1, position);
	return one.count > 0;
}

/*
 * A member that tries an event again has counted the attempts: the new one that has the event
 * goes on counting; with several such events at the first.
 */
static void
hand_on_attempts(Resize *resize)
{
	for (int old = 0; old < resize->old_members; old++)
	{
		const MemberState *from = &resize->old_states[old];

		for (int m = 0; from->attempts > 0 && m < resize->subscription.members;
			 m++)
		{
			MemberState *to = &resize->states[m];

			if (!has_event(resize, m, from->attempt_position))
				continue;
			if (to->attempts > 0 && to->attempt_position < from->attempt_position)
				break;
			to->attempts = from->attempts;
			to->attempt_position = from->attempt_position;
			to->retry_at = from->retry_at;
			to->last_error = from->last_error;
			break;
		}
	}
}

/* Stores the number of members, and where the old ones stood unless all stood in one place. */
static void
store_size(const Resize *resize)
{
	static KeptPlan plan = {"UPDATE event_store.subscriptions SET members = $2, old_positions = $3"
							" WHERE subscription_name OPERATOR(pg_catalog.=) $1",
							3,
							{TEXTOID, INT4OID, INT8ARRAYOID}};
	Datum *positions = palloc(resize->old_members * sizeof(Datum));
	Datum values[3] = {resize->subscription.name,
					   Int32GetDatum(resize->subscription.members)};

	for (int m = 0; m < resize->old_members; m++)
		positions[m] = Int64GetDatum(resize->old_states[m].position);
	values[2] =
		PointerGetDatum(construct_array(positions, resize->old_members, INT8OID,
										sizeof(int64), FLOAT8PASSBYVAL,
										TYPALIGN_DOUBLE));
	es_execute_latest(&plan, values,
					  resize->lowest == resize->highest ? "  n" : "   ");
}

/* Looks at the leases of members; true when none is open, or none matters. */
static bool
leases_are_over(FeedWait *wait)
{
	Resize *resize = wait->own;
	Subscription *s = &resize->subscription;
	OwnerScope scope;

	resize->freed = es_times_freed(es_my_database(), resize->hash);
	wait->count = 1;
	wait->filters[0] =
		(WaitFilter){.subscription = resize->hash, .after = PG_INT64_MAX};
	wait->hears = ES_HEARS_PROGRESS;
	wait->position = PG_INT64_MAX;
	wait->due_at = 0;
	es_begin_read(&scope);
	es_read_subscription(resize->name, s);
	for (int m = 0; s->members != resize->members && m < s->members; m++)
	{
		MemberState state = es_newest_member(s->name, m);

		if (!es_lease_is_open(&state))
			continue;
		if (state.own)
			refuse_own_events(resize->name);
		if (wait->due_at == 0 || state.lease.until < wait->due_at)
			wait->due_at = state.lease.until;
	}
	es_end(&scope);
	return wait->due_at == 0;
}

/* Whether a lease has ended between the look and now. */
static bool
missed_end(FeedWait *wait)
{
	const Resize *resize = wait->own;

	return resize->freed != es_times_freed(es_my_database(), resize->hash);
}

/* Waits for open leases, as a lock is waited for. */
static void
wait_for_leases(FeedWait *wait, TimestampTz start)
{
	for (;;)
	{
		int64 left = MAX_SLEEP_MS;

		if (LockTimeout > 0)
			left = LockTimeout - (GetCurrentTimestamp() - start) / 1000;
		if (es_wait_for_feed(wait, Max(left, 0)))
			return;
		if (LockTimeout > 0)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("canceling statement due to lock timeout"),
					 errdetail("Members of subscription \"%s\" are leased.",
							   TextDatumGetCString(((Resize *) wait->own)->name))));
	}
}

/* Until nobody has events of it, and nobody is given any. */
static void
lock_out(Resize *resize)
{
	FeedWait wait = {.look = leases_are_over,
					 .missed = missed_end,
					 .own = resize,
					 .subscriptions = &resize->hash,
					 .subscription_count = 1};
	TimestampTz start;

	es_lock_hash(ES_LOCK_SUBSCRIPTION, resize->hash, ShareRowExclusiveLock);
	start = GetCurrentTimestamp();
	for (;;)
	{
		wait_for_leases(&wait, start);
		es_lock_hash(ES_LOCK_SUBSCRIPTION, resize->hash, ExclusiveLock);
		if (leases_are_over(&wait))
			return;
		es_unlock_hash(ES_LOCK_SUBSCRIPTION, resize->hash, ExclusiveLock);
	}
}

/* The subscription's lock is held exclusively; it is read as it was. */
static void
resize_to(Resize *resize)
{
	Subscription *s = &resize->subscription;
	int members = resize->members;

	resize->old_members = s->members;
	for (int m = 0; m < Max(s->members, members); m++)
		es_lock_member(s->hash, m);
	read_old_states(resize);
	s->members = members;
	s->old_members = 0;
	s->old_highest = 0;
	make_states(resize);
	hand_on_attempts(resize);
	for (int m = 0; m < Max(resize->old_members, members); m++)
		es_forget_progress(es_progress_key(s->hash, m));
	for (int m = 0; m < members; m++)
		es_store_member(s->name, m, &resize->states[m]);
	store_size(resize);
	es_divide_parked(s);
}

/* A view is divided among members by a key that the event itself gives, one a time. */
static void
check_divisible(Datum name)
{
	static KeptPlan plan = {"SELECT p.key FROM event_store.projections p"
							" WHERE p.projection_name OPERATOR(pg_catalog.=) $1"
							" AND p.kind OPERATOR(pg_catalog.=) 'view'",
							1,
							{TEXTOID}};
	Datum key;
	bool isnull;

	es_refuse_inline(name, "resized");
	if (es_execute_latest(&plan, &name, NULL) == 0)
		return;
	key = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!es_row_key_divides(es_row_key_parse(isnull ? NULL : DatumGetJsonbP(key))))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("members must be 1 for the key of view \"%s\"",
							   TextDatumGetCString(name))));
}

Datum
es_resize_subscription(PG_FUNCTION_ARGS)
{
	Resize resize = {0};
	Subscription *s = &resize.subscription;
	OwnerScope scope;
	bool same;

	resize.name =
		PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	resize.hash = es_subscription_hash(resize.name);
	resize.members = es_bounded_argument(fcinfo, 1, "members", 1, ES_MAX_MEMBERS);
	es_begin_consuming("resize_subscription()");
	es_refuse_in_worker(es_feed_database());
	es_consume_durably();
	if (es_open_fetch(resize.hash) != NULL)
		refuse_own_events(resize.name);
	/* one that has the size already holds off nobody */
	es_begin_read(&scope);
	es_read_subscription(resize.name, s);
	if (resize.members > 1 && s->projection)
		check_divisible(resize.name);
	same = s->members == resize.members;
	es_end(&scope);
	if (same)
		PG_RETURN_VOID();
	lock_out(&resize);
	es_begin(&scope);
	es_read_subscription(resize.name, s);
	/* it may have been given another key meanwhile */
	if (resize.members > 1 && s->projection)
		check_divisible(resize.name);
	if (s->members != resize.members)
		resize_to(&resize);
	es_end(&scope);
	PG_RETURN_VOID();
}
