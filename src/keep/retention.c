/*
 * retention.c
 *		set_retention(), and its work: aggregates of a type are archived, and deleted,
 *		when their last event is old enough.
 *
 * The log is walked once, in the order of positions, by a position that is stored for each
 * type.  Of each aggregate the walk meets the last event last; so when it comes to an
 * event that is old enough and has none behind it, the aggregate is due.  One that
 * goes on after the walk has passed it is met again further on.  The walk ends before the
 * first event of its type that is not old enough, which says when to go on.
 *
 * What is archived already is deleted by what closed_aggregates says of its last event; that it
 * cannot be deleted is noted there, too, so that nobody tries again and again.
 *
 * A step is a transaction that looks at a bounded number of events and moves a bounded
 * number; an aggregate of more events goes over in several, and stays open until the
 * last.  Nobody is waited for: what somebody holds is tried again later.  Locks of aggregates and
 * of what is wanted of a type are taken if they are free; who has locked rows or tables is found
 * only by waiting, and that is given up soon, since timers and views wait for the process.  An
 * aggregate that cannot be moved, since a foreign key keeps it or it has dead letters, is passed over and
 * logged; calling set_retention() again begins a walk anew.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/metrics.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "ground/transaction.h"
#include "keep/archive.h"
#include "keep/closing.h"
#include "keep/delete.h"
#include "keep/life.h"
#include "keep/retention.h"

PG_FUNCTION_INFO_V1(es_set_retention);

/* A step looks at so many events, and moves or deletes about so many. */
#define LOOKED_AT 2000
#define MOVED ES_CHUNK_ROWS
/* Of archived aggregates it deletes so many. */
#define DELETED 100
/* It waits so long for rows and tables that somebody has locked. */
#define LOCK_TIMEOUT "100ms"
/* What is held by somebody, or has still to be got by somebody, is tried again so late. */
#define HELD_MS 1000
#define AWAITED_MS 60000
/* A walk that has come to the end of the log goes on no sooner. */
#define SHORTEST_PAUSE_MS 1000

/* ---------- what is wanted ---------- */

static void
check_age(FunctionCallInfo fcinfo, int argno, const char *name)
{
	Interval zero = {0};

	if (!PG_ARGISNULL(argno) &&
		DatumGetBool(DirectFunctionCall2(interval_lt, PG_GETARG_DATUM(argno),
										 IntervalPGetDatum(&zero))))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative", name)));
}

static void
check_types(FunctionCallInfo fcinfo, int argno)
{
	int count = -1;
	Datum *types;

	if (PG_ARGISNULL(argno))
		return;
	es_array_argument(fcinfo, argno, "closed_by", false, &count, &types, NULL);
	/* no event is of a type of an empty list: nothing would ever be moved */
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("closed_by must not be empty"),
				 errhint("NULL means that an aggregate may end with any type of event.")));
	for (int i = 0; i < count; i++)
		es_check_name(types[i], false, psprintf("closed_by[%d]", i + 1), NULL,
					  true);
}

