/*
 * set_upcaster.c
 *		Upcasters registered and dropped, and what is older than them.
 *
 * What was folded by other upcasters is no longer right.  Snapshots are told by the
 * version of their reducer, which goes up for each aggregate type concerned: also for
 * those that have no reducer of their own, and all that the log has where the upcaster
 * is for all.
 *
 * The lock on the table keeps out who makes a snapshot (es_hold_upcasters): so one that
 * has the new version of the reducer was folded with the new upcasters.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/lock.h"
#include "ground/log_plan.h"
#include "ground/metrics.h"
#include "replay/named_function.h"
#include "replay/saga_event.h"
#include "replay/upcaster.h"
#include "replay/view_batch.h"

PG_FUNCTION_INFO_V1(es_set_upcaster);
PG_FUNCTION_INFO_V1(es_drop_upcaster);

/* The last version that has a next one. */
#define MAX_FROM_VERSION (PG_INT32_MAX - 1)

static KeptPlan lock_upcasters = {
	.sql = "LOCK TABLE event_store.upcasters IN EXCLUSIVE MODE"};

/* Upcasters are told apart by these: see key_arguments. */
typedef struct UpcasterKey
{
	Datum event_type;
	Datum from_version;
	Datum aggregate_type; /* an empty text = all */
} UpcasterKey;

/* The key's three arguments; the last one has another place in each function. */
static UpcasterKey
key_arguments(FunctionCallInfo fcinfo, int aggregate_type)
{
	UpcasterKey key;

	key.event_type = PointerGetDatum(es_required_text(fcinfo, 0, "event_type"));
	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("from_version must not be null")));
	if (PG_GETARG_INT32(1) < 0 || PG_GETARG_INT32(1) > MAX_FROM_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_version must be from 0 to %d", MAX_FROM_VERSION)));
	key.from_version = Int32GetDatum(PG_GETARG_INT32(1));
	if (PG_ARGISNULL(aggregate_type))
		key.aggregate_type = CStringGetTextDatum("");
	else
		key.aggregate_type =
			PointerGetDatum(es_required_text(fcinfo, aggregate_type,
											 "aggregate_type"));
	(void) es_store();
	if (es_is_saga_type(key.aggregate_type))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("aggregate type \"%s\" is a saga's, whose events are the store's",
						TextDatumGetCString(key.aggregate_type))));
	return key;
}

/* ---------- what is older ---------- */

/* Each type once, by a walk over the index: from one to the next that is greater. */
#define TYPES_IN(table, name)                                                \
	name " (type) AS (SELECT pg_catalog.min(a.aggregate_type COLLATE \"C\")" \
		 " FROM event_store." table " a UNION ALL"                           \
		 " SELECT (SELECT b.aggregate_type FROM event_store." table " b"     \
		 " WHERE b.aggregate_type OPERATOR(pg_catalog.>) n.type"             \
		 " ORDER BY b.aggregate_type LIMIT 1)"                               \
		 " FROM " name " n WHERE n.type IS NOT NULL)"

/* The next version of the reducer of each type, or of one. */
static void
raise_reducer_versions(Datum aggregate_type)
{
	static KeptPlan of_all = {
		"WITH RECURSIVE " TYPES_IN("domain_events", "logged") ", " TYPES_IN(
			"snapshots",
			"taken") " INSERT INTO event_store.reducers AS r (aggregate_type, reducer_version)"
					 " SELECT t.type, 1 FROM (SELECT l.type FROM logged l"
					 " UNION SELECT s.type FROM taken s"
					 " UNION SELECT o.aggregate_type FROM event_store.reducers o) t"
					 " WHERE t.type IS NOT NULL"
					 " AND NOT pg_catalog.starts_with(t.type, 'saga:')"
					 " ON CONFLICT (aggregate_type) DO UPDATE"
					 " SET reducer_version = r.reducer_version OPERATOR(pg_catalog.+) 1,"
					 " updated_at = pg_catalog.clock_timestamp()"};
	static KeptPlan of_one =
		{"INSERT INTO event_store.reducers AS r (aggregate_type, reducer_version)"
		 " VALUES ($1, 1) ON CONFLICT (aggregate_type) DO UPDATE"
		 " SET reducer_version = r.reducer_version OPERATOR(pg_catalog.+) 1,"
		 " updated_at = pg_catalog.clock_timestamp()",
		 1,
		 {TEXTOID}};

	if (VARSIZE_ANY_EXHDR(DatumGetPointer(aggregate_type)) == 0)
		es_execute_on_log(&of_all, 0, NULL, NULL, GetTransactionSnapshot());
	else
		es_execute(&of_one, &aggregate_type, NULL, false, SPI_OK_INSERT);
}

/*
 * Projections that have events of the aggregate types concerned: what they have made
 * is of before, and what a rebuild of steps has come to.  They are named, since
 * nobody else makes them anew.
 */
