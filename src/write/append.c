/*
 * append.c
 *		Appending to the event log, one event or many.
 *
 * Every append, single, list or batch, durable or staged, is one AppendCall:
 * events grouped by aggregate.  It runs in this order, and the order is what
 * makes it right:
 *
 *	1. Check all input, and wait for space in staging if asked to, holding
 *	   nothing.
 *	2. Lock the aggregates, in the order of lock.c, to the end of the
 *	   transaction.
 *	3. Take the latest snapshot, whatever the isolation level says, and read
 *	   under it alone: repeated event ids, staged and durable heads, dead
 *	   letters.  Nobody can append to these aggregates any more, and what was
 *	   appended before is visible.  The drain takes no aggregate lock; but it
 *	   moves rows in one transaction, so one snapshot sees each row once.
 *	4. Decide: refuse, report, or go on.  Nothing was written so far and no
 *	   position taken.
 *	5. A durable append that met staged rows of its aggregates waits until
 *	   those are durable, and starts again at 3.
 *	6. Take positions and insert, or stage.  Where views are folded inline their
 *		rows are locked before, and folded in between: inline_view.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "common/int.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/head_cache.h"
#include "ground/lock.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "log/closed_aggregate.h"
#include "log/log.h"
#include "replay/saga_event.h"
#include "staging/dead_letter.h"
#include "staging/flush.h"
#include "staging/head.h"
#include "staging/own_rows.h"
#include "staging/staged_row.h"
#include "staging/staged_scan.h"
#include "staging/staging.h"
#include "write/append.h"
#include "write/append_group.h"
#include "write/cause.h"
#include "write/event_input.h"
#include "write/inline_view.h"
#include "write/trace.h"

/* If none of so many heads is remembered the others are mostly not, either. */
#define FEW_HEADS 16

const char *const es_outcome_names[] = {"appended", "duplicate", "conflict"};

StaticAssertDecl(lengthof(es_outcome_names) == OUTCOME_CONFLICT + 1,
				 "a name for each outcome");

/* ---------- grouping ---------- */

/*
 * Finds the aggregates of the list.  All of append_events and append_event
 * belong to one; for a batch a hash table finds them.
 */
