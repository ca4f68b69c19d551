/*
 * sticky.c
 *		What aggregates gave last where the key of a view says "sticky", and what
 *		lookups find in other views.
 *
 * A batch reads what is kept for all of its aggregates in one statement, changes it in
 * memory as its events come, and writes what has changed in one. A rebuild counts its places
 * from -1 downwards, so it keeps its own in the same table.
 *
 * A row that a lookup asks for is read once in a batch.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/pair_table.h"
#include "replay/event_rows.h"
#include "replay/row_key.h"
#include "replay/sticky.h"

/* What is kept for an aggregate, of all places of the key. */
typedef struct Kept
{
	Datum aggregate_type;
	Datum aggregate_id;
	text **values; /* NULL = nothing */
	bool *changed;
} Kept;

struct Stickies
{
	Datum projection;
	int places;
	bool building;
	MemoryContext context;
	PairTable *numbers; /* of aggregates */
	Kept *kept;
	int count;
	PairTable *looked_up; /* numbers of rows of other views */
	Datum *data;		  /* (Datum) 0 = there is no such row */
	int data_count;
	int data_room;
};

static int
stored_place(const Stickies *stickies, int place)
{
	return stickies->building ? -1 - place : place;
}

/* ---------- reading ---------- */

static void
enter_aggregates(Stickies *stickies, const EventRow *events, int count)
{
	stickies->kept = palloc0(Max(count, 1) * sizeof(Kept));
	for (int i = 0; i < count; i++)
	{
		Datum type = events[i].values[EV_AGGREGATE_TYPE];
		Datum id = events[i].values[EV_AGGREGATE_ID];
		bool found;
		int64 *number = es_pair_enter(stickies->numbers, type, id, &found);
		Kept *kept;

		if (found)
			continue;
		*number = stickies->count;
		kept = &stickies->kept[stickies->count++];
		kept->aggregate_type = type;
		kept->aggregate_id = id;
		kept->values = palloc0(stickies->places * sizeof(text *));
		kept->changed = palloc0(stickies->places * sizeof(bool));
	}
}

static Datum
text_array(const Datum *values, int count)
{
	return PointerGetDatum(construct_array(unconstify(Datum *, values), count,
										   TEXTOID, -1, false, TYPALIGN_INT));
}

static void
take_kept(Stickies *stickies, SPITupleTable *table, uint64 rows)
{
	for (uint64 i = 0; i < rows; i++)
	{
		Datum columns[4];
		bool isnull;
		int place;

		for (int c = 0; c < 4; c++)
			columns[c] =
				SPI_getbinval(table->vals[i], table->tupdesc, c + 1, &isnull);
		place = DatumGetInt32(columns[0]);
		place = stickies->building ? -1 - place : place;
		if (place < 0 || place >= stickies->places)
			continue;
		stickies
			->kept[*es_pair_enter(stickies->numbers, columns[1], columns[2], &isnull)]
			.values[place] = DatumGetTextPCopy(columns[3]);
	}
}

