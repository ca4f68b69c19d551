/*
 * heap_insert.c
 *		Rows put into domain_events without a statement: into the heap, then into
 *		each index.
 *
 * An INSERT prepares itself anew each time, its CHECK constraints above all, which
 * takes longer than the row does.  Where nothing but what create_store() made would
 * see the row on its way (Store.direct: no triggers, rules, policies, columns of the
 * owner's that make their values), going around the executor loses nothing:
 * constraints, unique keys, locks, WAL and statistics are those of an INSERT, since
 * they are the work of the layers below.
 *
 * Only the compiled CHECK constraints are kept from one call to the next, with what
 * they need.  They go with any change of the table that the relation cache hears of,
 * and with any error.  Table and indexes are opened by each call, so that there is
 * nothing about them that could have become wrong.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupdesc.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/nodes.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "log/heap_insert.h"

/* What is kept of the table, valid or not; nothing while "context" is NULL. */
typedef struct KeptTable
{
	MemoryContext context;
	bool valid;
	Oid table;
	TupleDesc desc; /* a copy, which nobody counts the uses of */
	EState *checking;
	ResultRelInfo *info;
} KeptTable;

struct HeapInsert
{
	MemoryContext context; /* lives until the end of the call */
	Relation table;
	EState *indexing;
	TupleTableSlot *row;	/* the row at hand */
	TupleTableSlot **heaps; /* those of a chunk, NULL = none was needed */
	Oid user;
	int security;
	bool snapshot;
};

static KeptTable kept;

/* What has been prepared for the table is wrong once that has changed. */
static void
table_changed(Datum arg, Oid relation)
{
	(void) arg;
	if (relation == InvalidOid || relation == kept.table)
		kept.valid = false;
}

