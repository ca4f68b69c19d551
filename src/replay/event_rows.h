/*
 * event_rows.h
 *		The rows of a view that an event belongs to.
 *
 * Whoever keeps a view reads its key and its rules once (es_row_key_parse,
 * es_rules_parse with key->has_item).  For each event, in order, it asks for the rows
 * here; begins a state for each that it has not begun yet, with the row's data or NULL
 * (es_state_begin); and folds the event in (es_rules_apply_to_row with the row's item).
 * Of a state without a value (es_state_result gives NULL) the row is deleted, or not
 * made.
 */
#ifndef ES_EVENT_ROWS_H
#define ES_EVENT_ROWS_H

#include "utils/jsonb.h"

#include "replay/row_key.h"

/* One of the rows.  All lives in the memory context of the call. */
typedef struct EventRowKey
{
	text *key; /* 1 to 255 characters */
	/*
	 * The row that the aggregate's events have gone to until now, where the event
	 * brings a sticky another value; else NULL.  "own" says that the key contains
	 * the aggregate's id, so that no other aggregate can have made that row.
	 */
	text *moved_from;
	bool own;
	const JsonbValue *item; /* what $.item is for this row; NULL = nothing */
} EventRowKey;

/*
 * What a key needs beyond the event, given by whoever keeps the view.  A key without
 * stickies and lookups needs none of it.
 */
typedef struct RowKeyAccess
{
	/* What was kept for an aggregate at a place of the key; NULL = nothing yet. */
	text *(*get_sticky)(int place, Datum aggregate_type, Datum aggregate_id,
						void *arg);
	/*
	 * Keeps it from this event on; the value lives as the rows do.  Called only where
	 * it differs from what is kept, at most once for a place and an event, whether or
	 * not an operation applies to a row.
	 */
	void (*set_sticky)(int place, Datum aggregate_type, Datum aggregate_id,
					   text *value, void *arg);
	/* The view_data of a row, a jsonb; (Datum) 0 = there is no such row. */
	Datum (*lookup)(text *view_name, text *view_key, void *arg);
	void *arg;
} RowKeyAccess;

/*
 * The rows of an event, in the order of the key; *count = 0 if it belongs to none.
 * Call it once for an event, and in the order of events, because stickies change by
 * it.  A row is given once, but once for each item where it has items: the event is
 * folded into it for each.  22001 for a key that is too long, 22023 for a time that
 * is none.  "access" may be NULL where the key needs
 * none.
 */
extern EventRowKey *es_event_rows(const RowKey *key, const RowKeyAccess *access,
								  const Datum *values, const bool *nulls,
								  int *count);

#endif /* ES_EVENT_ROWS_H */
