/*
 * view_write.c
 *		Writing views: the last value of every (view_name, view_key).
 *
 * A view is a read model that projections or applications put together.  Only
 * its last value counts, so writes are upserts under one version rule: a value
 * whose version is not newer than the known one changes nothing, and a value
 * without a version always wins.  The known value is the newest staged row of
 * the key, else its durable row.
 *
 * Every writer of a key first takes the lock of that key, to the end of its
 * transaction, and then looks under a snapshot taken afterwards.  So whatever
 * is staged for one key was accepted in the order in which it stands there,
 * and the drain need not judge it again: the last row is the value.  A durable
 * write of a key that others have staged makes those rows durable first; else
 * the drain would put the older value over the newer one.
 *
 * A write may say which version it expects.  Under the lock of its key and a
 * snapshot taken after it, staged and durable rows together say which there is.
 *
 * At REPEATABLE READ and above, a staged write must not overwrite what its
 * snapshot cannot see either, and raises 40001 as view_table.c does.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "ground/transaction.h"
#include "log/view_owner.h"
#include "log/view_table.h"
#include "staging/flush.h"
#include "staging/own_rows.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staged_view.h"
#include "staging/staging.h"
#include "write/view_write.h"

/* ---------- staged writes ---------- */

/* What the active snapshot knows of all keys of a call, which share one view. */
static KnownView *
find_known(const ViewWrite *writes, int count, bool staged)
{
	KnownView *known = palloc0_array(KnownView, count);
	MemoryContext scratch;

	for (int start = 0; start < count; start += ES_CHUNK_ROWS)
		es_find_durable_views(writes + start, Min(ES_CHUNK_ROWS, count - start),
							  known + start);

	scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store views",
									ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; staged && i < count; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(scratch);
		StagedRow row;

		CHECK_FOR_INTERRUPTS();
		if (es_find_staged_view(writes[i].view_name, writes[i].view_key, true,
								&row))
		{
			known[i].found = row.view_data != (Datum) 0;
			known[i].has_version = row.has_version;
			known[i].version = row.version;
			known[i].updated_at = row.staged_at;
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	return known;
}

/*
 * Whether two snapshots know the same of a key.  The time of the last write
 * stays the same when a row moves from staging into the table.
 */
static bool
same_known(const KnownView *a, const KnownView *b)
{
	if (!a->found || !b->found)
		return a->found == b->found;
	return a->updated_at == b->updated_at && a->has_version == b->has_version &&
		   (!a->has_version || a->version == b->version);
}

/* The version rule; delete_view has nothing to do where nothing is. */
bool
es_is_accepted(const ViewWrite *write, const KnownView *known)
{
	if (write->view_data == (Datum) 0)
		return known->found;
	return !known->found || !known->has_version || !write->has_version ||
		   write->version > known->version;
}

/* Whether a row is as expected; one without a version never is. */
bool
es_is_as_expected(const ViewExpectation *expected, const KnownView *known)
{
	if (!expected->given)
		return true;
	if (!known->found)
		return expected->version == 0;
	return expected->version != 0 && known->has_version &&
		   known->version == expected->version;
}

/* Raises VS001. */
void
es_refuse_version(const ViewWrite *write, int64 expected, const KnownView *known)
{
	char *name = TextDatumGetCString(write->view_name);
	char *key = TextDatumGetCString(write->view_key);
	char *actual = "0";
	StringInfoData detail;

	es_count_conflict();
	if (known->found)
		actual = known->has_version ? psprintf(INT64_FORMAT, known->version)
									: "null";
	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"view_name\": ");
	escape_json(&detail, name);
	appendStringInfoString(&detail, ", \"view_key\": ");
	escape_json(&detail, key);
	appendStringInfo(&detail, ", \"expected\": " INT64_FORMAT ", \"actual\": %s}",
					 expected, actual);
	ereport(ERROR, (errcode(ES_ERRCODE_SEQUENCE_CONFLICT),
					errmsg("version conflict on %s/%s: expected " INT64_FORMAT
						   ", actual %s",
						   name, key, expected, actual),
					errdetail_internal("%s", detail.data)));
}

/*
 * Judges writes by what is known, and of each key keeps the last that is accepted.
 * Returns how many.
 */
static int
accept_writes(const ViewWrite *writes, const ViewExpectation *expected,
			  const KnownView *known, int count, ViewWrite *accepted)
{
	KnownView now = {0};
	int n = 0;
	int kept_before = 0; /* of earlier keys */

	for (int i = 0; i < count; i++)
	{
		const ViewWrite *write = &writes[i];

		if (i == 0 ||
			es_compare_keys(writes[i - 1].view_key, write->view_key) != 0)
		{
			now = known[i];
			kept_before = n;
		}
		if (expected != NULL && !es_is_as_expected(&expected[i], &now))
			es_refuse_version(write, expected[i].version, &now);
		if (!es_is_accepted(write, &now))
			continue;
		n = kept_before;
		accepted[n++] = *write;
		now.found = write->view_data != (Datum) 0;
		now.has_version = write->has_version;
		now.version = write->version;
	}
	return n;
}

/* Whether the version rule accepts all of them whatever is known. */
static bool
always_accepted(const ViewWrite *writes, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (writes[i].has_version || writes[i].view_data == (Datum) 0)
			return false;
	}
	return true;
}

/*
 * What is known of all keys of a call, which are locked: so it stays true.  40001
 * where the transaction's own snapshot does not show it.
 */
