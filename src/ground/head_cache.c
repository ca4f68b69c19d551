/*
 * head_cache.c
 *		Remembering the last event of aggregates in shared memory.
 *
 * An append needs the head of its aggregate.  Mostly the aggregate was appended
 * to a moment ago, by whichever backend; so heads are remembered.  An entry is
 * written when a transaction that appended has committed and still holds the
 * locks of its aggregates, and is read by who holds the lock of the aggregate.
 * So an entry never speaks of an open or aborted transaction, and whoever reads
 * one reads what its own look into log and staging would have told.
 *
 * That holds as long as heads change through appends only:
 * - Draining moves rows and changes no head.  If it makes dead letters, appends
 *   to the aggregate are refused until these are settled, and settling them
 *   forgets all heads.
 * - Rows written around the API: who writes them forgets all heads when they are
 *   committed (src/log/outside_write.c).  An append that meets one that went
 *   unnoticed fails at the unique key, and forgets all heads: the next one looks.
 * - Events are moved to the archive and back, or deleted, under the aggregate's lock
 *   where its head is concerned: who does it forgets this one head at his commit.
 * - DDL on domain_events (a disabled trigger, TRUNCATE, a restore) forgets all
 *   heads through its relation cache invalidation.
 * To forget all is to raise the generation, which every entry carries.
 *
 * Aggregates are told apart by 128 bits of a hash whose seed is drawn at server
 * start, so nobody can prepare two that collide.  Without preload there is no
 * cache, and every head is looked up.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/memutils.h"

#include "ground/compat.h"
#include "ground/head_cache.h"
#include "ground/shmem.h"
#include "ground/transaction.h"

/* Instead of the last sequence: it has to be looked up. */
#define FORGOTTEN (-1)

/* 16,384 sets of 4 entries: 65,536 aggregates in 3 MB. */
#define SETS 16384
#define WAYS 4
/* A transaction over more aggregates than this forgets all heads instead. */
#define MAX_NOTED 1024

typedef struct Entry
{
	uint64 hash[2];
	Oid database; /* InvalidOid = empty */
	uint32 generation;
	int64 sequence;
	TimestampTz recorded_at;
	bool staged; /* the last event was staged, not written to the log */
} Entry;

typedef struct Set
{
	slock_t mutex;
	uint32 next; /* way to give up next */
	Entry ways[WAYS];
} Set;

typedef struct HeadCache
{
	uint64 seed[2];
	Set sets[SETS];
} HeadCache;

/* Of a database. */
typedef struct HeadShare
{
	pg_atomic_uint32 generation; /* of all heads that may be believed */
} HeadShare;

/* A head this transaction has made. */
typedef struct NotedHead
{
	Entry entry;
	SubTransactionId subtransaction;
} NotedHead;

static NotedHead *noted = NULL; /* room for MAX_NOTED */
static int nnoted = 0;
static bool forgets_all = false;

static Size
cache_size(void)
{
	return sizeof(HeadCache);
}

static void
initialise_cache(void *memory)
{
	HeadCache *cache = memory;

	if (!pg_strong_random(cache->seed, sizeof(cache->seed)))
		ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not draw a random seed")));
	for (int i = 0; i < SETS; i++)
		SpinLockInit(&cache->sets[i].mutex);
}

static void
initialise_share(void *memory)
{
	pg_atomic_init_u32(&((HeadShare *) memory)->generation, 0);
}

static ClusterPart cache_part = {"event_store heads", cache_size,
								 initialise_cache};
static DatabasePart share_part = {sizeof(HeadShare), initialise_share,
								  es_raise_head_generation};

void
es_share_heads(void)
{
	es_share(&cache_part);
	es_share_by_database(&share_part);
}

static HeadCache *
head_cache(void)
{
	return cache_part.memory;
}

static HeadShare *
heads_of(SharedDatabase *db)
{
	return es_part(db, &share_part);
}

/* Hashes an aggregate into an entry's identity; returns its set. */
static Set *
identify(HeadCache *cache, Datum type, Datum id, Entry *entry)
{
	text *parts[2] = {DatumGetTextPP(type), DatumGetTextPP(id)};

	for (int h = 0; h < 2; h++)
	{
		entry->hash[h] = cache->seed[h];
		for (int p = 0; p < 2; p++)
			entry->hash[h] =
				hash_bytes_extended((unsigned char *) VARDATA_ANY(parts[p]),
									VARSIZE_ANY_EXHDR(parts[p]), entry->hash[h]);
	}
	entry->database = MyDatabaseId;
	return &cache->sets[entry->hash[0] % SETS];
}

