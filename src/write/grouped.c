/*
 * grouped.c
 *		Calls that are committed together with those of others.
 *
 * A durable append holds the lock of its aggregate over the flush of its commit, so an aggregate
 * that everybody appends to gets one append a flush.  A grouped one is handed over to
 * the committer, a process that appends and commits what has come from all sessions
 * in one transaction, and returns when that is flushed.
 *
 * It is a transaction of its own.  Where the caller's transaction has begun already, asking
 * for it is refused, or, where it was but the setting, it is a durable append.
 *
 * Whatever the committer cannot do, or would have to wait for, the caller does himself, as a
 * durable append: the promise is the same, and his waits are those that he knows.
 *
 * Events have their ids before they are handed over.  If the committer ends with them in
 * hand the caller asks again as one who repeats a call: so the answer is what became
 * of it.  What is found then was appended by the lost one, unless it stood there before.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "ground/event.h"
#include "ground/grouped_call.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "write/append.h"
#include "write/grouped.h"
#include "write/grouped_form.h"

/* An answer that was lost so often is not asked for once more. */
#define MAX_ASKED 3

/* This process is the store's own. */
static bool never = false;
/* This transaction does itself what was to be grouped. */
static bool alone = false;

void
es_hand_nothing_over(void)
{
	never = true;
}

static void
end_alone(SharedDatabase *db, bool committed)
{
	alone = false;
}

static void
note_alone(void)
{
	es_at_end(ES_END_GROUPED, end_alone, NULL);
	alone = true;
}

/* Whether the call would be a part of what this transaction does. */
static bool
is_in_transaction(void)
{
	return never || IsTransactionBlock() || IsSubTransaction() ||
		   (MyXactFlags & XACT_FLAGS_PIPELINING) != 0 || es_has_written();
}

/*
 * Whether a call is handed over.  What this transaction did itself instead comes before, so
 * it goes on like that.
 */
static bool
is_handed_over(const char *function, bool by_argument)
{
	if (alone)
		return false;
	if (!is_in_transaction())
		return true;
	if (by_argument)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s with durability 'grouped' cannot run inside a transaction block",
						function),
				 errdetail("It is committed by itself, whatever becomes of the transaction."),
				 errhint("Use durability 'durable', or let the setting event_store.durability ask for it: that means 'durable' here.")));
	return false;
}

/* ---------- asking again ---------- */

/* What has to be known to tell what a lost call has appended. */
typedef struct Lost
{
	bool *given; /* by event: whether its caller gave the id; NULL = none was lost */
	int64 before; /* no position beyond it was given when it was first handed over */
} Lost;

/* From now on its events are looked up by their ids. */
static void
ask_by_ids(AppendCall *append, Lost *lost)
{
	if (lost->given == NULL)
	{
		lost->given = palloc_extended(append->list.count, MCXT_ALLOC_HUGE);
		for (int i = 0; i < append->list.count; i++)
			lost->given[i] = append->list.events[i].id_given;
	}
	for (int i = 0; i < append->list.count; i++)
		append->list.events[i].id_given = true;
	append->any_given_ids = true;
}

/* What seems to be repeated was appended by the call that was lost. */
static void
claim_appended(AppendCall *append, const Lost *lost)
{
	for (int i = 0; i < append->list.count && lost->given != NULL; i++)
	{
		const NewEvent *event = &append->list.events[i];
		Aggregate *aggregate = &append->aggregates[event->aggregate];

		if (aggregate->outcome != OUTCOME_DUPLICATE ||
			(lost->given[i] &&
			 DatumGetInt64(event->row.values[EV_GLOBAL_POSITION]) <= lost->before))
			continue;
		aggregate->outcome = OUTCOME_APPENDED;
		append->to_write += aggregate->count;
	}
}

/* ---------- handing over ---------- */

/* Takes over what the committer says; conflicts count where the call is counted. */
static void
take_answer(AppendCall *append, char *answer)
{
	es_read_append_answer(answer, append);
	for (int i = 0; i < append->conflicts; i++)
		es_count_conflict();
	pfree(answer);
}

/* Has the committer append; false where the caller has to do it himself. */
static bool
hand_over(SharedDatabase *db, AppendCall *append, bool single, Lost *lost)
{
	for (int asked = 0; asked < MAX_ASKED; asked++)
	{
		Size size;
		char *content = es_form_append(append, single,
									   (Size) es_grouped_queue * 1024, &size);
		GroupedState state;
		bool handed;

		if (content == NULL)
			return false;
		handed = es_hand_over(db, content, size, synchronous_commit);
		pfree(content);
		if (!handed)
			return false;
		state = es_await_answer(db);
		if (state == ES_GROUPED_ALONE)
			return false;
		if (state == ES_GROUPED_DONE)
		{
			take_answer(append, es_fetch_answer(db));
			return true;
		}
		es_withdraw_call(db);
		ask_by_ids(append, lost);
	}
	return false;
}

static void
append_grouped(AppendCall *append, bool single)
{
	SharedDatabase *db = es_my_database();
	Lost lost = {0};

	es_prepare_append(append, single);
	if (db != NULL)
		lost.before = es_last_given_position(db);
	if (db == NULL || !hand_over(db, append, single, &lost))
	{
		note_alone();
		es_append_prepared(append, ES_DURABLE);
	}
	claim_appended(append, &lost);
}

void
es_run_append(AppendCall *append, Durability wanted, bool by_argument, bool single)
{
	ErrorContextCallback explanation;

	if (wanted != ES_GROUPED || !is_handed_over(append->function, by_argument))
	{
		es_append(append, wanted, single);
		return;
	}
	es_begin_explaining(&explanation);
	append_grouped(append, single);
	es_end_explaining(&explanation);
}
