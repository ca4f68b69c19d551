/*
 * settle.c
 *		What becomes of dead letters: they are retried or discarded.
 *
 * While an aggregate has dead letters its appends are refused with VS006, so
 * that its log never gets a hole: retrying puts the events where they belong,
 * and discarding says that they never happened.
 *
 * A retry that fails is an attempt, and shall be seen as one.  So its work is done
 * in a subtransaction, and what the letters themselves are to blame for ends in
 * their rows, not in an error that would take the note of it away again.
 *
 * A letter that is settled leaves a row in dead_letter_history, without its
 * payload, which a discarded one may have been discarded for.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "ground/archive_mark.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/head_cache.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "ground/transaction.h"
#include "log/log.h"
#include "log/view_owner.h"
#include "log/view_table.h"
#include "staging/dead_letter.h"
#include "staging/flush.h"
#include "staging/own_rows.h"
#include "staging/staged_scan.h"
#include "write/inline_view.h"
#include "write/settle.h"

PG_FUNCTION_INFO_V1(es_retry_dead_letters);
PG_FUNCTION_INFO_V1(es_discard_dead_letters);
PG_FUNCTION_INFO_V1(es_prune_dead_letter_history);

/*
 * Whether a dead event is in the log by now: its owner may have put it there.  One
 * that cannot follow the head is refused.
 */
static bool
is_in_log(const EventRow *row, int64 head, Snapshot snapshot)
{
	int64 sequence = DatumGetInt64(row->values[EV_SEQUENCE]);
	EventRow standing;
	Logged logged = es_look_in_log(row, snapshot, &standing);

	if (logged == ES_LOGGED && sequence <= head)
		return true;
	if (logged != ES_NOT_LOGGED)
		ereport(ERROR,
				(errcode(ES_ERRCODE_EVENT_ID_REUSED),
				 errmsg("event_id %s was used for another event",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															row->values[EV_EVENT_ID]))),
				 errdetail_internal("%s",
									es_event_id_detail(row->values[EV_EVENT_ID],
													   &standing)),
				 errhint("Discard the dead letters with discard_dead_letters.")));
	if (sequence != head + 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dead letters of %s/%s do not continue its log: sequence " INT64_FORMAT
						" after " INT64_FORMAT,
						TextDatumGetCString(row->values[EV_AGGREGATE_TYPE]),
						TextDatumGetCString(row->values[EV_AGGREGATE_ID]),
						sequence, head),
				 errhint("Discard them with discard_dead_letters.")));
	return false;
}

/* Inserts an event; what rows of ours come into their way meanwhile is 40001. */
static void
insert_or_refuse(EventRow *row)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		es_insert_events(&row, 1);
		if (es_anything_moved())
			es_refuse_archived_ids(&row, 1);
	}
	PG_CATCH();
	{
		(void) es_catch_key_violation(context);
		es_raise_race();
	}
	PG_END_TRY();
}

/* Whose letters are retried, and which one of them just now. */
typedef struct Retry
{
	Datum type;
	Datum id;
	int64 letter;
} Retry;

/* A row of a query on letters as an event. */
static EventRow *
event_of(SPITupleTable *table, uint64 row)
{
	EventRow *event = palloc(sizeof(EventRow));

	for (int c = 0; c < EV_COLUMNS; c++)
		event->values[c] = SPI_getbinval(table->vals[row], table->tupdesc,
										 c + 1, &event->nulls[c]);
	return event;
}

/*
 * Inserts the dead events of an aggregate in sequence order, one by one, so that
 * it is known which of them fails.
 */
static void
retry_events(Retry *retry)
{
	static KeptPlan plan =
		{"SELECT NULL::bigint, {letter d}, d.id"
		 " FROM event_store.dead_letters d"
		 " WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND d.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " AND d.kind OPERATOR(pg_catalog.=) 'event' ORDER BY d.sequence, d.id",
		 2,
		 {TEXTOID, TEXTOID}};
	Datum values[2] = {retry->type, retry->id};
	OwnerScope scope;
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64 head = es_durable_head(retry->type, retry->id, snapshot, NULL);
	SPITupleTable *table;
	uint64 count;

	PushActiveSnapshot(snapshot);
	es_begin(&scope);
	count = es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	table = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		EventRow *event = event_of(table, i);
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		retry->letter =
			DatumGetInt64(SPI_getbinval(table->vals[i], table->tupdesc,
										EV_COLUMNS + 1, &isnull));
		if (!is_in_log(event, head, snapshot))
		{
			insert_or_refuse(event);
			head++;
		}
		pfree(event);
	}
	es_end(&scope);
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
}

