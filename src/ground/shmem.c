/*
 * shmem.c
 *		Everything in shared memory: one slot for each database with a store.
 *
 * The processes that work in one database (backends, the database worker, the
 * launcher on its behalf) meet in a SharedDatabase: counters of what is
 * staged, the block of global positions, who drains and how that goes.  Memory
 * is only there when shared_preload_libraries names the library; without it
 * es_shared is NULL and everything else must do without.
 *
 * Slots hold plain values, so a process may die anywhere: what it leaves
 * behind is at worst out of date, and its exit callback corrects its own marks
 * and nobody else's.  A crash that resets shared memory empties all slots; the
 * launcher then looks at every database again.
 *
 * Lock protocol:
 * - SharedState.lock protects the assignment of slots to databases (database
 *   and claimed of every slot), the launcher's place and running rebuilds.
 * - SharedDatabase.lock protects the plain fields of that slot, except the
 *   positions, which have their spinlock, and the atomics, which need none.
 * - Who needs both takes SharedState.lock first.  Nothing that can block,
 *   raise or allocate happens under either.  SetLatch and kill are allowed.
 * - Condition variables are broadcast after the locks were released.
 *
 * A database that uses its store claims its slot, which is to take one of
 * event_store.max_databases places.  The slot stays where it is until the
 * database is dropped; so a backend may keep the pointer.  Slots that only the
 * launcher or a command on the database made take no place, and are given back
 * as soon as these are done with them: there are a few more slots than places.
 *
 * Beyond these places a database works as without preload.  What its processes
 * do then (take positions from the sequence, say) cannot be mixed with what is
 * done through shared memory: so one that found no place is remembered, by a
 * bit of a hash, and gets none before the server restarts, even if one becomes
 * free.  Who shares its bit is refused a free place as well, which does no harm.
 *
 * After a restart a place must not go to another database than before, which
 * has staged rows perhaps.  So the launcher keeps a file of who has one, and
 * theirs are reserved until it was found out that there is no store any more.
 * The file may be out of date after a crash: that costs somebody a place.
 *  Condition
 * variables, spinlocks and atomics are initialised once for the life of the
 * memory: somebody may still be waiting on those of a slot just given back.
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "ground/common.h"
#include "ground/settings.h"
#include "ground/shmem.h"

/* So many slots are for who takes no place. */
#define SPARE_SLOTS 8
/* Who has a place, in the data directory: an OID a line. */
#define PLACES_FILE "event_store.places"

SharedState *es_shared = NULL;

static SharedDatabase *my_database = NULL;
static bool my_place_refused = false;
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

/* What owners have registered. */
static DatabasePart *database_parts = NULL;
static ClusterPart *cluster_parts = NULL;
static Size slot_size = 0;

void
es_share_by_database(DatabasePart *part)
{
	if (slot_size == 0)
		slot_size = CACHELINEALIGN(sizeof(SharedDatabase));
	part->offset = slot_size;
	slot_size += CACHELINEALIGN(part->size);
	part->next = database_parts;
	database_parts = part;
}

void
es_share(ClusterPart *part)
{
	part->next = cluster_parts;
	cluster_parts = part;
}

static char *
slots(void)
{
	return (char *) es_shared + CACHELINEALIGN(sizeof(SharedState));
}

SharedDatabase *
es_database_numbered(int number)
{
	return (SharedDatabase *) (slots() + number * slot_size);
}

int
es_number_of_database(const SharedDatabase *db)
{
	return (int) (((const char *) db - slots()) / slot_size);
}

int
es_slots(void)
{
	return es_max_databases + SPARE_SLOTS;
}

static Size
state_size(void)
{
	return add_size(CACHELINEALIGN(sizeof(SharedState)),
					mul_size(es_slots(), slot_size));
}

static void
request_memory(void)
{
	if (previous_request_hook != NULL)
		previous_request_hook();
	RequestAddinShmemSpace(state_size());
	for (ClusterPart *part = cluster_parts; part != NULL; part = part->next)
		RequestAddinShmemSpace(part->size());
	RequestNamedLWLockTranche(ES_SCHEMA, es_slots() + 1);
}

