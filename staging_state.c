/*
 * staging_state.c
 *		Whether staging takes rows, as shared memory knows it.
 *
 *		UNKNOWN --opened--> OPEN --empty--> CLOSED
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
#include "event_store.h"

#define FROM(state) (1 << ES_STAGING_##state)

/* The states that may come before each. */
static const int states_before[] = {[ES_STAGING_UNKNOWN] =
										FROM(UNKNOWN) | FROM(OPEN) | FROM(CLOSED),
									[ES_STAGING_OPEN] =
										FROM(UNKNOWN) | FROM(OPEN) | FROM(CLOSED),
									[ES_STAGING_CLOSED] = FROM(OPEN)};

StaticAssertDecl(lengthof(states_before) == ES_STAGING_CLOSED + 1,
				 "what may come before each state");

void
es_set_staging_state(SharedDatabase *db, StagingState state)
{
	Assert(LWLockHeldByMeInMode(db->lock, LW_EXCLUSIVE));
	Assert((states_before[state] & (1 << db->staging_state)) != 0);
	db->staging_state = state;
}

bool
es_staging_is(const SharedDatabase *db, StagingState state)
{
	return db->staging_state == state;
}

static bool
is_of_this_extension(const SharedDatabase *db)
{
	return db->staging_table == es_store()->segments[0].table;
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
	int64 rows = (int64) (pg_atomic_read_u64(&db->staged_events) +
						  pg_atomic_read_u64(&db->staged_views));

	return (uint64) Max(rows, 0);
}