static void
mark_projections(Datum aggregate_type)
{
	static KeptPlan plan =
		{"UPDATE event_store.projections AS p SET stale = true,"
		 " rebuild_done = CASE WHEN p.next_definition IS NOT NULL THEN 0 END,"
		 " rebuild_total = NULL FROM event_store.subscriptions s"
		 " WHERE s.subscription_name OPERATOR(pg_catalog.=) p.projection_name"
		 " AND ($1 OPERATOR(pg_catalog.=) '' OR s.aggregate_types IS NULL"
		 " OR $1 OPERATOR(pg_catalog.=) ANY (s.aggregate_types))"
		 " RETURNING p.projection_name",
		 1,
		 {TEXTOID}};
	uint64 count =
		es_execute(&plan, &aggregate_type, NULL, false, SPI_OK_UPDATE_RETURNING);
	SPITupleTable *table = SPI_tuptable;
	StringInfoData names;

	initStringInfo(&names);
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum name = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);

		es_forget_built(name);
		appendStringInfo(&names, "%s%s", i == 0 ? "" : ", ",
						 TextDatumGetCString(name));
	}
	if (count > 0)
		ereport(NOTICE, (errmsg("projections are stale: %s", names.data),
						 errhint("Make them anew with rebuild_projection().")));
}

/* Appends that fold views pass the gate, and look for upcasters behind it. */
static void
hold_inline_views(void)
{
	static KeptPlan plan = {
		"SELECT FROM event_store.projections p"
		" WHERE p.mode OPERATOR(pg_catalog.=) 'inline' LIMIT 1"};

	if (es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT) > 0)
		es_close_gate(ES_LOCK_AGGREGATE);
}

/* After a change; the table is locked. */
static void
note_change(const UpcasterKey *key)
{
	hold_inline_views();
	mark_projections(key->aggregate_type);
	raise_reducer_versions(key->aggregate_type);
	es_note_upcasters();
}

/* ---------- SQL ---------- */

/* What the call gives: a function and its owner, or rules; the rest is (Datum) 0. */
typedef struct Given
{
	Datum name;
	Datum owner;
	Datum rules;
} Given;

static Given
given_upcaster(FunctionCallInfo fcinfo, const UpcasterKey *key)
{
	Given given = {0};

	if (PG_ARGISNULL(2) == PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("exactly one of upcaster and rules must be given")));
	if (!PG_ARGISNULL(2))
	{
		Oid function = PG_GETARG_OID(2);

		es_check_upcaster(function);
		given.name = es_register_function(function, "an upcaster");
		given.owner =
			CStringGetTextDatum(GetUserNameFromId(es_function_owner(function),
												  false));
	}
	else
	{
		Datum type;

		given.rules = JsonbPGetDatum(PG_GETARG_JSONB_P(3));
		(void) es_read_upcaster_rules(DatumGetJsonbP(given.rules),
									  key->event_type, &type);
	}
	return given;
}

Datum
es_set_upcaster(PG_FUNCTION_ARGS)
{
	static KeptPlan store =
		{"INSERT INTO event_store.upcasters AS u"
		 " (event_type, from_version, aggregate_type, upcaster, upcaster_owner, rules)"
		 " VALUES ($1, $2, $3, $4, $5, $6)"
		 " ON CONFLICT (event_type, from_version, aggregate_type) DO UPDATE"
		 " SET upcaster = EXCLUDED.upcaster,"
		 " upcaster_owner = EXCLUDED.upcaster_owner, rules = EXCLUDED.rules,"
		 " updated_at = pg_catalog.clock_timestamp()",
		 6,
		 {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, JSONBOID}};
	UpcasterKey key;
	Given given;
	OwnerScope scope;

	es_begin_call(ES_CALL_SET_UPCASTER);
	PreventCommandIfReadOnly("event_store.set_upcaster()");
	PreventCommandIfParallelMode("event_store.set_upcaster()");
	key = key_arguments(fcinfo, 4);
	given = given_upcaster(fcinfo, &key);
	es_begin(&scope);
	es_execute(&lock_upcasters, NULL, NULL, false, SPI_OK_UTILITY);
	{
		Datum values[6] = {key.event_type, key.from_version, key.aggregate_type,
						   given.name,	   given.owner,		 given.rules};
		char nulls[6] = {' ',
						 ' ',
						 ' ',
						 given.name == (Datum) 0 ? 'n' : ' ',
						 given.owner == (Datum) 0 ? 'n' : ' ',
						 given.rules == (Datum) 0 ? 'n' : ' '};

		es_execute(&store, values, nulls, false, SPI_OK_INSERT);
	}
	note_change(&key);
	es_end(&scope);
	es_end_call(ES_CALL_SET_UPCASTER, 1);
	PG_RETURN_VOID();
}

Datum
es_drop_upcaster(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"DELETE FROM event_store.upcasters AS u"
							" WHERE u.event_type OPERATOR(pg_catalog.=) $1"
							" AND u.from_version OPERATOR(pg_catalog.=) $2"
							" AND u.aggregate_type OPERATOR(pg_catalog.=) $3",
							3,
							{TEXTOID, INT4OID, TEXTOID}};
	UpcasterKey key;
	OwnerScope scope;
	bool dropped;

	es_begin_call(ES_CALL_DROP_UPCASTER);
	PreventCommandIfReadOnly("event_store.drop_upcaster()");
	PreventCommandIfParallelMode("event_store.drop_upcaster()");
	key = key_arguments(fcinfo, 2);
	es_begin(&scope);
	es_execute(&lock_upcasters, NULL, NULL, false, SPI_OK_UTILITY);
	{
		Datum values[3] = {key.event_type, key.from_version, key.aggregate_type};

		dropped = es_execute(&plan, values, NULL, false, SPI_OK_DELETE) > 0;
	}
	if (dropped)
		note_change(&key);
	es_end(&scope);
	es_end_call(ES_CALL_DROP_UPCASTER, dropped);
	PG_RETURN_BOOL(dropped);
}
