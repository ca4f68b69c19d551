/*
 * drain_state.c
 *		How the drain goes, and the requests of those who wait for it.
 *
 * The worker's rounds, one after the other, make a series; between two series
 * the drain is idle:
 *
 *		STOPPED --a worker came--> IDLE <--> DRAINING
 *		 ^                          |          |  ^
 *		 |                          v          v  |
 *		 '------ it went ---------- BACKING_OFF --'
 *
 * Failures are those in a row; they outlive a worker, since rows that fail are
 * given up after so many.  Rounds in the foreground leave both alone.
 *
 * A request is a number.  It is fulfilled when a round that took its snapshot
 * after the request left nothing visible behind.  One round may not be enough
 * for that, and new rows must not put it off for ever: so the rounds remember
 * below which sid everything is that had committed when it was made.
 *
 * A round may have to leave rows behind, while others hold what their triggers
 * need.  Then what was asked for is tried and not done; some who wait can go on
 * with that, and none of them has to wait for who holds it.
 */
#include "postgres.h"

#include "fmgr.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "staging/drain_state.h"
#include "staging/staging_state.h"

static const char *const state_names[] = {[ES_DRAIN_IDLE] = "idle",
										  [ES_DRAIN_DRAINING] = "draining",
										  [ES_DRAIN_BACKING_OFF] = "backing_off",
										  [ES_DRAIN_STOPPED] = "stopped"};

#define FROM(state) (1 << ES_DRAIN_##state)

/* The states that may come before each. */
PG_USED_FOR_ASSERTS_ONLY static const int states_before[] =
	{[ES_DRAIN_IDLE] = FROM(DRAINING) | FROM(STOPPED),
	 [ES_DRAIN_DRAINING] = FROM(IDLE) | FROM(BACKING_OFF),
	 [ES_DRAIN_BACKING_OFF] = FROM(IDLE) | FROM(DRAINING) | FROM(BACKING_OFF),
	 [ES_DRAIN_STOPPED] =
		 FROM(IDLE) | FROM(DRAINING) | FROM(BACKING_OFF) | FROM(STOPPED)};

StaticAssertDecl(lengthof(state_names) == ES_DRAIN_STOPPED + 1,
				 "a name for each state");
StaticAssertDecl(lengthof(states_before) == ES_DRAIN_STOPPED + 1,
				 "what may come before each state");

const char *
es_drain_state_name(DrainState state)
{
	return state_names[state];
}

/* The one place where the state changes; the slot's lock is held. */
static void
set_state(SharedDatabase *db, DrainState state)
{
	Assert(LWLockHeldByMeInMode(db->lock, LW_EXCLUSIVE));
	Assert((states_before[state] & (1 << es_drain_progress(db)->state)) != 0);
	es_drain_progress(db)->state = state;
}

static void
initialise_progress(void *memory)
{
	DrainProgress *drain = memory;

	pg_atomic_init_u64(&drain->requested, 0);
	pg_atomic_init_u64(&drain->done, 0);
	pg_atomic_init_u64(&drain->tried, 0);
	drain->state = ES_DRAIN_STOPPED;
}

static void
clear_progress(SharedDatabase *db)
{
	DrainProgress *drain = es_drain_progress(db);

	set_state(db, ES_DRAIN_STOPPED);
	pg_atomic_write_u64(&drain->requested, 0);
	pg_atomic_write_u64(&drain->done, 0);
	pg_atomic_write_u64(&drain->tried, 0);
	drain->pending_request = 0;
	drain->pending_sid = 0;
	drain->failures = 0;
	drain->last_error[0] = '\0';
	drain->last_error_at = 0;
	drain->last_drain_at = 0;
	drain->refused_count = 0;
}

DatabasePart es_drain_part = {sizeof(DrainProgress), initialise_progress,
							  clear_progress};

void
es_share_drain_progress(void)
{
	es_share_by_database(&es_drain_part);
}

void
es_set_drain_state(SharedDatabase *db, DrainState state)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	set_state(db, state);
	LWLockRelease(db->lock);
	es_tell_progress(db);
}

