/*
 * feed_plan.c
 *		Which statement reads events in the order of their positions.
 *
 * Without filters, or without an index for them, the primary key is read and what
 * does not match is left out.  Where one of the optional indexes serves a filter,
 * the events of each type are read in their order and merged, as far as the caller
 * wants them: of a rare type nothing else is read, and of frequent ones little
 * more than is given out.  Nothing has to be known of how frequent a type is.
 *
 * A statement merges a fixed number of types, and those that are not given cost
 * next to nothing.  For more types than any merges, the positions of each are read
 * from the index, each as far as the caller wants, and sorted.
 *
 * With an index for both filters, the one is taken whose types are sparser after
 * the position where the reader stands: whose SAMPLE_ROWS-th event is farther off.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/log_plan.h"
#include "ground/pair_table.h"
#include "read/feed_plan.h"
#include "replay/fold.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"

/* What stands for a type's density is read as far as this. */
#define SAMPLE_ROWS 200

/* Parameters of all statements here. */
#define FEED_PARAMETERS                                                         \
	{                                                                           \
		INT8OID, INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID \
	}
#define FEED_NARGS 7

#define FEED_BASE                                                        \
	ES_EVENT_SELECT " WHERE e.global_position OPERATOR(pg_catalog.>) $1" \
					" AND e.global_position OPERATOR(pg_catalog.<=) $2"
#define FEED_AGGREGATE_TYPES \
	" AND e.aggregate_type OPERATOR(pg_catalog.=) ANY ($4)"
#define FEED_EVENT_TYPES " AND e.event_type OPERATOR(pg_catalog.=) ANY ($5)"
#define FEED_MEMBER                                                           \
	" AND event_store.aggregate_member(e.aggregate_type, e.aggregate_id, $7)" \
	" OPERATOR(pg_catalog.=) $6"
#define FEED_FORWARD " ORDER BY e.global_position LIMIT $3"
#define FEED_BACKWARD " ORDER BY e.global_position DESC LIMIT $3"
#define FEED_PLAN(filters, end)                            \
	{                                                      \
		FEED_BASE filters end, FEED_NARGS, FEED_PARAMETERS \
	}
#define FEED_PLANS(end)                                        \
	FEED_PLAN("", end), FEED_PLAN(FEED_AGGREGATE_TYPES, end),  \
		FEED_PLAN(FEED_EVENT_TYPES, end),                      \
		FEED_PLAN(FEED_AGGREGATE_TYPES FEED_EVENT_TYPES, end), \
		FEED_PLAN(FEED_MEMBER, end),                           \
		FEED_PLAN(FEED_AGGREGATE_TYPES FEED_MEMBER, end),      \
		FEED_PLAN(FEED_EVENT_TYPES FEED_MEMBER, end),          \
		FEED_PLAN(FEED_AGGREGATE_TYPES FEED_EVENT_TYPES FEED_MEMBER, end)

/* By the primary key: one for each set of filters and each direction. */
static KeptPlan by_position[16] = {FEED_PLANS(FEED_FORWARD),
								   FEED_PLANS(FEED_BACKWARD)};

/* By an index of types. */
typedef enum TypeColumn
{
	BY_AGGREGATE_TYPE,
	BY_EVENT_TYPE
} TypeColumn;

static const char *const type_columns[] = {"aggregate_type", "event_type"};

/* How many types a statement merges; those of the last have no number. */
static const int merged[] = {1, 8, 32, 0};

#define MERGE_SIZES ((int) lengthof(merged))

/* What is selected: events, or the position of the last of a sample. */
typedef enum Selected
{
	SELECT_EVENTS,
	SELECT_SAMPLE
} Selected;

static KeptPlan by_type[2][2][lengthof(merged)][2];

/*
 * The events of one type in their order; what the index does not filter is $5.  A
 * sample has none of the other filters.
 */
