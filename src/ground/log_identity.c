/*
 * log_identity.c
 *		Which log positions, and fencing numbers, were last reserved for.
 *
 * A log that goes on from an older state of itself does not know what was given
 * after that state: a standby that was behind when it was promoted, a restored
 * backup, a dump, a copy of the database.  Each of these differs from the log
 * that it was in the timeline, the system identifier, the OID of the database
 * or that of domain_events.  What was true when positions were last reserved is
 * kept as one number, a hash of the four, and another one for fencing numbers.
 *
 * It is the value of a sequence, as the end of the positions reserved is: it
 * must be durable before a position is used, whatever becomes of the
 * transaction that asks for one, and no row may stay locked until that ends.
 * Nothing tells apart a data folder that was copied and started without
 * recovery: that is the same timeline.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "ground/catalog.h"
#include "ground/log_identity.h"

/* This log; never 0. */
static int64
identity_of_log(void)
{
	struct
	{
		uint64 system;
		uint32 timeline;
		Oid database;
		Oid events;
		uint32 zero; /* no byte of the four may be left to chance */
	} log = {GetSystemIdentifier(), GetWALInsertionTimeLine(), MyDatabaseId,
			 es_store()->events, 0};

	return (int64) (hash_bytes_extended((const unsigned char *) &log,
										sizeof(log), 0) >>
					1) |
		   1;
}

/* The log that a sequence notes; 0 = none. */
static int64
identity_noted(Oid noted)
{
	static KeptPlan plan = {"SELECT COALESCE(pg_catalog.pg_sequence_last_value($1), 0)",
							1,
							{REGCLASSOID}};
	Datum sequence = ObjectIdGetDatum(noted);
	bool isnull;

	es_execute(&plan, &sequence, NULL, false, SPI_OK_SELECT);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

bool
es_log_is_another(Oid noted)
{
	int64 identity = identity_noted(noted);

	return identity != 0 && identity != identity_of_log();
}

void
es_note_log(Oid noted)
{
	int64 identity = identity_of_log();

	if (identity_noted(noted) == identity)
		return;
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(noted),
						Int64GetDatum(identity));
	XLogFlush(XactLastRecEnd);
}

/* How far numbers jump where another log may have given some. */
#define JUMP (INT64CONST(1) << 32)

/*
 * Logs that go on from one and the same state have different timelines, and must
 * not meet either.
 */
int64
es_far_beyond(int64 last)
{
	return Max(last + JUMP, (int64) GetWALInsertionTimeLine() * JUMP);
}

void
es_note_new_log(void)
{
	OwnerScope scope;

	es_begin(&scope);
	if (identity_noted(es_store()->log_identity) == 0)
		es_note_log(es_store()->log_identity);
	if (identity_noted(es_store()->fencing_identity) == 0)
		es_note_log(es_store()->fencing_identity);
	es_end(&scope);
}
