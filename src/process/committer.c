/*
 * committer.c
 *		The committer: appends and commits what sessions hand over to it.
 *
 * There is one in a database where somebody asks for it (committer_slot.c).  It takes
 * what has come, runs it in one transaction (grouped_round.c), commits that, gives each
 * caller his answer, and takes what has come meanwhile; so the more come at once, the more
 * share a flush.  It is not the worker: a round of draining may take much longer than
 * an append may wait.
 *
 * A transaction that fails is halved until it is known whose call is to blame; that one
 * gets the error, and the others cost it nothing but time.
 *
 * Callers who have just been answered come again while those who came meanwhile already
 * wait, and with flushes that take long each half would have a flush of its own, in turns.  So
 * after a long round it gathers: it waits a moment for as many as there were.  Where they
 * do not come, because they are not of that kind or the processors are what they
 * wait for, it lets ever more rounds pass until it tries again.
 *
 * It waits for nobody's lock: a call that needs what somebody has locked is left to its
 * caller, who waits for it himself, and those that need the same are set aside until his
 * transaction has ended; then they go on together.  So there is never more than one in the
 * way of others who wait for the lock, and it is as soon as it is free that the rest
 * share a flush again.  What it finds itself waiting for otherwise, as a row that a trigger
 * locks, it gives up after a moment, and leaves the same way.
 *
 * SIGTERM ends it at any time but between a commit and the answers to those whom it is for:
 * so what it has in hand when it ends is not committed, and is handed over again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/committer_slot.h"
#include "ground/compat.h"
#include "ground/grouped_call.h"
#include "ground/shmem.h"
#include "process/process.h"
#include "process/step.h"
#include "write/append.h"
#include "write/grouped_form.h"
#include "write/grouped_round.h"

/* It leaves when nothing has come for so long. */
#define IDLE_EXIT_MS 10000
/* It looks again so often after calls that are set aside. */
#define ASIDE_PAUSE_MS 1000
/* For locks other than of aggregates and view keys it waits this long ... */
#define LOCK_TIMEOUT_MS 20
/* ... and what waits or fails after so long in a round is left to its callers. */
#define ROUND_PATIENCE_MS 100
/* For those who come again it waits for a part of the time that the round has taken, if that
 * is worth it; and after it has waited in vain not for so many rounds.  Of more
 * callers than these some are at work while others wait for the flush, anyway. */
#define GATHER_PART 2
#define GATHER_LEAST_US 300
#define GATHER_MOST_US 5000
#define GATHER_LOOK_US 50
#define GATHER_PAUSE_ROUNDS 63
#define GATHER_CALLS 32
/* A transaction may take so long. */
#define ROUND_LIMIT_MS 5000
/* So much is taken at once. */
#define ROUND_CALLS 512
#define ROUND_BYTES (4 * 1024 * 1024)
/* A round is tried so often where an error is no call's fault, and a call that met another. */
#define ATTEMPTS 3
#define ATTEMPT_PAUSE_MS 10

PGDLLEXPORT void es_committer_main(Datum arg);

/* A call between its being taken and its end. */
typedef struct Held
{
	RoundCall call;
	TakenCall *taken;
	int attempts;
	bool aside;
} Held;

/* Who waits for what others are set aside for. */
typedef struct Delegate
{
	uint64 lock;
	int number;
	uint32 serial;
} Delegate;

typedef struct Committer
{
	SharedDatabase *db;
	MemoryContext held_context; /* calls, as long as they are held */
	MemoryContext round;
	List *held; /* of those that were set aside, or come again */
	List *delegates;
	TimestampTz worked_at;
	TimestampTz started_at; /* the round */
	int retries;	  /* that the round has left, for errors of the world */
	int gather_pause; /* rounds without gathering, after the last vain one ... */
	int gather_after; /* ... and those of them that are left */
	bool store_gone;
	bool unconfirmed; /* the transaction is, by its standbys */

	/* that are to be given, for ROUND_CALLS calls; whose they are */
	GroupedAnswer *answers;
	Held **answered;
	int nanswers;
} Committer;

/* ---------- one transaction ---------- */

/* What is asked for by the most demanding of the callers. */
static int
strongest_commit(Held **calls, int count)
{
	int level = SYNCHRONOUS_COMMIT_OFF;

	for (int i = 0; i < count; i++)
		level = Max(level, calls[i]->taken->level);
	return level;
}

