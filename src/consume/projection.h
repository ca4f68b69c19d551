/*
 * projection.h
 *		What a projection is, and what a kind of projection has to do.
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

#include "datatype/timestamp.h"

#include "ground/event.h"

/*
 * A row of table projections, in the memory that it was read in; (Datum) 0 is NULL.
 * What is to be consumed, in which order and by how many members, stands in the row of
 * subscriptions that has the same name.
 */
typedef struct Projection
{
	Datum name; /* a text */
	uint64 hash;
	char *kind; /* 'handler' or 'view' */
	char *mode; /* 'async' or 'inline' */
	int batch_size;
	int64 start; /* where it began, and a rebuild begins */

	/* of a handler */
	Datum handler; /* qualified signatures, as text */
	Datum reset;
	Datum handler_owner; /* the role that both run as, by name */
	int64 timeout;		 /* of a call, in ms */

	/* of a view, whose name is that of the projection */
	Datum key;	 /* jsonb */
	Datum rules; /* jsonb */
} Projection;

/*
 * Events that a projection is to take in.  It may be called with the same ones again, in
 * another subtransaction, when it has raised: what it has done is undone then, so
 * it keeps nothing in memory that outlives a call.
 */
typedef struct ProjectionBatch
{
	const Projection *projection;
	EventRow *events; /* in their order, of one member */
	int count;
	/*
	 * What it sets: how many it has taken in, as it goes; whether an error is that of the
	 * one behind those, rather than of any; whether the batch is to be
	 * committed behind those, whatever is left of it; and whether an error means
	 * that it cannot go on at all, or that a call has taken longer than its time.
	 */
	int done;
	bool exact;
	bool ends;
	bool broken;
	bool overdue;
} ProjectionBatch;

/*
 * A kind of projection, one of the table in project.c.  "apply" runs in a
 * subtransaction of its own, as the user who runs the projection, with a
 * snapshot, and outside of an owner's scope.
 */
typedef struct ProjectionKind
{
	const char *name;
	void (*apply)(ProjectionBatch *batch);
} ProjectionKind;

/* Reads one into the current memory context; 42704, or false, when there is none. */
extern bool es_find_projection(Datum name, Projection *projection);
extern void es_read_projection(Datum name, Projection *projection);
/*
 * Stores one whose subscription the caller has just made, and that is locked with it; and
 * takes it out, after which its subscription can be dropped.  In an owner's scope.
 */
extern void es_store_projection(const Projection *projection);
extern bool es_remove_projection(Datum name);
/* Whether two are defined alike, but for their names. */
extern bool es_same_projection(const Projection *a, const Projection *b);
/* What stands in its row of subscriptions, as create_subscription() takes it. */
typedef struct Source
{
	Datum aggregate_types; /* text[]; (Datum) 0 = all */
	Datum event_types;
	int members;
	bool from_now; /* else from behind "start_after" */
	int64 start_after;
	Datum on_failure; /* text */
	int max_attempts;
	Datum partition_by; /* text */
} Source;

/*
 * Makes a projection and its subscription; false if the same one is there, 42710 if
 * another one or a mere subscription is.  Its "start" is set.  Outside of
 * an owner's scope.
 */
extern bool es_make_projection(Projection *projection, const Source *source);

#endif /* ES_PROJECTION_H */
