/*
 * log.c
 *		The table domain_events: look-ups by key and inserts.
 *
 * Inserts go straight into the table where nothing is lost by it (heap_insert.c),
 * else through SPI with kept plans, so that triggers, rules and policies see
 * ordinary INSERTs.  The look-ups that every append
 * needs, an aggregate's last event and an event by its id, read the index
 * directly: they need a snapshot of the caller's choice (the latest, at any
 * isolation level), and are the most frequent reads of all.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/due_snapshot.h"
#include "ground/event.h"
#include "ground/head_cache.h"
#include "ground/pair_table.h"
#include "ground/position.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "log/heap_insert.h"
#include "log/log.h"
#include "log/outside_write.h"

/* Takes a row of domain_events apart; by-reference values point into it. */
static void
deform(HeapTuple tuple, TupleDesc desc, EventRow *row)
{
	for (int i = 0; i < EV_COLUMNS; i++)
		row->values[i] = heap_getattr(tuple, i + 1, desc, &row->nulls[i]);
}

/* The sequence of the first or last event of an aggregate; as es_durable_head. */
static int64
durable_end(Datum aggregate_type, Datum aggregate_id, Snapshot snapshot,
			ScanDirection from, TimestampTz *recorded_at)
{
	const Store *store = es_store();
	Relation table = table_open(store->events, AccessShareLock);
	Relation index = index_open(es_store()->events_by_aggregate, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	int64 sequence = 0;

	ScanKeyInit(&keys[0], EV_AGGREGATE_TYPE + 1, BTEqualStrategyNumber,
				F_TEXTEQ, aggregate_type);
	ScanKeyInit(&keys[1], EV_AGGREGATE_ID + 1, BTEqualStrategyNumber, F_TEXTEQ,
				aggregate_id);
	scan = systable_beginscan_ordered(table, index, snapshot, 2, keys);
	tuple = systable_getnext_ordered(scan, from);
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc desc = RelationGetDescr(table);
		bool isnull;

		sequence =
			DatumGetInt64(heap_getattr(tuple, EV_SEQUENCE + 1, desc, &isnull));
		if (recorded_at != NULL)
			*recorded_at =
				DatumGetTimestampTz(heap_getattr(tuple, EV_RECORDED_AT + 1,
												 desc, &isnull));
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return sequence;
}

int64
es_durable_head(Datum aggregate_type, Datum aggregate_id, Snapshot snapshot,
				TimestampTz *recorded_at)
{
	return durable_end(aggregate_type, aggregate_id, snapshot,
					   BackwardScanDirection, recorded_at);
}

int64
es_durable_first(Datum aggregate_type, Datum aggregate_id, Snapshot snapshot)
{
	return durable_end(aggregate_type, aggregate_id, snapshot,
					   ForwardScanDirection, NULL);
}

/* Looks an event up in a table by an index of its ids. */
static bool
find_by_id(Relation table, Relation index, const pg_uuid_t *event_id,
		   Snapshot snapshot, EventRow *row)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	bool found;

	ScanKeyInit(&key, EV_EVENT_ID + 1, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(event_id));
	scan = systable_beginscan_ordered(table, index, snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	found = HeapTupleIsValid(tuple);
	if (found)
		deform(heap_copytuple(tuple), RelationGetDescr(table), row);
	systable_endscan_ordered(scan);
	return found;
}

bool
es_durable_by_event_id(const pg_uuid_t *event_id, Snapshot snapshot, EventRow *row)
{
	const Store *store = es_store();
	Relation table = table_open(store->events, AccessShareLock);
	Relation index = index_open(es_store()->events_by_id, AccessShareLock);
	bool found = find_by_id(table, index, event_id, snapshot, row);

	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	if (found || !es_anything_moved())
		return found;
	table = table_open(es_store()->archive, AccessShareLock);
	index = index_open(es_store()->archive_by_id, AccessShareLock);
	found = find_by_id(table, index, event_id, snapshot, row);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return found;
}

/*
 * It is raised as what it would be if both tables had one index.
 */
void
es_refuse_archived_ids(EventRow **rows, int count)
{
	Relation table = table_open(es_store()->archive, AccessShareLock);
	Relation index = index_open(es_store()->archive_by_id, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	EventRow standing;

	for (int i = 0; i < count; i++)
	{
		Datum id = rows[i]->values[EV_EVENT_ID];

		CHECK_FOR_INTERRUPTS();
		if (find_by_id(table, index, DatumGetUUIDP(id), snapshot, &standing))
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("event_id %s is in the archive",
							DatumGetCString(DirectFunctionCall1(uuid_out, id))),
					 err_generic_string(PG_DIAG_SCHEMA_NAME, ES_SCHEMA),
					 err_generic_string(PG_DIAG_TABLE_NAME, "domain_events"),
					 err_generic_string(PG_DIAG_CONSTRAINT_NAME,
										"domain_events_event_id_key")));
	}
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
}

