/*
 * subscription_gauges.c
 *		How far subscriptions are behind, and what is set aside of them, for metrics.
 *
 * Unlike all other metrics these stand in tables, whose rows cost a look each time.  What
 * watches a server must be answered while somebody has locked them, too: then these
 * gauges are not known.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/aside.h"
#include "consume/lag.h"
#include "consume/member.h"
#include "consume/subscription.h"
#include "consume/subscription_gauges.h"
#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "read/feed.h"
#include "read/gauges.h"

/* ---------- tables ---------- */

/* Locks all that is read, to the end of the transaction; false if something is missing. */
static bool
lock_tables(void)
{
	const Store *store = es_store_if_any();
	Oid tables[3 + ES_BY_SUBSCRIPTION];
	int count = 0;

	if (store == NULL || store->subscribed)
		return false;
	tables[count++] = store->events;
	tables[count++] = store->store_state;
	tables[count++] = store->positions_of_members;
	for (int i = 0; i < ES_BY_SUBSCRIPTION; i++)
		tables[count++] = store->by_subscription[i].table;
	for (int i = 0; i < count; i++)
	{
		if (!es_try_lock_table(tables[i]))
			return false;
	}
	/* with the locks in hand it may have another shape */
	store = es_store_if_any();
	return store != NULL && !store->subscribed &&
		   (!es_anything_moved() || es_try_lock_table(es_store()->archive));
}

/* ---------- a subscription ---------- */

static void
read_gauges(const Subscription *s, int64 safe, double *gauges)
{
	int64 *passed = palloc(s->members * sizeof(int64));
	Lag *lags = palloc(s->members * sizeof(Lag));
	TimestampTz now = GetCurrentTimestamp();
	AsideSum *aside = es_sum_aside(s);
	AsideSum all = {0};
	int64 events = 0;
	TimestampTz oldest = now;
	TimestampTz parked = now;

	for (int m = 0; m < s->members; m++)
	{
		all.rows += aside[m].rows;
		all.retrying += aside[m].retrying;
		if (aside[m].parked_since != 0)
			parked = Min(parked, aside[m].parked_since);
	}
	gauges[ES_SUBSCRIPTION_SET_ASIDE] = (double) all.retrying;
	gauges[ES_SUBSCRIPTION_PARKED] = (double) (all.rows - all.retrying);
	gauges[ES_SUBSCRIPTION_PARKED_AGE] = (double) (now - parked) / USECS_PER_SEC;
	for (int m = 0; m < s->members; m++)
	{
		MemberState state;

		/* somebody resizes it just now */
		if (!es_read_member(s->name, m, GetActiveSnapshot(), &state))
			return;
		passed[m] = es_member_passed(s->hash, m, &state);
	}
	es_measure_lag(s, passed, safe, lags);
	for (int m = 0; m < s->members; m++)
	{
		events += lags[m].events;
		es_add_aside_lag(&lags[m], &aside[m]);
		if (lags[m].oldest != 0)
			oldest = Min(oldest, lags[m].oldest);
	}
	gauges[ES_SUBSCRIPTION_LAG] = (double) events;
	gauges[ES_SUBSCRIPTION_AGE] = (double) (now - oldest) / USECS_PER_SEC;
}

/* ---------- all of them ---------- */

static int
read_all(SubscriptionGauges **all, MemoryContext context)
{
	static KeptPlan plan = {
		"SELECT s.subscription_name"
		" FROM event_store.subscriptions s ORDER BY s.subscription_name"};
	int64 safe = es_feed_position();
	uint64 count = es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT);
	SPITupleTable *table = SPI_tuptable;
	int read = 0;

	*all = MemoryContextAllocZero(context,
								  Max(count, 1) * sizeof(SubscriptionGauges));
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum name = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);
		SubscriptionGauges *one = &(*all)[read];
		Subscription subscription;

		CHECK_FOR_INTERRUPTS();
		if (!es_find_subscription(name, &subscription))
			continue;
		read++;
		one->name = MemoryContextStrdup(context, TextDatumGetCString(name));
		for (int g = 0; g < ES_SUBSCRIPTION_GAUGES; g++)
			one->gauges[g] = NAN;
		read_gauges(&subscription, safe, one->gauges);
	}
	return read;
}

int
es_subscription_gauges(SubscriptionGauges **all)
{
	MemoryContext context = CurrentMemoryContext;
	OwnerScope scope;
	int count;

	PreventCommandIfParallelMode("metrics_state()");
	*all = NULL;
	if (!lock_tables())
		return 0;
	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	count = read_all(all, context);
	PopActiveSnapshot();
	es_end(&scope);
	return count;
}
