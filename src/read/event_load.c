/*
 * event_load.c
 *		Loading events: of an aggregate, of a saga, by id.
 *
 * What is staged of an aggregate always follows what is durable of it, what is in the
 * archive comes before that, and one snapshot, the statement's, sees each event once.
 * So the three are read one after the other and never merged.  The archive is opened only
 * where domain_events lacks the first events wanted, which the first row of it tells.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "ground/archive_mark.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/log_plan.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "log/archived.h"
#include "replay/fold.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"
#include "staging/dead_letter.h"
#include "staging/head.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"

PG_FUNCTION_INFO_V1(es_load_events);
PG_FUNCTION_INFO_V1(es_load_event);
PG_FUNCTION_INFO_V1(es_aggregate_sequence);
PG_FUNCTION_INFO_V1(es_aggregate_info);
PG_FUNCTION_INFO_V1(es_load_aggregate_ids);
PG_FUNCTION_INFO_V1(es_saga_log);

typedef struct LoadRange
{
	Datum type;
	Datum id;
	int64 after; /* exclusive */
	int64 up_to; /* inclusive */
	int64 max_count;
	bool backward;
	bool upcast;
	int64 previous; /* loaded last; at first what comes before the first */
	/* where some may be in the archive */
	int64 left; /* still to be loaded at most */
	bool looks_at_rows;
	bool has_met; /* a row of domain_events */
	Tuplestorestate *into;
	MemoryContext per_event; /* where events are upcast */
} LoadRange;

/* An event is loaded: it follows, or goes before, the previous one. */
static void
note_loaded(LoadRange *range, int64 sequence)
{
	if (!range->backward)
		es_check_follows(range->previous, sequence);
	else if (range->previous != PG_INT64_MAX)
		es_check_follows(sequence, range->previous);
	range->previous = sequence;
}

/* Puts an event into the result as its last version has it. */
static void
put_upcast(LoadRange *range, TupleDesc desc, const Datum *values, const bool *nulls)
{
	MemoryContext caller = MemoryContextSwitchTo(range->per_event);
	Datum last_values[EV_COLUMNS];
	bool last_nulls[EV_COLUMNS];

	memcpy(last_values, values, sizeof(last_values));
	memcpy(last_nulls, nulls, sizeof(last_nulls));
	(void) es_upcast(last_values, last_nulls);
	tuplestore_putvalues(range->into, desc, last_values, last_nulls);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(range->per_event);
}

/* Puts a row into the result, taken apart no further than it has to be. */
static bool
put_row(TupleTableSlot *slot, void *arg)
{
	LoadRange *range = arg;

	if (range->upcast && es_is_old_row(slot))
	{
		slot_getallattrs(slot);
		put_upcast(range, slot->tts_tupleDescriptor, slot->tts_values,
				   slot->tts_isnull);
	}
	else
		tuplestore_puttupleslot(range->into, slot);
	return true;
}

/* Puts a staged event into the result. */
static void
put_staged(LoadRange *range, TupleDesc desc, StagedRow *row)
{
	if (range->upcast && es_is_old_version(row->event.values))
		put_upcast(range, desc, row->event.values, row->event.nulls);
	else
		tuplestore_putvalues(range->into, desc, row->event.values,
							 row->event.nulls);
}

static bool
load_row(TupleTableSlot *slot, void *arg)
{
	bool isnull;

	note_loaded(arg, DatumGetInt64(slot_getattr(slot, EV_SEQUENCE + 1, &isnull)));
	return put_row(slot, arg);
}

#define LOAD_ALL                                                        \
	ES_EVENT_SELECT " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1" \
					" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
#define LOAD_RANGE                                       \
	LOAD_ALL " AND e.sequence OPERATOR(pg_catalog.>) $4" \
			 " AND e.sequence OPERATOR(pg_catalog.<=) $5"

/*
 * The statement that loads a range.  The index compares each entry with each bound,
 * behind two columns of any length: one that leaves nothing out costs a sixth.
 */
