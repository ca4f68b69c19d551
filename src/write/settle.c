/*
 * settle.c
 *		What becomes of dead letters: they are retried or discarded.
 *
 * While an aggregate has dead letters its appends are refused with VS006, so
 * that its log never gets a hole: retrying puts the events where they belong,
 * and discarding says that they never happened.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/head_cache.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/transaction.h"
#include "log/log.h"
#include "log/view_table.h"
#include "staging/flush.h"
#include "staging/own_rows.h"
#include "staging/staged_scan.h"

PG_FUNCTION_INFO_V1(es_retry_dead_letters);
PG_FUNCTION_INFO_V1(es_discard_dead_letters);

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

/* Inserts events; what rows of ours come into their way meanwhile is 40001. */
static void
insert_or_refuse(EventRow **rows, int count)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		es_insert_events(rows, count);
	}
	PG_CATCH();
	{
		(void) es_catch_key_violation(context);
		es_raise_race();
	}
	PG_END_TRY();
}

/* Inserts the dead events of an aggregate in sequence order. */
static void
retry_events(Datum type, Datum id)
{
	static KeptPlan plan =
		{"SELECT NULL::bigint, {letter d}"
		 " FROM event_store.dead_letters d"
		 " WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND d.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " AND d.kind OPERATOR(pg_catalog.=) 'event' ORDER BY d.sequence, d.id",
		 2,
		 {TEXTOID, TEXTOID}};
	Datum values[2] = {type, id};
	OwnerScope scope;
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64 head = es_durable_head(type, id, snapshot, NULL);
	EventRow **rows;
	int letters;
	int count = 0;

	PushActiveSnapshot(snapshot);
	es_begin(&scope);
	letters = (int) es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	rows = palloc_extended(Max(letters, 1) * sizeof(EventRow *), MCXT_ALLOC_HUGE);
	for (int i = 0; i < letters; i++)
	{
		EventRow *row = palloc(sizeof(EventRow));

		for (int c = 0; c < EV_COLUMNS; c++)
			row->values[c] =
				SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  c + 1, &row->nulls[c]);
		if (!is_in_log(row, head + count, snapshot))
			rows[count++] = row;
	}
	if (count > 0)
		insert_or_refuse(rows, count);
	es_end(&scope);
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
}

/*
 * Writes the dead view writes filed under a pair, in their order.  What was
 * written to a key since is newer and stays.
 */
static int64
retry_views(Datum type, Datum id)
{
	static KeptPlan keys =
		{"SELECT d.view_name, d.view_key, d.view_data, d.version"
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
	Datum values[2] = {type, id};
	OwnerScope scope;
	int64 count;
	SPITupleTable *table;

	es_begin(&scope);
	count = (int64) es_execute(&keys, values, NULL, false, SPI_OK_SELECT);
	table = SPI_tuptable;
	for (int64 i = 0; i < count; i++)
	{
		ViewWrite write = {0};
		bool isnull;
		Datum version;

		write.view_name =
			SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);
		write.view_key =
			SPI_getbinval(table->vals[i], table->tupdesc, 2, &isnull);
		write.view_data =
			SPI_getbinval(table->vals[i], table->tupdesc, 3, &isnull);
		if (isnull)
			write.view_data = (Datum) 0;
		version = SPI_getbinval(table->vals[i], table->tupdesc, 4, &isnull);
		write.has_version = !isnull;
		write.version = isnull ? 0 : DatumGetInt64(version);
		es_lock_pair(ES_LOCK_VIEW_KEY,
					 es_pair_hash(write.view_name, write.view_key));
		(void) es_write_views(&write, 1, false);
	}
	es_end(&scope);
	return count;
}

/* Removes the dead letters filed under a pair; returns how many. */
static int64
remove_letters(Datum type, Datum id)
{
	static KeptPlan plan = {"DELETE FROM event_store.dead_letters d"
							" WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND d.aggregate_id OPERATOR(pg_catalog.=) $2",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {type, id};
	OwnerScope scope;
	int64 count;

	es_begin(&scope);
	count = (int64) es_execute(&plan, values, NULL, false, SPI_OK_DELETE);
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
	Datum type;
	Datum id;
	int64 count;

	es_begin_call(ES_CALL_RETRY_DEAD_LETTERS);
	begin_settling(fcinfo, "retry_dead_letters()", &type, &id);
	retry_events(type, id);
	(void) retry_views(type, id);
	count = remove_letters(type, id);
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
	count = remove_letters(type, id);
	if (count > 0)
		ereport(LOG,
				(errmsg("discarded " INT64_FORMAT " dead letters of %s/%s: %s",
						count, TextDatumGetCString(type),
						TextDatumGetCString(id), text_to_cstring(reason))));
	es_end_call(ES_CALL_DISCARD_DEAD_LETTERS, count);
	PG_RETURN_INT64(count);
}