Datum
es_set_retention(PG_FUNCTION_ARGS)
{
	static KeptPlan set =
		{"INSERT INTO event_store.retention AS r"
		 " (aggregate_type, archive_after, closed_by, delete_after)"
		 " VALUES ($1, $2, $3, $4) ON CONFLICT (aggregate_type) DO UPDATE"
		 " SET archive_after = $2, closed_by = $3, delete_after = $4, position = 0,"
		 " set_at = pg_catalog.clock_timestamp()",
		 4,
		 {TEXTOID, INTERVALOID, TEXTARRAYOID, INTERVALOID}};
	static KeptPlan clear = {"DELETE FROM event_store.retention AS r"
							 " WHERE r.aggregate_type OPERATOR(pg_catalog.=) $1",
							 1,
							 {TEXTOID}};
	static KeptPlan try_anew =
		{"UPDATE event_store.closed_aggregates AS c SET reason = NULL"
		 " WHERE c.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND c.state OPERATOR(pg_catalog.=) 'archived' AND c.reason IS NOT NULL",
		 1,
		 {TEXTOID}};
	bool ends = PG_ARGISNULL(1) && PG_ARGISNULL(3);
	Datum values[4];
	char nulls[4];
	OwnerScope scope;

	es_begin_call(ES_CALL_SET_RETENTION);
	values[0] = PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	nulls[0] = ' ';
	check_age(fcinfo, 1, "archive_after");
	check_types(fcinfo, 2);
	check_age(fcinfo, 3, "delete_after");
	PreventCommandIfReadOnly("set_retention()");
	PreventCommandIfParallelMode("set_retention()");
	es_require_archive();
	for (int i = 1; i < 4; i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	es_note_write();
	es_begin(&scope);
	(void) es_execute_latest(ends ? &clear : &set, values, nulls);
	(void) es_execute_latest(&try_anew, values, NULL);
	es_end(&scope);
	es_note_timer(ES_TIMER_RETENTION, ES_TIMER_UNKNOWN);
	es_end_call(ES_CALL_SET_RETENTION, 0);
	PG_RETURN_VOID();
}

/* ---------- a step ---------- */

/* What is wanted of a type, at this moment. */
typedef struct Retention
{
	Datum type;
	Datum closed_by; /* text[]; (Datum) 0 = any */
	TimestampTz set_at;
	int64 position;
	/* last events that are not later are old enough; DT_NOBEGIN = none is */
	TimestampTz archive_until;
	TimestampTz delete_until;
} Retention;

/* A step, over all types. */
typedef struct RetentionStep
{
	MemoryContext context;
	TimestampTz now;
	int64 awaited; /* what lies behind this position somebody has still to get */
	int looks_left;
	int64 moves_left;
	TimestampTz next; /* when there is something more to do */
} RetentionStep;

typedef enum Outcome
{
	PUT_OFF, /* somebody holds it */
	PUT_AWAY,
	PUT_AWAY_IN_PART,
	PASSED_OVER
} Outcome;

/* An event that is the last one of its aggregate and old enough. */
typedef struct LastEvent
{
	const Retention *retention;
	RetentionStep *step;
	Datum id;
	int64 position;
	int64 sequence;
	TimestampTz recorded_at;
	bool archived;
	bool deletes;
	Outcome outcome;
} LastEvent;

static TimestampTz
later(const RetentionStep *step, int milliseconds)
{
	return TimestampTzPlusMilliseconds(step->now, milliseconds);
}

static void
goes_on_at(RetentionStep *step, TimestampTz at)
{
	step->next = Min(step->next, at);
}

/* Of what is old enough to be archived or deleted, the younger. */
static TimestampTz
until(const Retention *retention)
{
	return Max(retention->archive_until, retention->delete_until);
}

/* Types that the last events may have that were written; (Datum) 0 = any. */
static Datum
stored_types(const Retention *retention)
{
	return retention->closed_by == (Datum) 0
			   ? (Datum) 0
			   : es_stored_closing_types(retention->type, retention->closed_by);
}

/* How many types there are. */
static int64
count_retention(void)
{
	static KeptPlan plan = {"SELECT 1 FROM event_store.retention r"};
	OwnerScope scope;
	int64 count;

	es_begin(&scope);
	count = (int64) es_execute_latest(&plan, NULL, NULL);
	es_end(&scope);
	return count;
}

/*
 * The types, in the caller's memory, but for those of which somebody is just changing what is
 * wanted.
 */
static Retention *
read_retention(RetentionStep *step, int *count)
{
	static KeptPlan plan =
		{"SELECT r.aggregate_type, r.closed_by, r.set_at, r.position,"
		 " COALESCE($1 OPERATOR(pg_catalog.-) r.archive_after, '-infinity'),"
		 " COALESCE($1 OPERATOR(pg_catalog.-) r.delete_after, '-infinity')"
		 " FROM event_store.retention r ORDER BY r.aggregate_type"
		 " FOR NO KEY UPDATE SKIP LOCKED",
		 1,
		 {TIMESTAMPTZOID}};
	Datum now = TimestampTzGetDatum(step->now);
	Retention *list;
	OwnerScope scope;

	es_begin(&scope);
	*count = (int) es_execute_latest(&plan, &now, NULL);
	list = MemoryContextAlloc(step->context, Max(*count, 1) * sizeof(Retention));
	for (int i = 0; i < *count; i++)
	{
		Datum columns[6];
		bool nulls[6];
		MemoryContext inside;

		for (int c = 0; c < 6; c++)
			columns[c] = SPI_getbinval(SPI_tuptable->vals[i],
									   SPI_tuptable->tupdesc, c + 1, &nulls[c]);
		inside = MemoryContextSwitchTo(step->context);
		list[i] =
			(Retention){.type = datumCopy(columns[0], false, -1),
						.closed_by = nulls[1] ? (Datum) 0
											  : datumCopy(columns[1], false, -1),
						.set_at = DatumGetTimestampTz(columns[2]),
						.position = DatumGetInt64(columns[3]),
						.archive_until = DatumGetTimestampTz(columns[4]),
						.delete_until = DatumGetTimestampTz(columns[5])};
		MemoryContextSwitchTo(inside);
	}
	es_end(&scope);
	return list;
}

/*
 * Where the least of all subscriptions and projections stands; what one has set aside it has still
 * to get.  The position of an inline view is that of its switch, and it lacks nothing.
 */
static int64
awaited_position(void)
{
	static KeptPlan plan = {
		"SELECT COALESCE(LEAST((SELECT pg_catalog.min(p.position)"
		" FROM (SELECT DISTINCT ON (m.subscription_name, m.member) m.position"
		" FROM event_store.subscription_positions m"
		" WHERE NOT EXISTS (SELECT FROM event_store.projections i"
		" WHERE i.projection_name OPERATOR(pg_catalog.=) m.subscription_name"
		" AND i.mode OPERATOR(pg_catalog.=) 'inline')"
		" ORDER BY m.subscription_name, m.member, m.number DESC) AS p),"
		" (SELECT pg_catalog.min(a.global_position) OPERATOR(pg_catalog.-) 1"
		" FROM event_store.parked_events a)), 9223372036854775807)"};
	OwnerScope scope;
	int64 position;
	bool isnull;

	es_begin(&scope);
	(void) es_execute_latest(&plan, NULL, NULL);
	position = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										   SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	return position;
}

/*
 * Does what is due of an aggregate, as far as this step may; runs in a subtransaction.  What is
 * not as it was when it was found is left alone: it is met again, or not due.
 */
static bool
put_away(void *arg)
{
	LastEvent *last = arg;
	RetentionStep *step = last->step;
	int64 moved;
	Life life;

	last->outcome = PUT_OFF;
	if (last->deletes && !es_hold_off_snapshots(false))
		return true;
	switch (es_try_life(&life, last->retention->type, last->id, last->sequence,
						last->archived))
	{
		case ES_LIFE_HELD:
			return true;
		case ES_LIFE_OTHERWISE:
			last->outcome = PASSED_OVER;
			return true;
		case ES_LIFE_TAKEN:
			break;
	}
	last->outcome = PUT_AWAY;
	if (last->deletes)
	{
		step->moves_left -=
			es_delete_whole(&life, CStringGetTextDatum("retention"));
		return true;
	}
	moved =
		es_move_events(&life, ES_MOVE_TO_ARCHIVE, last->sequence, ES_CHUNK_ROWS);
	if (moved < ES_CHUNK_ROWS)
		moved += es_archive_whole(&life);
	else
		last->outcome = PUT_AWAY_IN_PART;
	step->moves_left -= moved;
	es_count_many(ES_COUNT_ARCHIVED_EVENTS, moved);
	return true;
}

/* What another try may find otherwise: somebody holds something, or comes between. */
static bool
is_of_the_moment(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   ERRCODE_TO_CATEGORY(sqlerrcode) ==
			   ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK);
}

