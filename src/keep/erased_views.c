/*
 * erased_views.c
 *		Views that know of events that are erased.
 *
 * A row that a projection keeps for one aggregate is folded anew from the events as
 * they are now, up to where it stood: the view goes on as if it had never known more.
 * Of a row that an application or rebuild_view() has put under an aggregate's id nobody
 * knows here how it was made, so it goes.  Views whose rows are of several aggregates
 * cannot be mended row by row: they are stale, and named, and their owner has them made
 * anew.  What rebuilds have folded so far is forgotten.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/pair_table.h"
#include "keep/erased_events.h"
#include "keep/erased_views.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"
#include "replay/view_batch.h"
#include "replay/view_definition.h"
#include "replay/view_fold.h"
#include "staging/flush.h"
#include "staging/staged_scan.h"

/* A projection that keeps a view of events of the aggregates. */
typedef struct KeptView
{
	Datum name;
	int64 start; /* events up to this position are not in it */
	Datum *types;
	int type_count;
	ViewDefinition definition;
	bool by_aggregate; /* a row is that of one aggregate, and its version a sequence */
} KeptView;

/* ---------- which views ---------- */

static Datum
copied(HeapTuple row, TupleDesc desc, int column, bool byval)
{
	bool isnull;
	Datum value = SPI_getbinval(row, desc, column, &isnull);

	if (isnull)
		return (Datum) 0;
	return byval ? value : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

/* A row of the query below; "key" and "rules" are read outside of the owner's scope. */
typedef struct KeptRow
{
	KeptView view;
	Datum key;
	Datum rules;
} KeptRow;

/* The views that projections keep of events of the aggregates, in the current context. */
static KeptRow *
read_kept_views(const ErasedEvents *events, int *count)
{
	static KeptPlan plan =
		{"SELECT p.projection_name, p.start_position, s.aggregate_types, p.key, p.rules"
		 " FROM event_store.projections p JOIN event_store.subscriptions s"
		 " ON s.subscription_name OPERATOR(pg_catalog.=) p.projection_name"
		 " WHERE p.kind OPERATOR(pg_catalog.=) 'view'"
		 " AND s.aggregate_types OPERATOR(pg_catalog.&&) $1"
		 " ORDER BY p.projection_name",
		 1,
		 {TEXTARRAYOID}};
	Datum types = es_erased_types(events);
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	KeptRow *rows;

	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	*count = (int) es_execute(&plan, &types, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	MemoryContextSwitchTo(caller);
	rows = palloc0(Max(*count, 1) * sizeof(KeptRow));
	for (int i = 0; i < *count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		KeptRow *kept = &rows[i];

		kept->view.name = copied(row, desc, 1, false);
		kept->view.start = DatumGetInt64(copied(row, desc, 2, true));
		es_stored_view_types(copied(row, desc, 3, false), &kept->view.types,
							 &kept->view.type_count);
		kept->key = copied(row, desc, 4, false);
		kept->rules = copied(row, desc, 5, false);
	}
	es_end(&scope);
	return rows;
}

static KeptRow *
find_kept_views(const ErasedEvents *events, int *count)
{
	KeptRow *rows = read_kept_views(events, count);

	for (int i = 0; i < *count; i++)
	{
		KeptView *view = &rows[i].view;

		es_define_view(view->name, rows[i].key, rows[i].rules, view->types,
					   view->type_count, &view->definition);
		view->by_aggregate = view->definition.by_sequence;
	}
	return rows;
}

static bool
has_type(const KeptView *view, Datum type)
{
	for (int i = 0; i < view->type_count; i++)
	{
		if (es_same_text(view->types[i], type))
			return true;
	}
	return false;
}

/*
 * The names of the views that no projection keeps, in the order of the table's key.  Who just
 * puts the first row of a view that nobody knows is not waited for: it is as if he did so
 * after the erasure.
 */
static Datum *
find_free_views(int *count)
{
	static KeptPlan plan = {
		"WITH RECURSIVE names (name) AS (SELECT pg_catalog.min(a.view_name COLLATE \"C\")"
		" FROM event_store.domain_views a UNION ALL"
		" SELECT (SELECT b.view_name FROM event_store.domain_views b"
		" WHERE b.view_name OPERATOR(pg_catalog.>) n.name"
		" ORDER BY b.view_name LIMIT 1) FROM names n WHERE n.name IS NOT NULL)"
		" SELECT n.name FROM names n WHERE n.name IS NOT NULL AND NOT EXISTS ("
		"SELECT FROM event_store.projections p"
		" WHERE p.projection_name OPERATOR(pg_catalog.=) n.name"
		" AND p.kind OPERATOR(pg_catalog.=) 'view')"};
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	Datum *names;

	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	*count = (int) es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	MemoryContextSwitchTo(caller);
	names = palloc(Max(*count, 1) * sizeof(Datum));
	for (int i = 0; i < *count; i++)
		names[i] = copied(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, false);
	es_end(&scope);
	return names;
}

/* ---------- keeping others out ---------- */

/* Members of a projection hold its lock while they take a batch in. */
void
es_hold_views(const ErasedEvents *events)
{
	int count;
	KeptRow *rows = read_kept_views(events, &count);

	for (int i = 0; i < count; i++)
		es_lock_hash(ES_LOCK_SUBSCRIPTION,
					 es_subscription_hash(rows[i].view.name), ExclusiveLock);
}

/* Adds the locks of the rows of a view that have the keys of aggregates. */
static int
add_hashes(Datum view, const ErasedEvents *events, uint64 *hashes)
{
	for (int i = 0; i < events->aggregate_count; i++)
		hashes[i] = es_pair_hash(view, events->aggregates[i].id);
	return events->aggregate_count;
}

/* Locks all rows that may change, and has what is staged for them written. */
static void
lock_rows(const ErasedEvents *events, const KeptRow *kept, int kept_count,
		  const Datum *views, int view_count)
{
	Size views_at_most = (Size) kept_count + view_count;
	uint64 *hashes =
		palloc_extended(Max(views_at_most * events->aggregate_count, 1) *
							sizeof(uint64),
						MCXT_ALLOC_HUGE);
	int count = 0;

	for (int i = 0; i < kept_count; i++)
	{
		if (kept[i].view.by_aggregate)
			count += add_hashes(kept[i].view.name, events, hashes + count);
	}
	for (int i = 0; i < view_count; i++)
		count += add_hashes(views[i], events, hashes + count);
	if (count > 0)
		es_lock_pairs(ES_LOCK_VIEW_KEY, hashes, count);
	pfree(hashes);
	if (es_may_have_staged())
		es_settle(NULL, NULL);
	es_move_own_rows();
}

/* ---------- rows that projections keep ---------- */

/* Takes a row away; 0 = there was none, else how far it stood. */
static int64
remove_row(Datum view, Datum key)
{
	static KeptPlan plan = {"DELETE FROM event_store.domain_views v"
							" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
							" AND v.view_key OPERATOR(pg_catalog.=) $2"
							" RETURNING v.version",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {view, key};
	OwnerScope scope;
	int64 version = 0;

	es_begin_write(&scope);
	if (es_execute_latest(&plan, values, NULL) > 0)
	{
		bool isnull;

		version = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &isnull));
		if (isnull)
			version = 0;
	}
	es_end(&scope);
	return version;
}

#define EVENTS_OF(table)                                \
	"SELECT {event e} FROM event_store." table " e"     \
	" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1" \
	" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"     \
	" AND e.sequence OPERATOR(pg_catalog.>) $3"         \
	" AND e.sequence OPERATOR(pg_catalog.<=) $4"        \
	" AND e.global_position OPERATOR(pg_catalog.>) $5"

#define EVENTS_NARGS \
	.nargs = 6,      \
	.argtypes = {TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, INT8OID}

/* The next events of an aggregate behind a sequence. */
static EventRow *
read_events(const ErasedAggregate *aggregate, int64 after, int64 up_to,
			int64 start, int *count)
{
	static KeptPlan of_log =
		{.sql = EVENTS_OF("domain_events") " ORDER BY e.sequence LIMIT $6",
		 EVENTS_NARGS};
	static KeptPlan of_both =
		{.sql = EVENTS_OF("domain_events") " UNION ALL " EVENTS_OF(
			 "domain_events_archive") " ORDER BY sequence LIMIT $6",
		 EVENTS_NARGS};
	bool archive = OidIsValid(get_relname_relid("domain_events_archive",
												es_store()->schema));
	Datum values[6] = {aggregate->type,		 aggregate->id,
					   Int64GetDatum(after), Int64GetDatum(up_to),
					   Int64GetDatum(start), Int64GetDatum(ES_CHUNK_ROWS)};
	MemoryContext caller = CurrentMemoryContext;
	EventRow *events;
	OwnerScope scope;

	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	*count = (int) es_execute(archive ? &of_both : &of_log, values, NULL, true,
							  SPI_OK_SELECT);
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

/* Folds a row anew, from the events up to where it stood. */
static void
fold_row(const KeptView *view, const ErasedAggregate *aggregate)
{
	int64 up_to = remove_row(view->name, aggregate->id);
	MemoryContext per_batch =
		AllocSetContextCreate(CurrentMemoryContext, "event_store folded row",
							  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(per_batch);
	int64 after = 0;

	while (after < up_to)
	{
		ViewBatch batch = {0};

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(per_batch);
		batch.events =
			read_events(aggregate, after, up_to, view->start, &batch.count);
		if (batch.count == 0)
			break;
		after = DatumGetInt64(batch.events[batch.count - 1].values[EV_SEQUENCE]);
		for (int i = 0; i < batch.count && es_upcasts(); i++)
			(void) es_upcast(batch.events[i].values, batch.events[i].nulls);
		es_fold_into_view(&view->definition, &batch);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(per_batch);
}

static void
fold_rows(const KeptView *view, const ErasedEvents *events)
{
	for (int i = 0; i < events->aggregate_count; i++)
	{
		if (has_type(view, events->aggregates[i].type))
			fold_row(view, &events->aggregates[i]);
	}
}

/* ---------- other rows ---------- */

/* Removes the rows of a view that have the keys of aggregates; whether there were any. */
static bool
remove_rows(Datum view, const ErasedEvents *events)
{
	static KeptPlan plan = {"DELETE FROM event_store.domain_views v"
							" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
							" AND v.view_key OPERATOR(pg_catalog.=) ANY ($2)",
							2,
							{TEXTOID, TEXTARRAYOID}};
	Datum values[2] = {view};
	Datum *keys = palloc(Max(events->aggregate_count, 1) * sizeof(Datum));
	OwnerScope scope;
	uint64 removed;

	for (int i = 0; i < events->aggregate_count; i++)
		keys[i] = events->aggregates[i].id;
	es_begin_write(&scope);
	values[1] =
		PointerGetDatum(construct_array(keys, events->aggregate_count, TEXTOID,
										-1, false, TYPALIGN_INT));
	removed = es_execute_latest(&plan, values, NULL);
	es_end(&scope);
	return removed > 0;
}

/*
 * What a rebuild of a projection has come to is forgotten; a view across aggregates is
 * stale.
 */
static void
begin_anew(const KeptView *view)
{
	static KeptPlan plan = {"UPDATE event_store.projections AS p SET"
							" stale = p.stale OR $2, rebuild_total = NULL,"
							" rebuild_done = CASE WHEN p.next_definition IS NOT NULL THEN 0 END"
							" WHERE p.projection_name OPERATOR(pg_catalog.=) $1",
							2,
							{TEXTOID, BOOLOID}};
	Datum values[2] = {view->name, BoolGetDatum(!view->by_aggregate)};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(&plan, values, NULL);
	es_forget_built(view->name);
	es_end(&scope);
}

/* The same of steps of rebuild_view(). */
static void
forget_rebuilds(const ErasedEvents *events)
{
	static KeptPlan rows = {"DELETE FROM event_store.view_rebuild_rows r"
							" USING event_store.view_rebuilds b"
							" WHERE r.view_name OPERATOR(pg_catalog.=) b.view_name"
							" AND b.aggregate_type OPERATOR(pg_catalog.=) ANY ($1)",
							1,
							{TEXTARRAYOID}};
	static KeptPlan begun = {"DELETE FROM event_store.view_rebuilds b"
							 " WHERE b.aggregate_type OPERATOR(pg_catalog.=) ANY ($1)",
							 1,
							 {TEXTARRAYOID}};
	Datum types = es_erased_types(events);
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(&rows, &types, NULL);
	(void) es_execute_latest(&begun, &types, NULL);
	es_end(&scope);
}

static void
add_name(StringInfo names, Datum name)
{
	appendStringInfo(names, "%s%s", names->len == 0 ? "" : ", ",
					 TextDatumGetCString(name));
}

void
es_erase_views(const ErasedEvents *events)
{
	int kept_count;
	KeptRow *kept = find_kept_views(events, &kept_count);
	int view_count;
	Datum *views = find_free_views(&view_count);
	StringInfoData names;

	/* of copies alone that were left somewhere no projection has folded anything */
	if (events->changed == 0)
		kept_count = 0;
	initStringInfo(&names);
	lock_rows(events, kept, kept_count, views, view_count);
	for (int i = 0; i < kept_count; i++)
	{
		begin_anew(&kept[i].view);
		if (kept[i].view.by_aggregate)
			fold_rows(&kept[i].view, events);
		else
			add_name(&names, kept[i].view.name);
	}
	for (int i = 0; i < view_count; i++)
	{
		if (remove_rows(views[i], events))
			add_name(&names, views[i]);
	}
	forget_rebuilds(events);
	if (names.len > 0)
		ereport(NOTICE,
				(errmsg("views are to be made anew: %s", names.data),
				 errhint("rebuild_projection() makes those of projections, rebuild_view() or the application others.")));
}
