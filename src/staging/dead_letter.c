/*
 * dead_letter.c
 *		Staged rows that could not be made durable, and what becomes of them.
 *
 * A dead letter keeps every field of its row and the error.  While an
 * aggregate has dead letters its appends are refused with VS006, so that its
 * log never gets a hole: retrying puts the events where they belong, and
 * discarding says that they never happened.
 *
 * A view write is filed under the aggregate whose event took it along, or
 * under its view_name and view_key if it failed by itself.
 *
 * That one was buried is logged when its transaction has committed: a round that
 * fails, and buries the same row again in the next one, has buried nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "ground/catalog.h"
#include "ground/compat.h"
#include "ground/event.h"
#include "ground/metrics.h"
#include "ground/shmem.h"
#include "ground/transaction.h"
#include "ground/worker_slot.h"
#include "staging/dead_letter.h"
#include "staging/staged_row.h"
#include "staging/staging_state.h"

PG_FUNCTION_INFO_V1(es_dead_letter_state);

/*
 * Shared memory knows whether any dead letter can exist at all, which answers
 * nearly always.  The mark is set before a dead letter can become visible, so
 * it is read after the snapshot was taken.
 */
bool
es_dead_letters_possible(void)
{
	SharedDatabase *db = es_my_database();

	return !es_staging_known(db) || es_staging(db)->dead_letters_possible;
}

bool
es_has_dead_letters(Datum aggregate_type, Datum aggregate_id, Snapshot snapshot)
{
	static KeptPlan plan = {"SELECT 1 FROM event_store.dead_letters d"
							" WHERE d.aggregate_type OPERATOR(pg_catalog.=) $1"
							" AND d.aggregate_id OPERATOR(pg_catalog.=) $2"
							" AND d.kind OPERATOR(pg_catalog.=) 'event' LIMIT 1",
							2,
							{TEXTOID, TEXTOID}};
	Datum values[2] = {aggregate_type, aggregate_id};
	OwnerScope scope;
	bool found;

	if (!es_dead_letters_possible())
		return false;
	PushActiveSnapshot(snapshot);
	es_begin(&scope);
	found = es_execute(&plan, values, NULL, true, SPI_OK_SELECT) > 0;
	es_end(&scope);
	PopActiveSnapshot();
	return found;
}

/* Says in shared memory that dead letters may exist from now on. */
static void
mark_possible(void)
{
	SharedDatabase *db = es_my_database();

	if (db != NULL)
		es_staging(db)->dead_letters_possible = true;
	pg_memory_barrier();
}

/* SQLSTATE classes 22, 23, 54 and P0 blame the row; all others the world. */
bool
es_blames_row(int sqlstate)
{
	int category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == MAKE_SQLSTATE('2', '2', '0', '0', '0') ||
		   category == MAKE_SQLSTATE('2', '3', '0', '0', '0') ||
		   category == MAKE_SQLSTATE('5', '4', '0', '0', '0') ||
		   category == MAKE_SQLSTATE('P', '0', '0', '0', '0');
}

char *
es_sqlstate_text(int sqlstate)
{
	char *text = palloc(6);

	for (int i = 0; i < 5; i++)
	{
		text[i] = PGUNSIXBIT(sqlstate);
		sqlstate >>= 6;
	}
	text[5] = '\0';
	return text;
}

/* ---------- what is logged at commit ---------- */

/* Of one transaction so many are logged one by one. */
#define LOGGED_LETTERS 1000

typedef struct Burial
{
	SubTransactionId subtransaction;
	int sqlstate;
	char *message;
	char *detail;
} Burial;

static Burial *burials = NULL; /* in TopTransactionContext */
static int nburials = 0;
static int maxburials = 0;

/*
 * Nothing here may raise: what is logged was put together before, and a WARNING
 * of bounded length needs no memory that could be missing.
 */
static void
end_burials(SharedDatabase *db, bool committed)
{
	for (int i = 0; i < Min(nburials, LOGGED_LETTERS) && committed; i++)
		ereport(WARNING, (errcode(burials[i].sqlstate),
						  errmsg_internal("%s", burials[i].message),
						  errdetail_internal("%s", burials[i].detail)));
	if (nburials > LOGGED_LETTERS && committed)
		ereport(WARNING, errmsg_internal("%d more became dead letters with them",
										 nburials - LOGGED_LETTERS));
	burials = NULL;
	nburials = maxburials = 0;
}

static void
abort_burials(SubTransactionId id)
{
	while (nburials > 0 && burials[nburials - 1].subtransaction >= id)
		nburials--;
}

static Burial *
new_burial(void)
{
	es_at_end(ES_END_LETTERS, end_burials, abort_burials);
	if (nburials == maxburials)
	{
		maxburials = Max(2 * maxburials, 16);
		if (burials == NULL)
			burials = MemoryContextAlloc(TopTransactionContext,
										 maxburials * sizeof(Burial));
		else
			burials = repalloc_huge(burials, maxburials * sizeof(Burial));
	}
	return &burials[nburials++];
}

/* Has the burial of a row logged. */
static void
note_burial(const StagedRow *row, int sqlstate, const char *message)
{
	Burial *burial = new_burial();
	MemoryContext caller;
	char shown[ES_ERROR_CHARS];

	memset(burial, 0, sizeof(*burial));
	burial->subtransaction = GetCurrentSubTransactionId();
	if (nburials > LOGGED_LETTERS)
		return;
	es_copy_error(shown, message);
	caller = MemoryContextSwitchTo(TopTransactionContext);
	burial->sqlstate = sqlstate;
	burial->message =
		psprintf("a staged %s became a dead letter: %s",
				 row->kind == ES_KIND_EVENT ? "event" : "view write", shown);
	burial->detail =
		psprintf("It is %s/%s, " INT64_FORMAT ", in database \"%s\".",
				 TextDatumGetCString(row->name), TextDatumGetCString(row->key),
				 row->ordinal, get_database_name(MyDatabaseId));
	MemoryContextSwitchTo(caller);
}