static void
put_one_type(StringInfo sql, Selected selected, TypeColumn by,
			 const char *columns, const char *type, const char *order)
{
	appendStringInfo(sql,
					 "SELECT %s FROM event_store.domain_events e"
					 " WHERE e.%s OPERATOR(pg_catalog.=) %s"
					 " AND e.global_position OPERATOR(pg_catalog.>) $1"
					 " AND e.global_position OPERATOR(pg_catalog.<=) $2",
					 columns, type_columns[by], type);
	if (selected == SELECT_EVENTS)
		appendStringInfo(sql,
						 " AND ($5 IS NULL OR e.%s OPERATOR(pg_catalog.=) ANY ($5))"
						 " AND ($7 IS NULL OR event_store.aggregate_member("
						 "e.aggregate_type, e.aggregate_id, $7)"
						 " OPERATOR(pg_catalog.=) $6)",
						 type_columns[1 - by]);
	appendStringInfoString(sql, order);
}

/* A statement that merges the events of so many types. */
static void
put_merge(StringInfo sql, Selected selected, TypeColumn by, int types,
		  const char *order)
{
	const char *columns =
		selected == SELECT_EVENTS ? "{event e}" : "e.global_position";

	appendStringInfo(sql, "SELECT %s FROM (", columns);
	for (int i = 1; i <= types; i++)
	{
		appendStringInfoString(sql, i == 1 ? "(" : " UNION ALL (");
		put_one_type(sql, selected, by, columns, psprintf("($4)[%d]", i), order);
		appendStringInfoChar(sql, ')');
	}
	appendStringInfo(sql, ") e%s %s", order,
					 selected == SELECT_EVENTS ? "LIMIT $3" : "OFFSET $3 LIMIT 1");
}

/* A statement for any number of types. */
static void
put_any_types(StringInfo sql, TypeColumn by, const char *order)
{
	appendStringInfoString(sql, ES_EVENT_SELECT
						   " JOIN (SELECT e.global_position"
						   " FROM ROWS FROM (pg_catalog.unnest($4)) AS t (type)"
						   " CROSS JOIN LATERAL (");
	put_one_type(sql, SELECT_EVENTS, by, "e.global_position", "t.type", order);
	appendStringInfo(sql,
					 " LIMIT $3) e%s LIMIT $3) p"
					 " ON p.global_position OPERATOR(pg_catalog.=) e.global_position%s",
					 order, order);
}

/* The statement for a number of types, made when this backend first needs it. */
static KeptPlan *
typed_plan(Selected selected, TypeColumn by, int size, bool backward)
{
	static const Oid argtypes[] = FEED_PARAMETERS;
	KeptPlan *plan = &by_type[selected][by][size][backward];
	const char *order = backward ? " ORDER BY e.global_position DESC"
								 : " ORDER BY e.global_position";
	StringInfoData sql;

	if (plan->sql != NULL)
		return plan;
	initStringInfo(&sql);
	if (merged[size] > 0)
		put_merge(&sql, selected, by, merged[size], order);
	else
		put_any_types(&sql, by, order);
	memcpy(plan->argtypes, argtypes, sizeof(argtypes));
	plan->nargs = FEED_NARGS;
	plan->sql = MemoryContextStrdup(TopMemoryContext, sql.data);
	pfree(sql.data);
	return plan;
}

static int
compare_types(const void *a, const void *b)
{
	return es_compare_keys(*(const Datum *) a, *(const Datum *) b);
}

/* Types that are asked for; sets how many. */
static Datum *
given_types(Datum types, int *count)
{
	Datum *values;
	bool *nulls;
	int given;
	int n = 0;

	deconstruct_array(DatumGetArrayTypeP(types), TEXTOID, -1, false,
					  TYPALIGN_INT, &values, &nulls, &given);
	/* NULL equals nothing */
	for (int i = 0; i < given; i++)
	{
		if (!nulls[i])
			values[n++] = values[i];
	}
	*count = n;
	return values;
}

