/*
 * closed_aggregate.c
 *		The table closed_aggregates: which aggregates take no more events.
 *
 * An aggregate that has an event in domain_events is open, whatever of it is in
 * the archive.  So nobody looks here who has found one, nor in a store that never moved
 * anything; and an append reads this as it reads heads, under a snapshot of its
 * choice.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/sdir.h"
#include "access/skey.h"
#include "access/table.h"
#include "datatype/timestamp.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "log/closed_aggregate.h"

/* Columns by their numbers. */
enum
{
	AGGREGATE_TYPE = 1,
	AGGREGATE_ID,
	STATE,
	LAST_SEQUENCE,
	LAST_POSITION,
	LAST_RECORDED_AT
};

static AggregateState
take_apart(HeapTuple tuple, TupleDesc desc, int64 *sequence,
		   TimestampTz *recorded_at)
{
	bool isnull;
	char *state = TextDatumGetCString(heap_getattr(tuple, STATE, desc, &isnull));

	if (strcmp(state, "archived") != 0)
		return ES_AGGREGATE_DELETED;
	*sequence = DatumGetInt64(heap_getattr(tuple, LAST_SEQUENCE, desc, &isnull));
	*recorded_at =
		DatumGetTimestampTz(heap_getattr(tuple, LAST_RECORDED_AT, desc, &isnull));
	return ES_AGGREGATE_ARCHIVED;
}

AggregateState
es_read_closed(Datum aggregate_type, Datum aggregate_id, Snapshot snapshot,
			   int64 *sequence, TimestampTz *recorded_at)
{
	AggregateState state = ES_AGGREGATE_OPEN;
	Relation table;
	Relation index;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	if (!es_anything_moved())
		return ES_AGGREGATE_OPEN;
	table = table_open(es_store()->closed_aggregates, AccessShareLock);
	index = index_open(es_store()->closed_by_key, AccessShareLock);
	ScanKeyInit(&keys[0], AGGREGATE_TYPE, BTEqualStrategyNumber, F_TEXTEQ,
				aggregate_type);
	ScanKeyInit(&keys[1], AGGREGATE_ID, BTEqualStrategyNumber, F_TEXTEQ,
				aggregate_id);
	scan = systable_beginscan_ordered(table, index, snapshot, 2, keys);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
		state = take_apart(tuple, RelationGetDescr(table), sequence, recorded_at);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return state;
}
