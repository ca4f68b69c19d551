/*
 * moved_partitions.c
 *		Events that stand in another partition once they are erased.
 *
 * What is erased of an event may be what says in which partition of a subscription it is, and
 * so which member has it.  Then it is in the partition of its aggregate, whose member
 * stands elsewhere in the log.  What nobody has been given yet, and would not come any
 * more, is parked alone there and due at once; what was given, and would come again, is marked as
 * passed over.  An event that was set aside goes along, and its partition waits from its next
 * event on.
 *
 * Members stand still meanwhile: who has a batch in hand holds the subscription's lock.  A
 * lease has none, and what it has in hand counts as not given: it may come twice, as what
 * a lease had in hand that is over.
 *
 * Views whose rows are the partitions are stale anyway, and made anew.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "consume/aside.h"
#include "consume/member.h"
#include "consume/parked.h"
#include "consume/partition.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/lock.h"
#include "ground/pair_table.h"
#include "ground/projector_slot.h"
#include "ground/waiter.h"
#include "keep/moved_partitions.h"
#include "replay/upcast.h"
#include "replay/upcaster.h"

/* A subscription, and how far its members have come. */
typedef struct Divided
{
	Subscription subscription;
	int64 *passed;
	bool concerned; /* something of it was moved */
} Divided;

/* An event of it. */
typedef struct Move
{
	int divided;
	int64 position;
	Datum from; /* texts */
	Datum to;
	bool renamed; /* what is set aside of it was renamed with its aggregate */
} Move;

struct PartitionMoves
{
	MemoryContext context;
	int divided_count;
	Divided *divided;
	int64 count;
	int64 room;
	Move *moves;
};

/* ---------- which subscriptions ---------- */

/* Their names, in the current memory context and in an order that is the same for all. */
static Datum *
find_divided(Datum aggregate_types, bool renamed, int *count)
{
	static KeptPlan plan =
		{"SELECT s.subscription_name FROM event_store.subscriptions s"
		 " WHERE (s.aggregate_types IS NULL"
		 " OR s.aggregate_types OPERATOR(pg_catalog.&&) $1)"
		 " AND s.partition_by OPERATOR(pg_catalog.<>) '" ES_PARTITION_BY_ROW "'"
		 " AND ($2 OR s.partition_by OPERATOR(pg_catalog.<>) 'aggregate')"
		 " ORDER BY s.subscription_name",
		 2,
		 {TEXTARRAYOID, BOOLOID}};
	Datum values[2] = {aggregate_types, BoolGetDatum(renamed)};
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	Datum *names;

	es_begin(&scope);
	*count = (int) es_execute_latest(&plan, values, NULL);
	MemoryContextSwitchTo(caller);
	names = palloc(Max(*count, 1) * sizeof(Datum));
	for (int i = 0; i < *count; i++)
	{
		bool isnull;

		names[i] = datumCopy(SPI_getbinval(SPI_tuptable->vals[i],
										   SPI_tuptable->tupdesc, 1, &isnull),
							 false, -1);
	}
	es_end(&scope);
	return names;
}

void
es_hold_divided(Datum aggregate_types, bool renamed)
{
	int count;
	Datum *names = find_divided(aggregate_types, renamed, &count);

	for (int i = 0; i < count; i++)
		es_lock_hash(ES_LOCK_SUBSCRIPTION, es_subscription_hash(names[i]),
					 ExclusiveLock);
}

/*
 * What a member has passed in memory alone it would meet again after a crash, so that is
 * stored.
 */
static int64
read_member(const Subscription *s, int member)
{
	MemberState state;
	int64 passed;

	es_lock_member(s->hash, member);
	state = es_newest_member(s->name, member);
	passed = es_member_passed(s->hash, member, &state);
	if (passed > state.position)
	{
		state.position = passed;
		es_store_member(s->name, member, &state);
	}
	return passed;
}