void
es_find_aggregates(AppendCall *append, bool single)
{
	int count = append->list.count;
	PairTable *table = single || count == 1 ? NULL : es_pair_table(count);
	int room = table == NULL ? 1 : 64;

	append->aggregates =
		palloc_extended(room * sizeof(Aggregate), MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
	{
		NewEvent *event = &append->list.events[i];
		Datum type = event->row.values[EV_AGGREGATE_TYPE];
		Datum id = event->row.values[EV_AGGREGATE_ID];
		bool found = i > 0;
		int64 only = 0;
		int64 *index =
			table == NULL ? &only : es_pair_enter(table, type, id, &found);
		Aggregate *aggregate;

		if (!found)
		{
			if (append->naggregates == room)
			{
				room *= 2;
				append->aggregates =
					repalloc_huge(append->aggregates, room * sizeof(Aggregate));
			}
			*index = append->naggregates++;
			aggregate = &append->aggregates[*index];
			memset(aggregate, 0, sizeof(*aggregate));
			aggregate->type = type;
			aggregate->id = id;
			aggregate->hash = es_pair_hash(type, id);
		}
		aggregate = &append->aggregates[*index];
		event->aggregate = (int) *index;
		aggregate->count++;
		append->any_given_ids = append->any_given_ids || event->id_given;
	}
	if (table != NULL)
		es_pair_table_drop(table);
}

/* Refuses a list that names one event_id twice. */
static void
check_ids_distinct(const AppendCall *append)
{
	HASHCTL ctl;
	HTAB *table;

	if (!append->any_given_ids || append->list.count == 1)
		return;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(pg_uuid_t);
	ctl.entrysize = sizeof(pg_uuid_t);
	ctl.hcxt = CurrentMemoryContext;
	table = hash_create("event_store ids", Min(append->list.count, 1024), &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < append->list.count; i++)
	{
		const NewEvent *event = &append->list.events[i];
		bool found;

		if (!event->id_given)
			continue;
		hash_search(table, DatumGetUUIDP(event->row.values[EV_EVENT_ID]),
					HASH_ENTER, &found);
		if (found)
			ereport(ERROR,
					(errcode(ES_ERRCODE_EVENT_ID_REUSED),
					 errmsg("event_id %s appears twice in one call",
							DatumGetCString(DirectFunctionCall1(
								uuid_out, event->row.values[EV_EVENT_ID]))),
					 errdetail_internal("%s",
										es_event_id_detail(event->row.values[EV_EVENT_ID],
														   NULL))));
	}
	hash_destroy(table);
}

/* ---------- repeated events ---------- */

/* Raises VS002 for an event of a call; "standing" is what the store has of it. */
static void
refuse_event_id(const EventRow *standing, const char *why)
{
	Datum id = standing->values[EV_EVENT_ID];

	ereport(ERROR,
			(errcode(ES_ERRCODE_EVENT_ID_REUSED),
			 errmsg("event_id %s was used before: %s",
					DatumGetCString(DirectFunctionCall1(uuid_out, id)), why),
			 errdetail_internal("%s", es_event_id_detail(id, standing))));
}

/*
 * Looks an event up by the id its caller gave.  If it is in the store with the
 * same content, its sequence and position are taken over and true returned.
 */
static bool
find_original(NewEvent *event, Snapshot snapshot, bool look_in_staging)
{
	pg_uuid_t *id = DatumGetUUIDP(event->row.values[EV_EVENT_ID]);
	StagedRow staged;
	EventRow durable;
	EventRow *original;

	if (es_durable_by_event_id(id, snapshot, &durable))
		original = &durable;
	else if (look_in_staging && es_staged_by_event_id(id, snapshot, &staged))
		original = &staged.event;
	else
		return false;
	if (!es_same_content(&event->row, original))
		refuse_event_id(original, "the event stored under it has other content");
	event->row.values[EV_SEQUENCE] = original->values[EV_SEQUENCE];
	event->row.nulls[EV_SEQUENCE] = false;
	event->row.values[EV_GLOBAL_POSITION] = original->values[EV_GLOBAL_POSITION];
	event->row.nulls[EV_GLOBAL_POSITION] = original->nulls[EV_GLOBAL_POSITION];
	return true;
}

/*
 * Sees that the repeated events of each aggregate stand in the store in the
 * order of the call.  Events of others may stand between them: who sends again
 * what is in the store cuts it into other calls.
 */
static void
check_order(AppendCall *append)
{
	for (int i = 0; i < append->list.count; i++)
	{
		const NewEvent *event = &append->list.events[i];
		Aggregate *aggregate = &append->aggregates[event->aggregate];
		int64 sequence;

		if (aggregate->outcome != OUTCOME_DUPLICATE)
			continue;
		sequence = DatumGetInt64(event->row.values[EV_SEQUENCE]);
		if (sequence <= aggregate->last_repeated)
			refuse_event_id(&event->row,
							"the events in this call are in the store in another order");
		aggregate->last_repeated = sequence;
	}
}

/*
 * Finds repeated events.  An aggregate's events are repeated all or none; and
 * so are all of a call that is written all or none.
 */
static void
find_originals(AppendCall *append, Snapshot snapshot, bool look_in_staging)
{
	const NewEvent *repeated = NULL;
	bool any_new = false;

	if (!append->any_given_ids)
		return;
	for (int i = 0; i < append->list.count; i++)
	{
		NewEvent *event = &append->list.events[i];

		CHECK_FOR_INTERRUPTS();
		if (event->id_given && append->group != NULL &&
			es_is_id_in_group(append->group,
							  DatumGetUUIDP(event->row.values[EV_EVENT_ID])))
		{
			append->verdict = ES_VERDICT_AGAIN;
			return;
		}
		if (event->id_given && find_original(event, snapshot, look_in_staging))
		{
			append->aggregates[event->aggregate].repeated++;
			repeated = event;
		}
	}
	for (int i = 0; i < append->naggregates; i++)
	{
		Aggregate *aggregate = &append->aggregates[i];

		if (aggregate->repeated == aggregate->count)
			aggregate->outcome = OUTCOME_DUPLICATE;
		else if (aggregate->repeated > 0)
			refuse_event_id(&repeated->row,
							"only a part of the events in this call is in the store already");
		else
			any_new = true;
	}
	if (any_new && repeated != NULL && append->on_conflict != ES_CONFLICT_REPORT)
		refuse_event_id(&repeated->row,
						"only a part of the events in this call is in the store already");
	if (repeated != NULL)
		check_order(append);
}

/* ---------- expectations ---------- */

static bool
expectation_met(const NewEvent *event, int64 actual)
{
	if (!event->expects)
		return true;
	if (event->expected == ES_EXPECT_EXISTS)
		return actual > 0;
	return event->expected == actual;
}

static void
raise_conflict(const Aggregate *aggregate, const NewEvent *event, int64 actual)
{
	char *type = TextDatumGetCString(aggregate->type);
	char *id = TextDatumGetCString(aggregate->id);
	char *expected =
		event->expects ? psprintf(INT64_FORMAT, event->expected) : "null";
	StringInfoData detail;

	es_count_conflict();
	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"aggregate_type\": ");
	escape_json(&detail, type);
	appendStringInfoString(&detail, ", \"aggregate_id\": ");
	escape_json(&detail, id);
	appendStringInfo(&detail, ", \"expected\": %s, \"actual\": " INT64_FORMAT "}",
					 expected, actual);
	ereport(ERROR,
			(errcode(ES_ERRCODE_SEQUENCE_CONFLICT),
			 errmsg("sequence conflict on %s/%s: expected %s, actual " INT64_FORMAT,
					type, id, event->expects ? expected : "any", actual),
			 errdetail_internal("%s", detail.data)));
}

