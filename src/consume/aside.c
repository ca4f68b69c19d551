/*
 * aside.c
 *		Finding what is set aside (parked.c).
 *
 * Tens of thousands of partitions may wait, and every event that is new is asked for while
 * one does.  So an event costs a step in an index; rows have the member that has
 * their partition, in an index by when they are due, so that no member reads those of another
 * one, which somebody may hold for long; and nothing is kept in memory but the row
 * that was found.
 *
 * Rows of a partition change under its member's lock, but for retry_parked_events, which
 * takes no member.  Who serves must not wait for it: he passes over rows that somebody
 * is changing, and locks others by trying before he changes them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/aside.h"
#include "consume/pace.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "replay/fold.h"

/* Columns of parked_events. */
enum
{
	PA_SUBSCRIPTION_NAME = 1,
	PA_PARTITION_KEY,
	PA_GLOBAL_POSITION,
	PA_EVENT_ID,
	PA_STATE,
	PA_ATTEMPTS,
	PA_RETRY_AT,
	PA_ERROR_CODE,
	PA_ERROR_MESSAGE,
	PA_PARKED_AT,
	PA_BATCH_LIMIT,
	PA_MEMBER
};

/* The second column of subscription_marks. */
#define MARK_POSITION 2

/* The partition's row, and a row of the event at a position. */
#define PARTITION_ROW                                      \
	"(SELECT 1 FROM event_store.parked_events p"           \
	" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1" \
	" AND p.partition_key OPERATOR(pg_catalog.=) $2"       \
	" AND p.state OPERATOR(pg_catalog.=) ANY ('{retrying,parked}')"
#define EVENT_ROW                                          \
	"(SELECT 1 FROM event_store.parked_events p"           \
	" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1" \
	" AND p.partition_key OPERATOR(pg_catalog.=) $2"       \
	" AND p.global_position OPERATOR(pg_catalog.=) $3"
#define UNLESS_HELD " FOR UPDATE SKIP LOCKED)"

/* ---------- by an index ---------- */

typedef enum SearchIndex
{
	BY_KEY, /* the primary key */
	BY_STATE,
	BY_RETRY
} SearchIndex;

/* Rows of a subscription in the order of an index, under the active snapshot. */
typedef struct Search
{
	Relation table;
	Relation index;
	SysScanDesc scan;
} Search;

/* The table is locked before the store is asked which index it has. */
static void
begin_search(Search *search, SubscriptionTable which, SearchIndex index,
			 ScanKeyData *keys, int count)
{
	const Store *store;

	search->table =
		table_open(es_store()->by_subscription[which].table, AccessShareLock);
	store = es_store();
	search->index =
		index_open(index == BY_STATE   ? store->parked_by_state
				   : index == BY_RETRY ? store->parked_by_retry
									   : store->by_subscription[which].by_key,
				   AccessShareLock);
	search->scan = systable_beginscan_ordered(search->table, search->index,
											  GetActiveSnapshot(), count, keys);
}

static HeapTuple
next_row(Search *search, ScanDirection direction)
{
	return systable_getnext_ordered(search->scan, direction);
}

static void
end_search(Search *search)
{
	systable_endscan_ordered(search->scan);
	index_close(search->index, AccessShareLock);
	table_close(search->table, AccessShareLock);
}

/* A column that is never NULL, or 0. */
static Datum
column(const Search *search, HeapTuple row, int number)
{
	bool isnull;
	Datum value =
		heap_getattr(row, number, RelationGetDescr(search->table), &isnull);

	return isnull ? (Datum) 0 : value;
}

static bool
has_state(const Search *search, HeapTuple row, const char *state)
{
	const text *value = DatumGetTextPP(column(search, row, PA_STATE));

	return VARSIZE_ANY_EXHDR(value) == strlen(state) &&
		   memcmp(VARDATA_ANY(value), state, strlen(state)) == 0;
}

static void
set_partition_keys(ScanKeyData *keys, Datum name, Datum partition)
{
	ScanKeyInit(&keys[0], PA_SUBSCRIPTION_NAME, BTEqualStrategyNumber, F_TEXTEQ,
				name);
	ScanKeyInit(&keys[1], PA_PARTITION_KEY, BTEqualStrategyNumber, F_TEXTEQ,
				partition);
}

/* What a step back from the end of a partition's rows has found. */
typedef enum LastRow
{
	NO_ROW,
	EVENT_ROWS, /* of events that are parked alone, and no other */
	WAITING_ROW /* the partition waits */
} LastRow;

/*
 * Looks for the row of a partition.  'event' comes before the other states, of which there
 * is one row, so the last row tells.
 */
