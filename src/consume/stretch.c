/*
 * stretch.c
 *		The log as a subscription reads it: events of its types, of a member or of
 *		one partition, without what is set aside.
 *
 * The log is read in the order of positions, and everything else is decided here,
 * event by event: so there is one statement, whose plan does not depend on what
 * is asked, and a bound to what a call reads whatever it selects.  Only where the events
 * of one aggregate are wanted are they found by its index.  What is set aside
 * is looked for only where something is.
 *
 * Old events are upcast as they are met, all of a stretch in one subtransaction.  Where an
 * upcaster raises, what was taken before stays, and from that event on each has a
 * subtransaction of its own, which tells whose fault it is.
 *
 * An upcaster that is gone, or not allowed, is not the fault of its events: they are for
 * nobody until it is there again.  What was given before has to be acknowledged, retried
 * and counted meanwhile.  There they are taken to be wanted, as long as nothing that
 * no upcaster changes says otherwise: so nothing is passed over that may be waited for.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "consume/aside.h"
#include "consume/partition.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/log_plan.h"
#include "ground/pair_table.h"
#include "ground/transaction.h"
#include "log/archived.h"
#include "replay/fold.h"
#include "replay/upcast.h"
#include "replay/upcast_failure.h"
#include "replay/upcaster.h"

/* One that could not be upcast was set aside in the partition of what was written. */
static bool
is_of_partition_as_written(const Stretch *stretch)
{
	const TupleTableSlot *written = stretch->written;

	return written != NULL &&
		   es_same_text(PointerGetDatum(es_partition_of(&stretch->subscription->partitioning,
														written->tts_values,
														written->tts_isnull)),
						stretch->partition);
}

/*
 * Whether an event is of a partition that is wanted, and not set aside; sets the
 * partition if that was asked for.
 */
static bool
is_wanted(const Stretch *stretch, TupleTableSlot *slot, text **found)
{
	const Subscription *s = stretch->subscription;
	text *partition;

	if (!s->sets_aside && stretch->partition == 0 &&
		(stretch->member < 0 || s->members == 1) && stretch->last > s->old_highest)
		return true;
	slot_getallattrs(slot);
	partition =
		es_partition_of(&s->partitioning, slot->tts_values, slot->tts_isnull);
	*found = partition;
	if (stretch->member >= 0 &&
		es_partition_member(partition, s->members) != stretch->member)
		return false;
	if (stretch->partition != 0)
	{
		if (!es_same_text(PointerGetDatum(partition), stretch->partition) &&
			!is_of_partition_as_written(stretch))
			return false;
	}
	/* what its member before a resize had come to is settled, or set aside */
	else if (stretch->last <= es_partition_served(s, partition, 0))
		return false;
	return !s->sets_aside || stretch->alone ||
		   es_find_aside(s->name, PointerGetDatum(partition), stretch->last,
						 stretch->partition == 0) == ES_NOT_ASIDE;
}

/* The row is taken apart no further than what is asked for needs. */
static bool
has_type(const Subscription *s, TupleTableSlot *slot)
{
	if (s->aggregate_type_count < 0 && s->event_type_count < 0)
		return true;
	slot_getsomeattrs(slot, EV_EVENT_TYPE + 1);
	return es_subscribes(s, slot->tts_values[EV_AGGREGATE_TYPE],
						 slot->tts_values[EV_EVENT_TYPE]);
}

/*
 * Nobody can say what the event is, since its upcaster is gone.  What lies before it comes
 * without it.
 */
static bool
meet_fault(Stretch *stretch, ErrorData *error)
{
	if (stretch->count == 0)
		ReThrowError(error);
	stretch->last--;
	stretch->ended = true;
	return false;
}

/* The event that cannot be upcast ends the stretch, if it is for this one at all. */
static bool
meet_failure(Stretch *stretch, TupleTableSlot *slot, ErrorData *error)
{
	const Partitioning *by = &stretch->subscription->partitioning;
	bool fault = es_is_fault_of_upcaster(error->sqlerrcode);
	text *partition = NULL;
	MemoryContext caller;

	if ((!fault || es_partition_is_kept(by)) &&
		!is_wanted(stretch, slot, &partition))
		return true;
	if (fault)
		return meet_fault(stretch, error);
	if (partition == NULL)
		partition = es_partition_of(&stretch->subscription->partitioning,
									slot->tts_values, slot->tts_isnull);
	caller = MemoryContextSwitchTo(GetMemoryChunkContext(stretch->positions));
	stretch->failed = stretch->last--;
	stretch->ended = true;
	stretch->failed_partition =
		PointerGetDatum(DatumGetTextPCopy(PointerGetDatum(partition)));
	stretch->cause.code =
		CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	stretch->cause.message = CStringGetTextDatum(error->message);
	MemoryContextSwitchTo(caller);
	return false;
}

/*
 * Brings the event in *slot to its last version, which is in another slot then; what
 * was raised where that fails.
 */