int
es_note_drain_failure(SharedDatabase *db, const char *message)
{
	TimestampTz now = GetCurrentTimestamp();
	int failures;

	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_copy_error(es_drain_progress(db)->last_error, message);
	es_drain_progress(db)->last_error_at = now;
	failures = ++es_drain_progress(db)->failures;
	set_state(db, ES_DRAIN_BACKING_OFF);
	LWLockRelease(db->lock);
	es_tell_progress(db);
	return failures;
}

void
es_note_drain_success(SharedDatabase *db)
{
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	es_drain_progress(db)->failures = 0;
	es_drain_progress(db)->last_error[0] = '\0';
	es_drain_progress(db)->last_error_at = 0;
	LWLockRelease(db->lock);
}

/* ---------- refused locks ---------- */

void
es_tell_refused_locks(SharedDatabase *db)
{
	DrainProgress *drain = es_drain_progress(db);
	RefusedLock locks[ES_REFUSED_LOCKS];
	int count = es_refused_locks(locks);

	if (count == 0 && drain->refused_count == 0)
		return;
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	memcpy(drain->refused, locks, count * sizeof(RefusedLock));
	drain->refused_count = count;
	LWLockRelease(db->lock);
}

bool
es_holds_up_drain(SharedDatabase *db)
{
	DrainProgress *drain = es_drain_progress(db);
	RefusedLock locks[ES_REFUSED_LOCKS];
	int count;

	LWLockAcquire(db->lock, LW_SHARED);
	count = drain->refused_count;
	memcpy(locks, drain->refused, count * sizeof(RefusedLock));
	LWLockRelease(db->lock);
	for (int i = 0; i < count; i++)
	{
		if (es_holds_refused_lock(&locks[i]))
			return true;
	}
	return false;
}

/* ---------- requests ---------- */

uint64
es_request_drain(SharedDatabase *db)
{
	uint64 request =
		pg_atomic_add_fetch_u64(&es_drain_progress(db)->requested, 1);

	es_wake_worker(db);
	return request;
}

bool
es_drain_done(SharedDatabase *db, uint64 request)
{
	return pg_atomic_read_u64(&es_drain_progress(db)->done) >= request;
}

bool
es_drain_tried(SharedDatabase *db, uint64 request)
{
	return pg_atomic_read_u64(&es_drain_progress(db)->tried) >= request ||
		   es_drain_done(db, request);
}

bool
es_drain_requested(SharedDatabase *db)
{
	return !es_drain_done(db,
						  pg_atomic_read_u64(&es_drain_progress(db)->requested));
}

uint64
es_begin_drain_requests(SharedDatabase *db)
{
	uint64 request = pg_atomic_read_u64(&es_drain_progress(db)->requested);

	Assert(es_lock_held(ES_LOCK_DRAIN));
	if (es_drain_tried(db, es_drain_progress(db)->pending_request))
	{
		pg_read_barrier();
		es_drain_progress(db)->pending_request = request;
		es_drain_progress(db)->pending_sid =
			es_staging_is(db, ES_STAGING_OPEN)
				? (int64) pg_atomic_read_u64(&es_staging(db)->next_sid)
				: PG_INT64_MAX;
	}
	return request;
}

uint64
es_fulfilled_request(SharedDatabase *db, uint64 request, int64 stopped_at)
{
	Assert(es_lock_held(ES_LOCK_DRAIN));
	if (stopped_at == PG_INT64_MAX)
		return request;
	return stopped_at >= es_drain_progress(db)->pending_sid
			   ? es_drain_progress(db)->pending_request
			   : 0;
}

void
es_end_drain_request(SharedDatabase *db, uint64 request, uint64 tried)
{
	Assert(LWLockHeldByMeInMode(db->lock, LW_EXCLUSIVE));
	if (!es_drain_tried(db, tried))
		pg_atomic_write_u64(&es_drain_progress(db)->tried, tried);
	if (!es_drain_done(db, request))
		pg_atomic_write_u64(&es_drain_progress(db)->done, request);
}