static LastRow
find_last(Datum name, Datum partition, ParkedRow *row)
{
	ScanKeyData keys[2];
	Search search;
	HeapTuple found;
	LastRow last = NO_ROW;

	set_partition_keys(keys, name, partition);
	begin_search(&search, ES_PARKED_EVENTS, BY_STATE, keys, 2);
	found = next_row(&search, BackwardScanDirection);
	if (HeapTupleIsValid(found))
	{
		last = has_state(&search, found, "event") ? EVENT_ROWS : WAITING_ROW;
		row->position = DatumGetInt64(column(&search, found, PA_GLOBAL_POSITION));
		row->attempts = DatumGetInt32(column(&search, found, PA_ATTEMPTS));
		row->retrying = has_state(&search, found, "retrying");
	}
	end_search(&search);
	return last;
}

/* Whether there is a row, of a partition or with (Datum) 0 a mark, at a position. */
static bool
is_at(SubscriptionTable which, Datum name, Datum partition, int64 position)
{
	ScanKeyData keys[3];
	Search search;
	int count = partition == 0 ? 1 : 2;
	bool found;

	set_partition_keys(keys, name, partition);
	ScanKeyInit(&keys[count], partition == 0 ? MARK_POSITION : PA_GLOBAL_POSITION,
				BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(position));
	begin_search(&search, which, BY_KEY, keys, count + 1);
	found = HeapTupleIsValid(next_row(&search, ForwardScanDirection));
	end_search(&search);
	return found;
}

Aside
es_find_aside(Datum name, Datum partition, int64 position, bool behind)
{
	ParkedRow row;
	LastRow last;
	Aside aside = ES_NOT_ASIDE;

	PushActiveSnapshot(GetLatestSnapshot());
	last = find_last(name, partition, &row);
	if (last == WAITING_ROW && behind && row.position <= position)
		aside = ES_ASIDE_BEHIND;
	/* the partition's row stands at its first event, which has no other */
	else if (last != NO_ROW && !(last == WAITING_ROW && row.position == position) &&
			 is_at(ES_PARKED_EVENTS, name, partition, position))
		aside = ES_ASIDE_EVENT;
	else if (is_at(ES_SUBSCRIPTION_MARKS, name, (Datum) 0, position))
		aside = ES_ASIDE_MARKED;
	PopActiveSnapshot();
	return aside;
}

bool
es_find_parked(Datum name, Datum partition, ParkedRow *row)
{
	LastRow last;

	PushActiveSnapshot(GetLatestSnapshot());
	last = find_last(name, partition, row);
	PopActiveSnapshot();
	return last == WAITING_ROW;
}

/* ---------- what is due ---------- */

/*
 * Whether another transaction is changing a row, or has locked it.  Of several that have,
 * or in the very moment, it may say no: es_hold_aside says so then.
 */
static bool
is_held(HeapTuple row)
{
	TransactionId holder = HeapTupleHeaderGetRawXmax(row->t_data);

	return (row->t_data->t_infomask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) ==
			   0 &&
		   !TransactionIdIsCurrentTransactionId(holder) &&
		   TransactionIdIsInProgress(holder);
}

static void
read_due(const Search *search, HeapTuple row, DueRetry *due)
{
	due->position = DatumGetInt64(column(search, row, PA_GLOBAL_POSITION));
	due->alone = has_state(search, row, "event");
	due->attempts = DatumGetInt32(column(search, row, PA_ATTEMPTS));
	due->limit = DatumGetInt32(column(search, row, PA_BATCH_LIMIT));
	due->partition =
		PointerGetDatum(PG_DETOAST_DATUM_COPY(column(search, row,
													 PA_PARTITION_KEY)));
}

/*
 * The first that can be had of a member's rows whose time is up to another, or behind it.
 * A row whose event the member has not passed is not due.
 */
static bool
find_retry(const Subscription *subscription, int member, int64 passed,
		   bool behind, TimestampTz time, DueRetry *due, bool *held)
{
	ScanKeyData keys[4];
	Search search;
	HeapTuple row;
	bool found = false;

	ScanKeyInit(&keys[0], PA_SUBSCRIPTION_NAME, BTEqualStrategyNumber, F_TEXTEQ,
				subscription->name);
	ScanKeyInit(&keys[1], PA_MEMBER, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(member));
	ScanKeyInit(&keys[2], PA_RETRY_AT,
				behind ? BTGreaterStrategyNumber : BTLessEqualStrategyNumber,
				behind ? F_TIMESTAMPTZ_GT : F_TIMESTAMPTZ_LE,
				TimestampTzGetDatum(time));
	ScanKeyInit(&keys[3], PA_GLOBAL_POSITION, BTLessEqualStrategyNumber,
				F_INT8LE, Int64GetDatum(Max(passed, subscription->old_highest)));
	begin_search(&search, ES_PARKED_EVENTS, BY_RETRY, keys, 4);
	while (!found &&
		   HeapTupleIsValid(row = next_row(&search, ForwardScanDirection)))
	{
		text *partition = DatumGetTextPP(column(&search, row, PA_PARTITION_KEY));

		CHECK_FOR_INTERRUPTS();
		if (DatumGetInt64(column(&search, row, PA_GLOBAL_POSITION)) >
			es_partition_served(subscription, partition, passed))
			continue;
		if (is_held(row))
		{
			*held = true;
			continue;
		}
		read_due(&search, row, due);
		found = true;
	}
	end_search(&search);
	return found;
}

