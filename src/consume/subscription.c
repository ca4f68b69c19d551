/*
 * subscription.c
 *		What a subscription is: one row, which every call reads as it is now.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "consume/partition.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/pair_table.h"

FailureAction
es_failure_action(const text *word, const char *name, bool may_retry)
{
	static const char *const words[] = {"retry", "park", "park_event", "skip",
										"stop"};
	char *given = text_to_cstring(word);

	for (int i = may_retry ? 0 : 1; i < (int) lengthof(words); i++)
	{
		if (strcmp(given, words[i]) == 0)
			return (FailureAction) i;
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid %s: \"%s\"", name, given),
					errhint("Give %s'park', 'park_event', 'skip' or 'stop'.",
							may_retry ? "'retry', " : "")));
	return ES_FAIL_RETRY;
}

uint64
es_subscription_hash(Datum name)
{
	return es_pair_hash(name, name);
}

static void
refuse_unknown(Datum name)
{
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("subscription \"%s\" does not exist",
						   TextDatumGetCString(name)),
					errhint("Make it with create_subscription().")));
}

/* One column of the row that was found, copied. */
static Datum
column(int number, bool *isnull)
{
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								number, isnull);
	Oid type = SPI_gettypeid(SPI_tuptable->tupdesc, number);

	if (*isnull)
		return (Datum) 0;
	if (type == TEXTOID || type == TEXTARRAYOID)
		return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	return value;
}

static void
read_types(int number, Datum **types, int *count)
{
	bool isnull;
	Datum array = column(number, &isnull);

	*count = -1;
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
						  TYPALIGN_INT, types, NULL, count);
}

void
es_read_subscription(Datum name, Subscription *subscription)
{
	static KeptPlan plan = {"SELECT s.aggregate_types, s.event_types, s.members,"
							" s.paused, s.partition_by, s.on_failure, s.max_attempts,"
							" EXISTS (SELECT FROM event_store.parked_events p"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1)"
							" OR EXISTS (SELECT FROM event_store.subscription_marks m"
							" WHERE m.subscription_name OPERATOR(pg_catalog.=) $1)"
							" FROM event_store.subscriptions s"
							" WHERE s.subscription_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};
	uint64 found;
	bool isnull;

	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, &name, NULL, true, SPI_OK_SELECT);
	PopActiveSnapshot();
	if (found == 0)
		refuse_unknown(name);
	subscription->name = name;
	subscription->hash = es_subscription_hash(name);
	read_types(1, &subscription->aggregate_types,
			   &subscription->aggregate_type_count);
	read_types(2, &subscription->event_types, &subscription->event_type_count);
	subscription->members = DatumGetInt32(column(3, &isnull));
	subscription->paused = DatumGetBool(column(4, &isnull));
	es_read_partitioning(DatumGetTextPP(column(5, &isnull)),
						 &subscription->partitioning);
	subscription->on_failure =
		es_failure_action(DatumGetTextPP(column(6, &isnull)), "on_failure", false);
	subscription->max_attempts = DatumGetInt32(column(7, &isnull));
	subscription->sets_aside = DatumGetBool(column(8, &isnull));
}

static bool
is_among(Datum type, const Datum *types, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (es_same_text(type, types[i]))
			return true;
	}
	return count < 0;
}

bool
es_subscribes(const Subscription *subscription, Datum aggregate_type,
			  Datum event_type)
{
	return is_among(aggregate_type, subscription->aggregate_types,
					subscription->aggregate_type_count) &&
		   is_among(event_type, subscription->event_types,
					subscription->event_type_count);
}
