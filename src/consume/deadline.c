/*
 * deadline.c
 *		Scheduled events that are due are appended.
 *
 * A batch is one transaction: the events are appended, and their rows deleted, so each is
 * appended once, whatever ends the process.  It goes by the order of due_at:
 *
 *	1. The next that are due, by their keys alone.
 *	2. Their aggregates' locks, as far as they are to be had at once.  An aggregate that
 *	   somebody holds is passed over with all that is due for it, until all from the first
 *	   of those on are looked at again, after a pause; so nobody waits for it, and its events
 *	   keep their order.
 *	3. The rows, locked; one that somebody is just moving or cancelling is passed over, too.
 *	4. The append, in a subtransaction.  Where it raises, halves are tried, until the event
 *	   that is refused is found: it has failed, and says why.  What is only a matter of the
 *	   moment (a lock of a view's row) passes it over.
 *	5. The rows are deleted.
 *
 * The next batch begins behind this one, so dead rows that an old snapshot keeps are
 * not looked at again.  Where it begins only this process knows; another one begins
 * with the first row.  What is scheduled for an earlier time is noted (timer_slot.c), and
 * the next batch begins there.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "consume/deadline.h"
#include "consume/scheduled_event.h"
#include "consume/unwanted.h"
#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "ground/transaction.h"
#include "log/outside_write.h"
#include "staging/dead_letter.h"
#include "staging/flush.h"
#include "staging/head.h"
#include "staging/staged_scan.h"
#include "write/append.h"

/* So many are looked at for a batch, and so many when the lock table is full. */
#define BATCH_EVENTS 1000
#define SMALL_BATCH_EVENTS 16
/* A batch ends with the event that makes it so large, as it is in memory. */
#define BATCH_BYTES (4 * 1024 * 1024)
/* What was passed over is looked at again after this, doubled up to that ... */
#define FIRST_PAUSE_MS 20
#define LONGEST_PAUSE_MS 1000
/* ... and no sooner than so many times what the last look has taken, up to this. */
#define REST 4
#define LONGEST_REST_MS 2000
/* The drain of staged rows is waited for so long at most. */
#define SETTLE_MS 100

/* One that is due, and what becomes of it. */
typedef struct Due
{
	pg_uuid_t id;
	ItemPointerData tid; /* where its row was found; of one that is locked, is */
	TimestampTz due_at;
	uint64 aggregate; /* its hash */
	bool held;		  /* its lock */
	bool found;		  /* its row is locked, and in "scheduled" */
	bool done;		  /* the row goes */
	ScheduledEvent scheduled;
} Due;

typedef struct Batch
{
	Due *list; /* in order */
	int count;
	MemoryContext context;
	TimestampTz now;
} Batch;

/* What this process knows; forgotten when anything may have happened. */
static TimestampTz begin_at = DT_NOBEGIN; /* the next batch begins behind ... */
static pg_uuid_t begin_id;				  /* ... this one */
static HTAB *passed = NULL;				  /* hashes of aggregates passed over */
static TimestampTz passed_from = DT_NOEND; /* the first passed over is due then */
static TimestampTz retry_at = DT_NOEND;
static TimestampTz retried_at = 0; /* when the last look at them began */
static int retries = 0;
static int batch_events = BATCH_EVENTS;

/* ---------- what is passed over ---------- */

static void
forget_passed(void)
{
	if (passed != NULL)
		hash_destroy(passed);
	passed = NULL;
	passed_from = retry_at = DT_NOEND;
}

static bool
is_passed(uint64 aggregate)
{
	return passed != NULL &&
		   hash_search(passed, &aggregate, HASH_FIND, NULL) != NULL;
}

