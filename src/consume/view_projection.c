/*
 * view_projection.c
 *		Projections that keep a view: made, and taking in a batch.
 *
 * The view has the name of its projection.  What it is made of is declared: the key says
 * which rows an event belongs to, the rules what it does there.  Both run in the
 * server, so such a projection has no code of a user's, but for reducers that are
 * functions.
 *
 * From the commit that makes the projection on nobody else writes the view.  Whoever makes it
 * closes the gate of view keys, so that each writer either has committed, and his row is
 * found, or comes later, and finds whose the view is.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "consume/consume.h"
#include "consume/partition.h"
#include "consume/projection.h"
#include "consume/subscription.h"
#include "consume/view_batch.h"
#include "consume/view_projection.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "read/feed.h"
#include "replay/reducer.h"
#include "replay/row_key.h"
#include "replay/rules.h"
#include "replay/view_fold.h"
#include "write/view_write.h"

#define MAX_BATCH_SIZE 10000

PG_FUNCTION_INFO_V1(es_create_view_projection);

static void
refuse(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s", message),
			 hint == NULL ? 0 : errhint("%s", hint)));
}

/* ---------- how a view is made ---------- */

static Jsonb *
json_or_null(Datum value)
{
	return value == (Datum) 0 ? NULL : DatumGetJsonbP(value);
}

/* Without rules the rows are the states that the reducer of a type makes. */
static void
use_reducer(Datum aggregate_type, ViewDefinition *definition)
{
	MemoryContext context = CurrentMemoryContext;
	OwnerScope scope;

	es_begin(&scope);
	definition->reducer =
		es_registered_reducer(DatumGetTextPP(aggregate_type), &scope, context);
	es_end(&scope);
}

void
es_define_view(const Projection *projection, const Datum *aggregate_types,
			   int type_count, ViewDefinition *definition)
{
	bool of_aggregate;

	memset(definition, 0, sizeof(*definition));
	definition->name = projection->name;
	definition->key = es_row_key_parse(json_or_null(projection->key));
	of_aggregate = es_row_key_is_aggregate(definition->key) && type_count == 1;
	definition->by_sequence = of_aggregate;
	if (projection->rules != (Datum) 0)
		definition->rules = es_rules_parse(DatumGetJsonbP(projection->rules),
										   definition->key->has_item);
	else if (of_aggregate)
		use_reducer(aggregate_types[0], definition);
	else
		refuse("rules must be given for a view with a key, or of several aggregate types",
			   "Without rules a row is an aggregate's state, as the reducer of its type makes it.");
}

void
es_apply_view(ProjectionBatch *batch)
{
	ViewBatch fold = {.events = batch->events, .count = batch->count};
	Subscription subscription;
	ViewDefinition definition;
	OwnerScope scope;
	MemoryContext context = CurrentMemoryContext;

	es_begin(&scope);
	MemoryContextSwitchTo(context);
	es_read_subscription(batch->projection->name, &subscription);
	es_end(&scope);
	es_define_view(batch->projection, subscription.aggregate_types,
				   subscription.aggregate_type_count, &definition);
	PG_TRY();
	{
		es_fold_into_view(&definition, &fold);
	}
	PG_FINALLY();
	{
		batch->done = fold.done;
		batch->exact = fold.exact;
	}
	PG_END_TRY();
}

/* ---------- making one ---------- */

static int
int_argument(FunctionCallInfo fcinfo, int argno, const char *name, int least,
			 int most)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	if (PG_GETARG_INT32(argno) < least || PG_GETARG_INT32(argno) > most)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be from %d to %d", name, least, most)));
	return PG_GETARG_INT32(argno);
}

static Datum
jsonb_argument(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? (Datum) 0
							   : PointerGetDatum(PG_GETARG_JSONB_P_COPY(argno));
}

int
es_view_types_argument(FunctionCallInfo fcinfo, Datum **types)
{
	int count = -1;

	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("aggregate_types must not be null")));
	es_array_argument(fcinfo, 1, "aggregate_types", false, &count, types, NULL);
	if (count == 0)
		refuse("aggregate_types must not be empty", NULL);
	return count;
}

static char *
mode_argument(FunctionCallInfo fcinfo)
{
	char *mode = text_to_cstring(es_required_text(fcinfo, 4, "mode"));

	if (strcmp(mode, "async") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid mode: \"%s\"", mode),
						errhint("Give 'async'.")));
	return mode;
}

const char *
es_view_partitioning(const ViewDefinition *definition)
{
	return es_row_key_divides(definition->key) && !definition->by_sequence
			   ? ES_PARTITION_BY_ROW
			   : "aggregate";
}

void
es_check_view_members(int members, const ViewDefinition *definition)
{
	if (members > 1 && !es_row_key_divides(definition->key))
		refuse("members must be 1 for this key",
			   "Members divide the rows among themselves, by a key that the event itself gives, one a time.");
}

static Source
source_arguments(FunctionCallInfo fcinfo, const ViewDefinition *definition)
{
	Source source =
		{.aggregate_types = PG_GETARG_DATUM(1),
		 .from_now = PG_ARGISNULL(5),
		 .start_after = PG_ARGISNULL(5) ? 0 : PG_GETARG_INT64(5),
		 .members = int_argument(fcinfo, 7, "members", 1, ES_MAX_MEMBERS),
		 .on_failure = PointerGetDatum(es_required_text(fcinfo, 8, "on_failure")),
		 .max_attempts = int_argument(fcinfo, 9, "max_attempts", 0, PG_INT32_MAX)};

	es_check_view_members(source.members, definition);
	source.partition_by = CStringGetTextDatum(es_view_partitioning(definition));
	return source;
}

static void
check_no_rows(Datum view_name)
{
	static KeptPlan plan = {"SELECT FROM event_store.domain_views v"
							" WHERE v.view_name OPERATOR(pg_catalog.=) $1 LIMIT 1",
							1,
							{TEXTOID}};
	OwnerScope scope;

	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	if (es_execute(&plan, &view_name, NULL, true, SPI_OK_SELECT) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view \"%s\" has rows already",
						TextDatumGetCString(view_name)),
				 errhint("Remove them with clear_view(), or take another name.")));
	PopActiveSnapshot();
	es_end(&scope);
}

/* The view is the projection's from now on. */
static void
take_view(Datum view_name)
{
	OwnerScope scope;

	es_settle_view(view_name);
	LockRelationOid(es_store()->view_key_gate, ShareRowExclusiveLock);
	es_settle_view(view_name);
	check_no_rows(view_name);
	/* steps of rebuild_view() may have left something */
	es_begin(&scope);
	es_forget_built(view_name);
	es_end(&scope);
}

Datum
es_create_view_projection(PG_FUNCTION_ARGS)
{
	Projection projection = {.kind = "view"};
	ViewDefinition definition;
	Source source;
	Datum *types;
	int type_count;
	bool made;

	projection.name = PointerGetDatum(es_required_text(fcinfo, 0, "view_name"));
	es_begin_consuming("create_view_projection()");
	(void) es_feed_database();
	type_count = es_view_types_argument(fcinfo, &types);
	projection.key = jsonb_argument(fcinfo, 2);
	projection.rules = jsonb_argument(fcinfo, 3);
	projection.mode = mode_argument(fcinfo);
	es_define_view(&projection, types, type_count, &definition);
	source = source_arguments(fcinfo, &definition);
	projection.batch_size =
		int_argument(fcinfo, 6, "batch_size", 1, MAX_BATCH_SIZE);
	made = es_make_projection(&projection, &source);
	if (made)
		take_view(projection.name);
	PG_RETURN_BOOL(made);
}
