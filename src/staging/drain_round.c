/*
 * drain_round.c
 *		What a round of draining works with: its tables and rows, and its attempts.
 *
 * Each attempt runs in a subtransaction, so a row that fails for its own sake takes
 * nothing with it.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"

#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/position.h"
#include "log/log.h"
#include "staging/dead_letter.h"
#include "staging/drain_round.h"
#include "staging/drain_set.h"
#include "staging/staged_row.h"

/* So often rows are written whose positions turn out to be taken. */
#define POSITION_ATTEMPTS 3

void
es_lock_log(void)
{
	LockRelationOid(es_store()->events, RowExclusiveLock);
}

void
es_open_round(Round *round)
{
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		round->tables[i] =
			table_open(es_store()->segments[i].table, RowExclusiveLock);
		round->slots[i] = table_slot_create(round->tables[i], NULL);
	}
	(void) es_store();
}

void
es_close_round(Round *round)
{
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		ExecDropSingleTupleTableSlot(round->slots[i]);
		table_close(round->tables[i], NoLock);
	}
}

bool
es_fetch_drained(Round *round, DrainRow *row, StagedRow *result)
{
	Relation table = round->tables[row->segment];
	TupleTableSlot *slot = round->slots[row->segment];
	bool found;

	found =
		table_tuple_fetch_row_version(table, &row->tid, round->snapshot, slot);
	if (found)
	{
		HeapTuple tuple = ExecCopySlotHeapTuple(slot);

		tuple->t_self = row->tid;
		es_deform_staged(tuple, RelationGetDescr(table), row->segment, result);
	}
	ExecClearTuple(slot);
	return found;
}

void
es_fetch_or_raise(Round *round, DrainRow *row, StagedRow *staged)
{
	if (!es_fetch_drained(round, row, staged))
		elog(ERROR, "staged row " INT64_FORMAT " is gone", row->sid);
}

/*
 * Runs what the owner's tables have deferred to the end of the transaction,
 * while it can still be told which rows are to blame.
 */
static void
run_deferred(void)
{
	static KeptPlan plan = {.sql = "SET CONSTRAINTS ALL IMMEDIATE"};
	OwnerScope scope;

	if (es_store()->plain)
		return;
	es_begin(&scope);
	es_execute(&plan, NULL, NULL, false, SPI_OK_UTILITY);
	es_end(&scope);
}

/*
 * Runs work in a subtransaction.  Returns NULL or the error.  A trigger that goes
 * on without a lock that it was refused has not done what it should.
 */
static ErrorData *
try_once(Round *round, void (*work)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		if (round->alone)
			run_deferred();
		if (es_lock_was_refused())
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("a trigger goes on without a lock that was refused")));
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(round->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

ErrorData *
es_attempt(Round *round, void (*work)(void *arg), void *arg)
{
	for (int tries = 1;; tries++)
	{
		ErrorData *error = try_once(round, work, arg);

		if (error == NULL || es_violated_key(error) != ES_KEY_POSITION)
			return error;
		if (tries == POSITION_ATTEMPTS)
			es_raise_race();
		es_recheck_positions();
		FreeErrorData(error);
	}
}

ErrorData *
es_probe(Round *round, void (*work)(void *arg), void *arg)
{
	ErrorData *error = es_attempt(round, work, arg);

	if (error != NULL &&
		(es_lock_was_refused() || !es_blames_row(error->sqlerrcode)))
		ReThrowError(error);
	return error;
}

void
es_note_failure(Round *round, const ErrorData *error)
{
	round->failed++;
	if (round->failure == NULL)
	{
		round->failure = unconstify(ErrorData *, error);
		round->alike = true;
	}
	else if (round->failure->sqlerrcode != error->sqlerrcode)
		round->alike = false;
}