static void
run_transaction(Committer *c, Held **calls, int count)
{
	RoundCall **round = palloc_array(RoundCall *, count);
	Oid user;
	int security;
	int level;

	for (int i = 0; i < count; i++)
		round[i] = &calls[i]->call;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(c->round);
	GetUserIdAndSecContext(&user, &security);
	PushActiveSnapshot(GetTransactionSnapshot());
	level = NewGUCNestLevel();
	c->store_gone = es_lock_store() == NULL;
	if (!c->store_gone)
	{
		es_become_owner();
		es_limit_step(ROUND_LIMIT_MS);
		es_run_grouped(round, count);
		AfterTriggerFireDeferred();
	}
	/* what triggers do, and what they set, ends with it */
	AtEOXact_GUC(false, level);
	PopActiveSnapshot();
	es_lift_limit();
	/* who is to end is not to find that out while it waits for standbys */
	CHECK_FOR_INTERRUPTS();
	CommitTransactionCommand();
	/* until all have their answers: nothing since the commit has looked for one */
	HOLD_INTERRUPTS();
	/* an abort does this by itself */
	SetUserIdAndSecContext(user, security);
}

static void
set_commit_level(int level)
{
	synchronous_commit = level;
	/* it is here that what is waited for of a standby is said */
	assign_synchronous_commit(level, NULL);
}

/*
 * Whether the transaction has committed without the standbys that it was to wait for: who
 * cancels or ends the process gets it out of that wait, and says so to the log alone.
 */
static bool
is_unconfirmed(void)
{
	int mode = synchronous_commit == SYNCHRONOUS_COMMIT_REMOTE_APPLY
				   ? SYNC_REP_WAIT_APPLY
			   : synchronous_commit == SYNCHRONOUS_COMMIT_REMOTE_WRITE
				   ? SYNC_REP_WAIT_WRITE
				   : SYNC_REP_WAIT_FLUSH;
	bool unconfirmed;

	/* none is waited for any more where the setting has just changed */
	if (!SyncRepRequested() || SyncRepStandbyNames == NULL ||
		SyncRepStandbyNames[0] == '\0' || ConfigReloadPending)
		return false;
	LWLockAcquire(SyncRepLock, LW_SHARED);
	unconfirmed = WalSndCtl->lsn[mode] < XactLastCommitEnd;
	LWLockRelease(SyncRepLock);
	return unconfirmed;
}