void
es_refuse_event(const AppendCall *append, int event, int64 actual)
{
	const NewEvent *refused = &append->list.events[event];

	raise_conflict(&append->aggregates[refused->aggregate], refused, actual);
}

/* Goes on by one event; only a row written around the API can be the last. */
static void
take_sequence(Aggregate *aggregate)
{
	if (pg_add_s64_overflow(aggregate->sequence, 1, &aggregate->sequence))
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("aggregate %s/%s has no sequence left",
							   TextDatumGetCString(aggregate->type),
							   TextDatumGetCString(aggregate->id))));
}

/*
 * Checks every expectation against the aggregate as it is just before that
 * event.  Raises VS001, or where it is to be reported marks the aggregate, or all.
 */
static void
check_expectations(AppendCall *append)
{
	bool conflict = false;

	for (int i = 0; i < append->list.count; i++)
	{
		NewEvent *event = &append->list.events[i];
		Aggregate *aggregate = &append->aggregates[event->aggregate];

		if (aggregate->outcome != OUTCOME_APPENDED)
			continue;
		if (expectation_met(event, aggregate->sequence))
			take_sequence(aggregate);
		else if (append->group != NULL && append->on_conflict == ES_CONFLICT_ERROR)
		{
			append->verdict = ES_VERDICT_REFUSED;
			append->refused = i;
			append->actual = aggregate->sequence;
			return;
		}
		else if (append->on_conflict == ES_CONFLICT_ERROR)
			raise_conflict(aggregate, event, aggregate->sequence);
		else
		{
			es_count_conflict();
			append->conflicts++;
			aggregate->outcome = OUTCOME_CONFLICT;
			conflict = true;
		}
	}
	append->to_write = 0;
	for (int i = 0; i < append->naggregates; i++)
	{
		Aggregate *aggregate = &append->aggregates[i];

		/* nothing of the call is in the store then: see find_originals */
		if (conflict && append->on_conflict == ES_CONFLICT_REPORT_ALL)
			aggregate->outcome = OUTCOME_CONFLICT;
		if (aggregate->outcome == OUTCOME_APPENDED)
			append->to_write += aggregate->count;
	}
}