/* Errors that are an aggregate's own: the next one may do better. */
static bool
is_of_the_aggregate(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) ||
		   category ==
			   ERRCODE_TO_CATEGORY(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_RAISE_EXCEPTION) ||
		   sqlerrcode == ES_ERRCODE_DEAD_LETTERS;
}

/* Notes of an archived aggregate why it stays; the code of an error has nothing of its content. */
static void
note_not_deleted(const LastEvent *last, const char *why)
{
	static KeptPlan plan = {"UPDATE event_store.closed_aggregates AS c SET reason = $3"
							" WHERE c.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND c.aggregate_id OPERATOR(pg_catalog.=) $2",
							3,
							{TEXTOID, TEXTOID, TEXTOID}};
	Datum values[3] = {last->retention->type, last->id,
					   CStringGetTextDatum(psprintf("not deleted: %s", why))};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(&plan, values, NULL);
	es_end(&scope);
}

/* It stays as it is, for an error that is its own. */
static void
pass_over(LastEvent *last, ErrorData *error)
{
	ereport(LOG, (errmsg("aggregate %s/%s cannot be %s: %s",
						 TextDatumGetCString(last->retention->type),
						 TextDatumGetCString(last->id),
						 last->deletes ? "deleted" : "archived", error->message)));
	if (last->archived)
		note_not_deleted(last, unpack_sql_state(error->sqlerrcode));
	FreeErrorData(error);
	last->outcome = PASSED_OVER;
}

