/*
 * life.c
 *		An aggregate in the hands of who moves its events: to the archive, back, or away.
 *
 * Events go in chunks, each by one statement that deletes them here and inserts them
 * there, the first ones first.  So under every snapshot each event is in one of the two
 * tables; what the archive has of an aggregate comes before what the log has of it;
 * and wherever a move is left off, nothing is wrong.
 *
 * Two who move the same aggregate come one after the other: a lock of its own, its life,
 * which appends do not take.  Only who moves the last event needs the lock of the aggregate,
 * since with that the head goes: while it is held nothing is appended, what was staged is
 * drained, and nothing that could be staged again has died.  Until then the aggregate
 * is open.  Its lock comes after its life in the order of locks.
 *
 * Rows are moved under the latest snapshot, at every isolation level, as appends read
 * heads: what was appended meanwhile belongs to the aggregate, whatever the caller's own
 * snapshot says.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/head_cache.h"
#include "ground/lock.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "keep/life.h"
#include "log/closed_aggregate.h"
#include "log/log_change.h"
#include "replay/saga_event.h"
#include "staging/dead_letter.h"
#include "staging/flush.h"
#include "staging/head.h"
#include "staging/own_rows.h"
#include "staging/staged_scan.h"

/* What executors may still report to is not put away. */
static bool
is_running_saga(const Life *life)
{
	static KeptPlan plan = {"SELECT 1 FROM event_store.sagas s"
							" WHERE s.saga_name OPERATOR(pg_catalog.=) $1"
							" AND s.saga_id OPERATOR(pg_catalog.=) $2"
							" AND s.state OPERATOR(pg_catalog.=) ANY"
							" (ARRAY['completed', 'compensated', 'failed'])",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2];
	OwnerScope scope;
	bool ended;

	if (!es_is_saga_type(life->type))
		return false;
	values[0] = CStringGetTextDatum(TextDatumGetCString(life->type) +
									strlen(ES_SAGA_PREFIX));
	values[1] = life->id;
	es_begin(&scope);
	ended = es_execute_latest(&plan, values, NULL) > 0;
	es_end(&scope);
	return !ended;
}

void
es_require_archive(void)
{
	if (!OidIsValid(es_own_store()->archive))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the store has no archive"),
						errhint("Run SELECT event_store.create_store();")));
}

/*
 * The aggregate's lock comes after these two: who moves it waits for it, and so may who
 * erases, who holds the archive.  Who has it, since he has appended, does not wait for them.
 */
static void
lock_life(const Life *life)
{
	if (!es_holds_pair(ES_LOCK_AGGREGATE, life->hash))
	{
		es_lock_hash(ES_LOCK_LIFE, life->hash, ExclusiveLock);
		LockRelationOid(es_store()->archive, RowExclusiveLock);
	}
	else if (!es_try_lock_hash(ES_LOCK_LIFE, life->hash, ExclusiveLock) ||
			 !ConditionalLockRelationOid(es_store()->archive, RowExclusiveLock))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to another transaction that moves or erases events of %s/%s",
						TextDatumGetCString(life->type),
						TextDatumGetCString(life->id)),
				 errhint("The transaction might succeed if retried.")));
}

void
es_begin_life(Life *life, const char *function, Datum type, Datum id)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	es_require_archive();
	*life = (Life){.type = type, .id = id, .hash = es_pair_hash(type, id)};
	es_move_own_rows();
	es_note_write();
	es_note_durable_write();
	lock_life(life);
	if (is_running_saga(life))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("saga %s/%s has not ended",
							   TextDatumGetCString(life->type),
							   TextDatumGetCString(life->id))));
}

/* What the latest snapshot says of the aggregate, whose lock is held. */
static void
read_latest_head(const Life *life, Head *head)
{
	StagedRead read;
	bool staged = es_begin_latest_read(&read, es_store()->events);

	es_read_head(life->type, life->id, GetActiveSnapshot(), staged, head);
	if (es_has_dead_letters(life->type, life->id, GetActiveSnapshot()))
		ereport(ERROR,
				(errcode(ES_ERRCODE_DEAD_LETTERS),
				 errmsg("aggregate %s/%s has dead letters",
						TextDatumGetCString(life->type),
						TextDatumGetCString(life->id)),
				 errhint("Settle them with retry_dead_letters or discard_dead_letters.")));
	es_end_staged_read(&read);
}

AggregateState
es_stop_appends(const Life *life)
{
	Head head;

	es_lock_pair(ES_LOCK_AGGREGATE, life->hash);
	for (;;)
	{
		read_latest_head(life, &head);
		if (!head.staged)
			return head.state;
		es_settle(NULL, NULL);
		/* a trigger may have staged in this very transaction */
		es_move_own_rows();
	}
}

LifeTaken
es_try_life(Life *life, Datum type, Datum id, int64 last, bool archived)
{
	Head head;

	*life = (Life){.type = type, .id = id, .hash = es_pair_hash(type, id)};
	if (!es_try_lock_hash(ES_LOCK_LIFE, life->hash, ExclusiveLock) ||
		!ConditionalLockRelationOid(es_store()->archive, RowExclusiveLock) ||
		!es_try_lock_pair(ES_LOCK_AGGREGATE, life->hash))
		return ES_LIFE_HELD;
	es_note_write();
	es_note_durable_write();
	read_latest_head(life, &head);
	if (head.staged || head.sequence != last ||
		head.state != (archived ? ES_AGGREGATE_ARCHIVED : ES_AGGREGATE_OPEN) ||
		is_running_saga(life))
		return ES_LIFE_OTHERWISE;
	return ES_LIFE_TAKEN;
}