/* The same, each once, as an array. */
static Datum
distinct_types(Datum types, int *count)
{
	int n;
	Datum *values = given_types(types, &n);

	qsort(values, n, sizeof(Datum), compare_types);
	*count = 0;
	for (int i = 0; i < n; i++)
	{
		if (i == 0 || compare_types(&values[i], &values[*count - 1]) != 0)
			values[(*count)++] = values[i];
	}
	return PointerGetDatum(construct_array(values, *count, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* The least statement that takes so many types. */
static int
size_for(int types)
{
	int size = 0;

	while (merged[size] > 0 && merged[size] < types)
		size++;
	return size;
}

/* A filter by types that an index serves. */
typedef struct TypeFilter
{
	TypeColumn by;
	Datum types;
	int size;
} TypeFilter;

/*
 * How far a reader gets with a sample of the events of these types; the farther,
 * the fewer there are.
 */
static int64
reach(const TypeFilter *filter, const FeedRange *range, const Datum *values)
{
	Datum sample[FEED_NARGS] = {values[0], values[1],
								Int64GetDatum(SAMPLE_ROWS - 1), filter->types};
	int64 end = range->backward ? range->after : range->up_to;
	KeptPlan *plan;
	bool isnull;

	if (merged[filter->size] == 0)
		return 0;
	plan = typed_plan(SELECT_SAMPLE, filter->by, filter->size, range->backward);
	if (es_execute(es_log_plan_after(plan, range->after), sample, NULL, true,
				   SPI_OK_SELECT) > 0)
		end = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return range->backward ? range->up_to - end : end - range->after;
}

/* Chooses the filter to read by; false = by position. */
static bool
choose_filter(const FeedRange *range, const Datum *values, TypeFilter *chosen)
{
	const Store *store = es_store();
	bool served[2] = {store->by_aggregate_type && range->aggregate_types != 0,
					  store->by_event_type && range->event_types != 0};
	Datum given[2] = {range->aggregate_types, range->event_types};
	TypeFilter filters[2];

	for (int i = 0; i < 2; i++)
	{
		int count;

		if (!served[i])
			continue;
		filters[i].by = (TypeColumn) i;
		filters[i].types = distinct_types(given[i], &count);
		filters[i].size = size_for(count);
	}
	if (!served[0] && !served[1])
		return false;
	if (served[0] && served[1])
		*chosen =
			filters[reach(&filters[0], range, values) > reach(&filters[1], range, values)
						? BY_AGGREGATE_TYPE
						: BY_EVENT_TYPE];
	else
		*chosen = filters[served[0] ? BY_AGGREGATE_TYPE : BY_EVENT_TYPE];
	return true;
}

/* What is put into a result of upcast events. */
typedef struct UpcastFeed
{
	const FeedRange *range;
	Tuplestorestate *into;
	Datum *types; /* of the last version; as many are wanted */
	int type_count;
	MemoryContext per_event;
	int64 read;
	int64 given;
	int64 last; /* position that was read */
} UpcastFeed;

static bool
is_wanted(const UpcastFeed *feed, Datum event_type)
{
	for (int i = 0; i < feed->type_count; i++)
	{
		if (es_same_text(feed->types[i], event_type))
			return true;
	}
	return feed->range->event_types == 0;
}

/* Puts an event of an old version into the result, if it is wanted. */
static bool
put_upcast(UpcastFeed *feed, TupleTableSlot *slot)
{
	MemoryContext caller = MemoryContextSwitchTo(feed->per_event);
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
	bool wanted;

	slot_getallattrs(slot);
	memcpy(values, slot->tts_values, sizeof(values));
	memcpy(nulls, slot->tts_isnull, sizeof(nulls));
	(void) es_upcast(values, nulls);
	wanted = is_wanted(feed, values[EV_EVENT_TYPE]);
	if (wanted)
		tuplestore_putvalues(feed->into, slot->tts_tupleDescriptor, values, nulls);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(feed->per_event);
	return wanted;
}

static bool
upcast_row(TupleTableSlot *slot, void *arg)
{
	UpcastFeed *feed = arg;

	bool isnull;

	feed->read++;
	feed->last =
		DatumGetInt64(slot_getattr(slot, EV_GLOBAL_POSITION + 1, &isnull));
	if (es_is_old_row(slot))
		feed->given += put_upcast(feed, slot);
	else if (feed->range->event_types == 0 ||
			 is_wanted(feed, slot_getattr(slot, EV_EVENT_TYPE + 1, &isnull)))
	{
		tuplestore_puttupleslot(feed->into, slot);
		feed->given++;
	}
	return true;
}

static uint64 read_feed(const FeedRange *range, Tuplestorestate *into,
						UpcastFeed *upcast);

/*
 * What has another type in its last version is read and left out, so it takes as many
 * reads as there are to be events.
 */
static uint64
read_upcast(const FeedRange *range, Tuplestorestate *into)
{
	FeedRange left = *range;
	UpcastFeed feed = {.range = range, .into = into};

	feed.per_event =
		AllocSetContextCreate(CurrentMemoryContext, "event_store event",
							  ALLOCSET_DEFAULT_SIZES);
	if (range->event_types != 0)
	{
		feed.types = given_types(range->event_types, &feed.type_count);
		left.event_types = es_stored_types(range->event_types);
	}
	do
	{
		CHECK_FOR_INTERRUPTS();
		feed.read = 0;
		left.max_count = range->max_count - feed.given;
		(void) read_feed(&left, into, &feed);
		if (range->backward)
			left.up_to = feed.last - 1;
		else
			left.after = feed.last;
	} while (feed.given < range->max_count && feed.read == left.max_count);
	return feed.given;
}

static uint64
read_range(const FeedRange *range, Tuplestorestate *into)
{
	if (range->upcast && range->max_count > 0 && es_upcasts())
		return read_upcast(range, into);
	return read_feed(range, into, NULL);
}

/*
 * Backward, what lies beyond the archive comes first: who wants no more than that does
 * not open it.
 */
uint64
es_read_feed(const FeedRange *range, Tuplestorestate *into)
{
	int64 archived = es_highest_archived_position();
	FeedRange part = *range;
	uint64 count;

	if (!range->backward || archived <= range->after || archived >= range->up_to)
		return read_range(range, into);
	part.after = archived;
	count = read_range(&part, into);
	part.after = range->after;
	part.up_to = archived;
	part.max_count = range->max_count - (int64) count;
	if (part.max_count > 0)
		count += read_range(&part, into);
	return count;
}

/* The events as they are stored, or each handed on to be upcast. */
static uint64
read_feed(const FeedRange *range, Tuplestorestate *into, UpcastFeed *upcast)
{
	Datum values[FEED_NARGS] = {Int64GetDatum(range->after),
								Int64GetDatum(range->up_to),
								Int64GetDatum(range->max_count),
								range->aggregate_types,
								range->event_types,
								Int32GetDatum(range->member),
								Int32GetDatum(range->members)};
	char nulls[FEED_NARGS] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};
	KeptPlan *plan;
	TypeFilter filter;
	OwnerScope scope;
	uint64 count;

	es_begin_read(&scope);
	if (choose_filter(range, values, &filter))
	{
		plan = typed_plan(SELECT_EVENTS, filter.by, filter.size, range->backward);
		values[3] = filter.types;
		values[4] = filter.by == BY_EVENT_TYPE ? range->aggregate_types
											   : range->event_types;
	}
	else
		plan =
			&by_position[(range->aggregate_types != 0 ? 1 : 0) +
						 (range->event_types != 0 ? 2 : 0) +
						 (range->members != 0 ? 4 : 0) + (range->backward ? 8 : 0)];
	nulls[3] = values[3] == 0 ? 'n' : ' ';
	nulls[4] = values[4] == 0 ? 'n' : ' ';
	nulls[5] = nulls[6] = range->members == 0 ? 'n' : ' ';
	plan = es_log_plan_after(plan, range->after);
	if (upcast == NULL)
		count = es_execute_into(plan, values, nulls, into);
	else
	{
		es_for_each_row(plan, values, nulls, upcast_row, upcast);
		count = upcast->read;
	}
	es_end(&scope);
	return count;
}
