/*
 * announce.c
 *		announce_store(), the last word of create_store().
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lockdefs.h"
#include "utils/inval.h"

#include "ground/archive_mark.h"
#include "ground/catalog.h"
#include "ground/common.h"
#include "ground/log_identity.h"
#include "ground/position.h"
#include "ground/shmem.h"
#include "ground/timer_slot.h"
#include "ground/worker_slot.h"
#include "staging/opening.h"

PG_FUNCTION_INFO_V1(es_announce_store);

/*
 * announce_store(): has a worker look at this database once the transaction
 * has committed.  It locks the schema as COMMENT does, which only its owner can:
 * so two create_store() come one after the other, and nobody else holds one up.
 * A store that is new gets its row of store_state, and knows from now on which log
 * it is.  Sessions that know the store hear of what was added.
 */
Datum
es_announce_store(PG_FUNCTION_ARGS)
{
	PreventCommandIfParallelMode("announce_store()");
	LockDatabaseObject(NamespaceRelationId, get_namespace_oid(ES_SCHEMA, false),
					   0, ShareUpdateExclusiveLock);
	if (es_store_if_any() != NULL)
	{
		CacheInvalidateRelcacheByRelid(es_store()->events);
		es_make_store_state();
		es_note_new_log();
		es_repair_archive_mark();
	}
	es_recheck_positions();
	if (es_my_database() != NULL)
	{
		es_note_wake();
		for (int i = 0; i < ES_TIMERS; i++)
			es_note_timer(i, ES_TIMER_UNKNOWN);
	}
	PG_RETURN_VOID();
}