/*
 * In a SERIALIZABLE transaction everything must look as its own snapshot
 * says: a last event that is newer than that ends it with 40001.  What that
 * snapshot sees staged may have been drained since.
 */
static void
check_serializable(const Aggregate *aggregate)
{
	StagedRead read;
	Head seen;

	es_begin_staged_read(&read, GetTransactionSnapshot());
	es_read_head(aggregate->type, aggregate->id, GetActiveSnapshot(), true, &seen);
	es_end_staged_read(&read);
	if (seen.sequence != aggregate->head.sequence)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent append to %s/%s",
						TextDatumGetCString(aggregate->type),
						TextDatumGetCString(aggregate->id))));
}

/* ---------- append ---------- */

/*
 * Where an aggregate stands by what calls of the same group before this one will have
 * written, which nobody can read yet.
 */
static bool
head_from_group(const AppendCall *append, const Aggregate *aggregate, Head *head)
{
	head->staged = false;
	head->state = ES_AGGREGATE_OPEN;
	return append->group != NULL &&
		   es_group_head(append->group, aggregate->type, aggregate->id,
						 &head->sequence, &head->recorded_at);
}

/*
 * Reads the heads under one snapshot.  Returns false if a durable append met
 * staged rows, which have to become durable first.
 */
static bool
read_heads(AppendCall *append, Snapshot snapshot, bool look_in_staging)
{
	for (int i = 0; i < append->naggregates; i++)
	{
		Aggregate *aggregate = &append->aggregates[i];

		CHECK_FOR_INTERRUPTS();
		aggregate->repeated = 0;
		aggregate->last_repeated = 0;
		aggregate->outcome = OUTCOME_APPENDED;
		if (!aggregate->known)
		{
			if (!head_from_group(append, aggregate, &aggregate->head))
				es_read_head(aggregate->type, aggregate->id, snapshot,
							 look_in_staging, &aggregate->head);
			if (append->durability == ES_DURABLE && aggregate->head.staged)
				return false;
		}
		aggregate->sequence = aggregate->head.sequence;
		if (IsolationIsSerializable())
			check_serializable(aggregate);
		if (es_has_dead_letters(aggregate->type, aggregate->id, snapshot))
			ereport(ERROR,
					(errcode(ES_ERRCODE_DEAD_LETTERS),
					 errmsg("aggregate %s/%s has dead letters",
							TextDatumGetCString(aggregate->type),
							TextDatumGetCString(aggregate->id)),
					 errhint("Settle them with retry_dead_letters or discard_dead_letters.")));
	}
	return true;
}

/* Closed aggregates take no events but those that they have. */
static void
refuse_closed(const AppendCall *append)
{
	for (int i = 0; i < append->naggregates; i++)
	{
		const Aggregate *aggregate = &append->aggregates[i];
		bool archived = aggregate->head.state == ES_AGGREGATE_ARCHIVED;
		char *type;
		char *id;
		StringInfoData detail;

		if (aggregate->head.state == ES_AGGREGATE_OPEN ||
			aggregate->outcome == OUTCOME_DUPLICATE)
			continue;
		type = TextDatumGetCString(aggregate->type);
		id = TextDatumGetCString(aggregate->id);
		initStringInfo(&detail);
		appendStringInfoString(&detail, "{\"aggregate_type\": ");
		escape_json(&detail, type);
		appendStringInfoString(&detail, ", \"aggregate_id\": ");
		escape_json(&detail, id);
		appendStringInfo(&detail, ", \"state\": \"%s\"}",
						 archived ? "archived" : "deleted");
		ereport(ERROR,
				(errcode(ES_ERRCODE_AGGREGATE_CLOSED),
				 errmsg("aggregate %s/%s is %s", type, id,
						archived ? "archived" : "deleted"),
				 errdetail_internal("%s", detail.data),
				 archived ? errhint("restore_aggregate() opens it again.") : 0));
	}
}