/* Whether its last event is, in its last version, what aggregates of the type end with. */
static bool
is_closed(LastEvent *last)
{
	const Retention *retention = last->retention;
	ErrorData *error = NULL;

	if (retention->closed_by == (Datum) 0 ||
		es_is_closing(retention->type, last->id, last->sequence,
					  retention->closed_by, &error))
		return true;
	last->outcome = PASSED_OVER;
	if (error != NULL)
		pass_over(last, error);
	else if (last->archived)
		note_not_deleted(last, "its last event is another one");
	return false;
}

static void
try_to_put_away(LastEvent *last)
{
	ErrorData *error;

	if (!is_closed(last))
		return;
	error = es_in_subtransaction(put_away, last);
	if (error == NULL)
		return;
	if (is_of_the_moment(error->sqlerrcode))
	{
		FreeErrorData(error);
		last->outcome = PUT_OFF;
		return;
	}
	if (!is_of_the_aggregate(error->sqlerrcode))
		ReThrowError(error);
	pass_over(last, error);
}

/*
 * Takes one that is old enough in hand; false if the walk ends before it.
 */
static bool
take_last_event(LastEvent *last)
{
	const Retention *retention = last->retention;
	RetentionStep *step = last->step;

	last->deletes = last->recorded_at <= retention->delete_until;
	if (last->deletes && last->position > step->awaited)
	{
		goes_on_at(step, later(step, AWAITED_MS));
		last->deletes = false;
		if (last->archived || last->recorded_at > retention->archive_until)
			return false;
	}
	if (step->moves_left <= 0)
	{
		goes_on_at(step, step->now);
		return false;
	}
	try_to_put_away(last);
	if (last->outcome == PUT_OFF)
		goes_on_at(step, later(step, HELD_MS));
	else if (last->outcome == PUT_AWAY_IN_PART)
		goes_on_at(step, step->now);
	return last->outcome == PUT_AWAY || last->outcome == PASSED_OVER;
}

/* ---------- the walk ---------- */

/* A row of the walk. */
enum
{
	WALK_POSITION,
	WALK_ID,
	WALK_SEQUENCE,
	WALK_RECORDED_AT,
	WALK_OF_TYPE,
	WALK_IS_DUE,
	WALK_COLUMNS
};

/*
 * The next events of the log, in the caller's memory: of which aggregate of the type each is the
 * last event, as far as it is of the type.
 */
static Datum *
read_walk(const Retention *retention, RetentionStep *step, int64 safe, int *count)
{
	static KeptPlan plan =
		{"SELECT e.global_position, e.aggregate_id, e.sequence, e.recorded_at,"
		 " e.aggregate_type OPERATOR(pg_catalog.=) $1,"
		 " CASE WHEN e.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND e.recorded_at OPERATOR(pg_catalog.<=) $4"
		 " AND ($5 IS NULL OR e.event_type OPERATOR(pg_catalog.=) ANY ($5))"
		 " THEN NOT EXISTS (SELECT FROM event_store.domain_events n"
		 " WHERE n.aggregate_type OPERATOR(pg_catalog.=) e.aggregate_type"
		 " AND n.aggregate_id OPERATOR(pg_catalog.=) e.aggregate_id"
		 " AND n.sequence OPERATOR(pg_catalog.>) e.sequence) ELSE false END"
		 " FROM event_store.domain_events e"
		 " WHERE e.global_position OPERATOR(pg_catalog.>) $2"
		 " AND e.global_position OPERATOR(pg_catalog.<=) $3"
		 " ORDER BY e.global_position LIMIT $6",
		 6,
		 {TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID, TEXTARRAYOID, INT8OID}};
	Datum values[6] = {retention->type,
					   Int64GetDatum(retention->position),
					   Int64GetDatum(safe),
					   TimestampTzGetDatum(until(retention)),
					   stored_types(retention),
					   Int64GetDatum(step->looks_left)};
	const char nulls[6] = {' ',
						   ' ',
						   ' ',
						   ' ',
						   retention->closed_by == (Datum) 0 ? 'n' : ' ',
						   ' '};
	Datum *rows;
	OwnerScope scope;

	es_begin(&scope);
	*count = (int) es_execute_latest(&plan, values, nulls);
	rows = MemoryContextAlloc(step->context,
							  Max(*count, 1) * WALK_COLUMNS * sizeof(Datum));
	for (int i = 0; i < *count * WALK_COLUMNS; i++)
	{
		int column = i % WALK_COLUMNS;
		MemoryContext inside;
		bool isnull;

		rows[i] = SPI_getbinval(SPI_tuptable->vals[i / WALK_COLUMNS],
								SPI_tuptable->tupdesc, column + 1, &isnull);
		if (column != WALK_ID)
			continue;
		inside = MemoryContextSwitchTo(step->context);
		rows[i] = datumCopy(rows[i], false, -1);
		MemoryContextSwitchTo(inside);
	}
	es_end(&scope);
	return rows;
}

