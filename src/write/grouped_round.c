/*
 * grouped_round.c
 *		Calls of several callers in one transaction.
 *
 * The aggregates of all are locked first, as far as they can be had at once: a call
 * that would have to wait for one is left out.  Then the calls are decided one after the
 * other, each as if those before it were in the log, and what has to be written is
 * written together.  A refused call has written nothing and costs the others nothing.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "ground/lock.h"
#include "write/append.h"
#include "write/append_group.h"
#include "write/grouped_form.h"
#include "write/grouped_round.h"

/* Reads a call and locks its aggregates; false if one of them cannot be had. */
static bool
begin_call(RoundCall *call)
{
	AppendCall *append = &call->append;
	uint64 *hashes;
	bool locked;

	es_read_append(call->content, append);
	call->verdict = ES_VERDICT_TAKEN;
	call->answer = NULL;
	hashes =
		palloc_extended(append->naggregates * sizeof(uint64), MCXT_ALLOC_HUGE);
	for (int i = 0; i < append->naggregates; i++)
		hashes[i] = append->aggregates[i].hash;
	/* what a call waits for first, if it is not a lock */
	call->refused_lock = hashes[0];
	locked = es_try_lock_pairs(ES_LOCK_AGGREGATE, hashes, append->naggregates,
							   &call->refused_lock);
	if (locked)
		call->refused_lock = hashes[0];
	else
		call->verdict = ES_VERDICT_WAITS;
	pfree(hashes);
	return locked;
}

static void
give_answer(RoundCall *call)
{
	AppendCall *append = &call->append;

	if (call->verdict == ES_VERDICT_FAILED)
		call->answer = es_form_error(append->error, &call->size);
	else if (call->verdict == ES_VERDICT_TAKEN ||
			 call->verdict == ES_VERDICT_REFUSED)
		call->answer = es_form_append_answer(append, &call->size);
}

void
es_run_grouped(RoundCall **calls, int count)
{
	AppendGroup *group = es_make_group(count);
	AppendCall *only = NULL;
	bool inlined = false;
	int writing = 0;

	es_refuse_waits();
	for (int i = 0; i < count; i++)
		(void) begin_call(calls[i]);
	for (int i = 0; i < count; i++)
	{
		AppendCall *append = &calls[i]->append;

		CHECK_FOR_INTERRUPTS();
		if (calls[i]->verdict != ES_VERDICT_TAKEN)
			continue;
		es_append_to_group(append, group);
		calls[i]->verdict = append->verdict;
		if (append->verdict != ES_VERDICT_TAKEN || append->to_write == 0)
			continue;
		inlined = inlined || append->inlined;
		only = append;
		writing++;
	}
	es_write_group(group, writing == 1 ? only : NULL, inlined);
	for (int i = 0; i < count; i++)
		give_answer(calls[i]);
}