/* Looks at it, and at all that is due for its aggregate, again later. */
static void
pass_over(const Due *due)
{
	uint64 aggregate = due->aggregate;

	if (passed == NULL)
	{
		HASHCTL ctl = {.keysize = sizeof(uint64),
					   .entrysize = sizeof(uint64),
					   .hcxt = TopMemoryContext};

		passed = hash_create("event_store aggregates passed over", 256, &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(passed, &aggregate, HASH_ENTER, NULL);
	passed_from = Min(passed_from, due->due_at);
}

/* When: a pause that grows while the same goes on. */
static void
plan_retry(TimestampTz now)
{
	int64 pause = FIRST_PAUSE_MS;
	int64 took = retried_at == 0 ? 0 : (now - retried_at) / 1000;

	if (passed == NULL || retry_at != DT_NOEND)
		return;
	for (int i = 0; i < retries && pause < LONGEST_PAUSE_MS; i++)
		pause *= 2;
	pause = Min(pause, LONGEST_PAUSE_MS);
	if (took > 0)
		pause = Max(pause, Min(took * REST, LONGEST_REST_MS));
	retry_at = TimestampTzPlusMilliseconds(now, pause);
	retries++;
	retried_at = 0;
}

/* Where the batch begins: behind the last one, or before it. */
static void
choose_begin(TimestampTz noted, TimestampTz now)
{
	if (noted == DT_NOBEGIN)
	{
		forget_passed();
		retries = 0;
		batch_events = BATCH_EVENTS;
	}
	if (passed != NULL &&
		(retry_at <= now ||
		 retry_at > TimestampTzPlusMilliseconds(now, LONGEST_REST_MS)))
	{
		noted = Min(noted, passed_from);
		forget_passed();
		retried_at = now;
	}
	else if (passed == NULL)
		retries = 0;
	if (noted > begin_at)
		return;
	begin_at = noted;
	memset(&begin_id, 0, sizeof(begin_id));
}

/* ---------- the batch ---------- */

/* What can be long of a row, however well it is compressed in the table. */
static int64
size_of(HeapTuple row, TupleDesc desc, int first)
{
	int64 size = 0;

	for (int column = first; column <= desc->natts; column++)
	{
		bool isnull;
		Datum value = SPI_getbinval(row, desc, column, &isnull);

		if (!isnull)
			size += toast_raw_datum_size(value);
	}
	return size;
}

static void
read_keys(Batch *batch)
{
	static KeptPlan plan =
		{"SELECT s.schedule_id, s.due_at, s.aggregate_type, s.aggregate_id, s.ctid,"
		 " s.payload, s.metadata, s.unless_event_types"
		 " FROM event_store.scheduled_events s"
		 " WHERE s.state OPERATOR(pg_catalog.=) 'scheduled'"
		 " AND ROW(s.due_at, s.schedule_id) OPERATOR(pg_catalog.>) ROW($1, $2)"
		 " AND s.due_at OPERATOR(pg_catalog.<=) $3"
		 " ORDER BY s.due_at, s.schedule_id LIMIT $4",
		 4,
		 {TIMESTAMPTZOID, UUIDOID, TIMESTAMPTZOID, INT8OID}};
	Datum values[4] = {TimestampTzGetDatum(begin_at), UUIDPGetDatum(&begin_id),
					   TimestampTzGetDatum(batch->now),
					   Int64GetDatum(batch_events)};
	OwnerScope scope;
	int64 bytes = 0;
	uint64 found;

	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	batch->list =
		MemoryContextAllocZero(batch->context, Max(found, 1) * sizeof(Due));
	for (uint64 i = 0; i < found && bytes < BATCH_BYTES; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		Due *due = &batch->list[batch->count++];
		bool isnull;

		due->id = *DatumGetUUIDP(SPI_getbinval(row, desc, 1, &isnull));
		due->due_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &isnull));
		due->aggregate = es_pair_hash(SPI_getbinval(row, desc, 3, &isnull),
									  SPI_getbinval(row, desc, 4, &isnull));
		due->tid =
			*(ItemPointer) DatumGetPointer(SPI_getbinval(row, desc, 5, &isnull));
		bytes += size_of(row, desc, 6);
	}
	PopActiveSnapshot();
	es_end(&scope);
}

/*
 * Takes the locks that are to be had.  False if none can be, since the gate is closed
 * or the lock table is full: then the batch is tried again, a smaller one.
 */
static bool
hold_aggregates(Batch *batch)
{
	uint64 *hashes = palloc_array(uint64, batch->count);
	bool *held = palloc_array(bool, batch->count);

	for (int i = 0; i < batch->count; i++)
		hashes[i] = batch->list[i].aggregate;
	if (!es_lock_free_pairs(ES_LOCK_AGGREGATE, hashes, batch->count, held))
		return false;
	for (int i = 0; i < batch->count; i++)
	{
		batch->list[i].held = held[i] && !is_passed(hashes[i]);
		if (!batch->list[i].held)
			pass_over(&batch->list[i]);
	}
	return true;
}

