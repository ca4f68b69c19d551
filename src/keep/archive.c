/*
 * archive.c
 *		archive_aggregate(), restore_aggregate(): the events of an aggregate into the
 *		archive, and back.
 *
 * A whole aggregate is moved but for its last chunk while appends to it go on.  Then
 * it is closed: there is no event of it in the log to append behind.  One of which a part
 * is moved keeps its last event in the log, and nobody has to wait for anybody.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "ground/arguments.h"
#include "ground/common.h"
#include "ground/metrics.h"
#include "keep/archive.h"
#include "keep/life.h"
#include "log/closed_aggregate.h"
#include "log/log.h"

PG_FUNCTION_INFO_V1(es_archive_aggregate);
PG_FUNCTION_INFO_V1(es_restore_aggregate);

/* The last sequence that is in domain_events; 0 = none is. */
static int64
last_in_log(const Life *life)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64 last = es_durable_head(life->type, life->id, snapshot, NULL);

	UnregisterSnapshot(snapshot);
	return last;
}

static void
refuse_deleted(const Life *life)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_AGGREGATE_CLOSED),
			 errmsg("aggregate %s/%s is deleted", TextDatumGetCString(life->type),
					TextDatumGetCString(life->id))));
}

int64
es_archive_whole(const Life *life)
{
	int64 last = last_in_log(life);
	int64 total = 0;
	int64 moved;

	/* the last chunk is left for when appends are stopped */
	while (last > ES_CHUNK_ROWS &&
		   (moved = es_move_events(life, ES_MOVE_TO_ARCHIVE, last,
								   ES_CHUNK_ROWS)) > 0)
	{
		total += moved;
		if (moved < ES_CHUNK_ROWS)
			break;
	}
	switch (es_stop_appends(life))
	{
		case ES_AGGREGATE_ARCHIVED:
			return total;
		case ES_AGGREGATE_DELETED:
			refuse_deleted(life);
			return 0;
		case ES_AGGREGATE_OPEN:
			break;
	}
	total += es_move_all_events(life, ES_MOVE_TO_ARCHIVE, PG_INT64_MAX);
	es_close_archived(life);
	return total;
}

Datum
es_archive_aggregate(PG_FUNCTION_ARGS)
{
	Life life;
	int64 before = PG_INT64_MAX;
	int64 moved;
	text *type;
	text *id;

	es_begin_call(ES_CALL_ARCHIVE_AGGREGATE);
	type = es_required_text(fcinfo, 0, "aggregate_type");
	id = es_required_text(fcinfo, 1, "aggregate_id");
	if (!PG_ARGISNULL(2))
		before = es_number_argument(fcinfo, 2, "before_sequence", 0);
	es_begin_life(&life, "archive_aggregate()", PointerGetDatum(type),
				  PointerGetDatum(id));
	if (PG_ARGISNULL(2))
		moved = es_archive_whole(&life);
	else
		moved = es_move_all_events(&life, ES_MOVE_TO_ARCHIVE,
								   Min(before, last_in_log(&life)));
	es_count_many(ES_COUNT_ARCHIVED_EVENTS, moved);
	es_end_call(ES_CALL_ARCHIVE_AGGREGATE, 0);
	PG_RETURN_INT64(moved);
}

Datum
es_restore_aggregate(PG_FUNCTION_ARGS)
{
	Life life;
	int64 moved;
	AggregateState state;
	text *type;
	text *id;

	es_begin_call(ES_CALL_RESTORE_AGGREGATE);
	type = es_required_text(fcinfo, 0, "aggregate_type");
	id = es_required_text(fcinfo, 1, "aggregate_id");
	es_begin_life(&life, "restore_aggregate()", PointerGetDatum(type),
				  PointerGetDatum(id));
	/* one that has an event in the log stays open, and nobody has to wait */
	state = last_in_log(&life) > 0 ? ES_AGGREGATE_OPEN : es_stop_appends(&life);
	if (state == ES_AGGREGATE_DELETED)
		refuse_deleted(&life);
	moved = es_move_all_events(&life, ES_MOVE_TO_LOG, PG_INT64_MAX);
	if (state == ES_AGGREGATE_ARCHIVED)
		es_open_again(&life);
	es_count_many(ES_COUNT_RESTORED_EVENTS, moved);
	es_end_call(ES_CALL_RESTORE_AGGREGATE, 0);
	PG_RETURN_INT64(moved);
}
