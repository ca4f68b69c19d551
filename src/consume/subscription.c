/*
 * subscription.c
 *		What a subscription is: one row, which every call reads as it is now.
 *
 * It is read without SQL, which would execute three times as much: next_events reads
 * it for each batch.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "consume/partition.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/pair_table.h"
#include "replay/row_key.h"
#include "replay/upcaster.h"

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

/* Columns of subscriptions. */
enum
{
	SU_SUBSCRIPTION_NAME = 1,
	SU_AGGREGATE_TYPES,
	SU_EVENT_TYPES,
	SU_MEMBERS,
	SU_START_AFTER,
	SU_ON_FAILURE,
	SU_MAX_ATTEMPTS,
	SU_PARTITION_BY,
	SU_PAUSED,
	SU_CREATED_AT,
	SU_OLD_POSITIONS,
	SU_PROJECTION
};

/* The row of a subscription. */
typedef struct Row
{
	HeapTuple tuple;
	TupleDesc desc;
} Row;

/* One column of it; texts and arrays are copied. */
static Datum
column(const Row *row, int number, bool *isnull)
{
	Datum value = heap_getattr(row->tuple, number, row->desc, isnull);

	if (*isnull)
		return (Datum) 0;
	if (TupleDescAttr(row->desc, number - 1)->attlen == -1)
		return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	return value;
}

static void
read_types(const Row *row, int number, Datum **types, int *count)
{
	bool isnull;
	Datum array = column(row, number, &isnull);

	*count = -1;
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
						  TYPALIGN_INT, types, NULL, count);
}

/* Where the members of before a resize stood, who had counted from 0. */
static void
read_old_positions(const Row *row, Subscription *subscription)
{
	bool isnull;
	Datum array = column(row, SU_OLD_POSITIONS, &isnull);
	Datum *positions;

	subscription->old_members = 0;
	subscription->old_highest = 0;
	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(array), INT8OID, sizeof(int64),
					  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &positions, NULL,
					  &subscription->old_members);
	subscription->old_positions =
		palloc(subscription->old_members * sizeof(int64));
	for (int i = 0; i < subscription->old_members; i++)
	{
		subscription->old_positions[i] = DatumGetInt64(positions[i]);
		subscription->old_highest =
			Max(subscription->old_highest, subscription->old_positions[i]);
	}
}

static void
read_row(const Row *row, Subscription *subscription)
{
	bool isnull;
	text *word;

	read_types(row, SU_AGGREGATE_TYPES, &subscription->aggregate_types,
			   &subscription->aggregate_type_count);
	read_types(row, SU_EVENT_TYPES, &subscription->last_types,
			   &subscription->last_type_count);
	subscription->event_types = subscription->last_types;
	subscription->event_type_count = subscription->last_type_count;
	subscription->members = DatumGetInt32(column(row, SU_MEMBERS, &isnull));
	/* places are counted by it, and the table is its owner's */
	if (subscription->members < 1 || subscription->members > ES_MAX_MEMBERS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has %d members",
						TextDatumGetCString(column(row, SU_SUBSCRIPTION_NAME,
												   &isnull)),
						subscription->members),
				 errdetail("It has 1 to %d.", ES_MAX_MEMBERS),
				 errhint("Put the number back, or drop the subscription and make it again.")));
	subscription->paused = DatumGetBool(column(row, SU_PAUSED, &isnull));
	word = DatumGetTextPP(column(row, SU_PARTITION_BY, &isnull));
	if (es_is_partitioned_by_row(word))
		subscription->partitioning = (Partitioning){.by = ES_BY_ROW};
	else
		es_read_partitioning(word, NULL, &subscription->partitioning);
	subscription->on_failure =
		es_failure_action(DatumGetTextPP(column(row, SU_ON_FAILURE, &isnull)),
						  "on_failure", false);
	subscription->max_attempts =
		DatumGetInt32(column(row, SU_MAX_ATTEMPTS, &isnull));
	read_old_positions(row, subscription);
	subscription->projection = DatumGetBool(column(row, SU_PROJECTION, &isnull));
	subscription->own =
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(row->tuple->t_data));
}