/* Where the rows are of those that a test holds for. */
static Datum
tids_of(const Batch *batch, bool (*holds)(const Due *due))
{
	Datum *tids = palloc_array(Datum, batch->count);
	int n = 0;

	for (int i = 0; i < batch->count; i++)
	{
		if (holds(&batch->list[i]))
			tids[n++] = PointerGetDatum(&batch->list[i].tid);
	}
	return PointerGetDatum(construct_array(tids, n, TIDOID,
										   sizeof(ItemPointerData), false,
										   TYPALIGN_SHORT));
}

static bool
is_held(const Due *due)
{
	return due->held;
}

static bool
is_done(const Due *due)
{
	return due->done;
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(&(*(Due *const *) a)->id, &(*(Due *const *) b)->id, UUID_LEN);
}

/* The batch in the order of ids. */
static Due **
sort_by_id(const Batch *batch)
{
	Due **sorted = palloc_array(Due *, batch->count);

	for (int i = 0; i < batch->count; i++)
		sorted[i] = &batch->list[i];
	qsort(sorted, batch->count, sizeof(Due *), compare_ids);
	return sorted;
}

/* A row that was locked; another one may have taken its place, or it was moved meanwhile. */
static void
take_row(const Batch *batch, Due **sorted, HeapTuple row, TupleDesc desc)
{
	bool isnull;
	Due wanted = {.id = *DatumGetUUIDP(SPI_getbinval(row, desc, 1, &isnull))};
	Due *key = &wanted;
	Due **found = bsearch(&key, sorted, batch->count, sizeof(Due *), compare_ids);

	if (found == NULL || !(*found)->held ||
		(*found)->due_at !=
			DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &isnull)))
		return;
	es_read_scheduled(row, desc, &(*found)->scheduled);
	(*found)->tid =
		*(ItemPointer) DatumGetPointer(SPI_getbinval(row, desc, desc->natts,
													 &isnull));
	(*found)->found = true;
}

/*
 * Reads what is held, and locks its rows: where they were found, which takes no look into
 * an index.
 */
static void
lock_rows(Batch *batch)
{
	static KeptPlan plan = {"SELECT " ES_SCHEDULED_COLUMNS ", s.ctid"
							" FROM event_store.scheduled_events s"
							" WHERE s.ctid OPERATOR(pg_catalog.=) ANY ($1)"
							" AND s.state OPERATOR(pg_catalog.=) 'scheduled'"
							" FOR UPDATE OF s SKIP LOCKED",
							1,
							{TIDARRAYOID}};
	Due **sorted = sort_by_id(batch);
	Datum tids = tids_of(batch, is_held);
	MemoryContext inside;
	OwnerScope scope;
	uint64 found;

	es_begin(&scope);
	found = es_execute(&plan, &tids, NULL, false, SPI_OK_SELECT);
	inside = MemoryContextSwitchTo(batch->context);
	for (uint64 i = 0; i < found; i++)
		take_row(batch, sorted, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
	MemoryContextSwitchTo(inside);
	es_end(&scope);
	for (int i = 0; i < batch->count; i++)
	{
		/* if whoever moves or cancels it rolls back it is due still */
		if (batch->list[i].held && !batch->list[i].found)
			pass_over(&batch->list[i]);
	}
}

/* ---------- staged rows ---------- */

static bool
settle(void *arg)
{
	es_settle(NULL, NULL);
	return true;
}

/* Whether an aggregate that is held has staged events. */
static bool
has_staged(const Due *due)
{
	StagedRead read;
	Head head = {0};

	if (es_begin_latest_read(&read, es_store()->events))
		es_read_head(due->scheduled.event.row.values[EV_AGGREGATE_TYPE],
					 due->scheduled.event.row.values[EV_AGGREGATE_ID],
					 GetActiveSnapshot(), true, &head);
	es_end_staged_read(&read);
	return head.staged;
}

/*
 * What is staged for these aggregates comes before: the drain is asked for it, once for all,
 * and waited for a little.  Nobody can stage more, and no position is taken yet.
 */
static void
settle_staged(Batch *batch)
{
	int timeout = es_settle_timeout;
	bool asked = false;
	bool settled = false;

	for (int i = 0; i < batch->count && es_may_have_staged(); i++)
	{
		Due *due = &batch->list[i];

		if (!due->found || !has_staged(due))
			continue;
		if (!asked)
		{
			es_settle_timeout = SETTLE_MS;
			settled = es_in_subtransaction(settle, NULL) == NULL;
			es_settle_timeout = timeout;
			asked = true;
		}
		if (settled && !has_staged(due))
			continue;
		due->found = false;
		pass_over(due);
	}
}

/* ---------- appending ---------- */

/* Marks one as failed: it stays in the table, and says why. */
static void
fail(Due *due, int sqlerrcode, const char *message)
{
	static KeptPlan plan = {"UPDATE event_store.scheduled_events SET"
							" state = 'failed', error_code = $2, error = $3,"
							" failed_at = pg_catalog.clock_timestamp()"
							" WHERE schedule_id OPERATOR(pg_catalog.=) $1",
							3,
							{UUIDOID, TEXTOID, TEXTOID}};
	Datum values[3] = {UUIDPGetDatum(&due->id),
					   CStringGetTextDatum(unpack_sql_state(sqlerrcode)),
					   CStringGetTextDatum(message)};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_write_ours(&plan, values, NULL);
	es_end(&scope);
	due->found = false;
	es_count(ES_COUNT_FAILED_DEADLINES);
}

typedef struct Attempt
{
	Batch *batch;
	int from;
	int to;
	int count;
} Attempt;

/* Appends what is there of a part of the batch. */
static bool
append_part(void *arg)
{
	Attempt *attempt = arg;
	AppendCall append = {"append of due events"};
	int count = attempt->to - attempt->from;

	append.list.events = palloc_array(NewEvent, count);
	for (int i = attempt->from; i < attempt->to; i++)
	{
		Due *due = &attempt->batch->list[i];
		NewEvent *event;

		if (!due->found)
			continue;
		event = &append.list.events[append.list.count++];
		*event = due->scheduled.event;
		/*
		 * An id that is taken is found by the index of the log, or where it is one
		 * alone; in the archive it has to be looked for.
		 */
		event->id_given = count == 1 || es_anything_moved();
	}
	attempt->count = append.list.count;
	es_bound_lock_waits(true);
	if (append.list.count > 0)
		es_append(&append, ES_DURABLE, false);
	es_bound_lock_waits(false);
	return true;
}

/* What another try may find otherwise. */
static bool
is_of_the_moment(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) ==
			   ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) ||
		   sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   sqlerrcode == ES_ERRCODE_SEQUENCE_CONFLICT ||
		   sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
}