static ErrorData *
upcast(Stretch *stretch, TupleTableSlot **slot)
{
	TupleTableSlot *last = stretch->last_version;
	TupleTableSlot *written = *slot;
	ErrorData *error = NULL;

	if (!es_is_old_row(written))
		return NULL;
	slot_getallattrs(written);
	ExecClearTuple(last);
	memcpy(last->tts_values, written->tts_values, EV_COLUMNS * sizeof(Datum));
	memcpy(last->tts_isnull, written->tts_isnull, EV_COLUMNS * sizeof(bool));
	stretch->upcasting = true;
	if (stretch->one_by_one)
		error = es_try_upcast(last->tts_values, last->tts_isnull, true);
	else
		(void) es_upcast(last->tts_values, last->tts_isnull);
	stretch->upcasting = false;
	if (error != NULL)
		return error;
	stretch->written = written;
	*slot = ExecStoreVirtualTuple(last);
	return NULL;
}

static void
note_position(Stretch *stretch)
{
	if (stretch->count == stretch->room)
	{
		stretch->room = Max(stretch->room * 2, 64);
		stretch->positions =
			stretch->positions == NULL
				? palloc(stretch->room * sizeof(int64))
				: repalloc(stretch->positions, stretch->room * sizeof(int64));
	}
	stretch->positions[stretch->count++] = stretch->last;
}

/* Whether an event that could not be upcast is wanted, where that ends nothing. */
static bool
is_wanted_as_written(const Stretch *stretch, TupleTableSlot *slot,
					 ErrorData *error, text **partition)
{
	const Partitioning *by = &stretch->subscription->partitioning;
	bool fault = es_is_fault_of_upcaster(error->sqlerrcode);
	bool wanted = (fault && !es_partition_is_kept(by)) ||
				  is_wanted(stretch, slot, partition);

	if (wanted && fault && stretch->exact)
		ReThrowError(error);
	return wanted;
}

/*
 * Takes an event if it is wanted, in the memory of one event; false where it ends the
 * stretch.
 */
static bool
look_at_event(Stretch *stretch, TupleTableSlot *slot, bool *wanted)
{
	const Subscription *s = stretch->subscription;
	text *partition = NULL;
	ErrorData *error = NULL;
	bool isnull;

	if (!has_type(s, slot))
		return true;
	stretch->written = NULL;
	if (stretch->last_version != NULL)
		error = upcast(stretch, &slot);
	if (error != NULL && stretch->heeds_failures)
		return meet_failure(stretch, slot, error);
	if (stretch->last_version != NULL && error == NULL &&
		!es_wants_type(s, slot_getattr(slot, EV_EVENT_TYPE + 1, &isnull)))
		return true;
	*wanted = error == NULL
				  ? is_wanted(stretch, slot, &partition)
				  : is_wanted_as_written(stretch, slot, error, &partition);
	if (*wanted && stretch->put != NULL)
		stretch->put(stretch, slot, partition);
	if (*wanted && stretch->into != NULL)
		tuplestore_puttupleslot(stretch->into, slot);
	return true;
}

/* Takes an event if it is wanted; false when there are enough, or the stretch ends. */
static bool
take_event(TupleTableSlot *slot, void *arg)
{
	Stretch *stretch = arg;
	MemoryContext caller;
	bool wanted = false;
	bool more;

	slot_getsomeattrs(slot, EV_GLOBAL_POSITION + 1);
	stretch->read++;
	stretch->last = DatumGetInt64(slot->tts_values[EV_GLOBAL_POSITION]);
	caller = MemoryContextSwitchTo(stretch->context);
	more = look_at_event(stretch, slot, &wanted);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(stretch->context);
	if (!wanted)
		return more;
	MemoryContextSwitchTo(GetMemoryChunkContext(stretch->positions));
	note_position(stretch);
	MemoryContextSwitchTo(caller);
	return stretch->count < stretch->max_count;
}

/*
 * Finds the aggregate whose events a partition has.  Where its text may stand for several
 * ("a/b" and "c", or "a" and "b/c") it is the only one of them that has any; else false.
 */
static bool
find_aggregate(const text *partition, Datum *type, Datum *id)
{
	static KeptPlan plan = {"SELECT 1 FROM event_store.domain_events e"
							" WHERE e.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND e.aggregate_id OPERATOR(pg_catalog.=) $2 LIMIT 1",
							2,
							{TEXTOID, TEXTOID}};
	const char *all = VARDATA_ANY(partition);
	int size = VARSIZE_ANY_EXHDR(partition);
	int found = 0;

	for (int i = 0; i < size && found < 2; i++)
	{
		Datum values[2];

		if (all[i] != '/')
			continue;
		values[0] = PointerGetDatum(cstring_to_text_with_len(all, i));
		values[1] =
			PointerGetDatum(cstring_to_text_with_len(all + i + 1, size - i - 1));
		if (es_execute(&plan, values, NULL, true, SPI_OK_SELECT) == 0 &&
			es_last_archived(values[0], values[1]) == 0)
			continue;
		found++;
		*type = values[0];
		*id = values[1];
	}
	return found == 1;
}