/* Whether others have staged events of an aggregate of the append. */
static bool
any_staged_by_others(void *arg)
{
	AppendCall *append = arg;
	StagedRead read;
	bool others = false;

	if (!es_begin_latest_read(&read, es_store()->events))
	{
		es_end_staged_read(&read);
		return false;
	}
	for (int i = 0; i < append->naggregates && !others; i++)
	{
		const Aggregate *aggregate = &append->aggregates[i];
		StagedScan *scan =
			es_staged_begin(ES_KIND_EVENT, aggregate->type, aggregate->id,
							GetActiveSnapshot(), false);
		StagedRow row;

		CHECK_FOR_INTERRUPTS();
		/* one's own come after those of others */
		others = es_staged_next_row(scan, &row) && !row.own;
		es_staged_end(scan);
	}
	es_end_staged_read(&read);
	return others;
}

/*
 * The same without looking, if shared memory remembers all the heads and they
 * are all that has to be known.  Of those that it remembers none is read, also where it
 * does not remember all.
 */
static bool
heads_from_cache(AppendCall *append)
{
	SharedDatabase *db = es_my_database();
	bool staged = es_may_have_staged();
	int known = 0;

	for (int i = 0; i < append->naggregates; i++)
		append->aggregates[i].known = false;
	if (append->any_given_ids || IsolationIsSerializable() ||
		es_dead_letters_possible())
		return false;
	for (int i = 0; i < append->naggregates && !(i == FEW_HEADS && known == 0);
		 i++)
	{
		Aggregate *aggregate = &append->aggregates[i];
		Head *head = &aggregate->head;

		aggregate->known =
			head_from_group(append, aggregate, head) ||
			es_cached_head(db, aggregate->type, aggregate->id, &head->sequence,
						   &head->recorded_at, &head->staged);
		/* what was staged last may be durable by now */
		if (append->durability == ES_DURABLE && head->staged && staged)
			aggregate->known = false;
		aggregate->sequence = head->sequence;
		known += aggregate->known ? 1 : 0;
	}
	return known == append->naggregates;
}

/* Step 3 to 5: everything that is read and decided under one snapshot. */
static void
decide(AppendCall *append)
{
	for (;;)
	{
		StagedRead read;
		bool staged;
		bool ready;

		if (heads_from_cache(append))
			break;
		if (append->any_given_ids)
			append->moves = es_moves();
		staged = es_begin_latest_read(&read, es_store()->events);
		ready = read_heads(append, GetActiveSnapshot(), staged);
		if (ready)
		{
			find_originals(append, GetActiveSnapshot(), staged);
			refuse_closed(append);
		}
		es_end_staged_read(&read);
		if (ready)
			break;
		if (append->group != NULL)
		{
			append->verdict = ES_VERDICT_WAITS;
			return;
		}
		es_settle(any_staged_by_others, append);
		/* a trigger may have staged in this very transaction */
		es_move_own_rows();
	}
	if (append->verdict == ES_VERDICT_TAKEN)
		check_expectations(append);
}

/*
 * Sets what is known only now: sequence and times.  Returns the rows to be
 * written, in the order of the call.
 */
static EventRow **
assign(AppendCall *append)
{
	EventRow **rows =
		palloc_extended(append->to_write * sizeof(EventRow *), MCXT_ALLOC_HUGE);
	TimestampTz now = GetCurrentTimestamp();
	int n = 0;

	for (int i = 0; i < append->naggregates; i++)
	{
		Aggregate *aggregate = &append->aggregates[i];

		aggregate->sequence = aggregate->head.sequence;
		aggregate->recorded_at = Max(now, aggregate->head.recorded_at);
	}
	for (int i = 0; i < append->list.count; i++)
	{
		EventRow *row = &append->list.events[i].row;
		Aggregate *aggregate =
			&append->aggregates[append->list.events[i].aggregate];

		if (aggregate->outcome != OUTCOME_APPENDED)
			continue;
		row->values[EV_SEQUENCE] = Int64GetDatum(++aggregate->sequence);
		row->nulls[EV_SEQUENCE] = false;
		row->values[EV_RECORDED_AT] = TimestampTzGetDatum(aggregate->recorded_at);
		row->nulls[EV_RECORDED_AT] = false;
		if (row->nulls[EV_OCCURRED_AT])
		{
			row->values[EV_OCCURRED_AT] = row->values[EV_RECORDED_AT];
			row->nulls[EV_OCCURRED_AT] = false;
		}
		row->nulls[EV_GLOBAL_POSITION] = true;
		rows[n++] = row;
	}
	return rows;
}