/* A row of a query on letters as the write of a view. */
static ViewWrite
write_of(SPITupleTable *table, uint64 row)
{
	HeapTuple tuple = table->vals[row];
	ViewWrite write = {0};
	bool isnull;
	Datum version;

	write.view_name = SPI_getbinval(tuple, table->tupdesc, 1, &isnull);
	write.view_key = SPI_getbinval(tuple, table->tupdesc, 2, &isnull);
	write.view_data = SPI_getbinval(tuple, table->tupdesc, 3, &isnull);
	if (isnull)
		write.view_data = (Datum) 0;
	version = SPI_getbinval(tuple, table->tupdesc, 4, &isnull);
	write.has_version = !isnull;
	write.version = isnull ? 0 : DatumGetInt64(version);
	return write;
}

/*
 * Writes the dead view writes filed under a pair, in their order.  What was
 * written to a key since is newer and stays.
 */
static void
retry_views(Retry *retry)
{
	static KeptPlan keys =
		{"SELECT d.view_name, d.view_key, d.view_data, d.version, d.id"
		 " FROM event_store.dead_letters d"
		 " LEFT JOIN event_store.domain_views v ON v.view_name OPERATOR(pg_catalog.=) d.view_name"
		 " AND v.view_key OPERATOR(pg_catalog.=) d.view_key"
		 " WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND d.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " AND d.kind OPERATOR(pg_catalog.=) 'view'"
		 " AND (v.updated_at IS NULL OR v.updated_at OPERATOR(pg_catalog.<=) d.recorded_at"
		 " OR (v.version IS NOT NULL AND d.version IS NOT NULL))"
		 " ORDER BY d.id",
		 2,
		 {TEXTOID, TEXTOID}};
	Datum values[2] = {retry->type, retry->id};
	OwnerScope scope;
	SPITupleTable *table;
	uint64 count;

	es_begin(&scope);
	count = es_execute(&keys, values, NULL, false, SPI_OK_SELECT);
	table = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		ViewWrite write = write_of(table, i);
		bool isnull;

		retry->letter = DatumGetInt64(SPI_getbinval(table->vals[i],
													table->tupdesc, 5, &isnull));
		es_lock_pair(ES_LOCK_VIEW_KEY,
					 es_pair_hash(write.view_name, write.view_key));
		es_refuse_kept_view(write.view_name);
		(void) es_write_views(&write, 1, false);
	}
	es_end(&scope);
}

/*
 * Retries all letters of a pair, or none.  Returns NULL, or the error that one of
 * them is to blame for; passes others on.
 */
static ErrorData *
retry_letters(Retry *retry)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		if (es_is_inline_type(retry->type))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("events of \"%s\" are folded into inline views as they are appended",
							TextDatumGetCString(retry->type)),
					 errhint("Pause the projections of these views, retry, and resume them.")));
		retry_events(retry);
		retry_views(retry);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL && !es_blames_row(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* Notes an attempt that failed: on all letters of the pair, and why on one. */
static void
note_failed_retry(const Retry *retry, const ErrorData *error)
{
	static KeptPlan plan =
		{"UPDATE event_store.dead_letters AS d SET"
		 " attempts = d.attempts OPERATOR(pg_catalog.+) 1,"
		 " failed_at = pg_catalog.clock_timestamp(),"
		 " error_code = CASE WHEN d.id OPERATOR(pg_catalog.=) $3 THEN $4 ELSE d.error_code END,"
		 " error_message = CASE WHEN d.id OPERATOR(pg_catalog.=) $3 THEN $5 ELSE d.error_message END"
		 " WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND d.aggregate_id OPERATOR(pg_catalog.=) $2",
		 5,
		 {TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID}};
	Datum values[5] = {retry->type, retry->id, Int64GetDatum(retry->letter),
					   CStringGetTextDatum(es_sqlstate_text(error->sqlerrcode)),
					   CStringGetTextDatum(error->message)};
	OwnerScope scope;
	uint64 count;

	es_begin(&scope);
	count = es_execute(&plan, values, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("retry of " UINT64_FORMAT " dead letters of %s/%s failed: %s",
					count, TextDatumGetCString(retry->type),
					TextDatumGetCString(retry->id), error->message),
			 errdetail("Letter " INT64_FORMAT
					   " failed again, and all stay with one attempt more.",
					   retry->letter)));
}

/*
 * Moves the dead letters filed under a pair to their history; returns how many.
 * Who did it is the role of the session, whatever function it called.
 */
