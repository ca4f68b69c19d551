/*
 * view_rebuild.c
 *		Projected views made anew beside the live ones, or of another definition, and
 *		put in their place.
 *
 * A rebuild folds the log from where the projection began into rows that nobody reads
 * (view_rebuild_rows, and sticky_keys below 0), as the projection folds it into the view, which goes on
 * meanwhile.  How far it has come stands in table projections, as does the definition that
 * it is of, if that is another one: so it can be done in steps, each in a transaction of its own, and
 * goes on after a crash from the last that has committed.
 *
 * The last step holds the projection: nobody takes in events.  It folds what has come since,
 * writes the rows that differ, and lets the members go on behind the last event folded.  All
 * that is one transaction, so a reader sees the old view or the new one, and a batch before or
 * behind it.  What was set aside is folded with all else, and no longer set aside.
 *
 * An event that fails ends the rebuild, unless the projection skips what fails.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/inline_switch.h"
#include "consume/member.h"
#include "consume/pace.h"
#include "consume/parked.h"
#include "consume/project.h"
#include "consume/projection.h"
#include "consume/subscription.h"
#include "consume/subscription_admin.h"
#include "consume/view_projection.h"
#include "consume/view_rebuild.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/log_plan.h"
#include "ground/pair_table.h"
#include "ground/position.h"
#include "ground/transaction.h"
#include "read/feed.h"
#include "replay/sticky.h"
#include "replay/upcast.h"
#include "replay/upcast_failure.h"
#include "replay/upcaster.h"
#include "replay/view_batch.h"
#include "replay/view_definition.h"
#include "replay/view_fold.h"

/* So many events are folded at a time. */
#define BATCH_EVENTS 1000

PG_FUNCTION_INFO_V1(es_replace_projection);
PG_FUNCTION_INFO_V1(es_rebuild_projection_step);

/* A rebuild at work. */
typedef struct ViewRebuild
{
	Projection projection; /* with the key and rules of the view to be */
	bool replaces;		   /* it is of another definition than the live one */
	Datum types;		   /* text[] */
	Subscription subscription;
	ViewDefinition definition;
	int64 position; /* events up to here are folded */
	int64 total;	/* positions to be folded, as it was known last */
	int64 folded;	/* events, by this call */
	MemoryContext context;
} ViewRebuild;

void
es_lock_rebuild(Datum name)
{
	/* what it makes is of the upcasters that there are to its end */
	es_hold_upcasters();
	es_lock_hash(ES_LOCK_SUBSCRIPTION,
				 es_pair_hash(name, CStringGetTextDatum("rebuild")),
				 ExclusiveLock);
}

/* ---------- what is kept between steps ---------- */

static Datum
copied_column(int number, bool *isnull)
{
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								number, isnull);

	return *isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

/*
 * Reads the definition that is to be, and how far its rebuild has come; false where
 * none was begun.  In an owner's scope.
 */
static bool
read_progress(ViewRebuild *rebuild)
{
	static KeptPlan plan =
		{"SELECT p.rebuild_done, p.next_definition IS NOT NULL,"
		 " CASE WHEN p.next_definition IS NULL THEN s.aggregate_types ELSE"
		 " ARRAY(SELECT t FROM pg_catalog.jsonb_array_elements_text("
		 "p.next_definition OPERATOR(pg_catalog.->) 'aggregate_types') t) END,"
		 " CASE WHEN p.next_definition IS NULL THEN p.key"
		 " WHEN (p.next_definition OPERATOR(pg_catalog.->) 'key') OPERATOR(pg_catalog.<>) 'null'"
		 " THEN p.next_definition OPERATOR(pg_catalog.->) 'key' END,"
		 " CASE WHEN p.next_definition IS NULL THEN p.rules"
		 " WHEN (p.next_definition OPERATOR(pg_catalog.->) 'rules') OPERATOR(pg_catalog.<>) 'null'"
		 " THEN p.next_definition OPERATOR(pg_catalog.->) 'rules' END"
		 " FROM event_store.projections p JOIN event_store.subscriptions s"
		 " ON s.subscription_name OPERATOR(pg_catalog.=) p.projection_name"
		 " WHERE p.projection_name OPERATOR(pg_catalog.=) $1",
		 1,
		 {TEXTOID}};
	bool begun;
	bool isnull;
	Datum done;

	if (es_execute(&plan, &rebuild->projection.name, NULL, false,
				   SPI_OK_SELECT) == 0)
		elog(ERROR, "a projection that is locked has gone");
	MemoryContextSwitchTo(rebuild->context);
	done =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	begun = !isnull;
	rebuild->position =
		rebuild->projection.start + (begun ? DatumGetInt64(done) : 0);
	rebuild->replaces =
		DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								   2, &isnull));
	rebuild->types = copied_column(3, &isnull);
	rebuild->projection.key = copied_column(4, &isnull);
	rebuild->projection.rules = copied_column(5, &isnull);
	return begun;
}