static KeptPlan *
plan_of(const LoadRange *range)
{
	static KeptPlan plans[2][2] =
		{{{LOAD_ALL " ORDER BY e.sequence LIMIT $3", 3, {TEXTOID, TEXTOID, INT8OID}},
		  {LOAD_ALL " ORDER BY e.sequence DESC LIMIT $3",
		   3,
		   {TEXTOID, TEXTOID, INT8OID}}},
		 {{LOAD_RANGE " ORDER BY e.sequence LIMIT $3",
		   5,
		   {TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID}},
		  {LOAD_RANGE " ORDER BY e.sequence DESC LIMIT $3",
		   5,
		   {TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID}}}};
	bool bounded = range->after > 0 || range->up_to < PG_INT64_MAX;

	return &plans[bounded][range->backward];
}

/* Loads events, so many at most, from domain_events or from its archive. */
static void
load_from(LoadRange *range, const LoadRange *bounds, bool archive,
		  RowFunction function)
{
	KeptPlan *plan = plan_of(bounds);
	Datum values[5] = {bounds->type, bounds->id, Int64GetDatum(range->left),
					   Int64GetDatum(bounds->after),
					   Int64GetDatum(bounds->up_to)};
	OwnerScope scope;

	es_begin_read(&scope);
	es_for_each_row(archive ? es_plan_on(plan, ES_ARCHIVE_ALONE) : plan, values,
					NULL, function, range);
	es_end(&scope);
}

static bool
load_counted_row(TupleTableSlot *slot, void *arg)
{
	LoadRange *range = arg;

	if (range->left == 0)
		return false;
	range->left--;
	if (range->looks_at_rows)
		return load_row(slot, arg);
	tuplestore_puttupleslot(range->into, slot);
	return true;
}

/* Loads what the archive has behind one sequence, up to another. */
static void
load_archived(LoadRange *range, int64 after, int64 up_to)
{
	LoadRange bounds = *range;

	bounds.after = after;
	bounds.up_to = up_to;
	if (after < up_to && range->left > 0)
		load_from(range, &bounds, true, load_counted_row);
}

/* A row of domain_events: what is wanted before the first one comes out of the archive. */
static bool
load_later_row(TupleTableSlot *slot, void *arg)
{
	LoadRange *range = arg;
	bool isnull;

	if (!range->has_met && !range->backward)
		load_archived(range, range->previous,
					  DatumGetInt64(slot_getattr(slot, EV_SEQUENCE + 1, &isnull)) -
						  1);
	range->has_met = true;
	return load_counted_row(slot, arg);
}

/* Loads the durable events of a range, of which the first may be in the archive. */
static void
load_both(LoadRange *range)
{
	int64 after = Max(range->after, 0);
	int64 end = range->up_to;

	range->looks_at_rows =
		range->upcast || range->backward || IsolationUsesXactSnapshot();
	load_from(range, range, false, load_later_row);
	if (range->has_met && !range->backward)
		return;
	/* what is not in domain_events ends before what was loaded of it, or of staging */
	if (range->backward && range->previous != PG_INT64_MAX)
		end = Min(end, range->previous - 1);
	else if (after < end)
		end = Min(end, es_last_archived(range->type, range->id));
	load_archived(range, after, end);
}

/* Loads the durable events of a range; returns how many. */
static int64
load_durable(LoadRange *range, int64 max_count)
{
	KeptPlan *plan = plan_of(range);
	Datum values[5] = {range->type, range->id, Int64GetDatum(max_count),
					   Int64GetDatum(range->after), Int64GetDatum(range->up_to)};
	OwnerScope scope;
	int64 count;

	if (max_count <= 0)
		return 0;
	if (es_anything_moved())
	{
		range->left = max_count;
		load_both(range);
		return max_count - range->left;
	}
	es_begin_read(&scope);
	/* row by row only where there may be something to find */
	if (range->upcast || IsolationUsesXactSnapshot())
	{
		int64 before = tuplestore_tuple_count(range->into);

		es_for_each_row(plan, values, NULL,
						IsolationUsesXactSnapshot() ? load_row : put_row, range);
		count = tuplestore_tuple_count(range->into) - before;
	}
	else
		count = es_execute_into(plan, values, NULL, range->into);
	es_end(&scope);
	return count;
}

