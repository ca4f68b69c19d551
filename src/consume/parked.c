/*
 * parked.c
 *		Setting aside, in two tables; aside.c finds what is there.
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
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/aside.h"
#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/log_plan.h"
#include "ground/projector_slot.h"
#include "ground/settings.h"
#include "ground/waiter.h"

PG_FUNCTION_INFO_V1(es_parked_event_state);

#define PARTITION_ROW                                      \
	" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1" \
	" AND p.partition_key OPERATOR(pg_catalog.=) $2"       \
	" AND p.state OPERATOR(pg_catalog.=) ANY ('{retrying,parked}')"

/* The member that has a partition, for a row: who looks for one finds its rows by it. */
static Datum
member_of(const Subscription *subscription, Datum partition)
{
	return Int32GetDatum(es_partition_member(DatumGetTextPP(partition),
											 subscription->members));
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
es_set_aside(const Subscription *subscription, Datum partition,
			 const ParkedRow *row, const FailureCause *cause)
{
	static KeptPlan plan =
		{"WITH gone AS (DELETE FROM event_store.parked_events p" PARTITION_ROW
		 " RETURNING p.error_code, p.error_message, p.batch_limit)"
		 " INSERT INTO event_store.parked_events (subscription_name, partition_key,"
		 " global_position, event_id, state, attempts, retry_at, error_code, error_message,"
		 " batch_limit, member)"
		 " SELECT $1, $2, $3, e.event_id, $4, $5, $6,"
		 " CASE WHEN $8 IS NULL THEN g.error_code ELSE $7 END,"
		 " COALESCE($8, g.error_message), g.batch_limit, $9"
		 " FROM event_store.domain_events e LEFT JOIN gone g ON true"
		 " WHERE e.global_position OPERATOR(pg_catalog.=) $3",
		 9,
		 {TEXTOID, TEXTOID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID,
		  TEXTOID, INT4OID}};
	Datum name = subscription->name;
	Datum values[9] = {name,
					   partition,
					   Int64GetDatum(row->position),
					   CStringGetTextDatum(row->retrying ? "retrying" : "parked"),
					   Int32GetDatum(row->attempts),
					   TimestampTzGetDatum(row->attempts == 0
											   ? GetCurrentTimestamp()
											   : es_retry_at(row->attempts)),
					   cause == NULL ? 0 : cause->code,
					   cause == NULL ? 0 : cause->message,
					   member_of(subscription, partition)};
	char nulls[9] = {' ',
					 ' ',
					 ' ',
					 ' ',
					 ' ',
					 row->retrying ? ' ' : 'n',
					 values[6] == 0 ? 'n' : ' ',
					 values[7] == 0 ? 'n' : ' ',
					 ' '};
	ParkedRow there;

	/* of the row at the same place its key is still there for the statement */
	if (es_find_parked(name, partition, &there) && there.position == row->position)
	{
		static KeptPlan update =
			{"UPDATE event_store.parked_events p SET state = $4, attempts = $5,"
			 " retry_at = $6, error_message = COALESCE($8, p.error_message),"
			 " error_code = CASE WHEN $8 IS NULL THEN p.error_code ELSE $7 END,"
			 " parked_at = pg_catalog.clock_timestamp()" PARTITION_ROW
			 " AND p.global_position OPERATOR(pg_catalog.=) $3",
			 8,
			 {TEXTOID, TEXTOID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID,
			  TEXTOID, TEXTOID}};

		es_execute_latest(&update, values, nulls);
	}
	else
		es_execute_on_log(&plan, row->position - 1, values, nulls,
						  GetLatestSnapshot());
}

void
es_release_partition(Datum name, Datum partition)
{
	static KeptPlan plan = {"DELETE FROM event_store.parked_events p" PARTITION_ROW,
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {name, partition};

	es_execute_latest(&plan, values, NULL);
}

void
es_limit_partition(Datum name, Datum partition, int limit)
{
	static KeptPlan plan =
		{"UPDATE event_store.parked_events p SET batch_limit = $3" PARTITION_ROW,
		 3,
		 {TEXTOID, TEXTOID, INT4OID}};
	Datum values[3] = {name, partition, Int32GetDatum(limit)};

	es_execute_latest(&plan, values, NULL);
}

void
es_park_event(const Subscription *subscription, Datum partition, int64 position,
			  const FailureCause *cause)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.parked_events (subscription_name, partition_key,"
		 " global_position, event_id, state, attempts, error_code, error_message, member)"
		 " SELECT $1, $2, $3, e.event_id, 'event', 1, $4, $5, $6"
		 " FROM event_store.domain_events e"
		 " WHERE e.global_position OPERATOR(pg_catalog.=) $3"
		 " ON CONFLICT (subscription_name, partition_key, global_position) DO UPDATE"
		 " SET state = 'event', retry_at = NULL, parked_at = pg_catalog.clock_timestamp(),"
		 " attempts = parked_events.attempts OPERATOR(pg_catalog.+) 1,"
		 " error_code = CASE WHEN excluded.error_message IS NULL"
		 " THEN parked_events.error_code ELSE excluded.error_code END,"
		 " error_message = COALESCE(excluded.error_message, parked_events.error_message)",
		 6,
		 {TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, INT4OID}};
	Datum values[6] = {subscription->name,
					   partition,
					   Int64GetDatum(position),
					   cause->code,
					   cause->message,
					   member_of(subscription, partition)};
	char nulls[6] = {' ',
					 ' ',
					 ' ',
					 cause->code == 0 ? 'n' : ' ',
					 cause->message == 0 ? 'n' : ' ',
					 ' '};

	es_execute_on_log(&plan, position - 1, values, nulls, GetLatestSnapshot());
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

	es_execute_latest(&plan, values, NULL);
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

	es_execute_latest(&plan, values, NULL);
	if (position > served ||
		(es_find_parked(name, partition, &row) && row.position < position))
		es_mark_event(name, position);
}

void
es_divide_parked(const Subscription *subscription)
{
	static KeptPlan plan =
		{"UPDATE event_store.parked_events p"
		 " SET member = event_store.partition_member(p.partition_key, $2)"
		 " WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
		 " AND p.member OPERATOR(pg_catalog.<>) event_store.partition_member(p.partition_key, $2)",
		 2,
		 {TEXTOID, INT4OID}};
	Datum values[2] = {subscription->name, Int32GetDatum(subscription->members)};

	es_execute_latest(&plan, values, NULL);
}

/*
 * A partition of an aggregate has no event left; one of another kind may, and is due: who
 * serves it next finds out.
 */
void
es_forget_parked(Datum positions)
{
	static KeptPlan gone =
		{"DELETE FROM event_store.parked_events p"
		 " WHERE p.global_position OPERATOR(pg_catalog.=) ANY ($1)"
		 " AND (p.state OPERATOR(pg_catalog.=) 'event' OR EXISTS ("
		 "SELECT FROM event_store.subscriptions s"
		 " WHERE s.subscription_name OPERATOR(pg_catalog.=) p.subscription_name"
		 " AND s.partition_by OPERATOR(pg_catalog.=) 'aggregate'))",
		 1,
		 {INT8ARRAYOID}};
	static KeptPlan due =
		{"UPDATE event_store.parked_events p SET state = 'retrying', attempts = 0,"
		 " retry_at = pg_catalog.clock_timestamp(), batch_limit = NULL,"
		 " error_code = NULL, error_message = NULL"
		 " WHERE p.global_position OPERATOR(pg_catalog.=) ANY ($1)"
		 " RETURNING p.subscription_name",
		 1,
		 {INT8ARRAYOID}};
	OwnerScope scope;
	uint64 count;

	es_begin(&scope);
	(void) es_execute_latest(&gone, &positions, NULL);
	count = es_execute_latest(&due, &positions, NULL);
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum name = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								   1, &isnull);

		es_note_freed(es_subscription_hash(name), true);
	}
	es_end(&scope);
	if (count > 0)
		es_note_projectors_wanted();
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

	es_execute_latest(&parked, &name, NULL);
	es_execute_latest(&marks, &name, NULL);
}

/* parked_event_state(): the rows of parked_event_status. */
Datum
es_parked_event_state(PG_FUNCTION_ARGS)
{
	/* another key than the aggregate's is made of what events hold */
	static KeptPlan plan = {
		"SELECT p.subscription_name,"
		" CASE WHEN s.partition_by OPERATOR(pg_catalog.=) 'aggregate' THEN p.partition_key END,"
		" p.global_position, p.event_id, p.state, p.attempts, p.retry_at,"
		" p.error_code, p.parked_at FROM event_store.parked_events p"
		" JOIN event_store.subscriptions s"
		" ON s.subscription_name OPERATOR(pg_catalog.=) p.subscription_name"
		" ORDER BY p.subscription_name, p.global_position"};

	return es_return_rows(fcinfo, &plan);
}