/* Where all are in one place and nothing waits, it is the same which partition an event is in. */
static bool
reads_divided(Datum name, Divided *divided)
{
	Subscription *s = &divided->subscription;

	if (!es_find_subscription(name, s))
		return false;
	es_look_set_aside(s);
	return s->sets_aside || s->members > 1;
}

PartitionMoves *
es_begin_partition_moves(Datum aggregate_types, bool renamed)
{
	PartitionMoves *moves = palloc0(sizeof(PartitionMoves));
	int count;
	Datum *names = find_divided(aggregate_types, renamed, &count);

	moves->context = CurrentMemoryContext;
	moves->divided = palloc0(Max(count, 1) * sizeof(Divided));
	for (int i = 0; i < count; i++)
	{
		if (reads_divided(names[i], &moves->divided[moves->divided_count]))
			moves->divided_count++;
	}
	return moves;
}

/* ---------- which events ---------- */

static Move *
add_move(PartitionMoves *moves)
{
	if (moves->count == moves->room)
	{
		moves->room = Max(moves->room * 2, 64);
		moves->moves =
			moves->moves == NULL
				? palloc(moves->room * sizeof(Move))
				: repalloc_huge(moves->moves, moves->room * sizeof(Move));
	}
	return &moves->moves[moves->count++];
}

static void
keep_move(PartitionMoves *moves, Move move)
{
	MemoryContext caller = MemoryContextSwitchTo(moves->context);
	Move *kept = add_move(moves);

	*kept = move;
	kept->from = datumCopy(move.from, false, -1);
	kept->to = datumCopy(move.to, false, -1);
	MemoryContextSwitchTo(caller);
}

/* An event as its subscribers have it; one that cannot be upcast as it was written. */
typedef struct LastVersion
{
	Datum values[EV_COLUMNS];
	bool nulls[EV_COLUMNS];
} LastVersion;

static void
bring_to_last(LastVersion *last, const Datum *values, const bool *nulls)
{
	memcpy(last->values, values, sizeof(last->values));
	memcpy(last->nulls, nulls, sizeof(last->nulls));
	if (es_upcasts())
		(void) es_try_upcast(last->values, last->nulls, false);
}

void
es_note_partition_move(PartitionMoves *moves, const Datum *before,
					   const bool *before_nulls, const Datum *after,
					   const bool *after_nulls)
{
	bool renamed = !es_same_text(before[EV_AGGREGATE_ID], after[EV_AGGREGATE_ID]);
	LastVersion was;
	LastVersion is;

	if (moves->divided_count == 0)
		return;
	bring_to_last(&was, before, before_nulls);
	bring_to_last(&is, after, after_nulls);
	for (int i = 0; i < moves->divided_count; i++)
	{
		const Subscription *s = &moves->divided[i].subscription;
		text *from;
		text *to;

		if (!es_subscribes(s, before[EV_AGGREGATE_TYPE], before[EV_EVENT_TYPE]) ||
			!es_wants_type(s, was.values[EV_EVENT_TYPE]))
			continue;
		from = es_partition_of(&s->partitioning, was.values, was.nulls);
		to = es_partition_of(&s->partitioning, is.values, is.nulls);
		if (!es_same_text(PointerGetDatum(from), PointerGetDatum(to)))
			keep_move(moves, (Move){.divided = i,
									.position =
										DatumGetInt64(before[EV_GLOBAL_POSITION]),
									.from = PointerGetDatum(from),
									.to = PointerGetDatum(to),
									.renamed = renamed});
	}
}

/* ---------- moving ---------- */

static int64
served_of(const Divided *divided, Datum partition)
{
	const Subscription *s = &divided->subscription;
	const text *key = DatumGetTextPP(partition);

	return es_partition_served(s, key,
							   divided->passed[es_partition_member(key, s->members)]);
}