static void
store_progress(const ViewRebuild *rebuild)
{
	static KeptPlan plan = {"UPDATE event_store.projections SET rebuild_done = $2, rebuild_total = $3"
							" WHERE projection_name OPERATOR(pg_catalog.=) $1",
							3,
							{TEXTOID, INT8OID, INT8OID}};
	Datum values[3] = {rebuild->projection.name,
					   Int64GetDatum(rebuild->position - rebuild->projection.start),
					   Int64GetDatum(rebuild->total)};
	OwnerScope scope;

	es_begin(&scope);
	es_execute(&plan, values, NULL, false, SPI_OK_UPDATE);
	es_end(&scope);
}

/* Stores another definition, of which nothing is built; NULL = the live one. */
static void
store_definition(Datum name, Datum types, Datum key, Datum rules)
{
	static KeptPlan plan =
		{"UPDATE event_store.projections SET next_definition ="
		 " CASE WHEN $2 IS NOT NULL THEN pg_catalog.jsonb_build_object("
		 "'aggregate_types', pg_catalog.to_jsonb($2), 'key', $3, 'rules', $4) END,"
		 " rebuild_done = CASE WHEN $2 IS NOT NULL THEN 0 END, rebuild_total = NULL"
		 " WHERE projection_name OPERATOR(pg_catalog.=) $1",
		 4,
		 {TEXTOID, TEXTARRAYOID, JSONBOID, JSONBOID}};
	Datum values[4] = {name, types, key, rules};
	char nulls[4] = {' ', types == (Datum) 0 ? 'n' : ' ',
					 key == (Datum) 0 ? 'n' : ' ',
					 rules == (Datum) 0 ? 'n' : ' '};
	OwnerScope scope;

	es_begin(&scope);
	es_forget_built(name);
	es_execute(&plan, values, nulls, false, SPI_OK_UPDATE);
	es_end(&scope);
}

/* ---------- folding ---------- */

/* The next events that are for it, in the current memory context. */
static EventRow *
read_events(const ViewRebuild *rebuild, int64 up_to, int64 max_count, int *count)
{
	static KeptPlan plan =
		{.sql = "SELECT {event e} FROM event_store.domain_events e"
				" WHERE e.global_position OPERATOR(pg_catalog.>) $1"
				" AND e.global_position OPERATOR(pg_catalog.<=) $2"
				" AND e.aggregate_type OPERATOR(pg_catalog.=) ANY ($3)"
				" ORDER BY e.global_position LIMIT $4",
		 .nargs = 4,
		 .argtypes = {INT8OID, INT8OID, TEXTARRAYOID, INT8OID}};
	Datum values[4] = {Int64GetDatum(rebuild->position), Int64GetDatum(up_to),
					   rebuild->types,
					   Int64GetDatum(Min(max_count, BATCH_EVENTS))};
	MemoryContext caller = CurrentMemoryContext;
	EventRow *events;
	OwnerScope scope;

	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	*count = (int) es_execute(es_log_plan_after(&plan, rebuild->position),
							  values, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	MemoryContextSwitchTo(caller);
	events = palloc(Max(*count, 1) * sizeof(EventRow));
	for (int i = 0; i < *count; i++)
		heap_deform_tuple(heap_copytuple(SPI_tuptable->vals[i]),
						  SPI_tuptable->tupdesc, events[i].values,
						  events[i].nulls);
	es_end(&scope);
	return events;
}

/* Folds events in a subtransaction; NULL, or what was raised when all is undone. */
static ErrorData *
try_fold(const ViewRebuild *rebuild, ViewBatch *batch)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		es_fold_into_view(&rebuild->definition, batch);
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
	return error;
}