/* What waits longer than any pause has waited before the clock was set back. */
bool
es_find_due(const Subscription *subscription, int member, int64 passed,
			DueRetry *due, bool *held)
{
	bool found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = find_retry(subscription, member, passed, false,
					   GetCurrentTimestamp(), due, held) ||
			find_retry(subscription, member, passed, true, es_latest_retry(),
					   due, held);
	PopActiveSnapshot();
	return found;
}

TimestampTz
es_next_due(const Subscription *subscription)
{
	static KeptPlan plan =
		{"SELECT pg_catalog.min(r.retry_at) FROM pg_catalog.generate_series(0, $2) m,"
		 " LATERAL (SELECT p.retry_at FROM event_store.parked_events p"
		 " WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
		 " AND p.member OPERATOR(pg_catalog.=) m"
		 " AND p.retry_at OPERATOR(pg_catalog.>) $3"
		 " ORDER BY p.retry_at LIMIT 1) r",
		 3,
		 {TEXTOID, INT4OID, TIMESTAMPTZOID}};
	Datum values[3] = {subscription->name,
					   Int32GetDatum(subscription->members - 1),
					   TimestampTzGetDatum(GetCurrentTimestamp())};
	Datum due;
	bool isnull;

	PushActiveSnapshot(GetLatestSnapshot());
	(void) es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	due = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	return isnull ? 0 : DatumGetTimestampTz(due);
}

bool
es_hold_aside(Datum name, Datum partition, int64 position)
{
	static KeptPlan plan = {"SELECT (EXISTS " PARTITION_ROW UNLESS_HELD
							" OR NOT EXISTS " PARTITION_ROW "))"
							" AND (EXISTS " EVENT_ROW UNLESS_HELD
							" OR NOT EXISTS " EVENT_ROW "))",
							3,
							{TEXTOID, TEXTOID, INT8OID}};
	Datum values[3] = {name, partition, Int64GetDatum(position)};
	bool isnull;

	if (es_execute_latest(&plan, values, NULL) != 1)
		elog(ERROR, "what is set aside was not locked");
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, 1, &isnull));
}

/* ---------- all of it ---------- */

typedef struct Summing
{
	const Subscription *subscription;
	AsideSum *sums;
	MemoryContext context;
} Summing;

static bool
add_row(TupleTableSlot *slot, void *arg)
{
	const Summing *summing = arg;
	AsideSum *sum;
	int64 position;
	TimestampTz since;
	bool retrying;
	int member;

	slot_getallattrs(slot);
	member = DatumGetInt32(slot->tts_values[0]);
	/* somebody resizes it just now */
	if (member < 0 || member >= summing->subscription->members)
		return true;
	sum = &summing->sums[member];
	position = DatumGetInt64(slot->tts_values[1]);
	retrying = DatumGetBool(slot->tts_values[2]);
	since = DatumGetTimestampTz(slot->tts_values[3]);
	sum->rows++;
	sum->retrying += retrying;
	if (!retrying && (sum->parked_since == 0 || since < sum->parked_since))
		sum->parked_since = since;
	if (sum->oldest == 0 || position < sum->oldest)
		sum->oldest = position;
	if (slot->tts_isnull[4] || since < sum->since)
		return true;
	sum->since = since;
	if (sum->error != 0)
		pfree(DatumGetPointer(sum->error));
	MemoryContextSwitchTo(summing->context);
	sum->error = datumCopy(slot->tts_values[4], false, -1);
	return true;
}

AsideSum *
es_sum_aside(const Subscription *subscription)
{
	static KeptPlan plan = {"SELECT p.member, p.global_position,"
							" p.state OPERATOR(pg_catalog.=) 'retrying',"
							" p.parked_at, p.error_message"
							" FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};
	Datum name = subscription->name;
	Summing summing = {.subscription = subscription,
					   .sums = palloc0(subscription->members * sizeof(AsideSum)),
					   .context = CurrentMemoryContext};

	es_for_each_row(&plan, &name, NULL, add_row, &summing);
	return summing.sums;
}