static int64
settle_letters(Datum type, Datum id, const char *outcome, text *reason)
{
	static KeptPlan plan =
		{"WITH settled AS (DELETE FROM event_store.dead_letters d"
		 " WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND d.aggregate_id OPERATOR(pg_catalog.=) $2 RETURNING d.*)"
		 " INSERT INTO event_store.dead_letter_history (letter_id, kind,"
		 " aggregate_type, aggregate_id, sequence, event_id, event_type, view_name,"
		 " view_key, error_code, error_message, attempts, failed_at, outcome, reason,"
		 " settled_by)"
		 " SELECT s.id, s.kind, s.aggregate_type, s.aggregate_id, s.sequence,"
		 " s.event_id, s.event_type, s.view_name, s.view_key, s.error_code,"
		 " s.error_message, s.attempts, s.failed_at, $3, $4, $5 FROM settled s",
		 5,
		 {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}};
	Datum values[5] = {type, id, CStringGetTextDatum(outcome),
					   PointerGetDatum(reason),
					   CStringGetTextDatum(GetUserNameFromId(GetOuterUserId(),
															 false))};
	OwnerScope scope;
	int64 count;

	es_begin(&scope);
	count = (int64) es_execute(&plan, values, reason == NULL ? "   n " : NULL,
							   false, SPI_OK_INSERT);
	es_end(&scope);
	es_count_dead_letters(-count);
	return count;
}

/*
 * Locks the aggregate and makes sure that none of its events is staged any
 * more: later ones would otherwise arrive behind what is settled here.
 */
static void
begin_settling(FunctionCallInfo fcinfo, const char *function, Datum *type,
			   Datum *id)
{
	*type = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	*id = PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	(void) es_store();
	es_lock_pair(ES_LOCK_AGGREGATE, es_pair_hash(*type, *id));
	if (es_may_have_staged())
		es_settle(NULL, NULL);
	es_note_write();
	es_forget_heads();
	es_move_own_rows();
	es_note_durable_write();
}

Datum
es_retry_dead_letters(PG_FUNCTION_ARGS)
{
	Retry retry = {0};
	ErrorData *error;
	int64 count = 0;

	es_begin_call(ES_CALL_RETRY_DEAD_LETTERS);
	begin_settling(fcinfo, "retry_dead_letters()", &retry.type, &retry.id);
	error = retry_letters(&retry);
	if (error == NULL)
		count = settle_letters(retry.type, retry.id, "retried", NULL);
	else
		note_failed_retry(&retry, error);
	es_end_call(ES_CALL_RETRY_DEAD_LETTERS, count);
	PG_RETURN_INT64(count);
}

Datum
es_discard_dead_letters(PG_FUNCTION_ARGS)
{
	Datum type;
	Datum id;
	int64 count;
	text *reason;

	es_begin_call(ES_CALL_DISCARD_DEAD_LETTERS);
	reason = es_required_text(fcinfo, 2, "reason");
	begin_settling(fcinfo, "discard_dead_letters()", &type, &id);
	count = settle_letters(type, id, "discarded", reason);
	if (count > 0)
		ereport(LOG,
				(errmsg("discarded " INT64_FORMAT " dead letters of %s/%s: %s",
						count, TextDatumGetCString(type),
						TextDatumGetCString(id), text_to_cstring(reason))));
	es_end_call(ES_CALL_DISCARD_DEAD_LETTERS, count);
	PG_RETURN_INT64(count);
}

/* ---------- the history ---------- */

/* Removes from the history what is older; "most" rows, 0 = all. */
static int64
prune_history(Interval *age, int64 most)
{
	static KeptPlan plan = {"DELETE FROM event_store.dead_letter_history h"
							" WHERE h.id OPERATOR(pg_catalog.=) ANY (ARRAY("
							"SELECT o.id FROM event_store.dead_letter_history o"
							" WHERE o.settled_at OPERATOR(pg_catalog.<)"
							" (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) $1)"
							" ORDER BY o.settled_at LIMIT $2))",
							2,
							{INTERVALOID, INT8OID}};
	Datum values[2] = {IntervalPGetDatum(age), Int64GetDatum(most)};
	OwnerScope scope;
	int64 count;

	es_begin(&scope);
	count = (int64) es_execute(&plan, values, most == 0 ? " n" : NULL, false,
							   SPI_OK_DELETE);
	es_end(&scope);
	return count;
}

int64
es_prune_letter_history(int64 most)
{
	Interval age = {0};

	if (es_dead_letter_retention == 0)
		return 0;
	age.time = es_dead_letter_retention * USECS_PER_SEC;
	return prune_history(&age, most);
}

/* prune_dead_letter_history(): what the worker does, in the foreground. */
Datum
es_prune_dead_letter_history(PG_FUNCTION_ARGS)
{
	int64 count;

	es_begin_call(ES_CALL_PRUNE_DEAD_LETTER_HISTORY);
	PreventCommandIfReadOnly("prune_dead_letter_history()");
	PreventCommandIfParallelMode("prune_dead_letter_history()");
	(void) es_store();
	if (PG_ARGISNULL(0))
		count = es_prune_letter_history(0);
	else
	{
		Interval zero = {0};

		if (DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(0),
											 IntervalPGetDatum(&zero))))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("older_than must not be negative")));
		count = prune_history(PG_GETARG_INTERVAL_P(0), 0);
	}
	es_note_write();
	es_end_call(ES_CALL_PRUNE_DEAD_LETTER_HISTORY, count);
	PG_RETURN_INT64(count);
}