/* Appends a member of a JSON object: a text in quotes, a number, or null. */
static void
append_member(StringInfo json, const char *name, const char *value, bool quote)
{
	appendStringInfo(json, "%s\"%s\": ", json->len == 1 ? "" : ", ", name);
	if (value == NULL)
		appendStringInfoString(json, "null");
	else if (quote)
		escape_json(json, value);
	else
		appendStringInfoString(json, value);
}

char *
es_event_id_detail(Datum event_id, const EventRow *standing)
{
	static const EventColumn columns[] = {EV_AGGREGATE_TYPE, EV_AGGREGATE_ID,
										  EV_SEQUENCE, EV_GLOBAL_POSITION};
	StringInfoData json;
	char *id = NULL;

	if (event_id != (Datum) 0)
		id = DatumGetCString(DirectFunctionCall1(uuid_out, event_id));
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	append_member(&json, "event_id", id, true);
	for (int i = 0; i < (int) lengthof(columns); i++)
	{
		EventColumn column = columns[i];
		bool quote = es_event_columns[column].type == TEXTOID;
		char *value = NULL;

		if (standing != NULL && !standing->nulls[column])
			value = quote ? TextDatumGetCString(standing->values[column])
						  : psprintf(INT64_FORMAT,
									 DatumGetInt64(standing->values[column]));
		append_member(&json, es_event_columns[column].name, value, quote);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/*
 * Executes an INSERT of "count" events, which is none around the API.  A row that
 * a trigger suppressed would be a hole in its aggregate.
 */
static void
insert_all(KeptPlan *plan, Datum *values, const char *nulls, int count)
{
	volatile uint64 inserted = 0;

	es_inserts = true;
	PG_TRY();
	{
		inserted = es_execute(plan, values, nulls, false, SPI_OK_INSERT);
	}
	PG_FINALLY();
	{
		es_inserts = false;
	}
	PG_END_TRY();
	if (inserted != (uint64) count)
		ereport(ERROR,
				(errcode(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION),
				 errmsg("an event was suppressed by a trigger on domain_events"),
				 errhint("A trigger that refuses an event must raise an error.")));
}

/* Inserts one row. */
static void
insert_one(EventRow *row)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.domain_events ({event}) VALUES ({event $1})",
		 EV_COLUMNS};
	char nulls[EV_COLUMNS];

	for (int i = 0; i < EV_COLUMNS; i++)
	{
		plan.argtypes[i] = es_event_columns[i].type;
		nulls[i] = row->nulls[i] ? 'n' : ' ';
	}
	insert_all(&plan, row->values, nulls, 1);
}

/* One column of many rows as an array. */
static Datum
column_array(EventRow **rows, int count, int column)
{
	Datum *values = palloc(count * sizeof(Datum));
	bool *nulls = palloc(count * sizeof(bool));
	Oid type = es_event_columns[column].type;
	int lower = 1;
	int16 length;
	bool byval;
	char align;

	get_typlenbyvalalign(type, &length, &byval, &align);
	for (int i = 0; i < count; i++)
	{
		values[i] = rows[i]->values[column];
		nulls[i] = rows[i]->nulls[column];
	}
	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower,
											  type, length, byval, align));
}

/* Whether a statement with the common columns alone would lose something. */
static bool
any_rare(EventRow **rows, int count)
{
	for (int i = 0; i < count; i++)
	{
		for (int c = 0; c < EV_COLUMNS; c++)
		{
			if (es_event_columns[c].rare && !rows[i]->nulls[c])
				return true;
		}
	}
	return false;
}

/*
 * Inserts many rows in one statement.  Each array costs as much per row as a
 * good part of an index entry, so there is a statement without the rare ones.
 */
static void
insert_many(EventRow **rows, int count)
{
	static KeptPlan whole = {"INSERT INTO event_store.domain_events ({event})"
							 " SELECT * FROM ROWS FROM ({event unnest})"};
	static KeptPlan common = {"INSERT INTO event_store.domain_events ({common})"
							  " SELECT * FROM ROWS FROM ({common unnest})"};
	KeptPlan *plan = any_rare(rows, count) ? &whole : &common;
	Datum arrays[EV_COLUMNS];
	int n = 0;

	for (int i = 0; i < EV_COLUMNS; i++)
	{
		if (plan == &common && es_event_columns[i].rare)
			continue;
		plan->argtypes[n] = get_array_type(es_event_columns[i].type);
		arrays[n++] = column_array(rows, count, i);
	}
	plan->nargs = n;
	insert_all(plan, arrays, NULL, count);
}

/*
 * Asks for a snapshot where an aggregate passes a multiple of snapshot_every;
 * for one of several such events in a row.
 */
