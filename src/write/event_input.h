/*
 * event_input.h
 *		The events that callers give.
 */
#ifndef ES_EVENT_INPUT_H
#define ES_EVENT_INPUT_H

#include "fmgr.h"
#include "utils/jsonb.h"

#include "ground/event.h"

/* One event that a caller wants to append. */
typedef struct NewEvent
{
	EventRow row;	/* position, sequence, recorded_at still unset */
	bool expects;	/* an expected_sequence was given ... */
	int64 expected; /* ... namely this: -4, 0 or n */
	bool id_given;	/* the caller gave the event_id */
	int aggregate;	/* used by append.c */
} NewEvent;

typedef struct NewEvents
{
	NewEvent *events;
	int count;
} NewEvents;

#define ES_EXPECT_EXISTS (-4)
#define ES_EXPECT_ANY (-2)

/*
 * Checks one event's columns as far as they do not depend on the store and
 * fills in what was not given: payload {}, a UUIDv7 event_id, schema_version
 * 1; occurred_at stays NULL until recorded_at is known.  Sets id_given.
 * "where" as above.  Once per event.
 */
extern void es_complete_event(NewEvent *event, const char *where);
/*
 * Whether the last sequence has to be what a caller gives, rather than any: 22004
 * where one must be given, 22023 with the hint about -1 unless it is -4, -2, 0 or
 * positive.
 */
extern bool es_is_expected(bool given, int64 expected);

/*
 * The list of append_events and append_batch(jsonb).  Where the aggregate is
 * the same for all, give it; else pass NULL and each object names its own.
 * This and the next complete every event themselves, naming it by its place.
 */
extern NewEvents es_events_from_json(Jsonb *events, text *aggregate_type,
									 text *aggregate_id);
/* The arrays of append_batch, arguments 0 to 12 in their order. */
extern NewEvents es_events_from_arrays(FunctionCallInfo fcinfo);

#endif /* ES_EVENT_INPUT_H */
