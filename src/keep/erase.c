/*
 * erase.c
 *		Erasing: content is taken out of events, and all that knows of it.
 *
 * redact_events, erase_aggregate and erase_events differ in which events they mean.  Each
 * runs in this order:
 *
 *	1. Have what is staged written: staged rows are changed by nobody.
 *	2. Find the events, and so the aggregates, without locks.
 *	3. Keep out who makes copies: snapshots, rebuilds, projections that keep views;
 *	   who is given events in partitions that depend on what is erased; and who moves events between
 *	   the log and its archive.
 *	4. Lock the aggregates, in the order of lock.c: nobody appends to them, and inline
 *	   views of theirs stand still.  What was staged meanwhile is written now.
 *	5. Change the events, by the guard's leave, then the copies, and the partitions of
 *	   subscriptions.
 *	6. Register and announce it.
 *
 * Positions, sequences, types and ids stay, so what was told of events stays true; heads that
 * are remembered are right, but where an aggregate gets another id.  What was deleted
 * or overwritten is on the disk until scrub_erased() has been there.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/head_cache.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/transaction.h"
#include "keep/erased_copies.h"
#include "keep/erased_events.h"
#include "keep/erased_part.h"
#include "keep/erasure.h"
#include "keep/moved_partitions.h"
#include "replay/saga_event.h"
#include "staging/flush.h"
#include "staging/own_rows.h"
#include "staging/staged_scan.h"
#include "write/append.h"

PG_FUNCTION_INFO_V1(es_redact_events);
PG_FUNCTION_INFO_V1(es_erase_aggregate);
PG_FUNCTION_INFO_V1(es_erase_events);

/* A call. */
typedef struct Erase
{
	const char *function;
	ErasureQuery query;
	ErasedParts *parts;
	int max_count;	 /* 0 = all */
	Datum pseudonym; /* text, of an aggregate as a whole, or (Datum) 0 */
	bool whole; /* an aggregate as a whole: also what is appended meanwhile */
	Erasure erasure;
	ErasedEvents *events;
	PartitionMoves *moves;
} Erase;

/* What was staged is in the log from here on, and what this transaction writes is durable. */
static void
settle(void)
{
	if (es_may_have_staged())
		es_settle(NULL, NULL);
	es_note_write();
	es_move_own_rows();
	es_note_durable_write();
}

/* The aggregates, and what one of them is to be called. */
static void
lock_aggregates(const Erase *erase)
{
	const ErasedEvents *events = erase->events;
	int count = events->aggregate_count;
	uint64 *hashes =
		palloc_extended((count + 1) * sizeof(uint64), MCXT_ALLOC_HUGE);

	for (int i = 0; i < count; i++)
		hashes[i] =
			es_pair_hash(events->aggregates[i].type, events->aggregates[i].id);
	if (erase->pseudonym != (Datum) 0)
		hashes[count++] =
			es_pair_hash(erase->query.aggregate_type, erase->pseudonym);
	es_lock_pairs(ES_LOCK_AGGREGATE, hashes, count);
	pfree(hashes);
}

static void
find(Erase *erase)
{
	es_find_erased_events(erase->events, &erase->query, erase->parts,
						  erase->max_count);
}

static bool
is_renamed(const Erase *erase)
{
	return erase->pseudonym != (Datum) 0;
}

/* Steps 3 and 4. */
static void
hold(Erase *erase)
{
	ErasedEvents *events = erase->events;
	int known;

	do
	{
		known = events->aggregate_count;
		es_hold_copies(events, is_renamed(erase));
		lock_aggregates(erase);
		settle();
		/* a saga may have come to its end, with events that were not there before */
		if (erase->whole)
			find(erase);
		else
			es_find_erased_sagas(events);
	} while (known < events->aggregate_count);
	es_refuse_running_sagas(events);
}

static void
rename_all(const Erase *erase)
{
	const ErasureQuery *query = &erase->query;

	es_rename_aggregate(query->aggregate_type, query->aggregate_id,
						erase->pseudonym, erase->moves);
	es_rename_copies(query->aggregate_type, query->aggregate_id, erase->pseudonym);
	es_carry_out_partition_moves(erase->moves);
}

/* Returns how many events were changed. */
static int64
erase_all(Erase *erase)
{
	ErasedEvents *events = erase->events = es_begin_erased_events();

	settle();
	find(erase);
	if (erase->whole)
		es_add_erased_aggregate(events, erase->query.aggregate_type,
								erase->query.aggregate_id);
	if (events->count == 0 && !erase->whole)
		return 0;
	hold(erase);
	/* dead letters are gone with their aggregates, and heads may be others' */
	es_forget_heads();
	erase->erasure.id = es_new_erasure();
	erase->erasure.kind = ES_ERASED_EVENT;
	erase->moves =
		es_begin_partition_moves(es_erased_types(events), is_renamed(erase));
	es_change_erased_events(events, erase->parts, erase->erasure.id, erase->moves);
	es_erase_copies(events);
	es_carry_out_partition_moves(erase->moves);
	if (is_renamed(erase))
		rename_all(erase);
	erase->erasure.positions = es_erased_positions(events);
	erase->erasure.event_ids = es_erased_event_ids(events);
	erase->erasure.renamed = is_renamed(erase);
	es_announce_erasure(&erase->erasure, erase->function);
	return events->changed;
}

