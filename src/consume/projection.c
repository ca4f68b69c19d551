/*
 * projection.c
 *		What a projection is: a row beside that of a subscription.
 *
 * A projection is a subscription whose consumer is the server: its events, members,
 * positions and failures are those of the subscription of its name, and all that
 * is known of subscriptions holds for it.  What is added is how the events are
 * taken in.  Rows are read by every batch, as they are then.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/member.h"
#include "consume/pace.h"
#include "consume/projection.h"
#include "consume/subscription.h"
#include "consume/subscription_admin.h"
#include "ground/catalog.h"
#include "ground/pair_table.h"
#include "ground/projector_slot.h"
#include "log/view_owner.h"
#include "replay/sticky.h"

/* The columns that are read and stored, in this order. */
enum
{
	PR_NAME,
	PR_KIND,
	PR_MODE,
	PR_BATCH_SIZE,
	PR_START,
	PR_HANDLER,
	PR_RESET,
	PR_HANDLER_OWNER,
	PR_TIMEOUT,
	PR_KEY,
	PR_RULES,
	PR_COLUMNS
};

/* ---------- reading ---------- */

static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
						 number + 1, isnull);
}

/* A varlena, copied; (Datum) 0 for NULL. */
static Datum
copied(int number)
{
	bool isnull;
	Datum value = column(number, &isnull);

	return isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

/* Takes the row that was found apart. */
static void
take_columns(Datum name, Projection *projection)
{
	bool isnull;

	memset(projection, 0, sizeof(*projection));
	projection->name = copied(PR_NAME);
	projection->hash = es_subscription_hash(name);
	projection->kind = TextDatumGetCString(column(PR_KIND, &isnull));
	projection->mode = TextDatumGetCString(column(PR_MODE, &isnull));
	projection->batch_size = DatumGetInt32(column(PR_BATCH_SIZE, &isnull));
	projection->start = DatumGetInt64(column(PR_START, &isnull));
	projection->handler = copied(PR_HANDLER);
	projection->reset = copied(PR_RESET);
	projection->handler_owner = copied(PR_HANDLER_OWNER);
	projection->timeout = DatumGetInt64(column(PR_TIMEOUT, &isnull));
	projection->key = copied(PR_KEY);
	projection->rules = copied(PR_RULES);
}

bool
es_find_projection(Datum name, Projection *projection)
{
	static KeptPlan plan =
		{"SELECT p.projection_name, p.kind, p.mode, p.batch_size, p.start_position,"
		 " p.handler, p.reset, p.handler_owner,"
		 " (EXTRACT(epoch FROM p.timeout) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8,"
		 " p.key, p.rules FROM event_store.projections p"
		 " WHERE p.projection_name OPERATOR(pg_catalog.=) $1",
		 1,
		 {TEXTOID}};
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	bool found;

	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, &name, NULL, true, SPI_OK_SELECT) > 0;
	PopActiveSnapshot();
	if (found)
	{
		MemoryContextSwitchTo(caller);
		take_columns(name, projection);
	}
	es_end(&scope);
	return found;
}

void
es_read_projection(Datum name, Projection *projection)
{
	if (!es_find_projection(name, projection))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist",
						TextDatumGetCString(name)),
				 errhint("Make it with create_projection() or create_view_projection().")));
}

static bool
same_value(Datum a, Datum b)
{
	return (a == (Datum) 0) == (b == (Datum) 0) &&
		   (a == (Datum) 0 || es_same_text(a, b));
}

bool
es_same_projection(const Projection *a, const Projection *b)
{
	return strcmp(a->kind, b->kind) == 0 &&
		   (strcmp(a->mode, "async") == 0) == (strcmp(b->mode, "async") == 0) &&
		   a->batch_size == b->batch_size && a->timeout == b->timeout &&
		   same_value(a->handler, b->handler) && same_value(a->reset, b->reset) &&
		   same_value(a->handler_owner, b->handler_owner) &&
		   same_value(a->key, b->key) && same_value(a->rules, b->rules);
}

