/*
 * shmem.h
 *		Everything in shared memory.
 */
#ifndef ES_SHMEM_H
#define ES_SHMEM_H

#include "storage/lwlock.h"

/*
 * What the processes that work in one database share: this, and behind it the
 * part of every owner.  "lock" protects the plain fields of all of it, but for
 * what an owner protects otherwise; atomics are read and written without it.
 * Never hold it over anything that can block or raise.
 */
typedef struct SharedDatabase
{
	LWLock *lock;
	Oid database;  /* InvalidOid = free slot */
	bool claimed;  /* has a place; processes of that database keep pointers */
	bool reserved; /* had a place when the server was last up */
} SharedDatabase;

/* Databases are told apart by so many bits where it is remembered who has none. */
#define ES_REFUSAL_BITS 65536

typedef struct SharedState
{
	LWLock *lock; /* protects the assignment of slots, and: */
	uint8 refusals[ES_REFUSAL_BITS / 8];
	/* slots follow, from the next cache line on */
} SharedState;

/* NULL unless shared_preload_libraries names us. */
extern SharedState *es_shared;

/*
 * An owner's part of every slot.  "initialise" makes it ready once, zeroed
 * before; "clear" readies it for another database, with the locks of the state and of the
 * slot held.  Both may be NULL.
 */
typedef struct DatabasePart
{
	Size size;
	void (*initialise)(void *memory);
	void (*clear)(SharedDatabase *db);
	Size offset; /* in the slot */
	struct DatabasePart *next;
} DatabasePart;

/* An owner's part of the memory of the cluster; zeroed before it is made ready. */
typedef struct ClusterPart
{
	const char *name;
	Size (*size)(void);
	void (*initialise)(void *memory);
	void *memory; /* NULL without preload */
	struct ClusterPart *next;
} ClusterPart;

/* Register parts, while the library is preloaded. */
extern void es_share_by_database(DatabasePart *part);
extern void es_share(ClusterPart *part);

static inline void *
es_part(const SharedDatabase *db, const DatabasePart *part)
{
	return (char *) db + part->offset;
}

extern void es_shmem_define(void); /* installs the hooks, while preloading */
/*
 * The slot of this database, which takes a place if it has none; NULL without
 * preload, and when all places are taken: then until the server restarts.
 */
extern SharedDatabase *es_my_database(void);
/* The same, NULL also when it has no place yet. */
extern SharedDatabase *es_my_database_if_any(void);
/* Whether this database has no place because all were taken. */
extern bool es_has_no_place(void);
/* 55000 if that is so; "who" names, with its verb, what needs a place. */
extern void es_refuse_without_place(const char *who);
/*
 * The slot of any database, or NULL; made if missing, NULL when that cannot be.
 * This takes no place.
 */
extern SharedDatabase *es_find_database(Oid database);
extern SharedDatabase *es_make_database(Oid database);
/*
 * Gives the slot of a database back, which it returns, unless "unused", called
 * with both locks held, says no; NULL = in any case.
 */
extern SharedDatabase *es_give_back_slot(Oid database,
										 bool (*unused)(const SharedDatabase *db));
/*
 * Keeps, in a file, who has a place, if that has changed: so that a restart does
 * not give it to others.
 */
extern void es_keep_places(void);
/* Slots by number, from 0 on, and how many there are. */
extern int es_slots(void);
extern SharedDatabase *es_database_numbered(int number);
extern int es_number_of_database(const SharedDatabase *db);

#endif /* ES_SHMEM_H */