/* What no other event would fare better with. */
static bool
is_of_the_server(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_IO_ERROR);
}

/*
 * One that is alone was refused.  What is due later for its aggregate waits with it only
 * if it is tried again.
 */
static void
refuse(Due *due, ErrorData *error)
{
	if (!is_of_the_moment(error->sqlerrcode))
	{
		fail(due, error->sqlerrcode, error->message);
		return;
	}
	due->found = false;
	pass_over(due);
}

static void
drop_passed(Batch *batch, int from, int to)
{
	for (int i = from; i < to; i++)
		batch->list[i].found =
			batch->list[i].found && !is_passed(batch->list[i].aggregate);
}

/* Appends a part of the batch, halved as often as it must be. */
static void
append_or_halve(Batch *batch, int from, int to)
{
	Attempt attempt = {batch, from, to, 0};
	ErrorData *error;
	int middle = from + (to - from) / 2;

	CHECK_FOR_INTERRUPTS();
	drop_passed(batch, from, to);
	error = es_in_subtransaction(append_part, &attempt);
	if (error == NULL)
	{
		for (int i = from; i < to; i++)
			batch->list[i].done = batch->list[i].done || batch->list[i].found;
		return;
	}
	if (is_of_the_server(error->sqlerrcode))
		ReThrowError(error);
	if (to - from == 1)
		refuse(&batch->list[from], error);
	FreeErrorData(error);
	if (to - from == 1)
		return;
	append_or_halve(batch, from, middle);
	append_or_halve(batch, middle, to);
}

/* Whether an event of this part goes to the same aggregate. */
static bool
is_in_part(const Batch *batch, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		if (batch->list[i].found &&
			batch->list[i].aggregate == batch->list[to].aggregate)
			return true;
	}
	return false;
}

/* Leaves one out whose aggregate got what it was not to follow; one that cannot be told fails. */
static void
leave_out_unwanted(Due *due)
{
	ErrorData *why;

	if (es_is_unwanted(&due->scheduled, &why))
	{
		due->found = false;
		due->done = true;
	}
	else if (why != NULL)
		fail(due, why->sqlerrcode, why->message);
}

