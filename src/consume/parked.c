/*
 * parked.c
 *		What is set aside of a subscription, in two tables.
 *
 * parked_events has one row for each partition that is set aside, from its first
 * event that is not settled on: what follows stands in the log, and waits.  An
 * event that is parked alone has a row of its own (state 'event'), and its
 * partition goes on.  subscription_marks has the events that were passed over alone
 * before their member got there.
 *
 * Rows of a partition change under its member's lock; to retry what is parked only
 * changes when that is due.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/settings.h"

/* So many that are due are looked at for one of a member. */
#define DUE_ROWS 1000

#define PARTITION_ROW                                      \
	" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1" \
	" AND p.partition_key OPERATOR(pg_catalog.=) $2"       \
	" AND p.state OPERATOR(pg_catalog.<>) 'event'"

/* One column of a row of SPI's last result. */
static Datum
value_of(uint64 row, int number)
{
	bool isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 &isnull);
}

/* Runs in a scope of its own: it is asked from within other statements. */
Aside
es_find_aside(Datum name, Datum partition, int64 position, bool behind)
{
	static KeptPlan plan =
		{"SELECT CASE p.state WHEN 'event' THEN 2 ELSE 3 END"
		 " FROM event_store.parked_events p"
		 " WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
		 " AND p.partition_key OPERATOR(pg_catalog.=) $2"
		 " AND p.global_position OPERATOR(pg_catalog.<=) $3"
		 " AND CASE p.state WHEN 'event' THEN p.global_position OPERATOR(pg_catalog.=) $3"
		 " ELSE $4 END"
		 " UNION ALL SELECT 1 FROM event_store.subscription_marks m"
		 " WHERE m.subscription_name OPERATOR(pg_catalog.=) $1"
		 " AND m.global_position OPERATOR(pg_catalog.=) $3",
		 4,
		 {TEXTOID, TEXTOID, INT8OID, BOOLOID}};
	Datum values[4] = {name, partition, Int64GetDatum(position),
					   BoolGetDatum(behind)};
	OwnerScope scope;
	Aside found = ES_NOT_ASIDE;

	es_begin_read(&scope);
	if (es_execute(&plan, values, NULL, true, SPI_OK_SELECT) > 0)
		found = (Aside) DatumGetInt32(value_of(0, 1));
	es_end(&scope);
	return found;
}

bool
es_find_parked(Datum name, Datum partition, ParkedRow *row)
{
	static KeptPlan plan = {"SELECT p.global_position, p.attempts,"
							" p.state OPERATOR(pg_catalog.=) 'retrying'"
							" FROM event_store.parked_events p" PARTITION_ROW,
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {name, partition};
	bool found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, values, NULL, true, SPI_OK_SELECT) > 0;
	PopActiveSnapshot();
	if (!found)
		return false;
	row->position = DatumGetInt64(value_of(0, 1));
	row->attempts = DatumGetInt32(value_of(0, 2));
	row->retrying = DatumGetBool(value_of(0, 3));
	return true;
}

TimestampTz
es_retry_at(int attempts)
{
	double pause = es_retry_initial;

	for (int i = 1; i < attempts && pause < es_retry_max; i++)
		pause *= 2;
	return GetCurrentTimestamp() + (TimestampTz) (Min(pause, es_retry_max) * 1000);
}

void
es_set_aside(Datum name, Datum partition, const ParkedRow *row, Datum error)
{
	static KeptPlan plan =
		{"WITH gone AS (DELETE FROM event_store.parked_events p" PARTITION_ROW
		 " RETURNING p.error_message)"
		 " INSERT INTO event_store.parked_events (subscription_name, partition_key,"
		 " global_position, event_id, state, attempts, retry_at, error_message)"
		 " SELECT $1, $2, $3, e.event_id, $4, $5, $6,"
		 " COALESCE($7, (SELECT g.error_message FROM gone g))"
		 " FROM event_store.domain_events e"
		 " WHERE e.global_position OPERATOR(pg_catalog.=) $3",
		 7,
		 {TEXTOID, TEXTOID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID}};
	Datum values[7] = {name,
					   partition,
					   Int64GetDatum(row->position),
					   CStringGetTextDatum(row->retrying ? "retrying" : "parked"),
					   Int32GetDatum(row->attempts),
					   TimestampTzGetDatum(row->attempts == 0
											   ? GetCurrentTimestamp()
											   : es_retry_at(row->attempts)),
					   error};
	char nulls[7] = {' ',
					 ' ',
					 ' ',
					 ' ',
					 ' ',
					 row->retrying ? ' ' : 'n',
					 error == 0 ? 'n' : ' '};
	ParkedRow there;

	/* of the row at the same place its key is still there for the statement */
	if (es_find_parked(name, partition, &there) && there.position == row->position)
	{
		static KeptPlan update =
			{"UPDATE event_store.parked_events p SET state = $4, attempts = $5,"
			 " retry_at = $6, error_message = COALESCE($7, p.error_message),"
			 " parked_at = pg_catalog.clock_timestamp()" PARTITION_ROW
			 " AND p.global_position OPERATOR(pg_catalog.=) $3",
			 7,
			 {TEXTOID, TEXTOID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID,
			  TEXTOID}};

		es_execute(&update, values, nulls, false, SPI_OK_UPDATE);
	}
	else
		es_execute(&plan, values, nulls, false, SPI_OK_INSERT);
}

