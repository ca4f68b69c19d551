/*
 * append.h
 *		Appending to the log.
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

#include "datatype/timestamp.h"

#include "ground/settings.h"
#include "staging/head.h"
#include "write/event_input.h"

/* What became of the events of an aggregate. */
typedef enum Outcome
{
	OUTCOME_APPENDED,
	OUTCOME_DUPLICATE,
	OUTCOME_CONFLICT
} Outcome;

/* What conflicts of a batch come to. */
typedef enum OnConflict
{
	ES_CONFLICT_ERROR,
	ES_CONFLICT_REPORT,	   /* the other aggregates are written */
	ES_CONFLICT_REPORT_ALL /* nothing is */
} OnConflict;

/* One aggregate that an append writes to. */
typedef struct Aggregate
{
	Datum type;
	Datum id;
	uint64 hash;
	int count;			 /* of its events in the list */
	int repeated;		 /* of these, how many are in the store ... */
	int64 last_repeated; /* ... and the sequence of the last one looked at */
	Head head;
	int64 sequence;			 /* of the last event seen or assigned */
	TimestampTz recorded_at; /* of the events assigned */
	Outcome outcome;
} Aggregate;

typedef struct AppendCall
{
	const char *function; /* its name, for messages */
	NewEvents list;
	Aggregate *aggregates;
	int naggregates;
	OnConflict on_conflict;
	Durability durability; /* as it is really done */
	bool any_given_ids;
	bool inlined; /* views are folded by it */
	int to_write; /* events of aggregates to be appended */
} AppendCall;

extern const char *const es_outcome_names[];

/*
 * Appends events whose list has been checked, all of one aggregate if "single".
 * Refusals are errors, but for conflicts that are reported; the list has the results.
 */
extern void es_append(AppendCall *append, Durability wanted, bool single);

/*
 * Locks an aggregate to the end of the transaction and returns its last sequence,
 * staged or durable; VS001 where another is expected.
 */
extern int64 es_hold_aggregate(const char *function, Datum type, Datum id,
							   bool expects, int64 expected);

#endif /* ES_APPEND_H */
