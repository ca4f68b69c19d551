/*
 * erased_events.c
 *		Which events are erased, and erasing them: in the log and in its archive.
 *
 * They are found without locks first, by which it is known what has to be locked; what
 * others have erased meanwhile is looked at again when it is changed.  Few of an event's
 * columns change, so the whole row is read, changed in memory and written back by
 * statements of bounded size, which the guard lets through (log_change.c).
 *
 * Events are compared as their last version has them, as everywhere, and changed as they
 * were written.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/pair_table.h"
#include "keep/erased_events.h"
#include "keep/erased_part.h"
#include "keep/moved_partitions.h"
#include "log/closed_aggregate.h"
#include "log/log_change.h"
#include "replay/condition.h"
#include "replay/fold.h"
#include "replay/json_value.h"
#include "replay/saga_event.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"
#include "write/append.h"

/* The tables that events stand in; a store may lack the second. */
enum
{
	IN_LOG,
	IN_ARCHIVE,
	TABLES
};

static const char *const table_names[TABLES] = {"domain_events",
												"domain_events_archive"};

static Oid
table_of(int table)
{
	return get_relname_relid(table_names[table], es_store()->schema);
}

/* ---------- the query ---------- */

#define QUERY_HINT \
	"Give an object such as {\"aggregate_type\": \"Order\", \"event_types\": [\"Placed\"], \"where\": [{\"path\": \"$.payload.customer\", \"is\": \"c-1\"}]}."

static void
refuse_query(const char *problem)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("query %s", problem), errhint(QUERY_HINT)));
}

static void
read_event_types(const JsonbValue *value, ErasureQuery *query)
{
	JsonbIterator *iterator;
	JsonbValue element;
	Datum *types;
	int count = 0;

	if (!es_is_array(value))
		refuse_query("has \"event_types\" that are not an array");
	types =
		palloc(Max(JsonContainerSize(value->val.binary.data), 1) * sizeof(Datum));
	iterator = JsonbIteratorInit(value->val.binary.data);
	for (JsonbIteratorToken token;
		 (token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE;)
	{
		if (token != WJB_ELEM)
			continue;
		if (element.type != jbvString)
			refuse_query("has \"event_types\" that are not strings");
		types[count++] =
			PointerGetDatum(cstring_to_text_with_len(element.val.string.val,
													 element.val.string.len));
	}
	query->event_types =
		PointerGetDatum(construct_array(types, count, TEXTOID, -1, false,
										TYPALIGN_INT));
}

static void
read_where(const JsonbValue *value, ErasureQuery *query)
{
	JsonbIterator *iterator;
	JsonbValue element;

	if (!es_is_array(value) || JsonContainerSize(value->val.binary.data) == 0)
		refuse_query("has a \"where\" that is not an array of comparisons");
	query->where =
		palloc0(JsonContainerSize(value->val.binary.data) * sizeof(Condition));
	iterator = JsonbIteratorInit(value->val.binary.data);
	for (JsonbIteratorToken token;
		 (token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE;)
	{
		const char *hint = QUERY_HINT;
		const char *problem;

		if (token != WJB_ELEM)
			continue;
		problem = es_condition_read(&element, false,
									&query->where[query->conditions], &hint);
		if (problem != NULL)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("query has a wrong comparison %d: %s",
								   query->conditions + 1, problem),
							errhint("%s", hint)));
		query->conditions++;
	}
}

/* The place that a key's text has in the query; NULL = it is none of these. */
static Datum *
text_named(ErasureQuery *query, const JsonbValue *name)
{
	if (es_is_string(name, "aggregate_type"))
		return &query->aggregate_type;
	if (es_is_string(name, "aggregate_id"))
		return &query->aggregate_id;
	if (es_is_string(name, "correlation_id"))
		return &query->correlation_id;
	if (es_is_string(name, "saga_id"))
		return &query->saga_id;
	return NULL;
}

