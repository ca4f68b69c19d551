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
 *
 * Called by everything that shares something.
 */
#include "event_store.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

SharedState *es_shared = NULL;
InFlight *es_in_flight = NULL;
HeadCache *es_head_cache = NULL;
SharedMetrics *es_metrics = NULL;

static SharedDatabase *my_database = NULL;
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static void
request_memory(void)
{
	if (previous_request_hook != NULL)
		previous_request_hook();
	RequestAddinShmemSpace(sizeof(SharedState));
	RequestAddinShmemSpace(mul_size(MaxBackends, sizeof(InFlight)));
	RequestAddinShmemSpace(es_head_cache_size());
	RequestAddinShmemSpace(es_metrics_size());
	RequestNamedLWLockTranche(ES_SCHEMA, ES_MAX_DATABASES + 1);
}

/* Makes a slot ready for its first database. */
static void
initialise_slot(SharedDatabase *db, LWLock *lock)
{
	db->lock = lock;
	SpinLockInit(&db->position_mutex);
	pg_atomic_init_u64(&db->next_sid, 1);
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		pg_atomic_init_u64(&db->segment_rows[i], 0);
		pg_atomic_init_u32(&db->generations[i], 0);
	}
	pg_atomic_init_u64(&db->uncommitted, 0);
	pg_atomic_init_u64(&db->staged_events, 0);
	pg_atomic_init_u64(&db->staged_views, 0);
	es_init_drain_progress(&db->drain);
	ConditionVariableInit(&db->position_ended);
	pg_atomic_init_u32(&db->position_unstored, 0);
	pg_atomic_init_u32(&db->head_generation, 0);
	es_init_worker_slot(&db->worker);
}

static void
startup_memory(void)
{
	bool found;

	if (previous_startup_hook != NULL)
		previous_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	es_shared = ShmemInitStruct(ES_SCHEMA, sizeof(SharedState), &found);
	if (!found)
	{
		LWLockPadded *locks = GetNamedLWLockTranche(ES_SCHEMA);

		memset(es_shared, 0, sizeof(SharedState));
		es_shared->lock = &locks[0].lock;
		pg_atomic_init_u64(&es_shared->reserved_pairs, 0);
		es_init_launcher_slot(&es_shared->launcher);
		for (int i = 0; i < ES_MAX_DATABASES; i++)
			initialise_slot(&es_shared->databases[i], &locks[i + 1].lock);
		for (int i = 0; i < ES_MAX_REBUILDS; i++)
			pg_atomic_init_u64(&es_shared->rebuilds[i].done, 0);
	}
	es_in_flight =
		ShmemInitStruct("event_store positions in flight",
						mul_size(MaxBackends, sizeof(InFlight)), &found);
	if (!found)
	{
		memset(es_in_flight, 0, mul_size(MaxBackends, sizeof(InFlight)));
		for (int i = 0; i < MaxBackends; i++)
			pg_atomic_init_u64(&es_in_flight[i].position, 0);
	}
	es_head_cache =
		ShmemInitStruct("event_store heads", es_head_cache_size(), &found);
	if (!found)
		es_head_cache_init(es_head_cache);
	es_metrics =
		ShmemInitStruct("event_store metrics", es_metrics_size(), &found);
	if (!found)
		es_metrics_init(es_metrics);
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
	LWLockAcquire(db->lock, LW_EXCLUSIVE);
	db->database = database;
	db->claimed = false;
	SpinLockAcquire(&db->position_mutex);
	db->position_sequence = InvalidOid;
	db->next_position = 0;
	db->position_limit = 0;
	db->position_recheck = false;
	SpinLockRelease(&db->position_mutex);
	pg_atomic_write_u32(&db->position_unstored, 0);
	pg_atomic_fetch_add_u32(&db->head_generation, 1);
	es_set_staging_state(db, ES_STAGING_UNKNOWN);
	db->staging_table = InvalidOid;
	db->staging_epoch = 0;
	db->active_segment = 0;
	memset(db->segments, 0, sizeof(db->segments));
	db->lost_count = 0;
	db->last_drained = InvalidFullTransactionId;
	db->rounds = 0;
	for (int i = 0; i < ES_SEGMENTS; i++)
		pg_atomic_write_u64(&db->segment_rows[i], 0);
	pg_atomic_write_u64(&db->next_sid, 1);
	pg_atomic_write_u64(&db->uncommitted, 0);
	pg_atomic_write_u64(&db->staged_events, 0);
	pg_atomic_write_u64(&db->staged_views, 0);
	db->first_staged_at = 0;
	db->dead_letters_possible = true;
	es_clear_drain_progress(db);
	db->first_due = 0;
	db->due_count = 0;
	es_clear_worker_slot(db);
	es_clear_metrics(db);
	LWLockRelease(db->lock);
}

/* Finds the slot of a database; SharedState.lock is held. */
static SharedDatabase *
slot_of(Oid database)
{
	Assert(LWLockHeldByMe(es_shared->lock));
	for (int i = 0; i < ES_MAX_DATABASES; i++)
	{
		if (es_shared->databases[i].database == database)
			return &es_shared->databases[i];
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
			assign_slot(db, database);
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

/* Gives back the slot of a database that is no more. */
void
es_free_database(Oid database)
{
	SharedDatabase *db;

	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	db = slot_of(database);
	if (db != NULL)
		assign_slot(db, InvalidOid);
	LWLockRelease(es_shared->lock);
	if (db != NULL)
		es_tell_progress(db);
}

void
es_release_database(Oid database)
{
	SharedDatabase *db;
	bool idle;

	LWLockAcquire(es_shared->lock, LW_EXCLUSIVE);
	db = slot_of(database);
	if (db != NULL)
	{
		LWLockAcquire(db->lock, LW_SHARED);
		idle = !db->claimed && db->worker.bars == 0 && db->worker.pid == 0 &&
			   db->worker.state == ES_WORKER_NONE;
		LWLockRelease(db->lock);
		if (idle)
			assign_slot(db, InvalidOid);
	}
	LWLockRelease(es_shared->lock);
}
