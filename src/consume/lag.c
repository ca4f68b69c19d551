/*
 * lag.c
 *		What lies ahead of the members of a subscription.
 *
 * Positions do not tell it: they have gaps, they jump by 2^32 after a failover, and other
 * types and other members' events lie between.  So the events that next_events would give are
 * counted, in one stretch of the log from where the member stands; members that stand in
 * one place, or all of whose log is read anyway, share it.  What lies beyond is
 * estimated: so many a position as in the stretch.  A member that is less than a stretch
 * behind has an exact number.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "consume/aside.h"
#include "consume/lag.h"
#include "consume/partition.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/log_plan.h"

/* Positions that are searched at once for the end of a run; a jump is wider. */
#define RUN_WINDOW (INT64CONST(1) << 31)

typedef struct Measure
{
	const Subscription *subscription;
	const int64 *passed;
	Lag *lags;
	bool *known; /* by member */
} Measure;

/* Counts an event for its member, if that has it ahead. */
static void
count_event(Stretch *stretch, TupleTableSlot *slot, text *partition)
{
	Measure *measure = stretch->own;
	const Subscription *s = measure->subscription;
	int member = 0;

	slot_getallattrs(slot);
	if (s->members > 1 && partition == NULL)
		partition = es_partition_of(&s->partitioning, slot->tts_values,
									slot->tts_isnull);
	if (s->members > 1)
		member = es_partition_member(partition, s->members);
	if (measure->known[member] || stretch->last <= measure->passed[member])
		return;
	if (measure->lags[member].events++ == 0)
		measure->lags[member].oldest =
			DatumGetTimestampTz(slot->tts_values[EV_RECORDED_AT]);
}

/* The first event behind a position, or the last one up to another; 0 = none. */
static int64
find_event(int64 after, int64 up_to, bool last, TimestampTz *recorded_at)
{
	static KeptPlan first_plan =
		{"SELECT e.global_position, e.recorded_at FROM event_store.domain_events e"
		 " WHERE e.global_position OPERATOR(pg_catalog.>) $1"
		 " AND e.global_position OPERATOR(pg_catalog.<=) $2"
		 " ORDER BY e.global_position LIMIT 1",
		 2,
		 {INT8OID, INT8OID}};
	static KeptPlan last_plan =
		{"SELECT e.global_position, e.recorded_at FROM event_store.domain_events e"
		 " WHERE e.global_position OPERATOR(pg_catalog.>) $1"
		 " AND e.global_position OPERATOR(pg_catalog.<=) $2"
		 " ORDER BY e.global_position DESC LIMIT 1",
		 2,
		 {INT8OID, INT8OID}};
	KeptPlan *plan = last ? &last_plan : &first_plan;
	Datum values[2] = {Int64GetDatum(after), Int64GetDatum(up_to)};
	bool isnull;

	if (es_execute(es_log_plan_after(plan, after), values, NULL, true,
				   SPI_OK_SELECT) == 0)
		return 0;
	if (recorded_at != NULL)
		*recorded_at =
			DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0],
											  SPI_tuptable->tupdesc, 2, &isnull));
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/* How many positions lie between two, without those that jumps have left out. */
static int64
positions_between(int64 after, int64 up_to)
{
	int64 count = 0;

	while (after < up_to)
	{
		int64 end = Min(after + RUN_WINDOW, up_to);
		int64 last = find_event(after, end, true, NULL);

		CHECK_FOR_INTERRUPTS();
		if (last == 0)
		{
			/* nothing for so long: the next run begins where there is an event */
			int64 first = find_event(end, up_to, false, NULL);

			if (first == 0)
				break;
			after = first - 1;
			continue;
		}
		count += last - after;
		after = last;
	}
	return count;
}

/* What lies behind the part that was read. */
static void
estimate_rest(const Measure *measure, int member, int64 reached, int64 safe)
{
	Lag *lag = &measure->lags[member];
	int64 read = positions_between(measure->passed[member], reached);

	if (lag->events == 0)
		/* if there is one it is no older */
		(void) find_event(reached, safe, false, &lag->oldest);
	else if (read > 0)
		lag->events += (int64) ((double) lag->events / read *
								positions_between(reached, safe));
}

/* Reads one stretch, from the member that is farthest behind; false when all are known. */
static bool
measure_stretch(Measure *measure, int64 safe)
{
	int members = measure->subscription->members;
	Stretch stretch = {.subscription = measure->subscription,
					   .member = -1,
					   .max_count = PG_INT64_MAX,
					   .put = count_event,
					   .own = measure};
	int64 from = safe;
	int64 reached;

	for (int m = 0; m < members; m++)
	{
		if (measure->known[m])
			continue;
		measure->lags[m] = (Lag){0};
		from = Min(from, measure->passed[m]);
	}
	if (from >= safe)
		return false;
	reached = es_read_stretch(&stretch, from, safe);
	for (int m = 0; m < members; m++)
	{
		if (measure->known[m] || (measure->passed[m] > from && reached < safe))
			continue;
		measure->known[m] = true;
		if (reached < safe)
			estimate_rest(measure, m, reached, safe);
	}
	return true;
}

void
es_measure_lag(const Subscription *subscription, const int64 *passed,
			   int64 safe, Lag *lags)
{
	Measure measure = {.subscription = subscription,
					   .passed = passed,
					   .lags = lags,
					   .known = palloc0(subscription->members * sizeof(bool))};

	memset(lags, 0, subscription->members * sizeof(Lag));
	while (measure_stretch(&measure, safe))
		CHECK_FOR_INTERRUPTS();
}

void
es_add_aside_lag(Lag *lag, const AsideSum *aside)
{
	TimestampTz oldest = 0;

	if (aside->oldest != 0)
		(void) find_event(aside->oldest - 1, aside->oldest, false, &oldest);
	if (oldest != 0 && (lag->oldest == 0 || oldest < lag->oldest))
		lag->oldest = oldest;
}
