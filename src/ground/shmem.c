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
 * A slot stays where it is for as long as a process of its database may have
 * looked it up ("claimed"): until the database is dropped.  So a backend may
 * keep the pointer.  Slots that only the launcher or a command on the database
 * made are given back as soon as these are done with them.  Condition
 * variables, spinlocks and atomics are initialised once for the life of the
 * memory: somebody may still be waiting on those of a slot just given back.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "ground/common.h"
#include "ground/shmem.h"

SharedState *es_shared = NULL;

static SharedDatabase *my_database = NULL;
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

static Size
state_size(void)
{
	return add_size(CACHELINEALIGN(sizeof(SharedState)),
					mul_size(ES_MAX_DATABASES, slot_size));
}

static void
request_memory(void)
{
	if (previous_request_hook != NULL)
		previous_request_hook();
	RequestAddinShmemSpace(state_size());
	for (ClusterPart *part = cluster_parts; part != NULL; part = part->next)
		RequestAddinShmemSpace(part->size());
	RequestNamedLWLockTranche(ES_SCHEMA, ES_MAX_DATABASES + 1);
}

/* Makes all slots ready for their first database. */
static void
initialise_slots(LWLockPadded *locks)
{
	for (int i = 0; i < ES_MAX_DATABASES; i++)
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
	for (DatabasePart *part = database_parts; part != NULL; part = part->next)
		part->clear(db);
}

/* Finds the slot of a database; SharedState.lock is held. */
static SharedDatabase *
slot_of(Oid database)
{
	Assert(LWLockHeldByMe(es_shared->lock));
	for (int i = 0; i < ES_MAX_DATABASES; i++)
	{
		if (es_database_numbered(i)->database == database)
			return es_database_numbered(i);
	}
	return NULL;
}

/* Finds the slot of a database or gives it one; NULL when all are taken. */
static SharedDatabase *
find_or_make(Oid database, bool claim)
{
	SharedDatabase *db;

	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	db = slot_of(database);
	if (db == NULL)
	{
		db = slot_of(InvalidOid);
		if (db != NULL)
		{
			LWLockAcquire(db->lock, LW_EXCLUSIVE);
			assign_slot(db, database);
			LWLockRelease(db->lock);
		}
	}
	if (db != NULL && claim)
		db->claimed = true;
	LWLockRelease(es_shared->lock);
	return db;
}

SharedDatabase *
es_claim_database(void)
{
	if (my_database == NULL && es_shared != NULL)
		my_database = find_or_make(MyDatabaseId, true);
	return my_database;
}

SharedDatabase *
es_my_database(void)
{
	if (my_database != NULL || es_shared == NULL)
		return my_database;
	Assert(OidIsValid(MyDatabaseId));
	if (es_claim_database() == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases with an event store in this cluster"),
				 errdetail("At most %d databases can have one.",
						   ES_MAX_DATABASES)));
	return my_database;
}

SharedDatabase *
es_my_database_if_any(void)
{
	SharedDatabase *db;

	if (my_database != NULL || es_shared == NULL || !OidIsValid(MyDatabaseId))
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
	return find_or_make(database, false);
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
