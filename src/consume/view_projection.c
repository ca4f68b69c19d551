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
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "consume/consume.h"
#include "consume/inline_switch.h"
#include "consume/partition.h"
#include "consume/projection.h"
#include "consume/subscription.h"
#include "consume/view_projection.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "read/feed.h"
#include "replay/row_key.h"
#include "replay/view_batch.h"
#include "replay/view_definition.h"
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
	es_define_view(batch->projection->name, batch->projection->key,
				   batch->projection->rules, subscription.aggregate_types,
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
	for (int i = 0; i < count; i++)
		es_check_name((*types)[i], false,
					  psprintf("aggregate_types[%d]", i + 1), NULL, true);
	return count;
}

/* What it is at first: an inline view has nothing to catch up with, or has. */
static char *
mode_argument(FunctionCallInfo fcinfo)
{
	char *mode = text_to_cstring(es_required_text(fcinfo, 4, "mode"));

	if (strcmp(mode, ES_MODE_ASYNC) == 0)
		return mode;
	if (strcmp(mode, ES_MODE_INLINE) != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid mode: \"%s\"", mode),
						errhint("Give 'async' or 'inline'.")));
	if (PG_ARGISNULL(5) || PG_GETARG_INT64(5) > 0)
		refuse("start_after must be 0 for an inline view",
			   "An inline view is the fold of the whole log.");
	if (PG_ARGISNULL(7) || PG_GETARG_INT32(7) > 1)
		refuse("members must be 1 for an inline view",
			   "Appends fold it, each the rows that it touches.");
	return ES_MODE_CATCHING_UP;
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
	es_close_gate(ES_LOCK_VIEW_KEY);
	es_settle_view(view_name);
	check_no_rows(view_name);
	/* steps of rebuild_view() may have left something */
	es_begin(&scope);
	es_forget_built(view_name);
	es_end(&scope);
}

/*
 * Where there is nothing to catch up with the view is inline at once.  The gates are
 * closed in the order in which appends pass them.
 */
static void
take_inline_view(Datum view_name, Datum types)
{
	bool empty = !es_has_events(types);

	if (empty)
		es_hold_appends();
	take_view(view_name);
	if (empty && !es_has_events(types))
		es_begin_inline(view_name);
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
	es_define_view(projection.name, projection.key, projection.rules, types,
				   type_count, &definition);
	source = source_arguments(fcinfo, &definition);
	projection.batch_size =
		int_argument(fcinfo, 6, "batch_size", 1, MAX_BATCH_SIZE);
	made = es_make_projection(&projection, &source);
	if (made && strcmp(projection.mode, ES_MODE_ASYNC) == 0)
		take_view(projection.name);
	else if (made)
		take_inline_view(projection.name, source.aggregate_types);
	PG_RETURN_BOOL(made);
}
