/*
 * view_group.c
 *		Puts and deletes of several callers in one transaction.
 *
 * What is known of all keys is looked up once.  Then the calls are judged one after the
 * other, each by the rows as those before it leave them, and of each key the last value is
 * written: so a key that everybody writes is written once.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "ground/pair_table.h"
#include "ground/transaction.h"
#include "log/view_owner.h"
#include "log/view_table.h"
#include "staging/own_rows.h"
#include "write/append.h"
#include "write/view_group.h"
#include "write/view_write.h"

/* A key of the group. */
typedef struct GroupKey
{
	ViewWrite write; /* the last that was accepted */
	KnownView known; /* as it leaves the row, but where that was before */
	bool accepted;
	bool staged; /* others have staged it, which would come behind */
} GroupKey;

typedef struct PutGroup
{
	GroupKey *keys; /* in the order of views and keys */
	int count;
	PairTable *numbers;
} PutGroup;

static int
compare_keys(const void *a, const void *b)
{
	const GroupKey *x = a;
	const GroupKey *y = b;
	int order = es_compare_keys(x->write.view_name, y->write.view_name);

	return order != 0 ? order
					  : es_compare_keys(x->write.view_key, y->write.view_key);
}

/* Makes the list of the keys of all calls, each once. */
static void
collect_keys(PutGroup *group, PutCall **calls, int count)
{
	int total = 0;
	bool found;

	for (int i = 0; i < count; i++)
		total += calls[i]->count;
	group->keys = palloc_extended(Max(total, 1) * sizeof(GroupKey),
								  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	group->numbers = es_pair_table(total);
	for (int i = 0; i < count; i++)
	{
		for (int w = 0; w < calls[i]->count; w++)
		{
			const ViewWrite *write = &calls[i]->writes[w];

			(void) es_pair_enter(group->numbers, write->view_name,
								 write->view_key, &found);
			if (!found)
				group->keys[group->count++].write = *write;
		}
	}
	qsort(group->keys, group->count, sizeof(GroupKey), compare_keys);
	for (int i = 0; i < group->count; i++)
		*es_pair_enter(group->numbers, group->keys[i].write.view_name,
					   group->keys[i].write.view_key, &found) = i;
}

/* Looks at the keys from "first" on that are of one view; returns how many. */
static int
look_at_view(PutGroup *group, int first)
{
	Datum view_name = group->keys[first].write.view_name;
	ViewWrite *writes = palloc_array(ViewWrite, group->count - first);
	bool *staged = palloc_array(bool, group->count - first);
	KnownView *known;
	int n = 0;

	while (first + n < group->count &&
		   es_same_text(group->keys[first + n].write.view_name, view_name))
	{
		writes[n] = group->keys[first + n].write;
		n++;
	}
	known = es_look_in_table(writes, n, staged);
	for (int i = 0; i < n; i++)
	{
		group->keys[first + i].known = known[i];
		group->keys[first + i].staged = staged[i];
	}
	return n;
}

static GroupKey *
key_of(PutGroup *group, const ViewWrite *write)
{
	bool found;

	return &group->keys[*es_pair_enter(group->numbers, write->view_name,
									   write->view_key, &found)];
}

/* Judges a write by the row as it is by now; false if its expectation is not met. */
static bool
judge(PutCall *call, int number, GroupKey *key, bool again)
{
	const ViewWrite *write = &call->writes[number];

	if (call->expected != NULL &&
		!es_is_as_expected(&call->expected[number], &key->known))
	{
		call->verdict = ES_VERDICT_REFUSED;
		call->refused = number;
		call->actual = key->known;
		return false;
	}
	if (!es_is_accepted(write, &key->known))
		return true;
	key->write = *write;
	key->known.found = write->view_data != (Datum) 0;
	key->known.has_version = write->has_version;
	key->known.version = write->version;
	key->accepted = true;
	call->changed += again ? 0 : 1;
	return true;
}

/* Whether a call is somebody else's: the view is kept, or rows of it are staged. */
static bool
is_left_out(PutGroup *group, PutCall *call)
{
	if (es_is_kept_view(call->writes[0].view_name))
		call->verdict = ES_VERDICT_ALONE;
	for (int i = 0; i < call->count && call->verdict == ES_VERDICT_TAKEN; i++)
	{
		if (key_of(group, &call->writes[i])->staged)
			call->verdict = ES_VERDICT_WAITS;
	}
	return call->verdict != ES_VERDICT_TAKEN;
}

/* Judges all writes of a call; where one is refused the rows are as before. */
static void
decide(PutGroup *group, PutCall *call)
{
	GroupKey *before;
	int i = 0;
	int64 counted = -1; /* the key whose change was counted last */

	if (is_left_out(group, call))
		return;
	before = palloc_extended(call->count * sizeof(GroupKey), MCXT_ALLOC_HUGE);
	for (; i < call->count; i++)
	{
		GroupKey *key = key_of(group, &call->writes[i]);
		int64 changed = call->changed;

		before[i] = *key;
		if (!judge(call, i, key, counted == key - group->keys))
			break;
		if (call->changed > changed)
			counted = key - group->keys;
	}
	if (call->verdict == ES_VERDICT_REFUSED)
	{
		while (--i >= 0)
			*key_of(group, &call->writes[i]) = before[i];
		call->changed = 0;
	}
	pfree(before);
}

void
es_put_group(PutCall **calls, int count)
{
	PutGroup group = {0};
	ViewWrite *writes;
	int n = 0;

	if (count == 0)
		return;
	collect_keys(&group, calls, count);
	for (int first = 0; first < group.count;)
		first += look_at_view(&group, first);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		decide(&group, calls[i]);
	}
	writes = palloc_extended(group.count * sizeof(ViewWrite), MCXT_ALLOC_HUGE);
	for (int i = 0; i < group.count; i++)
	{
		if (!group.keys[i].accepted)
			continue;
		writes[n] = group.keys[i].write;
		writes[n++].at = ItemPointerIsValid(&group.keys[i].known.at)
							 ? PointerGetDatum(&group.keys[i].known.at)
							 : (Datum) 0;
	}
	if (n == 0)
		return;
	es_note_write();
	es_note_durable_write();
	(void) es_write_views(writes, n, true);
}
