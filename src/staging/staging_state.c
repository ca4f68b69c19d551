/*
 * staging_state.c
 *		Whether staging takes rows, as shared memory knows it.
 *
 *		UNKNOWN --opened--> OPEN --empty--> CLOSED	(from UNKNOWN, too, if it was)
 *		 ^                   | ^              |
 *		 '---- store gone ---' '--- opened ---'
 *
 * The state speaks of the segments of one CREATE EXTENSION, named by the first
 * of them.  After another one it is out of date until the worker has opened
 * staging anew, so whoever reads or writes segments asks for both.
 *
 * It is read without the lock.  A writer announces its rows first, and who
 * closes staging sets the state first: see staging.c.
 */
#include "postgres.h"

#include "access/transam.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#include "ground/catalog.h"
#include "ground/shmem.h"
#include "staging/staging_state.h"

#define FROM(state) (1 << ES_STAGING_##state)

/* The states that may come before each. */
PG_USED_FOR_ASSERTS_ONLY static const int states_before[] =
	{[ES_STAGING_UNKNOWN] = FROM(UNKNOWN) | FROM(OPEN) | FROM(CLOSED),
	 [ES_STAGING_OPEN] = FROM(UNKNOWN) | FROM(OPEN) | FROM(CLOSED),
	 [ES_STAGING_CLOSED] = FROM(UNKNOWN) | FROM(OPEN) | FROM(CLOSED)};

StaticAssertDecl(lengthof(states_before) == ES_STAGING_CLOSED + 1,
				 "what may come before each state");

static void
initialise_share(void *memory)
{
	StagingShare *share = memory;

	pg_atomic_init_u64(&share->next_sid, 1);
	pg_atomic_init_u64(&share->unmoved_from, 0);
	pg_atomic_init_u64(&share->unmoved_since, PG_UINT64_MAX);
	for (int i = 0; i < ES_SEGMENTS; i++)
	{
		pg_atomic_init_u64(&share->segment_rows[i], 0);
		pg_atomic_init_u32(&share->generations[i], 0);
	}
	pg_atomic_init_u32(&share->wanted, 0);
	pg_atomic_init_u64(&share->uncommitted, 0);
	pg_atomic_init_u64(&share->staged_events, 0);
	pg_atomic_init_u64(&share->staged_views, 0);
}

static void
clear_share(SharedDatabase *db)
{
	StagingShare *share = es_staging(db);

	es_set_staging_state(db, ES_STAGING_UNKNOWN);
	share->table = InvalidOid;
	share->epoch = 0;
	share->active_segment = 0;
	memset(share->segments, 0, sizeof(share->segments));
	share->lost_count = 0;
	share->last_drained = InvalidFullTransactionId;
	share->rounds = 0;
	for (int i = 0; i < ES_SEGMENTS; i++)
		pg_atomic_write_u64(&share->segment_rows[i], 0);
	pg_atomic_write_u32(&share->wanted, 0);
	pg_atomic_write_u64(&share->next_sid, 1);
	pg_atomic_write_u64(&share->unmoved_since, PG_UINT64_MAX);
	pg_atomic_write_u64(&share->uncommitted, 0);
	pg_atomic_write_u64(&share->staged_events, 0);
	pg_atomic_write_u64(&share->staged_views, 0);
	share->first_staged_at = 0;
	share->dead_letters_possible = true;
}

DatabasePart es_staging_part = {sizeof(StagingShare), initialise_share,
								clear_share};

void
es_share_staging(void)
{
	es_share_by_database(&es_staging_part);
}

void
es_set_staging_state(SharedDatabase *db, StagingState state)
{
	Assert(LWLockHeldByMeInMode(db->lock, LW_EXCLUSIVE));
	Assert((states_before[state] & (1 << es_staging(db)->state)) != 0);
	es_staging(db)->state = state;
}

bool
es_staging_is(const SharedDatabase *db, StagingState state)
{
	return es_staging(db)->state == state;
}

static bool
is_of_this_extension(const SharedDatabase *db)
{
	return es_staging(db)->table == es_store()->segments[0].table;
}

bool
es_staging_known(const SharedDatabase *db)
{
	return db != NULL && !es_staging_is(db, ES_STAGING_UNKNOWN) &&
		   is_of_this_extension(db);
}

bool
es_staging_open(const SharedDatabase *db)
{
	return db != NULL && es_staging_is(db, ES_STAGING_OPEN) &&
		   is_of_this_extension(db);
}

/* A row may be drained, and taken off, before its transaction counted it. */
uint64
es_staged_rows(SharedDatabase *db)
{
	int64 rows = (int64) (pg_atomic_read_u64(&es_staging(db)->staged_events) +
						  pg_atomic_read_u64(&es_staging(db)->staged_views));

	return (uint64) Max(rows, 0);
}