/* Loads the staged events of a range; returns how many. */
static int64
load_staged(LoadRange *range, int64 max_count, ReturnSetInfo *rsinfo)
{
	StagedScan *scan;
	StagedRow row;
	int64 count = 0;

	scan = es_staged_begin(ES_KIND_EVENT, range->type, range->id,
						   GetActiveSnapshot(), range->backward);
	while (count < max_count && es_staged_next(scan, &row))
	{
		int64 sequence = DatumGetInt64(row.event.values[EV_SEQUENCE]);

		CHECK_FOR_INTERRUPTS();
		if (sequence > range->after && sequence <= range->up_to)
		{
			note_loaded(range, sequence);
			put_staged(range, rsinfo->setDesc, &row);
			count++;
		}
		es_staged_free(&row);
	}
	es_staged_end(scan);
	return count;
}

/* Whether events have to be looked at for their version, if that is wanted. */
static void
begin_upcasting(LoadRange *range, bool wanted)
{
	range->upcast = wanted && es_upcasts();
	if (range->upcast)
		range->per_event =
			AllocSetContextCreate(CurrentMemoryContext, "event_store event",
								  ALLOCSET_DEFAULT_SIZES);
}

Datum
es_load_events(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LoadRange range = {0};
	StagedRead read;
	int64 count;

	es_check_version();
	es_begin_call(ES_CALL_LOAD_EVENTS);
	range.type = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	range.id = PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	range.after = es_number_argument(fcinfo, 2, "after_sequence", 0);
	range.up_to = es_number_argument(fcinfo, 3, "up_to_sequence", PG_INT64_MAX);
	range.max_count = es_limit_argument(fcinfo, 4, "max_count");
	range.backward = !PG_ARGISNULL(5) && PG_GETARG_BOOL(5);
	(void) es_store();
	begin_upcasting(&range, (PG_ARGISNULL(6) || PG_GETARG_BOOL(6)) &&
								es_upcasts_type(range.type));
	range.previous = range.backward ? PG_INT64_MAX : Max(range.after, 0);
	es_begin_result(fcinfo);
	range.into = rsinfo->setResult;

	es_begin_staged_read(&read, GetActiveSnapshot());
	if (range.backward)
	{
		count = load_staged(&range, range.max_count, rsinfo);
		count += load_durable(&range, range.max_count - count);
	}
	else
	{
		count = load_durable(&range, range.max_count);
		count += load_staged(&range, range.max_count - count, rsinfo);
	}
	es_end_staged_read(&read);
	es_end_call(ES_CALL_LOAD_EVENTS, count);
	return (Datum) 0;
}

Datum
es_load_event(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {ES_EVENT_SELECT
							" WHERE e.event_id OPERATOR(pg_catalog.=) $1",
							1,
							{UUIDOID}};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LoadRange range = {.backward = true, .previous = PG_INT64_MAX};
	Datum value;
	OwnerScope scope;
	StagedRead read;
	StagedRow row;
	int64 found;

	es_check_version();
	es_begin_call(ES_CALL_LOAD_EVENT);
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("event_id must not be null")));
	value = PG_GETARG_DATUM(0);
	(void) es_store();
	begin_upcasting(&range, PG_ARGISNULL(1) || PG_GETARG_BOOL(1));
	InitMaterializedSRF(fcinfo, 0);
	range.into = rsinfo->setResult;
	es_begin_staged_read(&read, GetActiveSnapshot());
	es_begin_read(&scope);
	es_for_each_row(&plan, &value, NULL, load_row, &range);
	found = tuplestore_tuple_count(range.into);
	es_end(&scope);
	/* behind a dead letter it will be one: see staged_scan.c */
	if (found == 0 &&
		es_staged_by_event_id(DatumGetUUIDP(value), GetActiveSnapshot(), &row) &&
		!es_has_dead_letters(row.name, row.key, GetActiveSnapshot()))
	{
		put_staged(&range, rsinfo->setDesc, &row);
		found = 1;
	}
	if (found == 0 && es_anything_moved())
	{
		es_begin_read(&scope);
		es_for_each_row(es_plan_on(&plan, ES_ARCHIVE_ALONE), &value, NULL,
						load_row, &range);
		found = tuplestore_tuple_count(range.into);
		es_end(&scope);
	}
	es_end_staged_read(&read);
	es_end_call(ES_CALL_LOAD_EVENT, found);
	return (Datum) 0;
}