static void
read_kept(Stickies *stickies)
{
	static KeptPlan plan =
		{"SELECT k.place, k.aggregate_type, k.aggregate_id, k.value"
		 " FROM pg_catalog.generate_series($2, $3) p (place),"
		 " ROWS FROM (pg_catalog.unnest($4), pg_catalog.unnest($5))"
		 " AS a (aggregate_type, aggregate_id)"
		 " JOIN event_store.sticky_keys k"
		 " ON k.projection_name OPERATOR(pg_catalog.=) $1"
		 " AND k.aggregate_type OPERATOR(pg_catalog.=) a.aggregate_type"
		 " AND k.aggregate_id OPERATOR(pg_catalog.=) a.aggregate_id"
		 " WHERE k.place OPERATOR(pg_catalog.=) p.place",
		 5,
		 {TEXTOID, INT4OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID}};
	int first = stored_place(stickies, 0);
	int last = stored_place(stickies, stickies->places - 1);
	Datum *types = palloc(stickies->count * sizeof(Datum));
	Datum *ids = palloc(stickies->count * sizeof(Datum));
	MemoryContext caller = CurrentMemoryContext;
	Datum values[5] = {stickies->projection, Int32GetDatum(Min(first, last)),
					   Int32GetDatum(Max(first, last))};
	SPITupleTable *table;
	OwnerScope scope;
	uint64 rows;

	for (int i = 0; i < stickies->count; i++)
	{
		types[i] = stickies->kept[i].aggregate_type;
		ids[i] = stickies->kept[i].aggregate_id;
	}
	values[3] = text_array(types, stickies->count);
	values[4] = text_array(ids, stickies->count);
	es_begin_read(&scope);
	/* whoever is here alone has them to himself, whatever his snapshot shows */
	PushActiveSnapshot(GetLatestSnapshot());
	rows = es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	table = SPI_tuptable;
	MemoryContextSwitchTo(caller);
	take_kept(stickies, table, rows);
	es_end(&scope);
}

/* ---------- what the key asks for ---------- */

static Kept *
kept_for(Stickies *stickies, Datum aggregate_type, Datum aggregate_id)
{
	bool found;

	return &stickies->kept[*es_pair_enter(stickies->numbers, aggregate_type,
										  aggregate_id, &found)];
}

static text *
get_sticky(int place, Datum aggregate_type, Datum aggregate_id, void *arg)
{
	return kept_for(arg, aggregate_type, aggregate_id)->values[place];
}

static void
set_sticky(int place, Datum aggregate_type, Datum aggregate_id, text *value,
		   void *arg)
{
	Kept *kept = kept_for(arg, aggregate_type, aggregate_id);

	kept->values[place] = value;
	kept->changed[place] = true;
}

static Datum
read_row(Stickies *stickies, text *view_name, text *view_key)
{
	static KeptPlan plan = {"SELECT v.view_data FROM event_store.domain_views v"
							" WHERE v.view_name OPERATOR(pg_catalog.=) $1"
							" AND v.view_key OPERATOR(pg_catalog.=) $2",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {PointerGetDatum(view_name), PointerGetDatum(view_key)};
	Datum result = (Datum) 0;
	OwnerScope scope;

	es_begin(&scope);
	/* as it is when the event is folded, not when the transaction began */
	PushActiveSnapshot(GetLatestSnapshot());
	if (es_execute(&plan, values, NULL, true, SPI_OK_SELECT) > 0)
	{
		bool isnull;
		Datum data = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								   1, &isnull);

		MemoryContextSwitchTo(stickies->context);
		result = PointerGetDatum(DatumGetJsonbPCopy(data));
	}
	PopActiveSnapshot();
	es_end(&scope);
	return result;
}

static Datum
look_up(text *view_name, text *view_key, void *arg)
{
	Stickies *stickies = arg;
	bool found;
	int64 *number = es_pair_enter(stickies->looked_up, PointerGetDatum(view_name),
								  PointerGetDatum(view_key), &found);

	if (found)
		return stickies->data[*number];
	if (stickies->data_count == stickies->data_room)
	{
		stickies->data_room = Max(stickies->data_room * 2, 64);
		stickies->data =
			stickies->data == NULL
				? palloc(stickies->data_room * sizeof(Datum))
				: repalloc(stickies->data, stickies->data_room * sizeof(Datum));
	}
	*number = stickies->data_count++;
	stickies->data[*number] = (Datum) 0;
	stickies->data[*number] = read_row(stickies, view_name, view_key);
	return stickies->data[*number];
}

