/*
 * job.c
 *		The jobs of a worker: when they are due, and what they do.
 *
 * They are a table: opening staging, the drain, giving space back, storing the
 * safe position for standbys, snapshots of aggregates, pruning the history of
 * dead letters, forgetting processed messages, deleting old positions of
 * subscriptions, counting sessions that ended with an event, starting projectors, having what was erased scrubbed, closing staging.  A job says when it is due, and does a bounded
 * piece of work in steps, each in a transaction of its own (step.c).  What a step
 * does stands in the file below that owns it, and every step can also be run in
 * the foreground by a function.
 *
 * Nothing that a job runs may wait for the worker, since it would wait for
 * itself; and its steps but the drain give up soon what they wait for, since
 * who holds it may wait for the drain.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "consume/deaths.h"
#include "consume/processed.h"
#include "consume/prune.h"
#include "ground/catalog.h"
#include "ground/due_snapshot.h"
#include "ground/position.h"
#include "ground/projector_slot.h"
#include "ground/scrubber_slot.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"
#include "keep/scrub.h"
#include "process/job.h"
#include "process/projector.h"
#include "process/step.h"
#include "replay/snapshot.h"
#include "staging/drain.h"
#include "staging/drain_state.h"
#include "staging/opening.h"
#include "staging/segment.h"
#include "staging/staging_state.h"
#include "write/settle.h"

/* The first pause after a round that was due and found nothing to move. */
#define ES_EMPTY_ROUND_PAUSE_MS 10
/*
 * A snapshot is followed by a rest of so many times the time it took, up to so
 * long: a slow aggregate type shall not keep the others waiting.
 */
#define ES_SNAPSHOT_REST 9
#define ES_SNAPSHOT_REST_MS 1000

/* A snapshot may take so long. */
#define ES_SNAPSHOT_MS 10000
/* The safe position is stored at most this often, and if that failed, this. */
#define ES_POSITION_PAUSE_MS 1000
#define ES_POSITION_RETRY_MS 30000

/* Rows of the history of dead letters go in steps of so many, and so often. */
#define ES_PRUNE_ROWS 1000
#define ES_PRUNE_PAUSE_MS 3600000

static bool
run_step(Work *work, const Step *step)
{
	return es_run_step(work->db, step, work, work->error);
}

void
es_leave_unless_called(Work *work)
{
	SharedDatabase *db = work->db;

	if (work->store_gone)
	{
		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		es_set_staging_state(db, ES_STAGING_UNKNOWN);
		es_forget_snapshots_due(db);
		LWLockRelease(db->lock);
		pg_atomic_write_u32(&es_positions(db)->unstored, 0);
	}
	if (es_retire_worker(db))
		proc_exit(0);
}

/* ---------- steps ---------- */

/* Whether there is (still) a store: then the step is its owner from here on. */
static bool
enter_store(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	if (!work->store_gone)
		es_become_owner();
	return !work->store_gone;
}

/* Is there (still) a store?  Opens staging for it, if that is wanted. */
static void
step_open(Work *work)
{
	bool was_gone = work->store_gone;

	/* without a place a store is left alone, as without preload */
	work->store_gone = es_lock_store() == NULL || es_my_database() == NULL;
	if (work->store_gone)
		return;
	/* while there was no worker for it, positions may have been taken */
	if (was_gone)
		pg_atomic_write_u32(&es_positions(work->db)->unstored, 1);
	es_become_owner();
	if (!es_staging_known(work->db) ||
		(es_staging_is(work->db, ES_STAGING_CLOSED) &&
		 pg_atomic_read_u32(&es_staging(work->db)->wanted) != 0))
		es_open_staging(work->db);
}

static const Step open_step = {"open staging", step_open, .worth_finishing = true};

static void
step_drain(Work *work)
{
	int64 max_rows = es_write_batch_size + work->round.left;

	memset(&work->round, 0, sizeof(work->round));
	if (!enter_store(work))
		return;
	/* rows were counted for a store that is no more */
	if (!es_staging_known(work->db))
		es_open_staging(work->db);
	else
		es_drain_round(max_rows, true, &work->round);
}

