/*
 * retry.c
 *		Going on with what is set aside: by retrying it, by passing over it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "consume/aside.h"
#include "consume/consume.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/retry.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/projector_slot.h"
#include "ground/waiter.h"
#include "read/feed.h"

PG_FUNCTION_INFO_V1(es_retry_parked_events);
PG_FUNCTION_INFO_V1(es_discard_parked_events);

void
es_advance_partition(const Subscription *subscription, Datum partition,
					 int64 after, int64 served)
{
	Stretch next = {.subscription = subscription,
					.member = -1,
					.partition = partition,
					.max_count = 1};
	ParkedRow row = {.retrying = true};

	es_read_stretches(&next, after, served);
	if (next.count == 0)
	{
		es_release_partition(subscription->name, partition);
		return;
	}
	row.position = next.positions[0];
	es_set_aside(subscription, partition, &row, NULL);
}

void
es_settle_retried(const Subscription *subscription, Datum partition, bool alone,
				  int64 up_to, int64 served)
{
	if (alone)
		es_settle_alone(subscription->name, partition, up_to, served);
	else
		es_advance_partition(subscription, partition, up_to, served);
}

/*
 * Marks behind the position are forgotten.  A partition whose first event lies behind it
 * waits from the first one there on.
 */
void
es_move_parked(const Subscription *subscription, int64 position)
{
	static KeptPlan marks = {"DELETE FROM event_store.subscription_marks m"
							 " WHERE m.subscription_name OPERATOR(pg_catalog.=) $1"
							 " AND m.global_position OPERATOR(pg_catalog.>) $2",
							 2,
							 {TEXTOID, INT8OID}};
	static KeptPlan rows = {"SELECT p.partition_key, p.global_position,"
							" p.state OPERATOR(pg_catalog.=) 'retrying'"
							" FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND p.state OPERATOR(pg_catalog.<>) 'event'"
							" AND p.global_position OPERATOR(pg_catalog.>) $2",
							2,
							{TEXTOID, INT8OID}};
	Datum values[2] = {subscription->name, Int64GetDatum(position)};
	uint64 count;
	SPITupleTable *table;

	es_execute_latest(&marks, values, NULL);
	count = es_execute_latest(&rows, values, NULL);
	table = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum partition =
			SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);
		int64 first = DatumGetInt64(SPI_getbinval(table->vals[i],
												  table->tupdesc, 2, &isnull));
		Stretch before = {.subscription = subscription,
						  .member = -1,
						  .partition = partition,
						  .max_count = 1};
		ParkedRow row = {.retrying = DatumGetBool(SPI_getbinval(table->vals[i],
																table->tupdesc,
																3, &isnull))};

		es_read_stretches(&before, position, first - 1);
		if (before.count == 0)
			continue;
		row.position = before.positions[0];
		es_set_aside(subscription, partition, &row, NULL);
	}
}

#define RETRY                                                                  \
	"UPDATE event_store.parked_events p SET attempts = 0, batch_limit = NULL," \
	" retry_at = pg_catalog.statement_timestamp(),"                            \
	" state = CASE WHEN p.state OPERATOR(pg_catalog.=) 'event' THEN p.state"   \
	" ELSE 'retrying' END WHERE p.subscription_name OPERATOR(pg_catalog.=) $1" \
	" AND ($3 IS NULL OR p.global_position OPERATOR(pg_catalog.=) ANY ($3))"

/*
 * What is parked is due at once, with all its attempts, and in the order of positions where it was
 * parked alone.  Whoever retries it just now is waited for.
 */
Datum
es_retry_parked_events(PG_FUNCTION_ARGS)
{
	/* found by the partition where it is given, so there are two statements */
	static KeptPlan of_all = {RETRY, 3, {TEXTOID, TEXTOID, INT8ARRAYOID}};
	static KeptPlan of_partition = {RETRY
									" AND p.partition_key OPERATOR(pg_catalog.=) $2",
									3,
									{TEXTOID, TEXTOID, INT8ARRAYOID}};
	Datum values[3] = {
		PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"))};
	char nulls[3] = {' ', PG_ARGISNULL(1) ? 'n' : ' ',
					 PG_ARGISNULL(2) ? 'n' : ' '};
	Subscription subscription;
	OwnerScope scope;
	int64 count;

	es_begin_call(ES_CALL_RETRY_PARKED_EVENTS);
	values[1] = PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1);
	values[2] = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	es_begin_consuming("retry_parked_events()");
	es_consume_durably();
	es_begin(&scope);
	es_note_freed(es_subscription_hash(values[0]), true);
	es_read_subscription(values[0], &subscription);
	count = (int64) es_execute_latest(PG_ARGISNULL(1) ? &of_all : &of_partition,
									  values, nulls);
	es_end(&scope);
	es_note_projectors_wanted();
	es_end_call(ES_CALL_RETRY_PARKED_EVENTS, count);
	PG_RETURN_INT64(count);
}