void
es_release_partition(Datum name, Datum partition)
{
	static KeptPlan plan = {"DELETE FROM event_store.parked_events p" PARTITION_ROW,
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {name, partition};

	es_execute(&plan, values, NULL, false, SPI_OK_DELETE);
}

void
es_park_event(Datum name, Datum partition, int64 position, Datum error)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.parked_events (subscription_name, partition_key,"
		 " global_position, event_id, state, attempts, error_message)"
		 " SELECT $1, $2, $3, e.event_id, 'event', 1, $4"
		 " FROM event_store.domain_events e"
		 " WHERE e.global_position OPERATOR(pg_catalog.=) $3"
		 " ON CONFLICT (subscription_name, partition_key, global_position) DO UPDATE"
		 " SET state = 'event', retry_at = NULL,"
		 " attempts = parked_events.attempts OPERATOR(pg_catalog.+) 1,"
		 " error_message = COALESCE(excluded.error_message, parked_events.error_message)",
		 4,
		 {TEXTOID, TEXTOID, INT8OID, TEXTOID}};
	Datum values[4] = {name, partition, Int64GetDatum(position), error};
	char nulls[4] = {' ', ' ', ' ', error == 0 ? 'n' : ' '};

	es_execute(&plan, values, nulls, false, SPI_OK_INSERT);
}

void
es_mark_event(Datum name, int64 position)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.subscription_marks (subscription_name, global_position)"
		 " VALUES ($1, $2) ON CONFLICT (subscription_name, global_position) DO NOTHING",
		 2,
		 {TEXTOID, INT8OID}};
	Datum values[2] = {name, Int64GetDatum(position)};

	es_execute(&plan, values, NULL, false, SPI_OK_INSERT);
}

void
es_settle_alone(Datum name, Datum partition, int64 position, int64 served)
{
	static KeptPlan plan = {"DELETE FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND p.partition_key OPERATOR(pg_catalog.=) $2"
							" AND p.global_position OPERATOR(pg_catalog.=) $3",
							3,
							{TEXTOID, TEXTOID, INT8OID}};
	Datum values[3] = {name, partition, Int64GetDatum(position)};

	ParkedRow row;

	es_execute(&plan, values, NULL, false, SPI_OK_DELETE);
	if (position > served ||
		(es_find_parked(name, partition, &row) && row.position < position))
		es_mark_event(name, position);
}

bool
es_find_due(const Subscription *subscription, int member, int64 served,
			DueRetry *due)
{
	static KeptPlan plan = {"SELECT p.partition_key, p.global_position,"
							" p.state OPERATOR(pg_catalog.=) 'event', p.attempts"
							" FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND p.retry_at OPERATOR(pg_catalog.<=) $2"
							" ORDER BY p.retry_at LIMIT $3",
							3,
							{TEXTOID, TIMESTAMPTZOID, INT8OID}};
	Datum values[3] = {subscription->name,
					   TimestampTzGetDatum(GetCurrentTimestamp()),
					   Int64GetDatum(DUE_ROWS)};
	uint64 count;

	PushActiveSnapshot(GetLatestSnapshot());
	count = es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	for (uint64 i = 0; i < count; i++)
	{
		due->partition = PointerGetDatum(PG_DETOAST_DATUM_COPY(value_of(i, 1)));
		due->position = DatumGetInt64(value_of(i, 2));
		due->alone = DatumGetBool(value_of(i, 3));
		due->attempts = DatumGetInt32(value_of(i, 4));
		if (due->position <= served &&
			es_partition_member(DatumGetTextPP(due->partition),
								subscription->members) == member)
			return true;
	}
	return false;
}

void
es_drop_parked(Datum name)
{
	static KeptPlan parked = {"DELETE FROM event_store.parked_events p"
							  " WHERE p.subscription_name OPERATOR(pg_catalog.=) $1",
							  1,
							  {TEXTOID}};
	static KeptPlan marks = {"DELETE FROM event_store.subscription_marks m"
							 " WHERE m.subscription_name OPERATOR(pg_catalog.=) $1",
							 1,
							 {TEXTOID}};

	es_execute(&parked, &name, NULL, false, SPI_OK_DELETE);
	es_execute(&marks, &name, NULL, false, SPI_OK_DELETE);
}
