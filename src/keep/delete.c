/*
 * delete.c
 *		delete_aggregate(): the end of an aggregate.
 *
 * Its events go, from the log and from the archive, in one transaction: a part of them would
 * be another history.  What remains is a row that says so, a tombstone, by which
 * its id is never new again.  Snapshots go with the events that they were made of, and
 * those that are being made are waited for; what consumers have made of events is
 * theirs, and they are told by an event.  What is set aside of them is set aside no more.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"

#include "consume/parked.h"
#include "ground/archive_mark.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/head_cache.h"
#include "ground/metrics.h"
#include "ground/shmem.h"
#include "keep/delete.h"
#include "keep/erasure.h"
#include "keep/life.h"
#include "log/closed_aggregate.h"
#include "log/log_change.h"

PG_FUNCTION_INFO_V1(es_delete_aggregate);

/* Who makes a snapshot, or rebuilds a view, holds the table of upcasters. */
bool
es_hold_off_snapshots(bool waits)
{
	Oid table = es_store()->upcasters;

	if (waits)
		LockRelationOid(table, ExclusiveLock);
	return waits || ConditionalLockRelationOid(table, ExclusiveLock);
}

/* Leaves the tombstone, if there is or was an event; returns whether it does. */
static bool
bury_aggregate(const Life *life, Datum reason)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.closed_aggregates AS c"
		 " (aggregate_type, aggregate_id, state, last_sequence,"
		 " last_position, last_recorded_at, reason)"
		 " SELECT e.aggregate_type, e.aggregate_id, 'deleted',"
		 " e.sequence, e.global_position, e.recorded_at, $3"
		 " FROM (SELECT * FROM (SELECT {event h} FROM event_store.domain_events h"
		 " WHERE h.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND h.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " ORDER BY h.sequence DESC LIMIT 1) AS h UNION ALL"
		 " SELECT * FROM (SELECT {event a} FROM event_store.domain_events_archive a"
		 " WHERE a.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND a.aggregate_id OPERATOR(pg_catalog.=) $2"
		 " ORDER BY a.sequence DESC LIMIT 1) AS a) AS e"
		 " ORDER BY e.sequence DESC LIMIT 1"
		 " ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE"
		 " SET state = 'deleted', reason = excluded.reason,"
		 " closed_at = pg_catalog.clock_timestamp()",
		 3,
		 {TEXTOID, TEXTOID, TEXTOID}};
	Datum values[3] = {life->type, life->id, reason};
	OwnerScope scope;
	bool left;

	es_begin(&scope);
	left = es_execute_latest(&plan, values, NULL) > 0;
	es_end(&scope);
	return left;
}

/* Of one table the first events of an aggregate, so many at most. */
#define DELETE_FROM(table)                                            \
	"WITH gone AS (DELETE FROM " table " AS e"                        \
	" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"               \
	" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"                   \
	" AND e.sequence OPERATOR(pg_catalog.<) COALESCE("                \
	" (SELECT n.sequence FROM " table " n"                            \
	" WHERE n.aggregate_type OPERATOR(pg_catalog.=) $1"               \
	" AND n.aggregate_id OPERATOR(pg_catalog.=) $2"                   \
	" ORDER BY n.sequence OFFSET $3 LIMIT 1), 9223372036854775807)"   \
	" RETURNING e.global_position, e.event_id, e.sequence)"           \
	" SELECT pg_catalog.count(*), pg_catalog.max(g.global_position)," \
	" pg_catalog.array_agg(g.global_position ORDER BY g.sequence),"   \
	" pg_catalog.array_agg(g.event_id ORDER BY g.sequence) FROM gone g"

/* Deletes a chunk; fills in which events these were, in the caller's memory. */
static int64
delete_chunk(const Life *life, bool archive, Erasure *erasure)
{
	static KeptPlan plans[2] = {{DELETE_FROM("event_store.domain_events"),
								 3,
								 {TEXTOID, TEXTOID, INT4OID}},
								{DELETE_FROM("event_store.domain_events_archive"),
								 3,
								 {TEXTOID, TEXTOID, INT4OID}}};
	Datum values[3] = {life->type, life->id, Int32GetDatum(ES_CHUNK_ROWS)};
	MemoryContext caller = CurrentMemoryContext;
	Datum columns[4];
	OwnerScope scope;
	int64 count;

	CHECK_FOR_INTERRUPTS();
	es_begin(&scope);
	(void) es_change_log(&plans[archive], values, NULL,
						 archive ? es_store()->archive : es_store()->events,
						 ES_CHANGE_DELETE);
	for (int i = 0; i < 4; i++)
	{
		bool isnull;

		columns[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								   i + 1, &isnull);
	}
	count = DatumGetInt64(columns[0]);
	if (count > 0)
	{
		MemoryContext inside = MemoryContextSwitchTo(caller);

		erasure->positions = datumCopy(columns[2], false, -1);
		erasure->event_ids = datumCopy(columns[3], false, -1);
		MemoryContextSwitchTo(inside);
		es_note_move(DatumGetInt64(columns[1]));
	}
	es_end(&scope);
	return count;
}

/* Deletes and announces what one table has. */
static int64
delete_from(const Life *life, bool archive, Datum reason)
{
	int64 total = 0;
	int64 count;

	for (;;)
	{
		Erasure erasure = {.kind = ES_DELETED_EVENT, .reason = reason};

		count = delete_chunk(life, archive, &erasure);
		if (count == 0)
			return total;
		total += count;
		erasure.id = es_new_erasure();
		es_announce_erasure(&erasure, "delete_aggregate()");
		es_forget_parked(erasure.positions);
	}
}

/* What was made of the events and is read instead of them. */
static void
delete_snapshots(const Life *life)
{
	static KeptPlan plan = {"DELETE FROM event_store.snapshots AS s"
							" WHERE s.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND s.aggregate_id OPERATOR(pg_catalog.=) $2",
							2,
							{TEXTOID, TEXTOID}};

	es_change_life(life, &plan);
}

int64
es_delete_whole(const Life *life, Datum reason)
{
	int64 total;

	if (es_stop_appends(life) == ES_AGGREGATE_DELETED ||
		!bury_aggregate(life, reason))
		return 0;
	total = delete_from(life, true, reason);
	total += delete_from(life, false, reason);
	delete_snapshots(life);
	es_forget_head(es_my_database(), life->type, life->id);
	es_count_many(ES_COUNT_DELETED_EVENTS, total);
	return total;
}

Datum
es_delete_aggregate(PG_FUNCTION_ARGS)
{
	Life life;
	int64 deleted;
	text *type;
	text *id;
	text *reason;

	es_begin_call(ES_CALL_DELETE_AGGREGATE);
	type = es_required_text(fcinfo, 0, "aggregate_type");
	id = es_required_text(fcinfo, 1, "aggregate_id");
	reason = es_required_text(fcinfo, 2, "reason");
	PreventCommandIfReadOnly("delete_aggregate()");
	(void) es_hold_off_snapshots(true);
	es_begin_life(&life, "delete_aggregate()", PointerGetDatum(type),
				  PointerGetDatum(id));
	deleted = es_delete_whole(&life, PointerGetDatum(reason));
	es_end_call(ES_CALL_DELETE_AGGREGATE, 0);
	PG_RETURN_INT64(deleted);
}
