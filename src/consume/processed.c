/*
 * processed.c
 *		What consumers have processed already, by their own names for it.
 *
 * A message that is delivered again, or a request that is made again, shall have
 * its effect once.  So its name is inserted in the transaction of the effect, under
 * a unique key: who comes second waits there for the first, and finds out.  All
 * that makes this right is the key and the snapshot rules of INSERT ... ON CONFLICT:
 * a name that another transaction has committed, and that a REPEATABLE READ
 * snapshot does not see, is 40001.
 *
 * Old names are forgotten by passes over the table in the order of its blocks, so
 * that no second index makes the insert dearer.  The worker does a piece of a pass
 * in each transaction, and a pass begins only when names are still coming in: an
 * idle store keeps what it has, and its worker may leave.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "storage/off.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "consume/consume.h"
#include "consume/processed.h"
#include "ground/arguments.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/metrics.h"
#include "ground/pair_table.h"
#include "ground/settings.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"

/* A pass looks at so many blocks at a time. */
#define PIECE_BLOCKS 256
/* Between two passes lies this part of the retention, within these bounds. */
#define PASSES_PER_RETENTION 10
#define MIN_PAUSE_S 1
#define MAX_PAUSE_S 3600

PG_FUNCTION_INFO_V1(es_process_once);
PG_FUNCTION_INFO_V1(es_record_result);
PG_FUNCTION_INFO_V1(es_processed_result);
PG_FUNCTION_INFO_V1(es_forget_processed);

static void
initialise_processed(void *memory)
{
	ProcessedShare *share = memory;

	pg_atomic_init_u32(&share->wanted, 0);
	pg_atomic_init_u64(&share->pass_at, 0);
}

static void
clear_processed(SharedDatabase *db)
{
	ProcessedShare *share = es_processed(db);

	pg_atomic_write_u32(&share->wanted, 0);
	pg_atomic_write_u64(&share->pass_at, 0);
	share->block = 0;
}

DatabasePart es_processed_part = {sizeof(ProcessedShare), initialise_processed,
								  clear_processed};

void
es_share_processed(void)
{
	es_share_by_database(&es_processed_part);
}

/* ---------- once ---------- */

/* The first two arguments: whose message, and which. */
static void
message_arguments(FunctionCallInfo fcinfo, Datum *values)
{
	values[0] = PointerGetDatum(es_required_text(fcinfo, 0, "consumer"));
	values[1] = PointerGetDatum(es_required_text(fcinfo, 1, "message_id"));
}

/*
 * Inserts a message; false if it is there.  The time is given, too: a default that the
 * owner has changed is his code.
 */
static bool
insert_message(Datum *values, const char *nulls)
{
	static KeptPlan plan = {"INSERT INTO event_store.processed_messages"
							" (consumer, message_id, fingerprint, processed_at)"
							" VALUES ($1, $2, $3, pg_catalog.clock_timestamp())"
							" ON CONFLICT (consumer, message_id) DO NOTHING",
							3,
							{TEXTOID, TEXTOID, TEXTOID}};

	return es_execute(&plan, values, nulls, false, SPI_OK_INSERT) == 1;
}

/* Clients read the DETAIL of VS002 as JSON, whoever raises it. */
static void
refuse_fingerprint(const Datum *values, Datum known)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"consumer\": ");
	escape_json(&detail, TextDatumGetCString(values[0]));
	appendStringInfoString(&detail, ", \"message_id\": ");
	escape_json(&detail, TextDatumGetCString(values[1]));
	appendStringInfoString(&detail, ", \"fingerprint\": ");
	escape_json(&detail, TextDatumGetCString(known));
	appendStringInfoChar(&detail, '}');
	ereport(ERROR,
			(errcode(ES_ERRCODE_EVENT_ID_REUSED),
			 errmsg("message %s of consumer %s was processed with another fingerprint",
					TextDatumGetCString(values[1]), TextDatumGetCString(values[0])),
			 errdetail_internal("%s", detail.data)));
}

/*
 * Looks at a message that was there; false if it is gone meanwhile.  Where both
 * have a fingerprint, it must be the same.
 */
