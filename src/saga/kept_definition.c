/*
 * kept_definition.c
 *		The definitions of sagas that a session has read, for its next calls.
 *
 * A version never changes, so what was read once holds for as long as the table of them is
 * left alone: it is forgotten when the table is invalidated, by DDL, TRUNCATE or a statement
 * of its owner, which outside_write.c notices while the library is preloaded; without that
 * nothing is kept.  Nor is what this transaction has made, which may be undone.
 *
 * There are few places, of definitions that are not too large.  What a transaction uses is
 * not taken from it: a place is given to another one by a later transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/shmem.h"
#include "saga/definition.h"
#include "saga/kept_definition.h"

#define PLACES 32
/* As JSON. */
#define LARGEST_BYTES (64 * 1024)

typedef struct Place
{
	MemoryContext memory; /* of all of it; NULL = the place is free */
	char *name;
	const SagaDefinition *definition;
	TimestampTz used; /* the start of the transaction that used it last */
	bool stale;
} Place;

static Place places[PLACES];
static Oid table = InvalidOid;

static void
table_changed(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != table)
		return;
	for (int i = 0; i < PLACES; i++)
		places[i].stale = true;
}

const SagaDefinition *
es_find_kept_definition(Datum name, int version)
{
	char *wanted = TextDatumGetCString(name);
	const SagaDefinition *found = NULL;

	for (int i = 0; i < PLACES && found == NULL; i++)
	{
		Place *place = &places[i];

		if (place->memory == NULL || place->stale ||
			place->definition->version != version ||
			strcmp(place->name, wanted) != 0)
			continue;
		place->used = GetCurrentTransactionStartTimestamp();
		found = place->definition;
	}
	pfree(wanted);
	return found;
}

/* A place for one more: the one that was used least recently; NULL = all are in use. */
static Place *
find_place(void)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	Place *oldest = NULL;

	for (int i = 0; i < PLACES; i++)
	{
		if (places[i].memory == NULL)
			return &places[i];
		if (places[i].used != now &&
			(oldest == NULL || places[i].used < oldest->used))
			oldest = &places[i];
	}
	if (oldest != NULL)
	{
		MemoryContextDelete(oldest->memory);
		memset(oldest, 0, sizeof(Place));
	}
	return oldest;
}

static SagaDefinition *
read_definition(const StoredDefinition *stored)
{
	SagaDefinition *definition =
		es_saga_definition(stored->definition, stored->version);

	definition->handler_owner = stored->handler_owner;
	return definition;
}

static void
watch_table(void)
{
	static bool listening = false;

	if (!listening)
		CacheRegisterRelcacheCallback(table_changed, (Datum) 0);
	listening = true;
	table = get_relname_relid("saga_definitions", es_store()->schema);
}

const SagaDefinition *
es_keep_definition(Datum name, const StoredDefinition *stored)
{
	StoredDefinition copy = *stored;
	MemoryContext caller;
	MemoryContext memory;
	Place *place;

	if (!stored->of_others || es_my_database() == NULL ||
		VARSIZE(stored->definition) > LARGEST_BYTES)
		return read_definition(stored);
	watch_table();
	place = find_place();
	if (place == NULL)
		return read_definition(stored);
	memory = AllocSetContextCreate(CurrentMemoryContext,
								   "event_store saga definition",
								   ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(memory);
	copy.definition =
		(Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(stored->definition));
	if (stored->handler_owner != NULL)
		copy.handler_owner = pstrdup(stored->handler_owner);
	*place = (Place){.name = TextDatumGetCString(name),
					 .definition = read_definition(&copy),
					 .used = GetCurrentTransactionStartTimestamp()};
	MemoryContextSwitchTo(caller);
	/* only now it outlives an error */
	MemoryContextSetParent(memory, CacheMemoryContext);
	place->memory = memory;
	return place->definition;
}
