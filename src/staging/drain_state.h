/*
 * drain_state.h
 *		How the drain goes, and who waits for it.
 */
#ifndef ES_DRAIN_STATE_H
#define ES_DRAIN_STATE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

#include "ground/lock.h"
#include "ground/shmem.h"
#include "ground/worker_slot.h"

typedef enum DrainState
{
	ES_DRAIN_IDLE,
	ES_DRAIN_DRAINING,
	ES_DRAIN_BACKING_OFF,
	ES_DRAIN_STOPPED
} DrainState;

/*
 * SharedDatabase.lock protects the plain fields but for the two "pending" ones,
 * which belong to who holds the drain lock.  "state" changes in drain_state.c
 * alone.
 */
typedef struct DrainProgress
{
	pg_atomic_uint64 requested; /* the last request */
	pg_atomic_uint64 done;		/* the one last fulfilled */
	pg_atomic_uint64 tried;		/* the one last fulfilled but for rows left */
	uint64 pending_request;		/* that rounds work on */
	int64 pending_sid;			/* what it asks for has lower sids */
	DrainState state;
	int failures;					 /* of the worker's rounds, in a row */
	char last_error[ES_ERROR_CHARS]; /* "" = none since the last success */
	TimestampTz last_error_at;
	TimestampTz last_drain_at;
	/* what triggers of the last round wanted to lock and others held */
	int refused_count;
	RefusedLock refused[ES_REFUSED_LOCKS];
} DrainProgress;

extern void es_share_drain_progress(void);

extern DatabasePart es_drain_part;

static inline DrainProgress *
es_drain_progress(const SharedDatabase *db)
{
	return es_part(db, &es_drain_part);
}

extern const char *es_drain_state_name(DrainState state);
extern void es_set_drain_state(SharedDatabase *db, DrainState state);
/* A round, or what it needs, failed: backs off.  Returns the failures in a row. */
extern int es_note_drain_failure(SharedDatabase *db, const char *message);
/* It went through: the error is over. */
extern void es_note_drain_success(SharedDatabase *db);

/* A round tells which locks it was refused, and whether this transaction has any. */
extern void es_tell_refused_locks(SharedDatabase *db);
extern bool es_holds_up_drain(SharedDatabase *db);

/* Asks for a drain; it is done when that says so of the result. */
extern uint64 es_request_drain(SharedDatabase *db);
extern bool es_drain_done(SharedDatabase *db, uint64 request);
/* Or all was but what rounds had to leave, since others hold what it needs. */
extern bool es_drain_tried(SharedDatabase *db, uint64 request);
/* Whether anybody waits for a request. */
extern bool es_drain_requested(SharedDatabase *db);
/*
 * What a round starts from, before it takes its snapshot; the request that is
 * fulfilled once it has committed, 0 = none, if it had all that ended below
 * "stopped_at"; and, when it has, under the lock.
 */
extern uint64 es_begin_drain_requests(SharedDatabase *db);
extern uint64 es_fulfilled_request(SharedDatabase *db, uint64 request,
								   int64 stopped_at);
extern void es_end_drain_request(SharedDatabase *db, uint64 request, uint64 tried);

#endif /* ES_DRAIN_STATE_H */