static bool
compare_message(Datum *values, const char *nulls)
{
	static KeptPlan plan = {"SELECT p.fingerprint FROM event_store.processed_messages p"
							" WHERE p.consumer OPERATOR(pg_catalog.=) $1"
							" AND p.message_id OPERATOR(pg_catalog.=) $2",
							2,
							{TEXTOID, TEXTOID}};
	Datum known;
	bool isnull;

	if (es_execute(&plan, values, NULL, false, SPI_OK_SELECT) == 0)
		return false;
	known =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull && nulls[2] == ' ' && !es_same_text(known, values[2]))
		refuse_fingerprint(values, known);
	return true;
}

/* Has the worker forget old messages, if it is time to. */
static void
note_processed(void)
{
	SharedDatabase *db = es_my_database();
	ProcessedShare *share;

	if (db == NULL || es_processed_retention == 0)
		return;
	share = es_processed(db);
	if (GetCurrentStatementStartTimestamp() >=
			(TimestampTz) pg_atomic_read_u64(&share->pass_at) &&
		pg_atomic_read_u32(&share->wanted) == 0 &&
		pg_atomic_exchange_u32(&share->wanted, 1) == 0)
		es_nudge_worker(db);
}

Datum
es_process_once(PG_FUNCTION_ARGS)
{
	Datum values[3] = {0};
	char nulls[3] = {' ', ' ', 'n'};
	OwnerScope scope;
	bool first;

	es_begin_call(ES_CALL_PROCESS_ONCE);
	message_arguments(fcinfo, values);
	if (!PG_ARGISNULL(2))
	{
		values[2] = PointerGetDatum(PG_GETARG_TEXT_PP(2));
		es_check_name(values[2], false, "fingerprint", NULL, false);
		nulls[2] = ' ';
	}
	es_begin_consuming("process_once()");
	es_consume_durably();
	es_begin_processed(&scope);
	do
	{
		CHECK_FOR_INTERRUPTS();
		first = insert_message(values, nulls);
	} while (!first && !compare_message(values, nulls));
	es_end(&scope);
	if (first)
		note_processed();
	es_end_call(ES_CALL_PROCESS_ONCE, 0);
	PG_RETURN_BOOL(first);
}

/* ---------- results ---------- */

Datum
es_record_result(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"UPDATE event_store.processed_messages SET result = $3"
							" WHERE consumer OPERATOR(pg_catalog.=) $1"
							" AND message_id OPERATOR(pg_catalog.=) $2",
							3,
							{TEXTOID, TEXTOID, JSONBOID}};
	Datum values[3] = {0};
	char nulls[3] = {' ', ' ', 'n'};
	OwnerScope scope;

	es_begin_call(ES_CALL_RECORD_RESULT);
	message_arguments(fcinfo, values);
	if (!PG_ARGISNULL(2))
	{
		values[2] = PG_GETARG_DATUM(2);
		nulls[2] = ' ';
	}
	es_begin_consuming("record_result()");
	es_consume_durably();
	es_begin(&scope);
	if (es_execute(&plan, values, nulls, false, SPI_OK_UPDATE) == 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("message %s of consumer %s was not processed",
							   TextDatumGetCString(values[1]),
							   TextDatumGetCString(values[0])),
						errhint("Call process_once() for it first.")));
	es_end(&scope);
	es_end_call(ES_CALL_RECORD_RESULT, 0);
	PG_RETURN_VOID();
}

Datum
es_processed_result(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {"SELECT p.result FROM event_store.processed_messages p"
							" WHERE p.consumer OPERATOR(pg_catalog.=) $1"
							" AND p.message_id OPERATOR(pg_catalog.=) $2",
							2,
							{TEXTOID, TEXTOID}};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext inside;
	Datum values[2];
	Datum result = (Datum) 0;
	bool isnull = true;
	OwnerScope scope;
	uint64 found;

	es_begin_call(ES_CALL_PROCESSED_RESULT);
	message_arguments(fcinfo, values);
	(void) es_store();
	es_begin_read(&scope);
	found = es_execute(&plan, values, NULL, true, SPI_OK_SELECT);
	if (found > 0)
		result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
							   &isnull);
	if (!isnull)
	{
		inside = MemoryContextSwitchTo(caller);
		result = PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
		MemoryContextSwitchTo(inside);
	}
	es_end(&scope);
	es_end_call(ES_CALL_PROCESSED_RESULT, (int64) found);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* ---------- forgetting ---------- */