/*
 * Whether a table has a row of the subscription under the active snapshot; reads the row if
 * that is wanted.
 */
static bool
find_row(SubscriptionTable which, Subscription *subscription, bool read)
{
	Relation table =
		table_open(es_store()->by_subscription[which].table, AccessShareLock);
	/* the table is locked now */
	Relation index =
		index_open(es_store()->by_subscription[which].by_key, AccessShareLock);
	Row row = {.desc = RelationGetDescr(table)};
	ScanKeyData key;
	SysScanDesc scan;
	bool found;

	ScanKeyInit(&key, SU_SUBSCRIPTION_NAME, BTEqualStrategyNumber, F_TEXTEQ,
				subscription->name);
	scan = systable_beginscan_ordered(table, index, GetActiveSnapshot(), 1, &key);
	row.tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	found = HeapTupleIsValid(row.tuple);
	if (found && read)
		read_row(&row, subscription);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return found;
}

/*
 * The key of the view that a projection keeps, whose rows are the partitions; NULL if
 * the projection has gone.
 */
static RowKey *
read_row_key(Datum name)
{
	static KeptPlan plan = {"SELECT p.key FROM event_store.projections p"
							" WHERE p.projection_name OPERATOR(pg_catalog.=) $1",
							1,
							{TEXTOID}};
	MemoryContext caller = CurrentMemoryContext;
	RowKey *key = NULL;
	OwnerScope scope;

	es_begin_read(&scope);
	if (es_execute(&plan, &name, NULL, true, SPI_OK_SELECT) > 0)
	{
		bool isnull;
		Datum value = SPI_getbinval(SPI_tuptable->vals[0],
									SPI_tuptable->tupdesc, 1, &isnull);

		MemoryContextSwitchTo(caller);
		key = es_row_key_parse(isnull ? NULL : DatumGetJsonbPCopy(value));
	}
	es_end(&scope);
	return key;
}

/* Events of all types have to be looked at of which wanted ones may be made. */
static void
find_stored_types(Subscription *subscription)
{
	Datum wanted;

	if (subscription->last_type_count <= 0 || !es_upcasts())
		return;
	wanted = PointerGetDatum(construct_array(subscription->last_types,
											 subscription->last_type_count,
											 TEXTOID, -1, false, TYPALIGN_INT));
	deconstruct_array(DatumGetArrayTypeP(es_stored_types(wanted)), TEXTOID, -1,
					  false, TYPALIGN_INT, &subscription->event_types, NULL,
					  &subscription->event_type_count);
}

bool
es_find_subscription(Datum name, Subscription *subscription)
{
	bool found;

	subscription->name = name;
	subscription->hash = es_subscription_hash(name);
	PushActiveSnapshot(GetLatestSnapshot());
	found = find_row(ES_SUBSCRIPTIONS, subscription, true);
	if (found && subscription->partitioning.by == ES_BY_ROW)
	{
		subscription->partitioning.key = read_row_key(name);
		found = subscription->partitioning.key != NULL;
	}
	subscription->sets_aside = true;
	PopActiveSnapshot();
	if (found)
		find_stored_types(subscription);
	return found;
}

void
es_read_subscription(Datum name, Subscription *subscription)
{
	if (!es_find_subscription(name, subscription))
		refuse_unknown(name);
}

void
es_look_set_aside(Subscription *subscription)
{
	PushActiveSnapshot(GetLatestSnapshot());
	subscription->sets_aside =
		find_row(ES_PARKED_EVENTS, subscription, false) ||
		find_row(ES_SUBSCRIPTION_MARKS, subscription, false);
	PopActiveSnapshot();
}

int64
es_partition_served(const Subscription *subscription, const text *partition,
					int64 passed)
{
	if (passed >= subscription->old_highest)
		return passed;
	return Max(passed,
			   subscription->old_positions
				   [es_partition_member(partition, subscription->old_members)]);
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

bool
es_wants_type(const Subscription *subscription, Datum event_type)
{
	return is_among(event_type, subscription->last_types,
					subscription->last_type_count);
}