static void
read_key(const JsonbValue *name, const JsonbValue *value, ErasureQuery *query)
{
	Datum *place = text_named(query, name);

	if (es_is_string(name, "event_types"))
		read_event_types(value, query);
	else if (es_is_string(name, "where"))
		read_where(value, query);
	else if (place == NULL)
		refuse_query(psprintf("has an unknown key \"%.*s\"",
							  name->val.string.len, name->val.string.val));
	else if (value->type != jbvString)
		refuse_query(psprintf("has a \"%.*s\" that is not a string",
							  name->val.string.len, name->val.string.val));
	else
		*place = PointerGetDatum(cstring_to_text_with_len(value->val.string.val,
														  value->val.string.len));
}

void
es_read_erasure_query(Jsonb *given, ErasureQuery *query)
{
	JsonbIterator *iterator;
	JsonbValue name;
	JsonbValue value;

	memset(query, 0, sizeof(*query));
	if (!JB_ROOT_IS_OBJECT(given))
		refuse_query("must be a JSON object");
	if (JB_ROOT_COUNT(given) == 0)
		refuse_query("must say something of the events to be erased");
	iterator = JsonbIteratorInit(&given->root);
	for (JsonbIteratorToken token;
		 (token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE;)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		read_key(&name, &value, query);
	}
}

/* ---------- what was found ---------- */

ErasedEvents *
es_begin_erased_events(void)
{
	ErasedEvents *events = palloc0(sizeof(ErasedEvents));

	events->context = CurrentMemoryContext;
	events->numbers = es_pair_table(64);
	events->room = 64;
	events->positions = palloc(events->room * sizeof(Datum));
	events->event_ids = palloc(events->room * sizeof(Datum));
	events->aggregate_room = 16;
	events->aggregates = palloc(events->aggregate_room * sizeof(ErasedAggregate));
	return events;
}

void
es_add_erased_aggregate(ErasedEvents *events, Datum type, Datum id)
{
	MemoryContext caller;
	ErasedAggregate *aggregate;
	bool found;

	if (es_pair_find(events->numbers, type, id))
		return;
	caller = MemoryContextSwitchTo(events->context);
	if (events->aggregate_count == events->aggregate_room)
	{
		events->aggregate_room *= 2;
		events->aggregates =
			repalloc_huge(events->aggregates,
						  events->aggregate_room * sizeof(ErasedAggregate));
	}
	aggregate = &events->aggregates[events->aggregate_count];
	aggregate->type = datumCopy(type, false, -1);
	aggregate->id = datumCopy(id, false, -1);
	aggregate->related = false;
	*es_pair_enter(events->numbers, aggregate->type, aggregate->id, &found) =
		events->aggregate_count++;
	MemoryContextSwitchTo(caller);
}

static void
add_event(ErasedEvents *events, const Datum *values)
{
	if (events->count == events->room)
	{
		events->room *= 2;
		events->positions =
			repalloc_huge(events->positions, events->room * sizeof(Datum));
		events->event_ids =
			repalloc_huge(events->event_ids, events->room * sizeof(Datum));
	}
	events->positions[events->count++] =
		Int64GetDatum(DatumGetInt64(values[EV_GLOBAL_POSITION]));
	es_add_erased_aggregate(events, values[EV_AGGREGATE_TYPE],
							values[EV_AGGREGATE_ID]);
}