/* ---------- burying ---------- */

/* What a dead letter has before the columns of its event. */
#define OF_LETTER 8

void
es_bury(const StagedRow *row, Datum aggregate_type, Datum aggregate_id,
		int sqlstate, const char *message, int attempts)
{
	/*
	 * The columns of an event come last, so that their number is free.  Rows that
	 * were restored may be ahead of the sequence of the identity: a letter comes
	 * after all that are there.
	 */
	static KeptPlan plan =
		{.sql =
			 "INSERT INTO event_store.dead_letters (id, kind, view_name, view_key,"
			 " view_data, version, error_code, error_message, attempts, {letter})"
			 " OVERRIDING SYSTEM VALUE VALUES (GREATEST("
			 "pg_catalog.nextval(pg_catalog.pg_get_serial_sequence("
			 "'event_store.dead_letters', 'id')::pg_catalog.regclass),"
			 " (SELECT pg_catalog.max(d.id) OPERATOR(pg_catalog.+) 1::bigint"
			 " FROM event_store.dead_letters d)),"
			 " $1, $2, $3, $4, $5, $6, $7, $8, {letter $9})",
		 .nargs = OF_LETTER + EV_COLUMNS - 1,
		 .argtypes = {TEXTOID, TEXTOID, TEXTOID, JSONBOID, INT8OID, TEXTOID,
					  TEXTOID, INT4OID}};
	/* there may be very many in one transaction */
	MemoryContext scratch =
		AllocSetContextCreate(CurrentMemoryContext, "event_store dead letter",
							  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	bool is_event = row->kind == ES_KIND_EVENT;
	Datum values[OF_LETTER + EV_COLUMNS] = {0};
	char nulls[OF_LETTER + EV_COLUMNS];
	/* of the event columns, which are counted from the position on */
	Datum *event_values = values + OF_LETTER - EV_AGGREGATE_TYPE;
	char *event_nulls = nulls + OF_LETTER - EV_AGGREGATE_TYPE;
	OwnerScope scope;

	mark_possible();
	memset(nulls, 'n', sizeof(nulls));
	values[0] = CStringGetTextDatum(is_event ? "event" : "view");
	values[5] = CStringGetTextDatum(es_sqlstate_text(sqlstate));
	values[6] = CStringGetTextDatum(message);
	values[7] = Int32GetDatum(attempts);
	nulls[0] = nulls[5] = nulls[6] = nulls[7] = ' ';
	for (int i = EV_AGGREGATE_TYPE; i < EV_COLUMNS; i++)
	{
		plan.argtypes[OF_LETTER + i - EV_AGGREGATE_TYPE] =
			es_event_columns[i].type;
		event_values[i] = row->event.values[i];
		event_nulls[i] = is_event && !row->event.nulls[i] ? ' ' : 'n';
	}
	if (!is_event)
	{
		values[1] = row->name;
		values[2] = row->key;
		values[3] = row->view_data;
		values[4] = Int64GetDatum(row->version);
		nulls[1] = nulls[2] = ' ';
		nulls[3] = row->view_data == (Datum) 0 ? 'n' : ' ';
		nulls[4] = row->has_version ? ' ' : 'n';
		event_values[EV_AGGREGATE_TYPE] = aggregate_type;
		event_values[EV_AGGREGATE_ID] = aggregate_id;
		event_values[EV_RECORDED_AT] = TimestampTzGetDatum(row->staged_at);
		event_nulls[EV_AGGREGATE_TYPE] = event_nulls[EV_AGGREGATE_ID] =
			event_nulls[EV_RECORDED_AT] = ' ';
	}

	es_begin(&scope);
	es_execute(&plan, values, nulls, false, SPI_OK_INSERT);
	es_end(&scope);
	es_count_dead_letters(1);
	note_burial(row, sqlstate, message);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
}

/* Waits for nobody who has locked the table. */
TimestampTz
es_oldest_dead_letter(void)
{
	static KeptPlan plan = {
		"SELECT d.failed_at FROM event_store.dead_letters d ORDER BY d.id LIMIT 1"};
	const Store *store = es_store_if_any();
	TimestampTz at = 0;
	OwnerScope scope;

	if (store == NULL || !es_try_lock_table(store->dead_letters) ||
		es_store_if_any() == NULL)
		return 0;
	es_begin_read(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	if (es_execute(&plan, NULL, NULL, true, SPI_OK_SELECT) > 0)
	{
		bool isnull;
		Datum value = SPI_getbinval(SPI_tuptable->vals[0],
									SPI_tuptable->tupdesc, 1, &isnull);

		at = isnull ? 0 : DatumGetTimestampTz(value);
	}
	PopActiveSnapshot();
	es_end(&scope);
	return at;
}

/* dead_letter_state(): the rows of dead_letter_status. */
Datum
es_dead_letter_state(PG_FUNCTION_ARGS)
{
	static KeptPlan plan = {
		"SELECT d.id, d.kind, d.aggregate_type, d.aggregate_id, d.sequence,"
		" d.event_type, d.view_name, d.view_key, d.error_code, d.attempts,"
		" d.failed_at FROM event_store.dead_letters d ORDER BY d.id"};

	return es_return_rows(fcinfo, &plan);
}
