/*
 * erased_copies.c
 *		What else knows of events that are erased.
 *
 * States and texts are kept beside the log so that nobody has to look for them there: snapshots,
 * letters that could not be delivered, errors that tell of an event, what is to be appended later,
 * keys, results.  Each has a statement here, and all take the same arguments.  What is
 * only true of the aggregate's past is removed; where order depends on a row (a
 * partition that is set aside, a message processed once) the row stays without its text.
 * An error of a batch is noted with its first event, and may tell of any behind that one.
 * They are planned for the tables as they are, and as the session is set: that decides how long they take,
 * and never what they find.
 *
 * Snapshots and rebuilds that are being made hold the table of upcasters, and so are waited
 * for; what is made later sees events as they are then.  Who moves events out of the log or back
 * writes to its archive, and could carry one past us that is looked for in one table and
 * then in the other.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/metrics.h"
#include "keep/erased_copies.h"
#include "keep/erased_events.h"
#include "keep/erased_views.h"
#include "keep/moved_partitions.h"

/* $1 and $2 are the aggregates, $3 the positions of events and $4 their ids. */
#define OF_AGGREGATE(alias)                                                 \
	"(" alias ".aggregate_type, " alias ".aggregate_id) IN ("               \
	"SELECT a.type COLLATE pg_catalog.\"C\", a.id COLLATE pg_catalog.\"C\"" \
	" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) a (type, id))"

#define COPY(text)                                                            \
	{                                                                         \
		.sql = text, .nargs = 4,                                              \
		.argtypes = {TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, UUIDARRAYOID}, \
		.kind = ES_PLAN_FOR_VALUES                                            \
	}

/* The aggregates as partitions. */
#define PARTITIONS                                                            \
	"(SELECT a.type OPERATOR(pg_catalog.||) '/' OPERATOR(pg_catalog.||) a.id" \
	" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) a (type, id))"

/* Letters that hold a view's row under an aggregate's id are found by that. */
#define OF_LETTER                                                     \
	"(" OF_AGGREGATE("d") " OR (d.kind OPERATOR(pg_catalog.=) 'view'" \
						  " AND d.view_key OPERATOR(pg_catalog.=) ANY ($2)))"

/* An id in a result is found as it is written there. */
#define IDS                                                             \
	"(SELECT i::pg_catalog.text FROM pg_catalog.unnest($4) i UNION ALL" \
	" SELECT i FROM pg_catalog.unnest($2) i)"

static KeptPlan copies[] =
	{COPY("DELETE FROM event_store.snapshots s WHERE " OF_AGGREGATE("s")),
	 COPY("DELETE FROM event_store.dead_letter_history d WHERE " OF_LETTER),
	 COPY("DELETE FROM event_store.scheduled_events s WHERE " OF_AGGREGATE("s")),
	 COPY("DELETE FROM event_store.sticky_keys k WHERE " OF_AGGREGATE("k")),
	 COPY("DELETE FROM event_store.discarded_events d"
		  " WHERE d.partition_key OPERATOR(pg_catalog.=) ANY " PARTITIONS
		  " OR d.first_position OPERATOR(pg_catalog.=) ANY ($3)"
		  " OR d.last_position OPERATOR(pg_catalog.=) ANY ($3)"),
	 COPY("UPDATE event_store.parked_events SET error_message = NULL"
		  " WHERE (global_position OPERATOR(pg_catalog.=) ANY ($3)"
		  " OR partition_key OPERATOR(pg_catalog.=) ANY " PARTITIONS ")"
		  " AND error_message IS NOT NULL"),
	 COPY("UPDATE event_store.subscription_positions SET last_error = NULL"
		  " WHERE attempt_position OPERATOR(pg_catalog.<=)"
		  " (SELECT pg_catalog.max(p) FROM pg_catalog.unnest($3) p)"
		  " AND last_error IS NOT NULL"),
	 COPY("UPDATE event_store.saga_steps s SET progress = NULL"
		  " WHERE s.progress IS NOT NULL"
		  " AND ('saga:' OPERATOR(pg_catalog.||) s.saga_name, s.saga_id) IN ("
		  "SELECT a.type COLLATE pg_catalog.\"C\", a.id COLLATE pg_catalog.\"C\""
		  " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) a (type, id))"),
	 COPY("UPDATE event_store.processed_messages m SET result = NULL"
		  " WHERE m.result IS NOT NULL AND (m.message_id OPERATOR(pg_catalog.=) ANY " IDS
		  " OR EXISTS (SELECT FROM pg_catalog.jsonb_path_query(m.result, '$.**') v (value)"
		  " WHERE (v.value OPERATOR(pg_catalog.#>>) '{}') OPERATOR(pg_catalog.=) ANY " IDS
		  "))")};

static KeptPlan letters =
	COPY("DELETE FROM event_store.dead_letters d WHERE " OF_LETTER);