Datum
es_aggregate_sequence(PG_FUNCTION_ARGS)
{
	text *type;
	text *id;
	StagedRead read;
	Head head;

	es_begin_call(ES_CALL_AGGREGATE_SEQUENCE);
	type = es_required_text(fcinfo, 0, "aggregate_type");
	id = es_required_text(fcinfo, 1, "aggregate_id");
	es_begin_staged_read(&read, GetActiveSnapshot());
	es_read_head(PointerGetDatum(type), PointerGetDatum(id),
				 GetActiveSnapshot(), true, &head);
	es_end_staged_read(&read);
	es_end_call(ES_CALL_AGGREGATE_SEQUENCE, head.sequence);
	PG_RETURN_INT64(head.sequence);
}

/* What aggregate_info tells of the durable events: its columns but staged_count. */
static void
read_durable_info(Datum type, Datum id, Datum *values, bool *nulls)
{
	static KeptPlan plan =
		{"SELECT s.count, s.first, s.last, e.global_position, e.recorded_at,"
		 " (SELECT pg_catalog.count(*) FROM event_store.dead_letters d"
		 " WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND d.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " AND d.kind OPERATOR(pg_catalog.=) 'event')"
		 " FROM (SELECT pg_catalog.count(*), pg_catalog.min(c.sequence),"
		 " pg_catalog.max(c.sequence) FROM event_store.domain_events c"
		 " WHERE c.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND c.aggregate_id OPERATOR(pg_catalog.=) $2) AS s (count, first, last)"
		 " LEFT JOIN event_store.domain_events e"
		 " ON e.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " AND e.sequence OPERATOR(pg_catalog.=) s.last",
		 2,
		 {TEXTOID, TEXTOID}};
	Datum arguments[2] = {type, id};
	OwnerScope scope;

	es_begin_read(&scope);
	es_execute(&plan, arguments, NULL, true, SPI_OK_SELECT);
	for (int i = 0; i < 6; i++)
	{
		int column = i < 5 ? i : i + 1;

		values[column] =
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1,
						  &nulls[column]);
	}
	es_end(&scope);
}

/*
 * Adds what is in the archive, which need not be opened for that: what it has of an
 * aggregate are the first sequences, or all of them.  Returns whether it has all.
 */
static bool
add_archived_info(Datum type, Datum id, Datum *values, bool *nulls)
{
	static KeptPlan plan = {"SELECT c.last_sequence, 1::pg_catalog.int8,"
							" c.last_sequence, c.last_position, c.last_recorded_at"
							" FROM event_store.closed_aggregates c"
							" WHERE c.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND c.aggregate_id OPERATOR(pg_catalog.=) $2"
							" AND c.state OPERATOR(pg_catalog.=) 'archived'",
							2,
							{TEXTOID, TEXTOID}};
	Datum arguments[2] = {type, id};
	OwnerScope scope;
	bool found;

	if (!nulls[1])
	{
		values[0] = Int64GetDatum(DatumGetInt64(values[0]) +
								  DatumGetInt64(values[1]) - 1);
		values[1] = Int64GetDatum(1);
		return false;
	}
	es_begin_read(&scope);
	found = es_execute(&plan, arguments, NULL, true, SPI_OK_SELECT) > 0;
	for (int i = 0; i < 5 && found; i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								  i + 1, &nulls[i]);
	es_end(&scope);
	return found;
}