/* Runs calls in a transaction; returns its error, or NULL with interrupts held. */
static ErrorData *
attempt(Committer *c, Held **calls, int count)
{
	ErrorData *volatile error = NULL;
	int synchronous = synchronous_commit;

	set_commit_level(strongest_commit(calls, count));
	es_begin_busy(false);
	PG_TRY();
	{
		run_transaction(c, calls, count);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		es_lift_limit();
		MemoryContextSwitchTo(c->round);
		error = CopyErrorData();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(c->round);
	LockReleaseSession(USER_LOCKMETHOD);
	es_end_busy();
	c->unconfirmed = error == NULL && is_unconfirmed();
	set_commit_level(synchronous);
	return error;
}

/* ---------- what becomes of a call ---------- */

static void
forget(Held *held)
{
	pfree(held->taken->content);
	pfree(held->taken);
	pfree(held);
}

/* Keeps a call for a later round. */
static void
keep(Committer *c, Held *held, bool aside)
{
	MemoryContext old = MemoryContextSwitchTo(c->held_context);

	held->aside = aside;
	c->held = lappend(c->held, held);
	MemoryContextSwitchTo(old);
}

/* Whether somebody waits for a lock on behalf of others; those that are done go. */
static bool
has_delegate(Committer *c, uint64 lock)
{
	ListCell *cell;
	bool found = false;

	foreach (cell, c->delegates)
	{
		Delegate *delegate = lfirst(cell);

		if (es_is_left_to_caller(c->db, delegate->number, delegate->serial))
			found = found || delegate->lock == lock;
		else
		{
			c->delegates = foreach_delete_current(c->delegates, cell);
			pfree(delegate);
		}
	}
	return found;
}

static void
add_delegate(Committer *c, const Held *held)
{
	MemoryContext old = MemoryContextSwitchTo(c->held_context);
	Delegate *delegate = palloc_object(Delegate);

	*delegate = (Delegate){held->call.refused_lock, held->taken->number,
						   held->taken->serial};
	c->delegates = lappend(c->delegates, delegate);
	MemoryContextSwitchTo(old);
}

/* Leaves a call to its caller, or sets it aside where another waits for the same. */
static void
make_wait(Committer *c, Held *held)
{
	if (has_delegate(c, held->call.refused_lock))
	{
		if (es_set_call_aside(c->db, held->taken))
			keep(c, held, true);
		else
			forget(held);
		return;
	}
	if (es_leave_to_caller(c->db, held->taken))
		add_delegate(c, held);
	forget(held);
}

/* What there is no memory to tell has been done all the same. */
static void
answer(Committer *c, Held *held, const char *bytes, Size size)
{
	GroupedAnswer *given = &c->answers[c->nanswers];

	*given = (GroupedAnswer){.call = held->taken, .bytes = bytes, .size = size};
	if (!es_place_answer(given))
	{
		ErrorData error =
			{.sqlerrcode = ERRCODE_OUT_OF_MEMORY,
			 .message = "out of shared memory for the answer",
			 .detail = "The call has been carried out.",
			 .hint = "Repeat it with its event_ids to be told what it has done."};

		given->bytes = es_form_error(&error, &given->size);
		(void) es_place_answer(given);
	}
	c->answered[c->nanswers++] = held;
}

/* Gives all the answers that there are. */
static void
give_answers(Committer *c)
{
	es_give_answers(c->db, c->answers, c->nanswers);
	for (int i = 0; i < c->nanswers; i++)
		forget(c->answered[i]);
	c->nanswers = 0;
}

static void
answer_error(Committer *c, Held *held, const ErrorData *error)
{
	Size size;
	char *bytes = es_form_error(error, &size);

	answer(c, held, bytes, size);
}

/* As a caller whose connection ends in that wait: his answer is lost. */
static void
answer_unconfirmed(Committer *c, Held *held)
{
	ErrorData error =
		{.sqlerrcode = ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN,
		 .message = "canceling the wait for synchronous replication",
		 .detail =
			 "The call has been committed locally, but might not have been replicated to the standby.",
		 .hint = "Repeat it with its event_ids to be told what it has done."};

	answer_error(c, held, &error);
}

/* After a transaction that has committed. */
static void
deliver(Committer *c, Held **calls, int count)
{
	for (int i = 0; i < count; i++)
	{
		Held *held = calls[i];

		if (c->store_gone || held->call.verdict == ES_VERDICT_ALONE)
		{
			(void) es_leave_to_caller(c->db, held->taken);
			forget(held);
		}
		else if (held->call.answer != NULL && c->unconfirmed)
			answer_unconfirmed(c, held);
		else if (held->call.answer != NULL)
			answer(c, held, held->call.answer, held->call.size);
		else if (held->call.verdict == ES_VERDICT_WAITS)
			make_wait(c, held);
		else
			keep(c, held, false);
	}
}

/* ---------- failures ---------- */

/* Whether an error is that something was waited for. */
static bool
is_wait(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		   error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/* Whether no call can be to blame for an error. */
static bool
is_of_world(const ErrorData *error)
{
	int class = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return !is_wait(error) && (class == ERRCODE_INSUFFICIENT_RESOURCES ||
							   class == ERRCODE_OPERATOR_INTERVENTION ||
							   class == ERRCODE_SYSTEM_ERROR);
}

static void serve(Committer *c, Held **calls, int count);

/* The transaction of one call has failed. */
static void
settle_failure(Committer *c, Held *held, const ErrorData *error)
{
	if (is_wait(error))
		make_wait(c, held);
	else if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE &&
			 ++held->attempts < ATTEMPTS)
		serve(c, &held, 1);
	else
		answer_error(c, held, error);
}

/*
 * The transaction of several has failed.  That of one of them may be what looks like the
 * world's: a trigger raises what it likes.
 */
static void
settle_failures(Committer *c, Held **calls, int count, const ErrorData *error)
{
	bool impatient =
		(is_wait(error) || is_of_world(error)) &&
		TimestampDifferenceExceeds(c->started_at, GetCurrentTimestamp(),
								   ROUND_PATIENCE_MS);

	if (!impatient)
	{
		serve(c, calls, count / 2);
		serve(c, calls + count / 2, count - count / 2);
		return;
	}
	for (int i = 0; i < count; i++)
		make_wait(c, calls[i]);
}

/* Does calls, however many transactions it takes. */
static void
serve(Committer *c, Held **calls, int count)
{
	ErrorData *error = attempt(c, calls, count);

	while (error != NULL && is_of_world(error) && c->retries > 0)
	{
		c->retries--;
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ATTEMPT_PAUSE_MS, PG_WAIT_EXTENSION);
		error = attempt(c, calls, count);
	}
	if (error == NULL)
	{
		deliver(c, calls, count);
		give_answers(c);
		RESUME_INTERRUPTS();
	}
	else if (count == 1)
		settle_failure(c, calls[0], error);
	else
		settle_failures(c, calls, count, error);
	give_answers(c);
}

/* ---------- rounds ---------- */

/* Those that are held and need not wait on. */
static int
take_held(Committer *c, Held **calls)
{
	ListCell *cell;
	int count = 0;

	foreach (cell, c->held)
	{
		Held *held = lfirst(cell);

		if (count == ROUND_CALLS ||
			(held->aside && has_delegate(c, held->call.refused_lock)))
			continue;
		c->held = foreach_delete_current(c->held, cell);
		if (held->aside && !es_retake_call(c->db, held->taken))
			forget(held);
		else
			calls[count++] = held;
	}
	return count;
}

