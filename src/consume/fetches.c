/*
 * fetches.c
 *		What this transaction has been given, by subtransaction.
 *
 * A batch is acknowledged by the commit of the state that was inserted with it, so
 * nothing here decides about that.  What is remembered tells fail_events whether a
 * batch is still this transaction's, and shared memory how it ended: who fetches,
 * and how large the next batch may be.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/ipc.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "consume/deaths.h"
#include "consume/fetches.h"
#include "consume/progress.h"
#include "consume/prune.h"
#include "ground/shmem.h"
#include "ground/transaction.h"

static Fetch *fetches = NULL;

int64
es_events_fetched(uint64 subscription, int member)
{
	int64 events = 0;

	for (Fetch *f = fetches; f != NULL; f = f->next)
	{
		if (f->subscription == subscription && f->member == member)
			events += f->events;
	}
	return events;
}

Fetch *
es_open_fetch(uint64 subscription)
{
	for (Fetch *f = fetches; f != NULL; f = f->next)
	{
		if (f->subscription == subscription)
			return f;
	}
	return NULL;
}

/*
 * Ends the newest fetch.  Several calls for one member are one batch: what there is
 * to tell of it is told with the first of them.
 */
static void
end_newest(bool committed)
{
	Fetch *f = fetches;
	Fetch *older;
	int64 lost = f->lost + (committed || f->projected ? 0 : f->events);

	fetches = f->next;
	older = es_open_fetch(f->subscription);
	if (committed)
		es_note_stored(es_my_database());
	if (older != NULL && older->member == f->member)
	{
		older->lost += lost;
		return;
	}
	if (proc_exit_inprogress && lost == 1 && f->events == 1)
		es_note_death(es_progress_key(f->subscription, f->member),
					  f->before.number, f->positions[0]);
	es_end_progress(es_progress_key(f->subscription, f->member), lost, lost == 0);
}

static void
end_fetches(SharedDatabase *db, bool committed)
{
	while (fetches != NULL)
		end_newest(committed);
}

/* Those of its children have the same number or higher ones. */
static void
abort_fetches(SubTransactionId subtransaction)
{
	while (fetches != NULL && fetches->subtransaction >= subtransaction)
		end_newest(false);
}

void
es_note_fetch(const Fetch *fetch)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	Fetch *f = palloc(sizeof(Fetch));
	Size size = Max(fetch->events, 1) * sizeof(int64);

	es_at_end(ES_END_FETCHES, end_fetches, abort_fetches);
	*f = *fetch;
	f->positions = palloc(size);
	memcpy(f->positions, fetch->positions, fetch->events * sizeof(int64));
	if (f->retried)
		f->partition = datumCopy(fetch->partition, false, -1);
	f->subtransaction = GetCurrentSubTransactionId();
	f->next = fetches;
	fetches = f;
	es_begin_progress(es_progress_key(f->subscription, f->member), f->retried);
	MemoryContextSwitchTo(caller);
}
