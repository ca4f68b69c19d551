/*
 * append_group.c
 *		What one transaction appends for several callers.
 *
 * Their calls are decided one after the other and written together.  So what those before
 * have added is nowhere to be read yet but here: where each aggregate stands by then,
 * and which ids were given.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/hsearch.h"
#include "utils/uuid.h"

#include "ground/archive_mark.h"
#include "ground/event.h"
#include "ground/head_cache.h"
#include "ground/pair_table.h"
#include "ground/shmem.h"
#include "write/append_group.h"

typedef struct GroupHead
{
	Datum type;
	Datum id;
	int64 sequence;
	TimestampTz recorded_at;
} GroupHead;

struct AppendGroup
{
	MemoryContext context;
	PairTable *by_aggregate; /* from aggregates to numbers of heads */
	GroupHead *heads;
	int nheads;
	int maxheads;
	EventRow **rows;
	int nrows;
	int maxrows;
	HTAB *ids; /* that callers have given; NULL while there are none */
	bool looked_for_ids;
	uint64 moves; /* before they were looked for */
};

AppendGroup *
es_make_group(int calls)
{
	AppendGroup *group = palloc0_object(AppendGroup);

	group->context = CurrentMemoryContext;
	group->by_aggregate = es_pair_table(calls);
	group->maxheads = group->maxrows = calls;
	group->heads = palloc_array(GroupHead, calls);
	group->rows = palloc_array(EventRow *, calls);
	return group;
}

bool
es_group_head(AppendGroup *group, Datum type, Datum id, int64 *sequence,
			  TimestampTz *recorded_at)
{
	const GroupHead *head;
	bool found;

	if (!es_pair_find(group->by_aggregate, type, id))
		return false;
	head = &group->heads[*es_pair_enter(group->by_aggregate, type, id, &found)];
	*sequence = head->sequence;
	*recorded_at = head->recorded_at;
	return true;
}

void
es_set_group_head(AppendGroup *group, Datum type, Datum id, int64 sequence,
				  TimestampTz recorded_at)
{
	bool found;
	int64 *number = es_pair_enter(group->by_aggregate, type, id, &found);

	if (!found)
	{
		if (group->nheads == group->maxheads)
		{
			group->maxheads *= 2;
			group->heads =
				repalloc_huge(group->heads, group->maxheads * sizeof(GroupHead));
		}
		*number = group->nheads++;
	}
	group->heads[*number] = (GroupHead){type, id, sequence, recorded_at};
}

bool
es_is_id_in_group(AppendGroup *group, const pg_uuid_t *id)
{
	return group->ids != NULL &&
		   hash_search(group->ids, id, HASH_FIND, NULL) != NULL;
}

void
es_note_group_moves(AppendGroup *group, uint64 moves)
{
	if (!group->looked_for_ids)
		group->moves = moves;
	group->looked_for_ids = true;
}

bool
es_group_ids_moved(const AppendGroup *group)
{
	return group->looked_for_ids && es_moved_since(group->moves);
}

static void
add_id(AppendGroup *group, const pg_uuid_t *id)
{
	if (group->ids == NULL)
	{
		HASHCTL ctl = {.keysize = sizeof(pg_uuid_t),
					   .entrysize = sizeof(pg_uuid_t),
					   .hcxt = group->context};

		group->ids = hash_create("event_store ids of a group", 64, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(group->ids, id, HASH_ENTER, NULL);
}

void
es_add_group_row(AppendGroup *group, EventRow *row, bool id_given)
{
	if (group->nrows == group->maxrows)
	{
		group->maxrows *= 2;
		group->rows =
			repalloc_huge(group->rows, group->maxrows * sizeof(EventRow *));
	}
	group->rows[group->nrows++] = row;
	if (id_given)
		add_id(group, DatumGetUUIDP(row->values[EV_EVENT_ID]));
}

EventRow **
es_group_rows(const AppendGroup *group, int *count)
{
	*count = group->nrows;
	return group->rows;
}

void
es_note_group_heads(const AppendGroup *group)
{
	SharedDatabase *db = es_my_database();

	for (int i = 0; i < group->nheads; i++)
	{
		const GroupHead *head = &group->heads[i];

		es_note_head(db, head->type, head->id, head->sequence,
					 head->recorded_at, false);
	}
}
