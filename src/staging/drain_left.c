/*
 * drain_left.c
 *		What a round leaves for a later one.
 *
 * A trigger may append to an aggregate that somebody has locked, and who holds
 * it may wait for this round.  The round does not wait for him (lock.c bounds
 * that to moments): it leaves the transaction whose row has the trigger do so,
 * and those that come after it on one of its aggregates or view keys.  Somebody may have
 * locked the archive as well, where few rows have to be looked for.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "staging/archived_ids.h"
#include "staging/drain_left.h"
#include "staging/drain_round.h"
#include "staging/drain_set.h"
#include "staging/staged_row.h"

/*
 * Leaves a row's transaction if it comes after one that is left, and remembers
 * what it wrote if it is left.  Returns whether that was news.
 */
static bool
leave_if_it_depends(Round *round, const DrainRow *row, const StagedRow *staged)
{
	PairTable *table = row->is_event ? round->left_events : round->left_views;
	bool found = es_pair_find(table, staged->name, staged->key);

	if (!round->left[row->rank] && !found)
		return false;
	if (!round->left[row->rank])
	{
		round->left[row->rank] = true;
		round->nleft++;
		/* its rows before this one are to be remembered */
		(void) es_pair_enter(table, staged->name, staged->key, &found);
		return true;
	}
	if (round->left_at == 0 || staged->staged_at < round->left_at)
		round->left_at = staged->staged_at;
	(void) es_pair_enter(table, staged->name, staged->key, &found);
	return !found;
}

void
es_leave_dependents(Round *round, int low, int high)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store drain left",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool news = round->nleft > 0;

	while (news)
	{
		news = false;
		for (int i = 0; i < round->set.nrows; i++)
		{
			DrainRow *row = &round->set.rows[i];
			StagedRow staged;

			CHECK_FOR_INTERRUPTS();
			if (row->rank < low || row->rank >= high)
				continue;
			es_fetch_or_raise(round, row, &staged);
			if (leave_if_it_depends(round, row, &staged))
				news = true;
			MemoryContextReset(context);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
leave_one(Round *round, int rank)
{
	if (round->nleft == 0)
	{
		MemoryContext old = MemoryContextSwitchTo(round->context);

		round->left_events = es_pair_table(64);
		round->left_views = es_pair_table(64);
		MemoryContextSwitchTo(old);
	}
	round->left[rank] = true;
	round->nleft++;
}

void
es_leave(Round *round, int rank)
{
	leave_one(round, rank);
	es_leave_dependents(round, rank, rank + 1);
}

void
es_leave_archived(Round *round)
{
	SharedDatabase *db = es_my_database();

	for (int i = 0; i < round->set.nrows; i++)
	{
		const DrainRow *row = &round->set.rows[i];

		if (row->is_event && !round->left[row->rank] &&
			es_may_be_archived(db, row->sid))
			leave_one(round, row->rank);
	}
	es_leave_dependents(round, 0, round->set.ntxns);
	round->left_untried = round->nleft;
}

void
es_leave_rest(Round *round, int low)
{
	for (int rank = low; rank < round->set.ntxns; rank++)
	{
		if (!round->left[rank])
			round->nleft++;
		round->left[rank] = true;
	}
}

int64
es_subtract_left(Round *round)
{
	int64 count = 0;

	for (int i = 0; i < round->set.nrows && round->nleft > 0; i++)
	{
		const DrainRow *row = &round->set.rows[i];

		if (!round->left[row->rank])
			continue;
		if (row->is_event)
			round->set.events -= row->count;
		else
			round->set.views--;
		round->set.in_segment[row->segment] -= row->count;
		count += row->count;
		/* rows are in sid order */
		if (count == row->count)
			round->set.stopped_at = Min(round->set.stopped_at, row->sid);
	}
	if (round->nleft > 0)
		es_count_left_behind(round->left_at);
	return count;
}