/*
 * Reads the events of one aggregate, from where its events stand: what lies between
 * those of a partition may be most of the log.  Within an aggregate positions rise with
 * sequences.
 */
static bool
read_aggregate(Stretch *stretch, int64 after, Datum *bounds)
{
	static KeptPlan plan =
		{ES_EVENT_SELECT
		 " WHERE e.aggregate_type OPERATOR(pg_catalog.=) $4"
		 " AND e.aggregate_id OPERATOR(pg_catalog.=) $5"
		 " AND e.sequence OPERATOR(pg_catalog.>=) COALESCE((SELECT f.sequence"
		 " FROM event_store.domain_events f"
		 " WHERE f.global_position OPERATOR(pg_catalog.>=) $1"
		 " AND f.global_position OPERATOR(pg_catalog.<=) ($1 OPERATOR(pg_catalog.+) 1)"
		 " AND f.aggregate_type OPERATOR(pg_catalog.=) $4"
		 " AND f.aggregate_id OPERATOR(pg_catalog.=) $5"
		 " ORDER BY f.global_position LIMIT 1), 0)"
		 " AND e.global_position OPERATOR(pg_catalog.>) $1"
		 " AND e.global_position OPERATOR(pg_catalog.<=) $2"
		 " ORDER BY e.sequence LIMIT $3",
		 5,
		 {INT8OID, INT8OID, INT8OID, TEXTOID, TEXTOID}};
	Datum values[5] = {bounds[0], bounds[1], bounds[2]};

	if (stretch->partition == 0 ||
		stretch->subscription->partitioning.by != ES_BY_AGGREGATE ||
		!find_aggregate(DatumGetTextPP(stretch->partition), &values[3],
						&values[4]))
		return false;
	es_for_each_row(es_log_plan_after(&plan, after), values, NULL, take_event,
					stretch);
	return true;
}

/* Reads what is left of a stretch, from behind its last event. */
static bool
read_events(void *arg)
{
	static KeptPlan plan = {ES_EVENT_SELECT
							" WHERE e.global_position OPERATOR(pg_catalog.>) $1"
							" AND e.global_position OPERATOR(pg_catalog.<=) $2"
							" ORDER BY e.global_position LIMIT $3",
							3,
							{INT8OID, INT8OID, INT8OID}};
	Stretch *stretch = arg;
	int64 after = stretch->last;
	Datum values[3] = {Int64GetDatum(after), Int64GetDatum(stretch->up_to),
					   Int64GetDatum(ES_STRETCH_EVENTS - stretch->read)};

	PushActiveSnapshot(GetLatestSnapshot());
	if (!read_aggregate(stretch, after, values))
		es_for_each_row(es_log_plan_after(&plan, after), values, NULL,
						take_event, stretch);
	PopActiveSnapshot();
	return true;
}

/* The same where events may be old; from one whose upcaster raises each is tried alone. */
static void
read_old_events(Stretch *stretch)
{
	ErrorData *error;

	stretch->last_version =
		MakeSingleTupleTableSlot(es_event_desc(), &TTSOpsVirtual);
	stretch->one_by_one = false;
	stretch->upcasting = false;
	error = es_in_subtransaction(read_events, stretch);
	if (error != NULL &&
		!(stretch->upcasting && es_is_upcast_failure(error->sqlerrcode)))
		ReThrowError(error);
	if (error != NULL)
	{
		FreeErrorData(error);
		MemoryContextReset(stretch->context);
		ExecClearTuple(stretch->last_version);
		stretch->one_by_one = true;
		stretch->read--;
		stretch->last--;
		(void) read_events(stretch);
	}
	ExecDropSingleTupleTableSlot(stretch->last_version);
	stretch->last_version = NULL;
}

int64
es_read_stretch(Stretch *stretch, int64 after, int64 up_to)
{
	if (stretch->positions == NULL)
	{
		stretch->room = 64;
		stretch->positions = palloc(stretch->room * sizeof(int64));
	}
	stretch->read = 0;
	stretch->last = after;
	stretch->up_to = up_to;
	stretch->ended = false;
	stretch->context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store partition",
							  ALLOCSET_SMALL_SIZES);
	if (es_upcasts())
		read_old_events(stretch);
	else
		(void) read_events(stretch);
	MemoryContextDelete(stretch->context);
	return stretch->count >= stretch->max_count || stretch->ended ||
				   stretch->read >= ES_STRETCH_EVENTS
			   ? stretch->last
			   : up_to;
}

void
es_read_stretches(Stretch *stretch, int64 after, int64 up_to)
{
	while (after < up_to && stretch->count < stretch->max_count && !stretch->ended)
	{
		CHECK_FOR_INTERRUPTS();
		after = es_read_stretch(stretch, after, up_to);
	}
}