/* Makes anew what is kept of the table.  It is locked. */
static void
keep_table(Relation table)
{
	static bool heeded = false;
	MemoryContext old;

	if (!heeded)
		CacheRegisterRelcacheCallback(table_changed, (Datum) 0);
	heeded = true;
	if (kept.context != NULL)
		MemoryContextDelete(kept.context);
	kept.context = NULL;
	kept.context =
		AllocSetContextCreate(TopMemoryContext, "event_store heap insert",
							  ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(kept.context);
	kept.desc = CreateTupleDescCopy(RelationGetDescr(table));
	kept.checking = CreateExecutorState();
	kept.info = makeNode(ResultRelInfo);
	InitResultRelInfo(kept.info, table, 0, NULL, 0);
	MemoryContextSwitchTo(old);
	kept.table = RelationGetRelid(table);
	kept.valid = true;
}

/*
 * The log, locked, if it takes rows directly; else NULL.  A hook that watches over
 * privileges, as that of an audit does, is to see each statement.
 */
static Relation
open_table(void)
{
	const Store *store = es_store();
	Relation table;

	if (!store->direct || ExecutorCheckPerms_hook != NULL)
		return NULL;
	table = table_open(store->events, RowExclusiveLock);
	/* whoever altered it before we got the lock has been heard of by now */
	store = es_store();
	if (store->direct && store->events == RelationGetRelid(table))
		return table;
	table_close(table, NoLock);
	return NULL;
}

HeapInsert *
es_begin_heap_insert(void)
{
	Relation table = open_table();
	HeapInsert *insert;

	if (table == NULL)
		return NULL;
	PreventCommandIfReadOnly("INSERT");
	PreventCommandIfParallelMode("INSERT");
	insert = palloc0(sizeof(HeapInsert));
	insert->context = CurrentMemoryContext;
	insert->table = table;
	GetUserIdAndSecContext(&insert->user, &insert->security);
	SetUserIdAndSecContext(es_store()->owner,
						   insert->security | SECURITY_LOCAL_USERID_CHANGE);
	/* values that are stored out of line elsewhere are fetched under one */
	insert->snapshot = !ActiveSnapshotSet();
	if (insert->snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	if (!kept.valid || kept.table != RelationGetRelid(table))
		keep_table(table);
	kept.info->ri_RelationDesc = table;
	ExecOpenIndices(kept.info, false);
	insert->indexing = CreateExecutorState();
	insert->row = MakeSingleTupleTableSlot(kept.desc, &TTSOpsVirtual);
	/* behind our columns there are at most some that were dropped */
	memset(insert->row->tts_isnull, true, kept.desc->natts * sizeof(bool));
	return insert;
}

/* Makes a row the one at hand, by reference. */
static void
take_row(HeapInsert *insert, const EventRow *row)
{
	TupleTableSlot *slot = insert->row;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, row->values, sizeof(row->values));
	memcpy(slot->tts_isnull, row->nulls, sizeof(row->nulls));
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(insert->table);
}

/* The row at hand as a tuple, if the constraints allow it. */
static HeapTuple
checked_tuple(HeapInsert *insert)
{
	TupleTableSlot *slot = insert->row;

	if (insert->table->rd_att->constr != NULL)
		ExecConstraints(kept.info, slot, kept.checking);
	ResetPerTupleExprContext(kept.checking);
	return heap_form_tuple(kept.desc, slot->tts_values, slot->tts_isnull);
}

/* Adds the entries of the row at hand, which stands at "tid", to all indexes. */
static void
insert_entries(HeapInsert *insert, ItemPointer tid)
{
	insert->row->tts_tid = *tid;
	if (kept.info->ri_NumIndices == 0)
		return;
	list_free(ExecInsertIndexTuples(kept.info, insert->indexing, 0, insert->row,
									NIL, NULL));
	ResetPerTupleExprContext(insert->indexing);
}

static void
insert_one(HeapInsert *insert, const EventRow *row)
{
	HeapTuple tuple;

	take_row(insert, row);
	tuple = checked_tuple(insert);
	heap_insert(insert->table, tuple, GetCurrentCommandId(true), 0, NULL);
	insert_entries(insert, &tuple->t_self);
	heap_freetuple(tuple);
}

/* Inserts a chunk of rows page by page, which writes less WAL. */
static void
insert_many(HeapInsert *insert, EventRow **rows, int count)
{
	if (insert->heaps == NULL)
		insert->heaps =
			MemoryContextAllocZero(insert->context,
								   ES_CHUNK_ROWS * sizeof(TupleTableSlot *));
	for (int i = 0; i < count; i++)
	{
		if (insert->heaps[i] == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(insert->context);

			insert->heaps[i] =
				MakeSingleTupleTableSlot(kept.desc, &TTSOpsHeapTuple);
			MemoryContextSwitchTo(old);
		}
		take_row(insert, rows[i]);
		/* a tuple that is the slot's own is not copied */
		ExecStoreHeapTuple(checked_tuple(insert), insert->heaps[i], true);
	}
	table_multi_insert(insert->table, insert->heaps, count,
					   GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		take_row(insert, rows[i]);
		insert_entries(insert, &insert->heaps[i]->tts_tid);
		ExecClearTuple(insert->heaps[i]);
	}
}

void
es_heap_insert(HeapInsert *insert, EventRow **rows, int count)
{
	Assert(count <= ES_CHUNK_ROWS);
	PG_TRY();
	{
		if (count == 1)
			insert_one(insert, rows[0]);
		else
			insert_many(insert, rows, count);
	}
	PG_CATCH();
	{
		kept.valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

void
es_end_heap_insert(HeapInsert *insert)
{
	ExecCloseIndices(kept.info);
	kept.info->ri_RelationDesc = NULL;
	FreeExecutorState(insert->indexing);
	table_close(insert->table, NoLock);
	if (insert->snapshot)
		PopActiveSnapshot();
	SetUserIdAndSecContext(insert->user, insert->security);
	CommandCounterIncrement();
}
