/*
 * inline_switch.c
 *		Views that begin to be folded by appends, and that cease to.
 *
 * Both are done while no append is open: the gate of aggregates is closed to the end of
 * the transaction.  Who waits for it has the appends behind him wait, too.  So it is tried
 * for moments, with pauses that let these pass: an append that stays open delays the switch,
 * and never other appends.  Moments are too short for a deadlock to be seen: who has locked
 * something that an append may wait for waits as for any lock.
 *
 * A member of an inline view stands beyond all positions, so that whoever asks finds that
 * it has nothing to do, and waits for nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/inline_switch.h"
#include "consume/member.h"
#include "consume/pace.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/log_plan.h"
#include "ground/position.h"
#include "ground/projector_slot.h"
#include "ground/wait.h"
#include "log/view_owner.h"
#include "read/feed.h"
#include "staging/flush.h"
#include "staging/staged_scan.h"

/* The gate is waited for so long at a time, and then left alone for as long. */
#define TRY_MS 50

/* Whether others have staged rows; a store of this transaction has none, whatever is known of it. */
static bool
others_staged(void *arg)
{
	StagedRead read;
	StagedScan *scan;
	StagedRow row;
	bool others = false;

	if (!es_may_have_staged())
		return false;
	es_begin_staged_read(&read, NULL);
	scan = es_staged_scan(ES_BY_TXN, ForwardScanDirection, GetActiveSnapshot(),
						  0, NULL);
	while (!others && es_staged_next_row(scan, &row))
	{
		others = !row.own;
		es_staged_free(&row);
	}
	es_staged_end(scan);
	es_end_staged_read(&read);
	return others;
}

/* What was staged is folded by nobody once the view is inline: it becomes durable before. */
static void
settle_staged(void)
{
	es_consume_durably();
	if (others_staged(NULL))
		es_settle(others_staged, NULL);
}

static void
close_gate_politely(void)
{
	static uint32 wait_event;
	TimestampTz end =
		LockTimeout == 0
			? DT_NOEND
			: TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LockTimeout);

	while (!es_try_close_gate(ES_LOCK_AGGREGATE, TRY_MS))
	{
		if (GetCurrentTimestamp() >= end)
			ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
							errmsg("canceling statement due to lock timeout")));
		es_wait_on(NULL, TRY_MS, es_wait_event(&wait_event, "EventStoreGate"));
	}
}

void
es_hold_appends(void)
{
	settle_staged();
	if (es_holds_locks())
		es_close_gate(ES_LOCK_AGGREGATE);
	else
		close_gate_politely();
	settle_staged();
}

bool
es_try_hold_appends(void)
{
	settle_staged();
	if (!es_try_close_gate(ES_LOCK_AGGREGATE, TRY_MS))
		return false;
	settle_staged();
	return true;
}

static bool
has_mode(Datum name, const char *mode)
{
	static KeptPlan plan = {"SELECT FROM event_store.projections p"
							" WHERE p.projection_name OPERATOR(pg_catalog.=) $1"
							" AND p.mode OPERATOR(pg_catalog.=) $2",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {name, CStringGetTextDatum(mode)};
	OwnerScope scope;
	bool found;

	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, values, NULL, true, SPI_OK_SELECT) > 0;
	PopActiveSnapshot();
	es_end(&scope);
	return found;
}

bool
es_hold_inline(Datum name)
{
	if (!has_mode(name, ES_MODE_INLINE))
		return false;
	es_hold_appends();
	return has_mode(name, ES_MODE_INLINE);
}

void
es_refuse_inline(Datum name, const char *what)
{
	if (!has_mode(name, ES_MODE_ASYNC))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("view \"%s\" is inline and cannot be %s",
						TextDatumGetCString(name), what),
				 errhint("Make it anew with rebuild_projection() or replace_projection().")));
}

bool
es_has_events(Datum types)
{
	static KeptPlan plan =
		{"SELECT FROM event_store.domain_events e"
		 " WHERE e.aggregate_type OPERATOR(pg_catalog.=) ANY ($1) LIMIT 1",
		 1,
		 {TEXTARRAYOID}};
	OwnerScope scope;
	bool found;

	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(es_log_plan(&plan), &types, NULL, true, SPI_OK_SELECT) > 0;
	PopActiveSnapshot();
	es_end(&scope);
	return found;
}

/* Sets the mode, and where its members stand; the subscription is locked. */
static void
set_mode(Datum name, const char *mode, int64 position)
{
	static KeptPlan plan = {"UPDATE event_store.projections SET mode = $2"
							" WHERE projection_name OPERATOR(pg_catalog.=) $1",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {name, CStringGetTextDatum(mode)};
	uint64 hash = es_subscription_hash(name);
	OwnerScope scope;
	MemberState state;

	es_lock_member(hash, 0);
	es_begin(&scope);
	es_execute(&plan, values, NULL, false, SPI_OK_UPDATE);
	state = es_newest_member(name, 0);
	state = (MemberState){.number = state.number, .position = position};
	es_store_member(name, 0, &state);
	es_note_kept_views();
	es_end(&scope);
	es_forget_pace(hash);
}

void
es_begin_inline(Datum name)
{
	set_mode(name, ES_MODE_INLINE, PG_INT64_MAX);
}

void
es_end_inline(Datum name)
{
	FeedState feed;

	/* what this transaction has appended has been folded, too */
	es_read_feed_state(es_feed_database(), &feed);
	if (feed.behind)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("somebody has locked the log, whose end the view needs to know")));
	set_mode(name, ES_MODE_CATCHING_UP, feed.last);
	es_note_projectors_wanted();
}
