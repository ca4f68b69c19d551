/*
 * log_identity.c
 *		Which log positions were last reserved for.
 *
 * A log that goes on from an older state of itself does not know what was given
 * after that state: a standby that was behind when it was promoted, a restored
 * backup, a dump, a copy of the database.  Each of these differs from the log
 * that it was in the timeline, the system identifier, the OID of the database
 * or that of domain_events.  What was true when positions were last reserved is
 * kept as one number, a hash of the four.
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

/* The log that is noted; 0 = none. */
static int64
identity_noted(void)
{
	static KeptPlan plan = {"SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END"
							" FROM event_store.log_identity s"};
	bool isnull;

	es_execute(&plan, NULL, NULL, false, SPI_OK_SELECT);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

bool
es_log_is_another(void)
{
	int64 noted = identity_noted();

	return noted != 0 && noted != identity_of_log();
}

void
es_note_log(void)
{
	int64 identity = identity_of_log();

	if (identity_noted() == identity)
		return;
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(es_store()->log_identity),
						Int64GetDatum(identity));
	XLogFlush(XactLastRecEnd);
}

void
es_note_new_log(void)
{
	OwnerScope scope;

	es_begin(&scope);
	if (identity_noted() == 0)
		es_note_log();
	es_end(&scope);
}
