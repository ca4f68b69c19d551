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
 * A call that the committer has in hand when it ends was not committed: between a commit
 * and the answers to it, it cannot be interrupted.  So the call is handed over again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"

#include "ground/catalog.h"
#include "ground/grouped_call.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "write/append.h"
#include "write/grouped.h"
#include "write/grouped_form.h"
#include "write/view_group.h"
#include "write/view_write.h"

/* What was handed over so often, and in vain, is not once more. */
#define MAX_HANDED 3

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

/*
 * Whether the call would be a part of what this transaction does: a trigger's belongs to the
 * statement that has fired it.
 */
static bool
is_in_transaction(void)
{
	return never || IsTransactionBlock() || IsSubTransaction() ||
		   (MyXactFlags & XACT_FLAGS_PIPELINING) != 0 || es_has_written() ||
		   DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0)) > 0;
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

/* ---------- handing over ---------- */

/*
 * Has the committer do what is given, which is freed; returns its answer, or NULL where the
 * caller has to do it himself.
 */
static char *
hand_over(char *content, Size size)
{
	SharedDatabase *db = es_my_database();
	char *answer = NULL;

	for (int times = 0; content != NULL && times < MAX_HANDED; times++)
	{
		GroupedState state;

		if (!es_hand_over(db, content, size, synchronous_commit))
			break;
		state = es_await_answer(db);
		if (state == ES_GROUPED_DONE)
			answer = es_fetch_answer(db);
		if (state != ES_GROUPED_LOST)
			break;
		es_withdraw_call(db);
	}
	if (content != NULL)
		pfree(content);
	if (answer == NULL)
		note_alone();
	return answer;
}

/* The most that is handed over; nothing where there is no shared memory for it. */
static Size
most_handed(void)
{
	return es_my_database() == NULL ? 0 : (Size) es_grouped_queue * 1024;
}

static void
append_grouped(AppendCall *append, bool single)
{
	Size size = 0;
	char *content;
	char *answer;

	es_prepare_append(append, single);
	content = es_form_append(append, single, most_handed(), &size);
	answer = hand_over(content, size);
	if (answer == NULL)
	{
		es_append_prepared(append, ES_DURABLE);
		return;
	}
	es_read_append_answer(answer, append);
	pfree(answer);
	/* where the call is counted, they are, too */
	for (int i = 0; i < append->conflicts; i++)
		es_count_conflict();
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

int64
es_run_put(const char *function, const PutCall *put, Durability wanted,
		   bool by_argument)
{
	char *answer = NULL;
	int64 changed;
	Size size = 0;

	/* one that does nothing, or that is refused for want of a store, is no call */
	if (wanted == ES_GROUPED && es_store() != NULL && put->count > 0 &&
		is_handed_over(function, by_argument))
	{
		char *content = es_form_put(put, most_handed(), &size);

		answer = hand_over(content, size);
	}
	if (answer == NULL)
		return es_put_view_writes(put->writes, put->expected, put->count, wanted);
	changed = es_read_put_answer(answer, put);
	pfree(answer);
	return changed;
}
