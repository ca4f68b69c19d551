/*
 * pair_table.c
 *		A hash table from pairs of texts (aggregate or view key) to a number.
 *
 * Keys are copied into the table's context, so what the caller read them from
 * may go away.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "ground/compat.h"
#include "ground/pair_table.h"

typedef struct PairKey
{
	uint64 hash;
	text *first;
	text *second;
} PairKey;

typedef struct PairEntry
{
	PairKey key;
	int64 value;
} PairEntry;

struct PairTable
{
	HTAB *entries;
	MemoryContext context;
};

bool
es_same_text(Datum a, Datum b)
{
	text *x = DatumGetTextPP(a);
	text *y = DatumGetTextPP(b);

	return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
		   memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
}

int
es_compare_keys(Datum a, Datum b)
{
	text *x = DatumGetTextPP(a);
	text *y = DatumGetTextPP(b);
	int xlen = VARSIZE_ANY_EXHDR(x);
	int ylen = VARSIZE_ANY_EXHDR(y);
	int order = memcmp(VARDATA_ANY(x), VARDATA_ANY(y), Min(xlen, ylen));

	return order != 0 ? order : xlen < ylen ? -1 : xlen > ylen ? 1 : 0;
}

uint64
es_pair_hash(Datum first, Datum second)
{
	text *a = DatumGetTextPP(first);
	text *b = DatumGetTextPP(second);
	uint64 hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(a),
									  VARSIZE_ANY_EXHDR(a), 0);

	return hash_bytes_extended((unsigned char *) VARDATA_ANY(b),
							   VARSIZE_ANY_EXHDR(b), hash);
}

static uint32
hash_pair(const void *key, Size size)
{
	return (uint32) ((const PairKey *) key)->hash;
}

static int
match_pair(const void *a, const void *b, Size size)
{
	const PairKey *x = a;
	const PairKey *y = b;

	return x->hash == y->hash &&
				   es_same_text(PointerGetDatum(x->second),
								PointerGetDatum(y->second)) &&
				   es_same_text(PointerGetDatum(x->first),
								PointerGetDatum(y->first))
			   ? 0
			   : 1;
}

PairTable *
es_pair_table(int64 expected_size)
{
	PairTable *table = palloc(sizeof(PairTable));
	HASHCTL ctl;

	table->context = CurrentMemoryContext;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(PairKey);
	ctl.entrysize = sizeof(PairEntry);
	ctl.hash = hash_pair;
	ctl.match = match_pair;
	ctl.hcxt = table->context;
	table->entries =
		hash_create("event_store pairs", (long) Min(expected_size, 1024), &ctl,
					HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	return table;
}

static text *
copy_text(MemoryContext context, const text *t)
{
	Size size = VARSIZE_ANY(t);
	text *copy = MemoryContextAlloc(context, size);

	memcpy(copy, t, size);
	return copy;
}

int64 *
es_pair_enter(PairTable *table, Datum first, Datum second, bool *found)
{
	PairKey key;
	PairEntry *entry;

	key.first = DatumGetTextPP(first);
	key.second = DatumGetTextPP(second);
	key.hash = es_pair_hash(first, second);
	entry = hash_search(table->entries, &key, HASH_ENTER, found);
	if (!*found)
	{
		entry->key.first = copy_text(table->context, key.first);
		entry->key.second = copy_text(table->context, key.second);
	}
	return &entry->value;
}

bool
es_pair_find(PairTable *table, Datum first, Datum second)
{
	PairKey key;

	key.first = DatumGetTextPP(first);
	key.second = DatumGetTextPP(second);
	key.hash = es_pair_hash(first, second);
	return hash_search(table->entries, &key, HASH_FIND, NULL) != NULL;
}

void
es_pair_table_drop(PairTable *table)
{
	hash_destroy(table->entries);
	pfree(table);
}
