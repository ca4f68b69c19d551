/*
 * saga_clock.c
 *		The times of sagas' steps when the clock is set back.
 *
 * A pause, a lease, a queue timeout last for some time from a moment on.  By the clock that
 * is a time of day, which a clock that is set back by a day makes come a day later.  So each
 * row of saga_steps says when it was written, and one that was written later than
 * now has all its times moved by as much.
 *
 * The rows are looked through once after a start of the server, and when the clock tells less
 * than it was known to have told, which shared memory remembers: else it costs a look at
 * one number.  Rows that somebody is just writing are passed over, and looked at the next time.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/projector_slot.h"
#include "ground/shmem.h"
#include "log/outside_write.h"
#include "saga/saga_clock.h"
#include "saga/saga_work.h"

/* A clock that goes back by more was set back, ... */
#define CLOCK_STEP USECS_PER_SEC
/* ... and what it tells is remembered after so much. */
#define CLOCK_NOTE (USECS_PER_SEC / 10)

static bool
is_behind(SharedDatabase *db, TimestampTz now)
{
	TimestampTz seen = es_saga_clock(db);

	return seen == 0 || now < seen - CLOCK_STEP;
}

bool
es_is_saga_clock_behind(void)
{
	SharedDatabase *db = es_my_database();

	return db != NULL && is_behind(db, GetCurrentTimestamp());
}

/* In UTC, whose days are all as long; returns how many rows were moved. */
static uint64
move_back(TimestampTz now)
{
	static KeptPlan plan =
		{"WITH ahead AS MATERIALIZED (SELECT a.saga_name, a.saga_id, a.step"
		 " FROM event_store.saga_steps a"
		 " WHERE a.written_at OPERATOR(pg_catalog.>) $1 FOR UPDATE SKIP LOCKED)"
		 " UPDATE event_store.saga_steps s SET written_at = $1,"
		 " claimable_at = pg_catalog.timezone('UTC',"
		 " pg_catalog.timezone('UTC', s.claimable_at) OPERATOR(pg_catalog.-)"
		 " (pg_catalog.timezone('UTC', s.written_at) OPERATOR(pg_catalog.-)"
		 " pg_catalog.timezone('UTC', $1))),"
		 " run_at = pg_catalog.timezone('UTC',"
		 " pg_catalog.timezone('UTC', s.run_at) OPERATOR(pg_catalog.-)"
		 " (pg_catalog.timezone('UTC', s.written_at) OPERATOR(pg_catalog.-)"
		 " pg_catalog.timezone('UTC', $1))),"
		 " due_at = pg_catalog.timezone('UTC',"
		 " pg_catalog.timezone('UTC', s.due_at) OPERATOR(pg_catalog.-)"
		 " (pg_catalog.timezone('UTC', s.written_at) OPERATOR(pg_catalog.-)"
		 " pg_catalog.timezone('UTC', $1)))"
		 " FROM ahead a WHERE s.saga_name OPERATOR(pg_catalog.=) a.saga_name"
		 " AND s.saga_id OPERATOR(pg_catalog.=) a.saga_id"
		 " AND s.step OPERATOR(pg_catalog.=) a.step",
		 1,
		 {TIMESTAMPTZOID}};
	Datum values[1] = {TimestampTzGetDatum(now)};

	return es_write_ours(&plan, values, NULL);
}

static bool
is_any_ahead(TimestampTz now)
{
	static KeptPlan plan = {"SELECT 1 FROM event_store.saga_steps s"
							" WHERE s.written_at OPERATOR(pg_catalog.>) $1 LIMIT 1",
							1,
							{TIMESTAMPTZOID}};
	Datum values[1] = {TimestampTzGetDatum(now)};

	return es_execute_latest(&plan, values, NULL) > 0;
}

bool
es_heed_saga_clock(void)
{
	SharedDatabase *db = es_my_database();
	TimestampTz now = GetCurrentTimestamp();
	OwnerScope scope;
	bool moved;

	if (db == NULL)
		return false;
	if (!is_behind(db, now))
	{
		if (now > es_saga_clock(db) + CLOCK_NOTE)
			es_set_saga_clock(db, now);
		return false;
	}
	/* whose snapshot is old must not write rows that are newer */
	if (IsolationUsesXactSnapshot())
		return false;
	es_begin(&scope);
	moved = is_any_ahead(now) && move_back(now) > 0;
	if (moved)
	{
		es_note_saga_work(true, now);
		es_note_projectors_wanted();
	}
	if (!is_any_ahead(now))
		es_note_saga_clock(now);
	es_end(&scope);
	return moved;
}