/* ---------- making and dropping ---------- */

void
es_store_projection(const Projection *projection)
{
	static KeptPlan row =
		{"INSERT INTO event_store.projections (projection_name, kind, mode, batch_size,"
		 " start_position, handler, reset, handler_owner, timeout, key, rules)"
		 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8,"
		 " $9 OPERATOR(pg_catalog.*) '1 ms'::pg_catalog.interval, $10, $11)",
		 PR_COLUMNS,
		 {TEXTOID, TEXTOID, TEXTOID, INT4OID, INT8OID, TEXTOID, TEXTOID,
		  TEXTOID, FLOAT8OID, JSONBOID, JSONBOID}};
	static KeptPlan mark = {"UPDATE event_store.subscriptions SET projection = true"
							" WHERE subscription_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};
	Datum values[PR_COLUMNS] = {projection->name,
								CStringGetTextDatum(projection->kind),
								CStringGetTextDatum(projection->mode),
								Int32GetDatum(projection->batch_size),
								Int64GetDatum(projection->start),
								projection->handler,
								projection->reset,
								projection->handler_owner,
								Float8GetDatum((double) projection->timeout),
								projection->key,
								projection->rules};
	char nulls[PR_COLUMNS];

	for (int i = 0; i < PR_COLUMNS; i++)
		nulls[i] = i > PR_START && values[i] == (Datum) 0 ? 'n' : ' ';
	nulls[PR_TIMEOUT] = projection->timeout == 0 ? 'n' : ' ';
	es_execute_latest(&row, values, nulls);
	es_execute_latest(&mark, values, NULL);
}

bool
es_remove_projection(Datum name)
{
	static KeptPlan row = {"DELETE FROM event_store.projections"
						   " WHERE projection_name OPERATOR(pg_catalog.=) $1",
						   1,
						   {TEXTOID}};
	static KeptPlan mark = {"UPDATE event_store.subscriptions SET projection = false"
							" WHERE subscription_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};

	if (es_execute_latest(&row, &name, NULL) == 0)
		return false;
	es_execute_latest(&mark, &name, NULL);
	es_forget_stickies(name, false);
	es_note_kept_views();
	return true;
}

/* The subscription of a projection: whether it is one that was made now. */
static bool
make_subscription(Datum name, const Source *source)
{
	LOCAL_FCINFO(call, 8);

	InitFunctionCallInfoData(*call, NULL, 8, InvalidOid, NULL, NULL);
	memset(call->args, 0, 8 * sizeof(NullableDatum));
	call->args[0].value = name;
	call->args[1].value = source->aggregate_types;
	call->args[1].isnull = source->aggregate_types == (Datum) 0;
	call->args[2].value = source->event_types;
	call->args[2].isnull = source->event_types == (Datum) 0;
	call->args[3].value = Int32GetDatum(source->members);
	call->args[4].value = Int64GetDatum(source->start_after);
	call->args[4].isnull = source->from_now;
	call->args[5].value = source->on_failure;
	call->args[6].value = Int32GetDatum(source->max_attempts);
	call->args[7].value = source->partition_by;
	return DatumGetBool(es_create_subscription(call));
}

bool
es_make_projection(Projection *projection, const Source *source)
{
	bool made = make_subscription(projection->name, source);
	Projection other;
	OwnerScope scope;

	projection->hash = es_subscription_hash(projection->name);
	es_begin(&scope);
	if (made)
	{
		projection->start = es_newest_member(projection->name, 0).position;
		es_store_projection(projection);
		es_forget_pace(projection->hash);
		es_note_projectors_wanted();
		if (strcmp(projection->kind, "view") == 0)
			es_note_kept_views();
	}
	else if (!es_find_projection(projection->name, &other) ||
			 !es_same_projection(projection, &other))
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("another projection or subscription \"%s\" exists",
							   TextDatumGetCString(projection->name)),
						errhint("Drop it first, or take another name.")));
	es_end(&scope);
	return made;
}