Stickies *
es_begin_stickies(Datum projection, const RowKey *key, bool building,
				  const EventRow *events, int count, RowKeyAccess *access)
{
	Stickies *stickies = palloc0(sizeof(Stickies));

	stickies->projection = projection;
	stickies->places = key->stickies;
	stickies->building = building;
	stickies->context = CurrentMemoryContext;
	*access = (RowKeyAccess){get_sticky, set_sticky, look_up, stickies};
	if (key->views != NIL)
		stickies->looked_up = es_pair_table(count);
	if (stickies->places == 0 || count == 0)
		return stickies;
	stickies->numbers = es_pair_table(count);
	enter_aggregates(stickies, events, count);
	read_kept(stickies);
	return stickies;
}

/* ---------- writing ---------- */

/* What is to be written, as four arrays; returns how many. */
static int
gather_changes(const Stickies *stickies, Datum *places, Datum **texts)
{
	int n = 0;

	for (int i = 0; i < stickies->count; i++)
	{
		const Kept *kept = &stickies->kept[i];

		for (int p = 0; p < stickies->places; p++)
		{
			if (!kept->changed[p])
				continue;
			places[n] = Int32GetDatum(stored_place(stickies, p));
			texts[0][n] = kept->aggregate_type;
			texts[1][n] = kept->aggregate_id;
			texts[2][n] = PointerGetDatum(kept->values[p]);
			n++;
		}
	}
	return n;
}

void
es_write_stickies(Stickies *stickies)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.sticky_keys AS k"
		 " (projection_name, place, aggregate_type, aggregate_id, value)"
		 " SELECT $1, w.place, w.aggregate_type, w.aggregate_id, w.value"
		 " FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3),"
		 " pg_catalog.unnest($4), pg_catalog.unnest($5))"
		 " AS w (place, aggregate_type, aggregate_id, value)"
		 " ON CONFLICT (projection_name, place, aggregate_type, aggregate_id)"
		 " DO UPDATE SET value = excluded.value",
		 5,
		 {TEXTOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}};
	Size room = (Size) Max(stickies->count * stickies->places, 1) * sizeof(Datum);
	Datum *places = palloc(room);
	Datum *texts[3] = {palloc(room), palloc(room), palloc(room)};
	int count = gather_changes(stickies, places, texts);
	Datum values[5] = {stickies->projection};
	OwnerScope scope;

	if (count == 0)
		return;
	values[1] =
		PointerGetDatum(construct_array(places, count, INT4OID, sizeof(int32),
										true, TYPALIGN_INT));
	for (int i = 0; i < 3; i++)
		values[i + 2] = text_array(texts[i], count);
	es_begin(&scope);
	es_execute(&plan, values, NULL, false, SPI_OK_INSERT);
	es_end(&scope);
}

void
es_forget_stickies(Datum projection, bool building)
{
	static KeptPlan all = {"DELETE FROM event_store.sticky_keys k"
						   " WHERE k.projection_name OPERATOR(pg_catalog.=) $1",
						   1,
						   {TEXTOID}};
	static KeptPlan built = {"DELETE FROM event_store.sticky_keys k"
							 " WHERE k.projection_name OPERATOR(pg_catalog.=) $1"
							 " AND k.place OPERATOR(pg_catalog.<) 0",
							 1,
							 {TEXTOID}};

	es_execute(building ? &built : &all, &projection, NULL, false, SPI_OK_DELETE);
}

void
es_exchange_stickies(Datum projection)
{
	static KeptPlan forget = {"DELETE FROM event_store.sticky_keys k"
							  " WHERE k.projection_name OPERATOR(pg_catalog.=) $1"
							  " AND k.place OPERATOR(pg_catalog.>=) 0",
							  1,
							  {TEXTOID}};
	static KeptPlan take = {"UPDATE event_store.sticky_keys k"
							" SET place = -1 OPERATOR(pg_catalog.-) k.place"
							" WHERE k.projection_name OPERATOR(pg_catalog.=) $1"
							" AND k.place OPERATOR(pg_catalog.<) 0",
							1,
							{TEXTOID}};

	es_execute(&forget, &projection, NULL, false, SPI_OK_DELETE);
	es_execute(&take, &projection, NULL, false, SPI_OK_UPDATE);
}
