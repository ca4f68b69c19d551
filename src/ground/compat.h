/*
 * compat.h
 *		Differences between PostgreSQL 15 and 19, shaped as the newest API.
 *
 * Every test of PG_VERSION_NUM stands here; nothing else knows the version.
 */
#ifndef ES_COMPAT_H
#define ES_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "event_store needs PostgreSQL 15 or later"
#endif

#include "utils/wait_event.h"

/* The macros for varlena values have a header of their own since 16. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/*
 * The list of background workers, which a new one becomes the head of, has links
 * both ways since PostgreSQL 18.
 */
#include "postmaster/bgworker_internals.h"
#if PG_VERSION_NUM >= 180000
#define newest_background_worker()                          \
	(dlist_is_empty(&BackgroundWorkerList)                  \
		 ? NULL                                             \
		 : dlist_head_element(RegisteredBgWorker, rw_lnode, \
							  &BackgroundWorkerList))
#else
#define newest_background_worker()                          \
	(slist_is_empty(&BackgroundWorkerList)                  \
		 ? NULL                                             \
		 : slist_head_element(RegisteredBgWorker, rw_lnode, \
							  &BackgroundWorkerList))
#endif

/* Backends are numbered from 0 since PostgreSQL 17. */
#if PG_VERSION_NUM < 170000
#include "miscadmin.h"
#include "storage/backendid.h"
#define MyProcNumber (MyBackendId - 1)
#endif

/*
 * Room before a minimal tuple can be asked for since PostgreSQL 18.  The header that
 * declares it comes before the macro that hides it.
 */
#if PG_VERSION_NUM < 180000
#include "access/htup_details.h"
#define heap_form_minimal_tuple(desc, values, nulls, extra) \
	heap_form_minimal_tuple(desc, values, nulls)
#endif

/* What never returns is said before the declaration since PostgreSQL 18. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* A tuple descriptor made by hand is to be finished since PostgreSQL 19. */
#if PG_VERSION_NUM < 190000
#define TupleDescFinalize(desc) ((void) (desc))
#endif

/* The name of a database is told by another header since PostgreSQL 19. */
#if PG_VERSION_NUM < 190000
#include "commands/dbcommands.h"
#else
#include "utils/lsyscache.h"
#endif

/* Hooks of settings are declared together since PostgreSQL 16. */
#if PG_VERSION_NUM >= 160000
#include "utils/guc_hooks.h"
#endif

/* What a callback is told a cache by has a type since PostgreSQL 19. */
#if PG_VERSION_NUM < 190000
#include "utils/syscache.h"
#define SysCacheIdentifier int
#endif

/* Whether a stronger mode counts as well can be asked since PostgreSQL 17. */
#if PG_VERSION_NUM < 170000
#include "storage/lock.h"
#define LockHeldByMe(tag, mode, orstronger) LockHeldByMe(tag, mode)
#endif

/* Wait events of extensions have names since PostgreSQL 17. */
#if PG_VERSION_NUM < 170000
#define WaitEventExtensionNew(name) PG_WAIT_EXTENSION
#endif

/*
 * One function for all kinds of objects since 16; we ask for the owners of
 * functions, extensions, schemas and databases and for the privileges on
 * functions.
 */
#if PG_VERSION_NUM < 160000
#include "catalog/pg_database_d.h"
#include "catalog/pg_extension_d.h"
#include "catalog/pg_namespace_d.h"
#include "catalog/pg_proc_d.h"

#define object_ownercheck(classid, objectid, roleid)                         \
	((classid) == ProcedureRelationId ? pg_proc_ownercheck(objectid, roleid) \
	 : (classid) == ExtensionRelationId                                      \
		 ? pg_extension_ownercheck(objectid, roleid)                         \
	 : (classid) == NamespaceRelationId                                      \
		 ? pg_namespace_ownercheck(objectid, roleid)                         \
		 : pg_database_ownercheck(objectid, roleid))
#define object_aclcheck(classid, objectid, roleid, mode) \
	((classid) == DatabaseRelationId                     \
		 ? pg_database_aclcheck(objectid, roleid, mode)  \
	 : (classid) == NamespaceRelationId                  \
		 ? pg_namespace_aclcheck(objectid, roleid, mode) \
		 : pg_proc_aclcheck(objectid, roleid, mode))
#endif

/* The hook that meets each relation of a statement is another one since 19. */
#if PG_VERSION_NUM >= 190000
#include "optimizer/pathnode.h"
#define ES_RELATION_HOOK_PARAMETERS \
	PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte
#define ES_RELATION_HOOK_ARGUMENTS root, rel, rte
#else
#include "optimizer/plancat.h"
#define build_simple_rel_hook get_relation_info_hook
#define build_simple_rel_hook_type get_relation_info_hook_type
#define ES_RELATION_HOOK_PARAMETERS \
	PlannerInfo *root, Oid relation, bool inhparent, RelOptInfo *rel
#define ES_RELATION_HOOK_ARGUMENTS root, relation, inhparent, rel
#endif

/* Whether a plan's search_path is the one that is set has another name since 17. */
#if PG_VERSION_NUM < 170000
#include "catalog/namespace.h"
#define SearchPathMatchesCurrentEnvironment(path) \
	OverrideSearchPathMatchesCurrent(path)
#endif

/*
 * What is special about the insertion of index entries is told by flags since
 * PostgreSQL 19, and by booleans before, one more of them since 16.
 */
#if PG_VERSION_NUM < 160000
#define ExecInsertIndexTuples(info, estate, flags, slot, arbiters, conflict) \
	ExecInsertIndexTuples(info, slot, estate, false, (flags) != 0, conflict, \
						  arbiters)
#elif PG_VERSION_NUM < 190000
#define ExecInsertIndexTuples(info, estate, flags, slot, arbiters, conflict) \
	ExecInsertIndexTuples(info, slot, estate, false, (flags) != 0, conflict, \
						  arbiters, false)
#endif

/* Intervals are told in nanoseconds since PostgreSQL 16. */
#if PG_VERSION_NUM < 160000
#include "portability/instr_time.h"
#define INSTR_TIME_GET_NANOSEC(t) \
	((int64) (t).tv_sec * INT64CONST(1000000000) + (int64) (t).tv_nsec)
#endif

/* What a check hook keeps is allocated by a function of its own since 16. */
#if PG_VERSION_NUM < 160000
#define guc_malloc(elevel, size) malloc(size)
#endif

#endif /* ES_COMPAT_H */
