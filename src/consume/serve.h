/*
 * serve.h
 *		Giving a consumer the events that come next.
 */
#ifndef ES_SERVE_H
#define ES_SERVE_H

#include "fmgr.h"
#include "utils/tuplestore.h"

#include "consume/aside.h"
#include "consume/member.h"
#include "consume/progress.h"
#include "consume/stretch.h"
#include "consume/subscription.h"
#include "consume/work.h"
typedef enum Served
{
	SERVED_NOTHING,
	SERVED_PASSED, /* nothing, but there is more to look at */
	SERVED_HIDDEN, /* it has events, which the snapshot must not be given */
	SERVED_EVENTS
} Served;

typedef struct Serving Serving;

/* A member at its turn; its lock is held. */
typedef struct Turn
{
	Serving *call;
	int member;
	bool shown; /* it may be given events; else it is only looked whether there are any */
	MemberState state;
	Progress progress;
	int64 served; /* how far the member has come */
	int64 max_count;
	bool changed; /* the state is to be stored in any case */
} Turn;

/* What tells one way of consuming from another. */
typedef struct ServeKind
{
	const char *function;
	/* the member that has to be served; -1 = any, ES_NO_MEMBER = none is to be */
	int (*only)(const Serving *call);
	/* whether the member is free; it sets "shown" and may lower "max_count" */
	bool (*begin)(Turn *turn);
	/* before a stretch is read: what becomes of the rows; "due" is NULL for new ones */
	void (*read)(Turn *turn, Stretch *stretch, const DueRetry *due);
	/* gives what was found: of the log as far as it was read, or what was due */
	void (*give_new)(Turn *turn, const Stretch *stretch, int64 reached);
	void (*give_due)(Turn *turn, const Stretch *stretch, const DueRetry *due);
	bool looks;	   /* only, whether there is something: it writes nothing */
	bool projects; /* the consumer is the server itself */
} ServeKind;

#define ES_NO_MEMBER (-2)

/* A call.  Give the first seven; "own" is for the kind. */
struct Serving
{
	const ServeKind *kind;
	Datum name;
	uint64 hash; /* of the subscription */
	int64 max_count;
	Tuplestorestate *into;
	void *own;
	bool waits; /* for whoever has a member; a pause does not count */
	Subscription subscription;
	int64 safe;
	int64 count; /* events it has found */
	bool busy;	 /* somebody has a member */
	bool wrote;	 /* what this try has written keeps its locks */
	/* a state of that member, to be stored with what it is given; NULL = none */
	MemberState *before;
	int before_member;
	Work *work;	   /* NULL = nobody waits */
	Served served; /* what the last try has found */
};

/*
 * Of a statement that stands in FROM only: what is given stays given, whatever becomes
 * of the rows.
 */
extern void es_check_in_from(FunctionCallInfo fcinfo, const char *function);
/* The timeout of a call that waits with a snapshot, in ms. */
extern int64 es_serve_timeout(FunctionCallInfo fcinfo, int argno,
							  const char *function);
/* How far the partition of what is due was given to anybody. */
extern int64 es_served_of(const Turn *turn, const DueRetry *due);
/* One try. */
extern Served es_serve(Serving *call);
/* Tries until there are events, or the time is over. */
extern Served es_serve_within(Serving *call, int64 timeout);

#endif /* ES_SERVE_H */