typedef struct Events
{
	EventRow *rows;
	int count;
} Events;

/* Those that are done when one raises stay so; that one is as it was. */
static bool
upcast_all(void *arg)
{
	const Events *events = arg;

	for (int i = 0; i < events->count; i++)
	{
		EventRow last = events->rows[i];

		if (es_upcast(last.values, last.nulls))
			events->rows[i] = last;
	}
	return true;
}

/*
 * Brings events to their last version, but for those that fail where the projection
 * skips these; returns how many are left.  All together, and only if that fails one by one.
 */
static int
upcast_events(const ViewRebuild *rebuild, EventRow *events, int count)
{
	Events all = {events, count};
	ErrorData *failed;
	int left = 0;

	if (!es_upcasts())
		return count;
	failed = es_in_subtransaction(upcast_all, &all);
	if (failed == NULL)
		return count;
	if (!es_is_upcast_failure(failed->sqlerrcode))
		ReThrowError(failed);
	for (int i = 0; i < count; i++)
	{
		ErrorData *error = NULL;

		if (es_is_old_version(events[i].values))
			error = es_try_upcast(events[i].values, events[i].nulls, false);
		if (error == NULL)
			events[left++] = events[i];
		else if (rebuild->subscription.on_failure != ES_FAIL_SKIP)
			ReThrowError(error);
	}
	return left;
}

/* Folds a batch, but for events that fail where the projection skips these. */
static void
fold_batch(ViewRebuild *rebuild, EventRow *events, int count)
{
	int done = 0;
	int size = count;

	while (done < count)
	{
		ViewBatch batch = {.events = events + done,
						   .count = Min(size, count - done),
						   .building = true};
		ErrorData *error = try_fold(rebuild, &batch);

		if (error == NULL)
		{
			done += batch.count;
			size = count;
			continue;
		}
		if (!batch.exact || !es_is_failure(error->sqlerrcode) ||
			rebuild->subscription.on_failure != ES_FAIL_SKIP)
			ReThrowError(error);
		if (batch.done > 0)
			size = batch.done;
		else
			done++;
	}
}

/* Folds events up to a position, so many at most; true when there are no more. */
static bool
fold_up_to(ViewRebuild *rebuild, int64 up_to, int64 max_count)
{
	MemoryContext per_batch =
		AllocSetContextCreate(rebuild->context, "event_store rebuilt batch",
							  ALLOCSET_DEFAULT_SIZES);
	int64 left = max_count;
	int count;

	do
	{
		MemoryContext caller = MemoryContextSwitchTo(per_batch);
		int wanted = (int) Min(left, BATCH_EVENTS);
		EventRow *events = read_events(rebuild, up_to, wanted, &count);

		CHECK_FOR_INTERRUPTS();
		rebuild->position =
			count < wanted
				? Max(rebuild->position, up_to)
				: DatumGetInt64(events[count - 1].values[EV_GLOBAL_POSITION]);
		fold_batch(rebuild, events, upcast_events(rebuild, events, count));
		left -= count;
		rebuild->folded += count;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(per_batch);
	} while (left > 0 && rebuild->position < up_to);
	MemoryContextDelete(per_batch);
	return rebuild->position >= up_to;
}

/* ---------- the exchange ---------- */

