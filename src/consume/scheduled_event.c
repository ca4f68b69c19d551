/*
 * scheduled_event.c
 *		The table scheduled_events: rows in and out.
 *
 * A row is an event that is to be appended, with what an event has that is not known
 * only then.  It is written and read under the latest snapshot at every isolation
 * level: whether an event is still to come does not depend on when a transaction began.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "consume/scheduled_event.h"
#include "ground/catalog.h"
#include "ground/event.h"
#include "log/outside_write.h"

/* Which columns of an event a row has, as ES_SCHEDULED_COLUMNS names them. */
static const EventColumn columns[] = {EV_EVENT_ID,		 EV_OCCURRED_AT,
									  EV_AGGREGATE_TYPE, EV_AGGREGATE_ID,
									  EV_EVENT_TYPE,	 EV_SCHEMA_VERSION,
									  EV_PAYLOAD,		 EV_METADATA,
									  EV_CORRELATION_ID, EV_CAUSATION_ID,
									  EV_SAGA_ID};

/* What comes behind them. */
enum
{
	LS_FIRST_DUE_AT = lengthof(columns) + 1,
	LS_UNLESS_TYPES,
	LS_UNLESS_AFTER,
	LS_END
};

void
es_read_scheduled(HeapTuple row, TupleDesc desc, ScheduledEvent *scheduled)
{
	EventRow *event = &scheduled->event.row;
	bool isnull;
	Datum value;

	memset(scheduled, 0, sizeof(*scheduled));
	memset(event->nulls, true, sizeof(event->nulls));
	for (int i = 0; i < (int) lengthof(columns); i++)
	{
		EventColumn column = columns[i];
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		value = SPI_getbinval(row, desc, i + 1, &isnull);
		if (isnull)
			continue;
		event->values[column] =
			attribute->attlen == -1
				? PointerGetDatum(PG_DETOAST_DATUM_COPY(value))
				: datumCopy(value, attribute->attbyval, attribute->attlen);
		event->nulls[column] = false;
	}
	scheduled->event.id_given = true;
	scheduled->first_due_at =
		DatumGetTimestampTz(SPI_getbinval(row, desc, LS_FIRST_DUE_AT, &isnull));
	value = SPI_getbinval(row, desc, LS_UNLESS_TYPES, &isnull);
	if (isnull)
		return;
	scheduled->unless = true;
	scheduled->unless_types = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	value = SPI_getbinval(row, desc, LS_UNLESS_AFTER, &isnull);
	scheduled->unless_after = isnull ? 0 : DatumGetInt64(value);
}

bool
es_insert_scheduled(const ScheduledEvent *scheduled)
{
	static KeptPlan plan =
		{"INSERT INTO event_store.scheduled_events (schedule_id, due_at,"
		 " aggregate_type, aggregate_id, event_type, schema_version, payload,"
		 " metadata, correlation_id, causation_id, saga_id, first_due_at,"
		 " unless_event_types, unless_after, state, scheduled_at)"
		 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,"
		 " 'scheduled', pg_catalog.clock_timestamp())"
		 " ON CONFLICT (schedule_id) DO NOTHING",
		 LS_END - 1,
		 {UUIDOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, JSONBOID,
		  JSONBOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTARRAYOID,
		  INT8OID}};
	Datum values[LS_END - 1];
	char nulls[LS_END - 1];

	memset(nulls, ' ', sizeof(nulls));
	for (int i = 0; i < (int) lengthof(columns); i++)
	{
		values[i] = scheduled->event.row.values[columns[i]];
		if (scheduled->event.row.nulls[columns[i]])
			nulls[i] = 'n';
	}
	values[LS_FIRST_DUE_AT - 1] = TimestampTzGetDatum(scheduled->first_due_at);
	values[LS_UNLESS_TYPES - 1] = scheduled->unless_types;
	values[LS_UNLESS_AFTER - 1] = Int64GetDatum(scheduled->unless_after);
	if (!scheduled->unless)
		nulls[LS_UNLESS_TYPES - 1] = nulls[LS_UNLESS_AFTER - 1] = 'n';
	return es_write_ours(&plan, values, nulls) == 1;
}

bool
es_find_scheduled(Datum schedule_id, ScheduledEvent *scheduled)
{
	static KeptPlan plan = {"SELECT " ES_SCHEDULED_COLUMNS
							" FROM event_store.scheduled_events s"
							" WHERE s.schedule_id OPERATOR(pg_catalog.=) $1",
							1,
							{UUIDOID}};
	bool found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = es_execute(&plan, &schedule_id, NULL, true, SPI_OK_SELECT) > 0;
	if (found)
		es_read_scheduled(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, scheduled);
	PopActiveSnapshot();
	return found;
}