/*
 * The first events of an aggregate, from one table into the other.  It tells how many were
 * taken and how many put, up to which position, and how many of them as they were.
 */
#define MOVE(from, into, returned, same)                             \
	"WITH moved AS (DELETE FROM " from " AS e"                       \
	" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"              \
	" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"                  \
	" AND e.sequence OPERATOR(pg_catalog.<) LEAST($3,"               \
	" (SELECT n.sequence FROM " from " n"                            \
	" WHERE n.aggregate_type OPERATOR(pg_catalog.=) $1"              \
	" AND n.aggregate_id OPERATOR(pg_catalog.=) $2"                  \
	" ORDER BY n.sequence OFFSET $4 LIMIT 1)) RETURNING {event e})," \
	" inserted AS (INSERT INTO " into " ({event})"                   \
	" SELECT {event m} FROM moved m RETURNING " returned ")"         \
	" SELECT (SELECT pg_catalog.count(*) FROM moved),"               \
	" pg_catalog.count(*), pg_catalog.max(i.global_position), " same \
	" FROM inserted i"

#define THE_LOG "event_store.domain_events"
#define THE_ARCHIVE "event_store.domain_events_archive"

#define MOVE_AS_GIVEN(from, into) \
	MOVE(from, into, "global_position", "pg_catalog.count(*)")
#define MOVE_COMPARED(from, into)                                         \
	MOVE(from, into, "{event}",                                           \
		 "(SELECT pg_catalog.count(*) FROM moved m JOIN inserted n"       \
		 " ON n.global_position OPERATOR(pg_catalog.=) m.global_position" \
		 " WHERE m OPERATOR(pg_catalog.*=) n)")

#define MOVE_PLAN(text)                        \
	{                                          \
		text, 4,                               \
		{                                      \
			TEXTOID, TEXTOID, INT8OID, INT4OID \
		}                                      \
	}

/* What a move of a chunk has told. */
typedef struct Moved
{
	int64 taken;
	int64 put;
	int64 position;
	int64 same;
} Moved;

static int64
number_of(int column)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* A trigger may do as it likes with what is appended; what is moved stays as it is. */
static void
refuse_changed(const Moved *moved, Move move)
{
	const char *into =
		move == ES_MOVE_TO_ARCHIVE ? "domain_events_archive" : "domain_events";

	if (moved->put != moved->taken || moved->same != moved->taken)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a trigger on %s %s events that are moved, so none is", into,
						moved->put != moved->taken ? "suppresses" : "changes"),
				 errhint("Let it pass them, or make it one after INSERT.")));
}

int64
es_move_events(const Life *life, Move move, int64 before, int limit)
{
	/* by whether what is put has to be compared */
	static KeptPlan plans[][2] =
		{[ES_MOVE_TO_ARCHIVE] = {MOVE_PLAN(MOVE_AS_GIVEN(THE_LOG, THE_ARCHIVE)),
								 MOVE_PLAN(MOVE_COMPARED(THE_LOG, THE_ARCHIVE))},
		 [ES_MOVE_TO_LOG] = {MOVE_PLAN(MOVE_AS_GIVEN(THE_ARCHIVE, THE_LOG)),
							 MOVE_PLAN(MOVE_COMPARED(THE_ARCHIVE, THE_LOG))}};
	Datum values[4] = {life->type, life->id, Int64GetDatum(before),
					   Int32GetDatum(limit)};
	bool to_archive = move == ES_MOVE_TO_ARCHIVE;
	Oid from = to_archive ? es_store()->events : es_store()->archive;
	Oid into = to_archive ? es_store()->archive : es_store()->events;
	OwnerScope scope;
	Moved moved;

	CHECK_FOR_INTERRUPTS();
	es_begin(&scope);
	(void) es_change_log(&plans[move][!es_inserts_as_given(into)], values, NULL,
						 from, ES_CHANGE_DELETE);
	moved = (Moved){number_of(1), number_of(2), number_of(3), number_of(4)};
	refuse_changed(&moved, move);
	if (moved.taken > 0)
		es_note_move(moved.position);
	es_end(&scope);
	return moved.taken;
}

int64
es_move_all_events(const Life *life, Move move, int64 before)
{
	int64 total = 0;
	int64 moved;

	while ((moved = es_move_events(life, move, before, ES_CHUNK_ROWS)) > 0)
		total += moved;
	return total;
}

void
es_change_life(const Life *life, KeptPlan *plan)
{
	Datum values[2] = {life->type, life->id};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(plan, values, NULL);
	es_end(&scope);
}

void
es_close_archived(const Life *life)
{
	static KeptPlan plan = {"INSERT INTO event_store.closed_aggregates"
							" (aggregate_type, aggregate_id, state, last_sequence,"
							" last_position, last_recorded_at)"
							" SELECT e.aggregate_type, e.aggregate_id, 'archived',"
							" e.sequence, e.global_position, e.recorded_at"
							" FROM event_store.domain_events_archive e"
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.aggregate_id OPERATOR(pg_catalog.=) $2"
							" ORDER BY e.sequence DESC LIMIT 1",
							2,
							{TEXTOID, TEXTOID}};

	es_change_life(life, &plan);
	es_forget_head(es_my_database(), life->type, life->id);
}

void
es_open_again(const Life *life)
{
	static KeptPlan plan = {"DELETE FROM event_store.closed_aggregates AS c"
							" WHERE c.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND c.aggregate_id OPERATOR(pg_catalog.=) $2",
							2,
							{TEXTOID, TEXTOID}};

	es_change_life(life, &plan);
	es_forget_head(es_my_database(), life->type, life->id);
}