static int
take_new(Committer *c, Held **calls, int most, bool sleeps)
{
	TakenCall **taken = palloc_array(TakenCall *, Max(most, 1));
	MemoryContext old = MemoryContextSwitchTo(c->held_context);
	int count = es_take_calls(c->db, taken, most, ROUND_BYTES, sleeps);

	for (int i = 0; i < count; i++)
	{
		Held *held = palloc0_object(Held);

		held->taken = taken[i];
		held->call.content = taken[i]->content;
		calls[i] = held;
	}
	MemoryContextSwitchTo(old);
	return count;
}

/* Nothing has come: sleeps, or leaves. */
static void
rest(Committer *c, uint32 wait_event)
{
	TimestampTz end = TimestampTzPlusMilliseconds(c->worked_at, IDLE_EXIT_MS);
	long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

	if (left == 0 && c->held == NIL && es_retire_committer(c->db))
		proc_exit(0);
	if (c->held != NIL)
		left = ASIDE_PAUSE_MS;
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	es_sleep_on_latch(Max(left, 1), wait_event);
}

/* Waits until so many have come; false if they do not come in time. */
static bool
wait_for_calls(const CommitterSlot *slot, int count, int64 patience)
{
	instr_time began;
	instr_time now;

	INSTR_TIME_SET_CURRENT(began);
	while (*(volatile const int *) &slot->length < count)
	{
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, began);
		if ((int64) INSTR_TIME_GET_MICROSEC(now) > patience)
			return false;
		pg_usleep(GATHER_LOOK_US);
	}
	return true;
}

/* After a round with so many calls: see the top of this file. */
static void
gather(Committer *c, int answered)
{
	const CommitterSlot *slot = es_committer_slot(c->db);
	int64 patience =
		Min((c->worked_at - c->started_at) / GATHER_PART, GATHER_MOST_US);
	int expected = *(volatile const int *) &slot->length + answered;

	if (patience < GATHER_LEAST_US || expected > GATHER_CALLS)
		return;
	if (c->gather_after > 0)
		c->gather_after--;
	else if (wait_for_calls(slot, expected, patience))
		c->gather_pause = 0;
	else
	{
		c->gather_pause = Min(2 * c->gather_pause + 1, GATHER_PAUSE_ROUNDS);
		c->gather_after = c->gather_pause;
	}
}

static void
take_turn(Committer *c, uint32 wait_event)
{
	Held **calls;
	int count;

	/* what is set for the database is read when a process connects */
	if ((es_heed_signals() && c->held == NIL) || es_asked_to_leave())
		proc_exit(0);
	MemoryContextReset(c->round);
	MemoryContextSwitchTo(c->round);
	calls = palloc_array(Held *, ROUND_CALLS);
	c->answers = palloc_array(GroupedAnswer, ROUND_CALLS);
	c->answered = palloc_array(Held *, ROUND_CALLS);
	count = take_held(c, calls);
	count += take_new(c, calls + count, ROUND_CALLS - count, count == 0);
	if (count == 0)
	{
		rest(c, wait_event);
		return;
	}
	debug_query_string = "commit grouped appends";
	pgstat_report_activity(STATE_RUNNING, debug_query_string);
	c->started_at = GetCurrentTimestamp();
	c->retries = ATTEMPTS - 1;
	serve(c, calls, count);
	c->worked_at = GetCurrentTimestamp();
	gather(c, count);
	debug_query_string = NULL;
	pgstat_report_stat(false);
}

/* ---------- the process ---------- */

/* After the process has left its place, so that who looks again finds it gone. */
static void
lose_calls(int code, Datum db)
{
	es_lose_calls((SharedDatabase *) DatumGetPointer(db));
}

void
es_committer_main(Datum arg)
{
	Committer committer = {.db = es_database_numbered(DatumGetInt32(arg))};
	Oid database;
	uint32 wait_event;

	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
	es_enter_process(NULL);
	on_shmem_exit(lose_calls, PointerGetDatum(committer.db));
	if (!es_enter_committer_slot(committer.db, database))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	es_note_committer_arrived();
	es_prepare_limits();
	es_end_busy();
	es_pin_settings(LOCK_TIMEOUT_MS);
	pgstat_report_appname("event_store committer");
	wait_event = WaitEventExtensionNew("EventStoreCommitterMain");
	committer.held_context =
		AllocSetContextCreate(TopMemoryContext, "event_store grouped calls",
							  ALLOCSET_DEFAULT_SIZES);
	committer.round = AllocSetContextCreate(TopMemoryContext, "event_store round",
											ALLOCSET_DEFAULT_SIZES);
	committer.worked_at = GetCurrentTimestamp();
	for (;;)
		take_turn(&committer, wait_event);
}