static Datum
int8_array(Datum *values, int64 count)
{
	return PointerGetDatum(construct_array(values, (int) count, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

Datum
es_erased_types(const ErasedEvents *events)
{
	Datum *types = palloc(Max(events->aggregate_count, 1) * sizeof(Datum));

	for (int i = 0; i < events->aggregate_count; i++)
		types[i] = events->aggregates[i].type;
	return PointerGetDatum(construct_array(types, events->aggregate_count,
										   TEXTOID, -1, false, TYPALIGN_INT));
}

Datum
es_erased_positions(const ErasedEvents *events)
{
	return int8_array(events->positions, events->changed);
}

Datum
es_erased_event_ids(const ErasedEvents *events)
{
	return PointerGetDatum(construct_array(events->event_ids,
										   (int) events->changed, UUIDOID,
										   UUID_LEN, false, TYPALIGN_CHAR));
}

/* ---------- finding ---------- */

/* A search at work. */
typedef struct Search
{
	ErasedEvents *events;
	const ErasureQuery *query;
	const ErasedParts *parts;
	const ErasedParts *saga_parts;
	int max_count;
	bool upcasts;
	MemoryContext per_event;
} Search;

#define CANDIDATES(table)                                                 \
	"SELECT {event e} FROM event_store." table " e"                       \
	" WHERE ($1 IS NULL OR e.aggregate_type OPERATOR(pg_catalog.=) $1)"   \
	" AND ($2 IS NULL OR e.aggregate_id OPERATOR(pg_catalog.=) $2)"       \
	" AND ($3 IS NULL OR e.correlation_id OPERATOR(pg_catalog.=) $3)"     \
	" AND ($4 IS NULL OR e.saga_id OPERATOR(pg_catalog.=) $4)"            \
	" AND ($5 IS NULL OR e.event_type OPERATOR(pg_catalog.=) ANY ($5))"   \
	" AND ($6 IS NULL OR e.event_id OPERATOR(pg_catalog.=) ANY ($6))"     \
	" AND e.aggregate_type OPERATOR(pg_catalog.<>) '" ES_ERASURE_TYPE "'" \
	" ORDER BY e.global_position"

#define CANDIDATE_TYPES                                                \
	{                                                                  \
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, UUIDARRAYOID \
	}

static KeptPlan candidates[TABLES] =
	{[IN_LOG] = {.sql = CANDIDATES("domain_events"),
				 .nargs = 6,
				 .argtypes = CANDIDATE_TYPES,
				 .kind = ES_PLAN_FOR_VALUES},
	 [IN_ARCHIVE] = {.sql = CANDIDATES("domain_events_archive"),
					 .nargs = 6,
					 .argtypes = CANDIDATE_TYPES,
					 .kind = ES_PLAN_FOR_VALUES}};

/* What is left of sagas is what they have done. */
static const ErasedParts *
parts_for(const ErasedParts *parts, const ErasedParts *saga_parts,
		  const Datum *values)
{
	return es_is_saga_type(values[EV_AGGREGATE_TYPE]) ? saga_parts : parts;
}

static bool
is_wanted_type(Datum event_types, Datum type)
{
	Datum *types;
	int count;

	deconstruct_array(DatumGetArrayTypeP(event_types), TEXTOID, -1, false,
					  TYPALIGN_INT, &types, NULL, &count);
	for (int i = 0; i < count; i++)
	{
		if (es_same_text(types[i], type))
			return true;
	}
	return false;
}

/* Whether an event is what the query asks for, as its last version has it. */
static bool
matches(const Search *search, const Datum *written, const bool *written_nulls)
{
	const ErasureQuery *query = search->query;
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
	PathEvent event = {.values = values, .nulls = nulls};

	if (query->conditions == 0 && query->event_types == (Datum) 0)
		return true;
	memcpy(values, written, sizeof(values));
	memcpy(nulls, written_nulls, sizeof(nulls));
	if (search->upcasts)
		(void) es_upcast(values, nulls);
	if (query->event_types != (Datum) 0 &&
		!is_wanted_type(query->event_types, values[EV_EVENT_TYPE]))
		return false;
	for (int i = 0; i < query->conditions; i++)
	{
		if (!es_condition_holds(&query->where[i], &event))
			return false;
	}
	return true;
}

static bool
look_at_event(TupleTableSlot *slot, void *arg)
{
	Search *search = arg;
	MemoryContext caller = MemoryContextSwitchTo(search->per_event);
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
	/* only whether there is something to take */
	static pg_uuid_t no_erasure;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(search->per_event);
	slot_getallattrs(slot);
	memcpy(values, slot->tts_values, sizeof(values));
	memcpy(nulls, slot->tts_isnull, sizeof(nulls));
	if (matches(search, values, nulls) &&
		es_take_parts(parts_for(search->parts, search->saga_parts, values),
					  UUIDPGetDatum(&no_erasure), values, nulls))
		add_event(search->events, slot->tts_values);
	MemoryContextSwitchTo(caller);
	return search->max_count == 0 || search->events->count < search->max_count;
}

static void
find_events(ErasedEvents *events, const ErasureQuery *query,
			const ErasedParts *parts, int max_count)
{
	Search search = {.events = events,
					 .query = query,
					 .parts = parts,
					 .saga_parts = es_saga_parts(),
					 .max_count = max_count,
					 .upcasts = es_upcasts()};
	Datum types = query->event_types == (Datum) 0
					  ? (Datum) 0
					  : es_stored_types(query->event_types);
	Datum values[6] = {query->aggregate_type,
					   query->aggregate_id,
					   query->correlation_id,
					   query->saga_id,
					   types,
					   query->event_ids};
	char nulls[6];
	OwnerScope scope;

	for (int i = 0; i < (int) lengthof(values); i++)
		nulls[i] = values[i] == (Datum) 0 ? 'n' : ' ';
	search.per_event =
		AllocSetContextCreate(CurrentMemoryContext, "event_store erased event",
							  ALLOCSET_DEFAULT_SIZES);
	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	for (int t = 0; t < TABLES; t++)
	{
		if (OidIsValid(table_of(t)) &&
			(max_count == 0 || events->count < max_count))
			es_for_each_row(&candidates[t], values, nulls, look_at_event, &search);
	}
	PopActiveSnapshot();
	es_end(&scope);
	MemoryContextDelete(search.per_event);
}

/* ---------- sagas ---------- */

#define SAGAS_OF(table)                                                       \
	{                                                                         \
		.sql = "SELECT DISTINCT 'saga:' OPERATOR(pg_catalog.||) s.saga_name," \
			   " s.saga_id COLLATE pg_catalog.\"C\" FROM event_store." table  \
			   " e JOIN event_store.sagas s"                                  \
			   " ON s.saga_id OPERATOR(pg_catalog.=) e.saga_id"               \
			   " WHERE e.global_position OPERATOR(pg_catalog.=) ANY ($1)",    \
		.nargs = 1, .argtypes = {INT8ARRAYOID}, .kind = ES_PLAN_FOR_VALUES    \
	}

static KeptPlan sagas_of[TABLES] =
	{[IN_LOG] = SAGAS_OF("domain_events"), [IN_ARCHIVE] = SAGAS_OF("domain_events_archive")};

/* Adds the sagas to which events in one table belong; what they know of them goes, too. */
static void
add_sagas(ErasedEvents *events, int table)
{
	for (int64 start = 0; start < events->count; start += ES_CHUNK_ROWS)
	{
		Datum positions = int8_array(events->positions + start,
									 Min(ES_CHUNK_ROWS, events->count - start));
		uint64 count;
		OwnerScope scope;

		es_begin(&scope);
		PushActiveSnapshot(GetLatestSnapshot());
		count =
			es_execute(&sagas_of[table], &positions, NULL, true, SPI_OK_SELECT);
		PopActiveSnapshot();
		for (uint64 i = 0; i < count; i++)
		{
			bool isnull;
			HeapTuple row = SPI_tuptable->vals[i];
			TupleDesc desc = SPI_tuptable->tupdesc;

			es_add_erased_aggregate(events, SPI_getbinval(row, desc, 1, &isnull),
									SPI_getbinval(row, desc, 2, &isnull));
		}
		es_end(&scope);
	}
}

/* Their events stand behind those that were asked for, so that they can be found again. */
void
es_find_erased_sagas(ErasedEvents *events)
{
	int known = events->aggregate_count;

	events->count = events->asked;
	for (int t = 0; t < TABLES; t++)
	{
		if (OidIsValid(table_of(t)))
			add_sagas(events, t);
	}
	for (int i = 0; i < events->aggregate_count; i++)
	{
		ErasedAggregate *aggregate = &events->aggregates[i];
		ErasureQuery saga = {.aggregate_type = aggregate->type,
							 .aggregate_id = aggregate->id};

		aggregate->related = aggregate->related || i >= known;
		if (aggregate->related)
			find_events(events, &saga, NULL, 0);
	}
}

void
es_find_erased_events(ErasedEvents *events, const ErasureQuery *query,
					  const ErasedParts *parts, int max_count)
{
	events->count = 0;
	find_events(events, query, parts, max_count);
	events->asked = events->count;
	es_find_erased_sagas(events);
}

/* ---------- changing ---------- */

/* The columns that may change, as a statement has them. */
#define CHANGED_COLUMNS 7

static const EventColumn changed_columns[CHANGED_COLUMNS] =
	{EV_GLOBAL_POSITION, EV_PAYLOAD,	  EV_PAYLOAD_BYTES, EV_METADATA,
	 EV_CORRELATION_ID,	 EV_CAUSATION_ID, EV_SAGA_ID};

#define OF_POSITIONS(table)                               \
	{                                                     \
		.sql = "SELECT {event e} FROM event_store." table \
			   " e WHERE e.global_position"               \
			   " OPERATOR(pg_catalog.=) ANY ($1)",        \
		.nargs = 1, .argtypes = {                         \
			INT8ARRAYOID                                  \
		}                                                 \
	}

static KeptPlan of_positions[TABLES] = {[IN_LOG] = OF_POSITIONS("domain_events"),
										[IN_ARCHIVE] =
											OF_POSITIONS("domain_events_archive")};

#define CHANGE(table)                                                               \
	{                                                                               \
		.sql =                                                                      \
			"UPDATE event_store." table " AS e SET payload = n.payload,"            \
			" payload_bytes = n.payload_bytes, metadata = n.metadata,"              \
			" correlation_id = n.correlation_id, causation_id = n.causation_id,"    \
			" saga_id = n.saga_id FROM ROWS FROM (pg_catalog.unnest($1),"           \
			" pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)," \
			" pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7))" \
			" AS n (global_position, payload, payload_bytes, metadata,"             \
			" correlation_id, causation_id, saga_id)"                               \
			" WHERE e.global_position OPERATOR(pg_catalog.=) n.global_position",    \
		.nargs = CHANGED_COLUMNS,                                                   \
		.argtypes =                                                                 \
		{ INT8ARRAYOID,                                                             \
		  JSONBARRAYOID,                                                            \
		  BYTEAARRAYOID,                                                            \
		  JSONBARRAYOID,                                                            \
		  TEXTARRAYOID,                                                             \
		  TEXTARRAYOID,                                                             \
		  TEXTARRAYOID }                                                            \
	}

static KeptPlan change[TABLES] =
	{[IN_LOG] = CHANGE("domain_events"), [IN_ARCHIVE] = CHANGE("domain_events_archive")};

/* A change at work: rows that are yet to be written. */
typedef struct Change
{
	ErasedEvents *events;
	const ErasedParts *parts;
	const ErasedParts *saga_parts;
	Datum erasure;
	PartitionMoves *moves;
	int table;
	MemoryContext context;	 /* of the rows */
	MemoryContext per_event; /* of the one at hand */
	int count;
	Size bytes;
	Datum values[CHANGED_COLUMNS][ES_CHUNK_ROWS];
	bool nulls[CHANGED_COLUMNS][ES_CHUNK_ROWS];
} Change;

/* One column of the rows as an array. */
static Datum
column_array(Change *c, int column)
{
	Oid type = es_event_columns[changed_columns[column]].type;
	int lower = 1;
	int16 length;
	bool byval;
	char align;

	get_typlenbyvalalign(type, &length, &byval, &align);
	return PointerGetDatum(construct_md_array(c->values[column], c->nulls[column],
											  1, &c->count, &lower, type,
											  length, byval, align));
}

/* A trigger that keeps an event as it was would have it told otherwise. */
static void
write_changes(Change *c)
{
	Datum arrays[CHANGED_COLUMNS];
	OwnerScope scope;
	uint64 changed;

	if (c->count == 0)
		return;
	es_begin(&scope);
	for (int i = 0; i < CHANGED_COLUMNS; i++)
		arrays[i] = column_array(c, i);
	changed = es_change_log(&change[c->table], arrays, NULL, table_of(c->table),
							ES_CHANGE_UPDATE);
	es_end(&scope);
	if (changed != (uint64) c->count)
		ereport(ERROR,
				(errcode(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION),
				 errmsg("an event was kept from being erased by a trigger on %s",
						table_names[c->table])));
	MemoryContextReset(c->context);
	c->count = 0;
	c->bytes = 0;
}

/* Keeps what is to be written of a row. */
static void
keep_row(Change *c, const Datum *values, const bool *nulls)
{
	MemoryContext caller = MemoryContextSwitchTo(c->context);
	int n = c->count++;

	for (int i = 0; i < CHANGED_COLUMNS; i++)
	{
		EventColumn column = changed_columns[i];
		bool detoasted = es_is_varlena(es_event_columns[column].type);

		c->nulls[i][n] = nulls[column];
		c->values[i][n] = values[column];
		if (nulls[column] || !detoasted)
			continue;
		c->values[i][n] = PointerGetDatum(PG_DETOAST_DATUM_COPY(values[column]));
		c->bytes += VARSIZE(DatumGetPointer(c->values[i][n]));
	}
	MemoryContextSwitchTo(caller);
}

static bool
change_event(TupleTableSlot *slot, void *arg)
{
	Change *c = arg;
	MemoryContext caller = MemoryContextSwitchTo(c->per_event);
	ErasedEvents *events = c->events;
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(c->per_event);
	slot_getallattrs(slot);
	memcpy(values, slot->tts_values, sizeof(values));
	memcpy(nulls, slot->tts_isnull, sizeof(nulls));
	if (es_take_parts(parts_for(c->parts, c->saga_parts, values), c->erasure,
					  values, nulls))
	{
		es_note_partition_move(c->moves, slot->tts_values, slot->tts_isnull,
							   values, nulls);
		keep_row(c, values, nulls);
		events->positions[events->changed] =
			Int64GetDatum(DatumGetInt64(values[EV_GLOBAL_POSITION]));
		MemoryContextSwitchTo(events->context);
		events->event_ids[events->changed++] =
			datumCopy(values[EV_EVENT_ID], false, UUID_LEN);
	}
	MemoryContextSwitchTo(caller);
	if (c->count == ES_CHUNK_ROWS || c->bytes >= ES_CHUNK_BYTES)
		write_changes(c);
	return true;
}

/* Changes what stands in one table of some positions. */
static void
change_positions(Change *c, Datum positions)
{
	OwnerScope scope;

	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	es_for_each_row(&of_positions[c->table], &positions, NULL, change_event, c);
	PopActiveSnapshot();
	es_end(&scope);
	write_changes(c);
}

/*
 * Positions that were changed are put where those that were found have been read, so
 * each chunk of them is taken out before.
 */
void
es_change_erased_events(ErasedEvents *events, const ErasedParts *parts,
						Datum erasure, PartitionMoves *moves)
{
	Change *c = palloc0(sizeof(Change));

	c->events = events;
	c->parts = parts;
	c->saga_parts = es_saga_parts();
	c->erasure = erasure;
	c->moves = moves;
	c->context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store erased rows",
							  ALLOCSET_DEFAULT_SIZES);
	c->per_event =
		AllocSetContextCreate(CurrentMemoryContext, "event_store erased event",
							  ALLOCSET_DEFAULT_SIZES);
	events->changed = 0;
	for (int64 start = 0; start < events->count; start += ES_CHUNK_ROWS)
	{
		Datum positions = int8_array(events->positions + start,
									 Min(ES_CHUNK_ROWS, events->count - start));

		for (c->table = IN_LOG; c->table < TABLES; c->table++)
		{
			if (OidIsValid(table_of(c->table)))
				change_positions(c, positions);
		}
	}
	MemoryContextDelete(c->context);
	MemoryContextDelete(c->per_event);
	pfree(c);
}

/* ---------- another id ---------- */

#define RENAME(table)                                                    \
	{                                                                    \
		.sql = "UPDATE event_store." table " AS e SET aggregate_id = $3" \
			   " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"       \
			   " AND e.aggregate_id OPERATOR(pg_catalog.=) $2",          \
		.nargs = 3,                                                      \
		.argtypes =                                                      \
		{ TEXTOID,                                                       \
		  TEXTOID,                                                       \
		  TEXTOID }                                                      \
	}

#define EXISTS_IN(table)                                                \
	{                                                                   \
		.sql = "SELECT FROM event_store." table " e"                    \
			   " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"      \
			   " AND e.aggregate_id OPERATOR(pg_catalog.=) $2 LIMIT 1", \
		.nargs = 2,                                                     \
		.argtypes =                                                     \
		{ TEXTOID,                                                      \
		  TEXTOID }                                                     \
	}

/* One that was deleted is never there again, either. */
static void
check_pseudonym(Datum type, Datum pseudonym)
{
	static KeptPlan exists[TABLES] = {[IN_LOG] = EXISTS_IN("domain_events"),
									  [IN_ARCHIVE] =
										  EXISTS_IN("domain_events_archive")};
	Datum values[2] = {type, pseudonym};
	bool taken = false;
	int64 sequence;
	TimestampTz recorded_at;

	PushActiveSnapshot(GetLatestSnapshot());
	for (int t = 0; t < TABLES; t++)
	{
		if (OidIsValid(table_of(t)) &&
			es_execute(&exists[t], values, NULL, true, SPI_OK_SELECT) > 0)
			taken = true;
	}
	if (taken || es_read_closed(type, pseudonym, GetActiveSnapshot(), &sequence,
								&recorded_at) != ES_AGGREGATE_OPEN)
		ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
						errmsg("there is an aggregate %s/%s already",
							   TextDatumGetCString(type),
							   TextDatumGetCString(pseudonym))));
	PopActiveSnapshot();
}