/* The two columns of the aggregates as arrays. */
static void
aggregate_arrays(const ErasedEvents *events, Datum *types, Datum *ids)
{
	int count = events->aggregate_count;
	Datum *type = palloc(Max(count, 1) * sizeof(Datum));
	Datum *id = palloc(Max(count, 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
	{
		type[i] = events->aggregates[i].type;
		id[i] = events->aggregates[i].id;
	}
	*types = PointerGetDatum(construct_array(type, count, TEXTOID, -1, false,
											 TYPALIGN_INT));
	*ids = PointerGetDatum(construct_array(id, count, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

void
es_hold_copies(const ErasedEvents *events, bool renamed)
{
	static KeptPlan lock_upcasters = {
		.sql = "LOCK TABLE event_store.upcasters IN EXCLUSIVE MODE"};
	static KeptPlan lock_archive = {
		.sql =
			"LOCK TABLE event_store.domain_events_archive IN SHARE ROW EXCLUSIVE MODE"};
	OwnerScope scope;

	es_begin(&scope);
	es_execute(&lock_upcasters, NULL, NULL, false, SPI_OK_UTILITY);
	if (OidIsValid(get_relname_relid("domain_events_archive", es_store()->schema)))
		es_execute(&lock_archive, NULL, NULL, false, SPI_OK_UTILITY);
	es_end(&scope);
	es_hold_views(events);
	es_hold_divided(es_erased_types(events), renamed);
}

void
es_refuse_running_sagas(const ErasedEvents *events)
{
	static KeptPlan plan =
		{"SELECT s.saga_name, s.saga_id, s.state FROM event_store.sagas s"
		 " WHERE s.state OPERATOR(pg_catalog.<>) ALL ('{completed,compensated,failed}')"
		 " AND ('saga:' OPERATOR(pg_catalog.||) s.saga_name, s.saga_id) IN ("
		 "SELECT a.type COLLATE pg_catalog.\"C\", a.id COLLATE pg_catalog.\"C\""
		 " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) a (type, id))"
		 " LIMIT 1",
		 2,
		 {TEXTARRAYOID, TEXTARRAYOID},
		 .kind = ES_PLAN_FOR_VALUES};
	Datum values[2];
	OwnerScope scope;

	aggregate_arrays(events, &values[0], &values[1]);
	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	if (es_execute(&plan, values, NULL, true, SPI_OK_SELECT) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("saga %s/%s is %s", SPI_getvalue(row, desc, 1),
						SPI_getvalue(row, desc, 2), SPI_getvalue(row, desc, 3)),
				 errhint("Erase when it has ended, or end it with cancel_saga().")));
	}
	PopActiveSnapshot();
	es_end(&scope);
}

void
es_erase_copies(const ErasedEvents *events)
{
	Datum values[4];
	OwnerScope scope;

	aggregate_arrays(events, &values[0], &values[1]);
	values[2] = es_erased_positions(events);
	values[3] = es_erased_event_ids(events);
	es_begin(&scope);
	for (int i = 0; i < (int) lengthof(copies); i++)
		(void) es_execute_latest(&copies[i], values, NULL);
	es_count_dead_letters(-(int64) es_execute_latest(&letters, values, NULL));
	es_end(&scope);
	es_erase_views(events);
}

/* ---------- another id ---------- */

#define PARTITION(id) \
	"$1 OPERATOR(pg_catalog.||) '/' OPERATOR(pg_catalog.||) " id

#define RENAME(sql_text)                                                      \
	{                                                                         \
		.sql = sql_text, .nargs = 3, .argtypes = {TEXTOID, TEXTOID, TEXTOID}, \
		.kind = ES_PLAN_FOR_VALUES                                            \
	}

static KeptPlan rename_closed = {"UPDATE event_store.closed_aggregates SET aggregate_id = $3"
								 " WHERE aggregate_type OPERATOR(pg_catalog.=) $1"
								 " AND aggregate_id OPERATOR(pg_catalog.=) $2",
								 3,
								 {TEXTOID, TEXTOID, TEXTOID}};

/* A partition may be another member's by its other name. */
static KeptPlan renames[] =
	{RENAME("UPDATE event_store.parked_events p SET partition_key = " PARTITION(
		 "$3") ","
			   " member = event_store.partition_member(" PARTITION(
				   "$3") ", s.members)"
						 " FROM event_store.subscriptions s"
						 " WHERE s.subscription_name OPERATOR(pg_catalog.=) p.subscription_name"
						 " AND p.partition_key OPERATOR(pg_catalog.=) (" PARTITION("$2") ")"),
	 RENAME("UPDATE event_store.subscription_positions SET lease_partition = " PARTITION(
		 "$3") " WHERE lease_partition OPERATOR(pg_catalog.=) (" PARTITION("$2") ")")};

void
es_rename_copies(Datum type, Datum id, Datum pseudonym)
{
	Datum values[3] = {type, id, pseudonym};
	OwnerScope scope;

	es_begin(&scope);
	for (int i = 0; i < (int) lengthof(renames); i++)
		(void) es_execute_latest(&renames[i], values, NULL);
	if (OidIsValid(get_relname_relid("closed_aggregates", es_store()->schema)))
		(void) es_execute_latest(&rename_closed, values, NULL);
	es_end(&scope);
}
