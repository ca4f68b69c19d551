/*
 * fold.h
 *		Events into a state, one by one.
 */
#ifndef ES_FOLD_H
#define ES_FOLD_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "fmgr.h"

#include "ground/catalog.h"
#include "replay/reducer.h"
#include "replay/saga_state.h"
#include "replay/state.h"

typedef struct Fold
{
	Reducer reducer;
	MemoryContext context;	 /* of all this; outlives es_end */
	MemoryContext per_event; /* to make an event in; reset before each */
	int64 sequence;			 /* of the last event folded in */
	int64 up_to;			 /* fold nothing after this sequence ... */
	TimestampTz until;		 /* ... nor after this recorded time ... */
	int64 up_to_position; /* ... nor this position, nor staged, if it is set */
	bool finished;		  /* met an event after these */
	bool upcasts;		  /* events may be of an old version */
	bool applied; /* the last event did something: always, but for rules */
	TimestampTz stop_at; /* read no more durable events from then on */

	State *state;	 /* merge and rules */
	SagaState *saga; /* a saga */

	/* a function: its state and where it lives, the other for the next one */
	FmgrInfo call;
	TupleDesc event_desc;
	Datum function_state; /* (Datum) 0 = NULL */
	MemoryContext state_context;
	MemoryContext next_context;

	/* for messages: the event at hand, and what encloses the fold */
	const Datum *event;
	ErrorContextCallback *enclosing;
} Fold;

/*
 * Makes a fold in the current memory context.  Call it before es_begin, so that
 * its result survives es_end.  Folds that are not used at the same time may
 * share a context for their events; NULL = one of its own.  54001 where folds
 * are nested too deep.
 */
extern Fold *es_fold_create(MemoryContext scratch);
/* Tells it the reducer, made in fold->context; once. */
extern void es_fold_use(Fold *fold, const Reducer *reducer);
/* Whether it is to fold less than all events. */
extern bool es_fold_is_bounded(const Fold *fold);
/* Begins an aggregate, or the next one, with a state; (Datum) 0 = NULL. */
extern void es_fold_start(Fold *fold, Datum state, int64 sequence);
/*
 * Folds one event in; false if it lies after the bounds.  The event need only
 * live during the call.
 */
extern bool es_fold_event(Fold *fold, Datum *values, bool *nulls);
/*
 * Takes an event apart that a caller gives; 22004 where it lacks what every event
 * has.
 */
extern void es_take_event(HeapTupleHeader event, TupleDesc desc, Datum *values,
						  bool *nulls);
/* So many columns of an event, from the first, must be there. */
extern int es_fold_columns(const Fold *fold);
/* The state after the last event, in the current memory context; 0 = NULL. */
extern Datum es_fold_result(Fold *fold);
/*
 * Fold the events of one aggregate after the fold's sequence: first the durable
 * ones, then the staged ones.
 */
extern void es_fold_durable(Fold *fold, text *aggregate_type, text *aggregate_id);
extern void es_fold_staged(Fold *fold, text *aggregate_type, text *aggregate_id);

/* Calls a function with each row of a SELECT until it returns false. */
typedef bool (*RowFunction)(TupleTableSlot *slot, void *arg);
extern void es_for_each_row(KeptPlan *plan, Datum *values, const char *nulls,
							RowFunction function, void *arg);
/*
 * Plans a SELECT of all the events of a type, in the order of aggregate and
 * sequence, for the log as it is now.
 */
extern void es_plan_events(KeptPlan *plan);

/*
 * Folds many aggregates, one after the other.  "done" is called with the fold
 * after the last event of each.
 */
typedef struct Series
{
	Fold *fold;
	void (*done)(Fold *fold, Datum aggregate_id, void *arg);
	void *arg;
	text *aggregate_id; /* at hand; NULL before the first */
} Series;

/*
 * Takes an event.  Where it is the first of an aggregate the fold begins with
 * the seed, (Datum) 0 = NULL; events not after the seed's sequence are left out.
 */
extern void es_series_event(Series *series, Datum *values, bool *nulls,
							Datum seed, int64 seed_sequence);
/* The same for a row of an event, the sequence of its seed, and that seed. */
extern bool es_series_row(TupleTableSlot *slot, Series *series);
extern void es_series_end(Series *series);

#endif /* ES_FOLD_H */
