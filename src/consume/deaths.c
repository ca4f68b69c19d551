/*
 * deaths.c
 *		Sessions that ended with one event in hand: attempts, as an expired lease is one.
 *
 * A consumer that dies of an event says nothing.  Where next_events gave that event
 * alone, and the session ended without COMMIT or ROLLBACK, the end of the session
 * notes it in shared memory (progress.c), with the number of the member's state: any
 * other state makes the note void.  Who next serves the member counts it in what he
 * stores.  If he dies of the event as well, that is rolled back with him, so the worker
 * stores it, too, as soon as nobody has the member.
 *
 * A rollback is no attempt: a client that lives can say what failed.  At a crash of the
 * server nobody notes anything.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"

#include "consume/aside.h"
#include "consume/deaths.h"
#include "consume/failure.h"
#include "consume/member.h"
#include "consume/progress.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"

typedef struct DeathShare
{
	pg_atomic_uint32 noted; /* since the worker looked */
} DeathShare;

static void
initialise_deaths(void *memory)
{
	pg_atomic_init_u32(&((DeathShare *) memory)->noted, 0);
}

static void clear_deaths(SharedDatabase *db);

static DatabasePart part = {sizeof(DeathShare), initialise_deaths, clear_deaths};

static pg_atomic_uint32 *
noted(const SharedDatabase *db)
{
	return &((DeathShare *) es_part(db, &part))->noted;
}

static void
clear_deaths(SharedDatabase *db)
{
	pg_atomic_write_u32(noted(db), 0);
}

void
es_share_deaths(void)
{
	es_share_by_database(&part);
}

/* The member is free by now: the session has let go of its locks. */
static void
call_worker(int code, Datum arg)
{
	SharedDatabase *db = es_my_database();

	pg_atomic_fetch_add_u32(noted(db), 1);
	es_nudge_worker(db);
}

void
es_note_death(uint64 key, int64 number, int64 position)
{
	es_add_death(key, number, position);
	on_shmem_exit(call_worker, (Datum) 0);
}

bool
es_count_deaths(const Subscription *subscription, int member,
				MemberState *state, const Progress *progress)
{
	Failure failure = {.subscription = *subscription,
					   .position = progress->death_position,
					   .state = *state,
					   .passed = state->position};

	if (progress->deaths == 0 || progress->death_number != state->number ||
		state->lease.number != 0)
		return false;
	failure.cause.message =
		CStringGetTextDatum("the session ended with this event in hand");
	failure.subscription.sets_aside = true;
	if (!es_find_event(&failure) || failure.member != member ||
		!es_hold_aside(failure.subscription.name, failure.partition,
					   failure.position))
		return false;
	es_count_attempts(&failure, progress->deaths);
	*state = failure.state;
	return true;
}

bool
es_deaths_due(const SharedDatabase *db)
{
	return pg_atomic_read_u32(noted(db)) != 0;
}

/* How many had been noted when the worker began. */
static uint32 looked_at = 0;

/* What was rolled back is done again. */
static void
end_storing(SharedDatabase *db, bool committed)
{
	if (committed && db != NULL)
		pg_atomic_fetch_sub_u32(noted(db), looked_at);
	looked_at = 0;
}

/* Of a member that nobody has; who has it counts them himself, or dies, too. */
static void
store_member_deaths(const Subscription *subscription, int member)
{
	Progress progress =
		es_read_progress(es_progress_key(subscription->hash, member));
	MemberState state;

	if (progress.deaths == 0 || !es_try_lock_member(subscription->hash, member))
		return;
	progress = es_read_progress(es_progress_key(subscription->hash, member));
	state = es_newest_member(subscription->name, member);
	if (es_count_deaths(subscription, member, &state, &progress))
		es_store_member(subscription->name, member, &state);
}

void
es_store_deaths(SharedDatabase *db)
{
	static KeptPlan all = {
		"SELECT s.subscription_name FROM event_store.subscriptions s"};
	OwnerScope scope;
	SPITupleTable *table;
	uint64 count;

	es_at_end(ES_END_DEATHS, end_storing, NULL);
	looked_at = pg_atomic_read_u32(noted(db));
	es_begin(&scope);
	count = es_execute(&all, NULL, NULL, false, SPI_OK_SELECT);
	table = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		Subscription subscription;
		bool isnull;
		Datum name = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);

		/* one that is dropped meanwhile is nobody's any more */
		if (!es_try_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name),
							  ShareLock) ||
			!es_find_subscription(name, &subscription))
			continue;
		for (int m = 0; m < subscription.members; m++)
			store_member_deaths(&subscription, m);
	}
	es_end(&scope);
}