/* ---------- passing over ---------- */

/* Passes over the events that were parked alone; returns how many. */
static int64
discard_alone(Datum name, Datum partition, int64 served)
{
	static KeptPlan plan = {"SELECT p.global_position FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND p.partition_key OPERATOR(pg_catalog.=) $2"
							" AND p.state OPERATOR(pg_catalog.=) 'event'",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {name, partition};
	uint64 count = es_execute_latest(&plan, values, NULL);
	SPITupleTable *table = SPI_tuptable;

	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;

		es_settle_alone(name, partition,
						DatumGetInt64(SPI_getbinval(table->vals[i],
													table->tupdesc, 1, &isnull)),
						served);
	}
	return (int64) count;
}

static void
keep_history(Datum name, Datum partition, const int64 *bounds, int64 events,
			 Datum reason)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.discarded_events (subscription_name, partition_key,"
		 " first_position, last_position, events, reason) VALUES ($1, $2, $3, $4, $5, $6)",
		 6,
		 {TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, TEXTOID}};
	Datum values[6] = {name,
					   partition,
					   Int64GetDatum(bounds[0]),
					   Int64GetDatum(bounds[1]),
					   Int64GetDatum(events),
					   reason};
	char nulls[6] = {' ',
					 ' ',
					 bounds[0] == 0 ? 'n' : ' ',
					 bounds[0] == 0 ? 'n' : ' ',
					 ' ',
					 ' '};

	es_execute_latest(&plan, values, nulls);
}

/*
 * Marks the events of a partition that lie ahead of its member: it passes over them when
 * it gets there.
 */
static void
mark_ahead(const Subscription *s, const Stretch *events, int64 first, int64 served)
{
	if (first > served)
		es_mark_event(s->name, first);
	for (int64 i = 0; i < events->count; i++)
	{
		if (events->positions[i] > served)
			es_mark_event(s->name, events->positions[i]);
	}
}

/*
 * Passes over a partition from its first event as far as it was served, or as an
 * open batch goes.  Returns how many events that are.  The batch of a lease that is
 * retrying it is lost with it.
 */
static int64
discard_partition(const Subscription *s, Datum partition, int64 *bounds)
{
	int member = es_partition_member(DatumGetTextPP(partition), s->members);
	MemberState state = es_newest_member(s->name, member);
	int64 passed = es_member_passed(s->hash, member, &state);
	int64 served = es_partition_served(s, DatumGetTextPP(partition), passed);
	bool voided = state.lease.partition != 0 &&
				  es_same_text(state.lease.partition, partition);
	/* what is passed over must be of it */
	Stretch events = {.subscription = s,
					  .member = -1,
					  .partition = partition,
					  .max_count = PG_INT64_MAX,
					  .exact = true};
	ParkedRow row;
	int64 last;

	if (voided)
		state.lease = (Lease){0};
	last = state.lease.partition == 0 ? Max(served, state.lease.last) : served;
	if (voided || passed > state.position)
	{
		state.position = passed;
		es_store_member(s->name, member, &state);
	}
	if (!es_find_parked(s->name, partition, &row))
		return discard_alone(s->name, partition, served);
	es_read_stretches(&events, row.position - 1, Max(last, row.position));
	es_release_partition(s->name, partition);
	mark_ahead(s, &events, row.position, served);
	bounds[0] = row.position;
	bounds[1] =
		events.count > 0 ? events.positions[events.count - 1] : row.position;
	return events.count + discard_alone(s->name, partition, served);
}

Datum
es_discard_parked_events(PG_FUNCTION_ARGS)
{
	Datum name =
		PointerGetDatum(es_required_text(fcinfo, 0, "subscription_name"));
	text *partition;
	text *reason;
	Subscription subscription;
	int64 bounds[2] = {0, 0};
	OwnerScope scope;
	int64 count;

	es_begin_call(ES_CALL_DISCARD_PARKED_EVENTS);
	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("partition_key must not be null")));
	partition = PG_GETARG_TEXT_PP(1);
	reason = es_required_text(fcinfo, 2, "reason");
	es_begin_consuming("discard_parked_events()");
	(void) es_feed_database();
	es_consume_durably();
	/* a resize that waits for leases lets this end as well: see es_open_lease_call */
	es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(name), RowShareLock);
	es_note_freed(es_subscription_hash(name), true);
	es_begin(&scope);
	es_read_subscription(name, &subscription);
	es_lock_member(subscription.hash,
				   es_partition_member(partition, subscription.members));
	count = discard_partition(&subscription, PointerGetDatum(partition), bounds);
	if (count > 0)
		keep_history(name, PointerGetDatum(partition), bounds, count,
					 PointerGetDatum(reason));
	es_end(&scope);
	es_end_call(ES_CALL_DISCARD_PARKED_EVENTS, count);
	PG_RETURN_INT64(count);
}
