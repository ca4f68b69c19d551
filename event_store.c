/*
 * event_store.c
 *		The SQL functions that append events, or lock an aggregate.
 *
 * They take arguments apart and make the results; what an append is stands in
 * append.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/metrics.h"
#include "ground/settings.h"
#include "staging/staging.h"
#include "write/append.h"
#include "write/event_input.h"
#include "write/grouped.h"

PG_FUNCTION_INFO_V1(es_append_event);
PG_FUNCTION_INFO_V1(es_append_events);
PG_FUNCTION_INFO_V1(es_append_batch);
PG_FUNCTION_INFO_V1(es_append_batch_json);
PG_FUNCTION_INFO_V1(es_lock_aggregate);
PG_FUNCTION_INFO_V1(es_assert_sequence);

static Datum
column_or_null(FunctionCallInfo fcinfo, int argno, bool *isnull)
{
	*isnull = PG_ARGISNULL(argno);
	return *isnull ? (Datum) 0 : PG_GETARG_DATUM(argno);
}

/*
 * The row type of the result.  It is asked for before the append, since the
 * extension may be dropped while that waits.
 */
static Oid
result_type(FunctionCallInfo fcinfo)
{
	Oid type;

	if (get_call_result_type(fcinfo, &type, NULL) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return type;
}

/* The descriptor of that type; the caller releases it. */
static TupleDesc
result_descriptor(Oid type)
{
	TupleDesc desc = lookup_rowtype_tupdesc_noerror(type, -1, true);

	/* the type may have been changed, or dropped, while we waited */
	(void) es_store();
	if (desc == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("extension event_store was dropped meanwhile")));
	return desc;
}

/* The append_result of an append to one aggregate. */
static Datum
append_result(Oid type, const AppendCall *append)
{
	const Aggregate *aggregate = &append->aggregates[0];
	const EventRow *first = &append->list.events[0].row;
	const EventRow *last = &append->list.events[append->list.count - 1].row;
	TupleDesc desc = result_descriptor(type);
	Datum result;
	bool durable = !last->nulls[EV_GLOBAL_POSITION];
	Datum values[6];
	bool nulls[6] = {false};

	values[0] = first->values[EV_SEQUENCE];
	values[1] = last->values[EV_SEQUENCE];
	values[2] = last->values[EV_GLOBAL_POSITION];
	nulls[2] = !durable;
	values[3] = BoolGetDatum(durable);
	values[4] = CStringGetTextDatum(es_outcome_names[aggregate->outcome]);
	nulls[5] = durable;
	values[5] = durable ? (Datum) 0 : Int64GetDatum(es_staging_epoch());
	result = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	ReleaseTupleDesc(desc);
	return result;
}

Datum
es_append_event(PG_FUNCTION_ARGS)
{
	NewEvent event;
	AppendCall append = {"append_event()"};
	Durability durability;
	Oid row_type;
	Datum result;

	es_begin_call(ES_CALL_APPEND_EVENT);
	row_type = result_type(fcinfo);
	memset(&event, 0, sizeof(event));
	memset(event.row.nulls, true, sizeof(event.row.nulls));
	event.row.values[EV_AGGREGATE_TYPE] =
		PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	event.row.nulls[EV_AGGREGATE_TYPE] = false;
	event.row.values[EV_AGGREGATE_ID] =
		PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	event.row.nulls[EV_AGGREGATE_ID] = false;
	for (int i = 0; i < EV_COLUMNS; i++)
	{
		int argument = es_event_columns[i].argument;

		if (argument != 0)
			event.row.values[i] =
				column_or_null(fcinfo, argument, &event.row.nulls[i]);
	}
	event.id_given = !PG_ARGISNULL(6);
	event.expected = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	event.expects = es_is_expected(!PG_ARGISNULL(2), event.expected);
	durability = es_durability_argument(fcinfo, 13);
	es_complete_event(&event, NULL);

	append.list.events = &event;
	append.list.count = 1;
	es_run_append(&append, durability, !PG_ARGISNULL(13), true);
	result = append_result(row_type, &append);
	es_end_call(ES_CALL_APPEND_EVENT, append.to_write);
	return result;
}

Datum
es_append_events(PG_FUNCTION_ARGS)
{
	text *type;
	text *id;
	AppendCall append = {"append_events()"};
	Durability durability;
	int64 expected;
	bool expects;
	Oid row_type;
	Datum result;

	es_begin_call(ES_CALL_APPEND_EVENTS);
	row_type = result_type(fcinfo);
	type = es_required_text(fcinfo, 0, "aggregate_type");
	id = es_required_text(fcinfo, 1, "aggregate_id");
	expected = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	expects = es_is_expected(!PG_ARGISNULL(2), expected);
	if (PG_ARGISNULL(3))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("events must not be null")));
	durability = es_durability_argument(fcinfo, 4);
	append.list = es_events_from_json(PG_GETARG_JSONB_P(3), type, id);
	if (append.list.count == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("events must not be empty")));
	append.list.events[0].expects = expects;
	append.list.events[0].expected = expected;
	es_run_append(&append, durability, !PG_ARGISNULL(4), true);
	result = append_result(row_type, &append);
	es_end_call(ES_CALL_APPEND_EVENTS, append.to_write);
	return result;
}