static BlockNumber
table_blocks(void)
{
	Relation table = table_open(es_store()->processed_messages, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(table);

	table_close(table, AccessShareLock);
	return blocks;
}

/* The first row of a block. */
static Datum
block_start(ItemPointer tid, BlockNumber block)
{
	ItemPointerSet(tid, block, FirstOffsetNumber);
	return PointerGetDatum(tid);
}

/* Deletes what was processed before a time, in so many blocks from one on. */
static int64
forget_blocks(BlockNumber block, TimestampTz before, Datum consumer, bool all)
{
	static KeptPlan plan =
		{"DELETE FROM event_store.processed_messages p"
		 " WHERE p.ctid OPERATOR(pg_catalog.>=) $1 AND p.ctid OPERATOR(pg_catalog.<) $2"
		 " AND p.processed_at OPERATOR(pg_catalog.<) $3"
		 " AND ($4 IS NULL OR p.consumer OPERATOR(pg_catalog.=) $4)",
		 4,
		 {TIDOID, TIDOID, TIMESTAMPTZOID, TEXTOID}};
	ItemPointerData bounds[2];
	Datum values[4] = {block_start(&bounds[0], block),
					   block_start(&bounds[1], block + PIECE_BLOCKS),
					   TimestampTzGetDatum(before), consumer};
	char nulls[4] = {' ', ' ', ' ', all ? 'n' : ' '};
	OwnerScope scope;
	int64 count;

	es_begin(&scope);
	count = (int64) es_execute(&plan, values, nulls, false, SPI_OK_DELETE);
	es_end(&scope);
	return count;
}

Datum
es_forget_processed(PG_FUNCTION_ARGS)
{
	Datum consumer = (Datum) 0;
	TimestampTz before;
	int64 count = 0;

	es_begin_call(ES_CALL_FORGET_PROCESSED);
	if (!PG_ARGISNULL(0))
		consumer = PointerGetDatum(es_required_text(fcinfo, 0, "consumer"));
	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("older_than must not be null")));
	before =
		DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												TimestampTzGetDatum(GetCurrentTimestamp()),
												PG_GETARG_DATUM(1)));
	if (before > GetCurrentTimestamp())
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("older_than must not be negative")));
	es_begin_consuming("forget_processed()");
	es_consume_durably();
	for (BlockNumber block = 0; block < table_blocks(); block += PIECE_BLOCKS)
	{
		CHECK_FOR_INTERRUPTS();
		count += forget_blocks(block, before, consumer, PG_ARGISNULL(0));
	}
	es_end_call(ES_CALL_FORGET_PROCESSED, count);
	PG_RETURN_INT64(count);
}

bool
es_forgetting_due(const SharedDatabase *db)
{
	return es_processed_retention > 0 &&
		   pg_atomic_read_u32(&es_processed(db)->wanted) != 0;
}

void
es_forget_next(SharedDatabase *db)
{
	ProcessedShare *share = es_processed(db);
	TimestampTz now = GetCurrentTimestamp();
	int pause =
		Min(Max(es_processed_retention / PASSES_PER_RETENTION, MIN_PAUSE_S),
			MAX_PAUSE_S);

	if (share->block < table_blocks())
	{
		(void) forget_blocks(share->block,
							 now - es_processed_retention * USECS_PER_SEC,
							 (Datum) 0, true);
		share->block += PIECE_BLOCKS;
		return;
	}
	share->block = 0;
	pg_atomic_write_u64(&share->pass_at,
						(uint64) TimestampTzPlusMilliseconds(now, (int64) pause *
																	  1000));
	pg_atomic_write_u32(&share->wanted, 0);
}