/*
 * Whether an event_id that is to be written is in the log, though it was not when it
 * was looked for.  If that is not the same event it is VS002.
 */
static bool
is_id_taken(const AppendCall *append, Snapshot snapshot)
{
	bool taken = false;

	for (int i = 0; i < append->list.count; i++)
	{
		const NewEvent *event = &append->list.events[i];
		EventRow standing;
		Logged logged = ES_NOT_LOGGED;

		if (event->id_given &&
			append->aggregates[event->aggregate].outcome == OUTCOME_APPENDED)
			logged = es_look_in_log(&event->row, snapshot, &standing);
		if (logged == ES_LOGGED_OTHERWISE)
			ereport(ERROR,
					(errcode(ES_ERRCODE_EVENT_ID_REUSED),
					 errmsg("an event_id of this call was used at the same time by another append"),
					 errdetail_internal("%s",
										es_event_id_detail(event->row.values[EV_EVENT_ID],
														   &standing))));
		taken = taken || logged == ES_LOGGED;
	}
	return taken;
}

/*
 * An aggregate goes on in another way than its head said.  Raises VS001 if that
 * is not as expected; what is to be reported is found by the next try.
 */
static void
refuse_taken_sequence(AppendCall *append, Snapshot snapshot)
{
	if (append->on_conflict != ES_CONFLICT_ERROR)
		return;
	for (int i = 0; i < append->naggregates; i++)
	{
		Aggregate *aggregate = &append->aggregates[i];

		aggregate->sequence =
			es_durable_head(aggregate->type, aggregate->id, snapshot, NULL);
	}
	check_expectations(append);
}

/* An error of a fold is the append's; a key of the log is violated by what follows. */
static void
insert_and_fold(EventRow **rows, int count)
{
	InlineFolds *folds = es_begin_inline_folds(rows, count);

	es_number_events(rows, count);
	es_end_inline_folds(folds);
	es_insert_numbered_events(rows, count);
}

/*
 * Inserts into the log.  With the aggregates locked a unique key of ours can only
 * be violated by an event_id that another aggregate takes at this moment, or by
 * rows written around the API.  The log is asked once more, as it is but for
 * what this call has written; the error ends the transaction as any other does.
 */
static void
insert_or_refuse(AppendCall *append, EventRow **rows, int count)
{
	MemoryContext context = CurrentMemoryContext;
	CommandId command = GetCurrentCommandId(false);

	PG_TRY();
	{
		if (append->inlined)
			insert_and_fold(rows, count);
		else
			es_insert_events(rows, count);
		if (append->any_given_ids && es_moved_since(append->moves))
			es_refuse_archived_ids(rows, count);
	}
	PG_CATCH();
	{
		EventKey key = es_catch_key_violation(context);
		Snapshot snapshot = GetLatestSnapshot();

		snapshot->curcid = command;
		snapshot = RegisterSnapshot(snapshot);
		/* what is repeated is no conflict, whatever was expected */
		if (key != ES_KEY_POSITION && !is_id_taken(append, snapshot) &&
			key == ES_KEY_AGGREGATE)
			refuse_taken_sequence(append, snapshot);
		es_raise_race();
	}
	PG_END_TRY();
}

/* Lets others know the heads once the transaction has committed. */
static void
note_heads(const AppendCall *append)
{
	SharedDatabase *db = es_my_database();

	for (int i = 0; i < append->naggregates; i++)
	{
		const Aggregate *aggregate = &append->aggregates[i];

		if (aggregate->outcome == OUTCOME_APPENDED)
			es_note_head(db, aggregate->type, aggregate->id, aggregate->sequence,
						 aggregate->recorded_at, append->durability == ES_STAGED);
	}
}