static OnConflict
conflict_argument(FunctionCallInfo fcinfo, int argno)
{
	char *word = PG_ARGISNULL(argno) ? "error"
									 : text_to_cstring(PG_GETARG_TEXT_PP(argno));

	if (strcmp(word, "report") == 0)
		return ES_CONFLICT_REPORT;
	if (strcmp(word, "report_all") == 0)
		return ES_CONFLICT_REPORT_ALL;
	if (strcmp(word, "error") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("on_conflict is not a known word: \"%s\"", word),
						errhint("Use 'error', 'report' or 'report_all'.")));
	return ES_CONFLICT_ERROR;
}

/* The result table of a batch, a row an event in the order of the call. */
static void
batch_result(FunctionCallInfo fcinfo, const AppendCall *append)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum names[OUTCOME_CONFLICT + 1] = {0};

	for (int i = 0; i < (int) lengthof(names); i++)
		names[i] = CStringGetTextDatum(es_outcome_names[i]);
	/* the function itself may have been dropped while the append waited */
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < append->list.count; i++)
	{
		const EventRow *row = &append->list.events[i].row;
		const Aggregate *aggregate =
			&append->aggregates[append->list.events[i].aggregate];
		bool conflict = aggregate->outcome == OUTCOME_CONFLICT;
		Datum values[5];
		bool nulls[5] = {false};

		values[0] = Int32GetDatum(i + 1);
		values[1] = row->values[EV_EVENT_ID];
		values[2] = conflict ? Int64GetDatum(aggregate->head.sequence)
							 : row->values[EV_SEQUENCE];
		values[3] = row->values[EV_GLOBAL_POSITION];
		nulls[3] = conflict || row->nulls[EV_GLOBAL_POSITION];
		values[4] = names[aggregate->outcome];
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

static Datum
run_batch(FunctionCallInfo fcinfo, NewEvents list, OnConflict on_conflict,
		  Durability durability, bool by_argument)
{
	AppendCall append = {"append_batch()"};

	append.list = list;
	append.on_conflict = on_conflict;
	if (list.count > 0)
		es_run_append(&append, durability, by_argument, false);
	else
		PreventCommandIfReadOnly(append.function);
	batch_result(fcinfo, &append);
	es_end_call(ES_CALL_APPEND_BATCH, append.to_write);
	return (Datum) 0;
}

Datum
es_append_batch(PG_FUNCTION_ARGS)
{
	OnConflict on_conflict;
	Durability durability;

	es_begin_call(ES_CALL_APPEND_BATCH);
	on_conflict = conflict_argument(fcinfo, 13);
	durability = es_durability_argument(fcinfo, 14);
	return run_batch(fcinfo, es_events_from_arrays(fcinfo), on_conflict,
					 durability, !PG_ARGISNULL(14));
}

Datum
es_append_batch_json(PG_FUNCTION_ARGS)
{
	OnConflict on_conflict;
	Durability durability;

	es_begin_call(ES_CALL_APPEND_BATCH);
	on_conflict = conflict_argument(fcinfo, 1);
	durability = es_durability_argument(fcinfo, 2);
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("events must not be null")));
	return run_batch(fcinfo,
					 es_events_from_json(PG_GETARG_JSONB_P(0), NULL, NULL),
					 on_conflict, durability, !PG_ARGISNULL(2));
}

Datum
es_lock_aggregate(PG_FUNCTION_ARGS)
{
	text *type;
	text *id;
	int64 sequence;

	es_begin_call(ES_CALL_LOCK_AGGREGATE);
	type = es_required_text(fcinfo, 0, "aggregate_type");
	id = es_required_text(fcinfo, 1, "aggregate_id");
	sequence = es_hold_aggregate("lock_aggregate()", PointerGetDatum(type),
								 PointerGetDatum(id), false, 0);
	es_end_call(ES_CALL_LOCK_AGGREGATE, 0);
	PG_RETURN_INT64(sequence);
}

/* An assertion of nothing is a slip of its caller, so NULL is none. */
Datum
es_assert_sequence(PG_FUNCTION_ARGS)
{
	text *type;
	text *id;
	bool expects;
	int64 sequence;

	es_begin_call(ES_CALL_ASSERT_SEQUENCE);
	type = es_required_text(fcinfo, 0, "aggregate_type");
	id = es_required_text(fcinfo, 1, "aggregate_id");
	if (PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("expected_sequence must not be null")));
	expects = es_is_expected(true, PG_GETARG_INT64(2));
	sequence =
		es_hold_aggregate("assert_sequence()", PointerGetDatum(type),
						  PointerGetDatum(id), expects, PG_GETARG_INT64(2));
	es_end_call(ES_CALL_ASSERT_SEQUENCE, 0);
	PG_RETURN_INT64(sequence);
}