const Step es_drain_step = {"drain", step_drain, .worth_finishing = true,
							.waits = true};

static void
step_reclaim(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	work->rotated = !work->store_gone && es_reclaim_segments();
}

static const Step reclaim_step = {"reclaim", step_reclaim};

static void
step_close(Work *work)
{
	work->closed = !enter_store(work) || es_close_staging();
}

const Step es_close_step = {"close staging", step_close, .worth_finishing = true};

static void
step_position(Work *work)
{
	if (enter_store(work))
		es_store_safe_position();
}

static const Step position_step = {"store position", step_position,
								   .unflushed = true};

static void
step_snapshot(Work *work)
{
	const char *error;

	if (!enter_store(work))
		return;
	es_limit_step(ES_SNAPSHOT_MS);
	error = es_take_due_snapshot(work->db);
	es_lift_limit();
	if (error != NULL)
		es_copy_error(work->error, error);
}

static const Step snapshot_step = {"snapshot", step_snapshot, .unflushed = true};

static void
step_forget(Work *work)
{
	if (enter_store(work))
		es_forget_next(work->db);
}

static const Step forget_step = {"forget processed", step_forget,
								 .unflushed = true};

static void
step_prune_history(Work *work)
{
	work->pruned = 0;
	if (enter_store(work))
		work->pruned = es_prune_letter_history(ES_PRUNE_ROWS);
}

static const Step prune_history_step = {"prune history", step_prune_history,
										.unflushed = true};

static void
step_prune(Work *work)
{
	if (enter_store(work))
		es_prune_positions(work->db);
}

static const Step prune_step = {"prune positions", step_prune, .unflushed = true};

static void
step_count_deaths(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	if (work->store_gone)
		return;
	es_become_owner();
	es_store_deaths(work->db);
}

static const Step count_deaths_step = {"count deaths", step_count_deaths};

static void
step_projectors(Work *work)
{
	work->store_gone = es_lock_store() == NULL;
	if (!work->store_gone)
		work->projectors_at = es_start_projectors(work->db);
}

static const Step projectors_step = {"start projectors", step_projectors};

/* Has a process scrub, if anything is to be scrubbed. */
static void
step_scrub(Work *work)
{
	OwnerScope scope;
	bool any;

	if (!enter_store(work))
		return;
	es_begin(&scope);
	any = es_has_unscrubbed();
	es_end(&scope);
	if (!any)
	{
		es_find_nothing_to_scrub(work->db);
		return;
	}
	es_keep_scrub_wanted(work->db);
	es_start_scrubber(work->db);
}

static const Step scrub_step = {"scrub", step_scrub, .unflushed = true};

/* ---------- when they are due, and what they do ---------- */

/*
 * Is it to be found out whether there is a store, or staging to be opened?  For
 * a call that is so unless rows are staged there, which are looked at anyway.
 */
static bool
needs_opening(const Work *work)
{
	return work->store_gone || es_staging_is(work->db, ES_STAGING_UNKNOWN) ||
		   work->called;
}

static long
time_until_open(const Work *work)
{
	return needs_opening(work) ? 0 : -1;
}

/*
 * Opens staging if that is wanted, and leaves where there is no store.
 *
 * What failed before, in this process or the one before it, is not over
 * because staging could be opened: a round has to show that.
 */
static bool
run_open(Work *work, JobTurn *turn)
{
	if (!run_step(work, &open_step))
		return false;
	work->called = false;
	if (work->store_gone)
		es_leave_unless_called(work);
	else if (es_drain_progress(work->db)->failures == 0)
		work->last_round_at = GetCurrentTimestamp();
	return true;
}

/* The next round, by what is staged and asked for. */
static long
time_until_drain(const Work *work)
{
	SharedDatabase *db = work->db;
	uint64 staged = es_staged_rows(db);
	TimestampTz since;

	if (needs_opening(work))
		return -1;
	/* what a round left has waited as long as what it took */
	if (work->round.left > 0 || (work->round.more && work->round.moved > 0))
		return 0;
	if (es_drain_requested(db) || es_drain_progress(db)->failures > 0 ||
		staged >= (uint64) es_write_batch_size)
		return 0;
	if (staged == 0)
		return -1;
	LWLockAcquire(db->lock, LW_SHARED);
	since = es_staging(db)->first_staged_at;
	LWLockRelease(db->lock);
	if (since == 0)
		since = work->last_round_at;
	return es_milliseconds_left(since, es_write_delay);
}

