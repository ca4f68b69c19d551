/*
 * grouped_round.c
 *		Calls of several callers in one transaction.
 *
 * The aggregates and view keys of all are locked first, as far as they can be had at once: a call
 * that would have to wait for one is left out.  Then the calls are decided one after the
 * other, each as if those before it were in the log, and what has to be written is
 * written together.  A refused call has written nothing and costs the others nothing.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "ground/lock.h"
#include "ground/pair_table.h"
#include "log/view_table.h"
#include "write/append.h"
#include "write/append_group.h"
#include "write/grouped_form.h"
#include "write/grouped_round.h"
#include "write/view_group.h"

/* The locks of a call; palloc'd. */
static uint64 *
locks_of(const GroupedRequest *request, int *count)
{
	uint64 *hashes;

	*count = request->puts ? request->put.count : request->append.naggregates;
	hashes = palloc_extended(*count * sizeof(uint64), MCXT_ALLOC_HUGE);
	for (int i = 0; i < *count; i++)
	{
		const ViewWrite *write = request->puts ? &request->put.writes[i] : NULL;

		hashes[i] = write != NULL
						? es_pair_hash(write->view_name, write->view_key)
						: request->append.aggregates[i].hash;
	}
	return hashes;
}

/* Locks what a call writes to, if all of it can be had. */
static void
lock_call(RoundCall *call)
{
	LockSpace space = call->request.puts ? ES_LOCK_VIEW_KEY : ES_LOCK_AGGREGATE;
	int count;
	uint64 *hashes = locks_of(&call->request, &count);

	call->verdict = ES_VERDICT_TAKEN;
	if (!es_try_lock_pairs(space, hashes, count, &call->refused_lock))
		call->verdict = ES_VERDICT_WAITS;
	else
		/* what it waits for if that is not a lock */
		call->refused_lock = hashes[0];
	pfree(hashes);
}

static void
run_appends(RoundCall **calls, int count)
{
	AppendGroup *group = es_make_group(count);
	AppendCall *only = NULL;
	bool inlined = false;
	int writing = 0;

	for (int i = 0; i < count; i++)
	{
		AppendCall *append = &calls[i]->request.append;

		CHECK_FOR_INTERRUPTS();
		if (calls[i]->request.puts || calls[i]->verdict != ES_VERDICT_TAKEN)
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
}

static void
run_puts(RoundCall **calls, int count)
{
	PutCall **puts = palloc_array(PutCall *, count);
	int n = 0;

	for (int i = 0; i < count; i++)
	{
		if (calls[i]->request.puts && calls[i]->verdict == ES_VERDICT_TAKEN)
			puts[n++] = &calls[i]->request.put;
	}
	es_put_group(puts, n);
	for (int i = 0; i < count; i++)
	{
		if (calls[i]->request.puts && calls[i]->verdict == ES_VERDICT_TAKEN)
			calls[i]->verdict = calls[i]->request.put.verdict;
	}
}

static void
give_answer(RoundCall *call)
{
	const GroupedRequest *request = &call->request;

	call->answer = NULL;
	if (call->verdict == ES_VERDICT_FAILED)
		call->answer = es_form_error(request->append.error, &call->size);
	else if (call->verdict != ES_VERDICT_TAKEN &&
			 call->verdict != ES_VERDICT_REFUSED)
		return;
	else if (request->puts)
		call->answer = es_form_put_answer(&request->put, &call->size);
	else
		call->answer = es_form_append_answer(&request->append, &call->size);
}

void
es_run_grouped(RoundCall **calls, int count)
{
	es_refuse_waits();
	for (int i = 0; i < count; i++)
	{
		es_read_request(calls[i]->content, &calls[i]->request);
		if (!calls[i]->request.puts)
			lock_call(calls[i]);
	}
	/* aggregates come before view keys */
	for (int i = 0; i < count; i++)
	{
		if (calls[i]->request.puts)
			lock_call(calls[i]);
	}
	run_appends(calls, count);
	run_puts(calls, count);
	for (int i = 0; i < count; i++)
		give_answer(calls[i]);
}