/* aggregate_info(aggregate_type, aggregate_id): one row, also where there is nothing. */
Datum
es_aggregate_info(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum type;
	Datum id;
	Datum values[8] = {0};
	bool nulls[8] = {false};
	int64 staged = 0;
	bool archived = false;
	StagedRead read;
	StagedScan *scan;
	StagedRow row;

	es_begin_call(ES_CALL_AGGREGATE_INFO);
	type = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	id = PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	(void) es_store();
	InitMaterializedSRF(fcinfo, 0);
	es_begin_staged_read(&read, GetActiveSnapshot());
	read_durable_info(type, id, values, nulls);
	if (es_anything_moved())
		archived = add_archived_info(type, id, values, nulls);
	scan = es_staged_begin(ES_KIND_EVENT, type, id, GetActiveSnapshot(), false);
	while (es_staged_next_row(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		if (nulls[1])
			values[1] = Int64GetDatum(row.ordinal);
		values[2] = Int64GetDatum(row.ordinal + row.count - 1);
		values[4] = TimestampTzGetDatum(row.staged_at);
		nulls[1] = nulls[2] = nulls[4] = false;
		staged += row.count;
		es_staged_free(&row);
	}
	es_staged_end(scan);
	es_end_staged_read(&read);

	values[0] = Int64GetDatum(DatumGetInt64(values[0]) + staged);
	for (int i = 1; i < 4; i++)
	{
		if (nulls[i])
			values[i] = Int64GetDatum(0);
		nulls[i] = false;
	}
	values[5] = Int64GetDatum(staged);
	values[7] = BoolGetDatum(archived);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	es_end_call(ES_CALL_AGGREGATE_INFO, DatumGetInt64(values[0]));
	return (Datum) 0;
}

static int
compare_texts(const void *a, const void *b)
{
	return es_compare_keys(*(const Datum *) a, *(const Datum *) b);
}

/* The aggregates whose first event is still staged, in order. */
static int
staged_aggregate_ids(Datum type, Datum after, Datum **ids)
{
	StagedScan *scan = es_staged_begin(ES_KIND_EVENT, type, (Datum) 0,
									   GetActiveSnapshot(), false);
	StagedRow row;
	int count = 0;
	int room = 64;

	*ids = palloc(room * sizeof(Datum));
	while (es_staged_next_row(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		if (row.ordinal == 1 && compare_texts(&row.key, &after) > 0)
		{
			if (count == room)
			{
				room *= 2;
				*ids = repalloc_huge(*ids, room * sizeof(Datum));
			}
			(*ids)[count++] = PointerGetDatum(PG_DETOAST_DATUM_COPY(row.key));
		}
		es_staged_free(&row);
	}
	es_staged_end(scan);
	qsort(*ids, count, sizeof(Datum), compare_texts);
	return count;
}

/*
 * Every aggregate has one event of sequence 1, so the index alone lists them.
 */
Datum
es_load_aggregate_ids(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"SELECT e.aggregate_id FROM event_store.domain_events e"
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.aggregate_id OPERATOR(pg_catalog.>) $2"
							" AND e.sequence OPERATOR(pg_catalog.=) 1"
							" ORDER BY e.aggregate_id LIMIT $3",
							3,
							{TEXTOID, TEXTOID, INT8OID}};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum type;
	Datum after;
	int64 max_count;
	Datum values[3];
	Datum *staged;
	int nstaged;
	int s = 0;
	uint64 d = 0;
	OwnerScope scope;
	StagedRead read;
	bool isnull = false;

	es_begin_call(ES_CALL_LOAD_AGGREGATE_IDS);
	type = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	after = PG_ARGISNULL(1) ? CStringGetTextDatum("") : PG_GETARG_DATUM(1);
	max_count = es_limit_argument(fcinfo, 2, "max_count");
	values[0] = type;
	values[1] = after;
	values[2] = Int64GetDatum(max_count);
	(void) es_store();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	es_begin_staged_read(&read, GetActiveSnapshot());
	nstaged = staged_aggregate_ids(type, after, &staged);
	es_begin_read(&scope);
	es_execute(es_log_plan(&plan), values, NULL, true, SPI_OK_SELECT);
	for (int64 n = 0; n < max_count && (s < nstaged || d < SPI_processed); n++)
	{
		Datum durable = d < SPI_processed
							? SPI_getbinval(SPI_tuptable->vals[d],
											SPI_tuptable->tupdesc, 1, &isnull)
							: (Datum) 0;
		bool take_staged =
			s < nstaged &&
			(d >= SPI_processed || compare_texts(&staged[s], &durable) < 0);

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
							 take_staged ? &staged[s] : &durable, &isnull);
		if (take_staged)
			s++;
		else
			d++;
	}
	es_end(&scope);
	es_end_staged_read(&read);
	es_end_call(ES_CALL_LOAD_AGGREGATE_IDS, s + (int64) d);
	return (Datum) 0;
}