/* Puts the rows that were built in the place of the view's; returns how many differ. */
static int64
exchange_rows(Datum name)
{
	static KeptPlan removed =
		{.sql = "DELETE FROM event_store.domain_views v"
				" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
				" AND NOT EXISTS (SELECT FROM event_store.view_rebuild_rows r"
				" WHERE r.view_name OPERATOR(pg_catalog.=) $1"
				" AND r.view_key OPERATOR(pg_catalog.=) v.view_key"
				" AND r.state IS NOT NULL)",
		 .nargs = 1,
		 .argtypes = {TEXTOID},
		 .kind = ES_PLAN_FOR_VALUES};
	static KeptPlan put =
		{.sql = "INSERT INTO event_store.domain_views AS v"
				" (view_name, view_key, view_data, version, created_at, updated_at)"
				" SELECT r.view_name, r.view_key, r.state, r.sequence, $2, $2"
				" FROM event_store.view_rebuild_rows r"
				" LEFT JOIN event_store.domain_views o"
				" ON o.view_name OPERATOR(pg_catalog.=) $1"
				" AND o.view_key OPERATOR(pg_catalog.=) r.view_key"
				" WHERE r.view_name OPERATOR(pg_catalog.=) $1"
				" AND r.state IS NOT NULL AND (o.view_key IS NULL"
				" OR o.version IS DISTINCT FROM r.sequence"
				" OR o.view_data::pg_catalog.text OPERATOR(pg_catalog.<>)"
				" r.state::pg_catalog.text)"
				" ORDER BY r.view_key"
				" ON CONFLICT (view_name, view_key) DO UPDATE"
				" SET view_data = excluded.view_data, version = excluded.version,"
				" updated_at = excluded.updated_at",
		 .nargs = 2,
		 .argtypes = {TEXTOID, TIMESTAMPTZOID},
		 .kind = ES_PLAN_FOR_VALUES};
	Datum values[2] = {name, TimestampTzGetDatum(GetCurrentTimestamp())};
	OwnerScope scope;
	int64 changed;

	es_begin_write(&scope);
	changed = es_execute(&removed, values, NULL, false, SPI_OK_DELETE);
	changed += es_execute(&put, values, NULL, false, SPI_OK_INSERT);
	es_end(&scope);
	return changed;
}

/* The definition is the projection's from now on. */
static void
take_definition(const ViewRebuild *rebuild)
{
	static KeptPlan projection =
		{"UPDATE event_store.projections SET key = $2, rules = $3,"
		 " next_definition = NULL, rebuild_done = NULL, rebuild_total = NULL,"
		 " stale = false"
		 " WHERE projection_name OPERATOR(pg_catalog.=) $1",
		 3,
		 {TEXTOID, JSONBOID, JSONBOID}};
	static KeptPlan subscription =
		{"UPDATE event_store.subscriptions SET partition_by = $3, aggregate_types ="
		 " (SELECT pg_catalog.array_agg(DISTINCT t.t ORDER BY t.t) FROM"
		 " (SELECT u COLLATE pg_catalog.\"C\" FROM pg_catalog.unnest($2) u) t (t))"
		 " WHERE subscription_name OPERATOR(pg_catalog.=) $1",
		 3,
		 {TEXTOID, TEXTARRAYOID, TEXTOID}};
	const Projection *p = &rebuild->projection;
	Datum values[3] = {p->name, p->key, p->rules};
	char nulls[3] = {' ', p->key == (Datum) 0 ? 'n' : ' ',
					 p->rules == (Datum) 0 ? 'n' : ' '};

	es_execute(&projection, values, nulls, false, SPI_OK_UPDATE);
	values[1] = rebuild->types;
	values[2] = CStringGetTextDatum(es_view_partitioning(&rebuild->definition));
	es_execute(&subscription, values, NULL, false, SPI_OK_UPDATE);
}

/* The members go on behind what was folded, whatever was the matter with them. */
static void
go_on_behind(ViewRebuild *rebuild)
{
	Datum name = rebuild->projection.name;

	es_move_members(&rebuild->subscription, rebuild->position);
	es_drop_parked(name);
	for (int m = 0; m < rebuild->subscription.members; m++)
	{
		MemberState state = es_newest_member(name, m);
		MemberState fresh = {.number = state.number,
							 .position = rebuild->position};

		es_store_member(name, m, &fresh);
	}
	es_forget_pace(rebuild->projection.hash);
}

/*
 * Nobody takes in events from now on, nor makes other members; since it was last looked at
 * somebody may have.
 */
static void
hold_projection(ViewRebuild *rebuild)
{
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;

	es_lock_hash(ES_LOCK_SUBSCRIPTION, rebuild->projection.hash, ExclusiveLock);
	es_begin(&scope);
	MemoryContextSwitchTo(rebuild->context);
	es_read_subscription(rebuild->projection.name, &rebuild->subscription);
	MemoryContextSwitchTo(caller);
	es_end(&scope);
	es_check_view_members(rebuild->subscription.members, &rebuild->definition);
}