/* How far the walk of a type has come, unless it has begun anew since. */
static void
store_position(const Retention *retention)
{
	static KeptPlan plan = {"UPDATE event_store.retention AS r SET position = $2"
							" WHERE r.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND r.set_at OPERATOR(pg_catalog.=) $3",
							3,
							{TEXTOID, INT8OID, TIMESTAMPTZOID}};
	Datum values[3] = {retention->type, Int64GetDatum(retention->position),
					   TimestampTzGetDatum(retention->set_at)};
	OwnerScope scope;

	es_begin(&scope);
	(void) es_execute_latest(&plan, values, NULL);
	es_end(&scope);
}

/* Walks on over what may be looked at; the position is that of the last event passed. */
static void
walk(Retention *retention, RetentionStep *step, int64 safe)
{
	int64 begin = retention->position;
	TimestampTz old_enough = until(retention);
	Datum *rows;
	int count;
	int i;

	rows = read_walk(retention, step, safe, &count);
	for (i = 0; i < count; i++)
	{
		const Datum *row = &rows[i * WALK_COLUMNS];
		LastEvent last = {.retention = retention,
						  .step = step,
						  .id = row[WALK_ID],
						  .position = DatumGetInt64(row[WALK_POSITION]),
						  .sequence = DatumGetInt64(row[WALK_SEQUENCE]),
						  .recorded_at =
							  DatumGetTimestampTz(row[WALK_RECORDED_AT])};

		CHECK_FOR_INTERRUPTS();
		if (DatumGetBool(row[WALK_OF_TYPE]) && last.recorded_at > old_enough)
		{
			goes_on_at(step, step->now + (last.recorded_at - old_enough));
			break;
		}
		if (DatumGetBool(row[WALK_IS_DUE]) && !take_last_event(&last))
			break;
		retention->position = last.position;
	}
	if (i == count && count == step->looks_left)
		goes_on_at(step, step->now);
	else if (i == count)
		goes_on_at(step, Max(step->now + (step->now - old_enough),
							 later(step, SHORTEST_PAUSE_MS)));
	step->looks_left -= i;
	if (retention->position != begin)
		store_position(retention);
}

/* ---------- what is archived ---------- */