/* An event that was parked alone is so in its other partition; false where it was not. */
static bool
take_along(const Subscription *s, const Move *move)
{
	static KeptPlan plan = {"UPDATE event_store.parked_events p"
							" SET partition_key = $3, member = $5"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND p.partition_key OPERATOR(pg_catalog.=) $2"
							" AND p.global_position OPERATOR(pg_catalog.=) $4"
							" AND p.state OPERATOR(pg_catalog.=) 'event'",
							5,
							{TEXTOID, TEXTOID, TEXTOID, INT8OID, INT4OID}};
	Datum values[5] = {s->name, move->from, move->to,
					   Int64GetDatum(move->position),
					   Int32GetDatum(es_partition_member(DatumGetTextPP(move->to),
														 s->members))};

	return es_execute_latest(&plan, values, NULL) > 0;
}

/* What was parked waits until it is retried; else it is due at once, in the order of positions. */
static void
park_alone(const Subscription *s, const Move *move, bool due)
{
	static KeptPlan plan = {"UPDATE event_store.parked_events p"
							" SET retry_at = pg_catalog.now()"
							" WHERE p.subscription_name OPERATOR(pg_catalog.=) $1"
							" AND p.partition_key OPERATOR(pg_catalog.=) $2"
							" AND p.global_position OPERATOR(pg_catalog.=) $3",
							3,
							{TEXTOID, TEXTOID, INT8OID}};
	Datum values[3] = {s->name, move->to, Int64GetDatum(move->position)};
	FailureCause none = {0};

	es_park_event(s, move->to, move->position, &none);
	if (due)
		(void) es_execute_latest(&plan, values, NULL);
}

/* The partition that it was the first one of waits from its next event on, as it did. */
static void
begin_behind(const Divided *divided, const Move *move, ParkedRow *row)
{
	const Subscription *s = &divided->subscription;
	Stretch next = {.subscription = s,
					.member = -1,
					.partition = move->from,
					.max_count = 1};

	es_read_stretches(&next, move->position, served_of(divided, move->from));
	if (next.count == 0)
	{
		es_release_partition(s->name, move->from);
		return;
	}
	row->position = next.positions[0];
	es_set_aside(s, move->from, row, NULL);
}

static void
carry_out(const Divided *divided, const Move *move)
{
	const Subscription *s = &divided->subscription;
	int64 position = move->position;
	Datum key = move->renamed ? move->to : move->from;
	ParkedRow row;
	bool waits = es_find_parked(s->name, key, &row);
	bool given;
	bool comes;

	if (take_along(s, move) ||
		es_find_aside(s->name, key, position, false) != ES_NOT_ASIDE)
		return;
	given = position <= served_of(divided, move->from) &&
			!(waits && row.position <= position);
	comes = position > served_of(divided, move->to) ||
			es_find_aside(s->name, move->to, position, true) == ES_ASIDE_BEHIND;
	if (given && comes)
		es_mark_event(s->name, position);
	else if (!given && !comes)
		park_alone(s, move, !waits || row.retrying);
	if (waits && row.position == position && !move->renamed)
		begin_behind(divided, move, &row);
}

/* The last one first: a partition begins behind its first one when all others have left it. */
static int
compare_moves(const void *a, const void *b)
{
	int64 first = ((const Move *) a)->position;
	int64 second = ((const Move *) b)->position;

	return first < second ? 1 : first > second ? -1 : 0;
}

static void
read_members(Divided *divided)
{
	const Subscription *s = &divided->subscription;

	if (divided->concerned)
		return;
	divided->passed = palloc(s->members * sizeof(int64));
	for (int i = 0; i < s->members; i++)
		divided->passed[i] = read_member(s, i);
	divided->concerned = true;
	es_note_freed(s->hash, true);
	es_note_projectors_wanted();
}

void
es_carry_out_partition_moves(PartitionMoves *moves)
{
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;

	if (moves->count == 0)
		return;
	es_begin(&scope);
	MemoryContextSwitchTo(caller);
	for (int64 i = 0; i < moves->count; i++)
		read_members(&moves->divided[moves->moves[i].divided]);
	qsort(moves->moves, moves->count, sizeof(Move), compare_moves);
	for (int64 i = 0; i < moves->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		carry_out(&moves->divided[moves->moves[i].divided], &moves->moves[i]);
	}
	moves->count = 0;
	es_end(&scope);
}