/* ---------- SQL ---------- */

/* What policies hide from the store itself would stay as it is, and nobody would know. */
static void
refuse_policies(const Store *store)
{
	if (store->policies && !has_bypassrls_privilege(store->owner))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("row security is forced on a table of the store, so nothing is erased"),
				 errhint("ALTER TABLE ... NO FORCE ROW LEVEL SECURITY first.")));
}

static void
begin(Erase *erase, const char *function)
{
	memset(erase, 0, sizeof(Erase));
	erase->function = function;
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	refuse_policies(es_own_store());
}

/* The arguments "paths" and, unless its number is -1, "replacement". */
static void
parts_arguments(FunctionCallInfo fcinfo, int paths, int replacement, Erase *erase)
{
	ArrayType *given = PG_ARGISNULL(paths) ? NULL : PG_GETARG_ARRAYTYPE_P(paths);

	erase->parts =
		es_read_erased_parts(given, replacement < 0 || PG_ARGISNULL(replacement)
										? NULL
										: PG_GETARG_JSONB_P(replacement));
	erase->erasure.paths = PointerGetDatum(given);
}

Datum
es_redact_events(PG_FUNCTION_ARGS)
{
	Erase erase;
	int count = -1;
	Datum *ids;
	int64 changed;

	es_begin_call(ES_CALL_REDACT_EVENTS);
	begin(&erase, "redact_events()");
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("event_ids must not be null")));
	es_array_argument(fcinfo, 0, "event_ids", false, &count, &ids, NULL);
	erase.query.event_ids = PG_GETARG_DATUM(0);
	erase.erasure.reason = PointerGetDatum(es_required_text(fcinfo, 1, "reason"));
	parts_arguments(fcinfo, 2, 3, &erase);
	changed = erase_all(&erase);
	es_end_call(ES_CALL_REDACT_EVENTS, changed);
	PG_RETURN_INT64(changed);
}

Datum
es_erase_aggregate(PG_FUNCTION_ARGS)
{
	Erase erase;
	int64 changed;

	es_begin_call(ES_CALL_ERASE_AGGREGATE);
	begin(&erase, "erase_aggregate()");
	erase.query.aggregate_type =
		PointerGetDatum(es_required_text(fcinfo, 0, "aggregate_type"));
	erase.query.aggregate_id =
		PointerGetDatum(es_required_text(fcinfo, 1, "aggregate_id"));
	erase.erasure.reason = PointerGetDatum(es_required_text(fcinfo, 2, "reason"));
	erase.whole = true;
	if (es_is_erasure_type(erase.query.aggregate_type))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("what was announced as erased stays")));
	if (!PG_ARGISNULL(3))
	{
		erase.pseudonym =
			PointerGetDatum(es_required_text(fcinfo, 3, "pseudonym"));
		if (es_same_text(erase.pseudonym, erase.query.aggregate_id))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("pseudonym must be another id")));
		if (es_is_saga_type(erase.query.aggregate_type))
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("a saga cannot get a pseudonym")));
	}
	changed = erase_all(&erase);
	es_end_call(ES_CALL_ERASE_AGGREGATE, changed);
	PG_RETURN_INT64(changed);
}

Datum
es_erase_events(PG_FUNCTION_ARGS)
{
	Erase erase;
	int64 changed;

	es_begin_call(ES_CALL_ERASE_EVENTS);
	begin(&erase, "erase_events()");
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("query must not be null")));
	es_read_erasure_query(PG_GETARG_JSONB_P(0), &erase.query);
	erase.erasure.reason = PointerGetDatum(es_required_text(fcinfo, 1, "reason"));
	parts_arguments(fcinfo, 2, -1, &erase);
	erase.max_count =
		PG_ARGISNULL(4)
			? 0
			: es_bounded_argument(fcinfo, 4, "max_count", 1, PG_INT32_MAX);
	if (!PG_ARGISNULL(3) && PG_GETARG_BOOL(3))
	{
		erase.events = es_begin_erased_events();
		settle();
		find(&erase);
		changed = erase.events->count;
	}
	else
		changed = erase_all(&erase);
	es_end_call(ES_CALL_ERASE_EVENTS, changed);
	PG_RETURN_INT64(changed);
}
