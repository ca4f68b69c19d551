/*
 * catalog.h
 *		The store of this database.
 */
#ifndef ES_CATALOG_H
#define ES_CATALOG_H

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "tcop/dest.h"
#include "utils/tuplestore.h"

#include "ground/event.h"

/* Number of staging segments. */
#define ES_SEGMENTS 8
/* Number of durable tables. */
#define ES_WRITTEN_TABLES 26

typedef struct StagingSegment
{
	Oid table;
	Oid by_key;		 /* (kind, name, key, ordinal) */
	Oid by_event_id; /* (event_id) */
	Oid by_txn;		 /* (txn, sid) */
} StagingSegment;

/* Tables whose rows begin with the name of a subscription, as their primary keys do. */
typedef enum SubscriptionTable
{
	ES_SUBSCRIPTIONS,
	ES_PARKED_EVENTS,
	ES_SUBSCRIPTION_MARKS,
	ES_BY_SUBSCRIPTION
} SubscriptionTable;

typedef struct NamedTable
{
	Oid table;
	Oid by_key;
} NamedTable;

/*
 * What this database's store is made of.  Valid until the next command that
 * may process invalidations; never keep a pointer over one.
 */
typedef struct Store
{
	uint64 number; /* another one each time it is looked up anew */
	Oid schema;
	Oid owner; /* owner of domain_events, runs all SQL */
	Oid extension;
	Oid events;				  /* domain_events */
	Oid events_by_aggregate;  /* its unique index on
										 * (aggregate_type, aggregate_id,
										 * sequence) */
	Oid events_by_id;		  /* its unique index on (event_id) */
	Oid events_by_position;	  /* its primary key */
	Oid archive;			  /* domain_events_archive, with ... */
	Oid archive_by_aggregate; /* ... the same indexes; all that is of the */
	Oid archive_by_id;		  /* archive is missing in a store of before */
	Oid archive_by_position;
	Oid archived_position; /* a sequence: see archive_mark.c */
	Oid closed_aggregates;
	Oid closed_by_key;	  /* its primary key */
	Oid views;			  /* domain_views */
	bool plain;			  /* nothing is attached to these two */
	bool direct;		  /* domain_events takes rows without a statement */
	bool plain_processed; /* nor to processed_messages */
	bool policies;		  /* row security of a table holds for its owner */
	bool children; /* a table has child tables, with constraints of their own */
	bool subscribed;	/* a subscription writes domain_events */
	Oid aggregate_gate; /* see lock.c */
	Oid view_key_gate;
	Oid written[ES_WRITTEN_TABLES]; /* all tables that calls write to */
	Oid positions;					/* the sequence of global positions */
	Oid log_identity;				/* the sequence that says whose they are */
	Oid fencing_numbers;			/* the same of fencing numbers */
	Oid fencing_identity;
	Oid dead_letters;
	Oid store_state;
	Oid processed_messages;
	Oid projections;
	Oid upcasters;
	Oid positions_of_members; /* subscription_positions */
	Oid positions_by_member;  /* its primary key */
	NamedTable by_subscription[ES_BY_SUBSCRIPTION];
	Oid parked_by_retry; /* indexes of parked_events: for a member, when it is due ... */
	Oid parked_by_state; /* ... and for a partition */
	StagingSegment segments[ES_SEGMENTS];
	Oid event_type; /* composite type event */
	/* whether there are indexes on these and global_position */
	bool by_aggregate_type;
	bool by_event_type;
} Store;

/*
 * The store, or 55000 with a hint saying what to run, also when one of its
 * relations has another shape than ours (shape.c).  Whoever reads or makes rows
 * of a table by number calls it again once the table is locked.
 */
extern const Store *es_store(void);
/*
 * The store, or NULL when there is none (never raises for that).  One of another
 * shape than ours counts as none; the log says what differs.
 */
extern const Store *es_store_if_any(void);
/* A copy of the descriptor of type event. */
extern TupleDesc es_event_desc(void);
/*
 * The store, or 55000, also when domain_events is fed by a subscription of
 * logical replication: its rows come in the order of their commits and not in
 * that of their positions, and its publisher gives the positions.
 */
extern const Store *es_own_store(void);
/*
 * es_store_if_any for a worker: DROP EXTENSION waits until the transaction ends, and
 * if it was faster there is no store.
 */