/* ---------- sagas ---------- */

/* A list of staged events that grows. */
typedef struct StagedList
{
	StagedRow *rows;
	int count;
	int room;
} StagedList;

static int
compare_staged(const void *a, const void *b)
{
	const StagedRow *x = a;
	const StagedRow *y = b;
	int64 left = x->sid + x->place;
	int64 right = y->sid + y->place;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* The staged events of a saga.  No index has them: all that is staged is looked at. */
static void
list_staged_of_saga(Datum saga_id, StagedList *list)
{
	StagedScan *scan = es_staged_scan(ES_BY_TXN, ForwardScanDirection,
									  GetActiveSnapshot(), 0, NULL);
	StagedRow row;

	list->count = 0;
	list->room = 64;
	list->rows = palloc_array(StagedRow, list->room);
	while (es_staged_next(scan, &row))
	{
		CHECK_FOR_INTERRUPTS();
		if (row.kind != ES_KIND_EVENT || row.event.nulls[EV_SAGA_ID] ||
			!es_same_text(row.event.values[EV_SAGA_ID], saga_id) ||
			es_has_dead_letters(row.name, row.key, GetActiveSnapshot()))
		{
			es_staged_free(&row);
			continue;
		}
		if (list->count == list->room)
		{
			list->room *= 2;
			list->rows =
				repalloc_huge(list->rows, list->room * sizeof(StagedRow));
		}
		list->rows[list->count++] = row;
	}
	es_staged_end(scan);
	/* the drain gives them their positions in this order, as far as it moves them together */
	qsort(list->rows, list->count, sizeof(StagedRow), compare_staged);
}

Datum
es_saga_log(PG_FUNCTION_ARGS)
{
	/* found by the index of sagas, whatever sorting is thought to cost */
	static KeptPlan plan = {"WITH found AS MATERIALIZED (" ES_EVENT_SELECT
							" WHERE e.saga_id OPERATOR(pg_catalog.=) $1)"
							" SELECT * FROM found f ORDER BY f.global_position",
							1,
							{TEXTOID}};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LoadRange range = {.backward = false};
	Datum saga_id;
	OwnerScope scope;
	StagedRead read;
	StagedList staged;

	es_begin_call(ES_CALL_SAGA_LOG);
	saga_id = PointerGetDatum(es_required_text(fcinfo, 0, "saga_id"));
	(void) es_store();
	begin_upcasting(&range, PG_ARGISNULL(1) || PG_GETARG_BOOL(1));
	InitMaterializedSRF(fcinfo, 0);
	range.into = rsinfo->setResult;
	es_begin_staged_read(&read, GetActiveSnapshot());
	list_staged_of_saga(saga_id, &staged);
	es_begin_read(&scope);
	es_for_each_row(es_log_plan(&plan), &saga_id, NULL, put_row, &range);
	es_end(&scope);
	for (int i = 0; i < staged.count; i++)
		put_staged(&range, rsinfo->setDesc, &staged.rows[i]);
	es_end_staged_read(&read);
	es_end_call(ES_CALL_SAGA_LOG, tuplestore_tuple_count(range.into));
	return (Datum) 0;
}