/*
 * Takes out what is not to be appended: where the aggregate got what it says, an event before
 * it in this very batch included, or where the aggregate is closed to appends.
 */
static void
append_batch(Batch *batch)
{
	int from = 0;

	for (int i = 0; i < batch->count; i++)
	{
		Due *due = &batch->list[i];
		const EventRow *row = &due->scheduled.event.row;

		if (!due->found)
			continue;
		if (es_dead_letters_possible() &&
			es_has_dead_letters(row->values[EV_AGGREGATE_TYPE],
								row->values[EV_AGGREGATE_ID], GetActiveSnapshot()))
		{
			fail(due, ES_ERRCODE_DEAD_LETTERS, "the aggregate has dead letters");
			continue;
		}
		if (!due->scheduled.unless)
			continue;
		if (is_in_part(batch, from, i))
		{
			append_or_halve(batch, from, i);
			from = i;
		}
		if (!is_passed(due->aggregate))
			leave_out_unwanted(due);
	}
	append_or_halve(batch, from, batch->count);
}

static void
delete_done(const Batch *batch)
{
	static KeptPlan plan = {"DELETE FROM event_store.scheduled_events s"
							" WHERE s.ctid OPERATOR(pg_catalog.=) ANY ($1)",
							1,
							{TIDARRAYOID}};
	Datum tids = tids_of(batch, is_done);
	OwnerScope scope;

	es_begin(&scope);
	es_execute(&plan, &tids, NULL, false, SPI_OK_DELETE);
	es_end(&scope);
}

/* ---------- the timer ---------- */

/* When the first one behind a place is due. */
static TimestampTz
first_behind(TimestampTz due_at, const pg_uuid_t *id)
{
	static KeptPlan plan = {"SELECT s.due_at FROM event_store.scheduled_events s"
							" WHERE s.state OPERATOR(pg_catalog.=) 'scheduled'"
							" AND ROW(s.due_at, s.schedule_id) OPERATOR(pg_catalog.>) ROW($1, $2)"
							" ORDER BY s.due_at, s.schedule_id LIMIT 1",
							2,
							{TIMESTAMPTZOID, UUIDOID}};
	Datum values[2] = {TimestampTzGetDatum(due_at), UUIDPGetDatum(id)};
	TimestampTz first = DT_NOEND;
	OwnerScope scope;
	bool isnull;

	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	if (es_execute(&plan, values, NULL, true, SPI_OK_SELECT) > 0)
		first =
			DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &isnull));
	PopActiveSnapshot();
	es_end(&scope);
	return first;
}

TimestampTz
es_find_deadline(void)
{
	pg_uuid_t none = {{0}};

	return first_behind(DT_NOBEGIN, &none);
}

/* The lateness of what was appended, for metrics. */
static void
count_lateness(const Batch *batch)
{
	TimestampTz now = GetCurrentTimestamp();
	int64 appended = 0;

	for (int i = 0; i < batch->count; i++)
	{
		if (!batch->list[i].done || !batch->list[i].found)
			continue;
		appended++;
		es_observe(ES_HISTOGRAM_LATENESS,
				   (uint64) Max((now - batch->list[i].due_at) / 1000, 0));
	}
	es_count_many(ES_COUNT_DEADLINES, appended);
}

TimestampTz
es_append_deadlines(TimestampTz noted)
{
	Batch batch = {.context = CurrentMemoryContext, .now = GetCurrentTimestamp()};

	choose_begin(noted, batch.now);
	read_keys(&batch);
	if (batch.count > 0)
	{
		/* nobody who has locked the archive is waited for */
		if (es_anything_moved() && !es_take_archive())
			return TimestampTzPlusMilliseconds(batch.now, FIRST_PAUSE_MS);
		if (!hold_aggregates(&batch))
		{
			batch_events = SMALL_BATCH_EVENTS;
			return TimestampTzPlusMilliseconds(batch.now, FIRST_PAUSE_MS);
		}
		lock_rows(&batch);
		settle_staged(&batch);
		append_batch(&batch);
		delete_done(&batch);
		count_lateness(&batch);
		begin_at = batch.list[batch.count - 1].due_at;
		begin_id = batch.list[batch.count - 1].id;
		batch_events = Min(batch_events * 4, BATCH_EVENTS);
	}
	plan_retry(GetCurrentTimestamp());
	return Min(first_behind(begin_at, &begin_id), retry_at);
}
