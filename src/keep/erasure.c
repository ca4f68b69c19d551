/*
 * erasure.c
 *		The register of what was erased or deleted, and its announcement.
 *
 * Whoever keeps copies of events subscribes to the announcements, and forgets what
 * they name.  So each is an event like all others, of an aggregate of its own, appended in
 * the transaction that erases: it is never there without the erasure, nor missing.
 * Neither it nor the register has any content of what was erased, nor a hash of it, which
 * could be guessed.
 *
 * From the register it is known what is yet to be made unreadable on disk (scrub.c), and in
 * which transaction it was erased, whatever is noted in a row later.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "ground/catalog.h"
#include "ground/event.h"
#include "ground/scrubber_slot.h"
#include "ground/uuid7.h"
#include "keep/erasure.h"
#include "write/append.h"
#include "write/event_input.h"

Datum
es_new_erasure(void)
{
	return UUIDPGetDatum(es_uuid7());
}

/* This transaction, or the subtransaction that we are in. */
static Datum
current_transaction(void)
{
	TransactionId xid = GetCurrentTransactionId();
	FullTransactionId next = ReadNextFullTransactionId();
	uint32 epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdGetDatum(FullTransactionIdFromEpochAndXid(epoch, xid));
}

/* Writes the row; returns what the announcement says. */
static Datum
register_erasure(const Erasure *erasure)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.erasures AS e (erasure_id, kind, erased_by, reason,"
		 " paths, positions, event_ids, renamed, erased_in)"
		 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
		 " RETURNING pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object("
		 "'reason', e.reason, 'paths', e.paths, 'positions', e.positions,"
		 " 'event_ids', e.event_ids))",
		 9,
		 {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID,
		  UUIDARRAYOID, BOOLOID, XID8OID}};
	Datum values[9] = {erasure->id,
					   CStringGetTextDatum(erasure->kind),
					   CStringGetTextDatum(GetUserNameFromId(GetOuterUserId(),
															 false)),
					   erasure->reason,
					   erasure->paths,
					   erasure->positions,
					   erasure->event_ids,
					   BoolGetDatum(erasure->renamed),
					   current_transaction()};
	const char *nulls = erasure->paths == (Datum) 0 ? "    n    " : NULL;
	MemoryContext caller = CurrentMemoryContext;
	OwnerScope scope;
	Datum payload;
	bool isnull;

	es_begin(&scope);
	(void) es_execute(&plan, values, nulls, false, SPI_OK_INSERT_RETURNING);
	payload =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	MemoryContextSwitchTo(caller);
	payload = PointerGetDatum(DatumGetJsonbPCopy(payload));
	es_end(&scope);
	return payload;
}

static void
set_column(EventRow *row, EventColumn column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

void
es_announce_erasure(const Erasure *erasure, const char *function)
{
	AppendCall append = {function};
	NewEvent event = {0};
	EventRow *row = &event.row;
	char *id = DatumGetCString(DirectFunctionCall1(uuid_out, erasure->id));

	memset(row->nulls, true, sizeof(row->nulls));
	set_column(row, EV_PAYLOAD, register_erasure(erasure));
	set_column(row, EV_AGGREGATE_TYPE, CStringGetTextDatum(ES_ERASURE_TYPE));
	set_column(row, EV_AGGREGATE_ID, CStringGetTextDatum(id));
	set_column(row, EV_EVENT_TYPE, CStringGetTextDatum(erasure->kind));
	es_complete_event(&event, NULL);
	append.by_store = true;
	append.list.events = &event;
	append.list.count = 1;
	es_append(&append, ES_DURABLE, true);
	es_want_scrub();
}