/* Makes all slots ready for their first database. */
static void
initialise_slots(LWLockPadded *locks)
{
	for (int i = 0; i < es_slots(); i++)
	{
		SharedDatabase *db = es_database_numbered(i);

		db->lock = &locks[i].lock;
		for (DatabasePart *part = database_parts; part != NULL; part = part->next)
		{
			if (part->initialise != NULL)
				part->initialise(es_part(db, part));
		}
	}
}

static void assign_slot(SharedDatabase *db, Oid database);
static SharedDatabase *slot_of(Oid database);

/* Gives slots to those that had a place when the server was last up. */
static void
reserve_places(void)
{
	FILE *file = AllocateFile(PLACES_FILE, PG_BINARY_R);
	unsigned int database;

	if (file == NULL)
		return;
	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < es_max_databases && fscanf(file, "%u", &database) == 1;
		 i++)
	{
		SharedDatabase *db = es_database_numbered(i);

		if (!OidIsValid(database) || slot_of(database) != NULL)
			continue;
		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		assign_slot(db, database);
		db->reserved = true;
		LWLockRelease(db->lock);
	}
	LWLockRelease(es_shared->lock);
	FreeFile(file);
}

static void
startup_memory(void)
{
	bool found;

	if (previous_startup_hook != NULL)
		previous_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	es_shared = ShmemInitStruct(ES_SCHEMA, state_size(), &found);
	if (!found)
	{
		LWLockPadded *locks = GetNamedLWLockTranche(ES_SCHEMA);

		memset(es_shared, 0, state_size());
		es_shared->lock = &locks[0].lock;
		initialise_slots(locks + 1);
		reserve_places();
	}
	for (ClusterPart *part = cluster_parts; part != NULL; part = part->next)
	{
		part->memory = ShmemInitStruct(part->name, part->size(), &found);
		if (!found)
		{
			memset(part->memory, 0, part->size());
			part->initialise(part->memory);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Installs the hooks; called while the library is preloaded. */
void
es_shmem_define(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_memory;
}

/*
 * Gives a slot to a database, or takes it back with InvalidOid; nothing of
 * what was known about the one before remains.
 */
static void
assign_slot(SharedDatabase *db, Oid database)
{
	Assert(LWLockHeldByMeInMode(es_shared->lock, LW_EXCLUSIVE));
	Assert(LWLockHeldByMeInMode(db->lock, LW_EXCLUSIVE));
	db->database = database;
	db->claimed = false;
	db->reserved = false;
	for (DatabasePart *part = database_parts; part != NULL; part = part->next)
	{
		if (part->clear != NULL)
			part->clear(db);
	}
}

/* Finds the slot of a database; SharedState.lock is held. */
static SharedDatabase *
slot_of(Oid database)
{
	Assert(LWLockHeldByMe(es_shared->lock));
	for (int i = 0; i < es_slots(); i++)
	{
		if (es_database_numbered(i)->database == database)
			return es_database_numbered(i);
	}
	return NULL;
}

/* The bit of a database that found no place. */
static uint8 *
refusal_of(Oid database, uint8 *bit)
{
	uint32 number = database % ES_REFUSAL_BITS;

	*bit = (uint8) (1 << (number % 8));
	return &es_shared->refusals[number / 8];
}

static bool
was_refused(Oid database)
{
	uint8 bit = 0;

	Assert(LWLockHeldByMe(es_shared->lock));
	return (*refusal_of(database, &bit) & bit) != 0;
}

/* Whether there is a place left; those that are reserved are not. */
static bool
place_left(void)
{
	int taken = 0;

	for (int i = 0; i < es_slots(); i++)
	{
		if (es_database_numbered(i)->claimed || es_database_numbered(i)->reserved)
			taken++;
	}
	return taken < es_max_databases;
}

/* Finds the slot of a database, or gives it one if there is any. */
static SharedDatabase *
find_or_make(Oid database)
{
	SharedDatabase *db = slot_of(database);

	if (db != NULL || was_refused(database))
		return db;
	db = slot_of(InvalidOid);
	if (db != NULL)
	{
		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		assign_slot(db, database);
		LWLockRelease(db->lock);
	}
	return db;
}

/*
 * Gives this database its place.  Once one of its processes was refused, all
 * are.
 */
static SharedDatabase *
claim_place(void)
{
	SharedDatabase *db;
	uint8 bit = 0;

	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	db = slot_of(MyDatabaseId);
	if (db == NULL || !db->claimed)
	{
		if (!was_refused(MyDatabaseId) &&
			((db != NULL && db->reserved) || place_left()))
			db = find_or_make(MyDatabaseId);
		else
			db = NULL;
		if (db != NULL)
			db->claimed = true;
		else
		{
			*refusal_of(MyDatabaseId, &bit) |= bit;
			my_place_refused = true;
		}
	}
	LWLockRelease(es_shared->lock);
	return db;
}

SharedDatabase *
es_my_database(void)
{
	if (my_database != NULL || es_shared == NULL || my_place_refused)
		return my_database;
	Assert(OidIsValid(MyDatabaseId));
	my_database = claim_place();
	return my_database;
}

bool
es_has_no_place(void)
{
	SharedDatabase *db;
	bool refused;

	if (my_database != NULL || es_shared == NULL || my_place_refused)
		return my_place_refused;
	LWLockAcquire(es_shared->lock, LW_SHARED);
	db = slot_of(MyDatabaseId);
	refused = was_refused(MyDatabaseId) && (db == NULL || !db->claimed);
	LWLockRelease(es_shared->lock);
	return refused;
}

void
es_refuse_without_place(const char *who)
{
	if (es_has_no_place())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("all places for databases with an event store are taken"),
				 errdetail("%s a place in shared memory; event_store.max_databases is %d.",
						   who, es_max_databases),
				 errhint("Increase event_store.max_databases and restart the server. Durable writes, reads and drain() work without.")));
}

SharedDatabase *
es_my_database_if_any(void)
{
	SharedDatabase *db;

	if (my_database != NULL || es_shared == NULL || my_place_refused ||
		!OidIsValid(MyDatabaseId))
		return my_database;
	LWLockAcquire(es_shared->lock, LW_SHARED);
	db = slot_of(MyDatabaseId);
	if (db != NULL && db->claimed)
		my_database = db;
	LWLockRelease(es_shared->lock);
	return my_database;
}

SharedDatabase *
es_find_database(Oid database)
{
	SharedDatabase *db;

	LWLockAcquire(es_shared->lock, LW_SHARED);
	db = slot_of(database);
	LWLockRelease(es_shared->lock);
	return db;
}

SharedDatabase *
es_make_database(Oid database)
{
	SharedDatabase *db;

	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	db = find_or_make(database);
	LWLockRelease(es_shared->lock);
	return db;
}

SharedDatabase *
es_give_back_slot(Oid database, bool (*unused)(const SharedDatabase *db))
{
	SharedDatabase *db;

	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	db = slot_of(database);
	if (db != NULL)
	{
		/* who wants it looks under this lock whether it still has it */
		LWLockAcquire(db->lock, LW_EXCLUSIVE);
		if (unused == NULL || unused(db))
			assign_slot(db, InvalidOid);
		LWLockRelease(db->lock);
	}
	LWLockRelease(es_shared->lock);
	return db;
}

/* Writes the file; that it cannot be written is no reason to stop anything. */
static void
write_places(const Oid *places, int count)
{
	FILE *file = AllocateFile(PLACES_FILE ".new", PG_BINARY_W);
	bool written = file != NULL;

	for (int i = 0; i < count && written; i++)
	{
		if (OidIsValid(places[i]))
			written = fprintf(file, "%u\n", places[i]) > 0;
	}
	if (file != NULL)
		written = FreeFile(file) == 0 && written;
	if (!written)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", PLACES_FILE ".new")));
	else
		(void) durable_rename(PLACES_FILE ".new", PLACES_FILE, LOG);
}

void
es_keep_places(void)
{
	static Oid *kept = NULL;
	Oid *places = palloc0(es_slots() * sizeof(Oid));

	LWLockAcquire(es_shared->lock, LW_SHARED);
	for (int i = 0; i < es_slots(); i++)
	{
		SharedDatabase *db = es_database_numbered(i);

		if (db->claimed || db->reserved)
			places[i] = db->database;
	}
	LWLockRelease(es_shared->lock);
	if (kept == NULL || memcmp(kept, places, es_slots() * sizeof(Oid)) != 0)
		write_places(places, es_slots());
	if (kept != NULL)
		pfree(kept);
	kept = places;
}
