/*
 * transaction.c
 *		The end of transactions: what has to happen then, in which order.
 *
 * Whoever does something that ends with the transaction says once in a backend
 * what is to be done then, and in which phase; what it did it keeps itself, and
 * forgets it when it is called.  Two callbacks, registered with the first of
 * them, call all in the order of the phases.  At commit this turns staged rows
 * into rows the worker may drain, takes off what was drained, and wakes whoever
 * waits; at abort it forgets.
 *
 * What is called at the end must raise nothing.  The refusal of PREPARE TRANSACTION,
 * and what is called before the commit, come while the transaction can still abort.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "ground/shmem.h"
#include "ground/transaction.h"

static EndFunction at_end[ES_END_PHASES];
static AbortFunction at_subabort[ES_END_PHASES];
static BeforeFunction before_commit = NULL;
static bool wrote = false;

static void
end_transaction(bool committed)
{
	SharedDatabase *db = es_shared != NULL ? es_my_database_if_any() : NULL;

	for (int i = 0; i < ES_END_PHASES; i++)
	{
		if (at_end[i] != NULL)
			at_end[i](db, committed);
	}
	wrote = false;
}

static void
transaction_ended(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (before_commit != NULL)
				before_commit();
			break;
		case XACT_EVENT_COMMIT:
			end_transaction(true);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			end_transaction(false);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (wrote)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has written to the event store")));
			break;
		default:
			break;
	}
}

static void
subtransaction_ended(SubXactEvent event, SubTransactionId id,
					 SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (int i = 0; i < ES_END_PHASES; i++)
	{
		if (at_subabort[i] != NULL)
			at_subabort[i](id);
	}
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
	registered = true;
}

void
es_at_end(EndPhase phase, EndFunction end, AbortFunction subabort)
{
	if (at_end[phase] == end)
		return;
	Assert(at_end[phase] == NULL);
	register_callbacks();
	at_end[phase] = end;
	at_subabort[phase] = subabort;
}

void
es_before_commit(BeforeFunction before)
{
	Assert(before_commit == NULL || before_commit == before);
	register_callbacks();
	before_commit = before;
}

void
es_note_write(void)
{
	register_callbacks();
	wrote = true;
}

bool
es_has_written(void)
{
	return wrote;
}

/* ---------- subtransactions ---------- */

ErrorData *
es_in_subtransaction(bool (*work)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		if (work(arg))
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