/* After a round that went through. */
static void
note_round(Work *work, JobTurn *turn)
{
	long pause = ES_EMPTY_ROUND_PAUSE_MS;

	es_note_drain_success(work->db);
	work->last_round_at = GetCurrentTimestamp();
	if (work->round.moved > 0)
	{
		work->rounds++;
		work->space_drained = true;
		work->needed = true;
		work->empty_rounds = 0;
	}
	if (work->round.left == 0 &&
		(work->round.moved > 0 ||
		 (es_staged_rows(work->db) == 0 && !es_drain_requested(work->db))))
	{
		work->empty_rounds = 0;
		return;
	}
	/* due, yet this could not be moved: somebody else is at it, or holds it */
	for (int i = 0; i < work->empty_rounds && pause < es_first_pause(); i++)
		pause *= 2;
	work->empty_rounds++;
	turn->not_before = TimestampTzPlusMilliseconds(work->last_round_at, pause);
}

/* One round. */
static bool
run_drain(Work *work, JobTurn *turn)
{
	if (es_drain_progress(work->db)->state != ES_DRAIN_DRAINING)
		es_set_drain_state(work->db, ES_DRAIN_DRAINING);
	if (work->rounds >= ES_ROUNDS_PER_TURN)
		work->rounds = 0;
	if (!run_step(work, &es_drain_step))
		return false;
	if (!work->store_gone)
		note_round(work, turn);
	return true;
}

static void
drain_failed(Work *work)
{
	work->last_round_at = GetCurrentTimestamp();
	(void) es_note_drain_failure(work->db, work->error);
}

static long
time_until_reclaim(const Work *work)
{
	return work->space_drained ? 0 : -1;
}

/* What writers have just left may be drained already. */
static bool
run_reclaim(Work *work, JobTurn *turn)
{
	do
	{
		if (!run_step(work, &reclaim_step))
			return false;
	} while (work->rotated);
	work->space_drained = false;
	return true;
}

static long
time_until_position(const Work *work)
{
	return pg_atomic_read_u32(&es_positions(work->db)->unstored) != 0 ? 0 : -1;
}

/*
 * Lets standbys read on.  The flag goes down first: what ends from now on raises
 * it again.
 */
static bool
run_position(Work *work, JobTurn *turn)
{
	(void) pg_atomic_exchange_u32(&es_positions(work->db)->unstored, 0);
	if (!run_step(work, &position_step))
	{
		pg_atomic_write_u32(&es_positions(work->db)->unstored, 1);
		return false;
	}
	turn->not_before =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ES_POSITION_PAUSE_MS);
	return true;
}

static long
time_until_snapshot(const Work *work)
{
	return es_snapshots_due(work->db) ? 0 : -1;
}

/* Takes one, then rests several times as long, so that appends go on. */
static bool
run_snapshot(Work *work, JobTurn *turn)
{
	TimestampTz started = GetCurrentTimestamp();
	TimestampTz now;

	if (!run_step(work, &snapshot_step))
		return false;
	now = GetCurrentTimestamp();
	turn->not_before = Min(now + ES_SNAPSHOT_REST * (now - started),
						   TimestampTzPlusMilliseconds(now, ES_SNAPSHOT_REST_MS));
	return true;
}

static long
time_until_forget(const Work *work)
{
	return es_forgetting_due(work->db) ? 0 : -1;
}

static long
time_until_prune(const Work *work)
{
	return es_pruning_due(work->db) ? 0 : -1;
}

static bool
run_prune(Work *work, JobTurn *turn)
{
	return run_step(work, &prune_step);
}

static long
time_until_count_deaths(const Work *work)
{
	return es_deaths_due(work->db) ? 0 : -1;
}

static bool
run_count_deaths(Work *work, JobTurn *turn)
{
	return run_step(work, &count_deaths_step);
}