/* Stages the rows, each numbered by its aggregate. */
static void
stage(const AppendCall *append, EventRow **rows, int count)
{
	int *groups = NULL;
	int n = 0;

	if (append->naggregates > 1)
	{
		groups = palloc_extended(count * sizeof(int), MCXT_ALLOC_HUGE);
		for (int i = 0; i < append->list.count; i++)
		{
			int aggregate = append->list.events[i].aggregate;

			if (append->aggregates[aggregate].outcome == OUTCOME_APPENDED)
				groups[n++] = aggregate;
		}
	}
	es_stage_events(rows, groups, append->naggregates, count);
	if (groups != NULL)
		pfree(groups);
}

/*
 * The drain looks in the archive for what was staged before the last move.  What was
 * staged after it and looked for before it is looked for here.
 */
static void
refuse_moved_ids(const AppendCall *append)
{
	Snapshot snapshot;

	if (!append->any_given_ids || !es_moved_since(append->moves))
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (is_id_taken(append, snapshot))
		es_raise_race();
	UnregisterSnapshot(snapshot);
}

/* Step 6. */
static void
write_events(AppendCall *append)
{
	EventRow **rows = assign(append);
	int count = append->to_write;

	/* before a trigger can append on top of it; an error takes it back */
	note_heads(append);

	if (append->durability == ES_DURABLE)
	{
		es_note_durable_write();
		insert_or_refuse(append, rows, count);
	}
	else
	{
		stage(append, rows, count);
		refuse_moved_ids(append);
		CommandCounterIncrement();
	}
	es_note_write();
	pfree(rows);
}

static void
lock_aggregates(const AppendCall *append)
{
	uint64 *hashes =
		palloc_extended(append->naggregates * sizeof(uint64), MCXT_ALLOC_HUGE);

	for (int i = 0; i < append->naggregates; i++)
		hashes[i] = append->aggregates[i].hash;
	es_lock_pairs(ES_LOCK_AGGREGATE, hashes, append->naggregates);
	pfree(hashes);
}

/* Where views are folded by the append it is durable, as they are. */
static void
find_inline_views(AppendCall *append)
{
	for (int i = 0; i < append->naggregates && !append->inlined; i++)
		append->inlined = es_is_inline_type(append->aggregates[i].type);
	if (!append->inlined || append->durability == ES_DURABLE)
		return;
	if (es_draining())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a trigger cannot append an event of an inline view while staged rows are drained")));
	append->durability = ES_DURABLE;
	es_move_own_rows();
}

bool
es_is_erasure_type(Datum type)
{
	const text *name = (const text *) DatumGetPointer(type);
	const int size = (int) strlen(ES_ERASURE_TYPE);

	return VARSIZE_ANY_EXHDR(name) == size &&
		   memcmp(VARDATA_ANY(name), ES_ERASURE_TYPE, size) == 0;
}

void
es_refuse_reserved(Datum type, Datum id)
{
	if (es_is_saga_type(type))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("nobody appends to %s/%s, which is a saga",
						TextDatumGetCString(type), TextDatumGetCString(id)),
				 errhint("A saga goes on by report_step(), signal_saga() and their like.")));
	if (es_is_erasure_type(type))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("nobody appends to %s/%s, where the store announces what it has erased",
						TextDatumGetCString(type), TextDatumGetCString(id))));
}

void
es_prepare_append(AppendCall *append, bool single)
{
	PreventCommandIfReadOnly(append->function);
	PreventCommandIfParallelMode(append->function);
	(void) es_own_store();
	es_follow_cause(&append->list);
	es_trace(&append->list);
	es_find_aggregates(append, single);
	for (int i = 0; i < append->naggregates && !append->by_store; i++)
		es_refuse_reserved(append->aggregates[i].type, append->aggregates[i].id);
	check_ids_distinct(append);
}

