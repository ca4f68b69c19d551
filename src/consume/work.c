/*
 * work.c
 *		Waiting until a subscription has something.
 *
 * Whoever waits looks by himself once, and then sleeps until there is an event of the
 * subscription's types behind that, which the waiter that leads finds out for all
 * (read/waker.c); until something is due by the clock; until a member that was
 * somebody else's is free again; or until the subscription is changed.
 *
 * What the leader has looked at for him he does not read again: there was nothing of
 * these types, so members that were at the end go on behind it.  That holds for the
 * states that he saw, as all progress does (progress.c).
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/memutils.h"

#include "consume/aside.h"
#include "consume/member.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "consume/work.h"
#include "ground/shmem.h"
#include "ground/waiter.h"
#include "read/waker.h"

/* What is waited for together. */
typedef struct WorkWait
{
	Work *works;
	int count;
	bool (*look)(void *arg);
	void (*give_back)(void *arg);
	void *arg;
} WorkWait;

/* ---------- what a look says ---------- */

void
es_note_due(Work *work, TimestampTz at)
{
	if (work != NULL && at != 0 && (work->due_at == 0 || at < work->due_at))
		work->due_at = at;
}

void
es_note_nothing(Work *work, int member, const MemberState *state)
{
	if (work == NULL)
		return;
	if (member >= work->members)
	{
		int members = Max(member + 1, 2 * work->members);

		work->numbers = repalloc(work->numbers, members * sizeof(int64));
		memset(work->numbers + work->members, 0,
			   (members - work->members) * sizeof(int64));
		work->members = members;
	}
	work->numbers[member] = state->number;
}

static void
set_types(WaitFilter *filter, const Subscription *s)
{
	int first = Max(s->aggregate_type_count, 0);
	int count = first + Max(s->event_type_count, 0);

	filter->aggregate_types = filter->event_types = -1;
	/* too many: all of them */
	if (count > ES_FILTER_TYPES)
		return;
	filter->aggregate_types = (int16) s->aggregate_type_count;
	filter->event_types = (int16) s->event_type_count;
	for (int i = 0; i < count; i++)
		filter->types[i] = es_type_hash(i < first ? s->aggregate_types[i]
												  : s->event_types[i - first]);
}

void
es_end_work(Work *work, const Subscription *subscription, int64 safe)
{
	if (work == NULL)
		return;
	work->safe = safe;
	/* of one that is paused no event is wanted before it is changed */
	if (!subscription->paused)
	{
		work->filter.after = safe;
		set_types(&work->filter, subscription);
	}
	if (subscription->sets_aside)
		es_note_due(work, es_next_due(subscription));
}

/* ---------- looks ---------- */

/* Before a look; others have looked up to a position for it. */
static void
begin_work(Work *work, SharedDatabase *db, int64 after)
{
	for (int m = 0; m < work->members; m++)
	{
		if (after != PG_INT64_MAX && work->numbers[m] != 0)
			es_extend_progress(es_progress_key(work->subscription, m),
							   work->numbers[m], work->safe, after);
		work->numbers[m] = 0;
	}
	work->busy = work->leased = work->again = false;
	work->due_at = 0;
	work->filter =
		(WaitFilter){.subscription = work->subscription, .after = PG_INT64_MAX};
	work->freed = es_times_freed(db, work->subscription);
}

/* What all of them wait for. */
static void
combine(const WorkWait *works, FeedWait *wait)
{
	int64 after = PG_INT64_MAX;

	wait->again = false;
	wait->due_at = 0;
	wait->hears = ES_HEARS_CHANGES;
	for (int i = 0; i < works->count; i++)
	{
		Work *work = &works->works[i];

		wait->again = wait->again || work->again;
		if (work->busy)
			wait->hears = ES_HEARS_FREED;
		else if (work->leased)
			wait->hears = Max(wait->hears, ES_HEARS_PROGRESS);
		if (work->due_at != 0 &&
			(wait->due_at == 0 || work->due_at < wait->due_at))
			wait->due_at = work->due_at;
		after = Min(after, work->filter.after);
		if (i < ES_WAIT_FILTERS)
			wait->filters[i] = work->filter;
	}
	wait->count = works->count;
	if (works->count <= ES_WAIT_FILTERS)
		return;
	wait->count = -1;
	wait->filters[0].after = after;
}

static bool
look_at_works(FeedWait *wait)
{
	WorkWait *works = wait->own;
	SharedDatabase *db = es_my_database();

	for (int i = 0; i < works->count; i++)
		begin_work(&works->works[i], db,
				   i < wait->count ? wait->filters[i].after : PG_INT64_MAX);
	if (works->look(works->arg))
		return true;
	combine(works, wait);
	return false;
}

static void
give_back_all(FeedWait *wait)
{
	WorkWait *works = wait->own;

	works->give_back(works->arg);
}

/* Whether a member became free between the look at it and now. */
static bool
missed_free_member(FeedWait *wait)
{
	WorkWait *works = wait->own;
	SharedDatabase *db = es_my_database();

	for (int i = 0; i < works->count; i++)
	{
		if ((works->works[i].busy || works->works[i].leased) &&
			es_times_freed(db, works->works[i].subscription) !=
				works->works[i].freed)
			return true;
	}
	return false;
}

bool
es_wait_for_work(Work *works, int count, int64 timeout, bool (*look)(void *arg),
				 void (*give_back)(void *arg), void *arg)
{
	WorkWait all = {.works = works,
					.count = count,
					.look = look,
					.give_back = give_back,
					.arg = arg};
	FeedWait wait = {.look = look_at_works,
					 .give_back = give_back == NULL ? NULL : give_back_all,
					 .missed = missed_free_member,
					 .own = &all,
					 .position = PG_INT64_MAX,
					 .subscription_count = count};
	uint64 *subscriptions = palloc(Max(count, 1) * sizeof(uint64));

	for (int i = 0; i < count; i++)
	{
		works[i].numbers = palloc0(sizeof(int64));
		works[i].members = 1;
		subscriptions[i] = works[i].subscription;
	}
	wait.subscriptions = subscriptions;
	return es_wait_for_feed(&wait, timeout);
}