/* An event of it, as it was and as it is. */
typedef struct Renaming
{
	Datum id;
	PartitionMoves *moves;
} Renaming;

static bool
note_renamed(TupleTableSlot *slot, void *arg)
{
	const Renaming *renaming = arg;
	Datum before[EV_COLUMNS];

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	memcpy(before, slot->tts_values, sizeof(before));
	before[EV_AGGREGATE_ID] = renaming->id;
	es_note_partition_move(renaming->moves, before, slot->tts_isnull,
						   slot->tts_values, slot->tts_isnull);
	return true;
}

static void
note_all_renamed(Datum type, Datum pseudonym, Renaming *renaming)
{
	Datum values[6] = {type, pseudonym};
	OwnerScope scope;

	es_begin(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	for (int t = 0; t < TABLES; t++)
	{
		if (OidIsValid(table_of(t)))
			es_for_each_row(&candidates[t], values, "  nnnn", note_renamed,
							renaming);
	}
	PopActiveSnapshot();
	es_end(&scope);
}

void
es_rename_aggregate(Datum type, Datum id, Datum pseudonym, PartitionMoves *moves)
{
	Renaming renaming = {.id = id, .moves = moves};
	static KeptPlan rename_in[TABLES] =
		{[IN_LOG] = RENAME("domain_events"), [IN_ARCHIVE] = RENAME("domain_events_archive")};
	Datum values[3] = {type, id, pseudonym};
	OwnerScope scope;

	es_begin(&scope);
	check_pseudonym(type, pseudonym);
	for (int t = 0; t < TABLES; t++)
	{
		if (OidIsValid(table_of(t)))
			(void) es_change_log(&rename_in[t], values, NULL, table_of(t),
								 ES_CHANGE_UPDATE);
	}
	es_end(&scope);
	note_all_renamed(type, pseudonym, &renaming);
}