void
es_append_prepared(AppendCall *append, Durability wanted)
{
	append->durability = es_admit(wanted, append->list.count);
	if (append->durability == ES_DURABLE)
		es_move_own_rows();
	lock_aggregates(append);
	find_inline_views(append);
	decide(append);
	if (append->to_write > 0)
		write_events(append);
}

/* Runs an append whose list has been checked. */
void
es_append(AppendCall *append, Durability wanted, bool single)
{
	ErrorContextCallback explanation;

	es_begin_explaining(&explanation);
	es_prepare_append(append, single);
	es_append_prepared(append, wanted);
	es_end_explaining(&explanation);
}

/* ---------- an append of a group ---------- */

static bool
decide_for_group(void *append)
{
	decide(append);
	return true;
}

/* Whether an error is what was found out about a call: not that something was in the way. */
static bool
is_finding(const ErrorData *error)
{
	int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ES_ERRCODE_SEQUENCE_CONFLICT) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED);
}

/*
 * Decides, as far as possible without a subtransaction: where nothing has to be read nothing
 * is raised.
 */
static void
decide_alone(AppendCall *append)
{
	if (heads_from_cache(append))
		check_expectations(append);
	else
		append->error = es_in_subtransaction(decide_for_group, append);
	if (append->error == NULL)
		return;
	/* a table is locked, or memory is short: that is settled like any error of the group */
	if (!is_finding(append->error))
		ReThrowError(append->error);
	append->verdict = ES_VERDICT_FAILED;
}

void
es_append_to_group(AppendCall *append, AppendGroup *group)
{
	EventRow **rows;

	append->group = group;
	append->durability = ES_DURABLE;
	find_inline_views(append);
	decide_alone(append);
	if (append->verdict != ES_VERDICT_TAKEN || append->to_write == 0)
		return;
	if (append->any_given_ids)
		es_note_group_moves(group, append->moves);
	rows = assign(append);
	for (int i = 0; i < append->naggregates; i++)
	{
		const Aggregate *aggregate = &append->aggregates[i];

		if (aggregate->outcome == OUTCOME_APPENDED)
			es_set_group_head(group, aggregate->type, aggregate->id,
							  aggregate->sequence, aggregate->recorded_at);
	}
	for (int i = 0; i < append->list.count; i++)
	{
		NewEvent *event = &append->list.events[i];

		if (append->aggregates[event->aggregate].outcome == OUTCOME_APPENDED)
			es_add_group_row(group, &event->row, event->id_given);
	}
	pfree(rows);
}

void
es_write_group(AppendGroup *group, AppendCall *only, bool inlined)
{
	int count;
	EventRow **rows = es_group_rows(group, &count);

	if (count == 0)
		return;
	/* before a trigger can append on top of it */
	es_note_group_heads(group);
	es_note_durable_write();
	if (only != NULL)
		insert_or_refuse(only, rows, count);
	else if (inlined)
		insert_and_fold(rows, count);
	else
		es_insert_events(rows, count);
	if (only == NULL && es_group_ids_moved(group))
		es_refuse_archived_ids(rows, count);
	es_note_write();
}

int64
es_hold_aggregate(const char *function, Datum type, Datum id, bool expects,
				  int64 expected)
{
	Aggregate aggregate = {.type = type, .id = id};
	/* nothing is written here, so staged rows may stay */
	AppendCall append = {.function = function,
						 .aggregates = &aggregate,
						 .naggregates = 1,
						 .durability = ES_STAGED};
	NewEvent event = {.expects = expects, .expected = expected};

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	(void) es_own_store();
	aggregate.hash = es_pair_hash(type, id);
	lock_aggregates(&append);
	if (!heads_from_cache(&append))
	{
		StagedRead read;
		bool staged = es_begin_latest_read(&read, es_store()->events);

		es_read_head(type, id, GetActiveSnapshot(), staged, &aggregate.head);
		es_end_staged_read(&read);
		if (IsolationIsSerializable())
			check_serializable(&aggregate);
	}
	if (!expectation_met(&event, aggregate.head.sequence))
		raise_conflict(&aggregate, &event, aggregate.head.sequence);
	return aggregate.head.sequence;
}