/* Archived aggregates of a type that are old enough to be deleted, in the caller's memory. */
static LastEvent *
read_archived(const Retention *retention, RetentionStep *step, int *count)
{
	static KeptPlan plan =
		{"SELECT c.aggregate_id, c.last_position, c.last_sequence, c.last_recorded_at"
		 " FROM event_store.closed_aggregates c"
		 " WHERE c.aggregate_type OPERATOR(pg_catalog.=) $1"
		 " AND c.state OPERATOR(pg_catalog.=) 'archived' AND c.reason IS NULL"
		 " AND c.last_recorded_at OPERATOR(pg_catalog.<=) $2"
		 " AND c.last_position OPERATOR(pg_catalog.<=) $3"
		 " AND ($4 IS NULL OR EXISTS (SELECT FROM event_store.domain_events_archive e"
		 " WHERE e.global_position OPERATOR(pg_catalog.=) c.last_position"
		 " AND e.event_type OPERATOR(pg_catalog.=) ANY ($4)))"
		 " ORDER BY c.last_recorded_at LIMIT $5",
		 5,
		 {TEXTOID, TIMESTAMPTZOID, INT8OID, TEXTARRAYOID, INT8OID}};
	Datum values[5] = {retention->type,
					   TimestampTzGetDatum(retention->delete_until),
					   Int64GetDatum(step->awaited), stored_types(retention),
					   Int64GetDatum(DELETED)};
	const char nulls[5] = {' ', ' ', ' ',
						   retention->closed_by == (Datum) 0 ? 'n' : ' ', ' '};
	LastEvent *list;
	OwnerScope scope;

	es_begin(&scope);
	*count = (int) es_execute_latest(&plan, values, nulls);
	list = MemoryContextAllocZero(step->context,
								  Max(*count, 1) * sizeof(LastEvent));
	for (int i = 0; i < *count; i++)
	{
		Datum columns[4];
		bool isnull;
		MemoryContext inside;

		for (int c = 0; c < 4; c++)
			columns[c] = SPI_getbinval(SPI_tuptable->vals[i],
									   SPI_tuptable->tupdesc, c + 1, &isnull);
		inside = MemoryContextSwitchTo(step->context);
		list[i] = (LastEvent){.retention = retention,
							  .step = step,
							  .id = datumCopy(columns[0], false, -1),
							  .position = DatumGetInt64(columns[1]),
							  .sequence = DatumGetInt64(columns[2]),
							  .recorded_at = DatumGetTimestampTz(columns[3]),
							  .archived = true};
		MemoryContextSwitchTo(inside);
	}
	es_end(&scope);
	return list;
}

/* When the next of the archived ones is old enough, or those that are left may be tried again. */
static void
plan_deletes(const Retention *retention, RetentionStep *step)
{
	static KeptPlan plan = {"SELECT pg_catalog.min(c.last_recorded_at)"
							" FROM event_store.closed_aggregates c"
							" WHERE c.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND c.state OPERATOR(pg_catalog.=) 'archived'"
							" AND c.reason IS NULL",
							1,
							{TEXTOID}};
	Datum type = retention->type;
	OwnerScope scope;
	TimestampTz first;
	bool isnull;

	es_begin(&scope);
	(void) es_execute_latest(&plan, &type, NULL);
	first = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 1, &isnull));
	es_end(&scope);
	if (!isnull)
		goes_on_at(step, Max(step->now + (first - retention->delete_until),
							 later(step, AWAITED_MS)));
}

static void
delete_archived(const Retention *retention, RetentionStep *step)
{
	int count;
	LastEvent *list = read_archived(retention, step, &count);

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!take_last_event(&list[i]))
			break;
	}
	if (count == DELETED)
		goes_on_at(step, step->now);
	plan_deletes(retention, step);
}

/* ---------- the timer ---------- */

TimestampTz
es_find_retention(void)
{
	if (!OidIsValid(es_store()->archive))
		return DT_NOEND;
	return count_retention() > 0 ? GetCurrentTimestamp() : DT_NOEND;
}

/* A step of each type, as far as it goes; returns when there is something more to do. */
static TimestampTz
run_step(void)
{
	static int first = 0; /* the types take turns */
	RetentionStep step = {.context = CurrentMemoryContext,
						  .now = GetCurrentTimestamp(),
						  .looks_left = LOOKED_AT,
						  .moves_left = MOVED,
						  .next = DT_NOEND};
	FeedState feed;
	Retention *list;
	TimestampTz end;
	int count;

	list = read_retention(&step, &count);
	if (count < count_retention())
		goes_on_at(&step, later(&step, HELD_MS));
	if (count == 0)
		return step.next;
	step.awaited = awaited_position();
	es_read_feed_state(es_my_database(), &feed);
	first = (first + 1) % count;
	for (int i = 0; i < count; i++)
	{
		Retention *retention = &list[(first + i) % count];

		if (step.looks_left <= 0 || step.moves_left <= 0)
		{
			goes_on_at(&step, step.now);
			break;
		}
		walk(retention, &step, feed.safe);
		if (retention->delete_until != DT_NOBEGIN)
			delete_archived(retention, &step);
	}
	/* half of the time is that of others */
	end = GetCurrentTimestamp();
	return step.next > step.now ? step.next : end + (end - step.now);
}

TimestampTz
es_run_retention(TimestampTz noted)
{
	int settings = NewGUCNestLevel();
	TimestampTz next = DT_NOEND;

	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (OidIsValid(es_own_store()->archive))
		next = run_step();
	AtEOXact_GUC(false, settings);
	return next;
}