static KnownView *
look_at_keys(const ViewWrite *writes, int count)
{
	StagedRead read;
	KnownView *known;
	KnownView *seen;

	known = find_known(writes, count,
					   es_begin_latest_read(&read, es_store()->views));
	es_end_staged_read(&read);
	if (!IsolationUsesXactSnapshot())
		return known;

	es_begin_staged_read(&read, GetTransactionSnapshot());
	seen = find_known(writes, count, true);
	es_end_staged_read(&read);
	for (int i = 0; i < count; i++)
	{
		if (!same_known(&known[i], &seen[i]))
			es_refuse_unseen_view();
	}
	pfree(seen);
	return known;
}

KnownView *
es_look_in_table(const ViewWrite *writes, int count, bool *staged)
{
	StagedRead read;
	bool any = es_begin_latest_read(&read, es_store()->views);
	KnownView *known = find_known(writes, count, false);
	StagedRow row;

	for (int i = 0; i < count; i++)
		staged[i] = any && es_find_staged_view(writes[i].view_name,
											   writes[i].view_key, false, &row);
	es_end_staged_read(&read);
	return known;
}

/* Stages what is accepted.  The keys are locked. */
static int64
stage_views(const ViewWrite *writes, const ViewExpectation *expected, int count)
{
	ViewWrite *accepted = NULL;

	if (expected != NULL || IsolationUsesXactSnapshot() ||
		!always_accepted(writes, count))
	{
		accepted = palloc_array(ViewWrite, count);
		count = accept_writes(writes, expected, look_at_keys(writes, count),
							  count, accepted);
		writes = accepted;
	}
	/* the next call of the same command looks at these rows */
	if (count > 0)
	{
		es_stage_views(writes, count);
		CommandCounterIncrement();
	}
	if (accepted != NULL)
		pfree(accepted);
	return count;
}

/* ---------- put and delete ---------- */

typedef struct Keys
{
	const ViewWrite *writes;
	int count;
} Keys;

/*
 * Whether others have staged rows of these locked keys.  Where the oldest row of
 * a key is this transaction's own, all others are too.
 */
static bool
others_staged_keys(void *arg)
{
	const Keys *keys = arg;
	MemoryContext scratch;
	MemoryContext caller;
	StagedRead read;
	bool others = false;

	if (!es_may_have_staged())
		return false;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store views",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(scratch);
	es_begin_staged_read(&read, NULL);
	for (int i = 0; !others && i < keys->count; i++)
	{
		StagedRow row;

		CHECK_FOR_INTERRUPTS();
		others = es_find_staged_view(keys->writes[i].view_name,
									 keys->writes[i].view_key, false, &row) &&
				 !row.own;
		MemoryContextReset(scratch);
	}
	es_end_staged_read(&read);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return others;
}

/* Puts and deletes, at least one. */
static int64
put_writes(const ViewWrite *writes, const ViewExpectation *expected, int count,
		   Durability wanted)
{
	Keys keys = {writes, count};
	Durability durability = es_admit(wanted, count);
	uint64 *hashes;
	ViewWrite *accepted;

	es_note_write();
	hashes = palloc_array(uint64, count);
	for (int i = 0; i < count; i++)
		hashes[i] = es_pair_hash(writes[i].view_name, writes[i].view_key);
	es_lock_pairs(ES_LOCK_VIEW_KEY, hashes, count);
	pfree(hashes);
	es_refuse_kept_view(writes[0].view_name);

	if (durability == ES_STAGED)
		return stage_views(writes, expected, count);
	/* waits without a snapshot, which would hold back what it waits for */
	if (others_staged_keys(&keys))
		es_settle(others_staged_keys, &keys);
	es_move_own_rows();
	if (expected == NULL)
	{
		es_note_durable_write();
		return es_write_views(writes, count, false);
	}
	/* what was staged may have become a dead letter, so it is looked at now */
	accepted = palloc_array(ViewWrite, count);
	count = accept_writes(writes, expected, look_at_keys(writes, count), count,
						  accepted);
	es_note_durable_write();
	return es_write_views(accepted, count, true);
}

int64
es_put_view_writes(const ViewWrite *writes, const ViewExpectation *expected,
				   int count, Durability wanted)
{
	ErrorContextCallback explanation;
	int64 changed;

	/* before staging is waited for, which nobody opens without a store */
	(void) es_store();
	if (count == 0)
		return 0;
	es_begin_explaining(&explanation);
	changed = put_writes(writes, expected, count, wanted);
	es_end_explaining(&explanation);
	return changed;
}

void
es_lock_view_key(Datum view_name, Datum view_key)
{
	ViewWrite key = {.view_name = view_name, .view_key = view_key};

	(void) es_store();
	es_lock_pair(ES_LOCK_VIEW_KEY, es_pair_hash(view_name, view_key));
	if (IsolationUsesXactSnapshot())
		pfree(look_at_keys(&key, 1));
}

/* Whether others have staged rows of any key of a view. */
static bool
others_staged(void *arg)
{
	Datum view_name = *(Datum *) arg;
	StagedRead read;
	StagedScan *scan;
	StagedRow row;
	bool others = false;

	if (!es_may_have_staged())
		return false;
	es_begin_staged_read(&read, NULL);
	scan = es_staged_begin(ES_KIND_VIEW, view_name, (Datum) 0,
						   GetActiveSnapshot(), false);
	while (!others && es_staged_next(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		others = !row.own;
		es_staged_free(&row);
	}
	es_staged_end(scan);
	es_end_staged_read(&read);
	return others;
}

void
es_settle_view(Datum view_name)
{
	if (others_staged(&view_name))
		es_settle(others_staged, &view_name);
}

int64
es_clear_view_writes(Datum view_name)
{
	es_note_write();
	es_refuse_kept_view(view_name);
	es_settle_view(view_name);
	es_move_own_rows();
	es_note_durable_write();
	return es_clear_durable_view(view_name);
}