static bool
same_aggregate(const Entry *a, const Entry *b)
{
	return a->hash[0] == b->hash[0] && a->hash[1] == b->hash[1] &&
		   a->database == b->database;
}

/* Copies an entry over what is wanted if it is of that and not forgotten. */
static bool
take_if_fits(const Entry *entry, Entry *wanted)
{
	if (!same_aggregate(entry, wanted) || entry->generation != wanted->generation)
		return false;
	*wanted = *entry;
	return true;
}

bool
es_cached_head(SharedDatabase *db, Datum type, Datum id, int64 *sequence,
			   TimestampTz *recorded_at, bool *staged)
{
	Entry wanted;
	Set *set;
	bool found = false;

	if (db == NULL)
		return false;
	set = identify(head_cache(), type, id, &wanted);
	wanted.generation = pg_atomic_read_u32(&heads_of(db)->generation);
	if (forgets_all)
		return false;

	/* what this transaction did itself is not in the cache yet */
	for (int i = nnoted - 1; i >= 0 && !found; i--)
		found = take_if_fits(&noted[i].entry, &wanted);
	if (!found)
	{
		SpinLockAcquire(&set->mutex);
		for (int i = 0; i < WAYS && !found; i++)
			found = take_if_fits(&set->ways[i], &wanted);
		SpinLockRelease(&set->mutex);
	}
	if (!found || wanted.sequence == FORGOTTEN)
		return false;
	*sequence = wanted.sequence;
	*recorded_at = wanted.recorded_at;
	*staged = wanted.staged;
	return true;
}

/* Puts one head into its set, over an older one of the same aggregate. */
static void
publish(const Entry *entry)
{
	Set *set = &head_cache()->sets[entry->hash[0] % SETS];
	int way = -1;

	SpinLockAcquire(&set->mutex);
	for (int i = 0; i < WAYS && way < 0; i++)
	{
		if (same_aggregate(&set->ways[i], entry))
			way = i;
	}
	if (way < 0)
		way = set->next++ % WAYS;
	set->ways[way] = *entry;
	SpinLockRelease(&set->mutex);
}

static void
end_heads(SharedDatabase *db, bool committed)
{
	if (committed && forgets_all)
		es_raise_head_generation(db);
	else if (committed)
	{
		for (int i = 0; i < nnoted; i++)
			publish(&noted[i].entry);
	}
	nnoted = 0;
	forgets_all = false;
}

static void
abort_heads(SubTransactionId subtransaction)
{
	while (nnoted > 0 && noted[nnoted - 1].subtransaction >= subtransaction)
		nnoted--;
}

void
es_note_head(SharedDatabase *db, Datum type, Datum id, int64 sequence,
			 TimestampTz recorded_at, bool staged)
{
	NotedHead *note;

	if (db == NULL || forgets_all)
		return;
	es_at_end(ES_END_HEADS, end_heads, abort_heads);
	if (nnoted == MAX_NOTED)
	{
		es_forget_heads();
		return;
	}
	if (noted == NULL)
		noted =
			MemoryContextAlloc(TopMemoryContext, MAX_NOTED * sizeof(NotedHead));
	note = &noted[nnoted++];
	(void) identify(head_cache(), type, id, &note->entry);
	note->entry.generation = pg_atomic_read_u32(&heads_of(db)->generation);
	note->entry.sequence = sequence;
	note->entry.recorded_at = recorded_at;
	note->entry.staged = staged;
	note->subtransaction = GetCurrentSubTransactionId();
}

void
es_forget_head(SharedDatabase *db, Datum type, Datum id)
{
	es_note_head(db, type, id, FORGOTTEN, DT_NOBEGIN, false);
}

void
es_forget_heads(void)
{
	es_at_end(ES_END_HEADS, end_heads, abort_heads);
	forgets_all = true;
}

void
es_raise_head_generation(SharedDatabase *db)
{
	if (db != NULL)
		pg_atomic_fetch_add_u32(&heads_of(db)->generation, 1);
}