static void
note_due_snapshots(EventRow **rows, int count)
{
	EventRow *due = NULL;

	if (es_snapshot_every == 0 || es_my_database() == NULL)
		return;
	for (int i = 0; i < count; i++)
	{
		EventRow *row = rows[i];

		if (DatumGetInt64(row->values[EV_SEQUENCE]) % es_snapshot_every != 0)
			continue;
		if (due != NULL && !(es_same_text(due->values[EV_AGGREGATE_ID],
										  row->values[EV_AGGREGATE_ID]) &&
							 es_same_text(due->values[EV_AGGREGATE_TYPE],
										  row->values[EV_AGGREGATE_TYPE])))
			es_note_snapshot_due(DatumGetInt64(due->values[EV_GLOBAL_POSITION]));
		due = row;
	}
	if (due != NULL)
		es_note_snapshot_due(DatumGetInt64(due->values[EV_GLOBAL_POSITION]));
}

void
es_number_events(EventRow **rows, int count)
{
	int64 position = es_take_positions(count);

	for (int i = 0; i < count; i++)
	{
		rows[i]->values[EV_GLOBAL_POSITION] = Int64GetDatum(position + i);
		rows[i]->nulls[EV_GLOBAL_POSITION] = false;
	}
}

void
es_insert_events(EventRow **rows, int count)
{
	es_number_events(rows, count);
	es_insert_numbered_events(rows, count);
}

/* Inserts some rows: into the table itself, or by a statement where heap is NULL. */
static void
insert_chunk(HeapInsert *heap, EventRow **rows, int count)
{
	if (heap != NULL)
		es_heap_insert(heap, rows, count);
	else if (count == 1)
		insert_one(rows[0]);
	else
		insert_many(rows, count);
}

/* Inserts many rows, of which bounded numbers and sizes are in memory twice. */
static void
insert_in_chunks(HeapInsert *heap, EventRow **rows, int count)
{
	MemoryContext chunk_context;
	MemoryContext old;

	chunk_context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store insert",
							  ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(chunk_context);
	for (int start = 0, end; start < count; start = end)
	{
		Size size = 0;

		for (end = start; end < count && end - start < ES_CHUNK_ROWS &&
						  (size < ES_CHUNK_BYTES || end == start);
			 end++)
			size += es_event_size(rows[end]);
		if (end - start > 1 && size >= ES_CHUNK_BYTES)
			end--;
		insert_chunk(heap, rows + start, end - start);
		MemoryContextReset(chunk_context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk_context);
}

void
es_insert_numbered_events(EventRow **rows, int count)
{
	HeapInsert *heap;
	OwnerScope scope;

	note_due_snapshots(rows, count);
	heap = es_begin_heap_insert();
	if (heap == NULL)
		es_begin_write(&scope);
	if (count == 1)
		insert_chunk(heap, rows, 1);
	else
		insert_in_chunks(heap, rows, count);
	if (heap == NULL)
		es_end(&scope);
	else
		es_end_heap_insert(heap);
}

/* ---------- rows written around the API ---------- */

EventKey
es_violated_key(const ErrorData *error)
{
	static const char *const names[] = {[ES_KEY_POSITION] = "domain_events_pkey",
										[ES_KEY_AGGREGATE] =
											"domain_events_aggregate_key",
										[ES_KEY_EVENT_ID] =
											"domain_events_event_id_key"};

	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION ||
		error->schema_name == NULL ||
		strcmp(error->schema_name, ES_SCHEMA) != 0 || error->table_name == NULL ||
		strcmp(error->table_name, "domain_events") != 0 ||
		error->constraint_name == NULL)
		return ES_KEY_NONE;
	for (int key = ES_KEY_POSITION; key <= ES_KEY_EVENT_ID; key++)
	{
		if (strcmp(error->constraint_name, names[key]) == 0)
			return key;
	}
	return ES_KEY_NONE;
}

/*
 * Rows written around the API may be what was met: neither heads nor positions
 * are believed then before they were looked up again.
 */
EventKey
es_catch_key_violation(MemoryContext context)
{
	ErrorData *error;
	EventKey key;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	key = es_violated_key(error);
	if (key == ES_KEY_NONE)
		PG_RE_THROW();
	FlushErrorState();
	es_raise_head_generation(es_my_database());
	es_recheck_positions();
	return key;
}

void
es_raise_race(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to rows written to domain_events around the API"),
			 errhint("The transaction might succeed if retried.")));
}

Logged
es_look_in_log(const EventRow *event, Snapshot snapshot, EventRow *standing)
{
	if (!es_durable_by_event_id(DatumGetUUIDP(event->values[EV_EVENT_ID]),
								snapshot, standing))
		return ES_NOT_LOGGED;
	return es_same_content(event, standing) ? ES_LOGGED : ES_LOGGED_OTHERWISE;
}
