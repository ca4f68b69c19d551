/*
 * append.h
 *		Appending to the log.
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

#include "datatype/timestamp.h"

#include "ground/settings.h"
#include "staging/head.h"
#include "write/append_group.h"
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
	bool known;				 /* its head, without a look */
	int64 sequence;			 /* of the last event seen or assigned */
	TimestampTz recorded_at; /* of the events assigned */
	Outcome outcome;
} Aggregate;

/* What was decided about a call of a group. */
typedef enum Verdict
{
	ES_VERDICT_TAKEN,	/* done with the group */
	ES_VERDICT_REFUSED, /* a conflict that is an error: "refused" and "actual" */
	ES_VERDICT_FAILED,	/* another error */
	ES_VERDICT_AGAIN,	/* it repeats an event of the same group */
	ES_VERDICT_WAITS,	/* it would have to wait for others */
	ES_VERDICT_ALONE	/* its caller finds out himself */
} Verdict;

typedef struct AppendCall
{
	const char *function; /* its name, for messages */
	NewEvents list;
	Aggregate *aggregates;
	int naggregates;
	OnConflict on_conflict;
	Durability durability; /* as it is really done */
	bool any_given_ids;
	uint64 moves; /* before these were looked for: archive_mark.h */
	bool by_store; /* the store itself goes on with what nobody else appends to */
	bool inlined;  /* views are folded by it */
	int to_write;  /* events of aggregates to be appended */
	int conflicts; /* that were met */

	/* of a call of a group */
	AppendGroup *group; /* NULL = it is none */
	Verdict verdict;
	int refused; /* the event, and where its aggregate stands */
	int64 actual;
	ErrorData *error;
} AppendCall;

extern const char *const es_outcome_names[];

/*
 * Appends events whose list has been checked, all of one aggregate if "single".
 * Refusals are errors, but for conflicts that are reported; the list has the results.
 */
extern void es_append(AppendCall *append, Durability wanted, bool single);

/*
 * The same in two steps, what is to be judged without the store and all else.  The first
 * is only to find the aggregates where the call was prepared elsewhere.
 */
extern void es_find_aggregates(AppendCall *append, bool single);
extern void es_prepare_append(AppendCall *append, bool single);
extern void es_append_prepared(AppendCall *append, Durability wanted);
/*
 * Decides a call, whose aggregates are locked, as one of a group; its memory stays until
 * the group is written.  What has to be written is, together, by the second: "only" is the
 * one that there is, or NULL.
 */
extern void es_append_to_group(AppendCall *append, AppendGroup *group);
extern void es_write_group(AppendGroup *group, AppendCall *only, bool inlined);
/* Raises VS001 for an event of a call whose aggregate stands elsewhere. */
extern void es_refuse_event(const AppendCall *append, int event, int64 actual);

/* What was erased or deleted is announced in an aggregate each of this type. */
#define ES_ERASURE_TYPE "store:erasure"
extern bool es_is_erasure_type(Datum type);
/*
 * 42501 for an aggregate that the store alone appends to: a saga, whose functions write what
 * drives executors, or the announcement of an erasure.
 */
extern void es_refuse_reserved(Datum type, Datum id);

/*
 * Locks an aggregate to the end of the transaction and returns its last sequence,
 * staged or durable; VS001 where another is expected.
 */
extern int64 es_hold_aggregate(const char *function, Datum type, Datum id,
							   bool expects, int64 expected);

#endif /* ES_APPEND_H */
