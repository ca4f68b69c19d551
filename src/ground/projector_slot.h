/*
 * projector_slot.h
 *		The projectors of a database, in shared memory.
 */
#ifndef ES_PROJECTOR_SLOT_H
#define ES_PROJECTOR_SLOT_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"

#include "ground/shmem.h"

/* So many places: the first is for the store itself, the others for roles. */
#define ES_PROJECTOR_PLACES 9

/* The place of a projector; SharedDatabase.lock protects it. */
typedef struct ProjectorPlace
{
	bool taken;
	Oid role;  /* as which it connects; InvalidOid = for the store */
	pid_t pid; /* 0 = on its way */
	Latch *latch;
	TimestampTz taken_at;
	bool called;			 /* since it last looked for work */
	bool asked_to_go;		 /* another role waits for the place */
	TimestampTz rests_since; /* it has nothing to do; 0 = it may have */
	bool gives_room; /* others wait for a process: it need not rest here */
} ProjectorPlace;

typedef struct ProjectorSlot
{
	pg_atomic_uint32 watching; /* the next transaction with events shall say so */
	pg_atomic_uint32 wanted; /* the worker shall look whether one is missing */
	TimestampTz start_at;	 /* none is started before: one did not arrive */
	ProjectorPlace places[ES_PROJECTOR_PLACES];
} ProjectorSlot;

extern void es_share_projectors(void);

extern DatabasePart es_projector_part;

static inline ProjectorSlot *
es_projector_slot(const SharedDatabase *db)
{
	return es_part(db, &es_projector_part);
}

/* At the end of every transaction with events; costs one look while nobody waits. */
extern void es_end_watch(SharedDatabase *db);
static inline void
es_tell_projectors(SharedDatabase *db)
{
	if (pg_atomic_read_u32(&es_projector_slot(db)->watching) != 0)
		es_end_watch(db);
}
/* From now on a transaction with events says so; then look whether there are any. */
extern void es_watch_events(SharedDatabase *db, bool watch);
/* Has the worker look whether a projector is missing; at commit, or now. */
extern void es_note_projectors_wanted(void);
extern void es_want_projectors(SharedDatabase *db);
/* Wakes the projector of a role, or with InvalidOid that of the store, or has it started. */
extern void es_call_projector(SharedDatabase *db, Oid role);
/* The same for a projector, which has looked for itself. */
extern void es_want_worker_to_start(SharedDatabase *db);
/* Whether that is wished, and takes the wish. */
extern bool es_projectors_wanted(const SharedDatabase *db);
extern void es_take_projectors_wanted(SharedDatabase *db);

/* When one may be started, after one that could not connect. */
extern TimestampTz es_projector_start_at(SharedDatabase *db);
/* Whether there is a projector for a role, or one on its way. */
extern bool es_projector_present(SharedDatabase *db, Oid role);
/*
 * Takes a place for a projector that is about to be started, of the first "places"; -1
 * when there is none, and whoever has one for a role is asked to go.  Gives it back if it
 * could not be started.
 */
extern int es_take_projector_place(SharedDatabase *db, Oid role, int places);
extern void es_give_back_projector_place(SharedDatabase *db, int place);
/* The projector enters its place, until it exits; false where it is not wanted. */
extern bool es_enter_projector_place(SharedDatabase *db, Oid database,
									 int place, Oid role);
/* It is connected. */
extern void es_note_projector_arrived(void);
/* Before it looks for work: forgets calls. Whether it was asked to go. */
extern bool es_begin_looking(SharedDatabase *db, int place);
/* It has nothing to do. Whether it was asked to do so elsewhere. */
extern bool es_rest_projector(SharedDatabase *db, int place);
/* Asks the one that has rested for longest, of all databases, to leave; false where none rests. */
extern bool es_ask_resting_projector(void);
/* Whether it was called since, or asked to go. */
extern bool es_projector_called(SharedDatabase *db, int place);
/* It leaves, unless it was called since it last looked. */
extern bool es_retire_projector(SharedDatabase *db, int place);
/* Tells all of a database to go, which a command needs; whether they are gone. */
extern bool es_dismiss_projectors(SharedDatabase *db, Oid database);

#endif /* ES_PROJECTOR_SLOT_H */