static long
time_until_projectors(const Work *work)
{
	if (es_projectors_wanted(work->db))
		return 0;
	return work->projectors_at == DT_NOEND
			   ? -1
			   : es_milliseconds_until(work->projectors_at);
}

/* The wish is taken first: what comes from now on raises it again. */
static bool
run_projectors(Work *work, JobTurn *turn)
{
	(void) es_take_projectors_wanted(work->db);
	return run_step(work, &projectors_step);
}

static void
projectors_failed(Work *work)
{
	es_want_projectors(work->db);
}

/* The history of dead letters is looked at when a worker comes, and every hour. */
static long
time_until_prune_history(const Work *work)
{
	if (es_dead_letter_retention == 0)
		return -1;
	return es_milliseconds_of(work->prune_at, ES_PRUNE_PAUSE_MS);
}

static bool
run_prune_history(Work *work, JobTurn *turn)
{
	if (!run_step(work, &prune_history_step))
		return false;
	if (work->pruned < ES_PRUNE_ROWS)
		work->prune_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 ES_PRUNE_PAUSE_MS);
	return true;
}

/* A piece of the table of processed messages. */
static bool
run_forget(Work *work, JobTurn *turn)
{
	return run_step(work, &forget_step);
}

static long
time_until_scrub(const Work *work)
{
	TimestampTz due = es_scrub_due(work->db);

	return due == DT_NOEND ? -1 : es_milliseconds_until(due);
}

/* The wish is taken first: what comes from now on raises it again. */
static bool
run_scrub(Work *work, JobTurn *turn)
{
	(void) es_take_scrub_wanted(work->db);
	return run_step(work, &scrub_step);
}

static void
scrub_failed(Work *work)
{
	es_keep_scrub_wanted(work->db);
}

/*
 * Staging is closed, whatever else goes on, a minute after the last round, or at
 * once when it was opened only to find out what was left there.
 */
static long
time_until_close(const Work *work)
{
	if (!es_staging_is(work->db, ES_STAGING_OPEN) || needs_opening(work) ||
		time_until_drain(work) >= 0)
		return -1;
	if (!work->needed)
		return 0;
	return es_milliseconds_left(work->last_round_at, ES_IDLE_EXIT_MS);
}

static bool
run_close(Work *work, JobTurn *turn)
{
	if (!run_step(work, &es_close_step))
		return false;
	/* there is a writer: in another minute */
	if (!work->closed)
	{
		work->needed = true;
		work->last_round_at = GetCurrentTimestamp();
	}
	return true;
}

/* ---------- the table ---------- */

const Job es_jobs[] =
	{[ES_JOB_OPEN] = {"open staging", time_until_open, run_open,
					  .keeps_worker = true, .failed = drain_failed},
	 [ES_JOB_DRAIN] = {"drain", time_until_drain, run_drain, .keeps_worker = true,
					   .hurried = es_drain_requested, .failed = drain_failed},
	 {"reclaim", time_until_reclaim, run_reclaim, .gives_way = true},
	 {"store position", time_until_position, run_position, .keeps_worker = true,
	  .first_pause = ES_POSITION_RETRY_MS},
	 {"snapshot", time_until_snapshot, run_snapshot, .keeps_worker = true,
	  .gives_way = true},
	 {"prune positions", time_until_prune, run_prune, .keeps_worker = true,
	  .gives_way = true},
	 {"prune history", time_until_prune_history, run_prune_history,
	  .gives_way = true},
	 {"forget processed", time_until_forget, run_forget, .keeps_worker = true,
	  .gives_way = true},
	 {"count deaths", time_until_count_deaths, run_count_deaths,
	  .keeps_worker = true, .gives_way = true},
	 {"start projectors", time_until_projectors, run_projectors,
	  .keeps_worker = true, .failed = projectors_failed},
	 {"scrub", time_until_scrub, run_scrub, .keeps_worker = true,
	  .gives_way = true, .failed = scrub_failed},
	 {"close staging", time_until_close, run_close}};

const int es_job_count = lengthof(es_jobs);

StaticAssertDecl(lengthof(es_jobs) <= ES_MAX_JOBS,
				 "shared memory has room for each job");