/* All that there are have been folded, and the rows that were built are the view's. */
static int64
swap(ViewRebuild *rebuild)
{
	Datum name = rebuild->projection.name;
	OwnerScope scope;
	int64 changed;
	bool inlined;
	int64 up_to;

	hold_projection(rebuild);
	inlined = es_hold_inline(name);
	/* members may be ahead of what was safe to read a moment ago, but not of this */
	up_to = inlined ? es_last_given_position(es_feed_database())
					: es_feed_position();
	(void) fold_up_to(rebuild, Max(up_to, rebuild->position), PG_INT64_MAX);
	changed = exchange_rows(name);
	es_begin(&scope);
	es_exchange_stickies(name);
	es_forget_built(name);
	take_definition(rebuild);
	go_on_behind(rebuild);
	es_end(&scope);
	if (inlined)
		es_begin_inline(name);
	return changed;
}

/* ---------- a rebuild, whole or in steps ---------- */

/* What there is to be known of it before it goes on; true if it was begun before. */
static bool
enter(ViewRebuild *rebuild, const Projection *projection)
{
	Datum *types;
	int count;
	OwnerScope scope;
	bool begun;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
						errmsg("a view is rebuilt at READ COMMITTED only")));
	rebuild->context = CurrentMemoryContext;
	rebuild->projection = *projection;
	es_begin(&scope);
	begun = read_progress(rebuild);
	es_read_subscription(projection->name, &rebuild->subscription);
	es_end(&scope);
	es_stored_view_types(rebuild->types, &types, &count);
	es_define_view(projection->name, rebuild->projection.key,
				   rebuild->projection.rules, types, count, &rebuild->definition);
	return begun;
}

/* Folds so many events at most; true when all are folded and the view is the new one. */
static bool
go_on(ViewRebuild *rebuild, int64 max_count, int64 *changed)
{
	int64 up_to = es_feed_position();

	rebuild->total = up_to - rebuild->projection.start;
	if (!fold_up_to(rebuild, up_to, max_count))
	{
		store_progress(rebuild);
		return false;
	}
	*changed = swap(rebuild);
	return true;
}

int64
es_rebuild_kept_view(const Projection *projection)
{
	ViewRebuild rebuild = {0};
	int64 changed = 0;

	store_definition(projection->name, (Datum) 0, (Datum) 0, (Datum) 0);
	(void) enter(&rebuild, projection);
	(void) go_on(&rebuild, PG_INT64_MAX, &changed);
	return changed;
}

/* ---------- SQL ---------- */

/* A projection that keeps a view, locked against other rebuilds. */
static void
view_argument(FunctionCallInfo fcinfo, const char *function, const char *name,
			  Projection *projection)
{
	Datum view = PointerGetDatum(es_required_text(fcinfo, 0, name));

	es_begin_consuming(function);
	(void) es_feed_database();
	es_consume_durably();
	es_lock_rebuild(view);
	es_read_projection(view, projection);
	if (strcmp(projection->kind, "view") != 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("projection \"%s\" keeps no view",
							   TextDatumGetCString(view))));
}

Datum
es_replace_projection(PG_FUNCTION_ARGS)
{
	Projection projection;
	Projection wanted;
	ViewRebuild rebuild = {0};
	ViewDefinition definition;
	Datum *types;
	int count = es_view_types_argument(fcinfo, &types);
	int64 changed = 0;

	view_argument(fcinfo, "replace_projection()", "view_name", &projection);
	wanted = projection;
	wanted.key = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	wanted.rules = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	es_define_view(projection.name, wanted.key, wanted.rules, types, count,
				   &definition);
	store_definition(projection.name, PG_GETARG_DATUM(1), wanted.key,
					 wanted.rules);
	(void) enter(&rebuild, &projection);
	es_check_view_members(rebuild.subscription.members, &rebuild.definition);
	if (PG_ARGISNULL(4) || !PG_GETARG_BOOL(4))
		(void) go_on(&rebuild, PG_INT64_MAX, &changed);
	PG_RETURN_INT64(changed);
}

Datum
es_rebuild_projection_step(PG_FUNCTION_ARGS)
{
	Projection projection;
	ViewRebuild rebuild = {0};
	int64 changed;

	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("max_events must not be null")));
	if (PG_GETARG_INT32(1) < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_events must be positive")));
	view_argument(fcinfo, "rebuild_projection_step()", "projection_name",
				  &projection);
	(void) enter(&rebuild, &projection);
	PG_RETURN_BOOL(go_on(&rebuild, PG_GETARG_INT32(1), &changed));
}