extern const Store *es_lock_store(void);
/*
 * Locks a table with its indexes for reading, to the end of the transaction; false if
 * that would wait.
 */
extern bool es_try_lock_table(Oid table);
/* The version of the extension in this database; NULL = there is none. */
extern const char *es_sql_version(void);
/*
 * Raises 55000 when the extension in this database has another version than the
 * library.  Comes first in functions whose arguments or columns differ from
 * those of a released version, and in those that must not take another version
 * for no store.
 */
extern void es_check_version(void);
/*
 * A worker is a superuser; it becomes the owner of the store for a transaction,
 * its commit included, since the owner's deferred triggers run there.
 */
extern void es_become_owner(void);

/*
 * Runs SQL as the owner of the store, so that callers need EXECUTE only.
 * es_begin connects to SPI and switches the user, es_end undoes both; an
 * error in between is cleaned up by the (sub)transaction's abort.
 */
typedef struct OwnerScope
{
	Oid user;
	int security;
	int guc_level; /* 0 = settings are the caller's */
} OwnerScope;

/*
 * Code that the owner attached to a table (a trigger, say) must not leave anything
 * behind that runs with the caller's rights, nor find his search_path: each scope is a
 * security-restricted operation, and es_begin pins the path.  es_begin_write pins it
 * where something is attached to domain_events that an INSERT
 * meets, or to domain_views: only such a scope may do the one, and write the other;
 * es_begin_processed likewise with
 * processed_messages; es_begin_read, for reading alone, where there are policies that
 * hold for the owner, or child tables, or where constraint_exclusion is on.  In the scope of one
 * that writes, deferrable constraints of the store's tables are not deferred.
 */
extern void es_begin(OwnerScope *scope);
extern void es_begin_write(OwnerScope *scope);
extern void es_begin_processed(OwnerScope *scope);
extern void es_begin_read(OwnerScope *scope);
extern void es_end(const OwnerScope *scope);

/*
 * What the right plan of a statement depends on.
 */
typedef enum PlanKind
{
	/* nothing: rows are found by keys, or in the order of a key (planning.c) */
	ES_PLAN_BY_KEY,
	/* the log's size: es_plan_events makes a plan for each use */
	ES_PLAN_OF_LOG,
	/* how many rows there are of these values: there is a plan for each use */
	ES_PLAN_FOR_VALUES
} PlanKind;

/*
 * A statement prepared at first use in a backend and kept.  Give nargs and
 * argtypes, and the kind, if it is not the first; leave the rest.  The SQL is
 * constant and fully qualified; sets of columns of an event are named as event.c
 * says.
 */
#define ES_MAX_PARAMS 32

typedef struct KeptPlan
{
	const char *sql;
	int nargs;
	Oid argtypes[ES_MAX_PARAMS];
	SPIPlanPtr plan;
	PlanKind kind;
	int generation; /* of the plan that planning.c has made */
	struct KeptPlan *elsewhere[ES_LOG_TABLES]; /* log_plan.c: on other tables */
} KeptPlan;

extern SPIPlanPtr es_plan(KeptPlan *kept);

/*
 * Executes a kept plan under the active snapshot if "read_only", else under a
 * fresh one, and checks that it did what it is expected to (SPI_OK_*).
 * Returns SPI_processed.
 */
extern uint64 es_execute(KeptPlan *kept, Datum *values, const char *nulls,
						 bool read_only, int expected_result);
/*
 * Executes one that writes under the latest snapshot, at every isolation level, and
 * returns SPI_processed.
 */
extern uint64 es_execute_latest(KeptPlan *kept, Datum *values, const char *nulls);
/* A SELECT under the active snapshot with every row going to a receiver ... */
extern uint64 es_execute_to(KeptPlan *kept, Datum *values, const char *nulls,
							DestReceiver *receiver);
/* ... or straight into a tuplestore. */
extern uint64 es_execute_into(KeptPlan *kept, Datum *values, const char *nulls,
							  Tuplestorestate *into);
/* All that a function does which returns the rows of a statement without parameters. */
extern Datum es_return_rows(FunctionCallInfo fcinfo, KeptPlan *kept);
/* Prepares the result of a function that returns loaded rows. */
extern void es_begin_result(FunctionCallInfo fcinfo);

#endif /* ES_CATALOG_H */
