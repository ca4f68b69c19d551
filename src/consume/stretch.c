/*
 * stretch.c
 *		The log as a subscription reads it: events of its types, of a member or of
 *		one partition, without what is set aside.
 *
 * The log is read in the order of positions, and everything else is decided here,
 * event by event: so there is one statement, whose plan does not depend on what
 * is asked, and a bound to what a call reads whatever it selects.  What is set aside
 * is looked for only where something is.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/pair_table.h"
#include "replay/fold.h"

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
		if (!es_same_text(PointerGetDatum(partition), stretch->partition))
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

/* Takes an event if it is wanted; false when there are enough. */
static bool
take_event(TupleTableSlot *slot, void *arg)
{
	Stretch *stretch = arg;
	const Datum *values = slot->tts_values;
	MemoryContext caller;
	text *partition = NULL;
	bool wanted;

	slot_getsomeattrs(slot, EV_GLOBAL_POSITION + 1);
	stretch->read++;
	stretch->last = DatumGetInt64(values[EV_GLOBAL_POSITION]);
	caller = MemoryContextSwitchTo(stretch->context);
	wanted = has_type(stretch->subscription, slot) &&
			 is_wanted(stretch, slot, &partition);
	if (wanted && stretch->put != NULL)
		stretch->put(stretch, slot, partition);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(stretch->context);
	if (!wanted)
		return true;
	if (stretch->into != NULL)
		tuplestore_puttupleslot(stretch->into, slot);
	MemoryContextSwitchTo(GetMemoryChunkContext(stretch->positions));
	note_position(stretch);
	MemoryContextSwitchTo(caller);
	return stretch->count < stretch->max_count;
}

int64
es_read_stretch(Stretch *stretch, int64 after, int64 up_to)
{
	static KeptPlan plan = {ES_EVENT_SELECT
							" WHERE e.global_position OPERATOR(pg_catalog.>) $1"
							" AND e.global_position OPERATOR(pg_catalog.<=) $2"
							" ORDER BY e.global_position LIMIT $3",
							3,
							{INT8OID, INT8OID, INT8OID}};
	Datum values[3] = {Int64GetDatum(after), Int64GetDatum(up_to),
					   Int64GetDatum(ES_STRETCH_EVENTS)};

	if (stretch->positions == NULL)
	{
		stretch->room = 64;
		stretch->positions = palloc(stretch->room * sizeof(int64));
	}
	stretch->read = 0;
	stretch->last = after;
	stretch->context =
		AllocSetContextCreate(CurrentMemoryContext, "event_store partition",
							  ALLOCSET_SMALL_SIZES);
	PushActiveSnapshot(GetLatestSnapshot());
	es_for_each_row(&plan, values, NULL, take_event, stretch);
	PopActiveSnapshot();
	MemoryContextDelete(stretch->context);
	return stretch->count >= stretch->max_count ||
				   stretch->read >= ES_STRETCH_EVENTS
			   ? stretch->last
			   : up_to;
}

void
es_read_stretches(Stretch *stretch, int64 after, int64 up_to)
{
	while (after < up_to && stretch->count < stretch->max_count)
	{
		CHECK_FOR_INTERRUPTS();
		after = es_read_stretch(stretch, after, up_to);
	}
}
